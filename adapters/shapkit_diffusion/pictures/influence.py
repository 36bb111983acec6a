"""Influence matrices in text and pictures: every number with its standard error, all pictures on one scale.

Rows are output regions and columns input regions, so that a row reads as a sentence: what drives the mouth?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from shapkit._optional import require
from shapkit_diffusion.noise.influence import Influence
from shapkit_diffusion.noise.jackknife import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL = 0.62  # inches; "96.8" above "± 12.3" at 9 points is 0.5 wide
_SMALL, _LARGE = 9, 10  # points; a picture of three maps is then as large on a page as its text
_ABREAST = 3  # maps
_ANNOTATED = 8  # regions; with more, cells are too many for numbers


def influence_text(found: Influence) -> str:
    """The matrix in per cent: one row per output region, one column per input region, each share ± its error.

    >>> from shapkit import Attribution
    >>> phi = Attribution([[0.9, 0.2], [0.1, 0.8]], [[0.01, 0.02]] * 2, [0, 0], [1, 1], 4, ("eyes", "rest"), "", "")
    >>> print(influence_text(Influence(phi, np.zeros((2, 2, 2)), n_images=4)))
                        eyes           rest
    eyes         90.0 ±  1.0    10.0 ±  1.0
    rest         20.0 ±  2.0    80.0 ±  2.0
    """
    width = max(13, *(2 + len(name) for name in found.names))
    margin = max(10, *(2 + len(name) for name in found.output_names))
    lines = [" " * margin + "".join(f"{name:>{width}}" for name in found.names)]
    for name, shares, errors in zip(found.output_names, found.values.T, found.standard_errors.T, strict=True):
        cells = (f"{f'{share:.1f} ± {error:4.1f}':>{width}}" for share, error in _per_cent(shares, errors))
        lines.append(f"{name:<{margin}}" + "".join(cells))
    return "\n".join(lines)


def interactions_text(found: Influence) -> str:
    """Interactions of pairs of input regions in per cent: one row per pair, one column per output region.

    Raises:
        ValueError: none were asked for.
    """
    attribution = found.interactions
    if attribution is None or attribution.standard_errors is None:
        raise ValueError("there are no interactions: ask for them with influence(..., interactions='k-SII')")
    pairs = {row: term for row, term in enumerate(attribution.terms) if len(term) == 2}
    labels = {row: " × ".join(found.names[player] for player in term) for row, term in pairs.items()}
    width = max(13, *(2 + len(name) for name in found.names))
    margin = 2 + max(map(len, labels.values()))
    lines = [f"{attribution.index:<{margin}}" + "".join(f"{name:>{width}}" for name in found.names)]
    for row, label in labels.items():
        numbers = _per_cent(attribution.values[row], attribution.standard_errors[row])
        lines.append(f"{label:<{margin}}" + "".join(f"{f'{v:.1f} ± {e:4.1f}':>{width}}" for v, e in numbers))
    return "\n".join(lines)


def influence_json(found: Influence) -> dict[str, Any]:
    """Everything of the matrix and its interactions that a reader of JSON wants; rows are output regions.

    Errors that are not known, of a single pair of images, are None.
    """
    content: dict[str, Any] = {
        "regions": list(found.output_names),
        **({} if found.outputs is None else {"words": list(found.names)}),
        "n_images": found.n_images,
        "method": found.attribution.method,
        "coalitions_per_pair": found.attribution.n_evaluations,
        "output_by_input": found.values.T.tolist(),
        "standard_errors": _known(found.standard_errors.T),
    }
    pairs = found.interactions
    if pairs is not None and pairs.standard_errors is not None:
        content["interactions"] = {
            "index": pairs.index,
            "inputs": [[found.names[player] for player in term] for term in pairs.terms],
            "output_by_inputs": pairs.values.T.tolist(),
            "standard_errors": _known(pairs.standard_errors.T),
        }
    return content


def picture_of_influences(rows: Mapping[str, Mapping[str, Influence]], title: str) -> Figure:
    """Heat maps side by side: a column per model and a row per timestep, say; those of one model fold into rows.

    Each cell has the share of the output region's change in per cent and, below it, its standard error; of more than
    eight players only the colour. All maps share the scale, from 0 to 100 %. Never more than three are side by side,
    unless there are more models, so that numbers can be read where the picture is as wide as a page.

    Args:
        rows: matrices by the name of their model and timestep.
        title: what the picture says.

    Raises:
        ValueError: if there are no matrices, or their regions differ.
        ImportError: matplotlib is not installed.
    """
    inner = list(next(iter(rows.values()), {}))
    names = {(found.names, found.output_names) for row in rows.values() for found in row.values()}
    if len(names) != 1 or any(list(row) != inner for row in rows.values()):
        raise ValueError("rows must be influence matrices of the same regions, with the same columns in every row")
    ((players, outputs),) = names
    n_columns = len(rows) if len(rows) > 1 else min(_ABREAST, len(inner))
    panels = [(model, name, row[name]) for name in inner for model, row in rows.items()]
    n_lines = -(-len(panels) // n_columns)
    figure, axes = _maps(n_lines, n_columns, len(outputs), len(players))
    for place, axis in enumerate(axes.ravel()):
        if place >= len(panels):
            axis.set_axis_off()
            continue
        model, name, found = panels[place]
        drawn = axis.imshow(100 * found.values.T, cmap="cividis", vmin=0, vmax=100)
        if max(len(players), len(outputs)) <= _ANNOTATED:
            _write_shares(axis, 100 * found.values.T, 100 * found.standard_errors.T)
        last = place + n_columns >= len(panels)
        _name_axes(axis, players, outputs, bottom=last, left=place % n_columns == 0)
        axis.set_title(f"{model}, {name}" if model else name, fontsize=_LARGE)
        if place % n_columns == 0:
            axis.set_ylabel("output region", fontsize=_LARGE)
        if last:
            axis.set_xlabel("input region" if players == outputs else "word", fontsize=_LARGE)
    bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=min(0.8, 1.6 / n_lines))
    bar.set_label("share of the region's change (%)", fontsize=_LARGE)
    figure.suptitle(title, fontsize=_LARGE + 1)
    return figure


def picture_of_interactions(found: Influence, title: str) -> Figure:
    """A heat map for each output region: interactions of two input regions, in per cent, with standard errors.

    Purple is positive: together the two keep more of the output region as it was than each does alone.

    Raises:
        ValueError: no interactions were asked for.
        ImportError: matplotlib is not installed.
    """
    attribution = found.interactions
    if attribution is None or attribution.standard_errors is None:
        raise ValueError("there are no interactions: ask for them with influence(..., interactions='k-SII')")
    n_regions = len(found.names)
    values, errors = (
        _pair_matrices(100 * rows, n_regions) for rows in (attribution.values, attribution.standard_errors)
    )
    limit = float(np.nanmax(np.abs(values))) or 1.0
    n_columns = min(_ABREAST, n_regions)
    figure, axes = _maps(-(-n_regions // n_columns), n_columns, n_regions, n_regions)
    for output, axis in enumerate(axes.ravel()):
        if output >= n_regions:
            axis.set_axis_off()
            continue
        drawn = axis.imshow(values[..., output], cmap="PuOr", vmin=-limit, vmax=limit)
        _write_pairs(axis, values[..., output], errors[..., output], limit)
        last, first = output + n_columns >= n_regions, output % n_columns == 0
        _name_axes(axis, found.names, found.names, bottom=last, left=first)
        axis.set_title(f"output: {found.names[output]}", fontsize=_LARGE)
        if last:
            axis.set_xlabel("input region", fontsize=_LARGE)
        if first:
            axis.set_ylabel("input region", fontsize=_LARGE)
    bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=0.8)
    bar.set_label(f"{attribution.index} of the pair (%)", fontsize=_LARGE)
    figure.suptitle(title, fontsize=_LARGE + 1)
    return figure


def _per_cent(values: Floats, errors: Floats) -> list[tuple[float, float]]:
    return list(zip((100 * values).tolist(), (100 * errors).tolist(), strict=True))


def _known(errors: Floats) -> list[list[float | None]]:
    """Nested lists, with None for NaN, which JSON does not have."""
    return [[None if np.isnan(error) else float(error) for error in row] for row in errors]


def _pair_matrices(rows: Floats, n_regions: int) -> Floats:
    """Values of players and pairs (n_terms, K) as (K, K, K), ``[input, input, output]``; NaN on the diagonal."""
    matrices = np.full((n_regions, n_regions, rows.shape[-1]), np.nan)
    one, two = np.triu_indices(n_regions, 1)  # the order that pairs have in an Attribution
    matrices[one, two] = matrices[two, one] = rows[n_regions : n_regions + len(one)]
    return matrices


def _maps(n_lines: int, n_columns: int, n_outputs: int, n_inputs: int) -> tuple[Figure, Any]:
    """Axes of heat maps whose cells have one size, whatever the number of regions."""
    pyplot: Any = require("matplotlib.pyplot", extra="plots", purpose="pictures of influence")
    height, width = (_CELL * max(3, min(number, _ANNOTATED)) for number in (n_outputs, n_inputs))
    figure: Figure
    figure, axes = pyplot.subplots(
        n_lines,
        n_columns,
        figsize=((width + 0.25) * n_columns + 2.0, (height + 0.4) * n_lines + 1.3),
        squeeze=False,
        layout="constrained",
    )
    return figure, axes


def _name_axes(axis: Axes, inputs: tuple[str, ...], outputs: tuple[str, ...], bottom: bool, left: bool) -> None:
    """Names of inputs and outputs along the outer edges of a grid; ticks alone inside it."""
    below, beside = (inputs if bottom else [""] * len(inputs)), (outputs if left else [""] * len(outputs))
    axis.set_xticks(range(len(inputs)), below, rotation=45, ha="right", fontsize=_SMALL)
    axis.set_yticks(range(len(outputs)), beside, fontsize=_SMALL)


def _write_shares(axis: Axes, shares: Floats, errors: Floats) -> None:
    for (output, source), share in np.ndenumerate(shares):
        colour = "black" if share > 55 else "white"  # on cividis, which ends in yellow
        _write(axis, source, output, share, float(errors[output, source]), colour)


def _write_pairs(axis: Axes, values: Floats, errors: Floats, limit: float) -> None:
    if len(values) > _ANNOTATED:
        return
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            colour = "white" if abs(value) > 0.65 * limit else "black"
            _write(axis, column, row, value, float(errors[row, column]), colour)


def _write(axis: Axes, x: int, y: int, value: float, error: float, colour: str) -> None:
    text = f"{round(value, 1) + 0.0:.1f}" + ("" if np.isnan(error) else f"\n± {error:.1f}")
    axis.text(x, y, text, ha="center", va="center", fontsize=_SMALL, color=colour)
