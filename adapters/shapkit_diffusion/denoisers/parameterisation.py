"""What a noisy image is made of at a timestep, and what a network may be asked to predict of it.

x_t = signal x_0 + sigma noise. Schedules say how much of each there is; predictions (the noise, the image, a velocity)
lead to the clean image and the noise and back. Sampling, inversion, edits, influence, penalty and training share this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
"""The noise; signal noise - sigma x_0 (Salimans and Ho 2022); x_0; noise - x_0 (Lipman et al. 2023)."""

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


@dataclass(frozen=True)
class NoiseLevel:
    """How much signal and noise x has: float64, of one shape that broadcasts over a batch.

    ``alpha`` is the signal's square where the noise's square is the rest.
    """

    signal: Tensor
    sigma: Tensor
    alpha: Tensor | None = None

    def factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and sigma, with type and device of ``like``."""
        return self.signal.to(like), self.sigma.to(like)

    def sampling_factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The same as diffusers has them: of float32, roots are taken in float32, so that images are bit for bit."""
        if self.alpha is None or like.dtype != torch.float32:
            return self.factors(like)
        alpha = self.alpha.to(like)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def kept_on_the_way_to(self, other: NoiseLevel, like: Tensor) -> Tensor:
        """By how much a step to another level multiplies x, beside what its prediction adds; type of ``like``.

        On a circle (signal^2 + sigma^2 = 1) by the cosine of the angle between the two, on a flow's line by one.
        """
        if self.alpha is None:
            return torch.ones_like(self.signal).to(like)
        signal, sigma = self.sampling_factors(like)
        next_signal, next_sigma = other.sampling_factors(like)
        return next_signal * signal + next_sigma * sigma


class NoiseSchedule(nn.Module):
    """Signal and noise at every timestep; timestep -1 stands for the clean image."""

    @property
    def n_timesteps(self) -> int:
        """Number of timesteps, the first of which is 0."""
        raise NotImplementedError

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar at every timestep, float64; of a flow, that with the same ratio of signal to noise."""
        raise NotImplementedError

    def level(self, timesteps: Tensor, *, end: int = -1) -> NoiseLevel:
        """Signal and noise at timesteps (n,), each (n, 1, 1, 1); below zero those of ``end``: -1, the image, or 0."""
        raise NotImplementedError

    def times(self, timesteps: Tensor) -> Tensor:
        """What the network is told of timesteps (n,)."""
        raise NotImplementedError

    def snr(self, timesteps: Tensor) -> Tensor:
        """(signal / sigma)^2 at timesteps (n,)."""
        alpha = self.alphas_cumprod[timesteps]
        ratio: Tensor = alpha / (1 - alpha)
        return ratio


class VariancePreserving(NoiseSchedule):
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise: DDPM's schedule, and of all that came of it.

    >>> level = VariancePreserving(torch.tensor([0.64, 0.36]).double()).level(torch.tensor([0, -1]))
    >>> level.signal.flatten(), level.sigma.flatten()
    (tensor([0.8000, 1.0000], dtype=torch.float64), tensor([0.6000, 0.0000], dtype=torch.float64))
    """

    remaining: Tensor

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.register_buffer("remaining", alphas_cumprod, persistent=False)

    @property
    def n_timesteps(self) -> int:
        """Number of timesteps."""
        return len(self.remaining)

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar at every timestep, float64."""
        return self.remaining

    def level(self, timesteps: Tensor, *, end: int = -1) -> NoiseLevel:
        """See `NoiseSchedule`."""
        timesteps = timesteps.to(self.remaining.device)
        last = 1.0 if end < 0 else self.remaining[end]
        alpha = torch.where(timesteps < 0, last, self.remaining[timesteps.clamp(min=0)]).reshape(-1, 1, 1, 1)
        return NoiseLevel(alpha.sqrt(), (1 - alpha).sqrt(), alpha)

    def times(self, timesteps: Tensor) -> Tensor:
        """The timesteps themselves."""
        return timesteps


