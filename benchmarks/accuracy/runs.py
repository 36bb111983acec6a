"""What `benchmarks/accuracy/` measures of every method: squared errors at equal budgets, and time beside the game."""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.games import GAMES, LARGE_GAMES, BenchmarkGame, open_game
from benchmarks.accuracy.methods import (
    METHODS,
    UNBIASED,
    CountedValue,
    Estimate,
    Floats,
    OverBudgetError,
    is_peer,
    peer_methods,
    shapkit_methods,
)
from benchmarks.accuracy.records import Cell, Record, fill, forget, machine, write_whole

FACTORS = (5, 10, 20, 40)  # evaluations per player
QUICK_GAMES = ("council of the EU", "unanimity, signed", "random forest", "linear regression")
QUICK_LARGE_GAMES = ("council of the EU", "airport 30")
KEY = ("game", "method", "factor", "seed")
LARGE_KEY = ("game", "method", "budget", "seed")
LARGE_BUDGETS = (8_192, 16_384, 65_536)
# Fitting trees to tens of thousands of evaluations takes minutes: regression_adjusted is measured when --only names it
LARGE_METHODS = ("permutation", "antithetic", "stratified", "kernel", "leverage", "auto")


def measure(estimate: Estimate, game: BenchmarkGame, budget: int, seed: int, tries: int = 1) -> Record:
    """One estimate: its seconds, squared error, and the evaluations it used; or the error that it raised.

    A method that asks for more than its budget is tried again with a smaller grant, where it has several tries.
    """
    record: Record = {}
    for attempt in range(tries):
        counted = CountedValue(game.value, game.n_players, budget)
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = estimate(counted, game.n_players, budget - attempt * game.n_players // 2, seed)
        except OverBudgetError as error:
            record = {"error": f"over budget: {error}"}
            continue
        except Exception as error:  # a method that cannot do it is a result, too
            return record or {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        seconds = round(time.perf_counter() - started, 6)
        squared_error = float(((values - game.exact) ** 2).sum())
        if np.isfinite(squared_error):
            return {"seconds": seconds, "squared_error": squared_error, "evaluations": counted.n_evaluations}
        return {"seconds": seconds, "evaluations": counted.n_evaluations, "error": "the values are not finite"}
    return record


def share_held(values: Floats, standard_errors: Floats, exact: Floats) -> float:
    """How many of the 95 % intervals hold the exact value, but for rounding."""
    rounding = 1e-10 * np.sqrt((exact**2).sum())
    return float((np.abs(values - exact) <= 1.96 * standard_errors + rounding).mean())


def run(folder: Path, options: argparse.Namespace) -> None:
    """Fill the folder with results, seeds outermost, so that a run cut short has all games and methods."""
    games = [open_game(name, folder / "games") for name in chosen_games(options)]
    methods = _ready(folder, options.methods, METHODS[options.methods](), options)
    fill(folder / f"{options.methods}.jsonl", KEY, _cells(methods, games, options), options.minutes)


def run_large(folder: Path, options: argparse.Namespace) -> None:
    """The same for shapkit's methods at large budgets."""
    names = options.games or (QUICK_LARGE_GAMES if options.quick else LARGE_GAMES)
    games = [LARGE_GAMES[name]() for name in names]
    methods = {name: method for name, method in shapkit_methods().items() if name in (options.only or LARGE_METHODS)}
    methods = _ready(folder, "large", methods, options)
    fill(folder / "large.jsonl", LARGE_KEY, _large_cells(methods, games, options), options.minutes)


def _ready(folder: Path, kind: str, methods: dict[str, Estimate], options: argparse.Namespace) -> dict[str, Estimate]:
    """The chosen ones of the methods, compiled, with their old records forgotten where that is asked for."""
    methods = {name: method for name, method in methods.items() if not options.only or name in options.only}
    if options.fresh:
        forget(folder / f"{kind}.jsonl", methods)
    for method in methods.values():
        warm_up(method)
    write_whole(folder / f"machine-{kind}.json", json.dumps(machine(kind)) + "\n")
    return methods


def _cells(methods: dict[str, Estimate], games: list[BenchmarkGame], options: argparse.Namespace) -> Iterator[Cell]:
    def measured(name: str, game: BenchmarkGame, factor: int, seed: int) -> Record:
        # Only other packages are granted less and tried again: here the budget is a promise
        tries = 8 if is_peer(name) else 1
        record = {"game": game.name, "method": name, "factor": factor, "seed": seed}
        return record | measure(methods[name], game, factor * game.n_players, seed, tries)

    for seed in range(options.seeds):
        for factor in options.factors:
            for game in games:
                if factor * game.n_players < 2**game.n_players:
                    for name in methods:
                        yield (game.name, name, factor, seed), partial(measured, name, game, factor, seed)
        print(f"seed {seed} done, {time.strftime('%H:%M:%S')}", flush=True)


def _large_cells(
    methods: dict[str, Estimate], games: list[BenchmarkGame], options: argparse.Namespace
) -> Iterator[Cell]:
    def measured(name: str, game: BenchmarkGame, budget: int, seed: int) -> Record:
        record = {"game": game.name, "n_players": game.n_players, "method": name, "budget": budget, "seed": seed}
        return record | measure(methods[name], game, budget, seed)

    for seed in range(options.seeds):
        for game in games:
            for budget in (512,) if options.quick else LARGE_BUDGETS:
                for name in methods:
                    yield (game.name, name, budget, seed), partial(measured, name, game, budget, seed)
        print(f"seed {seed} done, {time.strftime('%H:%M:%S')}", flush=True)


def warm_up(estimate: Estimate) -> None:
    """Compile what is compiled at first use, uncounted."""
    table = np.random.default_rng(0).normal(size=2**8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimate(lambda rows: table[np.atleast_2d(rows).astype(np.int64) @ (1 << np.arange(8))], 8, 80, 0)
    except Exception as error:
        print(f"warm-up: {type(error).__name__}: {error}")


def chosen_games(options: argparse.Namespace) -> Iterable[str]:
    """The names of the games that `run` plays, and `games` makes."""
    return options.games or (QUICK_GAMES if options.quick else GAMES)


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
    write_whole(folder / "overhead.json", json.dumps(results, indent=1) + "\n")


def _beside_the_game(estimate: Estimate, n_players: int, budget: int, seed: int) -> float:
    inside, n_evaluations = 0.0, 0

    def value(coalitions: Any) -> Floats:
        nonlocal inside, n_evaluations
        started = time.perf_counter()
        rows = np.atleast_2d(coalitions)
        payoffs = np.asarray(rows[:, 0] * 2.0 + rows[:, -1])
        n_evaluations += len(rows)
        inside += time.perf_counter() - started
        return payoffs

    started = time.perf_counter()
    estimate(value, n_players, budget, seed)
    return (time.perf_counter() - started - inside) / n_evaluations * 1e9
