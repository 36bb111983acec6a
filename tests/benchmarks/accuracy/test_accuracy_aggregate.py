"""What the accuracy benchmark says of records whose answers are known."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

COUNCIL, AIRPORT = "council of the EU", "airport"


@pytest.fixture
def aggregating() -> ModuleType:
    return importlib.import_module("benchmarks.accuracy.aggregate")


@pytest.fixture
def reporting() -> ModuleType:
    return importlib.import_module("benchmarks.accuracy.report")


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _seeds(game: str, method: str, squared_errors: Sequence[float | None]) -> list[dict[str, Any]]:
    """Records of one method at 10 evaluations per player; None is a failure."""
    return [
        {"game": game, "method": method, "factor": 10, "seed": seed}
        | (
            {"error": "ValueError: no"}
            if squared_error is None
            else {"seconds": 0.5, "squared_error": squared_error, "evaluations": 100}
        )
        for seed, squared_error in enumerate(squared_errors)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two games, on which auto's error relative to permutation sampling's is 1/4 and 1."""
    shapkit = _seeds(COUNCIL, "permutation", [1.0, 3.0]) + _seeds(AIRPORT, "permutation", [2.0, 2.0])
    shapkit += _seeds(COUNCIL, "auto", [0.25, 0.75]) + _seeds(AIRPORT, "auto", [2.0, 2.0])
    shapkit += _seeds(COUNCIL, "gaussian_process", [0.25, 0.75]) + _seeds(AIRPORT, "gaussian_process", [2.0, 2.0])
    peers = _seeds(COUNCIL, "shapiq A", [1.0, 1.0]) + _seeds(AIRPORT, "shapiq A", [8.0, 8.0])
    peers += _seeds(COUNCIL, "shap B", [4.0, 4.0]) + _seeds(AIRPORT, "shap B", [1.0, 1.0])
    peers += _seeds(COUNCIL, "shap C", [1e-3, None]) + _seeds(AIRPORT, "shap C", [4.0, 4.0])
    slow = _seeds(COUNCIL, "shapiq ShaplEIG", [0.125]) + _seeds(AIRPORT, "shapiq ShaplEIG", [1e-6])
    for name, records in (("shapkit", shapkit), ("peers", peers), ("slow", slow)):
        _write(tmp_path / f"{name}.jsonl", records)
    return tmp_path


