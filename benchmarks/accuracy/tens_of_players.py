"""How accurate the default is with 22 to 100 players, and how often its intervals hold: two minutes on one core.

    python -m benchmarks.accuracy.tens_of_players            # print
    python -m benchmarks.accuracy.tens_of_players --publish  # and write docs/results/tens_of_players.json
    python -m benchmarks.accuracy.tens_of_players --redraw   # print what was published before

Too many players for a table of all coalitions, and few enough to tell them apart: here a change of the kernel does what
it does not do with fourteen. Of airport games and of sums of unanimity games the exact values are known for any number
of players. Run it whenever the Gaussian process changes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapkit
from benchmarks.accuracy.games import BenchmarkGame, large_airport, large_unanimity
from benchmarks.accuracy.records import Record, machine, print_report
from benchmarks.accuracy.runs import share_held, warm_up

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "tens_of_players.json"
PLAYERS = (22, 30, 50, 100)
MAKERS = {"airport": large_airport, "unanimity": large_unanimity}
GAMES_EACH, SEEDS = 2, 2
FACTORS = (5, 10, 20)  # evaluations per player
LARGE_BUDGET = 1_000


def budgets(n_players: int) -> list[int]:
    """The numbers of evaluations that a game of so many players is given."""
    return sorted({*(factor * n_players for factor in FACTORS), LARGE_BUDGET})


def games() -> Iterator[BenchmarkGame]:
    """Some of each kind and size."""
    for kind, make in MAKERS.items():
        for n_players in PLAYERS:
            for number in range(GAMES_EACH):
                yield make(kind, n_players, seed=n_players + number)


def estimated(game: BenchmarkGame, budget: int, seed: int) -> Record:
    """The squared error relative to the values' squares, the share of players whose interval holds, and seconds."""
    started = time.perf_counter()
    found = shapkit.estimate(shapkit.Game(game.value, game.n_players), budget, method="gaussian_process", seed=seed)
    seconds = time.perf_counter() - started
    assert found.standard_errors is not None
    squares = float((game.exact**2).sum())
    return {
        "game": game.name,
        "n_players": game.n_players,
        "budget": budget,
        "error": float(((found.values - game.exact) ** 2).sum()) / squares,
        "coverage": share_held(found.values, found.standard_errors, game.exact),
        "width": float((found.standard_errors**2).sum()) / squares,
        "seconds": seconds,
    }


def measured() -> dict[str, Any]:
    """A row for each kind of game, number of players and budget: means over games and seeds."""
    warm_up(lambda value, n_players, budget, seed: shapkit.estimate(shapkit.Game(value, n_players), budget).values)
    cells: dict[tuple[str, int, int], list[Record]] = {}
    for game in games():
        for budget in budgets(game.n_players):
            records = [estimated(game, budget, seed) for seed in range(SEEDS)]
            cells.setdefault((game.name, game.n_players, budget), []).extend(records)
    means = ("error", "coverage", "width")
    return {
        "command": "python -m benchmarks.accuracy.tens_of_players",
        "rows": [
            records[0]
            | {name: statistics.fmean(record[name] for record in records) for name in means}
            | {"seconds": statistics.median(record["seconds"] for record in records)}
            for records in cells.values()
        ],
        "estimates": GAMES_EACH * SEEDS,
        "machine": machine("shapkit"),
        "measured": time.strftime("%Y-%m-%d"),
    }


def report(results: dict[str, Any]) -> str:
    """A line for each row."""
    lines = [
        "squared error ÷ the values' squares, the same of standard errors, and how often 95 % intervals hold",
        f"{'':<12}{'n':>5}{'evaluations':>13}{'error':>10}{'foretold':>10}{'coverage':>10}{'seconds':>9}",
    ]
    lines += [
        f"{row['game']:<12}{row['n_players']:>5}{row['budget']:>13,}{row['error']:>10.2g}{row['width']:>10.2g}"
        f"{row['coverage']:>10.1%}{row['seconds']:>9.2f}"
        for row in results["rows"]
    ]
    return "\n".join([*lines, f"{results['estimates']} estimates of each", results["machine"]])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help="write docs/results/tens_of_players.json")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    options = parser.parse_args(arguments)
    print_report(report, RESULTS, measured, options.redraw, options.publish)


if __name__ == "__main__":
    main()
