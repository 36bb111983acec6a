"""Locality: how much of an edit of one region's noise happens outside that region.

For pairs of noises, region k's noise of the second is put into the first; the mean square change of the image inside
region k and outside it gives MSE-in, MSE-out and their ratio (Liu et al. 2025, Table 1). The ratio alone can be bought
by filling the region with noise, so the three figures always travel together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit._optional import require
from shapkit.differentiable import Regions
from shapkit_diffusion.noise.sampling import swap

Normalisation = Literal["own_area", "published"]
Colours = Literal["rgb", "cielab"]
Extent = Literal["source", "union"]
Aggregate = Literal["ratio_of_means", "mean_of_ratios"]


@dataclass(frozen=True)
class LocalityConvention:
    """Everything about a locality figure that papers leave open; figures of different conventions do not compare.

    Args:
        normalisation: ``"own_area"`` divides the change outside by the area outside; ``"published"`` divides both
            changes by the area of the region, as Liu et al. (2025) print it.
        colours: ``"rgb"`` takes the channels as they are, in [-1, 1]; ``"cielab"`` the squared distance in CIELAB,
            over its three coordinates.
        dilation: pixels, in the maximum norm, by which the region grows before anything is measured.
        extent: ``"source"`` is the region in the image before the edit; ``"union"`` also what it covers afterwards.
        aggregate: ``"ratio_of_means"`` or ``"mean_of_ratios"`` over the images. The second has no bound where single
            images hardly change inside.

    Raises:
        ValueError: for an unknown value.

    >>> print(LocalityConvention(colours="cielab", dilation=0))
    own_area, cielab, dilation 0, source, ratio_of_means
    """

    normalisation: Normalisation = "own_area"
    colours: Colours = "rgb"
    dilation: int = 1
    extent: Extent = "source"
    aggregate: Aggregate = "ratio_of_means"

    def __post_init__(self) -> None:
        _check_one_of("normalisation", self.normalisation, get_args(Normalisation))
        _check_one_of("colours", self.colours, get_args(Colours))
        _check_one_of("extent", self.extent, get_args(Extent))
        _check_one_of("aggregate", self.aggregate, get_args(Aggregate))
        if self.dilation < 0:
            raise ValueError(f"dilation must be a number of pixels >= 0, got {self.dilation}")

    def __str__(self) -> str:
        return f"{self.normalisation}, {self.colours}, dilation {self.dilation}, {self.extent}, {self.aggregate}"

    def to_json(self) -> dict[str, Any]:
        """The five choices by name."""
        return asdict(self)


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def in_colours(images: Tensor, colours: Colours) -> Tensor:
    """The images (n, channels, height, width) in float64, in the colours of the convention.

    CIELAB (D65) takes one channel for grey and three for sRGB; values are not rounded to bytes.

    Raises:
        ValueError: for other numbers of channels.
        ImportError: scikit-image is not installed, of CIELAB.
    """
    values = images.detach().double().cpu()
    if colours == "rgb":
        return values
    if values.shape[1] not in (1, 3):
        raise ValueError(f"colours='cielab' needs images of 1 or 3 channels, got {values.shape[1]}")
    color = require("skimage.color", extra="diffusion", purpose="locality in CIELAB")
    shares = ((values.clamp(-1, 1) + 1) / 2).expand(-1, 3, -1, -1)
    return torch.as_tensor(np.moveaxis(color.rgb2lab(np.moveaxis(shares.numpy(), 1, -1)), -1, 1).copy())


def grow(mask: Tensor, pixels: int) -> Tensor:
    """Masks (n, 1, height, width) dilated by a number of pixels in the maximum norm.

    >>> dot = torch.zeros(1, 1, 5, 5); dot[..., 2, 2] = 1
    >>> float(grow(dot, 1).sum())
    9.0
    """
    return F.max_pool2d(mask, 2 * pixels + 1, stride=1, padding=pixels) if pixels else mask


def changes_per_image(
    before: Tensor, after: Tensor, mask: Tensor, normalisation: Normalisation
) -> tuple[Tensor, Tensor]:
    """MSE-in and MSE-out of each image, float64 (n,) each: the mean over channels, then over the pixels' share.

    Args:
        before, after: images (n, channels, height, width).
        mask: the region, (n or 1, 1, height, width), in [0, 1].
        normalisation: see ``LocalityConvention``.
    """
    change = (after - before).double().square().mean(dim=1, keepdim=True)
    inside = mask.double().expand_as(change)
    area = inside.sum(dim=(1, 2, 3))
    outside_area = (1 - inside).sum(dim=(1, 2, 3)) if normalisation == "own_area" else area
    return (change * inside).sum(dim=(1, 2, 3)) / area, (change * (1 - inside)).sum(dim=(1, 2, 3)) / outside_area


@dataclass(frozen=True)
class Locality:
    """Locality of one concept over ``n_pairs`` pairs; images in [-1, 1], so squared changes lie in [0, 4].

    ``ratio`` is the ratio of the means, ``mse_out / mse_in``; lower is better.
    """

    concept: str
    mse_in: float
    mse_out: float
    n_pairs: int
    normalisation: Normalisation

    @property
    def ratio(self) -> float:
        """MSE outside over MSE inside."""
        return self.mse_out / self.mse_in if self.mse_in > 0 else float("nan")


def locality_gain(control: float, ratio: float) -> float:
    """How many times more local a model's ratio is than a control's; infinite where nothing outside changed at all.

    >>> locality_gain(0.06, 0.02), locality_gain(0.06, 0.0)
    (3.0, inf)
    """
    return control / ratio if ratio else math.inf


def locality_of(
    concept: str, before: Tensor, after: Tensor, mask: Tensor, normalisation: Normalisation = "own_area"
) -> Locality:
    """Locality of edits of one concept.

    Args:
        concept: what was edited.
        before, after: images (n, channels, height, width).
        mask: the edited region, (n or 1, 1, height, width).
        normalisation: ``"own_area"`` divides the change outside by the area outside; ``"published"`` divides both by
            the area of the region, as the paper prints it.

    Raises:
        ValueError: for an unknown normalisation.

    >>> mask = torch.zeros(1, 1, 2, 2); mask[..., 0, 0] = 1
    >>> edited = torch.full((1, 3, 2, 2), 0.1); edited[..., 0, 0] = 1
    >>> round(locality_of("dot", torch.zeros(1, 3, 2, 2), edited, mask).ratio, 6)
    0.01
    """
    _check_one_of("normalisation", normalisation, get_args(Normalisation))
    inside, outside = changes_per_image(before, after, mask, normalisation)
    return Locality(concept, float(inside.mean()), float(outside.mean()), len(inside), normalisation)


@dataclass(frozen=True)
class SwapResults:
    """The pictures of a locality measurement: originals, and for every concept the edited images and the masks."""

    originals: Tensor
    edited: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    numbers: Tensor | None = None
    """Of the pairs kept, int64 (n,); None where all were."""


def swap_and_measure(
    make: Callable[[Tensor], Tensor],
    parse: Callable[[Tensor], Tensor],
    noise: Tensor,
    other: Tensor,
    concepts: Mapping[str, Sequence[int]],
    *,
    dilation: int = 1,
    normalisation: Normalisation = "own_area",
    noise_regions: Callable[[Regions], Regions] = lambda regions: regions,
) -> tuple[list[Locality], SwapResults]:
    """Locality of every concept, and the pictures it was measured on.

    Pairs in whose original some concept is not found are left out of all figures; ``n_pairs`` tells how many were kept.

    Args:
        make: images from noise, (n, channels, height, width) each.
        parse: label maps (n, height, width) of images.
        noise, other: the noises of the pairs.
        concepts: label values of each concept.
        dilation: pixels by which concepts grow, as in training.
        noise_regions: takes regions of images to those of noise, where noise has another grid (``latent_regions``).

    Raises:
        ValueError: if no original shows all concepts.
    """
    originals = make(noise)
    labels = parse(originals)
    shown = torch.stack(
        [torch.isin(labels, labels.new_tensor(list(v))).flatten(1).any(dim=1) for v in concepts.values()]
    ).all(dim=0)
    if not bool(shown.any()):
        raise ValueError(f"none of the {len(noise)} generated images shows all of {', '.join(concepts)}")
    noise, other, originals, labels = noise[shown], other[shown], originals[shown], labels[shown]
    regions = Regions.from_labels(labels, concepts, dilation=dilation)
    players = noise_regions(regions)
    edited, masks, results = {}, {}, []
    for concept in concepts:
        masks[concept] = regions.mask(concept)
        edited[concept] = make(swap(noise, other, players.mask(concept)))
        results.append(locality_of(concept, originals, edited[concept], masks[concept], normalisation))
    return results, SwapResults(originals, edited, masks, shown.nonzero().flatten().cpu())
