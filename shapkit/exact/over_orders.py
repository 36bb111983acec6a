"""Exact values over random orders that are not all equally likely, from the coalitions that can come first in them."""

from __future__ import annotations

from itertools import islice

import numpy as np

from shapkit.attribution.attribution import Attribution
from shapkit.exact.blocks import block_rows
from shapkit.games.game import Game
from shapkit.orders import Orders
from shapkit.progress import evaluations_bar


def exact_over_orders(game: Game, orders: Orders, progress: bool = False) -> Attribution:
    """Return what each player adds to those before it, in the mean over all orders.

    A value is a sum over coalitions S of v(S), times the probability that the player was the last of S less the
    probability that it comes next. Only coalitions that can come first are evaluated: of four groups of five players
    under `Hierarchy`, 976 of 2**20.

    Args:
        game: as for `exact`.
        orders: a `shapkit.Hierarchy`, `shapkit.Weights` or `shapkit.Precedence`.
        progress: show a bar with an estimate of the time left.

    Returns:
        an Attribution without standard errors, whose `index` is that of the orders; values sum to the grand
        coalition's payoff less the empty one's.

    Raises:
        ValueError: the orders are not of this game's players, there are too many coalitions, or what `Game` raises.

    >>> from shapkit import Hierarchy, weighted_voting
    >>> exact_over_orders(weighted_voting([2, 1, 1], quota=3), Hierarchy([[1, 2]])).values
    array([0.5 , 0.25, 0.25])
    """
    bound = orders.of(game.names)
    with game.counted() as n_evaluations, evaluations_bar("exact", bound.n_prefixes(), progress) as done:
        empty = grand = game(np.zeros((1, game.n_players), dtype=np.bool_))[0]
        step = block_rows(game.n_players, empty.size)
        values = np.zeros((game.n_players, empty.size))
        for members, last, following in islice(bound.steps(), 1, None):
            weights = (last - following).T
            for first in range(0, len(members), step):
                payoffs = game(members[first : first + step])
                values += weights[:, first : first + step] @ (payoffs - empty).reshape(len(payoffs), -1)
                done(len(payoffs))
            grand = payoffs[-1]
        n_asked = n_evaluations()
    return Attribution(
        values=values.reshape(-1, *empty.shape),
        standard_errors=None,
        empty_value=empty.copy(),
        grand_value=grand.copy(),
        n_evaluations=n_asked,
        names=game.names,
        index=orders.index,
        method="exact",
        stopped_by="all coalitions",
    )
