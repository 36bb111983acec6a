"""Deterministic sampling: DDIM from noise to image and back, and the mixing of two noises in a region.

With DDIM the image is a function of the noise x_T, so a region of the image is edited by changing that region's noise
and generating again; ``edits`` says how.

Everything here has the shape that the denoiser works on, ``latent_shape``: for a latent model, "image" means latents,
and ``Denoiser.encode`` and ``decode`` lead from and to images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from shapkit.randomness import counter_bits
from shapkit_diffusion.denoisers import Denoiser, Stage


def draw_noise(denoiser: Denoiser, count: int, seed: int, first: int = 0) -> Tensor:
    """Noise x_T number ``first`` to ``first + count - 1`` of the series ``seed``, (count, channels, height, width).

    Drawn on the CPU, one generator per image, so that an image is the same on every device and in every batch.
    """
    shape = denoiser.latent_shape
    rows = [torch.randn(shape, generator=_generator(seed, first + row)) for row in range(count)]
    return torch.stack(rows).to(denoiser.alphas_cumprod.device)


def generate(denoiser: Denoiser, noise: Tensor, steps: int = 25, batch_size: int = 64) -> Tensor:
    """Images (n, channels, height, width), roughly in [-1, 1], that DDIM makes of ``noise`` in ``steps`` steps.

    Args:
        denoiser: the model; left in the mode it was in.
        noise: x_T, (n, channels, height, width).
        steps: network runs per image, evenly spaced and ending the schedule ("trailing" spacing); of a model that
            generates in stages (`Denoiser.stages`), in each of them.
        batch_size: images at a time.

    Raises:
        ValueError: if ``steps`` is not between 1 and the schedule's length, or the noise has another shape.
    """
    _check(denoiser, noise, steps)
    moves = _moves(denoiser, steps)

    def follow(rows: slice) -> Tensor:
        x = noise[rows]
        for stage, pair in moves:
            x = _step(denoiser, stage, x, pair)
        return x

    return _in_batches(denoiser, len(noise), batch_size, follow)


def regenerate(
    denoiser: Denoiser, noise: Tensor, known_noise: Tensor, known: Tensor, steps: int = 25, batch_size: int = 64
) -> Tensor:
    """What ``generate`` makes of ``noise``, where that of another noise is known: `ComposedDenoiser` saves runs.

    A model that generates in stages leaves what does not depend on the difference as it is, bit for bit, and takes no
    step for it; of any other model everything is generated again.

    Args:
        denoiser: the model.
        noise, known_noise: x_T, (n, channels, height, width).
        known: x_0, what ``generate`` made of ``known_noise`` in as many steps.
        steps, batch_size: as in ``generate``.

    Raises:
        ValueError: as ``generate``, or if the three have not one shape.
    """
    _check(denoiser, noise, steps)
    if not noise.shape == known_noise.shape == known.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (noise, known_noise, known))
        raise ValueError(f"noise, known_noise and known must have one shape, got {shapes}")
    stages = denoiser.stages((noise != known_noise).any(dim=1, keepdim=True).any(dim=0, keepdim=True))
    pairs = list(_pairs(_grid(denoiser, steps)))

    def follow(rows: slice) -> Tensor:
        x = known[rows]
        for stage in stages:
            x = stage.moved(x, noise[rows])
        for stage in stages:
            for pair in pairs:
                x = _step(denoiser, stage, x, pair)
        return x

    return _in_batches(denoiser, len(noise), batch_size, follow)


def invert(
    denoiser: Denoiser,
    images: Tensor,
    steps: int = 25,
    refinements: int = 3,
    batch_size: int = 64,
    *,
    timestep: int = -1,
) -> Tensor:
    """The noise x_T from which ``generate`` with the same ``steps`` makes ``images`` again, shape of ``images``.

    Every step solves the DDIM step backwards by fixed-point iteration (``refinements`` of them after a first guess that
    takes the prediction at the cleaner end), because the plain reversed step loses the image.

    Args:
        denoiser: the model.
        images: (n, channels, height, width) in [-1, 1].
        steps: as in ``generate``.
        refinements: fixed-point iterations per step, at least 0.
        batch_size: images at a time.
        timestep: how noisy the images are: they are x_t at this timestep, and only the noisier steps are taken. -1 for
            clean images.

    Raises:
        ValueError: as ``generate``, if ``refinements`` is negative or the timestep none of the schedule, or noisy
            images are those of a model that generates in stages.
    """
    _check(denoiser, images, steps)
    if refinements < 0:
        raise ValueError(f"refinements must be at least 0, got {refinements}")
    if not -1 <= timestep < denoiser.n_timesteps:
        raise ValueError(f"timestep must be -1 (clean) or 0..{denoiser.n_timesteps - 1}, got {timestep}")
    grid = [noisier for noisier in _grid(denoiser, steps) if noisier > timestep]
    stages = denoiser.stages()
    if timestep >= 0 and len(stages) > 1:
        raise ValueError(f"a model of {len(stages)} stages has no image of one timestep, got timestep {timestep}")
    moves = [(stage, pair) for stage in stages for pair in _pairs([*grid, timestep])][::-1]

    def climb(rows: slice) -> Tensor:
        x = images[rows]
        for stage, (noisier, cleaner) in moves:
            cosine, sine = _rotation(denoiser, noisier, cleaner, x)
            timesteps = noisier.to(x.device).expand(len(x))
            guess = x
            for _ in range(refinements + 1):
                guess = stage.moved(x, (x + sine * stage.velocity(guess, timesteps)) / cosine)
            x = guess
        return x

    return _in_batches(denoiser, len(images), batch_size, climb)


def trajectory(denoiser: Denoiser, noise: Tensor, steps: int = 25, batch_size: int = 64) -> Tensor:
    """Every x_t that ``generate`` goes through, (steps + 1, n, channels, height, width): x_T first, x_0 last.

    With several stages, (stages * steps + 1, ...): those of each after those before it.

    Args and errors as of ``generate``.
    """
    _check(denoiser, noise, steps)
    moves = _moves(denoiser, steps)

    def follow(rows: slice) -> Tensor:
        states = [noise[rows]]
        for stage, pair in moves:
            states.append(_step(denoiser, stage, states[-1], pair))
        return torch.stack(states, dim=1)

    return _in_batches(denoiser, len(noise), batch_size, follow).transpose(0, 1)


def replay(denoiser: Denoiser, noise: Tensor, original: Tensor, mask: Tensor, batch_size: int = 64) -> Tensor:
    """Images as ``generate`` makes of ``noise``, but everything outside the mask follows another trajectory.

    After every step x_t is put back to ``original`` wherever the mask is zero, so that the result there is bit for
    bit the original's and the inside is generated to go with it. (RePaint, Lugmayr et al. 2022, does so with noised
    versions of the image; here the trajectory is known.)

    Args:
        denoiser: the model; left in the mode it was in.
        noise: x_T, (n, channels, height, width).
        original: what ``trajectory`` returned for the same n images; says how many steps there are.
        mask: (n or 1, 1, height, width), not zero where the image may change.
        batch_size: images at a time.

    Raises:
        ValueError: as ``generate``, or if the trajectory is not one of these images.
    """
    steps = (len(original) - 1) // len(denoiser.stages())
    _check(denoiser, noise, steps)
    if original.shape[1:] != noise.shape:
        raise ValueError(f"the trajectory is of {tuple(original.shape[1:])}, the noise of {tuple(noise.shape)}")
    moves = _moves(denoiser, steps)
    inside = (mask > 0).to(noise.device).expand(len(noise), -1, -1, -1)

    def follow(rows: slice) -> Tensor:
        x = torch.where(inside[rows], noise[rows], original[0, rows])
        for (stage, pair), before in zip(moves, original[1:, rows], strict=True):
            x = torch.where(inside[rows], _step(denoiser, stage, x, pair), before)
        return x

    return _in_batches(denoiser, len(noise), batch_size, follow)


def stride_velocity(denoiser: Denoiser, x: Tensor, timesteps: Tensor, stride: int, substeps: int) -> Tensor:
    """The velocity whose single DDIM step from x_t over ``stride`` timesteps lands where ``substeps`` smaller ones do.

    A target for a model that is to sample in steps of ``stride`` with the accuracy of smaller ones: progressive
    distillation (Salimans and Ho 2022, there with two substeps). One substep is the model's own velocity.

    Args:
        denoiser: the model that takes the smaller steps.
        x: x_t, (n, channels, height, width).
        timesteps: int64 (n,).
        stride: timesteps of the single step; near the end of the schedule, what is left to the clean image.
        substeps: of equal length, up to whole timesteps; fewer where the stride has fewer.

    Raises:
        ValueError: if ``stride`` or ``substeps`` is less than one.
    """
    if stride < 1 or substeps < 1:
        raise ValueError(f"stride and substeps must be at least 1, got {stride} and {substeps}")
    end = (timesteps - stride).clamp(min=-1)
    at, y = timesteps, x
    for substep in range(1, substeps + 1):
        following = timesteps + torch.div((end - timesteps) * substep, substeps, rounding_mode="trunc")
        cosine, sine = _rotation(denoiser, at, following, y)
        y = cosine * y - sine * denoiser.velocity(y, at.clamp(min=0))
        at = following
    cosine, sine = _rotation(denoiser, timesteps, end, x)
    return (cosine * x - y) / sine


def swap(noise: Tensor, other: Tensor, mask: Tensor, strength: float = 1.0) -> Tensor:
    """``noise`` mixed with ``other`` in the mask, such that two independent unit normals make a unit normal.

    At a pixel with mask m the result is cos(a) noise + sin(a) other with a = m arcsin(strength): the variance is
    cos^2 + sin^2 = 1 for soft masks too, where a linear mix would fall to 1/2. Strength 1 in a hard mask takes over
    ``other`` bit for bit; strength 0, and pixels outside the mask, leave ``noise`` bit for bit.

    Args:
        noise: (n, channels, height, width).
        other: of that shape, or one for all images.
        mask: (n or 1, 1, height, width) in [0, 1].
        strength: in [0, 1]; within a hard mask sqrt(1 - strength^2) is the correlation with ``noise``.

    Raises:
        ValueError: if the strength lies outside [0, 1].

    >>> swap(torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3), torch.tensor([[[[0.0, 1.0, 1.0]]]]), 0.6)
    tensor([[[[0.0000, 0.6000, 0.6000]]]])
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    sine = torch.sin(mask.to(noise.device, torch.float64) * math.asin(strength))
    mixed = (1 - sine.square()).sqrt().to(noise) * noise + sine.to(noise) * other.to(noise)
    return torch.where(sine > 0, mixed, noise)


