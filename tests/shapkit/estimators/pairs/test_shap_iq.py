"""SHAP-IQ on stratified pairs: against a sum by loops, without bias, and with intervals that cover."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, norm

import shapkit
from shapkit.estimators.pairs.shap_iq import ShapIqSampler
from shapkit.exact.interactions import derivative_weights

TABLE = np.random.default_rng(0).normal(size=2**6) + np.linspace(0, 3, 2**6)


@pytest.mark.parametrize("n_players", [0, 1, 2, 3, 6])
@pytest.mark.parametrize(
    ("index", "order"),
    [("SII", 2), ("k-SII", 3), ("STII", 2), ("FSII", 2), ("FBII", 2), ("BII", 1), ("shapley", 1), ("banzhaf", 1)],
)
def test_exact_once_all_pairs_are_known(n_players, index, order):
    game = shapkit.table_game(TABLE[: 2**n_players])
    sampler = ShapIqSampler(game, 0, index, order)
    sampler.advance(2**n_players + 2)
    found = sampler.attribution()
    np.testing.assert_allclose(found.values, shapkit.exact(game, index, order).values, atol=1e-10)
    assert not np.any(found.standard_errors > 1e-10)
    assert sampler.complete


def test_equal_to_a_sum_over_the_sample_by_loops():
    game, n_players = shapkit.table_game(TABLE), 6
    sampler = ShapIqSampler(game, 3, "SII", 2)
    sampler.advance(32)
    pairs, counts = sampler._samples.pairs(), sampler._samples.counts
    populations = sampler._samples.populations
    share = (TABLE[-1] - TABLE[0]) / n_players
    found = sampler.attribution()
    for players in combinations(range(n_players), 2):
        weights, total = derivative_weights("SII", 2, 2, n_players), 0.0
        for members, stratum in zip(pairs.coalitions, pairs.strata, strict=True):
            for coalition in (members, ~members):
                inside = int(coalition[list(players)].sum())
                residual = float(game(coalition[None])[0]) - TABLE[0] - share * coalition.sum()
                weight = (-1) ** (2 - inside) * float(weights[2 + int(coalition.sum()) - inside])
                total += populations[stratum] / counts[stratum] * weight * residual
        assert float(found[players]) == pytest.approx(total, abs=1e-10)


@pytest.mark.parametrize(("index", "order"), [("SII", 2), ("k-SII", 2), ("banzhaf", 1)])
def test_without_bias_and_with_intervals_that_cover(index, order):
    """400 runs of a third of all coalitions: no mean further from the truth than all terms' would be once in 1,000.

    Of the intervals 90 % at least must hold the truth, less what chance takes once in 1,000 from independent runs.
    """
    game, n_runs = shapkit.table_game(np.random.default_rng(1).normal(size=2**8)), 400
    exact = shapkit.exact(game, index, order).values
    values, held = [], []
    for seed in range(n_runs):
        sampler = ShapIqSampler(game, seed, index, order)
        sampler.advance(86)
        found = sampler.attribution()
        low, high = found.interval()
        values.append(found.values)
        held.append(((low <= exact) & (exact <= high)).mean())
    deviations = (np.mean(values, axis=0) - exact) / (np.std(values, axis=0, ddof=1) / np.sqrt(n_runs))
    assert np.abs(deviations).max() < norm.ppf(1 - 5e-4 / exact.size)
    assert np.mean(held) > binom.ppf(1e-3, n_runs, 0.9) / n_runs


def test_additive_games_are_exact_with_the_first_pairs():
    game = shapkit.Game(lambda c: c @ np.arange(1.0, 9.0), 8)
    found = shapkit.estimate(game, 40, method="shap_iq", index="SII")
    equal = shapkit.estimate(shapkit.Game(lambda c: 2.0 * c.sum(axis=1), 8), 40, method="shap_iq", index="SII")
    np.testing.assert_allclose(equal.values[:8], 2, atol=1e-12)
    np.testing.assert_allclose(equal.values[8:], 0, atol=1e-12)
    assert found.method == "shap_iq" and found.order == 2


def test_runs_rules_and_vectors():
    game = shapkit.table_game(np.stack([TABLE, 1e6 * TABLE[::-1]], axis=1))
    whole = shapkit.estimate(game, 40, method="shap_iq", index="SII")
    np.testing.assert_array_equal(
        whole.values, shapkit.estimate(game, 20, method="shap_iq", index="SII").extend(20).values
    )
    alone = shapkit.estimate(shapkit.table_game(TABLE), 40, method="shap_iq", index="SII")
    np.testing.assert_allclose(whole.output(0).values, alone.values, atol=1e-12)
    np.testing.assert_allclose(whole.output(0).standard_errors, alone.standard_errors, atol=1e-12)
    ended = shapkit.estimate(game, method="shap_iq", index="SII", stop=shapkit.StandardError(1e-9))
    assert ended.stopped_by == "all coalitions"
    wide = shapkit.Game(lambda c: 3.0 * c[:, 0] * c[:, 1] + c.sum(axis=1), 60)
    found = shapkit.estimate(wide, 1_500, method="shap_iq", index="SII", order=2)
    assert abs(found[0, 1] - 3) < 4 * found.standard_error(0, 1)


def test_too_few_evaluations_and_too_many_players_are_said():
    with pytest.raises(ValueError, match="give no estimate of every player"):
        shapkit.estimate(shapkit.table_game(TABLE), 4, method="shap_iq", index="SII")
    with pytest.raises(ValueError, match="at most 1,000 players, got 1,001"):
        shapkit.estimate(shapkit.Game(lambda c: c.sum(axis=1) * 1.0, 1_001), 10, index="banzhaf")
