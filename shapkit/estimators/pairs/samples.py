"""Coalitions drawn with their complements, by size and without replacement, so that a sample can always be extended.

Only the odd part of a game, half of what a coalition is worth more than its complement, has Shapley values other than
zero, so that a coalition and its complement together are the natural unit to draw. Pairs are sorted into strata by
the size of the smaller of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.runs.moments import uncertainties
from shapkit.estimators.runs.own_unit import GameInOwnUnit
from shapkit.games.game import Game
from shapkit.randomness import counter_bits, counter_uniform

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CHUNK_ROWS = 2**16  # coalitions the game sees at once, at most
_CHUNK_CELLS = 2**22  # entries of a chunk of coalitions, or of payoffs, about
_BLOCK_CELLS = 2**20  # entries of a block of coalitions in floating point, about
_COUNTABLE = 2**62  # more pairs than this are as good as infinitely many
_OFFSETS, _MEMBERS = 0, 1  # what a random number is for: the second index of its counter


@dataclass(frozen=True)
class Pairs:
    """Evaluated pairs of a coalition and its complement, in the order in which they were drawn.

    Attributes:
        coalitions: bool (n_pairs, n_players), the coalition of each pair that has at most half of the players; of
            two halves, the one with player 0.
        payoffs: float64 (n_pairs, 2, n_columns), of the coalition and of its complement; one column per element of the
            payoff.
        strata: int64 (n_pairs,), the size of the coalition less 1.
        ranks: int64 (n_pairs,), how many pairs of the same stratum were drawn before.
    """

    coalitions: Coalitions
    payoffs: Floats
    strata: Integers
    ranks: Integers

    @property
    def odd(self) -> Floats:
        """Half of what each coalition is worth more than its complement: float64 (n_pairs, n_columns)."""
        return np.asarray((self.payoffs[:, 0] - self.payoffs[:, 1]) / 2)


class PairedSamples:
    """A growing sample of pairs, and the payoffs of the empty and the grand coalition.

    Stratum s gets its k-th pair at time (k + u_s) / rate_s, with u_s uniform in [0, 1), until it has no more. The
    number of pairs of each size is then within one of what the rates ask for, which random sizes would not give, and
    what is drawn later never changes what was drawn before. Within a stratum all pairs are equally likely, without
    replacement: this is a stratified random sample (Cochran 1977, chapter 5), known in full when all pairs are.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64).
        stream: a number that tells this use of the seed from others.
        rates: takes sizes, float64 (n_strata,), and the number of players, and returns how often to draw coalitions of
            each size, up to a common factor; for n_players / 2, half as many pairs.
        ends: the payoffs of the empty and the grand coalition (2, *output_shape), where they are known already.

    Attributes:
        n_pairs: how many have been evaluated.
        n_evaluations: how many coalitions have been.
        populations: float64 (n_strata,), how many pairs there are; infinite where 2**62 or more.
        counts: int64 (n_strata,), how many of them have been evaluated.
        sizes: float64 (n_strata,), 1, 2, ..., n_players // 2.
        shares: float64 (n_strata,), pairs per coalition of that size: 1, or 1/2 where both halves have it.

    Raises:
        ValueError: the seed is not as described.

    >>> import shapkit
    >>> samples = PairedSamples(shapkit.table_game(range(16)), 0, 0, lambda sizes, n_players: 1 / sizes)
    >>> samples.advance(9), samples.counts, samples.populations
    (8, array([2, 1]), array([4., 3.]))
    >>> samples.advance(100), samples.complete
    (8, True)
    """

    def __init__(
        self,
        game: Game,
        seed: int,
        stream: int,
        rates: Callable[[Floats, int], Floats],
        ends: Floats | None = None,
    ) -> None:
        self.game, self.seed, self._stream = game, seed, stream
        n_players = game.n_players
        self.sizes = np.arange(1.0, n_players // 2 + 1)
        self.shares = np.where(2 * self.sizes == n_players, 0.5, 1.0)
        self._populations = [_pairs_of_size(n_players, size) for size in range(1, n_players // 2 + 1)]
        self.populations = np.array([p if p < _COUNTABLE else np.inf for p in self._populations], dtype=np.float64)
        rate = self.shares * rates(self.sizes, n_players)
        self._rates = rate / rate.sum() if len(rate) else rate
        self._offsets = counter_uniform(seed, stream, _OFFSETS, np.arange(len(self.sizes)))
        self.counts = np.zeros(len(self.sizes), dtype=np.int64)
        self._attempts = np.zeros(len(self.sizes), dtype=np.int64)
        self._seen: list[set[bytes]] = [set() for _ in self.sizes]
        self._chunks: list[Pairs] = []
        self.n_pairs = self.n_evaluations = 0
        self.ends = ends

    @property
    def least_budget(self) -> int:
        """The fewest evaluations that say more than the total: of the empty and the grand coalition, and a pair."""
        return 4 if self.game.n_players > 1 else self.game.n_players + 1

    @property
    def complete(self) -> bool:
        """Whether every coalition has been evaluated."""
        return self.ends is not None and bool((self.counts == self.populations).all())

    def advance(self, n_evaluations: int) -> int:
        """Evaluate as many more whole pairs as `n_evaluations` pay for and return what was spent; 0 if none.

        The first call evaluates the empty and the grand coalition before any pair. What an exception interrupts is
        evaluated again by the next call.
        """
        spent = self._evaluate_ends(n_evaluations)
        while self.ends is not None and not self.complete:
            n_pairs = min((n_evaluations - spent) // 2, self._pairs_per_chunk())
            if n_pairs < 1:
                break
            spent += self._draw(n_pairs)
        return spent

    def pairs(self) -> Pairs:
        """Return all that has been evaluated.

        Raises:
            ValueError: nothing has.
        """
        if self.ends is None:
            raise ValueError("nothing has been evaluated yet, expected at least the empty and the grand coalition")
        if len(self._chunks) != 1:
            self._chunks = [self._joined(self._chunks)]
        return self._chunks[0]

    def expected_counts(self) -> Floats:
        """Return how many pairs of each stratum the rates ask for by now, at most all there are: (n_strata,)."""
        return np.minimum(self._time_of(self.n_pairs) * self._rates, self.populations)

    def of_rarest_size(self, n_pairs: int) -> float:
        """Return how many of so many pairs are of the size that is drawn least often, while no size is used up."""
        return n_pairs * float(self._rates.min(initial=1.0))

    def exact_values(self) -> Floats:
        """Return the Shapley values (n_players, n_columns), once the sample is complete."""
        pairs = self.pairs()
        weights = (2 * self.shares / self.populations)[pairs.strata]
        return self.equal_shares() + weighted_marginals(pairs.coalitions, weights[:, None] * pairs.odd)

    def equal_shares(self) -> Floats:
        """Return what each player gets if all get the same: (n_columns,)."""
        assert self.ends is not None
        return np.asarray((self.ends[1] - self.ends[0]).reshape(-1) / max(1, self.game.n_players))

    def attribution(
        self,
        values: Floats,
        standard_errors: Floats,
        method: str,
        degrees_of_freedom: Floats | None = None,
        index: str = "shapley",
        order: int = 1,
    ) -> Attribution:
        """Return estimates (n_terms, n_columns), their standard errors and the degrees of freedom as a result."""
        assert self.ends is not None
        shape = (len(values), *self.ends.shape[1:])
        return Attribution(
            values=values.reshape(shape),
            standard_errors=standard_errors.reshape(shape),
            degrees_of_freedom=None if degrees_of_freedom is None else degrees_of_freedom.reshape(shape),
            empty_value=self.ends[0].copy(),
            grand_value=self.ends[1].copy(),
            n_evaluations=self.n_evaluations,
            names=self.game.names,
            index=index,
            method=method,
            order=order,
            seeds=(self.seed,),
        )

    def _evaluate_ends(self, n_evaluations: int) -> int:
        n_players = self.game.n_players
        needed = 2 if n_players else 1  # without players the empty coalition is the grand one
        if self.ends is not None or n_evaluations < needed:
            return 0
        payoffs = self.game(np.array([[False] * n_players, [True] * n_players], dtype=np.bool_)[:needed])
        self.ends = payoffs[[0, -1]]
        self.n_evaluations = needed
        return needed

    def _draw(self, n_pairs: int) -> int:
        """Evaluate the next `n_pairs` pairs, or all that are left, and return how many coalitions that took."""
        attempts, strata = self._attempts.copy(), self._next_strata(n_pairs)
        coalitions = np.empty((len(strata), self.game.n_players), dtype=np.bool_)
        ranks = np.empty(len(strata), dtype=np.int64)
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            coalitions[rows] = self._new_coalitions(int(stratum), len(rows))
            ranks[rows] = self.counts[stratum] + np.arange(len(rows))
        try:
            payoffs = self.game(np.concatenate([coalitions, ~coalitions])).reshape(2, len(strata), -1)
        except BaseException:  # the next call draws the same pairs
            self._attempts = attempts
            for stratum, name in zip(strata, _names(coalitions), strict=True):
                self._seen[stratum].discard(name)
            raise
        self._chunks.append(Pairs(coalitions, np.ascontiguousarray(payoffs.swapaxes(0, 1)), strata, ranks))
        self.counts += np.bincount(strata, minlength=len(self.counts))
        self.n_pairs += len(strata)
        self.n_evaluations += 2 * len(strata)
        return 2 * len(strata)

    def _next_strata(self, n_pairs: int) -> Integers:
        """The strata of the next pairs, in the order of their times."""
        upto = self._counts_at(self._time_of(self.n_pairs + n_pairs))
        strata = np.repeat(np.arange(len(upto)), upto - self.counts)
        first = np.repeat(np.cumsum(upto - self.counts) - (upto - self.counts), upto - self.counts)
        ranks = self.counts[strata] + np.arange(len(strata)) - first
        times = (ranks + self._offsets[strata]) / self._rates[strata]
        return np.asarray(strata[np.lexsort((strata, times))][:n_pairs])

    def _time_of(self, n_pairs: int) -> float:
        """A time by which `n_pairs` pairs have been drawn, or all there are; the earliest, to rounding."""
        if n_pairs >= self.populations.sum():
            return float(((self.populations + 1) / self._rates).max(initial=0.0))
        low, high = 0.0, 1.0
        while self._counts_at(high).sum() < n_pairs:
            low, high = high, 2 * high
        while high - low > 1e-12 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self._counts_at(middle).sum() < n_pairs else (low, middle)
        return high

    def _counts_at(self, time: float) -> Integers:
        drawn = np.minimum(np.floor(time * self._rates - self._offsets) + 1, self.populations)
        return np.asarray(np.maximum(drawn, 0), dtype=np.int64)

    def _new_coalitions(self, stratum: int, n_wanted: int) -> Coalitions:
        """The next distinct coalitions of a stratum, (n_wanted, n_players): a random draw that was seen is skipped."""
        population, seen = self._populations[stratum], self._seen[stratum]
        chosen: list[Coalitions] = []
        while n_wanted:
            n_left = population - len(seen)
            n_drawn = min(n_wanted * population // (n_left - n_wanted + 1) + 1, self._pairs_per_chunk())
            first = int(self._attempts[stratum])
            drawn = self._random_coalitions(stratum, np.arange(first, first + n_drawn))
            new = []
            for row, name in enumerate(_names(drawn)):
                self._attempts[stratum] += 1
                if name not in seen:
                    seen.add(name)
                    new.append(row)
                    if len(new) == n_wanted:
                        break
            n_wanted -= len(new)
            chosen.append(drawn[new])
        return np.concatenate(chosen)

    def _random_coalitions(self, stratum: int, numbers: Integers) -> Coalitions:
        """Uniformly random coalitions of stratum + 1 players, those whose keys are smallest: (n, n_players)."""
        n_players, size = self.game.n_players, stratum + 1
        counters = (self._stream, _MEMBERS, stratum, numbers[:, None], np.arange(n_players))
        keys = counter_bits(self.seed, *counters)
        members = np.zeros(keys.shape, dtype=np.bool_)
        np.put_along_axis(members, np.argpartition(keys, size - 1, axis=1)[:, :size], True, axis=1)
        if 2 * size == n_players:
            members ^= ~members[:, :1]
        return members

    def _pairs_per_chunk(self) -> int:
        """Depends on the problem only."""
        assert self.ends is not None
        cells = max(int(self.ends[0].size), self.game.n_players)
        return max(1, min(_CHUNK_ROWS, _CHUNK_CELLS // cells) // 2)

    def _joined(self, chunks: list[Pairs]) -> Pairs:
        assert self.ends is not None
        none = Pairs(
            np.empty((0, self.game.n_players), dtype=np.bool_),
            np.empty((0, 2, self.ends[0].size)),
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.int64),
        )
        parts = [none, *chunks]
        return Pairs(
            np.concatenate([part.coalitions for part in parts]),
            np.concatenate([part.payoffs for part in parts]),
            np.concatenate([part.strata for part in parts]),
            np.concatenate([part.ranks for part in parts]),
        )


class PairedSampler:
    """What the estimators on a `PairedSamples` have in common; each adds its `attribution`.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64).
        stream, rates: as for `PairedSamples`.

    Raises:
        ValueError: the seed is not as described.
    """

    def __init__(self, game: Game, seed: int, stream: int, rates: Callable[[Floats, int], Floats]) -> None:
        self.game = game
        self._measured = GameInOwnUnit(game)
        self._samples = PairedSamples(self._measured, seed, stream, rates)

    @property
    def n_evaluations(self) -> int:
        """How many coalitions this sampler has evaluated."""
        return self._samples.n_evaluations

    @property
    def least_budget(self) -> int:
        """The fewest evaluations that say more than the total: of the empty and the grand coalition, and a pair."""
        return self._samples.least_budget

    @property
    def complete(self) -> bool:
        """Whether every coalition has been evaluated, so that the values are exact."""
        return self._samples.complete

    def advance(self, n_evaluations: int) -> int:
        """Evaluate as many more pairs as `n_evaluations` pay for; return what was spent, 0 where that is none.

        The first call begins with the empty and the grand coalition, and may spend on them alone.
        """
        return self._samples.advance(n_evaluations)


def marginal_weights(coalitions: Coalitions) -> Floats:
    """Return 1/|S| for members and -1/(n - |S|) for all others: float64 (n_coalitions, n_players).

    Times 2 o(S) / C(n, |S|), with o the odd part of the game, and summed over one coalition of each pair, this is a
    player's Shapley value less an equal share of the total. Each row sums to zero: no sample can break efficiency.

    >>> marginal_weights(np.array([[True, False, False]]))
    array([[ 1. , -0.5, -0.5]])
    """
    sizes = coalitions.sum(axis=1, dtype=np.float64)[:, None]
    return np.asarray(np.where(coalitions, 1 / sizes, -1 / (coalitions.shape[1] - sizes)))


def weighted_marginals(coalitions: Coalitions, amounts: Floats) -> Floats:
    """Return the sum over coalitions of `marginal_weights` times amounts (n_coalitions, n_columns), by player."""
    total = np.zeros((coalitions.shape[1], amounts.shape[1]))
    for rows in row_blocks(coalitions):
        total += marginal_weights(coalitions[rows]).T @ amounts[rows]
    return total


def residual_rates(sizes: Floats, n_players: int) -> Floats:
    """Return how often to draw each size: half of it equally, half in proportion to 1 / √(s (n - s)).

    The second is Neyman's (1934) allocation for residuals that are as large for all sizes. The first makes sure that
    small samples have enough pairs of each size for several folds.

    >>> residual_rates(np.array([1.0, 2.0]), 5).round(3)
    array([0.525, 0.475])
    """
    neyman = 1 / np.sqrt(sizes * (n_players - sizes))
    return np.asarray(0.5 / max(1, len(sizes)) + 0.5 * neyman / neyman.sum())


def stratified_variances(samples: PairedSamples, pairs: Pairs, residuals: Floats) -> tuple[Floats, Floats]:
    """Return the variances of the values that a stratified sample gives residuals, and their `uncertainties`.

    Args:
        samples: with at least two pairs of each size, or all.
        pairs: of the sample.
        residuals: (n_pairs, n_columns), odd payoffs less what was expected without having seen them.

    Returns:
        both (n_players, n_columns).
    """
    variances = np.zeros((pairs.coalitions.shape[1], residuals.shape[1]))
    uncertainty = np.zeros_like(variances)
    for stratum, drawn in enumerate(samples.counts):
        if drawn == samples.populations[stratum]:
            continue
        rows = pairs.strata == stratum
        weights = marginal_weights(pairs.coalitions[rows])
        squares, sums = (weights**2).T @ residuals[rows] ** 2, weights.T @ residuals[rows]
        of_mean = stratum_variance(squares, sums, int(drawn), samples.populations[stratum])
        variance = (2 * samples.shares[stratum]) ** 2 * of_mean
        variances += variance
        uncertainty += uncertainties(variance, int(drawn))
    return variances, uncertainty


def stratum_variance(squares: Floats, sums: Floats, drawn: int, population: float) -> Floats:
    """Return the variance of the mean of `drawn` numbers of a population, drawn without replacement (Cochran 1977).

    Args:
        squares, sums: of the numbers drawn, of any shape.
        drawn: how many; NaN is returned for one.
        population: how many there are.

    >>> float(stratum_variance(np.array(10.0), np.array(4.0), 2, population=4))
    0.5
    """
    if drawn < 2:
        return np.full_like(squares, np.nan)
    spread = np.maximum(squares - sums**2 / drawn, 0) / (drawn - 1)
    return np.asarray((1 - drawn / population) * spread / drawn)


def row_blocks(coalitions: Coalitions, n_columns: int | None = None) -> Iterator[slice]:
    """Yield slices of rows, so that a block of them in floating point is small.

    Args:
        coalitions: the rows.
        n_columns: of what is made of them; as many as there are players if left out.
    """
    step = max(1, _BLOCK_CELLS // max(1, coalitions.shape[1] if n_columns is None else n_columns))
    return (slice(first, first + step) for first in range(0, len(coalitions), step))


def _names(coalitions: Coalitions) -> Iterator[bytes]:
    """What coalitions are told apart by."""
    return (row.tobytes() for row in np.packbits(coalitions, axis=1))


def _pairs_of_size(n_players: int, size: int) -> int:
    return math.comb(n_players, size) // (2 if 2 * size == n_players else 1)
