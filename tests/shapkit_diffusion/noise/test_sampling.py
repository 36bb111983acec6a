"""DDIM against diffusers' own, its inversion, replayed trajectories, and the mix of two noises in a mask."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.schedules import DDIM
from shapkit_diffusion.noise.sampling import (
    _Step,
    draw_noise,
    generate,
    invert,
    peak_signal_to_noise,
    regenerate,
    replay,
    stride_output,
    swap,
    trajectory,
)

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def _by_diffusers(denoiser: Denoiser, scheduler: DDIMScheduler, noise: Tensor, steps: int) -> Tensor:
    """What diffusers' own sampling loop makes of the noise."""
    scheduler.set_timesteps(steps)
    x = noise
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            x = scheduler.step(denoiser(x, timestep.expand(len(x))), timestep, x).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 7, 30, 50])  # some divide the schedule, some do not
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_generation_is_that_of_diffusers_ddim(prediction: str, spacing: str, steps: int) -> None:
    inner = small_denoiser(size=16, channels=(8, 16), seed=4)
    scheduler = DDIMScheduler(prediction_type=prediction, timestep_spacing=spacing)
    denoiser = Denoiser(inner.unet, scheduler)
    noise = draw_noise(denoiser, 3, seed=0)
    expected = _by_diffusers(denoiser, scheduler, noise, steps)
    # Bit for bit, or random weights that predict noise would lead elsewhere: they blow up every difference.
    assert torch.equal(generate(denoiser, noise, steps=steps), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_sample": False, "beta_end": 0.005},  # betas with which random weights do not explode unclipped
        {"clip_sample_range": 0.4},
        {"clip_sample_range": 3.0},
        {"thresholding": True, "sample_max_value": 2.0},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 5.0},
        {"steps_offset": 1},
        {"set_alpha_to_one": False},
        {"steps_offset": 1, "set_alpha_to_one": False, "beta_schedule": "scaled_linear"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample", "timestep_spacing": "linspace"},
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
        {"num_train_timesteps": 64, "trained_betas": [0.01 * (k + 1) / 10 for k in range(64)]},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_generation_follows_every_setting_of_the_folders_scheduler(settings: dict[str, Any], tmp_path: Path) -> None:
    inner = small_denoiser(size=16, channels=(8, 16), seed=4)
    DDPMPipeline(inner.unet, DDIMScheduler(**settings)).save_pretrained(tmp_path)
    denoiser, scheduler = load_denoiser(tmp_path), DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    noise = draw_noise(denoiser, 3, seed=0)
    expected = _by_diffusers(denoiser, scheduler, noise, 10)
    assert torch.equal(generate(denoiser, noise, steps=10), expected)
    assert torch.equal(trajectory(denoiser, noise, steps=10)[-1], expected)


@pytest.mark.parametrize(
    "scheduler",
    [DDPMScheduler(), PNDMScheduler(), EulerDiscreteScheduler(), DPMSolverMultistepScheduler(), LMSDiscreteScheduler()],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_every_sampler_of_a_schedule_generates_what_ddim_does_with_its_settings(scheduler: Any, tmp_path: Path) -> None:
    DDPMPipeline(small_denoiser(size=16, channels=(8, 16), seed=4).unet, scheduler).save_pretrained(tmp_path)
    denoiser, ddim = load_denoiser(tmp_path), DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    noise = draw_noise(denoiser, 2, seed=0)
    expected = _by_diffusers(denoiser, ddim, noise, 10)
    assert torch.equal(generate(denoiser, noise, steps=10), expected)


def test_settings_are_overridden_for_a_call_or_for_the_model() -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction="epsilon", seed=4)
    noise = draw_noise(denoiser, 2, seed=0)
    assert float(generate(denoiser, noise, 10).abs().max()) <= 1
    free = replace(denoiser.ddim, clip_sample=False, timestep_spacing="trailing", steps_offset=0)
    unbounded = generate(denoiser, noise, 10, ddim=free)
    assert float(unbounded.abs().max()) > 1  # the division by almost nothing
    states = trajectory(denoiser, noise, 10, ddim=free)
    nowhere = torch.zeros(1, 1, 16, 16)
    assert torch.equal(states[-1], unbounded)
    assert torch.equal(replay(denoiser, noise, states, 1 - nowhere, ddim=free), unbounded)
    again = regenerate(denoiser, noise, torch.zeros_like(noise), torch.zeros_like(noise), 10, ddim=free)
    assert torch.equal(again, unbounded)
    denoiser.ddim = free
    assert torch.equal(generate(denoiser, noise, 10), unbounded)


def test_settings_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="timestep_spacing must be one of leading, trailing, linspace, got 'even'"):
        DDIM(timestep_spacing="even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps_offset must be a number of timesteps, got -1"):
        DDIM(steps_offset=-1)
    with pytest.raises(ValueError, match="clip_sample must be True or False, got 'no'"):
        DDIM(clip_sample="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="clip_sample_range must be a positive number, got 0"):
        DDIM(clip_sample_range=0)
    with pytest.raises(ValueError, match="dynamic_thresholding_ratio must be at most 1, got 2"):
        DDIM(dynamic_thresholding_ratio=2)
    with pytest.raises(ValueError, match="steps_offset 1 leads to timestep 1000 of 1000 in 1000 steps"):
        DDIM(steps_offset=1).moves(1000, 1000)


def test_latents_are_not_clipped_unless_the_scheduler_says_so() -> None:
    assert DDIM.of(PNDMScheduler().config).clip_sample
    assert not DDIM.of(PNDMScheduler().config, latent=True).clip_sample
    assert DDIM.of(DDIMScheduler(clip_sample=True).config, latent=True).clip_sample


class _NoisePredictor(torch.nn.Module):
    """The best noise prediction for images of N(0, 0.3^2) that are grey, with the small error of a trained network."""

    def __init__(self, scheduler: DDPMScheduler, config: Any) -> None:
        super().__init__()
        self.config, self.alphas = config, scheduler.alphas_cumprod
        self.mix = torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
        torch.nn.init.normal_(self.mix.weight, std=0.02, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor, timesteps: Tensor) -> Any:
        alpha = self.alphas[timesteps].reshape(-1, 1, 1, 1)
        best = (1 - alpha).sqrt() * x / (0.09 * alpha + 1 - alpha)
        return UNet2DOutput(sample=best + self.mix(x))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_noise_predictors_keep_to_the_range_and_go_round(schedule: str, spacing: str) -> None:
    scheduler = DDPMScheduler(beta_schedule=schedule, timestep_spacing=spacing)
    config = small_denoiser(size=16, channels=(8, 16)).unet.config
    denoiser = Denoiser(_NoisePredictor(scheduler, config), scheduler)
    images = generate(denoiser, draw_noise(denoiser, 8, seed=0), steps=25)
    assert float(images.abs().max()) <= 1
    assert 0.2 < float(images.std()) < 0.6  # 0.3, and more where the network's error is blown up before it is clipped
    given = 0.3 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    noise = invert(denoiser, given, steps=25)
    assert bool(torch.isfinite(noise).all())
    psnr = peak_signal_to_noise(generate(denoiser, noise, steps=25), given)
    assert float(psnr.min()) > 40


def test_images_do_not_depend_on_the_batch_size(tiny: Denoiser) -> None:
    noise = draw_noise(tiny, 5, seed=2)
    torch.testing.assert_close(
        generate(tiny, noise, steps=4, batch_size=2), generate(tiny, noise, steps=4), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(draw_noise(tiny, 2, seed=2, first=3), noise[3:], rtol=0, atol=0)


def test_inversion_makes_the_image_again_and_refinement_helps(tiny: Denoiser) -> None:
    images = torch.tanh(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))

    def quality(refinements: int) -> float:
        noise = invert(tiny, images, steps=20, refinements=refinements)
        return float(peak_signal_to_noise(generate(tiny, noise, steps=20), images).min())

    assert quality(3) > 60  # dB; the plain reversed step reaches about 40 on this network
    assert quality(3) > quality(0) + 10


def test_generation_leaves_the_mode_and_gradients_alone(tiny: Denoiser) -> None:
    tiny.train()
    images = generate(tiny, draw_noise(tiny, 2, seed=0), steps=2)
    assert tiny.training and not images.requires_grad
    (images * 2).add_(1)  # an ordinary tensor, not one locked by inference mode


def test_a_trajectory_leads_from_the_noise_to_the_image(tiny: Denoiser) -> None:
    noise = draw_noise(tiny, 3, seed=0)
    states = trajectory(tiny, noise, steps=4, batch_size=2)
    assert states.shape == (5, 3, 3, 16, 16)
    assert torch.equal(states[0], noise)
    assert torch.equal(states[-1], generate(tiny, noise, steps=4, batch_size=2))


def test_a_replay_follows_the_edited_noise_inside_and_the_original_outside(tiny: Denoiser) -> None:
    noise, other = draw_noise(tiny, 3, seed=0), draw_noise(tiny, 3, seed=1)
    states = trajectory(tiny, noise, steps=4, batch_size=2)
    everywhere, nowhere = torch.ones(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    assert torch.equal(replay(tiny, other, states, everywhere, 2), generate(tiny, other, steps=4, batch_size=2))
    assert torch.equal(replay(tiny, other, states, nowhere, 2), states[-1])
    mask = torch.zeros(3, 1, 16, 16)
    for row in range(3):
        mask[row, :, 4 * row : 4 * row + 4, 2:9] = 0.5  # soft masks count as inside
    edited = swap(noise, other, mask)
    outside = (mask == 0).expand_as(noise)
    result = replay(tiny, edited, states, mask, batch_size=2)
    assert torch.equal(result[outside], states[-1][outside])
    assert not torch.isclose(result[~outside], states[-1][~outside]).all()
    x = edited
    for step in range(4):
        x = torch.where(outside, states[step], x)
        x = _one_step(tiny, x, 1000 - 250 * step - 1, 750 - 250 * step - 1)
    torch.testing.assert_close(result[~outside], x[~outside], rtol=1e-4, atol=1e-5)


def _one_step(denoiser: Denoiser, x: torch.Tensor, noisier: int, cleaner: int) -> torch.Tensor:
    """DDIM in its published form: the predicted image and noise, put together with the next step's factors."""
    factors = []
    for timestep in (noisier, cleaner):
        alpha = float(denoiser.alphas_cumprod[timestep]) if timestep >= 0 else 1.0
        factors.append((math.sqrt(alpha), math.sqrt(1 - alpha)))
    (signal, sigma), (next_signal, next_sigma) = factors
    with torch.no_grad():
        v = denoiser(x, torch.full((len(x),), noisier))
    image, noise = signal * x - sigma * v, sigma * x + signal * v
    return next_signal * image + next_sigma * noise


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_noises_are_mixed_on_a_circle_pixel_by_pixel(strength: float) -> None:
    rng = torch.Generator().manual_seed(0)
    noise, other = torch.randn(2, 2, 3, 4, 4, generator=rng).unbind()
    mask = torch.rand(2, 1, 4, 4, generator=rng)
    mask[0, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    mixed = swap(noise, other, mask, strength)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in noise.shape)).tolist():
        n, c, row, column = index
        angle = float(mask[n, 0, row, column]) * math.asin(strength)
        expected = math.cos(angle) * float(noise[n, c, row, column]) + math.sin(angle) * float(other[n, c, row, column])
        assert float(mixed[n, c, row, column]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_hard_swap_copies_bits_and_keeps_what_is_not_finite_out() -> None:
    noise, other = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    mask[1, :, 4:] = 1
    other[0, :, 4:] = torch.nan
    swapped = swap(noise, other, mask)
    assert torch.equal(swapped, torch.where(mask.bool(), other, noise))
    with pytest.raises(ValueError, match=r"strength must lie in \[0, 1\], got -0.1"):
        swap(noise, other, mask, -0.1)


def test_bad_arguments_are_named(tiny: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"steps must be 1\.\.1000, got 0"):
        generate(tiny, draw_noise(tiny, 1, seed=0), steps=0)
    with pytest.raises(ValueError, match=r"works on \(3, 16, 16\), got a batch of \(3, 8, 8\)"):
        generate(tiny, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="refinements must be at least 0, got -1"):
        invert(tiny, torch.zeros(1, 3, 16, 16), refinements=-1)
    with pytest.raises(ValueError, match=r"the trajectory is of \(2, 3, 16, 16\), the noise of \(1, 3, 16, 16\)"):
        replay(tiny, torch.zeros(1, 3, 16, 16), torch.zeros(5, 2, 3, 16, 16), torch.ones(1, 1, 16, 16))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_step_of_the_stride_lands_where_smaller_steps_do(prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction, seed=4)
    denoiser.alphas_cumprod.clamp_(min=1e-2)
    denoiser.ddim = DDIM(timestep_spacing="trailing", clip_sample=False)
    small = trajectory(denoiser, draw_noise(denoiser, 2, seed=0), 100)  # at timesteps 999, 989, ...

    def landing(start: int, first: int) -> Tensor:
        x, timesteps = small[start], torch.tensor([first] * 2)
        output = stride_output(denoiser, x, timesteps, stride=40, substeps=4)
        clean, noise = denoiser.clean_and_noise(output, x, timesteps)
        to_signal, to_sigma = denoiser.signal_and_noise((timesteps - 40).clamp(min=-1), x)
        return to_signal * clean + to_sigma * noise

    torch.testing.assert_close(landing(10, 899), small[14], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(landing(60, 399), small[64], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(landing(96, 39), small[100], rtol=1e-3, atol=1e-3)  # the rest of the way, to the image


def test_a_stride_is_bounded_as_sampling_is_and_stays_finite_where_no_signal_is_left() -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction="epsilon", seed=4)
    noise, timesteps = draw_noise(denoiser, 3, seed=0), torch.tensor([999, 960, 0])
    x = denoiser.add_noise(torch.zeros_like(noise), noise, timesteps)
    with torch.no_grad():
        own, output = denoiser(x, timesteps), stride_output(denoiser, x, timesteps, stride=40, substeps=1)
        bounded = denoiser.ddim.bounded(denoiser.clean_and_noise(own, x, timesteps)[0])
    signal, sigma = denoiser.signal_and_noise((timesteps - 40).clamp(min=-1), x)
    landed = denoiser.clean_and_noise(output, x, timesteps)
    assert float((output - own)[0].abs().max()) < 5  # through the unbounded clean image it would be thousands
    torch.testing.assert_close(
        (signal * landed[0] + sigma * landed[1])[1:], (signal * bounded + sigma * own)[1:], rtol=1e-2, atol=1e-3
    )


def test_one_substep_is_the_models_own_prediction_and_none_is_refused(tiny: Denoiser) -> None:
    x, timesteps = draw_noise(tiny, 2, seed=1), torch.tensor([999, 3])
    with torch.no_grad():
        own = tiny(x, timesteps)
        torch.testing.assert_close(stride_output(tiny, x, timesteps, 40, 1), own, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="stride and substeps must be at least 1, got 40 and 0"):
        stride_output(tiny, x, timesteps, 40, 0)


def test_more_substeps_than_timesteps_are_as_many_as_there_are(tiny: Denoiser) -> None:
    x, timesteps = draw_noise(tiny, 1, seed=1), torch.tensor([1])  # two steps are left: to 0, and to the image
    with torch.no_grad():
        few, many = (stride_output(tiny, x, timesteps, 40, substeps) for substeps in (2, 9))
    torch.testing.assert_close(many, few, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("ddim", "largest"),
    [
        (DDIM(clip_sample_range=3.0), 3.0),
        (DDIM(thresholding=True, clip_sample_range=3.0), 1.0),
        (DDIM(clip_sample=False), math.inf),
    ],
)
def test_inversion_takes_no_pixel_farther_than_bounded_images_with_noise_lie(ddim: DDIM, largest: float) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction="epsilon")
    step = _Step.between(denoiser, torch.tensor([400]), torch.tensor([380]), ddim)
    signal, sigma = (
        factor.reshape(1, 1, 1, 1) for factor in denoiser.signal_and_noise(torch.tensor([400]), torch.ones(1))
    )
    x = torch.tensor([-1e6, -0.1, 0.0, 1e6]).reshape(1, 1, 1, 4)
    held = step._plausible(x, signal, sigma)
    most = float(signal) * largest + 5 * float(sigma) if math.isfinite(largest) else 1e6
    torch.testing.assert_close(held.flatten(), torch.tensor([-most, -0.1, 0.0, most]))


def test_a_quantile_is_taken_of_each_images_own_pixels_where_they_count() -> None:
    ddim = DDIM(thresholding=True, sample_max_value=5.0, dynamic_thresholding_ratio=0.9)
    clean = (
        torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 3, 9])[:, None, None, None]
    )
    where = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    where[..., :2] = True
    together = ddim.bounded(clean, where)
    alone = torch.cat([ddim.bounded(one[None], where) for one in clean])
    torch.testing.assert_close(together, alone)
    for one, bounded in zip(clean, together, strict=True):
        most = min(5.0, max(1.0, float(torch.quantile(one[:, :, :2].abs().flatten(), 0.9))))
        torch.testing.assert_close(bounded, one.clamp(-most, most) / most)


def test_low_precision_stays_low_precision(tiny: Denoiser) -> None:
    noise = draw_noise(tiny, 1, seed=0)
    for dtype in (torch.bfloat16, torch.float64):
        assert generate(tiny.to(dtype), noise.to(dtype), 2).dtype == dtype
