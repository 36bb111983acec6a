"""What `benchmarks/accuracy/` measured, as text: the same in the terminal and in the README."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.accuracy.methods import BASELINE, SLOW, UNBIASED, is_peer
from benchmarks.accuracy.runs import FACTORS

BARS = {5: 0.75, 10: 0.6, 20: 0.4, 40: 0.25}  # what the geometric mean over games should not exceed
WORST_BAR = 1.2
COVERAGE_BARS = (0.92, 0.98)  # what the mean coverage of nominal 95 % intervals should not leave
MAIN = ("auto", "gaussian_process", "permutation")  # the first that is measured is compared


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the README."""
    ours = main_method(results)
    parts = [_report_games(results, ours), _report_means(results, ours), _report_methods(results)]
    parts += [_report_slow(results), _report_large(results), _report_coverage(results)]
    parts += [_report_overhead(results), _report_machines(results)]
    return "\n\n".join(part for part in parts if part)


def headline(results: dict[str, Any]) -> str:
    """What matters most of the report, for the README."""
    ours = main_method(results)
    title = f"squared error of {ours}, divided by that of the best other package, on {len(results['games'])} games"
    return f"{title}\n{_report_means(results, ours)}"


def main_method(results: dict[str, Any]) -> str:
    """auto, where it is measured."""
    return next((name for name in MAIN if name in results["methods"]), BASELINE)


def chosen_by_auto(figures: dict[str, dict[Any, Any]]) -> str | None:
    """The method whose figures are auto's, wherever both have any: what auto chose, and what need not be said twice.

    >>> chosen_by_auto({"auto": {"MLP": 0.5}, "kernel": {"MLP": 0.7}, "leverage": {"MLP": 0.5, "airport": 0.6}})
    'leverage'
    """
    auto = figures.get("auto", {})
    for name, found in figures.items():
        both = auto.keys() & found.keys()
        if name != "auto" and both and all(auto[key] == found[key] for key in both):
            return name
    return None


def errors_by_cell(results: dict[str, Any]) -> dict[str, dict[Any, float]]:
    """Of each method the mean squared errors, by game and evaluations per player."""
    return _by_method(
        (method, (name, factor), found["mean_squared_error"])
        for name, game in results["games"].items()
        for factor, cell in game["factors"].items()
        for method, found in cell["methods"].items()
    )


def _by_method(figures: Iterable[tuple[str, Any, Any]]) -> dict[str, dict[Any, Any]]:
    found: dict[str, dict[Any, Any]] = {}
    for method, key, figure in figures:
        found.setdefault(method, {})[key] = figure
    return found


def label(method: str, chosen: str | None) -> str:
    """A method's name; auto's says what it chose."""
    return f"auto ({chosen})" if method == "auto" and chosen else method


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
    factors = [factor for factor in FACTORS if str(factor) in compared]
    lines = [
        f"mean squared error of {ours}, divided by that of each game's best method elsewhere, slow ShaplEIG apart;",
        f"{_span(seeds)} seeds, 95 % bootstrap intervals; evaluations per player:",
        f"{'':<21}{'n':>4}" + "".join(f"{factor:>22}n" for factor in factors),
    ]
    for name, game in results["games"].items():
        cells = []
        for factor in factors:
            ratio = compared[str(factor)]["games"].get(name)
            said = "" if ratio is None else f"{_ratio(ratio)} {codes[ratio['peer']]}"
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
    chosen = chosen_by_auto(errors_by_cell(results))
    methods = {name: found for name, found in results["methods"].items() if name != chosen}
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
        lines.append(f"{label(name, chosen):<30}" + "".join(cells))
    if partial:
        lines.append("* over so many games: it failed, or was refused, on the others")
    return "\n".join(lines)


def _report_slow(results: dict[str, Any]) -> str:
    lines = []
    for slow, by_method in results["slow"].items():
        for method in [name for name in MAIN if name in by_method][:1]:
            for factor, found in by_method[method].items():
                lines.append(
                    f"{method} / {slow} at {factor}n, {len(found['games'])} games, {_span(found['seeds'])} seeds each: "
                    f"geometric mean {_number(found['geometric_mean'])}, worst {_number(found['worst'])} "
                    f"({slow.split()[1]} takes {found['median_seconds']:.0f} s)"
                )
    return "\n".join(lines)


