"""Training: the same numbers after an interruption and over processes, and a penalty that makes a network local."""

from __future__ import annotations

import json
import os
import runpy
import signal
import time
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, VQModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import shapkit_diffusion.commands.train
from shapkit.differentiable import DummyPlayerPenalty, Regions, allowed_influence, star
from shapkit_diffusion import cli
from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.data.labelled import concept_labels, label_template
from shapkit_diffusion.data.pixels import to_bytes, to_unit_range
from shapkit_diffusion.denoisers.autoencoders import Autoencoder
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser, shipped_model
from shapkit_diffusion.noise.influence import influence_at, outside_mass
from shapkit_diffusion.noise.sampling import stride_output
from shapkit_diffusion.training import batches as batches_module
from shapkit_diffusion.training.batches import draw_batch
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig, fast_precision
from shapkit_diffusion.training.denoiser import _named_randomness, _weighted_by_timestep, clean_payoff, losses, train
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED, TrainingStopped

QUICK = TrainConfig(steps=6, batch_size=4, log_every=1, save_every=2, warmup=1, seed=5)


@pytest.fixture(scope="module")
def small_faces() -> LabelledImages:
    return render_faces(40, 32, seed=9)


def _tiny() -> Denoiser:
    return small_denoiser(size=32, channels=(8, 8, 16), seed=2)


