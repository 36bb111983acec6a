"""Training of a small autoencoder, from which latent diffusion starts (Rombach et al. 2022), resumable.

A decoder's reach is the floor of every edit's locality: what is before it cannot be more local than it is. So the
networks here are shallow and have no attention, and the decoder learns on composites too: latents of two images put
together along a border must decode to the two images put together along it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor

from shapkit.differentiable import partner
from shapkit.randomness import counter_uniform
from shapkit_diffusion.data.labelled import Images
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.autoencoders import Autoencoder
from shapkit_diffusion.fingerprints import described_data
from shapkit_diffusion.noise.sampling import peak_signal_to_noise
from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.batches import Batch, draw_batch
from shapkit_diffusion.training.config import TrainConfig
from shapkit_diffusion.training.loop import descend, finite, training
from shapkit_diffusion.training.state import TrainingState

MEASURED_IMAGES = 1024
"""Training images on whose latents the scaling factor is measured."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """A training run of an autoencoder. Equal configurations give equal numbers on one machine.

    Args:
        steps: optimiser steps.
        batch_size: images per step; even, because neighbours make composites.
        learning_rate: reached after ``warmup`` steps, then falling to zero along a half cosine.
        warmup: steps of linear increase.
        ema: decay of the exponential moving average of the weights, which is what is kept.
        kl_weight: of the divergence from a standard normal distribution, per latent number, against the mean square
            error of the images in [-1, 1].
        composites: whether the decoder learns on composites of neighbours' latents: one rectangle each, of any size.
        seed: names every random draw.
        flip: mirror half of the images.
        save_every: steps between saved states.
        log_every: steps between lines of ``metrics.jsonl``.

    Raises:
        ValueError: for a number out of its range.
    """

    steps: int = 3500
    batch_size: int = 8
    learning_rate: float = 3e-3
    warmup: int = 50
    ema: float = 0.99
    kl_weight: float = 1e-5
    composites: bool = True
    seed: int = 0
    flip: bool = False
    save_every: int = 250
    log_every: int = 25

    def __post_init__(self) -> None:
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight must be 0 or more, and finite, got {self.kl_weight}")
        _ = self.schedule  # refuses the numbers that are out of range

    @cached_property
    def schedule(self) -> TrainConfig:
        """What of this is the same in every training run: the images of a step, and its learning rate."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("kl_weight", "composites")}
        return TrainConfig(**shared, decay=True)


class AutoencoderLosses(NamedTuple):
    """The losses of a batch, two scalars with gradients."""

    reconstruction: Tensor
    """Mean square error of the images."""
    divergence: Tensor
    """From a standard normal distribution, in nats per latent number."""


def autoencoder_losses(network: AutoencoderKL, batch: Batch, config: AutoencoderConfig, step: int) -> AutoencoderLosses:
    """The losses of a batch.

    Args:
        network: with gradients.
        batch: images, and noise of their latents' shape, from which latents are drawn.
        config: the run.
        step: number of the training step; names the composites' rectangles.
    """
    posterior = network.encode(batch.images).latent_dist
    latents, images = posterior.mean + posterior.std * batch.noise, batch.images
    if config.composites:
        cells = rectangles(config.seed, step, len(latents), *latents.shape[2:]).to(latents.device)
        factor = images.shape[2] // latents.shape[2]
        pixels = cells.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        latents, images = torch.where(cells, partner(latents), latents), torch.where(pixels, partner(images), images)
    reconstruction = (network.decode(latents).sample - images).square().mean()
    return AutoencoderLosses(reconstruction, posterior.kl().sum() / latents.numel())


def rectangles(seed: int, step: int, count: int, height: int, width: int) -> Tensor:
    """Boolean (count, 1, height, width): a rectangle each, whose borders are uniform among the grid's lines.

    >>> rectangles(0, step=3, count=2, height=4, width=4)[0, 0].int()
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 0],
            [1, 1, 1, 0],
            [1, 1, 1, 0]], dtype=torch.int32)
    """

    def inside(axis: int, length: int) -> Tensor:
        drawn = counter_uniform(seed, 3, step, axis, np.arange(2 * count)).reshape(count, 2, 1)
        first, last = torch.tensor(np.sort(np.floor(drawn * (length + 1)), axis=1)).unbind(1)
        lines = torch.arange(length)
        return (first <= lines) & (lines < last)

    return (inside(0, height)[:, :, None] & inside(1, width)[:, None, :])[:, None]


