"""Deterministic sampling: DDIM from noise to image and back, and the mixing of two noises in a region.

With DDIM the image is a function of the noise x_T, so a region of the image is edited by changing that region's noise
and generating again; ``edits`` says how.

Everything here has the shape that the denoiser works on, ``latent_shape``: for a latent model, "image" means latents,
and ``Denoiser.encode`` and ``decode`` lead from and to images.

Timesteps and bounds are those of ``Denoiser.ddim``, which come from the model's own scheduler, so that the images are
what diffusers' ``DDIMScheduler`` makes; every function takes others as ``ddim``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shapkit.randomness import counter_bits
from shapkit_diffusion.denoisers.denoiser import Denoiser, Stage
from shapkit_diffusion.denoisers.parameterisation import NoiseLevel, Prediction, output_between, split
from shapkit_diffusion.denoisers.schedules import DDIM, Sampling


def draw_noise(denoiser: Denoiser, count: int, seed: int, first: int = 0) -> Tensor:
    """Noise x_T number ``first`` to ``first + count - 1`` of the series ``seed``, (count, channels, height, width).

    Drawn on the CPU, one generator per image, so that an image is the same on every device and in every batch.
    """
    shape = denoiser.latent_shape
    rows = [torch.randn(shape, generator=_generator(seed, first + row)) for row in range(count)]
    return torch.stack(rows).to(denoiser.device)


def generate(
    denoiser: Denoiser, noise: Tensor, steps: int = 25, batch_size: int = 64, *, ddim: Sampling | None = None
) -> Tensor:
    """Images (n, channels, height, width), roughly in [-1, 1], that DDIM makes of ``noise`` in ``steps`` steps.

    Args:
        denoiser: the model; left in the mode it was in.
        noise: x_T, (n, channels, height, width).
        steps: network runs per image; of a model that generates in stages (`Denoiser.stages`), in each of them.
        batch_size: images at a time.
        ddim: timesteps and bounds; by default the model's own.

    Raises:
        ValueError: if ``steps`` is not between 1 and the schedule's length, or the noise has another shape.
    """
    _check_shape(denoiser, noise)
    stages, walk = denoiser.stages(), _steps(denoiser, steps, ddim)

    def follow(rows: slice) -> Tensor:
        x = noise[rows]
        for stage in stages:
            begun = stage.begun(x)
            for step in walk:
                x = step.taken(denoiser, begun, x)
        return x

    return _in_batches(denoiser, len(noise), batch_size, follow)


def regenerate(
    denoiser: Denoiser,
    noise: Tensor,
    known_noise: Tensor,
    known: Tensor,
    steps: int = 25,
    batch_size: int = 64,
    *,
    ddim: Sampling | None = None,
) -> Tensor:
    """What ``generate`` makes of ``noise``, where that of another noise is known: `ComposedDenoiser` saves runs.

    A model that generates in stages leaves what does not depend on the difference as it is, bit for bit, and takes no
    step for it; of any other model everything is generated again.

    Args:
        denoiser: the model.
        noise, known_noise: x_T, (n, channels, height, width).
        known: x_0, what ``generate`` made of ``known_noise`` in as many steps.
        steps, batch_size, ddim: as in ``generate``.

    Raises:
        ValueError: as ``generate``, or if the three have not one shape.
    """
    _check_shape(denoiser, noise)
    if not noise.shape == known_noise.shape == known.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (noise, known_noise, known))
        raise ValueError(f"noise, known_noise and known must have one shape, got {shapes}")
    stages = denoiser.stages((noise != known_noise).any(dim=1, keepdim=True).any(dim=0, keepdim=True))
    walk = _steps(denoiser, steps, ddim)

    def follow(rows: slice) -> Tensor:
        x = known[rows]
        for stage in stages:
            x = stage.moved(x, noise[rows])
        for stage in stages:
            begun = stage.begun(x)
            for step in walk:
                x = step.taken(denoiser, begun, x)
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
    ddim: Sampling | None = None,
) -> Tensor:
    """The noise x_T from which ``generate`` with the same ``steps`` makes ``images`` again, shape of ``images``.

    Every step solves the DDIM step backwards by fixed-point iteration (``refinements`` of them after a first guess that
    takes the prediction at the cleaner end), because the plain reversed step loses the image. Where the predicted clean
    image is clipped, several x may lead to one; one of them is found, unless there is none.

    Args:
        denoiser: the model.
        images: (n, channels, height, width) in [-1, 1].
        steps: as in ``generate``.
        refinements: fixed-point iterations per step, at least 0.
        batch_size: images at a time.
        timestep: how noisy the images are: they are x_t at this timestep, and only the noisier steps are taken. -1 for
            clean images.
        ddim: as in ``generate``.

    Raises:
        ValueError: as ``generate``, if ``refinements`` is negative or the timestep none of the schedule, or noisy
            images are those of a model that generates in stages.
    """
    _check_shape(denoiser, images)
    if refinements < 0:
        raise ValueError(f"refinements must be at least 0, got {refinements}")
    if not -1 <= timestep < denoiser.n_timesteps:
        raise ValueError(f"timestep must be -1 (clean) or 0..{denoiser.n_timesteps - 1}, got {timestep}")
    stages = denoiser.stages()
    if timestep >= 0 and len(stages) > 1:
        raise ValueError(f"a model of {len(stages)} stages has no image of one timestep, got timestep {timestep}")
    walk = _steps(denoiser, steps, ddim, least=timestep)

    def climb(rows: slice) -> Tensor:
        x = images[rows]
        for stage in reversed(stages):
            begun = stage.begun(x)
            for step in reversed(walk):
                x = step.undone(denoiser, begun, x, refinements)
        return x

    return _in_batches(denoiser, len(images), batch_size, climb)


def trajectory(
    denoiser: Denoiser, noise: Tensor, steps: int = 25, batch_size: int = 64, *, ddim: Sampling | None = None
) -> Tensor:
    """Every x_t that ``generate`` goes through, (steps + 1, n, channels, height, width): x_T first, x_0 last.

    With several stages, (stages * steps + 1, ...): those of each after those before it.

    Args and errors as of ``generate``.
    """
    _check_shape(denoiser, noise)
    stages, walk = denoiser.stages(), _steps(denoiser, steps, ddim)

    def follow(rows: slice) -> Tensor:
        states = [noise[rows]]
        for stage in stages:
            begun = stage.begun(states[-1])
            for step in walk:
                states.append(step.taken(denoiser, begun, states[-1]))
        return torch.stack(states, dim=1)

    return _in_batches(denoiser, len(noise), batch_size, follow).transpose(0, 1)


def replay(
    denoiser: Denoiser,
    noise: Tensor,
    original: Tensor,
    mask: Tensor,
    batch_size: int = 64,
    *,
    ddim: Sampling | None = None,
) -> Tensor:
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
        ddim: what the trajectory was made with; by default the model's own.

    Raises:
        ValueError: as ``generate``, or if the trajectory is not one of these images.
    """
    stages = denoiser.stages()
    steps = (len(original) - 1) // len(stages)
    _check_shape(denoiser, noise)
    if original.shape[1:] != noise.shape:
        raise ValueError(f"the trajectory is of {tuple(original.shape[1:])}, the noise of {tuple(noise.shape)}")
    walk = _steps(denoiser, steps, ddim)
    inside = (mask > 0).to(noise.device).expand(len(noise), -1, -1, -1)

    def follow(rows: slice) -> Tensor:
        x = torch.where(inside[rows], noise[rows], original[0, rows])
        states = iter(original[1:, rows])
        for stage in stages:
            begun = stage.begun(x)
            for step in walk:
                x = torch.where(inside[rows], step.taken(denoiser, begun, x), next(states))
        return x

    return _in_batches(denoiser, len(noise), batch_size, follow)


