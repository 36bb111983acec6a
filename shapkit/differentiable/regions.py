"""Regions: which player owns which pixel, and which player may influence which.

Every region is a player of the games in ``shapkit.differentiable.penalty`` and, at the same time, the part of
the output whose value those games explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

OTHER = "rest"
"""Name of the region that takes every pixel no concept owns."""


@dataclass(frozen=True)
class Star:
    """The one-sided influence graph: ``rest`` depends on itself, any other region on itself and ``rest``."""

    rest: str = OTHER


def star(rest: str = OTHER) -> Star:
    """The one-sided influence graph around the region called ``rest``: A_rest = {rest}, A_k = {k, rest}.

    >>> allowed_influence(star("rest"), ("eyes", "mouth", "rest")).int().tolist()
    [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
    """
    return Star(rest)


Graph = Literal["own"] | Star | Tensor | np.ndarray[Any, Any] | Sequence[Sequence[bool]]


def allowed_influence(graph: Graph, names: Sequence[str]) -> Tensor:
    """Boolean (K, K) tensor: entry ``[k, j]`` says that player ``j`` may influence output region ``k``.

    Args:
        graph: ``"own"`` (each region depends on itself alone), ``star(rest)``, or a K x K boolean matrix.
        names: the K region names, in order.

    Raises:
        ValueError: for an unknown graph, a wrong shape, or a region that may not influence itself.
    """
    n_regions = len(names)
    if isinstance(graph, str):
        if graph != "own":
            raise ValueError(f"graph must be 'own', star(rest) or a boolean matrix, got {graph!r}")
        return torch.eye(n_regions, dtype=torch.bool)
    if isinstance(graph, Star):
        if graph.rest not in names:
            raise ValueError(f"star({graph.rest!r}) names no region: the regions are {', '.join(names)}")
        allowed = torch.eye(n_regions, dtype=torch.bool)
        allowed[:, list(names).index(graph.rest)] = True
        return allowed
    allowed = torch.as_tensor(graph).cpu()
    if allowed.dtype != torch.bool or allowed.shape != (n_regions, n_regions):
        raise ValueError(
            f"graph must be a boolean matrix of shape ({n_regions}, {n_regions}), one row per output region, "
            f"got {allowed.dtype} {tuple(allowed.shape)}"
        )
    if not bool(allowed.diagonal().all()):
        alone = names[int((~allowed.diagonal()).nonzero()[0])]
        raise ValueError(f"graph must let every region influence itself, but {alone!r} may not")
    return allowed


@dataclass(frozen=True)
class Regions:
    """A partition of the pixels into named regions, the same for the whole batch or one per sample.

    Args:
        masks: float (batch or 1, K, height, width) in [0, 1]; the K masks of a pixel sum to one.
        names: the K region names.

    Raises:
        ValueError: if the shapes do not fit, the masks are no partition, or a region is empty in some sample.

    >>> left = torch.zeros(1, 4, 4); left[..., :2] = 1
    >>> Regions(torch.stack([left, 1 - left], dim=1), ("left", "right")).areas
    tensor([[8., 8.]])
    """

    masks: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        masks = self.masks
        if masks.ndim != 4 or masks.shape[1] != len(self.names):
            raise ValueError(
                f"masks must have shape (batch or 1, {len(self.names)}, height, width), one mask per name, "
                f"got {tuple(masks.shape)}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names must differ from one another, got {', '.join(self.names)}")
        if not masks.is_floating_point():
            raise ValueError(f"masks must be floating point, got {masks.dtype}")
        total = masks.sum(dim=1)
        if not bool(((total - 1).abs() < 1e-4).all()) or bool((masks < 0).any()):
            raise ValueError(
                "masks must be a partition: at every pixel the K masks lie in [0, 1] and sum to one; "
                f"here the sums run from {float(total.min()):.3g} to {float(total.max()):.3g}"
            )
        empty = (self.areas <= 0).nonzero()
        if len(empty):
            sample, region = (int(i) for i in empty[0])
            raise ValueError(
                f"region {self.names[region]!r} is empty in sample {sample}: a player without pixels has no "
                "output to own. Leave such samples out, or merge the region into another"
            )

    @classmethod
    def from_labels(
        cls,
        labels: Tensor,
        concepts: Mapping[str, Sequence[int]],
        *,
        rest: str | None = OTHER,
        dilation: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Regions:
        """Regions from label maps: one per concept, and one for all pixels that belong to none.

        Args:
            labels: integer (batch, height, width).
            concepts: the label values that make up each concept.
            rest: name of the region of all other pixels; ``None`` where the concepts cover every pixel.
            dilation: by how many pixels (in the maximum norm) each concept grows into the rest. A pixel that
                two grown concepts reach goes to the one it was nearer to, on a tie to the one named first; no
                concept takes a pixel from another.
            dtype: of the masks.

        Raises:
            ValueError: if there is no concept, a label serves two, the labels are not an integer map, the
                dilation is negative, or a region is empty.

        >>> labels = torch.zeros(1, 5, 5, dtype=torch.long); labels[0, 2, 2] = 3
        >>> Regions.from_labels(labels, {"dot": [3]}, dilation=1).areas.tolist()
        [[9.0, 16.0]]
        """
        if labels.ndim != 3 or labels.is_floating_point():
            found = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"labels must be an integer tensor (batch, height, width), got {found}")
        if dilation < 0:
            raise ValueError(f"dilation must be a number of pixels >= 0, got {dilation}")
        if not concepts:
            raise ValueError("concepts must name at least one region")
        used = [label for values in concepts.values() for label in values]
        if len(set(used)) != len(used):
            raise ValueError(f"concepts must not share labels, got {dict(concepts)}")
        owned = torch.stack(
            [torch.isin(labels, labels.new_tensor(list(values))) for values in concepts.values()], dim=1
        )
        for _ in range(dilation):
            owned = _grow(owned)
        names = tuple(concepts)
        if rest is not None:
            owned = torch.cat([owned, ~owned.any(dim=1, keepdim=True)], dim=1)
            names += (rest,)
        return cls(owned.to(dtype), names)

    @property
    def areas(self) -> Tensor:
        """Pixels in each region, (batch or 1, K); at least float32, as half precision cannot count them."""
        return self.masks.sum(dim=(2, 3), dtype=torch.promote_types(self.masks.dtype, torch.float32))

    def mask(self, *names: str) -> Tensor:
        """The joint mask of the named regions, shape (batch or 1, 1, height, width).

        Raises:
            ValueError: if a name is unknown.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"no region is called {unknown[0]!r}: the regions are {', '.join(self.names)}")
        chosen = [index for index, name in enumerate(self.names) if name in names]
        return self.masks[:, chosen].sum(dim=1, keepdim=True)

    def to(self, like: Tensor) -> Regions:
        """The same regions with the device and floating-point type of ``like``."""
        if self.masks.device == like.device and self.masks.dtype == like.dtype:
            return self
        moved = object.__new__(Regions)  # already checked: checking again would wait for the device
        object.__setattr__(moved, "masks", self.masks.to(like, non_blocking=like.is_cuda))
        object.__setattr__(moved, "names", self.names)
        return moved

    def check_fits(self, x: Tensor) -> None:
        """Raise a ValueError unless these are regions of ``x``, shape (batch, channels, height, width)."""
        if x.ndim != 4 or x.shape[2:] != self.masks.shape[2:] or self.masks.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"regions are {tuple(self.masks.shape)} (batch or 1, regions, height, width) but x is "
                f"{tuple(x.shape)}: the label map and the tensor must have one size and one batch"
            )


def _grow(owned: Tensor) -> Tensor:
    """Boolean masks (batch, K, h, w) grown by one unowned pixel; the first-named concept goes first."""
    reached = F.max_pool2d(owned.float(), kernel_size=3, stride=1, padding=1) > 0.5
    reached &= ~owned.any(dim=1, keepdim=True)
    first = reached & (reached.cumsum(dim=1) == 1)
    return owned | first


def composite(x: Tensor, absent: Tensor, regions: Regions, coalitions: Tensor) -> Tensor:
    """``x`` where the region's player is in the coalition, ``absent`` elsewhere: x_S = m_S x + (1 - m_S) b.

    Args:
        x: (batch, channels, height, width).
        absent: what stands in for absent regions, same shape.
        regions: K regions of ``x``.
        coalitions: boolean (K,) for the whole batch or (batch, K).

    Returns:
        A tensor like ``x``.
    """
    members = coalitions.to(x, non_blocking=x.is_cuda).reshape(-1, len(regions.names), 1, 1)
    present = (regions.to(x).masks * members).sum(dim=1, keepdim=True)
    return torch.lerp(absent, x, present.expand_as(x))
