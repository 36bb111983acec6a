"""The compiled loops against the plainest sums."""

import numpy as np
import pytest

from shapkit import kernels


@pytest.mark.parametrize("n_rows", [1, 2, 4, 16])
@pytest.mark.parametrize("n_columns", [1, 3])
def test_folding_a_block(n_rows, n_columns):
    n_runs, high_size = 8, 2
    rng = np.random.default_rng(0)
    payoffs, weights = rng.normal(size=(n_runs, n_rows, n_columns)), rng.normal(size=(10, n_rows))
    reference = rng.normal(size=n_columns)
    low_sums, scratch = np.empty((2, n_rows * n_columns))
    totals = np.empty((n_runs, n_columns))
    kernels.fold_block(
        payoffs.reshape(-1),
        np.tile(reference, n_rows),
        np.repeat(weights, n_columns, axis=1),
        high_size,
        n_columns,
        low_sums,
        totals,
        scratch,
    )
    sizes = [high_size + run.bit_count() for run in range(n_runs)]
    weighted = weights[sizes][:, :, None] * (payoffs - reference)
    np.testing.assert_allclose(low_sums.reshape(n_rows, n_columns), weighted.sum(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(totals, weighted.sum(axis=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_bits", [0, 1, 5])
def test_sums_of_bit_patterns(n_bits):
    rows = np.random.default_rng(0).normal(size=(2**n_bits, 2))
    expected = [rows[[row for row in range(len(rows)) if row >> bit & 1]].sum(axis=0) for bit in range(n_bits)]
    sums = np.empty((n_bits + 1, 2))
    kernels.sum_patterns(rows.copy(), sums, np.empty_like(rows))
    np.testing.assert_allclose(sums, [*expected, rows.sum(axis=0)], atol=1e-12)


@pytest.mark.parametrize("n_players", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_columns", [1, 3])
def test_sums_over_subsets(n_players, n_columns):
    table = np.random.default_rng(0).integers(-9, 9, (2**n_players, n_columns)).astype(float)
    expected = [sum(table[part] for part in range(2**n_players) if part & row == part) for row in range(2**n_players)]
    sums = table.reshape(-1).copy()
    kernels.add_subsets(sums, 1.0, n_columns)
    np.testing.assert_array_equal(sums.reshape(table.shape), expected)
    kernels.add_subsets(sums, -1.0, n_columns)
    np.testing.assert_array_equal(sums.reshape(table.shape), table)


@pytest.mark.parametrize("n_players", [16, 17, 18])
def test_sums_over_subsets_of_tables_larger_than_the_cache(n_players):
    table = np.random.default_rng(0).integers(-9, 9, 2**n_players).astype(float)
    expected = table.copy().reshape((2,) * n_players)
    for axis in range(n_players):
        with_player, without = np.moveaxis(expected, axis, 0)[[1, 0]]
        np.moveaxis(expected, axis, 0)[1] = with_player + without
    kernels.add_subsets(table, 1.0, 1)
    np.testing.assert_array_equal(table, expected.reshape(-1))


def test_weighted_rows_in_the_order_of_complements():
    payoffs, weights = np.arange(8.0).reshape(4, 2), np.array([1.0, 2.0, 3.0, 4.0])
    weighted = np.empty((4, 2))
    kernels.weigh_complements(payoffs, np.array([1.0, 2.0]), weights, weighted)
    np.testing.assert_array_equal(weighted, (weights[:, None] * (payoffs - [1, 2]))[::-1])


@pytest.mark.parametrize("n_rows", [1, 2, 8])
def test_pairwise_addition(n_rows):
    rows = np.arange(24.0).reshape(8, 3)
    expected = rows[:n_rows].sum(axis=0)
    kernels.add_pairwise(rows, n_rows)
    np.testing.assert_array_equal(rows[0], expected)