def completed(
    denoiser: Denoiser,
    noise: Tensor,
    known: Tensor,
    missing: Tensor,
    steps: int = 25,
    batch_size: int = 64,
    *,
    ddim: Sampling | None = None,
) -> Tensor:
    """Images as ``generate`` makes of ``noise`` where they are missing, and as they are known to be elsewhere.

    After every step what is known is put back, with the noise of that step's timestep, so that what is generated goes
    with it (RePaint, Lugmayr et al. 2022, without its repetitions).

    Args:
        denoiser: the model; left in the mode it was in.
        noise: x_T, (n, channels, height, width).
        known: x_0, of that shape; what stands in missing pixels does not matter.
        missing: bool (n or 1, 1, height, width).
        steps, batch_size, ddim: as in ``generate``.

    Raises:
        ValueError: as ``generate``, or if the shapes do not fit.
    """
    _check_shape(denoiser, noise)
    if known.shape != noise.shape:
        raise ValueError(f"known has shape {tuple(known.shape)}, expected that of the noise, {tuple(noise.shape)}")
    stages, walk = denoiser.stages(), _steps(denoiser, steps, ddim)
    inside = missing.to(noise.device).expand(len(noise), -1, -1, -1)

    def follow(rows: slice) -> Tensor:
        image, own_noise, hole = known[rows], noise[rows], inside[rows]

        def put_back(x: Tensor, level: NoiseLevel, where: Tensor) -> Tensor:
            signal, sigma = level.sampling_factors(x)
            return torch.where(where, signal * image + sigma * own_noise, x)

        x = put_back(own_noise, walk[0].at, ~hole)
        for stage in stages:
            begun, present = stage.begun(x), ~hole if stage.where is None else ~hole & stage.where
            for step in walk:
                x = put_back(step.taken(denoiser, begun, x), step.to, present)
        return torch.where(hole, x, image)

    return _in_batches(denoiser, len(noise), batch_size, follow)


