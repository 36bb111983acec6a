"""DDIM against diffusers' own, its inversion, and edits that touch the masked noise alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from shapkit_diffusion.denoisers import Denoiser, small_denoiser
from shapkit_diffusion.sampling import draw_noise, generate, invert, peak_signal_to_noise, resample, swap


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


def test_edits_of_noise_stay_in_the_mask() -> None:
    noise, other = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    mask[1, :, 4:] = 1
    swapped = swap(noise, other, mask)
    torch.testing.assert_close(swapped, torch.where(mask.bool(), other, noise), rtol=0, atol=0)
    drawn = resample(noise, mask, seed=5)
    outside = (1 - mask).bool().expand_as(noise)
    assert torch.equal(drawn[outside], noise[outside])
    assert not torch.isclose(drawn[~outside], noise[~outside]).any()
    assert torch.equal(drawn, resample(noise, mask, seed=5))
    assert not torch.equal(drawn, resample(noise, mask, seed=6))


def test_bad_arguments_are_named(tiny: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"steps must be 1\.\.1000, got 0"):
        generate(tiny, draw_noise(tiny, 1, seed=0), steps=0)
    with pytest.raises(ValueError, match=r"works on \(3, 16, 16\), got a batch of \(3, 8, 8\)"):
        generate(tiny, torch.zeros(1, 3, 8, 8))
