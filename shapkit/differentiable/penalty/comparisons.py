"""Which coalitions the penalty runs and which it compares with which: one small function per estimator.

All of it is NumPy on the host. It depends on shapes, the seed and the influence graph, never on an image, so that
nothing here waits for a device and what is computed afterwards has no random part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapkit.differentiable.penalty.absence import Exchange
from shapkit.differentiable.penalty.values import MAX_PLAYERS, all_coalitions
from shapkit.differentiable.regions import Regions
from shapkit.randomness import counter_bits

Estimator = Literal["direct", "exact", "per_region", "shared", "grand", "present"]

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparisons:
    """The terms of one call: sum over c of weights[c, b, k] ||v_k(S_c) - v_k(R_c)||^2 for sample b, output region k.

    Of ``direct`` there is one term per player instead, the magnitude of its Shapley value.

    Args:
        coalitions: (n_coalitions, batch or 1, K), 1 where the player is present, else 0; each is one network run,
            unless its output is known.
        pairs: the rows of S_c and of R_c; empty for ``direct``.
        weights: (n_terms, batch or 1, K).
        exchanged: boolean (n_terms, batch or 1, K), the players that a term holds responsible: those in one of S_c and
            R_c and not in the other.
        grand: the row of the grand coalition, None where it is not among them.
        empty: the row of the empty coalition, likewise.
        noise: standard normal, like ``x``, for ``fill="noise"``; else None.
        exchange: who is exchanged with whom, for ``fill="exchange"``; else None.
    """

    coalitions: Tensor
    pairs: tuple[tuple[int, int], ...]
    weights: Tensor
    exchanged: Tensor
    grand: int | None
    empty: int | None
    noise: Tensor | None = None
    exchange: Exchange | None = None

    def sum_of(self, terms: Tensor, regions: Regions) -> Tensor:
        """The penalty of every sample and output region, (batch, K), of its ``terms`` (n_terms, batch, K)."""
        return (self.weights * terms).sum(dim=0) * regions.weights


@dataclass(frozen=True)
class Draw:
    """What an estimator may draw from: ``allowed[k, j]`` says that player j may influence output region k."""

    allowed: Booleans
    samples: int
    seed: int
    step: int
    rows: NDArray[np.int64]
    """The numbers of the batch's samples in the global batch."""

    @property
    def n_players(self) -> int:
        return len(self.allowed)


class Plan:
    """Collects coalitions and comparisons; a coalition that several comparisons need is run once."""

    def __init__(self, draw: Draw) -> None:
        self.n_players = draw.n_players
        self.coalitions: list[Booleans] = []
        self.weights: dict[tuple[int, int], Floats] = {}
        self._rows: dict[bytes, int] = {}

    def run(self, coalition: Booleans) -> int:
        """The row of a coalition, boolean (batch or 1, K)."""
        key = coalition.tobytes()
        if key not in self._rows:
            self._rows[key] = len(self.coalitions)
            self.coalitions.append(coalition)
        return self._rows[key]

    def compare(self, coalition: Booleans, reference: Booleans, weights: Floats) -> None:
        """Add weights[b, k] ||v_k(coalition) - v_k(reference)||^2; the three are (batch or 1, K)."""
        pair = self.run(coalition), self.run(reference)
        self.weights[pair] = self.weights.get(pair, np.zeros_like(weights)) + weights

    def row(self, present: bool) -> int | None:
        """The row of the grand coalition or of the empty one, if it is there."""
        return next((row for row, members in enumerate(self.coalitions) if (members == present).all()), None)


def direct(draw: Draw, plan: Plan) -> None:
    """All 2^K coalitions in the order of ``all_coalitions``; eq. (7) takes Shapley values of their outputs."""
    for coalition in all_coalitions(draw.n_players).numpy():
        plan.run(coalition[None])


def exact(draw: Draw, plan: Plan) -> None:
    """E_S ||v_k(S) - v_k(S & A_k)||^2 over all 2^K coalitions: eq. (8) divided by K 2^K."""
    _compare_with_permitted(draw, plan, all_coalitions(draw.n_players).numpy())


def shared(draw: Draw, plan: Plan) -> None:
    """The same over uniform subsets that all regions and samples share."""
    bits = counter_bits(draw.seed, draw.step, np.arange(draw.samples)[:, None], np.arange(draw.n_players))
    _compare_with_permitted(draw, plan, _heads(bits))


def per_region(draw: Draw, plan: Plan) -> None:
    """Castro's sampling of eq. (8), as published: region k with its predecessors in a random order, and these alone."""
    players, samples = np.arange(draw.n_players), np.arange(draw.samples)[:, None]
    for region in range(draw.n_players):
        keys = counter_bits(draw.seed, draw.step, samples, region, players)
        before = keys < keys[:, [region]]
        _compare_with_permitted(draw, plan, before, [region])
        _compare_with_permitted(draw, plan, before | (players == region), [region])


def grand(draw: Draw, plan: Plan) -> None:
    """E_S [A_k in S] ||v_k(S) - v_k(N)||^2 + [A_k and S disjoint] ||v_k(S) - v_k(empty)||^2."""
    _compare_with_ends(draw, plan, with_empty=True)


def present(draw: Draw, plan: Plan) -> None:
    """E_S [A_k in S] ||v_k(S) - v_k(N)||^2."""
    _compare_with_ends(draw, plan, with_empty=False)


