"""What a training step sees: its images, noise and timesteps, each named by the seed and the step, and the players."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit.randomness import counter_bits
from shapkit_diffusion.data.labelled import Images, concept_labels, label_template
from shapkit_diffusion.denoisers import Denoiser
from shapkit_diffusion.latents import latent_regions
from shapkit_diffusion.training_config import ALL_CONCEPTS, PenaltyConfig, TrainConfig

ENCODED_AT_ONCE = 8


@dataclass(frozen=True)
class Batch:
    """The global batch of a step, or one process's or micro-batch's share of it.

    ``images`` float (n, channels, height, width) in [-1, 1], or their latents; ``labels`` int64 (n, height, width);
    ``noise`` of the denoiser's latent shape, which is the images' for a pixel model; ``timesteps`` int64 (n,), equal
    within each pair of neighbours; ``indices`` int64 and ``mirrored`` boolean (n,) say which images of the data set
    these are; ``first`` is the number of the first row in the global batch.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    timesteps: Tensor
    indices: Tensor
    mirrored: Tensor
    first: int = 0

    def share(self, rank: int, world: int) -> Batch:
        """The rows of part ``rank`` of ``world``; pairs of neighbours stay together."""
        size = len(self.images) // world
        rows = slice(rank * size, (rank + 1) * size)
        return replace(self._mapped(lambda tensor: tensor[rows]), first=self.first + rows.start)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._mapped(lambda tensor: tensor.to(device))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.images),
            change(self.labels),
            change(self.noise),
            change(self.timesteps),
            change(self.indices),
            change(self.mirrored),
            self.first,
        )


def draw_batch(
    data: Images,
    config: TrainConfig,
    n_timesteps: int,
    step: int,
    *,
    noise_shape: tuple[int, ...] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Batch:
    """The batch of ``step``: images in an order that shuffles every epoch anew, noise and timesteps.

    Neighbouring samples share their timestep, because the exchange of noise between them needs it; the timesteps of the
    pairs are stratified, one per equal part of the schedule, which makes the loss less noisy and biases nothing.

    Args:
        data: images with label maps.
        config: batch size, seed and flip.
        n_timesteps: length of the noise schedule.
        step: number of the optimiser step.
        noise_shape: of one sample's noise; None for the images'.
        rank, world: only the rows of process ``rank`` of ``world``, which are all that is read from ``data``.
    """
    size = config.batch_size
    indices = torch.tensor([_shuffled(len(data), config.seed, step * size + row) for row in range(size)])
    generator = torch.Generator().manual_seed(int(counter_bits(config.seed, step)) >> 1)
    pairs = size // 2
    strata = (torch.arange(pairs) + torch.rand(pairs, generator=generator)) / pairs
    order = torch.randperm(pairs, generator=generator)
    timesteps = (strata[order] * n_timesteps).long().clamp(max=n_timesteps - 1).repeat_interleave(2)
    own = slice(rank * (size // world), (rank + 1) * (size // world))
    images, labels = data.rows(indices[own].tolist())
    clean, targets = to_unit_range(torch.as_tensor(images)), torch.as_tensor(labels).long()
    noise = torch.randn((size, *(noise_shape or clean.shape[1:])), generator=generator)
    mirrored = torch.zeros(size, dtype=torch.bool)
    if config.flip:
        mirrored = torch.rand(size, generator=generator) < 0.5
        clean = torch.where(mirrored[own, None, None, None], clean.flip(3), clean)
        targets = torch.where(mirrored[own, None, None], targets.flip(2), targets)
    return Batch(clean, targets, noise[own], timesteps[own], indices[own], mirrored[own], own.start)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] as uint8, what lies outside cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def encoding(
    data: Images, denoiser: Denoiser, config: TrainConfig, folder: Path, accelerator: Accelerator
) -> Callable[[Batch], Batch]:
    """What turns a batch of images into one of what the denoiser works on: nothing to do for a pixel model.

    With ``config.cache_latents``, the latents of all images (and of their mirror images, if ``config.flip``) are
    written to ``folder/latents.npy`` first, each process its part, unless the file is there already.
    """
    if not denoiser.is_latent:
        return lambda batch: batch
    if not config.cache_latents:
        return lambda batch: replace(batch, images=denoiser.encode(batch.images))
    path = folder / "latents.npy"
    if not path.is_file():
        _write_latents(data, denoiser, path, 2 if config.flip else 1, accelerator)
    cached = np.load(path, mmap_mode="r", allow_pickle=False)

    def from_cache(batch: Batch) -> Batch:
        latents = cached[batch.mirrored.cpu().numpy().astype(int), batch.indices.cpu().numpy()]
        return replace(batch, images=torch.from_numpy(latents).to(batch.noise.device))

    return from_cache


def _write_latents(data: Images, denoiser: Denoiser, path: Path, sides: int, accelerator: Accelerator) -> None:
    """Latents float32 (sides, n, *latent_shape): of the images, and with two sides of their mirror images."""
    partial, shape = path.with_name(path.name + ".partial"), (sides, len(data), *denoiser.latent_shape)
    if accelerator.is_main_process:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape).flush()
    accelerator.wait_for_everyone()
    latents = np.lib.format.open_memmap(partial, mode="r+")
    starts = range(0, len(data), ENCODED_AT_ONCE)
    for start in starts[accelerator.process_index :: accelerator.num_processes]:
        rows = range(start, min(start + ENCODED_AT_ONCE, len(data)))
        images = to_unit_range(torch.as_tensor(data.rows(rows)[0])).to(accelerator.device)
        for side in range(sides):
            latents[side, rows.start : rows.stop] = denoiser.encode(images.flip(3) if side else images).cpu().numpy()
    latents.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        partial.rename(path)
    accelerator.wait_for_everyone()


def players(data: Images, denoiser: Denoiser, config: TrainConfig) -> Callable[[Batch], Regions | None]:
    """A function that gives the regions of a batch, on the denoiser's grid: one partition for all or one per image.

    Raises:
        ValueError: if a concept is no label of the data, or has no pixels in the template or on the latent grid.
    """
    penalty = config.penalty
    if penalty is None:
        return lambda batch: None
    concepts = concept_labels(data.label_names, concept_names(data, penalty))
    if penalty.regions == "label_maps":
        return lambda batch: latent_regions(
            Regions.from_labels(batch.labels, concepts, dilation=penalty.dilation, missing="allow"), denoiser
        )
    template = torch.as_tensor(label_template(data, concepts, mirrored=config.flip)[None]).long()
    shared = Regions.from_labels(
        template,
        concepts,
        dilation=penalty.dilation,
        missing="allow" if penalty.concepts == ALL_CONCEPTS else "refuse",
    )
    shared = latent_regions(shared, denoiser)
    return lambda batch: shared


def concept_names(data: Images, penalty: PenaltyConfig) -> tuple[str, ...]:
    """The labels that become players; see ``PenaltyConfig.concepts``."""
    if penalty.concepts != ALL_CONCEPTS:
        return penalty.concepts
    return tuple(name for name in data.label_names if name != "background")


def _shuffled(count: int, seed: int, number: int) -> int:
    """The image that comes ``number``-th: each epoch is a permutation of its own."""
    epoch, position = divmod(number, count)
    return int(_epoch_order(count, seed, epoch)[position])


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.argsort(counter_bits(seed, 1, epoch, np.arange(count)))
