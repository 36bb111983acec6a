"""The text condition of Stable Diffusion models: embeddings of prompts, of the empty one where none is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from shapkit_diffusion.denoisers.checkpoints import check_layer_counts, first_line, read_json, weight_shapes

TEXT_FOLDERS = ("text_encoder", "tokenizer")
EMBEDDING = "prompt_embedding.safetensors"
"""The file, of one tensor ``prompt_embedding``, in which a saved denoiser keeps what it is conditioned on."""


def saved_embeddings(folder: Path) -> dict[str, Tensor]:
    """The embeddings by name that a denoiser was saved with in a folder; none if there is no such file.

    Raises:
        ValueError: if it is damaged, or holds others.
    """
    path = folder / EMBEDDING
    if not path.is_file():
        return {}
    names = weight_shapes(path).keys()
    if not {"prompt_embedding"} <= names <= {"prompt_embedding", "pooled_embedding"}:
        raise ValueError(f"{path} must hold one tensor, prompt_embedding, and no other but a pooled_embedding")
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def prompt_embedding_of(folder: Path) -> Tensor:
    """The embedding (1, tokens, width) that a Stable Diffusion folder's denoiser is to be conditioned on.

    The one saved with the denoiser or else the empty prompt's, computed as diffusers' pipeline does, for which
    transformers must be installed.

    Raises:
        ValueError: if it cannot be computed.
    """
    saved = saved_embeddings(folder)
    if saved:
        return saved["prompt_embedding"]
    return text_encoder(folder)("")


def text_encoder(folder: str | Path) -> Callable[[str], Tensor]:
    """Return what makes the embedding (1, tokens, width) of a text: a Stable Diffusion folder's own text encoder.

    Tokens are padded and cut to the encoder's length, as diffusers' pipeline does. transformers must be installed.

    Raises:
        ValueError: if the folder has none, or it does not load.
    """
    folder = Path(folder)
    if not all((folder / part).is_dir() for part in TEXT_FOLDERS):
        raise ValueError(f"{folder} has no {' and '.join(TEXT_FOLDERS)}: pass prompt_embedding, (1, tokens, width)")
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"{folder} needs the embedding of the empty prompt: install transformers, or pass prompt_embedding, "
            "(1, tokens, width)"
        ) from error
    config = folder / "text_encoder" / "config.json"
    check_layer_counts(config, read_json(config), len(weight_shapes(config.with_name("model.safetensors"))))
    try:
        with torch.random.fork_rng(devices=[]):
            encoder, report = transformers.CLIPTextModel.from_pretrained(
                folder / "text_encoder", local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        if report["missing_keys"]:  # transformers would draw them
            raise ValueError(f"{min(report['missing_keys'])} is missing")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoded = _TextEncoder(encoder.eval(), tokenizer)
        encoded("")
    except Exception as error:  # a stranger's settings can go wrong anywhere in a library
        raise ValueError(f"the text encoder of {folder} does not load: {first_line(error)}") from error
    return encoded


@dataclass(frozen=True, eq=False)
class _TextEncoder:
    encoder: Any
    tokenizer: Any

    def __call__(self, text: str) -> Tensor:
        most = min(self.tokenizer.model_max_length, self.encoder.config.max_position_embeddings)
        tokens = self.tokenizer(text, padding="max_length", max_length=most, truncation=True, return_tensors="pt")
        with torch.no_grad():
            embedding: Tensor = self.encoder(tokens.input_ids)[0]
        return embedding.float()
