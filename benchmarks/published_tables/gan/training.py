"""Training of the small style-based GAN on rendered faces, resumable; the interpretable GAN is fine-tuned by it too.

The losses are StyleGAN2's: non-saturating, with the gradient penalty R1 on real images every few steps, and an average
of the generator's weights. No picture is shown twice, so that the discriminator has nothing to learn by heart and
augmentation nothing to help with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.published_tables.gan.style_gan import (
    Discriminator,
    GanArchitecture,
    StyleGenerator,
    new_discriminator,
    new_generator,
    save_network,
)
from shapkit.randomness import counter_bits, counter_uniform
from shapkit_diffusion.data.faces import render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.log import SAMPLES
from shapkit_diffusion.training.loop import finite, training
from shapkit_diffusion.training.state import TrainingState

GENERATOR_FILE = "generator.safetensors"
DISCRIMINATOR_FILE = "discriminator.safetensors"


@dataclass(frozen=True)
class GanConfig:
    """A training run of a GAN. Equal configurations give equal numbers on one machine.

    Args:
        architecture: the networks.
        steps: steps, each of the discriminator and then of the generator.
        batch_size: images per step; a multiple of 4, the size of the groups whose deviation the discriminator sees.
        learning_rate: of Adam, whose betas are 0 and 0.99, for both networks.
        gradient_penalty: weight of R1, half the squared gradient of the discriminator at real images.
        penalty_every: steps from one R1 to the next, which weighs as much as those left out.
        mixing: share of the images that take the later layers' styles from a second latent.
        ema: decay of the exponential moving average of the generator's weights, which is what is kept.
        seed: names every random draw.
        save_every: steps between saved states.
        log_every: steps between lines of ``metrics.jsonl``.
        sample_every: steps between grids of images; 0 for none.

    Raises:
        ValueError: for a number out of its range.
    """

    architecture: GanArchitecture = field(default_factory=GanArchitecture)
    steps: int = 5000
    batch_size: int = 16
    learning_rate: float = 2e-3
    gradient_penalty: float = 0.1
    penalty_every: int = 8
    mixing: float = 0.5
    ema: float = 0.998
    seed: int = 0
    save_every: int = 250
    log_every: int = 25
    sample_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "penalty_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 4 or self.batch_size % 4:
            raise ValueError(f"batch_size must be a positive multiple of 4, got {self.batch_size}")
        if self.sample_every < 0:
            raise ValueError(f"sample_every must be 0 or more, got {self.sample_every}")
        for name in ("learning_rate", "gradient_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, and finite, got {getattr(self, name)}")
        for name in ("mixing", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


class Pair(nn.Module):
    """A generator and its discriminator, and what else is trained with them, as one module with one optimiser.

    Adam leaves parameters without a gradient alone, so each of the two steps changes its own network only.
    """

    def __init__(self, generator: StyleGenerator, discriminator: Discriminator, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.extra = extra if extra is not None else nn.Module()


class ExtraLoss(NamedTuple):
    """What is added to the generator's loss: a scalar, and the figures to be logged."""

    loss: Tensor
    figures: Mapping[str, float]


def draw_latents(latent: int, count: int, seed: int, first: int = 0) -> Tensor:
    """Standard normal z (count, latent), number ``first`` and on of the series that ``seed`` names.

    >>> bool((draw_latents(8, 3, seed=1)[2] == draw_latents(8, 1, seed=1, first=2)[0]).all())
    True
    """
    # Box and Muller's transform; 1 - u lies in (0, 1], where the logarithm is finite.
    numbers = np.arange(first, first + count)[:, None]
    radius, angle = (counter_uniform(seed, numbers, np.arange(latent) + latent * part) for part in (0, 1))
    normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
    return torch.as_tensor(normal, dtype=torch.float32)


def mixed_w(generator: StyleGenerator, config: GanConfig, step: int, turn: int) -> Tensor:
    """w (batch_size, layers, latent) of a step's latents: by chance, later layers follow a second latent.

    Args:
        turn: 0 for the discriminator's step, 1 for the generator's.
    """
    count, layers = config.batch_size, generator.architecture.layers
    series = int(counter_bits(config.seed, 1, step, turn))
    w = generator.mapping(draw_latents(generator.architecture.latent, 2 * count, series))
    mixes, place = counter_uniform(config.seed, 2, step, turn, np.arange(2 * count)).reshape(2, count)
    crossing = torch.as_tensor(np.where(mixes < config.mixing, 1 + np.floor(place * (layers - 1)), layers))
    first = torch.arange(layers) < crossing[:, None]
    return torch.where(first[:, :, None], w[:count, None], w[count:, None])


