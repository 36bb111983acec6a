"""Strangers' files at the command line: refused in one line, nothing in them run, nothing left behind."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapkit_diffusion.cli import main
from shapkit_diffusion.data import render_faces, write_folder
from shapkit_diffusion.denoisers.checkpoints import WEIGHTS
from shapkit_diffusion.denoisers.denoiser import small_denoiser

BYTES_OF_100_MEGAPIXELS = 3 * 10**8


class Harm:
    """A pickle that makes a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    small_denoiser(size=16, channels=(8, 16), seed=1).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_folder(render_faces(4, 16, seed=3), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> Callable[..., str]:
    """Runs a command that must fail, and gives its line; what lay there before lies there afterwards, and no more."""

    def run(*arguments: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert main([*(str(argument) for argument in arguments), "--out", str(tmp_path / "new")]) == 2
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error, error
        assert not [warning for warning in recwarn if "DecompressionBomb" in warning.category.__name__]
        return error

    return run


def bombs(name: str) -> bytes:
    """Pictures of 100 megapixels in some hundred KB: a header alone, all its pixels packed, and a text that grows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    side, pixels = (16, b"") if name == "text" else (10_000, b"")
    if name == "pixels":
        pixels = _deflated_zeros(BYTES_OF_100_MEGAPIXELS + side)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"comment\0\0" + _deflated_zeros(BYTES_OF_100_MEGAPIXELS)) if name == "text" else b""
    return b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", pixels or zlib.compress(b"")) + chunk(b"IEND", b"")


def _deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj()
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(count >> 20)) + packer.flush()


@pytest.mark.parametrize("disguise", ["diffusion_pytorch_model.bin", WEIGHTS])
def test_a_pickled_checkpoint(model: Path, tmp_path: Path, refused: Callable[..., str], disguise: str) -> None:
    trace = tmp_path / "it_ran"
    (model / "unet" / WEIGHTS).unlink()
    path = model / "unet" / disguise
    path.write_bytes(pickle.dumps(Harm(trace)))
    assert str(model / "unet" / WEIGHTS) in refused("finetune", "--model", model, "--size", 16)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # it would have run
    assert trace.exists()


def test_a_pickled_parser(data: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    trace, path = tmp_path / "it_ran", tmp_path / "bisenet.pth"
    torch.save({"weight": Harm(trace)}, path)
    assert str(path) in refused("parse", "--images", data / "images", "--parser", f"bisenet:{path}")
    assert not trace.exists()


def test_a_zip_bomb_for_a_parser(data: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    saved, path = io.BytesIO(), tmp_path / "bisenet.pth"
    torch.save({"weight": torch.zeros(4)}, saved)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, bytes(32 << 20) if name.endswith("data/0") else whole.read(name))
    assert "unpacks to" in refused("parse", "--images", data / "images", "--parser", f"bisenet:{path}")


@pytest.mark.parametrize("bomb", ["header", "pixels", "text"])
@pytest.mark.parametrize("where", ["images", "labels"])
def test_a_picture_that_grows(data: Path, model: Path, refused: Callable[..., str], bomb: str, where: str) -> None:
    path = data / where / "000002.png"
    path.write_bytes(bombs(bomb))
    assert path.stat().st_size < 1 << 20
    training = ["--size", 16, "--data", f"folder:{data / 'images'}:{data / 'labels'}"]
    assert str(path) in refused("train", "--channels", 8, *training)
    if where == "images":
        assert str(path) in refused("parse", "--images", data / "images")
        assert str(path) in refused("edit", "--model", model, "--size", 16, "--region", "eyes", "--image", path)


def test_a_truncated_checkpoint(model: Path, refused: Callable[..., str]) -> None:
    path = model / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    for command in ("finetune", "evaluate", "influence"):
        assert f"{path} does not load" in refused(command, "--model", model, "--size", 16)


def test_a_label_map_with_an_unknown_class(data: Path, refused: Callable[..., str]) -> None:
    path = data / "labels" / "000002.png"
    labels = np.array(Image.open(path))
    labels[3, 3] = 7
    Image.fromarray(labels).save(path)
    given = ["--size", 16, "--data", f"folder:{data / 'images'}:{data / 'labels'}"]
    assert f"{path} holds the label 7, but names exist for 0 to 6" in refused("train", "--channels", 8, *given)
    names = data / "labels" / "labels.json"
    names.write_text(json.dumps([*json.loads(names.read_text()), "__import__('os')"]))
    message = refused("edit", *given, "--parser", "small", "--region", "eyes")
    assert "unknown class \"__import__('os')\"" in message
