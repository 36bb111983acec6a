"""Permutation sampling against a slow twin, its axioms and statistics; and the choice `explain` makes."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import shapkit
from shapkit import estimate, explain, shapley_values, table_game, weighted_voting
from shapkit.estimators.moments import RunningMoments
from shapkit.estimators.permutation import permutations_paid_by, prefixes
from shapkit.randomness import counter_permutations

N_PLAYERS = 5
TABLE = np.random.default_rng(4).normal(size=(2**N_PLAYERS, 2))


def marginals_in(order, table):
    """Marginal contributions (n_players, ...) in one order, one coalition at a time."""
    marginals, mask = np.empty((len(order), *table.shape[1:])), 0
    for player in order:
        marginals[player] = table[mask | 1 << int(player)] - table[mask]
        mask |= 1 << int(player)
    return marginals


def standard_deviations():
    """Of one permutation's marginal contributions, over all n! orders: (n_players, 2)."""
    return np.std([marginals_in(order, TABLE) for order in permutations(range(N_PLAYERS))], axis=0)


def budget_for(n_permutations, n_players=N_PLAYERS):
    return 2 + n_permutations * (n_players - 1)


def test_equals_castro_walked_one_permutation_at_a_time():
    phi = estimate(table_game(TABLE), budget_for(37), seed=9)
    walked = [marginals_in(order, TABLE) for order in counter_permutations(9, np.arange(37), N_PLAYERS)]
    np.testing.assert_allclose(phi.values, np.mean(walked, axis=0), rtol=1e-12)
    errors = np.std(walked, axis=0, ddof=1) / np.sqrt(37)
    np.testing.assert_allclose(phi.standard_errors, errors, rtol=1e-12)
    np.testing.assert_array_equal(phi.empty_value, TABLE[0])
    np.testing.assert_array_equal(phi.grand_value, TABLE[-1])
    assert (phi.index, phi.method, phi.n_evaluations) == ("shapley", "permutation", budget_for(37))


def test_chunks_change_nothing_but_rounding(monkeypatch):
    whole = estimate(table_game(TABLE), budget_for(50))
    monkeypatch.setattr("shapkit.estimators.permutation._CHUNK_ROWS", 35)
    chunked = estimate(table_game(TABLE), budget_for(50))
    np.testing.assert_allclose(chunked.values, whole.values, rtol=1e-12)
    np.testing.assert_allclose(chunked.standard_errors, whole.standard_errors, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 17, 64, 10_000])
def test_the_same_numbers_for_every_batch_size(batch_size):
    expected = estimate(table_game(TABLE), 402, seed=5)
    phi = estimate(table_game(TABLE, batch_size=batch_size), 402, seed=5)
    np.testing.assert_array_equal(phi.values, expected.values)
    np.testing.assert_array_equal(phi.standard_errors, expected.standard_errors)


def test_seeds_decide_and_more_budget_extends():
    by_seed = [estimate(table_game(TABLE), 100, seed=seed).values for seed in (0, 1, 0)]
    assert np.array_equal(by_seed[0], by_seed[2]) and not np.array_equal(by_seed[0], by_seed[1])
    orders = counter_permutations(0, np.arange(30), 7)
    np.testing.assert_array_equal(counter_permutations(0, np.arange(20), 7), orders[:20])


def test_budget_is_kept_and_spent():
    for budget in range(N_PLAYERS + 1, 60):
        game = table_game(TABLE)
        phi = estimate(game, budget)
        assert phi.n_evaluations == game.n_evaluations == budget_for(permutations_paid_by(budget, N_PLAYERS))
        assert budget - (N_PLAYERS - 1) < phi.n_evaluations <= budget


def test_batches_are_large():
    sizes = []

    def value(coalitions):
        sizes.append(len(coalitions))
        return coalitions[:, 0]

    estimate(shapkit.Game(value, 11), 2_002)
    assert sizes == [2, 2_000]


def test_one_permutation_has_no_standard_error():
    phi = estimate(table_game(TABLE), budget_for(1))
    assert np.isnan(phi.standard_errors).all()
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-12)


def test_one_player():
    phi = estimate(table_game([1.0, 4.0]), budget=2)
    assert (phi.values.tolist(), phi.standard_errors.tolist(), phi.n_evaluations) == ([3.0], [0.0], 2)


def test_more_players_than_a_mask_has_bits():
    worth = np.arange(100.0)
    phi = estimate(shapkit.Game(lambda coalitions: coalitions @ worth, 100), 1_000)
    np.testing.assert_allclose(phi.values, worth, rtol=1e-12)


def test_prefixes_grow_by_one_player():
    orders = counter_permutations(1, np.arange(6), 4)
    grown = prefixes(orders)
    for row, order in enumerate(orders):
        for size in range(1, 4):
            assert set(np.flatnonzero(grown[size - 1, row])) == set(order[:size])


@given(
    st.integers(1, 8),
    st.sampled_from([(), (1,), (2, 2)]),
    st.integers(1, 20),
    st.integers(0, 2**64 - 1),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_efficiency_and_dummy_hold_for_every_sample(n_players, outputs, n_permutations, seed, data):
    table = np.random.default_rng(seed).integers(-100, 100, (2**n_players, *outputs)).astype(float)
    dummy = data.draw(st.integers(0, n_players - 1))
    table = table[np.arange(2**n_players) & ~(1 << dummy)]
    phi = estimate(table_game(table), max(2, budget_for(n_permutations, n_players)), seed=seed)
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-10)
    np.testing.assert_array_equal(phi.values[dummy], 0)
    if n_permutations > 1:
        np.testing.assert_array_equal(phi.standard_errors[dummy], 0)


