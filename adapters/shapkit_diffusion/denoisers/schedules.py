"""Noise schedules and DDIM's settings as diffusers' ``scheduler_config.json`` states them, for any of its samplers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

Spacing = Literal["leading", "trailing", "linspace"]

_OF_THE_NOISE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


@dataclass(frozen=True)
class DDIM:
    """How DDIM (Song et al. 2021) samples: at which timesteps, and what bounds the predicted clean image.

    Names, defaults and meaning are those of diffusers' ``DDIMScheduler``, so that the images are the same.

    Args:
        timestep_spacing: ``"trailing"`` begins at the last timestep of the schedule, ``"leading"`` below it (and
            ends at ``steps_offset``), ``"linspace"`` goes from the last to the first.
        steps_offset: added to the timesteps of ``"leading"``.
        set_alpha_to_one: whether the last step leads to the clean image, or to the first timestep's noise level.
        clip_sample: whether the predicted clean image is clipped to ±``clip_sample_range``. A network that predicts
            noise needs it at high noise, where the clean image is a small difference divided by almost nothing.
        clip_sample_range: the largest pixel then.
        thresholding: clip at a quantile of the image's own pixels instead, and scale that to 1 (Saharia et al. 2022).
        dynamic_thresholding_ratio: which quantile.
        sample_max_value: the largest quantile used as a bound; the smallest is 1.

    Raises:
        ValueError: for an unknown spacing or a number out of its range.

    >>> DDIM(timestep_spacing="trailing").moves(1000, 4)
    [(999, 749), (749, 499), (499, 249), (249, -1)]
    >>> DDIM(steps_offset=1).moves(1000, 4)
    [(751, 501), (501, 251), (251, 1), (1, -249)]
    """

    timestep_spacing: Spacing = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def __post_init__(self) -> None:
        if self.timestep_spacing not in get_args(Spacing):
            spacings = ", ".join(get_args(Spacing))
            raise ValueError(f"timestep_spacing must be one of {spacings}, got {self.timestep_spacing!r}")
        if not isinstance(self.steps_offset, int) or self.steps_offset < 0:
            raise ValueError(f"steps_offset must be a number of timesteps, got {self.steps_offset!r}")
        for name in ("set_alpha_to_one", "clip_sample", "thresholding"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.dynamic_thresholding_ratio > 1:
            raise ValueError(f"dynamic_thresholding_ratio must be at most 1, got {self.dynamic_thresholding_ratio}")

    @classmethod
    def of(cls, config: Mapping[str, Any], *, latent: bool = False) -> DDIM:
        """The settings that a scheduler's configuration states, DDIM's own defaults where it states none.

        Args:
            config: of any of diffusers' schedulers.
            latent: whether the model is of latents: they have no bounds, so they are only clipped where the
                configuration says so itself. Most samplers of latents cannot clip and do not name the setting.
        """
        stated = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) is not None}
        if latent:
            stated.setdefault("clip_sample", False)
        return cls(**stated)

    def moves(self, n_timesteps: int, steps: int) -> list[tuple[int, int]]:
        """Each step's timestep and the one that it leads to; negative for the end.

        As in diffusers, where ``steps`` does not divide the schedule, a step does not lead quite to where the next
        begins.

        Raises:
            ValueError: if ``steps`` is not between 1 and ``n_timesteps``, or the offset leads out of the schedule.
        """
        if not 1 <= steps <= n_timesteps:
            raise ValueError(f"steps must be 1..{n_timesteps}, got {steps}")
        scheduler = DDIMScheduler(
            n_timesteps, timestep_spacing=self.timestep_spacing, steps_offset=self.steps_offset, clip_sample=False
        )
        scheduler.set_timesteps(steps)
        timesteps = [int(timestep) for timestep in scheduler.timesteps]
        if timesteps[0] >= n_timesteps:
            raise ValueError(
                f"steps_offset {self.steps_offset} leads to timestep {timesteps[0]} of {n_timesteps} in {steps} steps: "
                "take fewer steps, or another timestep_spacing"
            )
        return [(timestep, timestep - n_timesteps // steps) for timestep in timesteps]

    @property
    def bounds(self) -> bool:
        """Whether the predicted clean image is bounded at all."""
        return self.clip_sample or self.thresholding

    def bounded(self, clean: Tensor, where: Tensor | None = None) -> Tensor:
        """The predicted clean image (n, channels, height, width), clipped or thresholded as the settings say.

        ``where``, boolean and of a shape that broadcasts to one image's, says which pixels a quantile is taken of.

        >>> DDIM(thresholding=True, sample_max_value=2.0).bounded(torch.tensor([[[[0.5, -1.5]]]]))
        tensor([[[[ 0.3344, -1.0000]]]])
        """
        if self.thresholding:
            pixels = clean if where is None else clean[where.expand_as(clean)].reshape(len(clean), -1)
            quantile = torch.quantile(pixels.flatten(1).abs().float(), self.dynamic_thresholding_ratio, dim=1)
            most = quantile.clamp(min=1).clamp(max=self.sample_max_value).to(clean).reshape(-1, 1, 1, 1)
            return clean.clamp(-most, most) / most
        if self.clip_sample:
            return clean.clamp(-self.clip_sample_range, self.clip_sample_range)
        return clean

    def scheduler(self, config: Mapping[str, Any]) -> DDIMScheduler:
        """diffusers' sampler with these settings, on the noise schedule of a scheduler's configuration."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        betas = _noise_schedule(config).betas  # given as numbers, since DDPM knows schedules that DDIM does not
        return DDIMScheduler(
            len(betas), trained_betas=betas.tolist(), prediction_type=config["prediction_type"], **settings
        )


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """alpha_bar at every timestep, float64 (n_timesteps,), whichever sampler the configuration is of.

    >>> from diffusers import EulerDiscreteScheduler
    >>> alphas_cumprod(EulerDiscreteScheduler().config)[[0, 999]]
    tensor([9.9990e-01, 4.0358e-05], dtype=torch.float64)
    """
    remaining: Tensor = _noise_schedule(config).alphas_cumprod
    return remaining.double()


def _noise_schedule(config: Mapping[str, Any]) -> DDPMScheduler:
    return DDPMScheduler(**{name: config[name] for name in _OF_THE_NOISE if config.get(name) is not None})
