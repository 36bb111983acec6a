"""Estimates of Shapley values from fewer evaluations than there are coalitions, one file per family.

`estimate` is the way in by name; `explain` decides between the exact values and an estimate.
"""

from __future__ import annotations

from typing import Literal, get_args

from shapkit._checks import positive_integer
from shapkit.attribution import Attribution
from shapkit.estimators.permutation import sample_permutations
from shapkit.exact import MAX_EXACT_PLAYERS, exact
from shapkit.games import Game

Method = Literal["permutation"]

DEFAULT_BUDGET = 2**16


def estimate(game: Game, budget: int, method: Method = "permutation", seed: int = 0) -> Attribution:
    """Return estimated Shapley values with standard errors, from at most `budget` evaluations.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate.
        method: "permutation", Castro, Gómez and Tejada (2009): see `shapkit.estimators.permutation`.
        seed: an integer in [0, 2**64). The same seed gives the same numbers for every batch size of the game.

    Returns:
        an Attribution with values and standard_errors (n_players, *output_shape) in the unit of the payoff.

    Raises:
        ValueError: an unknown method, a budget that is too small for it, a bad seed, or what `Game` raises.

    >>> import shapkit
    >>> phi = estimate(shapkit.table_game([0, 1, 2, 5]), budget=402)
    >>> phi.method, phi.n_evaluations, float(phi.values.sum())
    ('permutation', 402, 5.0)
    """
    if method == "permutation":
        return sample_permutations(game, budget, seed)
    raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}")


def explain(game: Game, budget: int | None = None, seed: int = 0) -> Attribution:
    """Return Shapley values, exact where `budget` pays for all coalitions and estimated otherwise.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate; by default 2**16, which is exact for up to 16 players.
        seed: as for `estimate`; exact values do not depend on it.

    Returns:
        an Attribution with values (n_players, *output_shape) in the unit of the payoff. Its `method` says
        which way was taken; `standard_errors` is None when the values are exact.

    Raises:
        ValueError: the budget is too small even for an estimate, a bad seed, or what `Game` raises.

    >>> import shapkit
    >>> explain(shapkit.table_game([0, 1, 2, 5])).method
    'exact'
    >>> explain(shapkit.weighted_voting(range(20), quota=100), budget=500).method
    'permutation'
    """
    budget = DEFAULT_BUDGET if budget is None else positive_integer("budget", budget)
    if game.n_players <= MAX_EXACT_PLAYERS and 2**game.n_players <= budget:
        return exact(game)
    return estimate(game, budget, seed=seed)


__all__ = ["DEFAULT_BUDGET", "Method", "estimate", "explain", "sample_permutations"]
