"""Sums of few unanimity games: found with every dividend, or not claimed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import shapkit
from shapkit.coalitions import Coalitions, members_of_masks
from shapkit.estimators.unanimity import UnanimityGames, few_unanimity_games

Floats = NDArray[np.float64]
Carriers = list[tuple[int, ...]]


def payoffs_of(carriers: Sequence[tuple[int, ...]], dividends: Floats, members: Coalitions) -> Floats:
    """What the sum pays, one game after the other."""
    total = np.zeros((len(members), dividends.shape[1]))
    for carrier, paid in zip(carriers, dividends, strict=True):
        total += members[:, list(carrier)].all(axis=1)[:, None] * paid
    return total


def random_sum(n_players: int, n_games: int, largest: int, rng: np.random.Generator) -> tuple[Carriers, Floats]:
    carriers = {
        tuple(sorted(rng.choice(n_players, rng.integers(1, largest + 1), replace=False).tolist()))
        for _ in range(n_games)
    }
    return sorted(carriers), rng.normal(size=(len(carriers), 1))


def random_pairs_of_coalitions(n_players: int, n_pairs: int, rng: np.random.Generator) -> Coalitions:
    """Coalitions of all sizes and their complements, the grand coalition among them."""
    sizes = rng.integers(1, n_players, n_pairs)
    members = rng.random((n_pairs, n_players)).argsort(axis=1) < sizes[:, None]
    members[0] = True
    return np.unique(np.concatenate([members, ~members]), axis=0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_players=st.integers(8, 25),
    n_games=st.integers(1, 30),
    largest=st.integers(1, 9),
    factor=st.sampled_from([5, 10, 20]),
)
def test_what_is_found_is_the_game_itself(seed, n_players, n_games, largest, factor):
    rng = np.random.default_rng(seed)
    carriers, dividends = random_sum(n_players, n_games, min(largest, n_players), rng)
    members = random_pairs_of_coalitions(n_players, factor * n_players // 2, rng)
    found = few_unanimity_games(members, payoffs_of(carriers, dividends, members))
    if found is None:
        assert len(carriers) > len(members) / 40 or max(map(len, carriers)) > 3
        return
    known = dict(zip(found.carriers, found.dividends[:, 0], strict=True))
    known.pop((), None)
    assert set(known) == set(carriers)
    np.testing.assert_allclose([known[carrier] for carrier in carriers], dividends[:, 0], atol=1e-9)


def test_a_sum_is_found_by_fewer_pairs_than_its_polynomial_has_terms():
    """Thirty games of up to five of fifteen players are 200 products of signs, and exact from 300 evaluations."""
    rng = np.random.default_rng(3)
    carriers, dividends = random_sum(15, 30, 5, rng)
    terms, _ = UnanimityGames(carriers, dividends).products()
    assert sum(len(term) % 2 for term in terms) > 2 / 3 * (150 - 16)
    game = shapkit.Game(lambda members: payoffs_of(carriers, dividends, members)[:, 0], 15)
    expected = np.zeros(15)
    for carrier, (dividend,) in zip(carriers, dividends, strict=True):
        expected[list(carrier)] += dividend / len(carrier)
    values = shapkit.estimate(game, 300, seed=0)
    np.testing.assert_allclose(values.values, expected, atol=1e-10)
    assert values.standard_errors is not None and not values.standard_errors.any()
    pairs = shapkit.estimate(game, 300, seed=0, index="SII", order=2)
    np.testing.assert_allclose(pairs.values, shapkit.exact(game, "SII", order=2).values, atol=1e-10)


def test_several_outputs_are_found_together():
    rng = np.random.default_rng(0)
    carriers = [(0,), (1, 3), (2, 4, 6), (0, 1, 2, 5)]
    dividends = rng.normal(size=(4, 11))
    dividends[2, :9] = 0.0  # of the outputs that the search looks at, none has it
    members = random_pairs_of_coalitions(9, 60, rng)
    assert few_unanimity_games(members, payoffs_of(carriers, dividends, members)) is None
    dividends[2, :9] = 1.0
    found = few_unanimity_games(members, payoffs_of(carriers, dividends, members))
    assert found is not None and found.carriers == carriers
    np.testing.assert_allclose(found.dividends, dividends, atol=1e-10)


@pytest.mark.parametrize("carrier", [(0, 1), (0, 1, 2), (2,)])
def test_a_carrier_that_others_cannot_be_told_from_is_not_claimed(carrier):
    """Three players who are always together, as far as was seen."""
    members = random_pairs_of_coalitions(9, 60, np.random.default_rng(1))
    members[:, 1] = members[:, 2] = members[:, 0]
    assert few_unanimity_games(members, 2.0 * members[:, list(carrier)].all(axis=1)[:, None]) is None


def test_rare_carriers_and_too_many_games_are_not_claimed():
    rng = np.random.default_rng(2)
    members = random_pairs_of_coalitions(12, 60, rng)
    holding = np.flatnonzero(members[:, :4].all(axis=1))
    few, more = (np.delete(members, holding[kept:], axis=0) for kept in (9, 10))
    assert few_unanimity_games(few, few[:, :4].all(axis=1)[:, None] * 1.0) is None
    found = few_unanimity_games(more, more[:, :4].all(axis=1)[:, None] * 1.0)
    assert found is not None and found.carriers == [(0, 1, 2, 3)]
    some = members[rng.permutation(len(members))]
    additive = some @ rng.uniform(1, 2, size=(12, 1))
    assert few_unanimity_games(some[:83], additive[:83]) is None  # 12 players, and at most 11 games
    assert few_unanimity_games(some[:84], additive[:84]) is not None
    assert few_unanimity_games(members, np.ones((len(members), 1))) is None
    assert few_unanimity_games(members, rng.normal(size=(len(members), 1))) is None


def test_what_is_found_on_some_coalitions_is_compared_with_all():
    rng = np.random.default_rng(4)
    members = random_pairs_of_coalitions(14, 700, rng)
    assert len(members) > 1_000  # of which 512 are searched
    carriers = [(3,), (0, 5), (1, 2, 8)]
    payoffs = payoffs_of(carriers, rng.normal(size=(3, 1)), members)
    found = few_unanimity_games(members, payoffs)
    assert found is not None and found.carriers == carriers
    for row in range(6):  # at least one of any two neighbours is not searched
        other = payoffs.copy()
        other[row] += 1.0
        assert few_unanimity_games(members, other) is None


def test_among_too_many_players_for_pairs_nothing_is_looked_for():
    members = random_pairs_of_coalitions(200, 300, np.random.default_rng(5))
    assert few_unanimity_games(members, members[:, [7]] * 1.0) is None
    assert few_unanimity_games(members[:, :100], members[:, [7]] * 1.0) is not None


def test_products_pay_the_same():
    carriers, dividends = [(), (2,), (0, 3), (1, 2, 3)], np.arange(8.0).reshape(4, 2) - 3
    members = members_of_masks(range(16), 4)
    terms, coefficients = UnanimityGames(carriers, dividends).products()
    assert terms[0] == () and [len(term) for term in terms] == sorted(len(term) for term in terms)
    assert all(term[:-1] in terms for term in terms[1:])
    signs = np.where(members, 1.0, -1.0)
    products = np.stack([signs[:, list(term)].prod(axis=1) for term in terms], axis=1)
    np.testing.assert_allclose(products @ coefficients, payoffs_of(carriers, dividends, members))
