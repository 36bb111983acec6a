"""Which pairs of coalitions to evaluate: at random to begin with, then where a Gaussian process learns the most.

A pair, a coalition and its complement, is a row of +1 (members) and -1 (the others) or its negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb, log1p

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from shapkit.coalitions import coalitions_of_size
from shapkit.estimators.gaussian_process import loops
from shapkit.estimators.gaussian_process.kernel import PartKernel, coalition_sizes, factorised
from shapkit.randomness import counter_bits, counter_permutations

Floats = NDArray[np.float64]

_listed = lru_cache(maxsize=64)(coalitions_of_size)  # not to be written to
_ENUMERATED = 4_096  # coalitions of one size, at most, that are listed to draw from them
_PLENTY = 2**60  # coalitions of one size: more need not be told apart
_SPARE = 1.05  # times as many coalitions are drawn as it takes on average
_LEAST_VARIANCE = 1e-14


def n_pairs_of(n_players: int) -> int:
    """Return how many pairs there are: 2**(n_players - 1), and 1 for no players."""
    return 1 << max(n_players - 1, 0)


def random_pairs(n_players: int, n_wanted: int, seed: int, known: Floats) -> Floats:
    """Return distinct random pairs that are not among those known.

    Each size s has a share proportional to (s (n - s))**-1/2, sizes with few coalitions are used up, and within a
    size each player occurs about equally often. Any first few rows have about the same shares.

    Args:
        n_players: at least 2.
        n_wanted: how many; fewer are returned where fewer are left.
        seed: an integer in [0, 2**64).
        known: float64 (n_known, n_players) of +1 and -1, with the pair of the grand and the empty coalition among them.

    Returns:
        float64 (n_wanted, n_players) of +1 and -1.
    """
    rows = [
        _pairs_of_size(n_players, size, int(n_rows), int(counter_bits(seed, 0, size)))
        for size, n_rows in enumerate(_rows_per_size(n_players, n_wanted + len(known)))
        if n_rows
    ]
    pairs = np.concatenate(rows) if rows else np.empty((0, n_players))
    fresh = pairs[~np.isin(pair_keys(pairs), pair_keys(known))]
    order = np.argsort(counter_bits(seed, 1, np.arange(len(fresh))), kind="stable")
    return np.asarray(fresh[order[:n_wanted]])


def single_pairs(n_players: int, n_wanted: int, seed: int) -> Floats:
    """Return distinct pairs, those of one player against all others first, in random order, then random ones.

    They observe each player's marginal contribution at both ends, where interaction indices weigh single coalitions
    the most. The pair of the grand and the empty coalition is not among them.

    Args:
        n_players: at least 3: of two players the pairs of one are the same.
        n_wanted: how many; fewer are returned where fewer are left.
        seed: an integer in [0, 2**64).

    >>> single_pairs(3, 2, seed=0).sum(axis=1)
    array([-1., -1.])
    """
    singles = 2 * np.eye(n_players) - 1
    singles = singles[np.argsort(counter_bits(seed, 2, np.arange(n_players)), kind="stable")]
    if n_wanted <= n_players:
        return np.asarray(singles[:n_wanted])
    known = np.concatenate([np.ones((1, n_players)), singles])
    return np.concatenate([singles, random_pairs(n_players, n_wanted - n_players, seed, known)])


def informative_pairs(
    n_wanted: int,
    candidates: Floats,
    known: Floats,
    kernels: Sequence[PartKernel],
    weights: Floats,
    targets: Callable[[PartKernel, Floats], Floats] = PartKernel.with_shapley,
) -> Floats:
    """Return the candidates, chosen one by one, that reduce the posterior variances of the targets the most.

    Evaluating pair c reduces the sum of the variances of all players' values by Σ_i Cov(φ_i, o(c))² / Var(o(c)), given
    what is known: for a given kernel this needs no payoffs, so that all choices can be made before any evaluation.

    Args:
        n_wanted: how many to choose.
        candidates: float64 (n_candidates, n_players) of +1 and -1, distinct and not known.
        known: likewise (n_known, n_players), the pairs evaluated.
        kernels: one for each independent component of the game's payoff.
        weights: (n_kernels,), of each component's variances in the sum.
        targets: the covariances (n_pairs, n_targets) of pairs with what is to be known; Shapley values by default.

    Returns:
        float64 (n_wanted, n_players), in the order of choice.
    """
    posteriors = [_Posterior(kernel, known, candidates, n_wanted, targets) for kernel in kernels]
    chosen: list[int] = []
    free = np.ones(len(candidates), dtype=bool)
    for _ in range(min(n_wanted, len(candidates))):
        gains = sum(weight * posterior.gains() for weight, posterior in zip(weights, posteriors, strict=True))
        best = int(np.argmax(np.where(free, gains, -1.0)))
        chosen.append(best)
        free[best] = False
        for posterior in posteriors:
            posterior.observe(best)
    return candidates[chosen]


def pair_keys(pairs: Floats) -> NDArray[np.bytes_]:
    """Return what tells pairs (n_pairs, n_players) apart, (n_pairs,): the same for a coalition and its complement."""
    if pairs.shape[1] == 0:
        return np.zeros(len(pairs), dtype="S1")
    packed = np.ascontiguousarray(np.packbits(pairs * pairs[:, :1] > 0, axis=1))
    return packed.view(f"S{packed.shape[1]}").ravel()


class _Posterior:
    """Variances of candidate pairs, and covariances with the targets, as more and more candidates are known."""

    def __init__(
        self,
        kernel: PartKernel,
        known: Floats,
        candidates: Floats,
        n_wanted: int,
        targets: Callable[[PartKernel, Floats], Floats],
    ) -> None:
        kernel, _, factor = factorised(kernel, known)
        whitened, _ = lapack.dtrtrs(factor, kernel.between(known, candidates), lower=1)
        whitened_targets, _ = lapack.dtrtrs(factor, targets(kernel, known), lower=1)
        self._with_targets = targets(kernel, candidates) - whitened.T @ whitened_targets
        self._variances = kernel.variances(candidates) - (whitened**2).sum(axis=0)
        n_known, n_added = len(known), min(n_wanted, len(candidates))
        self._rows = np.empty((n_known + n_added, len(candidates)))  # of the Cholesky factor
        self._rows[:n_known] = whitened
        self._n_rows = n_known
        self._candidates_and_kernel = (
            np.ascontiguousarray(candidates.T),
            coalition_sizes(candidates),
            kernel.balances(candidates),
            kernel.influences,
            kernel.slopes,
            *kernel.size_tables(),
            *kernel.of_loops(),
            kernel.rough_variance,  # no candidate is the ends
        )

    def gains(self) -> Floats:
        """By how much each candidate would reduce the sum of the values' variances: (n_candidates,)."""
        squares = np.einsum("ct,ct->c", self._with_targets, self._with_targets)
        return np.asarray(squares / np.maximum(self._variances, _LEAST_VARIANCE))

    def observe(self, candidate: int) -> None:
        """Take the candidate as known."""
        self._variances[candidate] = max(self._variances[candidate], _LEAST_VARIANCE)
        loops.condition_on(
            candidate,
            *self._candidates_and_kernel,
            self._rows[: self._n_rows],
            self._rows[self._n_rows],
            self._with_targets,
            self._variances,
        )
        self._n_rows += 1


