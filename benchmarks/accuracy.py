"""How accurate sampled Shapley values are at equal numbers of evaluations, beside those of other packages.

    python benchmarks/accuracy.py games                       # make the games' tables (scikit-learn, torch, diffusers)
    python benchmarks/accuracy.py run --methods shapkit       # each result is kept: a killed run goes on
    python benchmarks/accuracy.py run --methods peers         # in an interpreter with shapiq, shap, captum
    python benchmarks/accuracy.py run --methods slow --seeds 3 --factors 5 10
    python benchmarks/accuracy.py coverage                    # of the intervals, and the bias, 2,000 repetitions
    python benchmarks/accuracy.py overhead                    # time beside the game, per evaluation
    python benchmarks/accuracy.py report                      # draw and print what was measured
    python benchmarks/accuracy.py report --publish            # and write docs/results/accuracy.json
    python benchmarks/accuracy.py report --redraw             # from docs/results/accuracy.json

Two interpreters may fill the same folder at once. `--quick` takes a few small games and seeds. A method may evaluate
no more coalitions than its budget: the game refuses. Only repeated evaluations of nobody and everybody are free,
because their payoffs are worth remembering for anyone. A peer that asks for more than it was granted is run again
with a smaller grant. Squared errors below 1e-20 of the values' sum of squares count as that much: they are rounding.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

import shapkit
from shapkit import estimators

Floats = NDArray[np.float64]
Value = Callable[[Any], Any]
Estimate = Callable[[Value, int, int, int], Floats]  # value function, n_players, budget, seed -> values

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "accuracy.json"
PICTURE = ROOT / "docs" / "pictures" / "accuracy.png"
FACTORS = (5, 10, 20, 40)
BARS = {5: 0.75, 10: 0.6, 20: 0.4, 40: 0.25}  # what the geometric mean over games should not exceed
WORST_BAR = 1.2
ROUNDING = 1e-20  # squared errors below this share of the squared values are not told apart
RESAMPLES = 2000
QUICK_GAMES = ("council of the EU", "unanimity, signed", "random forest", "linear regression")
UNBIASED = ("permutation", "antithetic", "stratified", "regression_adjusted")  # those that claim it
BASELINE = "permutation"
SLOW = ("shapiq ShaplEIG",)  # too slow for all seeds: compared apart, on the seeds it has
NORMAL_95 = 1.959963984540054


class OverBudgetError(RuntimeError):
    """A method asked for more evaluations than its budget."""


class CountedValue:
    """A value function that counts, and refuses, evaluations beyond a budget.

    Each row counts, repeated ones too, except that nobody's and everybody's payoffs are paid for once.
    """

    def __init__(self, value: Value, n_players: int, budget: int) -> None:
        self.value = value
        self.n_players = n_players
        self.budget = budget
        self.n_evaluations = 0
        self._paid: set[int] = set()

    def __call__(self, coalitions: Any) -> Floats:
        rows = np.atleast_2d(np.asarray(coalitions)).astype(bool)
        sizes = rows.sum(axis=1)
        free = (sizes == 0) | (sizes == self.n_players)
        new = set(sizes[free].tolist()) - self._paid
        self.n_evaluations += int((~free).sum()) + len(new)
        self._paid |= new
        if self.n_evaluations > self.budget:
            raise OverBudgetError(f"{self.n_evaluations} evaluations asked for, {self.budget} granted")
        return np.asarray(self.value(rows), dtype=np.float64)


# ---------------------------------------------------------------------------------------------------- methods


def shapkit_methods() -> dict[str, Estimate]:
    """Every method that `shapkit.estimate` knows."""
    return {name: shapkit_method(name) for name in registered()}


def registered() -> list[str]:
    """The names of shapkit's methods: its samplers, and the default, which may choose among them."""
    default = inspect.signature(shapkit.estimate).parameters["method"].default
    return list(dict.fromkeys([*estimators.SAMPLERS, default]))


