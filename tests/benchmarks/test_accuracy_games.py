"""The accuracy benchmark measures what it says: its exact values, its count of evaluations, and its report."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import shapkit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("accuracy")


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("accuracy_games")


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


def test_no_method_evaluates_more_than_its_budget(accuracy: ModuleType) -> None:
    counted = accuracy.CountedValue(lambda rows: rows.sum(axis=1), n_players=3, budget=4)
    ends = np.array([[False] * 3, [True] * 3])
    counted(ends)
    counted(ends)  # paid for already
    counted(np.array([True, False, False]))
    counted(np.array([True, False, False]))  # a repeated coalition is not free
    assert counted.n_evaluations == 4
    with pytest.raises(accuracy.OverBudgetError, match="5 evaluations asked for, 4 granted"):
        counted(np.array([False, True, False]))


def test_a_killed_run_goes_on_and_is_reported(
    accuracy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--cache", str(tmp_path), "--games", "council of the EU", "--only", "permutation"]
    arguments += ["--factors", "5"]
    accuracy.run(tmp_path, accuracy.parsed([*arguments, "--seeds", "2"]))
    lines = (tmp_path / "shapkit.jsonl").read_text(encoding="utf-8")
    (tmp_path / "shapkit.jsonl").write_text(lines + '{"game": "council', encoding="utf-8")
    accuracy.run(tmp_path, accuracy.parsed([*arguments, "--seeds", "3"]))
    results = accuracy.aggregate(tmp_path)
    measured = results["games"]["council of the EU"]["factors"]["5"]["methods"]["permutation"]
    assert measured["n_seeds"] == 3
    assert measured["evaluations"] <= 5 * 27
    assert results["methods"]["permutation"]["5"]["value"] == 1.0
    assert "permutation" in accuracy.report(results)
    accuracy.draw(results, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 0
