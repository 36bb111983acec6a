"""Pictures of an Attribution, drawn with matplotlib, which is imported when the first one is drawn.

Colours are from the colour-blind safe palette of Okabe and Ito (2008), and the sign shows in the bar's
direction too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shapkit._optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from shapkit.attribution import Attribution

POSITIVE = "#0072B2"
NEGATIVE = "#D55E00"


def bars(attribution: Attribution, output: int | tuple[int, ...] | None = None, ax: Axes | None = None) -> Axes:
    """Draw one horizontal bar per player, the first at the top, and return the axes.

    Bars reach the value; error bars, where there are standard errors, one standard error to each side.

    Args:
        attribution: what to draw.
        output: which output element, where the payoff is not a scalar: its index along the output's axes.
        ax: axes to draw in; by default those of a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `output` does not name one output element.

    >>> import matplotlib; matplotlib.use("Agg")
    >>> import shapkit
    >>> axes = bars(shapkit.exact(shapkit.table_game([0, 1, 2, 5], names=["eyes", "nose"])))
    >>> [float(bar.get_width()) for bar in axes.patches]
    [2.0, 3.0]
    """
    values = _one_output(attribution.values, output)
    errors = None if attribution.standard_errors is None else _one_output(attribution.standard_errors, output)
    if ax is None:
        pyplot = require("matplotlib.pyplot", "plots", "plots of an Attribution")
        height = 1.0 + 0.3 * len(values)
        _, ax = pyplot.subplots(figsize=(6.0, height), layout="constrained")
        assert ax is not None
    positions = np.arange(len(values))
    colours = [POSITIVE if value >= 0 else NEGATIVE for value in values]
    ax.barh(positions, values, xerr=errors, color=colours, ecolor="black", capsize=3)
    ax.set_yticks(positions, labels=list(attribution.names))
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(f"{attribution.index.capitalize()} value ({attribution.method})")
    return ax


def _one_output(values: NDArray[np.float64], output: int | tuple[int, ...] | None) -> NDArray[np.float64]:
    """The column (n_players,) of one output element."""
    output_shape = values.shape[1:]
    where = () if output is None else (output,) if isinstance(output, int) else tuple(output)
    in_range = all(0 <= position < length for position, length in zip(where, output_shape, strict=False))
    if len(where) != len(output_shape) or not in_range:
        raise ValueError(
            f"output is {output!r}, expected the index of one element of a payoff of shape {output_shape}"
            + (": leave it out" if output_shape == () else ", such as output=" + repr((0,) * len(output_shape)))
        )
    column: NDArray[np.float64] = np.moveaxis(values, 0, -1)[where]
    return column
