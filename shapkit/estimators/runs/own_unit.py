"""Payoffs in a unit of their own, so that squares of them neither overflow nor vanish.

A game in other units is the same game. Estimators compute variances, products and ratios of payoffs, which leave the
range of floating point long before the payoffs do: squares of 1e-160 are zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.game import Game

_MOST_STEPS = 200  # of two between outputs, for squares of which there is room
_ROUNDING = float(np.finfo(np.float64).eps)


def exponents_of(payoffs: Payoffs) -> NDArray[np.intc]:
    """Return the power of two next above the largest absolute payoff of each output, where that is finite.

    Args:
        payoffs: float64 (n_coalitions, *output_shape).

    Returns:
        int (*output_shape); 0 where all payoffs are.

    >>> exponents_of(np.array([[3.0, 0.0], [-5.0, 0.0]]))
    array([3, 0], dtype=int32)
    """
    return np.asarray(np.frexp(np.nan_to_num(np.abs(payoffs).max(axis=0), nan=0.0, posinf=0.0))[1])


class GameInOwnUnit(Game):
    """A game with each output in a unit of its own: the power of two next to the first payoffs that are not zero.

    Powers of two change no digit of a number, so that estimates in such units are those in any other.

    Args:
        game: any.

    >>> game = GameInOwnUnit(Game(lambda coalitions: 3e-200 * coalitions.sum(axis=1), 2))
    >>> ends = np.array([[False, False], [True, True]])
    >>> bool(0.5 <= game(ends)[1] < 1), bool(game.in_unit_of_payoff(game(ends))[1] == 6e-200)
    (True, True)
    """

    def __init__(self, game: Game) -> None:
        super().__init__(game, game.n_players, game.names, game.batch_size)
        self._game = game
        self._largest: Payoffs = np.zeros(())  # absolute payoffs so far, in the unit of the payoff: (*output_shape)
        self._exponents: NDArray[np.intc] = np.zeros((), dtype=np.intc)  # of two, by output
        self._reference: int | None = None  # the largest of them when the first was known

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        """Return the payoffs in the own unit, float64 (n_coalitions, *output_shape)."""
        payoffs = self._game(coalitions)
        self.output_shape = payoffs.shape[1:]
        # Where payoffs have been zeros so far, any unit will do
        self._exponents = np.where(self._largest > 0, self._exponents, exponents_of(payoffs))
        self._largest = np.maximum(self._largest, np.abs(payoffs).max(axis=0))
        if self._reference is None and self._exponents.any():
            self._reference = int(self._exponents.max())
        return self.in_own_unit(payoffs)

    def in_unit_of_payoff(self, amounts: Payoffs) -> Payoffs:
        """Return amounts (..., *output_shape) of the own unit in that of the payoff."""
        return np.ldexp(amounts, self._exponents)

    def in_own_unit(self, amounts: Payoffs) -> Payoffs:
        """Return amounts (..., *output_shape) of the payoff's unit in the own one."""
        return np.ldexp(amounts, -self._exponents)

    def weights_of_squares(self) -> Payoffs:
        """Return what squares in the own units count, (*output_shape), where they are added up over outputs.

        As much as in the units of the payoffs, but for a common factor.
        """
        steps = np.clip(self._exponents - (self._reference or 0), -_MOST_STEPS, _MOST_STEPS)
        return np.asarray(np.ldexp(1.0, 2 * steps))

    def restored(self, attribution: Attribution) -> Attribution:
        """Return an attribution in the own unit as one in the unit of the payoff.

        A standard error below the rounding of the largest payoff is zero: nothing smaller can be told from payoffs.
        """
        errors = attribution.standard_errors
        if errors is not None:
            errors = self.in_unit_of_payoff(errors)
            errors = np.where(errors <= _ROUNDING * self._largest, 0.0, errors)
        return replace(
            attribution,
            values=self.in_unit_of_payoff(attribution.values),
            standard_errors=errors,
            empty_value=self.in_unit_of_payoff(attribution.empty_value),
            grand_value=self.in_unit_of_payoff(attribution.grand_value),
        )