def test_a_run_writes_what_it_promises(small_faces: LabelledImages, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = replace(QUICK, penalty=PenaltyConfig())
    model = train(_tiny(), small_faces, config, tmp_path / "run", progress=lambda *done: seen.append(done))
    assert seen == [(step, 6) for step in range(1, 7)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(line["penalty"] > 0 and line["weight"] == 24 for line in lines)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["steps"] == 6
    stored = load_denoiser(tmp_path / "run" / "model")
    for mine, theirs in zip(model.parameters(), stored.parameters(), strict=True):
        assert torch.equal(mine, theirs)


SCRIPT = """
import os, signal, sys
import torch
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED, TrainingStopped
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train

torch.set_num_threads(1)

def progress(done, total):  # a signal from outside, at a step that the test chooses
    if done == kill_at:
        os.kill(os.getpid(), getattr(signal, name))

config = TrainConfig(
    steps=200, batch_size=4, warmup=5, save_every=30, log_every=10, seed=3, flip=True,
    penalty=PenaltyConfig(concepts=("eyes",)),
)
model = small_denoiser(size=8, channels=(8,), seed=2)
model.unet.conv_out.register_forward_pre_hook(lambda _, x: (torch.nn.functional.dropout(x[0], 0.1, True),))
resume = (folder / "config.json").is_file()
try:
    train(model, render_faces(22, 8, seed=9), config, folder, resume=resume, progress=progress)
except TrainingStopped as stopped:
    (folder / "stopped").write_text(str(stopped))
    sys.exit(EXIT_STOPPED)
"""


def _lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def test_a_stopped_and_killed_run_goes_on_to_the_numbers_of_an_uninterrupted_one(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    """200 steps straight, and 100, SIGTERM, 30 more, SIGKILL (10 of them lost), 80 more: equal bit for bit.

    Inside an epoch (22 images, 4 a step), with dropout, in real processes.
    """
    script, whole, broken = tmp_path / "script.py", tmp_path / "whole", tmp_path / "broken"
    script.write_text(SCRIPT)

    def start(folder: Path, kill_at: int = 0, name: str = "SIGTERM") -> ForkServerProcess:
        given = {"folder": folder, "kill_at": kill_at, "name": name}
        process = processes.Process(target=runpy.run_path, args=(str(script), given), daemon=True)
        process.start()
        return process

    def status(process: ForkServerProcess) -> int | None:
        process.join(timeout=280)
        return process.exitcode

    straight = start(whole)
    # The signal comes between two steps, and is heeded after the second.
    assert status(start(broken, 99, "SIGTERM")) == EXIT_STOPPED
    assert "stopped by a signal after 100 of 200 steps" in (broken / "stopped").read_text()
    assert [path.name for path in (broken / "state").iterdir()] == ["step-00000100"]
    assert status(start(broken, 130, "SIGKILL")) == -signal.SIGKILL
    assert [path.name for path in (broken / "state").iterdir()] == ["step-00000120"]
    assert not (broken / "model").exists()
    assert status(start(broken)) == 0
    assert status(straight) == 0
    assert _lines(broken) == _lines(whole)
    expected, found = (
        load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors") for folder in (whole, broken)
    )
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_slurms_signal_stops_after_the_step_and_the_handlers_are_put_back(
    small_faces: LabelledImages, tmp_path: Path
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]

    def progress(done: int, total: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(TrainingStopped, match="after 3 of 6 steps"):
        train(_tiny(), small_faces, QUICK, tmp_path / "run", progress=progress)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-00000003"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_the_command_stops_with_a_message_and_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise TrainingStopped(3, 9, tmp_path / "run")

    monkeypatch.setattr(shapkit_diffusion.commands.train, "train", stopped)
    arguments = ["train", "--count", "2", "--channels", "8", "--size", "16", "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == EXIT_STOPPED == 75
    assert "after 3 of 9 steps" in capsys.readouterr().err


def test_published_settings_can_be_asked_for_and_changed() -> None:
    options = cli._parser().parse_args(["finetune", "--out", "x", "--published", "nose", "--ema", "0.99"])
    assert (options.learning_rate, options.ema, options.weight, options.final_weight) == (2e-4, 0.99, 1e3, 10.0)
    assert options.concepts == ("nose",) and options.estimator == "per_region" and options.target == "noise"


def test_an_interrupted_save_leaves_the_checkpoint_before_it(small_faces: LabelledImages, tmp_path: Path) -> None:
    config = replace(QUICK, steps=3, save_every=2)
    expected = train(_tiny(), small_faces, config, tmp_path / "run")
    state = tmp_path / "run" / "state"
    (state / "step-00000003.partial").mkdir()
    (state / "step-00000003.partial" / "state.json").write_text("{")
    resumed = train(_tiny(), small_faces, config, tmp_path / "run", resume=True)
    for mine, theirs in zip(resumed.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_micro_batches_and_checkpointing_change_only_rounding(
    small_faces: LabelledImages, tmp_path: Path, checkpointing: bool
) -> None:
    config = replace(QUICK, steps=2, batch_size=8, ema=0, penalty=PenaltyConfig(regions="label_maps"))
    other = replace(config, accumulation=1 if checkpointing else 4, gradient_checkpointing=checkpointing)
    whole = train(_tiny(), small_faces, config, tmp_path / "whole")
    parts = train(_tiny(), small_faces, other, tmp_path / "parts")
    for expected, found in zip(_lines(tmp_path / "whole"), _lines(tmp_path / "parts"), strict=True):
        for name in ("denoising", "penalty", "gradient_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)
        assert found["penalty_of"] == pytest.approx(expected["penalty_of"], rel=1e-4)
        assert found["blame"] == pytest.approx(expected["blame"], abs=1e-3)
    batch = draw_batch(small_faces, config, 1000, 9)
    with torch.inference_mode():
        outputs = [model(batch.images, batch.timesteps) for model in (whole, parts)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-3)


def test_the_report_of_a_step_is_its_penalty_taken_apart(small_faces: LabelledImages, tmp_path: Path) -> None:
    config = replace(QUICK, steps=1, penalty=PenaltyConfig(concepts=("all",), timestep_weighting="min_snr"))
    train(_tiny(), small_faces, config, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert set(line["penalty_of"]) == {"skin", "hair", "brows", "eyes", "nose", "mouth", "rest"}
    assert np.mean(list(line["penalty_of"].values())) == pytest.approx(line["penalty"], rel=1e-5)
    assert sum(line["blame"].values()) == pytest.approx(1)


@pytest.mark.parametrize("weighting", ["min_snr", "signal_share", "noise_share"])
def test_timestep_weighting_scales_each_samples_penalty(small_faces: LabelledImages, weighting: str) -> None:
    """At one timestep for the whole batch the weight is one number: the closed form of each function."""
    model = _tiny()
    batch = replace(draw_batch(small_faces, QUICK, 1000, 0), timesteps=torch.full((4,), 200))
    regions = Regions.from_labels(batch.labels[:1], concept_labels(small_faces.label_names, ("eyes", "nose")))
    plain, weighted = (
        losses(model, model, batch, replace(QUICK, penalty=penalty), regions, 0).penalty
        for penalty in (PenaltyConfig(), PenaltyConfig(timestep_weighting=weighting))  # type: ignore[arg-type]
    )
    alpha = float(model.alphas_cumprod[200])
    expected = {"min_snr": min(5, alpha / (1 - alpha)), "signal_share": alpha, "noise_share": 1 - alpha}[weighting]
    assert float(weighted.detach() / plain.detach()) == pytest.approx(expected, rel=1e-4)


def test_bf16_rounds_the_network_and_nothing_else(small_faces: LabelledImages, tmp_path: Path) -> None:
    model = _tiny()
    batch = draw_batch(small_faces, QUICK, 1000, 0)
    exact, rounded = (
        losses(model, model, batch, replace(QUICK, precision=precision), None, 0).denoising.detach()
        for precision in ("no", "bf16")
    )
    assert rounded.dtype == torch.float32 and 0 < abs(float(rounded - exact)) < 0.02 * float(exact)
    trained = train(_tiny(), small_faces, replace(QUICK, steps=1, precision="bf16"), tmp_path / "run")
    assert all(p.dtype == torch.float32 for p in trained.parameters())


def test_sample_grids_appear_and_change_nothing(small_faces: LabelledImages, tmp_path: Path) -> None:
    config = replace(QUICK, steps=2)
    plain = train(_tiny(), small_faces, config, tmp_path / "plain")
    shown = train(_tiny(), small_faces, replace(config, sample_every=1), tmp_path / "shown")
    pictures = sorted(path.name for path in (tmp_path / "shown" / "samples").iterdir())
    assert pictures == ["step-00000001.png", "step-00000002.png"]
    assert Image.open(tmp_path / "shown" / "samples" / pictures[0]).size == (128, 128)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), shown.parameters(), strict=True))


def test_tensorboard_shows_the_lines_of_the_metrics(small_faces: LabelledImages, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(_tiny(), small_faces, replace(QUICK, steps=2, penalty=PenaltyConfig()), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("denoising", "penalty_of/eyes"):
        assert [event.step for event in events.Scalars(name)] == [1, 2]
    found = [event.value for event in events.Scalars("denoising")]
    assert found == pytest.approx([line["denoising"] for line in _lines(tmp_path / "run")])


@pytest.mark.parametrize("cached", [False, True])
def test_a_latent_model_trains_on_what_its_autoencoder_makes(
    small_faces: LabelledImages, tmp_path: Path, cached: bool
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VQModel(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=1.0,
        )
    model = Denoiser(small_denoiser(size=16, channels=(8, 16), seed=1).unet, DDPMScheduler(), Autoencoder(network))
    config = replace(QUICK, steps=2, flip=True, cache_latents=cached, penalty=PenaltyConfig(concepts=("eyes", "mouth")))
    batch = draw_batch(small_faces[range(8)], config, 1000, 0, noise_shape=model.latent_shape)
    expected = losses(
        model, model, replace(batch, images=model.encode(batch.images)), replace(config, penalty=None), None, 0
    ).denoising
    train(model, small_faces[range(8)], config, tmp_path / "run")
    first, second = _lines(tmp_path / "run")
    assert first["denoising"] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert first["penalty"] > 0 and second["denoising"] != first["denoising"]
    assert (tmp_path / "run" / "latents.npy").is_file() == cached


def test_batches_cover_every_image_once_per_epoch_and_pair_their_timesteps(small_faces: LabelledImages) -> None:
    config = replace(QUICK, batch_size=8)
    batches = [draw_batch(small_faces, config, 1000, step) for step in range(5)]
    images = np.concatenate([to_bytes(batch.images) for batch in batches])
    assert len(np.unique(images.reshape(40, -1), axis=0)) == len(np.unique(small_faces.images.reshape(40, -1), axis=0))
    for batch in batches:
        assert torch.equal(batch.timesteps[0::2], batch.timesteps[1::2])
        assert sorted((batch.timesteps[0::2] * 4 // 1000).tolist()) == [0, 1, 2, 3]  # one per stratum
    second_epoch = [draw_batch(small_faces, config, 1000, step) for step in range(5, 10)]
    assert not np.array_equal(images, np.concatenate([to_bytes(batch.images) for batch in second_epoch]))


@pytest.mark.parametrize("own_regions", [False, True], ids=["one partition", "each image's own"])
def test_copies_have_a_finished_image_in_common_and_noise_and_timestep_of_their_own(
    small_faces: LabelledImages, own_regions: bool
) -> None:
    config = replace(QUICK, batch_size=8, noises_per_image=4, flip=True)
    config = replace(config, regions="label_maps") if own_regions else config
    batches = [draw_batch(small_faces, config, 1000, step) for step in range(20 if own_regions else 5)]
    numbers = [number for batch in batches for number in batch.indices[:: 4 if own_regions else 1].tolist()]
    assert sorted(numbers) == list(range(40))  # one epoch
    left_of = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    left_of[..., :9] = True
    for batch in batches:
        assert sorted((batch.timesteps * 8 // 1000).tolist()) == list(range(8))  # one per stratum
        assert len(batch.noise.flatten(1).unique(dim=0)) == 8
        assert len(batch.indices.unique()) == (2 if own_regions else 8)
        assert torch.equal(batch.finished, batch.images[::4])
        targets = batch.targets(left_of)
        for row in range(8):
            assert torch.equal(targets[row, :, :, :9], batch.finished[row // 4, :, :, :9])
            assert torch.equal(targets[row, :, :, 9:], batch.images[row, :, :, 9:])
        halves = [draw_batch(small_faces, config, 1000, 3, rank=rank, world=2) for rank in range(2)]
        for name in ("images", "labels", "indices", "mirrored", "timesteps"):
            assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(batches[3], name))
    assert {bool(mirrored) for batch in batches for mirrored in batch.mirrored} == {True, False}


def test_several_noises_are_refused_where_each_image_must_have_one() -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of noises_per_image, got 4 and 3"):
        replace(QUICK, noises_per_image=3)
    with pytest.raises(ValueError, match="noises_per_image must be 1 with a penalty or paired noise, got 2"):
        replace(QUICK, noises_per_image=2, penalty=PenaltyConfig())
    with pytest.raises(ValueError, match="noises_per_image must be at least 1, got 0"):
        replace(QUICK, noises_per_image=0)


def test_a_batch_is_split_between_images(small_faces: LabelledImages, tmp_path: Path) -> None:
    config = replace(QUICK, batch_size=6, noises_per_image=3, accumulation=2)
    with pytest.raises(ValueError, match="multiple of 6 x 1 processes x 2 micro-batches, got 6"):
        train(_tiny(), small_faces, config, tmp_path / "run")


def test_processes_share_the_batch_without_splitting_pairs(small_faces: LabelledImages) -> None:
    batch = draw_batch(small_faces, replace(QUICK, batch_size=8), 1000, 0)
    shares = [batch.share(rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([s.images for s in shares]), batch.images)
    assert all(torch.equal(s.timesteps[0::2], s.timesteps[1::2]) for s in shares)
    assert [share.first for share in shares] == [0, 4]


def test_processes_penalise_what_one_process_would(small_faces: LabelledImages) -> None:
    """The mean over the shares is the whole batch's penalty: coalitions go by a sample's number, not by its process."""
    model = _tiny()
    config = replace(QUICK, batch_size=8, penalty=PenaltyConfig())
    batch = draw_batch(small_faces, config, 1000, 0)
    regions = Regions.from_labels(batch.labels[:1], concept_labels(small_faces.label_names, ("eyes", "nose", "mouth")))
    whole = losses(model, model, batch, config, regions, 0)[1]
    parts = [losses(model, model, batch.share(rank, 2), config, regions, 0)[1] for rank in range(2)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


def test_mirroring_moves_images_and_labels_together(small_faces: LabelledImages) -> None:
    plain = draw_batch(small_faces, replace(QUICK, batch_size=16), 1000, 0)
    mirrored = draw_batch(small_faces, replace(QUICK, batch_size=16, flip=True), 1000, 0)
    turned = 0
    for row in range(16):
        same = torch.equal(mirrored.images[row], plain.images[row])
        turned += not same
        assert torch.equal(mirrored.images[row], plain.images[row] if same else plain.images[row].flip(2))
        assert torch.equal(mirrored.labels[row], plain.labels[row] if same else plain.labels[row].flip(1))
    assert 0 < turned < 16


def test_penalty_makes_a_leaking_model_local(small_faces: LabelledImages, tmp_path: Path) -> None:
    """Thirty steps from the shipped model: what regions outside the graph drive at least halves, and not by itself."""
    images = to_unit_range(torch.as_tensor(small_faces.images[:8]))
    labels = torch.as_tensor(small_faces.labels[:8]).long()
    names = ("eyes", "nose", "mouth")
    regions = Regions.from_labels(labels, concept_labels(small_faces.label_names, names), dilation=1)
    config = TrainConfig(steps=30, batch_size=8, learning_rate=1e-3, warmup=1, ema=0.5, log_every=30)
    mass = {}
    for name, penalty in (("control", None), ("penalty", PenaltyConfig(weight=100, final_weight=100))):
        model = train(shipped_model(), small_faces, replace(config, penalty=penalty), tmp_path / name)
        mass[name] = outside_mass(influence_at(model, images, regions, 500), allowed_influence(star(), regions.names))
    assert mass["penalty"] < 0.5 * mass["control"]


def test_the_penalty_of_a_step_uses_the_prediction_that_was_paid_for(small_faces: LabelledImages) -> None:
    model = _tiny()
    calls = []
    model.unet.register_forward_hook(lambda *_: calls.append(1))
    batch = draw_batch(small_faces, QUICK, 1000, 0)
    config = replace(QUICK, penalty=PenaltyConfig())
    concepts = concept_labels(small_faces.label_names, ("eyes", "nose", "mouth"))
    regions = Regions.from_labels(batch.labels, concepts)
    denoising, penalty, _ = losses(model, model, batch, config, regions, step=0)
    assert len(calls) == 2 and denoising.requires_grad and penalty.requires_grad


def test_an_anchored_model_is_pulled_towards_what_it_was(small_faces: LabelledImages) -> None:
    """Where it still is what it was, loss and gradient are zero; where it is not, the loss is the distance."""
    anchor, model = _tiny(), _tiny()
    batch = draw_batch(small_faces, QUICK, 1000, 0)
    loss = losses(model, model, batch, QUICK, None, 0, anchor).denoising
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    loss = losses(model, model, batch, QUICK, None, 0, anchor).denoising
    noisy = model.add_noise(batch.images, batch.noise, batch.timesteps)
    distance = (model(noisy, batch.timesteps) - anchor(noisy, batch.timesteps)).square().mean()
    torch.testing.assert_close(loss, distance)
    assert float(loss.detach()) > 0


def test_an_anchor_of_several_steps_asks_for_where_they_lead(small_faces: LabelledImages) -> None:
    anchor, model = _tiny(), _tiny()
    config = replace(QUICK, anchor=True, anchor_substeps=3, anchor_stride=90)
    batch = draw_batch(small_faces, config, 1000, 0)
    noisy = model.add_noise(batch.images, batch.noise, batch.timesteps)
    with torch.no_grad():
        wanted = stride_output(anchor, noisy, batch.timesteps, 90, 3)
        expected = (model(noisy, batch.timesteps) - wanted).square().mean()
    loss = losses(model, model, batch, config, None, 0, anchor).denoising
    torch.testing.assert_close(loss.detach(), expected)
    assert float(expected) > 0


@pytest.mark.parametrize("weighting", ["none", "min_snr"])
def test_no_timestep_drowns_the_others_in_the_penalty_of_a_noise_predictor(weighting: Any) -> None:
    """A leak of one size in the predicted noise counts at most so much, and at low noise as much as in the image."""
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction="epsilon")
    timesteps = torch.tensor([999, 900, 400, 100, 5])
    x, leak = torch.zeros(5, 3, 16, 16), torch.ones(5, 3, 16, 16)
    change = clean_payoff(denoiser, leak, x, timesteps) - clean_payoff(denoiser, 0 * leak, x, timesteps)
    signal, sigma = (factor.flatten() for factor in denoiser.signal_and_noise(timesteps, x))
    expected = torch.minimum(sigma / signal, torch.ones(5))
    torch.testing.assert_close(change.abs().amax(dim=(1, 2, 3)), expected, rtol=1e-4, atol=0)
    drawn = DummyPlayerPenalty().draw(x[:4], Regions.grid(1, 2, 16, 16), step=0)
    wanted = PenaltyConfig(timestep_weighting=weighting)
    counted = _weighted_by_timestep(drawn, wanted, denoiser, timesteps[:4]).weights.sum(dim=(0, 2)) / drawn.weights.sum(
        dim=(0, 2)
    )
    whole = counted * expected[:4] ** 2
    ratio = (signal / sigma)[:4] ** 2
    in_all = ratio.clamp(max=5) / ratio if weighting == "min_snr" else 1 / ratio  # on the noise's own squares
    torch.testing.assert_close(whole, in_all.clamp(max=1), rtol=1e-3, atol=1e-6)


def test_the_anchor_of_a_run_is_the_model_it_starts_from(small_faces: LabelledImages, tmp_path: Path) -> None:
    train(_tiny(), small_faces, replace(QUICK, anchor=True), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["denoising"] == 0 and lines[0]["gradient_norm"] == 0


def test_template_regions_cover_where_concepts_occur_at_all(small_faces: LabelledImages) -> None:
    concepts = concept_labels(small_faces.label_names, ("eyes", "nose", "mouth"))
    template = label_template(small_faces, concepts, mirrored=True)
    assert np.array_equal(template, template[:, ::-1])
    for values in concepts.values():
        occurs = np.isin(small_faces.labels, values).any(axis=0)
        owned = template == values[0]
        assert not (owned & ~(occurs | occurs[:, ::-1])).any()  # nothing is owned where it never occurs
        assert owned.sum() > np.isin(small_faces.labels, values).sum(axis=(1, 2)).mean()


@pytest.mark.parametrize("regions", ["template", "label_maps"])
@pytest.mark.parametrize("output", ["clean", "prediction"])
def test_players_and_payoffs_can_be_chosen(
    small_faces: LabelledImages, tmp_path: Path, regions: str, output: str
) -> None:
    config = replace(QUICK, steps=1, penalty=PenaltyConfig(regions=regions, output=output))
    train(_tiny(), small_faces, config, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["penalty"] > 0


def test_penalty_of_the_clean_image_is_that_of_the_prediction_times_sigma_squared(small_faces: LabelledImages) -> None:
    """With v-prediction and equal x outside the exchanged region, x_0 differs by sigma times what v differs by."""
    model = _tiny()
    batch = draw_batch(small_faces, replace(QUICK, batch_size=8), 1000, 0)
    timestep = torch.full((8,), 300)
    batch = replace(batch, timesteps=timestep)
    concepts = concept_labels(small_faces.label_names, ("eyes", "nose", "mouth"))
    regions = Regions.from_labels(batch.labels[:1], concepts)
    penalties = {
        output: losses(model, model, batch, replace(QUICK, penalty=PenaltyConfig(output=output)), regions, 0)[1]
        for output in ("clean", "prediction")
    }
    _, sigma = model.signal_and_noise(timestep[:1], batch.images)
    torch.testing.assert_close(penalties["clean"], penalties["prediction"] * sigma.square().squeeze())


def test_refusals_come_before_anything_is_written(small_faces: LabelledImages, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"works on images of shape \(3, 16, 16\), the data has \(3, 32, 32\)"):
        train(small_denoiser(size=16, channels=(8, 16)), small_faces, QUICK, folder)
    with pytest.raises(ValueError, match="no label is called 'ears'"):
        train(_tiny(), small_faces, replace(QUICK, penalty=PenaltyConfig(concepts=("ears",))), folder)
    with pytest.raises(ValueError, match="estimator must be one of"):
        train(_tiny(), small_faces, replace(QUICK, penalty=PenaltyConfig(estimator="fast")), folder)
    assert not folder.exists()
    train(_tiny(), small_faces, replace(QUICK, steps=1), folder)
    with pytest.raises(ValueError, match="exists: choose another, or go on with --resume"):
        train(_tiny(), small_faces, replace(QUICK, steps=1), folder)
    with pytest.raises(ValueError, match=r"holds another run: training\.learning_rate is 0\.0004 there and 0\.1 here"):
        train(_tiny(), small_faces, replace(QUICK, steps=1, learning_rate=0.1), folder, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(small_faces: LabelledImages, tmp_path: Path) -> None:
    model = _tiny()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite at step 1"):
        train(model, small_faces, QUICK, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 3}, "batch_size must be even"),
        ({"precision": "fp8"}, "precision must be"),
        ({"ema": 1.0}, "ema must be in"),
    ],
)
def test_configurations_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)  # type: ignore[arg-type]


def test_weight_falls_exponentially_from_first_to_last() -> None:
    penalty = PenaltyConfig(weight=1000, final_weight=10)
    weights = [penalty.at(step, 101) for step in (0, 50, 100)]
    assert weights == pytest.approx([1000, 100, 10])


@pytest.mark.parametrize("instruction, precision", [("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx2", "no")])
def test_bfloat16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, instruction: str, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, instruction: True}, raising=False)
    assert fast_precision() == precision


def test_the_weight_of_each_step_is_that_of_its_number_counted_from_zero(
    small_faces: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    at = PenaltyConfig.at

    def noted(self: PenaltyConfig, step: int, steps: int) -> float:
        asked.append((step, steps))
        return at(self, step, steps)

    monkeypatch.setattr(PenaltyConfig, "at", noted)
    penalty = PenaltyConfig(weight=100.0, final_weight=1.0)
    config = TrainConfig(steps=3, batch_size=4, warmup=0, log_every=1, penalty=penalty)
    train(_tiny(), small_faces, config, tmp_path / "run")
    # Once for the step itself, and once for what is logged of it
    assert sorted(asked) == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["weight"] for line in lines] == [100.0, 10.0, 1.0]


def test_what_layers_draw_is_named_by_seed_step_and_sample() -> None:
    def drawn(*names: int) -> list[float]:
        with _named_randomness(*names, torch.device("cpu")):
            return torch.nn.functional.dropout(torch.ones(64), 0.5, training=True).tolist()

    first = drawn(0, 0, 0)
    assert drawn(0, 0, 0) == first
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 16)):
        assert drawn(*other) != first
    state = torch.get_rng_state()
    drawn(0, 0, 0)
    assert torch.equal(torch.get_rng_state(), state), "the caller's own draws go on as before"


@pytest.mark.parametrize("output", ["prediction", "clean"])
def test_noise_that_fills_a_region_is_as_strong_as_that_of_the_timestep(
    small_faces: LabelledImages, output: str
) -> None:
    model = _tiny()
    wanted = PenaltyConfig(
        fill="noise", estimator="exact", output=output, regions="label_maps", timestep_weighting="none", dilation=0
    )
    config = replace(QUICK, penalty=wanted, anchor=False)
    batch = draw_batch(small_faces, config, 1000, 3)
    regions = Regions.grid(1, 2, 32, 32)
    found = losses(model, model, batch, config, replace(regions, names=("eyes", "rest")), 3).penalty
    noisy = model.add_noise(batch.images, batch.noise, batch.timesteps)

    def payoff(x: Tensor) -> Tensor:
        predicted = model(x, batch.timesteps)
        return clean_payoff(model, predicted, x, batch.timesteps) if output == "clean" else predicted

    sigma = model.signal_and_noise(batch.timesteps, noisy)[1].flatten()
    assert float(sigma.std()) > 0.1, "timesteps that differ"
    penalty = DummyPlayerPenalty(estimator="exact", fill="noise", graph=star("rest"), seed=config.seed)
    by_hand = penalty(
        payoff, noisy, replace(regions, names=("eyes", "rest")), step=3, first_index=batch.first, noise_level=sigma
    )
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize(
    ("itself", "emulated", "precision"), [(True, True, "bf16"), (False, True, "no"), (False, False, "no")]
)
def test_a_gpu_that_only_emulates_bfloat16_is_not_asked_to(
    itself: bool, emulated: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: emulated if including_emulation else itself
    )
    assert fast_precision() == precision


def test_the_seconds_of_a_run_go_on_where_they_stopped(small_faces: LabelledImages, tmp_path: Path) -> None:
    began = time.perf_counter()
    train(_tiny(), small_faces, QUICK, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[-1] > seconds[0] > 0
    assert seconds[-1] <= time.perf_counter() - began


def test_the_published_penalty_is_spelled_out() -> None:
    spelled = PenaltyConfig(
        weight=1000.0,
        final_weight=1.0,
        concepts=("mouth",),
        graph="own",
        estimator="per_region",
        fill="zeros",
        payoff="mean",
        regions="label_maps",
        output="prediction",
    )
    assert PenaltyConfig.published("mouth") == spelled
    assert PenaltyConfig.published("nose") == replace(spelled, concepts=("nose",), final_weight=10.0)


def test_the_learning_rate_warms_up_and_each_step_logs_its_own(small_faces: LabelledImages, tmp_path: Path) -> None:
    config = TrainConfig(steps=6, batch_size=4, learning_rate=1e-3, warmup=4, log_every=1)
    assert [config.rate(step) for step in range(6)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    train(_tiny(), small_faces, config, tmp_path / "run")
    logged = [line["learning_rate"] for line in _lines(tmp_path / "run")]
    assert logged == pytest.approx([config.rate(step) for step in range(6)])


def test_a_weight_reaches_its_last_value_in_two_steps_too() -> None:
    penalty = PenaltyConfig(weight=100, final_weight=1)
    assert (penalty.at(0, 2), penalty.at(1, 2), penalty.at(0, 1)) == (100, 1, 100)


def test_the_images_of_a_seed_come_in_the_order_they_came_in_before() -> None:
    """Published figures depend on it; to be changed with the changelog only."""
    assert [batches_module._shuffled(6, 7, number) for number in range(12)] == [4, 1, 3, 5, 2, 0, 2, 1, 3, 4, 5, 0]


@pytest.mark.parametrize("payoff", ["pixels", "mean"])
def test_the_penalty_takes_the_payoff_that_is_configured(
    small_faces: LabelledImages, tmp_path: Path, payoff: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def noted(*arguments: Any, **settings: Any) -> DummyPlayerPenalty:
        made.append(settings)
        return DummyPlayerPenalty(*arguments, **settings)

    monkeypatch.setattr("shapkit_diffusion.training.denoiser.DummyPlayerPenalty", noted)
    config = replace(QUICK, steps=1, penalty=PenaltyConfig(payoff=payoff, estimator="per_region", fill="zeros"))
    train(_tiny(), small_faces, config, tmp_path / "run")
    assert {(made_of["payoff"], made_of["estimator"], made_of["fill"]) for made_of in made} == {
        (payoff, "per_region", "zeros")
    }
