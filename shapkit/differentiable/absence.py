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


def absent_input(
    fill: Fill,
    x: Tensor,
    *,
    noise_level: float | Tensor = 1.0,
    seed: int = 0,
    step: int = 0,
    first_index: int = 0,
) -> Tensor:
    """What replaces ``x`` in absent regions, a tensor like ``x``.

    Args:
        fill: ``"zeros"``, ``"noise"``, ``"exchange"`` or ``"batch_mean"``.
        x: (batch, channels, height, width).
        noise_level: standard deviation of the noise, one number or one per sample (batch,).
        seed, step: name the noise; drawn on the CPU, so every device sees the same.
        first_index: number of the batch's first sample in the global batch, when processes share one; each
            sample's noise depends on its own number, not on the batch it comes in.

    Raises:
        ValueError: for an unknown fill, or for ``"exchange"`` of an odd batch.
    """
    check_fill(fill)
    if fill == "zeros":
        return torch.zeros_like(x)
    if fill == "exchange":
        return partner(x)
    if fill == "batch_mean":
        return x.mean(dim=0, keepdim=True).expand_as(x)
    noise = torch.stack(
        [
            torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(int(bits)), dtype=torch.float64)
            for bits in counter_bits(seed, step, np.arange(first_index, first_index + x.shape[0]))
        ]
    ).to(x, non_blocking=x.is_cuda)
    if isinstance(noise_level, Tensor):
        noise_level = noise_level.to(x, non_blocking=x.is_cuda).reshape(-1, 1, 1, 1)
    return noise * noise_level
