"""A composed denoiser: exactly local for any weights, equal to its slow twin, trained by a teacher that is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shapkit.differentiable import Regions, allowed_influence, star
from shapkit_diffusion.composed import ComposedDenoiser
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers import Denoiser, load_denoiser, small_denoiser
from shapkit_diffusion.influence import influence_end_to_end, outside_mass
from shapkit_diffusion.sampling import draw_noise, generate, swap
from shapkit_diffusion.training import TrainConfig, draw_batch, losses, train

NAMES = ("eyes", "mouth", "rest")


def _plain() -> Denoiser:
    return small_denoiser(size=16, channels=(8, 16), seed=3)


def _regions(size: int = 16) -> Regions:
    labels = torch.zeros(1, size, size, dtype=torch.long)
    labels[:, 2:6, 3:13] = 1
    labels[:, 10:14, 5:11] = 2
    return Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})


@pytest.mark.parametrize("graph", ["star", "own", "matrix"])
def test_each_region_is_predicted_from_what_it_may_see(graph: str) -> None:
    """The twin runs the network once for each image and region, with everything else put to zero by hand."""
    matrix = torch.tensor([[True, True, False], [False, True, True], [False, False, True]])
    chosen = {"star": star(), "own": "own", "matrix": matrix}[graph]
    plain, regions = _plain(), _regions()
    local = ComposedDenoiser(plain, regions, chosen)  # type: ignore[arg-type]
    x, timesteps = draw_noise(plain, 3, seed=1), torch.tensor([10, 500, 999])
    expected = torch.zeros_like(x)
    allowed = allowed_influence(chosen, NAMES)  # type: ignore[arg-type]
    for row in range(3):
        for k, name in enumerate(NAMES):
            seen = x[row : row + 1].clone()
            for j, other in enumerate(NAMES):
                if not allowed[k, j]:
                    seen[:, :, regions.mask(other)[0, 0] > 0] = 0
            inside = regions.mask(name)[0, 0] > 0
            expected[row, :, inside] = plain(seen, timesteps[row : row + 1])[0][:, inside].detach()
    torch.testing.assert_close(local(x, timesteps).detach(), expected, rtol=1e-4, atol=1e-5)


def test_edits_leave_the_rest_and_the_other_concepts_alone() -> None:
    local = ComposedDenoiser(_plain(), _regions())
    noise, other = draw_noise(local, 4, seed=1), draw_noise(local, 4, seed=2)
    before = generate(local, noise, 5)
    for name in ("eyes", "mouth"):
        inside = _regions().mask(name)
        change = (generate(local, swap(noise, other, inside), 5) - before).abs().amax(dim=1, keepdim=True)
        assert float((change * (1 - inside)).max()) == 0 < float((change * inside).max())


def test_no_influence_from_outside_the_graph() -> None:
    local = ComposedDenoiser(_plain(), _regions())
    found = influence_end_to_end(local, draw_noise(local, 4, seed=1), _regions(), 4)
    assert outside_mass(found, allowed_influence(star(), NAMES)) < 1e-6


def test_with_everybody_in_sight_it_is_the_plain_model() -> None:
    plain = _plain()
    local = ComposedDenoiser(plain, _regions(), torch.ones(3, 3, dtype=torch.bool))
    x, timesteps = draw_noise(plain, 2, seed=1), torch.tensor([10, 500])
    torch.testing.assert_close(local(x, timesteps), plain(x, timesteps))


def test_it_learns_from_the_plain_model_and_is_saved_as_one(tmp_path: Path) -> None:
    faces, teacher = render_faces(40, 16, seed=9), _plain()
    config = TrainConfig(steps=80, batch_size=8, learning_rate=5e-3, warmup=1, anchor=True, ema=0.5, log_every=1)
    local = train(ComposedDenoiser(_plain(), _regions()), faces, config, tmp_path / "run", teacher=teacher)
    lines = [json.loads(line)["denoising"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    batch = draw_batch(faces, config, 1000, 0)
    first = losses(start := ComposedDenoiser(_plain(), _regions()), start, batch, config, None, 0, teacher).denoising
    assert lines[0] == pytest.approx(float(first.detach()), rel=1e-4) and lines[0] > 0
    assert sum(lines[-9:]) < 0.8 * sum(lines[:9])  # not to zero: the teacher looks at what this one may not see
    again = ComposedDenoiser(load_denoiser(tmp_path / "run" / "model"), _regions())
    x, timesteps = draw_noise(again, 2, seed=1), torch.tensor([10, 500])
    torch.testing.assert_close(again(x, timesteps), local(x, timesteps))


def test_wrong_regions_and_idle_teachers_are_refused(tmp_path: Path) -> None:
    both: Tensor = torch.cat([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)]).long()
    with pytest.raises(ValueError, match="one partition for all images, got 2"):
        ComposedDenoiser(_plain(), Regions.from_labels(both, {"eyes": [1]}, missing="allow"))
    with pytest.raises(ValueError, match=r"denoiser's grid \(16, 16\), got \(32, 32\)"):
        ComposedDenoiser(_plain(), _regions(32))
    config = TrainConfig(steps=1, batch_size=2)
    with pytest.raises(ValueError, match=r"a teacher is for runs with config\.anchor"):
        train(_plain(), render_faces(4, 16), config, tmp_path / "run", teacher=_plain())
    assert not (tmp_path / "run").exists() and replace(config, anchor=True).anchor
