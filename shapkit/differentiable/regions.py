"""Regions: which player owns which pixel, and which player may influence which.

Every region is a player of the games in ``penalty/`` and, at the same time, the part of
the output whose value those games explain.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

OTHER = "rest"
"""Name of the region that takes every pixel no concept owns."""

TOLERANCE = 1e-4
"""By how much the masks of a pixel may miss a sum of one: rounding, not overlap."""


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


Missing = Literal["refuse", "allow"]
Overlap = Literal["refuse", "share", "first"]
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


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no truth value to compare by
class Regions:
    """A partition of the pixels into named regions, the same for the whole batch or one per sample.

    Masks that are no partition are refused; ``from_masks`` makes one of them by a stated rule.

    Args:
        masks: float (batch or 1, K, height, width) in [0, 1]; the K masks of a pixel sum to one.
        names: the K region names.
        missing: ``"refuse"`` demands that every region has pixels in every sample; with ``"allow"`` it may have
            none in some samples, or in all of them, as happens in a small batch. ``present`` says where it has.

    Raises:
        ValueError: if the shapes do not fit, the names are not K different strings, the masks are no partition, or
            a region is empty in some sample and ``missing`` does not allow it.

    >>> left = torch.zeros(1, 4, 4); left[..., :2] = 1
    >>> Regions(torch.stack([left, 1 - left], dim=1), ("left", "right")).areas
    tensor([[8., 8.]])
    """

    masks: Tensor
    names: tuple[str, ...]
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _checked_names(self.names))
        masks = _checked_tensor("masks", self.masks)
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
        if not bool(((total - 1).abs() < TOLERANCE).all()) or bool((masks < 0).any()):
            raise ValueError(
                "masks must be a partition: at every pixel the K masks lie in [0, 1] and sum to one; "
                f"here the sums run from {float(total.min()):.3g} to {float(total.max()):.3g}. "
                "Regions.from_masks makes a partition of masks that overlap or leave pixels out"
            )
        self._check_missing()

    @classmethod
    def from_labels(
        cls,
        labels: Tensor,
        concepts: Mapping[str, Sequence[int]],
        *,
        rest: str | None = OTHER,
        dilation: int = 0,
        dtype: torch.dtype = torch.float32,
        missing: Missing = "refuse",
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
            missing: ``"allow"`` where a concept, or the rest, need not occur in every sample.

        Raises:
            ValueError: if there is no concept, a label serves two, the labels are not an integer map, the
                dilation is negative, or a region is empty and may not be.

        >>> labels = torch.zeros(1, 5, 5, dtype=torch.long); labels[0, 2, 2] = 3
        >>> Regions.from_labels(labels, {"dot": [3]}, dilation=1).areas.tolist()
        [[9.0, 16.0]]
        """
        if (
            _checked_tensor("labels", labels).ndim != 3
            or labels.is_floating_point()
            or labels.is_complex()
            or labels.dtype == torch.bool
        ):
            found = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"labels must be an integer tensor (batch, height, width), got {found}")
        if isinstance(dilation, bool) or not isinstance(dilation, int) or dilation < 0:
            raise ValueError(f"dilation must be a number of pixels >= 0, got {dilation!r}")
        by_concept = list(_label_values(concepts))
        used = [label for values in by_concept for label in values]
        if len(set(used)) != len(used):
            raise ValueError(f"concepts must not share labels, got {dict(concepts)}")
        owned = torch.stack([torch.isin(labels, labels.new_tensor(values)) for values in by_concept], dim=1)
        for _ in range(dilation):
            owned = _grow(owned)
        names = tuple(concepts)
        if rest is not None:
            owned = torch.cat([owned, ~owned.any(dim=1, keepdim=True)], dim=1)
            names += (rest,)
        return cls(owned.to(dtype), names, missing)

    @classmethod
    def from_masks(
        cls,
        masks: Tensor,
        names: Sequence[str],
        *,
        rest: str | None = OTHER,
        overlap: Overlap = "refuse",
        missing: Missing = "refuse",
    ) -> Regions:
        """Regions from masks, soft or boolean, that may overlap and leave pixels out: what is left is the rest.

        Args:
            masks: float in [0, 1] or boolean, (batch or 1, n, height, width).
            names: the n names.
            rest: name of the region of what the masks leave, 1 - their sum; ``None`` where they leave nothing.
            overlap: what holds where the masks of a pixel sum to more than one. ``"refuse"``: an error;
                ``"share"``: each is divided by the sum; ``"first"``: in the order of the names, each takes no more
                than those before it have left.
            missing: ``"allow"`` where a region need not occur in every sample.

        Returns:
            regions with masks of the given type, at least float32.

        Raises:
            ValueError: if the masks have another shape or lie outside [0, 1], if they overlap and may not, without
                a rest leave some pixel out, or a region is empty and may not be.

        >>> face, hair = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5]])
        >>> both = torch.stack([face, hair])[None]
        >>> Regions.from_masks(both, ("face", "hair"), overlap="share").masks.squeeze().tolist()
        [[1.0, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.5]]
        >>> Regions.from_masks(both, ("hair", "face"), overlap="first").areas.tolist()
        [[2.0, 0.5, 0.5]]
        """
        if overlap not in get_args(Overlap):
            raise ValueError(f"overlap must be one of {', '.join(get_args(Overlap))}, got {overlap!r}")
        names = _checked_names(names)
        if _checked_tensor("masks", masks).ndim != 4 or not (masks.is_floating_point() or masks.dtype == torch.bool):
            found = f"{masks.dtype} {tuple(masks.shape)}"
            raise ValueError(f"masks must be float or boolean (batch or 1, n, height, width), got {found}")
        masks = masks.to(_at_least_float32(masks.dtype))
        if not bool(((masks >= 0) & (masks <= 1)).all()):
            span = f"{float(masks.min()):.3g} to {float(masks.max()):.3g}"
            raise ValueError(f"masks must lie in [0, 1], got values from {span}")
        total = masks.sum(dim=1, keepdim=True)
        if overlap == "share":
            masks = masks / total.clamp(min=1)
        elif overlap == "first":
            before = masks.cumsum(dim=1) - masks
            masks = torch.minimum(masks, _left(before))
        elif bool((total > 1 + TOLERANCE).any()):
            raise ValueError(
                f"masks must not overlap: at {int((total > 1 + TOLERANCE).sum())} pixels they sum to more than one, "
                f"to {float(total.max()):.3g} at most. overlap='share' divides such pixels, overlap='first' gives "
                "them to the mask named first"
            )
        if rest is not None:
            masks = torch.cat([masks, _left(masks.sum(dim=1, keepdim=True))], dim=1)
            names += (rest,)
        return cls(masks, names, missing)

    @classmethod
    def grid(cls, rows: int, columns: int, height: int, width: int, *, dtype: torch.dtype = torch.float32) -> Regions:
        """Rectangular cells "r0c0", "r0c1", ..., row by row, the same for the whole batch.

        Where the height is no multiple of the rows, they differ by one pixel and the higher ones are spread evenly;
        likewise the columns.

        Raises:
            ValueError: if there are no rows or columns, or more than pixels.

        >>> cells = Regions.grid(1, 2, height=2, width=5)
        >>> cells.names, cells.mask("r0c1")[0, 0].tolist()
        (('r0c0', 'r0c1'), [[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
        """
        for name, cells, pixels in (("rows", rows, height), ("columns", columns, width)):
            if not 1 <= cells <= pixels:
                raise ValueError(f"{name} must be from 1 to the {pixels} pixels there are, got {cells}")
        # Cell i begins at pixel floor(i * pixels / cells).
        row = (torch.arange(1, height + 1) * rows - 1) // height
        column = (torch.arange(1, width + 1) * columns - 1) // width
        cell = row[:, None] * columns + column
        names = tuple(f"r{i}c{j}" for i in range(rows) for j in range(columns))
        return cls(F.one_hot(cell, rows * columns).permute(2, 0, 1)[None].to(dtype), names)

    @property
    def areas(self) -> Tensor:
        """Pixels in each region, (batch or 1, K); at least float32, as half precision cannot count them."""
        return self.masks.sum(dim=(2, 3), dtype=_at_least_float32(self.masks.dtype))

    @property
    def present(self) -> Tensor:
        """Which regions have pixels in which sample, boolean (batch or 1, K)."""
        return self.areas > 0

    @property
    def weights(self) -> Tensor:
        """What each region counts in a mean over regions, (batch or 1, K), at least float32.

        Zero for a region that the sample lacks and K / n for each of the n it has, so that the mean over all K of
        weight times loss is the mean over those n. All are zero where n is one: that region is the whole sample, no
        other player could influence it, and there is nothing to compare.

        >>> labels = torch.tensor([[[1, 2, 0, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 0]]])
        >>> Regions.from_labels(labels, {"eyes": [1], "mouth": [2]}, missing="allow").weights.tolist()
        [[1.0, 1.0, 1.0], [1.5, 0.0, 1.5], [0.0, 0.0, 0.0]]
        """
        present = self.present.to(_at_least_float32(self.masks.dtype))
        count = present.sum(dim=1, keepdim=True)
        return present * (count > 1) * (len(self.names) / count)

    def means(self, values: Tensor) -> Tensor:
        """Mean of ``values`` over each region's pixels and all channels; zero for a region that the sample lacks.

        Args:
            values: finite, (..., batch, channels, height, width).

        Returns:
            (..., batch, K), at least float32. The gradient of a missing region's mean is zero, not NaN.

        >>> labels = torch.tensor([[[1, 0, 0]], [[0, 0, 0]]])
        >>> regions = Regions.from_labels(labels, {"dot": [1]}, missing="allow")
        >>> regions.means(torch.tensor([5.0, 1.0, 3.0]).expand(2, 1, 1, 3)).tolist()
        [[5.0, 2.0], [0.0, 3.0]]
        """
        dtype = _at_least_float32(values.dtype)
        masks = self.masks.to(dtype)
        areas = masks.sum(dim=(2, 3))
        # No matrix product (einsum, say): autocast would round it to half precision.
        sums = (values.mean(dim=-3, keepdim=True, dtype=dtype) * masks).sum(dim=(-2, -1))
        return sums / torch.where(areas > 0, areas, torch.ones_like(areas))

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

    def select(self, rows: slice | Sequence[int] | Tensor) -> Regions:
        """The regions of some samples; regions that are the same for the whole batch stay as they are.

        Args:
            rows: what indexes the batch: a slice, indices, or boolean (batch,).

        Raises:
            ValueError: if ``rows`` is one number, which would take the batch dimension away.
        """
        if len(self.masks) == 1:
            return self
        chosen = self.masks[rows]
        if chosen.ndim != 4:
            raise ValueError(f"rows must be a slice, indices or booleans, got {rows!r}; write [{rows!r}] for one row")
        return self._with_masks(chosen)

    def resized(self, height: int, width: int, *, hard: bool = False, missing: Missing | None = None) -> Regions:
        """The regions on another grid of pixels, smaller (that of latents, say) or larger; still a partition.

        A cell of the new grid covers a rectangle of the old one, which need not end between two pixels. Soft, its
        masks are the shares of its area that the regions own; each region keeps its share of the picture, and none
        gets lost. Hard, the cell belongs to the region with the largest share, on a tie to the one named first; a
        small region may lose all its pixels, which is refused or allowed as ``missing`` says.

        Args:
            height, width: pixels of the new grid.
            hard: one region for each cell; soft masks come in at least float32, half precision cannot share.
            missing: of the resized regions; None for what holds for these.

        Raises:
            ValueError: if the grid has no pixels, or a region is left without pixels and may not be.

        >>> regions = Regions.from_labels(torch.tensor([[[1, 0, 0, 0]]]), {"dot": [1]})
        >>> regions.resized(1, 2).mask("dot").tolist(), regions.resized(1, 2, hard=True).mask("dot").tolist()
        ([[[[0.5, 0.0]]]], [[[[1.0, 0.0]]]])
        """
        if height < 1 or width < 1:
            raise ValueError(f"height and width must be at least one pixel, got {height} x {width}")
        rows, columns = (
            _overlaps(old, new, self.masks.device)
            for old, new in zip(self.masks.shape[2:], (height, width), strict=True)
        )
        # In double precision autocast leaves products alone; hard masks give whole numbers, so that ties stay ties.
        shares = rows @ self.masks.double() @ columns.T
        if hard:
            owner = F.one_hot(shares.argmax(dim=1), len(self.names))  # argmax takes the first of equals
            masks = owner.permute(0, 3, 1, 2).to(self.masks.dtype)
        else:
            masks = (shares / (self.masks.shape[2] * self.masks.shape[3])).to(_at_least_float32(self.masks.dtype))
        resized = self._with_masks(masks, missing)
        if hard or missing is not None:
            resized._check_missing(f" at {height} x {width} pixels")
        return resized

    def to(self, like: Tensor) -> Regions:
        """The same regions with the device and floating-point type of ``like``."""
        if self.masks.device == like.device and self.masks.dtype == like.dtype:
            return self
        return self._with_masks(self.masks.to(like, non_blocking=like.is_cuda))

    def check_fits(self, x: Tensor) -> None:
        """Raise a ValueError unless these are regions of ``x``, shape (batch, channels, height, width)."""
        if x.ndim != 4 or x.shape[2:] != self.masks.shape[2:] or self.masks.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"regions are {tuple(self.masks.shape)} (batch or 1, regions, height, width) but x is "
                f"{tuple(x.shape)}: the label map and the tensor must have one size and one batch"
            )

    def _with_masks(self, masks: Tensor, missing: Missing | None = None) -> Regions:
        """These regions with other masks, known to be a partition: to check them would wait for the device."""
        other = copy.copy(self)
        object.__setattr__(other, "masks", masks)
        object.__setattr__(other, "missing", missing or self.missing)
        return other

    def _check_missing(self, where: str = "") -> None:
        """Raise a ValueError if a region is empty in some sample and may not be."""
        if self.missing not in get_args(Missing):
            raise ValueError(f"missing must be 'refuse' or 'allow', got {self.missing!r}")
        if self.missing == "allow":
            return
        empty = (~self.present).nonzero()
        if len(empty):
            sample, region = (int(i) for i in empty[0])
            raise ValueError(
                f"region {self.names[region]!r} is empty in sample {sample}{where}: a player without pixels has no "
                "output to own. Leave such samples out, merge the region into another, or pass missing='allow'"
            )


