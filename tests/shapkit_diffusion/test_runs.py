"""Run folders: one run at a time, resumed only as what it was, and readable errors where a file is damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import shapkit_diffusion.runs
from shapkit_diffusion import cli
from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.data.folders import open_folder, write_folder
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, small_autoencoder
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.fingerprints import described_data, described_model
from shapkit_diffusion.runs import HOLDER, LOCK, RunFolder, read_json
from shapkit_diffusion.training.autoencoder import AutoencoderConfig, train_autoencoder
from shapkit_diffusion.training.config import TrainConfig
from shapkit_diffusion.training.denoiser import train

QUICK = TrainConfig(steps=5, batch_size=4, log_every=1, save_every=3, warmup=1, seed=5)
CONFIG = {"training": {"steps": 5}}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a lock that stays."""
    monkeypatch.setattr(shapkit_diffusion.runs, "LOCK_PATIENCE", 0.0)


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    return render_faces(12, 16, seed=9)


def _new(prediction: str = "v_prediction", channels: tuple[int, ...] = (8,), size: int = 16) -> Denoiser:
    return small_denoiser(size=size, channels=channels, prediction=prediction, seed=2)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(few: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(_new(), few, QUICK, folder)
    return folder


def test_resuming_a_finished_run_trains_no_step_and_returns_its_model(few: LabelledImages, tmp_path: Path) -> None:
    """Five steps, saved every three."""
    expected = train(_new(), few, QUICK, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    steps: list[int] = []
    again = train(_new(), few, QUICK, tmp_path / "run", resume=True, progress=lambda done, total: steps.append(done))
    assert steps == []
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), expected.parameters(), strict=True))


def test_resuming_a_finished_autoencoder_trains_no_step(few: LabelledImages, tmp_path: Path) -> None:
    config = AutoencoderConfig(steps=3, batch_size=4, save_every=2, log_every=1, warmup=1)
    expected = train_autoencoder(small_autoencoder(channels=(8, 8)), few, config, tmp_path / "run")
    steps: list[int] = []
    again = train_autoencoder(
        small_autoencoder(channels=(8, 8)),
        few,
        config,
        tmp_path / "run",
        resume=True,
        progress=lambda done, total: steps.append(done),
    )
    assert steps == [] and again.network.config["scaling_factor"] == expected.network.config["scaling_factor"]
    assert all(
        torch.equal(a, b) for a, b in zip(*(coder.network.parameters() for coder in (again, expected)), strict=True)
    )
    with pytest.raises(ValueError, match=r"data\.images is '\w+' there and '\w+' here"):
        train_autoencoder(
            small_autoencoder(channels=(8, 8)), render_faces(12, 16, seed=1), config, tmp_path / "run", resume=True
        )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: _new(prediction="epsilon"), "model.prediction is 'v_prediction' there and 'epsilon' here"),
        (lambda: _new(channels=(16,)), "model.network"),
    ],
)
def test_another_model_is_refused(
    few: LabelledImages, finished: Path, model: Callable[[], Denoiser], said: str
) -> None:
    with pytest.raises(ValueError, match=r"holds another run: .* there and .* here") as error:
        train(model(), few, QUICK, finished, resume=True)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda few: few[:11], "data.count is 12 there and 11 here"),
        (lambda few: render_faces(12, 16, seed=10), "data.images"),
        (lambda few: replace(few, images=_last_pixel_zero(few.images)), "data.images"),
        (lambda few: replace(few, labels=np.zeros_like(few.labels)), "data.label_maps"),
        (lambda few: replace(few, label_names=(*few.label_names[:-1], "lips")), "data.label_names"),
    ],
)
def test_other_data_are_refused(
    few: LabelledImages, finished: Path, change: Callable[[LabelledImages], LabelledImages], said: str
) -> None:
    with pytest.raises(ValueError, match=r"holds another run: .* there and .* here") as error:
        train(_new(), change(few), QUICK, finished, resume=True)
    assert said in str(error.value)


def _last_pixel_zero(pixels: np.ndarray) -> np.ndarray:
    changed = pixels.copy()
    assert changed[-1, -1, -1, -1] != 0
    changed[-1, -1, -1, -1] = 0
    return changed


