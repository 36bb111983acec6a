"""Distances of feature sets: against loops over pairs, closed forms, and torchmetrics with the same extractor."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.evaluation.feature_metrics import (
    density_coverage,
    kernel_distance,
    kernel_distance_of_subsets,
    precision_recall,
)
from shapkit_diffusion.evaluation.inception import FidInception, load_inception
from shapkit_diffusion.evaluation.realism import WHOLE, Box, features_of, frechet_distance, map_features, statistics_of
from shapkit_diffusion.evaluation.realism_measures import RealismMeasurement, RealismReference, measure_realism
from shapkit_diffusion.segmentation.small import load_parser


def _rows(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_kernel_distance_is_the_double_sum() -> None:
    first, second = _rows(7, 3, 0), _rows(9, 3, 1, 0.5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        n = len(rows)
        return sum(kernel(rows[a], rows[b]) for a in range(n) for b in range(n) if a != b) / (n * (n - 1))

    cross = sum(kernel(x, y) for x in first for y in second) / 63
    assert kernel_distance(first, second) == pytest.approx(within(first) + within(second) - 2 * cross, rel=1e-12)


def test_kernel_distance_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _rows(50, 4, 0), _rows(61, 4, 1, 0.3)
    whole = kernel_distance(first, second), precision_recall(first, second), density_coverage(first, second)
    monkeypatch.setattr("shapkit_diffusion.evaluation.feature_metrics._BLOCK", 8)
    assert kernel_distance(first, second) == pytest.approx(whole[0], rel=1e-12)
    assert (precision_recall(first, second), density_coverage(first, second)) == whole[1:]


def test_kernel_distance_is_unbiased() -> None:
    """300 pairs of sets of one distribution: their mean lies within 4 standard errors of zero, some are below."""
    values = [kernel_distance(_rows(10, 3, 2 * s), _rows(10, 3, 2 * s + 1)) for s in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_subsets_estimate_the_full_distance_and_are_named_by_their_seed() -> None:
    first, second = _rows(200, 3, 0), _rows(200, 3, 1, 0.5)
    mean, deviation = kernel_distance_of_subsets(first, second, size=40, subsets=100, seed=3)
    # Subsets of a fifth of the rows overlap little: their mean errs by about deviation / 10; allow 4 of that.
    assert mean == pytest.approx(kernel_distance(first, second), abs=0.4 * deviation)
    assert kernel_distance_of_subsets(first, second, size=40, subsets=100, seed=3) == (mean, deviation)
    assert kernel_distance_of_subsets(first, second, size=40, subsets=100, seed=4)[0] != mean
    everything = kernel_distance_of_subsets(first, second, size=200, subsets=2)
    assert everything[0] == pytest.approx(kernel_distance(first, second), rel=1e-12)
    with pytest.raises(ValueError, match="at least 201 rows"):
        kernel_distance_of_subsets(first, second, size=201)


def test_manifold_measures_are_their_definitions_row_by_row() -> None:
    reference, samples, k = _rows(25, 2, 0), _rows(30, 2, 1, 0.8), 3

    def radius(rows: np.ndarray, centre: int) -> float:
        return sorted(float(np.linalg.norm(rows[centre] - other)) for n, other in enumerate(rows) if n != centre)[k - 1]

    def inside(point: np.ndarray, rows: np.ndarray) -> list[bool]:
        return [float(np.linalg.norm(point - rows[c])) <= radius(rows, c) for c in range(len(rows))]

    precision = np.mean([any(inside(point, reference)) for point in samples])
    recall = np.mean([any(inside(point, samples)) for point in reference])
    assert precision_recall(reference, samples, k) == pytest.approx((precision, recall))
    balls = np.array([inside(point, reference) for point in samples])
    density, coverage = balls.sum() / (k * len(samples)), balls.any(axis=0).mean()
    assert density_coverage(reference, samples, k) == pytest.approx((density, coverage))
    assert 0 < precision < 1 and 0 < recall < 1 and 0 < coverage < 1
    with pytest.raises(ValueError, match="k must be at least 1"):
        precision_recall(reference, samples, 0)


def test_collapse_costs_recall_and_noise_costs_precision() -> None:
    reference = _rows(100, 4, 0)
    collapsed, scattered = 0.05 * _rows(100, 4, 1), 20 * _rows(100, 4, 2)
    precision, recall = precision_recall(reference, collapsed)
    assert precision == 1 and recall < 0.05
    precision, _ = precision_recall(reference, scattered)
    assert precision < 0.05 and density_coverage(reference, collapsed)[1] < 0.5


class _ParserVectors(nn.Module):
    """The shipped parser's pooled features, as torchmetrics wants an extractor."""

    num_features = 112

    def __init__(self) -> None:
        super().__init__()
        # Not a submodule: the metric's set_dtype would make its weights float64, and ours are float32.
        self.vectors = map_features(load_parser().features)

    def forward(self, images: Tensor) -> Tensor:
        return self.vectors(images, WHOLE).double()


