"""How accurate sampled values and interactions are, beside those of others, on games that others have computed.

    python -m benchmarks.accuracy.real_games run --games DIR --methods shapkit   # each result is kept: goes on
    python -m benchmarks.accuracy.real_games run --games DIR --methods peers     # in an interpreter with shapiq
    python -m benchmarks.accuracy.real_games report --games DIR --publish        # docs/results/real_games.json
    python -m benchmarks.accuracy.real_games report --redraw                     # print what was published

DIR holds games as npz files with `table`, float64 (2**n_players,), bit i of the index set where player i is in. The
published figures are of shapiq's 78 precomputed games (Muschalik and others, NeurIPS 2024; branch benchmark_dump of
mmschlk/shapiq, commit 1458edcb, MIT), brought into this order. What is measured is the Shapley interaction index of all
pairs, whose squared error is given relative to the sum of their squares; with `--order 3` that of all triples, with
`--order 1` the Shapley values. The games in `TUNED`, of all kinds but data valuation, were what the method was made
by; the others judged what had been made.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import shapkit
from benchmarks.accuracy.games import BenchmarkGame
from benchmarks.accuracy.methods import Estimate, Floats, Value, is_peer, shapiq_method
from benchmarks.accuracy.methods import peer_methods as value_methods
from benchmarks.accuracy.records import Cell, Record, fill, read_lines, rounded, write_whole
from benchmarks.accuracy.runs import measure, share_held
from benchmarks.machine import machine
from shapkit.exact.interactions import Index

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "real_games.json"
FACTORS, SEEDS = (5, 10, 20, 40), 2  # evaluations per player
KEY = ("game", "method", "factor", "seed")
RESAMPLES = 2000
ROUNDING = 1e-20  # relative squared errors below are not told apart
NEGLIGIBLE = 1e-6  # the same where a thousandth of the interactions is as good as nothing
SLOW_FOR_TRIPLES = ("KernelSHAPIQ", "SVARMIQ", "SVARMIQ, pairs", "ProxySPEX")  # seconds an estimate
TUNED = (
    "AdultCensus_DatasetValuation_n10__model_name-decision_tree",
    "AdultCensus_EnsembleSelection",
    "AdultCensus_FeatureSelection_n14__model_name-random_forest",
    "AdultCensus_GlobalExplanation_n14__model_name-gradient",
    "AdultCensus_LocalExplanation_n14__model_name-gradient_boosting_imputer-marginal",
    "AdultCensus_LocalExplanation_n14__model_name-random_forest_imputer-conditional",
    "AdultCensus_UncertaintyExplanation_n14__uncertainty_to_explain-epistemic_imputer-conditional",
    "AdultCensus_UncertaintyExplanation_n14__uncertainty_to_explain-total_imputer-marginal",
    "BikeSharing_FeatureSelection_n12__model_name-decision",
    "BikeSharing_GlobalExplanation_n12__model_name-random",
    "BikeSharing_LocalExplanation_n12__model_name-gradient_boosting_imputer-conditional",
    "BikeSharing_RandomForestEns",
    "CaliforniaHousing_DatasetValuation_n10__model_name-gradient",
    "ImageClassifier_n14__model_name-resnet_18_n_superpixel_resnet-14__2",
    "ImageClassifier_n9__model_name-vit_9_patches__4",
    "SOUM_n15__n-15_n_basis_games-30_min_interaction_size-1_max_interaction_size-5__2",
    "SentimentAnalysis_n14__mask_strategy-mask__2",
    "SentimentAnalysis_n14__mask_strategy-mask__6",
)


def family(name: str) -> str:
    """What kind of game it is, from its file's name: DataValuation, LocalExplanation, ..."""
    head = name.split("__")[0].split("_n")[0]
    return head.split("_")[-1]


