"""A game in other units is the same game: values, errors and every decision scale with the payoffs."""

import warnings

import numpy as np
import pytest

import shapkit
from shapkit import Game, estimate
from shapkit.estimators import SAMPLERS, Budget, RelativeError
from shapkit.estimators.runs.own_unit import GameInOwnUnit
from shapkit.estimators.surrogates.models import fit_linear, fit_trees

WEIGHTS = np.random.default_rng(1).standard_normal(14)
FACTORS = [1e-300, 1e-170, 3.7, -1e5, 1e160, 1e300]


def bent(coalitions):
    """Neither additive nor without players that matter little."""
    return np.tanh(coalitions @ WEIGHTS[: coalitions.shape[1]])


def in_units(factor, n_players=9):
    return Game(lambda coalitions: factor * bent(coalitions), n_players)


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("factor", FACTORS)
def test_values_and_errors_scale(method, factor):
    budget = 400 if method != "stratified" else 460  # its first estimate takes 272
    one = estimate(in_units(1.0), budget, method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = estimate(in_units(factor), budget, method)
    assert other.n_evaluations == one.n_evaluations
    # What is lost to rounding grows with the condition of the linear systems, of the process's at most 1e9
    scale = np.abs(one.values).max()
    np.testing.assert_allclose(other.values / factor, one.values, rtol=1e-7, atol=1e-7 * scale)
    np.testing.assert_allclose(other.standard_errors / abs(factor), one.standard_errors, rtol=1e-5)


@pytest.mark.parametrize("method", SAMPLERS)
def test_each_output_has_a_unit_of_its_own(method):
    """One next to the least number there is, one next to the greatest, one that begins with zeros, one always zero."""

    def value(coalitions):
        middle = (coalitions.sum(axis=1) > 1) & (coalitions.sum(axis=1) < 8)
        bump = bent(coalitions) * middle
        return np.stack([1e-300 * bent(coalitions), 1e300 * bent(coalitions), 1e200 * bump, 0 * bump, bump], axis=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phi = estimate(Game(value, 9), 460, method)
    np.testing.assert_allclose(1e300 * phi.values[:, 0], 1e-300 * phi.values[:, 1], rtol=1e-6)
    np.testing.assert_allclose(1e300 * phi.standard_errors[:, 0], 1e-300 * phi.standard_errors[:, 1], rtol=1e-5)
    np.testing.assert_allclose(1e-200 * phi.values[:, 2], phi.values[:, 4], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(1e-200 * phi.standard_errors[:, 2], phi.standard_errors[:, 4], rtol=1e-5)
    assert (phi.values[:, 3] == 0).all() and (phi.standard_errors[:, [0, 1, 2, 4]] > 0).all()


@pytest.mark.parametrize("method", SAMPLERS)
def test_samplers_scale_without_a_run_too(method):
    results = []
    for factor in (1.0, 1e-170):
        sampler = SAMPLERS[method](in_units(factor), 3)
        sampler.advance(460)
        results.append(sampler.attribution() / factor)
    np.testing.assert_allclose(results[1].values, results[0].values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(results[1].standard_errors, results[0].standard_errors, rtol=1e-5)


@pytest.mark.parametrize("method", ["auto", "permutation", "antithetic", "stratified", "leverage"])
def test_a_relative_error_ends_at_the_same_evaluation_in_any_unit(method):
    stop = RelativeError(0.1)
    runs = [estimate(in_units(factor, 14), stop=stop, method=method) for factor in (1.0, 1e-170, 1e160)]
    assert len({phi.n_evaluations for phi in runs}) == 1
    assert (runs[1].standard_errors > 0).all()


@pytest.mark.parametrize("fit", [fit_linear, fit_trees])
@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_models_of_games_scale(fit, factor):
    half = np.random.default_rng(0).permutation(2**8)[:40]
    coalitions = (half[:, None] >> np.arange(9) & 1).astype(bool)
    coalitions[0] = False
    coalitions = np.concatenate([coalitions, ~coalitions])
    payoffs = bent(coalitions)[:, None]
    one, other = fit(coalitions, payoffs), fit(coalitions, factor * payoffs)
    np.testing.assert_allclose(other.shapley_values() / factor, one.shapley_values(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.predict(coalitions) / factor, one.predict(coalitions), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_exact_values_and_interactions_scale(factor):
    for index, order in [
        ("shapley", 1),
        ("banzhaf", 1),
        ("SII", 2),
        ("k-SII", 2),
        ("STII", 3),
        ("FSII", 3),
        ("FBII", 2),
    ]:
        one, other = (shapkit.exact(in_units(f), index, order=order) for f in (1.0, factor))
        np.testing.assert_allclose(other.values / factor, one.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_results_of_any_unit_are_shown_added_and_bounded(factor):
    phi = estimate(in_units(factor), 200, "antithetic")
    two = estimate(in_units(factor), 200, "antithetic", seed=1)
    ends = phi.interval()
    assert np.isfinite(ends).all() and (ends[0] < ends[1]).all()
    total = (phi + two) / 2
    ratio = total.standard_errors / np.hypot(phi.standard_errors / factor, two.standard_errors / factor) / factor
    np.testing.assert_allclose(ratio, 0.5, rtol=1e-12)
    assert np.isfinite(total.degrees_of_freedom).all() and (total.degrees_of_freedom >= 1).all()
    assert "nan" not in repr(phi).lower() and "nan" not in phi._repr_html_().lower()
    assert np.abs(phi.efficiency_gap).max() <= 1e-12 * factor


def test_errors_below_the_rounding_of_the_payoffs_are_zero_and_end_a_run():
    """A coalition is worth as much as its complement, but for the last digit: every value is zero, to rounding."""
    weights = np.random.default_rng(2).standard_normal(20)
    game = Game(lambda coalitions: (coalitions @ weights - 0.5 * weights.sum()) ** 2, 20)
    phi = estimate(game, stop=RelativeError(0.01) | Budget(50_000), method="antithetic")
    assert 0 < np.abs(phi.values).max() < 1e-14 and (phi.standard_errors == 0).all()
    assert phi.n_evaluations < 1_000


def test_the_unit_is_a_power_of_two_of_the_first_payoffs():
    game = GameInOwnUnit(Game(lambda coalitions: np.stack([coalitions[:, 0] * 1e-310, coalitions[:, 0] * 6.0], 1), 1))
    payoffs = game(np.array([[False], [True]]))
    assert ((payoffs[1] >= 0.5) & (payoffs[1] < 1)).all()
    np.testing.assert_array_equal(game.in_unit_of_payoff(payoffs)[1], [1e-310, 6.0])
