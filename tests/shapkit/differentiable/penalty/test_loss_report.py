"""Who is to blame: the report against a network whose leaks are known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shapkit.differentiable import DummyPlayerPenalty, Regions, star
from shapkit.differentiable.penalty.loss_report import LossReport

N = 3
NAMES = ("eyes", "mouth", "rest")
LEAKS = torch.tensor([[1.0, 0.5, 0.1], [0.0, 1.0, 0.7], [0.3, 0.2, 1.0]], dtype=torch.float64)  # [output, input]
SAMPLED: list[Any] = ["per_region", "shared", "grand", "present"]


def blocks() -> Regions:
    """Three regions side by side, six columns each."""
    labels = torch.arange(18)[None, None].expand(1, 6, 18) // 6
    return Regions.from_labels(labels.contiguous(), {name: [k] for k, name in enumerate(NAMES)}, rest=None)


REGIONS = blocks()


def orthogonal_inputs(batch: int = 64) -> Tensor:
    """Region j is plus or minus one in rows j and j + 3, else zero; neighbours are opposite.

    Leaks of different regions then fall on different pixels, and every exchange changes a region by as much.
    """
    x = torch.zeros(batch, 1, 6, 18, dtype=torch.float64)
    for j in range(N):
        x[:, :, j::3, 6 * j : 6 * j + 6] = 1
    x[1::2] *= -1
    return x


def leaky(x: Tensor) -> Tensor:
    """Output region k is the sum of the input regions j times LEAKS[k, j]."""
    parts = x.unflatten(3, (N, 6))  # (batch, c, h, region, w)
    return torch.einsum("kj,bchjw->bchkw", LEAKS, parts).flatten(3)


def report_of(penalty: DummyPlayerPenalty, x: Tensor, regions: Regions = REGIONS, step: int = 0) -> LossReport:
    drawn = penalty.draw(x, regions, step=step)
    return LossReport.from_terms(penalty.terms(leaky, x, regions, drawn), drawn, regions)


@pytest.mark.parametrize("graph", ["own", star()])
@pytest.mark.parametrize("estimator", ["exact", "shared", "grand", "present"])
def test_a_linear_network_s_leaks_are_found(estimator: Any, graph: Any) -> None:
    """Exchanging j changes region k by 2 LEAKS[k, j] on a third of its pixels."""
    penalty = DummyPlayerPenalty(estimator, graph=graph, samples=20)
    expected = 4 * LEAKS.square() / 3
    expected.fill_diagonal_(0)
    if graph != "own":
        expected[:, 2] = 0  # all may listen to the rest
    report = report_of(penalty, orthogonal_inputs())
    torch.testing.assert_close(report.pairs, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(report.pair_shares, expected / expected.sum(), rtol=1e-5, atol=1e-6)
    assert float(report.pair_shares.sum()) == pytest.approx(1)


def test_direct_blames_by_shapley_values() -> None:
    """Without interactions the Shapley value of j is its own effect: 2 LEAKS[k, j] on a third of the pixels."""
    expected = 2 * LEAKS.abs() / 3
    expected.fill_diagonal_(0)
    report = report_of(DummyPlayerPenalty("direct"), orthogonal_inputs(4))
    torch.testing.assert_close(report.pairs, expected, rtol=1e-5, atol=1e-6)


def test_independent_noise_is_blamed_right_on_average() -> None:
    """What a sample blames is noisy, most of all by the largest leak's own square, 0.7^2 mean(d^2) over 36 pixels.

    d^2 has variance 8, so the mean over 4,096 samples, of which neighbours share theirs, has a standard deviation of
    0.7^2 * sqrt(8 / 36 / 2048) = 0.005 (cross terms are smaller). Inverting the sets' covariance may double that; five
    such deviations are 0.05.
    """
    x = torch.randn(4096, 1, 6, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 2 * LEAKS.square()
    expected.fill_diagonal_(0)
    found = report_of(DummyPlayerPenalty("grand"), x).pairs
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    assert float((found - expected).abs().max()) > 1e-4  # noise it is


def test_one_term_is_split_equally() -> None:
    """Two samples (a pair) with one shared coalition: nothing tells the exchanged regions apart."""
    x = orthogonal_inputs(2)
    for step in range(50):
        penalty = DummyPlayerPenalty("shared")
        drawn = penalty.draw(x, REGIONS, step=step)
        terms = penalty.terms(leaky, x, REGIONS, drawn)
        report = LossReport.from_terms(terms, drawn, REGIONS)
        for k in range(N):
            used = [c for c in range(len(terms)) if float(drawn.weights[c, 0, k]) > 0]
            assert len(used) <= 1
            for c in used:
                responsible = drawn.exchanged[c, 0].double()
                assert float(responsible[k]) == 0
                equal = responsible * terms[c, 0, k] / responsible.sum()
                torch.testing.assert_close(report.pairs[k], equal, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", ["direct", "exact", *SAMPLED])
def test_reports_say_what_the_penalty_says(estimator: Any) -> None:
    x = torch.randn(4, 1, 6, 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    penalty = DummyPlayerPenalty(estimator, samples=3)
    report = report_of(penalty, x.requires_grad_(), step=2)
    torch.testing.assert_close(report.loss, penalty(leaky, x, REGIONS, step=2).detach())
    assert not report.unreduced.requires_grad and not report.pairs.requires_grad


def test_reports_add_up() -> None:
    x = orthogonal_inputs(8)
    penalty = DummyPlayerPenalty("exact")
    whole = report_of(penalty, x)
    halves = report_of(penalty, x[:4]) + report_of(penalty, x[4:])
    torch.testing.assert_close(halves.loss, whole.loss)
    torch.testing.assert_close(halves.pairs, whole.pairs)
    with pytest.raises(ValueError, match="different regions do not add up"):
        whole + LossReport(torch.zeros(2, 2), ("a", "b"))


def test_pairs_need_the_terms() -> None:
    report = LossReport(torch.ones(2, 3), NAMES)
    for wanted in (report, report + report):
        with pytest.raises(ValueError, match=r"LossReport\.from_terms"):
            _ = wanted.pairs


def test_a_missing_region_is_blamed_for_nothing() -> None:
    """Where the mouth is missing its column belongs to the rest, and the rest's leaks are the rest's alone."""
    labels = (torch.arange(18)[None, None].expand(2, 6, 18) // 6).clone()
    labels[:, :, 6:12] = 2
    regions = Regions.from_labels(labels, {"eyes": [0], "mouth": [1]}, missing="allow")
    report = report_of(DummyPlayerPenalty("exact"), orthogonal_inputs(2), regions)
    assert report.pairs[:, 1].eq(0).all() and report.pairs[1].eq(0).all()
    assert report.pairs[0, 2] > 0 and report.pairs[2, 0] > 0
