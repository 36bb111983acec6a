"""Orders in which some players come before others: the asymmetric Shapley values of Frye, Rowat and Feige (2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from shapkit._checks import player_index
from shapkit.coalitions import Coalitions
from shapkit.orders.base import MOST_PREFIXES, BoundOrders, Floats, Orders, check_prefixes, distinct
from shapkit.randomness import counter_bits, counter_uniform

Player: TypeAlias = int | str


class Precedence(Orders):
    """All orders, equally likely, in which each player comes after those that must come before it.

    Causes come before their effects, so that what a cause does through its effects counts as the cause's: the
    asymmetric Shapley value of Frye, Rowat and Feige (2020).

    Args:
        after: for each player, by name or index, those that must come before it; players that are not named are free.
            Or layers, a list of lists: all of a layer come before all of the next.

    Raises:
        ValueError: a player would come before itself, or neither form is given.

    >>> import shapkit
    >>> needs_both = shapkit.unanimity_sum(2, [(0, 1)], [6.0], names=["cause", "effect"])
    >>> shapkit.exact(needs_both, orders=Precedence({"effect": ["cause"]})).values
    array([0., 6.])
    """

    index = "asymmetric_shapley"
    reversible = False

    def __init__(self, after: Mapping[Player, Sequence[Player]] | Sequence[Sequence[Player]]) -> None:
        if isinstance(after, Mapping):
            pairs = [(player, _listed(before, f"after[{player!r}]")) for player, before in after.items()]
        else:
            layers = [_listed(layer, f"after[{at}]") for at, layer in enumerate(_listed(after, "after"))]
            pairs = [(p, before) for before, layer in pairwise(layers) for p in layer]
        self.after = pairs

    def of(self, names: Sequence[str]) -> BoundOrders:
        n_players = len(names)
        before = np.zeros((n_players, n_players), dtype=np.bool_)
        for player, earlier in self.after:
            earlier_ones = [player_index(other, names) for other in earlier]
            before[earlier_ones, player_index(player, names)] = True
        try:
            graph = {player: np.flatnonzero(before[:, player]).tolist() for player in range(n_players)}
            sequence = list(TopologicalSorter[int](graph).static_order())
        except CycleError as error:
            cycle = " before ".join(names[player] for player in error.args[1])
            raise ValueError(f"after has players before themselves: {cycle}") from None
        for at in sequence:  # whoever is before one of its predecessors is before it, too
            before[:, at] |= before[:, before[:, at]].any(axis=1)
        return _Preceded(before)

    def __repr__(self) -> str:
        return f"Precedence({dict(self.after)})"


class _Preceded(BoundOrders):
    """
    Args:
        before: (n_players, n_players), whether the row's player is before the column's, whatever is between them.
    """

    def __init__(self, before: NDArray[np.bool_]) -> None:
        super().__init__(len(before))
        self.before = before

    @cached_property
    def _part(self) -> Any:
        return _part_of(np.arange(self.n_players), self.before)

    @cached_property
    def _lattice(self) -> _Lattice:
        return self._part.lattice if isinstance(self._part, _Entangled) else _Lattice.of(self.before)

    def n_prefixes(self) -> int:
        return int(min(_n_prefixes(self._part), MOST_PREFIXES + 1))

    def drawn(self, seed: int, numbers: ArrayLike) -> NDArray[np.int64]:
        numbers = np.asarray(numbers)
        if self.n_players == 0:
            return np.empty((len(numbers), 0), dtype=np.int64)
        keys = counter_bits(seed, numbers[:, None], np.arange(self.n_players))
        return _drawn(self._part, int(counter_bits(seed, 0)), numbers, keys)

    def steps(self) -> Iterator[tuple[Coalitions, Floats, Floats]]:
        check_prefixes(self.n_prefixes(), "these players")
        yield from self._lattice.steps()


@dataclass(frozen=True)
class _One:
    players: NDArray[np.intp]


@dataclass(frozen=True)
class _Series:
    """Parts of which all players of one come before all of the next."""

    parts: list[Any]


@dataclass(frozen=True)
class _Parallel:
    """Parts whose players are free of each other."""

    parts: list[Any]


@dataclass(frozen=True)
class _Entangled:
    """Players that come apart in neither way: their orders are counted one coalition at a time."""

    players: NDArray[np.intp]
    before: NDArray[np.bool_]

    @cached_property
    def lattice(self) -> _Lattice:
        return _Lattice.of(self.before)


def _part_of(players: NDArray[np.intp], before: NDArray[np.bool_]) -> Any:
    if len(players) < 2:
        return _One(players)
    n_free, free = connected_components(before, directed=False)
    if n_free > 1:
        groups = [free == part for part in range(n_free)]
        return _Parallel([_part_of(players[own], before[np.ix_(own, own)]) for own in groups])
    comparable = before | before.T | np.eye(len(players), dtype=np.bool_)
    n_series, series = connected_components(~comparable, directed=False)
    if n_series > 1:
        groups = [series == part for part in range(n_series)]
        groups.sort(key=lambda own: int(before[:, own].any(axis=1).sum()))
        return _Series([_part_of(players[own], before[np.ix_(own, own)]) for own in groups])
    return _Entangled(players, before)


def _n_prefixes(part: Any) -> int:
    if isinstance(part, _One):
        return int(2 ** len(part.players))
    if isinstance(part, _Entangled):
        return sum(len(layer.members) for layer in part.lattice.layers)
    counts = [_n_prefixes(inner) for inner in part.parts]
    if isinstance(part, _Series):
        return sum(count - 1 for count in counts) + 1
    product = 1
    for count in counts:
        product *= count
    return product


def _drawn(part: Any, seed: int, numbers: NDArray[Any], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Orders (n_orders, n_players of the part)."""
    if isinstance(part, _One):
        return np.broadcast_to(part.players, (len(numbers), len(part.players)))
    if isinstance(part, _Entangled):
        uniform = counter_uniform(seed, numbers[:, None], part.players)
        return np.asarray(part.players[part.lattice.drawn(uniform)])
    inner = [_drawn(within, seed, numbers, keys) for within in part.parts]
    if isinstance(part, _Series):
        return np.concatenate(inner, axis=1)
    # Players of a part take its places in their order: all ways to place the parts are equally likely
    places = np.concatenate([np.sort(np.take_along_axis(keys, orders, axis=1), axis=1) for orders in inner], axis=1)
    return np.take_along_axis(np.concatenate(inner, axis=1), np.argsort(places, axis=1, kind="stable"), axis=1)


