"""How well earlier kernels foretold the pairs evaluated after them: whether posteriors are too sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.estimators.gaussian_process.kernel import PartKernel, innovations

Floats = NDArray[np.float64]

_MOST_JUDGING = 1_536  # pairs, the first ones: more say little else, and take their cube in time


@dataclass(frozen=True)
class Forecast:
    """A kernel fitted to the first pairs, by which the next were chosen.

    Pairs that a kernel did not see are an honest test of it, and those that it chose are where it knows the least.
    What they differ by from what it expected is the innovation (Dawid 1984, "Statistical theory: the prequential
    approach"). It costs one factorisation, and no evaluation.

    Attributes:
        kernel: of a component's scores.
        projection: (n_outputs, n_columns), the component's: scores are payoffs @ projection.
        n_known: how many pairs it was fitted to.
    """

    kernel: PartKernel
    projection: Floats
    n_known: int

    def innovations(self, signs: Floats, payoffs: Floats) -> Floats:
        """Return how many standard deviations the pairs since were off, each given those before: (n, n_columns).

        Args:
            signs: (n_pairs, n_players), all pairs, those that the kernel was fitted to first.
            payoffs: (n_pairs, n_outputs).
        """
        return innovations(self.kernel, signs, payoffs @ self.projection, self.n_known)[0]


def missed_by(forecasts: Sequence[Forecast], signs: Floats, payoffs: Floats) -> float:
    """Return by how many standard deviations forecasts of one component missed; 1 where there are none to judge by.

    Of many pairs the first are judged by.

    Args:
        forecasts: in order: each is judged by the pairs up to the next.
        signs: (n_pairs, n_players).
        payoffs: (n_pairs, n_outputs).
    """
    ends = [*(forecast.n_known for forecast in forecasts[1:]), min(len(signs), _MOST_JUDGING)]
    missed = [
        forecast.innovations(signs[:end], payoffs[:end]).ravel()
        for forecast, end in zip(forecasts, ends, strict=False)
        if forecast.n_known < end
    ]
    return root_mean_square(np.concatenate([np.empty(0), *missed]))


def root_mean_square(deviations: Floats) -> float:
    """Return the root mean square of deviations in standard deviations; 1 of none.

    >>> root_mean_square(np.array([2.0, -2.0])), root_mean_square(np.empty(0))
    (2.0, 1.0)
    """
    return float(np.sqrt(np.mean(deviations**2))) if deviations.size else 1.0
