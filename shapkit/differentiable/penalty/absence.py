"""What stands in for an absent region: zeros, fresh noise, another sample of the batch, or the batch mean.

The stand-in is drawn once per sample and shared by every coalition that is compared; were it drawn anew, a
perfectly local network would be penalised for the difference between two draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from shapkit.differentiable.regions import spatial_size
from shapkit.randomness import counter_bits

Fill = Literal["zeros", "noise", "exchange", "batch_mean"]
Conditions = Tensor | Sequence[Tensor] | Literal["paired"]


def partner(x: Tensor) -> Tensor:
    """The batch with neighbours exchanged: row 2i becomes row 2i + 1 and back; an odd batch ends in a round of three.

    Neighbours rather than halves, so that pairs stay together when a batch is split over processes.

    Raises:
        ValueError: if there is one row only.

    >>> partner(torch.tensor([0, 1, 2, 3])).tolist(), partner(torch.tensor([0, 1, 2, 3, 4])).tolist()
    ([1, 0, 3, 2], [1, 0, 3, 4, 2])
    """
    if len(x) < 2:
        raise ValueError(f"samples are exchanged with their neighbours, which takes two at least, got {len(x)}")
    if len(x) % 2:
        return torch.cat([partner(x[:-3]), x[-2:], x[-3:-2]]) if len(x) > 3 else x.roll(-1, 0)
    return x.reshape(x.shape[0] // 2, 2, *x.shape[1:]).flip(1).reshape(x.shape)


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no truth value to compare by
class Exchange:
    """Which sample's regions stand in for another's absent ones.

    Args:
        outputs: whether a sample's output on its stand-in is the output of the sample that it is taken from. It is not
            where the network is given anything else that differs between the two, a timestep say.
        source: int64 (batch,), the sample that each takes its stand-in from; None for the neighbours of ``partner``.
        alone: boolean (batch,), the samples that have none. They take their own image, moved by half its size along
            every axis: of the right noise level, and of their own condition. None where every sample has another.
    """

    outputs: bool = False
    source: Tensor | None = None
    alone: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, conditions: Conditions | None = None) -> Exchange:
        """Who is exchanged with whom.

        Args:
            x: (batch, ...).
            conditions: None, if nothing is known of what else the network is given: neighbours are exchanged, and no
                sample's output is taken for another's. ``"paired"``, if rows 2i and 2i + 1 have all of it in common.
                Otherwise the timesteps, labels and so on themselves, each (batch, ...): samples are exchanged with
                those alone that have the same. To compare them waits for the device.

        Raises:
            ValueError: for paired samples of an odd number, or conditions of another batch.

        >>> x = torch.zeros(3, 1)
        >>> found = Exchange.of(x, torch.tensor([7, 3, 7]))
        >>> found.source.tolist(), found.alone.tolist(), found.outputs
        ([2, 1, 0], [False, True, False], False)
        """
        if isinstance(conditions, str):
            if conditions != "paired":
                raise ValueError(f"conditions must be tensors, 'paired' or None, got {conditions!r}")
            if len(x) % 2:
                raise ValueError(
                    f"conditions='paired' means rows 2i and 2i + 1, so the batch must be even, got {len(x)}"
                )
            return cls(outputs=True)
        if conditions is None:
            return cls() if len(x) > 1 else cls(alone=torch.ones(1, dtype=torch.bool, device=x.device))
        given = [conditions] if isinstance(conditions, Tensor) else list(conditions)
        for tensor in given:
            if tensor.ndim == 0 or len(tensor) != len(x):
                found = tuple(tensor.shape)
                raise ValueError(f"conditions must have one row for each of the {len(x)} samples, got {found}")
        group = _same_rows([tensor.detach().cpu() for tensor in given])
        source, alone = np.arange(len(x)), np.zeros(len(x), dtype=np.bool_)
        for number in np.unique(group):
            members = np.flatnonzero(group == number)
            source[members], alone[members] = np.roll(members, -1), len(members) == 1
        at, without = torch.as_tensor(source).to(x.device), torch.as_tensor(alone).to(x.device)
        return cls(not alone.any(), at, without if alone.any() else None)

    def stand_in(self, x: Tensor, *, channels: int = 1) -> Tensor:
        """What the absent regions of ``x`` show, a tensor like it."""
        if self.alone is None:
            return self.exchanged(x)
        axes = [axis for axis in range(1, x.ndim) if axis != channels % x.ndim]
        assert len(axes) == len(spatial_size(x, channels))
        moved = x.roll([x.shape[axis] // 2 for axis in axes], axes)
        if len(x) == 1:
            return moved
        return torch.where(self.alone.reshape(-1, *(1,) * (x.ndim - 1)), moved, self.exchanged(x))

    def exchanged(self, values: Tensor) -> Tensor:
        """Each sample's values those of the sample that it takes its stand-in from."""
        return partner(values) if self.source is None else values[self.source]


