"""DDIM against diffusers' own, its inversion, replayed trajectories, and the mix of two noises in a mask."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from shapkit_diffusion.denoisers import Denoiser, small_denoiser
from shapkit_diffusion.sampling import (
    draw_noise,
    generate,
    invert,
    peak_signal_to_noise,
    replay,
    stride_velocity,
    swap,
    trajectory,
)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_generation_is_that_of_diffusers_ddim(prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction, seed=4)
    # Away from the last timesteps, where the cosine schedule's alpha is 0 and diffusers divides by its root.
    denoiser.alphas_cumprod.clamp_(min=1e-2)
    theirs = DDIMScheduler.from_config(
        denoiser.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
    )
    theirs.alphas_cumprod = denoiser.alphas_cumprod.float()
    theirs.set_timesteps(10)
    noise = draw_noise(denoiser, 3, seed=0)
    x = noise
    with torch.no_grad():
        for timestep in theirs.timesteps:
            output = denoiser(x, timestep.expand(len(x)))
            x = theirs.step(output, timestep, x).prev_sample
    torch.testing.assert_close(generate(denoiser, noise, steps=10), x, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_one_step_of_the_stride_lands_where_smaller_steps_do(prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction, seed=4)
    denoiser.alphas_cumprod.clamp_(min=1e-2)
    small = trajectory(denoiser, draw_noise(denoiser, 2, seed=0), 100)  # at timesteps 999, 989, ...

    def landing(start: int, first: int) -> torch.Tensor:
        x, timesteps = small[start], torch.tensor([first] * 2)
        velocity = stride_velocity(denoiser, x, timesteps, stride=40, substeps=4)
        output = denoiser.as_output(velocity, x, timesteps)
        torch.testing.assert_close(denoiser.as_velocity(output, x, timesteps), velocity, rtol=1e-4, atol=1e-4)
        clean = denoiser.as_clean(output, x, timesteps)
        signal, sigma = denoiser.signal_and_noise(timesteps, x)
        to_signal, to_sigma = denoiser.signal_and_noise((timesteps - 40).clamp(min=-1), x)
        return to_signal * clean + to_sigma * (x - signal * clean) / sigma

    torch.testing.assert_close(landing(10, 899), small[14], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(landing(60, 399), small[64], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(landing(96, 39), small[100], rtol=1e-3, atol=1e-3)  # the rest of the way, to the image


def test_one_substep_is_the_models_own_velocity_and_none_is_refused(tiny: Denoiser) -> None:
    x, timesteps = draw_noise(tiny, 2, seed=1), torch.tensor([999, 3])
    own = tiny.velocity(x, timesteps)
    torch.testing.assert_close(stride_velocity(tiny, x, timesteps, 40, 1), own, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="stride and substeps must be at least 1, got 40 and 0"):
        stride_velocity(tiny, x, timesteps, 40, 0)


def test_more_substeps_than_timesteps_are_as_many_as_there_are(tiny: Denoiser) -> None:
    x, timesteps = draw_noise(tiny, 1, seed=1), torch.tensor([1])  # two steps are left: to 0, and to the image
    few, many = (stride_velocity(tiny, x, timesteps, 40, substeps) for substeps in (2, 9))
    torch.testing.assert_close(many, few, rtol=1e-3, atol=1e-3)
