"""Fixtures: small models, data and processes shared by the tests of the adapters and of the compared systems."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two test machines' cores are often shared: more threads than free cores slow torch tenfold."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def faces() -> LabelledImages:
    return render_faces(64, 32, seed=3)


@pytest.fixture
def tiny() -> Denoiser:
    """An untrained denoiser of 16 x 16 images whose output is not zero."""
    return small_denoiser(size=16, channels=(8, 16), seed=1)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts real processes, forked from a fresh interpreter that has done the imports, most of a short run's time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffusers.training_utils", "shapkit_diffusion.training.denoiser"])
    return context


@pytest.fixture(scope="session")
def none_left() -> Callable[[str], bool]:
    """Whether all processes whose environment has SHAPKIT_TEST at a value end, if they are given a while."""
    if not Path("/proc/self/environ").is_file():
        pytest.skip("looks for processes in /proc")

    def is_left(process: Path, entry: bytes) -> bool:
        try:
            return entry in (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            return False

    def none_left(value: str) -> bool:
        entry, given_up = f"SHAPKIT_TEST={value}".encode(), time.monotonic() + 30
        while time.monotonic() < given_up:
            if not any(is_left(process, entry) for process in Path("/proc").glob("[0-9]*")):
                return True
            time.sleep(0.02)
        return False

    return none_left


@pytest.fixture
def write_text_encoder() -> Callable[[Path], Any]:
    """Gives a folder a text encoder and a tokenizer as Stable Diffusion has them; returns the encoder."""
    transformers = pytest.importorskip("transformers")

    def write(folder: Path) -> Any:
        """A random CLIP text encoder of width 12 and a tokenizer of four words."""
        settings = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = transformers.CLIPTextConfig(vocab_size=8, max_position_embeddings=9, **settings, **special)
        encoder = transformers.CLIPTextModel(config).eval()
        encoder.save_pretrained(folder / "text_encoder")
        (folder / "tokenizer").mkdir()
        words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"]
        vocabulary = {word: number for number, word in enumerate(words)}
        (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
        names = {"bos_token": words[0], "eos_token": words[1], "pad_token": words[1], "unk_token": words[1]}
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 9, **names}
        (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
        return encoder

    return write
