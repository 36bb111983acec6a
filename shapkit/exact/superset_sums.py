"""Weighted sums over the coalitions that contain a given one, from blocks of payoffs as they come.

Every index of this package is made of such sums: Σ_{S ⊇ L} w(|S|) (v(S) − v(∅)), for all L of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shapkit import kernels
from shapkit.coalitions import sizes_of_masks

_RUN_FLOATS = 2**11  # payoff elements whose weights and sums stay in the first-level cache
_MIN_RUN = 4  # coalitions in a run, where a block has so many: see kernels.fold_block
_TILE_COLUMNS = _RUN_FLOATS // _MIN_RUN

# By the length of a run in elements: (n_sizes, run length)
_RunWeights: TypeAlias = dict[int, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Family:
    """The sums over the supersets of all coalitions L of one size, with one weight for each size of superset.

    Attributes:
        size: how many players L has.
        weights: float64 (n_players + 1,), the weight w(s) of a superset of s players.
    """

    size: int
    weights: NDArray[np.float64]


class SupersetSums:
    """The sums of several families over all coalitions of a game, of which blocks are added in any number.

    Args:
        n_players: how many players the game has.
        block_size: coalitions in a block, a power of two up to 2**n_players.
        reference: float64 (n_columns,), what is subtracted from every payoff: the empty coalition's. A large constant
            would otherwise cost digits.
        families: the sums wanted.

    >>> table = np.array([[0.0], [1.0], [2.0], [5.0]])
    >>> sums = SupersetSums(2, 2, table[0], [Family(1, np.ones(3)), Family(2, np.ones(3))])
    >>> sums.add(sums.of_block(0, table[:2]))
    >>> sums.add(sums.of_block(2, table[2:]))
    >>> [sum_.tolist() for sum_ in sums.totals]
    [[[6.0], [7.0]], [[5.0]]]
    """

    def __init__(
        self, n_players: int, block_size: int, reference: NDArray[np.float64], families: Sequence[Family]
    ) -> None:
        self.n_players, self.block_size = n_players, block_size
        self.n_low = block_size.bit_length() - 1
        self.reference = np.ascontiguousarray(reference)
        self.families = tuple(families)
        self._masks = {family.size: subset_masks(n_players, family.size) for family in families}
        self._tiles = [
            slice(first, min(first + _TILE_COLUMNS, len(reference)))
            for first in range(0, len(reference), _TILE_COLUMNS)
        ]
        self._run_references = {
            tile.start: np.tile(self.reference[tile], self._run_length(tile.stop - tile.start)) for tile in self._tiles
        }
        widths = {tile.stop - tile.start for tile in self._tiles}
        self._run_weights = [
            {self._run_length(width) * width: self._weights_of_runs(family, width) for width in widths}
            if family.size < 2
            else {}
            for family in self.families
        ]
        shapes = [(len(self._masks[family.size]), len(reference)) for family in families]
        self.totals = [np.zeros(shape) for shape in shapes]
        self._errors = [np.zeros(shape) for shape in shapes]

    def of_block(self, first_mask: int, payoffs: NDArray[np.generic]) -> list[NDArray[np.float64]]:
        """Return what the coalitions from `first_mask`, a multiple of the block's size, contribute to each family.

        May be called from several threads. Args: payoffs (block_size, n_columns). Returns, for each family, float64
        (n_subsets, n_columns).
        """
        high_mask = first_mask >> self.n_low << self.n_low
        contributions = []
        for family, run_weights in zip(self.families, self._run_weights, strict=True):
            masks = self._masks[family.size]
            sums = np.zeros((len(masks), len(self.reference)))
            within = (masks & np.uint64(((1 << self.n_players) - 1) ^ high_mask)) >> np.uint64(self.n_low) == 0
            low_masks = (masks[within] & np.uint64(self.block_size - 1)).astype(np.intp)
            high_size = high_mask.bit_count()
            sums[within] = (
                self._sums_of_pairs_and_more(family.weights[high_size:], payoffs)[self.block_size - 1 - low_masks]
                if family.size > 1
                else self._sums_of_players(run_weights, high_size, payoffs)[_lone_player(low_masks)]
            )
            contributions.append(sums)
        return contributions

    def _run_length(self, n_columns: int) -> int:
        """How many coalitions the kernel takes at once."""
        return min(self.block_size, max(_MIN_RUN, power_of_two_below(_RUN_FLOATS // n_columns)))

    def _weights_of_runs(self, family: Family, n_columns: int) -> NDArray[np.float64]:
        """The weights of a run's coalitions and columns, in one row for each number of players in all of the run."""
        run = self._run_length(n_columns)
        most = self.n_players - (run.bit_length() - 1)
        sizes = np.arange(most + 1)[:, None] + sizes_of_masks(run)
        return np.repeat(family.weights[sizes], n_columns, axis=1)

    def add(self, contributions: Sequence[NDArray[np.float64]]) -> None:
        """Add what `of_block` returned, compensated (Kahan 1965), so that the error does not grow with 2**n.

        The order of the blocks is part of the result: add them in the order of their masks.
        """
        for total, error, contribution in zip(self.totals, self._errors, contributions, strict=True):
            corrected = contribution - error
            updated = total + corrected
            error[...] = (updated - total) - corrected
            total[...] = updated

    def _sums_of_players(
        self, weights: _RunWeights, high_size: int, payoffs: NDArray[np.generic]
    ) -> NDArray[np.float64]:
        """The block's sum in row 0, and in row 1 + i that over the coalitions with player i of the block's own."""
        sums = np.empty((self.n_low + 1, len(self.reference)))
        for tile in self._tiles:
            reference = self._run_references[tile.start]
            sums[:, tile] = self._tile_sums(weights[reference.size], high_size, payoffs[:, tile], reference)
        return np.roll(sums, 1, axis=0)

    def _tile_sums(
        self,
        weights: NDArray[np.float64],
        high_size: int,
        payoffs: NDArray[np.generic],
        reference: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        n_columns = payoffs.shape[1]
        run = reference.size // n_columns
        low_sums, scratch = np.empty((2, run, n_columns))
        totals = np.empty((self.block_size // run, n_columns))
        kernels.fold_block(
            np.ascontiguousarray(payoffs, dtype=np.float64).reshape(-1),
            reference,
            weights,
            high_size,
            n_columns,
            low_sums.reshape(-1),
            totals,
            scratch.reshape(-1),
        )
        n_run_players = run.bit_length() - 1
        sums = np.empty((self.n_low + 1, n_columns))
        # The block's sum is written by both; the second, from the runs' totals, stays.
        kernels.sum_patterns(low_sums, sums[: n_run_players + 1], scratch)
        kernels.sum_patterns(totals, sums[n_run_players:], np.empty_like(totals))
        return sums

    def _sums_of_pairs_and_more(
        self, weights: NDArray[np.float64], payoffs: NDArray[np.generic]
    ) -> NDArray[np.float64]:
        """For every coalition L of the block's own players, last first: the sum over the coalitions with L."""
        row_weights = weights[sizes_of_masks(self.block_size)]
        sums = np.empty((self.block_size, len(self.reference)))
        kernels.weigh_complements(np.ascontiguousarray(payoffs, dtype=np.float64), self.reference, row_weights, sums)
        kernels.add_subsets(sums.reshape(-1), 1.0, len(self.reference))
        return sums


def subset_masks(n_players: int, size: int) -> NDArray[np.uint64]:
    """Return the masks of all coalitions of `size` players, in the lexicographic order of their members.

    >>> subset_masks(3, 2)
    array([3, 5, 6], dtype=uint64)
    """
    masks = [sum(1 << player for player in members) for members in combinations(range(n_players), size)]
    return np.array(masks, dtype=np.uint64)


def _lone_player(masks: NDArray[np.intp]) -> NDArray[np.intp]:
    """0 for an empty coalition, 1 + i for the coalition of player i."""
    return np.asarray(np.frexp(masks)[1], dtype=np.intp)


def power_of_two_below(number: int) -> int:
    """Return the largest power of two up to `number`, and at least 1.

    >>> power_of_two_below(9), power_of_two_below(0)
    (8, 1)
    """
    return 1 << max(0, number.bit_length() - 1)
