"""Edits: the mix of noises by statistics and against a twin, seeds, chains, real images, and the replay of the rest."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import VQModel
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data import lfw_photographs, render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.autoencoders import Autoencoder
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser, small_transformer
from shapkit_diffusion.denoisers.loading import shipped_model
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.noise.edits import (
    FAITHFUL,
    Edit,
    InversionWarning,
    Original,
    Outside,
    apply_edits,
    edit_images,
    edit_original,
)
from shapkit_diffusion.noise.sampling import draw_noise, generate, invert, peak_signal_to_noise, regenerate
from shapkit_diffusion.pictures.edits import picture_of_edits
from shapkit_diffusion.pictures.pages import png

LEFT, RIGHT = slice(0, 8), slice(8, 16)


@pytest.fixture
def halves() -> Regions:
    """The left and the right half of 16 x 16 images."""
    masks = torch.zeros(1, 2, 16, 16)
    masks[:, 0, :, LEFT] = 1
    masks[:, 1, :, RIGHT] = 1
    return Regions(masks, ("left", "right"))


@pytest.fixture
def shared() -> Regions:
    """Every pixel belongs half to one region, half to the other."""
    return Regions(torch.full((1, 2, 16, 16), 0.5), ("left", "right"))


@pytest.fixture(autouse=True)
def no_silent_warning() -> Iterator[None]:
    """A test that causes an InversionWarning has to say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", InversionWarning)
        yield


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("masks", ["halves", "shared"])
@pytest.mark.parametrize("kind", ["resample", "swap"])
def test_edited_noise_is_standard_normal(
    tiny: Denoiser, strength: float, masks: str, kind: str, request: pytest.FixtureRequest
) -> None:
    regions = request.getfixturevalue(masks)
    noise = draw_noise(tiny, 100, seed=1)
    source = draw_noise(tiny, 100, seed=2) if kind == "swap" else None
    edit = Edit("left", kind, strength=strength, source=source)  # type: ignore[arg-type]
    after = apply_edits(tiny, noise, regions, [edit])[..., LEFT].double()
    before = noise[..., LEFT].double()
    n = before.numel()
    # Of n independent standard normals the mean has the standard deviation 1/sqrt(n), the mean square sqrt(2/n), the
    # mean product of two with correlation r sqrt((1 + r^2)/n). Five of them: a right result fails once in a million.
    angle = math.asin(strength) * (1.0 if masks == "halves" else 0.5)
    correlation = math.cos(angle)
    assert abs(float(after.mean())) < 5 / math.sqrt(n)
    assert abs(float(after.square().mean()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((after * before).mean()) - correlation) < 5 * math.sqrt((1 + correlation**2) / n)


def test_strength_zero_and_the_outside_are_untouched_bit_for_bit_and_one_is_all_new(
    tiny: Denoiser, halves: Regions, shared: Regions
) -> None:
    noise, other = draw_noise(tiny, 3, seed=1), draw_noise(tiny, 3, seed=2)
    noise[0, 0, 0, 0] = -0.0
    for regions in (halves, shared):
        untouched = apply_edits(tiny, noise, regions, [Edit("left", strength=0), Edit("left", "swap", 0, 0.0, other)])
        assert untouched.numpy().tobytes() == noise.numpy().tobytes()
    swapped = apply_edits(tiny, noise, halves, [Edit("left", "swap", source=other)])
    assert torch.equal(swapped[..., LEFT], other[..., LEFT]) and torch.equal(swapped[..., RIGHT], noise[..., RIGHT])
    new = apply_edits(tiny, noise, halves, [Edit("left", seed=1)])
    again = apply_edits(tiny, other, halves, [Edit("left", seed=1)])
    assert torch.equal(new[..., LEFT], again[..., LEFT])  # nothing of the old noise is left
    assert not torch.equal(new[..., LEFT], noise[..., LEFT])  # though noise and edit have the same seed


def test_fresh_noise_depends_on_seed_names_and_number_alone(tiny: Denoiser, halves: Regions) -> None:
    noise = draw_noise(tiny, 5, seed=1)
    whole = apply_edits(tiny, noise, halves, [Edit("left", seed=4)])
    part = apply_edits(tiny, noise[3:], halves, [Edit("left", seed=4)], first=3)
    assert torch.equal(whole[3:], part)
    later = apply_edits(tiny, noise, halves, [Edit("right", seed=4), Edit("left", seed=4)])
    assert torch.equal(whole[..., LEFT], later[..., LEFT])
    drawn = {
        key: apply_edits(tiny, torch.zeros(2, 3, 16, 16), halves, [Edit(names, seed=seed)])
        for key, names, seed in [
            ("a", ("left", "right"), 4),
            ("b", ("right", "left", "left"), 4),
            ("c", ("left", "right"), 5),
            ("d", "left", 4),
        ]
    }
    assert torch.equal(drawn["a"], drawn["b"])
    for key in ("c", "d"):
        assert not torch.isclose(drawn["a"][..., LEFT], drawn[key][..., LEFT]).any()
    assert not torch.isclose(drawn["a"][0], drawn["a"][1]).any()


def test_chained_edits_are_applied_in_their_order(tiny: Denoiser, halves: Regions) -> None:
    noise, other = draw_noise(tiny, 2, seed=1), draw_noise(tiny, 1, seed=2)
    fresh = apply_edits(tiny, torch.zeros_like(noise), halves, [Edit("left", seed=3)])[..., LEFT]
    swap, mix = Edit("left", "swap", source=other), Edit("left", seed=3, strength=0.6)
    expected = {
        (swap, mix): 0.8 * other[..., LEFT] + 0.6 * fresh,
        (mix, swap): other[..., LEFT].expand_as(fresh),
        (mix, Edit("left", "swap", strength=0.8, source=other)): 0.6 * (0.8 * noise[..., LEFT] + 0.6 * fresh)
        + 0.8 * other[..., LEFT],
    }
    for chain, wanted in expected.items():
        torch.testing.assert_close(apply_edits(tiny, noise, halves, chain)[..., LEFT], wanted, rtol=1e-5, atol=1e-6)


def test_each_image_has_its_own_regions(tiny: Denoiser, halves: Regions) -> None:
    noise = draw_noise(tiny, 2, seed=1)
    regions = Regions(torch.cat([halves.masks, halves.masks.flip(1)]), halves.names)
    changed = (apply_edits(tiny, noise, regions, [Edit("left")]) != noise).any(dim=(1, 2))
    assert changed.tolist() == [[True] * 8 + [False] * 8, [False] * 8 + [True] * 8]


def test_mistakes_are_named(tiny: Denoiser, halves: Regions) -> None:
    noise = draw_noise(tiny, 2, seed=1)
    cases = {
        "kind must be one of resample, swap, got 'move'": lambda: Edit("left", "move"),  # type: ignore[arg-type]
        r"strength must lie in \[0, 1\], got 1.5": lambda: Edit("left", strength=1.5),
        r"strength must lie in \[0, 1\], got nan": lambda: Edit("left", strength=math.nan),
        "at least one region": lambda: Edit(()),
        "a swap needs the noise": lambda: Edit("left", "swap"),
        "only a swap has a source": lambda: Edit("left", source=noise),
        "no region is called 'top'": lambda: apply_edits(tiny, noise, halves, [Edit("top")]),
        "resample left with seed 0: give them different": lambda: apply_edits(tiny, noise, halves, [Edit("left")] * 2),
        "source of a swap must have the shape": lambda: apply_edits(
            tiny, noise, halves, [Edit("left", "swap", source=noise[..., :8])]
        ),
        "regions must be those of the 2 images or one for all, got 3": lambda: apply_edits(
            tiny, noise, Regions(halves.masks.expand(3, -1, -1, -1), halves.names), [Edit("left")]
        ),
        "seed must be an integer": lambda: apply_edits(tiny, noise, halves, [Edit("left", seed=-1)]),
        "outside must be one of free, replay, got 'keep'": lambda: edit_original(
            tiny,
            Original.from_noise(tiny, noise, 2),
            halves,
            [Edit("left")],
            outside="keep",  # type: ignore[arg-type]
        ),
        "keep_trajectory=True": lambda: edit_original(
            tiny, Original.from_noise(tiny, noise, 2), halves, [Edit("left")], outside="replay"
        ),
        "there is no edit to show": lambda: picture_of_edits([], torch.ones(1, 1, 16, 16), ""),
    }
    for message, mistake in cases.items():
        with pytest.raises(ValueError, match=message):
            mistake()


def test_the_outside_is_put_back_bit_for_bit_only_when_asked(tiny: Denoiser, halves: Regions) -> None:
    original = Original.from_noise(tiny, draw_noise(tiny, 2, seed=0), 4, keep_trajectory=True)
    edits = [Edit("left", seed=2)]
    replayed = edit_original(tiny, original, halves, edits, outside="replay")
    free = edit_original(tiny, original, halves, edits)
    assert torch.equal(replayed.edited_noise, free.edited_noise)
    assert torch.equal(replayed.edited[..., RIGHT], replayed.reconstruction[..., RIGHT])
    assert not torch.isclose(free.edited[..., RIGHT], free.reconstruction[..., RIGHT], rtol=0, atol=1e-6).all()
    for result in (replayed, free):
        assert float((result.edited - result.reconstruction)[..., LEFT].square().mean()) > 0.01
    # Of two edited regions, both are the inside: then nothing is put back.
    both = [Edit("left", seed=2), Edit("right", seed=2)]
    all_free, all_replayed = (
        edit_original(tiny, original, halves, both, outside=outside) for outside in ("free", "replay")
    )
    assert torch.equal(all_free.edited, all_replayed.edited)


@pytest.mark.parametrize("outside", ["free", "replay"])
def test_batches_bound_what_the_network_is_given_and_change_only_rounding(
    tiny: Denoiser, halves: Regions, outside: Outside
) -> None:
    seen: list[int] = []
    tiny.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    images, edits = _pictures(3, 16), [Edit("left", seed=2)]
    results = []
    for batch_size in (3, 2):
        seen.clear()
        result = edit_images(tiny, images, halves, edits, steps=20, outside=outside, batch_size=batch_size)
        assert max(seen) == batch_size
        results.append(result.edited)
    torch.testing.assert_close(*results)


def test_an_edit_of_strength_zero_is_the_reconstruction(tiny: Denoiser, halves: Regions) -> None:
    images = _pictures(2, 16)
    result = edit_images(tiny, images, halves, [Edit("left", strength=0)], steps=20)
    assert torch.equal(result.edited_noise, result.noise)
    assert torch.equal(result.edited, result.reconstruction)
    assert torch.equal(result.reconstruction, generate(tiny, result.noise, 20))
    assert torch.equal(result.psnr, peak_signal_to_noise(result.reconstruction, images))
    assert bool((result.psnr > FAITHFUL).all())


def test_a_poor_round_trip_is_warned_of_with_its_psnr(tiny: Denoiser, halves: Regions) -> None:
    images = _pictures(3, 16)
    images[1] = 0.5
    with pytest.warns(InversionWarning) as caught:
        original = Original.from_images(tiny, images, steps=2, refinements=0)
    poor = [number for number, value in enumerate(original.psnr.tolist()) if value < FAITHFUL]
    assert poor
    named = ", ".join(f"image {number + 1} {original.psnr[number]:.1f} dB" for number in poor)
    assert str(caught[0].message).endswith(named)
    with pytest.warns(InversionWarning, match="nan dB"):
        Original.from_images(tiny, images * math.nan, steps=2)


def test_the_shipped_model_makes_a_face_and_a_photograph_again_above_40_db() -> None:
    face = to_unit_range(torch.tensor(render_faces(1, 32, seed=77).images))
    grey = to_unit_range(torch.tensor(lfw_photographs().images[:1]))
    photograph = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear").repeat(1, 3, 1, 1)
    original = Original.from_images(shipped_model(), torch.cat([face, photograph]), steps=50)
    assert bool((original.psnr > 40).all()), original.psnr.tolist()
    assert bool(original.autoencoder_psnr.isinf().all())


def test_a_latent_model_is_edited_in_its_latents_and_judged_in_pixels() -> None:
    denoiser = _latent_denoiser()
    masks = torch.zeros(1, 2, 16, 16)
    masks[:, 0, :, :8] = 1
    masks[:, 1] = 1 - masks[:, 0]
    regions = Regions(masks, ("left", "right"))
    images = _pictures(2, 16)
    with pytest.warns(InversionWarning, match=r"the autoencoder alone: -?\d+\.\d, -?\d+\.\d dB"):
        result = edit_images(denoiser, images, regions, [Edit("left", seed=1)], steps=20, outside="replay")
    assert result.noise.shape == (2, 3, 8, 8) and result.edited.shape == (2, 3, 16, 16)
    assert torch.equal(result.psnr, peak_signal_to_noise(result.reconstruction, images))
    with pytest.warns(InversionWarning):
        original = Original.from_images(denoiser, images, steps=2)
    limit = peak_signal_to_noise(denoiser.decode(denoiser.encode(images)), images)
    assert torch.equal(original.autoencoder_psnr, limit)
    changed = (result.edited_noise != result.noise).any(dim=(0, 1, 2))
    assert changed.tolist() == [True] * 4 + [False] * 4
    # The untrained autoencoder loses the images; the inversion does not lose the latents.
    latents = denoiser.encode(images)
    assert float(peak_signal_to_noise(generate(denoiser, result.noise, 20), latents).min()) > FAITHFUL
    dot = torch.zeros(1, 2, 16, 16)
    dot[:, 0, 3, 3] = 1
    dot[:, 1] = 1 - dot[:, 0]
    with pytest.raises(ValueError, match="dot is too small for the latent grid: dilate the region"):
        apply_edits(denoiser, result.noise, Regions(dot, ("dot", "rest")), [Edit("dot")])


def test_clipping_is_named_where_it_is_what_a_poor_round_trip_lost(tiny: Denoiser) -> None:
    images = 1.6 * _pictures(2, 16)  # nothing beyond 1 comes back from a clipped model
    tiny.ddim = replace(tiny.ddim, clip_sample=True)
    with pytest.warns(InversionWarning, match=r"it is clipping the clean image that costs it: without, \d+") as caught:
        original = Original.from_images(tiny, images, steps=20)
    assert len(caught) == 1
    free = replace(tiny.ddim, clip_sample=False)
    without = generate(tiny, invert(tiny, images, 20, ddim=free), 20, ddim=free)
    assert torch.equal(original.unclipped_psnr, peak_signal_to_noise(without, images))
    assert torch.equal(original.cost_of_clipping, original.unclipped_psnr - original.psnr)
    assert float(original.cost_of_clipping.min()) > 10
    tiny.ddim = free
    original = Original.from_images(tiny, images, steps=20)
    assert torch.equal(original.unclipped_psnr, original.psnr) and not original.cost_of_clipping.any()


def test_the_picture_shows_every_edit(tiny: Denoiser, halves: Regions) -> None:
    original = Original.from_noise(tiny, draw_noise(tiny, 2, seed=0), steps=2)
    results = [edit_original(tiny, original, halves, [Edit("left", seed=seed)]) for seed in (0, 1)]
    figure = picture_of_edits(results, halves.mask("left"), "two edits", original.reconstruction)
    names = [axis.get_ylabel() for axis in figure.axes[::2]]
    assert names[:6] == ["original", "round trip", "edit 1", "change", "edit 2", "change"]
    shown = figure.axes[4].images[0].get_array()
    expected = np.moveaxis(results[0].edited[0].clamp(-1, 1).numpy(), 0, -1)
    assert np.abs(np.asarray(shown) / 127.5 - 1 - expected).max() < 1 / 127
    assert png(figure).startswith(b"\x89PNG")


def _pictures(count: int, size: int) -> Tensor:
    return torch.tanh(torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0)))