def test_another_anchor_is_refused_and_a_start_that_training_replaces_is_not(
    few: LabelledImages, finished: Path, tmp_path: Path
) -> None:
    other = small_denoiser(size=16, channels=(8,), seed=3)
    train(other, few, QUICK, finished, resume=True)
    anchored = replace(QUICK, anchor=True, steps=1)
    train(_new(), few, anchored, tmp_path / "run")
    with pytest.raises(ValueError, match=r"anchor\.weights is '\w+' there and '\w+' here"):
        train(small_denoiser(size=16, channels=(8,), seed=3), few, anchored, tmp_path / "run", resume=True)


def test_a_latent_models_description_tells_autoencoders_apart() -> None:
    torch.manual_seed(0)
    coders = [Autoencoder(small_autoencoder(channels=(8, 8))) for _ in range(2)]
    with torch.no_grad():
        next(coders[1].network.parameters()).add_(1)
    found = [described_model(small_denoiser(16, channels=(8,), autoencoder=coder)) for coder in coders]
    assert found[0]["autoencoder"]["weights"] != found[1]["autoencoder"]["weights"]
    assert json.loads(json.dumps(found[0])) == found[0]


def test_one_of_many_files_with_another_picture_is_noticed(tmp_path: Path) -> None:
    """Also where its pixels are not looked at: its file has another size."""
    faces = render_faces(200, 16, seed=4)
    write_folder(faces, tmp_path / "faces")
    before = described_data(open_folder(tmp_path / "faces" / "images", tmp_path / "faces" / "labels"))
    victim = sorted((tmp_path / "faces" / "images").iterdir())[101]
    victim.write_bytes(victim.read_bytes() + b" ")  # which no decoder minds
    after = described_data(open_folder(tmp_path / "faces" / "images", tmp_path / "faces" / "labels"))
    assert before["images"] != after["images"] and before["label_maps"] == after["label_maps"]


def test_a_folder_is_held_by_one_run_and_the_other_is_told_by_whom(hasty: None, tmp_path: Path) -> None:
    with RunFolder.held(tmp_path / "run", CONFIG):
        for resume in (True, False):
            expected = f"in use: process {os.getpid()} on .* since 2" if resume else "exists: choose another"
            with pytest.raises(ValueError, match=expected), RunFolder.held(tmp_path / "run", CONFIG, resume=resume):
                pass
        with pytest.raises(ValueError, match="in use"), RunFolder.held(tmp_path / "run", CONFIG, overwrite=True):
            pass
    with RunFolder.held(tmp_path / "run", CONFIG, resume=True) as run:
        assert run.path == tmp_path / "run"


