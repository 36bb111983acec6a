"""Values where they belong: on the regions of an image, and on the words of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import from_torch
from shapkit.attribution.plots import Drawn, drawn_output, new_axes
from shapkit.attribution.text import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OPACITY = 0.65  # of a region with the largest value


def value_map(attribution: Drawn, segments: Any, output: int | tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Return every pixel's value, that of its region: float64 of the shape of `segments`.

    Args:
        attribution: of players that are named as the labels are.
        segments: labels (height, width), as `shapkit.image_segments` returns them.
        output: which output element, where the payoff is not a scalar: its index along the output's axes.

    Raises:
        ValueError: a label is no player, or `output` does not name one output element.

    >>> import shapkit
    >>> phi = shapkit.exact(shapkit.table_game([0, 1, 2, 5], names=["0", "1"]))
    >>> value_map(phi, [[0, 0, 1]])
    array([[2., 2., 3.]])
    """
    scalar, labels = drawn_output(attribution, output), np.asarray(segments)
    by_name = dict(zip(scalar.names, scalar.values[: scalar.n_players], strict=True))
    found, where = np.unique(labels, return_inverse=True)
    unknown = [str(label) for label in found if str(label) not in by_name]
    if unknown:
        raise ValueError(f"segments has labels that are no players: {', '.join(unknown[:5])}")
    return np.asarray(np.array([by_name[str(label)] for label in found])[where].reshape(labels.shape))


def draw_on_image(
    attribution: Drawn,
    image: Any,
    segments: Any,
    output: int | tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the values on the image's regions, and return the axes.

    Orange regions lower the prediction and blue ones raise it, the more the less is seen of the image, which is grey.

    Args:
        attribution, segments, output: as for `value_map`.
        image: (height, width), or with channels before or behind, in any range.
        ax: axes to draw in; by default those of a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: what `value_map` raises, or the image has another size.
    """
    values = value_map(attribution, segments, output)
    grey = np.asarray(from_torch(image), dtype=np.float64)
    if grey.ndim == 3:
        grey = grey.mean(axis=0 if grey.shape[1:] == values.shape else -1)
    if grey.shape != values.shape:
        raise ValueError(f"image has shape {np.shape(image)}, expected {values.shape}, with channels before or behind")
    ax = ax or new_axes(5.0, 4.2)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize

    colours = LinearSegmentedColormap.from_list("shapkit", [NEGATIVE, "white", POSITIVE])
    largest = float(np.abs(values).max()) or 1.0
    ax.imshow(grey, cmap="gray")
    opacity = _OPACITY * np.sqrt(np.abs(values) / largest)
    ax.imshow(values, cmap=ListedColormap([NEGATIVE, POSITIVE]), vmin=-largest, vmax=largest, alpha=opacity)
    scale = ScalarMappable(Normalize(-largest, largest), colours)  # what the opacity makes of them on white
    ax.figure.colorbar(scale, ax=ax, shrink=0.8, label=f"{attribution.index} value of the region")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def text_html(
    attribution: Drawn, tokens: Sequence[str] | None = None, output: int | tuple[int, ...] | None = None
) -> str:
    """Return the text as HTML, each word on a ground of its value's colour, with the values as titles.

    Args:
        attribution: of a `text_game`.
        tokens: the text's parts, with their white space; if left out the names of the players with spaces, without
            the numbers that tell equal words apart.
        output: which output element, where the payoff is not a scalar: its index along the output's axes.

    Raises:
        ValueError: there are not as many tokens as players, or `output` does not name one output element.

    >>> import shapkit
    >>> phi = shapkit.exact(shapkit.text_game(lambda texts: [len(t) for t in texts], "so far"))
    >>> html = text_html(phi)
    >>> html.count("<span"), "so" in html, "3" in html
    (3, True, True)
    """
    scalar = drawn_output(attribution, output)
    parts = [re.sub(r" \(\d+\)$", "", name) + " " for name in scalar.names] if tokens is None else list(tokens)
    if len(parts) != scalar.n_players:
        raise ValueError(f"tokens has {len(parts)} entries, expected {scalar.n_players}: one for each player")
    values = scalar.values[: scalar.n_players]
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    words = "".join(
        f'<span title="{value:.4g}" style="background:{_ground(float(value) / largest)};border-radius:2px">'
        f"{escape(part)}</span>"
        for part, value in zip(parts, values, strict=True)
    )
    extent = f"{escape(attribution.index)} values from −{largest:.4g} (orange) to {largest:.4g} (blue)"
    legend = f'<span style="font-size:smaller">{extent}</span>'
    return f'<div style="line-height:1.8;white-space:pre-wrap">{words}\n{legend}</div>'


def _ground(share: float) -> str:
    """The colour of a share in [-1, 1], with as much of it as its size says, on any ground."""
    colour = POSITIVE if share > 0 else NEGATIVE
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_OPACITY * abs(share):.2f})"
