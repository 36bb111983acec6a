"""Stratified sampling: Neyman's allocation, and that rounds which learn from each other bias nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import shapkit
from shapkit import estimate, shapley_values, table_game
from shapkit.coalitions import masks_of_members
from shapkit.estimators import stratified
from shapkit.estimators.loops import draw_pairs
from shapkit.estimators.stratified import StratifiedSampler, neyman_counts
from shapkit.randomness import counter_bits

pytestmark = pytest.mark.usefixtures("too_many_to_enumerate")

N_PLAYERS = 5
# Skewed, as of rare pivots: the sample variance of few samples goes with their mean, which is what could bias.
TABLE = np.random.default_rng(4).exponential(size=(2**N_PLAYERS, 2)) ** 2
SECOND_ROUND = 12 + 2 * N_PLAYERS * (N_PLAYERS - 2) * (2 + 4)


def test_draws_are_uniform_subsets_of_the_others():
    n_draws, size = 20_000, 2
    players, sizes = np.full(n_draws, 1), np.full(n_draws, size)
    coalitions = np.empty((2 * n_draws, N_PLAYERS), dtype=np.bool_)
    draw_pairs(players, sizes, counter_bits(0, np.arange(n_draws)), np.empty(N_PLAYERS - 1, dtype=np.int64), coalitions)
    without, with_player = coalitions[:n_draws], coalitions[n_draws:]
    assert not without[:, 1].any() and with_player[:, 1].all()
    np.testing.assert_array_equal(np.delete(without, 1, axis=1), np.delete(with_player, 1, axis=1))
    masks, counts = np.unique(masks_of_members(without), return_counts=True)
    assert len(masks) == 6 and (without.sum(axis=1) == size).all()
    assert stats.chisquare(counts).pvalue > 1e-3


@given(st.lists(st.sampled_from([0.0, 1e-3, 0.5, 1.0, 7.0, 1e6]), min_size=1, max_size=30), st.integers(2, 9))
@settings(max_examples=100, deadline=None)
def test_allocation_is_neymans_with_a_floor(deviations, average):
    deviations, n_samples = np.array(deviations), average * len(deviations)
    counts = neyman_counts(deviations, n_samples, least=2)
    assert counts.sum() == n_samples and counts.min() >= 2
    more = counts > 3  # in proportion to the deviations where the floor does not matter, to rounding
    if deviations.any() and more.sum() > 1:
        per_unit = counts[more] / deviations[more]
        assert per_unit.max() / per_unit.min() < (1 + 1 / counts[more].min()) / (1 - 1 / counts[more].min()) * 1.001


def test_strata_that_vary_get_more_samples():
    # With player 0 and few others payoffs are noise, and else nothing varies.
    noise = np.random.default_rng(0).normal(size=2**8)

    def value(coalitions):
        noisy = coalitions[:, 0] & (coalitions.sum(axis=1) < 4)
        return np.where(noisy, noise[masks_of_members(coalitions)], 0.0)

    sampler = StratifiedSampler(shapkit.Game(value, 8))
    sampler.advance(6_000)
    counts = sampler._allocation[1]
    assert counts[0, :2].min() > 1.5 * counts.mean() and counts[0, 4:].max() < 0.5 * counts.mean() + 1


@pytest.mark.parametrize("budget", [72, SECOND_ROUND, 3_000])
def test_unbiased_in_values_and_variances(budget):
    n_seeds, exact, game = 2_000, shapley_values(TABLE), table_game(TABLE)
    values, errors = np.empty((2, n_seeds, N_PLAYERS, 2))
    for seed in range(n_seeds):
        sampler = StratifiedSampler(game, seed)
        assert 0 < sampler.advance(budget) <= budget
        values[seed], errors[seed] = sampler.attribution().values, sampler.attribution().standard_errors
    assert (np.abs(values.mean(axis=0) - exact) < 4 * stats.sem(values, axis=0)).all()
    # The mean squared standard error is the variance over seeds, as far as both are known from so many seeds.
    squared_deviations = (values - exact) ** 2
    difference = squared_deviations - errors**2
    assert (np.abs(difference.mean(axis=0)) < 4 * stats.sem(difference, axis=0)).all()
    if budget == 3_000:  # enough for the normal distribution: 95 %, give or take four binomial standard deviations
        coverage = (np.sqrt(squared_deviations) <= stats.norm.ppf(0.975) * errors).mean(axis=0)
        assert np.abs(coverage - 0.95).max() < 4 * np.sqrt(0.95 * 0.05 / n_seeds)


def test_two_and_three_players():
    phi = estimate(table_game([0, 1, 2, 5]), 100, "stratified")
    assert (phi.values.tolist(), phi.standard_errors.tolist(), phi.n_evaluations) == ([2.0, 3.0], [0.0, 0.0], 4)
    table = np.random.default_rng(0).normal(size=8)
    phi = estimate(table_game(table), 20_000, "stratified")
    assert (np.abs(phi.values - shapley_values(table)) < 4 * phi.standard_errors).all()


@given(st.integers(0, 6), st.sampled_from([(), (2, 2)]), st.integers(0, 2**64 - 1), st.data())
@settings(max_examples=40, deadline=None)
def test_dummies_are_worth_nothing(n_players, outputs, seed, data):
    table = np.random.default_rng(seed).integers(-100, 100, (2**n_players, *outputs)).astype(float)
    if n_players:
        dummy = data.draw(st.integers(0, n_players - 1))
        table = table[np.arange(2**n_players) & ~(1 << dummy)]
    phi = estimate(table_game(table), 700, "stratified", seed=seed)
    assert phi.values.shape == phi.standard_errors.shape == (n_players, *outputs) and phi.n_evaluations <= 700
    if n_players:
        np.testing.assert_array_equal(phi.values[dummy], 0)
        np.testing.assert_array_equal(phi.standard_errors[dummy], 0)


@pytest.mark.parametrize("limit, most", [("_CHUNK_ROWS", 1), ("_CHUNK_ROWS", 30), ("_CHUNK_BYTES", 40)])
def test_chunks_change_nothing(monkeypatch, limit, most):
    whole = estimate(table_game(TABLE), 700, "stratified")
    monkeypatch.setattr(stratified, limit, most)
    chunked = estimate(table_game(TABLE), 700, "stratified")
    np.testing.assert_array_equal(chunked.values, whole.values)
    np.testing.assert_array_equal(chunked.standard_errors, whole.standard_errors)


def test_no_estimate_before_the_first_round():
    sampler = StratifiedSampler(table_game(TABLE))
    assert sampler.least_budget == 72 and sampler.advance(11) == 0 and sampler.advance(12) == 12
    with pytest.raises(ValueError, match="not every stratum has been sampled"):
        sampler.attribution()
    assert sampler.advance(59) == 48 and sampler.advance(12) == 12 and sampler.attribution().n_evaluations == 72


def splitmix(state):
    """The next state and the next 64 bits, as published, in Python's own integers."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    bits = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
    return state, bits ^ (bits >> 31)


