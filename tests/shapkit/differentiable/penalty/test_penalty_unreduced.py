"""The unreduced penalty and its report."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shapkit.differentiable import DummyPlayerPenalty, Regions
from shapkit.differentiable.penalty.loss_report import LossReport

LABELS = torch.tensor([[[0, 0, 1, 1]] * 2 + [[2, 2, 1, 1]] * 2])
REGIONS = Regions.from_labels(LABELS, {"right": [1], "low": [2]}, dtype=torch.float64)
X = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def leaky(x: Tensor) -> Tensor:
    return x.roll(1, 3) * x


@pytest.mark.parametrize("estimator", ["direct", "exact", "per_region", "shared", "grand", "present"])
def test_the_mean_of_the_unreduced_penalty_is_the_penalty(estimator: Any) -> None:
    penalty = DummyPlayerPenalty(estimator, samples=2)
    found = penalty.unreduced(leaky, X, REGIONS, step=3)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found.mean(), penalty(leaky, X, REGIONS, step=3), rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ["direct", "exact", "per_region", "shared", "grand", "present"])
def test_half_a_batch_gives_its_rows_of_the_whole(estimator: Any) -> None:
    penalty = DummyPlayerPenalty(estimator, samples=2)
    whole = penalty.unreduced(leaky, X, REGIONS)
    halves = [penalty.unreduced(leaky, X[i : i + 2], REGIONS, first_index=i) for i in (0, 2)]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-12, atol=0)


def test_the_report_has_shares_without_gradients() -> None:
    x = X.clone().requires_grad_()
    report = LossReport(DummyPlayerPenalty("exact").unreduced(leaky, x, REGIONS), REGIONS.names)
    assert not report.unreduced.requires_grad
    assert float(report.shares.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(report.by_region.mean(), report.loss)


def test_a_report_of_nothing_has_no_shares() -> None:
    assert LossReport(torch.zeros(2, 3), ("a", "b", "c")).shares.tolist() == [0.0, 0.0, 0.0]


def test_a_report_refuses_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="one column per region"):
        LossReport(torch.zeros(2, 2), ("a", "b", "c"))
