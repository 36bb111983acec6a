"""From the records of `benchmarks/accuracy/` to what its report says: means, ratios, their bootstrap intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.coverage import aggregate_coverage
from benchmarks.accuracy.games import GAMES, LARGE_GAMES, open_game
from benchmarks.accuracy.methods import BASELINE, METHODS, SLOW, Floats, is_peer
from benchmarks.accuracy.records import Record, read_lines
from benchmarks.accuracy.runs import FACTORS, KEY, LARGE_KEY

ROUNDING = 1e-20  # squared errors below this share of the squared values are not told apart
RESAMPLES = 2000

Errors = dict[tuple[str, int], dict[str, dict[int, Record]]]  # by game and budget (or its factor), method, and seed


def aggregate(folder: Path) -> dict[str, Any]:
    """Everything the report says, from the lines of all runs in the folder."""
    errors = _by_cell((record for name in METHODS for record in read_lines(folder / f"{name}.jsonl")), KEY)
    games: dict[str, Any] = {}
    for name in GAMES:
        factors = [factor for factor in FACTORS if _succeeded(errors.get((name, factor), {}).get(BASELINE))]
        if factors:
            game = open_game(name, folder / "games")
            least = ROUNDING * float((game.exact**2).sum())
            cells = {str(factor): _cell(errors[name, factor], least) for factor in factors}
            games[name] = {"name": name, "n_players": game.n_players, "factors": cells}
    results: dict[str, Any] = {"command": "python -m benchmarks.accuracy", "games": games}
    results["methods"] = _over_games(errors, games)
    results["against_peers"] = _against_peers(errors, games)
    results["slow"] = _against_slow(errors, games)
    results["large"] = _large(_by_cell(read_lines(folder / "large.jsonl"), LARGE_KEY))
    results["coverage"] = aggregate_coverage(folder)
    if (folder / "overhead.json").exists():
        results["overhead"] = json.loads((folder / "overhead.json").read_text(encoding="utf-8"))
    results["machines"] = {
        name: json.loads((folder / f"machine-{name}.json").read_text(encoding="utf-8"))
        for name in (*METHODS, "large")
        if (folder / f"machine-{name}.json").exists()
    }
    return results


def _by_cell(records: Iterable[Record], key: tuple[str, ...]) -> Errors:
    """Records by game and budget, method, and seed; of two with the same key, the later."""
    errors: Errors = {}
    for record in records:
        game, method, budget, seed = (record[name] for name in key)
        errors.setdefault((game, budget), {}).setdefault(method, {})[seed] = record
    return errors


def _succeeded(by_seed: dict[int, Record] | None) -> bool:
    return bool(by_seed) and all("squared_error" in record for record in (by_seed or {}).values())


def _cell(by_method: dict[str, dict[int, Record]], least: float) -> dict[str, Any]:
    """One game at one budget: what each method's mean squared error is."""
    cell: dict[str, Any] = {"least": least, "methods": {}, "failed": {}}
    for method, by_seed in sorted(by_method.items()):
        if not _succeeded(by_seed):
            # A method that fails for some seeds is left out: the others would be a choice
            cell["failed"][method] = next(record["error"] for record in by_seed.values() if "error" in record)
            continue
        records = by_seed.values()
        cell["methods"][method] = {
            "mean_squared_error": statistics.fmean(record["squared_error"] for record in records),
            "n_seeds": len(records),
            "seconds": statistics.median(record["seconds"] for record in records),
            "evaluations": max(record["evaluations"] for record in records),
        }
    return cell


def resampled_means(squared_errors: Iterable[float], least: float, generator: np.random.Generator) -> Floats:
    """The mean, and below it means of `RESAMPLES` resamples of the seeds: float64 (1 + RESAMPLES,)."""
    sample = np.asarray(list(squared_errors))
    rows = generator.integers(len(sample), size=(RESAMPLES, len(sample)))
    means = np.concatenate([[sample.mean()], sample[rows].mean(axis=1)])
    return np.asarray(np.maximum(means, least))


def _means(errors: Errors, game: str, factor: int, cell: dict[str, Any]) -> dict[str, Floats]:
    """Of each method that did not fail, the resampled means."""
    means = {}
    for number, method in enumerate(cell["methods"]):
        generator = np.random.default_rng([factor, number])
        by_seed = errors[game, factor][method].values()
        means[method] = resampled_means((r["squared_error"] for r in by_seed), cell["least"], generator)
    return means


def _interval(resampled: Floats) -> dict[str, float]:
    low, high = np.quantile(resampled[1:], [0.025, 0.975])
    return {"value": float(resampled[0]), "low": float(low), "high": float(high)}


