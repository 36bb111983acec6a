"""What `benchmarks/accuracy/` measured, as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import is_peer
from benchmarks.accuracy.report import chosen_by_auto, errors_by_cell, label, main_method
from benchmarks.accuracy.runs import FACTORS


def draw(results: dict[str, Any], path: Path) -> None:
    """Error relative to permutation sampling against evaluations per player, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Okabe and Ito's colours, which colour-blind readers can tell apart; other packages are dashed
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    chosen = chosen_by_auto(errors_by_cell(results))
    methods = {
        name: {int(factor): found for factor, found in by_factor.items() if found["n_games"] == found["of_games"]}
        for name, by_factor in results["methods"].items()
        if name != chosen
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
    for (at, factor, name, colour), height in zip(ends, label_at, strict=True):
        weight = "bold" if name == main_method(results) else "normal"
        axes.annotate(
            label(name, chosen),
            (factor, 10**at),
            (factor * 1.15, 10**height),
            color=colour,
            va="center",
            fontsize=8,
            weight=weight,
            # from the label's left end, so that no line crosses a label
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0.0, 0.5), "shrinkA": 2},
        )
    axes.set_ylim(10**low, 10 ** max(high, max(label_at) + (high - low) / 30))  # room for the uppermost label
    axes.text(0.02, 0.02, "solid: shapkit; dashed: other packages", transform=axes.transAxes, fontsize=8)
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
