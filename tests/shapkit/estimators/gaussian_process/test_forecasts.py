"""Kernels are judged by the pairs evaluated after them."""

from __future__ import annotations

import numpy as np
import pytest

import shapkit
from shapkit.estimators.gaussian_process.components import PartModel, components
from shapkit.estimators.gaussian_process.forecasts import Forecast, missed_by, root_mean_square
from shapkit.estimators.gaussian_process.kernel import PartPosterior, innovations
from shapkit.estimators.gaussian_process.sampler import GaussianProcessSampler
from tests.shapkit.estimators.gaussian_process.games_of_pairs import some_kernel, some_pairs


@pytest.mark.parametrize("even", [False, True])
def test_innovations_are_deviations_from_what_the_pairs_before_foretell(even: bool) -> None:
    """The slow twin: a posterior for every pair."""
    _, _, kernel = some_kernel(6, even=even)
    signs = some_pairs(6, 20)
    payoffs = np.random.default_rng(0).normal(size=(20, 2))
    found, scales = innovations(kernel, signs, payoffs, 15)
    assert found.shape == (5, 2) and scales.shape == (5,)
    for row in range(15, 20):
        before = PartPosterior(kernel, signs[:row], payoffs[:row])
        covariances = kernel.between(signs[:row], signs[[row]])
        _, variance = before.of_functionals(covariances, kernel.variances(signs[[row]]))
        expected = (payoffs[row] - before.predict(signs[[row]])[0]) / np.sqrt(variance[0])
        np.testing.assert_allclose(found[row - 15], expected, rtol=1e-7)
        assert scales[row - 15] == pytest.approx(np.sqrt(variance[0]))


def test_each_forecast_is_judged_up_to_the_next() -> None:
    kernels = [some_kernel(6, seed=seed)[2] for seed in range(2)]
    signs = some_pairs(6, 20)
    payoffs = np.random.default_rng(1).normal(size=(20, 1))
    projection = np.array([[0.25]])
    forecasts = [Forecast(kernel, projection, n_known) for kernel, n_known in zip(kernels, (8, 15), strict=True)]
    first = innovations(kernels[0], signs[:15], payoffs[:15] / 4, 8)[0]
    second = innovations(kernels[1], signs, payoffs / 4, 15)[0]
    expected = root_mean_square(np.concatenate([first, second]))
    assert missed_by(forecasts, signs, payoffs) == pytest.approx(expected)
    assert missed_by(forecasts, signs[:8], payoffs[:8]) == 1.0, "nothing has been evaluated since"
    assert missed_by([], signs, payoffs) == 1.0


def test_scores_of_principal_components_are_got_back_from_payoffs() -> None:
    generator = np.random.default_rng(2)
    signs = some_pairs(6, 30)
    payoffs = np.tanh(signs @ generator.normal(size=(6, 12))) * np.arange(1, 13)
    for component in components(signs, payoffs):
        found = Forecast(some_kernel(6)[2], component.projection, 0).innovations(signs, payoffs)
        expected, _ = innovations(some_kernel(6)[2], signs, component.scores)
        np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_intervals_are_wider_by_what_forecasts_missed() -> None:
    signs = some_pairs(8, 30)
    odd = np.tanh(signs @ np.arange(8.0) / 9)[:, None]
    _, variances = PartModel(signs, odd, {}).shapley()
    (component,) = components(signs, odd)
    sure = component.family.kernel(component.family.table()[:, 0])
    forecast = Forecast(sure, component.projection * 100, 20)  # its unit is a hundredth of what it should be
    values, wider = PartModel(signs, odd, {}, forecasts={component.key: [forecast]}).shapley()
    missed = missed_by([forecast], signs, odd)
    assert missed > 10
    np.testing.assert_allclose(values, PartModel(signs, odd, {}).shapley()[0])
    assert (wider > 10 * variances).all()


def test_the_sampler_remembers_what_it_chose_by() -> None:
    """A game that turns rough where few have looked: later pairs miss what earlier ones foretold."""
    rng = np.random.default_rng(3)
    table = np.tanh(np.arange(2**10) % 7 - 3.0) + 0.5 * rng.normal(size=2**10)
    sampler = GaussianProcessSampler(shapkit.table_game(table), seed=0)
    sampler.advance(100)
    (forecasts,) = sampler._forecasts.values()
    assert [forecast.n_known for forecast in forecasts] == sorted({forecast.n_known for forecast in forecasts})
    assert len(forecasts) == 2 and forecasts[-1].n_known < 50
