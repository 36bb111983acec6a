"""The accuracy benchmark's sub-commands keep what they measure, go on after a kill, and report it."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def accuracy() -> ModuleType:
    return importlib.import_module("benchmarks.accuracy.__main__")


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _run(accuracy: ModuleType, folder: Path, seeds: int, *only: str) -> None:
    arguments = ["run", "--cache", str(folder), "--games", "council of the EU", "--factors", "5"]
    accuracy.main([*arguments, "--seeds", str(seeds), "--only", *(only or ["permutation"])])


def test_no_method_evaluates_more_than_its_budget(accuracy: ModuleType) -> None:
    methods = importlib.import_module("benchmarks.accuracy.methods")
    counted = methods.CountedValue(lambda rows: rows.sum(axis=1), n_players=3, budget=4)
    ends = np.array([[False] * 3, [True] * 3])
    counted(ends)
    counted(ends)  # paid for already
    counted(np.array([True, False, False]))
    counted(np.array([True, False, False]))  # a repeated coalition is not free
    assert counted.n_evaluations == 4
    with pytest.raises(methods.OverBudgetError, match="5 evaluations asked for, 4 granted"):
        counted(np.array([False, True, False]))


def test_a_method_beyond_its_budget_is_granted_less_or_fails(accuracy: ModuleType) -> None:
    runs, games = (
        importlib.import_module("benchmarks.accuracy.runs"),
        importlib.import_module("benchmarks.accuracy.games"),
    )
    game = games.large_airport("airport 8", 8, seed=1)

    def greedy(value: Any, n_players: int, budget: int, seed: int) -> Any:
        value(np.eye(n_players, dtype=bool)[np.arange(budget + 3) % n_players])
        return game.exact + 1.0

    assert runs.measure(greedy, game, budget=20, seed=0) == {
        "error": "over budget: 23 evaluations asked for, 20 granted"
    }
    measured = runs.measure(greedy, game, budget=20, seed=0, tries=2)  # granted 20 less 8 / 2
    assert measured["evaluations"] == 19
    assert measured["squared_error"] == pytest.approx(8.0)


def test_a_killed_run_goes_on_and_is_reported(
    accuracy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(accuracy, tmp_path, seeds=2)
    before = (tmp_path / "shapkit.jsonl").read_text(encoding="utf-8")
    (tmp_path / "shapkit.jsonl").write_text(before + '{"game": "council', encoding="utf-8")
    _run(accuracy, tmp_path, seeds=3)
    kept = (tmp_path / "shapkit.jsonl").read_text(encoding="utf-8")
    assert kept.startswith(before) and len(kept.splitlines()) == 4  # the broken line, and one record more
    capsys.readouterr()
    accuracy.main(["report", "--cache", str(tmp_path)])
    assert "permutation" in capsys.readouterr().out
    results = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))
    measured = results["games"]["council of the EU"]["factors"]["5"]["methods"]["permutation"]
    assert measured["n_seeds"] == 3
    assert measured["evaluations"] <= 5 * 27
    assert results["methods"]["permutation"]["5"]["value"] == 1.0
    assert (tmp_path / "accuracy.png").stat().st_size > 0


def test_records_keep_their_format_and_can_be_forgotten(accuracy: ModuleType, tmp_path: Path) -> None:
    _run(accuracy, tmp_path, 1, "permutation", "kernel")
    path = tmp_path / "shapkit.jsonl"
    first = ["game", "method", "factor", "seed", "seconds", "squared_error", "evaluations"]
    assert [list(record) for record in _records(path)] == [first, first]
    path.write_text(
        path.read_text(encoding="utf-8").replace('"squared_error": ', '"squared_error": 7'), encoding="utf-8"
    )
    changed = _records(path)
    _run(accuracy, tmp_path, 1, "kernel", "--fresh")
    kept, measured = _records(path)
    assert kept == changed[0]
    assert measured["method"] == "kernel" and measured["squared_error"] != changed[1]["squared_error"]


def test_large_games_are_measured_and_reported(
    accuracy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(accuracy, tmp_path / "quick", seeds=1)
    arguments = ["large", "--quick", "--cache", str(tmp_path), "--games", "airport 30"]
    accuracy.main([*arguments, "--only", "permutation", "antithetic", "leverage", "stratified"])
    records = _records(tmp_path / "quick" / "large.jsonl")
    assert {record["method"] for record in records} == {"permutation", "antithetic", "leverage", "stratified"}
    assert all(record["budget"] == 512 for record in records)
    assert all(record.get("evaluations", 0) <= 512 for record in records)
    capsys.readouterr()
    accuracy.main(["report", "--quick", "--cache", str(tmp_path)])
    said = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "quick" / "accuracy.json").read_text(encoding="utf-8"))["large"]
    assert row["methods"]["permutation"]["relative"] == 1.0
    squared_errors = {record["method"]: record.get("squared_error") for record in records}
    ratio = squared_errors["leverage"] / squared_errors["permutation"]
    assert row["methods"]["leverage"]["relative"] == pytest.approx(ratio, rel=1e-3)
    assert "stratified" in row["failed"]
    assert any(line.split()[:3] == ["airport", "30", "512"] for line in said.splitlines())


def test_coverage_goes_on_and_is_reported(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coverage, games = (
        importlib.import_module("benchmarks.accuracy.coverage"),
        importlib.import_module("benchmarks.accuracy.games"),
    )
    make = partial(games.unanimity, 6, seed=1, n_carriers=9, sizes=(1, 4), signed=True)
    monkeypatch.setattr(coverage, "COVERAGE_TABLES", {"coverage unanimity": make})
    arguments = ["coverage", "--cache", str(tmp_path), "--factor", "8", "--only", "permutation", "kernel"]
    accuracy.main([*arguments, "--repetitions", "50"])
    accuracy.main([*arguments, "--repetitions", "60"])
    blocks = _records(tmp_path / "coverage.jsonl")
    assert [(block["method"], block["first"], block["repetitions"]) for block in blocks] == [
        ("permutation", 0, 50),
        ("kernel", 0, 50),
        ("permutation", 50, 10),
        ("kernel", 50, 10),
    ]
    for row in coverage.aggregate_coverage(tmp_path):
        assert row["repetitions"] == 60
        # Were the six intervals of a repetition one, the share of 60 would have an s.d. of 3 %; this is 5 of those
        assert 0.8 < row["coverage"] <= 1
        assert row["worst_player"] <= row["coverage"]
    _run(accuracy, tmp_path, seeds=1)
    capsys.readouterr()
    accuracy.main(["report", "--cache", str(tmp_path)])
    assert "Student's t" in capsys.readouterr().out
