"""How accurate sampled Shapley values of many players are, and what they cost, beside those of others.

    python -m benchmarks.accuracy.many_players run --methods shapkit   # each result is kept: a killed run goes on
    python -m benchmarks.accuracy.many_players run --methods peers     # in an interpreter with shapiq and shap
    python -m benchmarks.accuracy.many_players report --publish        # docs/results/many_players.json
    python -m benchmarks.accuracy.many_players report --redraw         # print what was published

Two games whose exact values are known for any number of players, ten evaluations per player. Airport: the costliest
member pays, so that few players matter to most coalitions. Unanimity: a sum of three unanimity games for each player. A
third has 100 players, ten of which interact, and is measured at two evaluations per player as well: of the ninety
others, two evaluations of each would be enough. Every estimate is made in a process of its own, whose memory is
measured.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import shapkit
from benchmarks.accuracy.games import BenchmarkGame, large_airport, large_unanimity
from benchmarks.accuracy.methods import METHODS, Estimate, is_peer
from benchmarks.accuracy.records import (
    Cell,
    Record,
    fill,
    machine,
    machines_in,
    print_report,
    read_lines,
    write_whole,
)
from benchmarks.accuracy.runs import measure, warm_up

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "many_players.json"
KEY = ("game", "n_players", "method", "factor", "seed")
PLAYERS = (100, 300, 1000, 2000)
SEEDS = {100: 3, 300: 3, 1000: 1, 2000: 1}
FACTOR, LEAST_FACTOR = 10, 2.02
OWN = ("auto", "antithetic")
MOST_PLAYERS = {  # that a method of others is asked for here: beyond, it takes minutes, or more memory than there is
    "shapiq RegressionMSR": 2000,
    "shapiq RegressionMSR, linear": 2000,
    "shapiq OddSHAP": 2000,
    "shapiq permutation": 2000,
    "shap Permutation": 2000,
    "shapiq LeverageSHAP": 1000,
    "shapiq KernelSHAP": 1000,
}
N_INTERACTING = 10


def additive(n_players: int) -> BenchmarkGame:
    """Ten players that interact, and others of whom each adds what it is worth."""
    rng = np.random.default_rng(5)
    worth, directions = rng.normal(size=n_players), rng.normal(size=(N_INTERACTING, 4))
    worth[:N_INTERACTING] = 0.0

    def among_ten(coalitions: Any) -> Any:
        return np.tanh(np.asarray(coalitions, dtype=np.float64)[:, :N_INTERACTING] @ directions).sum(axis=1)

    def value(coalitions: Any) -> Any:
        return np.asarray(coalitions, dtype=np.float64) @ worth + among_ten(coalitions)

    exact = worth.copy()
    exact[:N_INTERACTING] = shapkit.exact(shapkit.Game(among_ten, N_INTERACTING)).values
    return BenchmarkGame("additive", n_players, value, exact)


def games() -> Iterator[tuple[BenchmarkGame, tuple[float, ...]]]:
    """The games, and how many evaluations per player each is given."""
    for n_players in PLAYERS:
        yield large_airport("airport", n_players, seed=n_players), (FACTOR,)
        yield large_unanimity("unanimity", n_players, seed=n_players + 1), (FACTOR,)
        if n_players == PLAYERS[0]:
            yield additive(n_players), (LEAST_FACTOR, FACTOR)


def cells(methods: dict[str, Estimate]) -> Iterator[Cell]:
    for game, factors in games():
        for factor in factors:
            for name, estimate in methods.items():
                if game.n_players <= MOST_PLAYERS.get(name, 0 if is_peer(name) else PLAYERS[-1]):
                    for seed in range(SEEDS[game.n_players]):
                        key = (game.name, game.n_players, name, factor, seed)
                        yield key, partial(_measured, key, game, estimate)


def _measured(key: tuple[Any, ...], game: BenchmarkGame, estimate: Estimate) -> Record:
    """One estimate, in a process of its own, which ends with it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child() -> None:
        errors: dict[str, float] = {}

        def kept(*arguments: Any) -> Any:
            values = estimate(*arguments)
            if game.name == "additive":
                errors["additive_error"] = float(np.abs(values - game.exact)[N_INTERACTING:].max())
            return values

        record = measure(kept, game, int(key[3] * game.n_players), key[4], tries=8 if is_peer(key[2]) else 1)
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        theirs.send(record | errors | {"megabytes": megabytes})

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        record = ours.recv()
    except EOFError:
        process.join()
        record = {"error": f"the process ended with {process.exitcode}"}
    process.join()
    squares = {"squares": float((game.exact**2).sum())}
    return dict(zip(KEY, key, strict=True)) | record | squares


