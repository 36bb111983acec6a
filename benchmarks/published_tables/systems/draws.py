"""What compared systems draw: named by the seed, the region and the image's number, on the CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from shapkit.randomness import counter_bits


def generators(seed: int, region: str, count: int) -> list[torch.Generator]:
    """One generator for each of ``count`` images; equal seeds and regions give equal generators, whatever the batch.

    >>> few, many = generators(5, "mouth", 2), generators(5, "mouth", 3)
    >>> torch.randn(2, generator=few[1]).equal(torch.randn(2, generator=many[1]))
    True
    """
    bits = counter_bits(seed, _number(region), range(count))
    return [torch.Generator().manual_seed(int(number) >> 1) for number in bits]


def region_noise(seed: int, region: str, count: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise (count, *shape), a generator an image."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators(seed, region, count)])


def choices(seed: int, region: str, options: Sequence[Sequence[str]]) -> list[str]:
    """One of each image's options, uniformly.

    Raises:
        ValueError: if an image has none.
    """
    for number, choice in enumerate(options):
        if not choice:
            raise ValueError(f"image {number + 1} has nothing to choose from for {region}")
    bits = counter_bits(seed, _number(region), range(len(options)), 1)
    return [choice[int(number) % len(choice)] for choice, number in zip(options, bits, strict=True)]


def _number(region: str) -> int:
    return int.from_bytes(hashlib.blake2b(region.encode(), digest_size=8).digest(), "little")