def shapkit_method(name: Any) -> Estimate:
    def estimated(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        return shapkit.estimate(shapkit.Game(value, n_players), budget=budget, method=name, seed=seed).values

    return estimated


def peer_methods() -> dict[str, Estimate]:
    """The estimators of other packages, of those that are installed here."""
    return {**_shapiq_methods(), **_shap_methods(), **_captum_methods()}


def _shapiq_methods() -> dict[str, Estimate]:
    try:
        import shapiq.approximator as approximators
    except ImportError:
        print("shapiq is not installed: left out")
        return {}
    makers: dict[str, tuple[str, dict[str, Any]]] = {
        "RegressionMSR": ("RegressionMSR", {"index": "SV"}),
        "RegressionMSR, linear": ("RegressionMSR", {"index": "SV", "proxy_model": "linear"}),
        "OddSHAP": ("OddSHAP", {}),
        "PolySHAP": ("PolySHAP", {"pairing_trick": True}),
        "KernelSHAP": ("KernelSHAP", {"pairing_trick": True}),
        "LeverageSHAP": ("LeverageSHAP", {}),
        "SVARM": ("SVARM", {}),
        "permutation": ("PermutationSamplingSV", {}),
    }
    methods = {}
    for name, (kind, options) in makers.items():
        if hasattr(approximators, kind):
            methods[f"shapiq {name}"] = _shapiq_method(getattr(approximators, kind), options)
    return methods


def slow_methods() -> dict[str, Estimate]:
    """shapiq's Bayesian experimental design, where its extra (torch, gpytorch, botorch) is installed."""
    try:
        import torch
        from shapiq.approximator import ShaplEIG
    except ImportError:
        print("shapiq's ShaplEIG is not installed: left out")
        return {}
    torch.set_num_threads(1)
    return {"shapiq ShaplEIG": _shapiq_method(ShaplEIG, {"show_progress": False, "refit": "decaying"})}


def _shapiq_method(kind: Callable[..., Any], options: dict[str, Any]) -> Estimate:
    def estimated(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        found = kind(n_players, random_state=seed, **options).approximate(budget, value)
        return np.array([found[(player,)] for player in range(n_players)])

    return estimated


def _shap_methods() -> dict[str, Estimate]:
    try:
        import shap
    except ImportError:
        print("shap is not installed: left out")
        return {}

    def permutation(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        masker = shap.maskers.Independent(np.zeros((1, n_players)))
        explainer = shap.explainers.Permutation(value, masker, seed=seed)
        # shap counts 2 n + 1 evaluations for a permutation and its reverse, ends included, which here are paid for once
        n_pairs = max(1, (budget - 2) // (2 * (n_players - 1)))
        explained = explainer(np.ones((1, n_players)), max_evals=n_pairs * (2 * n_players + 1), silent=True)
        return np.asarray(explained.values[0], dtype=np.float64)

    def kernel(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        state = np.random.get_state()
        np.random.seed(seed)  # shap draws from the global generator only
        try:
            explainer = shap.KernelExplainer(value, np.zeros((1, n_players)))
            found = explainer.shap_values(np.ones((1, n_players)), nsamples=budget - 2, l1_reg=False, silent=True)
        finally:
            np.random.set_state(state)
        return np.asarray(found, dtype=np.float64).reshape(n_players)

    return {"shap Permutation": permutation, "shap Kernel": kernel}


def _captum_methods() -> dict[str, Estimate]:
    try:
        import torch
        from captum.attr import ShapleyValueSampling
    except ImportError:
        print("captum is not installed: left out")
        return {}
    torch.set_num_threads(1)

    def sampling(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        def forward(rows: Any) -> Any:
            return torch.as_tensor(value(rows.numpy() > 0.5))

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ones = torch.ones(1, n_players, dtype=torch.float64)
            n_permutations = max(1, (budget - 2) // (n_players - 1))
            found = ShapleyValueSampling(forward).attribute(ones, torch.zeros_like(ones), n_samples=n_permutations)
        return np.asarray(found.numpy()[0], dtype=np.float64)

    return {"captum ShapleyValueSampling": sampling}


METHODS: dict[str, Callable[[], dict[str, Estimate]]] = {
    "shapkit": shapkit_methods,
    "peers": peer_methods,
    "slow": slow_methods,
}


# ---------------------------------------------------------------------------------------------------- accuracy


def measure(name: str, estimate: Estimate, game: Any, factor: int, seed: int) -> dict[str, Any]:
    """One estimate: its squared error, seconds, and the evaluations it used."""
    budget = factor * game.n_players
    record: dict[str, Any] = {"game": game.name, "method": name, "factor": factor, "seed": seed}
    # Only other packages are granted less and tried again: here the budget is a promise
    tries = 1 if " " not in name else 8
    for attempt in range(tries):
        counted = CountedValue(game.value, game.n_players, budget)
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = estimate(counted, game.n_players, budget - attempt * game.n_players // 2, seed)
        except OverBudgetError as error:
            record["error"] = f"over budget: {error}"
            continue
        except Exception as error:  # a method that cannot do it is a result, too
            record.setdefault("error", f"{type(error).__name__}: {str(error)[:200]}")
            break
        record.pop("error", None)
        record["seconds"] = round(time.perf_counter() - started, 6)
        record["squared_error"] = float(((values - game.exact) ** 2).sum())
        record["evaluations"] = counted.n_evaluations
        break
    if not np.isfinite(record.get("squared_error", 0.0)):
        del record["squared_error"]
        record["error"] = "the values are not finite"
    return record


def run(folder: Path, options: argparse.Namespace) -> None:
    """Fill the folder with results, seeds outermost, so that a run cut short has all games and methods."""
    from accuracy_games import open_game

    methods = METHODS[options.methods]()
    methods = {name: method for name, method in methods.items() if not options.only or name in options.only}
    path = folder / f"{options.methods}.jsonl"
    if options.fresh:
        keep = [record for record in read_lines(path) if record["method"] not in methods]
        _write(path, "".join(json.dumps(record) + "\n" for record in keep))
    done = {_key(record) for record in read_lines(path)}
    games = [open_game(name, folder / "games") for name in chosen_games(options)]
    for method in methods.values():
        _warm_up(method)
    _write(folder / f"machine-{options.methods}.json", json.dumps(machine(options.methods)) + "\n")
    end = time.monotonic() + options.minutes * 60
    with appending(path) as file:
        for name, estimate, game, factor, seed in _cells(methods, games, options):
            if (game.name, name, factor, seed) in done:
                continue
            if time.monotonic() > end:
                print("out of time: run the same command again to go on")
                return
            record = measure(name, estimate, game, factor, seed)
            file.write(json.dumps(record) + "\n")
            file.flush()
            if "error" in record and seed == 0:
                print(f"{game.name}, {factor}n, {name}: {record['error']}", flush=True)
    print(f"complete: {path.name}")


def _cells(methods: dict[str, Estimate], games: list[Any], options: argparse.Namespace) -> Iterator[Any]:
    for seed in range(options.seeds):
        for factor in options.factors:
            for game in games:
                if factor * game.n_players < 2**game.n_players:
                    for name, estimate in methods.items():
                        yield name, estimate, game, factor, seed
        print(f"seed {seed} done, {time.strftime('%H:%M:%S')}", flush=True)


def _warm_up(estimate: Estimate) -> None:
    """Compile what is compiled at first use, uncounted."""
    table = np.random.default_rng(0).normal(size=2**8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimate(lambda rows: table[np.atleast_2d(rows).astype(np.int64) @ (1 << np.arange(8))], 8, 80, 0)
    except Exception as error:
        print(f"warm-up: {type(error).__name__}: {error}")


def chosen_games(options: argparse.Namespace) -> Iterable[str]:
    from accuracy_games import GAMES

    return options.games or (QUICK_GAMES if options.quick else GAMES)


def _key(record: dict[str, Any]) -> tuple[str, str, int, int]:
    return record["game"], record["method"], record["factor"], record["seed"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file; a last line that a killed run left unfinished is dropped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def appending(path: Path) -> TextIO:
    """The file open at its end, on a new line even where a killed run left one unfinished."""
    file = path.open("a+", encoding="utf-8")
    file.seek(0)
    text = file.read()
    if text and not text.endswith("\n"):
        file.write("\n")
    return file


def aggregate(folder: Path) -> dict[str, Any]:
    """Everything the report says, from the lines of all runs in the folder."""
    from accuracy_games import GAMES, open_game

    records = {_key(record): record for name in METHODS for record in read_lines(folder / f"{name}.jsonl")}
    games: dict[str, Any] = {}
    errors: dict[tuple[str, int], dict[str, dict[int, dict[str, Any]]]] = {}
    for (game, method, factor, seed), record in records.items():
        errors.setdefault((game, factor), {}).setdefault(method, {})[seed] = record
    for name in GAMES:
        factors = [factor for factor in FACTORS if _succeeded(errors.get((name, factor), {}).get(BASELINE))]
        if factors:
            game = open_game(name, folder / "games")
            least = ROUNDING * float((game.exact**2).sum())
            cells = {str(factor): _cell(errors[name, factor], least) for factor in factors}
            games[name] = {"name": name, "n_players": game.n_players, "factors": cells}
    results: dict[str, Any] = {"command": "python benchmarks/accuracy.py", "games": games}
    results["methods"] = _over_games(errors, games)
    results["against_peers"] = _against_peers(errors, games)
    results["slow"] = _against_slow(errors, games)
    results["coverage"] = aggregate_coverage(folder)
    if (folder / "overhead.json").exists():
        results["overhead"] = json.loads((folder / "overhead.json").read_text(encoding="utf-8"))
    results["machines"] = {
        name: json.loads((folder / f"machine-{name}.json").read_text(encoding="utf-8"))
        for name in METHODS
        if (folder / f"machine-{name}.json").exists()
    }
    return results


def _succeeded(by_seed: dict[int, dict[str, Any]] | None) -> bool:
    return bool(by_seed) and all("squared_error" in record for record in (by_seed or {}).values())


def _cell(by_method: dict[str, dict[int, dict[str, Any]]], least: float) -> dict[str, Any]:
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
    return np.maximum(means, least)


def _means(errors: Any, game: str, factor: int, cell: dict[str, Any]) -> dict[str, Floats]:
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


def _over_games(errors: Any, games: dict[str, Any]) -> dict[str, Any]:
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


def _against_peers(errors: Any, games: dict[str, Any]) -> dict[str, Any]:
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


def _against_slow(errors: Any, games: dict[str, Any]) -> dict[str, Any]:
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


def is_peer(method: str) -> bool:
    """Whether a method is another package's: those names begin with the package's and a space."""
    return " " in method


# ---------------------------------------------------------------------------------------- coverage and bias


def measure_coverage(folder: Path, options: argparse.Namespace) -> None:
    """Estimates with their intervals, for many seeds; kept in blocks of 50 seeds."""
    from accuracy_games import COVERAGE_TABLES, kept_table, table_as_game

    path, block = folder / "coverage.jsonl", 50
    methods = [name for name in registered() if not options.only or name in options.only]
    if options.fresh:
        keep = [record for record in read_lines(path) if record["method"] not in methods]
        _write(path, "".join(json.dumps(record) + "\n" for record in keep))
    done = {(r["game"], r["method"], r["factor"], r["first"]) for r in read_lines(path)}
    games = [table_as_game(name, kept_table(name, make, folder / "games")) for name, make in COVERAGE_TABLES.items()]
    end = time.monotonic() + options.minutes * 60
    with appending(path) as file:
        for first in range(0, options.repetitions, block):
            for game in games:
                for method in methods:
                    factor = affordable_factor(game.name, game.n_players, method, options.factor)
                    if factor is None or (game.name, method, factor, first) in done:
                        continue
                    if time.monotonic() > end:
                        print("out of time: run the same command again to go on")
                        return
                    seeds = range(first, min(first + block, options.repetitions))
                    record = coverage_block(game, method, factor, seeds)
                    file.write(json.dumps(record) + "\n")
                    file.flush()
    print("complete: coverage.jsonl")


@functools.cache
def affordable_factor(game: str, n_players: int, method: Any, factor: int) -> int | None:
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


def coverage_block(game: Any, method: Any, factor: int, seeds: range) -> dict[str, Any]:
    """How often intervals held the exact values, and the sums that tell bias, over some seeds."""
    held, total, squares = (np.zeros(game.n_players) for _ in range(3))
    budget, rounding = factor * game.n_players, 1e-12 * float(np.abs(game.exact).max())
    for seed in seeds:
        counted = CountedValue(game.value, game.n_players, budget)
        found = shapkit.estimate(shapkit.Game(counted, game.n_players), budget=budget, method=method, seed=seed)
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


def aggregate_coverage(folder: Path) -> list[dict[str, Any]]:
    """Per method and game: coverage over players, that of the worst player, and the bias in standard errors."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
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


# ---------------------------------------------------------------------------------------------------- overhead


def measure_overhead(folder: Path, n_players: int = 50) -> None:
    """Nanoseconds per evaluation beside the game, of everyone's permutation sampling, taking turns."""
    budget = 200 * n_players
    peers = peer_methods()
    names = ("shapiq permutation", "captum ShapleyValueSampling", "shap Permutation")
    methods = {name: method for name, method in shapkit_methods().items() if name in UNBIASED[:3]}
    methods |= {name: peers[name] for name in names if name in peers}
    nanoseconds: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(6):
        for name, estimate in methods.items():
            if repetition == 0 or repetition <= (2 if is_peer(name) else 5):
                measured = _beside_the_game(estimate, n_players, budget, repetition)
                if repetition:
                    nanoseconds[name].append(measured)
    medians = {name: statistics.median(measured) for name, measured in nanoseconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:,.0f} ns per evaluation beside the game, n = {n_players}")
    results = {"n_players": n_players, "budget": budget, "nanoseconds": medians, "machine": machine("peers")}
    _write(folder / "overhead.json", json.dumps(results, indent=1) + "\n")


def _beside_the_game(estimate: Estimate, n_players: int, budget: int, seed: int) -> float:
    inside, n_evaluations = 0.0, 0

    def value(coalitions: Any) -> Floats:
        nonlocal inside, n_evaluations
        started = time.perf_counter()
        rows = np.atleast_2d(coalitions)
        payoffs = rows[:, 0] * 2.0 + rows[:, -1]
        n_evaluations += len(rows)
        inside += time.perf_counter() - started
        return payoffs

    started = time.perf_counter()
    estimate(value, n_players, budget, seed)
    return (time.perf_counter() - started - inside) / n_evaluations * 1e9


# ---------------------------------------------------------------------------------------------------- report


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the README."""
    ours = main_method(results)
    parts = [_report_games(results, ours), _report_means(results, ours), _report_methods(results)]
    parts += [_report_slow(results), _report_coverage(results), _report_overhead(results), _report_machines(results)]
    return "\n\n".join(part for part in parts if part)


def main_method(results: dict[str, Any]) -> str:
    """auto, where it is measured."""
    known = results["methods"]
    return next((name for name in ("auto", "gaussian_process", "permutation") if name in known), "permutation")


def _report_games(results: dict[str, Any], ours: str) -> str:
    compared = results["against_peers"].get(ours)
    if not compared:
        return ""
    codes = _codes({game["peer"] for factor in compared.values() for game in factor["games"].values()})
    seeds = {
        method["n_seeds"]
        for game in results["games"].values()
        for cell in game["factors"].values()
        for name, method in cell["methods"].items()
        if name == ours or (is_peer(name) and name not in SLOW)
    }
    said = str(max(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    factors = [factor for factor in FACTORS if str(factor) in compared]
    lines = [
        f"mean squared error of {ours}, divided by that of each game's best method elsewhere, slow ShaplEIG apart;",
        f"{said} seeds, 95 % bootstrap intervals; evaluations per player:",
        f"{'':<21}{'n':>4}" + "".join(f"{factor:>22}n" for factor in factors),
    ]
    for name, game in results["games"].items():
        cells = []
        for factor in factors:
            ratio = compared[str(factor)]["games"].get(name)
            said = "" if ratio is None else f"{_number(ratio['value'])} {_range(ratio)} {codes[ratio['peer']]}"
            cells.append(f"{said:>23}")
        lines.append(f"{name:<21}{game['n_players']:>4}" + "".join(cells).rstrip())
    named = [f"{code} {name}" for name, code in codes.items()]
    lines += [
        "best: " + ", ".join(named[:5]),
        *(" " * 6 + ", ".join(named[at : at + 5]) for at in range(5, len(named), 5)),
    ]
    return "\n".join(lines)


def _report_means(results: dict[str, Any], ours: str) -> str:
    compared = results["against_peers"].get(ours)
    if not compared:
        return ""
    lines = [f"{'evaluations per player':<45}" + "".join(f"{factor:>19}n" for factor in compared)]
    for key, label in (
        ("geometric_mean", "geometric mean over games"),
        ("floored_at_0.05", "the same, no ratio taken as less than 0.05"),
        ("worst", "the worst game"),
    ):
        cells = [f"{_number(factor[key]['value'])} {_range(factor[key])}" for factor in compared.values()]
        lines.append(f"{label:<45}" + "".join(f"{cell:>20}" for cell in cells))
    bars = "".join(f"{BARS[int(factor)]:>20}" for factor in compared)
    return "\n".join([*lines, f"{f'wanted: at most (worst game {WORST_BAR})':<45}{bars}"])


def _report_methods(results: dict[str, Any]) -> str:
    methods = results["methods"]
    factors = [str(factor) for factor in FACTORS if any(str(factor) in found for found in methods.values())]
    lines = [
        "mean squared error relative to plain permutation sampling, geometric mean over games but the linear one,",
        "which that solves exactly (and median seconds, with a value function that costs next to nothing)",
        f"{'evaluations per player':<30}" + "".join(f"{factor:>21}n" for factor in factors),
    ]

    def order(name: str) -> tuple[bool, float]:
        values = [found["value"] for found in methods[name].values()]
        return is_peer(name), statistics.geometric_mean(values)

    partial = False
    for name in sorted(methods, key=order):
        cells = []
        for factor in factors:
            found = methods[name].get(factor)
            if found is None:
                cells.append(f"{'':>22}")
                continue
            seconds = statistics.median(
                game["factors"][factor]["methods"][name]["seconds"]
                for game in results["games"].values()
                if name in game["factors"].get(factor, {"methods": {}})["methods"]
            )
            missing = found["n_games"] < found["of_games"]
            partial |= missing
            star = f"*{found['n_games']}" if missing else ""
            said = f"{_number(found['value'])}{star} ({seconds:.2g} s)"
            cells.append(f"{said:>22}")
        lines.append(f"{name:<30}" + "".join(cells))
    if partial:
        lines.append("* over so many games: it failed, or was refused, on the others")
    return "\n".join(lines)


def _report_slow(results: dict[str, Any]) -> str:
    lines = []
    for slow, by_method in results["slow"].items():
        for method in (name for name in ("auto", "gaussian_process") if name in by_method):
            for factor, found in by_method[method].items():
                low, high = found["seeds"]
                lines.append(
                    f"{method} / {slow} at {factor}n, {low} to {high} seeds a game, {len(found['games'])} games: "
                    f"geometric mean {_number(found['geometric_mean'])}, worst {_number(found['worst'])} "
                    f"({slow.split()[1]} takes {found['median_seconds']:.0f} s)"
                )
    return "\n".join(lines)


def _report_coverage(results: dict[str, Any]) -> str:
    rows = results["coverage"]
    if not rows:
        return ""
    games = list(dict.fromkeys(row["game"] for row in rows))
    players = ", ".join(f"{game} {next(r['n_players'] for r in rows if r['game'] == game)}" for game in games)
    repetitions = sorted({row["repetitions"] for row in rows})
    said = f"{repetitions[-1]:,}" if len(repetitions) == 1 else f"{repetitions[0]:,} to {repetitions[-1]:,}"
    lines = [
        f"coverage of nominal 95 % intervals, mean over players, {said} repetitions (players: {players})",
        f"{'method, evaluations':<26}"
        + "".join(f"{game:>18}" for game in games)
        + "   largest |bias| in its standard errors",
    ]
    for method, factor in dict.fromkeys((row["method"], row["factor"]) for row in rows):
        found = {row["game"]: row for row in rows if (row["method"], row["factor"]) == (method, factor)}
        cells = "".join(f"{100 * found[game]['coverage']:>16.1f} %" if game in found else " " * 18 for game in games)
        bias = max(row["bias_in_standard_errors"] for row in found.values())
        claim = "" if method in UNBIASED else "  (does not claim to have none)"
        lines.append(f"{f'{method}, {factor}n':<26}{cells}{bias:>12.1f}{claim}")
    return "\n".join(lines)


def _report_overhead(results: dict[str, Any]) -> str:
    if "overhead" not in results:
        return ""
    measured = results["overhead"]
    cells = ", ".join(f"{name} {nanoseconds:,.0f} ns" for name, nanoseconds in measured["nanoseconds"].items())
    asked = f"n = {measured['n_players']}, {measured['budget']:,} evaluations"
    return f"time beside the game per evaluation, {asked}:\n{cells}"


def _report_machines(results: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {said}" for name, said in results["machines"].items())


def _codes(peers: set[str]) -> dict[str, str]:
    """A short code for each peer: the capitals of its name, or its first letters."""
    codes: dict[str, str] = {}
    for name in sorted(peers):
        package, method = name.split(" ", 1)
        capitals = "".join(letter for letter in method if letter.isupper())[:2] or method[:2]
        capitals += "l" if "linear" in method else ""
        code = capitals if package == "shapiq" else f"{package[0]}{capitals}"
        codes[name] = code if code not in codes.values() else code + str(len(codes))
    return codes


def _number(value: float) -> str:
    """Two digits, and powers of ten only where there is no other way."""
    if value == 0 or 1e-3 <= value < 1000:
        digits = 3 if value < 0.095 else 2 if value < 9.95 else 0
        return f"{value:.{digits}f}".removeprefix("0") or "0"
    return f"{value:.0e}".replace("e-0", "e-")


def _range(found: dict[str, float]) -> str:
    return f"[{_number(found['low'])}, {_number(found['high'])}]"


def draw(results: dict[str, Any], path: Path) -> None:
    """Error relative to permutation sampling against evaluations per player, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Okabe and Ito's colours, which colour-blind readers can tell apart; other packages are dashed
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    methods = {
        name: {int(factor): found for factor, found in by_factor.items() if found["n_games"] == found["of_games"]}
        for name, by_factor in results["methods"].items()
    }
    methods = {name: found for name, found in methods.items() if found}
    ends = []
    for peers in (False, True):
        for number, name in enumerate(sorted(name for name in methods if is_peer(name) == peers)):
            found = methods[name]
            factors = sorted(found)
            colour = colours[number % len(colours)]
            axes.plot(
                factors,
                [found[factor]["value"] for factor in factors],
                color=colour,
                linestyle="--" if peers else "-",
                linewidth=3 if name == main_method(results) else 1.5,
                marker="ovs^Dp<>*X"[number % 10],
                markersize=5,
            )
            if not peers:
                lows, highs = ([found[factor][end] for factor in factors] for end in ("low", "high"))
                axes.fill_between(factors, lows, highs, color=colour, alpha=0.15, linewidth=0)
            ends.append((np.log10(found[factors[-1]]["value"]), factors[-1], name, colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(FACTORS, [str(factor) for factor in FACTORS])
    axes.minorticks_off()
    axes.set_xlim(4.5, 120)
    low, high = (np.log10(limit) for limit in axes.get_ylim())
    label_at = spread([end[0] for end in ends], gap=(high - low) / 30)
    for (at, factor, name, colour), label in zip(ends, label_at, strict=True):
        weight = "bold" if name == main_method(results) else "normal"
        axes.annotate(
            name,
            (factor, 10**at),
            (factor * 1.15, 10**label),
            color=colour,
            va="center",
            fontsize=8,
            weight=weight,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5},
        )
    axes.set_xlabel("evaluations per player")
    axes.set_ylabel("mean squared error relative to permutation sampling")
    axes.set_title(_finding(results))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _finding(results: dict[str, Any]) -> str:
    """The title says what was found: ours beside the peer that is best over all games."""
    ours = main_method(results)
    compared = results["against_peers"].get(ours, {})
    n_games = len(results["games"])
    if "10" not in compared:
        return f"Error of sampled Shapley values, geometric mean over {n_games} games"
    ratio = compared["10"]["geometric_mean"]["value"]
    share = f"{ratio:.2f} times" if ratio >= 0.1 else f"1/{1 / ratio:.0f} of"
    found = f"At 10 evaluations per player, {ours} has {share} the error"
    return f"{found}\nof each game's best fast method elsewhere ({n_games} games; ShaplEIG apart)"


def spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved as little as needed, so that each is at least `gap` from the next.

    >>> spread([0.0, 0.0, 5.0], gap=1.0)
    [-0.5, 0.5, 5.0]
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    blocks: list[list[float]] = []  # of each block of touching labels, their wanted heights
    for index in order:
        blocks.append([heights[index]])
        while len(blocks) > 1:
            lower, upper = blocks[-2:]
            top = statistics.fmean(lower) + gap * (len(lower) - 1) / 2
            bottom = statistics.fmean(upper) - gap * (len(upper) - 1) / 2
            if top + gap <= bottom:
                break
            blocks[-2:] = [lower + upper]
    moved = [
        statistics.fmean(block) + gap * (place - (len(block) - 1) / 2)
        for block in blocks
        for place in range(len(block))
    ]
    placed = [0.0] * len(heights)
    for index, height in zip(order, moved, strict=True):
        placed[index] = height
    return placed


def rounded(results: Any) -> Any:
    """The same with four significant digits, for a smaller file."""
    if isinstance(results, dict):
        return {key: rounded(entry) for key, entry in results.items()}
    if isinstance(results, list):
        return [rounded(entry) for entry in results]
    return float(f"{results:.4g}") if isinstance(results, float) else results


def machine(methods: str) -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    packages = {"shapkit": ("numpy", "scipy", "numba"), "slow": ("numpy", "shapiq", "torch", "botorch")}
    wanted = packages.get(methods, ("numpy", "shapiq", "shap", "captum", "torch", "scikit-learn", "xgboost"))
    # Metadata may be there for a package of which nothing can be imported, and the other way round
    versions = []
    for name in wanted:
        if importlib.util.find_spec({"scikit-learn": "sklearn"}.get(name, name)):
            try:
                versions.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                versions.append(name)
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(versions)}"


def _write(path: Path, text: str) -> None:
    """The whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cache", type=Path, default=ROOT / "runs" / "accuracy", help="folder of tables and results")
    shared.add_argument("--quick", action="store_true", help="a few games, seeds and repetitions, in a folder apart")
    resumable = argparse.ArgumentParser(add_help=False)
    resumable.add_argument("--only", nargs="+", metavar="METHOD", help="of the methods, only these")
    resumable.add_argument("--fresh", action="store_true", help="forget what was measured of these methods")
    resumable.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("games", parents=[shared], help="make the games' tables")
    runs = commands.add_parser("run", parents=[shared, resumable], help="measure errors")
    runs.add_argument("--methods", choices=METHODS, default="shapkit")
    runs.add_argument("--games", nargs="+", metavar="GAME")
    runs.add_argument("--factors", type=int, nargs="+", default=list(FACTORS), help="evaluations per player")
    runs.add_argument("--seeds", type=int, default=None, help="by default 20, with --quick 3")
    coverage = commands.add_parser("coverage", parents=[shared, resumable], help="intervals and bias")
    coverage.add_argument("--repetitions", type=int, default=None, help="by default 2,000, with --quick 100")
    coverage.add_argument("--factor", type=int, default=20, help="evaluations per player")
    commands.add_parser("overhead", parents=[shared], help="time beside the game")
    reports = commands.add_parser("report", parents=[shared], help="aggregate, draw and print")
    reports.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    reports.add_argument("--redraw", action="store_true", help="draw and print what was published before")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cache = options.cache / "quick"
    if options.command == "run" and options.seeds is None:
        options.seeds = 3 if options.quick else 20
    if options.command == "coverage" and options.repetitions is None:
        options.repetitions = 100 if options.quick else 2000
    return options


def main() -> None:
    options = parsed()
    folder: Path = options.cache
    folder.mkdir(parents=True, exist_ok=True)
    if options.command == "games":
        from accuracy_games import open_game

        for name in chosen_games(argparse.Namespace(games=None, quick=options.quick)):
            game = open_game(name, folder / "games")
            print(f"{name}: {game.n_players} players, values {game.exact.min():.3g} to {game.exact.max():.3g}")
    elif options.command == "run":
        run(folder, options)
    elif options.command == "coverage":
        measure_coverage(folder, options)
    elif options.command == "overhead":
        measure_overhead(folder)
    else:
        write_report(folder, options)


def write_report(folder: Path, options: argparse.Namespace) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if options.redraw else rounded(aggregate(folder))
    picture = PICTURE if options.redraw or options.publish else folder / "accuracy.png"
    if not options.redraw:
        _write(RESULTS if options.publish else folder / "accuracy.json", json.dumps(results, indent=1) + "\n")
    if not results["methods"]:
        sys.exit(f"no results in {folder}: see --help for what to run")
    draw(results, picture)
    print(report(results))


if __name__ == "__main__":
    main()