def _over_games(errors: Errors, games: dict[str, Any]) -> dict[str, Any]:
    """Geometric mean over games of each method's error relative to plain permutation sampling.

    Games that permutation sampling solves exactly, additive ones, are left out: ratios of rounding errors say nothing.
    """
    found: dict[str, Any] = {}
    for factor in FACTORS:
        ratios: dict[str, list[Floats]] = {}
        n_played = 0
        for game in games.values():
            cell = game["factors"].get(str(factor))
            if cell is None or cell["methods"][BASELINE]["mean_squared_error"] <= cell["least"]:
                continue
            n_played += 1
            means = _means(errors, game["name"], factor, cell)
            for method in means:
                ratios.setdefault(method, []).append(np.log(means[method] / means[BASELINE]))
        for method, logs in ratios.items():
            if method not in SLOW:
                summary = {**_interval(np.exp(np.mean(logs, axis=0))), "n_games": len(logs), "of_games": n_played}
                found.setdefault(method, {})[str(factor)] = summary
    return found


def _against_peers(errors: Errors, games: dict[str, Any]) -> dict[str, Any]:
    """Each of shapkit's methods against the best peer of each game, which is chosen again in each resample."""
    found: dict[str, Any] = {}
    for factor in FACTORS:
        ratios: dict[str, dict[str, Floats]] = {}
        best_peer: dict[str, str] = {}
        for name in games:
            cell = games[name]["factors"].get(str(factor))
            if cell is None:
                continue
            means = _means(errors, name, factor, cell)
            peers = [method for method in means if is_peer(method) and method not in SLOW]
            if not peers:
                continue
            best_peer[name] = min(peers, key=lambda method: means[method][0])
            best = np.min([means[method] for method in peers], axis=0)
            for method in means:
                if not is_peer(method):
                    ratios.setdefault(method, {})[name] = means[method] / best
        for method, by_game in ratios.items():
            stacked = np.stack(list(by_game.values()))
            found.setdefault(method, {})[str(factor)] = {
                "geometric_mean": _interval(np.exp(np.log(stacked).mean(axis=0))),
                "floored_at_0.05": _interval(np.exp(np.log(np.maximum(stacked, 0.05)).mean(axis=0))),
                "worst": _interval(stacked.max(axis=0)),
                "games": {name: {**_interval(ratio), "peer": best_peer[name]} for name, ratio in by_game.items()},
            }
    return found


def _against_slow(errors: Errors, games: dict[str, Any]) -> dict[str, Any]:
    """Our methods relative to the slow peers, on the seeds that those have."""
    found: dict[str, Any] = {}
    for slow in SLOW:
        for factor in FACTORS:
            ratios: dict[str, dict[str, float]] = {}
            seconds, seeds = [], []
            for name in games:
                cell = games[name]["factors"].get(str(factor))
                if cell is None or slow not in cell["methods"]:
                    continue
                theirs = errors[name, factor][slow]
                seconds.append(cell["methods"][slow]["seconds"])
                seeds.append(len(theirs))
                for method in cell["methods"]:
                    ours = errors[name, factor][method]
                    if not is_peer(method) and set(theirs) <= set(ours):
                        mean, other = (
                            max(statistics.fmean(by_seed[s]["squared_error"] for s in theirs), cell["least"])
                            for by_seed in (ours, theirs)
                        )
                        ratios.setdefault(method, {})[name] = mean / other
            for method, by_game in ratios.items():
                found.setdefault(slow, {}).setdefault(method, {})[str(factor)] = {
                    "geometric_mean": statistics.geometric_mean(by_game.values()),
                    "worst": max(by_game.values()),
                    "games": by_game,
                    "seeds": [min(seeds), max(seeds)],
                    "median_seconds": statistics.median(seconds),
                }
    return found


def _large(errors: Errors) -> list[dict[str, Any]]:
    """Of each game and large budget: errors relative to plain permutation sampling's, and seconds."""
    rows = []
    for name, make in LARGE_GAMES.items():
        budgets = sorted(
            budget for game, budget in errors if game == name and _succeeded(errors[game, budget].get(BASELINE))
        )
        if not budgets:
            continue
        game = make()
        squared_values = float((game.exact**2).sum())
        for budget in budgets:
            cell = _cell(errors[name, budget], ROUNDING * squared_values)
            baseline = max(cell["methods"][BASELINE]["mean_squared_error"], cell["least"])
            for found in cell["methods"].values():
                found["relative"] = max(found["mean_squared_error"], cell["least"]) / baseline
            # What permutation sampling's ratio of 1 is worth: its error as a share of the values, both as norms
            share = (baseline / squared_values) ** 0.5
            rows.append({"game": name, "n_players": game.n_players, "budget": budget, "baseline_error": share, **cell})
    return rows
