"""Deterministic sampling: DDIM from noise to image and back, and edits of a region's noise.

With DDIM the image is a function of the noise x_T, so a region of the image is edited by changing that region's noise
and generating again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from shapkit.randomness import counter_bits
from shapkit_diffusion.denoisers import Denoiser


def draw_noise(denoiser: Denoiser, count: int, seed: int, first: int = 0) -> Tensor:
    """Noise x_T number ``first`` to ``first + count - 1`` of the series ``seed``, (count, channels, height, width).

    Drawn on the CPU, one generator per image, so that an image is the same on every device and in every batch.
    """
    shape = denoiser.image_shape
    rows = [torch.randn(shape, generator=_generator(seed, first + row)) for row in range(count)]
    return torch.stack(rows).to(denoiser.alphas_cumprod.device)


def generate(denoiser: Denoiser, noise: Tensor, steps: int = 25, batch_size: int = 64) -> Tensor:
    """Images (n, channels, height, width), roughly in [-1, 1], that DDIM makes of ``noise`` in ``steps`` steps.

    Args:
        denoiser: the model; left in the mode it was in.
        noise: x_T, (n, channels, height, width).
        steps: network runs per image, evenly spaced and ending the schedule ("trailing" spacing).
        batch_size: images at a time.

    Raises:
        ValueError: if ``steps`` is not between 1 and the schedule's length, or the noise has another shape.
    """
    _check(denoiser, noise, steps)
    grid = _grid(denoiser, steps)
    return _in_batches(denoiser, noise, batch_size, lambda x: _follow(denoiser, x, list(_pairs(grid))))


def invert(denoiser: Denoiser, images: Tensor, steps: int = 25, refinements: int = 3, batch_size: int = 64) -> Tensor:
    """The noise x_T from which ``generate`` with the same ``steps`` makes ``images`` again, shape of ``images``.

    Every step solves the DDIM step backwards by fixed-point iteration (``refinements`` of them after a first guess that
    takes the prediction at the cleaner end), because the plain reversed step loses the image.

    Args:
        denoiser: the model.
        images: (n, channels, height, width) in [-1, 1].
        steps: as in ``generate``.
        refinements: fixed-point iterations per step, at least 0.
        batch_size: images at a time.

    Raises:
        ValueError: as ``generate``.
    """
    _check(denoiser, images, steps)
    pairs = list(_pairs(_grid(denoiser, steps)))[::-1]

    def climb(x: Tensor) -> Tensor:
        for noisier, cleaner in pairs:
            cosine, sine = _rotation(denoiser, noisier, cleaner, x)
            guess = x
            for _ in range(refinements + 1):
                guess = (x + sine * denoiser.velocity(guess, noisier.expand(len(x)))) / cosine
            x = guess
        return x

    return _in_batches(denoiser, images, batch_size, climb)


def swap(noise: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """``noise`` with the masked pixels taken from ``other``, shape of ``noise``; mask (n or 1, 1, height, width)."""
    return torch.lerp(noise, other, mask.to(noise).expand_as(noise))


def resample(noise: Tensor, mask: Tensor, seed: int) -> Tensor:
    """``noise`` with fresh noise in the masked pixels; row ``i``'s depends on the seed and ``i`` alone."""
    fresh = torch.stack([torch.randn(row.shape, generator=_generator(seed, i)) for i, row in enumerate(noise)])
    return swap(noise, fresh.to(noise), mask)


def peak_signal_to_noise(images: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of images in [-1, 1] against ``reference``, shape (n,)."""
    error = (images - reference).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-20))


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(counter_bits(seed, number)) >> 1)


def _check(denoiser: Denoiser, x: Tensor, steps: int) -> None:
    if not 1 <= steps <= denoiser.n_timesteps:
        raise ValueError(f"steps must be 1..{denoiser.n_timesteps}, got {steps}")
    if tuple(x.shape[1:]) != denoiser.image_shape:
        raise ValueError(f"the denoiser works on {denoiser.image_shape}, got a batch of {tuple(x.shape[1:])}")


def _grid(denoiser: Denoiser, steps: int) -> list[int]:
    """Timesteps from the noisiest to the cleanest, then -1 for the clean image."""
    return [round(denoiser.n_timesteps * i / steps) - 1 for i in range(steps, 0, -1)] + [-1]


def _pairs(grid: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    for noisier, cleaner in pairwise(grid):
        yield torch.tensor([noisier]), torch.tensor([cleaner])


def _rotation(denoiser: Denoiser, noisier: Tensor, cleaner: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle between two timesteps, where signal and noise are cosine and sine of angles."""
    device = denoiser.alphas_cumprod.device
    signal, sigma = denoiser.signal_and_noise(noisier.to(device), like.double())
    next_signal, next_sigma = denoiser.signal_and_noise(cleaner.to(device), like.double())
    cosine = next_signal * signal + next_sigma * sigma
    sine = next_signal * sigma - next_sigma * signal
    return cosine.to(like), sine.to(like)


def _follow(denoiser: Denoiser, x: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 without noise) as a rotation: x' = cos x - sin v."""
    for noisier, cleaner in pairs:
        cosine, sine = _rotation(denoiser, noisier, cleaner, x)
        x = cosine * x - sine * denoiser.velocity(x, noisier.to(x.device).expand(len(x)))
    return x


def _in_batches(denoiser: Denoiser, x: Tensor, batch_size: int, work: Callable[[Tensor], Tensor]) -> Tensor:
    training = denoiser.training
    denoiser.eval()
    try:
        with torch.inference_mode():
            parts = [work(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
    finally:
        denoiser.train(training)
    return torch.cat(parts).clone()
