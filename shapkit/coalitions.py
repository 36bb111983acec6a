"""Coalitions as bitmasks and as rows of boolean matrices, and their enumeration.

A coalition is a row of a boolean matrix (n_coalitions, n_players) where users meet it, and a uint64 mask,
with bit i set when player i is in the coalition, where coalitions are counted or looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit import kernels

Coalitions: TypeAlias = NDArray[np.bool_]
"""(n_coalitions, n_players): True where the player is in the coalition."""

Masks: TypeAlias = NDArray[np.uint64]
"""(n_coalitions,): bit i is set when player i is in the coalition."""

MAX_MASK_PLAYERS = 64


def members_of_masks(masks: ArrayLike, n_players: int) -> Coalitions:
    """Return the coalitions of `masks`.

    Args:
        masks: non-negative integers (n_coalitions,), each below 2**n_players.
        n_players: between 0 and 64.

    Returns:
        bool array (n_coalitions, n_players).

    Raises:
        ValueError: a mask or `n_players` is out of range.

    >>> members_of_masks([0, 1, 6], 3).astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [0, 1, 1]])
    """
    _check_mask_players(n_players)
    array = np.asarray(masks)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"masks must be a list of integers, got shape {array.shape} and dtype {array.dtype}")
    if array.size and (array.min() < 0 or int(array.max()) >> n_players):
        raise ValueError(
            f"masks must lie in [0, 2**{n_players}) for n_players={n_players}, "
            f"got values from {array.min()} to {array.max()}"
        )
    members = np.empty((array.size, n_players), dtype=np.bool_)
    kernels.unpack_masks(array.astype(np.uint64), members)
    return members


def masks_of_members(coalitions: Coalitions) -> Masks:
    """Return the masks of `coalitions`.

    Args:
        coalitions: bool array (n_coalitions, n_players), with at most 64 players.

    Returns:
        uint64 array (n_coalitions,).

    Raises:
        ValueError: `coalitions` is not such an array.

    >>> masks_of_members(np.array([[False, False, False], [False, True, True]]))
    array([0, 6], dtype=uint64)
    """
    array = np.asarray(coalitions)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(
            "coalitions must be a boolean matrix (n_coalitions, n_players), "
            f"got shape {array.shape} and dtype {array.dtype}"
        )
    _check_mask_players(array.shape[1])
    masks = np.empty(array.shape[0], dtype=np.uint64)
    kernels.pack_members(array, masks)
    return masks


def sizes_of_masks(n_masks: int) -> NDArray[np.int64]:
    """Return how many players the coalitions with masks 0, 1, ..., n_masks - 1 have.

    >>> sizes_of_masks(8)
    array([0, 1, 1, 2, 1, 2, 2, 3])
    """
    sizes = np.zeros(1, dtype=np.int64)
    while len(sizes) < n_masks:  # the next bit set: all that are known, and a player more
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes[:n_masks]


def coalitions_of_size(n_players: int, size: int) -> NDArray[np.int64]:
    """Return the players of every coalition of `size` players, (n_coalitions, size), in lexicographic order.

    >>> coalitions_of_size(3, 2).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    return np.array(list(combinations(range(n_players), size)), dtype=np.int64).reshape(-1, size)


def enumerate_coalitions(
    n_players: int, n_rows: int, start: int = 0, stop: int | None = None, gray: bool = False
) -> Iterator[tuple[int, Coalitions]]:
    """Yield all coalitions, `n_rows` at a time, numbered by their masks or along the Gray code.

    Args:
        n_players: between 0 and 63.
        n_rows: coalitions per block; the last block may be shorter.
        start: number of the first coalition.
        stop: one past the number of the last; by default 2**n_players.
        gray: False: a coalition's number is its mask. True: it is the coalition's place in the reflected Gray code,
            in which each differs from the one before by one player who joins or leaves, so that a game can update
            its payoff instead of computing it anew. The mask of number g is then g ^ (g >> 1).

    Yields:
        the number of the block's first coalition, and a new bool array (<= n_rows, n_players).

    Raises:
        ValueError: an argument is out of range.

    >>> [(first, block.shape) for first, block in enumerate_coalitions(3, 5)]
    [(0, (5, 3)), (5, (3, 3))]
    >>> _, gray = next(enumerate_coalitions(2, 4, gray=True))
    >>> gray.astype(int)
    array([[0, 0],
           [1, 0],
           [1, 1],
           [0, 1]])
    """
    _check_mask_players(n_players)
    stop = 2**n_players if stop is None else stop
    if not 0 <= start <= stop <= 2**n_players or n_players == MAX_MASK_PLAYERS:
        raise ValueError(f"cannot enumerate coalitions [{start}, {stop}) of {n_players} players")
    if n_rows < 1:
        raise ValueError(f"n_rows must be at least 1, got {n_rows}")
    return _blocks(n_players, n_rows, start, stop, gray)


def _blocks(n_players: int, n_rows: int, start: int, stop: int, gray: bool) -> Iterator[tuple[int, Coalitions]]:
    for first in range(start, stop, n_rows):
        members = np.empty((min(n_rows, stop - first), n_players), dtype=np.bool_)
        kernels.unpack_range(first, gray, members)
        yield first, members


def _check_mask_players(n_players: int) -> None:
    if not 0 <= n_players <= MAX_MASK_PLAYERS:
        raise ValueError(f"n_players must be between 0 and {MAX_MASK_PLAYERS} for bitmasks, got {n_players}")
