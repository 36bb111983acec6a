"""Regression on pairs of coalitions, and models corrected by their residuals: slow twins, statistics, invariances."""

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shapkit.coalitions import members_of_masks
from shapkit.estimators.pairs import leverage
from shapkit.estimators.pairs.kernel import KernelSampler
from shapkit.estimators.pairs.leverage import LeverageSampler
from shapkit.estimators.pairs.regression import ConstrainedFit, pair_weights, shapley_kernel
from shapkit.estimators.pairs.samples import PairedSamples, marginal_weights, residual_rates, stratified_variances
from shapkit.estimators.surrogates.boosted_trees import fit_boosted_trees
from shapkit.estimators.surrogates.models import LinearGame, fit_linear, fit_trees
from shapkit.estimators.surrogates.regression_adjusted import RegressionAdjustedSampler
from shapkit.exact.indices import shapley_values
from shapkit.games.classic import airport_game
from shapkit.games.game import Game, table_game

REGRESSIONS = [KernelSampler, LeverageSampler]
SAMPLERS = [*REGRESSIONS, RegressionAdjustedSampler]


def linear_sampler(game, seed=0):
    return RegressionAdjustedSampler(game, seed, fit=fit_linear)


def all_coalitions(n_players):
    return members_of_masks(np.arange(2**n_players), n_players)


def bumpy_table(n_players, n_outputs=2):
    """Additive, plus a few products of up to four players, present or absent: like a forest's game."""
    generator = np.random.default_rng(n_players)
    coalitions = all_coalitions(n_players)
    table = coalitions @ generator.normal(size=(n_players, n_outputs))
    for _ in range(3 * n_players):
        players = generator.permutation(n_players)[: generator.integers(2, 5)]
        wanted = generator.integers(0, 2, len(players)).astype(bool)
        table += generator.normal(size=n_outputs) * (coalitions[:, players] == wanted).all(axis=1)[:, None]
    return table


TABLE = bumpy_table(8)


def spent_on(sampler, budget):
    assert sampler.advance(budget) <= budget
    return sampler.attribution()


# The sample


def ones(sizes, n_players):
    return np.ones_like(sizes)


@given(st.integers(0, 9), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 40), max_size=12))
@settings(max_examples=60, deadline=None)
def test_pairs_are_distinct_canonical_and_independent_of_cuts(n_players, seed, cuts):
    table = np.random.default_rng(1).normal(size=(2**n_players, 2))
    pieces = PairedSamples(table_game(table, batch_size=3), seed, 5, shapley_kernel)
    spent = [pieces.advance(cut) for cut in cuts]
    assert all(s <= cut for s, cut in zip(spent, cuts, strict=True)) and pieces.n_evaluations == sum(spent)
    if pieces.ends is None:
        return
    whole = PairedSamples(table_game(table), seed, 5, shapley_kernel)
    assert whole.advance(sum(spent)) == sum(spent)
    one, two = pieces.pairs(), whole.pairs()
    for field in ("coalitions", "payoffs", "strata", "ranks"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    sizes = one.coalitions.sum(axis=1)
    assert (2 * sizes <= n_players).all() and one.coalitions[2 * sizes == n_players, :1].all()
    assert len({row.tobytes() for row in one.coalitions}) == len(sizes)
    np.testing.assert_array_equal(one.strata, sizes - 1)
    masks = one.coalitions @ (1 << np.arange(n_players))
    np.testing.assert_array_equal(one.payoffs[:, 0], table[masks])
    np.testing.assert_array_equal(one.payoffs[:, 1], table[2**n_players - 1 - masks])
    assert pieces.complete == (pieces.n_evaluations == 2**n_players)


def test_sizes_follow_the_rates_to_within_one_pair_until_they_run_out():
    for seed in range(20):
        samples = PairedSamples(table_game(np.zeros(2**12)), seed, 5, shapley_kernel)
        for _ in range(40):
            samples.advance(30)
            assert (np.abs(samples.counts - samples.expected_counts()) <= 1 + 1e-6).all()
            assert samples.counts.sum() == samples.n_pairs


def test_pairs_of_one_size_are_equally_likely_and_their_number_right_on_average():
    n_seeds, counts, sizes = 3_000, np.zeros(2**5), np.zeros(2)
    for seed in range(n_seeds):
        samples = PairedSamples(table_game(np.zeros(2**5)), seed, 5, ones)
        samples.advance(2 + 2 * 5)
        counts[samples.pairs().coalitions @ (1 << np.arange(5))] += 1
        sizes += samples.counts
    for size in (1, 2):
        drawn = counts[all_coalitions(5).sum(axis=1) == size]
        share = drawn.mean() / n_seeds
        assert np.abs(drawn - drawn.mean()).max() < 4.5 * np.sqrt(n_seeds * share * (1 - share))
    assert np.abs(sizes / n_seeds - 2.5).max() < 0.1


def test_a_thousand_players():
    worth = np.arange(1_000.0)
    for sampler_of in [*REGRESSIONS, linear_sampler]:
        sampler = sampler_of(Game(lambda coalitions: coalitions @ worth, 1_000), seed=2)
        phi = spent_on(sampler, 3_002)
        assert phi.n_evaluations == 3_002 and np.isfinite(phi.values).all()
        np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-6)
        if sampler_of in REGRESSIONS:
            np.testing.assert_allclose(phi.values, worth, atol=1e-6)


