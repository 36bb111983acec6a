"""Permutation sampling of the Shapley value: Castro, Gómez and Tejada (2009), and in antithetic pairs.

A player's value is the mean, over random orders of all players, of what it adds to those before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.loops import add_marginals, write_prefixes
from shapkit.estimators.runs.own_unit import GameInOwnUnit
from shapkit.games.game import Game
from shapkit.orders import Orders
from shapkit.randomness import counter_bits, counter_permutations

Floats = NDArray[np.float64]

PERMUTATION_STREAM = 0x6361737472  # "castr"; with one seed, no two methods draw the same numbers
ANTITHETIC_STREAM = 0x616E7469  # "anti"

_CHUNK_ROWS = 2**16  # coalitions the game sees at once, at most
_CHUNK_BYTES = 2**26  # of coalitions
_CHUNK_FLOATS = 2**22  # of payoffs


@dataclass(frozen=True)
class WalkProgress:
    """What a walk knows after a whole number of units; replaced as one, so that no interruption tears it."""

    n_units: int
    mean: Floats  # (n_players, n_columns), of what a player adds
    squares: Floats  # the same shape, squared deviations from the mean


class Walks:
    """Random orders walked from the empty to the grand coalition, and what each player adds on the way.

    Of antithetic walks, each order is walked forwards and backwards. The reversed order's prefixes are the complements
    of the order's own, so that the mean over the pair of what a player adds is what it adds to the odd part of the
    game, (v(S) - v(N less S)) / 2.
    """

    def __init__(self, game: Game, seed: int, stream: int, antithetic: bool, orders: Orders | None) -> None:
        self.game, self.seed, self.antithetic = GameInOwnUnit(game), seed, antithetic
        if orders is not None and antithetic and not orders.reversible:
            raise ValueError(
                f"orders {orders!r} backwards are not as likely as forwards, so that antithetic pairs do not estimate "
                "their values, expected method 'permutation'"
            )
        self._orders = None if orders is None else orders.of(game.names)
        self.index = "shapley" if orders is None else orders.index
        self._orders_seed = int(counter_bits(seed, stream))
        self._ends: Floats | None = None
        self.progress: WalkProgress | None = None
        n_players = game.n_players
        self.n_ends = min(n_players, 1) + 1  # without players, the empty coalition is the grand one
        self.unit_cost = (1 + antithetic) * (n_players - 1) if n_players > 1 else 0

    @property
    def n_evaluations(self) -> int:
        """How many coalitions have been evaluated, those of finished units."""
        return 0 if self.progress is None else self.n_ends + self.progress.n_units * self.unit_cost

    def advance(self, n_evaluations: int) -> int:
        """Finish as many units as `n_evaluations` pay for and return what that took."""
        n_before = self.n_evaluations
        while True:
            left = n_evaluations - (self.n_evaluations - n_before)
            if self.progress is None:
                if left < self.n_ends + self.unit_cost:
                    break
                left -= self.n_ends
            elif self.unit_cost == 0 or left < self.unit_cost:
                break
            self._walk(left // self.unit_cost if self.unit_cost else 0)
        return self.n_evaluations - n_before

    def attribution(self, method: str) -> Attribution:
        """Return the means and their standard errors.

        Raises:
            ValueError: no unit is finished.
        """
        done = self.progress
        if done is None or self._ends is None:
            raise ValueError("no permutation has been evaluated yet: call advance() with more evaluations")
        with np.errstate(invalid="ignore"):
            errors = np.sqrt(done.squares / np.float64(done.n_units - 1) / done.n_units)
        if self.unit_cost == 0:  # nothing was drawn
            errors = np.zeros_like(done.mean)
        shape = (self.game.n_players, *self._ends.shape[1:])
        known = Attribution(
            values=done.mean.reshape(shape).copy(),
            standard_errors=errors.reshape(shape),
            degrees_of_freedom=np.full(shape, max(done.n_units - 1, 0)),
            empty_value=self._ends[0].copy(),
            grand_value=self._ends[1].copy(),
            n_evaluations=self.n_evaluations,
            names=self.game.names,
            index=self.index,
            method=method,
            seeds=(self.seed,),
        )
        return self.game.restored(known)

    def _walk(self, n_units: int) -> None:
        """Finish the next units: `n_units` of them, or as many as fit in a chunk."""
        ends = self.evaluated_ends().reshape(2, -1)
        n_players = self.game.n_players
        if n_players < 2:
            self.progress = WalkProgress(1, np.diff(ends, axis=0)[:n_players], np.zeros((n_players, ends.shape[1])))
            return
        chunk = self.rows_per_chunk(ends.shape[1])
        n_units = min(n_units, max(1, chunk // (n_players - 1)))
        done = self.progress or WalkProgress(0, *np.zeros((2, n_players, ends.shape[1])))
        mean, squares, last = done.mean.copy(), done.squares.copy(), np.empty(ends.shape[1])
        orders = self.drawn(np.arange(done.n_units, done.n_units + n_units))
        if self.antithetic:
            ends = (ends - ends[::-1]) / 2
        n_rows = n_units * (n_players - 1)
        for first in range(0, n_rows, chunk):
            prefixes = np.empty((min(chunk, n_rows - first), n_players), dtype=np.bool_)
            write_prefixes(orders, first, prefixes)
            payoffs = self._payoffs(prefixes)
            add_marginals(orders, first, payoffs, ends, last, done.n_units, mean, squares)
        self.progress = WalkProgress(done.n_units + n_units, mean, squares)

    def drawn(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The orders with these numbers, (n_orders, n_players)."""
        if self._orders is not None:
            return self._orders.drawn(self._orders_seed, numbers)
        return counter_permutations(self._orders_seed, numbers, self.game.n_players)

    def _payoffs(self, prefixes: Coalitions) -> Floats:
        """Of prefixes, or of the odd part of the game there: (n_rows, n_columns)."""
        n_rows = len(prefixes)
        if not self.antithetic:
            return self.game(prefixes).reshape(n_rows, -1)
        payoffs = self.game(np.concatenate([prefixes, ~prefixes])).reshape(2, n_rows, -1)
        return np.asarray((payoffs[0] - payoffs[1]) / 2)

    def evaluated_ends(self) -> Floats:
        """The payoffs of the empty and the grand coalition, (2, *output_shape), evaluated once."""
        if self._ends is None:
            ends = np.repeat([[False], [True]], self.game.n_players, axis=1)
            payoffs = self.game(ends[: self.n_ends])
            self._ends = payoffs[[0, -1]]
        return self._ends

    def rows_per_chunk(self, n_columns: int) -> int:
        """How many prefixes to walk at once; the game sees their complements too where walks are antithetic."""
        most = min(_CHUNK_ROWS, _CHUNK_BYTES // self.game.n_players, _CHUNK_FLOATS // n_columns)
        return max(1, most // (1 + self.antithetic))


class WalkSampler:
    """What the samplers of walks have in common: each unit is an order, or a pair of orders, walked to its end.

    Args:
        game: any number of players.
        walks: of that game.
        method: what the estimate is called.

    Attributes:
        game: the game.
        n_evaluations: how many coalitions have been evaluated, those of finished units.
        least_budget: what the first unit costs at most.
    """

    def __init__(self, game: Game, walks: Walks, method: str) -> None:
        self.game = game
        self._walks, self._method = walks, method
        self.least_budget = walks.n_ends + walks.unit_cost

    @property
    def n_evaluations(self) -> int:
        """How many coalitions have been evaluated, those of finished units."""
        return self._walks.n_evaluations

    @property
    def n_units(self) -> int:
        """How many units are finished."""
        return 0 if self._walks.progress is None else self._walks.progress.n_units

    def advance(self, n_evaluations: int) -> int:
        """Evaluate as many more units as `n_evaluations` pay for; return what was spent, 0 if they pay none."""
        return self._walks.advance(n_evaluations)

    def attribution(self) -> Attribution:
        """Return the means over all units so far.

        Raises:
            ValueError: there is none yet.
        """
        return self._walks.attribution(self._method)


class PermutationSampler(WalkSampler):
    """Castro, Gómez and Tejada (2009), exactly as published.

    Permutations are independent and uniform, and every marginal contribution counts once. The empty and the grand
    coalition are evaluated once, so that C permutations cost 2 + C (n_players - 1) evaluations. The estimate is
    unbiased, and its sum is the grand coalition's payoff less the empty one's, for every C. A standard error is the
    sample standard deviation over permutations / √C, with C - 1 degrees of freedom; NaN for one permutation.

    Memory: two numbers per player and output, and chunks of 64 MiB at most (of one coalition, where that is more).

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64). It fixes the permutations, whatever the game's batch size.
        orders: what permutations are drawn from, if they are not all equally likely.

    Attributes:
        game: the game.
        n_evaluations: how many coalitions have been evaluated, those of finished permutations.
        least_budget: the cost of the first permutation, n_players + 1.

    Raises:
        ValueError: the seed is not as described, or the orders are not of this game's players.

    >>> import shapkit
    >>> sampler = PermutationSampler(shapkit.weighted_voting([4, 4, 4, 2, 2, 1], quota=12), seed=0)
    >>> sampler.advance(5_002)
    5002
    >>> phi = sampler.attribution()
    >>> float(phi.values.sum().round(12)), bool(phi.standard_errors.max() < 0.02)
    (1.0, True)
    """

    def __init__(self, game: Game, seed: int = 0, orders: Orders | None = None) -> None:
        super().__init__(game, Walks(game, seed, PERMUTATION_STREAM, antithetic=False, orders=orders), "permutation")


class AntitheticSampler(WalkSampler):
    """Permutations in pairs of one and its reverse: Lomeli and others (2019), Mitchell and others (2022).

    What a player adds to those before it and what it adds to those after it are, in most games, far from each
    other on opposite sides of its value, so that their mean is nearer. The pair is the independent unit: a standard
    error is the sample standard deviation of the means of P pairs / √P, with P - 1 degrees of freedom; NaN for one
    pair. P pairs cost 2 + 2 P (n_players - 1) evaluations. Unbiased, and the sum is exact for every P; in games of
    players and pairs of players alone, every value is.

    Memory: as for `PermutationSampler`.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64). It fixes the permutations, whatever the game's batch size.
        orders: what permutations are drawn from, if they are not all equally likely.

    Attributes:
        game: the game.
        n_evaluations: how many coalitions have been evaluated, those of finished pairs.
        least_budget: the cost of the first pair, 2 n_players.

    Raises:
        ValueError: the seed is not as described, the orders are not of this game's players, or their reverses are not
            as likely.

    >>> import shapkit
    >>> sampler = AntitheticSampler(shapkit.table_game([0, 1, 2, 5, 3, 8, 5, 12]), seed=0)
    >>> sampler.advance(6)
    6
    >>> sampler.attribution().values.round(12)  # with interactions of pairs alone, one pair of walks is enough
    array([4., 3., 5.])
    """

    def __init__(self, game: Game, seed: int = 0, orders: Orders | None = None) -> None:
        super().__init__(game, Walks(game, seed, ANTITHETIC_STREAM, antithetic=True, orders=orders), "antithetic")
