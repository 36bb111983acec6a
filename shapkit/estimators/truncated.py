"""Permutation sampling that stops early in each order: truncated Monte Carlo, of Ghorbani and Zou (2019).

Made for the value of data, where a coalition is a model to train: once most points are in, the others change its score
by next to nothing.
"""

from __future__ import annotations

import numpy as np

from shapkit.estimators.loops import add_marginals
from shapkit.estimators.permutation import WalkProgress, Walks, WalkSampler
from shapkit.games.game import Game
from shapkit.orders import Orders

_STREAM = 0x746D63  # "tmc"


class TruncatedSampler(WalkSampler):
    """Truncated Monte Carlo: an order is walked until the payoff is close to the grand coalition's.

    What is then left to the grand coalition's payoff is shared evenly by the players that are still to come, where
    Ghorbani and Zou (2019) give them nothing: so values sum to the grand coalition's payoff less the empty one's for
    any number of orders. It is a biased estimate, since a payoff may leave again what it has come close to; in a game
    that does not, by at most `tolerance` for a player. Standard errors, as of `PermutationSampler`, know nothing of
    the bias.

    An order costs from 1 to n_players - 1 evaluations. The coalitions of many orders are asked for at once, by size.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64). It fixes the permutations, whatever the game's batch size.
        orders: what permutations are drawn from, if they are not all equally likely.
        tolerance: how close is close, as a share of the grand coalition's payoff less the empty one's, of each output.

    Attributes:
        game: the game.
        n_evaluations: how many coalitions have been evaluated, those of finished orders.
        least_budget: what the first order costs at most, n_players + 1.

    Raises:
        ValueError: an argument is not as described.

    >>> import shapkit
    >>> saturates = shapkit.Game(lambda coalitions: np.minimum(coalitions.sum(axis=1), 10), n_players=100)
    >>> sampler = TruncatedSampler(saturates, seed=0)
    >>> sampler.advance(2_002)
    1912
    >>> float(sampler.attribution().values.sum().round(9))
    10.0
    """

    def __init__(self, game: Game, seed: int = 0, orders: Orders | None = None, tolerance: float = 0.01) -> None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be a share of the payoff in [0, 1), got {tolerance!r}")
        super().__init__(game, _TruncatedWalks(game, seed, orders, tolerance), "truncated")


class _TruncatedWalks(Walks):
    def __init__(self, game: Game, seed: int, orders: Orders | None, tolerance: float) -> None:
        super().__init__(game, seed, _STREAM, antithetic=False, orders=orders)
        self.tolerance = tolerance
        self._n_spent = 0  # of finished orders

    @property
    def n_evaluations(self) -> int:
        return 0 if self.progress is None else self.n_ends + self._n_spent

    def _walk(self, n_units: int) -> None:
        n_players = self.game.n_players
        if n_players < 2:
            return super()._walk(n_units)
        ends = self.evaluated_ends().reshape(2, -1)
        n_units = min(n_units, max(1, self.rows_per_chunk(ends.shape[1]) // (n_players - 1)))
        done = self.progress or WalkProgress(0, *np.zeros((2, n_players, ends.shape[1])))
        orders = self.drawn(np.arange(done.n_units, done.n_units + n_units))
        payoffs = np.empty((n_units, n_players - 1, ends.shape[1]))
        members = np.zeros((n_units, n_players), dtype=np.bool_)
        near = self.tolerance * np.abs(ends[1] - ends[0])
        walking, n_spent = np.arange(n_units), 0
        for step in range(n_players - 1):
            members[walking, orders[walking, step]] = True
            reached = self.game(members[walking]).reshape(len(walking), -1)
            n_spent += len(walking)
            payoffs[walking, step] = reached
            ended = (np.abs(ends[1] - reached) <= near).all(axis=1)
            shares = np.arange(1, n_players - 1 - step)[:, None] / (n_players - 1 - step)
            left = (ends[1] - reached[ended])[:, None]
            payoffs[walking[ended], step + 1 :] = reached[ended][:, None] + shares * left
            walking = walking[~ended]
            if not len(walking):
                break
        mean, squares, last = done.mean.copy(), done.squares.copy(), np.empty(ends.shape[1])
        add_marginals(orders, 0, payoffs.reshape(-1, ends.shape[1]), ends, last, done.n_units, mean, squares)
        self.progress, self._n_spent = WalkProgress(done.n_units + n_units, mean, squares), self._n_spent + n_spent
        return None