def real_images(config: GanConfig, step: int) -> Tensor:
    """The rendered faces of a step (batch_size, 3, size, size) in [-1, 1]; no step's occur in another."""
    size, count = config.architecture.size, config.batch_size
    faces = render_faces(count, size, seed=config.seed, first=step * count)
    return to_unit_range(torch.as_tensor(faces.images))


def train_gan(
    config: GanConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> StyleGenerator:
    """Train a GAN on rendered faces and leave the averaged generator in ``folder``; returns it, frozen.

    The run folder holds ``config.json``, ``metrics.jsonl``, ``samples/``, ``state/`` (the last saved state) and, at the
    end, ``generator.safetensors`` (averaged) and ``discriminator.safetensors``.

    Args:
        config: the run.
        folder: the run folder; must be new, unless ``resume``.
        resume: go on from the last saved state of the same configuration.
        progress: called as ``progress(done, total)`` after every step.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another run), or a loss is no longer finite.
        TrainingStopped: after SIGTERM or SIGUSR1, when the step is done and the state saved.
    """
    architecture = config.architecture
    pair = Pair(new_generator(architecture, config.seed), new_discriminator(architecture, config.seed))
    with RunFolder.held(folder, {"gan": asdict(config)}, resume=resume) as run:
        train_pair(pair, config, run, progress=progress)
        save_network(pair.discriminator, run.path / DISCRIMINATOR_FILE)
        save_network(pair.generator, run.path / GENERATOR_FILE)  # last: where it is, the run is finished
    return pair.generator


def train_pair(
    pair: Pair,
    config: GanConfig,
    run: RunFolder,
    *,
    extra_loss: Callable[[Pair, list[Tensor], int], ExtraLoss] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a pair from the run's last saved state on, average its generator, and freeze it; see ``train_gan``.

    Args:
        extra_loss: of the pair, the styles of the generator's step and its number; added to the generator's loss.
    """
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    pair.train()
    optimizer = torch.optim.Adam(pair.parameters(), lr=config.learning_rate, betas=(0.0, 0.99))
    average = EMAModel(pair.generator.parameters(), decay=config.ema)
    state = TrainingState(pair, optimizer, average)
    with training(run, state, config, accelerator, progress) as steps:
        for step in steps:
            found = discriminator_step(pair, optimizer, config, step.number)
            found |= generator_step(pair, optimizer, config, step.number, extra_loss)
            average.step(pair.generator.parameters())
            step.figures = partial(finite, step.done, **found)
            if config.sample_every and step.done % config.sample_every == 0 and step.log is not None:
                step.log.samples(_samples(pair.generator, average, config.seed), step.done)
    average.copy_to(pair.generator.parameters())
    pair.eval().requires_grad_(False)


def discriminator_step(pair: Pair, optimizer: torch.optim.Optimizer, config: GanConfig, step: int) -> dict[str, float]:
    """One step of the discriminator; returns the figures to be logged."""
    real = real_images(config, step)
    with torch.no_grad():
        fake = pair.generator.synthesis(pair.generator.styles(mixed_w(pair.generator, config, step, turn=0)))
    penalised = config.gradient_penalty > 0 and step % config.penalty_every == 0
    on_real, on_fake = pair.discriminator(real.requires_grad_(penalised)), pair.discriminator(fake)
    loss = F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
    record = {"discriminator": loss.item(), "on_real": on_real.mean().item(), "on_fake": on_fake.mean().item()}
    if penalised:
        loss = loss + config.penalty_every * config.gradient_penalty * gradient_penalty(on_real, real)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return record


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): half the squared gradient of the logits at real images, mean over the batch."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def generator_step(
    pair: Pair,
    optimizer: torch.optim.Optimizer,
    config: GanConfig,
    step: int,
    extra_loss: Callable[[Pair, list[Tensor], int], ExtraLoss] | None = None,
) -> dict[str, float]:
    """One step of the generator, and of what else is trained; returns the figures to be logged."""
    pair.discriminator.requires_grad_(False)
    optimizer.zero_grad(set_to_none=True)
    styles = pair.generator.styles(mixed_w(pair.generator, config, step, turn=1))
    loss = F.softplus(-pair.discriminator(pair.generator.synthesis(styles))).mean()
    record = {"generator": loss.item()}
    if extra_loss is not None:
        extra = extra_loss(pair, styles, step)
        loss = loss + extra.loss
        record |= extra.figures
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    pair.discriminator.requires_grad_(True)
    return record


@torch.no_grad()
def _samples(generator: StyleGenerator, average: EMAModel, seed: int) -> Tensor:
    average.store(generator.parameters())
    average.copy_to(generator.parameters())
    try:
        series = int(counter_bits(seed, 3))
        images: Tensor = generator(draw_latents(generator.architecture.latent, SAMPLES, series))
        return images.clamp(-1, 1)
    finally:
        average.restore(generator.parameters())
