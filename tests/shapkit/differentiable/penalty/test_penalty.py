"""The dummy-player penalty against a slow twin: plain loops over samples, regions and coalitions.

Everything here is float64 and deterministic; the random forms are named by seed and step, so that a test of
their mean passes always or never.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations
from math import factorial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit.differentiable import DummyPlayerPenalty, Regions, absent_input, allowed_influence, star

Network = Callable[[Tensor], Tensor]
Coalition = frozenset[int]
Game = Callable[[Coalition], Tensor]
Table = dict[tuple[int, int, Coalition], Tensor]

CONCEPTS = {"eyes": [1], "mouth": [2]}
ESTIMATORS: list[Any] = ["direct", "exact", "per_region", "shared", "grand", "present"]
FILLS: list[Any] = ["zeros", "noise", "exchange", "batch_mean"]
PAYOFFS: list[Any] = ["pixels", "mean"]
MATRIX = ((True, False, True), (True, True, False), (False, False, True))
GRAPHS: dict[str, Any] = {"own": "own", "star": star(), "matrix": MATRIX}
N = 3
PLAYERS = range(N)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def label_maps(batch: int = 4, size: int = 6) -> Tensor:
    """Eyes in the upper left, the mouth along the bottom, placed differently in every sample."""
    labels = torch.zeros(batch, size, size, dtype=torch.int64)
    for sample in range(batch):
        labels[sample, 0:2, sample % 2 : 2 + sample] = 1
        labels[sample, -1, 1 : 3 + sample % 2] = 2
    return labels


LABELS = label_maps()
REGIONS = Regions.from_labels(LABELS, CONCEPTS, dtype=torch.float64)
PAIRED = Regions(REGIONS.masks[[0, 0, 3, 3]], REGIONS.names)
OWNER = REGIONS.masks.argmax(dim=1)
X = randn(4, 2, 6, 6, seed=1)
WEIGHTS = (randn(3, 2, 3, 3, seed=2) * 0.4, randn(2, 3, 3, 3, seed=3) * 0.4)


def conv_network(x: Tensor, first: Tensor = WEIGHTS[0], second: Tensor = WEIGHTS[1]) -> Tensor:
    hidden = torch.tanh(F.conv2d(x, first.to(x.dtype), padding=1))
    return F.conv2d(hidden, second.to(x.dtype), padding=1)


def pointwise(x: Tensor) -> Tensor:
    return torch.tanh(torch.einsum("oc,bchw->bohw", WEIGHTS[0][:, :, 0, 0], x))


def obedient_to(graph: Any) -> Network:
    """A network whose output region k is computed from nothing but the players that may influence it.

    It knows the masks, so for fill="exchange" the members of a pair must share them.
    """
    allowed = allowed_influence(graph, PAIRED.names).double()
    seen = torch.einsum("kj,bjhw->bkhw", allowed, PAIRED.masks)

    def network(x: Tensor) -> Tensor:
        outputs = [conv_network(x * seen[:, [k]]) * PAIRED.masks[:, [k]] for k in PLAYERS]
        return outputs[0] + outputs[1] + outputs[2]

    return network


# The slow twin.


def subsets() -> list[Coalition]:
    return [frozenset(p for p in PLAYERS if row >> p & 1) for row in range(2**N)]


def allowed_sets(graph: Any) -> list[Coalition]:
    """A_k for every k, written out."""
    if graph == "own":
        return [frozenset({k}) for k in PLAYERS]
    if graph == star():
        rest = 2
        return [frozenset({k, rest}) for k in PLAYERS]
    return [frozenset(j for j in PLAYERS if graph[k][j]) for k in PLAYERS]


def stand_in(fill: str) -> Tensor:
    if fill == "zeros":
        return X * 0
    if fill == "exchange":
        return torch.stack([X[1], X[0], X[3], X[2]])
    if fill == "batch_mean":
        return torch.stack([(X[0] + X[1] + X[2] + X[3]) / 4] * 4)
    return absent_input("noise", X, noise_level=0.7, seed=0, step=0)


@cache
def payoffs(fill: str, payoff: str) -> Table:
    """v_k(S) for every sample and region: the pixels (channels, area) of the region, or their mean."""
    absent = stand_in(fill)
    table = {}
    for coalition in subsets():
        composites = []
        for b in range(len(X)):
            mixed = absent[b].clone()
            for region in coalition:
                mixed[:, OWNER[b] == region] = X[b][:, OWNER[b] == region]
            composites.append(mixed)
        output = conv_network(torch.stack(composites))
        for b in range(len(X)):
            for k in PLAYERS:
                pixels = output[b][:, OWNER[b] == k]
                table[b, k, coalition] = pixels if payoff == "pixels" else pixels.mean()
    return table


def square(difference: Tensor) -> float:
    """|| ||^2: the mean square over the payoff's elements."""
    return float((difference**2).mean())