def _report_large(results: dict[str, Any]) -> str:
    rows = results["large"]
    if not rows:
        return ""
    figures = _by_method(
        (method, (row["game"], row["budget"]), found["mean_squared_error"])
        for row in rows
        for method, found in row["methods"].items()
    )
    chosen = chosen_by_auto(figures)
    others = [name for name in figures if name not in (BASELINE, chosen)]
    others.sort(key=lambda name: (name != "auto", name))
    timed_methods = ("auto", BASELINE)
    seeds = {found["n_seeds"] for row in rows for found in row["methods"].values()}
    widths = {name: max(8, len(name) + 2) for name in others}
    lines = [
        "large budgets: mean squared error relative to plain permutation sampling, whose own error is",
        f"in % of the values (root of the squared sums); seeds: {_span(seeds)}; median seconds, the game's included",
        *([f"auto chose {chosen}"] if chosen else []),
        f"{'':<18}{'n':>5}{'evaluations':>13}{BASELINE:>13}"
        + "".join(f"{name:>{widths[name]}}" for name in others)
        + f"{'auto, s':>10}{f'{BASELINE}, s':>16}",
    ]
    for row in rows:
        game = row["game"].removesuffix(f" {row['n_players']}")
        cells = [
            f"{_number(row['methods'][name]['relative']) if name in row['methods'] else '':>{widths[name]}}"
            for name in others
        ]
        timed = [f"{row['methods'][name]['seconds']:.2g}" if name in row["methods"] else "" for name in timed_methods]
        seconds = f"{timed[0]:>10}{timed[1]:>16}"
        error = f"{_number(100 * row['baseline_error'])} %"
        lines.append(f"{game:<18}{row['n_players']:>5}{row['budget']:>13,}{error:>13}{''.join(cells)}{seconds}")
    return "\n".join(lines)


def _report_coverage(results: dict[str, Any]) -> str:
    rows = results["coverage"]
    if not rows:
        return ""
    figures = _by_method((row["method"], (row["game"], row["factor"]), _coverage_figures(row)) for row in rows)
    chosen = chosen_by_auto(figures)
    rows = [row for row in rows if row["method"] != chosen]
    players = {row["game"]: row["n_players"] for row in rows}
    low, high = (100 * bar for bar in COVERAGE_BARS)
    asked = ", ".join(f"{game} {n_players}" for game, n_players in players.items())
    repetitions = _span(row["repetitions"] for row in rows)
    lines = [
        f"coverage of nominal 95 % intervals, in %: mean over players / worst player, {repetitions} repetitions",
        f"(players: {asked}); wanted: means of {low:.0f} to {high:.0f} %;",
        "intervals are Student's t, with the degrees of freedom that each method gives its standard errors",
        f"{'method, evaluations':<32}" + "".join(f"{game:>15}" for game in players) + f"{'|bias|':>9}{'of error':>10}",
    ]
    outside = []
    for method, factor in dict.fromkeys((row["method"], row["factor"]) for row in rows):
        found = {row["game"]: row for row in rows if (row["method"], row["factor"]) == (method, factor)}
        name = f"{label(method, chosen)}, {factor}n"
        said = {game: f"{100 * row['coverage']:.1f} / {100 * row['worst_player']:.1f}" for game, row in found.items()}
        bias = max(row["bias_in_standard_errors"] for row in found.values())
        share = f"{100 * max(row['bias_share'] for row in found.values()):.0f} %"
        claim = "" if method in UNBIASED else " *"
        cells = "".join(f"{said.get(game, ''):>15}" for game in players)
        lines.append(f"{name:<32}{cells}{bias:>9.1f}{share:>10}{claim}")
        least, most = COVERAGE_BARS
        outside += [
            f"{name} on {game} ({100 * row['coverage']:.1f} %)"
            for game, row in found.items()
            if not least <= row["coverage"] <= most
        ]
    # Bonferroni's bound for the largest of as many normal variables as there are players
    expected = statistics.NormalDist().inv_cdf(1 - 0.05 / 2 / sum(players.values()))
    lines += [
        "|bias|: the largest of any player's and game's, in the standard errors of the repetitions' mean; without any",
        f"it stays below {expected:.1f} in 95 % of cases; of error: the norm of the bias as a share of the root mean",
        "squared error; * claims no unbiasedness",
    ]
    lines.append(f"outside {low:.0f} to {high:.0f} %: " + ("; ".join(outside) or "none"))
    return "\n".join(lines)


def _coverage_figures(row: dict[str, Any]) -> tuple[float, ...]:
    return row["coverage"], row["worst_player"], row["bias_in_standard_errors"]


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


def _span(numbers: Iterable[int]) -> str:
    """The one number, or from the smallest to the largest.

    >>> _span([3, 3]), _span([100, 2000])
    ('3', '100 to 2,000')
    """
    ordered = sorted(numbers)
    least, most = ordered[0], ordered[-1]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _ratio(found: dict[str, float]) -> str:
    """A ratio and its interval, or that it is one of rounding errors.

    >>> _ratio({"value": 0.31, "low": 0.2, "high": 0.44}), _ratio({"value": 4e-18, "low": 4e-18, "high": 5e-18})
    ('.31 [.20, .44]', '< 1e-9')
    """
    return "< 1e-9" if found["high"] < 1e-9 else f"{_number(found['value'])} {_range(found)}"


def _range(found: dict[str, float]) -> str:
    return f"[{_number(found['low'])}, {_number(found['high'])}]"