def _latent_denoiser() -> Denoiser:
    inner = small_denoiser(size=8, channels=(8, 16), seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VQModel(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=1.0,
        )
    return Denoiser(inner.unet, inner.scheduler, Autoencoder(network))


def region_transformer() -> RegionDenoiser:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :4, :4], labels[:, 6:] = 1, 2
    regions = Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})
    return filled(RegionDenoiser(small_transformer(8, width=16, depth=2, seed=1), regions))


def filled(model: RegionDenoiser) -> RegionDenoiser:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # new transformers begin with gates that are closed
        for weights in model.parameters():
            weights.add_(torch.randn(weights.shape, generator=generator) * 0.2)
    return model


def test_a_given_image_is_edited_without_an_inversion() -> None:
    model, images = region_transformer(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    original = Original.as_given(model, images, steps=3, seed=5)
    assert torch.equal(original.reconstruction, images) and bool(original.psnr.isinf().all()) and not original.inverted
    one = edit_original(model, original, model.regions, [Edit("mouth", seed=1)])
    outside = model.regions.mask("mouth")[0, 0] == 0
    assert torch.equal(one.edited[..., outside], images[..., outside])
    assert not torch.equal(one.edited[..., ~outside], images[..., ~outside])
    # The edited region is what the model generates given the image around it
    noise = apply_edits(model, original.noise, model.regions, [Edit("mouth", seed=1)])
    torch.testing.assert_close(one.edited, regenerate(model, noise, original.noise, images, 3), rtol=0, atol=0)
    # It depends on the image that it looks at, and not on the noise of other regions
    other = edit_original(model, Original.as_given(model, -images, 3, seed=5), model.regions, [Edit("mouth", seed=1)])
    assert not torch.equal(one.edited[..., ~outside], other.edited[..., ~outside])
    again = edit_original(model, Original.as_given(model, images, 3, seed=6), model.regions, [Edit("mouth", seed=1)])
    assert torch.equal(one.edited, again.edited)


def test_the_regions_of_a_region_transformer_are_what_its_edits_change() -> None:
    """They are whole tokens: of a mouth that shares tokens with the rest, whose pixels there are drawn anew with it."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 3:6, 2:5] = 1
    regions = Regions.from_labels(labels, {"mouth": [1]})
    model = filled(RegionDenoiser(small_transformer(8, width=16, depth=2, seed=1), regions))
    own = model.regions.mask("mouth")
    assert own.sum() == 4 * 4 > regions.mask("mouth").sum()
    assert torch.equal(model.with_regions(model.regions).regions.masks, model.regions.masks)
    original = Original.from_noise(model, draw_noise(model, 2, seed=0), steps=3)
    found = edit_original(model, original, model.regions, [Edit("mouth", seed=1)]).edited
    changed = found != original.reconstruction
    assert not bool((changed & (own == 0)).any()) and bool(changed[(own > 0).expand_as(changed)].all())


def test_an_edit_leaves_a_neighbour_that_shares_a_token_alone() -> None:
    """A token has pixels of eyes and nose, and is the eyes': new noise of the nose must not draw them anew."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 1:4, 1:7], labels[:, 3, 3], labels[:, 4:6, 2:5] = 1, 2, 2
    regions = Regions.from_labels(labels, {"eyes": [1], "nose": [2]})
    model = filled(RegionDenoiser(small_transformer(8, width=16, depth=2, seed=1), regions))
    nose, eyes = (model.owned((name,)) for name in ("nose", "eyes"))
    assert nose is not None and eyes is not None and not bool((nose & eyes).any())
    assert bool(eyes[0, 0, 3, 3]) and bool(regions.mask("nose")[0, 0, 3, 3])  # the eyes have more of the token
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    original = Original.as_given(model, images, steps=3)
    found = edit_original(model, original, regions, [Edit("nose", seed=1)]).edited
    outside = ~nose.expand_as(found)
    assert torch.equal(found[outside], images[outside]) and not torch.equal(found, images)
    both = edit_original(model, original, regions, [Edit(("eyes", "nose"), seed=1)]).edited
    outside = ~(nose | eyes).expand_as(both)
    assert torch.equal(both[outside], images[outside]) and not torch.equal(
        both[eyes.expand_as(both)], images[eyes.expand_as(both)]
    )
    assert model.owned(("ears",)) is None and small_denoiser(8, channels=(8,)).owned(("eyes",)) is None


def test_what_needs_an_inversion_says_so() -> None:
    model, images = region_transformer(), torch.zeros(1, 3, 8, 8)
    original = Original.as_given(model, images, steps=2)
    with pytest.raises(ValueError, match="the image was not inverted"):
        edit_original(model, original, model.regions, [Edit("mouth", strength=0.5)])
    with pytest.raises(ValueError, match="the image was not inverted"):
        edit_original(model, original, model.regions, [Edit("mouth")], outside="replay")
    with pytest.raises(ValueError, match=r"generates all regions at once.*Original.from_images"):
        Original.as_given(small_transformer(8, width=16, depth=1), images)
