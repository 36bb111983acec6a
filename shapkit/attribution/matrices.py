"""Matrices of influence in notebooks: a table whose cells are as dark as their numbers are large."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_COLOUR = "0, 114, 178"  # Okabe and Ito's blue


def matrix_html(
    shares: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
) -> str:
    """Return a table in HTML, readable on light and on dark ground.

    Args:
        shares: (n_rows, n_columns), how strongly a cell is coloured, from 0 to 1; others are cut off.
        texts: what stands in each cell.
        rows, columns: names.
        caption: above the table.

    >>> matrix_html(np.array([[0.5]]), [["50 %"]], ["mouth"], ["eyes"], "who drives whom").count("50 %")
    1
    """
    head = "".join(f'<th style="text-align: center">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>{"".join(map(_cell, row, words))}</tr>'
        for name, row, words in zip(rows, np.clip(np.nan_to_num(shares), 0, 1), texts, strict=True)
    )
    return (
        f'<table><caption style="caption-side: top; text-align: left">{escape(caption)}</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    )


def _cell(share: float, words: str) -> str:
    ground = f"rgba({_COLOUR}, {0.75 * share:.3f})"
    return f'<td style="text-align: center; background: {ground}">{escape(words)}</td>'
