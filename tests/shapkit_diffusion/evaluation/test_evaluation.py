"""Locality and realism: against slow twins, on models whose locality is known, and on the trap of the bare ratio."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from shapkit_diffusion.data import LabelledImages
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.evaluation.domains import most_frequent_labels, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, realism_floor
from shapkit_diffusion.evaluation.locality import locality_of, swap_and_measure
from shapkit_diffusion.evaluation.realism import (
    Box,
    FeatureStatistics,
    concept_box,
    frechet_distance,
    pixel_features,
    pooled,
    statistics_of,
)


@pytest.mark.parametrize("normalisation", ["own_area", "published"])
def test_locality_is_its_definition_pixel_by_pixel(normalisation: str) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 4, 3, 6, 6))
    mask = rng.random((4, 1, 6, 6)) < 0.3
    inside, outside = [], []
    for pair in range(4):
        change_in = change_out = area = 0.0
        for row in range(6):
            for column in range(6):
                square = sum((after[pair, c, row, column] - before[pair, c, row, column]) ** 2 for c in range(3)) / 3
                if mask[pair, 0, row, column]:
                    change_in, area = change_in + square, area + 1
                else:
                    change_out += square
        inside.append(change_in / area)
        outside.append(change_out / (area if normalisation == "published" else 36 - area))
    result = locality_of(
        "dot",
        torch.as_tensor(before),
        torch.as_tensor(after),
        torch.as_tensor(mask).float(),
        normalisation,  # type: ignore[arg-type]
    )
    assert result.mse_in == pytest.approx(np.mean(inside), rel=1e-12)
    assert result.mse_out == pytest.approx(np.mean(outside), rel=1e-12)
    assert result.ratio == pytest.approx(np.mean(outside) / np.mean(inside), rel=1e-12)
    assert result.n_pairs == 4


def test_unknown_normalisation_is_refused() -> None:
    image = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="normalisation must be one of own_area, published"):
        locality_of("dot", image, image, torch.ones(1, 1, 2, 2), "area")  # type: ignore[arg-type]


def _parse(images: torch.Tensor) -> torch.Tensor:
    labels = torch.zeros(len(images), 8, 8, dtype=torch.long)
    labels[:, 2:4, 2:4] = 1
    labels[::5, 2:4, 2:4] = 0  # every fifth image shows no concept
    return labels


def test_a_pointwise_model_is_perfectly_local_and_images_without_the_concept_are_left_out() -> None:
    noise, other = torch.randn(2, 10, 3, 8, 8).unbind()
    (entry,), swaps = swap_and_measure(torch.tanh, _parse, noise, other, {"eye": [1]}, dilation=1)
    assert entry.mse_out == 0 and entry.mse_in > 0.1 and entry.ratio == 0
    assert entry.n_pairs == 8 == len(swaps.originals)
    assert torch.equal(swaps.masks["eye"].sum(dim=(1, 2, 3)), torch.full((8,), 16.0))
    (leaky,), _ = swap_and_measure(lambda x: x.roll(3, dims=3), _parse, noise, other, {"eye": [1]})
    assert leaky.ratio > 0.1


def test_no_image_with_the_concepts_is_an_error() -> None:
    noise = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="none of the 2 generated images shows all of eye"):
        swap_and_measure(torch.tanh, lambda x: torch.zeros(len(x), 8, 8).long(), noise, noise, {"eye": [1]})


def test_statistics_in_batches_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(1).normal(1e3, 1, size=(101, 5))
    statistics = FeatureStatistics(5)
    for part in np.array_split(rows, [1, 2, 50]):
        statistics.add(part)
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T), rtol=1e-9)


def test_frechet_distance_against_the_textbook_matrix_root() -> None:
    rng = np.random.default_rng(2)
    first, second = FeatureStatistics(4), FeatureStatistics(4)
    first.add(rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)))
    second.add(rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 1)
    root = linalg.sqrtm(first.covariance @ second.covariance)
    shift = first.mean - second.mean
    expected = shift @ shift + np.trace(first.covariance + second.covariance - 2 * root.real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def test_frechet_distance_of_normals_is_the_closed_form() -> None:
    """Two diagonal Gaussians: sum of (m1 - m2)^2 + (s1 - s2)^2, here exactly by construction."""
    rows = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) * np.sqrt(3) / 2  # covariance is the identity
    first, second = FeatureStatistics(2), FeatureStatistics(2)
    first.add(rows)
    second.add(rows * [3.0, 2.0] + [0.5, 0.0])
    assert frechet_distance(first, second) == pytest.approx(0.25 + 4 + 1)


def test_pooling_is_mean_and_deviation_over_the_cells_of_the_box() -> None:
    maps = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    part = maps[:, :, 4:8, 0:4].reshape(3, 2, 2, 2, 2, 2)  # rows, then columns, each as cell and place in the cell
    expected = torch.cat([part.mean((3, 5)).flatten(1), part.std((3, 5), unbiased=False).flatten(1)], dim=1)
    torch.testing.assert_close(pooled(maps, Box(0.5, 1.0, 0.0, 0.5), cells=2), expected)


def test_concept_box_encloses_the_concept(faces: LabelledImages) -> None:
    labels = torch.as_tensor(faces.labels).long()
    mouth = faces.label_names.index("mouth")
    box = concept_box(labels, [mouth])
    rows = ((labels == mouth).float().mean(dim=0) > 0.02).any(dim=1).nonzero().flatten() / 32
    assert box.top <= float(rows.min()) and box.bottom >= float(rows.max())
    assert box.bottom - box.top < 0.5
    with pytest.raises(ValueError, match="occur in no label map"):
        concept_box(labels, [9])


def test_noise_in_a_concept_is_invisible_to_the_ratio_but_not_to_the_crop(faces: LabelledImages) -> None:
    """The trap of the bare ratio: noise in the mouth is 'local', and the crop's distance gives it away."""
    domain = open_domain("faces", count=2)
    concepts = {"mouth": [faces.label_names.index("mouth")]}
    images = torch.as_tensor(faces.images).float() / 127.5 - 1
    box = concept_box(torch.as_tensor(domain.reference.labels).long(), concepts["mouth"])
    spoilt = images.clone()
    rows = slice(int(box.top * 32) + 2, int(box.bottom * 32) - 2)
    columns = slice(int(box.left * 32) + 2, int(box.right * 32) - 2)
    spoilt[:, :, rows, columns] = torch.rand(64, 3, 1, 1).expand_as(spoilt[:, :, rows, columns]) * 2 - 1

    def distance(pictures: torch.Tensor, crop: Box) -> float:
        real = torch.as_tensor(domain.reference.images).float() / 127.5 - 1
        return frechet_distance(
            statistics_of(pictures, domain.extractor, crop), statistics_of(real, domain.extractor, crop)
        )

    assert distance(spoilt, box) > 3 * distance(images, box)


