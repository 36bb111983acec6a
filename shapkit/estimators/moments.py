"""The mean and the standard error of independent samples that come in chunks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