def shapkit_methods(order: int) -> dict[str, Estimate]:
    """The default of `estimate`; where its intervals lie is measured too."""

    def estimated(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        game = shapkit.Game(value, n_players)
        found = shapkit.estimate(game, budget, method="gaussian_process", seed=seed, index=_index(order), order=order)
        values = found.values[_of_size(n_players, order)]
        errors = np.zeros_like(values) if found.standard_errors is None else found.standard_errors[-len(values) :]
        return np.stack([values, errors])

    return {"auto": estimated}


def peer_methods(order: int) -> dict[str, Estimate]:
    """The estimators of others, of those that can run here: shapiq's, and of values those of shap and captum too."""
    import shapiq

    makers: dict[str, tuple[str, dict[str, Any]]] = {
        "KernelSHAPIQ": ("KernelSHAPIQ", {}),
        "KernelSHAPIQ, pairs": ("KernelSHAPIQ", {"pairing_trick": True}),
        "InconsistentKernelSHAPIQ": ("InconsistentKernelSHAPIQ", {}),
        "SVARMIQ": ("SVARMIQ", {}),
        "SVARMIQ, pairs": ("SVARMIQ", {"pairing_trick": True}),
        "SHAPIQ": ("SHAPIQ", {}),
        "permutation": ("PermutationSamplingSII", {}),
    }
    wanted = {"max_order": order, "index": "SV" if order == 1 else "SII"}
    found = {
        f"shapiq {name}": shapiq_method(getattr(shapiq, kind), options | wanted, order)
        for name, (kind, options) in (_PROXIES if order == 1 else makers | _PROXIES).items()
        if hasattr(shapiq, kind) and not (order == 3 and name in SLOW_FOR_TRIPLES)
    }
    return (value_methods() if order == 1 else {}) | found


_PROXIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ProxySHAP": ("ProxySHAP", {}),  # with xgboost
    "ProxySHAP, tree": ("ProxySHAP", {"proxy_model": "tree"}),  # what it takes where xgboost is not installed
    "ProxySHAP, adjusted": ("ProxySHAP", {"adjustment": True}),
    "ProxySPEX": ("ProxySPEX", {"hpo": False}),
}


METHODS: dict[str, Callable[[int], dict[str, Estimate]]] = {"shapkit": shapkit_methods, "peers": peer_methods}


def _index(order: int) -> Index:
    return "shapley" if order == 1 else "SII"


def _of_size(n_players: int, size: int) -> slice:
    """Where the coalitions of one size are among the terms."""
    sizes = [len(term) for term in shapkit.interaction_terms(n_players, size)]
    return slice(sizes.index(size), len(sizes))


def open_games(folder: Path, order: int) -> Iterator[BenchmarkGame]:
    """Each game with its exact interactions, of coalitions of `order` players."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            table = arrays["table"]
        n_players = len(table).bit_length() - 1
        exact = shapkit.exact(shapkit.table_game(table), _index(order), order).values[_of_size(n_players, order)]
        powers = 1 << np.arange(n_players)

        def value(coalitions: Any, table: Floats = table, powers: Any = powers) -> Floats:
            return np.asarray(table[np.atleast_2d(coalitions).astype(bool) @ powers])

        yield BenchmarkGame(path.stem, n_players, value, exact)


def cells(methods: dict[str, Estimate], options: argparse.Namespace) -> Iterator[Cell]:
    for game in open_games(options.games, options.order):
        for factor in FACTORS:
            if factor * game.n_players >= 2**game.n_players:
                continue
            for name, estimate in methods.items():
                for seed in range(options.seeds):
                    key = (game.name, name, factor, seed)
                    yield key, lambda game=game, key=key, estimate=estimate: _measured(game, key, estimate)


def _measured(game: BenchmarkGame, key: tuple[str, str, int, int], estimate: Estimate) -> Record:
    """The record of one estimate; of shapkit's, how often the 95 % intervals hold the exact value."""
    covered: list[float] = []

    def values(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        found = estimate(value, n_players, budget, seed)
        if found.ndim == 1:
            return found
        covered.append(share_held(found[0], found[1], game.exact))
        return np.asarray(found[0])

    record = dict(zip(KEY, key, strict=True)) | measure(values, game, key[2] * game.n_players, key[3], tries=4)
    record["squares"] = float((game.exact**2).sum())
    return record | ({"coverage": covered[0]} if covered else {})


def aggregate(folder: Path, n_seeds: int) -> dict[str, Any]:
    """Per game and budget the mean relative error of each method; then ratios to the best peer of each game."""
    records: dict[str, dict[str, dict[str, list[Record]]]] = {}
    for which in METHODS:
        for record in read_lines(folder / f"{which}.jsonl"):
            by_factor = records.setdefault(record["game"], {})
            by_factor.setdefault(str(record["factor"]), {}).setdefault(record["method"], []).append(record)
    games: dict[str, Any] = {}
    for game, by_factor in sorted(records.items()):
        games[game] = {"family": family(game), "tuned": game.startswith(TUNED), "factors": {}}
        for factor, by_method in by_factor.items():
            found = {name: rows for name, rows in by_method.items() if all("squared_error" in row for row in rows)}
            games[game]["factors"][factor] = {
                name: {
                    "errors": [row["squared_error"] / row["squares"] for row in rows[:n_seeds]],
                    "seconds": float(np.median([row["seconds"] for row in rows])),
                    **(
                        {"coverage": float(np.mean([row["coverage"] for row in rows]))} if "coverage" in rows[0] else {}
                    ),
                }
                for name, rows in found.items()
            }
    return {"games": games, "summary": {name: _summary(games, wanted) for name, wanted in _GROUPS.items()}}


WHAT = {"1": "Shapley values", "2": "the interactions (SII) of pairs", "3": "the interactions (SII) of triples"}

_GROUPS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "not tuned on": lambda game: not game["tuned"],
    "tuned on": lambda game: game["tuned"],
    "all": lambda game: True,
}


