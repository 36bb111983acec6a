"""Dividends: their definition, their inverse, and what may be overwritten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapkit
from shapkit import moebius_transform, zeta_transform

TABLES = st.tuples(st.integers(0, 8), st.sampled_from([(), (3,), (2, 2)])).flatmap(
    lambda case: hnp.arrays(np.float64, (2 ** case[0], *case[1]), elements=st.integers(-100, 100))
)


@given(TABLES)
@settings(max_examples=60, deadline=None)
def test_a_coalition_is_worth_the_dividends_of_its_parts(table):
    dividends = moebius_transform(table)
    for coalition in range(0, len(table), max(1, len(table) // 16)):
        parts = [part for part in range(len(table)) if part & coalition == part]
        np.testing.assert_array_equal(dividends[parts].sum(axis=0), table[coalition])
    np.testing.assert_array_equal(zeta_transform(dividends), table)


@given(TABLES)
@settings(max_examples=40, deadline=None)
def test_shapley_values_share_dividends_equally(table):
    dividends, n_players = moebius_transform(table), len(table).bit_length() - 1
    expected = np.zeros((n_players, *table.shape[1:]))
    for coalition in range(1, len(table)):
        for player in range(n_players):
            if coalition >> player & 1:
                expected[player] += dividends[coalition] / coalition.bit_count()
    np.testing.assert_allclose(shapkit.shapley_values(table), expected, atol=1e-9)


def test_the_table_is_overwritten_only_on_request():
    table = np.arange(16.0) ** 2
    before = table.copy()
    dividends = moebius_transform(table)
    np.testing.assert_array_equal(table, before)
    assert moebius_transform(table, overwrite=True) is table
    np.testing.assert_array_equal(table, dividends)
    np.testing.assert_array_equal(moebius_transform(before.astype(int).tolist()), dividends)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: moebius_transform(np.zeros(3)), r"values has shape \(3,\), expected \(2\*\*n_players, ...\)"),
        (lambda: moebius_transform(["a", "b"]), "values has dtype <U1, expected real numbers"),
        (lambda: zeta_transform([1.0, 2.0], overwrite=True), "overwrite=True needs a writeable C-contiguous float64"),
        (lambda: zeta_transform(np.zeros(4, np.float32), overwrite=True), "overwrite=True needs"),
        (lambda: zeta_transform(np.zeros(8)[::2], overwrite=True), "overwrite=True needs"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
