"""The benchmark of many players: its games, and that each cell is measured once, in a process of its own."""

import json
from pathlib import Path

import numpy as np
import pytest

import shapkit
from benchmarks.accuracy import many_players


def test_the_additive_game_is_what_it_says() -> None:
    game = many_players.additive(13)
    found = shapkit.exact(shapkit.Game(game.value, 13))
    np.testing.assert_allclose(found.values, game.exact, atol=1e-12)
    rest = np.random.default_rng(0).random((20, 13)) < 0.5
    with_last, without = rest.copy(), rest.copy()
    with_last[:, -1], without[:, -1] = True, False
    np.testing.assert_allclose(game.value(with_last) - game.value(without), game.exact[-1])


def test_games_are_measured_kept_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(many_players, "PLAYERS", (14,))
    monkeypatch.setattr(many_players, "SEEDS", {14: 1})
    arguments = ["run", "--cache", str(tmp_path)]
    many_players.main(arguments)
    kept = (tmp_path / "shapkit.jsonl").read_text()
    records = [json.loads(line) for line in kept.splitlines()]
    assert len(records) == 4 * 2 and all(record["evaluations"] <= record["factor"] * 14 for record in records)
    assert all(record["megabytes"] > 10 for record in records)
    many_players.main(arguments)
    assert (tmp_path / "shapkit.jsonl").read_text() == kept, "what is known is not measured again"
    auto = next(record for record in records if record["game"] == "airport" and record["method"] == "auto")
    peer = auto | {"method": "shapiq RegressionMSR", "squared_error": 2 * auto["squared_error"]}
    (tmp_path / "peers.jsonl").write_text(json.dumps(peer) + "\n")
    (row, *_) = rows = many_players.aggregate(tmp_path)
    assert [(row["game"], row["factor"]) for row in rows] == [
        ("additive", 2.02),
        ("additive", 10),
        ("airport", 10),
        ("unanimity", 10),
    ]
    assert row["methods"]["auto"]["additive_error"] >= 0
    capsys.readouterr()
    many_players.main(["report", "--cache", str(tmp_path)])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("airport"))
    assert line.split()[1:3] == ["14", "140"] and "shapiq RegressionMSR" in line and " 0.50 " in line


def test_a_process_that_is_killed_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> np.ndarray:
        import os

        os._exit(9)

    game = many_players.additive(12)
    record = many_players._measured(("additive", 12, "auto", 10, 0), game, killed)
    assert record["error"] == "the process ended with 9" and record["n_players"] == 12
