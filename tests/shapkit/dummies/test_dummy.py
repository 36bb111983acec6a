"""Theorem 1 on any game: what the residuals measure, and the equivalence both ways."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapkit import dummy_residual, isolation_residual, shapley_values, table_game

GAMES = json.loads((Path(__file__).parents[2] / "data" / "games.json").read_text())["games"]
TABLE = np.random.default_rng(2).normal(size=(2**5, 2, 2))


def squared_marginals(table, player):
    """‖v(S ∪ player) − v(S)‖² per output, for each S without the player: (2**(n-1), *out)."""
    without = [mask for mask in range(len(table)) if not mask >> player & 1]
    return np.array([(table[mask | 1 << player] - table[mask]) ** 2 for mask in without])


def squared_departures(table, player):
    """‖v(S) − v(S ∩ {player})‖² per output, for each S: (2**n, *out)."""
    return np.array([(table[mask] - table[mask & 1 << player]) ** 2 for mask in range(len(table))])


RESIDUALS = [(dummy_residual, squared_marginals), (isolation_residual, squared_departures)]


@pytest.mark.parametrize("residual, squares", RESIDUALS)
@pytest.mark.parametrize("player", range(5))
@pytest.mark.parametrize("batch_size", [None, 3])
def test_exact_residuals_equal_the_definition(residual, squares, player, batch_size):
    game = table_game(TABLE, batch_size=batch_size)
    result = residual(game, player)
    expected = squares(TABLE, player).mean(axis=0)
    np.testing.assert_allclose(result.per_output, expected, rtol=1e-12)
    assert result.value == pytest.approx(expected.sum(), rel=1e-12)
    assert result.standard_error is None
    assert result.n_evaluations == game.n_evaluations == 2**5


@pytest.mark.parametrize("residual, squares", RESIDUALS)
def test_many_blocks_and_few_are_the_same(residual, squares, monkeypatch):
    # by module object: the function shapkit.exact hides its module from a dotted name
    monkeypatch.setattr(sys.modules["shapkit.exact.blocks"], "_BLOCK_ROWS", 4)
    result = residual(table_game(TABLE), 2)
    np.testing.assert_allclose(result.per_output, squares(TABLE, 2).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("residual, squares", RESIDUALS)
def test_sampled_residuals_are_unbiased_with_honest_errors(residual, squares):
    norms = squares(TABLE, 1).sum(axis=(1, 2))
    exact, n_seeds, samples = norms.mean(), 300, 100
    runs = [residual(table_game(TABLE), 1, "sampled", samples, seed) for seed in range(n_seeds)]
    values = np.array([run.value for run in runs])
    errors = np.array([run.standard_error for run in runs])
    sigma = norms.std() / np.sqrt(samples)
    assert abs(values.mean() - exact) < 5 * sigma / np.sqrt(n_seeds)
    assert abs(values.std() / sigma - 1) < 5 / np.sqrt(2 * n_seeds)
    covered = (np.abs(values - exact) < 1.984 * errors).mean()  # Student's 97.5 % point with 99 degrees of freedom
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n_seeds)


@pytest.mark.parametrize("residual", [dummy_residual, isolation_residual])
def test_sampling_keeps_its_budget_and_ignores_batch_sizes(residual):
    results = [residual(table_game(TABLE, batch_size=size), 3, "sampled", 50, seed=8) for size in (None, 1, 7)]
    assert len({result.value for result in results}) == len({result.standard_error for result in results}) == 1
    expected = 100 if residual is dummy_residual else 52
    assert all(result.n_evaluations <= expected for result in results)
    assert np.isnan(residual(table_game(TABLE), 3, "sampled", 1).standard_error)


def test_a_player_by_name():
    game = table_game(TABLE, names=list("abcde"))
    assert dummy_residual(game, "c").value == dummy_residual(game, 2).value
    assert isolation_residual(game, "c").value == isolation_residual(game, 2).value


def test_one_player():
    game = table_game([1.0, 4.0])
    assert dummy_residual(game, 0).value == 9 and isolation_residual(game, 0).value == 0
    assert dummy_residual(game, 0, "sampled", 10).value == 9
    assert isolation_residual(game, 0, "sampled", 10).value == 0


@given(st.integers(1, 7), st.integers(0, 2**32), st.data())
@settings(max_examples=40, deadline=None)
def test_theorem_1_from_dummies_to_the_condition(n_players, seed, data):
    player = data.draw(st.integers(0, n_players - 1))
    two_values = np.random.default_rng(seed).normal(size=(2, 3))
    game = table_game(two_values[np.arange(2**n_players) >> player & 1])
    for other in set(range(n_players)) - {player}:
        assert dummy_residual(game, other).value == 0
    assert isolation_residual(game, player).value == 0
    assert isolation_residual(game, player, "sampled", 20, seed).value == 0


@given(st.integers(2, 5), st.integers(0, 2**32), st.data())
@settings(max_examples=100, deadline=None)
def test_theorem_1_both_ways_on_games_of_zeros_and_ones(n_players, seed, data):
    player = data.draw(st.integers(0, n_players - 1))
    influential = data.draw(st.integers(0, 2**n_players - 1))  # the players that the game may depend on
    table = np.random.default_rng(seed).integers(0, 2, 2**n_players)[np.arange(2**n_players) & influential]
    game = table_game(table)
    others_are_dummies = all(dummy_residual(game, other).value == 0 for other in range(n_players) if other != player)
    assert (isolation_residual(game, player).value == 0) == others_are_dummies


def test_zero_shapley_values_do_not_make_dummies():
    (published,) = [game for game in GAMES if game["name"] == "zero Shapley values without dummies"]
    table = published["value_table"]
    np.testing.assert_allclose(shapley_values(table), 0, atol=1e-15)
    for player in (1, 2):
        assert dummy_residual(table_game(table), player).value > 0
    for player in range(3):
        assert isolation_residual(table_game(table), player).value > 0


def test_one_coalition_in_many_is_enough():
    table = np.zeros(2**10)
    table[0b0110111011] = 1e-6
    assert dummy_residual(table_game(table), 0).value == pytest.approx(1e-12 / 2**9)
    assert isolation_residual(table_game(table), 2).value == pytest.approx(1e-12 / 2**10)


@pytest.mark.parametrize("residual", [dummy_residual, isolation_residual])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"player": 5}, "player 5 is out of range, expected 0 to 4"),
        ({"player": "nose"}, "player 'nose' is not among the names 0, 1, 2, 3, 4"),
        ({"player": 0, "method": "quick"}, "method must be one of 'exact', 'sampled', got 'quick'"),
        ({"player": 0, "samples": 0, "method": "sampled"}, "samples must be an integer of at least 1, got 0"),
        (
            {"player": 0, "seed": -1, "method": "sampled"},
            r"seed must be an integer in \[0, 2\*\*64\), got -1",
        ),
    ],
)
def test_errors(residual, arguments, message):
    with pytest.raises(ValueError, match=message):
        residual(table_game(TABLE), **arguments)


@pytest.mark.parametrize("residual", [dummy_residual, isolation_residual])
def test_too_many_players_for_exact(residual):
    from shapkit import weighted_voting

    game = weighted_voting([1.0] * 70, quota=35)
    with pytest.raises(ValueError, match=r'70 players.*method="sampled" for residuals'):
        residual(game, 0)
    assert game.n_evaluations == 0
    assert residual(game, 0, "sampled", 100).n_evaluations <= 200