def train_autoencoder(
    network: AutoencoderKL,
    data: Images,
    config: AutoencoderConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Autoencoder:
    """Train ``network`` and leave its averaged weights in ``folder/model``; returns them, frozen.

    The run folder holds ``config.json``, ``metrics.jsonl``, ``state/`` (the last saved state) and, at the end,
    ``model/`` in diffusers' layout, whose ``scaling_factor`` gives latents of training images a deviation of one.

    Args:
        network: to start from; changed in place.
        data: images; their labels are not looked at.
        config: the run.
        folder: the run folder; must be new, unless ``resume``.
        resume: go on from the last saved state of the same configuration, network and data; of a finished run, only
            its model is returned.
        progress: called as ``progress(done, total)`` after every step.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another run), another process trains in it, the
            images do not fit the network, the loss is no longer finite, or there are several processes.
        TrainingStopped: after SIGTERM or SIGUSR1, when the step is done and the state saved.
    """
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise ValueError(f"an autoencoder is trained by one process, got {accelerator.num_processes}")
    latent_shape = _latent_shape(network, data)
    described = {
        "autoencoder": asdict(config),
        "network": _architecture(network),
        "data": described_data(data),
    }
    with RunFolder.held(folder, described, resume=resume) as run:
        return _train_in(run, network, data, config, accelerator, progress, latent_shape)


def _train_in(
    run: RunFolder,
    network: AutoencoderKL,
    data: Images,
    config: AutoencoderConfig,
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None,
    latent_shape: tuple[int, int, int],
) -> Autoencoder:
    network.to(accelerator.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    average = EMAModel(network.parameters(), decay=config.ema)
    state = TrainingState(network, optimizer, average)
    with training(run, state, config, accelerator, progress) as steps:
        for step in steps:
            batch = draw_batch(data, config.schedule, 1, step.number, noise_shape=latent_shape)
            step.figures = _step(state, batch.to(accelerator.device), config, step.number)
    average.copy_to(network.parameters())
    network.register_to_config(scaling_factor=1.0)
    deviation = _latents(Autoencoder(network), data).std()
    network.register_to_config(scaling_factor=float(1 / deviation))
    autoencoder = Autoencoder(network)
    autoencoder.save(run.path / "model")
    return autoencoder


def _step(
    state: TrainingState[AutoencoderKL], batch: Batch, config: AutoencoderConfig, step: int
) -> Callable[[], dict[str, Any]]:
    """One optimiser step; returns what gives the figures to be logged."""
    losses, rate = autoencoder_losses(state.model, batch, config, step), config.schedule.rate(step)
    loss = losses.reconstruction + config.kl_weight * losses.divergence
    norm = descend(state, loss, rate, config.schedule.gradient_clip)

    def figures() -> dict[str, Any]:
        found = finite(step + 1, reconstruction=losses.reconstruction.item(), divergence=losses.divergence.item())
        return found | {"learning_rate": rate, "gradient_norm": float(norm)}

    return figures


def reconstruction_psnr(autoencoder: Autoencoder, images: Tensor) -> float:
    """Mean peak signal-to-noise ratio, dB, of images (n, channels, height, width) in [-1, 1] encoded and decoded."""
    decoded = autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1)
    return float(peak_signal_to_noise(decoded, images).mean())


def _latents(autoencoder: Autoencoder, data: Images) -> Tensor:
    """Latents of training images, spread over the data."""
    chosen: Sequence[int] = np.linspace(0, len(data) - 1, min(MEASURED_IMAGES, len(data))).astype(int).tolist()
    device = next(autoencoder.network.parameters()).device
    return autoencoder.encode(to_unit_range(torch.as_tensor(data.rows(chosen)[0])).to(device))


def _latent_shape(network: AutoencoderKL, data: Images) -> tuple[int, int, int]:
    """Of one image's latents; a ValueError if the network does not take the data's images."""
    channels, height, width = data.rows([0])[0].shape[1:]
    factor = 2 ** (len(network.config["block_out_channels"]) - 1)
    if channels != network.config["in_channels"] or height % factor or width % factor:
        raise ValueError(
            f"the autoencoder takes images of {network.config['in_channels']} channels whose sides are multiples of "
            f"{factor}, the data has {(channels, height, width)}"
        )
    return int(network.config["latent_channels"]), height // factor, width // factor


def _architecture(network: AutoencoderKL) -> dict[str, Any]:
    """What of the network's configuration makes two runs differ."""
    names = ("in_channels", "block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
    return {name: network.config[name] for name in names}
