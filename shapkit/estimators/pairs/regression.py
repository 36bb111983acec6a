"""The least squares whose solution is the Shapley value, on a stratified sample of pairs.

Charnes, Golany, Keane and Rousseau (1988): the Shapley value is the additive game that is nearest to the game, with
weights that depend on a coalition's size and among those that share out the same total. `kernel` and `leverage`
differ in which coalitions they draw, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.pairs.samples import Integers, PairedSamples, row_blocks

Floats = NDArray[np.float64]

_BLOCK_FLOATS = 2**20  # of the design matrix held at once, about
_SINGULAR = 1e-9  # an eigenvalue smaller than this, relative to the largest, is taken for zero


def shapley_kernel(sizes: Floats, n_players: int) -> Floats:
    """Return the total weight of the coalitions of each size, up to a factor: 1 / (s (n - s)).

    >>> shapley_kernel(np.array([1.0, 2.0]), 4)
    array([0.33333333, 0.25      ])
    """
    return np.asarray(1 / (sizes * (n_players - sizes)))


def pair_weights(samples: PairedSamples) -> Floats:
    """Return the weight of each sampled pair of a stratum in the regression: float64 (n_strata,).

    A stratum's total weight, over the number of its pairs in the sample. Where less than one pair was asked for, so
    that it may be absent, over that expected number instead (Horvitz and Thompson 1952).
    """
    totals = samples.shares * shapley_kernel(samples.sizes, samples.game.n_players)
    expected = samples.expected_counts()
    weights = totals / np.where(expected >= 1, np.maximum(samples.counts, 1), expected)
    return np.asarray(weights / weights.max())


def regression_attribution(samples: PairedSamples, method: str) -> Attribution:
    """Return the Shapley values of the additive game nearest to the sample, exact where the sample is complete.

    Standard errors are those of a regression on a stratified sample without replacement (Fuller 1975; Särndal,
    Swensson and Wretman 1992, section 5.10): the spread, within each size, of what single pairs add to the estimate
    when it is linearised in them, with each residual over what the fit leaves of it (MacKinnon and White 1985, HC3:
    the residual from a fit to all other pairs). That makes them too large in small samples, by about what a normal
    distribution's intervals are too narrow there. NaN where there are not more pairs than players.
    """
    n_players, pairs = samples.game.n_players, samples.pairs()
    equal = np.tile(samples.equal_shares(), (n_players, 1))
    if samples.complete:
        return samples.attribution(samples.exact_values(), np.zeros_like(equal), method)
    if samples.n_pairs == 0:
        return samples.attribution(equal, np.full_like(equal, np.nan), method)
    weights = pair_weights(samples)
    # Half of what a coalition is worth more than its complement, less what it would be if all players were equal
    targets = pairs.odd + (0.5 - (pairs.strata[:, None] + 1) / n_players) * (n_players * equal[:1])
    fit = ConstrainedFit(pairs.coalitions, targets, weights[pairs.strata])
    errors = fit.standard_errors(pairs.strata, samples.populations)
    return samples.attribution(equal + fit.values, errors, method)


class ConstrainedFit:
    """Weighted least squares of targets on an additive game whose values sum to zero.

    The design has 1 - |S|/n for the members of S and -|S|/n for all others, so that adding a constant to all values
    changes nothing and the solution of least norm sums to zero. The normal equations are (n_players, n_players); the
    design itself is formed block by block.

    Args:
        coalitions: bool (n_pairs, n_players).
        targets: float64 (n_pairs, n_columns).
        weights: float64 (n_pairs,), positive.

    Attributes:
        values: float64 (n_players, n_columns), of least norm where the targets do not determine them.
        determined: whether they do.
    """

    def __init__(self, coalitions: Coalitions, targets: Floats, weights: Floats) -> None:
        self._coalitions, self._targets, self._weights = coalitions, targets, weights
        n_players = coalitions.shape[1]
        gram, moments = np.zeros((n_players, n_players)), np.zeros((n_players, targets.shape[1]))
        for rows in row_blocks(coalitions):
            design = centred(coalitions[rows])
            weighted = design.T * weights[rows]
            gram += weighted @ design
            moments += weighted @ targets[rows]
        self._inverse, self.determined = _inverse_on_sum_zero(gram)
        self.values = self._inverse @ moments

    def standard_errors(self, strata: Integers, populations: Floats) -> Floats:
        """Return the standard errors (n_players, n_columns) of the values, for a stratified random sample of pairs.

        Args:
            strata: int64 (n_pairs,), the stratum of each pair.
            populations: float64 (n_strata,), how many pairs each has in all.
        """
        if not self.determined or len(self._targets) <= len(self.values):
            return np.full_like(self.values, np.nan)
        variances = np.zeros_like(self.values)
        for rows in self._whole_strata(strata):
            effects, residuals = self._effects(rows)
            for stratum, part in _runs(strata[rows]):
                drawn = part.stop - part.start
                squares = (effects[part] ** 2).T @ residuals[part] ** 2
                total = effects[part].T @ residuals[part]
                spread = squares if drawn == 1 else drawn / (drawn - 1) * np.maximum(squares - total**2 / drawn, 0)
                variances += (1 - drawn / populations[stratum]) * spread
        return np.asarray(np.sqrt(variances))

    def _effects(self, rows: Integers) -> tuple[Floats, Floats]:
        """What a unit of each pair's payoff adds to the values (n, n_players), and the residuals, scaled up."""
        design = centred(self._coalitions[rows])
        effects = (design @ self._inverse) * self._weights[rows, None]
        left = np.maximum(1 - (effects * design).sum(axis=1), _SINGULAR)
        residuals = (self._targets[rows] - design @ self.values) / left[:, None]
        return effects, residuals

    def _whole_strata(self, strata: Integers) -> Iterator[Integers]:
        """Rows in blocks of whole strata, sorted by stratum: large enough for fast products, small in memory."""
        order = np.argsort(strata, kind="stable")
        starts = np.array([part.start for _, part in _runs(strata[order])])
        wanted = np.arange(0, len(order), max(1, _BLOCK_FLOATS // self._coalitions.shape[1]))
        cuts = np.unique(starts[np.searchsorted(starts, wanted, side="right") - 1])
        return (order[first:last] for first, last in pairwise([*cuts, len(order)]))


def centred(coalitions: Coalitions) -> Floats:
    """Return the design of the regression: each row's membership less its mean, float64 (n_coalitions, n_players).

    >>> centred(np.array([[True, False, False, False]]))
    array([[ 0.75, -0.25, -0.25, -0.25]])
    """
    members = coalitions.astype(np.float64)
    members -= members.mean(axis=1, keepdims=True)
    return members


def _runs(numbers: Integers) -> Iterator[tuple[int, slice]]:
    """Each number of a sorted array, and where it is."""
    first = 0
    for number, length in zip(*np.unique(numbers, return_counts=True), strict=True):
        yield int(number), slice(first, first + int(length))
        first += int(length)


def _inverse_on_sum_zero(gram: Floats) -> tuple[Floats, bool]:
    """The inverse of a matrix (n, n) among vectors that sum to zero, and whether it has one there.

    Where it has none, the pseudo-inverse. Neither sends a vector out of that subspace.
    """
    n_players = len(gram)
    eigenvalues, vectors = linalg.eigh(gram)
    kept = eigenvalues > _SINGULAR * eigenvalues[-1]
    inverse = (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T
    return inverse, int(kept.sum()) == n_players - 1
