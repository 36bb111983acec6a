"""What a training step sees: its images, noise and timesteps, each named by the seed and the step, and the players."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit.differentiable.regions import OTHER, Missing
from shapkit.randomness import counter_bits
from shapkit_diffusion.data.labelled import Images, concept_labels, label_template
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.training.config import ALL_CONCEPTS, PenaltyConfig, TrainConfig
from shapkit_diffusion.training.row_files import RowFiles, Rows, rows_of


@dataclass(frozen=True)
class Batch:
    """The global batch of a step, or one process's or micro-batch's share of it.

    ``images`` float (n, channels, height, width) in [-1, 1], or their latents; ``labels`` int64 (n, height, width);
    ``noise`` of the denoiser's latent shape, which is the images' for a pixel model; ``timesteps`` int64 (n,), equal
    within each pair of neighbours; ``indices`` int64 and ``mirrored`` boolean (n,) say which images of the data set
    these are; ``first`` is the number of the first row in the global batch. With several noises per image,
    ``copies`` neighbours have one finished image, the first one's, and timesteps are not equal within pairs.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    timesteps: Tensor
    indices: Tensor
    mirrored: Tensor
    first: int = 0
    copies: int = 1

    @property
    def finished(self) -> Tensor:
        """What regions that look at others see of them, (n / copies, channels, height, width)."""
        return self.images[:: self.copies]

    def targets(self, given: Tensor) -> Tensor:
        """What each row is to be generated as, the shape of ``images``.

        Where ``given`` (broadcasts to a row) others are seen finished, it is the finished image. Elsewhere nothing of
        that is seen, and each row has an image of its own.
        """
        if self.copies == 1:
            return self.images
        return torch.where(given, self.finished.repeat_interleave(self.copies, dim=0), self.images)

    def share(self, rank: int, world: int) -> Batch:
        """The rows of part ``rank`` of ``world``; pairs of neighbours stay together."""
        size = len(self.images) // world
        rows = slice(rank * size, (rank + 1) * size)
        return replace(self._mapped(lambda tensor: tensor[rows]), first=self.first + rows.start)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._mapped(lambda tensor: tensor.to(device))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            noise=change(self.noise),
            timesteps=change(self.timesteps),
            indices=change(self.indices),
            mirrored=change(self.mirrored),
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
    pairs are stratified, one per equal part of the schedule, which makes the loss less noisy and biases nothing. With
    several noises per image those of all samples are. Then neighbours are the same image if each image has regions of
    its own, and otherwise have only the finished one in common (`Batch.targets`).

    Args:
        data: images with label maps.
        config: batch size, noises per image, seed and flip.
        n_timesteps: length of the noise schedule.
        step: number of the optimiser step.
        noise_shape: of one sample's noise; None for the images'.
        rank, world: only the rows of process ``rank`` of ``world``, which are all that is read from ``data``.
    """
    size, copies = config.batch_size, config.noises_per_image
    repeated = copies if config.regions == "label_maps" else 1  # no rest of an image is cut by another's label map
    distinct = size // repeated
    count = images_used(data, config)
    indices = torch.tensor([_shuffled(count, config.seed, step * distinct + row) for row in range(distinct)])
    generator = torch.Generator().manual_seed(int(counter_bits(config.seed, step)) >> 1)
    alike = 2 if copies == 1 else 1
    n_strata = size // alike
    strata = (torch.arange(n_strata) + torch.rand(n_strata, generator=generator)) / n_strata
    order = torch.randperm(n_strata, generator=generator)
    timesteps = (strata[order] * n_timesteps).long().clamp(max=n_timesteps - 1).repeat_interleave(alike)
    own = slice(rank * (size // world), (rank + 1) * (size // world))
    seen = slice(rank * (distinct // world), (rank + 1) * (distinct // world))
    images, labels = data.rows(indices[seen].tolist())
    clean, targets = to_unit_range(torch.as_tensor(images)), torch.as_tensor(labels).long()
    noise = torch.randn((size, *(noise_shape or clean.shape[1:])), generator=generator)
    mirrored = torch.zeros(distinct, dtype=torch.bool)
    if config.flip:
        mirrored = torch.rand(distinct, generator=generator) < 0.5
        clean = torch.where(mirrored[seen, None, None, None], clean.flip(3), clean)
        targets = torch.where(mirrored[seen, None, None], targets.flip(2), targets)
    clean, targets, numbers, turned = (
        tensor.repeat_interleave(repeated, dim=0) for tensor in (clean, targets, indices[seen], mirrored[seen])
    )
    return Batch(clean, targets, noise[own], timesteps[own], numbers, turned, own.start, copies)


def images_used(data: Images, config: TrainConfig) -> int:
    """How many images of the data a run sees, the first ones."""
    return len(data) if config.paired is None else min(len(data), config.paired.images)


def encoding(
    data: Images, denoiser: Denoiser, config: TrainConfig, files: RowFiles, accelerator: Accelerator
) -> Callable[[Batch], Batch]:
    """What turns a batch of images into one of what the denoiser works on: nothing to do for a pixel model.

    With ``config.cache_latents``, the latents of all images (and of their mirror images, if ``config.flip``) are
    written to a file first, unless it is there already.
    """
    if not denoiser.is_latent:
        return lambda batch: batch
    if not config.cache_latents:
        return lambda batch: replace(batch, images=denoiser.encode(batch.images))
    source = Rows(data, images_used(data, config), config.flip, denoiser.latent_shape)
    assert denoiser.autoencoder is not None
    cached = files.made(
        "latents",
        source,
        lambda images, numbers: denoiser.encode(images),
        denoiser.autoencoder.network,
        {},
        accelerator,
    )
    return lambda batch: replace(batch, images=rows_of(cached, batch.indices, batch.mirrored, batch.noise.device))


def players(data: Images, denoiser: Denoiser, config: TrainConfig) -> Callable[[Batch], Regions | None]:
    """A function that gives the regions of a batch, on the denoiser's grid: one partition for all or one per image.

    They are a penalty's players, or those that a region transformer is trained on in place of its own.

    Raises:
        ValueError: if a concept is no label of the data, or has no pixels in the template or on the latent grid, or
            there is neither penalty nor region transformer that label maps would be for.
    """
    penalty = config.penalty
    if penalty is None:
        return _own_regions(data, denoiser, config) if config.regions == "label_maps" else lambda batch: None
    names = concept_names(data, penalty)
    if penalty.regions == "label_maps":
        return _of_label_maps(data, denoiser, names, penalty.dilation)
    missing: Missing = "allow" if penalty.concepts == ALL_CONCEPTS else "refuse"
    shared = template_regions(data, denoiser, names, dilation=penalty.dilation, mirrored=config.flip, missing=missing)
    return lambda batch: shared


def _of_label_maps(data: Images, denoiser: Denoiser, names: Sequence[str], dilation: int) -> Callable[[Batch], Regions]:
    concepts = concept_labels(data.label_names, names)
    return lambda batch: latent_regions(
        Regions.from_labels(batch.labels, concepts, dilation=dilation, missing="allow"), denoiser
    )


def _own_regions(data: Images, denoiser: Denoiser, config: TrainConfig) -> Callable[[Batch], Regions]:
    """Each image's own regions, of a region transformer's names."""
    if not isinstance(denoiser, RegionDenoiser):
        raise ValueError(
            f"regions='label_maps' without a penalty is for region transformers, got {type(denoiser).__name__}"
        )
    *names, rest = denoiser.regions.names
    if rest != OTHER:
        raise ValueError(f"the model's last region must be {OTHER!r}, what no concept covers, got {rest!r}")
    return _of_label_maps(data, denoiser, names, config.dilation)


def template_regions(
    data: Images,
    denoiser: Denoiser,
    concepts: Sequence[str],
    *,
    dilation: int = 1,
    mirrored: bool = False,
    missing: Missing = "refuse",
) -> Regions:
    """One partition for all images of a data set, on the denoiser's grid: each concept where it occurs at all.

    Args:
        data: aligned images with label maps.
        denoiser: whose grid it is on.
        concepts: labels by name; every other pixel is ``rest``.
        dilation: pixels by which the concepts grow.
        mirrored: whether the images' mirror images count, too.
        missing: see ``Regions``.

    Raises:
        ValueError: if a concept is no label of the data, or has no pixels and must be present.
    """
    wanted = concept_labels(data.label_names, concepts)
    labels = torch.as_tensor(label_template(data, wanted, mirrored=mirrored)[None]).long()
    return latent_regions(Regions.from_labels(labels, wanted, dilation=dilation, missing=missing), denoiser)


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
