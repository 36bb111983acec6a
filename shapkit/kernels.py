"""The loops that run once per coalition, compiled with numba, and nothing else.

Payoffs arrive here as matrices (n_coalitions, n_columns), one column per output element, or flattened from such a
matrix. The loops release the interpreter's lock, so that blocks of coalitions can be worked on in threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Function = TypeVar("Function")

_CACHE_FLOATS = 2**15  # 256 KiB, less than the second-level cache of a core

if TYPE_CHECKING:

    def compiled(function: Function) -> Function: ...

    def compiled_in_any_order(function: Function) -> Function: ...

else:

    def compiled(function: Function, fastmath: bool | set[str] = False) -> Function:
        """The function as machine code, which releases the interpreter's lock."""
        try:
            return njit(cache=True, nogil=True, fastmath=fastmath)(function)
        except RuntimeError:  # no directory to keep compiled code in: compile anew in each process
            return njit(nogil=True, fastmath=fastmath)(function)

    def compiled_in_any_order(function: Function) -> Function:
        """The same, where sums may be added up in any order, so that several terms are at once."""
        return compiled(function, {"reassoc", "nsz", "contract"})


@compiled
def unpack_masks(masks: NDArray[np.uint64], members: NDArray[np.bool_]) -> None:
    """Write the coalition of each mask to a row of `members` (n_masks, n_players): bit i is player i."""
    for row in range(members.shape[0]):
        mask = masks[row]
        for player in range(members.shape[1]):
            members[row, player] = (mask >> np.uint64(player)) & np.uint64(1) != np.uint64(0)


@compiled
def unpack_range(first: int, gray: bool, members: NDArray[np.bool_]) -> None:
    """Write coalitions number first, first + 1, ... to the rows of `members` (n_masks, n_players).

    A coalition's number is its mask, or, where `gray`, its place in the reflected Gray code (Gray 1953), in which
    one player joins or leaves at a time.
    """
    for row in range(members.shape[0]):
        mask = np.uint64(first) + np.uint64(row)
        if gray:
            mask ^= mask >> np.uint64(1)
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
    weights: NDArray[np.float64],
    high_size: int,
    n_columns: int,
    low_sums: NDArray[np.float64],
    totals: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> None:
    """Sum a block's weighted payoffs over its high patterns, for each low pattern, and the other way round.

    A block is flat, (n_totals * 2**b * n_columns,): runs of 2**b coalitions that differ in their low b bits, one run
    per high pattern. Every payoff less its reference is multiplied by the weight of its coalition's size. The sum over
    a run is pairwise, and no sum is reordered by the compiler: the result does not depend on the machine.

    Shapes: reference (2**b * n_columns,), one run of the empty coalition's payoff; weights (n_sizes, 2**b * n_columns),
    row q for runs of q high players, of which `high_size` are outside the block; low_sums and scratch (2**b *
    n_columns,) and totals (n_totals, n_columns) are overwritten.
    """
    length = low_sums.shape[0]
    quarter = length // 4
    low_sums[:] = 0.0
    for run in range(totals.shape[0]):
        size = high_size
        bits = run
        while bits:
            size += bits & 1
            bits >>= 1
        weight = weights[size]
        values = payoffs[run * length : (run + 1) * length]
        if length < 4 * n_columns:  # runs of one or two coalitions
            for element in range(length):
                term = weight[element] * (values[element] - reference[element])
                low_sums[element] += term
                scratch[element] = term
            half = length // 2
        else:  # four streams: a quarter of the additions of the run's total happen in registers
            for first in range(quarter):
                second = first + quarter
                third = second + quarter
                fourth = third + quarter
                term_1 = weight[first] * (values[first] - reference[first])
                term_2 = weight[second] * (values[second] - reference[second])
                term_3 = weight[third] * (values[third] - reference[third])
                term_4 = weight[fourth] * (values[fourth] - reference[fourth])
                low_sums[first] += term_1
                low_sums[second] += term_2
                low_sums[third] += term_3
                low_sums[fourth] += term_4
                scratch[first] = (term_1 + term_2) + (term_3 + term_4)
            half = quarter // 2
        while half >= n_columns:
            for element in range(half):
                scratch[element] += scratch[half + element]
            half //= 2
        for column in range(n_columns):
            totals[run, column] = scratch[column]