def mean_over_games(value: Callable[[Game, int], float], table: Table) -> float:
    """Mean over samples and regions of value(v, k), v the game of region k in that sample."""
    total = 0.0
    for b in range(len(X)):
        for k in PLAYERS:
            total += value(lambda s, b=b, k=k: table[b, k, frozenset(s)], k)  # type: ignore[misc]
    return total / (len(X) * N)


def slow_direct(table: Table, graph: Any) -> float:
    def value(v: Game, k: int) -> float:
        total = 0.0
        for j in PLAYERS:
            if j in allowed_sets(graph)[k]:
                continue
            shapley = torch.zeros(())
            for s in subsets():
                if j not in s:
                    weight = factorial(len(s)) * factorial(N - 1 - len(s)) / factorial(N)
                    shapley = shapley + weight * (v(s | {j}) - v(s))
            total += float(shapley.abs().mean())
        return total

    return mean_over_games(value, table)


def slow_exact(table: Table, graph: Any) -> float:
    def value(v: Game, k: int) -> float:
        return sum(square(v(s) - v(s & allowed_sets(graph)[k])) for s in subsets()) / len(subsets())

    return mean_over_games(value, table)


def slow_per_region(table: Table, graph: Any) -> float:
    def value(v: Game, k: int) -> float:
        permitted = allowed_sets(graph)[k]
        total = 0.0
        for order in permutations(PLAYERS):
            before = frozenset(order[: order.index(k)])
            after = before | {k}
            total += square(v(after) - v(after & permitted)) + square(v(before) - v(before & permitted))
        return total / factorial(N)

    return mean_over_games(value, table)


def slow_grand(table: Table, graph: Any) -> float:
    def value(v: Game, k: int) -> float:
        permitted = allowed_sets(graph)[k]
        total = 0.0
        for s in subsets():
            if permitted <= s:
                total += square(v(s) - v(frozenset(PLAYERS)))
            if not permitted & s:
                total += square(v(s) - v(frozenset()))
        return total / len(subsets())

    return mean_over_games(value, table)


def slow_present(table: Table, graph: Any) -> float:
    def value(v: Game, k: int) -> float:
        whole = [s for s in subsets() if allowed_sets(graph)[k] <= s]
        return sum(square(v(s) - v(frozenset(PLAYERS))) for s in whole) / len(subsets())

    return mean_over_games(value, table)


TWINS = {
    "direct": slow_direct,
    "exact": slow_exact,
    "per_region": slow_per_region,
    "shared": slow_exact,
    "grand": slow_grand,
    "present": slow_present,
}


class Counted:
    """A network that counts its runs."""

    def __init__(self, network: Network = conv_network) -> None:
        self.network = network
        self.runs = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.network(x)


# What each form computes.


@pytest.mark.parametrize("estimator", ["direct", "exact"])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("payoff", PAYOFFS)
@pytest.mark.parametrize("fill", FILLS)
def test_enumerating_forms_equal_the_slow_twin(estimator: Any, graph: str, payoff: Any, fill: Any) -> None:
    penalty = DummyPlayerPenalty(estimator, fill, payoff, GRAPHS[graph])
    loss = penalty(conv_network, X, REGIONS, noise_level=0.7)
    assert loss.shape == ()
    expected = TWINS[estimator](payoffs(fill, payoff), GRAPHS[graph])
    assert expected > 1e-6
    assert float(loss) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("payoff", PAYOFFS)
