"""A Stable Diffusion of captioned faces small enough for a CPU: its parts, its folder, and images of captions.

The parts are those of Stable Diffusion (Rombach et al. 2022): an ``AutoencoderKL``, a ``UNet2DConditionModel`` on its
latents, a ``CLIPTextModel`` and a ``CLIPTokenizer``. Only the sizes differ, so that diffusers' pipelines run on it as
they are.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from shapkit._optional import require
from shapkit_diffusion.data.captions import CAPTIONED, phrases_for
from shapkit_diffusion.denoisers.autoencoders import Autoencoder
from shapkit_diffusion.denoisers.checkpoints import check_layer_counts, first_line, read_json, weight_shapes
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser

MAX_TOKENS = 24
"""The longest caption has 22, with the two that mark its ends."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


class TextModel(nn.Module):
    """A latent denoiser with the text encoder that conditions it.

    Args:
        denoiser: of latents, around a ``UNet2DConditionModel``. Its ``prompt_embedding`` is set to the empty caption's,
            so that by itself it is the model without text.
        text_encoder: a transformers ``CLIPTextModel``.
        tokenizer: a transformers ``CLIPTokenizer``.

    Raises:
        ValueError: if the denoiser takes no text, or the text encoder's width is not the one it takes.
    """

    def __init__(self, denoiser: Denoiser, text_encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        unet: Any = denoiser.unet
        wanted, width = unet.config.get("cross_attention_dim"), text_encoder.config.hidden_size
        if wanted != width:
            raise ValueError(f"the denoiser takes text embeddings of width {wanted}, the text encoder makes {width}")
        self.denoiser = denoiser
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.condition_on_nothing()

    def condition_on_nothing(self) -> None:
        """Give the denoiser the empty caption's embedding, as it is now: training changes it."""
        with torch.no_grad():
            self.denoiser.prompt_embedding = self.embed([""]).float()

    def embed(self, captions: Sequence[str]) -> Tensor:
        """What captions are to the denoiser, (n, tokens, width)."""
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        embedding: Tensor = self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]
        return embedding

    def forward(self, x: Tensor, timesteps: Tensor, captions: Sequence[str]) -> Tensor:
        """The network's own prediction, shape of ``x`` (n, *latent_shape); timesteps (n,), n captions."""
        prompts = self.embed(captions)
        output: Tensor = self.denoiser.unet(x, timesteps, encoder_hidden_states=prompts).sample
        return output

    def pipeline(self, kind: type[Any]) -> Any:
        """The model as one of diffusers' Stable Diffusion pipelines, without safety checker and progress bars.

        The sampler is DDIM as ``sampling.generate`` has it, so that what that module inverts, a pipeline generates.
        """
        autoencoder: Any = self.denoiser.autoencoder
        ddim: Any = self.denoiser.ddim
        pipeline = kind(
            vae=autoencoder.network,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.denoiser.unet,
            scheduler=ddim.scheduler(self.denoiser.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sample(
        self, captions: Sequence[str], noise: Tensor, steps: int, guidance: float, batch_size: int = 64
    ) -> Tensor:
        """Latents (n, *latent_shape) that diffusers' ``StableDiffusionPipeline`` makes of captions and noise x_T."""
        pipeline = self.pipeline(StableDiffusionPipeline)
        rows = range(0, len(noise), batch_size)
        parts = [
            pipeline(
                list(captions[start : start + batch_size]),
                latents=noise[start : start + batch_size],
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="latent",
            ).images
            for start in rows
        ]
        return torch.cat(parts)

    def save(self, folder: str | Path, card: str | None = None) -> None:
        """Write a folder that diffusers' ``StableDiffusionPipeline.from_pretrained`` opens, whole or not at all.

        Args:
            folder: where; an earlier model there is replaced.
            card: text of the model card, ``README.md``.
        """
        self.condition_on_nothing()
        with tempfile.TemporaryDirectory() as name:
            text = Path(name)
            self.text_encoder.save_pretrained(text / "text_encoder")
            if self.denoiser.text_source is None:
                _write_tokenizer(text / "tokenizer")
            else:
                shutil.copytree(self.denoiser.text_source / "tokenizer", text / "tokenizer")
            self.denoiser.text_source = text
            self.denoiser.save(folder, card)
        self.denoiser.text_source = Path(folder)


def small_text_model(
    autoencoder: Autoencoder, size: int = 16, channels: tuple[int, ...] = (32, 64), width: int = 64, seed: int = 0
) -> TextModel:
    """A new model of captioned faces small enough for a CPU, with weights drawn from ``seed``.

    Attention to the caption at every level but the first, a cosine schedule of 1,000 timesteps, velocities predicted; a
    text encoder of two layers with four heads, for the captions' words.

    Args:
        autoencoder: whose latents it makes.
        size: latent pixels along a side, a multiple of 2^(len(channels) - 1).
        channels: width of each level, multiples of 8.
        width: of the text embedding, a multiple of 4.
        seed: of the weights.

    Raises:
        ImportError: if transformers is not installed.
    """
    transformers = _transformers()
    with tempfile.TemporaryDirectory() as folder:
        _write_tokenizer(Path(folder))
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    attending = len(channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=autoencoder.latent_channels,
            out_channels=autoencoder.latent_channels,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * attending,
            up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=width,
            attention_head_dim=1,  # which in this class is the number of heads; several are slow on a CPU
        )
        text_encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    schedule = DDIMScheduler(
        1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    return TextModel(Denoiser(unet, schedule, autoencoder, torch.zeros(1, MAX_TOKENS, width)), text_encoder, tokenizer)


def load_text_model(name: str | Path) -> TextModel:
    """The model of a Stable Diffusion folder or hub repository, in evaluation mode; safetensors only.

    Raises:
        ImportError: if transformers is not installed.
        ValueError: if there is no such model, or its files are damaged or do not fit one another.

    >>> load_text_model("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel
    """
    transformers = _transformers()
    denoiser = load_denoiser(name)
    folder = denoiser.text_source
    if folder is None:
        raise ValueError(f"{name} is no model with text: expected text_encoder/ and tokenizer/ beside unet/ and vae/")
    config = folder / "text_encoder" / "config.json"
    check_layer_counts(config, read_json(config), len(weight_shapes(config.with_name("model.safetensors"))))
    try:
        with torch.random.fork_rng(devices=[]):
            text_encoder, report = transformers.CLIPTextModel.from_pretrained(
                folder / "text_encoder", local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        if report["missing_keys"]:  # transformers would draw them
            raise ValueError(f"{min(report['missing_keys'])} is missing")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # a stranger's settings can go wrong anywhere in a library
        raise ValueError(f"the text encoder of {folder} does not load: {first_line(error)}") from error
    return TextModel(denoiser, text_encoder.float(), tokenizer).eval()


def _transformers() -> Any:
    return require("transformers", extra="segformer", purpose="Stable Diffusion's text encoder")


def _write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer's files, in which each word of the captions is one token.

    Beside the words there are the printable ASCII characters, so that other text has tokens too, but no training.
    """
    words = sorted({word for concept in CAPTIONED for phrase in phrases_for(concept) for word in phrase.split()})
    merges = _merges([*words, "a", "face", "with"])
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *(f"{character}</w>" for character in characters), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, _START, _END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding (Sennrich et al. 2016) until every word is one token.

    >>> _merges(["red", "bred"])
    [('e', 'd</w>'), ('r', 'ed</w>'), ('b', 'red</w>')]
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in split for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merged(pieces, best) for pieces in split]
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