# The regression


def textbook_regression(coalitions, payoffs, weights, table):
    """Least squares of v(S) - v(∅) on membership, every coalition for itself, with the total as a heavy constraint."""
    n_players = coalitions.shape[1]
    # The last player's value is the total less that of all others: substituted, so that it is exact.
    total = table[-1] - table[0]
    design = coalitions[:, :-1].astype(float) - coalitions[:, -1:]
    targets = payoffs - table[0] - coalitions[:, -1:] * total
    root = np.sqrt(weights)[:, None]
    most = np.linalg.lstsq(design * root, targets * root, rcond=None)[0]
    assert len(most) == n_players - 1
    return np.concatenate([most, (total - most.sum(axis=0))[None]])


def same_sample(sampler_of, seed, budget):
    """The pairs that such a sampler draws, with the payoffs as they are."""
    rates = {KernelSampler: shapley_kernel, LeverageSampler: leverage.equal_rates}[sampler_of]
    samples = PairedSamples(table_game(TABLE), seed, sys.modules[sampler_of.__module__]._STREAM, rates)
    samples.advance(budget)
    return samples


@pytest.mark.parametrize("n_players", [2, 3, 4, 7, 8])
def test_all_coalitions_with_true_weights_give_the_exact_values(n_players):
    table, coalitions = bumpy_table(n_players), all_coalitions(n_players)
    sizes = coalitions.sum(axis=1)
    proper = (sizes > 0) & (sizes < n_players)
    weights = np.array([1 / (math.comb(n_players, s) * s * (n_players - s)) for s in sizes[proper]])
    twin = textbook_regression(coalitions[proper], table[proper], weights, table)
    np.testing.assert_allclose(twin, shapley_values(table), atol=1e-10)
    odd = (table - table[::-1])[proper] / 2
    targets = odd + (0.5 - sizes[proper, None] / n_players) * (table[-1] - table[0])
    fit = ConstrainedFit(coalitions[proper], targets, weights)
    np.testing.assert_allclose(fit.values + (table[-1] - table[0]) / n_players, twin, atol=1e-10)


@pytest.mark.parametrize("sampler_of", REGRESSIONS)
@pytest.mark.parametrize("budget", [18, 40, 100, 200])
def test_equals_the_textbook_regression_on_the_same_sample(sampler_of, budget):
    phi = spent_on(sampler_of(table_game(TABLE), seed=3), budget)
    samples = same_sample(sampler_of, 3, budget)
    pairs, weights = samples.pairs(), pair_weights(samples)
    twin = textbook_regression(
        np.concatenate([pairs.coalitions, ~pairs.coalitions]),
        np.concatenate([pairs.payoffs[:, 0], pairs.payoffs[:, 1]]),
        np.tile(weights[pairs.strata], 2),
        TABLE,
    )
    np.testing.assert_allclose(phi.values, twin, atol=1e-9)