@compiled
def sum_patterns(rows: NDArray[np.float64], sums: NDArray[np.float64], scratch: NDArray[np.float64]) -> None:
    """Write to sums[i] the sum of the rows of `rows` whose index has bit i, and to sums[-1] that of all.

    Folds the table in half once per bit, O(2**b) in all. `rows` (2**b, n_columns) is overwritten; `sums` is
    (b + 1, n_columns); `scratch` has the shape of `rows`.
    """
    half = rows.shape[0] // 2
    for player in range(sums.shape[0] - 2, -1, -1):
        scratch[:half] = rows[half : 2 * half]
        rows[:half] += rows[half : 2 * half]
        add_pairwise(scratch, half)
        sums[player] = scratch[0]
        half //= 2
    sums[-1] = rows[0]


@compiled
def add_pairwise(rows: NDArray[np.float64], n_rows: int) -> None:
    """Leave in rows[0] the sum of the first `n_rows` rows, a power of two, and rubbish in the rest."""
    half = n_rows // 2
    while half > 0:
        for row in range(half):
            for column in range(rows.shape[1]):
                rows[row, column] += rows[row + half, column]
        half //= 2


@compiled
def weigh_complements(
    payoffs: NDArray[np.float64],
    reference: NDArray[np.float64],
    weights: NDArray[np.float64],
    weighted: NDArray[np.float64],
) -> None:
    """Write each payoff less the reference (n_columns,), times its row's weight (n_rows,), to `weighted`, last first.

    Of 2**b rows the last is the first's complement, and so on: a sum over supersets becomes one over subsets.
    """
    n_rows = payoffs.shape[0]
    for row in range(n_rows):
        for column in range(payoffs.shape[1]):
            weighted[n_rows - 1 - row, column] = weights[row] * (payoffs[row, column] - reference[column])


@compiled
def add_subsets(table: NDArray[np.float64], sign: float, unit: int) -> None:
    """Replace each value by the sum over all subsets of its coalition (sign 1), or undo that (sign -1), in place.

    `table` is flat, (2**n * unit,), with `unit` columns per coalition. One pass per player, the fast zeta and Möbius
    transforms (Yates 1937), and two or three passes at a time wherever they are made of the same loads. The passes of
    the low players run block by block in the cache.
    """
    block = unit
    while block < _CACHE_FLOATS and block < table.shape[0]:
        block *= 2
    for start in range(0, table.shape[0], block):
        _add_passes(table[start : start + block], sign, unit)
    _add_passes(table, sign, block)


@compiled
def _add_passes(table: NDArray[np.float64], sign: float, stride: int) -> None:
    """The passes of `add_subsets` from `stride` on."""
    if stride == 1 and table.shape[0] >= 8:
        _add_in_eights(table, sign)
        stride = 8
    while 2 * stride < table.shape[0]:
        for start in range(0, table.shape[0], 4 * stride):
            empty = table[start : start + stride]
            one = table[start + stride : start + 2 * stride]
            other = table[start + 2 * stride : start + 3 * stride]
            both = table[start + 3 * stride : start + 4 * stride]
            for element in range(stride):
                one_sum = one[element] + sign * empty[element]
                both[element] = (both[element] + sign * other[element]) + sign * one_sum
                other[element] += sign * empty[element]
                one[element] = one_sum
        stride *= 4
    if stride < table.shape[0]:
        for element in range(stride):
            table[stride + element] += sign * table[element]


@compiled
def _add_in_eights(table: NDArray[np.float64], sign: float) -> None:
    """The passes of the first three players of scalar games, in registers."""
    for start in range(0, table.shape[0], 8):
        v0, v1, v2, v3 = table[start], table[start + 1], table[start + 2], table[start + 3]
        v4, v5, v6, v7 = table[start + 4], table[start + 5], table[start + 6], table[start + 7]
        v1, v3, v5, v7 = v1 + sign * v0, v3 + sign * v2, v5 + sign * v4, v7 + sign * v6
        v2, v3, v6, v7 = v2 + sign * v0, v3 + sign * v1, v6 + sign * v4, v7 + sign * v5
        v4, v5, v6, v7 = v4 + sign * v0, v5 + sign * v1, v6 + sign * v2, v7 + sign * v3
        table[start + 1], table[start + 2], table[start + 3] = v1, v2, v3
        table[start + 4], table[start + 5], table[start + 6], table[start + 7] = v4, v5, v6, v7
