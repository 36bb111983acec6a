"""Exact values: published games, slow twins in fractions, and the axioms."""

import functools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import permutations
from math import factorial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapkit
from shapkit import exact as exact_values
from shapkit import shapley_values, table_game, weighted_voting
from shapkit.coalitions import masks_of_members
from shapkit.exact.blocks import block_rows
from shapkit.exact.superset_sums import Family, SupersetSums

GAMES = json.loads((Path(__file__).parents[2] / "data" / "games.json").read_text())["games"]
PUBLISHED = [(game, index) for game in GAMES for index in ("shapley", "banzhaf") if index in game]


ONE_TO_EIGHT = st.integers(1, 8)
OUTPUT_SHAPES = st.sampled_from([(), (1,), (3,), (2, 2)])


def tables(n_players=ONE_TO_EIGHT):
    shapes = st.tuples(n_players, OUTPUT_SHAPES).map(lambda case: (2 ** case[0], *case[1]))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(-100, 100)))


def fractions(nested):
    return np.vectorize(lambda text: float(Fraction(text)), otypes=[float])(np.array(nested))


def check_published(values, expected):
    zero = expected == 0
    scale = np.abs(expected).max() or 1.0
    np.testing.assert_allclose(values[~zero], expected[~zero], rtol=1e-12, atol=0)
    assert np.abs(values[zero]).max(initial=0) <= 1e-12 * scale


def by_subsets(table, index):
    """The definition over subsets, in exact arithmetic, for a scalar game."""
    n_players = len(table).bit_length() - 1
    values = []
    for player in range(n_players):
        total = Fraction(0)
        for mask in range(len(table)):
            if not mask >> player & 1:
                size = mask.bit_count()
                weight = Fraction(factorial(size) * factorial(n_players - 1 - size), factorial(n_players))
                weight = Fraction(1, 2 ** (n_players - 1)) if index == "banzhaf" else weight
                total += weight * (Fraction(table[mask | 1 << player]) - Fraction(table[mask]))
        values.append(total)
    return values


def by_permutations(table):
    """The definition over all orders of the players, in exact arithmetic, for a scalar game."""
    n_players = len(table).bit_length() - 1
    totals = [Fraction(0)] * n_players
    for order in permutations(range(n_players)):
        mask = 0
        for player in order:
            totals[player] += Fraction(table[mask | 1 << player]) - Fraction(table[mask])
            mask |= 1 << player
    return [total / factorial(n_players) for total in totals]


@pytest.mark.parametrize("game, index", PUBLISHED, ids=[f"{game['name']}-{index}" for game, index in PUBLISHED])
def test_published_games(game, index):
    expected = fractions(game[index])
    ways = []
    if "value_table" in game:
        ways.append(exact_values(table_game(game["value_table"], batch_size=5), index).values)
        if index == "shapley":
            ways.append(shapley_values(game["value_table"]))
    if "weights" in game:
        ways.append(exact_values(weighted_voting(game["weights"], game["quota"]), index).values)
    assert ways
    for values in ways:
        check_published(values, expected)


@pytest.mark.parametrize("n_players", range(1, 7))
def test_both_definitions_in_fractions(n_players):
    table = np.random.default_rng(n_players).integers(-1000, 1000, 2**n_players).tolist()
    expected = by_subsets(table, "shapley")
    assert expected == by_permutations(table)
    check_published(shapley_values(table), np.array(expected, dtype=float))
    check_published(exact_values(table_game(table)).values, np.array(expected, dtype=float))
    banzhaf = np.array(by_subsets(table, "banzhaf"), dtype=float)
    check_published(exact_values(table_game(table), "banzhaf").values, banzhaf)