def _same_rows(conditions: Sequence[Tensor]) -> np.ndarray:
    """A number for every sample, equal where all conditions are."""
    rows = [tensor.reshape(len(tensor), -1).numpy(force=True) for tensor in conditions]
    numbers = [np.unique(row, axis=0, return_inverse=True)[1].reshape(-1) for row in rows if row.shape[1]]
    if not numbers:
        return np.zeros(len(conditions[0]), dtype=np.int64) if conditions else np.zeros(0, dtype=np.int64)
    return np.asarray(np.unique(np.stack(numbers, axis=1), axis=0, return_inverse=True)[1].reshape(-1))


def check_fill(fill: str) -> None:
    """Raise a ValueError unless ``fill`` is one of the stand-ins."""
    if fill not in get_args(Fill):
        raise ValueError(f"fill must be one of {', '.join(get_args(Fill))}, got {fill!r}")


def standard_noise(x: Tensor, *, seed: int = 0, step: int = 0, first_index: int = 0) -> Tensor:
    """Standard normal noise like ``x`` (batch, ...), memory format included.

    Drawn on the CPU, so that every device sees the same.

    Args:
        x: says which shape, type and device.
        seed, step: name the noise.
        first_index: number of the batch's first sample in the global batch, when processes share one; each
            sample's noise depends on its own number, not on the batch it comes in.

    >>> x = torch.zeros(2, 3, 4, 4)
    >>> bool((standard_noise(x)[1:] == standard_noise(x[1:], first_index=1)).all())
    True
    """
    noise = [
        torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(int(bits)), dtype=torch.float64)
        for bits in counter_bits(seed, step, np.arange(first_index, first_index + x.shape[0]))
    ]
    return torch.empty_like(x).copy_(torch.stack(noise), non_blocking=x.is_cuda)  # in x's memory format


def absent_input(
    fill: Fill,
    x: Tensor,
    *,
    noise_level: float | Tensor = 1.0,
    noise: Tensor | None = None,
    exchange: Exchange | None = None,
    channels: int = 1,
    seed: int = 0,
    step: int = 0,
    first_index: int = 0,
) -> Tensor:
    """What replaces ``x`` in absent regions, a tensor like ``x``.

    Args:
        fill: ``"zeros"``, ``"noise"``, ``"exchange"`` or ``"batch_mean"``.
        x: (batch, channels, *size).
        noise_level: standard deviation of the noise, one number or one per sample (batch,).
        noise: the standard normal noise like ``x``, where it has been drawn; else it is drawn here.
        exchange: who is exchanged with whom; neighbours by default.
        channels: the axis of the channels; -1 for (batch, *size, channels).
        seed, step, first_index: name the noise as in ``standard_noise``.

    Raises:
        ValueError: for an unknown fill.
    """
    check_fill(fill)
    if fill == "zeros":
        return torch.zeros_like(x)
    if fill == "exchange":
        return (exchange or Exchange.of(x)).stand_in(x, channels=channels)
    if fill == "batch_mean":
        return torch.zeros_like(x) + x.mean(dim=0, keepdim=True)  # in x's memory format, as the network wants it
    if noise is None:
        noise = standard_noise(x, seed=seed, step=step, first_index=first_index)
    if isinstance(noise_level, Tensor):
        noise_level = noise_level.to(x, non_blocking=x.is_cuda).reshape(-1, *(1,) * (x.ndim - 1))
    return noise * noise_level