def aggregate(folder: Path) -> list[dict[str, Any]]:
    """Of each game and number of evaluations, every method's relative squared error, seconds and megabytes."""
    found: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for which in ("shapkit", "peers"):
        for record in read_lines(folder / f"{which}.jsonl"):
            if "squared_error" in record:
                cell = found.setdefault((record["game"], record["n_players"], record["factor"]), {})
                cell.setdefault(record["method"], []).append(record)
    return [
        {
            "game": game,
            "n_players": n_players,
            "factor": factor,
            "methods": {
                name: {
                    "error": statistics.fmean(record["squared_error"] / record["squares"] for record in records),
                    "seconds": statistics.median(record["seconds"] for record in records),
                    "megabytes": max(record["megabytes"] for record in records),
                    **_largest(records, "additive_error"),
                }
                for name, records in by_method.items()
            },
        }
        for (game, n_players, factor), by_method in sorted(found.items(), key=lambda entry: entry[0])
    ]


def _largest(records: list[Record], name: str) -> dict[str, float]:
    return {name: max(record[name] for record in records)} if name in records[0] else {}


def report(results: dict[str, Any]) -> str:
    """A line for each game and size."""
    lines = [
        "squared error ÷ the values' squares; the best of others, and auto's error divided by its",
        f"{'':<12}{'n':>6}{'evaluations':>13}{'auto':>10}{'antithetic':>12}{'others':>10}  {'by':<22}{'ratio':>6}"
        f"{'auto':>9}{'theirs':>9}{'auto':>10}{'theirs':>10}",
    ]
    for row in results["rows"]:
        methods = row["methods"]
        peers = {name: found for name, found in methods.items() if is_peer(name)}
        best = min(peers, key=lambda name: peers[name]["error"]) if peers else ""
        own, other = methods["auto"], peers.get(best)
        line = (
            f"{row['game']:<12}{row['n_players']:>6}{int(row['factor'] * row['n_players']):>13,}{own['error']:>10.2g}"
        )
        line += f"{methods['antithetic']['error']:>12.2g}" if "antithetic" in methods else f"{'':>12}"
        if other is not None:
            line += f"{other['error']:>10.2g}  {best:<22}{own['error'] / other['error']:>6.2f}"
            line += f"{own['seconds']:>7.1f} s{other['seconds']:>7.1f} s"
            line += f"{own['megabytes']:>7.0f} MB{other['megabytes']:>7.0f} MB"
        lines.append(line)
    for row in results["rows"]:
        if row["game"] == "additive":
            shown = ", ".join(
                f"{name} {found['additive_error']:.1g}"
                for name, found in row["methods"].items()
                if name in OWN or found["additive_error"] < 1e-9
            )
            lines.append(
                f"largest error of an additive player, {int(row['factor'] * row['n_players'])} evaluations: {shown}"
            )
    lines += [f"seeds: {', '.join(f'{n} for n = {p}' for p, n in results['seeds'].items())}"]
    return "\n".join([*lines, *(f"{name}: {said}" for name, said in results["machines"].items())])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--methods", choices=("shapkit", "peers"), default="shapkit")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--publish", action="store_true", help="write docs/results/many_players.json")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "many_players")
    options = parser.parse_args(arguments)
    if options.command == "run":
        options.cache.mkdir(parents=True, exist_ok=True)
        methods = {n: m for n, m in METHODS[options.methods]().items() if n in OWN or n in MOST_PLAYERS}
        for method in methods.values():
            warm_up(method)
        fill(options.cache / f"{options.methods}.jsonl", KEY, cells(methods), options.minutes)
        write_whole(options.cache / f"machine-{options.methods}.txt", machine(options.methods))
        return

    def measured() -> dict[str, Any]:
        return {
            "command": "python -m benchmarks.accuracy.many_players",
            "rows": aggregate(options.cache),
            "seeds": {str(players): n for players, n in SEEDS.items()},
            "machines": machines_in(options.cache),
            "measured": time.strftime("%Y-%m-%d"),
        }

    print_report(report, RESULTS, measured, options.redraw, options.publish)


if __name__ == "__main__":
    main()