@given(st.integers(2, 12), st.integers(0, 2**64 - 1), st.data())
@settings(max_examples=40, deadline=None)
def test_pairs_are_drawn_by_the_first_steps_of_a_shuffle(n_players, state, data):
    player, size = data.draw(st.integers(0, n_players - 1)), data.draw(st.integers(0, n_players - 1))
    coalitions = np.empty((2, n_players), dtype=np.bool_)
    numbers = (np.array([player]), np.array([size]), np.array([state], dtype=np.uint64))
    draw_pairs(*numbers, np.empty(n_players - 1, dtype=np.int64), coalitions)
    others = [other for other in range(n_players) if other != player]
    members = set()
    for position in range(size):
        state, bits = splitmix(state)
        chosen = position + int((bits >> 11) * 2.0**-53 * (n_players - 1 - position))
        members.add(others[chosen])
        others[chosen] = others[position]
    assert set(np.flatnonzero(coalitions[0])) == members and len(members) == size
    assert set(np.flatnonzero(coalitions[1])) == members | {player}


def test_rounds_count_with_weights_that_are_fixed_in_advance():
    nothing = np.zeros(1)
    player = stratified._PlayerMoments(0, 0, 0, nothing, nothing, nothing, np.zeros(2), np.zeros(2, dtype=np.int64))
    counts, rng = np.array([3, 4]), np.random.default_rng(0)
    means, squares = rng.normal(size=(5, 2, 1)), rng.random((5, 2, 1))
    for of_round in range(5):
        player = stratified._after_round(player, counts, means[of_round], squares[of_round], np.ones(1))
    weights = np.array([2, 4, 8, 8, 8])
    assert (player.n_rounds, player.weight, player.n_evaluations) == (5, 30, 5 * 2 * 7)
    np.testing.assert_allclose(player.means, (weights[:, None] * means.sum(axis=1)).sum(axis=0), rtol=1e-12)
    variances = (squares[:, :, 0] / (counts * (counts - 1))).sum(axis=1)
    np.testing.assert_allclose(player.variances, (weights**2 * variances).sum(), rtol=1e-12)
    np.testing.assert_allclose(player.squares, squares[:, :, 0].sum(axis=0), rtol=1e-12)
    assert player.freedom.tolist() == [5 * 2, 5 * 3]
