"""Denoisers from files: diffusers' folders, hub repositories, and those that come with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from shapkit._files import completed
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, load_autoencoder
from shapkit_diffusion.denoisers.checkpoints import find_folder, load_module, load_schedule
from shapkit_diffusion.denoisers.composed import restored
from shapkit_diffusion.denoisers.denoiser import COMPOSITION, INDEX, Denoiser
from shapkit_diffusion.denoisers.prompts import TEXT_FOLDERS, prompt_embedding_of

MAX_SIDE = 4096

SHIPPED = {"plain": "faces32", "local": "faces32_local"}
"""The denoisers of rendered faces, 32 x 32, that come with the package, and the folders they lie in."""


def shipped_model(name: str = "plain") -> Denoiser:
    """A small DDPM of rendered faces, 32 x 32, that comes with the package.

    ``"plain"``, trained without penalty, to be looked into and fine-tuned; or ``"local"``, the best of the reference
    study: the noise of its eyes, nose and mouth owns the eyes, the nose and the mouth.

    Raises:
        ValueError: for another name.

    >>> shipped_model().image_shape, shipped_model("local").regions.names
    ((3, 32, 32), ('eyes', 'nose', 'mouth', 'rest'))
    """
    if name not in SHIPPED:
        raise ValueError(f"the models that come with the package are {' and '.join(SHIPPED)}, got {name!r}")
    with as_file(files("shapkit_diffusion") / "models" / SHIPPED[name]) as folder:
        return load_denoiser(folder)


def load_denoiser(name: str | Path, prompt_embedding: Tensor | None = None) -> Denoiser:
    """The denoiser of a diffusers folder or hub repository, in evaluation mode; safetensors only.

    The UNet lies in ``unet/`` or at the root, the autoencoder of a latent model in ``vqvae/`` or ``vae/``, the schedule
    in ``scheduler/`` or at the root; any of diffusers' DDPM-like samplers may have written it.

    Args:
        name: a folder, or a hub repository such as ``"google/ddpm-celebahq-256"`` or ``"CompVis/ldm-celebahq-256"``.
        prompt_embedding: (1, tokens, width), what a Stable Diffusion model is conditioned on; by default the empty
            prompt's embedding, which takes transformers to compute.

    Raises:
        ValueError: if there is no such model, or its files are damaged or do not fit one another.

    >>> load_denoiser("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel
    """
    folder = find_folder(name)
    completed(folder, INDEX)
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (unet_folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel"
        )
    unet = load_module(unet_folder, (UNet2DModel, UNet2DConditionModel))
    _check_supported(unet, unet_folder)
    schedule = load_schedule(folder / "scheduler" if (folder / "scheduler").is_dir() else folder)
    autoencoder = _load_autoencoder(folder, unet)
    conditional = isinstance(unet, UNet2DConditionModel)
    if prompt_embedding is None and conditional:
        prompt_embedding = prompt_embedding_of(folder)
    _check_prompt(prompt_embedding, unet, folder)
    denoiser = Denoiser(unet, schedule, autoencoder, prompt_embedding)
    if conditional and all((folder / part).is_dir() for part in TEXT_FOLDERS):
        denoiser.text_source = folder
    if (folder / COMPOSITION).is_file():
        denoiser = restored(denoiser, folder / COMPOSITION)
    denoiser.eval()
    return denoiser


def _load_autoencoder(folder: Path, unet: nn.Module) -> Autoencoder | None:
    for part in ("vqvae", "vae"):
        if (folder / part).is_dir():
            autoencoder = load_autoencoder(folder / part)
            config: Any = unet.config
            if autoencoder.latent_channels != config["in_channels"]:
                raise ValueError(
                    f"{folder} does not fit together: {part} makes latents of {autoencoder.latent_channels} channels, "
                    f"the UNet takes {config['in_channels']}"
                )
            return autoencoder
    if isinstance(unet, UNet2DConditionModel):
        raise ValueError(f"{folder} has no autoencoder: expected vae/config.json beside the UNet2DConditionModel")
    return None


def _check_supported(unet: nn.Module, folder: Path) -> None:
    """Raise a ValueError for UNets that need more than an image and a timestep, or give something else back."""
    config: Any = unet.config
    for setting in ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type"):
        if config.get(setting) is not None:
            raise ValueError(f"{folder}: models conditioned by {setting} are not supported, got {config[setting]!r}")
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"{folder}: the model must give back as many channels as it takes, got {config['in_channels']} and "
            f"{config['out_channels']} (inpainting models and learned variances are not supported)"
        )
    size = config["sample_size"]
    sides = [size] * 2 if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise ValueError(f"{folder}: sample_size must be 1..{MAX_SIDE} pixels or two such numbers, got {size!r}")


def _is_side(side: object) -> bool:
    return isinstance(side, int) and 1 <= side <= MAX_SIDE


def _check_prompt(embedding: Tensor | None, unet: nn.Module, folder: Path) -> None:
    if embedding is None:
        return
    config: Any = unet.config
    width = config.get("cross_attention_dim")
    if width is None:
        raise ValueError(f"{folder} takes no prompt_embedding: it is no Stable Diffusion model")
    if embedding.ndim != 3 or len(embedding) != 1 or embedding.shape[2] != width:
        raise ValueError(f"prompt_embedding must be (1, tokens, {width}), got {tuple(embedding.shape)}")
