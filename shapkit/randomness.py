"""Counter-based random numbers: each number is a hash of a seed and the indices that say what it is for.

Nothing depends on the order or the size of the batches in which numbers are asked for, and no generator,
global or local, is advanced.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def counter_bits(seed: int, *indices: ArrayLike) -> NDArray[np.uint64]:
    """Return 64 random bits for every combination of `indices`.

    Each index takes one step of SplitMix64 (Steele, Lea and Flood 2014), the state of which starts from
    `seed` and continues from the output of the index before.

    Args:
        seed: an integer in [0, 2**64).
        indices: non-negative integers or integer arrays that broadcast against each other. (3, 0) and (3,)
            differ.

    Returns:
        uint64 array of the broadcast shape of `indices`.

    Raises:
        ValueError: `seed` or an index is not a non-negative integer.

    >>> bits = counter_bits(0, np.arange(1000)[:, None], np.arange(8))
    >>> bits.shape, bool((bits[700, 3] == counter_bits(0, 700, 3)).all())
    ((1000, 8), True)
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64, of which NumPy warns for scalars only
        state = _mixed(np.asarray(_checked_seed(seed), dtype=np.uint64) + _GOLDEN)
        for index in indices:
            steps = _checked_index(index) + np.uint64(1)
            state = _mixed(state + _GOLDEN * steps)
    return np.asarray(state)


def counter_uniform(seed: int, *indices: ArrayLike) -> NDArray[np.float64]:
    """Return one number, uniform in [0, 1), for every combination of `indices`.

    Args:
        seed: an integer in [0, 2**64).
        indices: as in `counter_bits`.

    Returns:
        float64 array of the broadcast shape of `indices`; the values are multiples of 2**-53.

    Raises:
        ValueError: `seed` or an index is not a non-negative integer.

    >>> float(counter_uniform(0, 5)) == float(counter_uniform(0, np.arange(10))[5])
    True
    """
    return np.asarray((counter_bits(seed, *indices) >> np.uint64(11)) * 2.0**-53)


def counter_permutations(seed: int, numbers: ArrayLike, n_items: int) -> NDArray[np.int64]:
    """Return the uniformly random permutations of `n_items` items with the given numbers.

    Args:
        seed: an integer in [0, 2**64).
        numbers: which permutations, non-negative integers of shape (n_permutations,).
        n_items: how many items are permuted.

    Returns:
        int64 array (n_permutations, n_items); row r is permutation `numbers[r]`.

    Raises:
        ValueError: `seed` or a number is not a non-negative integer.

    >>> counter_permutations(7, [0, 1], 4).shape
    (2, 4)
    """
    keys = counter_bits(seed, np.asarray(numbers)[:, None], np.arange(n_items))
    return np.argsort(keys, axis=-1, kind="stable")


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64: a bijection; each input bit flips each output bit half the time."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer in [0, 2**64), got {seed!r}")
    return int(seed)


def _checked_index(index: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(index)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "i" and array.size and array.min() < 0):
        raise ValueError(f"an index must hold non-negative integers, got {index!r}")
    return array.astype(np.uint64)
