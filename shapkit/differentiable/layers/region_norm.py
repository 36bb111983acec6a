"""Group normalisation whose statistics are taken per region, and its exchange for GroupNorm in a given model.

GroupNorm makes even a convolutional network global: every pixel is divided by a spread taken over the whole map, so
every region reaches every other. ``RegionNorm`` takes mean and variance of each region on its own. It closes this one
path. Attention stays global, and a convolution carries its radius across a border, from where the other region's own
statistics take it farther; ``layer_leakage`` shows both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from shapkit.differentiable.regions import Regions


def hard_masks(regions: Regions, size: tuple[int, ...]) -> Tensor:
    """The regions at another resolution: which one owns each pixel, boolean (batch or 1, K, *size).

    A pixel goes to the region with the largest share of it, on a tie to the one named first. Soft masks would mix the
    statistics of two regions in a pixel, and so carry one into the other; hard ones cannot. A region that has no
    largest share anywhere owns nothing at that resolution.

    >>> regions = Regions.from_labels(torch.tensor([[[1, 0, 0, 0], [1, 1, 0, 0]]]), {"left": [1]})
    >>> hard_masks(regions, (1, 2))[0, 0].tolist()
    [[True, False]]
    """
    return regions.resized(*size, hard=True, missing="allow").masks.detach().bool()


def map_size(length: int, like: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sides of a flattened map of ``length`` pixels with the aspect of ``like``; None if they are not unique.

    The exact aspect comes first. Without one (a side that does not divide was rounded on the way down) the only
    factors that lie within one pixel of a scaled ``like`` are taken.

    >>> map_size(8, like=(64, 32)), map_size(33 * 17, like=(65, 33)), map_size(77, like=(64, 64))
    ((4, 2), (33, 17), None)
    """
    if len(like) != 2:
        for first in (first for first in range(1, like[0] + 1) if like[0] % first == 0):
            if length * like[0] ** len(like) == math.prod(like) * first ** len(like):
                return tuple(side * first // like[0] for side in like)
        return None
    height, width = like
    exact = math.isqrt(length * height // width)
    if exact and length % exact == 0 and exact * width == length // exact * height:
        return exact, length // exact
    divisors = [n for n in range(1, math.isqrt(length) + 1) if length % n == 0]
    fits = {(h, length // h) for n in divisors for h in (n, length // n) if _one_scale((h, length // h), like)}
    return fits.pop() if len(fits) == 1 else None


def _one_scale(size: tuple[int, int], like: tuple[int, ...]) -> bool:
    """Whether some scale s has both |size - like * s| below one pixel."""
    lowest = max((side - 1) / whole for side, whole in zip(size, like, strict=True))
    highest = min((side + 1) / whole for side, whole in zip(size, like, strict=True))
    return lowest < highest


class _SharedRegions:
    """The regions of the current batch, for all layers of a model and its copies; resized once per resolution."""

    def __init__(self) -> None:
        self._regions: Regions | None = None
        self._resized: dict[tuple[Any, ...], Tensor] = {}

    @property
    def regions(self) -> Regions | None:
        return self._regions

    @regions.setter
    def regions(self, regions: Regions | None) -> None:
        if regions is not self._regions:
            self._resized = {}
        self._regions = regions

    def members(self, size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
        """One-hot membership of every pixel, (batch or 1, K, height * width)."""
        assert self._regions is not None
        if torch.compiler.is_compiling():  # the compiler merges the layers' equal computations by itself
            return hard_masks(self._regions, size).flatten(2).to(device, dtype)
        key = (size, device, dtype)
        if key not in self._resized:
            with torch.inference_mode(False):  # or a later training step could not save them for its backward pass
                self._resized[key] = hard_masks(self._regions, size).flatten(2).to(device, dtype)
        return self._resized[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedRegions:
        return self  # regions belong to the batch: a copy that lost them would quietly be global again

    def __reduce__(self) -> tuple[type[_SharedRegions], tuple[()]]:
        return _SharedRegions, ()  # a saved model does not carry a batch's masks


class RegionNorm(nn.GroupNorm):
    """GroupNorm with mean and variance per sample, group and region; parameters and state dict are GroupNorm's.

    A pixel x in channel c of group g and in region k becomes (x - mean) / sqrt(variance + eps) * weight_c + bias_c,
    with mean and biased variance over the pixels of k and the channels of g. No region enters another's output, in
    the forward and in the backward pass, to the last bit. Without regions, or with a single one, it is GroupNorm.

    The regions may come at any resolution; each layer sees them resized to its own input and hardened, a pixel
    belonging to the region with the largest share (``hard_masks``). Every region keeps to its own statistics, however
    small it is: sharing with a neighbour would leak. So, as in GroupNorm on a map of its size, few elements keep
    little of their scale, and a single element (one pixel, one channel per group) becomes the bias, with gradient
    zero. A region that owns no pixel at a resolution has no output there; what it had has been merged before.

    ``input`` is (rows, channels, height, width), or (rows, channels, pixels) as attention blocks pass it, whose height
    and width follow from the aspect of the regions. With masks for n samples, ``rows`` may be any multiple of n: row i
    has the regions of sample i mod n, as in ``torch.cat([x, x])``. Inputs without pixels, (rows, channels), are
    normalised as by GroupNorm. Half precision is normalised in float32 and returned in the type it came in.

    The regions are looked up when the layer runs. Gradient checkpointing runs it again in the backward pass, which
    therefore must see the same regions: call ``backward`` within ``RegionNorms.use``.

    Args:
        num_groups, num_channels, eps, affine, device, dtype: as in ``torch.nn.GroupNorm``.
        regions: those of the next inputs; the attribute of that name can be set at any time.

    Raises:
        ValueError: by the call, if the rows are no multiple of the regions' batch, the channels differ from
            ``num_channels``, or the height and width of a flattened map cannot be told.

    >>> regions = Regions.from_labels(torch.tensor([[[0, 0, 1, 1]] * 2]), {"right": [1]})
    >>> norm = RegionNorm(1, 1, affine=False, regions=regions)
    >>> norm(torch.tensor([[[[1.0, 3.0, 20.0, 60.0]] * 2]])).round(decimals=3)[0, 0, 0]
    tensor([-1.,  1., -1.,  1.])
    """

    _shared: _SharedRegions

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        regions: Regions | None = None,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        self._shared = _SharedRegions()
        self._replaced: type[nn.GroupNorm] = nn.GroupNorm
        self.regions = regions

    @property
    def regions(self) -> Regions | None:
        """The regions of the next inputs, shared by all layers that one ``replace_group_norm`` made."""
        return self._shared.regions

    @regions.setter
    def regions(self, regions: Regions | None) -> None:
        self._shared.regions = regions

    def forward(self, input: Tensor) -> Tensor:
        """``input`` normalised; same shape and type."""
        regions = self.regions
        if regions is None or len(regions.names) == 1 or input.ndim == 2:
            return super().forward(input)
        size = self._size(input, regions)
        # The sums over regions are products with the masks. They are tiny next to the input, and in float64 neither
        # autocast nor TF32 rounds them. Apple's GPUs have no float64, and no TF32 either.
        exact = torch.float32 if input.device.type == "mps" else torch.float64
        members = self._shared.members(size, input.device, exact)
        n_samples, _, n_pixels = members.shape
        if input.shape[0] % n_samples:
            raise ValueError(
                f"regions are of {n_samples} samples but the input has {input.shape[0]} rows: there must be a whole "
                "number of rows for each sample, in the order of torch.cat([x, x]). Set the regions of this batch"
            )
        precise = torch.promote_types(input.dtype, torch.float32)
        width = self.num_channels // self.num_groups
        x = input.to(precise).reshape(-1, n_samples, self.num_groups, width, n_pixels)
        elements = width * members.sum(dim=2).clamp(min=1).unsqueeze(1)

        def by_region(pixels: Tensor) -> Tensor:
            """The mean over each region of (..., n_samples, groups, width, pixels): (..., n_samples, groups, K)."""
            return pixels.sum(dim=3).to(exact) @ members.transpose(1, 2) / elements

        def by_pixel(statistic: Tensor) -> Tensor:
            """Each pixel's region's entry of (..., n_samples, groups, K), for all channels of the group."""
            return (statistic @ members).to(precise).unsqueeze(3)

        # Two passes: E x^2 - (E x)^2 would cancel where the mean is large. Sums, and a sum with -mean, because the
        # backward passes of mean and of a difference write one more tensor of the input's size each.
        centred = x + by_pixel(-by_region(x))
        variance = by_region(centred.square())
        normalised = (centred * by_pixel(torch.rsqrt(variance + self.eps))).reshape(input.shape)
        if self.affine:
            per_channel = (-1, *(1,) * (input.ndim - 2))
            weight, bias = self.weight.to(precise), self.bias.to(precise)
            normalised = torch.addcmul(bias.reshape(per_channel), normalised, weight.reshape(per_channel))
        return normalised.to(input.dtype)

    def _size(self, input: Tensor, regions: Regions) -> tuple[int, ...]:
        """The sides of the input's map."""
        whole = regions.size
        if input.ndim not in (3, len(whole) + 2) or input.shape[1] != self.num_channels:
            raise ValueError(
                f"RegionNorm needs an input (rows, {self.num_channels}, *size), with {len(whole)} axes of pixels, or "
                f"(rows, {self.num_channels}, pixels), got {tuple(input.shape)}"
            )
        if input.ndim == len(whole) + 2:
            return tuple(input.shape[2:])
        size = map_size(input.shape[2], whole)
        if size is None:
            raise ValueError(
                f"cannot tell height and width of a flattened map of {input.shape[2]} pixels from regions of "
                f"{' x '.join(map(str, whole))}: their aspects must agree. If the input is no map (text tokens, "
                "say), name the layer in keep= of replace_group_norm"
            )
        return size


class RegionNorms:
    """The layers that ``replace_group_norm`` exchanged, and the one place to set their regions.

    Deep copies of the model (an exponential average, a frozen anchor) follow the same regions. A model loaded by
    ``torch.load`` in another process needs a handle of its own: call ``replace_group_norm`` on it.
    """

    def __init__(self, norms: dict[str, RegionNorm], shared: _SharedRegions) -> None:
        self._norms = norms
        self._shared = shared

    @property
    def names(self) -> tuple[str, ...]:
        """The module names of the layers, in the model's order."""
        return tuple(self._norms)

    @property
    def regions(self) -> Regions | None:
        """The regions of the next inputs; with None the layers are plain GroupNorm."""
        return self._shared.regions

    @regions.setter
    def regions(self, regions: Regions | None) -> None:
        self._shared.regions = regions

    @contextmanager
    def use(self, regions: Regions | None) -> Iterator[None]:
        """Within it the layers see ``regions``, afterwards those of before, after an error too.

        With gradient checkpointing call ``backward`` within it as well.
        """
        before = self.regions
        self.regions = regions
        try:
            yield
        finally:
            self.regions = before

    def restore(self) -> None:
        """Make the layers what they were before, GroupNorm; parameters stay as they are."""
        for norm in self._norms.values():
            if isinstance(norm, RegionNorm):  # a second call finds none
                replaced = norm._replaced
                del norm._shared, norm._replaced
                norm.__class__ = replaced  # type: ignore[assignment]

    def __repr__(self) -> str:
        regions = "none" if self.regions is None else ", ".join(self.regions.names)
        return f"RegionNorms({len(self._norms)} layers, regions: {regions})"


def replace_group_norm(model: nn.Module, regions: Regions | None = None, *, keep: Collection[str] = ()) -> RegionNorms:
    """Turn every GroupNorm of ``model`` into a ``RegionNorm``, in place; returns the handle that sets the regions.

    The module objects stay the same, so parameters, optimiser, hooks and state dict do too: ``save_pretrained`` writes
    what the plain class loads. Only modules are found: a model that calls ``F.group_norm`` itself (AdaGroupNorm of
    diffusers) stays global there, as does all attention. Exchange before ``torch.compile``.

    Args:
        model: a diffusers UNet or any other module. Subclasses of GroupNorm (GroupNorm32 of many repositories, which
            casts to float32) are exchanged too, and their own ``forward`` rests until ``restore``. A model that has
            RegionNorms already, a copy say, gets a handle of its own.
        regions: the regions of the next inputs; ``handle.regions`` and ``handle.use`` set others for each batch.
        keep: module names of GroupNorms to leave alone.

    Raises:
        ValueError: if the model has no GroupNorm, or ``keep`` names none.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2))
    >>> norms = replace_group_norm(model)
    >>> left = Regions.from_labels(torch.tensor([[[1, 1, 0, 0]]]), {"left": [1]})
    >>> x, y = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), torch.tensor([[[[1.0, 2.0, 7.0, 0.0]]]])
    >>> with norms.use(left):
    ...     torch.equal(model(x)[..., :2], model(y)[..., :2])
    True
    >>> norms.restore()
    >>> torch.equal(model(x)[..., :2], model(y)[..., :2])
    False
    """
    found = {name: part for name, part in model.named_modules() if isinstance(part, nn.GroupNorm)}
    unknown = sorted(set(keep) - found.keys())
    if unknown:
        raise ValueError(f"keep names {unknown[0]!r}, which is no GroupNorm of the model")
    shared = _SharedRegions()
    norms = {name: _as_region_norm(part, shared) for name, part in found.items() if name not in keep}
    if not norms:
        raise ValueError("model has no GroupNorm to replace" + (" beyond those in keep" if found else ""))
    shared.regions = regions
    return RegionNorms(norms, shared)


def _as_region_norm(norm: nn.GroupNorm, shared: _SharedRegions) -> RegionNorm:
    """The same module object with RegionNorm for its class."""
    if not isinstance(norm, RegionNorm):
        replaced = type(norm)
        norm.__class__ = RegionNorm
        norm = cast(RegionNorm, norm)
        norm._replaced = replaced
    norm._shared = shared
    return norm
