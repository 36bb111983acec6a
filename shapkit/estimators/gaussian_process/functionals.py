"""Interaction indices as linear functionals of a game, applied to a `PartKernel` in closed form.

A discrete derivative of χ_U = Π_{j∈U} x_j in the players of T, at coalitions of the others that each joins with
probability (1 + r) / 2, is 2^|T| r^|U\\T| for T ⊆ U and 0 otherwise in the mean. An index is such a mean over r: a
uniform r for the Shapley interaction index, 0 for Banzhaf's, and so on; some add the derivatives in larger coalitions.
Of a kernel that is a product over players the functional is a product for each r, and the integral over r a sum over
few nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from shapkit.estimators.gaussian_process.kernel import PartKernel, Wave, coalition_sizes, size_kernel
from shapkit.exact.interactions import Index, bernoulli_numbers, derivative_weights, unanimity_share

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROUNDING = 1e-16
_MAX_NODES = 32  # Gauss-Legendre: exact up to 60 players; beyond, the integrands are smooth


@dataclass(frozen=True)
class IndexFunctional:
    """What an index gives coalitions T of one size, as a linear functional of the game.

    Attributes:
        size: of T.
        nodes: r in [-1, 1], (n_nodes,).
        weights: of the nodes, (n_nodes,).
        joined: c_0, c_1, ...: the value of T is Σ_J c_|J| times the mean derivative in T ∪ J.
        by_size: the weight of each single coalition in the derivative, (n_players - size + 1,), by how many of the
            players outside of T are in it.
    """

    size: int
    nodes: Floats
    weights: Floats
    joined: tuple[float, ...]
    by_size: Floats

    def of_part(self, even: bool) -> IndexFunctional | None:
        """The same on even, or on odd, games, and zero on the others; None where it is zero on these.

        >>> index_functionals("SII", 2, 5)[1].of_part(even=False) is None
        True
        """
        sign = (1 if even else -1) * (-1) ** self.size
        by_size = (self.by_size + sign * self.by_size[::-1]) / 2
        if len(self.joined) == 1:
            if not by_size.any():
                return None
            return replace(self, weights=(self.weights + sign * self.weights[::-1]) / 2, by_size=by_size)
        # Nodes are symmetric where coalitions are joined, so that the derivatives of every other size are zero.
        joined = tuple(c if sign * (-1) ** more > 0 else 0.0 for more, c in enumerate(self.joined))
        return replace(self, joined=joined, by_size=by_size)


@lru_cache(maxsize=64)
def index_functionals(index: Index, order: int, n_players: int) -> tuple[IndexFunctional, ...]:
    """Return the functionals of coalitions of 1, 2, ..., `order` players; no more than there are.

    Args:
        index: any of `shapkit.exact.interactions.Index`.
        order: the largest size of coalition that has a value.
        n_players: of the game.
    """
    return tuple(_functional(index, order, size, n_players) for size in range(1, min(order, n_players) + 1))


def _functional(index: Index, order: int, size: int, n_players: int) -> IndexFunctional:
    exact = derivative_weights(index, order, size, n_players)[size:]
    by_size = np.array([float(weight) for weight in exact])
    nodes, weights = np.polynomial.legendre.leggauss(min((n_players + 2 * order) // 2 + 1, _MAX_NODES))
    joined: tuple[float, ...] = (1.0,)
    if index in ("banzhaf", "BII", "FBII"):
        nodes, weights = np.zeros(1), np.ones(1)
        if index == "FBII":
            joined = tuple((-0.5) ** more for more in range(order - size + 1))
    elif index in ("STII", "FSII"):
        density, at_empty = _density(index, order, size)
        # r = -1 is the empty coalition; its mirror image is there too, so that nodes are symmetric
        inside = weights / 2 * np.polynomial.polynomial.polyval((1 + nodes) / 2, density)
        nodes, weights = np.concatenate([[-1.0], nodes, [1.0]]), np.concatenate([[at_empty], inside, [0.0]])
    elif index in ("shapley", "SII", "k-SII"):
        weights = weights / 2
        if index == "k-SII":
            joined = tuple(float(number) for number in bernoulli_numbers(order - size))
    else:
        raise ValueError(f"index {index!r} has no measure here: say of what its derivatives are a mean")
    return IndexFunctional(size, nodes, weights, joined, by_size)


def _density(index: Index, order: int, size: int) -> tuple[Floats, float]:
    """The polynomial in the probability, and the mass at 0, of which the shares of unanimity games are the moments."""
    n_powers = 2 * order
    rows = [[Fraction(1, power + moment + 1) for power in range(n_powers)] for moment in range(n_powers + 1)]
    for moment, row in enumerate(rows):
        row.append(Fraction(moment == 0))
    shares = [unanimity_share(index, order, size, size + moment) for moment in range(n_powers + 1)]
    *density, at_empty = _solved(rows, shares)
    return np.array([float(coefficient) for coefficient in density]), float(at_empty)


def _solved(rows: list[list[Fraction]], values: list[Fraction]) -> list[Fraction]:
    """The solution of a regular system, without rounding."""
    table = [[*row, value] for row, value in zip(rows, values, strict=True)]
    for place in range(len(table)):
        pivot = next(number for number in range(place, len(table)) if table[number][place])
        table[place], table[pivot] = table[pivot], table[place]
        scale = table[place][place]
        table[place] = [entry / scale for entry in table[place]]
        for number, row in enumerate(table):
            if number != place and row[place]:
                factor = row[place]
                table[number] = [a - factor * b for a, b in zip(row, table[place], strict=True)]
    return [row[-1] for row in table]


def with_pairs(kernel: PartKernel, signs: Floats, functional: IndexFunctional, members: Integers) -> Floats:
    """Return the prior covariances (n_pairs, n_coalitions) of the pairs' payoffs with the index of coalitions.

    Args:
        kernel: of odd or even games.
        signs: (n_pairs, n_players) of +1 and -1.
        functional: of the part that the kernel is of (`IndexFunctional.of_part`).
        members: (n_coalitions, size), the players of each coalition.
    """
    covariances = np.zeros((len(signs), len(members)))
    for variance, wave in zip(kernel.wave_variances, kernel.waves(), strict=True):
        mirrored = _of_product(wave, -signs, functional, members)
        covariances += variance * (
            _of_product(wave, signs, functional, members) + (mirrored if kernel.even else -mirrored)
        )
    covariances += _additive_with_pairs(kernel, signs, functional, members)
    covariances += _sizes_with_pairs(kernel, signs, functional, members)
    return covariances + kernel.own_variances(signs)[:, None] * _weights_of_pairs(signs, functional, members)


def _of_product(wave: Wave, signs: Floats, functional: IndexFunctional, members: Integers) -> Floats:
    """The index of x -> F(x, x') / Z for pairs x': (n_pairs, n_coalitions)."""
    tanh = np.where(signs > 0, *reversed(wave.slopes()))
    log_scales = wave.log_scales(signs)[:, None]
    total = np.zeros((len(signs), len(members)))
    for node, weight in zip(functional.nodes, functional.weights, strict=True):
        factors = 1 + node * tanh
        logs = np.log(factors)
        left = np.exp(log_scales + logs.sum(axis=1)[:, None] - logs[:, members].sum(axis=2))
        total += weight * left * _joined(2 * tanh / factors, functional, members)
    return np.asarray(2**functional.size * tanh[:, members].prod(axis=2) * total)


def prior_variances(kernel: PartKernel, functional: IndexFunctional, members: Integers) -> Floats:
    """Return the prior variances (n_coalitions,) of the index of coalitions: arguments as for `with_pairs`."""
    size, n_players = functional.size, kernel.n_players
    variances = np.zeros(len(members))
    outside = np.ones((len(members), n_players), dtype=bool)
    np.put_along_axis(outside, members, False, axis=1)
    first, second = (grid.ravel() for grid in np.meshgrid(functional.nodes, functional.nodes, indexing="ij"))
    weights = np.outer(functional.weights, functional.weights).ravel()
    kept = weights != 0
    first, second, weights = first[kept], second[kept], weights[kept]
    for variance, wave in zip(kernel.wave_variances, kernel.waves(), strict=True):
        log_scale, single, product = wave.moments()
        scale = variance * 2 * 4.0**size * np.prod(product[members], axis=1) * np.exp(log_scale)
        variances += scale * (_double_product(single, product, outside, first, second, functional.joined) @ weights)
    variances += _additive_variances(kernel, functional, members)
    n_others = n_players - size
    differences, own, others = _size_functionals(functional, n_players)
    sizes = size_kernel(n_players, kernel.size_length, odd=not kernel.even)
    slopes = size_kernel(n_players, kernel.slope_length, odd=kernel.even)
    inside = kernel.slopes[members].sum(axis=1)
    variances += kernel.size_variance * (differences @ sizes @ differences)
    variances += kernel.slope_variance * inside * (own @ slopes @ own)
    variances += kernel.slope_variance * (kernel.slopes.sum() - inside) * (others @ slopes @ others)
    counts = np.array([comb(n_others, number) for number in range(n_others + 1)], dtype=np.float64)
    variances += kernel.rough_variance * 2 * 2**size * float(counts @ functional.by_size**2)
    ends = _weights_of_pairs(np.ones((1, n_players)), functional, members)[0]
    return np.asarray(variances + kernel.ends_variance * ends**2)


def _joined(ratios: Floats, functional: IndexFunctional, members: Integers) -> Floats | float:
    """Σ_j c_j e_j of the ratios (n_pairs, n_players) of the players outside of each coalition."""
    coefficients = functional.joined
    if len(coefficients) == 1:
        return coefficients[0]
    powers = [
        (ratios**power).sum(axis=1)[:, None] - (ratios[:, members] ** power).sum(axis=2)
        for power in range(1, len(coefficients))
    ]
    symmetric = [np.ones_like(powers[0])]
    for degree in range(1, len(coefficients)):  # Newton's identities
        terms = ((-1) ** (k - 1) * symmetric[degree - k] * powers[k - 1] for k in range(1, degree + 1))
        symmetric.append(sum(terms, np.zeros_like(powers[0])) / degree)
    return np.asarray(np.einsum("j,jbt->bt", np.array(coefficients), np.array(symmetric)))


def _double_product(
    single: Floats,
    product: Floats,
    outside: NDArray[np.bool_],
    first: Floats,
    second: Floats,
    joined: tuple[float, ...],
) -> Floats:
    """What the functional makes, in both arguments, of Π_l (1 + b_l (x_l + x'_l) + c_l x_l x'_l) outside of T.

    The coefficients of u^i w^j in Π_{l∉T} (1 + b (r + r') + c r r' + 2 u (b + c r') + 2 w (b + c r) + 4 u w c), times
    c_i c_j, of pairs of nodes r and r': (n_coalitions, n_node_pairs).
    """
    degree = len(joined)
    if degree == 1:
        factors = 1 + single[:, None] * (first + second) + product[:, None] * (first * second)
        logs = np.log(np.maximum(factors, _ROUNDING))  # positive, but for rounding, where r and r' are -1
        return np.asarray(joined[0] ** 2 * np.exp(outside.astype(np.float64) @ logs))
    found = np.zeros((degree, degree, len(outside), len(first)))
    found[0, 0] = 1.0
    for player, (lone, tau) in enumerate(zip(single, product, strict=True)):
        there = outside[:, player][:, None]
        stays, once, twice, both = (
            np.where(there, part, plain)
            for part, plain in (
                (1 + lone * (first + second) + tau * first * second, 1.0),
                (2 * (lone + tau * second), 0.0),
                (2 * (lone + tau * first), 0.0),
                (4 * tau, 0.0),
            )
        )
        new = found * stays
        new[1:] += found[:-1] * once
        new[:, 1:] += found[:, :-1] * twice
        new[1:, 1:] += found[:-1, :-1] * both
        found = new
    return np.asarray(np.einsum("i,j,ijtm->tm", joined, joined, found))


def of_products(functional: IndexFunctional, n_players: int) -> Floats:
    """Return the index of T in Π_{j∈U} x_j, for T in U, by the size of U: (n_players + 1,), 0 for those without room.

    >>> of_products(index_functionals("SII", 2, 3)[0], 3).round(9) + 0  # Shapley values: 2/|U| where |U| is odd
    array([0.        , 2.        , 0.        , 0.66666667])
    """
    found = np.zeros(n_players + 1)
    for size in range(functional.size, n_players + 1):
        others = size - functional.size
        for more, coefficient in enumerate(functional.joined[: others + 1]):
            powers = functional.nodes ** (others - more)
            mean = float(functional.weights @ powers)
            found[size] += coefficient * comb(others, more) * 2 ** (functional.size + more) * mean
    return found


def _of_few(functional: IndexFunctional, even: bool) -> float:
    """What the index of T is in products of few players: of x_i in odd games and of x_i x_j in even ones.

    Of a game Σ a_i x_i it is this times a_i, of T = {i}. Of a game Σ a_ij x_i x_j it is this times a_ij, of T = {i, j},
    and times the sum of all a_ij with i, of T = {i}. It is 0 for other T.
    """
    return float(of_products(functional, 2)[1 + even])


def _additive_with_pairs(
    kernel: PartKernel, signs: Floats, functional: IndexFunctional, members: Integers
) -> Floats | float:
    """The additive part of an odd game, or the products of two players of an even one."""
    factor = _of_few(functional, kernel.even) * kernel.linear_variance
    if factor == 0:
        return 0.0
    weighted = kernel.slopes * signs
    own = weighted[:, members].prod(axis=2)
    if kernel.even and functional.size == 1:
        own = own * (weighted.sum(axis=1)[:, None] - own)
    return np.asarray(factor * own)


def _additive_variances(kernel: PartKernel, functional: IndexFunctional, members: Integers) -> Floats | float:
    """The prior variances of the same."""
    own = kernel.slopes[members].prod(axis=1)
    if kernel.even and functional.size == 1:
        own = own * (kernel.slopes.sum() - own)
    return np.asarray(_of_few(functional, kernel.even) ** 2 * kernel.linear_variance * own)


def _size_functionals(functional: IndexFunctional, n_players: int) -> tuple[Floats, Floats, Floats]:
    """The index of h(|S|), and of x_i h(|S|) for i in T and outside of it, as weights of h(0), ..., h(n)."""
    size = functional.size
    n_others = n_players - size
    differences, own, others = np.zeros(n_players + 1), np.zeros(n_players + 1), np.zeros(n_players + 1)
    for number in range(n_others + 1):
        weight = functional.by_size[number] * comb(n_others, number)
        mean = 2 * number / n_others - 1 if n_others else 0.0  # of x_i over coalitions of that many of the others
        for part in range(size + 1):
            signed = weight * (-1) ** (size - part) * comb(size, part)
            differences[number + part] += signed
            others[number + part] += mean * signed
        for part in range(size):
            signed = weight * (-1) ** (size - 1 - part) * comb(size - 1, part)
            own[number + part + 1] += signed
            own[number + part] += signed
    return differences, own, others


def _sizes_with_pairs(kernel: PartKernel, signs: Floats, functional: IndexFunctional, members: Integers) -> Floats:
    """The parts that depend on sizes."""
    n_players, sizes = kernel.n_players, coalition_sizes(signs)
    differences, own, others = _size_functionals(functional, n_players)
    by_size = kernel.size_variance * size_kernel(n_players, kernel.size_length, odd=not kernel.even)[:, sizes]
    slopes = kernel.slope_variance * size_kernel(n_players, kernel.slope_length, odd=kernel.even)[:, sizes]
    weighted = kernel.slopes * signs
    inside = weighted[:, members].sum(axis=2)
    outside = weighted.sum(axis=1)[:, None] - inside
    of_own, of_others = (own @ slopes)[:, None], (others @ slopes)[:, None]
    return np.asarray((differences @ by_size)[:, None] + inside * of_own + outside * of_others)


def _weights_of_pairs(signs: Floats, functional: IndexFunctional, members: Integers) -> Floats:
    """The index of the games that are 1 on a coalition, 1 or -1 on its complement, and 0 elsewhere."""
    own = signs[:, members]
    inside = (own > 0).sum(axis=2)
    # On the other part the functional is zero, so that a coalition and its complement count the same.
    return np.asarray(2 * own.prod(axis=2) * functional.by_size[coalition_sizes(signs)[:, None] - inside])