def _checked_tensor(argument: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(
            f"{argument} must be a tensor, got {type(tensor).__name__}: convert an array with torch.as_tensor"
        )
    return tensor


def _checked_names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names must be a tuple of strings, one per region, got {names!r}")
    return tuple(names)


def _label_values(concepts: Mapping[str, Sequence[int]]) -> Iterator[list[int]]:
    """The labels of each concept, or a ValueError that says what they must be."""
    expected = 'concepts must map names to lists of label values, such as {"mouth": [6]}'
    if not isinstance(concepts, Mapping):
        raise ValueError(f"{expected}, got {concepts!r}")
    if not concepts:
        raise ValueError("concepts must name at least one region")
    for name, values in concepts.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"{expected}, got {values!r} for {name!r}")
        labels = list(values)
        if any(isinstance(label, bool | np.bool_) or not isinstance(label, int | np.integer) for label in labels):
            raise ValueError(f"{expected}, got {values!r} for {name!r}")
        yield [int(label) for label in labels]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _left(taken: Tensor) -> Tensor:
    """What is left of each pixel; nothing where only rounding is, or an empty region would look present."""
    left = 1 - taken
    return torch.where(left > TOLERANCE / 2, left, torch.zeros_like(left))


def _overlaps(old: int, new: int, device: torch.device) -> Tensor:
    """How much of each of ``old`` pixels each of ``new`` cells covers, in 1/new pixels: whole numbers (new, old)."""
    cell = torch.arange(new, dtype=torch.float64, device=device)[:, None]
    pixel = torch.arange(old, dtype=torch.float64, device=device)
    ends = torch.minimum((cell + 1) * old, (pixel + 1) * new)
    return (ends - torch.maximum(cell * old, pixel * new)).clamp(min=0)


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