@pytest.mark.parametrize("fill", FILLS)
def test_exact_is_equation_8(payoff: Any, fill: Any) -> None:
    """L_IE = sum_k sum_{S without k} ||v_k(S + k) - v_k(k)||^2 + ||v_k(S) - v_k(empty)||^2."""
    table = payoffs(fill, payoff)
    total = 0.0
    for b in range(len(X)):
        for k in PLAYERS:
            for s in subsets():
                if k not in s:
                    total += square(table[b, k, s | {k}] - table[b, k, frozenset({k})])
                    total += square(table[b, k, s] - table[b, k, frozenset()])
    loss = DummyPlayerPenalty("exact", fill, payoff)(conv_network, X, REGIONS, noise_level=0.7)
    assert float(loss) * N * 2**N == pytest.approx(total / len(X), rel=1e-10)


def drawn(penalty: DummyPlayerPenalty, draws: int) -> Tensor:
    """Independent values of a sampled form, one per step."""
    table = precomputed(penalty.fill)
    with torch.no_grad():
        return torch.stack([penalty(table, X, REGIONS, step=step) for step in range(draws)])


@cache
def precomputed(fill: str) -> Network:
    """conv_network with its answers for shared coalitions kept, which makes thousands of draws quick."""
    kept: dict[bytes, Tensor] = {}

    def network(x: Tensor) -> Tensor:
        key = x.numpy().tobytes()
        if key not in kept:
            kept[key] = conv_network(x)
        return kept[key]

    return network


def assert_mean(values: Tensor, expected: float) -> None:
    standard_error = float(values.std()) / len(values) ** 0.5
    assert standard_error > 0
    assert standard_error < 0.1 * expected  # or the test would accept almost anything
    assert abs(float(values.mean()) - expected) < 4 * standard_error


@pytest.mark.parametrize("estimator", ["per_region", "shared", "grand", "present"])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("fill", "payoff"), [("exchange", "pixels"), ("zeros", "mean")])
def test_sampled_forms_have_the_claimed_mean(estimator: Any, graph: str, fill: Any, payoff: Any) -> None:
    values = drawn(DummyPlayerPenalty(estimator, fill, payoff, GRAPHS[graph]), draws=500)
    assert_mean(values, TWINS[estimator](payoffs(fill, payoff), GRAPHS[graph]))


@pytest.mark.parametrize("estimator", ["per_region", "shared", "grand", "present"])
def test_seeds_are_as_independent_as_steps(estimator: Any) -> None:
    values = []
    for seed in range(400):
        penalty = DummyPlayerPenalty(estimator, "batch_mean", seed=seed)
        values.append(penalty(precomputed("batch_mean"), X, REGIONS).detach())
    assert_mean(torch.stack(values), TWINS[estimator](payoffs("batch_mean", "pixels"), "own"))


@pytest.mark.parametrize("estimator", ["per_region", "shared", "grand", "present"])
def test_more_samples_have_the_same_mean_and_less_variance(estimator: Any) -> None:
    one = drawn(DummyPlayerPenalty(estimator), draws=300)
    many = drawn(DummyPlayerPenalty(estimator, samples=8), draws=150)
    assert_mean(many, TWINS[estimator](payoffs("exchange", "pixels"), "own"))
    assert float(many.var()) == pytest.approx(float(one.var()) / 8, rel=0.5)


def test_grand_draws_for_every_sample_on_its_own() -> None:
    drawn_by_sample = []

    def network(x: Tensor) -> Tensor:
        present = [[bool((x[b] == X[b])[:, OWNER[b] == k].all()) for k in PLAYERS] for b in range(len(x))]
        drawn_by_sample.append(present)
        return conv_network(x)

    output = conv_network(X)
    for step in range(40):
        DummyPlayerPenalty()(network, X, REGIONS, output=output, step=step)
    coalitions = torch.tensor(drawn_by_sample)  # (step, sample, region)
    sizes = coalitions.sum(dim=2)
    assert sizes.min() == 1  # neither the empty nor the grand coalition, which would be wasted runs
    assert sizes.max() == N - 1
    for sample in range(4):
        assert len({tuple(row.tolist()) for row in coalitions[:, sample]}) == 2**N - 2
        for other in range(sample):
            assert not torch.equal(coalitions[:, sample], coalitions[:, other])


