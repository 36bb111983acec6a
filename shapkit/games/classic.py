"""Games of the literature whose values are known in closed form: for teaching, and for testing estimators.

Their payoffs are the same to the last bit however coalitions are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit._checks import checked_integer, checked_names, player_index, real_array
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.game import Game


def weighted_voting(
    weights: ArrayLike, quota: float, names: Sequence[str] | None = None, batch_size: int | None = None
) -> Game:
    """Return the voting game in which a coalition is worth 1 when its weights sum to `quota` or more, else 0.

    Its Shapley value is the power index of Shapley and Shubik (1954).

    Args:
        weights: finite numbers (n_players,). Sums are taken in float64, in which integers are exact.
        quota: a finite number, in the unit of the weights.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: `weights` is not a list of finite numbers, or `quota` is not finite.

    >>> game = weighted_voting([2, 1, 1], quota=3)
    >>> game(np.array([[True, False, True], [False, True, True]]))
    array([1., 0.])
    """
    weight = _numbers("weights", weights, "finite")
    return Game(partial(_voting, weight, _number("quota", quota)), len(weight), names, batch_size)


def airport_game(costs: ArrayLike, names: Sequence[str] | None = None, batch_size: int | None = None) -> Game:
    """Return the game of sharing a runway: a coalition costs what the longest runway that one of it needs costs.

    Littlechild and Owen (1973): with players in the order of their costs, player i's Shapley value is the sum over
    k = 1, ..., i of (c_k - c_(k-1)) / (n - k + 1), with c_0 = 0.

    Args:
        costs: finite numbers (n_players,), none negative: the cost of the runway that each player needs.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: `costs` is not a list of such numbers.

    >>> game = airport_game([1, 2, 5])
    >>> game(np.array([[True, True, False], [False, False, False]]))
    array([2., 0.])
    """
    cost = _numbers("costs", costs, "finite, non-negative")
    return Game(partial(_airport, cost), len(cost), names, batch_size)


def glove_game(left: int, right: int, names: Sequence[str] | None = None, batch_size: int | None = None) -> Game:
    """Return the market in which a coalition is worth the pairs of gloves that it can make.

    Shapley and Shubik (1969): the first `left` players own a left glove each, the other `right` a right one.

    Args:
        left, right: how many players own each kind, 0 or more.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: `left` or `right` is not such a number.

    >>> game = glove_game(left=1, right=2)
    >>> game(np.array([[True, True, True], [False, True, True]]))
    array([1., 0.])
    """
    left, right = checked_integer("left", left, least=0), checked_integer("right", right, least=0)
    return Game(partial(_gloves, left), left + right, names, batch_size)


def bankruptcy_game(
    estate: float, claims: ArrayLike, names: Sequence[str] | None = None, batch_size: int | None = None
) -> Game:
    """Return the game in which a coalition is worth what is left of the estate once all others have been paid.

    O'Neill (1982): max(0, estate less the claims of those outside). The Shapley value is each claimant's mean
    payment over the orders of arrival, first come, first served, where the claims reach the estate.

    Args:
        estate: a finite number, not negative.
        claims: finite numbers (n_players,), none negative, in the unit of the estate.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: `estate` is not such a number, or `claims` not a list of them.

    >>> game = bankruptcy_game(200, claims=[100, 200, 300])
    >>> game(np.array([[False, True, True], [True, True, False]]))
    array([100.,   0.])
    """
    claim = _numbers("claims", claims, "finite, non-negative")
    worth = _number("estate", estate)
    if worth < 0:
        raise ValueError(f"estate must not be negative, got {estate!r}")
    return Game(partial(_bankruptcy, worth, claim), len(claim), names, batch_size)


def unanimity_sum(
    n_players: int,
    carriers: Sequence[Sequence[int | str]],
    weights: ArrayLike,
    names: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> Game:
    """Return the game in which a coalition is worth the sum of the weights of the carriers that are in it.

    Every game is such a sum, and the weights are its dividends (Harsanyi 1963). The Shapley value shares each
    weight equally among the players of its carrier.

    Args:
        n_players: as for `Game`.
        carriers: for each weight the players, by index or by name, who must all be present; an empty one always is.
        weights: finite numbers (n_carriers, *output_shape); the payoff has their output_shape.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: a carrier names no player, or one twice, or `weights` is not as described.

    >>> game = unanimity_sum(3, carriers=[[0], [0, 2]], weights=[1, 10])
    >>> game(np.array([[True, True, False], [True, False, True], [False, True, True]]))
    array([ 1., 11.,  0.])
    """
    players = checked_names(names, checked_integer("n_players", n_players, least=0))
    members = [_carrier(carrier, players) for carrier in carriers]
    weight = real_array(weights, "weights")
    if weight.ndim == 0 or len(weight) != len(members):
        raise ValueError(
            f"weights has shape {weight.shape}, expected ({len(members)}, ...): one weight for each of the "
            f"{len(members)} carriers, along the first axis"
        )
    if not np.isfinite(weight).all():
        raise ValueError("weights must be finite numbers, got NaN or infinity among them")
    return Game(partial(_unanimity, members, weight.copy()), len(players), names, batch_size)


def _voting(weights: Payoffs, quota: float, coalitions: Coalitions) -> NDArray[np.bool_]:
    return np.asarray(_sums(coalitions, weights) >= quota)


def _airport(costs: Payoffs, coalitions: Coalitions) -> Payoffs:
    dearest_first = np.argsort(-costs)
    first = coalitions[:, dearest_first].argmax(axis=1)
    return np.where(coalitions.any(axis=1), costs[dearest_first[first]], 0.0)


def _gloves(left: int, coalitions: Coalitions) -> NDArray[Any]:
    n_left, n_right = coalitions[:, :left].sum(axis=1), coalitions[:, left:].sum(axis=1)
    return np.asarray(np.minimum(n_left, n_right))


def _bankruptcy(estate: float, claims: Payoffs, coalitions: Coalitions) -> Payoffs:
    return np.maximum(0.0, estate - _sums(~coalitions, claims))


def _unanimity(carriers: list[list[int]], weights: Payoffs, coalitions: Coalitions) -> Payoffs:
    payoffs = np.zeros((len(coalitions), *weights.shape[1:]))
    for carrier, weight in zip(carriers, weights, strict=True):
        payoffs[coalitions[:, carrier].all(axis=1)] += weight
    return payoffs


def _sums(coalitions: Coalitions, weights: Payoffs) -> Payoffs:
    """The weight of each coalition, added player by player.

    The last bits of a matrix product may depend on how many rows it has; it takes as long.
    """
    sums = np.zeros(len(coalitions))
    for members, weight in zip(np.ascontiguousarray(coalitions.T), weights, strict=True):
        sums += members * weight
    return sums


def _numbers(argument: str, numbers: ArrayLike, kind: str) -> Payoffs:
    """`numbers` as an array (n_players,), of which at least one and all of that kind."""
    array = real_array(numbers, argument)
    ok = array.ndim == 1 and len(array) > 0 and np.isfinite(array).all()
    if not ok or ("non-negative" in kind and array.min() < 0):
        raise ValueError(f"{argument} must be a list of {kind} numbers, one per player, got {numbers!r}")
    return array.copy()  # so that the game does not change with the caller's array


def _number(argument: str, number: float) -> float:
    array = np.asarray(number)
    if array.ndim or array.dtype.kind not in "biuf" or not np.isfinite(array):
        raise ValueError(f"{argument} must be a finite number, got {number!r}")
    return float(number)


def _carrier(carrier: Sequence[int | str], names: Sequence[str]) -> list[int]:
    if isinstance(carrier, str) or not isinstance(carrier, Sequence | np.ndarray | set | frozenset):
        raise ValueError(f"carriers must be sequences of players, got {carrier!r} among them")
    players = sorted(player_index(player, names) for player in carrier)
    if len(set(players)) < len(players):
        raise ValueError(f"a carrier has each of its players once, got {carrier!r}")
    return players
