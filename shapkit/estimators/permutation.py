"""Permutation sampling of the Shapley value: Castro, Gómez and Tejada (2009).

A player's value is the mean, over random orders of all players, of what it adds to those before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import positive_integer
from shapkit.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.moments import RunningMoments
from shapkit.games import Game
from shapkit.randomness import counter_permutations

_CHUNK_ROWS = 2**16  # coalitions the game sees at once, at most
_CHUNK_FLOATS = 2**22  # payoff elements held at once, about


def sample_permutations(game: Game, budget: int, seed: int = 0) -> Attribution:
    """Return Shapley values estimated from as many random permutations as `budget` evaluations pay for.

    Castro, Gómez and Tejada (2009), as published: permutations are independent and uniform, and every
    marginal contribution counts once. The empty and the grand coalition are evaluated once, so C permutations
    cost 2 + C (n_players - 1) evaluations. The estimate is unbiased and its sum is the grand coalition's
    payoff less the empty one's, for every C.

    Args:
        game: any number of players.
        budget: the most evaluations to spend; at least n_players + 1.
        seed: an integer in [0, 2**64). It fixes the permutations, whatever the game's batch size.

    Returns:
        an Attribution with values and standard_errors (n_players, *output_shape) in the unit of the payoff. A
        standard error is the sample standard deviation over permutations / √C: NaN if the budget pays only
        one permutation.

    Raises:
        ValueError: the budget does not pay one permutation, the seed is not as described, or what `Game`
            raises.

    >>> import shapkit
    >>> phi = sample_permutations(shapkit.weighted_voting([4, 4, 4, 2, 2, 1], quota=12), budget=5_002)
    >>> phi.n_evaluations, float(phi.values.sum().round(12)), bool(phi.standard_errors.max() < 0.02)
    (5002, 1.0, True)
    """
    n_players = game.n_players
    n_permutations = permutations_paid_by(budget, n_players)
    n_before = game.n_evaluations
    empty, grand = game(np.array([[False] * n_players, [True] * n_players]))
    chunk = _permutations_per_chunk(n_players, empty.size)
    moments = RunningMoments()
    for first in range(0, n_permutations, chunk):
        numbers = np.arange(first, min(first + chunk, n_permutations))
        orders = counter_permutations(seed, numbers, n_players)
        moments.add(_marginals(game, orders, empty, grand))
    return Attribution(
        values=moments.mean,
        standard_errors=moments.standard_error(),
        empty_value=empty.copy(),
        grand_value=grand.copy(),
        n_evaluations=game.n_evaluations - n_before,
        names=game.names,
        index="shapley",
        method="permutation",
    )


def permutations_paid_by(budget: int, n_players: int) -> int:
    """Return how many permutations `budget` evaluations pay for.

    Raises:
        ValueError: not even one.

    >>> permutations_paid_by(22, n_players=11)
    2
    """
    budget = positive_integer("budget", budget)
    if budget < n_players + 1:
        raise ValueError(
            f"budget is {budget} evaluations, expected at least n_players + 1 = {n_players + 1}: "
            "one permutation needs its n_players - 1 prefixes and the empty and the grand coalition"
        )
    if n_players == 1:
        return 2  # both are free and equal, so that the standard error is the zero it should be
    return (budget - 2) // (n_players - 1)


def prefixes(orders: NDArray[np.int64]) -> Coalitions:
    """Return the proper, non-empty prefixes of permutations.

    Args:
        orders: int array (n_permutations, n_players).

    Returns:
        bool array (n_players - 1, n_permutations, n_players): [k, p] holds the first k + 1 players of
        permutation p.

    >>> prefixes(np.array([[2, 0, 1]])).astype(int)
    array([[[0, 0, 1]],
    <BLANKLINE>
           [[1, 0, 1]]])
    """
    n_players = orders.shape[1]
    positions = np.argsort(orders, axis=1)
    return np.asarray(positions[None] <= np.arange(n_players - 1)[:, None, None])


def _marginals(
    game: Game, orders: NDArray[np.int64], empty: NDArray[np.float64], grand: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Each player's marginal contribution in each permutation: (n_permutations, n_players, *output_shape)."""
    n_permutations, n_players = orders.shape
    payoffs = np.empty((n_players + 1, n_permutations, *empty.shape))
    payoffs[0], payoffs[-1] = empty, grand
    if n_players > 1:
        # Column by column, all permutations' first players, then their first two, for large batches.
        walked = prefixes(orders).reshape(-1, n_players)
        payoffs[1:-1] = game(walked).reshape(n_players - 1, n_permutations, *empty.shape)
    by_position = np.moveaxis(np.diff(payoffs, axis=0), 0, 1)
    by_player = np.empty_like(by_position)
    by_player[np.arange(n_permutations)[:, None], orders] = by_position
    return by_player


def _permutations_per_chunk(n_players: int, payoff_size: int) -> int:
    """Depends on the problem only: chunks decide the order of sums, and so the last bits of the result."""
    rows = min(_CHUNK_ROWS, _CHUNK_FLOATS // payoff_size)
    return max(1, rows // n_players)
