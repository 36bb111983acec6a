"""How accurate Shapley values are after equal seconds, for games that take from no time to long.

    python -m benchmarks.speed.equal_seconds           # docs/results/equal_seconds.json; half an hour
    python -m benchmarks.speed.equal_seconds --again auto   # that method alone
    python -m benchmarks.speed.equal_seconds --redraw  # print what was published

Each game waits a given time for every coalition that it is asked for; what an estimator takes beside the game counts,
too. Errors are squared and relative to the sum of squared values, in the geometric mean over games and seeds. "auto" is
the default of `shapkit.estimate`; the others are its methods by name, so that its choice is measured, not its skill.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shapkit
from benchmarks.machine import machine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "equal_seconds.json"
METHODS = ("auto", "gaussian_process", "leverage", "antithetic", "regression_adjusted")
WAITS = (0.0, 1e-4, 1e-2)  # seconds a coalition
SECONDS = (1.0, 5.0)
N_PLAYERS = (30, 100)
SEEDS = (0, 1)
FLOOR = 1e-20  # relative squared errors below are rounding


class Waiting:
    """A value function that takes at least so long for each coalition."""

    def __init__(self, value: Any, wait: float) -> None:
        self.value, self.wait = value, wait

    def __call__(self, coalitions: NDArray[np.bool_]) -> Any:
        until = time.perf_counter() + self.wait * len(coalitions)
        payoffs = self.value(coalitions)
        time.sleep(max(0.0, until - time.perf_counter()))
        return payoffs


def games(n_players: int) -> dict[str, tuple[Any, NDArray[np.float64]]]:
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


def measure(quick: bool, methods: tuple[str, ...] = METHODS) -> dict[str, Any]:
    """Methods on every game, one run each of every seed."""
    rows = []
    for n_players in N_PLAYERS[:1] if quick else N_PLAYERS:
        known = games(n_players)
        for wait in WAITS:
            for seconds in SECONDS[:1] if quick else SECONDS:
                for method in methods:
                    rows.append(_row(known, n_players, wait, seconds, method, SEEDS[:1] if quick else SEEDS))
                    print(_line(rows[-1]), flush=True)
    return {"machine": machine("numpy", "numba"), "rows": rows}


def _row(
    known: dict[str, tuple[Any, NDArray[np.float64]]],
    n_players: int,
    wait: float,
    seconds: float,
    method: str,
    seeds: tuple[int, ...],
) -> dict[str, Any]:
    errors, taken, chosen, n_evaluations = [], [], [], []
    for value, truth in known.values():
        for seed in seeds:
            game = shapkit.Game(Waiting(value, wait), n_players)
            began = time.perf_counter()
            found = shapkit.estimate(game, method=method, seed=seed, stop=shapkit.Seconds(seconds))
            taken.append(time.perf_counter() - began)
            errors.append(max(float(np.sum((found.values - truth) ** 2) / np.sum(truth**2)), FLOOR))
            chosen.append(found.method)
            n_evaluations.append(found.n_evaluations)
    return {
        "n_players": n_players,
        "wait": wait,
        "seconds": seconds,
        "method": method,
        "error": float(f"{np.exp(np.mean(np.log(errors))):.3g}"),
        "errors": [float(f"{error:.2g}") for error in errors],
        "taken": round(float(np.median(taken)), 2),
        "longest": round(max(taken), 2),
        "evaluations": int(np.median(n_evaluations)),
        "chosen": sorted(set(chosen)),
    }


def _line(row: dict[str, Any]) -> str:
    chose = "+".join(row["chosen"]) if row["method"] == "auto" else ""
    return (
        f"{row['n_players']:>4}{row['wait'] * 1e6:>9.0f}{row['seconds']:>5.0f} s  {row['method']:20}"
        f"{row['error']:>9.1e}{row['evaluations']:>9}{row['longest']:>7.1f} s  {chose}"
    )


def report(measured: dict[str, Any]) -> str:
    """A line for each point: auto's error, the best method's, and their ratio."""
    lines = [f"{'n':>4}{'µs':>9}{'given':>7}  {'auto':>9}  {'chose':20}{'best':>9}  {'by':20}{'ratio':>6}"]
    points = dict.fromkeys((row["n_players"], row["wait"], row["seconds"]) for row in measured["rows"])
    for point in points:
        rows = [row for row in measured["rows"] if (row["n_players"], row["wait"], row["seconds"]) == point]
        auto = next(row for row in rows if row["method"] == "auto")
        best = min((row for row in rows if row["method"] != "auto"), key=lambda row: row["error"])
        chosen = "+".join(auto["chosen"])
        lines.append(
            f"{point[0]:>4}{point[1] * 1e6:>9.0f}{point[2]:>5.0f} s  {auto['error']:>9.1e}  {chosen:20}"
            f"{best['error']:>9.1e}  {best['method']:20}{auto['error'] / best['error']:>6.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true", help="print what was published")
    parser.add_argument("--again", choices=METHODS, help="measure this method alone, the others as published")
    parser.add_argument("--quick", action="store_true", help="30 players, one second, one seed; prints only")
    arguments = parser.parse_args()
    measured = json.loads(RESULTS.read_text()) if arguments.redraw or arguments.again else measure(arguments.quick)
    if arguments.again:
        new = iter(measure(False, (arguments.again,))["rows"])
        measured["rows"] = [next(new) if row["method"] == arguments.again else row for row in measured["rows"]]
    if not (arguments.redraw or arguments.quick):
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    print(report(measured))


if __name__ == "__main__":
    main()
