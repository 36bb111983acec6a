"""A sparse polynomial and permutations of the rest: exact where the game is one, unbiased where not."""

from __future__ import annotations

import numpy as np
import pytest

import shapkit
from shapkit.estimators.surrogates.sparse import SparseSampler
from shapkit.randomness import counter_bits


def interactions(n_players: int = 25, n_carriers: int = 30, seed: int = 0) -> tuple[shapkit.Game, np.ndarray]:
    rng = np.random.default_rng(seed)
    carriers = [sorted(rng.choice(n_players, rng.integers(1, 5), replace=False).tolist()) for _ in range(n_carriers)]
    dividends = rng.normal(size=n_carriers)
    shares = np.zeros(n_players)
    for carrier, dividend in zip(carriers, dividends, strict=True):
        shares[carrier] += dividend / len(carrier)
    return shapkit.unanimity_sum(n_players, carriers, dividends), shares


def test_a_sum_of_interactions_is_exact():
    game, shares = interactions()
    found = shapkit.estimate(game, 3_000, method="sparse")
    np.testing.assert_allclose(found.values, shares, atol=1e-12)
    assert found.method == "sparse" and found.n_evaluations <= 3_000
    assert found.standard_errors is not None and (found.standard_errors < 1e-12).all()


def test_a_standard_error_ends_the_run_once_nothing_is_left():
    game, shares = interactions()
    found = shapkit.estimate(game, method="sparse", stop=shapkit.StandardError(1e-9) | shapkit.Budget(50_000))
    assert found.stopped_by == "StandardError(1e-09)" and found.n_evaluations < 10_000
    np.testing.assert_allclose(found.values, shares, atol=1e-12)


def test_numbers_do_not_depend_on_the_steps():
    game, _ = interactions(12, 40, seed=2)
    noisy = shapkit.Game(lambda coalitions: game(coalitions) + np.sin(coalitions @ np.arange(12.0) ** 2), 12)
    whole = SparseSampler(noisy, seed=5)
    assert whole.advance(3_000) > 2_900
    parts = SparseSampler(noisy, seed=5)
    spent = 0
    for step in (1, 30, 22, 7, 400, 3, 1_000, 61, 5_000):
        spent += parts.advance(min(step, 3_000 - spent))
    while step := parts.advance(3_000 - spent):
        spent += step
    np.testing.assert_array_equal(parts.attribution().values, whole.attribution().values)
    np.testing.assert_array_equal(parts.attribution().standard_errors, whole.attribution().standard_errors)
    assert parts.attribution().n_evaluations == whole.attribution().n_evaluations


def test_estimates_of_a_dense_game_are_unbiased_and_their_errors_are_as_large_as_they_say():
    """Mean over 300 seeds within 4 standard errors of the exact values; 95 % intervals cover in 90 to 99 %.

    The standard error of a coverage of 95 % is 1.3 % for each of nine dependent players.
    """
    rng = np.random.default_rng(3)
    game = shapkit.table_game(rng.normal(size=2**9) + 4 * np.log1p(np.arange(2**9)))
    exact = shapkit.exact(game).values
    found = []
    for seed in range(300):
        sampler = SparseSampler(game, seed)
        sampler.advance(4_000)  # a polynomial of 256 pairs, and one of 512
        found.append(sampler.attribution())
    values = np.array([one.values for one in found])
    errors = np.sqrt(values.var(axis=0, ddof=1) / len(values))
    assert (np.abs(values.mean(axis=0) - exact) < 4 * errors).all()
    covered = [(one.interval(0.95)[0] <= exact) & (exact <= one.interval(0.95)[1]) for one in found]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_a_payoff_of_several_outputs_has_a_polynomial_for_all():
    game, shares = interactions(15, 10, seed=4)
    both = shapkit.Game(lambda c: np.stack([game(c), 3e-180 * game(~c) + 1e-180], axis=1).reshape(-1, 1, 2), 15)
    found = shapkit.estimate(both, 2_000, method="sparse")
    np.testing.assert_allclose(found.values[:, 0, 0], shares, atol=1e-12)
    np.testing.assert_allclose(found.values[:, 0, 1] / 3e-180, -shares, atol=1e-11)


def test_of_many_outputs_permutations_are_all():
    game, shares = interactions(12, 5)
    many = shapkit.Game(lambda coalitions: np.multiply.outer(game(coalitions), np.ones(300)), 12)
    sampler = SparseSampler(many)
    sampler.advance(3_000)
    assert sampler.attribution().n_evaluations == 2 + 2 * 11 * (2_998 // 22), "whole pairs of permutations alone"
    np.testing.assert_allclose(sampler.attribution().values[:, 0], shares, atol=0.5)


def test_an_interruption_loses_nothing():
    calls = 0
    game, _ = interactions()

    def value(coalitions):
        nonlocal calls
        calls += 1
        if calls in (3, 5, 8):
            raise KeyboardInterrupt
        return game(coalitions)

    sampler = SparseSampler(shapkit.Game(value, 25), seed=1)
    n_interruptions = 0
    while True:
        done = sampler.attribution().n_evaluations if n_interruptions else 0
        try:
            if sampler.advance(3_000 - done) == 0:
                break
        except KeyboardInterrupt:
            n_interruptions += 1
    undisturbed = SparseSampler(game, seed=1)
    undisturbed.advance(3_000)
    assert n_interruptions == 3
    assert sampler.attribution().n_evaluations == undisturbed.attribution().n_evaluations
    np.testing.assert_array_equal(sampler.attribution().values, undisturbed.attribution().values)


@pytest.mark.parametrize("n_players", [0, 1, 2, 3])
def test_of_few_players(n_players):
    table = counter_bits(0, np.arange(2**n_players)) % np.uint64(10)
    game = shapkit.table_game(table.astype(float))
    found = shapkit.estimate(game, 1_000, method="sparse")
    np.testing.assert_allclose(found.values, shapkit.exact(game).values, atol=1e-12)


def test_one_player_costs_two_evaluations():
    sampler = SparseSampler(shapkit.table_game([1.0, 4.0]))
    assert sampler.advance(1_000) == 2
    np.testing.assert_array_equal(sampler.attribution().values, [3.0])


def test_what_is_wrong_is_said():
    game, _ = interactions()
    with pytest.raises(ValueError, match="seconds_each must be more than 0, got 0"):
        SparseSampler(game, seconds_each=0)
