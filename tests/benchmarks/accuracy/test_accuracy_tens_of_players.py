"""The benchmark of tens of players: what it measures of an estimate, and its report."""

import json
from pathlib import Path

import numpy as np
import pytest

import shapkit
from benchmarks.accuracy import tens_of_players


def test_errors_and_coverage_are_those_of_the_estimate() -> None:
    game = tens_of_players.large_airport("airport", 12, seed=3)
    row = tens_of_players.estimated(game, 60, seed=1)
    found = shapkit.estimate(shapkit.Game(game.value, 12), 60, method="gaussian_process", seed=1)
    deviations = (found.values - game.exact) / found.standard_errors
    assert row["coverage"] == np.mean(np.abs(deviations) <= 1.96)
    assert row["error"] == pytest.approx(((found.values - game.exact) ** 2).sum() / (game.exact**2).sum())


def test_a_row_for_each_game_and_budget_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tens_of_players, "PLAYERS", (9,))
    monkeypatch.setattr(tens_of_players, "LARGE_BUDGET", 100)
    monkeypatch.setattr(tens_of_players, "RESULTS", tmp_path / "results.json")
    tens_of_players.main(["--publish"])
    first = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(row["game"], row["budget"]) for row in results["rows"]] == [
        (kind, budget) for kind in ("airport", "unanimity") for budget in (45, 90, 100, 180)
    ]
    tens_of_players.main(["--redraw"])
    assert len(first.splitlines()) == len(capsys.readouterr().out.splitlines()) == 8 + 4
