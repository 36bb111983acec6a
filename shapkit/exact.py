"""Exact indices of a game, from all 2**n coalition values in one pass.

The values may come from the game, in blocks that are folded as they come, or from a table that exists
already.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit import kernels
from shapkit.attribution import Attribution
from shapkit.coalitions import enumerate_coalitions
from shapkit.games import Game, players_of_table

Index = Literal["shapley", "banzhaf"]

MAX_EXACT_PLAYERS = 40
_BLOCK_ROWS = 2**16  # coalitions the game sees at once, at most
_BLOCK_FLOATS = 2**22  # payoff elements held at once, about; four arrays of this size are alive
_TABLE_BLOCK_FLOATS = 2**13  # for tables: four blocks fit the second-level cache


def exact(game: Game, index: Index = "shapley") -> Attribution:
    """Return the exact values of all players, from 2**n_players evaluations of the game.

    "shapley" is Shapley (1953): values sum to the grand coalition's payoff less the empty one's. "banzhaf" is
    the mean of a player's marginal contribution over all coalitions of the others (Banzhaf 1965, Penrose
    1946); it does not sum to anything in particular.

    Args:
        game: at most 40 players. It is evaluated in blocks; memory does not grow with 2**n_players.
        index: "shapley" or "banzhaf".

    Returns:
        an Attribution without standard errors, with values (n_players, *output_shape) in the unit of the
        payoff.

    Raises:
        ValueError: too many players, an unknown index, or what `Game` raises.

    >>> from shapkit import weighted_voting
    >>> exact(weighted_voting([2, 1, 1], quota=3)).values.round(4)
    array([0.6667, 0.1667, 0.1667])
    """
    check_index(index)
    check_enumerable(game.n_players)
    n_before = game.n_evaluations
    n_players = game.n_players
    empty = game(np.zeros((1, n_players), dtype=np.bool_))
    reference = empty.reshape(-1)
    fold = _Fold(n_players, reference, block_rows(n_players, reference.size), index)
    for first, coalitions in enumerate_coalitions(n_players, fold.n_rows):
        if first > 0:
            payoffs = game(coalitions)
        elif len(coalitions) > 1:
            payoffs = np.concatenate([empty, game(coalitions[1:])])
        else:
            payoffs = empty
        fold.add(first, payoffs.reshape(len(payoffs), -1))
    grand = payoffs[-1]
    return Attribution(
        values=fold.index_values(grand.reshape(-1)).reshape(n_players, *grand.shape),
        standard_errors=None,
        empty_value=empty[0],
        grand_value=grand.copy(),
        n_evaluations=game.n_evaluations - n_before,
        names=game.names,
        index=index,
        method="exact",
    )


def shapley_values(table: ArrayLike) -> NDArray[np.float64]:
    """Return the Shapley values of all players, given the value of every coalition.

    Args:
        table: real numbers (2**n_players, *output_shape); bit i of the index is set when player i is in the
            coalition. It is read once and not copied.

    Returns:
        float64 array (n_players, *output_shape), in the unit of the table.

    Raises:
        ValueError: the first axis is not 2, 4, 8, ... long, or a value is not a finite real number.

    >>> shapley_values([0, 1, 2, 5])
    array([2., 3.])
    """
    values = np.asarray(table)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"values has dtype {values.dtype}, expected real numbers")
    n_players = players_of_table(values)
    output_shape = values.shape[1:]
    columns = values.reshape(len(values), -1)
    if columns.shape[1] == 0:
        raise ValueError(f"values has shape {values.shape}: a value must have at least one element")
    n_rows = min(len(values), _power_of_two_below(_TABLE_BLOCK_FLOATS // columns.shape[1]))
    fold = _Fold(n_players, columns[0].astype(np.float64), n_rows, "shapley")
    for first in range(0, len(columns), n_rows):
        fold.add(first, columns[first : first + n_rows])
    shapley = fold.index_values(columns[-1].astype(np.float64))
    if not np.isfinite(shapley).all():  # cheaper than a look at each value: NaN and infinity reach every sum
        raise ValueError("values must be finite numbers: the table holds NaN, infinity or numbers that overflow")
    return shapley.reshape(n_players, *output_shape)


def check_enumerable(n_players: int) -> None:
    """Raise a ValueError where 2**n_players evaluations are out of the question.

    >>> check_enumerable(40)
    """
    if n_players > MAX_EXACT_PLAYERS:
        raise ValueError(
            f"the game has {n_players} players: all 2**{n_players} coalitions cannot be evaluated (at most "
            f"{MAX_EXACT_PLAYERS} players). Sample instead: shapkit.estimate(game, budget=...) for values, "
            'method="sampled" for residuals'
        )


def check_index(index: str) -> None:
    """Raise a ValueError where `index` is not one that `exact` computes.

    >>> check_index("shapley")
    """
    if index not in get_args(Index):
        raise ValueError(f"index must be one of {', '.join(map(repr, get_args(Index)))}, got {index!r}")


def block_rows(n_players: int, n_columns: int) -> int:
    """Return how many coalitions to evaluate at once, a power of two, for payoffs of `n_columns` elements.

    >>> block_rows(3, 1), block_rows(30, 1), block_rows(30, 3 * 64 * 64)
    (8, 65536, 256)
    """
    return min(1 << n_players, _BLOCK_ROWS, _power_of_two_below(_BLOCK_FLOATS // n_columns))


class _Fold:
    """For every player, the weighted sum over the coalitions with it, from blocks of `n_rows` payoffs."""

    def __init__(self, n_players: int, reference: NDArray[np.float64], n_rows: int, index: Index) -> None:
        n_columns = reference.size
        self.n_players, self.n_rows, self.index = n_players, n_rows, index
        self.reference = np.ascontiguousarray(reference)
        self.n_low = n_rows.bit_length() - 1
        self.size_weights = _size_weights(n_players, index)
        self.row_sizes = np.bitwise_count(np.arange(n_rows))
        self.low_sums, self.low_errors, self.scratch = np.zeros((3, n_rows, n_columns))
        self.high_sums, self.high_errors = np.zeros((2, n_players - self.n_low, n_columns))

    def add(self, first_mask: int, payoffs: NDArray[np.generic]) -> None:
        """Add the payoffs (n_rows, n_columns) of the coalitions from `first_mask`, a multiple of n_rows."""
        high_bits = first_mask >> self.n_low
        kernels.fold_block(
            np.ascontiguousarray(payoffs, dtype=np.float64),
            self.reference,
            self.size_weights[self.row_sizes + high_bits.bit_count()],
            high_bits,
            self.low_sums,
            self.low_errors,
            self.high_sums,
            self.high_errors,
            self.scratch,
        )

    def index_values(self, grand: NDArray[np.float64]) -> NDArray[np.float64]:
        """The index (n_players, n_columns), once every block has been added; `grand` is the last payoff."""
        low = np.empty((self.n_low + 1, self.reference.size))
        kernels.sum_low_patterns(self.low_sums, low, self.scratch)
        sums = np.concatenate([low[:-1], self.high_sums])
        if self.index == "banzhaf":
            # 2**(1-n) (sum over S with i of v(S) - sum over S without i of v(S))
            return np.asarray(2 * sums - low[-1])
        # The sum that all players share, Σ_S v(S) c(|S|), is what efficiency says it must be.
        excess: NDArray[np.float64] = sums.sum(axis=0) - (grand - self.reference)
        return np.asarray(sums - excess / self.n_players)


def _size_weights(n_players: int, index: Index) -> NDArray[np.float64]:
    """The weight of a coalition of each size, 0 to n_players, in the sum over the coalitions with a player.

    Shapley: φ_i = Σ_{S∋i} v(S) (a(|S|) + c(|S|)) − Σ_S v(S) c(|S|), with a(s) = 1/(s C(n,s)), c(s) = 1/((n−s)
    C(n,s)).
    """
    if index == "banzhaf":
        return np.full(n_players + 1, 2.0 ** (1 - n_players))
    weights = np.zeros(n_players + 1)
    weights[n_players] = 1 / n_players
    for size in range(1, n_players):
        # a(s) + c(s) = n / (s (n − s) C(n, s)), one correctly rounded division of integers
        weights[size] = n_players / (size * (n_players - size) * math.comb(n_players, size))
    return weights


def _power_of_two_below(number: int) -> int:
    """The largest power of two up to `number`, and at least 1."""
    return 1 << max(0, number.bit_length() - 1)
