"""Interaction indices: what each one says of a unanimity game, and the sums of coalition values it therefore is.

By linearity an index is known once it is known for the unanimity games, v(S) = 1 where S contains a carrier U. All
indices here give 0 to coalitions that are not part of the carrier, and to the others a number that depends on their
size t and the carrier's size u only.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import positive_integer
from shapkit.coalitions import coalitions_of_size
from shapkit.exact.superset_sums import Family, subset_masks

Index: TypeAlias = Literal["shapley", "banzhaf", "SII", "k-SII", "STII", "FSII", "BII", "FBII"]

VALUES = ("shapley", "banzhaf")
"""The indices of single players; the others have an order."""


def unanimity_share(index: Index, order: int, size: int, carrier: int) -> Fraction:
    """Return what `index` gives a coalition of `size` players, part of a unanimity game's carrier.

    Args:
        index: "shapley" (Shapley 1953) and "banzhaf" (Penrose 1946, Banzhaf 1965), of single players; "SII", the
            Shapley interaction index (Grabisch and Roubens 1999); "k-SII", the same made efficient (Bordt and von
            Luxburg 2023); "STII", Shapley-Taylor (Sundararajan, Dhamdhere and Agarwal 2020); "FSII", Faith-Shap (Tsai,
            Yeh and Ravikumar 2023); "BII", Banzhaf interactions (Grabisch and Roubens 1999); "FBII", Faith-Banzhaf
            (Tsai, Yeh and Ravikumar 2023).
        order: the largest size of coalition that has a value.
        size: of the coalition, from 1 to `order`.
        carrier: how many players the carrier has, at least `size`.

    >>> str(unanimity_share("SII", 2, 2, 4)), str(unanimity_share("STII", 2, 2, 4))
    ('1/3', '1/6')
    """
    others = carrier - size
    if index in ("shapley", "SII"):
        return Fraction(1, others + 1)
    if index in ("banzhaf", "BII"):
        return Fraction(1, 2**others)
    if index == "k-SII":
        bernoulli = bernoulli_numbers(order - size)
        terms = (
            number * Fraction(comb(others, joined), others - joined + 1)
            for joined, number in enumerate(bernoulli[: others + 1])
        )
        return sum(terms, Fraction(0))
    if index == "STII":
        return Fraction(1, comb(carrier, order)) if size == order else Fraction(others == 0)
    if carrier <= order:  # a polynomial of this degree can be met exactly
        return Fraction(others == 0)
    sign = (-1) ** (order - size)
    if index == "FBII":
        return Fraction(sign * comb(others - 1, order - size), 2**others)
    shared = Fraction(comb(carrier - 1, order), comb(carrier + order - 1, order + size))
    return Fraction(sign * size * comb(order, size), order + size) * shared


def derivative_weights(index: Index, order: int, size: int, n_players: int) -> list[Fraction]:
    """Return the weights e(r) with which an index of a coalition T is a sum over all S of ±e(|S ∪ T|) v(S).

    The sign is that of (-1)^|T \\ S|: the index is a weighted sum of the discrete derivatives in T. Follows from
    `unanimity_share` by the Möbius transform; exact. The list has n_players + 1 entries; those below `size` are 0.

    >>> [str(weight) for weight in derivative_weights("shapley", 1, 1, 3)]
    ['0', '1/3', '1/6', '1/3']
    """
    shares = [unanimity_share(index, order, size, carrier) for carrier in range(size, n_players + 1)]
    weights = [Fraction(0)] * (n_players + 1)
    for joined in range(size, n_players + 1):
        rest = n_players - joined
        terms = ((-1) ** more * comb(rest, more) * shares[joined - size + more] for more in range(rest + 1))
        weights[joined] = sum(terms, Fraction(0))
    return weights


@lru_cache(maxsize=256)
def superset_families(index: Index, order: int, size: int, n_players: int) -> tuple[Family, ...]:
    """Return the sums over supersets, of coalitions L of 0 to `size` players, that an index of `size` players needs.

    The index of T is Σ_{L ⊆ T} Σ_{S ⊇ L} w_|L|(|S|) v(S): inclusion and exclusion turn weights that depend on |S ∩ T|
    into such as depend on |S| only. They are exact fractions until the last rounding.

    >>> [family.weights.tolist() for family in superset_families("banzhaf", 1, 1, 2)]
    [[-0.5, -0.5, 0.0], [0.5, 1.0, 0.5]]
    """
    derivative = derivative_weights(index, order, size, n_players) + [Fraction(0)] * size
    families = []
    for part in range(size + 1):
        sign = (-1) ** (size + part)
        weights = [
            sign * sum((comb(part, both) * derivative[number + size - both] for both in range(part + 1)), Fraction(0))
            for number in range(n_players + 1)
        ]
        rounded = np.array([float(weight) for weight in weights])
        rounded.flags.writeable = False  # the result is kept: it takes as long as a table of a million values
        families.append(Family(part, rounded))
    return tuple(families)


def from_superset_sums(n_players: int, size: int, totals: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the index of all coalitions T of `size` players, Σ_{L ⊆ T} totals[|L|] of L.

    Args:
        n_players: how many players the game has.
        size: of the coalitions.
        totals: float64 (n_subsets, n_columns) for L of 0, 1, ... `size` players, in lexicographic order.

    Returns:
        float64 (n_coalitions, n_columns), in lexicographic order.
    """
    members = coalitions_of_size(n_players, size)
    bits = np.uint64(1) << members.astype(np.uint64)
    values = np.repeat(totals[0], len(members), axis=0)
    for part in range(1, size + 1):
        masks = subset_masks(n_players, part)
        by_mask = np.argsort(masks)
        for places in combinations(range(size), part):
            wanted = np.bitwise_or.reduce(bits[:, list(places)], axis=1)
            values += totals[part][by_mask[np.searchsorted(masks, wanted, sorter=by_mask)]]
    return values


def checked_order(index: str, order: int | None) -> int:
    """Return the order of an index: 1 for values of players, by default 2 for interactions.

    Raises:
        ValueError: there is no such index, or it has no such order.

    >>> checked_order("shapley", None), checked_order("k-SII", None)
    (1, 2)
    """
    if index not in get_args(Index):
        raise ValueError(f"index must be one of {', '.join(map(repr, get_args(Index)))}, got {index!r}")
    if order is None:
        return 1 if index in VALUES else 2
    checked = positive_integer("order", order)
    if index in VALUES and checked != 1:
        raise ValueError(
            f"index {index!r} is of single players, order 1, got order {order!r}: for interactions choose one of "
            + ", ".join(repr(name) for name in get_args(Index) if name not in VALUES)
        )
    return checked


def bernoulli_numbers(last: int) -> list[Fraction]:
    """Return B_0 to B_last, with B_1 = -1/2.

    >>> [str(number) for number in bernoulli_numbers(2)]
    ['1', '-1/2', '1/6']
    """
    numbers: list[Fraction] = []
    for place in range(last + 1):
        known = sum((comb(place + 1, number) * value for number, value in enumerate(numbers)), Fraction(0))
        numbers.append((Fraction(place == 0) - known) / (place + 1))
    return numbers
