"""A sparse polynomial of the game, found from random pairs, and permutation sampling of what it leaves.

A polynomial's Shapley values are exact. Where it is the whole game, nothing is left to be sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_integer
from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.permutation import AntitheticSampler
from shapkit.estimators.polynomials import MOST_OUTPUTS, Polynomial, fit_polynomial
from shapkit.estimators.runs.moments import degrees_of_freedom, uncertainties
from shapkit.estimators.runs.own_unit import GameInOwnUnit
from shapkit.games.batches import Payoffs
from shapkit.games.game import Game
from shapkit.randomness import counter_bits

Floats = NDArray[np.float64]

_STREAM = 0x737061727365  # "sparse": other methods with the same seed draw other numbers
_FEWEST_PAIRS, _PAIRS_PER_PLAYER = 256, 4  # that a polynomial is first fitted to
_MOST_PAIRS = 2**13
_PAIRS_PER_TERM = 3  # at least, of each part of the game
_FIT_SECONDS, _FEW_CELLS = 1e-7, 250_000  # about, times the square of the pairs, the more with more than so many signs
_TERM_SECONDS = 3e-9  # about, for the payoff of one term
_FITTING = 0.25  # of the time, about, at most
_WALKING = 3  # evaluations of permutations before there are as many pairs, of two each
_MUCH_LESS = 0.5  # of what permutations cost, at most, what they cost of the rest that a polynomial leaves
_TELLING_UNITS = 4  # pairs of permutations, whose spread says how much they count beside others
_N_ENDS = 2


@dataclass(frozen=True)
class _Leg:
    """Permutations of what one polynomial leaves; without one, of the game."""

    polynomial: Polynomial | None
    sampler: AntitheticSampler

    def cost(self, seconds_each: float) -> float:
        """The time that a pair of permutations takes, times its variances, added up over players and outputs."""
        errors = self.sampler.attribution().standard_errors
        assert errors is not None
        n_terms = 0 if self.polynomial is None else len(self.polynomial.players)
        return float(self.sampler.n_units * (errors**2).sum()) * (seconds_each + _TERM_SECONDS * n_terms)


class SparseSampler:
    """Shapley values of a sparse polynomial of the game, plus an unbiased estimate of its error.

    Evaluations go by turns into random pairs of coalitions, to which a polynomial is fitted (`fit_polynomial`), and
    into antithetic pairs of permutations of what it leaves. As their number grows, the pairs are doubled and the
    polynomial is fitted anew, up to 8,192 of them. Sums of interactions of few players, rules and shallow trees are
    found exactly, from about three to four times as many pairs as the odd part of the game has terms. Nothing is left
    to be sampled then, and permutations only show that it is so.

    Of other games a polynomial may leave less than the game itself. Where the permutations of that cost half as much,
    by how they vary and how long they take, these go on, and where not, those before. No polynomial has seen the
    permutations of what it leaves, so that each estimate is unbiased. They are weighted by the inverse of their
    variances, of all players together; standard errors are those of the permutations, with Satterthwaite's degrees of
    freedom.

    Of a game with more than 256 outputs there is no polynomial, and permutations are all.

    Memory: some numbers for each term and pair, up to about 1 GiB where there are thousands of terms.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64).
        seconds_each: what an evaluation takes, about. The faster, the more evaluations there will be, and the later
            polynomials are fitted: this takes about a quarter of the time at most, and of the evaluations.

    Attributes:
        game: the game.
        least_budget: the cost of the first pair of permutations.

    Raises:
        ValueError: an argument is not as described.

    >>> import shapkit
    >>> game = shapkit.unanimity_sum(30, [(0, 1, 2), (2, 3, 4, 5), (6, 7)], [6.0, -4.0, 1.0])
    >>> sampler = SparseSampler(game)
    >>> sampler.advance(2_000)
    1966
    >>> sampler.attribution().values[:8].round(9)
    array([ 2. ,  2. ,  1. , -1. , -1. , -1. ,  0.5,  0.5])
    """

    def __init__(self, game: Game, seed: int = 0, seconds_each: float = 1e-3) -> None:
        self.game = game
        self.seed = checked_integer("seed", seed, least=0)
        counter_bits(self.seed)  # refuses what is too large
        if not seconds_each > 0:
            raise ValueError(f"seconds_each must be more than 0, got {seconds_each!r}")
        self._seconds_each = float(seconds_each)
        self._measured = GameInOwnUnit(game)
        self._legs = [_Leg(None, self._permutations(self._measured))]
        self._walking = self._legs[0]  # whose permutations go on
        self.least_budget = self._walking.sampler.least_budget
        self._signs = np.empty((0, game.n_players))
        self._odd = np.empty((0, 0))  # (n_known, n_outputs)
        self._even = np.empty((0, 0))
        self._n_goal = max(_FEWEST_PAIRS, _PAIRS_PER_PLAYER * game.n_players)  # pairs of the next polynomial
        self._fits = game.n_players > 1 and self._n_goal <= _MOST_PAIRS

    def advance(self, n_evaluations: int) -> int:
        """Evaluate up to `n_evaluations` more coalitions and return how many; 0 where they pay for no unit.

        Raises:
            ValueError: `n_evaluations` is not an integer of at least 0, or what `Game` raises.
        """
        n_left = checked_integer("n_evaluations", n_evaluations, least=0)
        spent = 0
        while True:
            if len(self._signs) == self._n_goal:
                self._fit()
            due = self._due()
            step = self._walk(n_left - spent, due) if due > 0 else self._observe(n_left - spent)
            if step == 0:
                return spent
            spent += step

    def attribution(self) -> Attribution:
        """Return the estimates; standard errors are NaN while there is one pair of permutations.

        Raises:
            ValueError: there is none yet.
        """
        legs = [leg for leg in self._legs if leg.sampler.n_units >= _TELLING_UNITS] or self._legs[:1]
        found = [leg.sampler.attribution() for leg in legs]
        first, n_players = found[0], self.game.n_players  # the first leg is of the game itself
        shape = (len(legs), n_players, first.empty_value.size)
        means, variances, uncertain = np.empty(shape), np.empty(shape), np.empty(shape)
        for number, (leg, rest) in enumerate(zip(legs, found, strict=True)):
            assert rest.standard_errors is not None
            means[number] = rest.values.reshape(shape[1:])
            if leg.polynomial is not None:
                means[number] += leg.polynomial.shapley_values()
            variances[number] = rest.standard_errors.reshape(shape[1:]) ** 2
            uncertain[number] = uncertainties(variances[number], leg.sampler.n_units)
        weights = _weights(variances)[:, None]
        total = (weights**2 * variances).sum(axis=0)
        known_to = degrees_of_freedom(total, (weights**4 * uncertain).sum(axis=0))
        known = replace(
            first,
            values=(weights * means).sum(axis=0).reshape(first.values.shape),
            standard_errors=np.sqrt(total).reshape(first.values.shape),
            degrees_of_freedom=known_to.reshape(first.values.shape),
            n_evaluations=self._n_walked + 2 * len(self._signs),
            method="sparse",
            seeds=(self.seed,),
        )
        return self._measured.restored(known)

    @property
    def _n_walked(self) -> int:
        """Evaluations of permutations."""
        return sum(leg.sampler.n_evaluations for leg in self._legs)

    def _permutations(self, game: Game) -> AntitheticSampler:
        number = 0 if game is self._measured else len(self._legs)
        return AntitheticSampler(game, int(counter_bits(self.seed, _STREAM, 1, number)))

    def _due(self) -> float:
        """How many evaluations of permutations come before further pairs; infinitely many if none are wanted."""
        newest, unit = self._legs[-1].sampler, self.least_budget - _N_ENDS
        if unit > 0 and newest.n_units < _TELLING_UNITS:  # one player has no orders to draw
            return _N_ENDS + _TELLING_UNITS * unit - newest.n_evaluations
        if not self._fits or math.prod(self._measured.output_shape or ()) > MOST_OUTPUTS:
            return math.inf
        fitting = _FIT_SECONDS * self._n_goal**2 * max(1.0, self._n_goal * self.game.n_players / _FEW_CELLS)
        wanted = fitting / (_FITTING * self._seconds_each) - 2 * self._n_goal
        return max(_WALKING * self._n_goal, wanted) - self._n_walked

    def _walk(self, n_left: int, due: float) -> int:
        """Finish permutations, up to those that are due: first some of the newest leg, then of the steadiest."""
        tried = self._legs[-1].sampler.n_units < _TELLING_UNITS
        leg = self._legs[-1] if tried else self._walking
        spent = leg.sampler.advance(int(min(n_left, max(due, self.least_budget - _N_ENDS))))
        if tried and leg.sampler.n_units >= _TELLING_UNITS:
            costs = [known.cost(self._seconds_each) for known in (self._walking, leg)]
            if costs[1] <= _MUCH_LESS * costs[0]:
                self._walking = leg
        return spent

    def _observe(self, n_left: int) -> int:
        """Evaluate random pairs for the next polynomial; nothing changes where the game raises an exception."""
        n_known, n_players = self._signs.shape
        n_new = min(n_left // 2, self._n_goal - n_known)
        if n_new <= 0:
            return 0
        words = np.arange(-(-n_players // 64))
        bits = counter_bits(self.seed, _STREAM, 0, np.arange(n_known, n_known + n_new)[:, None], words)
        members = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=1, count=n_players).astype(np.bool_)
        payoffs = self._measured(np.concatenate([members, ~members])).reshape(2, n_new, -1) / 2
        odd, even = payoffs[0] - payoffs[1], payoffs[0] + payoffs[1]
        self._odd = np.concatenate([self._odd, odd]) if n_known else odd
        self._even = np.concatenate([self._even, even]) if n_known else even
        self._signs = np.concatenate([self._signs, np.where(members, 1.0, -1.0)])
        return 2 * n_new

    def _fit(self) -> None:
        """A polynomial of all pairs, and permutations of what it leaves."""
        n_pairs, legs = len(self._signs), self._legs
        found = fit_polynomial(self._signs, self._odd, self._even, n_pairs // _PAIRS_PER_TERM, even_counts=False)
        if found is not None:
            odd = found.polynomial.of_part(even=False)
            rest = Game(_Rest(self._measured, odd), self.game.n_players, self.game.names, self.game.batch_size)
            legs = [*legs, _Leg(odd, self._permutations(rest))]
        fits = found is not None and not found.odd_solved.all() and 2 * n_pairs <= _MOST_PAIRS
        self._legs, self._n_goal, self._fits = legs, 2 * n_pairs, fits  # as one


class _Rest:
    """What a polynomial leaves of a game, as a value function."""

    def __init__(self, game: Game, polynomial: Polynomial) -> None:
        self._game, self._polynomial = game, polynomial

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        payoffs = self._game(coalitions)
        return payoffs - self._polynomial.predict(coalitions).reshape(payoffs.shape)


def _weights(variances: Floats) -> Floats:
    """How much the means of each leg count, (n_legs, n_columns), which sums to 1 over the legs.

    In proportion to the inverse of their variances (n_legs, n_players, n_columns), added up over the players: what a
    leg's few permutations say of one player's spread is no measure to weigh by.
    """
    total = variances.sum(axis=1)
    inverse = np.divide(total.min(axis=0), total, out=np.ones_like(total), where=total > 0)  # NaN of one unit: 1
    return np.asarray(inverse / inverse.sum(axis=0))
