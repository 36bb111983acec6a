"""What every kind of random order can do: be drawn, and be walked with exact probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit.coalitions import Coalitions

Floats = NDArray[np.float64]

MOST_PREFIXES = 2**22
"""Coalitions that exact values may need: they are told apart in memory."""


class Orders(ABC):
    """A distribution of orders of the players of a game.

    Attributes:
        index: what values over these orders are called.
        reversible: whether an order backwards is as likely as forwards, so that antithetic pairs estimate the same.
    """

    index: str
    reversible: bool

    @abstractmethod
    def of(self, names: Sequence[str]) -> BoundOrders:
        """Return the orders of the players with these names.

        Raises:
            ValueError: they are not the players that this speaks of.
        """


class BoundOrders(ABC):
    """Orders of known players."""

    def __init__(self, n_players: int) -> None:
        self.n_players = n_players

    @abstractmethod
    def drawn(self, seed: int, numbers: ArrayLike) -> NDArray[np.int64]:
        """Return orders (n_orders, n_players), those with the given numbers (n_orders,) of this seed."""

    @abstractmethod
    def steps(self) -> Iterator[tuple[Coalitions, Floats, Floats]]:
        """Yield the coalitions that can come first in an order, by size, from the empty to the grand one.

        Each time: coalitions (n_coalitions, n_players); for each of them and each player, (n_coalitions, n_players),
        the probability that an order begins with the coalition and the player came last; and that an order begins with
        it and the player is next. The first of the empty coalition and the second of the grand one are 0.

        Raises:
            ValueError: there are too many of them, more than `MOST_PREFIXES`.
        """

    @abstractmethod
    def n_prefixes(self) -> int:
        """Return how many coalitions `steps` yields, or an upper bound."""


def walked(step: Coalitions, leaving: Floats) -> tuple[Coalitions, Floats]:
    """Return the coalitions of the next size, each once, and with what probability each came from which player.

    Args:
        step: coalitions (n_coalitions, n_players).
        leaving: like it, the probability that the order comes through the coalition and that the player is changed
            next: joins if it is not a member, leaves if it is.

    >>> members, arriving = walked(np.array([[True, False], [False, True]]), np.array([[0, 0.25], [0.75, 0]]))
    >>> members.tolist(), arriving.tolist()
    ([[True, True]], [[0.75, 0.25]])
    """
    rows, players = np.nonzero(leaving)
    changed = step[rows]
    changed[np.arange(len(rows)), players] ^= True
    first, number = distinct(changed)
    arriving = np.zeros((len(first), step.shape[1]))
    np.add.at(arriving, (number, players), leaving[rows, players])
    return changed[first], arriving


def distinct(members: Coalitions) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first row of each coalition among rows (n_rows, n_players), and which of these each row is.

    >>> first, number = distinct(np.array([[True], [False], [True]]))
    >>> number.tolist() in ([0, 1, 0], [1, 0, 1]), sorted(first.tolist())
    (True, [0, 1])
    """
    packed = np.packbits(members, axis=1)
    keys = packed.view(f"V{packed.shape[1]}").ravel()
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return first, number


def check_prefixes(n_prefixes: int, what: str) -> None:
    """Raise a ValueError where exact values need more coalitions than are told apart in memory."""
    if n_prefixes > MOST_PREFIXES:
        raise ValueError(
            f"{what} have more than {MOST_PREFIXES:,} coalitions that can come first: exact values are out of reach, "
            "sample instead: shapkit.estimate(game, budget=..., orders=...)"
        )