@dataclass(frozen=True)
class _Layer:
    """The coalitions of one size that can come first.

    Attributes:
        members: (n_coalitions, n_players).
        rows, players: (n_steps,), each coalition and each player that may come next.
        targets: (n_steps,), which coalition of the next layer that makes.
        orders_before: (n_coalitions,), how many orders lead there, as a share of all that lead to this layer.
        orders_after: (n_coalitions,), how many lead on from there, as a share of the largest.
    """

    members: Coalitions
    rows: NDArray[np.intp]
    players: NDArray[np.intp]
    targets: NDArray[np.intp]
    orders_before: Floats
    orders_after: Floats


@dataclass(frozen=True)
class _Lattice:
    """All coalitions that can come first, and how many orders go through each."""

    layers: list[_Layer]

    @classmethod
    def of(cls, before: NDArray[np.bool_]) -> _Lattice:
        n_players = len(before)
        members, found, total = np.zeros((1, n_players), dtype=np.bool_), [], 1
        counts: Floats = np.ones(1)
        for _ in range(n_players):
            lacking = (~members).astype(np.float32) @ before.astype(np.float32)  # predecessors that are not there yet
            rows, players = np.nonzero(~members & (lacking == 0))
            joined = members[rows]
            joined[np.arange(len(rows)), players] = True
            first, targets = distinct(joined)
            total += len(first)
            check_prefixes(total, "these players")
            found.append((members, rows, players, targets, counts))
            counts = np.bincount(targets, counts[rows], minlength=len(first)).astype(np.float64)
            counts = counts / counts.sum()
            members = joined[first]
        none: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        after: Floats = np.ones(1)
        layers = [_Layer(members, none, none, none, counts, after)]
        for members, rows, players, targets, counts in reversed(found):
            after = np.bincount(rows, after[targets], minlength=len(members)).astype(np.float64)
            after = after / after.max()
            layers.append(_Layer(members, rows, players, targets, counts, after))
        return cls(layers[::-1])

    def steps(self) -> Iterator[tuple[Coalitions, Floats, Floats]]:
        n_players = self.layers[0].members.shape[1]
        arriving = np.zeros((1, n_players))
        for layer, following in zip(self.layers, [*self.layers[1:], None], strict=True):
            leaving = np.zeros(layer.members.shape)
            if following is not None:
                through = layer.orders_before[layer.rows] * following.orders_after[layer.targets]
                leaving[layer.rows, layer.players] = through / through.sum()
            yield layer.members, arriving, leaving
            if following is not None:
                arriving = np.zeros(following.members.shape)
                arriving[layer.targets, layer.players] = leaving[layer.rows, layer.players]

    def drawn(self, uniform: Floats) -> NDArray[np.int64]:
        """Return orders, of numbers uniform in [0, 1), (n_orders, n_players): one for each step."""
        at = np.zeros(len(uniform), dtype=np.intp)
        orders = np.empty(uniform.shape, dtype=np.int64)
        for step, (layer, following) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            cumulated = np.cumsum(following.orders_after[layer.targets])  # steps are in the order of their rows
            first, last = (np.searchsorted(layer.rows, at, side=side) for side in ("left", "right"))
            low = np.where(first > 0, cumulated[first - 1], 0)
            wanted = low + uniform[:, step] * (cumulated[last - 1] - low)
            taken = np.clip(np.searchsorted(cumulated, wanted, side="right"), first, last - 1)
            orders[:, step] = layer.players[taken]
            at = layer.targets[taken]
        return orders


def _listed(players: Any, where: str) -> list[Any]:
    if isinstance(players, str) or not isinstance(players, list | tuple | set | np.ndarray):
        raise ValueError(f"{where} must be a list, got {players!r}")
    return list(players)
