"""The benchmark of interactions: every cell is measured once, relative to the game's squares, and compared per game."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shapkit
from benchmarks.accuracy import real_games


@pytest.fixture
def games(tmp_path: Path) -> Path:
    folder = tmp_path / "games"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("AdultCensus_DataValuation_n7__x", "SOUM_n7__y"):
        np.savez(folder / f"{name}.npz", table=generator.normal(size=128))
    return folder


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def zero(value: Any, n_players: int, budget: int, seed: int) -> Any:
        value(np.zeros((1, n_players), dtype=bool))
        return np.zeros(n_players * (n_players - 1) // 2)

    def half_right(value: Any, n_players: int, budget: int, seed: int) -> Any:
        game = shapkit.Game(lambda c: value(c), n_players)
        return shapkit.exact(game, "SII").values[n_players:] / 2 if budget > 2**n_players else 1 / 0

    def peers(order: int) -> dict[str, Any]:
        return {"shapiq zero": zero, "shapiq broken": half_right}

    monkeypatch.setitem(real_games.METHODS, "peers", peers)


def test_a_whole_comparison(games: Path, peers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--games", str(games), "--cache", str(tmp_path / "cache")]
    for methods in ("shapkit", "peers"):
        real_games.main(["run", *cache, "--methods", methods])
    lines = (tmp_path / "cache" / "order-2" / "shapkit.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 2 * 2  # games, factors below all 128 coalitions, seeds
    real_games.main(["run", *cache])
    assert (tmp_path / "cache" / "order-2" / "shapkit.jsonl").read_text().splitlines() == lines
    found = real_games.aggregate(tmp_path / "cache" / "order-2", 2)
    for game in found["games"].values():
        assert game["factors"]["5"]["shapiq zero"]["errors"] == [1.0, 1.0]  # nothing is all of the squares
        assert "shapiq broken" not in game["factors"]["5"]
    summary = found["summary"]["all"]
    ratios = [np.mean(game["factors"]["10"]["auto"]["errors"]) for game in found["games"].values()]
    assert summary["10"]["ratio"] == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert summary["10"]["worst"] == pytest.approx(max(ratios)) and summary["10"]["n_games"] == 2
    assert summary["10"]["low"] <= summary["10"]["ratio"] <= summary["10"]["high"]
    capsys.readouterr()
    real_games.main(["report", *cache])
    shown = capsys.readouterr().out
    assert "shapiq zero" in shown and "SOUM (1)" in shown and "DataValuation (1)" in shown
    json.dumps(found)


def test_families_and_the_exact_interactions(games: Path) -> None:
    assert real_games.family("AdultCensus_LocalExplanation_n14__model") == "LocalExplanation"
    assert (
        real_games.family("AdultCensus_RandomForestEnsembleSelection_EnsembleSelection_n10__l") == "EnsembleSelection"
    )
    for order in (2, 3):
        for game, path in zip(real_games.open_games(games, order), sorted(games.glob("*.npz")), strict=True):
            table = np.load(path)["table"]
            whole = shapkit.exact(shapkit.table_game(table), "SII", order)
            np.testing.assert_array_equal(game.exact, whole.values[[len(t) == order for t in whole.terms]])
            np.testing.assert_array_equal(game.value(np.ones((1, 7))), table[-1:])
