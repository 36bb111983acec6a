"""How much of each region of every layer comes from outside that region: which parts of an architecture are global.

Normalisation over the whole map, attention and wide convolutions carry one region into another. The probe exchanges
everything outside a region for another sample's and measures, layer by layer, what that changes within the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from shapkit.differentiable.layers.region_norm import hard_masks, map_size
from shapkit.differentiable.penalty.absence import partner
from shapkit.differentiable.regions import Regions

_MARKED = 3  # of the layers, in the printed table


@dataclass(frozen=True, eq=False, repr=False)
class LayerLeakage:
    """What ``layer_leakage`` measured: L calls of layers, in the order they ended, and K regions; prints as a table.

    Both arrays hold, for what a layer puts out in region k, the mean square change when everything outside k is
    exchanged, divided by the one when everything is: 0 where k depends on itself alone, 1 where an exchange elsewhere
    changes as much as an exchange of all. If the two samples, and the regions within them, were independent, it would
    estimate the total Sobol index of the outside (Jansen, "Analysis of variance designs for model output", 1999); on
    few samples, or dependent ones, it may exceed 1. NaN, a dash in the table, where nothing changes or the region has
    no pixel at that resolution.

    Args:
        names: L module names; the second call of a module in a run is ``name (2)``.
        types: L class names.
        regions: the K region names.
        local: (L, K), of the layer alone, given its own inputs.
        cumulative: (L, K), of the network from its input up to and including the layer.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    regions: tuple[str, ...]
    local: NDArray[np.float64]
    cumulative: NDArray[np.float64]

    def worst(self, count: int = _MARKED) -> tuple[str, ...]:
        """Names of the ``count`` layers with the largest local leak in any region, the largest first; no zeros."""
        largest = np.nan_to_num(self.local).max(axis=1, initial=0)
        order = np.argsort(-largest, kind="stable")[:count]
        return tuple(self.names[layer] for layer in order if largest[layer] > 0)

    def __repr__(self) -> str:
        marked = set(self.worst())
        wide = max([len(name) for name in (*self.names, "layer")])
        kind = max([len(name) for name in (*self.types, "type")])
        column = max([7, *(len(name) for name in self.regions)])
        columns = [f"{name:>{column}}" for name in self.regions]
        group = len("  ".join(columns))
        lines = [
            f"{'':{wide + kind + 4}}  {'local':^{group}} | {'cumulative':^{group}}".rstrip(),
            f"  {'layer':{wide}}  {'type':{kind}}  {'  '.join(columns)} | {'  '.join(columns)}",
        ]
        for name, type_name, local, cumulative in zip(self.names, self.types, self.local, self.cumulative, strict=True):
            sides = ["  ".join(f"{_shown(value):>{column}}" for value in side) for side in (local, cumulative)]
            mark = "*" if name in marked else " "
            lines.append(f"{mark} {name:{wide}}  {type_name:{kind}}  {sides[0]} | {sides[1]}")
        lines.append("* the largest local leaks")
        return "\n".join(lines)