class FlowSchedule(NoiseSchedule):
    """x_t = (1 - s) x_0 + s noise: flow matching, rectified flow. Timestep t of n has u = (t + 1) / n, shifted to s.

    Timesteps need not be whole.

    Args:
        n_timesteps: how many the scheduler has.
        shift: s = shift u / (1 + (shift - 1) u): above one, more of the timesteps are noisy (Esser et al. 2024).

    >>> FlowSchedule(4, shift=3.0).level(torch.tensor([-1, 1, 3])).sigma.flatten()
    tensor([0.0000, 0.7500, 1.0000], dtype=torch.float64)
    """

    sigmas: Tensor

    def __init__(self, n_timesteps: int = 1000, shift: float = 1.0) -> None:
        super().__init__()
        self.shift = shift
        self.register_buffer("sigmas", self._shifted(torch.arange(1, n_timesteps + 1).double() / n_timesteps), False)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> FlowSchedule:
        """The schedule that a scheduler's configuration states; a shift that depends on the size is the sampler's.

        Raises:
            ValueError: if the shift is not positive, or its noise levels run the other way.
        """
        if config.get("invert_sigmas"):
            raise ValueError("invert_sigmas (a flow from noise to image) is not supported")
        shift = 1.0 if config.get("use_dynamic_shifting") else config.get("flow_shift", config.get("shift", 1.0))
        if not isinstance(shift, int | float) or not 0 < shift < float("inf"):
            raise ValueError(f"shift must be a positive number, got {shift!r}")
        return cls(config["num_train_timesteps"], float(shift))

    @property
    def n_timesteps(self) -> int:
        """Number of timesteps."""
        return len(self.sigmas)

    @property
    def alphas_cumprod(self) -> Tensor:
        """(1 - s)^2 / ((1 - s)^2 + s^2) at every timestep, float64."""
        signal = (1 - self.sigmas).square()
        return signal / (signal + self.sigmas.square())

    def level(self, timesteps: Tensor, *, end: int = -1) -> NoiseLevel:
        """See `NoiseSchedule`; the end is the clean image."""
        unshifted = (timesteps.to(self.sigmas.device).double() + 1).clamp(min=0) / self.n_timesteps
        sigma = self._shifted(unshifted).reshape(-1, 1, 1, 1)
        return NoiseLevel(1 - sigma, sigma)

    def times(self, timesteps: Tensor) -> Tensor:
        """n s, as diffusers tells networks, float32."""
        return (self.n_timesteps * self.level(timesteps).sigma.flatten()).float().to(timesteps.device)

    def timesteps_of(self, sigmas: Tensor) -> Tensor:
        """The timesteps, not whole ones, at which s is ``sigmas``, shape of these."""
        unshifted = sigmas / (self.shift - (self.shift - 1) * sigmas)
        return self.n_timesteps * unshifted - 1

    def _shifted(self, unshifted: Tensor) -> Tensor:
        return self.shift * unshifted / (1 + (self.shift - 1) * unshifted)


def target(prediction: Prediction, clean: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """What a network of that kind should predict at signal times ``clean`` plus sigma times ``noise``, their shape."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    if prediction == "flow_prediction":
        return noise - clean
    return signal * noise - sigma * clean


def split(prediction: Prediction, output: Tensor, x: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The clean image and the noise that a prediction at x amounts to; the inverse of `target`.

    Velocities are those of their own schedules: "v_prediction" where signal^2 + sigma^2 is one, "flow_prediction" where
    signal + sigma is.

    >>> one, zero, half = torch.ones(1), torch.zeros(1), torch.tensor([0.5])
    >>> split("flow_prediction", target("flow_prediction", one, zero, half, half), half * one, half, half)
    (tensor([1.]), tensor([0.]))
    """
    if prediction == "epsilon":
        return (x - sigma * output) / signal, output
    if prediction == "sample":
        return output, (x - signal * output) / sigma
    if prediction == "flow_prediction":
        return x - sigma * output, x + signal * output
    return signal * x - sigma * output, signal * output + sigma * x


def output_between(prediction: Prediction, x: Tensor, at: NoiseLevel, y: Tensor, to: NoiseLevel) -> Tensor:
    """What the network has to predict at x for the step to another level to lead to y, if nothing bounds the image."""
    turn = to.signal * at.sigma - to.sigma * at.signal
    of_x, of_y = {
        "epsilon": (to.signal / turn, at.signal / turn),
        "sample": (-to.sigma / turn, -at.sigma / turn),
        "v_prediction": ((to.signal * at.signal + to.sigma * at.sigma) / turn, 1 / turn),
        "flow_prediction": ((to.signal + to.sigma) / turn, (at.signal + at.sigma) / turn),
    }[prediction]
    predicted: Tensor = of_x.to(x) * x - of_y.to(x) * y
    return predicted
