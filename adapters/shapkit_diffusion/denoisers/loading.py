"""Denoisers from files: diffusers' folders, hub repositories, and those that come with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from shapkit._files import completed
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, load_autoencoder
from shapkit_diffusion.denoisers.checkpoints import find_folder, load_module, load_schedule, read_json
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.composition_file import read_composition
from shapkit_diffusion.denoisers.denoiser import CLASS_LABEL, COMPOSITION, INDEX, Denoiser
from shapkit_diffusion.denoisers.prompts import TEXT_FOLDERS, prompt_embedding_of
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser

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


def load_denoiser(
    name: str | Path, prompt_embedding: Tensor | None = None, *, class_label: int | None = None
) -> Denoiser:
    """The denoiser of a diffusers folder or hub repository, in evaluation mode; safetensors only.

    The UNet lies in ``unet/`` or at the root, a DiT in ``transformer/``, the autoencoder of a latent model in
    ``vqvae/`` or ``vae/``, the schedule in ``scheduler/`` or at the root; any of diffusers' DDPM-like samplers may have
    written it. Where a network predicts variances, too, they are left out.

    Args:
        name: a folder, or a hub repository such as ``"google/ddpm-celebahq-256"`` or ``"CompVis/ldm-celebahq-256"``.
        prompt_embedding: (1, tokens, width), what a Stable Diffusion model is conditioned on; by default the empty
            prompt's embedding, which takes transformers to compute.
        class_label: of a class-conditional model; by default the one it was saved with, or a DiT's null class.

    Raises:
        ValueError: if there is no such model, its files are damaged or do not fit one another, or a class is missing,
            unknown or not taken.

    >>> load_denoiser("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel
    """
    folder = find_folder(name)
    completed(folder, INDEX)
    network_folder = next((folder / part for part in ("unet", "transformer") if (folder / part).is_dir()), folder)
    if not (network_folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel"
        )
    network = load_module(network_folder, (UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel))
    _check_supported(network, network_folder)
    schedule = load_schedule(folder / "scheduler" if (folder / "scheduler").is_dir() else folder)
    autoencoder = _load_autoencoder(folder, network)
    conditional = isinstance(network, UNet2DConditionModel)
    if prompt_embedding is None and conditional:
        prompt_embedding = prompt_embedding_of(folder)
    _check_prompt(prompt_embedding, network, folder)
    denoiser = Denoiser(network, schedule, autoencoder, prompt_embedding, _class_label(class_label, network, folder))
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
            if autoencoder.latent_channels != config["in_channels"]:
                raise ValueError(
                    f"{folder} does not fit together: {part} makes latents of {autoencoder.latent_channels} channels, "
                    f"the {_kind(network)} takes {config['in_channels']}"
                )
            return autoencoder
    if isinstance(network, UNet2DConditionModel):
        raise ValueError(f"{folder} has no autoencoder: expected vae/config.json beside the UNet2DConditionModel")
    return None


def _kind(network: nn.Module) -> str:
    """What messages call the network."""
    return "transformer" if isinstance(network, DiTTransformer2DModel) else "UNet"


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
    config: Any = network.config
    count = config.get("num_embeds_ada_norm" if isinstance(network, DiTTransformer2DModel) else "num_class_embeds")
    if wanted is None and (folder / CLASS_LABEL).is_file():
        wanted = read_json(folder / CLASS_LABEL).get("class_label")
    if count is None:
        if wanted is not None:
            raise ValueError(f"{folder} takes no class_label: it is no class-conditional model, got {wanted!r}")
        return None
    null = isinstance(network, DiTTransformer2DModel)  # which has one more row, for no class
    if wanted is None and null:
        return int(count)
    if wanted is None:
        raise ValueError(f"{folder} has {count} classes: say which, class_label=0..{count - 1}")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < count + null:
        raise ValueError(
            f"class_label must be 0..{count - 1}" + (f", or {count} for no class" if null else "") + f", got {wanted!r}"
        )
    return wanted


def _check_prompt(embedding: Tensor | None, network: nn.Module, folder: Path) -> None:
    if embedding is None:
        return
    config: Any = network.config
    width = config.get("cross_attention_dim")
    if width is None:
        raise ValueError(f"{folder} takes no prompt_embedding: it is no Stable Diffusion model")
    if embedding.ndim != 3 or len(embedding) != 1 or embedding.shape[2] != width:
        raise ValueError(f"prompt_embedding must be (1, tokens, {width}), got {tuple(embedding.shape)}")
