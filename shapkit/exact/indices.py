"""Exact indices of a game, from all 2**n coalition values in one pass.

The values may come from the game, in blocks that are folded as they come, or from a table that exists
already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit._checks import players_of_table
from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import enumerate_coalitions
from shapkit.exact.blocks import block_rows
from shapkit.exact.interactions import Index, checked_order, from_superset_sums, superset_families
from shapkit.exact.over_orders import exact_over_orders
from shapkit.exact.superset_sums import Family, SupersetSums, power_of_two_below
from shapkit.games.batches import Payoffs
from shapkit.games.game import Game
from shapkit.orders import Orders
from shapkit.progress import evaluations_bar

MAX_EXACT_PLAYERS = 62  # the number of coalitions and their masks fit 64-bit integers, the signed ones too
_TABLE_BLOCK_FLOATS = 2**22  # for tables: much work between two threads' turns, little memory where a copy is needed
_THREADED_BLOCKS = 8  # below, starting threads takes longer than they save


def exact(
    game: Game,
    index: Index = "shapley",
    order: int | None = None,
    progress: bool = False,
    orders: Orders | None = None,
) -> Attribution:
    """Return the exact index of all players, or of all coalitions of up to `order` players.

    "shapley" is Shapley (1953): values sum to the grand coalition's payoff less the empty one's. "banzhaf" is
    the mean of a player's marginal contribution over all coalitions of the others (Banzhaf 1965, Penrose
    1946); it does not sum to anything in particular. Interactions: "SII", "k-SII", "STII", "FSII", "BII" and "FBII",
    see `shapkit.exact.interactions.unanimity_share`.

    Args:
        game: at most 62 players. All 2**n_players coalitions are evaluated, in blocks; memory does not grow with
            their number.
        index: one of the names above.
        order: the largest size of coalition that gets a value; by default 1 for values, 2 for interactions.
        progress: show a bar with an estimate of the time left.
        orders: what players join in, if not all orders are equally likely: `Hierarchy` for Owen and Winter values,
            `Weights` for weighted and `Precedence` for asymmetric Shapley values, with the index "shapley". Only
            coalitions that can come first are evaluated, of any number of players.

    Returns:
        an Attribution without standard errors, with values (n_terms, *output_shape) in the unit of the
        payoff: one row per player, then one per pair, and so on. The numbers do not depend on the game's batch size
        or executor.

    Raises:
        ValueError: too many players, an unknown index or order, or what `Game` raises.
        ImportError: `progress`, and tqdm is not installed.

    >>> from shapkit import weighted_voting
    >>> voting = weighted_voting([2, 1, 1], quota=3, names=["a", "b", "c"])
    >>> exact(voting).values.round(4)
    array([0.6667, 0.1667, 0.1667])
    >>> float(exact(voting, "SII", order=2)["b", "c"])
    -0.5
    """
    order = checked_order(index, order)
    if orders is not None:
        check_orders(orders, index)
        return exact_over_orders(game, orders, progress)
    check_enumerable(game.n_players)
    parts = _families(index, order, game.n_players)
    sums: SupersetSums | None = None
    with game.counted() as n_evaluations:
        for first, payoffs in _blocks(game, progress):
            if sums is None:
                empty = payoffs[0].copy()
                sums = SupersetSums(game.n_players, len(payoffs), empty.reshape(-1), list(chain(*parts)))
            sums.add(sums.of_block(first, payoffs.reshape(len(payoffs), -1)))
    assert sums is not None  # even a game without players has one coalition
    grand = payoffs[-1].copy()
    values = _index_values(index, game.n_players, parts, sums, (grand - empty).reshape(-1))
    return Attribution(
        values=values.reshape(-1, *empty.shape),
        standard_errors=None,
        empty_value=empty,
        grand_value=grand,
        n_evaluations=n_evaluations(),
        names=game.names,
        index=index,
        method="exact",
        order=order,
        stopped_by="all coalitions",
    )


def shapley_values(table: ArrayLike) -> NDArray[np.float64]:
    """Return the Shapley values of all players, given the value of every coalition.

    Args:
        table: real numbers (2**n_players, *output_shape); bit i of the index is set when player i is in the
            coalition. It is read once, by several threads where it is large, and not copied.

    Returns:
        float64 array (n_players, *output_shape), in the unit of the table.

    Raises:
        ValueError: the first axis is not 1, 2, 4, 8, ... long, or a value is not a finite real number.

    >>> shapley_values([0, 1, 2, 5])
    array([2., 3.])
    """
    values = np.asarray(table)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"values has dtype {values.dtype}, expected real numbers")
    n_players = players_of_table(values)
    output_shape = values.shape[1:]
    columns = values.reshape(len(values), -1)
    if columns.shape[1] == 0:
        raise ValueError(f"values has shape {values.shape}: a value must have at least one element")
    empty, grand = columns[[0, -1]].astype(np.float64)
    block_size = min(len(columns), power_of_two_below(_TABLE_BLOCK_FLOATS // columns.shape[1]))
    parts = _families("shapley", 1, n_players)
    sums = SupersetSums(n_players, block_size, empty, list(chain(*parts)))

    def of_block(first: int) -> list[NDArray[np.float64]]:
        return sums.of_block(first, columns[first : first + block_size])

    blocks = range(0, len(columns), block_size)
    n_threads = _usable_cores() if len(blocks) >= _THREADED_BLOCKS else 1
    with ThreadPoolExecutor(n_threads) if n_threads > 1 else nullcontext() as threads:
        for contribution in (threads.map if threads else map)(of_block, blocks):
            sums.add(contribution)
    shapley = _index_values("shapley", n_players, parts, sums, grand - empty)
    if not (np.isfinite(shapley).all() and np.isfinite(grand - empty).all()):
        # Cheaper than a look at each value: NaN and infinity reach every sum.
        raise ValueError("values must be finite numbers: the table holds NaN, infinity or numbers that overflow")
    return shapley.reshape(n_players, *output_shape)


def check_orders(orders: Orders, index: Index) -> None:
    """Raise a ValueError where these are no orders, or another index than Shapley's is to be taken over them."""
    if not isinstance(orders, Orders):
        raise ValueError(f"orders must be a Hierarchy, Weights or Precedence, got {orders!r}")
    if index != "shapley":
        raise ValueError(f"orders say what becomes of Shapley values, got index {index!r}: leave one of the two out")


