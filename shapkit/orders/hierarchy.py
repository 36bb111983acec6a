"""Orders in which groups stay together: Owen (1977) for groups, Winter (1989) for groups in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit._checks import player_index
from shapkit.coalitions import Coalitions
from shapkit.orders.base import BoundOrders, Floats, Orders, check_prefixes, walked
from shapkit.randomness import counter_bits

Tree: TypeAlias = Any
"""A player, by name or index, or a list (or mapping of group names) of trees."""


class Hierarchy(Orders):
    """All orders, equally likely, in which the players of each group come one right after the other.

    With one level of groups the values are Owen's (1977), with groups in groups Winter's (1989), which shap's partition
    explainer works out for pairs in pairs. A group's players share what the group gets among the groups.

    Args:
        groups: a list of groups, or a mapping of their names; a group is a list of players, by name or index, and of
            further groups. Players that are in none stand alone.

    Raises:
        ValueError: a group is empty or no list.

    >>> import shapkit
    >>> voting = shapkit.weighted_voting([2, 1, 1, 1], quota=3, names=["a", "b", "c", "d"])
    >>> shapkit.exact(voting, orders=Hierarchy([["b", "c", "d"]])).values.round(4)
    array([0.    , 0.3333, 0.3333, 0.3333])
    >>> nested = shapkit.exact(voting, orders=Hierarchy([[["b", "c"], "d"]]))
    >>> nested.index, nested.values.round(4)
    ('winter', array([0.  , 0.25, 0.25, 0.5 ]))
    """

    reversible = True

    def __init__(self, groups: Sequence[Tree] | Mapping[str, Tree]) -> None:
        self.tree = _checked_tree(groups, "groups")
        self.index = "winter" if any(_depth(group) > 1 for group in self.tree) else "owen"

    def of(self, names: Sequence[str]) -> BoundOrders:
        seen: dict[int, None] = {}
        tree = _with_indices(self.tree, names, seen)
        alone = [player for player in range(len(names)) if player not in seen]
        return _Grouped((*tree, *alone), len(names))

    def __repr__(self) -> str:
        return f"Hierarchy({_as_lists(self.tree)})"


class _Grouped(BoundOrders):
    def __init__(self, tree: tuple[Any, ...], n_players: int) -> None:
        super().__init__(n_players)
        self.tree = tree

    def n_prefixes(self) -> int:
        return _n_prefixes(self.tree)

    def drawn(self, seed: int, numbers: ArrayLike) -> NDArray[np.int64]:
        numbers = np.asarray(numbers)
        if self.n_players == 0:
            return np.empty((len(numbers), 0), dtype=np.int64)
        return _drawn(self.tree, seed, numbers, count())

    def steps(self) -> Iterator[tuple[Coalitions, Floats, Floats]]:
        check_prefixes(self.n_prefixes(), "these groups")
        members = np.zeros((1, self.n_players), dtype=np.bool_)
        arriving = np.zeros((1, self.n_players))
        probability = np.ones(1)
        for _ in range(self.n_players):
            following = probability[:, None] * _next_player(self.tree, members)
            yield members, arriving, following
            members, arriving = walked(members, following)
            probability = arriving.sum(axis=1)
        yield members, arriving, np.zeros((1, self.n_players))


def _depth(tree: Any) -> int:
    """How many levels of groups a tree has; a group of one part is that part."""
    if not isinstance(tree, tuple):
        return 0
    return max(map(_depth, tree)) + (len(tree) > 1)


def _players(tree: Any) -> list[int]:
    return [player for part in tree for player in _players(part)] if isinstance(tree, tuple) else [tree]


def _n_prefixes(tree: Any) -> int:
    """How many coalitions can come first: some parts are in as a whole, and one of the others in part."""
    if not isinstance(tree, tuple):
        return 2
    proper = sum(_n_prefixes(part) - 2 for part in tree)
    return int(2 ** len(tree) + proper * 2 ** (len(tree) - 1))


def _next_player(tree: tuple[Any, ...], members: Coalitions) -> Floats:
    """The probability of each player to come next (n_coalitions, n_players); all 0 where all of the tree are in."""
    n_in = np.stack([members[:, _players(part)].sum(axis=1) for part in tree], axis=1)
    sizes = np.array([len(_players(part)) for part in tree])
    begun = (n_in > 0) & (n_in < sizes)
    open_parts = np.where(begun.any(axis=1, keepdims=True), begun, n_in == 0)
    chosen = open_parts / np.maximum(open_parts.sum(axis=1, keepdims=True), 1)
    found = np.zeros(members.shape)
    for at, part in enumerate(tree):
        if not isinstance(part, tuple):
            found[:, part] = chosen[:, at]
            continue
        rows = np.flatnonzero(chosen[:, at])
        found[rows] += chosen[rows, at, None] * _next_player(part, members[rows])
    return found


def _drawn(tree: tuple[Any, ...], seed: int, numbers: NDArray[Any], node: Iterator[int]) -> NDArray[np.int64]:
    """Orders (n_orders, n_players of the tree): of each part, drawn, and the parts in a random order."""
    keys = counter_bits(seed, next(node), numbers[:, None], np.arange(len(tree)))
    parts = [
        _drawn(part, seed, numbers, node) if isinstance(part, tuple) else np.full((len(numbers), 1), part)
        for part in tree
    ]
    rank = np.argsort(np.argsort(keys, axis=1, kind="stable"), axis=1)
    position = np.concatenate([np.repeat(rank[:, [at]], p.shape[1], axis=1) for at, p in enumerate(parts)], axis=1)
    players = np.concatenate(parts, axis=1)
    return np.take_along_axis(players, np.argsort(position, axis=1, kind="stable"), axis=1)


def _checked_tree(tree: Any, where: str) -> tuple[Any, ...]:
    """Groups as tuples, their names left out."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, str) or not isinstance(tree, list | tuple | np.ndarray) or len(tree) == 0:
        raise ValueError(f"{where} must be a list of players or of groups, with at least one, got {tree!r}")
    return tuple(
        _checked_tree(part, f"{where}[{at}]") if isinstance(part, list | tuple | np.ndarray | Mapping) else part
        for at, part in enumerate(tree)
    )


def _with_indices(tree: Any, names: Sequence[str], seen: dict[int, None]) -> tuple[Any, ...]:
    """The tree of players' indices; each player once. A group of one part is that part."""
    found: list[Any] = []
    for part in tree:
        if isinstance(part, tuple):
            inner = _with_indices(part, names, seen)
            found.append(inner[0] if len(inner) == 1 else inner)
            continue
        player = player_index(part, names)
        if player in seen:
            raise ValueError(f"groups has player {names[player]!r} more than once, expected each at most once")
        seen[player] = None
        found.append(player)
    return tuple(found)


def _as_lists(tree: Any) -> Any:
    return [_as_lists(part) for part in tree] if isinstance(tree, tuple) else tree
