"""Pictures of an Attribution, drawn with matplotlib, which is imported when the first one is drawn.

Blue and orange are from the colour-blind safe palette of Okabe and Ito (2008), the heat map's from ColorBrewer's PuOr,
and the sign always shows in something else than colour too. Titles are the caller's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import positive_integer
from shapkit._optional import require
from shapkit.attribution.text import NEGATIVE, POSITIVE, Shown, by_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


OTHERS = "#999999"

_LABEL_LENGTH = 28  # characters; what leaves room for the picture beside them
_ROUNDING = 1e-12  # of the largest value: what is smaller is written as 0
_ANNOTATED_PLAYERS = 8  # cells of a heat map are large enough for numbers up to here
_HORIZONTAL_LABELS = 10  # around a network; more are written along the spokes
_CIRCLE = 4.5  # inches, the diameter of a network of which labels and legend leave the room


class Drawn(Shown, Protocol):
    """What is read of an Attribution to draw it."""

    def output(self, where: int | tuple[int, ...]) -> Drawn: ...
    def interaction_matrix(self) -> NDArray[np.float64]: ...


def bars(
    attribution: Drawn,
    output: int | tuple[int, ...] | None = None,
    ax: Axes | None = None,
    max_players: int = 20,
) -> Axes:
    """Draw one horizontal bar per value, the first player's at the top, and return the axes.

    Bars reach the value; error bars, where there are standard errors, one standard error to each side. Of more than
    `max_players` values the largest are shown, in decreasing size, and below them the sum of the others, without an
    error bar: the errors of one estimate depend on each other.

    Args:
        attribution: what to draw; with interactions, they have bars too.
        output: which output element, where the payoff is not a scalar: its index along the output's axes.
        ax: axes to draw in; by default those of a new figure.
        max_players: the most bars for single values.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `output` does not name one output element, or there are no players.

    >>> import matplotlib; matplotlib.use("Agg")
    >>> import shapkit
    >>> axes = bars(shapkit.exact(shapkit.table_game([0, 1, 2, 5], names=["eyes", "nose"])))
    >>> [float(bar.get_width()) for bar in axes.patches]
    [2.0, 3.0]
    """
    scalar = drawn_output(attribution, output)
    n_shown = min(len(scalar), positive_integer("max_players", max_players))
    rows = np.arange(len(scalar)) if n_shown == len(scalar) else by_size(scalar.values)[:n_shown]
    lengths = scalar.values[rows]
    errors = None if scalar.standard_errors is None else scalar.standard_errors[rows]
    labels = _term_labels(scalar, rows.tolist())
    colours = [POSITIVE if value >= 0 else NEGATIVE for value in lengths]
    if n_shown < len(scalar):
        lengths = np.append(lengths, scalar.values.sum() - lengths.sum())
        errors = None if errors is None else np.append(errors, np.nan)
        labels.append(f"{len(scalar) - n_shown} other{'s' if len(scalar) - n_shown > 1 else ''}")
        colours.append(OTHERS)
    ax = ax or new_axes(6.4, 1.1 + 0.3 * len(lengths))
    positions = np.arange(len(lengths))
    ax.barh(positions, lengths, xerr=errors, color=colours, ecolor="black", capsize=3)
    ax.set_yticks(positions, labels=labels)
    ax.set_ylim(len(lengths) - 0.4, -0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(f"{_unit(scalar)}, {scalar.method}")
    return ax


def heatmap(
    attribution: Drawn,
    output: int | tuple[int, ...] | None = None,
    ax: Axes | None = None,
    max_players: int = 40,
) -> Axes:
    """Draw the values of players, on the diagonal, and of pairs, as a heat map, and return the axes.

    Purple is positive and orange negative, and as far from white as the value is from zero. Of up to eight players the
    numbers are written too.

    Args:
        attribution: of order 2 or more; coalitions of three and more are not shown.
        output, ax: as for `bars`.
        max_players: of more players, those with the largest values, by themselves and in pairs, are shown.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: as for `bars`, or pairs have no values.

    >>> import matplotlib; matplotlib.use("Agg")
    >>> from shapkit import Attribution
    >>> axes = heatmap(Attribution([2, 3, 1], None, 0, 6, 4, ("eyes", "nose"), "STII", "exact", order=2))
    >>> axes.images[0].get_array().tolist()
    [[2.0, 1.0], [1.0, 3.0]]
    """
    scalar = drawn_output(attribution, output)
    players, matrix = _largest_players(scalar, max_players)
    labels = [_labels(scalar.names)[player] for player in players]
    side = 1.8 + (0.5 if len(players) <= _ANNOTATED_PLAYERS else 0.25) * len(players)
    longest = max(map(len, labels))
    ax = ax or new_axes(side + 1.3 + 0.08 * longest, side + 1.0 + 0.06 * longest)
    limit = float(np.nanmax(np.abs(matrix), initial=0)) or 1.0
    image = ax.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit)
    font = "medium" if len(players) <= 20 else "small"
    ax.set_xticks(range(len(players)), labels=labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=font)
    ax.set_yticks(range(len(players)), labels=labels, fontsize=font)
    ax.set_xlabel(f"players on the diagonal, pairs off it{_left_out(scalar, players)}")
    if len(players) <= _ANNOTATED_PLAYERS:
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.65 * limit else "black"
            shown = 0.0 if abs(value) < _ROUNDING * limit else value
            ax.text(column, row, f"{shown:.2g}", ha="center", va="center", color=colour, fontsize="small")
    figure: Any = ax.get_figure()
    figure.colorbar(image, ax=ax, label=f"{_unit(scalar)}, {scalar.method}", shrink=0.8)
    return ax


def network(
    attribution: Drawn,
    output: int | tuple[int, ...] | None = None,
    ax: Axes | None = None,
    max_players: int = 20,
) -> Axes:
    """Draw players on a circle and their pairs as lines between them, and return the axes.

    A node's area is the player's value and a line's width the pair's, without the sign: full blue nodes and unbroken
    blue lines are positive, hollow orange nodes and dashed orange lines negative. Pairs of value zero have no line.

    Args:
        attribution, output, ax, max_players: as for `heatmap`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: as for `heatmap`.

    >>> import matplotlib; matplotlib.use("Agg")
    >>> from shapkit import Attribution
    >>> axes = network(Attribution([2, 3, 1], None, 0, 6, 4, ("eyes", "nose"), "STII", "exact", order=2))
    >>> sorted(text.get_text() for text in axes.texts)
    ['eyes', 'nose']
    """
    scalar = drawn_output(attribution, output)
    players, matrix = _largest_players(scalar, max_players)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(players)) / len(players)  # clockwise from the top
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = [_labels(scalar.names)[player] for player in players]
    horizontal = len(players) <= _HORIZONTAL_LABELS
    beside = 0.45 + max(map(_width, labels))  # inches
    below = 0.6 if horizontal else beside
    ax = ax or _axes_in_margins(beside, top=below, bottom=below + 1.1)
    _draw_edges(ax, places, matrix)
    _draw_nodes(ax, places, np.diagonal(matrix))
    for angle, label in zip(angles, labels, strict=True):
        _write_around(ax, float(angle), label, horizontal)
    ax.set_aspect("equal")
    ax.set(xlim=(-1, 1), ylim=(-1, 1))
    ax.set_axis_off()
    title = f"{_unit(scalar)}, {scalar.method}{_left_out(scalar, players)}"
    _explain_network(ax, matrix, title, below)
    return ax


def _draw_edges(ax: Axes, places: NDArray[np.float64], matrix: NDArray[np.float64]) -> None:
    """Lines between players, the widest on top."""
    rows, columns = np.triu_indices(len(places), 1)
    values = matrix[rows, columns]
    widest = np.nanmax(np.abs(values), initial=0)
    limit = 72 / max(8, len(places))  # points
    for pair in by_size(values)[::-1]:
        value = values[pair]
        if value != 0 and np.isfinite(value):
            ends = places[[rows[pair], columns[pair]]]
            ax.plot(*ends.T, **_edge_style(value, limit * abs(value) / widest), zorder=1)


def _draw_nodes(ax: Axes, places: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    largest = np.nanmax(np.abs(values), initial=0) or 1.0
    limit = min(30.0, 0.7 * math.pi * 72 * _CIRCLE / len(places)) ** 2  # square points; neighbours do not touch
    areas = 12 + (limit - 12) * np.nan_to_num(np.abs(values)) / largest  # a player of value zero is a dot
    fills = [POSITIVE if value >= 0 else "white" for value in values]
    rims = [POSITIVE if value >= 0 else NEGATIVE for value in values]
    ax.scatter(places[:, 0], places[:, 1], s=areas, c=fills, edgecolors=rims, linewidths=2, zorder=2, clip_on=False)


def _edge_style(value: float, width: float) -> dict[str, Any]:
    if value > 0:
        return {"color": POSITIVE, "linewidth": width, "solid_capstyle": "butt", "alpha": 0.75}
    return {"color": NEGATIVE, "linewidth": width, "linestyle": (0, (2, 1)), "dash_capstyle": "butt", "alpha": 0.75}


def _write_around(ax: Axes, angle: float, label: str, horizontal: bool) -> None:
    """Write a label outside the circle, at an angle in radians; along the spoke unless `horizontal`."""
    across, up = math.cos(angle), math.sin(angle)
    along = "center" if abs(across) < 0.2 and horizontal else "left" if across > -1e-9 else "right"
    upright = "center" if not horizontal or abs(across) >= 0.2 else "bottom" if up > 0 else "top"
    turned = 0.0 if horizontal else math.degrees(angle) + (180.0 if along == "right" else 0.0)
    ax.annotate(
        label,
        (across, up),
        xytext=(20 * across, 20 * up),  # points: the largest node's radius and a little
        textcoords="offset points",
        ha=along,
        va=upright,
        rotation=turned,
        rotation_mode="anchor",
        fontsize="medium" if horizontal else "small",
    )


def _explain_network(ax: Axes, matrix: NDArray[np.float64], title: str, below: float) -> None:
    """The legend of a network, `below` inches under the circle, past the labels of the lowest players."""
    lines = require("matplotlib.lines", "plots", "plots of an Attribution")
    transforms = require("matplotlib.transforms", "plots", "plots of an Attribution")
    pairs = np.abs(matrix[np.triu_indices(len(matrix), 1)])
    keys = [
        lines.Line2D([], [], **_edge_style(1, 3), marker="o", markersize=9, label="positive"),
        lines.Line2D([], [], **_edge_style(-1, 3), marker="o", markersize=9, markerfacecolor="white", label="negative"),
        lines.Line2D(
            [], [], linestyle="", label=f"largest node {np.nanmax(np.abs(np.diagonal(matrix)), initial=0):.3g}"
        ),
        lines.Line2D([], [], linestyle="", label=f"widest line {np.nanmax(pairs, initial=0):.3g}"),
    ]
    lowered = transforms.offset_copy(ax.transAxes, ax.get_figure(), y=-below, units="inches")
    ax.legend(handles=keys, title=title, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=lowered)


def drawn_output(attribution: Drawn, output: int | tuple[int, ...] | None) -> Drawn:
    """The scalar attribution to draw."""
    if attribution.n_players == 0:
        raise ValueError("the attribution has no players, so that there is nothing to draw")
    if output is None and attribution.grand_value.size == 1:  # it needs no name, whatever the shape that it has
        output = (0,) * len(attribution.output_shape)
    return attribution.output(() if output is None else output)


def _largest_players(scalar: Drawn, max_players: int) -> tuple[list[int], NDArray[np.float64]]:
    """The players to draw, in their own order, and the values of them and their pairs."""
    matrix = scalar.interaction_matrix()
    sizes = np.nansum(np.abs(matrix), axis=1)
    players = np.sort(np.argsort(-sizes, kind="stable")[: positive_integer("max_players", max_players)])
    return players.tolist(), matrix[np.ix_(players, players)]


def _left_out(scalar: Drawn, players: list[int]) -> str:
    return (
        ""
        if len(players) == scalar.n_players
        else f"\nthe {len(players)} of {scalar.n_players} players with the largest values"
    )


def _unit(scalar: Drawn) -> str:
    index = scalar.index.capitalize() if scalar.index.islower() else scalar.index
    return f"{index} value, in units of the payoff"


def _term_labels(scalar: Drawn, rows: list[int]) -> list[str]:
    """The players' names for each row, cut so that they fit in beside each other."""
    terms = [(row,) if row < scalar.n_players else scalar.terms[row] for row in rows]
    labels = {size: _labels(scalar.names, _LABEL_LENGTH // size) for size in {len(term) for term in terms}}
    return [" × ".join(labels[len(term)][player] for player in term) for term in terms]


def _labels(names: Sequence[str], longest: int = _LABEL_LENGTH) -> list[str]:
    """Names in one line each, cut in the middle where long, and numbered where that makes two the same."""
    cut = [_cut(name, longest) for name in names]
    times = Counter(cut)
    numbered = [
        label if times[label] == 1 else f"{player}: {_cut(names[player], max(3, longest - len(f'{player}: ')))}"
        for player, label in enumerate(cut)
    ]
    return [label.replace("$", r"\$") for label in numbered]  # matplotlib would read a formula between two


def _cut(name: str, longest: int) -> str:
    words = " ".join(name.split())
    kept = (longest - 1) // 2
    return words if len(words) <= longest else f"{words[: longest - 1 - kept]}…{words[len(words) - kept :]}"


def _width(label: str) -> float:
    """How wide a label is, in inches."""
    textpath = require("matplotlib.textpath", "plots", "plots of an Attribution")
    return float(textpath.TextPath((0, 0), label, size=10).get_extents().width / 72)


def _axes_in_margins(side: float, top: float, bottom: float) -> Axes:
    """Square axes for a circle, in a new figure with these margins in inches.

    A constrained layout finds none for a square among labels whose place depends on its size.
    """
    pyplot = require("matplotlib.pyplot", "plots", "plots of an Attribution")
    width, height = _CIRCLE + 2 * side, _CIRCLE + top + bottom
    figure = pyplot.figure(figsize=(width, height))
    axes: Axes = figure.add_axes((side / width, bottom / height, _CIRCLE / width, _CIRCLE / height))
    return axes


def new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure, of a size in inches."""
    pyplot = require("matplotlib.pyplot", "plots", "plots of an Attribution")
    _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes: Axes = ax
    return axes