def test_weights_are_totals_over_numbers_of_pairs():
    samples = PairedSamples(table_game(TABLE), 0, 5, shapley_kernel)
    samples.advance(150)
    totals = np.array([1 / 7, 1 / 12, 1 / 15, 1 / 32])  # half as many pairs as coalitions of four
    expected = totals / samples.counts
    np.testing.assert_allclose(pair_weights(samples), expected / expected.max())
    assert samples.counts[0] == 8 < samples.counts[1]


@pytest.mark.parametrize("sampler_of", REGRESSIONS)
def test_standard_errors_equal_those_of_refitting_without_each_pair(sampler_of):
    """HC3 by its meaning: dropping pair k moves the estimate by its effect times its residual / (1 - leverage)."""
    phi = spent_on(sampler_of(table_game(TABLE), seed=1), 102)
    samples = same_sample(sampler_of, 1, 102)
    pairs, weights = samples.pairs(), pair_weights(samples)
    targets = pairs.odd + (0.5 - pairs.coalitions.mean(axis=1))[:, None] * (TABLE[-1] - TABLE[0])
    weight = weights[pairs.strata]
    whole = ConstrainedFit(pairs.coalitions, targets, weight).values
    kept = ~np.eye(len(weight), dtype=bool)
    moved = np.array([whole - ConstrainedFit(pairs.coalitions[k], targets[k], weight[k]).values for k in kept])
    variance = np.zeros_like(whole)
    for stratum, drawn in enumerate(samples.counts):
        here = moved[pairs.strata == stratum]
        spread = here.var(axis=0, ddof=1) * drawn if drawn > 1 else (here**2).sum(axis=0)
        variance += (1 - drawn / samples.populations[stratum]) * spread
    np.testing.assert_allclose(phi.standard_errors, np.sqrt(variance), rtol=1e-8)


# Models


def test_linear_model_equals_ridge_with_every_pair_left_out_in_turn():
    coalitions = all_coalitions(6)[np.random.default_rng(0).permutation(32)[:14]]
    coalitions = np.concatenate([np.zeros((1, 6), dtype=bool), coalitions[coalitions.any(axis=1)]])
    both = np.concatenate([coalitions, ~coalitions])
    payoffs = bumpy_table(6)[both @ (1 << np.arange(6))]
    model = fit_linear(both, payoffs)
    total = payoffs[len(coalitions)] - payoffs[0]
    design = coalitions[1:] - coalitions[1:].mean(axis=1, keepdims=True)
    odd = (payoffs[: len(coalitions)] - payoffs[len(coalitions) :])[1:] / 2
    targets = odd + (0.5 - coalitions[1:].mean(axis=1))[:, None] * total
    mean = np.linalg.eigvalsh(design.T @ design).mean()

    def ridge(rows, penalty):
        gram = design[rows].T @ design[rows] + penalty * mean * np.eye(6)
        return np.linalg.solve(gram, design[rows].T @ targets[rows])

    def left_out(penalty):
        each = [targets[k] - design[k] @ ridge(np.arange(len(design)) != k, penalty) for k in range(len(design))]
        return np.sum(np.square(each))

    best = min(10.0 ** np.arange(-4, 1.6, 0.5), key=left_out)
    np.testing.assert_allclose(model.values, total / 6 + ridge(slice(None), best), atol=1e-9)
    np.testing.assert_allclose(model.values.sum(axis=0), total)


