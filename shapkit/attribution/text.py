"""An Attribution in lines of text, and as a table for notebooks."""

from __future__ import annotations

from html import escape
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

POSITIVE = "#0072B2"  # of the colour-blind safe palette of Okabe and Ito (2008)
NEGATIVE = "#D55E00"

_SHOWN_PLAYERS = 40
_SHOWN_INTERACTIONS = 20
_SHOWN_OUTPUTS = 4


class Shown(Protocol):
    """What is read of an Attribution to show it; its attributes say what each is."""

    @property
    def values(self) -> NDArray[np.float64]: ...
    @property
    def standard_errors(self) -> NDArray[np.float64] | None: ...
    @property
    def empty_value(self) -> NDArray[np.float64]: ...
    @property
    def grand_value(self) -> NDArray[np.float64]: ...
    @property
    def n_evaluations(self) -> int: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def index(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def order(self) -> int: ...
    @property
    def interrupted(self) -> bool: ...
    @property
    def stopped_by(self) -> str: ...
    @property
    def n_players(self) -> int: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def terms(self) -> tuple[tuple[int, ...], ...]: ...
    def __len__(self) -> int: ...


def text(attribution: Shown) -> str:
    """Return what `repr` shows: what the values are, then the players, then the largest interactions.

    >>> from shapkit import exact, table_game
    >>> print(text(exact(table_game([0, 1], names=["eyes"]))))
    Attribution: shapley values of 1 player, exact, 2 evaluations
      v(∅) = 0, v(N) = 1
      eyes  1
    """
    players, interactions = _shown_rows(attribution)
    lines = [f"Attribution: {_headline(attribution)}", f"  {_ends(attribution)}"]
    lines += _aligned(attribution, players)
    if attribution.n_players > len(players):
        lines.append(f"  ... and {attribution.n_players - len(players)} more players")
    if interactions:
        lines.append(f"  {_interactions_headline(attribution, interactions)}")
        lines += _aligned(attribution, interactions)
    return "\n".join(lines)


def html(attribution: Shown) -> str:
    """Return the same as an HTML table without scripts; where payoffs are scalar, with a bar for each value.

    >>> from shapkit import exact, table_game
    >>> table = html(exact(table_game([0, 1], names=["<eyes>"])))
    >>> "&lt;eyes&gt;" in table, "<eyes>" in table
    (True, False)
    """
    players, interactions = _shown_rows(attribution)
    rows = [_table_row(attribution, row) for row in players]
    if attribution.n_players > len(players):
        rows.append(_wide_row(f"... and {attribution.n_players - len(players)} more players"))
    if interactions:
        rows.append(_wide_row(_interactions_headline(attribution, interactions)))
        rows += [_table_row(attribution, row) for row in interactions]
    caption = f"<b>{escape(_headline(attribution))}</b><br>{escape(_ends(attribution))}"
    return (
        '<table><caption style="caption-side: top; text-align: left">'
        f"{caption}</caption><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"
    )


def term_label(attribution: Shown, row: int) -> str:
    """Return the names of the players that a row of values belongs to.

    >>> from shapkit import exact, table_game
    >>> term_label(exact(table_game([0, 1, 2, 5], names=["eyes", "nose"])), 1)
    'nose'
    """
    if row < attribution.n_players:  # without the terms, of which there may be many
        return attribution.names[row]
    return " × ".join(attribution.names[player] for player in attribution.terms[row])


def by_size(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows of values (n_rows, *output_shape), that with the largest absolute value first, NaN last.

    >>> by_size(np.array([1.0, np.nan, -3.0, 1.0]))
    array([2, 0, 3, 1])
    """
    sizes = np.nan_to_num(np.abs(values), nan=-1.0).max(axis=tuple(range(1, values.ndim)), initial=-1.0)
    return np.argsort(-sizes, kind="stable")


def _headline(attribution: Shown) -> str:
    order = "" if attribution.order == 1 else f", order {attribution.order}"
    return (
        f"{attribution.index} values of {_counted(attribution.n_players, 'player')}{order}, {attribution.method}, "
        f"{_counted(attribution.n_evaluations, 'evaluation')}{_ending(attribution)}"
    )


def _ending(attribution: Shown) -> str:
    """What ended the evaluations, where the method does not say it: a budget needs no mention."""
    if attribution.interrupted:
        return ", interrupted"
    if attribution.method == "exact" or attribution.stopped_by in ("", "budget"):
        return ""
    return ", exact" if attribution.stopped_by == "all coalitions" else f", stopped by {attribution.stopped_by}"


def _ends(attribution: Shown) -> str:
    return f"v(∅) = {_payoff(attribution.empty_value)}, v(N) = {_payoff(attribution.grand_value)}"


def _interactions_headline(attribution: Shown, shown: list[int]) -> str:
    n_interactions = len(attribution) - attribution.n_players
    counted = _counted(n_interactions, "interaction")
    return counted if len(shown) == n_interactions else f"the {len(shown)} largest of {counted}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shown_rows(attribution: Shown) -> tuple[list[int], list[int]]:
    """The rows of values that are shown: the first players, and the largest of the rest."""
    n_players = attribution.n_players
    largest = n_players + by_size(attribution.values[n_players:])[:_SHOWN_INTERACTIONS]
    return list(range(min(n_players, _SHOWN_PLAYERS))), largest.tolist()


def _aligned(attribution: Shown, rows: list[int]) -> list[str]:
    labels = [term_label(attribution, row) for row in rows]
    width = max(map(len, labels), default=0)
    return [f"  {label:<{width}}  {_value(attribution, row)}" for label, row in zip(labels, rows, strict=True)]


def _value(attribution: Shown, row: int) -> str:
    """The value of a row, with its standard error where there is one."""
    errors = attribution.standard_errors
    return _payoff(attribution.values[row]) + ("" if errors is None else f" ± {_payoff(errors[row], digits=2)}")


def _payoff(numbers: NDArray[np.float64], digits: int = 4) -> str:
    """A payoff in a line: the number itself, or the first few in brackets."""
    flat = np.ravel(numbers)
    shown = " ".join(f"{number:.{digits}g}" for number in flat[:_SHOWN_OUTPUTS])
    if np.ndim(numbers) == 0:
        return shown
    return f"[{shown}{' ...' if flat.size > _SHOWN_OUTPUTS else ''}]"


def _table_row(attribution: Shown, row: int) -> str:
    bar = ""
    if attribution.output_shape == ():
        bar = (
            f"<td>{_bar(float(attribution.values[row]), float(np.nanmax(np.abs(attribution.values), initial=0)))}</td>"
        )
    label, value = escape(term_label(attribution, row)), escape(_value(attribution, row))
    return f'<tr><td style="text-align: left">{label}</td><td style="text-align: right">{value}</td>{bar}</tr>'


def _wide_row(words: str) -> str:
    return f'<tr><td colspan="3" style="text-align: left"><i>{escape(words)}</i></td></tr>'


def _bar(value: float, largest: float) -> str:
    """A bar from the middle of a box 160 pixels wide, to the right for positive values and to the left for others."""
    share = 50 * abs(value) / largest if largest > 0 and np.isfinite(value) else 0.0
    start, colour = (50.0, POSITIVE) if value >= 0 else (50 - share, NEGATIVE)
    return (
        '<div style="width: 160px; height: 0.8em">'
        f'<div style="margin-left: {start:.1f}%; width: {share:.1f}%; height: 100%; background: {colour}"></div></div>'
    )
