"""Which method makes the most of a given time, for a game that takes so long for each coalition."""

from __future__ import annotations

import time

import numpy as np

from shapkit.coalitions import members_of_masks
from shapkit.estimators.runs.known_payoffs import KnownPayoffs

_LONG_ENOUGH = 0.02  # seconds, to judge by
MOST_ENUMERATED_PLAYERS = 20
"""Of how many players all coalitions are evaluated, unasked, where that takes little time."""

_OVERHEAD = {"gaussian_process": (3e-4, 4e-6), "leverage": (0.0, 1.5e-7), "antithetic": (0.0, 1e-8)}
"""What methods take beside the game, in seconds for each evaluation, and the same for each player."""


def _evaluations(method: str, each: float, n_players: int, seconds: float) -> float:
    """How many evaluations fit into the time; an evaluation takes `each` seconds itself."""
    of_all, of_players = _OVERHEAD[method]
    return seconds / (each + of_all + of_players * n_players)


def _worth(method: str, n_evaluations: float, n_players: int) -> float:
    """How many evaluations of antithetic permutations as many of another method are about worth.

    Read off benchmarks/speed/equal_seconds.py, errors of less than a millionth as a millionth; a balance that is off by
    a factor of two costs next to nothing. The Gaussian process finds games of few interactions exactly, once it has
    seen enough of them; of the others it learns the more, the fewer players there are.
    """
    if method == "gaussian_process":
        return n_evaluations * min(8 * (1 + (n_evaluations / (7 * n_players)) ** 2), max(8.0, 3_000 / n_players))
    return n_evaluations * (1.6 * (30 / n_players) ** 0.5 if method == "leverage" else 1.0)


def best_in_time(each: float, n_players: int, seconds: float, most_evaluations: float) -> str:
    """Return the method that makes the most of `seconds`.

    Args:
        each: how many seconds an evaluation takes.
        n_players: of the game.
        seconds: that the estimate may take.
        most_evaluations: that it may ask for; infinite where no number is set.

    >>> best_in_time(1e-6, n_players=30, seconds=10.0, most_evaluations=np.inf)
    'antithetic'
    >>> best_in_time(1e-6, n_players=30, seconds=10.0, most_evaluations=300)
    'gaussian_process'
    >>> best_in_time(0.01, n_players=30, seconds=10.0, most_evaluations=np.inf)
    'gaussian_process'
    """

    def worth(method: str) -> float:
        n_evaluations = min(_evaluations(method, each, n_players, seconds), most_evaluations)
        return _worth(method, n_evaluations, n_players)

    return max(_OVERHEAD, key=worth)


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
