"""The demonstration end to end, with real processes and a small model: its table, report and summary agree."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shapkit_diffusion.composed import ComposedDenoiser
from shapkit_diffusion.data import redraw_concept, render_faces
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.demo import SHIPPED, DemoConfig, compare, demo_config, run_demo, shipped_model
from shapkit_diffusion.domains import CONCEPTS, open_domain
from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, measure_edits
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate
from shapkit_diffusion.evaluation.locality import grow
from shapkit_diffusion.pixels import to_unit_range
from shapkit_diffusion.sampling import draw_noise, generate, regenerate, swap
from shapkit_diffusion.training import PenaltyConfig, TrainConfig


def test_demonstration_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = TrainConfig(steps=3, batch_size=4, warmup=1, log_every=1, save_every=2, penalty=PenaltyConfig())
    config = DemoConfig(
        data="photographs",
        finetune=quick,
        base=replace(quick, penalty=None),
        evaluation=EvaluateConfig(pairs=3, images=8, steps=2),
        influence_images=2,
    )
    summary = run_demo(config, tmp_path / "demo")
    assert json.loads((tmp_path / "demo" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert list(summary["models"]) == ["plain", "control", "with penalty"]
    table = (tmp_path / "demo" / "table.txt").read_text()
    assert table in capsys.readouterr().out
    for model in summary["models"].values():
        for concept in ("eyes", "nose", "mouth"):
            entry = model["locality"][concept]
            assert f"{entry['mse_in']:.4f}" in table and f"{entry['ratio']:.4f}" in table
        assert f"{model['frechet']['whole']:.3f}" in table
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 7 and "http" not in page.replace("<!doctype html>", "")
    assert len(list((tmp_path / "demo" / "pictures").glob("*.png"))) == 7
    with pytest.raises(ValueError, match="exists: choose another"):
        run_demo(config, tmp_path / "demo")
    assert run_demo(config, tmp_path / "demo", overwrite=True)["models"] == summary["models"]


def test_comparison_reads_gains_the_right_way_round() -> None:
    control = {"locality": {"eyes": {"ratio": 0.3, "mse_in": 0.1}}, "frechet": {"whole": 2.0}}
    model = {"locality": {"eyes": {"ratio": 0.03, "mse_in": 0.08}}, "frechet": {"whole": 1.5}}
    against = compare(control, model)
    assert against["locality_gain"]["eyes"] == pytest.approx(10)
    assert against["mse_in_ratio"]["eyes"] == pytest.approx(0.8)
    assert against["frechet_ratio"]["whole"] == pytest.approx(0.75)


def test_configurations_compare_equal_steps_and_unknown_data_is_refused() -> None:
    for data in ("faces", "photographs"):
        config = demo_config(data)
        assert config.finetune.penalty is not None and config.finetune.penalty.graph == "star"
    assert demo_config("photographs").base is not None
    with pytest.raises(ValueError, match="faces or photographs"):
        demo_config("dogs")


def test_the_shipped_models_are_small_and_documented() -> None:
    folders = [Path(str(files("shapkit_diffusion"))) / "models" / name for name in SHIPPED.values()]
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*")) <= 8_000_000
    for folder in folders:
        card = (folder / "README.md").read_text()
        for word in ("seed", "Recipe", "minutes", "training_curve.png"):
            assert word in card
    with pytest.raises(ValueError, match="are plain and local, got 'best'"):
        shipped_model("best")


def test_the_local_model_edits_like_the_renderer_and_twenty_times_more_locally_than_the_plain_one() -> None:
    """On other noise than its card's; by construction no pixel outside of a concept's region changes at all."""
    local, faces, count = shipped_model("local"), open_domain("faces", count=2), 32
    assert isinstance(local, ComposedDenoiser) and local.composition.staged
    config = EvaluateConfig(pairs=count, images=8, seed=7)
    plain = {entry.concept: entry for entry in evaluate(shipped_model(), faces, config).locality}
    noise, other = (draw_noise(local, count, seed) for seed in (7, 8))
    before = generate(local, noise)
    rendered = to_unit_range(torch.as_tensor(render_faces(1000, seed=7).images))
    for concept, values in concept_labels(faces.label_names, CONCEPTS).items():

        def edited(mask: Tensor, images: Tensor, after: Tensor, concept: str = concept) -> EditMeasurement:
            return measure_edits(concept, images.clamp(-1, 1), after.clamp(-1, 1), mask)

        shown, drawn = (torch.isin(faces.parse(images), torch.tensor(values))[:, None] for images in (before, rendered))
        own = local.regions.masks[:, [local.regions.names.index(concept)]]
        after = regenerate(local, swap(noise, other, own * grow(shown.float(), 1)), noise, before)
        assert torch.equal(torch.where(own > 0, 0, after), torch.where(own > 0, 0, before))
        found = edited(shown, before, after)
        anew = to_unit_range(torch.as_tensor(redraw_concept(concept, 1000, seed=7).images))
        assert plain[concept].ratio > 20 * found.ratio
        assert 0.5 < found.mse_in / edited(drawn, rendered, anew).mse_in < 1.5
