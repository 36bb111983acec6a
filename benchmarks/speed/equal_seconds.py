"""How accurate Shapley values are after equal seconds, for games that take from no time to a second a coalition.

    python -m benchmarks.speed.equal_seconds run                    # each estimate is kept: goes on; an hour
    python -m benchmarks.speed.equal_seconds run --methods peers    # in an interpreter with shapiq
    python -m benchmarks.speed.equal_seconds report --publish       # docs/results/equal_seconds.json
    python -m benchmarks.speed.equal_seconds report --redraw        # print what was published

Each game waits a given time for every coalition that it is asked for; what an estimator takes beside the game counts,
too. Errors are squared and relative to the sum of squared values, in the geometric mean over games and seeds. "auto" is
the default of `shapkit.estimate`; others of shapkit are its methods by name, so that its choice is measured, not its
skill. "sparse" is told how long a coalition takes, and is for fast games. Methods of others know budgets in evaluations
only. Each was run with budgets that grow by a third from one to the next, without waiting; of those that fit into the
time with the waits added, it is given the largest. It is spared to learn how long a coalition takes, and never stops
late.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shapkit
from benchmarks.accuracy.games import BenchmarkGame
from benchmarks.accuracy.methods import Estimate, is_peer, peer_methods, shapkit_method
from benchmarks.accuracy.real_games import NEGLIGIBLE
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
from shapkit.estimators.surrogates.sparse import SparseSampler

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "equal_seconds.json"
METHODS = ("auto", "gaussian_process", "sparse", "leverage", "antithetic", "regression_adjusted")
PEERS = (
    "shapiq RegressionMSR",
    "shapiq LeverageSHAP",
    "shapiq OddSHAP",
    "shapiq PolySHAP",
    "shap Permutation",
    "shap Kernel",
)
POINTS = {1e-6: (1, 5), 1e-4: (1, 5), 1e-2: (1, 5), 1.0: (300, 1_000)}  # seconds a coalition: seconds given
SLOW = 0.5  # seconds a coalition, with which estimates are made side by side: they wait, and hardly compute
N_PLAYERS = (30, 100)
SEEDS = (0, 1)
FLOOR = 1e-20  # relative squared errors below are rounding
GROWTH = 4 / 3  # of the budgets of others
MOST_EVALUATIONS = 5_000_000
KEY = ("n_players", "wait", "given", "game", "method", "seed")
PEER_KEY = ("n_players", "game", "method", "seed", "budget")

Games = dict[str, tuple[Any, NDArray[np.float64]]]  # value functions and exact values


class Waiting:
    """A value function that takes at least so long for each coalition."""

    def __init__(self, value: Any, wait: float) -> None:
        self.value, self.wait = value, wait

    def __call__(self, coalitions: NDArray[np.bool_]) -> Any:
        until = time.perf_counter() + self.wait * len(coalitions)
        payoffs = self.value(coalitions)
        time.sleep(max(0.0, until - time.perf_counter()))
        return payoffs


def games(n_players: int) -> Games:
    """Value functions and their exact Shapley values, by name."""
    import shap
    from sklearn.ensemble import GradientBoostingRegressor

    rng = np.random.default_rng(n_players)
    sizes = rng.integers(1, 6, 3 * n_players)
    carriers = [sorted(rng.choice(n_players, size, replace=False).tolist()) for size in sizes]
    dividends = rng.normal(size=len(carriers))
    shares = np.zeros(n_players)
    for carrier, dividend in zip(carriers, dividends, strict=True):
        shares[carrier] += dividend / len(carrier)
    costs = np.sort(rng.uniform(size=n_players))
    airport = np.cumsum(np.diff(costs, prepend=0) / np.arange(n_players, 0, -1))
    rows = rng.normal(size=(2_000, n_players))
    targets = rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2]) * rows[:, 3] + rows[:, 4:15].sum(axis=1)
    trees = GradientBoostingRegressor(max_depth=4, random_state=0).fit(rows, targets)
    explained = shapkit.model_game(trees.predict, rows[0], rows[1])
    theirs = shap.TreeExplainer(trees, rows[1:2], feature_perturbation="interventional").shap_values(rows[:1])[0]
    return {
        "interactions": (shapkit.unanimity_sum(n_players, carriers, dividends).value, shares),
        "airport": (shapkit.airport_game(costs).value, airport),
        "trees": (explained.value, np.asarray(theirs)),
    }


class Timed:
    """A value function that adds up how long it takes."""

    def __init__(self, value: Any) -> None:
        self.value, self.seconds = value, 0.0

    def __call__(self, coalitions: NDArray[np.bool_]) -> Any:
        began = time.perf_counter()
        payoffs = self.value(coalitions)
        self.seconds += time.perf_counter() - began
        return payoffs


def cells(path: Path) -> Iterator[Cell]:
    """Shapkit's methods at every point, those of slow games side by side."""
    done = {tuple(record[name] for name in KEY) for record in read_lines(path)}
    known = {n_players: games(n_players) for n_players in N_PLAYERS}
    points = [
        (wait, given, n_players) for wait, givens in POINTS.items() for n_players in N_PLAYERS for given in givens
    ]
    for wait, given, n_players in points:
        some = known[n_players]
        methods = [method for method in METHODS if wait < SLOW or method != "sparse"]
        keys = [(n_players, wait, given, *rest) for rest in itertools.product(some, methods, SEEDS)]
        if wait < SLOW:
            yield from ((key, partial(_estimated, some, key)) for key in keys)
        elif left := [key for key in keys if key not in done]:
            with ThreadPoolExecutor(len(left)) as pool:
                waiting = [(key, pool.submit(_estimated, some, key)) for key in left]
                yield from ((key, found.result) for key, found in waiting)
        print(f"{n_players} players, {wait:g} s a coalition, {given} s: {time.strftime('%H:%M:%S')}", flush=True)