def test_many_blocks_equal_a_closed_form():
    # Unanimity games: every member of the carrier gets an equal share. 17 players take two blocks.
    carriers, worth = [{0, 16}, {3, 4, 15}, {16}, set(range(17))], [2.0, -3.0, 0.5, 34.0]

    def value(coalitions):
        return sum(w * coalitions[:, sorted(carrier)].all(axis=1) for carrier, w in zip(carriers, worth, strict=True))

    expected = [sum(w / len(c) for c, w in zip(carriers, worth, strict=True) if player in c) for player in range(17)]
    game = shapkit.Game(value, 17)
    phi = exact_values(game)
    np.testing.assert_allclose(phi.values, expected, rtol=1e-12)
    assert phi.n_evaluations == game.n_evaluations == 2**17
    every = np.concatenate([block for _, block in shapkit.coalitions.enumerate_coalitions(17, 2**15)])
    np.testing.assert_allclose(shapley_values(value(every)), expected, rtol=1e-12)


def test_a_large_offset_does_no_harm():
    table = np.random.default_rng(0).integers(-50, 50, 256).astype(float)
    np.testing.assert_array_equal(shapley_values(table + 2.0**40), shapley_values(table))


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, bool])
def test_tables_of_other_types_and_layouts(dtype):
    table = np.asarray(np.random.default_rng(0).integers(0, 2, (16, 3)), dtype=dtype)
    expected = shapley_values(table.astype(float))
    np.testing.assert_array_equal(shapley_values(table), expected)
    np.testing.assert_array_equal(shapley_values(np.asfortranarray(table)), expected)


@pytest.mark.parametrize("index", ["shapley", "banzhaf"])
def test_the_result_describes_itself(index):
    table = np.arange(8.0 * 6).reshape(8, 2, 3) ** 2
    game = table_game(table, names=["a", "b", "c"], batch_size=3)
    game(np.zeros((1, 3), bool))
    phi = exact_values(game, index)
    assert phi.values.shape == (3, 2, 3) and phi.standard_errors is None
    assert (phi.n_evaluations, game.n_evaluations) == (8, 9)
    assert (phi.names, phi.index, phi.method) == (("a", "b", "c"), index, "exact")
    np.testing.assert_array_equal(phi.empty_value, table[0])
    np.testing.assert_array_equal(phi.grand_value, table[-1])


@given(tables(), st.sampled_from([1, 3, None]))
@settings(max_examples=60, deadline=None)
def test_streamed_equals_table_and_is_efficient(table, batch_size):
    phi = exact_values(table_game(table, batch_size=batch_size))
    np.testing.assert_allclose(phi.values, shapley_values(table), atol=1e-10)
    np.testing.assert_allclose(phi.efficiency_gap, 0, atol=1e-10)


@given(tables(n_players=st.integers(2, 6)), st.data())
@settings(max_examples=60, deadline=None)
def test_symmetry(table, data):
    n_players = len(table).bit_length() - 1
    order = np.array(data.draw(st.permutations(range(n_players))))
    masks = np.arange(len(table))
    renamed = sum((masks >> player & 1) << int(order[player]) for player in range(n_players))
    relabelled = np.empty_like(table)
    relabelled[renamed] = table  # player i of `table` is player order[i] of `relabelled`
    for index in ("shapley", "banzhaf"):
        values = exact_values(table_game(table), index).values
        np.testing.assert_allclose(exact_values(table_game(relabelled), index).values[order], values, atol=1e-10)


