"""What stands in for an absent region: zeros, fresh noise, another sample of the batch, or the batch mean.

The stand-in is drawn once per sample and shared by every coalition that is compared; were it drawn anew, a
perfectly local network would be penalised for the difference between two draws.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from shapkit.randomness import counter_bits

Fill = Literal["zeros", "noise", "exchange", "batch_mean"]


def partner(x: Tensor) -> Tensor:
    """The batch with neighbours exchanged: row 2i becomes row 2i + 1 and back.

    Neighbours rather than halves, so that pairs stay together when a batch is split over processes. The two
    members of a pair must share whatever else the network is given, the timestep above all.

    Raises:
        ValueError: if the batch is odd.

    >>> partner(torch.tensor([0, 1, 2, 3])).tolist()
    [1, 0, 3, 2]
    """
    if x.shape[0] % 2:
        raise ValueError(f"fill='exchange' pairs neighbours, so the batch must be even, got {x.shape[0]}")
    return x.reshape(x.shape[0] // 2, 2, *x.shape[1:]).flip(1).reshape(x.shape)


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
    seed: int = 0,
    step: int = 0,
    first_index: int = 0,
) -> Tensor:
    """What replaces ``x`` in absent regions, a tensor like ``x``.

    Args:
        fill: ``"zeros"``, ``"noise"``, ``"exchange"`` or ``"batch_mean"``.
        x: (batch, channels, height, width).
        noise_level: standard deviation of the noise, one number or one per sample (batch,).
        noise: the standard normal noise like ``x``, where it has been drawn; else it is drawn here.
        seed, step, first_index: name the noise as in ``standard_noise``.

    Raises:
        ValueError: for an unknown fill, or for ``"exchange"`` of an odd batch.
    """
    check_fill(fill)
    if fill == "zeros":
        return torch.zeros_like(x)
    if fill == "exchange":
        return partner(x)
    if fill == "batch_mean":
        return torch.zeros_like(x) + x.mean(dim=0, keepdim=True)  # in x's memory format, as the network wants it
    if noise is None:
        noise = standard_noise(x, seed=seed, step=step, first_index=first_index)
    if isinstance(noise_level, Tensor):
        noise_level = noise_level.to(x, non_blocking=x.is_cuda).reshape(-1, 1, 1, 1)
    return noise * noise_level
