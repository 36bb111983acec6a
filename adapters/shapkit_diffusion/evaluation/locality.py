"""Locality: how much of an edit of one region's noise happens outside that region.

For pairs of noises, region k's noise of the second is put into the first; the mean square change of the image inside
region k and outside it gives MSE-in, MSE-out and their ratio (Liu et al. 2025, Table 1). The ratio alone can be bought
by filling the region with noise, so the three figures always travel together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.sampling import swap

Normalisation = Literal["own_area", "published"]


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
    if normalisation not in get_args(Normalisation):
        raise ValueError(f"normalisation must be one of {', '.join(get_args(Normalisation))}, got {normalisation!r}")
    change = (after - before).double().square().mean(dim=1, keepdim=True)
    inside = mask.double().expand_as(change)
    area = inside.sum(dim=(1, 2, 3))
    outside_area = (1 - inside).sum(dim=(1, 2, 3)) if normalisation == "own_area" else area
    mse_in = ((change * inside).sum(dim=(1, 2, 3)) / area).mean()
    mse_out = ((change * (1 - inside)).sum(dim=(1, 2, 3)) / outside_area).mean()
    return Locality(concept, float(mse_in), float(mse_out), len(change), normalisation)


@dataclass(frozen=True)
class SwapResults:
    """The pictures of a locality measurement: originals, and for every concept the edited images and the masks."""

    originals: Tensor
    edited: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]


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
    return results, SwapResults(originals, edited, masks)
