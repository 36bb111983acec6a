"""Regression models of games whose Shapley values have a closed form, for `RegressionAdjustedSampler`.

Rows come in pairs, as `regression_adjusted.Fit` describes: the second half of them are the
complements of the first, and row 0 is the empty coalition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shapkit.coalitions import Coalitions
from shapkit.estimators.pairs.regression import centred
from shapkit.estimators.pairs.samples import row_blocks
from shapkit.estimators.runs.own_unit import exponents_of
from shapkit.estimators.surrogates.boosted_trees import BoostedTrees, fit_boosted_trees

Floats = NDArray[np.float64]

_PENALTIES = 10.0 ** np.arange(-4, 1.6, 0.5)  # relative to the mean eigenvalue
_DEPTHS = (2, 4, 6)
_MOST_TREES = 100  # for each depth
_FEWEST_TREES = 5
_MOST_STEPS = 2**32  # of the loops that fit trees, about: some seconds


@dataclass(frozen=True)
class LinearGame:
    """The additive game in which each player is worth a number.

    Attributes:
        values: float64 (n_players, n_columns).
    """

    values: Floats

    def predict(self, coalitions: Coalitions) -> Floats:
        """Return the sum of the members' values, (n_coalitions, n_columns)."""
        predicted = np.empty((len(coalitions), self.values.shape[1]))
        for rows in row_blocks(coalitions):
            predicted[rows] = coalitions[rows].astype(np.float64) @ self.values
        return predicted

    def shapley_values(self) -> Floats:
        """Return `values`."""
        return self.values


@dataclass(frozen=True)
class MeanOfGames:
    """The mean of additive games and trees fitted to what they leave, as a game.

    Attributes:
        games: whose payoffs are added up.
        divisor: what the sum is divided by.
    """

    games: tuple[LinearGame | BoostedTrees, ...]
    divisor: int

    def predict(self, coalitions: Coalitions) -> Floats:
        """Return the sum of the games' payoffs over the divisor, (n_coalitions, n_columns)."""
        return np.asarray(sum(game.predict(coalitions) for game in self.games) / self.divisor)

    def shapley_values(self) -> Floats:
        """Return the sum of the games' Shapley values over the divisor, (n_players, n_columns)."""
        return np.asarray(sum(game.shapley_values() for game in self.games) / self.divisor)


def fit_linear(coalitions: Coalitions, payoffs: Floats) -> LinearGame:
    """Return the additive game that ridge regression finds, which shares out the total exactly.

    The penalty, on what players' values differ from equal shares, is the one of twelve with the smallest sum of squared
    leave-one-out residuals, in closed form (Allen 1974).

    Args:
        coalitions: bool (2 n_pairs, n_players), in pairs; row 0 is the empty one.
        payoffs: float64 (2 n_pairs, n_columns).

    >>> half = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)
    >>> coalitions = np.concatenate([half, ~half])
    >>> fit_linear(coalitions, coalitions @ np.array([[1.0], [2.0], [3.0]])).values.round(2)
    array([[1.],
           [2.],
           [3.]])
    """
    exponents = exponents_of(payoffs)
    return LinearGame(np.ldexp(_linear_values(coalitions, np.ldexp(payoffs, -exponents)), exponents))


def _linear_values(coalitions: Coalitions, payoffs: Floats) -> Floats:
    """What `fit_linear` gives each player (n_players, n_columns); squares of the payoffs must not overflow."""
    half, n_players = len(coalitions) // 2, coalitions.shape[1]
    odd, members = (payoffs[:half] - payoffs[half:])[1:] / 2, coalitions[1:half]
    total = payoffs[half] - payoffs[0]
    targets = odd + (0.5 - members.mean(axis=1))[:, None] * total
    gram, moments = np.zeros((n_players, n_players)), np.zeros((n_players, odd.shape[1]))
    for rows in row_blocks(members):
        design = centred(members[rows])
        gram += design.T @ design
        moments += design.T @ targets[rows]
    eigenvalues, vectors = np.linalg.eigh(gram)
    eigenvalues = np.maximum(eigenvalues, 0)
    inverses = 1 / (eigenvalues + _PENALTIES[:, None] * eigenvalues.mean())
    solutions = [vectors @ (inverse[:, None] * (vectors.T @ moments)) for inverse in inverses]
    left_out = np.zeros(len(solutions))
    for rows in row_blocks(members):
        design = centred(members[rows])
        left = 1 - (design @ vectors) ** 2 @ inverses.T  # of each residual, after fitting to it: one minus its leverage
        for number, solution in enumerate(solutions):
            left_out[number] += (((targets[rows] - design @ solution) / left[:, number, None]) ** 2).sum()
    return np.asarray(total / n_players + solutions[int(left_out.argmin())])


def fit_trees(coalitions: Coalitions, payoffs: Floats) -> MeanOfGames | LinearGame:
    """Return the mean of six boosted tree ensembles: of depth 2, 4 and 6, each before and after `fit_linear`.

    Shallow trees suit smooth games, deep ones those with sharp conditions; the mean is nearly as good as the best of
    them on either, and better on most. The number of trees shrinks as the sample grows, so that the time for a fit is
    bounded; where too few would be left, as for a thousand players, it is `fit_linear`.

    Args:
        coalitions: bool (2 n_pairs, n_players), in pairs; row 0 is the empty one.
        payoffs: float64 (2 n_pairs, n_columns).
    """
    linear = fit_linear(coalitions, payoffs)
    steps_per_tree = 2 * sum(_DEPTHS) * coalitions.size * payoffs.shape[1]
    n_trees = min(_MOST_TREES, _MOST_STEPS // steps_per_tree)
    if n_trees < _FEWEST_TREES:
        return linear
    exponents = exponents_of(payoffs)  # squares of payoffs in that unit neither overflow nor vanish
    payoffs = np.ldexp(payoffs, -exponents)
    predicted = np.ldexp(linear.predict(coalitions), -exponents)
    half = len(coalitions) // 2
    # Only the odd part of the additive game is taken out: the even part of payoffs says what the odd part may be.
    predicted -= (predicted[:half] + predicted[half:])[np.arange(len(coalitions)) % half] / 2
    games: list[LinearGame | BoostedTrees] = [linear] * len(_DEPTHS)
    for depth in _DEPTHS:
        for targets in (payoffs, payoffs - predicted):
            trees = fit_boosted_trees(coalitions, targets, n_trees, depth, learning_rate=0.3, shrinkage=5.0)
            games.append(
                replace(trees, leaves=np.ldexp(trees.leaves, exponents), constant=np.ldexp(trees.constant, exponents))
            )
    return MeanOfGames(tuple(games), divisor=2 * len(_DEPTHS))
