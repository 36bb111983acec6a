"""Regions: which player owns which pixel, and which player may influence which.

Every region is a player of the games in ``penalty/`` and, at the same time, the part of
the output whose value those games explain.

A pixel is a place of any grid: a sample of a sound, a pixel of an image, a voxel, a token. Masks are
``(batch or 1, K, *size)`` and tensors ``(batch, channels, *size)``; the axis of the channels may be another one, the
last one for the ``(batch, tokens, features)`` of transformers, and is then said as ``channels=-1``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit.differentiable.region_picture import regions_html

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
Graph = Literal["own"] | Star | Mapping[str, Sequence[str]] | Tensor | np.ndarray[Any, Any] | Sequence[Sequence[bool]]


def allowed_influence(graph: Graph, names: Sequence[str]) -> Tensor:
    """Boolean (K, K) tensor: entry ``[k, j]`` says that player ``j`` may influence output region ``k``.

    Args:
        graph: ``"own"`` (each region depends on itself alone), ``star(rest)``, a K x K boolean matrix, or a mapping of
            regions to the names of those that may influence them, themselves apart; a region that is not in it depends
            on itself alone.
        names: the K region names, in order.

    Raises:
        ValueError: for an unknown graph or region, a wrong shape, or a region that may not influence itself.

    >>> allowed_influence({"brows": ["eyes", "rest"], "eyes": ["rest"]}, ("eyes", "brows", "rest")).int().tolist()
    [[1, 0, 1], [1, 1, 1], [0, 0, 1]]
    """
    n_regions = len(names)
    if isinstance(graph, str):
        if graph != "own":
            raise ValueError(f"graph must be 'own', star(rest), a mapping or a boolean matrix, got {graph!r}")
        return torch.eye(n_regions, dtype=torch.bool)
    if isinstance(graph, Star):
        if graph.rest not in names:
            raise ValueError(f"star({graph.rest!r}) names no region: the regions are {', '.join(names)}")
        allowed = torch.eye(n_regions, dtype=torch.bool)
        allowed[:, list(names).index(graph.rest)] = True
        return allowed
    if isinstance(graph, Mapping):
        return _named_influence(graph, list(names))
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


def _named_influence(graph: Mapping[str, Sequence[str]], names: list[str]) -> Tensor:
    """The graph of a mapping, as ``allowed_influence`` returns it."""
    allowed = torch.eye(len(names), dtype=torch.bool)
    for region, sources in graph.items():
        if isinstance(sources, str):
            raise ValueError(f"graph must give a list of regions for {region!r}, got the text {sources!r}")
        for name in (region, *sources):
            if name not in names:
                raise ValueError(f"graph names no region with {name!r}: the regions are {', '.join(names)}")
        allowed[names.index(region), [names.index(source) for source in sources]] = True
    return allowed


@dataclass(frozen=True, eq=False, repr=False)  # compared by identity: tensors have no truth value to compare by
class Regions:
    """A partition of the pixels into named regions, the same for the whole batch or one per sample.

    Masks that are no partition are refused; ``from_masks`` makes one of them by a stated rule.

    Args:
        masks: float (batch or 1, K, *size) in [0, 1], such as (1, K, height, width); the K masks of a pixel sum to one.
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
        if masks.ndim < 3 or masks.shape[1] != len(self.names):
            raise ValueError(
                f"masks must have shape (batch or 1, {len(self.names)}, *size), such as (1, {len(self.names)}, height, "
                f"width), one mask per name, got {tuple(masks.shape)}"
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

    def __repr__(self) -> str:
        return f"Regions: {', '.join(self.names)}; masks {tuple(self.masks.shape)}"

    def _repr_html_(self) -> str:
        return regions_html(self.masks, self.names, repr(self))

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
            labels: integer (batch, *size): (batch, height, width) of images, (batch, tokens) of sequences.
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
            _checked_tensor("labels", labels).ndim < 2
            or labels.is_floating_point()
            or labels.is_complex()
            or labels.dtype == torch.bool
        ):
            found = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(
                f"labels must be an integer tensor (batch, *size), such as (batch, height, width), got {found}"
            )
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
            masks: float in [0, 1] or boolean, (batch or 1, n, *size).
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
        if _checked_tensor("masks", masks).ndim < 3 or not (masks.is_floating_point() or masks.dtype == torch.bool):
            found = f"{masks.dtype} {tuple(masks.shape)}"
            raise ValueError(f"masks must be float or boolean (batch or 1, n, *size), got {found}")
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
    def grid(
        cls,
        *cells_and_size: int,
        height: int | None = None,
        width: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Regions:
        """Cells of equal size, the same for the whole batch: ``grid(rows, columns, height, width)`` of an image.

        Of any number of axes: how many cells there are along each, then how many pixels. Cells are named in order,
        "r0c0", "r0c1", ... of an image, "c0", "c1", ... along one axis, "d0r0c0", ... of a volume. Where the pixels are
        no multiple of the cells, these differ by one pixel and the larger ones are spread evenly.

        Args:
            cells_and_size: cells along every axis, then pixels along every axis.
            height, width: the pixels of an image, by name.
            dtype: of the masks.

        Raises:
            ValueError: if there is an axis without cells, or with more than pixels.

        >>> cells = Regions.grid(1, 2, height=2, width=5)
        >>> cells.names, cells.mask("r0c1")[0, 0].tolist()
        (('r0c0', 'r0c1'), [[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
        >>> Regions.grid(2, 6).masks.int().tolist()  # two halves of a sequence of six
        [[[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]]
        """
        numbers = (*cells_and_size, *(number for number in (height, width) if number is not None))
        n_axes, odd = divmod(len(numbers), 2)
        if odd or not n_axes:
            raise ValueError(
                "grid takes the number of cells along every axis, then of pixels, such as grid(rows, columns, height, "
                f"width) or grid(cells, length); got {numbers}"
            )
        counts, size = numbers[:n_axes], numbers[n_axes:]
        axes = {1: ("columns",), 2: ("rows", "columns"), 3: ("slices", "rows", "columns")}.get(
            n_axes, tuple(f"cells of axis {axis}" for axis in range(n_axes))
        )
        for name, cells, pixels in zip(axes, counts, size, strict=True):
            if not 1 <= cells <= pixels:
                raise ValueError(f"{name} must be from 1 to the {pixels} pixels there are, got {cells}")
        letters = {1: "c", 2: "rc", 3: "drc"}.get(n_axes, "i" * n_axes)
        cell = torch.zeros(size, dtype=torch.long)
        for axis, (cells, pixels) in enumerate(zip(counts, size, strict=True)):
            # Cell i begins at pixel floor(i * pixels / cells).
            along = (torch.arange(1, pixels + 1) * cells - 1) // pixels
            cell = cell * cells + along.reshape(-1, *(1,) * (n_axes - 1 - axis))
        names = tuple(
            "".join(f"{letter}{number}" for letter, number in zip(letters, numbers, strict=True))
            for numbers in np.ndindex(*counts)
        )
        return cls(F.one_hot(cell, len(names)).movedim(-1, 0)[None].to(dtype), names)

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels along every axis: (height, width) of an image.

        >>> Regions.grid(2, 6).size
        (6,)
        """
        return tuple(self.masks.shape[2:])

    @property
    def areas(self) -> Tensor:
        """Pixels in each region, (batch or 1, K); at least float32, as half precision cannot count them."""
        return self.masks.sum(dim=tuple(range(2, self.masks.ndim)), dtype=_at_least_float32(self.masks.dtype))

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

    def means(self, values: Tensor, *, channels: int = 1) -> Tensor:
        """Mean of ``values`` over each region's pixels and all channels; zero for a region that the sample lacks.

        Args:
            values: finite, (..., batch, channels, *size).
            channels: the axis of the channels, where the batch is axis 0; -1 for (..., batch, *size, channels).

        Returns:
            (..., batch, K), at least float32. The gradient of a missing region's mean is zero, not NaN.

        >>> labels = torch.tensor([[[1, 0, 0]], [[0, 0, 0]]])
        >>> regions = Regions.from_labels(labels, {"dot": [1]}, missing="allow")
        >>> regions.means(torch.tensor([5.0, 1.0, 3.0]).expand(2, 1, 1, 3)).tolist()
        [[5.0, 2.0], [0.0, 3.0]]
        """
        dtype = _at_least_float32(values.dtype)
        masks, axes = self.masks.to(dtype), tuple(range(-len(self.size), 0))
        areas = masks.sum(dim=axes)
        # Counted from the end, as there may be axes before the batch's.
        axis = channels if channels < 0 else channels - len(self.size) - 2
        # No matrix product (einsum, say): autocast would round it to half precision.
        sums = (values.mean(dim=axis, dtype=dtype).unsqueeze(axes[0] - 1) * masks).sum(dim=axes)
        return sums / torch.where(areas > 0, areas, torch.ones_like(areas))

    def mask(self, *names: str) -> Tensor:
        """The joint mask of the named regions, shape (batch or 1, 1, *size).

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
        if chosen.ndim != self.masks.ndim:
            raise ValueError(f"rows must be a slice, indices or booleans, got {rows!r}; write [{rows!r}] for one row")
        return self._with_masks(chosen)

    def resized(self, *size: int, hard: bool = False, missing: Missing | None = None) -> Regions:
        """The regions on another grid of pixels, smaller (that of latents, say) or larger; still a partition.

        A cell of the new grid covers a box of the old one, which need not end between two pixels. Soft, its masks are
        the shares of its contents that the regions own; each region keeps its share of the picture, and none gets
        lost. Hard, the cell belongs to the region with the largest share, on a tie to the one named first; a
        small region may lose all its pixels, which is refused or allowed as ``missing`` says.

        Args:
            size: pixels of the new grid along every axis: height, width of an image.
            hard: one region for each cell; soft masks come in at least float32, half precision cannot share.
            missing: of the resized regions; None for what holds for these.

        Raises:
            ValueError: if the grid has no pixels or another number of axes, or a region is left without pixels and
                may not be.

        >>> regions = Regions.from_labels(torch.tensor([[[1, 0, 0, 0]]]), {"dot": [1]})
        >>> regions.resized(1, 2).mask("dot").tolist(), regions.resized(1, 2, hard=True).mask("dot").tolist()
        ([[[[0.5, 0.0]]]], [[[[1.0, 0.0]]]])
        """
        found = " x ".join(map(str, size))
        if len(size) != len(self.size):
            raise ValueError(f"resized takes {len(self.size)} numbers of pixels, one for every axis, got {size}")
        if min(size) < 1:
            raise ValueError(f"resized takes at least one pixel along every axis, got {found}")
        # In double precision autocast leaves products alone; hard masks give whole numbers, so that ties stay ties.
        shares = self.masks.double()
        for axis, (old, new) in enumerate(zip(self.size, size, strict=True), start=2):
            shares = (shares.movedim(axis, -1) @ _overlaps(old, new, shares.device).T).movedim(-1, axis)
        if hard:
            owner = F.one_hot(shares.argmax(dim=1), len(self.names))  # argmax takes the first of equals
            masks = owner.movedim(-1, 1).to(self.masks.dtype)
        else:
            masks = (shares / math.prod(self.size)).to(_at_least_float32(self.masks.dtype))
        resized = self._with_masks(masks, missing)
        if hard or missing is not None:
            resized._check_missing(f" at {found} pixels")
        return resized

    def patched(self, patch: int, *, hard: bool = False, missing: Missing | None = None) -> Regions:
        """The regions of a sequence of tokens, one for each square patch of pixels, row by row: masks (.., K, tokens).

        Args:
            patch: pixels per side of a token.
            hard, missing: see ``resized``.

        Raises:
            ValueError: if an axis is no multiple of the patch, or a region is left without tokens and may not be.

        >>> Regions.grid(1, 2, height=4, width=4).patched(2).masks.int().tolist()
        [[[1, 0, 1, 0], [0, 1, 0, 1]]]
        """
        if patch < 1 or any(pixels % patch for pixels in self.size):
            size = " x ".join(map(str, self.size))
            raise ValueError(f"the sides must be multiples of the patch, {patch}, got {size}")
        tokens = self.resized(*(pixels // patch for pixels in self.size), hard=hard, missing=missing)
        return tokens._with_masks(tokens.masks.flatten(2))

    def to(self, like: Tensor) -> Regions:
        """The same regions with the device and floating-point type of ``like``."""
        if self.masks.device == like.device and self.masks.dtype == like.dtype:
            return self
        return self._with_masks(self.masks.to(like, non_blocking=like.is_cuda))

    def check_fits(self, x: Tensor, *, channels: int = 1) -> None:
        """Raise a ValueError unless these are regions of ``x``, (batch, channels, *size) or as ``channels`` says."""
        size = spatial_size(x, channels)
        if size != self.size or self.masks.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"regions are {tuple(self.masks.shape)} (batch or 1, regions, *size) but x is {tuple(x.shape)}, with "
                f"the channels on axis {channels}: the label map and the tensor must have one size and one batch"
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
    """Boolean masks (batch, K, *size) grown by one unowned pixel; the first-named concept goes first."""
    reached = owned
    for axis in range(2, owned.ndim):
        before, after = reached.roll(1, axis), reached.roll(-1, axis)
        before.select(axis, 0)[:] = False  # the ends are no neighbours
        after.select(axis, -1)[:] = False
        reached = reached | before | after
    reached = reached & ~owned.any(dim=1, keepdim=True)
    first = reached & (reached.cumsum(dim=1) == 1)
    return owned | first


def spatial_size(x: Tensor, channels: int = 1) -> tuple[int, ...]:
    """The axes of ``x`` that are neither the batch nor the channels.

    Raises:
        ValueError: if ``channels`` is no axis, or the batch's.

    >>> spatial_size(torch.zeros(2, 6, 5), channels=-1)
    (6,)
    """
    axis = channels % x.ndim if -x.ndim <= channels < x.ndim else 0
    if axis == 0:
        raise ValueError(
            f"channels must be an axis of x after the batch's, from 1 to {x.ndim - 1} or -1, got {channels}: "
            f"x is {tuple(x.shape)}"
        )
    return tuple(pixels for number, pixels in enumerate(x.shape) if number not in (0, axis))


def composite(x: Tensor, absent: Tensor, regions: Regions, coalitions: Tensor, *, channels: int = 1) -> Tensor:
    """``x`` where the region's player is in the coalition, ``absent`` elsewhere: x_S = m_S x + (1 - m_S) b.

    Args:
        x: (batch, channels, *size).
        absent: what stands in for absent regions, same shape.
        regions: K regions of ``x``.
        coalitions: boolean (K,) for the whole batch or (batch, K).
        channels: the axis of the channels; -1 for (batch, *size, channels).

    Returns:
        A tensor like ``x``.
    """
    members = coalitions.to(x, non_blocking=x.is_cuda).reshape(-1, len(regions.names), *(1,) * len(regions.size))
    present = (regions.to(x).masks * members).sum(dim=1).unsqueeze(channels)
    return torch.lerp(absent, x, present.expand_as(x))
