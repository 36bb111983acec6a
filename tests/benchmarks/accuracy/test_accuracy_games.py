"""The games of the accuracy benchmark have the exact values that they say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import shapkit


@pytest.fixture
def games() -> ModuleType:
    return importlib.import_module("benchmarks.accuracy.games")


def test_generating_functions_count_what_enumeration_finds(games: ModuleType) -> None:
    weights, quota = [7, 5, 5, 3, 2, 1, 1], 13
    exact = shapkit.exact(shapkit.weighted_voting(weights, quota))
    np.testing.assert_allclose(games.shapley_shubik(weights, quota), exact.values, atol=1e-14)


@pytest.mark.parametrize("name", ["electoral college", "council of the EU", "airport", "unanimity, signed"])
def test_exact_values_sum_to_what_everybody_is_worth(games: ModuleType, name: str, tmp_path: Path) -> None:
    game = games.open_game(name, tmp_path)
    nobody, everybody = game.value(np.array([[False] * game.n_players, [True] * game.n_players]))
    assert game.exact.sum() == pytest.approx(everybody - nobody, abs=1e-12)


def test_a_kept_table_is_the_one_that_was_made(games: ModuleType, tmp_path: Path) -> None:
    made = games.open_game("unanimity, signed", tmp_path)
    np.testing.assert_array_equal(games.open_game("unanimity, signed", tmp_path).exact, made.exact)


def test_closed_forms_are_what_enumeration_finds(games: ModuleType) -> None:
    airport = games.large_airport("airport 9", 9, seed=1)
    unanimity = games.large_unanimity("unanimity 9", 9, seed=2)
    for game in (airport, unanimity):
        exact = shapkit.exact(shapkit.Game(game.value, 9)).values
        np.testing.assert_allclose(game.exact, exact, atol=1e-12)


def test_large_games_are_known_by_their_names(games: ModuleType) -> None:
    for name, make in games.LARGE_GAMES.items():
        game = make()
        assert game.name == name and game.exact.shape == (game.n_players,)
        nobody, everybody = game.value(np.array([[False] * game.n_players, [True] * game.n_players]))
        assert game.exact.sum() == pytest.approx(everybody - nobody, rel=1e-12, abs=1e-10)
