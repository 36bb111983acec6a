"""How samplers walk down a noise schedule, as diffusers' ``scheduler_config.json`` states it, for any of its samplers.

What a schedule is, and what networks predict on it, says ``parameterisation``.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from shapkit_diffusion.denoisers.parameterisation import FlowSchedule, NoiseSchedule, VariancePreserving

Spacing = Literal["leading", "trailing", "linspace"]
Move = tuple[int, int] | tuple[float, float]
"""A timestep and the one that a step leads to from there."""

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

    def moves(self, n_timesteps: int, steps: int) -> list[Move]:
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

    @property
    def largest(self) -> float:
        """The largest pixel of a bounded clean image."""
        return 1.0 if self.thresholding else self.clip_sample_range

    def to_the_image(self) -> DDIM:
        """The same, but the last step leads to the clean image."""
        return replace(self, set_alpha_to_one=True)

    def unbounded(self) -> DDIM:
        """The same, but nothing bounds the clean image."""
        return replace(self, clip_sample=False, thresholding=False)

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


@dataclass(frozen=True)
class FlowEuler:
    """How a flow is sampled: Euler's method, which is DDIM on the flow's schedule, at diffusers' noise levels.

    Args:
        settings: a ``FlowMatchEulerDiscreteScheduler``'s configuration, in which the shift and other spacings are
            stated.
        length: pixels of a latent over the patch's; where the configuration says ``use_dynamic_shifting`` (Flux), the
            shift depends on it.

    >>> [(round(noisier, 3), round(cleaner, 3)) for noisier, cleaner in FlowEuler().moves(1000, 2)]
    [(999.0, 0.0), (0.0, -1.0)]
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    length: int = 256

    bounds = False
    """Whether the predicted clean image is bounded: that of a flow is not."""

    thresholding = False
    """Whether it is bounded by a quantile."""

    largest = math.inf
    """The largest pixel of a bounded clean image."""

    def bounded(self, clean: Tensor, where: Tensor | None = None) -> Tensor:
        """``clean``, as it is."""
        return clean

    def to_the_image(self) -> FlowEuler:
        """The same: the last step leads to the clean image."""
        return self

    def unbounded(self) -> FlowEuler:
        """The same: nothing bounds the clean image."""
        return self

    def moves(self, n_timesteps: int, steps: int) -> list[Move]:
        """Each step's timestep and the one that it leads to, not whole ones; -1 for the clean image.

        Raises:
            ValueError: if ``steps`` is not between 1 and ``n_timesteps``.
        """
        if not 1 <= steps <= n_timesteps:
            raise ValueError(f"steps must be 1..{n_timesteps}, got {steps}")
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(self.settings), num_train_timesteps=n_timesteps)
        if scheduler.config.use_dynamic_shifting:  # as FluxPipeline
            scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], mu=self._shift(scheduler.config))
        else:
            scheduler.set_timesteps(steps)
        schedule = FlowSchedule.of(scheduler.config)
        at = schedule.timesteps_of(scheduler.sigmas.double()).tolist()
        return list(itertools.pairwise(at))

    def _shift(self, config: Mapping[str, Any]) -> float:
        """mu: the logarithm of the shift, linear in the number of tokens between two lengths."""
        least, most = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (most - least)
        return float(config["base_shift"] + slope * (self.length - least))


Sampling = DDIM | FlowEuler


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is of a flow, x_t = (1 - s) x_0 + s noise.

    >>> from diffusers import UniPCMultistepScheduler
    >>> is_flow(FlowMatchEulerDiscreteScheduler().config), is_flow(UniPCMultistepScheduler().config)
    (True, False)
    """
    stated = str(config.get("_class_name", ""))
    if "use_flow_sigmas" in config:
        return bool(config["use_flow_sigmas"])
    return stated.startswith("FlowMatch") or ("shift" in config and "beta_schedule" not in config)


def schedule_of(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule that a scheduler's configuration states, whichever sampler it is of.

    >>> from diffusers import EulerDiscreteScheduler
    >>> schedule_of(EulerDiscreteScheduler().config).alphas_cumprod[[0, 999]]
    tensor([9.9990e-01, 4.0358e-05], dtype=torch.float64)
    """
    if is_flow(config):
        return FlowSchedule.of(config)
    return VariancePreserving(_noise_schedule(config).alphas_cumprod.double())


def sampling_of(config: Mapping[str, Any], *, latent: bool = False, length: int = 256) -> Sampling:
    """How a model is sampled by default, as its scheduler's configuration states; see `DDIM.of` and `FlowEuler`."""
    if not is_flow(config):
        return DDIM.of(config, latent=latent)
    known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    settings = {name: config[name] for name in known if name in config and name != "num_train_timesteps"}
    if config.get("flow_shift") is not None:
        settings["shift"] = config["flow_shift"]
    return FlowEuler(settings, length)


def _noise_schedule(config: Mapping[str, Any]) -> DDPMScheduler:
    return DDPMScheduler(**{name: config[name] for name in _OF_THE_NOISE if config.get(name) is not None})
