"""How many coalitions to evaluate at once, where all of them, or many, are worked through."""

from __future__ import annotations

from shapkit.exact.superset_sums import power_of_two_below

_BLOCK_ROWS = 2**16  # coalitions the game sees at once, at most
_BLOCK_FLOATS = 2**22  # payoff elements held at once, about; a few arrays of this size are alive


def block_rows(n_players: int, n_columns: int) -> int:
    """Return how many coalitions to evaluate at once, a power of two, for payoffs of `n_columns` elements.

    >>> block_rows(3, 1), block_rows(30, 1), block_rows(30, 3 * 64 * 64)
    (8, 65536, 256)
    """
    return min(1 << n_players, _BLOCK_ROWS, power_of_two_below(_BLOCK_FLOATS // n_columns))