def _estimated(known: Games, key: tuple[Any, ...]) -> Record:
    n_players, wait, given, name, method, seed = key
    value, exact = known[name]
    game = shapkit.Game(Waiting(value, wait), n_players)
    began = time.perf_counter()
    told = partial(SparseSampler, seconds_each=wait) if method == "sparse" else method
    found = shapkit.estimate(game, method=told, seed=seed, stop=shapkit.Seconds(given))
    return dict(zip(KEY, key, strict=True)) | {
        "taken": time.perf_counter() - began,
        "relative_error": max(float(np.sum((found.values - exact) ** 2) / np.sum(exact**2)), FLOOR),
        "evaluations": found.n_evaluations,
        "chosen": found.method,
    }


def peer_cells(path: Path) -> Iterator[Cell]:
    """Methods of others with growing budgets, until they take longer than the longest time given to a fast game."""
    longest = max(given for wait, givens in POINTS.items() if wait < SLOW for given in givens)
    methods = {name: method for name, method in peer_methods().items() if name in PEERS}
    taken = {tuple(record[name] for name in PEER_KEY): record.get("seconds", 0.0) for record in read_lines(path)}
    for n_players in N_PLAYERS:
        known = games(n_players)
        for name, (method, estimate), seed in itertools.product(known, methods.items(), SEEDS):
            key = (n_players, name, method, seed, 2 * n_players + 2)
            while True:

                def measured(key: tuple[Any, ...] = key, known: Games = known, estimate: Estimate = estimate) -> Record:
                    found = _estimated_by_others(known, key, estimate)
                    taken[key] = found.get("seconds", 0.0)  # it may have failed with so few
                    return found

                yield key, measured
                if taken[key] > longest or key[-1] > MOST_EVALUATIONS:
                    break
                key = (*key[:-1], int(GROWTH * key[-1]) // 2 * 2)
            print(f"{', '.join(map(str, key))}: {time.strftime('%H:%M:%S')}", flush=True)


def _estimated_by_others(known: Games, key: tuple[Any, ...], estimate: Estimate) -> Record:
    n_players, name, _, seed, budget = key
    value, exact = known[name]
    timed = Timed(value)
    found = measure(estimate, BenchmarkGame(name, n_players, timed, exact), budget, seed, tries=4)
    squares = {"squares": float(np.sum(exact**2)), "game_seconds": timed.seconds}
    return dict(zip(PEER_KEY, key, strict=True)) | found | squares


def aggregate(folder: Path) -> list[Record]:
    """Each method's mean error at every point; of others, that of the largest budgets that fit."""
    own = [record for record in read_lines(folder / "shapkit.jsonl") if "relative_error" in record]
    peers = [record for record in read_lines(folder / "peers.jsonl") if "squared_error" in record]
    rows = []
    for n_players in dict.fromkeys(record["n_players"] for record in own):
        for wait, givens in POINTS.items():
            for given in givens:
                found: dict[str, list[Record]] = {}
                for record in own:
                    if (record["n_players"], record["wait"], record["given"]) == (n_players, wait, given):
                        found.setdefault(record["method"], []).append(record)
                if "auto" not in found:
                    continue
                for method in dict.fromkeys(record["method"] for record in peers):
                    some = [
                        record for record in peers if (record["method"], record["n_players"]) == (method, n_players)
                    ]
                    found[method] = _largest_that_fit(some, wait, given)
                rows += [_row(n_players, wait, given, method, records) for method, records in found.items() if records]
    return rows


def _largest_that_fit(records: list[Record], wait: float, given: float) -> list[Record]:
    """Of each game and seed the estimate with the largest budget that the time allows; none if one of them has none."""
    best: dict[tuple[str, int], Record | None] = {}
    for record in sorted(records, key=lambda record: record["budget"]):
        game = (record["game"], record["seed"])
        best.setdefault(game, None)
        in_game = max(record["game_seconds"], wait * record["evaluations"])
        taken = record["seconds"] - record["game_seconds"] + in_game
        if taken <= given:
            error = max(record["squared_error"] / record["squares"], FLOOR)
            best[game] = record | {"taken": taken, "relative_error": error, "chosen": record["method"]}
    fitting = [record for record in best.values() if record is not None]
    return fitting if len(fitting) == len(best) else []


def _row(n_players: int, wait: float, given: float, method: str, records: list[Record]) -> Record:
    errors = [record["relative_error"] for record in records]
    return {
        "n_players": n_players,
        "wait": wait,
        "given": given,
        "method": method,
        "error": statistics.geometric_mean(errors),
        "errors": errors,
        "taken": statistics.median(record["taken"] for record in records),
        "longest": max(record["taken"] for record in records),
        "evaluations": int(statistics.median(record["evaluations"] for record in records)),
        "chosen": sorted({record["chosen"] for record in records}),
    }


def report(results: dict[str, Any]) -> str:
    """A line for each point: auto's error, and that of the best other method of shapkit and of others."""
    lines = [
        "relative squared error, geometric mean; ratios are auto's divided by the best's, and the same with errors",
        "of less than a millionth counted as a millionth: a game of few interactions is found exactly by some;",
        "longest: that auto took",
        f"{'n':>4}{'µs':>9}{'given':>8}{'longest':>10}  {'auto':>9}  {'chose':18}{'best of shapkit':>27}"
        f"{'ratio':>9}{'':>7}{'best of others':>33}{'ratio':>9}{'':>7}",
    ]
    points = dict.fromkeys((row["n_players"], row["wait"], row["given"]) for row in results["rows"])
    for point in points:
        rows = [row for row in results["rows"] if (row["n_players"], row["wait"], row["given"]) == point]
        auto = next(row for row in rows if row["method"] == "auto")
        chosen = "+".join(auto["chosen"])
        line = f"{point[0]:>4}{point[1] * 1e6:>9.0f}{point[2]:>6.0f} s{auto['longest']:>8.1f} s"
        line += f"  {auto['error']:>9.1e}  {chosen:18}"
        for peers, widths in ((False, (19, 9)), (True, (25, 9))):
            others = [row for row in rows if row["method"] != "auto" and is_peer(row["method"]) == peers]
            if others:
                best = min(others, key=lambda row: row["error"])
                noticeable = _noticeable(auto) / min(_noticeable(row) for row in others)
                line += f"{best['method']:>{widths[0]}}{best['error']:>8.1e}"
                ratio = auto["error"] / best["error"]
                line += f"{ratio:>{widths[1]}{'.2f' if ratio < 1e5 else '.0e'}}{noticeable:>7.2f}"
        lines.append(line)
    return "\n".join([*lines, *(f"{name}: {said}" for name, said in results["machines"].items())])


def _noticeable(row: Record) -> float:
    return statistics.geometric_mean(max(error, NEGLIGIBLE) for error in row["errors"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--methods", choices=("shapkit", "peers"), default="shapkit")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--publish", action="store_true", help="write docs/results/equal_seconds.json")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "equal_seconds")
    options = parser.parse_args(arguments)
    if options.command == "run":
        options.cache.mkdir(parents=True, exist_ok=True)
        path = options.cache / f"{options.methods}.jsonl"
        if options.methods == "peers":
            for name, method in peer_methods().items():
                if name in PEERS:
                    warm_up(method)
            fill(path, PEER_KEY, peer_cells(path), options.minutes)
        else:
            for name in METHODS:
                warm_up(shapkit_method(name))
            fill(path, KEY, cells(path), options.minutes)
        write_whole(options.cache / f"machine-{options.methods}.txt", machine(options.methods))
        return

    def measured() -> dict[str, Any]:
        return {
            "command": "python -m benchmarks.speed.equal_seconds",
            "rows": aggregate(options.cache),
            "machines": machines_in(options.cache),
            "measured": time.strftime("%Y-%m-%d"),
        }

    print_report(report, RESULTS, measured, options.redraw, options.publish)


if __name__ == "__main__":
    main()