@given(st.integers(1, 7), st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_shapley_values_of_trees_are_those_of_their_predictions(n_players, seed, depth, n_outputs):
    generator = np.random.default_rng(seed)
    coalitions = generator.random((25, n_players)) < 0.5
    trees = fit_boosted_trees(coalitions, generator.normal(size=(25, n_outputs)), n_trees=7, depth=depth)
    table = trees.predict(all_coalitions(n_players))
    np.testing.assert_allclose(trees.shapley_values(), shapley_values(table), atol=1e-12)


def plain_boosting(coalitions, targets, n_trees, depth, learning_rate, shrinkage):
    """Predictions on the training rows, one tree after another, by recursion."""
    predicted = np.tile(targets.mean(axis=0), (len(targets), 1))

    def grow(rows, level, residuals, output):
        best = (1e-12, None)
        score = lambda part: (residuals[part].sum(axis=0) ** 2).sum() / (len(part) + shrinkage)  # noqa: E731
        for player in range(coalitions.shape[1] if level < depth else 0):
            inside = rows[coalitions[rows, player]]
            outside = rows[~coalitions[rows, player]]
            if len(inside) and len(outside):
                gain = score(inside) + score(outside) - score(rows)
                if gain > best[0] * (1 + 1e-9):
                    best = (gain, (outside, inside))
        if best[1] is None:
            output[rows] = learning_rate * residuals[rows].sum(axis=0) / (len(rows) + shrinkage)
        else:
            for part in best[1]:
                grow(part, level + 1, residuals, output)

    for _ in range(n_trees):
        output = np.zeros_like(predicted)
        grow(np.arange(len(targets)), 0, targets - predicted, output)
        predicted += output
    return predicted


def test_boosting_equals_its_slow_twin():
    generator = np.random.default_rng(0)
    coalitions, targets = generator.random((60, 6)) < 0.5, generator.normal(size=(60, 2))
    trees = fit_boosted_trees(coalitions, targets, n_trees=12, depth=3, learning_rate=0.3, shrinkage=5.0)
    np.testing.assert_allclose(trees.predict(coalitions), plain_boosting(coalitions, targets, 12, 3, 0.3, 5.0))


def test_trees_do_not_depend_on_the_unit():
    coalitions, targets = all_coalitions(6), bumpy_table(6)
    small = fit_boosted_trees(coalitions, 2.0**-60 * targets, n_trees=20)
    np.testing.assert_array_equal(
        2.0**60 * small.predict(coalitions), fit_boosted_trees(coalitions, targets, 20).predict(coalitions)
    )


def test_trees_give_way_to_the_linear_model_where_they_would_take_long(monkeypatch):
    coalitions = np.concatenate([all_coalitions(6)[:32], ~all_coalitions(6)[:32]])
    payoffs = bumpy_table(6)[coalitions @ (1 << np.arange(6))]
    assert not isinstance(fit_trees(coalitions, payoffs), LinearGame)
    monkeypatch.setattr("shapkit.estimators.surrogates.models._MOST_STEPS", 1_000)
    assert isinstance(fit_trees(coalitions, payoffs), LinearGame)


# The correction


class HalfRight:
    """A model that is wrong on purpose: a fixed random game, plus the pairs it was fitted to by heart."""

    def __init__(self, coalitions, payoffs):
        n_players = coalitions.shape[1]
        self.table = np.random.default_rng(6).normal(size=(2**n_players, payoffs.shape[1]))
        self.table[coalitions @ (1 << np.arange(n_players))] = payoffs

    def predict(self, coalitions):
        return self.table[coalitions @ (1 << np.arange(coalitions.shape[1]))]

    def shapley_values(self):
        return shapley_values(self.table)


@pytest.mark.parametrize("n_players, sizes", [(5, (5, 10)), (6, (6, 15, 10))])
def test_correction_is_unbiased_over_all_samples_by_enumeration(n_players, sizes):
    """Every fold of two, over all equally likely pairs of one size; those of all other sizes are known."""
    table = bumpy_table(n_players)
    coalitions = all_coalitions(n_players)
    masks = np.flatnonzero(
        (coalitions.sum(axis=1) * 2 < n_players) | ((coalitions.sum(axis=1) * 2 == n_players) & coalitions[:, 0])
    )
    masks = masks[masks > 0]
    by_size = [masks[coalitions[masks].sum(axis=1) == s + 1] for s in range(len(sizes))]
    assert tuple(map(len, by_size)) == sizes
    estimates = []
    for drawn in itertools.permutations(by_size[0], 3):
        sampler = RegressionAdjustedSampler(table_game(table), 0, fit=HalfRight)
        chosen = [np.array(drawn), *by_size[1:]]
        _plant(sampler._samples, table, coalitions, chosen)
        phi = sampler.attribution()
        assert np.isfinite(phi.standard_errors).all()
        estimates.append(phi.values)
    np.testing.assert_allclose(np.mean(estimates, axis=0), shapley_values(table), atol=1e-10)
    assert np.ptp(estimates, axis=0).max() > 0.1


def _plant(samples, table, coalitions, chosen):
    """Make `samples` hold the given masks, one array for each size."""
    from shapkit.estimators.pairs.samples import Pairs

    masks = np.concatenate(chosen)
    counts = np.array(list(map(len, chosen)))
    samples.ends = table[[0, -1]]
    samples._chunks = [
        Pairs(
            coalitions[masks],
            np.stack([table[masks], table[len(table) - 1 - masks]], axis=1),
            np.repeat(np.arange(len(counts)), counts),
            np.concatenate([np.arange(count) for count in counts]),
        )
    ]
    samples.counts, samples.n_pairs = counts, len(masks)


@pytest.mark.parametrize("fit", [fit_linear, fit_trees])
def test_too_few_pairs_for_folds_give_the_model_alone(fit):
    sampler = RegressionAdjustedSampler(table_game(TABLE), 0, fit=fit)
    phi = spent_on(sampler, 2 + 2 * 3)
    assert np.isnan(phi.standard_errors).all()
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-10)