@given(tables(n_players=st.just(5)), st.integers(-5, 5), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_linearity(table, factor, seed):
    other = np.random.default_rng(seed).integers(-100, 100, table.shape)
    for index in ("shapley", "banzhaf"):
        both = exact_values(table_game(table + factor * other), index).values
        parts = [exact_values(table_game(part), index).values for part in (table, other)]
        np.testing.assert_allclose(both, parts[0] + factor * parts[1], atol=1e-9)


@given(tables(n_players=st.integers(2, 8)), st.data())
@settings(max_examples=60, deadline=None)
def test_dummy(table, data):
    player = data.draw(st.integers(0, len(table).bit_length() - 2))
    without = table[np.arange(len(table)) & ~(1 << player)]
    for index in ("shapley", "banzhaf"):
        np.testing.assert_allclose(exact_values(table_game(without), index).values[player], 0, atol=1e-10)


def test_blocks_respect_memory():
    assert block_rows(40, 1) == 2**16 and block_rows(3, 1) == 8
    assert block_rows(40, 3 * 256 * 256) * 3 * 256 * 256 <= 2**22
    assert block_rows(40, 10**9) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: exact_values(weighted_voting(range(63), 3)),
            r"63 players: all 2\*\*63 coalitions cannot be evaluated",
        ),
        (
            lambda: exact_values(table_game([0, 1]), "shapely"),
            "index must be one of 'shapley', 'banzhaf', 'SII', .* got 'shapely'",
        ),
        (lambda: shapley_values([1, 2, 3]), r"values has shape \(3,\), expected \(2\*\*n_players, ...\)"),
        (lambda: shapley_values([1, np.nan, 3, 4]), "values must be finite numbers: the table holds NaN"),
        (lambda: shapley_values([1, 2, 3, np.inf]), "values must be finite numbers"),
        (lambda: shapley_values([-np.inf, 2, 3, 1]), "values must be finite numbers"),
        (lambda: shapley_values(["a", "b"]), "values has dtype <U1, expected real numbers"),
        (
            lambda: shapley_values(np.zeros((4, 0))),
            r"values has shape \(4, 0\): a value must have at least one",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def slow_sums(coalitions):
    return np.sqrt(coalitions @ np.arange(1.0, coalitions.shape[1] + 1))


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("index", ["shapley", "k-SII"])
def test_any_number_of_workers_gives_the_same_bits(n_workers, index):
    expected = exact_values(shapkit.Game(slow_sums, 9), index)
    with ThreadPoolExecutor(n_workers) as threads:
        found = exact_values(shapkit.Game(slow_sums, 9, executor=threads, batch_size=50), index)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12)  # the matrix product may round by batch
    rounded = functools.partial(np.take, np.random.default_rng(0).normal(size=2**9))
    alone, spread = (
        exact_values(shapkit.Game(lambda rows: rounded(masks_of_members(rows).astype(np.int64)), 9, **options), index)
        for options in ({}, {"executor": ThreadPoolExecutor(n_workers), "batch_size": 7})
    )
    np.testing.assert_array_equal(spread.values, alone.values)


def test_a_cache_pays_for_every_coalition_once():
    game = shapkit.Game(slow_sums, 10, cache=True)
    first = exact_values(game)
    assert (first.n_evaluations, game.n_evaluations) == (2**10, 2**10)
    second = exact_values(game, "SII")
    assert (second.n_evaluations, game.n_evaluations) == (0, 2**10)


@pytest.mark.parametrize("index", ["shapley", "banzhaf"])
def test_games_of_one_player_and_of_none(index):
    alone = exact_values(table_game([2.0, 7.0]), index)
    assert (alone.values.tolist(), alone.n_evaluations) == ([5.0], 2)
    nobody = exact_values(shapkit.Game(lambda coalitions: np.ones((len(coalitions), 3)), 0), index)
    assert nobody.values.shape == (0, 3) and nobody.n_evaluations == 1
    assert shapley_values([[1.0, 2.0]]).shape == (0, 2)


def test_sums_of_many_blocks_are_compensated():
    """Each block adds less than the last digit of the sum: without compensation none would be there in the end."""
    sums = SupersetSums(1, 1, np.zeros(1), [Family(1, np.ones(2))])
    sums.add([np.array([[1.0]])])
    for _ in range(10_000):
        sums.add([np.array([[1e-16]])])
    assert float(sums.totals[0][0, 0]) == pytest.approx(1 + 1e-12, rel=0, abs=1e-16)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process may run on all cores on this system")
def test_threads_are_as_many_as_cores_that_the_process_may_use():
    assert sys.modules["shapkit.exact.indices"]._usable_cores() == len(os.sched_getaffinity(0))
    code = (
        "import os, sys, shapkit.exact\n"
        "cores = sorted(os.sched_getaffinity(0))\n"
        "for allowed in (cores, cores[:1]):\n"
        "    os.sched_setaffinity(0, allowed)\n"
        "    print(sys.modules['shapkit.exact.indices']._usable_cores() == len(allowed))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.split() == ["True", "True"]
