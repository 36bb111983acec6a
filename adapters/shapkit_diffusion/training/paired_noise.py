"""Noise that belongs to its images: that from which a model would generate them; see ``PairedNoise`` for what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit.differentiable.regions import OTHER
from shapkit.randomness import counter_bits
from shapkit_diffusion.data.labelled import Images
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.noise.sampling import draw_noise, invert
from shapkit_diffusion.training.batches import Batch, images_used
from shapkit_diffusion.training.config import PairedNoise, TrainConfig
from shapkit_diffusion.training.row_files import RowFiles, Rows, rows_of

INVERTED_AT_ONCE = 64


def pairing(
    data: Images, denoiser: Denoiser, config: TrainConfig, files: RowFiles, accelerator: Accelerator
) -> Callable[[Batch, Regions | None], Batch]:
    """What gives a batch the noise that belongs to its images.

    The noise is written to a file first. Call this before ``denoiser`` has learnt anything. Concepts with new noise
    are those of the regions; without regions, there are none.
    """
    wanted = config.paired
    if wanted is None:
        return lambda batch, regions: batch

    def find(images: Tensor, numbers: Sequence[int]) -> Tensor:
        return noise_of(denoiser, denoiser.encode(images), numbers, wanted)

    source = Rows(data, images_used(data, config), config.flip, denoiser.latent_shape)
    settings = {key: value for key, value in asdict(wanted).items() if key not in ("images", "concepts")}
    found = files.made("noise", source, find, denoiser.unet, settings, accelerator, INVERTED_AT_ONCE)

    def with_noise(batch: Batch, regions: Regions | None) -> Batch:
        noise = rows_of(found, batch.indices, batch.mirrored, batch.noise.device)
        if regions is not None and wanted.concepts == "fresh":
            noise = torch.where(regions.mask(OTHER).to(noise) > 0, noise, batch.noise)
        return replace(batch, noise=noise)

    return with_noise


def noise_of(denoiser: Denoiser, images: Tensor, numbers: Sequence[int], wanted: PairedNoise) -> Tensor:
    """The noise from which ``denoiser`` generates the images, nearly; shape of ``images``.

    Args:
        denoiser: the model.
        images: (n, channels, height, width) in [-1, 1], or latents.
        numbers: of the n images; they and ``wanted.seed`` name the noise that the inversion starts with.
        wanted: how.
    """
    if wanted.timestep >= 0:
        series = int(counter_bits(wanted.seed, 3)) >> 1
        start = torch.cat([draw_noise(denoiser, 1, series, number) for number in numbers])
        timesteps = torch.full((len(images),), wanted.timestep, device=images.device)
        images = denoiser.add_noise(images, start.to(images), timesteps)
    return invert(denoiser, images, wanted.steps, wanted.refinements, len(images), timestep=wanted.timestep)
