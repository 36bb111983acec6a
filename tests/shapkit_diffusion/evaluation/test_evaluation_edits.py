"""Edits measured image by image: every convention against loops over pixels, intervals against theory, the seam."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.color import rgb2lab

from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, compare_edits, measure_edits
from shapkit_diffusion.evaluation.intervals import Bootstrap, bootstrap
from shapkit_diffusion.evaluation.locality import LocalityConvention, grow, in_colours
from shapkit_diffusion.evaluation.realism import Box, map_features
from shapkit_diffusion.evaluation.seam import border_energy

N, SIZE = 5, 9


def _images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    before, after = (torch.as_tensor(rng.uniform(-1, 1, size=(N, 3, SIZE, SIZE))) for _ in range(2))
    masks, masks_after = (torch.as_tensor(rng.random((N, 1, SIZE, SIZE)) < 0.06).double() for _ in range(2))
    masks[:, :, 4, 4] = 1
    return before, after, masks, masks_after


def _twin(
    before: np.ndarray, after: np.ndarray, masks: np.ndarray, masks_after: np.ndarray, convention: LocalityConvention
) -> tuple[list[float], list[float]]:
    inside, outside = [], []
    for image in range(len(before)):
        region = masks[image, 0] > 0
        if convention.extent == "union":
            region = region | (masks_after[image, 0] > 0)
        region = (
            ndimage.binary_dilation(region, np.ones((3, 3)), iterations=convention.dilation)
            if (convention.dilation)
            else region
        )
        change_in = change_out = 0.0
        for row, column in product(range(SIZE), repeat=2):
            pixels = [picture[image, :, row, column] for picture in (before, after)]
            if convention.colours == "cielab":
                pixels = [rgb2lab((pixel[None, None] + 1) / 2)[0, 0] for pixel in pixels]
            square = float(((pixels[1] - pixels[0]) ** 2).sum() / 3)
            if region[row, column]:
                change_in += square
            else:
                change_out += square
        inside.append(change_in / region.sum())
        outside.append(change_out / (region.sum() if convention.normalisation == "published" else (~region).sum()))
    return inside, outside


@pytest.mark.parametrize(
    "convention",
    [
        LocalityConvention(*choice)  # type: ignore[arg-type]
        for choice in product(
            ("own_area", "published"),
            ("rgb", "cielab"),
            (0, 1),
            ("source", "union"),
            ("ratio_of_means", "mean_of_ratios"),
        )
    ],
    ids=str,
)
def test_every_convention_is_its_definition_pixel_by_pixel(convention: LocalityConvention) -> None:
    images = _images()
    inside, outside = _twin(*(tensor.numpy() for tensor in images), convention)
    before, after, masks, masks_after = images
    found = measure_edits("dot", before, after, masks, masks_after=masks_after, convention=convention)
    np.testing.assert_allclose(found.inside, inside, rtol=1e-9)
    np.testing.assert_allclose(found.outside, outside, rtol=1e-9)
    ratios = np.divide(outside, inside)
    expected = ratios.mean() if convention.aggregate == "mean_of_ratios" else np.mean(outside) / np.mean(inside)
    assert found.ratio == pytest.approx(expected, rel=1e-9)
    assert found.convention is convention and found.to_json()["convention"] == convention.to_json()


def test_masks_grown_before_are_not_grown_again() -> None:
    before, after, masks, _ = _images()
    convention = LocalityConvention(dilation=2)
    raw = measure_edits("dot", before, after, masks, convention=convention)
    for grown in (1, 2):
        again = measure_edits("dot", before, after, grow(masks, grown), convention=convention, grown=grown)
        np.testing.assert_array_equal(again.inside, raw.inside)


def test_images_without_the_region_are_left_out_and_the_others_keep_their_numbers() -> None:
    before, after, masks, _ = _images()
    masks[1], masks[3] = 0, 1
    found = measure_edits("dot", before, after, masks, numbers=[10, 11, 12, 13, 14])
    assert found.numbers.tolist() == [10, 12, 14]
    kept = [0, 2, 4]
    alone = measure_edits("dot", before[kept], after[kept], masks[kept])
    np.testing.assert_array_equal(found.outside, alone.outside)
    with pytest.raises(ValueError, match="none of the 5 images shows the dot"):
        measure_edits("dot", before, after, torch.zeros_like(masks))


def _diversity_twin(versions: list[torch.Tensor], mask: torch.Tensor, before: torch.Tensor) -> list[float]:
    """Distance of the mean and deviation of the upper left quarter, once only the region differs."""
    distances = []
    for image in range(N):
        vectors = []
        for version in versions:
            quarter = torch.where(mask[image] > 0, version[image], before[image])[:, :4, :4]
            vectors.append(torch.cat([quarter.mean((1, 2)), quarter.std((1, 2), unbiased=False)]))
        pairs = [(a, b) for a in range(len(vectors)) for b in range(a)]
        distances.append(float(np.mean([float((vectors[a] - vectors[b]).norm()) for a, b in pairs])))
    return distances


def test_diversity_is_the_mean_distance_of_versions_that_differ_in_the_region_only() -> None:
    generator = torch.Generator().manual_seed(0)
    before, *versions = torch.rand(4, N, 3, 8, 8, generator=generator, dtype=torch.float64).unbind()
    mask = torch.zeros(N, 1, 8, 8, dtype=torch.float64)
    mask[..., 1:3, 2:7] = 1
    settings: dict[str, Any] = {
        "convention": LocalityConvention(dilation=0),
        "features": map_features(lambda images: images),
        "box": Box(0.0, 0.5, 0.0, 0.5),
    }
    found = measure_edits("dot", before, versions[0], mask, resamples=versions[1:], **settings)
    assert found.diversity is not None
    np.testing.assert_allclose(found.diversity, _diversity_twin(versions, mask, before), rtol=1e-12)
    pair = measure_edits("dot", before, versions[0], mask, **settings)
    assert pair.diversity is not None
    np.testing.assert_allclose(pair.diversity, _diversity_twin([before, versions[0]], mask, before), rtol=1e-12)
    leaky = torch.where(mask > 0, before, versions[0])
    nothing_inside = measure_edits("dot", before, leaky, mask, **settings)
    assert nothing_inside.mean_diversity == 0 and np.isnan(nothing_inside.ratio)


def test_border_energy_is_the_mean_over_pairs_of_neighbours_of_which_one_is_inside() -> None:
    images, _, masks, _ = _images()
    for image in range(N):
        squares = []
        for row, column, (down, right) in product(range(SIZE), range(SIZE), ((1, 0), (0, 1))):
            other = (row + down, column + right)
            if max(other) < SIZE and masks[image, 0, row, column] != masks[image, 0, other[0], other[1]]:
                difference = images[image, :, row, column] - images[image, :, other[0], other[1]]
                squares.append(float(difference.square().mean()))
        assert float(border_energy(images, masks)[image]) == pytest.approx(np.mean(squares), rel=1e-12)


def _seam_of(change: torch.Tensor, mask: torch.Tensor) -> EditMeasurement:
    """A flat image with a little independent noise of variance v in each pixel, changed."""
    noise = 0.05 * torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return measure_edits("patch", noise, noise + change, mask, convention=LocalityConvention(dilation=0))


def test_the_seam_sees_a_pasted_patch_and_not_a_smooth_change() -> None:
    """Pasted brighter by c over pixel noise of variance v: the energy 2 v becomes 2 v + c^2, +- the cross term.

    The cross term is 2 c times a mean over 24 pairs and 200 images of differences of deviation sqrt(2 v); pairs of the
    four corners share a pixel, which at most doubles its variance: 4 deviations are 4 * 2 c sqrt(4 v / 4800) = 0.00115.
    """
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    mask[..., 5:11, 5:11] = 1
    variance, brighter = 0.05**2, 0.2
    found = _seam_of(brighter * mask, mask)
    energy = float(found.border_before.mean())
    assert found.seam == pytest.approx((energy + brighter**2) / energy, abs=0.00116 / energy)
    assert found.intervals()["seam"].low > 5
    # The same total brightness spread smoothly: between neighbours it differs by at most 0.2 pi / 32 = 0.0197.
    wave = torch.cos(torch.linspace(-np.pi / 2, np.pi / 2, 16, dtype=torch.float64))
    smooth = _seam_of(brighter * wave[:, None] * wave, mask)
    steepest = brighter * np.pi / 15
    assert smooth.mse_in > 0.5 * found.mse_in
    bound = (steepest**2 + 2 * steepest * 4 * np.sqrt(4 * variance / 4800)) / energy
    assert abs(smooth.seam - 1) < bound < 0.5
    assert _seam_of(torch.zeros(1, 1, 16, 16, dtype=torch.float64), mask).seam == 1


def test_the_percentile_interval_is_that_of_a_loop_over_resamples() -> None:
    rows = np.random.default_rng(2).exponential(size=(7, 2))
    how = Bootstrap(replicates=300, seed=5)

    def ratio(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[..., 1].mean(axis=-1) / values[..., 0].mean(axis=-1))

    from shapkit.randomness import counter_uniform

    replicates = []
    for replicate in range(300):
        chosen = [int(float(counter_uniform(5, replicate, place)) * 7) for place in range(7)]
        replicates.append(float(np.mean([rows[c, 1] for c in chosen]) / np.mean([rows[c, 0] for c in chosen])))
    found = bootstrap(ratio, rows, how)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])), rel=1e-12)
    assert found.value == pytest.approx(rows[:, 1].mean() / rows[:, 0].mean())


def test_bca_is_scipys_and_the_interval_of_a_mean_is_the_normal_one() -> None:
    """With R resamples scipy's ends scatter as ours: the quantile's deviation is sqrt(p (1 - p) / R) / f(x_p).

    For a normal of deviation s, p = 0.025 and R = 4,000 that is 0.042 s; two independent ends differ by less than
    4 sqrt(2) times that, 0.24 s. BCa's moved tails of a skewed sample may be thinner: 0.4 s.
    """
    sample = np.random.default_rng(3).exponential(size=60)
    error = sample.std() / np.sqrt(len(sample))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[..., 0].mean(axis=-1))

    for method, reference in (("percentile", "percentile"), ("bca", "BCa")):
        found = bootstrap(mean, sample[:, None], Bootstrap(method, replicates=4000))  # type: ignore[arg-type]
        theirs = stats.bootstrap(
            (sample,), np.mean, n_resamples=4000, method=reference, rng=np.random.default_rng(4)
        ).confidence_interval
        assert abs(found.low - theirs.low) < 0.4 * error and abs(found.high - theirs.high) < 0.4 * error
    plain = bootstrap(mean, sample[:, None], Bootstrap(replicates=4000))
    skewed = bootstrap(mean, sample[:, None], Bootstrap("bca", replicates=4000))
    assert skewed.low > plain.low and skewed.high > plain.high  # an exponential's long tail is above


def test_intervals_cover_as_often_as_they_say() -> None:
    """200 samples of 50 normals: the percentile interval of a mean is the normal one with the deviation over n.

    It covers with the probability that |t_49| < 1.96 sqrt(49 / 50), 0.941; 4 deviations of 200 tries are 0.067.
    """
    samples = np.random.default_rng(6).normal(size=(200, 50))
    covered = 0
    for sample in samples:
        interval = bootstrap(lambda rows: rows[..., 0].mean(axis=-1), sample[:, None], Bootstrap(replicates=400))
        covered += interval.low <= 0 <= interval.high
    assert abs(covered / 200 - 0.941) < 0.067


def test_paired_ratios_know_what_unpaired_ones_cannot() -> None:
    before, after, masks, _ = _images()
    control = measure_edits("dot", before, after, masks, numbers=range(N))
    half = measure_edits("dot", before, torch.where(grow(masks, 1) > 0, after, (before + after) / 2), masks)
    against = compare_edits(half, control)
    for end in ("value", "low", "high"):  # a quarter of the change outside, in every image and so in every resample
        assert getattr(against["ratio"], end) == pytest.approx(0.25, rel=1e-12)
        assert getattr(against["mse_in"], end) == pytest.approx(1, rel=1e-12)
    order = [4, 2, 0]
    some = measure_edits("dot", before[order], after[order], masks[order], numbers=order)
    assert compare_edits(some, control)["mse_out"].high == pytest.approx(1)
    with pytest.raises(ValueError, match="no image in common"):
        compare_edits(measure_edits("dot", before, after, masks, numbers=range(20, 20 + N)), control)
    with pytest.raises(ValueError, match="figures of different kinds do not compare"):
        compare_edits(measure_edits("dot", before, after, masks, convention=LocalityConvention(dilation=0)), control)


def test_measurements_survive_json() -> None:
    import json

    before, after, masks, _ = _images()
    found = measure_edits("dot", before, after, masks, features=map_features(lambda images: images))
    content = json.loads(json.dumps(found.to_json()))
    again = EditMeasurement.from_json(content)
    assert again.to_json() == content and again.intervals() == found.intervals()
    assert set(found.intervals()) == {"mse_in", "mse_out", "ratio", "seam", "diversity"}
    with pytest.raises(ValueError, match="per_image=True"):
        EditMeasurement.from_json(found.to_json(per_image=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.zeros(N, 2, SIZE, SIZE)}, "masks must be"),
        ({"grown": 2}, "grown must lie between 0 and the convention's dilation 1"),
        ({"convention": LocalityConvention(extent="union")}, "needs masks_after"),
        ({"numbers": [1, 1, 2, 3, 4]}, "numbers must be 5 different numbers"),
        ({"after": torch.zeros(N, 3, 2, 2)}, "must share the shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    before, after, masks, _ = _images()
    with pytest.raises(ValueError, match=message):
        measure_edits("dot", **({"before": before, "after": after, "masks": masks} | change))


@pytest.mark.parametrize("field", ["normalisation", "colours", "extent", "aggregate"])
def test_unknown_choices_of_a_convention_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of"):
        LocalityConvention(**{field: "other"})
    with pytest.raises(ValueError, match="dilation must be"):
        LocalityConvention(dilation=-1)


@pytest.mark.parametrize("settings", [{"method": "t"}, {"level": 1.0}, {"replicates": 0}])
def test_unknown_settings_of_the_bootstrap_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
        Bootstrap(**settings)


def test_intervals_keep_their_unit() -> None:
    """In another unit the interval is the same, its correction for skewness included."""
    sample = np.random.default_rng(3).exponential(size=(25, 1))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[..., 0].mean(axis=-1))

    large, small = (bootstrap(mean, unit * sample, Bootstrap("bca", replicates=500)) for unit in (1e3, 1e-3))
    assert (large.low, large.high) == pytest.approx((1e6 * small.low, 1e6 * small.high), rel=1e-9)


def test_one_row_has_an_interval_and_none_is_refused() -> None:
    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[..., 0].mean(axis=-1))

    alone = bootstrap(mean, np.array([[2.5]]), Bootstrap(replicates=10))
    assert (alone.low, alone.value, alone.high) == (2.5, 2.5, 2.5)
    with pytest.raises(ValueError, match=r"rows must be \(n, columns\) with at least one row, got \(0, 1\)"):
        bootstrap(mean, np.empty((0, 1)), Bootstrap(replicates=10))


def test_colours_beyond_the_range_are_those_at_its_ends() -> None:
    images = torch.tensor([-3.0, -1.5, -1.0, 1.0, 1.5, 3.0]).reshape(6, 1, 1, 1).expand(6, 3, 2, 2)
    shown = in_colours(images, "cielab")
    assert torch.equal(shown[:3], shown[[2, 2, 2]]) and torch.equal(shown[3:], shown[[3, 3, 3]])
    assert not torch.equal(shown[2], shown[3])
