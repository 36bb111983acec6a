"""Noise schedules and predictions: signal, noise and what a network is asked for, of DDPMs and of flows."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shapkit.differentiable import min_snr
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.parameterisation import (
    PREDICTIONS,
    FlowSchedule,
    NoiseLevel,
    Prediction,
    VariancePreserving,
    output_between,
    split,
    target,
)
from shapkit_diffusion.denoisers.schedules import FlowEuler, is_flow, schedule_of
from shapkit_diffusion.noise.sampling import draw_noise, generate, invert, peak_signal_to_noise, stride_output

FLOWS: dict[str, dict[str, Any]] = {
    "straight": {},
    "shifted": {"shift": 3.0},
    "karras": {"use_karras_sigmas": True},
    "to a terminal": {"shift": 2.0, "shift_terminal": 0.02},
    "by the size": {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 256},
    "linearly by the size": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
}


def flow(tmp_path: Path, **settings: Any) -> Denoiser:
    """A small network, with random weights that do something, loaded with a flow's scheduler."""
    unet = small_denoiser(size=16, channels=(8, 16), seed=4).unet
    DDPMPipeline(unet, FlowMatchEulerDiscreteScheduler(**settings)).save_pretrained(tmp_path)
    return load_denoiser(tmp_path)


def level(prediction: Prediction, share: float) -> NoiseLevel:
    """Signal and noise on the line of a flow, or on the circle of a DDPM."""
    signal = torch.tensor([[[[share]]]], dtype=torch.float64)
    if prediction == "flow_prediction":
        return NoiseLevel(signal, 1 - signal)
    return NoiseLevel(signal, (1 - signal.square()).sqrt(), signal.square())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_predictions_lead_to_image_and_noise_and_to_other_levels_and_back(
    prediction: Prediction, share: float, other: float
) -> None:
    clean, noise = torch.randn(2, 1, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at, to = level(prediction, share), level(prediction, other)
    x = at.signal * clean + at.sigma * noise
    output = target(prediction, clean, noise, at.signal, at.sigma)
    torch.testing.assert_close(split(prediction, output, x, at.signal, at.sigma), (clean, noise))
    if abs(share - other) > 0.01:
        y = to.signal * clean + to.sigma * noise
        torch.testing.assert_close(output_between(prediction, x, at, y, to), output)


def test_velocities_are_the_derivatives_of_x_along_the_schedule() -> None:
    clean, noise, by = torch.tensor(0.3).double(), torch.tensor(-1.2).double(), 1e-6
    s = torch.tensor(0.4).double()
    difference = ((1 - s - by) * clean + (s + by) * noise - (1 - s) * clean - s * noise) / by
    torch.testing.assert_close(target("flow_prediction", clean, noise, 1 - s, s), difference, rtol=1e-6, atol=1e-6)
    a = torch.tensor(0.7).double()
    turned = (torch.cos(a + by) * clean + torch.sin(a + by) * noise - torch.cos(a) * clean - torch.sin(a) * noise) / by
    torch.testing.assert_close(target("v_prediction", clean, noise, a.cos(), a.sin()), turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", FLOWS.values(), ids=FLOWS)
@pytest.mark.parametrize("steps", [2, 7, 25])
def test_a_flow_is_generated_as_diffusers_euler_does(settings: dict[str, Any], steps: int, tmp_path: Path) -> None:
    denoiser = flow(tmp_path, **settings)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    if settings.get("use_dynamic_shifting"):  # as FluxPipeline does: 16 x 16 pixels are 64 tokens
        low, high = scheduler.config["base_image_seq_len"], scheduler.config["max_image_seq_len"]
        mu = 0.5 + (1.15 - 0.5) * (64 - low) / (high - low)
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], mu=mu)
    else:
        scheduler.set_timesteps(steps)
    noise = draw_noise(denoiser, 2, seed=0)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(denoiser.unet(x, t).sample, t, x, return_dict=False)[0]
    torch.testing.assert_close(generate(denoiser, noise, steps), x, rtol=1e-3, atol=1e-4)


