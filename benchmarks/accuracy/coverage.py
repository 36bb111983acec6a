"""Whether the intervals of shapkit's methods hold the exact values as often as they say, and how large the bias is."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import shapkit
from benchmarks.accuracy.games import COVERAGE_TABLES, BenchmarkGame, kept_table, table_as_game
from benchmarks.accuracy.methods import CountedValue, registered
from benchmarks.accuracy.records import Cell, Record, fill, forget, read_lines

KEY = ("game", "method", "factor", "first")
BLOCK = 50  # seeds in a record


def measure_coverage(folder: Path, options: argparse.Namespace) -> None:
    """Estimates with their intervals, for many seeds; kept in blocks of `BLOCK` seeds."""
    path = folder / "coverage.jsonl"
    methods = [name for name in registered() if not options.only or name in options.only]
    if options.fresh:
        forget(path, methods)
    tables = {name: kept_table(name, make, folder / "games") for name, make in COVERAGE_TABLES.items()}
    games = [table_as_game(name, table) for name, table in tables.items()]
    fill(path, KEY, _cells(methods, games, options), options.minutes)


def _cells(methods: list[str], games: list[BenchmarkGame], options: argparse.Namespace) -> Iterator[Cell]:
    for first in range(0, options.repetitions, BLOCK):
        seeds = range(first, min(first + BLOCK, options.repetitions))
        for game in games:
            for method in methods:
                factor = affordable_factor(game.name, game.n_players, method, options.factor)
                if factor is not None:
                    measured = functools.partial(coverage_block, game, method, factor, seeds)
                    yield (game.name, method, factor, first), measured


@functools.cache
def affordable_factor(game: str, n_players: int, method: str, factor: int) -> int | None:
    """The evaluations per player asked for, or twice as many where the method refuses those; None if both."""
    table = np.random.default_rng(0).normal(size=2**n_players)
    for tried in (factor, 2 * factor):
        try:
            shapkit.estimate(shapkit.table_game(table), budget=tried * n_players, method=method, seed=0)
        except ValueError as error:
            print(f"{game}, {tried}n, {method}: {error}", flush=True)
        else:
            return tried
    return None


def coverage_block(game: BenchmarkGame, method: str, factor: int, seeds: range) -> Record:
    """How often intervals held the exact values, and the sums that tell bias, over some seeds."""
    held, total, squares = (np.zeros(game.n_players) for _ in range(3))
    budget, rounding = factor * game.n_players, 1e-12 * float(np.abs(game.exact).max())
    for seed in seeds:
        counted = CountedValue(game.value, game.n_players, budget)
        found: Any = shapkit.estimate(shapkit.Game(counted, game.n_players), budget=budget, method=method, seed=seed)
        low, high = found.interval(0.95)
        held += (low - rounding <= game.exact) & (game.exact <= high + rounding)
        error = found.values - game.exact
        total += error
        squares += error**2
    return {
        "game": game.name,
        "n_players": game.n_players,
        "method": method,
        "factor": factor,
        "first": seeds.start,
        "repetitions": len(seeds),
        "held": held.tolist(),
        "errors": total.tolist(),
        "squares": squares.tolist(),
    }


def aggregate_coverage(folder: Path) -> list[Record]:
    """Per method and game: coverage over players, that of the worst player, and the bias in standard errors."""
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in read_lines(folder / "coverage.jsonl"):
        groups.setdefault((record["game"], record["method"], record["factor"]), []).append(record)
    rows = []
    for (game, method, factor), blocks in groups.items():
        n = sum(block["repetitions"] for block in blocks)
        held, errors, squares = (
            np.sum([block[name] for block in blocks], axis=0) for name in ("held", "errors", "squares")
        )
        variances = np.maximum(squares / n - (errors / n) ** 2, 0.0)
        standard_errors = np.sqrt(variances / max(1, n - 1))
        moved = np.abs(errors / n) > 1e-12
        in_errors = np.divide(np.abs(errors / n), standard_errors, out=np.zeros_like(errors), where=moved)
        rows.append(
            {
                "game": game.removeprefix("coverage "),
                "method": method,
                "n_players": blocks[0]["n_players"],
                "factor": factor,
                "repetitions": n,
                "coverage": float(held.mean() / n),
                "worst_player": float(held.min() / n),
                "bias_in_standard_errors": float(in_errors.max()),
                "bias_share": float(np.sqrt((errors**2).sum() / n**2 / max(squares.sum() / n, 1e-300))),
            }
        )
    return rows