def layer_leakage(
    network: nn.Module,
    x: Tensor,
    regions: Regions,
    *,
    run: Callable[[Tensor], object] | None = None,
    absent: Tensor | None = None,
    layers: Callable[[str, nn.Module], bool] | None = None,
    erode: int = 0,
    channels: int = 1,
) -> LayerLeakage:
    """The share of every layer's change in a region that comes from outside the region, alone and from the input on.

    The network runs K + 2 times: on ``x``, on ``absent``, and for every region k on ``x`` in k and ``absent``
    elsewhere (cumulative). Every layer runs K + 1 times more by itself, with those of its inputs that are maps made
    of what it saw in the first two runs (local); its other inputs, a time embedding say, stay. All of it in eval mode
    and without gradients; modes, hooks and buffers are as before afterwards. Inputs and outputs of all layers are kept
    for one run, which sets the memory: few samples suffice, or choose ``layers``.

    Masks are resized to each layer's resolution and hardened (``hard_masks``). A convolution reads its neighbours, so
    it leaks at the borders, and that is counted; ``erode`` leaves the border out, and only what comes from farther
    away remains. A block that adds its input to its output (attention of diffusers) has that share of its own in the
    measure. A layer is left out if it puts out no map or nothing in it ever changes. Maps have the rows of ``x``
    and are (batch, channels, *size), or flattened to the aspect of ``x``: (batch, channels, pixels) for convolutions
    and normalisations, otherwise (batch, pixels, channels) first, as attention blocks have it; of sequences of tokens
    (``channels=-1``) always the latter.

    Args:
        network: the module whose layers are measured, not compiled. RegionNorm layers need their regions set.
        x: (batch, channels, *size), or as ``channels`` says; at least two samples without ``absent``.
        regions: K regions of ``x``.
        run: how to call the network on a tensor like ``x``, where it needs more: ``lambda x: unet(x, timestep)``.
        absent: what stands outside the region, like ``x``; by default the neighbour in the batch (``partner``).
        layers: which modules to measure, by name and module. By default those without children, and those with "attn"
            or "attention" in their class's name, whose mixing happens outside their children.
        erode: how many pixels to leave out at each region's border, counted at the layer's own resolution.
        channels: the axis of the channels of ``x``; -1 for (batch, tokens, features).

    Raises:
        ValueError: if the regions or ``absent`` do not fit ``x``, there is a single region, or a single sample without
            ``absent``, ``erode`` is negative, or no layer is found.

    >>> from shapkit.differentiable.layers.region_norm import replace_group_norm
    >>> half = Regions.from_labels(torch.tensor([[[0, 0, 1, 1]]]), {"right": [1]})
    >>> network = nn.Sequential(nn.ReLU(), nn.GroupNorm(1, 1))
    >>> x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]], [[[9.0, 2.0, 8.0, 3.0]]]])
    >>> layer_leakage(network, x, half)
                             local       |    cumulative
      layer  type         right     rest |   right     rest
      0      ReLU             0        0 |       0        0
    * 1      GroupNorm   0.4633   0.0375 |  0.4633   0.0375
    * the largest local leaks
    >>> with replace_group_norm(network).use(half):
    ...     bool((layer_leakage(network, x, half).cumulative == 0).all())
    True
    """
    regions.check_fits(x, channels=channels)
    if len(regions.names) < 2:
        raise ValueError("layer_leakage needs at least two regions: with one, nothing is outside")
    if erode < 0:
        raise ValueError(f"erode must be a number of pixels >= 0, got {erode}")
    if absent is None:
        absent = partner(x)
    if absent.shape != x.shape:
        raise ValueError(f"absent must have the shape of x, {tuple(x.shape)}, got {tuple(absent.shape)}")
    choose = _leaf_or_attention if layers is None else layers
    chosen = {name: part for name, part in network.named_modules() if choose(name, part)}
    probe = _Probe(x, regions.to(x), erode, channels)
    call = network if run is None else run
    with _evaluating(network), torch.no_grad(), probe.hooked(chosen):
        probe.record(call, x)
        probe.exchange(call, absent)
        inside = probe.masks(regions.size)
        for region in range(len(regions.names)):
            probe.compare(call, torch.where(inside[:, region].unsqueeze(channels), x, absent), region)
    return probe.result()


def _leaf_or_attention(name: str, module: nn.Module) -> bool:
    """The default choice of layers."""
    kind = type(module).__name__.lower()
    return next(module.children(), None) is None or "attn" in kind or "attention" in kind


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode within it; afterwards every module's own mode again."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass
class _Layer:
    """One call of a module: what it saw and put out in the first run, and the squared changes of its K regions."""

    name: str
    module: nn.Module
    inputs: _Inputs
    output: Tensor
    local: Tensor
    local_of_all: Tensor
    cumulative: Tensor
    cumulative_of_all: Tensor


_Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_Seen = Callable[[str, nn.Module, _Inputs, Tensor], None]


