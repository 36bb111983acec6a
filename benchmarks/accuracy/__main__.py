"""How accurate sampled Shapley values are at equal numbers of evaluations, beside those of other packages.

    python -m benchmarks.accuracy games                       # make the games' tables (scikit-learn, torch, diffusers)
    python -m benchmarks.accuracy run --methods shapkit       # each result is kept: a killed run goes on
    python -m benchmarks.accuracy run --methods peers         # in an interpreter with shapiq, shap, captum
    python -m benchmarks.accuracy run --methods slow --seeds 3 --factors 5 10
    python -m benchmarks.accuracy large                       # more evaluations
    python -m benchmarks.accuracy coverage                    # of the intervals, and the bias, 2,000 repetitions
    python -m benchmarks.accuracy overhead                    # time beside the game, per evaluation
    python -m benchmarks.accuracy report                      # draw and print what was measured
    python -m benchmarks.accuracy report --publish            # and write docs/results/accuracy.json
    python -m benchmarks.accuracy report --redraw             # from docs/results/accuracy.json

Two interpreters may fill the same folder at once. `--quick` takes a few small games and seeds. A method may evaluate
no more coalitions than its budget: the game refuses. Only the empty and the grand coalition are free when repeated,
because their payoffs are worth remembering for anyone. A peer that asks for more than it was granted is run again
with a smaller grant. Squared errors below 1e-20 of the values' sum of squares count as that much: they are rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.accuracy.aggregate import aggregate
from benchmarks.accuracy.coverage import measure_coverage
from benchmarks.accuracy.games import open_game
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.picture import draw
from benchmarks.accuracy.records import rounded, write_whole
from benchmarks.accuracy.report import headline, report
from benchmarks.accuracy.runs import FACTORS, chosen_games, measure_overhead, run, run_large

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "accuracy.json"
PICTURE = ROOT / "docs" / "pictures" / "accuracy.png"

__all__ = ["headline", "main", "parsed", "report"]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options, with the defaults that --quick changes."""
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
    large = commands.add_parser("large", parents=[shared, resumable], help="errors at large budgets")
    large.add_argument("--games", nargs="+", metavar="GAME")
    large.add_argument("--seeds", type=int, default=None, help="by default 3, with --quick 1")
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
    if options.command == "large" and options.seeds is None:
        options.seeds = 1 if options.quick else 3
    if options.command == "coverage" and options.repetitions is None:
        options.repetitions = 100 if options.quick else 2000
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    folder: Path = options.cache
    folder.mkdir(parents=True, exist_ok=True)
    if options.command == "games":
        for name in chosen_games(argparse.Namespace(games=None, quick=options.quick)):
            game = open_game(name, folder / "games")
            print(f"{name}: {game.n_players} players, values {game.exact.min():.3g} to {game.exact.max():.3g}")
    elif options.command == "run":
        run(folder, options)
    elif options.command == "large":
        run_large(folder, options)
    elif options.command == "coverage":
        measure_coverage(folder, options)
    elif options.command == "overhead":
        measure_overhead(folder)
    else:
        write_report(folder, options)


def write_report(folder: Path, options: argparse.Namespace) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if options.redraw else rounded(aggregate(folder))
    if not results["methods"]:
        sys.exit(f"no results in {folder}: see --help for what to run")
    if not options.redraw:
        write_whole(RESULTS if options.publish else folder / "accuracy.json", json.dumps(results, indent=1) + "\n")
    draw(results, PICTURE if options.redraw or options.publish else folder / "accuracy.png")
    print(report(results))


if __name__ == "__main__":
    main()