def check_enumerable(n_players: int) -> None:
    """Raise a ValueError where 2**n_players evaluations are out of the question.

    >>> check_enumerable(40)
    """
    if n_players > MAX_EXACT_PLAYERS:
        raise ValueError(
            f"the game has {n_players} players: all 2**{n_players} coalitions cannot be evaluated (at most "
            f"{MAX_EXACT_PLAYERS} players). Sample instead: shapkit.estimate(game, budget=...) for values, "
            'method="sampled" for residuals'
        )


def _blocks(game: Game, progress: bool) -> Iterator[tuple[int, Payoffs]]:
    """The payoffs of all coalitions, in blocks of a power of two, each with the mask of its first coalition.

    No coalition is evaluated twice: the empty one, which tells the payoff's size, is part of the first block.
    """
    with evaluations_bar("exact", 2**game.n_players, progress) as done:
        empty = game(np.zeros((1, game.n_players), dtype=np.bool_))
        n_rows = block_rows(game.n_players, empty.size)
        for first, coalitions in enumerate_coalitions(game.n_players, n_rows):
            if first > 0:
                payoffs = game(coalitions)
            elif n_rows > 1:
                payoffs = np.concatenate([empty, game(coalitions[1:])])
            else:
                payoffs = empty
            done(len(payoffs))
            yield first, payoffs


def _families(index: Index, order: int, n_players: int) -> list[tuple[Family, ...]]:
    """The sums that an index is made of, for coalitions of 1, 2, ... players."""
    parts = [superset_families(index, order, size, n_players) for size in range(1, min(order, n_players) + 1)]
    # What all players share, Σ_S v(S) w_0(|S|), must be obtained by summation for other indices than this one.
    return [part[1:] for part in parts] if index == "shapley" else parts


def _index_values(
    index: Index,
    n_players: int,
    parts: Sequence[tuple[Family, ...]],
    sums: SupersetSums,
    worth: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The index (n_terms, n_columns) from its sums; `worth` (n_columns,) is the grand payoff less the empty one's."""
    if index == "shapley":
        if not n_players:
            return np.empty((0, len(worth)))
        values = sums.totals[0]
        excess: NDArray[np.float64] = values.sum(axis=0) - worth  # what all players share is what efficiency leaves
        return np.asarray(values - excess / n_players)
    totals = iter(sums.totals)
    by_size = [
        from_superset_sums(n_players, size, [next(totals) for _ in part]) for size, part in enumerate(parts, start=1)
    ]
    return np.concatenate([*by_size, np.empty((0, len(worth)))])


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