def test_a_flows_noisy_images_and_targets_are_those_it_is_trained_on() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.5)
    denoiser = Denoiser(small_denoiser(size=16, channels=(8, 16)).unet, scheduler)
    clean, noise, timesteps = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16), torch.tensor([0, 500, 999])
    theirs = scheduler.timesteps.flip(0)[timesteps]  # diffusers counts from the noisy end
    torch.testing.assert_close(denoiser.schedule.times(timesteps), theirs)
    expected = scheduler.scale_noise(clean, theirs, noise)
    torch.testing.assert_close(denoiser.add_noise(clean, noise, timesteps), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(denoiser.target(clean, noise, timesteps), noise - clean)
    assert torch.equal(denoiser.add_noise(clean, noise, torch.tensor([-1] * 3)), clean)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_inverted(shift: float, tmp_path: Path) -> None:
    denoiser = flow(tmp_path, shift=shift)
    noise = draw_noise(denoiser, 3, seed=1)
    images = generate(denoiser, noise, 25)
    found = invert(denoiser, images, 25, refinements=5)
    assert float(peak_signal_to_noise(generate(denoiser, found, 25), images).min()) > 50
    halfway = denoiser.add_noise(images, noise, torch.full((3,), 499))
    up = invert(denoiser, halfway, 25, refinements=5, timestep=499)
    assert up.isfinite().all() and not torch.equal(up, halfway)


def test_a_flows_stride_lands_where_small_steps_do(tmp_path: Path) -> None:
    denoiser = flow(tmp_path)
    x, timesteps = draw_noise(denoiser, 2, seed=0), torch.tensor([999, 400])
    with torch.no_grad():
        output = stride_output(denoiser, x, timesteps, 40, 4)
        y = x
        for step in range(4):  # Euler's method, ten timesteps at a time
            at = timesteps - 10 * step
            y = y - 0.01 * denoiser(y, at)
        torch.testing.assert_close(x - 0.04 * output, y, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            stride_output(denoiser, x, timesteps, 40, 1), denoiser(x, timesteps), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("sampler", [UniPCMultistepScheduler, DPMSolverMultistepScheduler])
def test_samplers_of_both_kinds_say_which(sampler: Any, tmp_path: Path) -> None:
    unet = small_denoiser(size=16, channels=(8, 16), seed=4).unet
    scheduler = sampler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    denoiser = load_denoiser(tmp_path)
    assert isinstance(denoiser.schedule, FlowSchedule) and denoiser.schedule.shift == 3
    assert denoiser.prediction == "flow_prediction" and isinstance(denoiser.ddim, FlowEuler)
    assert denoiser.ddim.settings["shift"] == 3
    assert isinstance(schedule_of(sampler().config), VariancePreserving)
    assert is_flow(FlowMatchHeunDiscreteScheduler().config)


def test_predictions_that_do_not_suit_the_schedule_are_refused() -> None:
    unet = small_denoiser(size=16, channels=(8, 16)).unet
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'flow_"):
        Denoiser(unet, UniPCMultistepScheduler(prediction_type="flow_prediction"))
    with pytest.raises(ValueError, match="a flow's prediction_type must be one of epsilon, sample, flow_prediction"):
        Denoiser(unet, UniPCMultistepScheduler(prediction_type="v_prediction", use_flow_sigmas=True))


def test_a_flow_is_saved_and_opened_by_either_side(tmp_path: Path) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction="flow_prediction", seed=4)
    denoiser.save(tmp_path / "flow")
    again, x = load_denoiser(tmp_path / "flow"), draw_noise(denoiser, 2, seed=0)
    assert torch.equal(generate(again, x, 5), generate(denoiser, x, 5))
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "flow", local_files_only=True)
    assert type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler


def test_the_moves_of_a_flow_fall_to_the_image() -> None:
    moves = FlowEuler({"shift": 3.0}).moves(1000, 10)
    assert len(moves) == 10 and moves[0][0] == 999 and moves[-1][1] == -1
    assert all(noisier > cleaner for noisier, cleaner in moves)
    assert all(first[1] == second[0] for first, second in pairwise(moves))
    with pytest.raises(ValueError, match=r"steps must be 1\.\.1000, got 0"):
        FlowEuler().moves(1000, 0)


@given(st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_min_snr_of_a_flow_is_the_images_loss(s: float) -> None:
    snr = torch.tensor(((1 - s) / s) ** 2, dtype=torch.float64)
    error, sigma = 0.37, s
    of_image = min_snr(snr) * error**2
    of_velocity = min_snr(snr, prediction="flow_prediction") * (error / sigma) ** 2  # noise - x_0, at x given
    assert math.isclose(float(of_image), float(of_velocity), rel_tol=1e-9)


def test_signal_to_noise_of_a_flow() -> None:
    schedule = FlowSchedule(10)
    sigma: Tensor = schedule.sigmas[:9]
    torch.testing.assert_close(schedule.snr(torch.arange(9)), ((1 - sigma) / sigma).square())
