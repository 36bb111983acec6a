"""Permutations, alone and in antithetic pairs, against a slow twin and the theory of their errors."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import shapkit
from shapkit import estimate, shapley_values, table_game, weighted_voting
from shapkit.estimators import permutation
from shapkit.estimators.loops import write_prefixes
from shapkit.estimators.permutation import AntitheticSampler, PermutationSampler
from shapkit.randomness import counter_bits, counter_permutations

pytestmark = pytest.mark.usefixtures("too_many_to_enumerate")

METHODS = ["permutation", "antithetic"]
STREAMS = {"permutation": permutation.PERMUTATION_STREAM, "antithetic": permutation.ANTITHETIC_STREAM}

N_PLAYERS = 5
TABLE = np.random.default_rng(4).normal(size=(2**N_PLAYERS, 2))


def marginals_in(order, table):
    """Marginal contributions (n_players, ...) in one order, one coalition at a time."""
    marginals, mask = np.empty((len(order), *table.shape[1:])), 0
    for player in order:
        marginals[player] = table[mask | 1 << int(player)] - table[mask]
        mask |= 1 << int(player)
    return marginals


def unit_in(method, order, table):
    """What one independent unit says: of an order, or of an order and its reverse."""
    if method == "permutation":
        return marginals_in(order, table)
    return (marginals_in(order, table) + marginals_in(order[::-1], table)) / 2


def standard_deviations(method):
    """Of one unit, over all n! orders: (n_players, 2)."""
    return np.std([unit_in(method, order, TABLE) for order in permutations(range(N_PLAYERS))], axis=0)


def budget_for(n_units, n_players=N_PLAYERS, method="permutation"):
    return 2 + n_units * (n_players - 1) * (1 + (method == "antithetic"))


@pytest.mark.parametrize("method", METHODS)
def test_equals_walks_one_coalition_at_a_time(method):
    phi = estimate(table_game(TABLE), budget_for(37, method=method), method, seed=9)
    orders = counter_permutations(int(counter_bits(9, STREAMS[method])), np.arange(37), N_PLAYERS)
    walked = [unit_in(method, order, TABLE) for order in orders]
    np.testing.assert_allclose(phi.values, np.mean(walked, axis=0), rtol=1e-11)
    np.testing.assert_allclose(phi.standard_errors, np.std(walked, axis=0, ddof=1) / np.sqrt(37), rtol=1e-11)
    assert phi.n_evaluations == budget_for(37, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("limit", ["_CHUNK_ROWS", "_CHUNK_BYTES", "_CHUNK_FLOATS"])
@pytest.mark.parametrize("most", [1, 3, 35])
def test_chunks_change_nothing(monkeypatch, method, limit, most):
    whole = estimate(table_game(TABLE), 402, method)
    monkeypatch.setattr(permutation, limit, most * {"_CHUNK_BYTES": N_PLAYERS, "_CHUNK_FLOATS": 2}.get(limit, 1))
    chunked = estimate(table_game(TABLE), 402, method)
    np.testing.assert_array_equal(chunked.values, whole.values)
    np.testing.assert_array_equal(chunked.standard_errors, whole.standard_errors)


@pytest.mark.parametrize("method", METHODS)
def test_seeds_decide(method):
    by_seed = [estimate(table_game(TABLE), 100, method, seed=seed).values for seed in (0, 1, 0)]
    assert np.array_equal(by_seed[0], by_seed[2]) and not np.array_equal(by_seed[0], by_seed[1])


@pytest.mark.parametrize("method, unit", [("permutation", N_PLAYERS - 1), ("antithetic", 2 * (N_PLAYERS - 1))])
def test_budget_is_kept_and_spent(method, unit):
    for budget in range(2 + unit, 60):
        game = table_game(TABLE)
        phi = estimate(game, budget, method)
        assert phi.n_evaluations == game.n_evaluations
        assert budget - unit < phi.n_evaluations <= budget


def test_batches_grow():
    sizes = []

    def value(coalitions):
        sizes.append(len(coalitions))
        return coalitions[:, 0]

    estimate(shapkit.Game(value, 11), 20_002, "permutation")
    assert sum(sizes) == 20_002 and len(sizes) < 12 and max(sizes) > 5_000


@pytest.mark.parametrize("method", METHODS)
def test_one_unit_has_no_standard_error(method):
    phi = estimate(table_game(TABLE), budget_for(1, method=method), method)
    assert np.isnan(phi.standard_errors).all()
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-12)


@pytest.mark.parametrize("method", [*METHODS, "stratified"])
def test_games_of_no_player_and_of_one(method):
    phi = estimate(table_game([[1.0, 4.0]]), 1, method)
    assert (phi.values.shape, phi.standard_errors.shape, phi.n_evaluations) == ((0, 2), (0, 2), 1)
    assert phi.grand_value.tolist() == [1.0, 4.0] and phi.extend(10).n_evaluations == 1
    phi = estimate(table_game([1.0, 4.0]), 100, method)
    assert (phi.values.tolist(), phi.standard_errors.tolist(), phi.n_evaluations) == ([3.0], [0.0], 2)
    with pytest.raises(ValueError, match="budget is 1 evaluations, expected at least 2"):
        estimate(table_game([1.0, 4.0]), 1, method)


@pytest.mark.parametrize("method", METHODS)
def test_more_players_than_a_mask_has_bits(method):
    worth = np.arange(100.0)
    phi = estimate(shapkit.Game(lambda coalitions: coalitions @ worth, 100), 1_000, method)
    np.testing.assert_allclose(phi.values, worth, rtol=1e-11, atol=1e-11)


def test_ten_thousand_players_in_bounded_memory():
    n_players = 10_000
    worth = np.arange(float(n_players))

    def value(coalitions):
        return np.array([row.sum() + worth[row].max(initial=0.0) for row in coalitions])

    tracemalloc.start()
    phi = estimate(shapkit.Game(value, n_players), n_players + 1, "permutation")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a chunk of 64 MiB, the copy of a batch of as much that the value function is given, and little else
    assert peak < 3 * 2**26
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-6)


def test_prefixes_grow_by_one_player():
    orders = counter_permutations(1, np.arange(6), 4)
    for first in range(18):
        prefixes = np.empty((18 - first, 4), dtype=np.bool_)
        write_prefixes(orders, first, prefixes)
        for row, members in enumerate(prefixes, start=first):
            assert set(np.flatnonzero(members)) == set(orders[row // 3][: row % 3 + 1])


def test_a_pair_is_exact_where_no_three_players_interact():
    rng = np.random.default_rng(1)
    own, pairs = rng.normal(size=9), np.triu(rng.normal(size=(9, 9)), 1)

    def value(coalitions):
        present = coalitions.astype(float)
        return present @ own + ((present @ pairs) * present).sum(axis=1)

    phi = estimate(shapkit.Game(value, 9), budget_for(1, 9, "antithetic"), "antithetic")
    np.testing.assert_allclose(phi.values, own + (pairs + pairs.T).sum(axis=1) / 2, atol=1e-12)


@given(
    st.integers(0, 6),
    st.sampled_from([(), (1,), (2, 2)]),
    st.integers(1, 20),
    st.integers(0, 2**64 - 1),
    st.sampled_from(METHODS),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_efficiency_and_dummy_hold_for_every_sample(n_players, outputs, n_units, seed, method, data):
    table = np.random.default_rng(seed).integers(-100, 100, (2**n_players, *outputs)).astype(float)
    dummy = data.draw(st.integers(0, n_players - 1)) if n_players else None
    if dummy is not None:
        table = table[np.arange(2**n_players) & ~(1 << dummy)]
    phi = estimate(table_game(table), max(2, budget_for(n_units, n_players, method)), method, seed=seed)
    assert phi.values.shape == phi.standard_errors.shape == (n_players, *outputs)
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-9)
    if dummy is not None:
        np.testing.assert_array_equal(phi.values[dummy], 0)
        if n_units > 1 or n_players < 2:
            np.testing.assert_array_equal(phi.standard_errors[dummy], 0)


@given(st.integers(2, 6), st.integers(0, 2**64 - 1), st.integers(-5, 5), st.sampled_from(METHODS))
@settings(max_examples=40, deadline=None)
def test_linearity_holds_for_every_sample(n_players, seed, factor, method):
    tables = np.random.default_rng(seed).integers(-100, 100, (2, 2**n_players)).astype(float)
    budget = budget_for(10, n_players)
    parts = [estimate(table_game(table), budget, method, seed=seed).values for table in tables]
    both = estimate(table_game(tables[0] + factor * tables[1]), budget, method, seed=seed).values
    np.testing.assert_allclose(both, parts[0] + factor * parts[1], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_estimates_are_near_the_exact_values(method):
    n_units = 20_000
    phi = estimate(table_game(TABLE), budget_for(n_units, method=method), method)
    bounds = 5 * standard_deviations(method) / np.sqrt(n_units)
    assert (np.abs(phi.values - shapley_values(TABLE)) < bounds).all()
    # The relative standard deviation of a sample standard deviation of a bounded variable is of order 1/√C.
    np.testing.assert_allclose(phi.standard_errors, bounds / 5, rtol=5 / np.sqrt(n_units))


@pytest.mark.parametrize("method", METHODS)
def test_estimates_and_standard_errors_over_many_seeds(method):
    n_seeds, n_units = 2_000, 60
    sampler = {"permutation": PermutationSampler, "antithetic": AntitheticSampler}[method]
    estimates, errors = np.empty((2, n_seeds, N_PLAYERS, 2))
    game = table_game(TABLE)
    for seed in range(n_seeds):
        run = sampler(game, seed)
        run.advance(budget_for(n_units, method=method))
        estimates[seed], errors[seed] = run.attribution().values, run.attribution().standard_errors
    exact, sigma = shapley_values(TABLE), standard_deviations(method) / np.sqrt(n_units)
    # Unbiased: the mean over seeds is within four of its own standard deviations.
    assert (np.abs(estimates.mean(axis=0) - exact) < 4 * sigma / np.sqrt(n_seeds)).all()
    # The spread over seeds is what theory says: chi-squared with n_seeds - 1 degrees of freedom.
    spread = (n_seeds - 1) * estimates.var(axis=0, ddof=1) / sigma**2
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], n_seeds - 1)
    assert (spread > low).all() and (spread < high).all()
    # Student intervals cover as often as they claim, within four binomial standard deviations.
    half_width = stats.t.ppf(0.975, n_units - 1) * errors
    coverage = (np.abs(estimates - exact) <= half_width).mean(axis=0)
    assert np.abs(coverage - 0.95).max() < 4 * np.sqrt(0.95 * 0.05 / n_seeds)


def test_symmetric_players_are_equal_in_expectation():
    game = weighted_voting([4, 4, 4, 2, 2, 1], quota=12)
    phi = estimate(game, 2 + 5 * 10_000, "permutation")
    assert np.ptp(phi.values[:3]) < 5 * np.sqrt(2) * phi.standard_errors[:3].max()
    assert phi.values[5] == phi.standard_errors[5] == 0


@pytest.mark.parametrize("sampler_of", [PermutationSampler, AntitheticSampler])
def test_nothing_is_evaluated_before_the_first_unit_is_paid_for(sampler_of):
    game = table_game(TABLE)
    sampler = sampler_of(game)
    for n_evaluations in range(sampler.least_budget):
        assert sampler.advance(n_evaluations) == 0 == game.n_evaluations == sampler.n_evaluations
    with pytest.raises(ValueError, match="no permutation has been evaluated yet"):
        sampler.attribution()
    assert sampler.advance(sampler.least_budget) == sampler.least_budget == game.n_evaluations
    assert np.isfinite(sampler.attribution().values).all()
