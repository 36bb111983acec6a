"""The edit of the noise as a system: generated images are remembered, given ones found, the outside is as said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.published_tables.systems.noise import NoiseEdit
from benchmarks.published_tables.systems.systems import Region, System
from shapkit.differentiable import Regions
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, small_autoencoder
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.noise.edits import Edit, apply_edits
from shapkit_diffusion.noise.sampling import draw_noise, generate, peak_signal_to_noise

STEPS = 5


def mouth(count: int) -> Region:
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., 8:12, 4:12] = 1
    return Region("mouth", mask)


def outside(change: Tensor, region: Region) -> float:
    return float((change * (1 - region.mask)).abs().max())


def inside(change: Tensor, region: Region) -> float:
    return float((change * region.mask).abs().max())


@pytest.fixture
def latent() -> Denoiser:
    inner = small_denoiser(size=8, image_channels=4, channels=(8, 16), seed=1)
    return Denoiser(inner.unet, inner.scheduler, Autoencoder(small_autoencoder(channels=(8, 8))))


def test_generated_images_keep_their_noise(tiny: Denoiser) -> None:
    system: System = NoiseEdit(tiny, "DDPM", steps=STEPS)
    images = system.generate(3, seed=4)
    expected = generate(tiny, draw_noise(tiny, 3, 4), STEPS).clamp(-1, 1)
    assert torch.equal(images, expected)
    assert torch.allclose(system.reconstruct(images.flip(0)), images.flip(0), atol=1e-5)
    assert not torch.equal(system.generate(3, seed=5), images)


def test_resampling_is_the_edit_of_the_noise(tiny: Denoiser) -> None:
    system, region = NoiseEdit(tiny, "DDPM", steps=STEPS), mouth(3)
    images = system.generate(3, seed=4)
    edited = system.edit(images, region, seed=7)
    regions = Regions(torch.cat([region.mask, 1 - region.mask], dim=1), ("mouth", "rest"))
    noise = apply_edits(tiny, draw_noise(tiny, 3, 4), regions, [Edit("mouth", seed=7)])
    assert torch.equal(edited, generate(tiny, noise, STEPS).clamp(-1, 1))
    assert torch.equal(edited, system.edit(images, region, seed=7))
    assert inside(system.edit(images, region, seed=8) - edited, region) > 0.1
    assert not system.pastes


def test_a_swap_takes_the_noise_of_another_image(tiny: Denoiser) -> None:
    system = NoiseEdit(tiny, "DDPM", kind="swap", steps=STEPS)
    images, everywhere = system.generate(4, seed=4), Region("all", torch.ones(4, 1, 16, 16))
    for seed, places in ((0, 1), (1, 2), (2, 3), (3, 1)):
        assert torch.allclose(system.edit(images, everywhere, seed), images.roll(-places, dims=0), atol=1e-5)
    with pytest.raises(ValueError, match="a swap takes the noise of another image of the batch"):
        system.edit(images[:1], mouth(1), seed=0)


def test_a_replay_leaves_the_outside_bit_for_bit(tiny: Denoiser) -> None:
    system, region = NoiseEdit(tiny, "replay", outside="replay", steps=STEPS), mouth(2)
    images = system.generate(2, seed=4)
    change = system.edit(images, region, seed=7) - images
    assert outside(change, region) == 0 < 0.1 < inside(change, region)
    assert system.pastes


@pytest.mark.filterwarnings("ignore:round trip below")
def test_given_images_are_inverted_once(tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    given = NoiseEdit(tiny, "other", steps=STEPS).generate(2, seed=1)
    system, region = NoiseEdit(tiny, "DDPM", steps=STEPS, refinements=20), mouth(2)
    # Where an image was cut off at +-1, it is not the model's own any more: the others come back.
    exact = system.reconstruct(given * 0.5)
    assert peak_signal_to_noise(exact, given * 0.5).min() > 40
    monkeypatch.setattr(system._noise, "search", lambda images: pytest.fail("searched for twice"))
    change = system.edit(given * 0.5, region, seed=3) - exact
    assert inside(change, region) > 0.1


@pytest.mark.parametrize("mode", ["free", "replay"])
def test_latent_models(latent: Denoiser, mode: str) -> None:
    system, region = NoiseEdit(latent, "LDM", outside=mode, steps=STEPS), mouth(2)  # type: ignore[arg-type]
    images = system.generate(2, seed=4)
    assert images.shape == (2, 3, 16, 16) and images.abs().max() <= 1
    assert torch.allclose(system.reconstruct(images), images, atol=1e-5)
    assert inside(system.edit(images, region, seed=7) - images, region) > 1e-3


def test_names_and_errors(tiny: Denoiser) -> None:
    system = NoiseEdit(tiny, "interpretable DDPM")
    assert (
        repr(system) == "NoiseEdit(name='interpretable DDPM', kind='resample', outside='free', steps=25, refinements=3)"
    )
    with pytest.raises(ValueError, match="kind must be one of resample, swap, got 'roll'"):
        NoiseEdit(tiny, "DDPM", kind="roll")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside must be one of free, replay, got 'paste'"):
        NoiseEdit(tiny, "DDPM", outside="paste")  # type: ignore[arg-type]
