"""Denoisers from files: diffusers' folders, hub repositories, and those that come with the package."""

from __future__ import annotations

import warnings
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from shapkit._files import completed
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, load_autoencoder
from shapkit_diffusion.denoisers.checkpoints import find_folder, load_module, load_schedule, read_json
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.composition_file import read_composition
from shapkit_diffusion.denoisers.denoiser import CLASS_LABEL, COMPOSITION, INDEX, Denoiser
from shapkit_diffusion.denoisers.networks import NETWORKS, TRANSFORMERS, class_count, prompt_widths
from shapkit_diffusion.denoisers.prompts import TEXT_FOLDERS, prompt_embedding_of, saved_embeddings
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser

MAX_SIDE = 4096
NULL_TOKENS = 77
"""Tokens of a prompt of zeros: CLIP's."""

SHIPPED = {"plain": "faces32", "local": "faces32_local", "composed": "faces32_composed"}
"""The denoisers of rendered faces, 32 x 32, that come with the package, and the folders they lie in."""


def shipped_model(name: str = "plain") -> Denoiser:
    """A small DDPM of rendered faces, 32 x 32, that comes with the package.

    ``"plain"``, a UNet trained without penalty, to be looked into and fine-tuned; ``"local"``, a region transformer; or
    ``"composed"``, the best UNet of the reference study, which runs once for each region. In the last two the noise of
    the eyes, the nose and the mouth owns the eyes, the nose and the mouth.

    Raises:
        ValueError: for another name.

    >>> shipped_model().image_shape, shipped_model("local").regions.names
    ((3, 32, 32), ('eyes', 'nose', 'mouth', 'rest'))
    """
    if name not in SHIPPED:
        raise ValueError(f"the models that come with the package are {', '.join(SHIPPED)}, got {name!r}")
    with as_file(files("shapkit_diffusion") / "models" / SHIPPED[name]) as folder:
        return load_denoiser(folder)


def load_denoiser(
    name: str | Path,
    prompt_embedding: Tensor | None = None,
    *,
    class_label: int | None = None,
    pooled_embedding: Tensor | None = None,
) -> Denoiser:
    """The denoiser of a diffusers folder or hub repository, in evaluation mode; safetensors only.

    The UNet lies in ``unet/`` or at the root, a transformer (DiT, SD3, Flux) in ``transformer/``, the autoencoder of a
    latent model in ``vqvae/`` or ``vae/``, the schedule in ``scheduler/`` or at the root; any of diffusers' samplers of
    DDPM-like schedules and of flows may have written it. Where a network predicts variances, too, they are left out.

    Args:
        name: a folder, a file of weights in one, or a hub repository such as ``"google/ddpm-celebahq-256"`` or
            ``"CompVis/ldm-celebahq-256"``.
        prompt_embedding: (1, tokens, width), what a model of text and images is conditioned on; by default what it was
            saved with. Else, of a Stable Diffusion model, the empty prompt's embedding, which takes transformers to
            compute; of SD3 and Flux zeros, with a warning.
        class_label: of a class-conditional model; by default the one it was saved with, a DiT's null class, or else
            class 0, with a warning.
        pooled_embedding: (1, width), the vector that SD3 and Flux take beside the prompt; by default like the prompt.

    Raises:
        ValueError: if there is no such model, its files are damaged or do not fit one another, or a class is missing,
            unknown or not taken.

    >>> load_denoiser("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel
    """
    folder = find_folder(name)
    if folder.is_file() and folder.suffix == ".safetensors":
        folder = _folder_of_weights(folder)
    completed(folder, INDEX)
    network_folder = next((folder / part for part in ("unet", "transformer") if (folder / part).is_dir()), folder)
    if not (network_folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel"
        )
    network = load_module(network_folder, NETWORKS)
    if isinstance(network, FluxTransformer2DModel) and network.config.get("sample_size") is None:
        network.register_to_config(sample_size=_size_of_latents(folder))  # which its own configuration lacks
    _check_supported(network, network_folder)
    schedule = load_schedule(folder / "scheduler" if (folder / "scheduler").is_dir() else folder)
    autoencoder = _load_autoencoder(folder, network)
    conditional = isinstance(network, UNet2DConditionModel)
    if prompt_embedding is None and conditional:
        prompt_embedding = prompt_embedding_of(folder)
    elif prompt_widths(network)[1] is not None:
        prompt_embedding, pooled_embedding = _joint_embeddings(prompt_embedding, pooled_embedding, network, folder)
    _check_prompt(prompt_embedding, pooled_embedding, network, folder)
    label = _class_label(class_label, network, folder)
    denoiser = Denoiser(network, schedule, autoencoder, prompt_embedding, label, pooled_embedding)
    if conditional and all((folder / part).is_dir() for part in TEXT_FOLDERS):
        denoiser.text_source = folder
    if (folder / COMPOSITION).is_file():
        denoiser = _restored(denoiser, folder / COMPOSITION)
    denoiser.eval()
    return denoiser


