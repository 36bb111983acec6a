"""Payoffs that a run remembers, so that a game of few players is asked for each coalition once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shapkit.coalitions import Coalitions, masks_of_members
from shapkit.games.batches import Payoffs
from shapkit.games.game import Game

_MOST_PLAYERS = 22
_MOST_NUMBERS = 2**_MOST_PLAYERS  # payoff elements of all coalitions, at most: 32 MiB


class KnownPayoffs(Game):
    """A game that asks another one for no coalition twice, where the payoffs of all coalitions fit in 32 MiB.

    With more players or larger payoffs it asks as often as it is asked.

    Args:
        game: any.

    Attributes:
        remembers: whether there is room for all payoffs.

    >>> game = Game(lambda coalitions: coalitions.sum(axis=1), 3)
    >>> known = KnownPayoffs(game)
    >>> known(np.array([[True, False, False], [True, True, True], [True, False, False]])), game.n_evaluations
    (array([1., 3., 1.]), 2)
    """

    def __init__(self, game: Game) -> None:
        super().__init__(game, game.n_players, game.names, game.batch_size)
        self._game = game
        self.remembers = game.n_players <= _MOST_PLAYERS
        self._is_known: NDArray[np.bool_] = np.zeros(1 << game.n_players if self.remembers else 0, dtype=np.bool_)
        self._payoffs: Payoffs = np.zeros(0)  # (2**n_players, *output_shape), once that shape is known

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        """Return the payoffs of `coalitions`; nothing is remembered of what an exception interrupts."""
        if not self.remembers:
            return self._ask(coalitions)
        masks = masks_of_members(coalitions)
        unknown = np.flatnonzero(~self._is_known[masks])
        if len(unknown):
            first = np.sort(np.unique(masks[unknown], return_index=True)[1])
            new = unknown[first]
            payoffs = self._ask(coalitions[new])
            if self._payoffs.size == 0 and payoffs[0].size << self.n_players > _MOST_NUMBERS:
                self.remembers = False
                return payoffs if len(new) == len(coalitions) else self._ask(coalitions)
            self._learn(masks[new], payoffs)
        return np.asarray(self._payoffs[masks])

    def _ask(self, coalitions: Coalitions) -> Payoffs:
        """The game's payoffs; its very first coalition alone, which tells the game the shape of a payoff."""
        if self._game.output_shape is not None or len(coalitions) == 1:
            return self._game(coalitions)
        return np.concatenate([self._game(coalitions[:1]), self._game(coalitions[1:])])

    def _learn(self, masks: NDArray[np.uint64], payoffs: Payoffs) -> None:
        if self._payoffs.size == 0:
            # No memory is taken until it is written to
            self._payoffs = np.empty((1 << self.n_players, *payoffs.shape[1:]))
        self._payoffs[masks] = payoffs
        self._is_known[masks] = True
