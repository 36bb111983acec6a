"""The compiled loops against the plainest sums."""

import numpy as np
import pytest

from shapkit import kernels


@pytest.mark.parametrize("n_rows", [1, 2, 16])
@pytest.mark.parametrize("n_columns", [1, 3])
def test_folding_gives_every_players_weighted_sum(n_rows, n_columns):
    n_players = 6
    rng = np.random.default_rng(0)
    payoffs, weights = rng.normal(size=(64, n_columns)), rng.normal(size=64)
    reference = rng.normal(size=n_columns)
    n_low = n_rows.bit_length() - 1
    low, low_errors, scratch = np.zeros((3, n_rows, n_columns))
    high, high_errors = np.zeros((2, n_players - n_low, n_columns))
    for first in range(0, 64, n_rows):
        block = slice(first, first + n_rows)
        high_bits = first >> n_low
        kernels.fold_block(
            payoffs[block], reference, weights[block], high_bits, low, low_errors, high, high_errors, scratch
        )
    sums = np.empty((n_low + 1, n_columns))
    kernels.sum_low_patterns(low, sums, scratch)
    weighted = weights[:, None] * (payoffs - reference)
    for player in range(n_players):
        expected = sum(weighted[mask] for mask in range(64) if mask >> player & 1)
        found = sums[player] if player < n_low else high[player - n_low]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sums[-1], weighted.sum(axis=0), rtol=1e-12, atol=1e-12)


def test_sums_over_blocks_are_compensated():
    # 1 + 2**16 additions of 2**-53, each of which is lost in a plain sum.
    low, low_errors, scratch = np.zeros((3, 1, 1))
    high, high_errors = np.zeros((2, 1, 1))
    for payoff in [1.0] + [2.0**-53] * 2**16:
        kernels.fold_block(
            np.array([[payoff]]), np.zeros(1), np.ones(1), 1, low, low_errors, high, high_errors, scratch
        )
    assert low[0, 0] == high[0, 0] == 1 + 2.0**-37


@pytest.mark.parametrize("n_rows", [1, 2, 8])
def test_pairwise_addition(n_rows):
    rows = np.arange(24.0).reshape(8, 3)
    expected = rows[:n_rows].sum(axis=0)
    kernels.add_pairwise(rows, n_rows)
    np.testing.assert_array_equal(rows[0], expected)
