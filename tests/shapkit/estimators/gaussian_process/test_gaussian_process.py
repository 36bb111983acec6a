"""The Gaussian process against brute force over all coalitions, its promises as an anytime method, and its errors."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.stats import binom

import shapkit
from shapkit.coalitions import enumerate_coalitions
from shapkit.estimators.gaussian_process import plausible_kernels as plausible_module
from shapkit.estimators.gaussian_process import sampler as sampler_module
from shapkit.estimators.gaussian_process.components import PartModel, additive_values
from shapkit.estimators.gaussian_process.kernel import (
    PartPosterior,
    coalition_sizes,
    factorised,
    pair_shapley,
    rough_shapley_variance,
)
from shapkit.estimators.gaussian_process.kernel_fit import fit_kernel, objective
from shapkit.estimators.gaussian_process.pair_design import informative_pairs, n_pairs_of, pair_keys, random_pairs
from shapkit.estimators.gaussian_process.sampler import GaussianProcessSampler
from tests.shapkit.estimators.gaussian_process.games_of_pairs import (
    all_signs,
    dense_covariance,
    some_kernel,
    some_pairs,
    table_rows,
)


def smooth_table(n_players, seed=0, n_outputs=None):
    generator = np.random.default_rng(seed)
    shape = (n_players,) if n_outputs is None else (n_players, n_outputs)
    _, members = next(enumerate_coalitions(n_players, 2**n_players))
    return np.tanh(members @ generator.normal(size=shape)) + (members @ generator.normal(size=shape)) ** 2 / n_players


def run(game, n_evaluations, seed=0):
    sampler = GaussianProcessSampler(game, seed)
    sampler.advance(n_evaluations)
    return sampler.attribution()


@pytest.mark.parametrize("n_players", [2, 3, 6])
@pytest.mark.parametrize("n_terms", [1, 2])
def test_closed_forms_equal_sums_over_all_coalitions(n_players, n_terms):
    _, _, kernel = some_kernel(n_players, n_terms)
    dense, signs = dense_covariance(kernel), all_signs(n_players)
    with_shapley = shapkit.shapley_values(dense)
    np.testing.assert_allclose(kernel.with_shapley(signs), with_shapley.T, atol=1e-13)
    variances = np.diag(shapkit.shapley_values(np.ascontiguousarray(with_shapley.T)))
    np.testing.assert_allclose(kernel.shapley_variances(), variances, rtol=1e-12)
    np.testing.assert_allclose(kernel.variances(signs), np.diag(dense), rtol=1e-12)


def test_the_kernel_is_odd():
    _, _, kernel = some_kernel(5)
    signs = all_signs(5)
    np.testing.assert_allclose(kernel.between(-signs, signs), -kernel.between(signs, signs), atol=1e-14)


@pytest.mark.parametrize("n_players", [1, 2, 5])
def test_rough_games(n_players):
    signs = all_signs(n_players)
    of_pairs = shapkit.shapley_values(np.eye(2**n_players) - np.eye(2**n_players)[::-1])
    np.testing.assert_allclose(pair_shapley(signs), of_pairs.T, atol=1e-13)
    np.testing.assert_allclose(rough_shapley_variance(n_players), (of_pairs**2).sum(axis=1) / 2, rtol=1e-12)


def test_posterior_equals_that_of_the_dense_process():
    n_players = 6
    _, _, kernel = some_kernel(n_players)
    pairs = some_pairs(n_players, 11)
    odd = np.random.default_rng(1).normal(size=(11, 2))
    dense, rows = dense_covariance(kernel), table_rows(pairs)
    gain = dense[:, rows] @ np.linalg.inv(dense[np.ix_(rows, rows)])
    expected = shapkit.shapley_values(gain @ odd)
    remaining = dense - gain @ dense[rows]
    spread = shapkit.shapley_values(np.ascontiguousarray(shapkit.shapley_values(remaining).T))
    means, variances = PartPosterior(kernel, pairs, odd).shapley()
    np.testing.assert_allclose(means, expected, atol=1e-10)
    np.testing.assert_allclose(variances, np.diag(spread), atol=1e-10)


@pytest.mark.parametrize(("n_terms", "individual"), [(1, True), (2, True), (1, False)])
def test_gradient_of_the_objective(n_terms, individual):
    family, parameters, _ = some_kernel(6, n_terms, individual)
    pairs, odd = some_pairs(6, 14), np.random.default_rng(2).normal(size=(14, 2))
    _, gradient = objective(parameters, family, pairs, odd)
    numerical = approx_fprime(parameters, lambda p: objective(p, family, pairs, odd)[0], 1e-6)
    np.testing.assert_allclose(gradient, numerical, atol=2e-5 * np.abs(gradient).max())


def test_a_fit_lowers_the_objective():
    family, _, _ = some_kernel(6)
    pairs, odd = some_pairs(6, 20), np.random.default_rng(3).normal(size=(20, 1))
    parameters, lowest = fit_kernel(family, pairs, odd)
    begin, end = (objective(place, family, pairs, odd)[0] for place in (family.table()[:, 0], parameters))
    assert lowest == pytest.approx(end, rel=1e-12) and end < begin


def test_a_gram_matrix_that_rounding_made_indefinite_is_made_rougher():
    _, _, kernel = some_kernel(4)
    repeated = np.ones((3, 4))  # not distinct: without a rough part the matrix is singular
    smooth = replace(kernel, rough_variance=1e-25, ends_variance=0.0)
    rougher, gram, factor = factorised(smooth, repeated)
    assert rougher.rough_variance > smooth.rough_variance
    np.testing.assert_allclose(np.tril(factor) @ np.tril(factor).T, gram, atol=1e-9)


@given(st.integers(2, 9), st.integers(0, 300), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_random_pairs_are_distinct_and_new(n_players, n_wanted, seed):
    known = some_pairs(n_players, min(3, n_pairs_of(n_players)))
    pairs = random_pairs(n_players, n_wanted, seed, known)
    assert len(pairs) == min(n_wanted, n_pairs_of(n_players) - len(known))
    both = np.concatenate([known, pairs])
    rows = np.minimum(table_rows(both), table_rows(-both))
    assert len(set(rows)) == len(both)


@pytest.mark.parametrize("n_players", [14, 30, 200, 1_500])
def test_random_pairs_of_many_players(n_players):
    pairs = random_pairs(n_players, n_players, 0, np.ones((1, n_players)))
    assert pairs.shape == (n_players, n_players) and set(np.unique(pairs)) == {-1.0, 1.0}
    sizes = coalition_sizes(pairs)
    assert sizes.min() >= 1 and sizes.max() <= n_players // 2 and len(np.unique(sizes)) > n_players // 4


def test_informative_pairs_minimise_the_variances_left_one_by_one():
    kernels = [some_kernel(6, seed=seed)[2] for seed in (0, 1)]
    known, weights = some_pairs(6, 8), np.array([1.0, 0.3])
    candidates = random_pairs(6, 15, 5, known)
    chosen = informative_pairs(5, candidates, known, kernels, weights)

    def left(pairs):
        odd = np.zeros((len(pairs), 1))
        return sum(w * PartPosterior(k, pairs, odd).shapley()[1].sum() for w, k in zip(weights, kernels, strict=True))

    for pair in chosen:
        totals = [
            left(np.concatenate([known, candidate[None]]))
            for candidate in candidates
            if candidate.tolist() not in known.tolist()
        ]
        known = np.concatenate([known, pair[None]])
        assert left(known) <= min(totals) * (1 + 1e-9)


@given(st.integers(1, 5), st.sampled_from([(), (1,), (3,), (2, 2)]), st.integers(2, 40), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_random_games(n_players, output_shape, n_evaluations, seed):
    table = np.random.default_rng(seed).normal(size=(2**n_players, *output_shape))
    game = shapkit.table_game(table)
    sampler = GaussianProcessSampler(game, seed)
    spent = sampler.advance(n_evaluations)
    phi = sampler.attribution()
    assert spent == phi.n_evaluations == game.n_evaluations == min(n_evaluations // 2 * 2, 2**n_players)
    assert phi.values.shape == phi.standard_errors.shape == (n_players, *output_shape)
    assert np.isfinite(phi.values).all()
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-9)
    if spent == 2**n_players:
        np.testing.assert_allclose(phi.values, shapkit.shapley_values(table), atol=1e-12)
        assert not phi.standard_errors.any() and sampler.advance(1_000) == 0
    elif spent > 2:
        assert np.isfinite(phi.standard_errors).all()


def test_nobody():
    sampler = GaussianProcessSampler(shapkit.Game(lambda coalitions: np.full((len(coalitions), 2), 3.0), 0))
    assert [sampler.advance(0), sampler.advance(5), sampler.advance(5)] == [0, 1, 0]
    phi = sampler.attribution()
    assert phi.values.shape == (0, 2) and phi.grand_value.tolist() == phi.empty_value.tolist() == [3.0, 3.0]


def test_one_pair_says_nothing_of_the_error():
    sampler = GaussianProcessSampler(shapkit.table_game(np.arange(8.0)))
    with pytest.raises(ValueError, match="no coalition has been evaluated"):
        sampler.attribution()
    assert [sampler.advance(1), sampler.advance(3)] == [0, 2]
    phi = sampler.attribution()
    np.testing.assert_allclose(phi.values, 7 / 3)
    assert np.isnan(phi.standard_errors).all()


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match=r"^seed must be an integer"):
        GaussianProcessSampler(shapkit.table_game([0.0, 1.0]), seed)


@pytest.mark.parametrize("table", [smooth_table(9), smooth_table(9, n_outputs=2), smooth_table(8, n_outputs=11)])
def test_cuts_of_advance_change_nothing(table):
    whole = run(shapkit.table_game(table), 80, seed=4)
    for steps in ([2] * 40, [30, 50], [7, 1, 73, 2]):
        sampler = GaussianProcessSampler(shapkit.table_game(table), seed=4)
        for step in steps:
            sampler.advance(step)
            if step > 5:
                sampler.attribution()
        phi = sampler.attribution()
        np.testing.assert_array_equal(phi.values, whole.values)
        np.testing.assert_array_equal(phi.standard_errors, whole.standard_errors)


def test_an_exception_loses_nothing():
    table, calls = smooth_table(7), []

    def value(coalitions):
        calls.append(len(coalitions))
        if len(calls) % 2:
            raise KeyboardInterrupt
        return shapkit.table_game(table)(coalitions)

    game = shapkit.Game(value, 7)
    sampler = GaussianProcessSampler(game)
    while game.n_evaluations < 60:
        with contextlib.suppress(KeyboardInterrupt):
            sampler.advance(min(60 - game.n_evaluations, 10))
    phi, whole = sampler.attribution(), run(shapkit.table_game(table), 60)
    np.testing.assert_array_equal(phi.values, whole.values)
    assert phi.n_evaluations == 60


def test_batches_executors_and_caches_change_nothing_and_seeds_do():
    table = smooth_table(8, 1)
    whole = run(shapkit.table_game(table), 90)
    with ThreadPoolExecutor(2) as threads:
        same = [shapkit.table_game(table, batch_size=1), shapkit.table_game(table, batch_size=7)]
        members = shapkit.table_game(table).value
        same += [shapkit.Game(members, 8, executor=threads, batch_size=3), shapkit.Game(members, 8, cache=True)]
        for game in same:
            phi = run(game, 90)
            np.testing.assert_array_equal(phi.values, whole.values)
            np.testing.assert_array_equal(phi.standard_errors, whole.standard_errors)
    assert not np.array_equal(run(shapkit.table_game(table), 90, seed=1).values, whole.values)


def test_known_coalitions_are_not_evaluated_again():
    game = shapkit.Game(shapkit.table_game(smooth_table(6)).value, 6, cache=True)
    shapkit.exact(game)
    phi = run(game, 30)
    assert phi.n_evaluations == 30 and game.n_evaluations == 64


@pytest.mark.parametrize("n_players", [3, 12, 150])
def test_additive_and_constant_games_are_exact(n_players):
    worth = np.random.default_rng(0).normal(size=n_players)
    phi = run(shapkit.Game(lambda coalitions: 7 + coalitions @ worth, n_players), 2 * n_players + 10)
    np.testing.assert_allclose(phi.values, worth, atol=1e-11)
    assert not phi.standard_errors.any()
    phi = run(shapkit.Game(lambda coalitions: np.full(len(coalitions), 7.0), n_players), 2 * n_players + 10)
    assert not phi.values.any() and not phi.standard_errors.any()


def test_additive_outputs_among_others_are_exact():
    n_players = 8
    _, members = next(enumerate_coalitions(n_players, 2**n_players))
    worth = np.arange(n_players) - 2.0
    for n_others in (2, 12):
        table = np.column_stack([members @ worth, smooth_table(n_players, 2, n_others), np.zeros(2**n_players)])
        phi = run(shapkit.table_game(table), 70)
        np.testing.assert_allclose(phi.values[:, 0], worth, atol=1e-11)
        assert not phi.standard_errors[:, [0, -1]].any() and phi.standard_errors[:, 1:-1].all()
        error = phi.values - shapkit.shapley_values(table)
        assert np.abs(error).max() < 0.1


def test_scale_and_order_of_payoffs():
    table = smooth_table(8, 3)
    phi = run(shapkit.table_game(table), 80)
    for factor in (1e-200, 1e-9, 1e150):
        scaled = run(shapkit.table_game(table * factor), 80)
        np.testing.assert_allclose(scaled.values / factor, phi.values, rtol=1e-3, atol=1e-4)


def test_additive_values_need_more_pairs_than_players():
    pairs = some_pairs(5, 6)
    values, additive = additive_values(pairs, pairs[:, :1])
    assert not additive.any() and not values.any()


def test_more_players_than_it_can_tell_apart():
    n_players = 130
    worth = np.linspace(0, 1, n_players)

    def value(coalitions):
        return np.sqrt(1 + coalitions @ worth)

    phi = run(shapkit.Game(value, n_players), 800)
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-9)
    assert np.isfinite(phi.standard_errors).all() and np.corrcoef(phi.values, worth)[0, 1] > 0.99


def test_parameters_are_fitted_to_some_of_many_pairs(monkeypatch):
    monkeypatch.setattr(plausible_module, "MAX_FITTED_PAIRS", 30)
    table = smooth_table(8, 4)
    phi = run(shapkit.table_game(table), 160)
    assert np.abs(phi.values - shapkit.shapley_values(table)).max() < 0.02


def test_the_model_of_some_pairs_predicts_others_as_the_dense_process_does():
    table = smooth_table(6, n_outputs=2)
    pairs = some_pairs(6, 15)
    odd = ((table - table[::-1]) / 2)[table_rows(pairs)]
    model = PartModel(pairs, odd, {})
    every, (values, _) = all_signs(6), model.shapley()
    keys = dict(zip(pair_keys(pairs), odd * pairs[:, :1], strict=True))  # of the coalition with player 0
    expected = model.predict(every)
    for row, key in enumerate(pair_keys(every)):
        if key in keys:  # what has been evaluated is known
            expected[row] = keys[key] * every[row, 0]
    np.testing.assert_allclose(shapkit.shapley_values(expected), values, atol=1e-8)


def beyond(monkeypatch, max_pairs, game, n_evaluations, seed=0):
    monkeypatch.setattr(sampler_module, "MAX_PAIRS", max_pairs)
    return run(game, n_evaluations, seed)


def test_beyond_the_most_of_pairs_it_goes_on_to_the_exact_values(monkeypatch):
    monkeypatch.setattr(sampler_module, "MAX_PAIRS", 20)
    table = smooth_table(7)
    sampler = GaussianProcessSampler(shapkit.table_game(table))
    assert [sampler.advance(30), sampler.advance(31), sampler.advance(1)] == [30, 30, 0]
    phi = sampler.attribution()
    assert phi.n_evaluations == 60 and (phi.standard_errors > 0).all()
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-9)
    sampler.advance(1_000)
    phi = sampler.attribution()
    np.testing.assert_allclose(phi.values, shapkit.shapley_values(table), atol=1e-9)
    assert not phi.standard_errors.any() and sampler.advance(100) == 0


def test_cuts_beyond_the_most_of_pairs_change_nothing(monkeypatch):
    game = shapkit.table_game(smooth_table(9, 3, n_outputs=2))
    whole = beyond(monkeypatch, 20, game, 200)
    sampler = GaussianProcessSampler(game)
    for step in (10, 50, 2, 7, 100, 32):
        sampler.advance(step)
        with contextlib.suppress(ValueError):
            sampler.attribution()
    np.testing.assert_array_equal(sampler.attribution().values, whole.values)
    np.testing.assert_array_equal(sampler.attribution().standard_errors, whole.standard_errors)


@pytest.mark.parametrize("rough", [False, True])
def test_more_pairs_correct_the_model(monkeypatch, rough):
    table = smooth_table(10, 5) + rough * np.random.default_rng(6).normal(0, 0.3, 2**10)
    exact, game = shapkit.shapley_values(table), shapkit.table_game(table)
    errors, claimed = {}, {}
    for n_evaluations in (60, 400):
        found = [beyond(monkeypatch, 30, game, n_evaluations, seed) for seed in range(12)]
        errors[n_evaluations] = np.mean([np.sum((phi.values - exact) ** 2) for phi in found])
        claimed[n_evaluations] = np.mean([np.sum(phi.standard_errors**2) for phi in found])
    # 20 times as many pairs of residuals as there are of one size: a correction leaves a fraction of the error
    assert errors[400] < 0.35 * errors[60]
    assert 0.4 < claimed[400] / errors[400] < 2.5


def test_an_output_that_only_seemed_additive_is_corrected(monkeypatch):
    n_players = 8
    table = (all_signs(n_players) > 0) @ np.arange(1.0, n_players + 1)
    pairs_seen = beyond(monkeypatch, 12, shapkit.table_game(table), 24)
    assert not pairs_seen.standard_errors.any()
    seen = set()

    def value(coalitions):  # additive on what is asked first, rough on all else
        rows = table_rows(np.where(coalitions, 1.0, -1.0))
        if len(seen) < 24:
            seen.update(rows.tolist())
        return table[rows] + np.where(np.isin(rows, list(seen)), 0.0, 10 * np.cos(7.0 * rows))

    phi = run(shapkit.Game(value, n_players), 200)
    assert (phi.standard_errors > 0).all()


def test_far_more_accurate_than_permutations():
    table = smooth_table(10, 5)
    exact = shapkit.shapley_values(table)
    errors = [np.sum((run(shapkit.table_game(table), 100, seed).values - exact) ** 2) for seed in range(3)]
    permutations = [
        np.sum((shapkit.estimate(shapkit.table_game(table), 100, method="permutation", seed=seed).values - exact) ** 2)
        for seed in range(20)
    ]
    assert np.mean(errors) < 0.25 * np.mean(permutations)


def noisy_table():
    return smooth_table(10, 6) + 0.1 * np.random.default_rng(7).normal(size=2**10)


def unanimity_table():
    generator, (_, members) = np.random.default_rng(8), next(enumerate_coalitions(10, 2**10))
    unanimous = [members[:, generator.choice(10, size, replace=False)].all(axis=1) for size in (1, 2, 2, 3, 3, 4, 5)]
    return np.column_stack(unanimous) @ generator.normal(size=len(unanimous))


@pytest.mark.parametrize("table", [noisy_table(), unanimity_table()])
def test_nominal_intervals_cover(table):
    """Players of one run are not independent: the bound is for as many independent trials as there are runs."""
    exact, n_runs = shapkit.shapley_values(table), 60
    covered = []
    for seed in range(n_runs):
        low, high = run(shapkit.table_game(table), 100, seed).interval(0.95)
        covered.append(np.mean((low <= exact) & (exact <= high)))
    assert binom.ppf(1e-3, n_runs, 0.92) <= np.mean(covered) * n_runs <= binom.ppf(0.999, n_runs, 0.98)


def test_a_model_predicts_additive_outputs_beside_others():
    """Of three outputs the first and last are additive: their odd payoffs on pairs not seen are known exactly."""
    rng = np.random.default_rng(3)
    signs = random_pairs(8, 60, 0, np.empty((0, 8)))
    own = rng.normal(size=(8, 2))
    odd = np.stack([signs @ own[:, 0] / 2, np.tanh(signs @ own[:, 0]), signs @ own[:, 1] / 2], axis=1)
    model = PartModel(signs[:40], odd[:40], {})
    predicted = model.predict(signs[40:])
    np.testing.assert_allclose(predicted[:, [0, 2]], odd[40:, [0, 2]], atol=1e-12)
    assert np.abs(predicted[:, 1] - odd[40:, 1]).mean() < 0.5 * np.abs(odd[40:, 1]).mean()


@pytest.mark.parametrize("seed", range(4))
def test_ninety_interactions_of_thirty_players_are_exact_from_2_200_evaluations(seed):
    rng = np.random.default_rng(0)
    carriers = [sorted(rng.choice(30, rng.integers(1, 6), replace=False).tolist()) for _ in range(90)]
    dividends = rng.normal(size=90)
    shares = np.zeros(30)
    for carrier, dividend in zip(carriers, dividends, strict=True):
        shares[carrier] += dividend / len(carrier)
    found = shapkit.estimate(shapkit.unanimity_sum(30, carriers, dividends), 2_200, seed=seed)
    np.testing.assert_allclose(found.values, shares, atol=1e-12)
    assert found.standard_errors is not None and (found.standard_errors == 0).all()
