"""RePaint (Lugmayr et al. 2022) through diffusers' classes, on a model of pixels trained without any mask."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import RePaintPipeline, RePaintScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from benchmarks.published_tables.systems.draws import generators
from benchmarks.published_tables.systems.systems import Region
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.noise.sampling import draw_noise, generate


@dataclass(frozen=True)
class RePaint:
    """The region painted anew while the outside is put back, noised, at every step.

    The region's old content is forgotten, and the seed names the new one. Published are 250 steps of DDPM
    (``eta=1``), with 10 resamplings of jumps of 10 steps: 2,410 network runs an image. The defaults here take 95, for
    a CPU.

    Args:
        denoiser: a model of pixels.
        steps: inference steps; they must divide the length of the schedule, because diffusers' scheduler spaces them
            by whole timesteps.
        jump_length: steps that a jump goes back towards noise.
        jump_n_sample: how often each stretch is walked, at least 1, which is no resampling.
        eta: noise of a step, 0 (DDIM) to 1 (DDPM).
        generate_steps: DDIM steps for the system's own images.
        batch_size: images at a time.

    Raises:
        ValueError: for a latent model, or a number out of its range.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> system = RePaint(small_denoiser(size=16, channels=(8, 16)), steps=10, jump_length=2, jump_n_sample=2)
    >>> mask = torch.zeros(1, 1, 16, 16); mask[..., 8:, :] = 1
    >>> images = torch.zeros(1, 3, 16, 16)
    >>> change = system.edit(images, Region("mouth", mask), seed=1) - images
    >>> bool(change[..., :8, :].abs().max() < 1e-6), bool(change[..., 8:, :].abs().max() > 0.1)
    (True, True)
    """

    denoiser: Denoiser = field(repr=False)
    steps: int = 50
    jump_length: int = 5
    jump_n_sample: int = 2
    eta: float = 1.0
    generate_steps: int = 25
    batch_size: int = 64
    name: str = "RePaint"

    def __post_init__(self) -> None:
        if self.denoiser.is_latent:
            raise ValueError("RePaint puts pixels back, and needs a model of pixels: this one works on latents")
        total = self.denoiser.n_timesteps
        if not 1 <= self.steps <= total or total % self.steps:
            raise ValueError(f"steps must divide the schedule's {total} timesteps, got {self.steps}")
        if not 1 <= self.jump_length < self.steps or self.jump_n_sample < 1:
            raise ValueError(
                f"jump_length must be 1..{self.steps - 1} and jump_n_sample at least 1, "
                f"got {self.jump_length} and {self.jump_n_sample}"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}")

    @property
    def pastes(self) -> bool:
        """True: the last step puts the image itself back outside the region."""
        return True

    def generate(self, count: int, seed: int) -> Tensor:
        """Images (count, *image_shape) that DDIM makes of the series ``seed`` of noises."""
        return generate(self.denoiser, draw_noise(self.denoiser, count, seed), self.generate_steps).clamp(-1, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """The images themselves: nothing has to be found in them."""
        return images.clamp(-1, 1)

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """The images with the region painted anew, in [-1, 1]."""
        drawing = generators(seed, region.name, len(images))
        parts = []
        training = self.denoiser.training
        self.denoiser.eval()
        try:
            for start in range(0, len(images), self.batch_size):
                rows = slice(start, start + self.batch_size)
                parts.append(
                    self._painted(images[rows], region.mask.expand(len(images), -1, -1, -1)[rows], drawing[rows])
                )
        finally:
            self.denoiser.train(training)
        return torch.cat(parts)

    def _painted(self, images: Tensor, mask: Tensor, drawing: list[torch.Generator]) -> Tensor:
        pipeline = RePaintPipeline(unet=_NoisePredictor(self.denoiser), scheduler=_scheduler(self.denoiser, drawing))
        pipeline.set_progress_bar_config(disable=True)
        with warnings.catch_warnings():  # that its way to take tensors is going to change
            warnings.simplefilter("ignore", FutureWarning)
            painted = pipeline(
                image=images.clamp(-1, 1),
                mask_image=1 - mask.to(images),  # in this pipeline, zero is painted
                num_inference_steps=self.steps,
                eta=self.eta,
                jump_length=self.jump_length,
                jump_n_sample=self.jump_n_sample,
                generator=drawing,
                output_type="np",
            ).images
        return torch.from_numpy(painted).permute(0, 3, 1, 2).to(images) * 2 - 1


class _NoisePredictor(nn.Module):
    """The denoiser as the pipeline expects a UNet: predicting noise, whatever it was trained to predict."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.dtype, self.device = torch.float32, denoiser.device

    def forward(self, x: Tensor, timestep: Tensor) -> Any:
        timesteps = torch.as_tensor(timestep, device=x.device).long().expand(len(x))
        return UNet2DOutput(sample=self.denoiser.clean_and_noise(self.denoiser(x, timesteps), x, timesteps)[1])


def _scheduler(denoiser: Denoiser, drawing: list[torch.Generator]) -> RePaintScheduler:
    """RePaint's sampler with the model's own betas.

    The pipeline takes a generator an image for the first noise, but hands the scheduler only the first of them for all
    others, which would make an image depend on its neighbours in the batch: here each goes on with its own.
    """

    class PerImage(RePaintScheduler):  # type: ignore[misc]  # diffusers has no types
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(*args[:5], drawing, **kwargs)

        def undo_step(self, sample: Tensor, timestep: int, generator: object = None) -> Any:
            return super().undo_step(sample, timestep, drawing)

    return PerImage(trained_betas=denoiser.scheduler.betas.numpy(), num_train_timesteps=denoiser.n_timesteps)