@pytest.fixture(scope="module")
def two_sets() -> tuple[Tensor, Tensor]:
    """Faces, and other faces seen darker and noisier: a distance as of a model that is not quite right."""
    real, other = (to_unit_range(torch.as_tensor(render_faces(400, 32, seed=seed).images)) for seed in (1, 2))
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    return real, (0.9 * other + 0.05 * noise).clamp(-1, 1)


def test_frechet_distance_is_torchmetrics_with_the_same_extractor(two_sets: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("torchmetrics.image.fid")
    real, other = two_sets
    theirs = metrics.FrechetInceptionDistance(feature=_ParserVectors(), normalize=True).set_dtype(torch.float64)
    with torch.no_grad():
        for part, is_real in ((real, True), (other, False)):
            for batch in part.split(128):
                theirs.update(batch, real=is_real)
    extractor = load_parser().features
    ours = frechet_distance(statistics_of(real, extractor), statistics_of(other, extractor))
    assert ours > 0.01
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_kernel_distance_is_torchmetrics_with_the_same_extractor(two_sets: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("torchmetrics.image.kid")
    real, other = two_sets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all features are kept in memory
        theirs = metrics.KernelInceptionDistance(feature=_ParserVectors(), subsets=1, subset_size=400, normalize=True)
    theirs.set_dtype(torch.float64)
    with torch.no_grad():
        theirs.update(real, real=True)
        theirs.update(other, real=False)
    features = map_features(load_parser().features)
    ours = kernel_distance(features_of(real, features), features_of(other, features))
    assert ours > 0
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_realism_of_crops_sees_what_the_whole_does_not_and_survives_json(two_sets: tuple[Tensor, Tensor]) -> None:
    real, _ = two_sets
    corner = Box(0.0, 0.25, 0.0, 0.25)
    features = map_features(load_parser().features)
    reference = RealismReference.of(real[:200], features, {"whole": WHOLE, "corner": corner}, extractor_name="parser")
    good = real[200:350]
    spoilt = good.clone()
    spoilt[..., :8, :8] = torch.rand(150, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    honest, noisy = measure_realism(good, reference), measure_realism(spoilt, reference)
    grown = {name: noisy.crops[name].fid / honest.crops[name].fid for name in ("whole", "corner")}
    assert grown["corner"] > 3 * grown["whole"]
    assert noisy.crops["corner"].precision < 0.1 < honest.crops["corner"].precision
    assert noisy.crops["corner"].kid > 10 * abs(honest.crops["corner"].kid)
    again = RealismMeasurement.from_json(json.loads(json.dumps(noisy.to_json())))
    assert again == noisy and str(again).splitlines()[2].startswith("corner")


def test_where_real_images_are_scarce_as_many_samples_are_compared_by_neighbours(
    two_sets: tuple[Tensor, Tensor],
) -> None:
    real, _ = two_sets
    features = map_features(load_parser().features)
    scarce = RealismReference.of(real[:40], features, {"whole": WHOLE})
    few, all_of_them = (measure_realism(real[40:end], scarce).crops["whole"] for end in (80, 160))
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(few, name) == getattr(all_of_them, name)
    assert (few.n_samples, all_of_them.n_samples, few.n_reference) == (40, 120, 40)
    assert few.fid != all_of_them.fid and few.kid != all_of_them.kid


@pytest.fixture(scope="module")
def inception_state() -> dict[str, Tensor]:
    """Random weights in the layout of pytorch-fid's file, counters left out as it does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = FidInception().state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def test_inception_has_the_published_layout(inception_state: dict[str, Tensor]) -> None:
    """94 convolutions with 5 tensors each, and the head. torchvision's 27,161,264 parameters, less the auxiliary

    head's 3,326,696, and 8 classes of 2,049 more, are 23,850,960.
    """
    assert len(inception_state) == 94 * 5 + 2
    statistics = ("running_mean", "running_var")
    assert sum(t.numel() for name, t in inception_state.items() if not name.endswith(statistics)) == 23_850_960
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch_pool.bn.running_var": (32,),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6c.branch7x7dbl_5.conv.weight": (192, 160, 1, 7),
        "Mixed_7a.branch7x7x3_4.bn.bias": (192,),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
    }.items():
        assert tuple(inception_state[name].shape) == shape


def test_inception_from_a_file_makes_features_of_any_size(tmp_path: Path, inception_state: dict[str, Tensor]) -> None:
    torch.save(inception_state, tmp_path / "weights.pth")
    network = load_inception(tmp_path / "weights.pth")
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = network.features(images)
    assert rows.shape == (2, 2048) and bool((rows >= 0).all()) and bool(rows.isfinite().all())
    assert float((rows[0] - rows[1]).norm()) > 0
    grey = images[:1, :1]
    crop = network.features(grey, Box(0.5, 1.0, 0.0, 0.5))  # of one channel, which stands for three
    torch.testing.assert_close(crop, network(grey[:, :, 12:, :12].expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="1 or 3"):
        network.features(images[:, :2])


def test_inception_reads_safetensors_too(tmp_path: Path, inception_state: dict[str, Tensor]) -> None:
    save_file(inception_state, tmp_path / "weights.safetensors")
    state = load_inception(tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in inception_state.items())
    (tmp_path / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no readable state dict"):
        load_inception(tmp_path / "weights.safetensors")


def test_inception_pools_leave_padding_out_and_the_last_one_takes_the_maximum() -> None:
    """What sets the FID network apart from torchvision's, on an input of ones and minus ones."""
    from shapkit_diffusion.evaluation.inception import _A, _E

    seen: list[Tensor] = []
    for block in (_A(4, 8), _E(4, maximum=False), _E(4, maximum=True)):
        block.branch_pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        x = torch.ones(1, 4, 5, 5)
        x[..., 2, 2] = 10
        block.eval()(x)
    average, same, maximum = (pool[0, 0] for pool in seen)
    assert float(average[0, 0]) == 1 and float(average[1, 1]) == pytest.approx(2)
    assert torch.equal(average, same)
    assert float(maximum[1, 1]) == 10 and float(maximum[0, 0]) == 1


def test_inception_weights_that_do_not_fit_are_refused(tmp_path: Path, inception_state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="never downloaded"):
        load_inception(tmp_path / "none.pth")
    path = tmp_path / "weights.pth"
    torch.save(
        {name: t for name, t in inception_state.items() if "Mixed_7c" not in name} | {"other": torch.ones(1)}, path
    )
    with pytest.raises(ValueError, match="another architecture: Mixed_7c"):
        load_inception(path)
    torch.save(inception_state | {"fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(ValueError, match=r"fc.weight is \(1000, 2048\) there and \(1008, 2048\)"):
        load_inception(path)
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="no pickle of tensors"):
        load_inception(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="it holds a list, not tensors by name"):
        load_inception(path)