def stride_output(denoiser: Denoiser, x: Tensor, timesteps: Tensor, stride: int, substeps: int) -> Tensor:
    """What the network itself would predict at x_t for one DDIM step to land where ``substeps`` smaller ones do.

    A target for a model that is to sample in steps of ``stride`` timesteps with the accuracy of smaller ones:
    progressive distillation (Salimans and Ho 2022, there with two substeps). One substep is the model's own prediction,
    but for what the model's bounds change of it.

    Args:
        denoiser: the model that takes the smaller steps, bounded as when it is sampled.
        x: x_t, (n, channels, height, width).
        timesteps: int64 (n,).
        stride: timesteps of the single step; near the end of the schedule, what is left to the clean image.
        substeps: of equal length, up to whole timesteps; fewer where the stride has fewer.

    Raises:
        ValueError: if ``stride`` or ``substeps`` is less than one.
    """
    if stride < 1 or substeps < 1:
        raise ValueError(f"stride and substeps must be at least 1, got {stride} and {substeps}")
    ddim = denoiser.ddim.to_the_image()  # from timestep 0, too, there is a step to be taken
    end = (timesteps - stride).clamp(min=-1)
    at, y = timesteps, x
    for substep in range(1, substeps + 1):
        following = timesteps + torch.div((end - timesteps) * substep, substeps, rounding_mode="trunc")
        landed = _Step.between(denoiser, at.clamp(min=0), following, ddim).taken(denoiser, Stage(denoiser), y)
        y = torch.where((at == following).reshape(-1, 1, 1, 1), y, landed)  # the clean image is not denoised again
        at = following
    return _Step.between(denoiser, timesteps, end, ddim).output_for(denoiser.prediction, x, y)


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


def _check_shape(denoiser: Denoiser, x: Tensor) -> None:
    if tuple(x.shape[1:]) != denoiser.latent_shape:
        raise ValueError(f"the denoiser works on {denoiser.latent_shape}, got a batch of {tuple(x.shape[1:])}")


