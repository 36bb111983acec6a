"""How fast exact values are: against summing the table, against shap and shapiq, and beside the game itself.

    python -m benchmarks.speed.exact          # some minutes; writes docs/results/exact.json and docs/pictures/exact.png
    python -m benchmarks.speed.exact --quick  # a minute, smaller games, prints only
    python -m benchmarks.speed.exact --redraw # the picture and the text from the JSON

Every ratio is between medians of repetitions that take turns within this run. shap and shapiq are measured where they
are installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import shapkit
from benchmarks.machine import machine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "exact.json"
PICTURE = ROOT / "docs" / "pictures" / "exact.png"
INTERACTIONS = ("SII", "k-SII", "STII", "FSII", "BII", "FBII")


def medians(repetitions: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each call, after one of each that is not counted; the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def measure_tables(sizes: list[int]) -> list[dict[str, float]]:
    """All Shapley values from a table of 2**n values that exists, beside table.sum(), which reads it once, too."""
    rows = []
    for n_players in sizes:
        table = np.random.default_rng(n_players).normal(size=2**n_players)
        seconds = medians(15, sum=table.sum, shapley=partial(shapkit.shapley_values, table))
        transform = np.zeros_like(table)  # transformed again and again, and zeros stay finite
        moebius = medians(3, moebius=partial(shapkit.moebius_transform, transform, overwrite=True))
        rows.append({"n_players": n_players, **seconds, **moebius, "ratio": seconds["shapley"] / seconds["sum"]})
        print(f"table n={n_players}: sum {seconds['sum']:.5f} s, shapley_values {seconds['shapley']:.5f} s")
    return rows


def measure_peers(n_players: int) -> dict[str, Any]:
    """The same game, a table looked up, with shap's and shapiq's exact computers, as their users call them."""
    table = np.random.default_rng(0).normal(size=2**n_players)
    table[0] = 0.0  # where shapiq moves the game to
    powers = 1 << np.arange(n_players)

    def value(coalitions: Any) -> Any:
        return table[np.asarray(coalitions).astype(np.int64) @ powers]

    ours = medians(
        5,
        table=lambda: shapkit.shapley_values(table),
        game=lambda: shapkit.exact(shapkit.Game(value, n_players)),
        pairs=lambda: shapkit.exact(shapkit.Game(value, n_players), "k-SII"),
        value_function_alone=lambda: value(ALL_ROWS[n_players]),
    )
    results: dict[str, Any] = {"n_players": n_players, "shapkit": ours}
    expected = shapkit.shapley_values(table)
    for name, values, repetitions in _peer_calls(value, n_players):
        np.testing.assert_allclose(values(), expected, atol=1e-9)
        results[name] = medians(repetitions, seconds=values)["seconds"]
        print(f"n={n_players} {name}: {results[name]:.3f} s; shapkit from the table {ours['table']:.6f} s")
    return results


def _peer_calls(value: Callable[[Any], Any], n_players: int) -> list[tuple[str, Callable[[], Any], int]]:
    calls: list[tuple[str, Callable[[], Any], int]] = []
    try:
        import shapiq

        def shapiq_values() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = shapiq.ExactComputer(value, n_players=n_players)("SV", order=1)
            return [found[(player,)] for player in range(n_players)]

        calls.append((f"shapiq {importlib.metadata.version('shapiq')} ExactComputer", shapiq_values, 1))
    except ImportError:
        print("shapiq is not installed: left out")
    try:
        import shap

        def shap_values() -> Any:
            masker = shap.maskers.Independent(np.zeros((1, n_players)))
            return shap.explainers.ExactExplainer(value, masker)(np.ones((1, n_players))).values[0]

        calls.append((f"shap {shap.__version__} ExactExplainer", shap_values, 3))
    except ImportError:
        print("shap is not installed: left out")
    return calls


def measure_interactions(n_players: int) -> dict[str, Any]:
    """All values of players and pairs of a game whose value function looks up a table."""
    game = shapkit.table_game(np.random.default_rng(0).normal(size=2**n_players))
    seconds = medians(3, **{index: partial(shapkit.exact, game, index, order=2) for index in INTERACTIONS})
    print(f"pairs n={n_players}: " + ", ".join(f"{index} {second:.3f} s" for index, second in seconds.items()))
    return {"n_players": n_players, "seconds": seconds}


def measure_streaming(n_players: int) -> dict[str, float]:
    """Nanoseconds per coalition of exact() beside the value function, whose own time is taken inside it."""
    per_coalition = []
    for _ in range(3):
        inside = 0.0

        def value(coalitions: np.ndarray) -> np.ndarray:
            nonlocal inside
            started = time.perf_counter()
            payoffs = coalitions[:, 0] * 2.0 + coalitions[:, -1]
            inside += time.perf_counter() - started
            return payoffs

        started = time.perf_counter()
        shapkit.exact(shapkit.Game(value, n_players))
        per_coalition.append((time.perf_counter() - started - inside) / 2**n_players * 1e9)
    overhead = statistics.median(per_coalition)
    print(f"streaming n={n_players}: {overhead:.1f} ns per coalition beside the game")
    return {"n_players": n_players, "overhead_ns": overhead}


def measure_memory(n_players: int) -> dict[str, float]:
    """Peak resident memory of a fresh process that finds the values of a linear game."""
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.exact", "--linear-game", str(n_players)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    measured: dict[str, float] = json.loads(finished.stdout)
    print(f"memory n={n_players}: {measured['peak_mb']:.0f} MB, {measured['seconds']:.1f} s")
    return measured


def linear_game(n_players: int) -> dict[str, float]:
    worth = np.arange(1.0, n_players + 1)
    started = time.perf_counter()
    phi = shapkit.exact(shapkit.Game(lambda coalitions: coalitions @ worth, n_players))
    seconds = time.perf_counter() - started
    np.testing.assert_allclose(phi.values, worth, rtol=1e-12)
    return {"n_players": n_players, "peak_mb": peak_memory_mb(), "seconds": seconds}


def peak_memory_mb() -> float:
    """Peak resident memory of this process. (Linux's ru_maxrss would count the parent it was forked from.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    unit = 1 if platform.system() == "Darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the README."""
    lines = ["given all 2**n values      table.sum()  all Shapley values   ratio  Möbius transform"]
    for row in results["tables"]:
        if row["n_players"] >= 16:
            lines.append(
                f"  n = {row['n_players']}{2 ** row['n_players']:>16,}{1e3 * row['sum']:>11.2f} ms"
                f"{1e3 * row['shapley']:>17.2f} ms{row['ratio']:>8.2f}{1e3 * row['moebius']:>15.1f} ms"
            )
    peers = results["peers"]
    ours = peers["shapkit"]
    lines += ["", f"the same {peers['n_players']} values          seconds   x shapley_values(table)   x exact(game)"]
    lines.append(f"  {'shapley_values(table)':<26}{ours['table']:>8.5f}")
    lines.append(f"  {'exact(game)':<26}{ours['game']:>8.5f}")
    lines.append(f"  {'the value function alone':<26}{ours['value_function_alone']:>8.5f}")
    for name, seconds in peers.items():
        if name not in ("n_players", "shapkit"):
            lines.append(
                f"  {name:<26}{seconds:>8.5f}{seconds / ours['table']:>26,.0f}{seconds / ours['game']:>16,.0f}"
            )
    pairs = results["interactions"]
    lines += ["", f"values of players and pairs, n = {pairs['n_players']}, from a game that looks up a table"]
    lines.append("  " + "   ".join(f"{index} {second:.3f} s" for index, second in pairs["seconds"].items()))
    stream = results["streaming"]
    lines += ["", f"streamed, n = {stream['n_players']}: {stream['overhead_ns']:.1f} ns per coalition beside the game"]
    memory = "   ".join(f"n = {row['n_players']}: {row['peak_mb']:.0f} MB" for row in results["memory"])
    lines.append(f"peak memory of the whole process, a linear game: {memory}")
    lines += ["", results["machine"]]
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    tables = results["tables"]
    players = [row["n_players"] for row in tables]
    nanoseconds = {
        "summing the table (NumPy)": [row["sum"] / 2 ** row["n_players"] * 1e9 for row in tables],
        "all Shapley values (shapkit)": [row["shapley"] / 2 ** row["n_players"] * 1e9 for row in tables],
    }
    for (label, measured), colour, marker in zip(nanoseconds.items(), ("#000000", "#0072B2"), "so", strict=True):
        axes.plot(players, measured, color=colour, marker=marker, label=label)
    for (name, rows), colour, marker in zip(
        results["peers_by_size"].items(), ("#D55E00", "#009E73"), "^v", strict=False
    ):
        axes.plot(
            [row["n_players"] for row in rows],
            [row["seconds"] / 2 ** row["n_players"] * 1e9 for row in rows],
            color=colour,
            marker=marker,
            label=name,
        )
    axes.set_yscale("log")
    axes.set_xlabel("players")
    axes.set_ylabel("nanoseconds per coalition")
    axes.set_title("All Shapley values of a large table for the price of reading it once or twice")
    axes.set_xticks(range(8, 27, 2))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


ALL_ROWS: dict[int, np.ndarray] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller games; nothing is written")
    parser.add_argument("--redraw", action="store_true", help="draw and print what was measured before")
    parser.add_argument("--linear-game", type=int, metavar="N", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.linear_game is not None:
        print(json.dumps(linear_game(arguments.linear_game)))
        return
    if arguments.redraw:
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
        draw(measured, PICTURE)
        print(report(measured))
        return
    quick = arguments.quick
    peer_size, peer_sizes = (12, [8, 10]) if quick else (16, [8, 10, 12, 14])
    for n_players in {peer_size, *peer_sizes}:
        ALL_ROWS[n_players] = next(shapkit.coalitions.enumerate_coalitions(n_players, 2**n_players))[1]
    results: dict[str, Any] = {
        "command": "python -m benchmarks.speed.exact",
        "machine": machine("numpy", "numba"),
        "tables": measure_tables([10, 14, 18] if quick else [10, 12, 14, 16, 18, 20, 22, 24, 26]),
    }
    by_size = [measure_peers(n_players) for n_players in [*peer_sizes, peer_size]]
    results["peers"] = by_size[-1]
    names = [name for name in results["peers"] if name not in ("n_players", "shapkit")]
    results["peers_by_size"] = {
        name: [{"n_players": row["n_players"], "seconds": row[name]} for row in by_size] for name in names
    }
    results["interactions"] = measure_interactions(14 if quick else 20)
    results["streaming"] = measure_streaming(18 if quick else 26)
    results["memory"] = [measure_memory(n_players) for n_players in ([16, 20] if quick else [18, 22, 26, 30])]
    print("\n" + report(results))
    if not quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        partial = RESULTS.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        partial.replace(RESULTS)
        draw(results, PICTURE)


if __name__ == "__main__":
    main()
