"""Sets of feature vectors compared vector by vector: kernel distance, precision and recall, density and coverage.

The Fréchet distance sees the first two moments only and is biased in small samples; the kernel distance is unbiased.
Precision and density say whether samples are realistic, recall and coverage whether they are varied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from shapkit.randomness import counter_permutations
from shapkit_diffusion.evaluation.intervals import Floats

Rows: TypeAlias = NDArray[np.floating]
_BLOCK = 1024  # rows of a kernel or distance matrix held at once: 33 MB against 4,000 others


def kernel_distance(first: Rows, second: Rows) -> float:
    """KID: the unbiased squared maximum mean discrepancy of all rows (Bińkowski et al. 2018).

    The kernel is (x . y / d + 1)^3. Being unbiased, it can be negative. Time grows with n^2 d; the memory beyond the
    rows does not grow with n^2.

    Args:
        first, second: feature vectors (n, d) and (m, d), at least two each.

    Raises:
        ValueError: for fewer than two rows, or different numbers of features.

    >>> kernel_distance(np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]]))  # 1 + 2^3 - 2
    7.0
    """
    _check_pair(first, second, 2)
    cross = sum(float(block.sum()) for block in _kernel_blocks(first, second)) / (len(first) * len(second))
    return _within(first) + _within(second) - 2 * cross


def _within(rows: Rows) -> float:
    """Mean of the kernel over pairs of different rows."""
    total = sum(float(block.sum()) for block in _kernel_blocks(rows, rows))
    squares = np.square(rows, dtype=np.float64).sum(axis=1)
    diagonal = float(((squares / rows.shape[1] + 1) ** 3).sum())
    return (total - diagonal) / (len(rows) * (len(rows) - 1))


def _kernel_blocks(first: Rows, second: Rows) -> Iterator[Floats]:
    columns = np.asarray(second, dtype=np.float64).T
    for start in range(0, len(first), _BLOCK):
        block = np.asarray(first[start : start + _BLOCK], dtype=np.float64) @ columns
        yield (block / first.shape[1] + 1) ** 3


def kernel_distance_of_subsets(
    first: Rows, second: Rows, *, size: int = 1000, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """KID as usually printed: mean and standard deviation over pairs of random subsets (Bińkowski et al. 2018).

    Its mean estimates the same as ``kernel_distance`` does, with more noise.

    Args:
        size: rows of each subset, drawn without replacement.
        subsets: how many pairs of subsets.
        seed: names the subsets.

    Raises:
        ValueError: if a set has fewer than ``size`` rows, size is below two, or there are no subsets.

    >>> rng = np.random.default_rng(0); rows = rng.normal(size=(30, 4))
    >>> mean, deviation = kernel_distance_of_subsets(rows[:15], rows[15:], size=15, subsets=2)  # all rows, twice
    >>> bool(np.isclose(mean, kernel_distance(rows[:15], rows[15:]))), bool(deviation < 1e-9)
    (True, True)
    """
    if size < 2 or subsets < 1:
        raise ValueError(f"size must be at least 2 and subsets at least 1, got {size} and {subsets}")
    _check_pair(first, second, size)
    values = []
    for number in range(subsets):
        chosen = (
            counter_permutations(seed, [2 * number + k], len(rows))[0, :size] for k, rows in enumerate((first, second))
        )
        values.append(kernel_distance(*(rows[order] for rows, order in zip((first, second), chosen, strict=True))))
    return float(np.mean(values)), float(np.std(values))


def precision_recall(reference: Rows, samples: Rows, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eqs. 1-3).

    Precision is the share of samples within some reference row's distance to its k-th nearest neighbour among the
    reference; recall is the same with the two exchanged. Both depend on the numbers of rows: use equal ones.

    Raises:
        ValueError: for k or fewer rows, k < 1, or different numbers of features.

    >>> reference = np.arange(5.0)[:, None]
    >>> precision_recall(reference, reference + 0.5, k=1), precision_recall(reference, reference + 100, k=1)
    ((1.0, 1.0), (0.0, 0.0))
    """
    _check_neighbours(reference, samples, k)
    return _share_within(samples, reference, _radii(reference, k)), _share_within(
        reference, samples, _radii(samples, k)
    )


def density_coverage(reference: Rows, samples: Rows, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, eqs. 3 and 4), which single outliers do not move.

    Density is the mean number of reference balls (radius: distance to the k-th neighbour) that hold a sample, over k;
    it may exceed one. Coverage is the share of reference balls that hold a sample.

    Raises:
        ValueError: as ``precision_recall``.

    >>> reference = np.arange(6.0)[:, None]
    >>> density_coverage(reference, np.full((6, 1), 2.5), k=1)  # in the balls of 2 and 3
    (2.0, 0.3333333333333333)
    """
    _check_neighbours(reference, samples, k)
    radii = _radii(reference, k)
    held = np.concatenate(
        [(block <= radius[:, None]).sum(axis=1) for block, radius in _distance_blocks(reference, samples, radii)]
    )
    return float(held.sum() / (k * len(samples))), float((held > 0).mean())


def _radii(rows: Rows, k: int) -> Floats:
    """Distance of each row to its k-th nearest other row."""
    blocks = (np.partition(block, k, axis=1)[:, k] for block, _ in _distance_blocks(rows, rows, np.zeros(len(rows))))
    return np.concatenate(list(blocks))  # place 0 is the row itself, at distance 0


def _share_within(points: Rows, centres: Rows, radii: Floats) -> float:
    """Share of points that lie in the ball of some centre."""
    held = np.zeros(len(points), dtype=bool)
    for block, radius in _distance_blocks(centres, points, radii):
        held |= (block <= radius[:, None]).any(axis=0)
    return float(held.mean())


def _distance_blocks(first: Rows, second: Rows, along: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Distances of blocks of the first's rows to all of the second, and the same rows of ``along``.

    Exact differences, not |x|^2 + |y|^2 - 2 x.y, so that equal rows have distance zero.
    """
    for start in range(0, len(first), _BLOCK):
        part = slice(start, start + _BLOCK)
        yield cdist(np.asarray(first[part], np.float64), np.asarray(second, np.float64)), along[part]


def _check_pair(first: Rows, second: Rows, least: int) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"feature vectors must be (n, d) and (m, d), got {first.shape} and {second.shape}")
    if min(len(first), len(second)) < least:
        raise ValueError(f"each set must have at least {least} rows, got {len(first)} and {len(second)}")


def _check_neighbours(reference: Rows, samples: Rows, k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    _check_pair(reference, samples, k + 1)