@dataclass(frozen=True)
class _Step:
    """A DDIM step (Song et al. 2021, eq. 12 without noise) from one timestep to another.

    Args:
        timesteps: to begin from, (1,) or one for each sample.
        at, to: signal and noise before and after it, (1, 1, 1, 1) or for each sample.
        ddim: what bounds the clean image.
    """

    timesteps: Tensor
    at: NoiseLevel
    to: NoiseLevel
    ddim: Sampling

    @classmethod
    def between(cls, denoiser: Denoiser, noisier: Tensor, cleaner: Tensor, ddim: Sampling | None = None) -> _Step:
        """The step between timesteps (1,) or (n,); a negative ``cleaner`` is the end, wherever that lies."""
        ddim = denoiser.ddim if ddim is None else ddim
        noisier, cleaner = noisier.to(denoiser.device), cleaner.to(denoiser.device)
        end = 0 if isinstance(ddim, DDIM) and not ddim.set_alpha_to_one else -1
        return cls(noisier, denoiser.schedule.level(noisier), denoiser.schedule.level(cleaner, end=end), ddim)

    def taken(self, denoiser: Denoiser, stage: Stage, x: Tensor, *, undoing: bool = False) -> Tensor:
        """Where the step leads from x where the stage lies, and x elsewhere; bit for bit as diffusers has DDIM."""
        output = stage.output(x, self.timesteps.to(x.device).expand(len(x)))
        clean, noise = split(denoiser.prediction, output, x, *self.at.sampling_factors(x))
        signal, sigma = self.to.sampling_factors(x)
        if self.ddim.bounds:
            bounded = self.ddim.bounded(clean, stage.where)
            clean = torch.lerp(clean, bounded, _held(signal)) if undoing else bounded
        return stage.moved(x, signal * clean + sigma * noise)

    def undone(self, denoiser: Denoiser, stage: Stage, x: Tensor, refinements: int) -> Tensor:
        """What the step leads from to x where the stage lies, and x elsewhere.

        In angles, signal and sigma being a cosine and a sine, a step is a rotation by little, and what it adds depends
        on x even less: so what is missing in x after a step, over the rotation's cosine, is what was missing before. (A
        flow's step keeps x as it is, and there it is the same.) That fixed-point iteration is accelerated (Anderson
        1965).

        A pixel whose clean image is clipped answers through the predicted noise alone. At high noise it does so
        readily. At low noise it would take a pixel far from any image's to make up for the little that was clipped, and
        farther with each step: there the bounds are let go, and no pixel is let go far.
        """
        signal, sigma = self.at.sampling_factors(x)
        kept = self.at.kept_on_the_way_to(self.to, like=x)
        target, guess, solver = self._plausible(x, *self.to.sampling_factors(x)), x, _Anderson()
        for _ in range(refinements + 1):
            missing = (target - self.taken(denoiser, stage, guess, undoing=True)) / kept
            guess = stage.moved(x, self._plausible(solver.next(guess, missing), signal, sigma))
        return guess

    def _plausible(self, x: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        """x no farther from zero than a pixel of a bounded image with noise ever is."""
        if not self.ddim.bounds:
            return x
        most = signal * self.ddim.largest + sigma * _FARTHEST_NOISE
        return torch.clamp(x, -most, most)

    def output_for(self, prediction: Prediction, x: Tensor, y: Tensor) -> Tensor:
        """What the network has to predict at x for the step to lead to y, if nothing bounds the clean image."""
        return output_between(prediction, x, self.at, y, self.to)


def _held(signal: Tensor) -> Tensor:
    """How far bounds are held when a step is undone that ends with this factor of the signal.

    All the way where noise is all there is, and next to nothing where there is less noise than signal; round trips of
    photographs chose the powers.
    """
    held: Tensor = (1 - signal**4) ** 8
    return held


_FARTHEST_NOISE = 5.0
"""In standard deviations: one pixel in a million lies farther out."""


class _Anderson:
    """Fixed-point iteration x + missing(x) for a batch of x, each sped up by its own last two steps."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def next(self, x: Tensor, missing: Tensor) -> Tensor:
        """The next x, shape of ``x``: where, if all went on linearly, the least would be missing."""
        landed, missing = (tensor.flatten(1).double() for tensor in (x + missing, missing))
        before, self.kept = self.kept, [*self.kept[-1:], (landed, missing)]
        if not before:
            return landed.to(x).reshape(x.shape)
        landings = torch.stack([landed - old for old, _ in before], dim=1)
        differences = torch.stack([missing - old for _, old in before], dim=1)
        normal = differences @ differences.transpose(1, 2)
        scale = normal.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        ridge = (1e-6 * scale + torch.finfo(torch.float32).tiny) * torch.eye(len(before)).to(normal)
        shares = torch.linalg.solve(normal + ridge, differences @ missing[:, :, None])
        advanced: Tensor = (landed - (landings * shares).sum(dim=1)).to(x).reshape(x.shape)
        return advanced


def _steps(denoiser: Denoiser, steps: int, ddim: Sampling | None, least: int = -1) -> list[_Step]:
    """The steps from noise to image; the last of those above timestep ``least`` leads there."""
    ddim = denoiser.ddim if ddim is None else ddim
    moves = [(noisier, cleaner) for noisier, cleaner in ddim.moves(denoiser.n_timesteps, steps) if noisier > least]
    if least >= 0 and moves:
        moves[-1] = (moves[-1][0], least)
    return [
        _Step.between(denoiser, torch.tensor([noisier]), torch.tensor([cleaner]), ddim) for noisier, cleaner in moves
    ]


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