def _restored(denoiser: Denoiser, path: Path) -> Denoiser:
    """The denoiser local again, as the file says that was saved with it."""
    regions, tensors = read_composition(path)
    allowed = tensors.pop("allowed")
    shapes = {name: tensor.ndim for name, tensor in tensors.items()}
    if shapes == {"staged": 0}:
        return ComposedDenoiser(denoiser, regions, allowed, staged=bool(tensors["staged"]))
    if shapes == {"region_embedding": 2, "clean_embedding": 1}:
        local = RegionDenoiser(denoiser, regions, allowed)
        for name, parameter in local.network.named_parameters(recurse=False):
            if parameter.shape != tensors[name].shape:
                raise ValueError(
                    f"{path} does not fit the network: {name} must be {tuple(parameter.shape)}, got "
                    f"{tuple(tensors[name].shape)}"
                )
        local.network.load_state_dict(tensors, strict=False)
        return local
    raise ValueError(
        f"{path} must hold masks (K, height, width), allowed (K, K) and staged, or a region transformer's embeddings, "
        f"got {list(shapes)}"
    )


def _load_autoencoder(folder: Path, network: nn.Module) -> Autoencoder | None:
    for part in ("vqvae", "vae"):
        if (folder / part).is_dir():
            autoencoder = load_autoencoder(folder / part)
            config: Any = network.config
            taken = config["in_channels"] // (4 if isinstance(network, FluxTransformer2DModel) else 1)
            if autoencoder.latent_channels != taken:
                raise ValueError(
                    f"{folder} does not fit together: {part} makes latents of {autoencoder.latent_channels} channels, "
                    f"the {_kind(network)} takes {taken}"
                )
            return autoencoder
    if isinstance(network, UNet2DConditionModel):
        raise ValueError(f"{folder} has no autoencoder: expected vae/config.json beside the UNet2DConditionModel")
    return None


def _kind(network: nn.Module) -> str:
    """What messages call the network."""
    return "transformer" if isinstance(network, TRANSFORMERS) else "UNet"


def _folder_of_weights(path: Path) -> Path:
    """The model's folder that a file of weights lies in, beside its configuration or a level below the schedule."""
    if not (path.parent / "config.json").is_file():
        raise ValueError(
            f"{path} has no config.json beside it, which says what network the weights are of. If it is a checkpoint "
            "in one file, make a folder of it: diffusers' from_single_file opens it, save_pretrained writes it"
        )
    return path.parent.parent if path.parent.name in ("unet", "transformer") else path.parent


