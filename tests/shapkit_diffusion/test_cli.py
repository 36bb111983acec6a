"""The command line: every command on a small model, in this process, and one clear line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapkit_diffusion.cli import main
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers import load_denoiser, small_denoiser

TRAINING = ["--batch-size", "4", "--count", "8", "--log-every", "1", "--precision", "no"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    small_denoiser(size=32, channels=(8, 8, 16), seed=1).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("command", ["", "train", "finetune", "influence", "edit", "evaluate", "demo"])
def test_help_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*([command] if command else []), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "None" not in shown and "SUPPRESS" not in shown
    if command:
        assert "--out" in shown or command == ""


def test_train_then_finetune_leave_run_folders(tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert main(["train", "--steps", "2", "--channels", "8", "8", "16", "--out", str(base), *TRAINING]) == 0
    tuned = tmp_path / "tuned"
    assert main(["finetune", "--steps", "2", "--model", str(base / "model"), "--out", str(tuned), *TRAINING]) == 0
    for folder in (base, tuned):
        assert load_denoiser(folder / "model").image_shape == (3, 32, 32)
        assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    config = json.loads((tuned / "config.json").read_text())["training"]
    assert config["penalty"]["graph"] == "star" and config["decay"]


def test_weight_zero_trains_without_penalty(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "control"
    arguments = ["finetune", "--weight", "0", "--steps", "1", "--model", str(model), "--out", str(out), *TRAINING]
    assert main(arguments) == 0
    assert json.loads((out / "config.json").read_text())["training"]["penalty"] is None


def test_influence_writes_shares_that_sum_to_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "influence"
    arguments = ["--model", str(model), "--out", str(out), "--images", "2", "--steps", "2", "--timesteps", "300"]
    assert main(["influence", *arguments]) == 0
    found = json.loads((out / "influence.json").read_text())
    assert set(found) == {"t = 300", "x_T to x_0"}
    for entry in found.values():
        assert entry["regions"] == ["eyes", "nose", "mouth", "rest"]
        assert np.sum(entry["output_by_input"], axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert (out / "influence.png").is_file()
    assert "x_T to x_0" in capsys.readouterr().out


def test_edit_of_generated_images_and_of_a_given_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generated"
    few = ["--region", "mouth", "--model", str(model), "--steps", "3", "--variants", "2"]
    assert main(["edit", *few, "--count", "2", "--out", str(out)]) == 0
    assert len(list(out.glob("variant-*.png"))) == 4 and len(list(out.glob("original-*.png"))) == 2
    picture = tmp_path / "face.png"
    Image.fromarray(np.moveaxis(render_faces(1, 48, seed=2).images[0], 0, -1)).save(picture)
    given = tmp_path / "given"
    assert main(["edit", *few, "--image", str(picture), "--out", str(given)]) == 0
    assert "inversion round trip" in capsys.readouterr().out
    assert Image.open(given / "variant-1-image-1.png").size == (32, 32)


def test_evaluate_writes_figures_and_pictures(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    few = ["--pairs", "2", "--images", "8", "--steps", "2", "--normalisation", "published"]
    # An untrained model shows no faces, so the concepts' places come from aligned photographs' template.
    grey = tmp_path / "grey"
    small_denoiser(size=24, image_channels=1, channels=(8, 16), seed=1).save(grey)
    assert main(["evaluate", "--data", "photographs", "--model", str(grey), "--out", str(out), *few]) == 0
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["locality"]["mouth"]["normalisation"] == "published"
    assert set(figures["frechet"]) == {"whole", "eyes", "nose", "mouth"}
    assert (out / "swap_nose.png").is_file()


def test_mistakes_are_one_line_and_leave_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "not-an-image.png"
    text.write_text("hello")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    new = tmp_path / "new"
    cases = {
        ("edit", "--model", str(model), "--region", "ears", "--out", str(new)): "--region ears: the data has",
        (
            "edit",
            "--model",
            str(model),
            "--region",
            "eyes",
            "--image",
            str(text),
            "--out",
            str(new),
        ): "not-an-image.png",
        ("edit", "--model", str(tmp_path / "none"), "--region", "eyes", "--out", str(new)): "holds no denoiser",
        ("evaluate", "--model", str(model), "--data", "dogs", "--out", str(new)): "data must be faces",
        ("influence", "--model", str(model), "--out", str(taken)): "exists: choose another",
        ("influence", "--model", str(model), "--images", "3", "--steps", "2", "--out", str(new)): "must be even",
        (
            "finetune",
            "--model",
            str(model),
            "--out",
            str(new),
            "--graph",
            "star",
            "--concepts",
            "ears",
            *TRAINING,
        ): "ears",
        ("train", "--data", "celebamask:/nowhere", "--out", str(new)): "/nowhere",
    }
    for arguments, message in cases.items():
        assert main(list(arguments)) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not new.exists() and sorted(p.name for p in taken.iterdir()) == ["file"], arguments
