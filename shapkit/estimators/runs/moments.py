"""Means of independent samples that come in chunks, their standard errors, and how well those are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class RunningMoments:
    """Mean and squared deviations of samples, merged chunk by chunk (Chan, Golub and LeVeque 1983).

    Attributes:
        n_samples: how many samples have been added.
        mean: their mean, of the shape of a sample.

    >>> moments = RunningMoments()
    >>> moments.add(np.array([1.0, 3.0])); moments.add(np.array([5.0]))
    >>> float(moments.mean), moments.n_samples
    (3.0, 3)
    """

    def __init__(self) -> None:
        self.n_samples = 0
        self.mean: NDArray[np.float64] = np.zeros(())
        self._squared_deviations: NDArray[np.float64] = np.zeros(())

    def add(self, samples: NDArray[np.float64]) -> None:
        """Add independent samples, along the first axis."""
        n_added = len(samples)
        mean = samples.mean(axis=0)
        n_total = self.n_samples + n_added
        step = mean - self.mean
        between = step**2 * (self.n_samples * n_added / n_total)
        self._squared_deviations = self._squared_deviations + ((samples - mean) ** 2).sum(axis=0) + between
        self.mean = self.mean + step * (n_added / n_total)
        self.n_samples = n_total

    def standard_error(self) -> NDArray[np.float64]:
        """Return the sample standard deviation over the square root of n_samples; NaN for one sample.

        >>> moments = RunningMoments()
        >>> moments.add(np.array([1.0, 3.0])); float(moments.standard_error())
        1.0
        """
        if self.n_samples < 2:
            return np.full_like(self.mean, np.nan)
        return np.asarray(np.sqrt(self._squared_deviations / (self.n_samples - 1) / self.n_samples))


def uncertainties(variances: Floats, n_samples: Integers | int) -> Floats:
    """Return unbiased estimates of half the variance of estimated variances, those of means of normal samples.

    Args:
        variances: each the estimate of the variance of a mean, or a multiple of it.
        n_samples: how many independent samples each mean is of, at least 2; broadcast with `variances`.

    Sums of both over independent means are what `degrees_of_freedom` takes.
    """
    return np.asarray(variances**2 / (np.asarray(n_samples) + 1))


def degrees_of_freedom(variances: Floats, uncertainty: Floats) -> Floats:
    """Return the degrees of freedom of sums of estimated variances: at least 1, and 1 where there is no variance.

    Satterthwaite (1946): (Σ σ²)² / Σ (σ⁴ / f). The squares of estimates are too large on average, those of terms with
    few degrees of freedom the most; with the corrections here and in `uncertainties`, numerator and denominator are
    unbiased, and one term has the degrees of freedom that it has.

    Args:
        variances: sums of estimated variances.
        uncertainty: sums of their `uncertainties`, of the same shape.

    >>> variances, counts = np.array([4.0, 1.0]), np.array([5, 5])
    >>> degrees_of_freedom(variances, uncertainties(variances, counts))
    array([4., 4.])
    """
    quotient = np.divide(variances**2, uncertainty, out=np.zeros_like(variances), where=uncertainty > 0)
    return np.asarray(np.maximum(quotient - 2, 1.0))