def test_geometric_means_are_relative_to_permutation_sampling(aggregating: ModuleType, folder: Path) -> None:
    methods = aggregating.aggregate(folder)["methods"]
    assert methods["permutation"]["10"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n_games": 2, "of_games": 2}
    assert methods["auto"]["10"]["value"] == pytest.approx((1 / 4 * 1) ** 0.5)
    assert methods["shapiq A"]["10"]["value"] == pytest.approx((1 / 2 * 4) ** 0.5)
    assert "shapiq ShaplEIG" not in methods


def test_each_game_is_compared_with_its_best_peer(aggregating: ModuleType, folder: Path) -> None:
    results = aggregating.aggregate(folder)
    compared = results["against_peers"]["auto"]["10"]
    assert {name: found["peer"] for name, found in compared["games"].items()} == {
        COUNCIL: "shapiq A",
        AIRPORT: "shap B",
    }
    assert [found["value"] for found in compared["games"].values()] == [0.5, 2.0]
    assert compared["geometric_mean"]["value"] == pytest.approx(1.0)
    assert compared["worst"]["value"] == 2.0
    # The council's resampled means are 1/4, 1/2 and 3/4, with chances of 1/4, 1/2 and 1/4
    council = compared["games"][COUNCIL]
    assert (council["low"], council["high"]) == (0.25, 0.75)
    assert compared["geometric_mean"]["low"] == pytest.approx(0.5**0.5)
    assert compared["geometric_mean"]["high"] == pytest.approx(1.5**0.5)
    slow = results["slow"]["shapiq ShaplEIG"]["auto"]["10"]
    assert slow["games"][COUNCIL] == 0.25 / 0.125  # on the seed that the slow method has
    assert slow["seeds"] == [1, 1]


def test_a_method_that_fails_for_a_seed_is_left_out_of_that_game(aggregating: ModuleType, folder: Path) -> None:
    results = aggregating.aggregate(folder)
    council = results["games"][COUNCIL]["factors"]["10"]
    assert council["failed"] == {"shap C": "ValueError: no"}
    assert "shap C" not in council["methods"]
    found = results["methods"]["shap C"]["10"]
    assert (found["value"], found["n_games"], found["of_games"]) == (pytest.approx(2.0), 1, 2)


def test_errors_that_are_rounding_are_equal(aggregating: ModuleType, tmp_path: Path) -> None:
    records = _seeds(COUNCIL, "permutation", [1.0]) + _seeds(AIRPORT, "permutation", [1e-30])
    records += _seeds(COUNCIL, "auto", [1e-28]) + _seeds(AIRPORT, "auto", [1e-26])
    _write(tmp_path / "shapkit.jsonl", records)
    _write(tmp_path / "peers.jsonl", _seeds(COUNCIL, "shap B", [1e-29]) + _seeds(AIRPORT, "shap B", [1.0]))
    results = aggregating.aggregate(tmp_path)
    # The airport game, which permutation sampling solved here, is left out; the council's error counts as the least
    least = results["games"][COUNCIL]["factors"]["10"]["least"]
    assert results["methods"]["auto"]["10"]["value"] == pytest.approx(least)
    assert results["against_peers"]["auto"]["10"]["games"][COUNCIL]["value"] == 1.0


def test_the_bootstrap_interval_is_that_of_a_mean(aggregating: ModuleType) -> None:
    sample = np.random.default_rng(1).exponential(size=400)
    found = aggregating._interval(aggregating.resampled_means(sample, 0.0, np.random.default_rng(2)))
    error = sample.std(ddof=1) / 20
    assert found["value"] == pytest.approx(sample.mean())
    # The 2.5 % quantile of 2,000 normal draws has an s.d. of 0.06 of theirs; 5 % more is for the sample's skewness
    assert abs(found["low"] - (sample.mean() - 1.96 * error)) < 0.3 * error
    assert abs(found["high"] - (sample.mean() + 1.96 * error)) < 0.3 * error


def test_what_auto_chose_is_said_once(aggregating: ModuleType, reporting: ModuleType, folder: Path) -> None:
    results = aggregating.aggregate(folder)
    said = reporting.report(results).splitlines()
    assert [line.split()[0] for line in said if "gaussian_process" in line] == ["auto"]
    assert any(line.startswith("auto (gaussian_process) ") for line in said)
    results["games"][AIRPORT]["factors"]["10"]["methods"]["gaussian_process"]["mean_squared_error"] = 3.0
    said = reporting.report(results).splitlines()
    assert [line.split()[0] for line in said if "gaussian_process" in line] == ["gaussian_process"]


def test_large_rows_are_relative_to_the_same_budget(
    aggregating: ModuleType, reporting: ModuleType, folder: Path
) -> None:
    game = importlib.import_module("benchmarks.accuracy.games").LARGE_GAMES["airport 30"]()
    scale = float((game.exact**2).sum())
    rows = [("permutation", 8_192, 0.04), ("auto", 8_192, 0.01), ("permutation", 16_384, 0.01), ("auto", 16_384, 0.005)]
    records = [
        {"game": game.name, "n_players": 30, "method": method, "budget": budget, "seed": seed}
        | {"seconds": 12.0, "squared_error": factor * share * scale, "evaluations": budget}
        for method, budget, share in rows
        for seed, factor in enumerate((0.5, 1.5))
    ]
    _write(folder / "large.jsonl", records)
    results = aggregating.aggregate(folder)
    first, second = results["large"]
    assert (first["budget"], second["budget"]) == (8_192, 16_384)
    assert first["baseline_error"] == pytest.approx(0.2)
    assert first["methods"]["auto"]["relative"] == pytest.approx(0.25)
    assert second["methods"]["auto"]["relative"] == pytest.approx(0.5)
    lines = reporting.report(results).splitlines()
    assert ["airport", "30", "8,192", "20", "%", ".25", "12", "12"] in [line.split() for line in lines]


def test_coverage_and_bias_are_those_of_the_estimates(
    aggregating: ModuleType, reporting: ModuleType, folder: Path
) -> None:
    n_blocks, n_repetitions, n_players = 2, 50, 3
    errors = np.random.default_rng(3).normal(0.1, 1.0, (n_blocks, n_repetitions, n_players))
    held = np.abs(errors) < [1.0, 1.5, 2.0]
    rows = [
        {"game": "coverage MLP", "n_players": n_players, "method": "permutation", "factor": 20, "first": 50 * block}
        | {"repetitions": n_repetitions, "held": held[block].sum(axis=0).tolist()}
        | {"errors": errors[block].sum(axis=0).tolist(), "squares": (errors[block] ** 2).sum(axis=0).tolist()}
        for block in range(n_blocks)
    ]
    _write(folder / "coverage.jsonl", rows)
    results = aggregating.aggregate(folder)
    (row,) = results["coverage"]
    flat = errors.reshape(-1, n_players)
    assert row["repetitions"] == 100
    assert row["coverage"] == pytest.approx(held.mean())
    assert row["worst_player"] == pytest.approx(held.mean(axis=(0, 1)).min())
    standard_errors = flat.std(axis=0, ddof=1) / 10
    assert row["bias_in_standard_errors"] == pytest.approx((np.abs(flat.mean(axis=0)) / standard_errors).max())
    said = reporting.report(results)
    assert f"outside 92 to 98 %: permutation, 20n on MLP ({100 * held.mean():.1f} %)" in said
    row["coverage"] = 0.95
    assert "outside 92 to 98 %: none" in reporting.report(results)