def _size_of_latents(folder: Path) -> int:
    """Height and width of the latents of a Flux model: those of its autoencoder's images, or diffusers' default."""
    if not (folder / "vae" / "config.json").is_file():
        return 128
    config = read_json(folder / "vae" / "config.json")
    size, levels = config.get("sample_size"), config.get("block_out_channels")
    if not isinstance(levels, list) or not isinstance(size, int) or size < 1 << len(levels):
        raise ValueError(f"{folder / 'vae'}: sample_size must be a number of pixels, got {size!r}")
    return size >> (len(levels) - 1)


def _joint_embeddings(
    prompt: Tensor | None, pooled: Tensor | None, network: nn.Module, folder: Path
) -> tuple[Tensor, Tensor]:
    """What an SD3 or Flux transformer is conditioned on: as given, as saved, or else zeros."""
    saved, (width, pooled_width) = saved_embeddings(folder), prompt_widths(network)
    prompt = saved.get("prompt_embedding") if prompt is None else prompt
    pooled = saved.get("pooled_embedding") if pooled is None else pooled
    missing = [name for name, given in (("prompt_embedding", prompt), ("pooled_embedding", pooled)) if given is None]
    if missing:
        warnings.warn(f"{folder} is conditioned on zeros: pass {' and '.join(missing)} for a prompt", stacklevel=3)
    assert width is not None
    assert pooled_width is not None
    return (
        torch.zeros(1, NULL_TOKENS, width) if prompt is None else prompt,
        torch.zeros(1, pooled_width) if pooled is None else pooled,
    )


def _check_supported(network: nn.Module, folder: Path) -> None:
    """Raise a ValueError for networks that need more than an image, a timestep and a class, or give something else."""
    config: Any = network.config
    for setting in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type"):
        if config.get(setting) is not None:
            raise ValueError(f"{folder}: models conditioned by {setting} are not supported, got {config[setting]!r}")
    given, back = config["in_channels"], config["out_channels"]
    if back not in (None, given, 2 * given):
        raise ValueError(
            f"{folder}: the model must give back as many channels as it takes, or twice as many if it learns "
            f"variances, got {given} and {back} (inpainting models are not supported)"
        )
    size = config["sample_size"]
    sides = [size] * 2 if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise ValueError(f"{folder}: sample_size must be 1..{MAX_SIDE} pixels or two such numbers, got {size!r}")


def _is_side(side: object) -> bool:
    return isinstance(side, int) and 1 <= side <= MAX_SIDE


def _class_label(wanted: int | None, network: nn.Module, folder: Path) -> int | None:
    """The class that the network is given; None if it takes none."""
    count, null = class_count(network)
    if wanted is None and (folder / CLASS_LABEL).is_file():
        wanted = read_json(folder / CLASS_LABEL).get("class_label")
    if count is None:
        if wanted is not None:
            raise ValueError(f"{folder} takes no class_label: it is no class-conditional model, got {wanted!r}")
        return None
    if wanted is None and null:
        return int(count)
    if wanted is None:
        warnings.warn(
            f"{folder} has {count} classes and is given class 0: pass class_label=0..{count - 1}", stacklevel=3
        )
        return 0
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < count + null:
        raise ValueError(
            f"class_label must be 0..{count - 1}" + (f", or {count} for no class" if null else "") + f", got {wanted!r}"
        )
    return wanted


def _check_prompt(embedding: Tensor | None, pooled: Tensor | None, network: nn.Module, folder: Path) -> None:
    width, pooled_width = prompt_widths(network)
    if embedding is not None:
        if width is None:
            raise ValueError(f"{folder} takes no prompt_embedding: it is no model of text and images")
        if embedding.ndim != 3 or len(embedding) != 1 or embedding.shape[2] != width:
            raise ValueError(f"prompt_embedding must be (1, tokens, {width}), got {tuple(embedding.shape)}")
    if pooled is not None:
        if pooled_width is None:
            raise ValueError(f"{folder} takes no pooled_embedding: it is no SD3 or Flux model")
        if pooled.shape != (1, pooled_width):
            raise ValueError(f"pooled_embedding must be (1, {pooled_width}), got {tuple(pooled.shape)}")