def _summary(games: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Of the games wanted and each budget: the geometric mean of the ratios, its bootstrap interval, the worst."""
    summary: dict[str, Any] = {}
    for factor in map(str, FACTORS):
        ratios, noticeable, coverages, seconds, worst = [], [], [], [], ("", 0.0)
        for name, game in games.items():
            cell = game["factors"].get(factor, {})
            peers = [np.mean(found["errors"]) for method, found in cell.items() if is_peer(method)]
            if not wanted(game) or not peers or "auto" not in cell:
                continue
            own, best = float(np.mean(cell["auto"]["errors"])), float(min(peers))
            ratio = max(own, ROUNDING) / max(best, ROUNDING)
            ratios.append(ratio)
            noticeable.append(max(own, NEGLIGIBLE) / max(best, NEGLIGIBLE))
            coverages.append(cell["auto"]["coverage"])
            seconds.append(cell["auto"]["seconds"])
            worst = max(worst, (name, ratio), key=lambda entry: entry[1])
        if not ratios:
            continue
        summary[factor] = {
            "n_games": len(ratios),
            **_geometric(ratios),
            "noticeable": _geometric(noticeable),
            "worst_noticeable": max(noticeable),
            "worst": worst[1],
            "worst_game": worst[0],
            "n_above_one": int((np.array(ratios) > 1).sum()),
            "coverage": float(np.mean(coverages)),
            "seconds": float(np.median(seconds)),
        }
    return summary


def _geometric(ratios: list[float]) -> dict[str, float]:
    """Their geometric mean, and its 95 % bootstrap interval over the games."""
    logs = np.log(ratios)
    draws = np.random.default_rng(0).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.exp(np.quantile(logs[draws].mean(axis=1), [0.025, 0.975]))
    return {"ratio": float(np.exp(logs.mean())), "low": float(low), "high": float(high)}


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the docs."""
    lines = []
    for order, found in results["orders"].items():
        what = WHAT[order]
        lines.append(f"squared error of {what}, divided by that of each game's best method of others")
        lines.append(f"{'evaluations per player':<34}" + "".join(f"{f'{factor}n':>22}" for factor in FACTORS))
        for group, summary in found["summary"].items():
            if not summary:
                continue
            n_games = max(entry["n_games"] for entry in summary.values())
            lines.append(f"{f'{n_games} games, {group}':<34}" + _row(summary, _ratio))
            lines.append(f"{'  errors below 1e-6 as 1e-6':<34}" + _row(summary, lambda e: _ratio(e["noticeable"])))
            lines.append(
                f"{'  worst game (above 1)':<34}" + _row(summary, lambda e: f"{e['worst']:.3g} ({e['n_above_one']})")
            )
            lines.append(f"{'  coverage of 95 % intervals':<34}" + _row(summary, lambda e: f"{e['coverage']:.1%}"))
        lines.append(
            f"{'median seconds beside the game':<34}" + _row(found["summary"]["all"], lambda e: f"{e['seconds']:.2f}")
        )
        lines += ["", *_by_method(found["games"]), "", *_by_family(found["games"]), ""]
    lines.append(f"{results['n_seeds']} seeds; {results['machine']}")
    return "\n".join(lines)


def headline(results: dict[str, Any]) -> str:
    """The few figures that the README shows."""
    lines = []
    for order, what in WHAT.items():
        if order == "3" or order not in results["orders"]:  # of triples some methods of others are left out
            continue
        summary = results["orders"][order]["summary"]["not tuned on"]
        n_games = max(entry["n_games"] for entry in summary.values())
        lines += [
            f"squared error of {what}, divided by that of each game's best method of others, {n_games} real games",
            f"{'evaluations per player':<34}" + "".join(f"{f'{factor}n':>22}" for factor in FACTORS),
            f"{'geometric mean over games':<34}" + _row(summary, _ratio),
            f"{'errors below 1e-6 as 1e-6':<34}" + _row(summary, lambda e: _ratio(e["noticeable"])),
            f"{'the worst game then':<34}" + _row(summary, lambda e: f"{e['worst_noticeable']:.2f}"),
        ]
    return "\n".join(lines)


def _row(summary: dict[str, Any], shown: Callable[[dict[str, Any]], str]) -> str:
    return "".join(f"{shown(summary[str(f)]) if str(f) in summary else '-':>22}" for f in FACTORS)


def _ratio(entry: dict[str, Any]) -> str:
    return f"{entry['ratio']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _by_method(games: dict[str, Any]) -> list[str]:
    """Each method's own error, geometric mean over the games that all methods of the budget could do."""
    lines = [f"{'squared error ÷ the sum of squares':<40}" + "".join(f"{f'{factor}n':>12}" for factor in FACTORS)]
    names = sorted({name for game in games.values() for cell in game["factors"].values() for name in cell})
    for name in names:
        row = []
        for factor in map(str, FACTORS):
            cells = [game["factors"][factor] for game in games.values() if factor in game["factors"]]
            found = [np.mean(cell[name]["errors"]) for cell in cells if name in cell]
            row.append(f"{np.exp(np.mean(np.log(found))):.3g}" if found and len(found) == len(cells) else "-")
        lines.append(f"{name:<40}" + "".join(f"{cell:>12}" for cell in row))
    return lines


def _by_family(games: dict[str, Any]) -> list[str]:
    """The ratio to the best peer by kind of game."""
    lines = [f"{'ratio by kind of game (coverage)':<40}" + "".join(f"{f'{factor}n':>16}" for factor in FACTORS)]
    for kind in sorted({game["family"] for game in games.values()}):
        some = {name: game for name, game in games.items() if game["family"] == kind}
        summary = _summary(some, lambda game: True)
        shown = [
            f"{summary[f]['ratio']:.2f} ({summary[f]['coverage']:.0%})" if f in summary else "-"
            for f in map(str, FACTORS)
        ]
        lines.append(f"{f'{kind} ({len(some)})':<40}" + "".join(f"{cell:>16}" for cell in shown))
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--games", type=Path, help="folder of the games' tables")
    parser.add_argument("--methods", choices=METHODS, default="shapkit")
    parser.add_argument("--order", type=int, choices=(1, 2, 3), default=2, help="1 for values, 2 for pairs, 3")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--publish", action="store_true", help="write docs/results/real_games.json")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "real_games")
    options = parser.parse_args(arguments)
    folder = options.cache / f"order-{options.order}"
    if options.command == "run":
        if options.games is None:
            parser.error("run needs --games, a folder of tables")
        folder.mkdir(parents=True, exist_ok=True)
        methods = METHODS[options.methods](options.order)
        fill(folder / f"{options.methods}.jsonl", KEY, cells(methods, options), options.minutes)
        packages = ("numpy", "numba") if options.methods == "shapkit" else ("shapiq", "xgboost", "lightgbm")
        installed = {distribution.name for distribution in importlib.metadata.distributions()}
        known = [package for package in packages if package in installed]
        write_whole(folder / f"machine-{options.methods}.txt", machine(*known, n_threads=_threads()))
        return
    if options.redraw:
        print(report(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    orders = {
        order: aggregate(options.cache / f"order-{order}", options.seeds)
        for order in WHAT
        if (options.cache / f"order-{order}").exists()
    }
    where = [
        (options.cache / "order-1" / f"machine-{which}.txt").read_text(encoding="utf-8")
        for which in METHODS
        if (options.cache / "order-1" / f"machine-{which}.txt").exists()
    ]
    results = {
        "command": "python -m benchmarks.accuracy.real_games",
        "orders": orders,
        "n_seeds": options.seeds,
        "machine": "; peers: ".join(where),
        "measured": time.strftime("%Y-%m-%d"),
    }
    print(report(results))
    if options.publish:
        write_whole(RESULTS, json.dumps(rounded(results), separators=(",", ":")) + "\n")


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


if __name__ == "__main__":
    main()
