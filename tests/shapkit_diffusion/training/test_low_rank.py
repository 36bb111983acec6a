"""Low-rank training: changes of that rank and of nothing else, folded into a model like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser, small_transformer
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser, convert
from shapkit_diffusion.fingerprints import described_model
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train
from shapkit_diffusion.training.low_rank import ATTENTION, low_rank_changes

pytest.importorskip("peft")

FACES = render_faces(16, 16, seed=9)
CONFIG = TrainConfig(
    steps=4, batch_size=4, learning_rate=1e-2, warmup=0, ema=0.5, save_every=2, log_every=1, low_rank=2
)


def region_model() -> RegionDenoiser:
    halves = Regions.from_labels((torch.arange(16) >= 8).long()[None, :, None].expand(1, -1, 16), {"mouth": [1]})
    plain = small_transformer(16, width=16, depth=2, heads=2, seed=3)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in plain.parameters():  # of a new one some are zero, and nothing flows
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return convert(plain, halves)


def weights(model: Denoiser) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.unet.named_parameters()}


def rank(change: Tensor) -> int:
    singular = torch.linalg.svdvals(change.flatten(1).double())
    return int((singular > 1e-5 * singular.max()).sum()) if singular.max() > 0 else 0


def test_a_converted_transformer_changes_by_the_rank_alone(tmp_path: Path) -> None:
    model = region_model()
    before, said = weights(model), described_model(model)
    assert train(model, FACES, CONFIG, tmp_path / "run") is model
    after = weights(model)
    assert after.keys() == before.keys() and described_model(model) == said
    assert all(weight.requires_grad for weight in model.parameters())
    for name, weight in after.items():
        change = weight - before[name]
        if name.endswith("embedding") and "transformer." not in name:
            assert float(change.abs().max()) > 0, name
        elif name.endswith(".weight") and name.removesuffix(".weight").endswith(ATTENTION):
            assert 1 <= rank(change) <= 2, name
        else:
            assert not change.any(), name
    loaded = load_denoiser(tmp_path / "run" / "model")
    x, timesteps = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 900])
    assert isinstance(loaded, RegionDenoiser)
    torch.testing.assert_close(loaded(x, timesteps), model(x, timesteps))


def test_a_unets_convolutions_under_the_penalty(tmp_path: Path) -> None:
    model = small_denoiser(16, channels=(8, 16), seed=1)
    before = weights(model)
    train(model, FACES, replace(CONFIG, penalty=PenaltyConfig(weight=5.0)), tmp_path / "run")
    changed = {name: rank(weight - before[name]) for name, weight in weights(model).items() if weight.ndim == 4}
    assert max(changed.values()) == 2 and changed["conv_in.weight"] == 0
    assert sum(1 for found in changed.values() if found) > 8


def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = weights(train(region_model(), FACES, CONFIG, tmp_path / "whole"))

    class Interrupted(RuntimeError):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Interrupted

    model = region_model()
    with pytest.raises(Interrupted):
        train(model, FACES, CONFIG, tmp_path / "cut", progress=stop)
    assert weights(model).keys() == whole.keys()  # no layer of the run's is left in the caller's model
    again = weights(train(region_model(), FACES, CONFIG, tmp_path / "cut", resume=True))
    for name, weight in whole.items():
        assert torch.equal(weight, again[name]), name
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    losses = [[json.loads(line)["denoising"] for line in of_run] for of_run in lines]
    assert losses[0] == losses[1]


def test_zero_at_first_and_named_by_the_seed() -> None:
    model, x = region_model(), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    timesteps = torch.tensor([500])
    expected, state = model(x, timesteps), torch.get_rng_state()
    drawn = []
    for seed in (4, 4, 5):
        with low_rank_changes(model, 3, seed):
            assert torch.equal(model(x, timesteps), expected)
            trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
            assert all("lora_" in name or name.endswith("embedding") for name in trained)
            drawn.append(torch.cat([weight.flatten() for name, weight in trained.items() if "lora_A" in name]).clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="low_rank must be a rank, or 0 for all weights, got -1"):
        replace(CONFIG, low_rank=-1)
    with pytest.raises(ValueError, match="low_rank must be less than the width of the model's layers, got 500"):
        train(region_model(), FACES, replace(CONFIG, low_rank=500), tmp_path / "run")