class _Probe:
    """Hooks that compare each layer's output with that of the first run, region by region."""

    def __init__(self, x: Tensor, regions: Regions, erode: int, channels: int) -> None:
        self._rows = x.shape[0]
        self._regions = regions
        self._erode = erode
        self._sequence = channels != 1 and len(regions.size) == 1
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._layers: dict[str, _Layer] = {}
        self._calls: dict[str, int] = {}
        self._pending: list[_Inputs] = []
        self._seen: _Seen | None = None

    @contextmanager
    def hooked(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        """Within it the probe sees the calls of the modules."""
        hooks = []
        try:
            for name, module in modules.items():
                hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
                hooks.append(module.register_forward_hook(self._after(name), with_kwargs=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def record(self, run: Callable[[Tensor], object], x: Tensor) -> None:
        """The first run, which all others are compared with."""
        self._run(run, x, self._record)

    def exchange(self, run: Callable[[Tensor], object], absent: Tensor) -> None:
        """The run on what stands in for absent regions: the change when all is exchanged, and each layer alone."""
        self._run(run, absent, self._exchange)

    def compare(self, run: Callable[[Tensor], object], x: Tensor, region: int) -> None:
        """A run on an input that is the first run's in ``region`` alone."""

        def seen(name: str, module: nn.Module, inputs: _Inputs, output: Tensor) -> None:
            layer = self._layers.get(name)
            if layer is not None:
                layer.cumulative[region] = self._changes(layer, output)[region]

        self._run(run, x, seen)

    def masks(self, size: tuple[int, ...]) -> Tensor:
        """Which region owns each pixel of a map of that size, boolean (batch or 1, K, *size)."""
        if size not in self._masks:
            self._masks[size] = hard_masks(self._regions, size)
        return self._masks[size]

    def result(self) -> LayerLeakage:
        layers = [
            layer for layer in self._layers.values() if float((layer.cumulative_of_all + layer.local_of_all).sum())
        ]
        if not layers:
            raise ValueError("found no layer that puts out a map which depends on x: choose other layers")
        return LayerLeakage(
            names=tuple(layer.name for layer in layers),
            types=tuple(type(layer.module).__name__ for layer in layers),
            regions=self._regions.names,
            local=np.stack([_ratio(layer.local, layer.local_of_all) for layer in layers]),
            cumulative=np.stack([_ratio(layer.cumulative, layer.cumulative_of_all) for layer in layers]),
        )

    def _run(self, run: Callable[[Tensor], object], x: Tensor, seen: _Seen) -> None:
        self._calls, self._pending, self._seen = {}, [], seen
        try:
            run(x)
        finally:
            self._seen = None

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._seen is not None:  # copies, as a layer may work in place
            copied = tuple(_copied(value) for value in args), {key: _copied(value) for key, value in kwargs.items()}
            self._pending.append(copied)

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], object], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            seen = self._seen
            if seen is None:
                return
            inputs = self._pending.pop()
            self._calls[name] = call = self._calls.get(name, 0) + 1
            found = _first_tensor(output)
            if found is None or self._layout(module, found) is None:
                return
            self._seen = None  # a layer that the probe runs by itself has children with hooks
            try:
                title = name or "(network)"
                seen(title if call == 1 else f"{title} ({call})", module, inputs, found)
            finally:
                self._seen = seen

        return hook

    def _record(self, name: str, module: nn.Module, inputs: _Inputs, output: Tensor) -> None:
        sums = torch.zeros(4, len(self._regions.names), dtype=torch.float64)
        self._layers[name] = _Layer(name, module, inputs, output.clone(), *sums.unbind())

    def _exchange(self, name: str, module: nn.Module, inputs: _Inputs, output: Tensor) -> None:
        layer = self._layers.get(name)
        if layer is None:
            return
        layer.cumulative_of_all[:] = self._changes(layer, output)
        layer.local_of_all[:] = self._changes(layer, self._alone(layer, inputs, None))
        for region in range(len(self._regions.names)):
            layer.local[region] = self._changes(layer, self._alone(layer, inputs, region))[region]

    def _alone(self, layer: _Layer, absent: _Inputs, region: int | None) -> Tensor:
        """The layer's output with its own maps in ``region`` and the absent ones elsewhere, or everywhere."""

        def mixed(own: object, other: object) -> Any:
            if not isinstance(own, Tensor) or not isinstance(other, Tensor) or own.shape != other.shape:
                return _copied(own)
            layout = self._layout(layer.module, own)
            if layout is None:
                return own.clone()
            if region is None:
                return other.clone()
            size, channels = layout
            mask = self.masks(size)[:, region]
            return torch.where((mask if own.ndim == mask.ndim + 1 else mask.flatten(1)).unsqueeze(channels), own, other)

        args = [mixed(own, other) for own, other in zip(layer.inputs[0], absent[0], strict=True)]
        kwargs = {key: mixed(own, absent[1].get(key)) for key, own in layer.inputs[1].items()}
        output = _first_tensor(layer.module(*args, **kwargs))
        assert output is not None
        return output

    def _changes(self, layer: _Layer, output: Tensor) -> Tensor:
        """Squared change of the layer's output, summed over the batch and each region's pixels, (K,) on the CPU."""
        layout = self._layout(layer.module, output)
        assert layout is not None
        size, channels = layout
        squares = (output - layer.output).double().square().sum(dim=channels).reshape(self._rows, 1, *size)
        inside = self.masks(size).float()
        for _ in range(self._erode):
            inside = 1 - _grown(1 - inside)  # the image's edge is no border
        return (squares * inside).sum(dim=(0, *range(2, inside.ndim))).cpu()

    def _layout(self, module: nn.Module, found: Tensor) -> tuple[tuple[int, ...], int] | None:
        """The size of a map and the axis of its channels; None if it is no map with the rows of x."""
        if not found.is_floating_point() or found.shape[0] != self._rows:
            return None
        whole = self._regions.size
        if found.ndim == len(whole) + 2 and not self._sequence:
            return tuple(found.shape[2:]), 1
        if found.ndim != 3:
            return None
        for channels in (1, 2) if isinstance(module, _CHANNELS_FIRST) else (2, 1):
            size = map_size(found.shape[3 - channels], whole)
            if size is not None:
                return size, channels
        return None


_CHANNELS_FIRST = (nn.GroupNorm, _NormBase, _ConvNd)


def _grown(inside: Tensor) -> Tensor:
    """Masks of zeros and ones (.., K, *size), one pixel larger along every axis."""
    for axis in range(2, inside.ndim):
        along = inside.movedim(axis, -1)
        pooled = F.max_pool1d(along.flatten(0, -2), kernel_size=3, stride=1, padding=1)
        inside = pooled.reshape(along.shape).movedim(-1, axis)
    return inside


def _shown(value: float) -> str:
    """Four digits; an exact zero as 0, no value as a dash."""
    return "-" if np.isnan(value) else "0" if value == 0 else f"{value:.4f}"


def _copied(value: object) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _first_tensor(output: object) -> Tensor | None:
    """What a module puts out, or the first part of it."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) else None


def _ratio(part: Tensor, whole: Tensor) -> NDArray[np.float64]:
    """part / whole, NaN where the whole is zero."""
    ratio = torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), torch.nan)
    return np.asarray(ratio.numpy(), dtype=np.float64)