def test_pixel_features_see_brightness_edges_and_detail() -> None:
    flat = pixel_features(torch.full((1, 1, 8, 8), 0.3))
    assert torch.allclose(flat[:, 0], torch.tensor(0.3)) and float(flat[:, 1:].abs().max()) < 1e-6
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    features = pixel_features(step)
    assert float(features[0, 1].sum()) == 8 and float(features[0, 2].abs().sum()) == 0
    assert float(features[0, 3].sum()) > 0


def test_evaluate_reports_every_concept_the_same_every_time() -> None:
    domain = open_domain("photographs")
    model = small_denoiser(size=24, image_channels=1, channels=(8, 16), seed=3)
    config = EvaluateConfig(pairs=3, images=12, steps=2)
    seen: list[tuple[int, int]] = []
    result = evaluate(model, domain, config, lambda *done: seen.append(done))
    assert [entry.concept for entry in result.locality] == ["eyes", "nose", "mouth"]
    assert set(result.realism) == {"whole", "eyes", "nose", "mouth"}
    assert result.figures() == evaluate(model, domain, config).figures()
    assert seen[-1] == (24, 24)
    floor = realism_floor(domain, config.concepts, 50)
    assert all(floor[crop] < result.realism[crop] for crop in floor)  # an untrained model is worse than real images


def test_template_is_the_most_frequent_label() -> None:
    labels = np.zeros((3, 2, 2), np.uint8)
    labels[:2, 0, 0] = 1
    data = LabelledImages(np.zeros((3, 1, 2, 2), np.uint8), labels, ("rest", "dot"))
    assert most_frequent_labels(data).tolist() == [[[1, 0], [0, 0]]]


def test_unknown_data_is_refused() -> None:
    with pytest.raises(ValueError, match="data must be faces, photographs, photographs:own, celebamask:FOLDER"):
        open_domain("imagenet")


def test_pairs_that_are_left_out_leave_the_others_as_they_are() -> None:
    """Each pair kept is what it is alone: original, noise to exchange, label map, mask and number."""
    noise, other = torch.randn(2, 10, 3, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()

    def parse(images: torch.Tensor) -> torch.Tensor:
        """The eye lies where the image says, and there is none in images that are dark on average."""
        labels = torch.zeros(len(images), 8, 8, dtype=torch.long)
        for row, image in enumerate(images):
            if float(image.mean()) > 0:
                column = 1 + int(1000 * float(image.abs().mean())) % 5
                labels[row, 2:4, column : column + 2] = 1
        return labels

    def blurred(x: torch.Tensor) -> torch.Tensor:
        return x + 0.3 * x.roll(1, dims=3)

    (entry,), swaps = swap_and_measure(blurred, parse, noise, other, {"eye": [1]})
    kept = [row for row in range(10) if float(blurred(noise[row : row + 1]).mean()) > 0]
    assert 2 <= len(kept) <= 8 and entry.n_pairs == len(kept)
    assert swaps.numbers is not None and swaps.numbers.tolist() == kept
    insides = []
    for position, row in enumerate(kept):
        (alone,), one = swap_and_measure(blurred, parse, noise[row : row + 1], other[row : row + 1], {"eye": [1]})
        assert torch.equal(swaps.originals[position], one.originals[0])
        assert torch.equal(swaps.masks["eye"][position], one.masks["eye"][0])
        assert torch.equal(swaps.edited["eye"][position], one.edited["eye"][0])
        insides.append(alone.mse_in)
    assert entry.mse_in == pytest.approx(np.mean(insides), rel=1e-12)