def peak_signal_to_noise(images: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of images in [-1, 1] against ``reference``, shape (n,)."""
    error = (images - reference).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-20))


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(counter_bits(seed, number)) >> 1)


def _check(denoiser: Denoiser, x: Tensor, steps: int) -> None:
    if not 1 <= steps <= denoiser.n_timesteps:
        raise ValueError(f"steps must be 1..{denoiser.n_timesteps}, got {steps}")
    if tuple(x.shape[1:]) != denoiser.latent_shape:
        raise ValueError(f"the denoiser works on {denoiser.latent_shape}, got a batch of {tuple(x.shape[1:])}")


def _grid(denoiser: Denoiser, steps: int) -> list[int]:
    """Timesteps from the noisiest to the cleanest, then -1 for the clean image."""
    return [round(denoiser.n_timesteps * i / steps) - 1 for i in range(steps, 0, -1)] + [-1]


Pair = tuple[Tensor, Tensor]
"""The noisier and the cleaner timestep of a step."""


def _moves(denoiser: Denoiser, steps: int) -> list[tuple[Stage, Pair]]:
    """The steps from noise to image, stage by stage."""
    return [(stage, pair) for stage in denoiser.stages() for pair in _pairs(_grid(denoiser, steps))]


def _pairs(grid: list[int]) -> Iterator[Pair]:
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


def _step(denoiser: Denoiser, stage: Stage, x: Tensor, pair: Pair) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 without noise) as a rotation, where the stage lies: x' = cos x - sin v."""
    noisier, cleaner = pair
    cosine, sine = _rotation(denoiser, noisier, cleaner, x)
    return stage.moved(x, cosine * x - sine * stage.velocity(x, noisier.to(x.device).expand(len(x))))


def _in_batches(denoiser: Denoiser, count: int, batch_size: int, work: Callable[[slice], Tensor]) -> Tensor:
    """What ``work`` makes of the rows of each batch, joined; the denoiser in evaluation mode meanwhile."""
    training = denoiser.training
    denoiser.eval()
    try:
        with torch.inference_mode():
            parts = [work(slice(start, start + batch_size)) for start in range(0, count, batch_size)]
    finally:
        denoiser.train(training)
    return torch.cat(parts).clone()
