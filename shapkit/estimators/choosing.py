"""Which method makes the most of a given time, for a game that takes so long for each coalition."""

from __future__ import annotations

import math
import time

import numpy as np

from shapkit.coalitions import members_of_masks
from shapkit.estimators.polynomials import MOST_SEARCHED
from shapkit.estimators.runs.known_payoffs import KnownPayoffs

_LONG_ENOUGH = 0.02  # seconds, to judge by
MOST_ENUMERATED_PLAYERS = 20
"""Of how many players all coalitions are evaluated, unasked, where that takes little time."""

_ENOUGH_TO_FIND = 2 * MOST_SEARCHED  # evaluations, for most short polynomials
_SPARSE_OVERHEAD = 1e-8  # seconds beside the game, for each evaluation and player


def _modelled(each: float, n_players: int, seconds: float) -> float:
    """How many evaluations the Gaussian process makes in a time; one takes `each` seconds itself.

    Fits take the square of the number of evaluations, up to 1,000, in time, and more where players are many; beyond
    that, each evaluation adds a little.
    """
    fits, beside = 1.3 * max(1.0, n_players / 75), each + 4e-4 + 5e-7 * n_players
    after_fits = (seconds - fits) / beside
    if after_fits > 1_000:
        return after_fits
    return (math.sqrt(beside**2 + 4e-6 * fits * seconds) - beside) / (2e-6 * fits)


def _worth(n_evaluations: float, n_players: int) -> float:
    """How many evaluations of antithetic permutations as many of the Gaussian process are about worth.

    Read off benchmarks/speed/equal_seconds.py, errors of less than a millionth as a millionth; a balance that is off by
    a factor of two costs next to nothing. It learns the more of a game, the fewer players there are.
    """
    return n_evaluations * min(8 * (1 + (n_evaluations / (7 * n_players)) ** 2), max(8.0, 2.5e7 / n_players**3))


def best_in_time(each: float, n_players: int, seconds: float, most_evaluations: float) -> str:
    """Return the method that makes the most of `seconds`: "gaussian_process" or "sparse".

    Both find games of few interactions exactly. Of others, "sparse" evaluates permutations, many where the game is
    fast; they are taken to be worth twice as many, for the games that it finds sooner, and ten times as many where they
    are enough to find such a game and those of the Gaussian process are not.

    Args:
        each: how many seconds an evaluation takes.
        n_players: of the game.
        seconds: that the estimate may take.
        most_evaluations: that it may ask for; infinite where no number is set.

    >>> best_in_time(1e-6, n_players=30, seconds=1.0, most_evaluations=np.inf)
    'sparse'
    >>> best_in_time(1e-6, n_players=30, seconds=1.0, most_evaluations=300)
    'gaussian_process'
    >>> best_in_time(0.01, n_players=30, seconds=10.0, most_evaluations=np.inf)
    'gaussian_process'
    """
    modelled = min(_modelled(each, n_players, seconds), most_evaluations)
    sampled = min(seconds / (each + _SPARSE_OVERHEAD * n_players), most_evaluations)
    worth = 10 if modelled < _ENOUGH_TO_FIND <= sampled else 2
    return "gaussian_process" if _worth(modelled, n_players) >= worth * sampled else "sparse"


def seconds_each(game: KnownPayoffs, long: float) -> float:
    """Return how long one coalition of many takes, judged by a few, more of them where that takes no time.

    The empty and the grand coalition are not timed: they may load a model. Where they alone take `long`, no more are.
    Where the game remembers, no coalition that is timed will be evaluated again.

    >>> from shapkit import Game
    >>> seconds_each(KnownPayoffs(Game(lambda coalitions: coalitions.sum(axis=1), 30)), 1.0) < 1.0
    True
    """
    few = min(game.n_players, MOST_ENUMERATED_PLAYERS)
    began = time.perf_counter()
    game(np.repeat([[False], [True]], game.n_players, axis=1))
    seconds = (time.perf_counter() - began) / 2
    if seconds >= long:
        return seconds
    first, n_timed, seconds = 1, 1, 0.0
    while seconds < _LONG_ENOUGH and first < 2**few:
        last = min(first + n_timed, 2**few)
        coalitions = np.zeros((last - first, game.n_players), dtype=np.bool_)
        coalitions[:, :few] = members_of_masks(np.arange(first, last), few)
        began = time.perf_counter()
        game(coalitions)
        seconds = time.perf_counter() - began
        first, n_timed, timed = last, 4 * n_timed, last - first
    return seconds / timed if first > 1 else 0.0
