"""A region that a sample lacks contributes nothing: the sample's loss is the mean over the regions that it has."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit.differentiable import DummyPlayerPenalty, Regions

ESTIMATORS: list[Any] = ["direct", "exact", "per_region", "shared", "grand", "present"]
LABELS = torch.tensor([[[1, 1, 2, 2]] + [[0, 0, 0, 3]] * 3, [[1, 1, 0, 0]] + [[0, 0, 0, 0]] * 3])
CONCEPTS = {"eyes": [1], "mouth": [2], "nose": [3]}
REGIONS = Regions.from_labels(LABELS, CONCEPTS, missing="allow", dtype=torch.float64)
X = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHT = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def conv_network(x: Tensor) -> Tensor:
    return torch.tanh(F.conv2d(x, WEIGHT, padding=1))


@pytest.mark.parametrize("payoff", ["pixels", "mean"])
@pytest.mark.parametrize("estimator", ["direct", "exact"])
def test_the_loss_is_that_of_the_game_among_the_regions_there_are(estimator: Any, payoff: Any) -> None:
    penalty = DummyPlayerPenalty(estimator, "zeros", payoff)
    found = penalty.unreduced(conv_network, X, REGIONS).mean(dim=1)
    for sample, concepts in enumerate([CONCEPTS, {"eyes": [1]}]):
        alone = Regions.from_labels(LABELS[[sample]], concepts, dtype=torch.float64)
        expected = penalty(conv_network, X[[sample]], alone)
        assert float(expected) > 1e-3
        assert float(found[sample]) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("fill", ["zeros", "exchange"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_loss_and_finite_gradients(estimator: Any, fill: Any) -> None:
    x = X.clone().requires_grad_()
    unreduced = DummyPlayerPenalty(estimator, fill, samples=6).unreduced(conv_network, x, REGIONS)
    assert unreduced[1, 1:3].eq(0).all()
    assert unreduced.sum() > 0
    (gradient,) = torch.autograd.grad(unreduced.mean(), x)
    assert bool(gradient.isfinite().all())


def test_sample_weights_multiply_the_samples() -> None:
    penalty = DummyPlayerPenalty("exact", "zeros")
    of_samples = penalty.unreduced(conv_network, X, REGIONS).mean(dim=1)
    weighted = penalty(conv_network, X, REGIONS, sample_weights=torch.tensor([3.0, 0.5]))
    assert float(weighted) == pytest.approx(float((3 * of_samples[0] + 0.5 * of_samples[1]) / 2), rel=1e-12)
