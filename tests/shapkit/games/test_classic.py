"""Games with known values: their tables, their closed forms, and payoffs that do not depend on the batch."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapkit import exact, shapley_values
from shapkit.coalitions import members_of_masks
from shapkit.games.classic import airport_game, bankruptcy_game, glove_game, unanimity_sum, weighted_voting

GAMES = {
    game["name"]: game for game in json.loads((Path(__file__).parents[2] / "data" / "games.json").read_text())["games"]
}
AIRPORT_COSTS = [1, 2, 3, 5, 8, 13]
weights_of_players = st.lists(st.floats(0, 1e3, width=32).map(lambda weight: weight / 3), min_size=1, max_size=9)


def table_of(game):
    return game(members_of_masks(np.arange(2**game.n_players), game.n_players))


@pytest.mark.parametrize(
    "name, game",
    [
        ("EEC Council 1958", weighted_voting([4, 4, 4, 2, 2, 1], quota=12)),
        ("UN Security Council", weighted_voting([7] * 5 + [1] * 10, quota=39)),
        ("glove game 2 left 3 right", glove_game(2, 3)),
        ("airport game", airport_game(AIRPORT_COSTS)),
        ("bankruptcy game", bankruptcy_game(200, [100, 200, 300])),
    ],
)
@pytest.mark.parametrize("index", ["shapley", "banzhaf"])
def test_values_of_the_literature(name, game, index):
    known = GAMES[name]
    if "value_table" in known:
        np.testing.assert_array_equal(table_of(game), known["value_table"])
    expected = [float(Fraction(value)) for value in known[index]]
    np.testing.assert_allclose(exact(game, index).values, expected, rtol=1e-13, atol=1e-15)


@given(weights_of_players)
def test_airport_players_share_each_part_of_the_runway_among_those_who_need_it(costs):
    order = sorted(range(len(costs)), key=costs.__getitem__)
    expected, share, paid = [0.0] * len(costs), 0.0, 0.0
    for rank, player in enumerate(order):
        share += (costs[player] - paid) / (len(costs) - rank)
        paid = expected_cost = costs[player]
        expected[player] = share
    np.testing.assert_allclose(exact(airport_game(costs)).values, expected, rtol=1e-12, atol=1e-12 * expected_cost)


@given(weights_of_players, st.floats(0, 1))
def test_bankruptcy_pays_the_mean_over_orders_of_arrival(claims, share):
    claims = claims[:5]
    estate = share * sum(claims)
    paid = np.zeros(len(claims))
    orders = list(itertools.permutations(range(len(claims))))
    for order in orders:
        left = estate
        for claimant in order:
            payment = min(left, claims[claimant])
            paid[claimant] += payment
            left -= payment
    values = exact(bankruptcy_game(estate, claims)).values
    np.testing.assert_allclose(values, paid / len(orders), rtol=1e-9, atol=1e-9 * (1 + estate))


@given(st.data())
def test_unanimity_weights_are_shared_among_carriers(data):
    n_players = data.draw(st.integers(1, 7))
    players = st.lists(st.integers(0, n_players - 1), unique=True)
    carriers = data.draw(st.lists(players, min_size=1, max_size=12))
    shape = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    weights = np.random.default_rng(len(carriers)).normal(size=(len(carriers), *shape))
    names = list("abcdefg")[:n_players]
    named = [[names[player] for player in carrier] for carrier in carriers]
    expected, constant = np.zeros((n_players, *shape)), np.zeros(shape)
    for carrier, weight in zip(carriers, weights, strict=True):
        for player in carrier:
            expected[player] += weight / len(carrier)
        constant += weight * (not carrier)
    for game in (unanimity_sum(n_players, carriers, weights), unanimity_sum(n_players, named, weights, names)):
        phi = exact(game)
        np.testing.assert_allclose(phi.values, expected, atol=1e-12)
        np.testing.assert_allclose(phi.empty_value, constant, atol=1e-12)
        np.testing.assert_allclose(shapley_values(table_of(game)), expected, atol=1e-12)


@given(st.integers(0, 5), st.integers(0, 5))
def test_glove_owners_of_a_kind_are_alike_and_pairs_are_shared_out(left, right):
    if left + right == 0:
        assert glove_game(0, 0)(np.zeros((1, 0), dtype=bool)).tolist() == [0]
        return
    values = exact(glove_game(left, right)).values
    for kind in (values[:left], values[left:]):
        np.testing.assert_allclose(kind, kind[:1].repeat(len(kind)), atol=1e-12)
    assert abs(values.sum() - min(left, right)) < 1e-12
    np.testing.assert_allclose(exact(glove_game(right, left)).values, np.roll(values, right), atol=1e-12)


def test_two_against_one():
    np.testing.assert_allclose(exact(glove_game(1, 2)).values, [2 / 3, 1 / 6, 1 / 6])


@given(st.data())
def test_payoffs_are_the_same_bits_alone_and_together(data):
    weights = data.draw(weights_of_players)
    n_players = len(weights)
    games = [
        weighted_voting(weights, quota=sum(weights[::2])),  # which some coalition meets to the last bit
        airport_game(weights),
        bankruptcy_game(sum(weights) / 2, weights),
        glove_game(n_players // 2, n_players - n_players // 2),
        unanimity_sum(n_players, [[0], range(n_players), []], [[0.1, 1], [0.2, 1], [0.7, 1]]),
    ]
    game = data.draw(st.sampled_from(games))
    rows = members_of_masks(data.draw(st.lists(st.integers(0, 2**n_players - 1), min_size=1, max_size=60)), n_players)
    together = game(rows)
    alone = np.concatenate([game(row[None]) for row in rows])
    assert together.tobytes() == alone.tobytes()
    assert game(np.asfortranarray(rows)[::-1]).tobytes() == together[::-1].tobytes()


def test_sums_of_many_weights_are_the_same_bits_alone_and_together():
    rng = np.random.default_rng(0)
    claims = rng.random(37)
    rows = rng.integers(0, 2, size=(257, 37)).astype(bool)
    game = bankruptcy_game(claims.sum(), claims)
    assert game(rows).tobytes() == b"".join(game(row[None]).tobytes() for row in rows)
    # In the order of the players, as Python adds: a quota that a coalition meets to the last bit stays met.
    quotas = [sum(weight for weight, member in zip(claims, row, strict=True) if member) for row in rows[:20]]
    assert all(weighted_voting(claims, quota)(rows[:20])[at] == 1 for at, quota in enumerate(quotas))


def test_games_do_not_change_with_the_callers_arrays():
    numbers = np.array([1.0, 2.0, 3.0])
    games = [
        weighted_voting(numbers, 3),
        airport_game(numbers),
        bankruptcy_game(4, numbers),
        unanimity_sum(3, [[0], [1], [2]], numbers),
    ]
    before = [table_of(game) for game in games]
    numbers[:] = 7
    for game, table in zip(games, before, strict=True):
        np.testing.assert_array_equal(table_of(game), table)


def test_names_and_batch_sizes():
    names = ["a", "b", "c"]
    for game in (
        weighted_voting([2, 1, 1], 3, names, 2),
        airport_game([1, 2, 3], names, 2),
        glove_game(1, 2, names, 2),
        bankruptcy_game(3, [1, 2, 3], names, 2),
        unanimity_sum(3, [["a", "c"]], [1], names, 2),
    ):
        assert game.names == ("a", "b", "c") and game.batch_size == 2
        assert table_of(game).shape == (8,)


def test_weighted_voting_by_hand():
    assert table_of(weighted_voting([2, 1, 1], quota=3)).tolist() == [0, 0, 0, 1, 0, 1, 0, 1]


def test_costs_in_any_order():
    rows = np.array([[True, False, True], [False, True, True], [False, False, False]])
    assert airport_game([2, 5, 2.5])(rows).tolist() == [2.5, 5, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: weighted_voting([[1, 2]], 1), "weights must be a list of finite numbers, one per player"),
        (lambda: weighted_voting([], 1), "weights must be a list of finite numbers"),
        (lambda: weighted_voting([1, np.inf], 1), "weights must be a list of finite numbers"),
        (lambda: weighted_voting(["a"], 1), "weights holds dtype <U1, expected real numbers"),
        (lambda: weighted_voting([1, 2], np.nan), "quota must be a finite number, got nan"),
        (lambda: weighted_voting([1, 2], "3"), "quota must be a finite number, got '3'"),
        (lambda: weighted_voting([1, 2], [3]), r"quota must be a finite number, got \[3\]"),
        (
            lambda: airport_game([1, -2]),
            r"costs must be a list of finite, non-negative numbers, one per player, got \[",
        ),
        (lambda: airport_game(3.0), "costs must be a list of finite, non-negative numbers, one per player, got 3.0"),
        (lambda: bankruptcy_game(-1, [1, 2]), "estate must not be negative, got -1"),
        (lambda: bankruptcy_game(np.inf, [1, 2]), "estate must be a finite number, got inf"),
        (lambda: bankruptcy_game(1, [1, -2]), "claims must be a list of finite, non-negative numbers"),
        (lambda: glove_game(-1, 2), "left must be an integer of at least 0, got -1"),
        (lambda: glove_game(1, 2.0), "right must be an integer of at least 0, got 2.0"),
        (lambda: unanimity_sum(3, [[0, 3]], [1]), "player 3 is out of range, expected 0 to 2"),
        (lambda: unanimity_sum(3, [["a"]], [1]), "player 'a' is not among the names 0, 1, 2"),
        (lambda: unanimity_sum(2, ["ab"], [1], ["a", "b"]), "carriers must be sequences of players, got 'ab' among"),
        (lambda: unanimity_sum(3, [0, 1], [1, 1]), "carriers must be sequences of players, got 0 among them"),
        (lambda: unanimity_sum(3, [[0, 1, 0]], [1]), r"has each of its players once, got \[0, 1, 0\]"),
        (
            lambda: unanimity_sum(3, [[0]], [1, 2]),
            r"weights has shape \(2,\), expected \(1, ...\): one weight for each",
        ),
        (lambda: unanimity_sum(3, [[0]], 1), r"weights has shape \(\), expected \(1, ...\)"),
        (lambda: unanimity_sum(3, [[0]], [np.nan]), "weights must be finite numbers, got NaN or infinity among them"),
        (lambda: unanimity_sum(-1, [[0]], [1]), "n_players must be an integer of at least 0, got -1"),
        (lambda: glove_game(1, 1, names=["a"]), "names has 1 entries, expected one for each of the 2 players"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