HOLDING = """
import sys
from shapkit_diffusion.runs import RunFolder
with RunFolder.held(sys.argv[1], {"training": {"steps": 5}}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free_at_once(hasty: None, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"process {holder.pid} on"),
            RunFolder.held(tmp_path / "run", CONFIG, resume=True),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with RunFolder.held(tmp_path / "run", CONFIG, resume=True):
            assert read_json(tmp_path / "run" / HOLDER)["process"] == os.getpid()


def test_a_lock_that_is_about_to_go_is_waited_for(tmp_path: Path) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with RunFolder.held(tmp_path / "run", CONFIG):
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    threading.Timer(0.3, release.set).start()
    with RunFolder.held(tmp_path / "run", CONFIG, resume=True):
        assert release.is_set()
    holder.join()


def test_training_holds_its_folder(few: LabelledImages, hasty: None, tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(ValueError, match="in use") as error:
            train(_new(), few, QUICK, tmp_path / "run", resume=True)
        refused.append(str(error.value))

    train(_new(), few, replace(QUICK, steps=1), tmp_path / "run", progress=meanwhile)
    assert len(refused) == 1


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [(), (LOCK,), (LOCK, HOLDER), (LOCK, HOLDER, "config.json.partial")])
def test_a_run_killed_before_its_configuration_was_in_place_begins(
    left: tuple[str, ...], resume: bool, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text('{"trai')
    with RunFolder.held(tmp_path / "run", CONFIG, resume=resume) as run:
        assert read_json(run.path / "config.json") == CONFIG


def test_strangers_folders_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        for name, said in (("thesis", "is no run folder"), ("file", "is a file")):
            with (
                pytest.raises(ValueError, match=said),
                RunFolder.held(tmp_path / name, CONFIG, resume=resume, overwrite=overwrite),
            ):
                pass
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_overwriting_leaves_nothing_of_the_former_run(tmp_path: Path) -> None:
    with RunFolder.held(tmp_path / "run", CONFIG) as run:
        run.log({"step": 1})
        (run.path / "state" / "step-00000001").mkdir(parents=True)
    with RunFolder.held(tmp_path / "run", {"training": {"steps": 6}}, overwrite=True) as run:
        assert run.metrics() == [] and {path.name for path in run.path.iterdir()} == {LOCK, HOLDER, "config.json"}
        assert read_json(run.path / "config.json") == {"training": {"steps": 6}}


def test_a_run_of_another_kind_or_an_older_version_is_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match=r"config\.json has no 'data'"):
        RunFolder.open(tmp_path / "run", {**CONFIG, "data": {}}, resume=True)


DAMAGES = [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'"step"', b"[" * 100_000, b"\0\0\0"]


@pytest.mark.parametrize("content", DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_configuration_is_named(content: bytes, tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        RunFolder.open(tmp_path / "run", CONFIG, resume=True)


@pytest.mark.parametrize(
    "line", [*DAMAGES[1:], b"{}", b'{"step": "2"}', b'{"step": null}', b'{"step": 1.5}', b'{"step": true}']
)
def test_a_damaged_line_of_the_metrics_is_named(line: bytes, tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "run", CONFIG)
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 1, "seconds": 2}\n' + line + b'\n{"step": 3, "seconds": 4}\n')
    for read in (run.metrics, run.seconds, lambda: run.drop_metrics_from(1)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
            read()


@pytest.mark.parametrize("seconds", ["null", '"3"', "-1", "NaN", "[]", "true"])
def test_seconds_that_are_no_number_are_named(seconds: str, tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "run", CONFIG)
    (run.path / "metrics.jsonl").write_text(f'{{"step": 1, "seconds": {seconds}}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1 is damaged: 'seconds'"):
        run.seconds()


def test_half_a_last_line_is_mended(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "run", CONFIG)
    (run.path / "metrics.jsonl").write_text('{"step": 1, "seconds": 2}\n{"step": 2, "sec')
    assert [record["step"] for record in run.metrics()] == [1] and run.seconds() == 2
    run.drop_metrics_from(2)
    run.log({"step": 2, "seconds": 3})
    assert [record["step"] for record in run.metrics()] == [1, 2]


@pytest.mark.parametrize(
    "content",
    [*DAMAGES, b"{}", b'{"step": "5", "average_steps": 5}', b'{"step": 5}', b'{"step": 4, "average_steps": 5}'],
)
def test_a_damaged_state_is_named(few: LabelledImages, content: bytes, tmp_path: Path) -> None:
    config = replace(QUICK, steps=1)
    train(_new(), few, config, tmp_path / "run")
    (path,) = (tmp_path / "run" / "state").glob("*/state.json")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        train(_new(), few, config, tmp_path / "run", resume=True)


def test_the_command_says_what_another_run_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    command = ["train", "--count", "4", "--size", "16", "--channels", "8", "--batch-size", "2", "--steps", "1"]
    assert cli.main([*command, "--out", out]) == 0
    for change, said in (
        (("--prediction", "epsilon"), "model.prediction is 'v_prediction' there and 'epsilon' here"),
        (("--count", "5"), "data.count is 4 there and 5 here"),
        (("--size", "24"), "model.image_shape is [3, 16, 16] there and [3, 24, 24] here"),
        (("--seed", "9"), "training.seed is 0 there and 9 here"),
    ):
        assert cli.main([*command, *change, "--out", out, "--resume"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f"shapkit-diffusion train: run folder {out} holds another run: {said}"
