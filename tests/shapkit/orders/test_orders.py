"""Values over random orders: against all permutations, drawn orders against their probabilities, closed forms."""

from itertools import permutations
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import shapkit
from shapkit import Hierarchy, Precedence, Weights, estimate, exact, explain, table_game

N_PLAYERS = 5
ALL = list(permutations(range(N_PLAYERS)))
NAMES = tuple("abcde")
WEIGHTS = [1.0, 2.0, 3.0, 0.5, 1.7]


def together(order, group):
    places = sorted(order.index(player) for player in group)
    return places[-1] - places[0] == len(places) - 1


def in_order(order, after):
    return all(order.index(one) < order.index(two) for two, before in after.items() for one in before)


def uniform(allowed):
    kept = [order for order in ALL if allowed(order)]
    return {order: 1 / len(kept) for order in kept}


def weighted(weights):
    """The last is drawn first, by weight."""
    return {
        order: prod(weights[player] / sum(weights[p] for p in order[: at + 1]) for at, player in enumerate(order))
        for order in ALL
    }


BETWEEN = {1: [0], 3: [1, 2], 4: [2]}  # comes apart neither in series nor in parallel
KINDS = {
    "owen": (Hierarchy([["a", "d"], [1, 2, 4]]), uniform(lambda o: together(o, [0, 3]) and together(o, [1, 2, 4]))),
    "alone": (Hierarchy({"one": ["b", "e"]}), uniform(lambda o: together(o, [1, 4]))),
    "winter": (Hierarchy([[[0, 3], 1], 2]), uniform(lambda o: together(o, [0, 3]) and together(o, [0, 1, 3]))),
    "weights": (Weights(WEIGHTS), weighted(WEIGHTS)),
    "named": (Weights(dict(zip("edcba", WEIGHTS[::-1], strict=True))), weighted(WEIGHTS)),
    "entangled": (Precedence(BETWEEN), uniform(lambda o: in_order(o, BETWEEN))),
    "chain": (Precedence({"b": ["a"], "c": ["b"]}), uniform(lambda o: in_order(o, {1: [0], 2: [1]}))),
    "layers": (Precedence([[0, 1], [2], [3, 4]]), uniform(lambda o: in_order(o, {2: [0, 1], 3: [2], 4: [2]}))),
    "free": (Precedence({}), uniform(lambda o: True)),
}


def by_definition(game, probabilities):
    """What players add to those before them, in the mean over orders."""
    table = {}
    for mask in range(2**game.n_players):
        members = np.array([[mask >> player & 1 for player in range(game.n_players)]], dtype=bool)
        table[frozenset(np.flatnonzero(members).tolist())] = game(members)[0]
    values = np.zeros((game.n_players, *game.output_shape))
    for order, probability in probabilities.items():
        for at, player in enumerate(order):
            values[player] += probability * (table[frozenset(order[: at + 1])] - table[frozenset(order[:at])])
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_exact_values_by_definition(kind):
    orders, probabilities = KINDS[kind]
    table = np.random.default_rng(0).normal(size=(2**N_PLAYERS, 2)) + np.array([0, 1e6])
    game = table_game(table, names=NAMES)
    found = exact(game, orders=orders)
    np.testing.assert_allclose(found.values, by_definition(game, probabilities), atol=1e-8)
    np.testing.assert_allclose(found.values.sum(axis=0), table[-1] - table[0], atol=1e-8)
    assert found.standard_errors is None and found.index == orders.index
    n_prefixes = len({frozenset(order[:size]) for order in probabilities for size in range(N_PLAYERS + 1)})
    assert found.n_evaluations == n_prefixes == orders.of(NAMES).n_prefixes()


