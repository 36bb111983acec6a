"""Autoencoders of latent diffusion: between images and the latents that a denoiser works on.

VQModel (LDM, Rombach et al. 2022) and AutoencoderKL (Stable Diffusion) of diffusers, frozen, behind one pair of
functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from shapkit._files import completed, whole_folder
from shapkit_diffusion.denoisers.checkpoints import CONFIG, WEIGHT_FILES, find_folder, load_module

AUTOENCODERS = (VQModel, AutoencoderKL)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A frozen autoencoder. No ``nn.Module``: whoever trains a denoiser that has one must not train it too.

    It computes in its weights' precision, autocast or not, and follows the images from device to device.

    Args:
        network: a diffusers ``VQModel`` or ``AutoencoderKL``; it is switched to evaluation and frozen.

    Raises:
        ValueError: if the latents are normalised otherwise than by one ``shift_factor`` and one positive
            ``scaling_factor``.

    >>> network = VQModel(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
    ...                   up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=1.0)
    >>> autoencoder = Autoencoder(network)
    >>> latents = autoencoder.encode(torch.zeros(2, 3, 16, 16))
    >>> latents.shape, autoencoder.decode(latents).shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 16, 16]))
    """

    network: Any

    def __post_init__(self) -> None:
        config = self.network.config
        for name in ("latents_mean", "latents_std"):
            if config.get(name) is not None:
                raise ValueError(f"autoencoders with {name} are not supported, got {config[name]!r}")
        scale = config["scaling_factor"]
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"scaling_factor must be a positive number, got {scale!r}")
        shift = config.get("shift_factor")
        if shift is not None and (not isinstance(shift, int | float) or not math.isfinite(shift)):
            raise ValueError(f"shift_factor must be a number, got {shift!r}")
        self.network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Autoencoder:
        return self  # never changes, so that copies of a denoiser share it

    @property
    def scaling_factor(self) -> float:
        """By what the network's latents are multiplied for the denoiser, to have a variance of about one."""
        return float(self.network.config["scaling_factor"])

    @property
    def shift_factor(self) -> float:
        """What is taken off the network's latents before that, to have a mean of about zero."""
        return float(self.network.config.get("shift_factor") or 0.0)

    @property
    def factor(self) -> int:
        """Pixels of the image along one latent pixel's side."""
        return 1 << (len(self.network.config["block_out_channels"]) - 1)

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        return int(self.network.config["out_channels"])

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        config = self.network.config
        return int(config.get("vq_embed_dim") or config["latent_channels"])

    def encode(self, images: Tensor, batch_size: int = 8) -> Tensor:
        """Scaled latents (n, latent channels, height / factor, width / factor), without gradient.

        Of a VQModel before they are quantised, of an AutoencoderKL the mode of the posterior.

        Args:
            images: (n, channels, height, width) in [-1, 1]; height and width multiples of ``factor``.
            batch_size: images at a time.

        Raises:
            ValueError: if the images have other channels, or no such size.
        """
        _, channels, height, width = images.shape
        if channels != self.image_channels or height % self.factor or width % self.factor:
            raise ValueError(
                f"images must have {self.image_channels} channels and sides that are multiples of {self.factor}, "
                f"got {tuple(images.shape[1:])}"
            )
        return self._in_batches(images, batch_size, self._scaled)

    def decode(self, latents: Tensor, batch_size: int = 8) -> Tensor:
        """Images (n, channels, height, width), roughly in [-1, 1], of scaled latents, without gradient.

        A VQModel quantises the latents first, as diffusers' ``LDMPipeline`` lets it.

        Args:
            latents: (n, latent channels, height / factor, width / factor).
            batch_size: images at a time.

        Raises:
            ValueError: if the latents have other channels.
        """
        if latents.shape[1] != self.latent_channels:
            raise ValueError(f"latents must have {self.latent_channels} channels, got {tuple(latents.shape[1:])}")
        return self._in_batches(
            latents,
            batch_size,
            lambda part: self.network.decode(part / self.scaling_factor + self.shift_factor).sample,
        )

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and the weights (safetensors) in diffusers' layout, whole or not at all.

        Args:
            folder: a new or an empty one, or one that an autoencoder was saved in, which is replaced.

        Raises:
            ValueError: ``folder`` is a file, or holds something that no autoencoder's ``save`` has written. It is left
                as it is.
        """
        with whole_folder(folder, CONFIG, _is_own) as target:
            self.network.save_pretrained(target)

    def _scaled(self, images: Tensor) -> Tensor:
        return (self._encoded(images) - self.shift_factor) * self.scaling_factor

    def _encoded(self, images: Tensor) -> Tensor:
        output = self.network.encode(images)
        latents: Tensor = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        return latents

    def _in_batches(self, x: Tensor, batch_size: int, work: Callable[[Tensor], Tensor]) -> Tensor:
        self.network.to(x.device)
        # Stable Diffusion's autoencoder overflows in half precision.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            parts = [work(part.to(self.network.dtype)) for part in x.split(batch_size)]
        return torch.cat(parts).to(x.dtype)


def _is_own(name: str) -> bool:
    return name == CONFIG or any(fnmatchcase(name, pattern) for pattern in WEIGHT_FILES)


def load_autoencoder(name: str | Path) -> Autoencoder:
    """The autoencoder of a diffusers folder or hub repository; safetensors only.

    Args:
        name: a folder with ``config.json``, such as ``RUN/model`` of a trained one or ``MODEL/vae`` of a pipeline.

    Raises:
        ValueError: if there is no such autoencoder, or its files are damaged or do not fit one another.

    >>> load_autoencoder("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder holds no autoencoder: expected config.json of a diffusers VQModel or AutoencoderKL
    """
    folder = find_folder(name)
    completed(folder, CONFIG)
    if not (folder / CONFIG).is_file():
        names = " or ".join(kind.__name__ for kind in AUTOENCODERS)
        raise ValueError(f"{folder} holds no autoencoder: expected config.json of a diffusers {names}")
    return Autoencoder(load_module(folder, AUTOENCODERS))


def small_autoencoder(
    image_channels: int = 3, channels: tuple[int, ...] = (32, 32), latent_channels: int = 4, seed: int = 0
) -> AutoencoderKL:
    """A new autoencoder small enough to be trained on a CPU, with weights drawn from ``seed``; not frozen.

    Its decoder reaches as little as diffusers' class can: one residual block per level, two in the middle, and no
    attention. Where the width changes from one level to the next, the encoder needs a block there too.

    Args:
        image_channels: 3 for RGB, 1 for grey.
        channels: width of each level, multiples of 8; every level but the first halves the sides.
        latent_channels: of the latents.
        seed: of the weights.

    Raises:
        ValueError: if a width is no multiple of 8.

    >>> network = small_autoencoder(channels=(8, 8))
    >>> network.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean.shape
    torch.Size([1, 4, 8, 8])
    """
    if not channels or any(width < 8 or width % 8 for width in channels):
        raise ValueError(f"channels must be multiples of 8, got {channels}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=channels,
            layers_per_block=0 if len(set(channels)) == 1 else 1,
            latent_channels=latent_channels,
            norm_num_groups=8,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )
