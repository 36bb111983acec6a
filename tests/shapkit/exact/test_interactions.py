"""Interaction indices: their published definitions as slow twins, their axioms, and what shapiq computes."""

import json
import sys
from fractions import Fraction
from functools import cache
from itertools import combinations
from math import comb, factorial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapkit
from shapkit import table_game, weighted_voting
from shapkit.exact.interactions import VALUES, derivative_weights, unanimity_share

INTERACTIONS = ["SII", "k-SII", "STII", "FSII", "BII", "FBII"]
EFFICIENT = ["shapley", "k-SII", "STII", "FSII"]
GAMES = json.loads((Path(__file__).parents[2] / "data" / "games.json").read_text())["games"]


ONE_TO_TEN = st.integers(1, 10)


def tables(n_players=ONE_TO_TEN):
    shapes = st.tuples(n_players, st.sampled_from([(), (3,), (2, 2)])).map(lambda case: (2 ** case[0], *case[1]))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(-100, 100)))


def indices(values=False):
    """An index and an order that it has."""
    orders = st.tuples(st.sampled_from(INTERACTIONS), st.integers(1, 4))
    return st.one_of(orders, st.tuples(st.sampled_from(VALUES), st.just(1))) if values else orders


def terms(n_players, order):
    return [members for size in range(1, order + 1) for members in combinations(range(n_players), size)]


def mask(members):
    return sum(1 << player for player in members)


def subsets(members):
    return [part for size in range(len(members) + 1) for part in combinations(members, size)]


# -- the published definitions, in exact arithmetic, for a scalar game


def derivative(table, members, joined):
    signed = (
        (-1) ** (len(members) - len(part)) * Fraction(table[mask(part) | mask(joined)]) for part in subsets(members)
    )
    return sum(signed, Fraction(0))


def weighted_derivatives(table, members, weight):
    """The sum over S without the members of weight(|S|) times the discrete derivative in the members at S."""
    n_players = len(table).bit_length() - 1
    rest = [player for player in range(n_players) if player not in members]
    return sum((weight(len(joined)) * derivative(table, members, joined) for joined in subsets(rest)), Fraction(0))


def sii(table, members):
    n, t = len(table).bit_length() - 1, len(members)
    return weighted_derivatives(
        table, members, lambda s: Fraction(factorial(s) * factorial(n - s - t), factorial(n - t + 1))
    )


def k_sii(table, order):
    """Bordt and von Luxburg (2023), definition 4: what an order leaves over is spread by Bernoulli's numbers."""
    n_players = len(table).bit_length() - 1
    bernoulli = [Fraction(1), Fraction(-1, 2), Fraction(1, 6), Fraction(0), Fraction(-1, 30)]
    raw = cache(lambda members: sii(table, members))
    values = {members: raw(members) for members in terms(n_players, 1)}
    for top in range(2, order + 1):
        for members in list(values):
            rest = [player for player in range(n_players) if player not in members]
            larger = (tuple(sorted(members + joined)) for joined in combinations(rest, top - len(members)))
            values[members] += bernoulli[top - len(members)] * sum(map(raw, larger), Fraction(0))
        values |= {members: raw(members) for members in combinations(range(n_players), top)}
    return values


def stii(table, order):
    """Sundararajan, Dhamdhere and Agarwal (2020), equations 1 and 2."""
    n = len(table).bit_length() - 1
    values = {}
    for members in terms(n, order):
        if len(members) < order:
            values[members] = derivative(table, members, ())
        else:
            total = weighted_derivatives(table, members, lambda s: Fraction(1, comb(n - 1, s)))
            values[members] = Fraction(order, n) * total
    return values


def polynomial_fit(table, order, weight, constrained):
    """The polynomial in the players' presence closest to the game, in weighted squares (Tsai et al. 2023, 4 and 5)."""
    n = len(table).bit_length() - 1
    members = [(), *terms(n, order)]
    design = np.array([[set(term) <= {i for i in range(n) if row >> i & 1} for term in members] for row in range(2**n)])
    design = design.astype(float)
    values = np.array([float(value) for value in table])
    weights = np.array([weight(row.bit_count()) for row in range(2**n)])
    quadratic = design.T @ (weights[:, None] * design)
    linear = design.T @ (weights * values)
    ends = design[[0, -1]] if constrained else np.empty((0, len(members)))
    system = np.block([[quadratic, ends.T], [ends, np.zeros((len(ends), len(ends)))]])
    solution = np.linalg.lstsq(system, np.concatenate([linear, values[[0, -1]] if constrained else []]), rcond=None)[0]
    return dict(zip(members[1:], solution[1 : len(members)], strict=True))


def by_definition(table, index, order):
    n = len(table).bit_length() - 1
    if index == "SII":
        return {members: sii(table, members) for members in terms(n, order)}
    if index == "BII":
        return {
            members: weighted_derivatives(table, members, lambda s: Fraction(1)) * Fraction(2 ** len(members), 2**n)
            for members in terms(n, order)
        }
    if index == "k-SII":
        return k_sii(table, order)
    if index == "STII":
        return stii(table, order)
    if index == "FBII":
        return polynomial_fit(table, order, lambda s: 1.0, constrained=False)
    kernel = lambda s: 0.0 if s in (0, n) else (n - 1) / (comb(n, s) * s * (n - s))  # noqa: E731
    return polynomial_fit(table, order, kernel, constrained=True)


@pytest.mark.parametrize("n_players, order", [(1, 1), (2, 2), (3, 1), (4, 2), (5, 3), (6, 2)])
@pytest.mark.parametrize("index", INTERACTIONS)
def test_published_definitions(index, n_players, order):
    table = np.random.default_rng(n_players).integers(-50, 50, 2**n_players).tolist()
    expected = by_definition(table, index, order)
    found = shapkit.exact(table_game(table), index, order)
    assert found.terms == tuple(expected)
    np.testing.assert_allclose(found.values, [float(value) for value in expected.values()], rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("index", INTERACTIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sizes_and_orders_beyond_the_players(index, order):
    found = shapkit.exact(table_game([2.0, 5.0]), index, order)
    np.testing.assert_allclose(found.values, [3.0])
    nobody = shapkit.exact(shapkit.Game(lambda coalitions: np.full(len(coalitions), 7.0), 0), index, order)
    assert nobody.values.shape == (0,) and float(nobody.grand_value) == 7


@pytest.mark.parametrize("index, order", [*[(index, k) for index in INTERACTIONS for k in (1, 2, 3)], ("shapley", 1)])
def test_shares_of_a_unanimity_game(index, order):
    carrier, n_players = (0, 2, 3, 5), 6
    found = shapkit.exact(shapkit.unanimity_sum(n_players, [carrier], [1.0]), index, order)
    for members, value in zip(found.terms, found.values, strict=True):
        expected = unanimity_share(index, order, len(members), 4) if set(members) <= set(carrier) else 0
        assert value == pytest.approx(float(expected), abs=1e-12)


def test_shapley_taylor_puts_interactions_where_they_belong():
    # the axiom of interaction distribution: coalitions smaller than the order get nothing of a larger carrier
    found = shapkit.exact(shapkit.unanimity_sum(5, [(0, 1, 2, 3)], [6.0]), "STII", order=2)
    assert np.abs(found.values[:5]).max() <= 1e-12
    assert found[0, 3] == pytest.approx(1.0) and found[0, 4] == pytest.approx(0.0)


@pytest.mark.parametrize("n_players", [1, 5, 20, 62])
def test_derivative_weights_in_closed_form(n_players):
    for size in range(1, min(3, n_players) + 1):
        sizes = range(size, n_players + 1)
        n, t = n_players, size
        classic = [Fraction(factorial(r - t) * factorial(n - r), factorial(n - t + 1)) for r in sizes]
        assert derivative_weights("SII", size, size, n)[size:] == classic
        assert derivative_weights("BII", size, size, n)[size:] == [Fraction(1, 2 ** (n - t))] * len(sizes)
        taylor = [Fraction(t, n) / comb(n - 1, r - t) for r in sizes]
        assert derivative_weights("STII", size, size, n)[size:] == taylor


@pytest.mark.parametrize(
    "game", [game for game in GAMES if {"value_table", "banzhaf"} <= set(game)], ids=lambda game: game["name"]
)
@pytest.mark.parametrize("index", ["SII", "BII", "k-SII", "STII", "FSII", "FBII"])
def test_first_order_is_the_value_itself(game, index):
    found = shapkit.exact(table_game(game["value_table"]), index, order=1).values
    published = np.array(game["banzhaf" if index in ("BII", "FBII") else "shapley"])
    expected = np.vectorize(lambda text: float(Fraction(text)), otypes=[float])(published)
    np.testing.assert_allclose(found, expected, atol=1e-12 * max(1, np.abs(expected).max()))


@given(tables(), indices(values=True))
@settings(max_examples=80, deadline=None)
def test_efficiency(table, case):
    index, order = case
    found = shapkit.exact(table_game(table), index, order)
    if index in EFFICIENT:
        np.testing.assert_allclose(found.efficiency_gap, 0, atol=1e-9)


@given(tables(n_players=st.integers(2, 7)), indices(), st.data())
@settings(max_examples=60, deadline=None)
def test_symmetry(table, case, data):
    index, order = case
    n_players = len(table).bit_length() - 1
    renamed = data.draw(st.permutations(range(n_players)))
    masks = np.arange(len(table))
    relabelled = np.empty_like(table)
    relabelled[sum((masks >> player & 1) << renamed[player] for player in range(n_players))] = table
    one, other = (shapkit.exact(table_game(values), index, order) for values in (table, relabelled))
    for members in one.terms:
        np.testing.assert_allclose(other[tuple(renamed[player] for player in members)], one[members], atol=1e-9)


@given(tables(n_players=st.just(6)), indices(), st.integers(-5, 5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_linearity(table, case, factor, seed):
    other = np.random.default_rng(seed).integers(-100, 100, table.shape)
    both = shapkit.exact(table_game(table + factor * other), *case)
    parts = shapkit.exact(table_game(table), *case) + factor * shapkit.exact(table_game(other), *case)
    np.testing.assert_allclose(both.values, parts.values, atol=1e-8)


@given(tables(n_players=st.integers(2, 8)), indices(values=True), st.data())
@settings(max_examples=60, deadline=None)
def test_a_dummy_takes_part_in_nothing(table, case, data):
    player = data.draw(st.integers(0, len(table).bit_length() - 2))
    without = table[np.arange(len(table)) & ~(1 << player)]
    found = shapkit.exact(table_game(without), *case)
    for members, value in zip(found.terms, found.values, strict=True):
        if player in members:
            np.testing.assert_allclose(value, 0, atol=1e-9)


@given(st.integers(1, 8), indices(), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_players_who_add_up_do_not_interact(n_players, case, seed):
    worth = np.random.default_rng(seed).integers(-9, 9, (n_players, 2))
    game = shapkit.unanimity_sum(n_players, [(player,) for player in range(n_players)], worth)
    found = shapkit.exact(game, *case)
    np.testing.assert_allclose(found.values[:n_players], worth, atol=1e-9)
    np.testing.assert_allclose(found.values[n_players:], 0, atol=1e-9)


@pytest.mark.parametrize("index", [*VALUES, *INTERACTIONS])
def test_blocks_of_any_size_give_the_same(index, monkeypatch):
    table = np.random.default_rng(0).normal(size=(512, 2))
    order = 1 if index in VALUES else 3
    expected = shapkit.exact(table_game(table), index, order).values
    for rows in (1, 2, 4, 64, 512):
        monkeypatch.setattr(sys.modules["shapkit.exact.blocks"], "_BLOCK_ROWS", rows)
        np.testing.assert_allclose(shapkit.exact(table_game(table), index, order).values, expected, atol=1e-12)


@pytest.mark.parametrize("index", [*VALUES, *INTERACTIONS])
def test_the_games_batches_do_not_show_in_a_single_bit(index):
    table = np.random.default_rng(0).normal(size=(2**9, 3))
    expected = shapkit.exact(table_game(table), index).values
    for batch_size in (1, 7, 64, 1000):
        found = shapkit.exact(table_game(table, batch_size=batch_size), index).values
        np.testing.assert_array_equal(found, expected)


def test_a_large_offset_does_no_harm():
    table = np.random.default_rng(0).integers(-50, 50, 256).astype(float)
    one, other = (shapkit.exact(table_game(table + offset), "k-SII").values for offset in (0, 2.0**40))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n_players, order", [(3, 2), (5, 3), (8, 2)])
@pytest.mark.parametrize("index", ["SII", "k-SII", "STII", "FSII", "BII", "FBII"])
def test_shapiq_finds_the_same(index, n_players, order):
    shapiq = pytest.importorskip("shapiq")
    table = np.random.default_rng(n_players).normal(size=2**n_players)
    table[0] = 0  # shapiq moves the game there
    powers = 1 << np.arange(n_players)
    computer = shapiq.ExactComputer(lambda coalitions: table[coalitions @ powers], n_players=n_players)
    theirs = computer(index, order=order)
    ours = shapkit.exact(table_game(table), index, order)
    for members, value in zip(ours.terms, ours.values, strict=True):
        assert value == pytest.approx(theirs[members], abs=1e-8), members


def test_values_of_shapiq_and_shap():
    shapiq, shap = pytest.importorskip("shapiq"), pytest.importorskip("shap")
    table = np.random.default_rng(0).normal(size=2**7)
    powers = 1 << np.arange(7)
    computer = shapiq.ExactComputer(lambda coalitions: table[coalitions @ powers], n_players=7)
    for index, theirs in (("shapley", "SV"), ("banzhaf", "BV")):
        values = shapkit.exact(table_game(table), index).values
        found = computer(theirs, order=1)
        np.testing.assert_allclose(values, [found[(player,)] for player in range(7)], atol=1e-10)
    explainer = shap.explainers.ExactExplainer(
        lambda rows: table[rows.astype(int) @ powers], shap.maskers.Independent(np.zeros((1, 7)))
    )
    np.testing.assert_allclose(explainer(np.ones((1, 7))).values[0], shapkit.shapley_values(table), atol=1e-10)


@pytest.mark.parametrize(
    "index, order, message",
    [
        ("banzhaf", 2, "index 'banzhaf' is of single players, order 1, got order 2: .* 'SII', 'k-SII'"),
        ("SII", 0, "order must be an integer of at least 1, got 0"),
        ("SII", 1.5, "order must be an integer of at least 1, got 1.5"),
        ("ksii", None, "index must be one of 'shapley', .* got 'ksii'"),
    ],
)
def test_errors(index, order, message):
    with pytest.raises(ValueError, match=message):
        shapkit.exact(weighted_voting([1, 2, 3], 3), index, order)