def _rows_per_size(n_players: int, n_rows: int) -> NDArray[np.int64]:
    """How many pairs whose smaller coalition has size 0, 1, ..., n // 2 to take, all of them where they are few."""
    sizes = np.arange(n_players // 2 + 1)
    counts = np.array([float(min(comb(n_players, int(size)), _PLENTY)) for size in sizes])
    weights = np.maximum(sizes * (n_players - sizes), 1) ** -0.5
    weights[0] = 0.0  # the empty and the grand coalition are known
    if n_players % 2 == 0:
        counts[-1] /= 2
        weights[-1] /= 2
    taken = np.zeros(len(sizes))
    left = min(float(n_rows), counts[1:].sum())
    free = weights > 0
    while free.any():
        shares = np.where(free, weights, 0.0) * (left / weights[free].sum())
        full = free & (shares >= counts)
        if not full.any():
            taken = np.where(free, _rounded(shares), taken)
            break
        taken[full] = counts[full]
        left -= counts[full].sum()
        free &= ~full
    return np.asarray(np.minimum(taken, counts), dtype=np.int64)


def _rounded(shares: Floats) -> Floats:
    """Whole numbers with the same sum, to rounding: the largest remainders are rounded up."""
    whole = np.floor(shares)
    n_up = round(float(shares.sum() - whole.sum()))
    whole[np.argsort(whole - shares, kind="stable")[:n_up]] += 1
    return np.asarray(whole)


def _pairs_of_size(n_players: int, size: int, n_rows: int, seed: int) -> Floats:
    """Distinct random pairs whose smaller coalition has `size` players, which occur about equally often."""
    n_coalitions = comb(n_players, size)
    if n_coalitions <= _ENUMERATED and 4 * n_rows >= n_coalitions:
        every = _listed(n_players, size)
        every = every[every[:, 0] == 0] if 2 * size == n_players else every
        members = every[np.argsort(counter_bits(seed, np.arange(len(every))), kind="stable")[:n_rows]]
        return _signs(members, n_players)
    halves = 2 * size == n_players  # of which a coalition and its complement are one pair
    n_pairs = min(n_coalitions // 2 if halves else n_coalitions, _PLENTY)
    per_order = 1 if halves else n_players // size  # a random order cut into coalitions uses each player once
    drawn, first = np.empty((0, n_players)), np.empty(0, dtype=np.int64)
    n_orders = 0
    while len(first) < n_rows:
        # About as many as give the rest, some being drawn again; more or fewer at once would give the same pairs
        share = (n_rows - len(first)) / (n_pairs - len(first))
        n_drawn = -n_pairs * log1p(-min(share, 1 - 0.5 / n_pairs))
        numbers = np.arange(n_orders, n_orders + int(_SPARE * n_drawn) // per_order + 1)
        orders = counter_permutations(seed, numbers, n_players)
        drawn = np.concatenate([drawn, _signs(orders[:, : per_order * size].reshape(-1, size), n_players)])
        _, first = np.unique(pair_keys(drawn), return_index=True)
        n_orders += len(numbers)
    return drawn[np.sort(first)[:n_rows]]


def _signs(members: NDArray[np.int64], n_players: int) -> Floats:
    signs = np.full((len(members), n_players), -1.0)
    np.put_along_axis(signs, members, 1.0, axis=1)
    return signs
