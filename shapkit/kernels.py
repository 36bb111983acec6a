"""The loops that run once per coalition, compiled with numba, and nothing else.

Payoffs arrive here as matrices (n_coalitions, n_columns): one column per output element, one game per column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Function = TypeVar("Function")

if TYPE_CHECKING:

    def compiled(function: Function) -> Function: ...

else:

    def compiled(function: Function) -> Function:
        try:
            return njit(cache=True)(function)
        except RuntimeError:  # no directory to keep compiled code in: compile anew in each process
            return njit(function)


@compiled
def unpack_masks(masks: NDArray[np.uint64], members: NDArray[np.bool_]) -> None:
    """Write the coalition of each mask to a row of `members` (n_masks, n_players): bit i is player i."""
    for row in range(members.shape[0]):
        mask = masks[row]
        for player in range(members.shape[1]):
            members[row, player] = (mask >> np.uint64(player)) & np.uint64(1) != np.uint64(0)


@compiled
def unpack_range(first_mask: int, members: NDArray[np.bool_]) -> None:
    """Write the coalitions first_mask, first_mask + 1, ... to the rows of `members` (n_masks, n_players)."""
    for row in range(members.shape[0]):
        mask = np.uint64(first_mask) + np.uint64(row)
        for player in range(members.shape[1]):
            members[row, player] = (mask >> np.uint64(player)) & np.uint64(1) != np.uint64(0)


@compiled
def pack_members(members: NDArray[np.bool_], masks: NDArray[np.uint64]) -> None:
    """Write the mask of each row of `members` (n_masks, n_players) to `masks` (n_masks,)."""
    for row in range(members.shape[0]):
        mask = np.uint64(0)
        for player in range(members.shape[1]):
            if members[row, player]:
                mask |= np.uint64(1) << np.uint64(player)
        masks[row] = mask


@compiled
def fold_block(
    payoffs: NDArray[np.float64],
    reference: NDArray[np.float64],
    row_weights: NDArray[np.float64],
    high_bits: int,
    low_sums: NDArray[np.float64],
    low_errors: NDArray[np.float64],
    high_sums: NDArray[np.float64],
    high_errors: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> None:
    """Add one aligned block of 2**b payoffs, weighted, to the sums from which every player's sum follows.

    The low b bits of a coalition are its row, the others are `high_bits`, the same for the whole block. A row
    is added to the sum of its low pattern, the block's total to the sum of every player in `high_bits`. Sums
    over blocks are compensated (Kahan 1965), the sum over a block is pairwise, so that the error does not
    grow with 2**n.

    Shapes: payoffs, low_sums, low_errors, scratch (2**b, n_columns); reference (n_columns,) is subtracted
    from every payoff; row_weights (2**b,); high_sums, high_errors (n_players - b, n_columns).
    """
    n_rows, n_columns = payoffs.shape
    for row in range(n_rows):
        weight = row_weights[row]
        for column in range(n_columns):
            term = weight * (payoffs[row, column] - reference[column])
            scratch[row, column] = term
            corrected = term - low_errors[row, column]
            updated = low_sums[row, column] + corrected
            low_errors[row, column] = (updated - low_sums[row, column]) - corrected
            low_sums[row, column] = updated
    if high_bits == 0:
        return
    add_pairwise(scratch, n_rows)
    for player in range(high_sums.shape[0]):
        if (high_bits >> player) & 1:
            for column in range(n_columns):
                corrected = scratch[0, column] - high_errors[player, column]
                updated = high_sums[player, column] + corrected
                high_errors[player, column] = (updated - high_sums[player, column]) - corrected
                high_sums[player, column] = updated


@compiled
def sum_low_patterns(low_sums: NDArray[np.float64], sums: NDArray[np.float64], scratch: NDArray[np.float64]) -> None:
    """Write to sums[i] the sum of the rows of `low_sums` whose index has bit i, and to sums[-1] that of all.

    Folds the table in half once per player, O(2**b) in all. `low_sums` (2**b, n_columns) is overwritten;
    `sums` is (b + 1, n_columns); `scratch` has the shape of `low_sums`.
    """
    half = low_sums.shape[0] // 2
    for player in range(sums.shape[0] - 2, -1, -1):
        scratch[:half] = low_sums[half : 2 * half]
        low_sums[:half] += low_sums[half : 2 * half]
        add_pairwise(scratch, half)
        sums[player] = scratch[0]
        half //= 2
    sums[-1] = low_sums[0]


@compiled
def add_pairwise(rows: NDArray[np.float64], n_rows: int) -> None:
    """Leave in rows[0] the sum of the first `n_rows` rows, a power of two, and rubbish in the rest."""
    half = n_rows // 2
    while half > 0:
        for row in range(half):
            for column in range(rows.shape[1]):
                rows[row, column] += rows[row + half, column]
        half //= 2
