"""Interactions by the Gaussian process: against sums over all coalitions, exact values, and what it promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import comb
from typing import get_args

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import binom

import shapkit
from shapkit.coalitions import coalitions_of_size, enumerate_coalitions
from shapkit.estimators import Budget
from shapkit.estimators.gaussian_process import sampler as sampler_module
from shapkit.estimators.gaussian_process.components import PartModel
from shapkit.estimators.gaussian_process.functionals import index_functionals, prior_variances, with_pairs
from shapkit.estimators.gaussian_process.kernel import PartKernel, PartPosterior
from shapkit.estimators.gaussian_process.kernel_fit import KernelFamily, fit_kernel, objective
from shapkit.estimators.gaussian_process.pair_design import (
    informative_pairs,
    pair_keys,
    random_pairs,
    single_pairs,
)
from shapkit.estimators.gaussian_process.sampler import GaussianProcessSampler
from shapkit.exact.interactions import VALUES, Index
from tests.shapkit.estimators.gaussian_process.games_of_pairs import (
    all_signs,
    dense_covariance,
    some_kernel,
    some_pairs,
    table_rows,
)

INDICES = [
    (index, order)
    for index in get_args(Index)
    for order in ((1,) if index in VALUES else (1, 2, 3))
    if not (index == "k-SII" and order == 1)
]


def pair_game(n_players=10, seed=0, n_outputs=None):
    """A smooth game with interactions of every order."""
    generator = np.random.default_rng(seed)
    shape = (n_players,) if n_outputs is None else (n_players, n_outputs)
    _, members = next(enumerate_coalitions(n_players, 2**n_players))
    return shapkit.table_game(
        np.tanh(members @ generator.normal(0, 0.6, size=shape)) + members @ generator.normal(size=shape)
    )


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("n_players", [3, 6])
@pytest.mark.parametrize(("index", "order"), INDICES)
def test_functionals_equal_sums_over_all_coalitions(even, n_players, index, order):
    """Each column of a covariance is a game: its index is what the functional must say, and once more the variance."""
    _, _, kernel = some_kernel(n_players, even=even)
    table, signs = dense_covariance(kernel), all_signs(n_players)
    values, first = shapkit.exact(shapkit.table_game(table), index, order).values, 0
    for functional in index_functionals(index, order, n_players):
        members, part = coalitions_of_size(n_players, functional.size), functional.of_part(even)
        expected = values[first : first + len(members)]
        if part is None:
            np.testing.assert_allclose(expected, 0, atol=1e-10)
        else:
            np.testing.assert_allclose(with_pairs(kernel, signs, part, members).T, expected, atol=1e-10)
            again = shapkit.exact(shapkit.table_game(expected.T), index, order).values[first : first + len(members)]
            np.testing.assert_allclose(prior_variances(kernel, part, members), np.diag(again), atol=1e-10)
        first += len(members)


@pytest.mark.parametrize("index", ["SII", "STII", "FSII", "BII", "FBII", "k-SII"])
def test_functionals_of_many_players_on_games_of_known_index(index):
    """Unanimity games of 40 players are products; their index is known by formula."""
    n_players, carrier = 40, 5
    functional = index_functionals(index, 2, n_players)[1]
    assert functional.by_size[0] == pytest.approx(float(_weight_of_empty(index, n_players)), rel=1e-9)
    # Π_{l in U} (1 + x_l) / 2: the mean of the derivative in two players of U over the nodes
    nodes = (1 + functional.nodes) / 2
    joined = sum(
        c * comb(carrier - 2, more) * nodes ** (carrier - 2 - more) for more, c in enumerate(functional.joined)
    )
    found = float(functional.weights @ joined)
    table_free = shapkit.exact(shapkit.unanimity_sum(8, [range(carrier)], [1.0]), index, 2)
    assert found == pytest.approx(float(table_free[0, 1]), rel=1e-9)


def _weight_of_empty(index, n_players):
    """The weight of the empty coalition in the derivative in two players: a mean over probabilities of (1-p)^(n-2)."""
    others = n_players - 2
    return {
        "SII": 1 / (others + 1),
        "k-SII": 1 / (others + 1),
        "STII": 2 / (others + 2),
        "FSII": 6 / ((others + 2) * (others + 3)),
        "BII": 0.5**others,
        "FBII": 0.5**others,
    }[index]


@pytest.mark.parametrize("n_terms", [1, 2])
def test_even_kernels_are_even_and_know_their_variances(n_terms):
    _, _, kernel = some_kernel(6, even=True, n_terms=n_terms)
    signs = all_signs(6)
    covariances = kernel.between(signs, signs)
    np.testing.assert_allclose(covariances, kernel.between(-signs, signs), atol=1e-12)
    np.testing.assert_allclose(np.diag(covariances) + kernel.own_variances(signs), kernel.variances(signs))
    assert np.linalg.eigvalsh(covariances).min() > -1e-10


@pytest.mark.parametrize(("n_terms", "individual"), [(1, True), (2, True), (1, False)])
def test_gradient_of_the_even_objective(n_terms, individual):
    family = KernelFamily(5, n_terms, individual, even=True)
    start = family.table()[:, 0]
    parameters = start + np.random.default_rng(1).normal(0, 0.4, len(start))
    signs = some_pairs(5, 12)
    payoffs = np.random.default_rng(2).normal(size=(12, 2))
    _, gradient = objective(parameters, family, signs, payoffs)
    numeric = approx_fprime(parameters, lambda p: objective(p, family, signs, payoffs)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=2e-4, atol=2e-4)


def test_a_fit_of_even_payoffs_lowers_the_objective_from_a_steep_start():
    """The first step used to end at the bounds, where nothing is defined, and the fit where it had begun."""
    game, signs = pair_game(), some_pairs(10, 60)
    members = signs > 0
    even = (game(members) + game(~members)) / 2
    even = (even - even.mean()) / even.std()
    family = KernelFamily(10, even=True)
    before, gradient = objective(family.table()[:, 0], family, signs, even[:, None])
    _, after = fit_kernel(family, signs, even[:, None])
    assert np.abs(gradient).max() > 10 and after < before - 20


def test_the_posterior_equals_that_of_the_dense_process():
    _, _, kernel = some_kernel(6, even=True)
    table, signs, pairs = dense_covariance(kernel), all_signs(6), some_pairs(6, 12)
    rows = table_rows(pairs)
    even = np.random.default_rng(0).normal(size=(12, 1))
    functional, members = index_functionals("SII", 2, 6)[1].of_part(even=True), coalitions_of_size(6, 2)
    means, variances = PartPosterior(kernel, pairs, even).of_functionals(
        with_pairs(kernel, pairs, functional, members), prior_variances(kernel, functional, members)
    )
    gram = table[np.ix_(rows, rows)]
    whole = table[:, rows] @ np.linalg.solve(gram, even)
    left = table - table[:, rows] @ np.linalg.solve(gram, table[rows])
    np.testing.assert_allclose(means, shapkit.exact(shapkit.table_game(whole), "SII").values[6:], atol=1e-8)
    once = shapkit.exact(shapkit.table_game(left), "SII").values[6:]
    twice = shapkit.exact(shapkit.table_game(once.T), "SII").values[6:]
    np.testing.assert_allclose(variances, np.diag(twice), atol=1e-8)
    assert len(signs) == 64


@pytest.mark.parametrize("n_wanted", [2, 6, 8, 40])
def test_the_first_pairs_are_those_of_one_player(n_wanted):
    pairs = single_pairs(6, n_wanted, seed=3)
    assert len(pairs) == min(n_wanted, 2**5 - 1) and len(set(pair_keys(pairs))) == len(pairs)
    assert (np.sort((pairs > 0).sum(axis=1)[:6]) == 1).all() and not (np.abs(pairs.sum(axis=1)) == 6).any()
    assert (single_pairs(6, 6, seed=3) != single_pairs(6, 6, seed=4)).any()


def test_pairs_are_chosen_for_what_is_asked():
    """The first choice is the pair whose payoff, once known, leaves the least variance of the interactions."""
    _, _, kernel = some_kernel(6, even=True)
    functional, members = index_functionals("SII", 2, 6)[1].of_part(even=True), coalitions_of_size(6, 2)
    known, candidates = some_pairs(6, 5), random_pairs(6, 20, 3, some_pairs(6, 5))

    def targets(kernel: PartKernel, signs):
        return with_pairs(kernel, signs, functional, members)

    def variances_left(pairs):
        prior = prior_variances(kernel, functional, members)
        posterior = PartPosterior(kernel, pairs, np.zeros((len(pairs), 1)))
        return posterior.of_functionals(targets(kernel, pairs), prior)[1].sum()

    (chosen,) = informative_pairs(1, candidates, known, [kernel], np.ones(1), targets)
    left = [variances_left(np.concatenate([known, [candidate]])) for candidate in candidates]
    np.testing.assert_array_equal(chosen, candidates[int(np.argmin(left))])


@pytest.mark.parametrize(
    ("index", "order"), [("SII", 2), ("k-SII", 3), ("STII", 2), ("FSII", 2), ("FBII", 2), ("banzhaf", 1)]
)
def test_estimates_come_near_and_end_exact(index, order):
    game = pair_game()
    exact = shapkit.exact(game, index, order)
    found = shapkit.estimate(game, 300, index=index, order=order)
    assert (found.index, found.order, found.method) == (index, exact.order, "gaussian_process")
    assert found.terms == exact.terms and found.names == exact.names
    error = ((found.values - exact.values) ** 2).sum() / (exact.values**2).sum()
    assert error < 1e-2
    assert (found.standard_errors[-1] > 0).all()  # those of single players may be known by now
    np.testing.assert_allclose(found.extend(10_000).values, exact.values, atol=1e-9)
    assert shapkit.estimate(game, 1_024, index=index, order=order).method == "exact"


def test_values_and_pairs_of_one_run_are_efficient_together():
    found = shapkit.estimate(pair_game(), 200, index="k-SII")
    assert float(found.efficiency_gap) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("n_players", [0, 1, 2, 3])
@pytest.mark.parametrize(("index", "order"), [("SII", 2), ("k-SII", 3), ("STII", 2)])
def test_few_players(n_players, index, order):
    game = shapkit.table_game(np.random.default_rng(0).normal(size=2**n_players))
    sampler = GaussianProcessSampler(game, 0, index, order)
    sampler.advance(2**n_players)
    np.testing.assert_allclose(sampler.attribution().values, shapkit.exact(game, index, order).values, atol=1e-12)


def test_cuts_batches_and_executors_change_nothing():
    game = pair_game()
    whole = shapkit.estimate(game, 120, index="SII")
    sampler = GaussianProcessSampler(game, 0, "SII")
    for part in (2, 14, 40, 64):
        sampler.advance(part)
        sampler.attribution()
    np.testing.assert_array_equal(sampler.attribution().values, whole.values)
    np.testing.assert_array_equal(shapkit.estimate(game, 60, index="SII").extend(60).values, whole.values)
    with ThreadPoolExecutor(2) as executor:
        batched = shapkit.Game(lambda c: game(c), 10, batch_size=7, executor=executor)
        np.testing.assert_array_equal(shapkit.estimate(batched, 120, index="SII").values, whole.values)
    assert (shapkit.estimate(game, 120, index="SII", seed=1).values != whole.values).any()


def test_outputs_are_estimated_as_by_themselves_and_in_any_unit():
    game = pair_game(8, n_outputs=2)
    found = shapkit.estimate(game, 100, index="SII")
    assert found.values.shape == (36, 2)
    scaled = shapkit.estimate(shapkit.Game(lambda c: game(c) * [2.0**40, 2.0**-40], 8), 100, index="SII")
    np.testing.assert_allclose(scaled.values / [2.0**40, 2.0**-40], found.values, rtol=1e-6, atol=1e-9)
    many = pair_game(8, n_outputs=11)
    exact, few = shapkit.exact(many, "SII"), shapkit.estimate(many, 120, index="SII")
    assert ((few.values - exact.values) ** 2).sum() < 0.05 * (exact.values[8:] ** 2).sum() + 0.01 * (
        exact.values**2
    ).sum()


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_games_without_interactions_have_none(shift):
    weights = np.arange(1.0, 11.0)
    found = shapkit.estimate(shapkit.Game(lambda c: c @ weights + shift, 10), 60, index="SII")
    np.testing.assert_allclose(found.values[:10], weights, rtol=1e-7)
    np.testing.assert_allclose(found.values[10:], 0, atol=1e-8 * max(shift, 1))


def test_nominal_intervals_cover():
    """Of 10 random smooth games, the pairs' 95 % intervals: no fewer hits than 85 % would have by chance of 1e-3.

    A posterior's intervals are not exact ones; what they cover on real games is in docs/accuracy.md.
    """
    hits, n_intervals = 0, 0
    for seed in range(10):
        game = pair_game(9, seed)
        exact, found = shapkit.exact(game, "SII"), shapkit.estimate(game, 90, index="SII")
        low, high = found.interval()
        hits += int(((low <= exact.values) & (exact.values <= high))[9:].sum())
        n_intervals += 36
    assert hits >= binom.ppf(1e-3, n_intervals, 0.85)


def test_far_more_accurate_than_a_zero_estimate_where_few_pairs_interact():
    game = shapkit.unanimity_sum(14, [(0, 1), (2, 3, 4), (5,)], [2.0, 3.0, 1.0])
    exact, found = shapkit.exact(game, "SII"), shapkit.estimate(game, 140, index="SII")
    assert ((found.values - exact.values) ** 2)[14:].sum() < 1e-3 * (exact.values[14:] ** 2).sum()


def test_more_accurate_than_without_a_model():
    """What the docstring of the unbiased method says, on a smooth game."""
    game = pair_game()
    exact = shapkit.exact(game, "SII").values[10:]
    errors = {
        method: ((shapkit.estimate(game, 200, method=method, index="SII").values[10:] - exact) ** 2).sum()
        for method in ("gaussian_process", "shap_iq")
    }
    assert errors["gaussian_process"] < 0.1 * errors["shap_iq"]


def test_there_is_a_most_of_pairs(monkeypatch):
    monkeypatch.setattr(sampler_module, "MAX_PAIRS", 40)
    found = shapkit.estimate(pair_game(), index="SII", stop=Budget(300))
    assert found.n_evaluations == 80 and found.standard_errors is not None


def test_what_cannot_be_estimated_is_said():
    game = pair_game(6)
    with pytest.raises(
        ValueError, match=r"method 'antithetic' estimates Shapley values only, got index 'SII'.*'shap_iq'"
    ):
        shapkit.estimate(game, 20, method="antithetic", index="SII")
    with pytest.raises(ValueError, match="index must be one of"):
        shapkit.estimate(game, 20, index="sii")
    with pytest.raises(ValueError, match="of single players, order 1, got order 2"):
        shapkit.estimate(game, 20, order=2)
    many = shapkit.Game(lambda c: c.sum(axis=1) * 1.0, 700)
    with pytest.raises(ValueError, match="'SII' of order 2 has 245,350 values for 700 players"):
        shapkit.estimate(many, 20, index="SII")


def test_explain_takes_an_index_too():
    game = pair_game(8)
    found = shapkit.explain(game, index="k-SII")
    assert found.method == "exact" and found.order == 2
    np.testing.assert_allclose(found.values, shapkit.exact(game, "k-SII").values)
    assert shapkit.explain(game, budget=60, index="SII").method == "gaussian_process"


def test_the_even_part_of_a_model_is_zero_on_odd_functionals():
    game, signs = pair_game(6), some_pairs(6, 12)
    members = signs > 0
    even = (game(members) + game(~members))[:, None] / 2
    functional, players = index_functionals("SII", 2, 6)[0], coalitions_of_size(6, 1)
    values, variances = PartModel(signs, even, {}, even=True).index(functional, players)
    assert not values.any() and not variances.any()
