"""Composed outputs: equal to their slow twin, local for any network, generated in an order that the graph allows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shapkit.differentiable import Composition, Regions, allowed_influence, star

NAMES = ("left", "middle", "right")


def _regions() -> Regions:
    """Two samples, whose regions differ."""
    labels = torch.tensor([[[0, 0, 1, 2, 2]] * 3, [[0, 1, 1, 1, 2]] * 3])
    return Regions.from_labels(labels, {"left": [0], "middle": [1], "right": [2]}, rest=None)


def _network(seed: int = 0) -> torch.nn.Module:
    """Every output pixel looks at every input pixel."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(2 * 15, 40), torch.nn.Tanh(), torch.nn.Linear(40, 2 * 15),
        torch.nn.Unflatten(1, (2, 3, 5)),
    )  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn, circles: bool = True) -> Tensor:
    """Who may look at whom among three; without circles, an order of them is followed."""
    edges = torch.tensor(draw(st.lists(st.booleans(), min_size=9, max_size=9))).reshape(3, 3)
    if not circles:
        order = torch.tensor(draw(st.permutations(range(3))))
        edges = edges & (order[:, None] > order[None, :])
    return edges | torch.eye(3, dtype=torch.bool)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(1, 3))
def test_every_region_is_of_a_run_on_its_coalition(graph: Tensor, batch_runs: int) -> None:
    regions, network = _regions(), _network()
    x, shift = torch.randn(2, 2, 3, 5), torch.tensor([1.0, -2.0])
    found = Composition(regions, graph)(
        lambda seen, rows: network(seen) + shift[rows, None, None, None], x, batch_runs=batch_runs
    )
    expected = torch.zeros_like(x)
    for sample in range(2):
        for k in range(3):
            coalition = sum(regions.masks[sample, j] for j in range(3) if graph[k, j])
            run = network((x[sample] * coalition)[None])[0] + shift[sample]
            expected[sample] += run.detach() * regions.masks[sample, k]
    torch.testing.assert_close(found.detach(), expected)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_regions_outside_the_graph_are_dummies_for_any_weights(graph: Tensor) -> None:
    regions, network, compose = _regions(), _network(3), Composition(_regions(), graph)
    x = torch.randn(2, 2, 3, 5)
    before = compose(lambda seen, rows: network(seen), x)
    for j in range(3):
        mask = regions.masks[:, j : j + 1]
        moved = compose(lambda seen, rows: network(seen), x + mask * torch.randn_like(x))
        change = regions.means((moved - before).abs())
        for k in range(3):
            assert bool((change[:, k] > 0).all()) == bool(graph[k, j])


@settings(max_examples=50, deadline=None)
@given(graphs(circles=False))
def test_staged_regions_wait_for_all_that_they_look_at(graph: Tensor) -> None:
    parts = Composition(_regions(), graph, staged=True).stages()
    stage_of = {k: number for number, part in enumerate(parts) for k in part.regions}
    assert sorted(stage_of) == [0, 1, 2]
    for k in range(3):
        looked_at = [stage_of[j] for j in range(3) if graph[k, j] and j != k]
        assert stage_of[k] == max((number + 1 for number in looked_at), default=0)  # and no longer than needed
    total = torch.stack([part.where for part in parts]).int().sum(dim=0)
    assert bool((total == 1).all())


def test_staged_runs_see_others_finished() -> None:
    regions, network = _regions(), _network()
    compose = Composition(regions, star("right"), staged=True)
    x, clean = torch.randn(2, 2, 2, 3, 5)
    found = compose(lambda seen, rows: network(seen), x, finished=clean)
    right = regions.mask("right")
    for name in NAMES:
        own = regions.mask(name)
        seen = x * own + (clean * right if name != "right" else 0)
        torch.testing.assert_close(found * own, network(seen) * own)
    elsewhere = compose(lambda seen, rows: network(seen), x + right, finished=clean)
    assert torch.equal(elsewhere * (1 - right), found * (1 - right))  # which do not look at the noisy right
    together = Composition(regions, star("right"))
    run = together(lambda seen, rows: network(seen), x, finished=clean)
    torch.testing.assert_close(run, together(lambda seen, rows: network(seen), x))  # which has no use for it


def test_a_velocity_is_followed_stage_by_stage() -> None:
    """Each part moves only in its own stage, and an edit of one region leaves all but its own alone."""
    regions, network = _regions(), _network()
    compose = Composition(regions, star("right"), staged=True)

    def generate(x: Tensor) -> Tensor:
        with torch.no_grad():
            for part in compose.stages():
                for t, following in pairwise(torch.linspace(0, 1, 4)):
                    moved = x + (following - t) * compose(lambda seen, rows: network(seen), x, part=part)
                    assert bool((torch.where(part.where, x, moved) == x).all())
                    x = torch.where(part.where, moved, x)
        return x

    noise = torch.randn(2, 2, 3, 5)
    inside = regions.mask("left")
    change = generate(noise + inside * torch.randn_like(noise)) - generate(noise)
    assert bool((change * (1 - inside) == 0).all()) and bool((change * inside).any())


def test_gradients_reach_a_region_through_what_looks_at_it_alone() -> None:
    regions, network = _regions(), _network()
    x = torch.randn(2, 2, 3, 5, requires_grad=True)
    composed = Composition(regions, star("right"))(lambda seen, rows: network(seen), x)
    (gradient,) = torch.autograd.grad((composed * regions.mask("left")).sum(), x)
    reached = regions.means(gradient.abs()) > 0
    assert reached.tolist() == [[True, False, True]] * 2
    assert allowed_influence(star("right"), NAMES)[0].tolist() == [True, False, True]


def test_what_does_not_fit_is_refused() -> None:
    regions = _regions()
    circle = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    with pytest.raises(ValueError, match=r"cannot be generated one after the other: left, middle$"):
        Composition(regions, circle, staged=True)
    soft = Regions(torch.full((1, 2, 3, 5), 0.5), ("left", "right"))
    Composition(soft, "own")
    with pytest.raises(ValueError, match="staged regions must be hard"):
        Composition(soft, "own", staged=True)
    with pytest.raises(ValueError, match="the network must map"):
        Composition(regions, "own")(lambda seen, rows: seen[:1], torch.zeros(2, 2, 3, 5))
    with pytest.raises(ValueError, match="must have one size and one batch"):
        Composition(regions, "own")(lambda seen, rows: seen, torch.zeros(3, 2, 3, 5))
