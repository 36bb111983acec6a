"""Ratios of sums over independent units, and their standard errors by leaving out one unit at a time.

The jackknife of Quenouille (1956) and Tukey (1958): it needs no model of the units, and what it says of a ratio it says
of any smooth function of ratios too, computed from the same replicates.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def ratio_of_sums(numerators: Floats, denominators: Floats) -> tuple[Floats, Floats]:
    """Return sum / sum, and the same without each unit.

    Args:
        numerators: float64 (n_units, *shape).
        denominators: float64, of a shape that broadcasts to that; their sum is not zero.

    Returns:
        the ratio (*shape), and the replicates (n_units, *shape): entry u leaves out unit u, and is NaN where nothing is
        left in the denominator.

    >>> ratio, without = ratio_of_sums(np.array([1.0, 1.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    >>> float(ratio), without.tolist()
    (1.0, [1.0, 1.25, 0.6666666666666666])
    """
    above, below = numerators.sum(axis=0), denominators.sum(axis=0)
    # A difference that is zero but for rounding is zero: only this unit has anything in its denominator.
    rounding = 8 * np.finfo(np.float64).eps * np.abs(below)
    left = below - denominators
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.where(np.abs(left) > rounding, (above - numerators) / left, np.nan)
    return np.asarray(above / below), without


def jackknife_error(replicates: Floats) -> Floats:
    """Return the standard error (*shape) of a statistic from its replicates (n_units, *shape); NaN of fewer than two.

    Efron and Stein (1981), eq. 1.1: (n - 1) / n times the sum of the squared deviations of the replicates. Of a mean it
    is the usual standard error.

    >>> values = np.array([1.0, 2.0, 6.0])
    >>> _, without = ratio_of_sums(values, np.ones(3))
    >>> np.isclose(jackknife_error(without), values.std(ddof=1) / np.sqrt(3))
    np.True_
    """
    n_units = len(replicates)
    if n_units < 2:
        return np.full(replicates.shape[1:], np.nan)
    squares = (replicates - replicates.mean(axis=0)) ** 2
    return np.asarray(np.sqrt((n_units - 1) / n_units * squares.sum(axis=0)))