def test_models_of_the_wrong_shape_are_refused():
    class OneColumn(HalfRight):
        def shapley_values(self):
            return super().shapley_values()[:, 0]

    sampler = RegressionAdjustedSampler(table_game(TABLE), 0, fit=OneColumn)
    sampler.advance(60)
    with pytest.raises(ValueError, match=r"the model's shapley_values\(\) returned shape \(8,\), expected \(8, 2\)"):
        sampler.attribution()


def test_weights_of_marginals_give_exact_values_over_all_coalitions():
    coalitions = all_coalitions(8)[1:-1]
    sizes = coalitions.sum(axis=1)
    weights = np.array([1 / math.comb(8, s) for s in sizes])  # every pair twice
    odd = (TABLE - TABLE[::-1])[1:-1] / 2
    values = (TABLE[-1] - TABLE[0]) / 8 + marginal_weights(coalitions).T @ (weights[:, None] * odd)
    np.testing.assert_allclose(values, shapley_values(TABLE), atol=1e-12)


def test_rates_sum_to_a_share_for_each_size():
    rates = residual_rates(np.arange(1.0, 26), 50)
    np.testing.assert_allclose(rates.sum(), 1)
    assert (np.diff(rates) < 0).all() and rates.min() > 0.02


# All samplers


@pytest.mark.parametrize("sampler_of", SAMPLERS)
@given(
    st.integers(0, 7),
    st.integers(0, 2**64 - 1),
    st.sampled_from([(), (1,), (2, 2)]),
    st.lists(st.integers(1, 60), max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_efficient_always_and_exact_when_all_is_known(sampler_of, n_players, seed, shape, cuts):
    table = np.random.default_rng(seed).integers(-100, 100, (2**n_players, *shape)).astype(float)
    game = table_game(table)
    sampler = sampler_of(game, seed)
    for cut in cuts:
        sampler.advance(cut)
        if sampler.n_evaluations:
            phi = sampler.attribution()
            if n_players:
                np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-9)
            assert phi.values.shape == (n_players, *shape) and phi.n_evaluations == sampler.n_evaluations
    sampler.advance(2**n_players)
    assert game.n_evaluations == sampler.n_evaluations <= 2**n_players
    sampler.advance(2)
    assert sampler.advance(10_000) == 0
    phi = sampler.attribution()
    assert phi.n_evaluations == game.n_evaluations == 2**n_players and phi.seeds == (seed,)
    np.testing.assert_allclose(phi.values, shapley_values(table), atol=1e-9)
    np.testing.assert_array_equal(phi.standard_errors, np.zeros_like(table, shape=(n_players, *shape)))


@pytest.mark.parametrize("sampler_of", SAMPLERS)
def test_same_numbers_for_all_batch_sizes_and_cuts(sampler_of, monkeypatch):
    expected = spent_on(sampler_of(table_game(TABLE), seed=4), 122)
    for batch_size, cuts in ((1, [122]), (7, [2, 20, 100]), (None, [1, 3, 5, 13, 49, 55])):
        sampler = sampler_of(table_game(TABLE, batch_size=batch_size), seed=4)
        for cut in cuts:
            sampler.advance(cut)
        sampler.advance(122 - sampler.n_evaluations)
        phi = sampler.attribution()
        np.testing.assert_array_equal(phi.values, expected.values)
        np.testing.assert_array_equal(phi.standard_errors, expected.standard_errors)
    monkeypatch.setattr("shapkit.estimators.pairs.samples._CHUNK_ROWS", 8)
    np.testing.assert_array_equal(spent_on(sampler_of(table_game(TABLE), seed=4), 122).values, expected.values)
    monkeypatch.setattr("shapkit.estimators.pairs.samples._BLOCK_CELLS", 40)
    monkeypatch.setattr("shapkit.estimators.pairs.regression._BLOCK_FLOATS", 40)
    blocked = spent_on(sampler_of(table_game(TABLE), seed=4), 122)
    np.testing.assert_allclose(blocked.values, expected.values, atol=1e-9)
    np.testing.assert_allclose(blocked.standard_errors, expected.standard_errors, atol=1e-9)
    assert not np.array_equal(spent_on(sampler_of(table_game(TABLE), seed=5), 122).values, expected.values)


@pytest.mark.parametrize("sampler_of", SAMPLERS)
def test_budgets_too_small_for_anything(sampler_of):
    sampler = sampler_of(table_game(TABLE))
    assert sampler.advance(1) == sampler.n_evaluations == 0
    with pytest.raises(ValueError, match="nothing has been evaluated yet"):
        sampler.attribution()
    assert sampler.advance(3) == 2 and sampler.advance(1) == 0
    phi = sampler.attribution()
    np.testing.assert_allclose(phi.values, np.tile((TABLE[-1] - TABLE[0]) / 8, (8, 1)))
    assert np.isnan(phi.standard_errors).all()


@pytest.mark.parametrize("sampler_of", SAMPLERS)
def test_what_an_exception_interrupts_is_evaluated_again(sampler_of):
    expected = spent_on(sampler_of(table_game(TABLE), seed=4), 122)
    failing = iter([False, True, False, True, False, False])

    def value(coalitions):
        if len(coalitions) > 2 and next(failing):
            raise KeyboardInterrupt
        return TABLE[coalitions @ (1 << np.arange(8))]

    sampler = sampler_of(Game(value, 8, batch_size=1_000), seed=4)
    sampler.advance(22)
    for more in (30, 40):
        with pytest.raises(KeyboardInterrupt):
            sampler.advance(more)
        sampler.advance(more)
    sampler.advance(122 - sampler.n_evaluations)
    np.testing.assert_array_equal(sampler.attribution().values, expected.values)
    assert sampler.attribution().n_evaluations == 122


@pytest.mark.parametrize("sampler_of", [*REGRESSIONS, linear_sampler])
@pytest.mark.parametrize("budget", [60, 120])
def test_intervals_cover_and_the_corrected_model_is_unbiased(sampler_of, budget):
    n_seeds, exact = 600, shapley_values(TABLE)
    runs = [spent_on(sampler_of(table_game(TABLE), seed), budget) for seed in range(n_seeds)]
    errors = np.array([run.values for run in runs]) - exact
    half_widths = stats.norm.ppf(0.975) * np.array([run.standard_errors for run in runs])
    # Players and outputs share samples, so that the bound is that of one of them.
    coverage = (np.abs(errors) <= half_widths).mean()
    assert abs(coverage - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n_seeds)
    if sampler_of is linear_sampler:
        assert (np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(n_seeds)).all()


def test_trees_are_unbiased_and_cover():
    n_seeds, exact = 120, shapley_values(TABLE)
    runs = [spent_on(RegressionAdjustedSampler(table_game(TABLE), seed), 80) for seed in range(n_seeds)]
    errors = np.array([run.values for run in runs]) - exact
    assert (np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(n_seeds)).all()
    coverage = (np.abs(errors) <= 1.96 * np.array([run.standard_errors for run in runs])).mean()
    assert abs(coverage - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n_seeds)
    kernel = [spent_on(KernelSampler(table_game(TABLE), seed), 80).values - exact for seed in range(n_seeds)]
    assert np.square(errors).mean() < 0.8 * np.square(kernel).mean()


def test_the_number_of_trees_is_what_the_steps_pay_for(monkeypatch):
    half = all_coalitions(5)[np.random.default_rng(0).permutation(np.arange(1, 16))[:9]]
    half = np.concatenate([np.zeros((1, 5), dtype=bool), half])
    coalitions = np.concatenate([half, ~half])
    payoffs = np.tanh(coalitions @ np.arange(1.0, 6.0))[:, None]
    steps_per_tree = 2 * 12 * coalitions.size
    for n_paid, n_trees in ((5.0, 5), (7.9, 7), (1_000.0, 100)):
        monkeypatch.setattr("shapkit.estimators.surrogates.models._MOST_STEPS", int(n_paid * steps_per_tree))
        games = fit_trees(coalitions, payoffs).games
        assert [len(game.players) for game in games if not isinstance(game, LinearGame)] == [n_trees] * 6
    monkeypatch.setattr("shapkit.estimators.surrogates.models._MOST_STEPS", 5 * steps_per_tree - 1)
    assert isinstance(fit_trees(coalitions, payoffs), LinearGame)


def test_variances_of_strata_add_up_and_so_do_their_uncertainties():
    """The slow twin: a sample variance of each player's weighted residuals for each size, one after the other."""
    n_players = 7
    game = table_game(np.random.default_rng(3).normal(size=2**n_players))
    samples = PairedSamples(game, 0, 0, residual_rates)
    samples.advance(60)
    pairs = samples.pairs()
    residuals = np.random.default_rng(4).normal(size=(len(pairs.strata), 2))
    assert ((samples.counts > 1) & (samples.counts < samples.populations)).sum() == 2
    variances, uncertainty = np.zeros((2, n_players, 2))
    for stratum, drawn in enumerate(samples.counts):
        if drawn == samples.populations[stratum]:
            continue
        rows = np.flatnonzero(pairs.strata == stratum)
        weighted = marginal_weights(pairs.coalitions[rows])[:, :, None] * residuals[rows][:, None]
        left = (samples.populations[stratum] - drawn) / samples.populations[stratum]
        of_mean = left * weighted.var(axis=0, ddof=1) / drawn * (2 * samples.shares[stratum]) ** 2
        variances += of_mean
        uncertainty += of_mean**2 / (drawn + 1)
    found = stratified_variances(samples, pairs, residuals)
    np.testing.assert_allclose(found[0], variances, rtol=1e-10)
    np.testing.assert_allclose(found[1], uncertainty, rtol=1e-10)


@pytest.mark.parametrize("n_players", [6, 11, 30, 100])
def test_a_regression_adjusted_estimate_takes_as_long_as_its_models(n_players):
    """There are as many models as `effort` has them, but for one."""
    game = airport_game(np.arange(1.0, n_players + 1))
    for budget in (2 * n_players, 6 * n_players, 12 * n_players, 40 * n_players):
        if budget >= 2**n_players:
            continue
        shown = []

        def fit(coalitions, payoffs, shown=shown):
            shown.append(len(coalitions))
            return fit_linear(coalitions, payoffs)

        sampler = RegressionAdjustedSampler(game, fit=fit)
        sampler.advance(budget)
        sampler.attribution()
        assert abs(len(shown) - sampler.effort(budget) / budget) <= 1
