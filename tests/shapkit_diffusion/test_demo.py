"""The demonstration end to end, with real processes and a small model: its table, report and summary agree."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shapkit_diffusion.data import redraw_concept, render_faces
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.demo import DemoConfig, compare, demo_config, run_demo
from shapkit_diffusion.demo_records import FIGURES, PICTURES, read_measured, write_measured
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import SHIPPED, load_denoiser, shipped_model
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, open_domain
from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, measure_edits
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate
from shapkit_diffusion.evaluation.locality import grow
from shapkit_diffusion.fingerprints import described_model
from shapkit_diffusion.noise.sampling import draw_noise, generate, regenerate, swap
from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED

QUICK = TrainConfig(steps=30, batch_size=4, warmup=1, log_every=1, save_every=20, penalty=PenaltyConfig())
SMALL = DemoConfig(
    data="photographs",
    finetune=QUICK,
    base=replace(QUICK, penalty=None),
    evaluation=EvaluateConfig(pairs=3, images=8, steps=2),
    influence_images=2,
)

COMMAND = """
import sys
import shapkit_diffusion.commands.demo as command
from shapkit_diffusion import cli
from shapkit_diffusion.demo import DemoConfig
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig

command.demo_config = lambda data: {config}
if __name__ == "__main__":
    sys.exit(cli.main(["demo", "--data", "photographs", "--out", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Shown:
    """A demonstration that nothing interrupted."""

    folder: Path
    summary: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder, said = tmp_path_factory.mktemp("whole") / "demo", io.StringIO()
    with contextlib.redirect_stdout(said):
        summary = run_demo(SMALL, folder)
    return Shown(folder, summary, said.getvalue())


def interrupted(folder: Path, by: signal.Signals, *, at: str) -> tuple[int, str]:
    """Start the command in a process of its own, send a signal once there are lines in the file ``at``.

    Returns the exit status and what it said of it.
    """
    script = folder.with_name("command.py")
    script.write_text(COMMAND.format(config=SMALL))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), "--resume"],
        env={**os.environ, "SHAPKIT_TEST": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not ((folder / at).is_file() and (folder / at).stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(by)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_a_demonstration_that_composes_has_a_composed_model_beside_the_control(tmp_path: Path) -> None:
    few = replace(QUICK, steps=4, penalty=None)
    config = replace(SMALL, base=few, finetune=replace(few, anchor=True, anchor_substeps=2), composed=True)
    with contextlib.redirect_stdout(io.StringIO()):
        summary = run_demo(config, tmp_path / "demo")
    assert list(summary["models"]) == ["plain", "control", "composed"]
    assert list(summary["compared_with_control"]) == ["composed"]
    local, control = (load_denoiser(tmp_path / "demo" / name / "model") for name in ("composed", "control"))
    assert isinstance(local, ComposedDenoiser) and not local.composition.staged
    assert not isinstance(control, ComposedDenoiser)
    assert local.regions.names == (*CONCEPTS, "rest")
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "one composed of a run for each region" in page and "anchored to 2 smaller steps" in page


def test_a_terminated_demonstration_goes_on_to_the_same_figures(
    shown: Shown, tmp_path: Path, none_left: Callable[[str], bool]
) -> None:
    out = tmp_path / "demo"
    status, said = interrupted(out, signal.SIGTERM, at="penalty/metrics.jsonl")
    assert status == EXIT_STOPPED
    message = f"shapkit-diffusion demo: stopped by a signal; what was done is kept in {out}, go on with --resume"
    assert said.strip().splitlines()[-1] == message
    assert none_left(str(out))
    (state,) = (out / "penalty" / "state").iterdir()
    assert state.name == f"step-{RunFolder(out / 'penalty').metrics()[-1]['step']:08d}"  # not a step is lost
    resumed = run_demo(SMALL, out, resume=True)
    assert {**resumed, "seconds": 0} == {**shown.summary, "seconds": 0}
    for name in ("plain", "control", "penalty"):
        found, expected = (RunFolder(folder / name).metrics() for folder in (out, shown.folder))
        assert [record["step"] for record in found] == list(range(1, 31))
        assert [record | {"seconds": 0} for record in found] == [record | {"seconds": 0} for record in expected]


def test_a_killed_demonstration_leaves_no_process_and_can_be_begun_anew(
    shown: Shown, tmp_path: Path, none_left: Callable[[str], bool]
) -> None:
    out = tmp_path / "demo"
    status, _ = interrupted(out, signal.SIGKILL, at="plain/metrics.jsonl")
    assert status == -signal.SIGKILL and none_left(str(out))
    with pytest.raises(ValueError, match="exists: choose another, or go on with --resume"):
        run_demo(SMALL, out)
    assert run_demo(SMALL, out, overwrite=True)["models"] == shown.summary["models"]


def test_a_finished_demonstration_is_not_measured_again(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = shown.folder / "measured" / "penalty"
    model = described_model(load_denoiser(shown.folder / "penalty" / "model"), weights=True)
    found = read_measured(kept, model)
    assert found is not None
    entry = shown.summary["models"]["with penalty"]
    assert found.evaluation.figures() == {key: entry[key] for key in ("locality", "frechet")}
    assert {key: m.values.T.tolist() for key, m in found.influences.items()} == entry["influence"]
    assert read_measured(kept, model | {"weights": "others"}) is None
    assert read_measured(shown.folder / "measured" / "nothing", model) is None


def test_what_was_measured_comes_back_as_it_was_and_damage_is_named(shown: Shown, tmp_path: Path) -> None:
    first = read_measured(shown.folder / "measured" / "plain", described_model(_model_of(shown), weights=True))
    assert first is not None
    kept = tmp_path / "kept"
    write_measured(first, kept, {"a": 1})
    write_measured(first, kept, {"a": 2})  # in place of what was there
    again = read_measured(kept, {"a": 2})
    assert again is not None and again.evaluation.figures() == first.evaluation.figures()
    swaps, expected = again.evaluation.swaps, first.evaluation.swaps
    assert torch.equal(again.evaluation.samples, first.evaluation.samples)
    assert torch.equal(swaps.originals, expected.originals)
    for concept, images in expected.edited.items():
        assert torch.equal(swaps.edited[concept], images) and torch.equal(swaps.masks[concept], expected.masks[concept])
    assert list(again.influences) == list(first.influences)
    for found, wanted in zip(again.influences.values(), first.influences.values(), strict=True):
        for name in ("values", "standard_errors", "without_pair"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name), equal_nan=True)
        assert (found.n_images, found.timestep, found.names) == (wanted.n_images, wanted.timestep, wanted.names)
    for name, content in (
        (FIGURES, b"{}"),
        (FIGURES, b'{"locality": 3}'),
        (FIGURES, b"{"),
        (PICTURES, b""),
        ("influence-0.npz", b"x"),
    ):
        whole = (kept / name).read_bytes()
        (kept / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{kept}.* (damaged|no readable|not a file)"):
            read_measured(kept, {"a": 2})
        (kept / name).write_bytes(whole)


def _model_of(shown: Shown) -> Denoiser:
    return load_denoiser(shown.folder / "plain" / "model")


def test_resuming_another_demonstration_is_refused(shown: Shown) -> None:
    with pytest.raises(ValueError, match=r"finetune\.steps is 30 there and 31 here"):
        run_demo(replace(SMALL, finetune=replace(QUICK, steps=31)), shown.folder, resume=True)
    with pytest.raises(ValueError, match="exclude each other"):
        run_demo(SMALL, shown.folder, resume=True, overwrite=True)


def test_demonstration_end_to_end(shown: Shown) -> None:
    summary = shown.summary
    assert json.loads((shown.folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert list(summary["models"]) == ["plain", "control", "with penalty"]
    table = (shown.folder / "table.txt").read_text()
    assert table in shown.said
    for model in summary["models"].values():
        for concept in ("eyes", "nose", "mouth"):
            entry = model["locality"][concept]
            assert f"{entry['mse_in']:.4f}" in table and f"{entry['ratio']:.4f}" in table
        assert f"{model['frechet']['whole']:.3f}" in table
    page = (shown.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 7 and "http" not in page.replace("<!doctype html>", "")
    assert len(list((shown.folder / "pictures").glob("*.png"))) == 7


def test_comparison_reads_gains_the_right_way_round() -> None:
    control = {"locality": {"eyes": {"ratio": 0.3, "mse_in": 0.1}}, "frechet": {"whole": 2.0}}
    model = {"locality": {"eyes": {"ratio": 0.03, "mse_in": 0.08}}, "frechet": {"whole": 1.5}}
    against = compare(control, model)
    assert against["locality_gain"]["eyes"] == pytest.approx(10)
    assert against["mse_in_ratio"]["eyes"] == pytest.approx(0.8)
    assert against["frechet_ratio"]["whole"] == pytest.approx(0.75)


def test_configurations_compare_equal_steps_and_unknown_data_is_refused() -> None:
    faces, photographs = demo_config("faces"), demo_config("photographs")
    assert faces.finetune.penalty is not None and faces.finetune.penalty.graph == "star" and not faces.composed
    assert photographs.composed and photographs.finetune == replace(faces.finetune, penalty=None)
    assert photographs.base is not None and faces.base is None
    with pytest.raises(ValueError, match="faces or photographs"):
        demo_config("dogs")


def test_the_shipped_models_are_small_and_documented() -> None:
    folders = [Path(str(files("shapkit_diffusion"))) / "models" / name for name in SHIPPED.values()]
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*")) <= 8_000_000
    for folder in folders:
        card = (folder / "README.md").read_text()
        for word in ("seed", "Recipe", "minutes", "training_curve.png"):
            assert word in card
    with pytest.raises(ValueError, match="are plain, local, composed, got 'best'"):
        shipped_model("best")


@pytest.mark.parametrize("name", ["local", "composed"])
def test_local_models_edit_like_the_renderer_and_twenty_times_more_locally_than_the_plain_one(name: str) -> None:
    """On other noise than their cards'; by construction no pixel outside of a concept's region changes at all."""
    local, faces, count = shipped_model(name), open_domain("faces", count=2), 32
    if name == "local":
        assert isinstance(local, RegionDenoiser)
    else:
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
