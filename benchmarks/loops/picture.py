"""What ``benchmarks/loops`` measured, as two pictures: every loop's locality, and what an exchange changes by shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, which colour-blind readers can tell apart
RANGE = 1e-6, 1e-1  # of mean square changes


def draw(results: dict[str, Any], folder: Path, pictures: Path) -> None:
    """Both pictures from the figures and from the examples in ``folder``."""
    import matplotlib

    matplotlib.use("Agg")
    _locality(results, pictures / "loops.png")
    _shapes(folder, pictures / "loops_shapes.png")


def _locality(results: dict[str, Any], path: Path) -> None:
    """One line for each concept of each loop, from the ratio without the penalty to that with it."""
    from matplotlib import pyplot

    loops = results["loops"]
    figure, axes = pyplot.subplots(figsize=(8, 0.62 * len(loops) + 1.4), layout="constrained")
    for number, row in enumerate(loops.values()):
        for part, concept in enumerate(row["without"]["locality"]):
            ends = [row[which]["locality"][concept] for which in ("without", "with")]
            ratios = [end["outside"] / end["inside"] for end in ends]
            height = -number - 0.22 * (part - 1)
            axes.plot(ratios, [height, height], color="0.7", linewidth=1.5, zorder=1)
            axes.plot(ratios[0], height, "o", color=ORANGE, markersize=6, label=_first("without the penalty", axes))
            axes.plot(ratios[1], height, "o", color=BLUE, markersize=6, label=_first("with it", axes))
    axes.set_xscale("log")
    axes.set_yticks(-np.arange(len(loops)), list(loops))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean square change outside of the concept ÷ inside, when its noise is exchanged")
    axes.set_title("Two lines make the loops of others local (a line for each concept)", loc="left")
    axes.grid(axis="x", which="both", color="0.92")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", frameon=False, bbox_to_anchor=(0, -0.12), ncols=2)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _first(label: str, axes: Any) -> str:
    """A label for the legend, once."""
    return label if label not in axes.get_legend_handles_labels()[1] else ""


def _shapes(folder: Path, path: Path) -> None:
    """A signal, a slice of a volume and tokens: what the exchange of one concept changes, without and with."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.6), layout="constrained", width_ratios=[1.5, 1, 1])
    drawn = None
    signals, volumes, tokens = (np.load(folder / f"{name}.npz") for name in ("signals, 1-D", "volumes, 3-D", "tokens"))
    for line, which in enumerate(("without", "with")):
        _signal(axes[line, 0], signals, which)
        slices = volumes[f"{which}/concepts/left/change"], volumes[f"{which}/mask"][0]
        _map(axes[line, 1], *(values[len(values) // 2] for values in slices))
        grid = tokens[f"{which}/concepts/mouth/change"], tokens[f"{which}/mask"][2]
        drawn = _map(axes[line, 2], *(values.reshape(8, 8) for values in grid))
        axes[line, 0].set_ylabel(f"{which} the penalty\n\nvalue")
    axes[1, 0].set_xlabel("sample")
    for column, title in enumerate(
        ("1-D: noise of the middle wave", "3-D: of the left ball (a slice)", "tokens: of the mouth's patches")
    ):
        axes[0, column].set_title(title, loc="left", fontsize=10)
    axes[0, 0].legend(frameon=False, loc="upper left", fontsize=8)
    figure.colorbar(drawn, ax=axes[:, 1:], label="mean square change (log scale)", shrink=0.8)
    figure.suptitle("With the penalty, an exchange of noise changes less outside of its region", x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _signal(axis: Any, found: Any, which: str) -> None:
    before, after = found[f"{which}/before"][0], found[f"{which}/concepts/QRS/after"][0]
    owned = np.flatnonzero(found[f"{which}/mask"][1])
    axis.axvspan(owned[0] - 0.5, owned[-1] + 0.5, color="0.92")
    axis.plot(before, color=ORANGE, label="before")
    axis.plot(after, color=BLUE, linestyle="--", label="after")
    axis.set_xlim(0, len(before) - 1)
    axis.set_ylim(-0.7, 1.6)


def _map(axis: Any, change: NDArray[np.float64], mask: NDArray[np.float64]) -> Any:
    from matplotlib.colors import LogNorm

    drawn = axis.imshow(np.maximum(change, 1e-12), cmap="inferno", norm=LogNorm(*RANGE))
    axis.contour(np.kron(mask, np.ones((8, 8))), [0.5], colors="white", extent=_extent(mask), origin="upper")
    axis.set_xticks([])
    axis.set_yticks([])
    return drawn


def _extent(mask: NDArray[np.float64]) -> tuple[float, float, float, float]:
    height, width = mask.shape
    return -0.5, width - 0.5, height - 0.5, -0.5