# Zero where the network obeys the graph, positive where it does not.


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("payoff", PAYOFFS)
@pytest.mark.parametrize("fill", FILLS)
def test_zero_on_local_networks_and_positive_on_others(estimator: Any, payoff: Any, fill: Any) -> None:
    for graph in GRAPHS.values():
        penalty = DummyPlayerPenalty(estimator, fill, payoff, graph, samples=6)
        for local in (pointwise, obedient_to(graph)):
            assert float(penalty(local, X, PAIRED)) <= 1e-12
        assert float(penalty(conv_network, X, PAIRED)) > 1e-6


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", FILLS)
def test_star_lets_concepts_look_at_the_rest_but_not_the_reverse(estimator: Any, fill: Any) -> None:
    looks_at_rest = obedient_to(star())
    looked_at_by_rest = obedient_to(allowed_influence(star(), PAIRED.names).T)
    assert float(DummyPlayerPenalty(estimator, fill, graph=star())(looks_at_rest, X, PAIRED)) <= 1e-12
    cases: list[tuple[Any, Network]] = [("own", looks_at_rest), (star(), looked_at_by_rest)]
    for graph, network in cases:
        penalty = DummyPlayerPenalty(estimator, fill, graph=graph, samples=6)
        assert float(penalty(network, X, PAIRED)) > 1e-6


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_condition_of_ones_own_is_no_leak(estimator: Any) -> None:
    """Unless the caller says that neighbours have it in common, and they have not."""

    def network(x: Tensor, brightness: Tensor) -> Tensor:
        return pointwise(x) + brightness[:, None, None, None]

    penalty = DummyPlayerPenalty(estimator, samples=6)
    for times in ([1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]):
        own = torch.tensor(times)
        for conditions in (None, own, [own, own[:, None]]):
            found = penalty(lambda x, own=own: network(x, own), X, REGIONS, conditions=conditions)
            assert float(found) <= 1e-12
        paired = float(penalty(lambda x, own=own: network(x, own), X, REGIONS, conditions="paired"))
        if times[0] == times[1] or estimator == "present":  # which never looks at the neighbour's output
            assert paired <= 1e-12
        else:
            assert paired > 0.01


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_that_pairs_are_alike_saves_a_run_and_changes_nothing(estimator: Any) -> None:
    """Their outputs are then the empty coalition's, whoever says so."""
    penalty, times = DummyPlayerPenalty(estimator, samples=6), torch.tensor([1.0, 1.0, 2.0, 2.0])
    found = {}
    for name, conditions in (("unknown", None), ("paired", "paired"), ("given", times)):
        counted = Counted()
        found[name] = float(penalty(counted, X, REGIONS, conditions=conditions)), counted.runs
    assert found["paired"][0] == pytest.approx(found["unknown"][0], rel=1e-12)
    assert found["given"] == found["paired"]
    assert found["paired"][1] <= found["unknown"][1]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_payoff_is_blind_to_changes_that_cancel(estimator: Any) -> None:
    def network(x: Tensor) -> Tensor:
        everywhere = x.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, 6, 6)
        return torch.cat([everywhere, -everywhere], dim=1)

    blind = DummyPlayerPenalty(estimator, payoff="mean", samples=6)
    seeing = DummyPlayerPenalty(estimator, payoff="pixels", samples=6)
    assert float(blind(network, X, REGIONS)) <= 1e-12
    assert float(seeing(network, X, REGIONS)) > 1e-4


def test_direct_is_blind_to_marginals_that_cancel() -> None:
    """The game 1 for pairs, 0 otherwise, of three players has zero Shapley values and no dummies."""

    def network(x: Tensor) -> Tensor:
        mean_over_channels = x.mean(dim=1, keepdim=True)
        means = (mean_over_channels * REGIONS.masks).sum(dim=(2, 3)) / REGIONS.areas
        a, b, c = means.unbind(dim=1)  # 1 if present, else 0
        pairs = a * b + a * c + b * c - 3 * a * b * c
        return pairs[:, None, None, None].expand(-1, 1, 6, 6)

    ones = torch.ones_like(X)
    for payoff in PAYOFFS:
        losses = {}
        for estimator in ESTIMATORS:
            penalty = DummyPlayerPenalty(estimator, "zeros", payoff, samples=6)
            losses[estimator] = float(penalty(network, ones, REGIONS))
        assert losses["direct"] <= 1e-12
        # v_k(S) is 1 for the three pairs among the eight coalitions, v_k(S & {k}) always 0.
        assert losses["exact"] == pytest.approx(3 / 8, rel=1e-12)
        assert min(losses[estimator] for estimator in ("per_region", "shared", "grand")) > 0.01


