"""Stratified sampling of the Shapley value: Castro, Gómez, Molina and Tejada (2017).

What a player adds is sampled for each number of players before it on its own, and most where it varies most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.loops import draw_pairs, moments_of_runs
from shapkit.estimators.runs.moments import degrees_of_freedom, uncertainties
from shapkit.estimators.runs.own_unit import GameInOwnUnit
from shapkit.games.game import Game
from shapkit.randomness import counter_bits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STREAM = 0x7374726174  # "strat": other methods with the same seed draw other numbers
_LEAST = 2  # samples of a stratum in a round, so that each round knows its own error
_SAMPLES = (2, 4, 8)  # per stratum on average, in the first round, the second and all others: their weights too
_CHUNK_ROWS = 2**16  # coalitions the game sees at once, at most
_CHUNK_BYTES = 2**26  # of coalitions
_CHUNK_FLOATS = 2**22  # of payoffs


@dataclass(frozen=True)
class _PlayerMoments:
    """What is known of one player after a whole number of rounds; replaced as one, so that no interruption tears it.

    Sums over rounds: of weights, of weighted sums over strata of means (n_columns,), of their variances and of what
    the squares of those vary by (n_columns,), and of each stratum's squared deviations and degrees of freedom
    (n_strata,).
    """

    n_rounds: int
    n_evaluations: int
    weight: int
    means: Floats
    variances: Floats
    uncertainty: Floats
    squares: Floats
    freedom: Integers


class StratifiedSampler:
    """Castro, Gómez, Molina and Tejada (2017): a stratum for each player and each number of players before it.

    A player's value is the mean over its n_players strata; those of the first and the last place hold one coalition
    each and are known exactly. Samples of a stratum are independent: a random coalition without the player, and with
    it. The variance of a value is least where samples are in proportion to its strata's standard deviations (Neyman
    1934).

    The published method learns those from a first half of a known budget and averages both halves. Here the budget
    need not be known, and nothing is lost in bias. Samples come in rounds of 2, 4, 8, 8, ... per stratum on average.
    Each round of a player shares out its samples by what the rounds before have seen, with two in each stratum at
    least, and its own estimate counts with a weight fixed in advance, the 2, 4, 8, ... above. Given the past, every
    round is an ordinary stratified sample. So the estimate is unbiased, and so is the square of its standard error,
    which uses the variances within each round, with Satterthwaite's (1946) degrees of freedom. To average all samples
    of a stratum alike would not be: where a pilot saw no variation by chance, as of rare pivots, it would also keep
    more weight. Nor would it be to give players that vary more the longer rounds, as the published method does: what a
    player has shown would decide whether the budget pays for its next round.

    The sum of the values is not exact: `efficiency_gap` is noise of the size of the errors. A budget ends between two
    players; those before have one round more. The first estimate takes 2 + 2 n_players + 4 n_players (n_players - 2)
    evaluations, so that this is a method for few players and many evaluations. Games of up to two players are exact.

    Memory: four numbers per stratum and chunks of 64 MiB at most, and a player's samples in one round.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64). It fixes the coalitions, whatever the game's batch size.

    Attributes:
        game: the game.
        least_budget: the evaluations of the first round.

    Raises:
        ValueError: the seed is not as described.

    >>> import shapkit
    >>> sampler = StratifiedSampler(shapkit.weighted_voting([4, 4, 4, 2, 2, 1], quota=12), seed=0)
    >>> sampler.advance(5_000) > 4_900
    True
    >>> phi = sampler.attribution()
    >>> phi.method, bool(phi.standard_errors.max() < 0.02)
    ('stratified', True)
    """

    def __init__(self, game: Game, seed: int = 0) -> None:
        n_players = game.n_players
        self.game = game
        self._measured = GameInOwnUnit(game)
        self._seed = seed
        self._stream = int(counter_bits(seed, _STREAM))
        self._n_strata = max(0, n_players - 2)  # of each player, beside the two that are known
        self._n_edges = (1, 2, 4)[n_players] if n_players < 3 else 2 + 2 * n_players
        self.least_budget = self._n_edges + 2 * _LEAST * n_players * self._n_strata
        self._edges: Floats | None = None  # payoffs of the coalitions of 0, 1, n - 1 and n players
        self._players: list[_PlayerMoments] = []
        self._allocation: tuple[int, Integers] = (-1, np.zeros((0, 0), dtype=np.int64))

    @property
    def n_evaluations(self) -> int:
        """How many coalitions have been evaluated, those of finished rounds of a player."""
        return 0 if self._edges is None else self._n_edges + sum(player.n_evaluations for player in self._players)

    def advance(self, n_evaluations: int) -> int:
        """Evaluate the next rounds of as many players as `n_evaluations` pay for; return what was spent, 0 if none.

        The first call begins with the coalitions of 0, 1, n_players - 1 and n_players, and may spend on them alone.
        """
        left = n_evaluations
        if self._edges is None:
            if left < self._n_edges:
                return 0
            edges = np.concatenate([self._measured(rows) for rows in self._chunks(self._edge_coalitions())])
            nothing = self._nothing(edges[0].size)
            self._players, self._edges = [nothing] * self.game.n_players, edges
            left -= self._n_edges
        while self._n_strata:
            players, counts = self._next_players(left)
            if len(players) == 0:
                break
            self._sample(players, counts)
            left -= 2 * int(counts.sum())
        return n_evaluations - left

    def attribution(self) -> Attribution:
        """Return the weighted means over rounds.

        Raises:
            ValueError: some player has had no round yet.
        """
        n_players = self.game.n_players
        if self._edges is None or (self._n_strata and self._players[-1].n_rounds == 0):
            raise ValueError("not every stratum has been sampled yet: call advance() with more evaluations")
        flat = self._edges.reshape(len(self._edges), -1)
        empty, grand = flat[0], flat[-1]
        values = np.zeros((n_players, flat.shape[1]))
        variances, freedom = np.zeros_like(values), np.zeros_like(values)
        for number, player in enumerate(self._players):
            # With two players, the coalition of one is the other's coalition of all others.
            alone, others = flat[1 + number], flat[-2 - number] if n_players > 1 else empty
            known = alone - empty + (grand - others if n_players > 1 else 0)
            values[number] = (known + player.means / max(1, player.weight)) / n_players
            variances[number] = player.variances / (max(1, player.weight) * n_players) ** 2
            freedom[number] = degrees_of_freedom(player.variances, player.uncertainty)
        shape = (n_players, *self._edges.shape[1:])
        known = Attribution(
            values=values.reshape(shape),
            standard_errors=np.sqrt(variances).reshape(shape),
            degrees_of_freedom=freedom.reshape(shape),
            empty_value=self._edges[0].copy(),
            grand_value=self._edges[-1].copy(),
            n_evaluations=self.n_evaluations,
            names=self.game.names,
            index="shapley",
            method="stratified",
            seeds=(self._seed,),
        )
        return self._measured.restored(known)

    def _next_players(self, n_evaluations: int) -> tuple[Integers, Integers]:
        """The next players that are paid for, at most a chunk, and how often to sample their strata."""
        n_players = self.game.n_players
        number, first = divmod(sum(player.n_rounds for player in self._players), n_players)
        if self._allocation[0] != number:
            self._allocation = (number, self._allocated(_SAMPLES[min(number, len(_SAMPLES) - 1)]))
        counts = self._allocation[1][first:]
        costs = 2 * np.cumsum(counts.sum(axis=1))
        n_paid = int(np.searchsorted(costs, n_evaluations, side="right"))
        n_at_once = max(1, int(np.searchsorted(costs, self._rows_per_chunk(), side="right")))
        n_taken = min(n_paid, n_at_once)
        return np.arange(first, first + n_taken), counts[:n_taken]

    def _allocated(self, n_samples: int) -> Integers:
        """How often to sample each stratum (n_players, n_strata): `n_samples` times on average over a player's.

        All players' rounds cost the same. If what a player has shown decided what its next round costs, it would also
        decide whether the budget pays for it, and the mean over the rounds that were paid for would be biased.
        """
        squares = np.array([player.squares for player in self._players])
        freedom = np.array([player.freedom for player in self._players])
        # Two samples may agree by chance: each stratum borrows a degree of freedom from its player's others.
        typical = squares.sum(axis=1, keepdims=True) / np.maximum(1, freedom.sum(axis=1, keepdims=True))
        deviations = np.sqrt((squares + typical) / (freedom + 1))
        return np.array([neyman_counts(of_player, n_samples * self._n_strata, _LEAST) for of_player in deviations])

    def _sample(self, players: Integers, counts: Integers) -> None:
        """One round of `players`, with counts (n, n_strata) samples of their strata."""
        number = self._players[players[0]].n_rounds
        lengths = counts.reshape(-1)
        strata = np.repeat(np.arange(len(lengths)), lengths)
        in_stratum = np.arange(len(strata)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        drawn_players = players[strata // self._n_strata]
        sizes = strata % self._n_strata + 1
        states = counter_bits(self._stream, drawn_players, sizes, number, in_stratum)
        samples = np.concatenate(
            [self._marginals(drawn_players[part], sizes[part], states[part]) for part in self._parts(len(strata))]
        )
        means, squares = np.empty((2, len(lengths), samples.shape[1]))
        moments_of_runs(samples, lengths, means, squares)
        by_player = (*counts.shape, samples.shape[1])
        for row, player in enumerate(players):
            moments = (means.reshape(by_player)[row], squares.reshape(by_player)[row])
            weights = self._measured.weights_of_squares().reshape(-1)
            self._players[player] = _after_round(self._players[player], counts[row], *moments, weights)

    def _marginals(self, players: Integers, sizes: Integers, states: NDArray[np.uint64]) -> Floats:
        """What players add to random coalitions of given sizes: (n_draws, n_columns)."""
        n_players = self.game.n_players
        coalitions = np.empty((2 * len(players), n_players), dtype=np.bool_)
        draw_pairs(players, sizes, states, np.empty(n_players - 1, dtype=np.int64), coalitions)
        payoffs = self._measured(coalitions).reshape(2, len(players), -1)
        return np.asarray(payoffs[1] - payoffs[0])

    def _edge_coalitions(self) -> Coalitions:
        """The empty coalition, each player alone, all but one from the last to the first, all; each of them once."""
        n_players = self.game.n_players
        alone = np.eye(n_players, dtype=np.bool_)
        empty = np.zeros((1, n_players), dtype=np.bool_)
        if n_players == 0:
            return empty
        if n_players == 1:
            return np.concatenate([empty, ~empty])
        return np.concatenate([empty, alone, *([~alone[::-1]] if n_players > 2 else []), ~empty])

    def _chunks(self, rows: Coalitions) -> Iterator[Coalitions]:
        return (rows[first : first + _CHUNK_ROWS] for first in range(0, len(rows), _CHUNK_ROWS))

    def _parts(self, n_draws: int) -> Iterator[slice]:
        step = max(1, self._rows_per_chunk() // 2)
        return (slice(first, first + step) for first in range(0, n_draws, step))

    def _rows_per_chunk(self) -> int:
        assert self._edges is not None
        n_columns = int(self._edges[0].size)
        return min(_CHUNK_ROWS, _CHUNK_BYTES // self.game.n_players, _CHUNK_FLOATS // n_columns)

    def _nothing(self, n_columns: int) -> _PlayerMoments:
        none, no_strata = np.zeros(n_columns), np.zeros(self._n_strata)
        return _PlayerMoments(0, 0, 0, none, none, none, no_strata, no_strata.astype(np.int64))


def neyman_counts(deviations: Floats, n_samples: int, least: int) -> Integers:
    """Return how often to sample strata so that the variance of the sum of their means is least.

    Neyman (1934): in proportion to the standard deviation, here with `least` samples in each stratum. Rounding leaves
    each count within one of that.

    Args:
        deviations: standard deviations (n_strata,).
        n_samples: how many in all, at least `least` per stratum.
        least: how many in each stratum at least.

    Returns:
        int64 (n_strata,), of sum `n_samples`.

    >>> neyman_counts(np.array([0.0, 1.0, 3.0]), 10, least=2)
    array([2, 2, 6])
    """
    if not deviations.any():
        deviations = np.ones_like(deviations)
    rare = np.zeros(len(deviations), dtype=np.bool_)  # those that get no more than the least
    while True:
        per_unit = (n_samples - least * rare.sum()) / deviations[~rare].sum()
        too_rare = rare | (deviations * per_unit < least)
        if (too_rare == rare).all() or too_rare.all():
            break
        rare = too_rare
    wanted = np.where(rare, 0.0, np.maximum(deviations * per_unit - least, 0.0))
    n_free = n_samples - least * len(deviations)
    bounds = np.rint(np.cumsum(wanted) * (n_free / max(wanted.sum(), 1e-300)))
    return np.asarray(least + np.diff(bounds.astype(np.int64), prepend=0))


def _after_round(
    before: _PlayerMoments, counts: Integers, means: Floats, squares: Floats, weights: Floats
) -> _PlayerMoments:
    """A player's moments with one more round: counts (n_strata,) samples with these moments (n_strata, n_columns).

    Strata are compared by the sum of their squares over columns, with these weights (n_columns,).
    """
    weight = _SAMPLES[min(before.n_rounds, len(_SAMPLES) - 1)]
    variances = squares / (counts * (counts - 1))[:, None]
    uncertainty = uncertainties(variances, counts[:, None])
    return _PlayerMoments(
        n_rounds=before.n_rounds + 1,
        n_evaluations=before.n_evaluations + 2 * int(counts.sum()),
        weight=before.weight + weight,
        means=before.means + weight * means.sum(axis=0),
        variances=before.variances + weight**2 * variances.sum(axis=0),
        uncertainty=before.uncertainty + weight**4 * uncertainty.sum(axis=0),
        squares=before.squares + squares @ weights,
        freedom=before.freedom + counts - 1,
    )