@given(st.integers(2, 8), st.integers(0, 2**64 - 1), st.integers(-5, 5))
@settings(max_examples=40, deadline=None)
def test_linearity_holds_for_every_sample(n_players, seed, factor):
    tables = np.random.default_rng(seed).integers(-100, 100, (2, 2**n_players)).astype(float)
    budget = budget_for(10, n_players)
    parts = [estimate(table_game(table), budget, seed=seed).values for table in tables]
    both = estimate(table_game(tables[0] + factor * tables[1]), budget, seed=seed).values
    np.testing.assert_allclose(both, parts[0] + factor * parts[1], atol=1e-9)


def test_estimates_are_near_the_exact_values():
    n_permutations = 20_000
    phi = estimate(table_game(TABLE), budget_for(n_permutations))
    bounds = 5 * standard_deviations() / np.sqrt(n_permutations)
    assert (np.abs(phi.values - shapley_values(TABLE)) < bounds).all()
    # The relative standard deviation of a sample standard deviation of a bounded variable is of order 1/√C.
    np.testing.assert_allclose(phi.standard_errors, bounds / 5, rtol=5 / np.sqrt(n_permutations))


def test_estimates_and_standard_errors_over_many_seeds():
    n_seeds, n_permutations = 400, 100
    runs = [estimate(table_game(TABLE), budget_for(n_permutations), seed=seed) for seed in range(n_seeds)]
    estimates = np.array([run.values for run in runs])
    errors = np.array([run.standard_errors for run in runs])
    exact, sigma = shapley_values(TABLE), standard_deviations() / np.sqrt(n_permutations)
    # Unbiased: the mean over seeds is within five of its own standard deviations.
    assert (np.abs(estimates.mean(axis=0) - exact) < 5 * sigma / np.sqrt(n_seeds)).all()
    # The spread over seeds is what theory says: chi-squared with n_seeds - 1 degrees of freedom.
    spread = (n_seeds - 1) * estimates.var(axis=0, ddof=1) / sigma**2
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], n_seeds - 1)
    assert (spread > low).all() and (spread < high).all()
    # Student intervals cover as often as they claim, within four binomial standard deviations.
    half_width = stats.t.ppf(0.975, n_permutations - 1) * errors
    coverage = (np.abs(estimates - exact) <= half_width).mean(axis=0)
    assert np.abs(coverage - 0.95).max() < 4 * np.sqrt(0.95 * 0.05 / n_seeds)


def test_symmetric_players_are_equal_in_expectation():
    game = weighted_voting([4, 4, 4, 2, 2, 1], quota=12)
    phi = estimate(game, 2 + 5 * 10_000)
    assert np.ptp(phi.values[:3]) < 5 * np.sqrt(2) * phi.standard_errors[:3].max()
    assert phi.values[5] == phi.standard_errors[5] == 0


def test_moments_in_chunks_equal_moments_at_once():
    samples = 1e6 + np.random.default_rng(0).normal(size=(100, 3))
    moments = RunningMoments()
    for chunk in np.split(samples, [1, 2, 30]):
        moments.add(chunk)
    np.testing.assert_allclose(moments.mean, samples.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.standard_error(), stats.sem(samples, axis=0), rtol=1e-9)


def test_explain_is_exact_exactly_when_the_budget_pays():
    game = table_game(TABLE)
    assert explain(game, budget=32).method == "exact"
    assert explain(game, budget=31).method == "permutation"
    assert explain(game, budget=31).n_evaluations <= 31
    np.testing.assert_array_equal(explain(game, 31, seed=3).values, estimate(game, 31, seed=3).values)
    np.testing.assert_allclose(explain(game).values, shapley_values(TABLE), atol=1e-12)


def test_explain_estimates_beyond_what_exact_can_do(monkeypatch):
    monkeypatch.setattr("shapkit.estimators.MAX_EXACT_PLAYERS", 4)
    assert explain(table_game(TABLE), budget=2**10).method == "permutation"


def test_explain_keeps_to_its_default_budget():
    seventeen = explain(weighted_voting(range(17), quota=60))
    assert seventeen.method == "permutation" and seventeen.n_evaluations <= 2**16
    assert explain(weighted_voting(range(16), quota=60)).method == "exact"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda game: estimate(game, 5), r"budget is 5 evaluations, expected at least n_players \+ 1 = 6"),
        (lambda game: estimate(game, 0), "budget must be an integer of at least 1, got 0"),
        (lambda game: estimate(game, 1e3), "budget must be an integer of at least 1, got 1000.0"),
        (
            lambda game: estimate(game, 50, method="castro"),
            "method must be one of 'permutation', got 'castro'",
        ),
        (lambda game: estimate(game, 50, seed=-1), r"seed must be an integer in \[0, 2\*\*64\), got -1"),
        (lambda game: explain(game, 3), "budget is 3 evaluations"),
        (lambda game: explain(game, -3), "budget must be an integer of at least 1, got -3"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(table_game(TABLE))