def _compare_with_permitted(draw: Draw, plan: Plan, coalitions: Booleans, regions: list[int] | None = None) -> None:
    """The mean over ``coalitions`` (n, K) of ||v_k(S) - v_k(S & A_k)||^2, for all regions k or for some."""
    one_region = np.eye(draw.n_players)[:, None] / len(coalitions)
    for coalition in coalitions:
        for region in range(draw.n_players) if regions is None else regions:
            permitted = coalition & draw.allowed[region]
            if (permitted != coalition).any():  # or it would be compared with itself
                plan.compare(coalition[None], permitted[None], one_region[region])


def _compare_with_ends(draw: Draw, plan: Plan, with_empty: bool) -> None:
    """Coalitions drawn for every sample on its own, compared with the grand coalition and with the empty one."""
    grand = np.ones((len(draw.rows), draw.n_players), dtype=np.bool_)
    for sample in range(draw.samples):
        coalitions, share = _comparing_draw(draw, sample, with_empty)
        share /= draw.samples
        complete = np.all(coalitions[:, None] | ~draw.allowed, axis=2)  # A_k lies in S: (batch, K)
        plan.compare(coalitions, grand, np.where(complete, share, 0.0))
        if with_empty:
            disjoint = np.all(~coalitions[:, None] | ~draw.allowed, axis=2)  # A_k and S are disjoint
            plan.compare(coalitions, ~grand, np.where(disjoint, share, 0.0))


def _comparing_draw(draw: Draw, sample: int, with_empty: bool) -> tuple[Booleans, float]:
    """A coalition for every row, uniform among those that compare something, and what share of all 2^K these are."""
    if draw.n_players > MAX_PLAYERS:  # too many to list: uniform among all
        return _heads(counter_bits(draw.seed, draw.step, draw.rows[:, None], sample, np.arange(draw.n_players))), 1.0
    comparing = _comparing_coalitions(draw.allowed.tobytes(), draw.n_players, with_empty)
    numbers = counter_bits(draw.seed, draw.step, draw.rows, sample) % np.uint64(len(comparing))
    return comparing[numbers.astype(np.int64)], len(comparing) / 2.0**draw.n_players


@lru_cache(maxsize=8)
def _comparing_coalitions(allowed_bytes: bytes, n_players: int, with_empty: bool) -> Booleans:
    """The coalitions whose terms are not zero from the outset, boolean (n, K)."""
    allowed = np.frombuffer(allowed_bytes, dtype=np.bool_).reshape(n_players, n_players)
    proper = all_coalitions(n_players).numpy()[1:-1]
    complete = np.any(np.all(proper[:, None] | ~allowed, axis=2), axis=1)
    return proper if with_empty or not complete.any() else proper[complete]


def _heads(bits: NDArray[np.uint64]) -> Booleans:
    return (bits >> np.uint64(63)).astype(np.bool_)


_PLANS: dict[Estimator, Callable[[Draw, Plan], None]] = {
    "direct": direct,
    "exact": exact,
    "per_region": per_region,
    "shared": shared,
    "grand": grand,
    "present": present,
}


def draw_comparisons(
    estimator: Estimator, draw: Draw, like: Tensor, *, exchange: Exchange | None = None
) -> Comparisons:
    """The coalitions and comparisons of ``estimator``, on the device and with the floating-point type of ``like``.

    Args:
        estimator: one of the six.
        draw: players, influence graph and the names of the random numbers.
        like: the tensor whose regions are the players.
        exchange: who is exchanged with whom, if samples are. Where the outputs are, too, the grand coalition is run in
            the empty one's place.

    Raises:
        ValueError: if there is one player only, or too many to enumerate.
    """
    n_players = draw.n_players
    if n_players < 2:
        raise ValueError("the penalty needs at least two regions: a single region cannot be a dummy player")
    if estimator in ("direct", "exact") and n_players > MAX_PLAYERS:
        raise ValueError(
            f"estimator={estimator!r} runs all 2^K coalitions and {n_players} regions are "
            f"too many (at most {MAX_PLAYERS}): use 'grand' or 'shared'"
        )
    plan = Plan(draw)
    _PLANS[estimator](draw, plan)
    pairs, weights = tuple(plan.weights), np.array([*plan.weights.values()])
    exchanged = np.array([plan.coalitions[first] ^ plan.coalitions[second] for first, second in pairs])
    if estimator == "direct":
        weights, exchanged = ~draw.allowed.T[:, None], np.eye(n_players, dtype=np.bool_)[:, None]
    if not len(weights):
        weights, exchanged = np.zeros((0, 1, n_players)), np.zeros((0, 1, n_players), dtype=np.bool_)
    if exchange is not None and exchange.outputs and plan.row(present=False) is not None:
        plan.run(np.ones_like(plan.coalitions[0]))
    coalitions = np.array(plan.coalitions) if plan.coalitions else np.zeros((0, 1, n_players), dtype=np.bool_)
    loss_type = torch.promote_types(like.dtype, torch.float32)
    return Comparisons(
        coalitions=_moved(coalitions, like, like.dtype),
        pairs=pairs,
        weights=_moved(weights, like, loss_type),
        exchanged=_moved(exchanged, like, torch.bool),
        grand=plan.row(present=True),
        empty=plan.row(present=False),
        exchange=exchange,
    )


def _moved(array: NDArray[np.generic], like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(array).to(like.device, dtype, non_blocking=like.is_cuda)
