"""Orders of players with weights: Shapley (1953), Kalai and Samet (1987)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit._checks import player_index
from shapkit.coalitions import Coalitions
from shapkit.orders.base import BoundOrders, Floats, Orders, check_prefixes, walked
from shapkit.randomness import counter_uniform


class Weights(Orders):
    """The last of all players is drawn with a probability in proportion to its weight, then the last of the others, ...

    So what players of a unanimity game share, they share in proportion to their weights: the weighted Shapley value of
    Kalai and Samet (1987). Equal weights give the Shapley value.

    Args:
        weights: of the players, positive: by name, or one for each in order.

    Raises:
        ValueError: a weight is not a positive number.

    >>> import shapkit
    >>> needs_both = shapkit.unanimity_sum(2, [(0, 1)], [6.0], names=["a", "b"])
    >>> shapkit.exact(needs_both, orders=Weights({"a": 2, "b": 1})).values
    array([4., 2.])
    """

    index = "weighted_shapley"
    reversible = False

    def __init__(self, weights: Mapping[str, float] | Sequence[float] | NDArray[np.float64]) -> None:
        self.names = tuple(weights) if isinstance(weights, Mapping) else None
        given = list(weights.values()) if isinstance(weights, Mapping) else weights
        try:
            numbers = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"weights must be numbers, got {weights!r}") from None
        if numbers.ndim != 1 or not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise ValueError(f"weights must be positive numbers, one for each player, got {weights!r}")
        self.weights = numbers

    def of(self, names: Sequence[str]) -> BoundOrders:
        if len(self.weights) != len(names):
            raise ValueError(f"weights has {len(self.weights)} entries, expected one for each of {len(names)} players")
        if self.names is None:
            return _Weighted(self.weights)
        placed = np.empty_like(self.weights)
        for name, weight in zip(self.names, self.weights, strict=True):
            placed[player_index(name, names)] = weight
        return _Weighted(placed)

    def __repr__(self) -> str:
        shown = self.weights.tolist()
        return f"Weights({dict(zip(self.names, shown, strict=True)) if self.names else shown})"


class _Weighted(BoundOrders):
    def __init__(self, weights: Floats) -> None:
        super().__init__(len(weights))
        self.logarithms = np.log(weights)  # so that weights of any size can stand beside each other

    def n_prefixes(self) -> int:
        return int(2**self.n_players)

    def drawn(self, seed: int, numbers: ArrayLike) -> NDArray[np.int64]:
        # Of independent exponential times with these rates, the first is in proportion to the rates, and so on
        uniform = counter_uniform(seed, np.asarray(numbers)[:, None], np.arange(self.n_players))
        waited = np.log(-np.log1p(-np.maximum(uniform, 2**-54))) - self.logarithms
        return np.argsort(-waited, axis=1, kind="stable")

    def steps(self) -> Iterator[tuple[Coalitions, Floats, Floats]]:
        check_prefixes(self.n_prefixes(), f"{self.n_players} players with weights")
        members = np.ones((1, self.n_players), dtype=np.bool_)
        following, walk = np.zeros((1, self.n_players)), []
        probability = np.ones(1)
        for _ in range(self.n_players):  # from the grand coalition down, since the last is drawn first
            logarithms = np.where(members, self.logarithms, -np.inf)
            shares = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
            last = probability[:, None] * shares / shares.sum(axis=1, keepdims=True)
            walk.append((members, last, following))
            members, following = walked(members, last)
            probability = following.sum(axis=1)
        yield members, np.zeros((1, self.n_players)), following
        yield from reversed(walk)