@pytest.mark.parametrize("kind", KINDS)
def test_orders_are_drawn_with_their_probabilities(kind):
    orders, probabilities = KINDS[kind]
    n_drawn = 40_000
    drawn = orders.of(NAMES).drawn(7, np.arange(n_drawn))
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert set(map(tuple, found.tolist())) <= set(probabilities)
    expected = np.array([n_drawn * probabilities[tuple(order)] for order in found.tolist()])
    # Orders so rare that none came count with their expectation
    rest = n_drawn - expected.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum() + max(rest, 0)
    assert stats.chi2.sf(chi_square, max(len(probabilities) - 1, 1)) > 1e-4 or len(probabilities) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_order_has_a_number_of_its_own(kind):
    orders = KINDS[kind][0].of(NAMES)
    whole = orders.drawn(3, np.arange(50))
    np.testing.assert_array_equal(orders.drawn(3, np.arange(20, 30)), whole[20:30])
    np.testing.assert_array_equal(np.sort(whole, axis=1), np.tile(np.arange(N_PLAYERS), (50, 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["permutation", "truncated", "antithetic"])
def test_estimates_are_within_their_errors(kind, method):
    orders, _ = KINDS[kind]
    game = shapkit.weighted_voting([5, 4, 3, 2, 1], quota=8, names=NAMES)
    if method == "antithetic" and not orders.reversible:
        with pytest.raises(ValueError, match="backwards are not as likely"):
            estimate(game, 30, method, orders=orders)
        return
    truth = exact(game, orders=orders).values
    deviations = []
    for seed in range(200):
        found = estimate(game, 30, method, seed=seed, orders=orders)
        assert found.index == orders.index
        deviations.append(found.values - truth)
    # Means of 200 estimates that are bounded by 1: five standard errors of what they themselves show
    spread = np.std(deviations, axis=0) / np.sqrt(200)
    assert (np.abs(np.mean(deviations, axis=0)) <= 5 * spread + 1e-12).all()


def test_every_value_of_a_run_is_exact_in_the_end():
    orders = KINDS["winter"][0]
    game = shapkit.weighted_voting([5, 4, 3, 2, 1], quota=8, names=NAMES)
    found = estimate(game, 10_000, "permutation", orders=orders)
    assert found.standard_errors is None and found.index == "winter" and found.stopped_by == "all coalitions"
    np.testing.assert_allclose(found.values, exact(game, orders=orders).values, atol=1e-12)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.data())
@settings(deadline=None)
def test_weighted_values_share_a_unanimity_game_by_weight(weights, data):
    carrier = data.draw(st.sets(st.integers(0, len(weights) - 1), min_size=1))
    game = shapkit.unanimity_sum(len(weights), [tuple(sorted(carrier))], [6.0])
    total = sum(weights[player] for player in carrier)
    expected = [6.0 * weights[p] / total if p in carrier else 0.0 for p in range(len(weights))]
    np.testing.assert_allclose(exact(game, orders=Weights(weights)).values, expected, atol=1e-9)


def test_a_group_of_one_group_is_that_group():
    assert Hierarchy([[["a", "b"]], ["c"]]).index == "owen" and Hierarchy([[["a", "b"], "d"], ["c"]]).index == "winter"


def test_weights_of_any_size_stand_beside_each_other():
    game = shapkit.unanimity_sum(3, [(0, 1, 2)], [1.0])
    orders = Weights([1e-300, 1.0, 1e300])
    np.testing.assert_allclose(exact(game, orders=orders).values, [0, 0, 1], atol=1e-12)
    assert (orders.of("abc").drawn(0, np.arange(100)) == [0, 1, 2]).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_trivial_orders_give_shapley_values(seed, n_players):
    game = table_game(np.random.default_rng(seed).normal(size=2**n_players))
    expected = exact(game).values
    everyone = [list(range(n_players))]
    for orders in (
        Hierarchy(everyone),
        Hierarchy([[p] for p in everyone[0]]),
        Weights([2.0] * n_players),
        Precedence({}),
    ):
        np.testing.assert_allclose(exact(game, orders=orders).values, expected, atol=1e-10)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_groups_get_what_the_game_among_groups_gives_them(seed):
    """Owen's axiom, by which his values are defined: the quotient game."""
    game = table_game(np.random.default_rng(seed).normal(size=2**6))
    groups = [[0, 1], [2, 3, 4], [5]]
    values = exact(game, orders=Hierarchy(groups)).values
    member = np.array([0, 0, 1, 1, 1, 2])
    among = shapkit.Game(lambda coalitions: game(coalitions[:, member]), 3)
    np.testing.assert_allclose([values[group].sum() for group in groups], exact(among).values, atol=1e-10)


def test_dummy_players_get_nothing_in_any_order():
    table = np.random.default_rng(0).normal(size=2**N_PLAYERS)
    table = np.where(np.arange(2**N_PLAYERS) & 4, table[np.arange(2**N_PLAYERS) & ~4], table)  # player 2 adds nothing
    for orders, _ in KINDS.values():
        assert abs(exact(table_game(table, names=NAMES), orders=orders).values[2]) < 1e-12


def test_many_players_in_groups_are_exact():
    game = shapkit.Game(lambda coalitions: (coalitions @ np.arange(1.0, 41)) ** 2, 40)
    groups = [list(range(at, at + 5)) for at in range(0, 40, 5)]
    found = exact(game, orders=Hierarchy(groups))
    assert found.n_evaluations == 2**8 + 8 * 2**7 * 30
    total = np.arange(1.0, 41).sum()  # of squares of sums: each pair shares evenly, in any hierarchy
    np.testing.assert_allclose(found.values, np.arange(1.0, 41) * total, rtol=1e-10)


def test_how_many_coalitions_four_groups_of_five_need():
    groups = Hierarchy([list(range(at, at + 5)) for at in range(0, 20, 5)])
    assert exact(shapkit.weighted_voting(range(20), quota=100), orders=groups).n_evaluations == 976


def test_many_players_in_layers_are_drawn():
    layers = [list(range(30)), list(range(30, 60))]
    drawn = Precedence(layers).of([str(player) for player in range(60)]).drawn(0, np.arange(500))
    assert (np.sort(drawn[:, :30], axis=1) == np.arange(30)).all()
    assert (drawn[:, 0] == 0).sum() < 50  # of 500, 17 are expected


def test_explain_and_auto_choose():
    game = shapkit.weighted_voting(range(1, 41), quota=400)
    few = Hierarchy([list(range(at, at + 5)) for at in range(0, 40, 5)])
    assert explain(game, orders=few).method == "exact"
    assert estimate(game, 40_000, orders=few).method == "exact"
    assert estimate(game, 4_000, orders=few).method == "antithetic"
    assert estimate(game, 4_000, orders=Weights(range(1, 41))).method == "permutation"
    hundred = shapkit.weighted_voting(range(1, 101), quota=2500)
    found = explain(hundred, budget=500, orders=Hierarchy([list(range(50))]))
    assert found.index == "owen" and found.method == "antithetic"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hierarchy("ab"), "groups must be a list of players or of groups"),
        (lambda: Hierarchy([[0, []]]), r"groups\[0\]\[1\] must be a list"),
        (lambda: Hierarchy([["a", "b"], ["a"]]).of(NAMES), "groups has player 'a' more than once"),
        (lambda: Hierarchy([["x"]]).of(NAMES), "player 'x' is not among the names"),
        (lambda: Weights([1, -1]), "weights must be positive numbers"),
        (lambda: Weights(["x"]), "weights must be numbers"),
        (lambda: Weights([1, 2]).of(NAMES), "weights has 2 entries, expected one for each of 5 players"),
        (lambda: Precedence({0: [1], 1: [2], 2: [0]}).of(NAMES), "after has players before themselves: "),
        (lambda: Precedence({0: 1}), r"after\[0\] must be a list, got 1"),
        (lambda: Precedence("ab"), "after must be a list"),
        (lambda: exact(table_game([0, 1]), orders=[[0]]), "orders must be a Hierarchy, Weights or Precedence"),
        (lambda: exact(table_game([0, 1]), "banzhaf", orders=Hierarchy([[0]])), "got index 'banzhaf'"),
        (lambda: estimate(table_game([0, 1]), 9, "kernel", orders=Hierarchy([[0]])), "takes all orders for equally"),
        (
            lambda: exact(shapkit.weighted_voting(range(60), quota=9), orders=Weights([1] * 60)),
            "exact values are out of reach, sample instead",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_orders_show_themselves(kind):
    orders = KINDS[kind][0]
    assert repr(eval(repr(orders), vars(shapkit))) == repr(orders)


def test_no_players():
    empty = table_game([3.0])
    for orders in (Weights([]), Precedence({})):
        assert exact(empty, orders=orders).values.shape == (0,)