def test_grand_with_a_wider_graph_sees_less_than_exact() -> None:
    """Eyes that read the mouth while the rest is absent: then S neither holds A_k nor is apart from it."""

    def network(x: Tensor) -> Tensor:
        eyes, mouth, rest = ((x * REGIONS.masks[:, [k]]).sum(dim=(1, 2, 3), keepdim=True) for k in PLAYERS)
        only_eyes_of_allowed = (eyes != 0) & (rest == 0)
        return only_eyes_of_allowed * mouth * REGIONS.masks[:, [0]]

    exact = DummyPlayerPenalty("exact", "zeros", graph=star())
    grand = DummyPlayerPenalty("grand", "zeros", graph=star(), samples=20)
    assert float(exact(network, X, REGIONS)) > 1e-6
    assert float(grand(network, X, REGIONS)) == 0


# Gradients.


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("payoff", PAYOFFS)
@pytest.mark.parametrize("fill", FILLS)
def test_gradients(estimator: Any, fill: Any, payoff: Any) -> None:
    labels = torch.tensor([[[1, 1, 0], [0, 2, 2], [0, 0, 0]], [[0, 1, 1], [2, 2, 0], [0, 2, 0]]])
    regions = Regions.from_labels(labels, CONCEPTS, dtype=torch.float64)
    penalty = DummyPlayerPenalty(estimator, fill, payoff, samples=2, seed=1)

    def loss(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return penalty(lambda mixed: conv_network(mixed, first, second), x, regions)

    leaves = [randn(2, 1, 3, 3, seed=5), randn(1, 1, 3, 3, seed=6) * 0.4, randn(1, 1, 3, 3, seed=7) * 0.4]
    assert torch.autograd.gradcheck(loss, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", FILLS)
def test_a_given_output_changes_neither_value_nor_gradient(estimator: Any, fill: Any) -> None:
    results = []
    for given in (False, True):
        weights = [weight.clone().requires_grad_() for weight in WEIGHTS]
        x = X.clone().requires_grad_()

        def network(mixed: Tensor, weights: list[Tensor] = weights) -> Tensor:
            return conv_network(mixed, *weights)

        penalty = DummyPlayerPenalty(estimator, fill, samples=3)
        loss = penalty(network, x, REGIONS, output=network(x) if given else None)
        results.append([loss, *torch.autograd.grad(loss, [x, *weights])])
    for without, using in zip(*results, strict=True):
        torch.testing.assert_close(using, without, rtol=1e-10, atol=1e-14)


# Draws, batches and costs.


@pytest.mark.parametrize("fill", ["exchange", "zeros", "noise"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_halves_of_a_batch_give_the_loss_of_the_whole(estimator: Any, fill: Any) -> None:
    penalty = DummyPlayerPenalty(estimator, fill, samples=2, seed=9)
    level = torch.tensor([0.5, 0.6, 0.7, 0.8])
    whole = penalty(conv_network, X, REGIONS, step=4, first_index=8, noise_level=level)
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        regions = Regions(REGIONS.masks[rows], REGIONS.names)
        options: dict[str, Any] = {"step": 4, "first_index": 8 + rows.start, "noise_level": level[rows]}
        halves.append(penalty(conv_network, X[rows], regions, **options))
    assert float(sum(halves) / 2) == pytest.approx(float(whole), rel=1e-10)
    if estimator in ("grand", "present"):
        elsewhere = penalty(conv_network, X, REGIONS, step=4, first_index=12, noise_level=level)
        assert float(elsewhere) != float(whole)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_calls_repeat_themselves_and_leave_the_global_generator_alone(estimator: Any) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    penalty = DummyPlayerPenalty(estimator, "noise", samples=2, seed=2)
    first, again, later = (float(penalty(conv_network, X, REGIONS, step=step)) for step in (3, 3, 4))
    assert first == again
    assert first != later
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_mask_for_the_whole_batch_is_the_same_as_one_per_sample(estimator: Any) -> None:
    penalty = DummyPlayerPenalty(estimator, samples=2)
    one = Regions(REGIONS.masks[:1], REGIONS.names)
    each = Regions(REGIONS.masks[:1].repeat(4, 1, 1, 1), REGIONS.names)
    assert torch.equal(penalty(conv_network, X, one), penalty(conv_network, X, each))


def runs(penalty: DummyPlayerPenalty, given: bool, regions: Regions = REGIONS, step: int = 0) -> int:
    network = Counted()
    output = conv_network(X) if given else None
    penalty(network, X, regions, output=output, step=step, conditions="paired")
    return network.runs


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("given", [False, True])
def test_runs_of_grand(samples: int, given: bool) -> None:
    assert runs(DummyPlayerPenalty("grand", samples=samples), given) == samples + (not given)
    for fill in FILLS:
        assert runs(DummyPlayerPenalty(fill=fill, samples=samples), given) == samples + (not given)  # "present"
    for fill in ("zeros", "noise", "batch_mean"):
        penalty = DummyPlayerPenalty("grand", fill=fill, samples=samples)
        assert runs(penalty, given) == samples + (not given) + 1


@pytest.mark.parametrize("estimator", ["direct", "exact"])
def test_runs_of_the_enumerating_forms(estimator: Any) -> None:
    assert runs(DummyPlayerPenalty(estimator, "zeros"), given=False) == 2**N
    assert runs(DummyPlayerPenalty(estimator, "zeros"), given=True) == 2**N - 1
    # With exchange, f(x') is f(x) with neighbours exchanged.
    assert runs(DummyPlayerPenalty(estimator, "exchange"), given=False) == 2**N - 1
    assert runs(DummyPlayerPenalty(estimator, "exchange"), given=True) == 2**N - 2


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_runs_of_the_sampling_forms_with_eight_regions(samples: int) -> None:
    n_regions = 8
    labels = torch.arange(36).reshape(1, 6, 6) % n_regions
    concepts = {str(label): [label] for label in range(n_regions)}
    regions = Regions.from_labels(labels, concepts, rest=None)
    references = n_regions + 1
    most_shared = most_per_region = 0
    for step in range(10):
        shared = DummyPlayerPenalty("shared", "zeros", samples=samples)
        per_region = DummyPlayerPenalty("per_region", "zeros", samples=samples)
        most_shared = max(most_shared, runs(shared, False, regions=regions, step=step))
        most_per_region = max(most_per_region, runs(per_region, False, regions=regions, step=step))
    assert samples < most_shared <= samples + references
    assert n_regions * samples < most_per_region <= 2 * n_regions * samples + references


def test_no_coalition_runs_twice() -> None:
    for estimator in ("per_region", "shared"):
        penalty = DummyPlayerPenalty(estimator, "zeros", samples=50)
        assert runs(penalty, given=False) <= 2**N


def test_more_regions_than_there_are_coalition_numbers() -> None:
    """Beyond 40 regions grand draws bit by bit."""
    labels = torch.arange(64).reshape(1, 8, 8)
    regions = Regions.from_labels(labels, {str(label): [label] for label in range(64)}, rest=None)
    x = randn(2, 2, 8, 8)
    for estimator in ("grand", "shared"):
        penalty = DummyPlayerPenalty(estimator)
        assert float(penalty(pointwise, x, regions)) <= 1e-12
        assert float(penalty(conv_network, x, regions)) > 1e-4


def test_a_call_that_compares_nothing_is_zero() -> None:
    """Two regions and one shared coalition: the empty one comes up in a quarter of the steps."""
    regions = Regions.from_labels(LABELS, {"eyes": [1]})
    losses = [DummyPlayerPenalty("shared")(conv_network, X, regions, step=step) for step in range(20)]
    zeros = [loss for loss in losses if float(loss) == 0]
    assert 0 < len(zeros) < 20
    assert {loss.shape for loss in losses} == {()}


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"estimator": "fast"},
            "estimator must be one of direct, exact, per_region, shared, grand, present, got 'fast'",
        ),
        ({"fill": "grey"}, "fill must be one of zeros, noise, exchange, batch_mean, got 'grey'"),
        ({"payoff": "sum"}, "payoff must be one of pixels, mean, got 'sum'"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_unknown_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DummyPlayerPenalty(**options)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_errors_of_a_call(estimator: Any) -> None:
    penalty = DummyPlayerPenalty(estimator)
    wrongs: list[Network] = [lambda x: x[:2], lambda x: x.mean(dim=1), torch.sum]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"same batch, 4 rows|no regions of the output can be derived"):
            penalty(wrong, X, REGIONS)
        with pytest.raises(ValueError, match=r"same batch, 4 rows|output must be network\(x\)"):
            penalty(conv_network, X, REGIONS, output=wrong(X))
    with pytest.raises(ValueError, match="must return a tensor, got tuple: pick what is compared"):
        penalty(lambda x: (x, x), X, REGIONS)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="channels must be an axis of x after the batch's"):
        penalty(conv_network, X, REGIONS, channels=4)
    with pytest.raises(ValueError, match="output_regions must be the same regions as the input's"):
        penalty(conv_network, X, REGIONS, output_regions=Regions.grid(1, 2, 6, 6))
    with pytest.raises(ValueError, match="one size and one batch"):
        penalty(conv_network, X[..., :5], REGIONS)
    with pytest.raises(ValueError, match="at least two regions: a single region cannot be a dummy player"):
        penalty(conv_network, X, Regions(torch.ones(1, 1, 6, 6), ("all",)))
    with pytest.raises(ValueError, match=r"star\('skin'\) names no region: the regions are eyes, mouth"):
        DummyPlayerPenalty(estimator, graph=star("skin"))(conv_network, X, REGIONS)


@pytest.mark.parametrize("estimator", ["direct", "exact"])
def test_too_many_regions_to_enumerate(estimator: Any) -> None:
    labels = torch.arange(36).reshape(1, 6, 6) % 17
    regions = Regions.from_labels(labels, {str(label): [label] for label in range(17)}, rest=None)
    message = f"estimator='{estimator}' runs all 2.K coalitions and 17 regions are too many .at most 16."
    with pytest.raises(ValueError, match=message):
        DummyPlayerPenalty(estimator)(conv_network, X, regions)


# Precision.


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("payoff", PAYOFFS)
def test_bfloat16_autocast_gives_a_float32_loss(estimator: Any, payoff: Any) -> None:
    x = X.float()
    first, second = (weight.float().requires_grad_() for weight in WEIGHTS)
    penalty = DummyPlayerPenalty(estimator, payoff=payoff, samples=2)

    def network(mixed: Tensor) -> Tensor:
        return conv_network(mixed, first, second)

    expected = penalty(network, x, REGIONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x).dtype == torch.bfloat16
        loss = penalty(network, x, REGIONS)
    assert expected.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    loss.backward()
    assert first.grad is not None
    assert bool(first.grad.isfinite().all())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_and_inputs(estimator: Any, dtype: torch.dtype) -> None:
    penalty = DummyPlayerPenalty(estimator, samples=2)
    expected = penalty(conv_network, X.float(), REGIONS)
    of_outputs = penalty(lambda x: conv_network(x).to(dtype), X.float(), REGIONS)
    of_inputs = penalty(lambda x: conv_network(x.float()), X.to(dtype), REGIONS)
    for loss in (of_outputs, of_inputs):
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(expected), rel=0.05)


def test_large_half_precision_outputs_do_not_overflow() -> None:
    """Squares of float16 differences beyond 256 would; so would the area of a region in float16."""
    labels = torch.zeros(1, 300, 300, dtype=torch.int64)
    labels[:, :4, :4] = 1
    regions = Regions.from_labels(labels, {"dot": [1]})
    x = randn(2, 1, 300, 300).half()
    loss = DummyPlayerPenalty()(lambda x: (x.roll(1, 3) * 1000).half(), x, regions)
    assert loss.dtype == torch.float32
    assert 0 < float(loss) < float("inf")
