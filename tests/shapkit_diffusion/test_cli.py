"""The command line: every command on a small model, in this process, and one clear line for every mistake."""

from __future__ import annotations

import argparse
import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapkit_diffusion.cli import COMMANDS, _parser, main
from shapkit_diffusion.commands.options import add_settings, settings_of
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.training.config import PenaltyConfig

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


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out.split("options:", 1)[1].split("\n\nseveral GPUs", 1)[0]
    for entry in re.split(r"\n  (?=-)", shown)[1:]:
        words = re.sub(r"^(-\S+( (\{\S+|[A-Z_]+|\[[A-Z_]+ \.\.\.\]))*(, )?)+", "", entry).strip()
        assert len(words.split()) >= 2 and "``" not in words, entry


def test_a_penalty_s_options_are_those_of_its_configuration() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, PenaltyConfig)
    assert PenaltyConfig(**settings_of(parser.parse_args([]), PenaltyConfig)) == PenaltyConfig()
    words = ["--concepts", "eyes", "nose", "--final-weight", "2", "--graph", "own", "--samples", "3"]
    expected = PenaltyConfig(concepts=("eyes", "nose"), final_weight=2.0, graph="own", samples=3)
    assert PenaltyConfig(**settings_of(parser.parse_args(words), PenaltyConfig)) == expected
    for wrong in (["--fill", "ring"], ["--samples", "few"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    with pytest.raises(ValueError, match="graph must be 'star', 'own' or chains of regions"):
        PenaltyConfig(**settings_of(parser.parse_args(["--graph", "ring"]), PenaltyConfig))


def test_published_settings_are_set_and_may_be_changed_after() -> None:
    options = _parser(["finetune"]).parse_args(
        ["finetune", "--published", "nose", "--samples", "3", "--out", "somewhere"]
    )
    expected = replace(PenaltyConfig.published("nose"), samples=3)
    assert PenaltyConfig(**settings_of(options, PenaltyConfig)) == expected
    assert (options.learning_rate, options.ema, options.warmup) == (2e-4, 0.9999, 0)
    assert options.constant_rate and options.target == "noise"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_complete_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert "anchor-stride" in shown and "min_snr" in shown


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
    assert config["anchor"] and config["anchor_substeps"] == 4


@pytest.mark.parametrize("composed", ["together", "staged"])
def test_a_composed_model_is_trained_and_saved_as_one(model: Path, tmp_path: Path, composed: str) -> None:
    out = tmp_path / "composed"
    arguments = ["--composed", composed, "--concepts", "eyes", "mouth", "--steps", "1", "--model", str(model)]
    assert main(["finetune", *arguments, "--out", str(out), *TRAINING]) == 0
    found = load_denoiser(out / "model")
    assert isinstance(found, ComposedDenoiser)
    assert found.composition.staged is (composed == "staged") and found.regions.names == ("eyes", "mouth", "rest")
    config = json.loads((out / "config.json").read_text())["training"]
    assert config["penalty"] is None and config["anchor"] and config["concept_weight"] == 4


TRANSFORMER = ["--width", "16", "--depth", "1", "--patch", "2"]


def test_a_region_transformer_is_trained_edited_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "region"
    arguments = ["--architecture", "region", *TRANSFORMER, "--concepts", "eyes", "mouth", "--steps", "2"]
    assert main(["train", *arguments, "--out", str(out), *TRAINING]) == 0
    found = load_denoiser(out / "model")
    assert isinstance(found, RegionDenoiser) and found.regions.names == ("eyes", "mouth", "rest")
    assert json.loads((out / "config.json").read_text())["training"]["concept_weight"] == 1.0
    assert main(["train", *arguments, "--out", str(out), "--resume", *TRAINING]) == 0
    photograph = tmp_path / "face.png"
    pixels = np.moveaxis(render_faces(1, 32, seed=2).images[0], 0, -1)
    Image.fromarray(pixels).save(photograph)
    edited = tmp_path / "edit"
    words = ["--model", str(out / "model"), "--image", str(photograph), "--region", "mouth", "--no-inversion"]
    assert main(["edit", *words, "--variants", "1", "--steps", "2", "--out", str(edited)]) == 0
    with Image.open(edited / "variant-1-image-1.png") as picture:
        changed = (np.asarray(picture) != pixels).any(axis=-1)
    tokens = found.network.changed_tokens(found.regions.mask("mouth") > 0)[found.network.back].reshape(16, 16)
    mouth = tokens.numpy().repeat(2, axis=0).repeat(2, axis=1)
    assert changed.any() and not changed[~mouth].any(), "outside of the model's mouth it is the file that was given"
    own = tmp_path / "own"
    assert main(["edit", *words, "--own-regions", "--variants", "1", "--steps", "2", "--out", str(own)]) == 0
    with Image.open(own / "variant-1-image-1.png") as picture:
        changed_by_own = (np.asarray(picture) != pixels).any(axis=-1)
    assert changed_by_own.any() and changed_by_own.sum() < changed.sum(), "the face's own mouth is smaller than any's"
    wrong = ["edit", "--own-regions", "--region", "mouth", "--image", str(photograph), "--out", str(tmp_path / "x")]
    assert main(wrong) == 2 and "--own-regions is for region transformers" in capsys.readouterr().err


def test_a_plain_transformer_is_trained_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, local = tmp_path / "plain", tmp_path / "local"
    arguments = ["train", "--architecture", "dit", *TRANSFORMER, "--steps", "1", "--out", str(plain), *TRAINING]
    assert main(arguments) == 0 and not isinstance(load_denoiser(plain / "model"), RegionDenoiser)
    model = str(plain / "model")
    words = ["--regions", "label_maps", "--dilation", "2", "--low-rank", "2", "--noises-per-image", "2"]
    words += ["--graph", "rest>eyes>mouth,rest>nose", "--model", model, "--out", str(local)]
    assert main(["finetune", "--convert", "--steps", "1", *words, *TRAINING]) == 0
    found = load_denoiser(local / "model")
    assert isinstance(found, RegionDenoiser) and found.regions.names == ("eyes", "nose", "mouth", "rest")
    assert found.allowed.int().tolist() == [[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1]]
    config = json.loads((local / "config.json").read_text())["training"]
    assert config["penalty"] is None and not config["anchor"] and config["concept_weight"] == 1.0
    given = {"regions": "label_maps", "dilation": 2, "low_rank": 2, "noises_per_image": 2}
    assert {name: config[name] for name in given} == given
    wrong = ["finetune", "--convert", "--graph", "rest>ears", "--model", model, "--out", str(tmp_path / "y"), *TRAINING]
    assert main(wrong) == 2 and "'ears': the regions are eyes, nose, mouth, rest" in capsys.readouterr().err
    both = ["finetune", "--convert", "--composed", "staged", "--model", model, "--out", str(tmp_path / "x"), *TRAINING]
    assert main(both) == 2 and "--convert and --composed are two ways to one end" in capsys.readouterr().err
    assert main(["edit", "--no-inversion", "--region", "mouth", "--out", str(tmp_path / "y")]) == 2
    assert "--no-inversion is for given images" in capsys.readouterr().err


def test_weight_zero_trains_without_penalty(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "control"
    arguments = ["finetune", "--weight", "0", "--steps", "1", "--model", str(model), "--out", str(out), *TRAINING]
    assert main(arguments) == 0
    config = json.loads((out / "config.json").read_text())["training"]
    assert config["penalty"] is None and not config["anchor"] and config["anchor_substeps"] == 1


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


@pytest.fixture
def edit_grey(tmp_path: Path) -> list[str]:
    """Edits of the photographs' grey kind, whose regions are known: one template."""
    small_denoiser(size=24, image_channels=1, channels=(8, 16), seed=1).save(tmp_path / "grey")
    return ["edit", "--data", "photographs", "--model", str(tmp_path / "grey")]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "face.jpg"
    Image.fromarray(np.moveaxis(render_faces(1, 48, seed=2).images[0], 0, -1)).save(path)
    return path


def test_edits_of_generated_images_chain_with_a_seed_and_strength_each(edit_grey: list[str], tmp_path: Path) -> None:
    few = [*edit_grey, "--steps", "2", "--count", "2", "--region", "mouth"]
    seeds = ["--region", "eyes", "--seed", "3", "7", "--strength", "1", "0.5"]
    names = ("both", "again", "eyes-later", "other-image")
    for name, more in zip(names, ([], [], ["--seed", "3", "8"], ["--image-seed", "1"]), strict=True):
        assert main([*few, *seeds, "--variants", "2", *more, "--out", str(tmp_path / name)]) == 0
    shown = {name: {p.name: p.read_bytes() for p in (tmp_path / name).glob("*-image-*.png")} for name in names}
    assert {Path(name).stem for name in shown["both"]} == {
        f"{kind}-image-{number}" for kind in ("original", "variant-1", "variant-2") for number in (1, 2)
    }
    assert shown["both"] == shown["again"]
    assert shown["both"]["original-image-1.png"] == shown["eyes-later"]["original-image-1.png"]
    for name, image in (("eyes-later", "variant-1-image-1.png"), ("other-image", "original-image-1.png")):
        assert shown["both"][image] != shown[name][image]
    assert Image.open(tmp_path / "both" / "edits.png").width > 100
    assert json.loads((tmp_path / "both" / "config.json").read_text())["strength"] == [1.0, 0.5]


def test_edit_of_a_given_image_says_first_how_well_it_was_inverted(
    edit_grey: list[str], photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*edit_grey, "--region", "mouth", "--steps", "3", "--image", str(photograph)]
    given = tmp_path / "given"
    assert main([*few, "--variants", "2", "--out", str(given)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    psnr = json.loads((given / "round_trip.json").read_text())["psnr_db"][0]
    assert first.startswith(f"inversion round trip of {photograph}: {psnr:.1f} dB")
    assert ("below 40 dB" in first) == (psnr < 40)
    assert last.startswith("edited images are in")
    assert {path.stem for path in given.glob("*-image-1.png")} == {
        f"{kind}-image-1" for kind in ("original", "reconstruction", "variant-1", "variant-2")
    }
    assert Image.open(given / "variant-1-image-1.png").size == (24, 24)
    swapped = tmp_path / "swapped"
    assert main([*few, "--swap-with", str(photograph), "--out", str(swapped)]) == 0
    # Exchanged for its own noise, the mouth stays what it was.
    same = [(swapped / f"{kind}-image-1.png").read_bytes() for kind in ("variant-1", "reconstruction")]
    assert same[0] == same[1] and not (swapped / "variant-2-image-1.png").exists()


def test_edit_with_a_replay_leaves_the_outside_of_the_written_image_alone(
    edit_grey: list[str], photograph: Path, tmp_path: Path
) -> None:
    mouth = open_domain("photographs").regions(torch.zeros(1, 1, 24, 24), ["mouth"], 1).mask("mouth")[0, 0] > 0
    few = [*edit_grey, "--region", "mouth", "--steps", "3", "--variants", "1"]
    for outside in ("free", "replay"):
        out = tmp_path / outside
        assert main([*few, "--image", str(photograph), "--outside", outside, "--out", str(out)]) == 0
        kinds = ("reconstruction", "variant-1")
        before, after = (np.asarray(Image.open(out / f"{kind}-image-1.png")) for kind in kinds)
        assert (before != after)[mouth.numpy()].any()
        assert (before != after)[~mouth.numpy()].any() == (outside == "free")


def test_a_picture_of_100_megapixels_is_refused_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    huge = tmp_path / "huge.png"
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b""), b"IEND")
    huge.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    )
    out = tmp_path / "out"
    assert main(["edit", "--model", str(model), "--region", "eyes", "--image", str(huge), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "10000 x 10000 pixels" in error and error.count("\n") == 1
    assert not out.exists() and not [w for w in recwarn if "DecompressionBomb" in w.category.__name__]


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
        (
            "edit",
            "--model",
            str(model),
            "--region",
            "eyes",
            "--seed",
            "1",
            "2",
            "--out",
            str(new),
        ): "--seed takes one value, or one for each of the 1 regions, got 2",
        (
            "edit",
            "--model",
            str(model),
            "--region",
            "eyes",
            "--strength",
            "2",
            "--count",
            "1",
            "--out",
            str(new),
        ): "[0, 1]",
        ("edit", "--model", str(model), "--region", "eyes", "--variants", "0", "--out", str(new)): "--variants must be",
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


@pytest.mark.parametrize("local", [["--weight", "24"], ["--composed", "together"]], ids=lambda options: options[0][2:])
def test_noise_prediction_of_photographs_is_trained_made_local_and_edited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], local: list[str]
) -> None:
    """The way that published checkpoints predict, on real images: losses stay finite, images in range."""
    base, tuned, out = tmp_path / "base", tmp_path / "tuned", tmp_path / "edits"
    common = ["--data", "photographs", "--batch-size", "8", "--log-every", "1", "--precision", "no", "--warmup", "1"]
    channels = ["--prediction", "epsilon", "--channels", "8", "8", "16"]
    assert main(["train", *common, *channels, "--steps", "40", "--out", str(base)]) == 0
    assert main(["finetune", *common, *local, "--steps", "8", "--model", str(base / "model"), "--out", str(tuned)]) == 0
    trained = [json.loads(line)["denoising"] for line in (base / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(trained[-5:]) < 0.8 * np.mean(trained[:5])
    for line in (tuned / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["denoising"] < 10 and record["penalty"] < 2  # of the noise's own size, not 1 over no signal's
    denoiser = load_denoiser(tuned / "model")
    assert denoiser.prediction == "epsilon" and denoiser.ddim.clip_sample
    photograph = open_domain("photographs").training.rows([3])[0][0]
    Image.fromarray(photograph[0]).save(tmp_path / "photograph.png")
    command = ["edit", "--data", "photographs", "--model", str(tuned / "model"), "--region", "mouth", "--steps", "10"]
    command += ["--image", str(tmp_path / "photograph.png"), "--variants", "1"]
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 0
    psnr = json.loads((out / "round_trip.json").read_text())["psnr_db"][0]
    assert psnr > 25 and f"{psnr:.1f} dB" in capsys.readouterr().out
    original, edited = (
        np.asarray(Image.open(out / f"{name}-image-1.png")).astype(int) for name in ("reconstruction", "variant-1")
    )
    assert (original != edited).any()
    assert main([*command, "--no-clip", "--timestep-spacing", "trailing", "--out", str(tmp_path / "free")]) == 0
    settings = json.loads((tmp_path / "free" / "config.json").read_text())
    assert settings["clip"] is False and settings["timestep_spacing"] == "trailing"
