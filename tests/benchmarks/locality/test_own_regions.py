"""The study of own regions: a small run of it all, what its figures are, and the committed ones' text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.locality.own_regions import RESULTS, Plan, costs, given, opened, photographs, report, run
from benchmarks.locality.region_transformer import Plan as RegionPlan
from benchmarks.locality.region_transformer import regions_of
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import small_transformer
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import open_domain


@pytest.fixture
def model() -> RegionDenoiser:
    plain = small_transformer(32, width=16, depth=1, heads=2, patch=2)
    return RegionDenoiser(plain, regions_of(RegionPlan(), open_domain("faces", 32, 32), plain))


def test_a_small_run(model: RegionDenoiser, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    plan = Plan(steps=2, batch_size=4, noises=2, faces=32, edited=8, sampling_steps=2)
    results = run(plan, tmp_path / "model", tmp_path / "runs")
    for concept in ("eyes", "nose", "mouth"):
        template, own = (results["arms"][arm][concept] for arm in ("partition", "own regions"))
        assert own["same_outside"] > template["same_outside"] > 0.5
        assert own["mse_in"] > 0 and own["ratio"] < template["ratio"]
        assert results["data"][concept]["same_outside"] > 0.98
    configs = [
        json.loads((tmp_path / "runs" / arm / "config.json").read_text())["training"]["regions"]
        for arm in ("partition", "own_regions")
    ]
    assert configs == ["template", "label_maps"]
    assert "locality, mouth" in report(results)
    again = run(plan, tmp_path / "model", tmp_path / "runs")  # what is trained is found
    assert again["arms"]["own regions"]["nose"]["mse_in"] == results["arms"]["own regions"]["nose"]["mse_in"]


def test_photographs_that_are_edited_are_not_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    plan = Plan(domain="photographs", steps=2, batch_size=4, noises=2, edited=34, sampling_steps=2)
    training, faces = opened(plan).training, given(plan)
    seen = to_unit_range(torch.as_tensor(training.rows(range(80))[0]))
    assert len(training) == 80
    assert len(faces.own.mask("eyes")) == len(faces.images) == 34
    assert (faces.images[:17] == faces.images[17:]).all()
    assert (faces.images[:17, None] - seen).abs().amax(dim=(2, 3, 4)).min() > 0.1
    results = run(plan, None, tmp_path / "runs")
    for concept in ("eyes", "nose", "mouth"):
        template, own = (results["arms"][arm][concept] for arm in ("partition", "own regions"))
        assert own["same_outside"] > template["same_outside"] > 0.5
        assert own["tokens"] < 1 and own["mse_in"] > 0
    assert "the data" not in report(results) and "trained on 80 photographs for 2 steps" in report(results)


def test_tokens_are_those_of_the_faces_own_regions(model: RegionDenoiser) -> None:
    plan = Plan(edited=2, sampling_steps=10)
    faces = given(plan)
    images, own = faces.images, faces.own
    shares = []
    for number in range(2):
        owners = model.with_regions(own.select([number])).network.tokens.owners[0]
        mouth, rest = int((owners == 2).sum()), int((owners == 3).sum())
        shares.append((10 * mouth + rest) / (10 * 256 + rest))
    found = costs(plan, model, images, own, "own regions", "mouth")
    assert found["tokens"] == pytest.approx(sum(shares) / 2)
    assert torch.isfinite(torch.tensor(found["seconds"]))


def test_the_committed_figures_can_be_read() -> None:
    published = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert "own regions" in report(published)
    assert "80 photographs" in photographs(published)
