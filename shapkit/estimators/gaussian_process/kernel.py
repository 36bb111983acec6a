"""A prior for the odd or the even part of a game, and what it says of the Shapley values in closed form.

Only the odd part o(S) = (v(S) - v(N\\S)) / 2 counts for Shapley values, and only the even part
e(S) = (v(S) + v(N\\S)) / 2 for the Shapley interactions of pairs. Coalitions are written as rows x of +1 for members
and -1 for the others, so that o(-x) = -o(x) and e(-x) = e(x), and a row stands for a coalition and its complement: a
pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import gammaln

from shapkit.estimators.gaussian_process import loops
from shapkit.estimators.threads import one_thread

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LARGEST_TANH = 1 - 1e-12  # logarithms of 1 - tanh are taken
_MAX_NODES = 24  # Gauss-Legendre: exact up to 47 players; beyond, the integrands are smooth
CONSTANT_VARIANCE = 1.0  # of an even game's mean, in the unit in which its mean square is 1
_BLOCK_FLOATS = 2**17  # of a matrix worked on at once: new memory takes longer than what is written to it
_ROUGHER = 10.0  # by how much the rough part grows where rounding has made a Gram matrix indefinite


@dataclass(frozen=True)
class PartKernel:
    """The covariance of a random odd or even game, a sum of six independent parts.

    With z = x x' (elementwise), u = β·z and U = Σ β, the covariance of o(x) and o(x') is

        linear_variance λ·z                                     an additive game
        + Σ_q wave_variances[q] w_q(x, x')                      interactions of every odd order
        + size_variance κ_odd(|S|, |S'|)                        a function of the size of the coalition
        + slope_variance (λ·z) κ_even(|S|, |S'|)                additive, with weights that depend on the size
        + ends_variance [x, x' = ±(1, ..., 1)]                  everybody and nobody, unlike all others
        + rough_variance [x = x']                               nothing that other coalitions could tell.

    A wave w is exp(t u) cosh(b + b') - exp(-t u) cosh(b - b'), over what that is at the ends, where b = k t β·x and k
    is its skew. It is the odd part of a product over players. Without a skew it is sinh(t u) / sinh(t U), and all
    coalitions vary as much: up to a factor it is the odd part of Π_j (1 + tanh(t β_j) z_j), independent Fourier
    coefficients with variances that are products over their players. With a skew of 1 the dividends of unanimity games
    are independent instead, or those of their duals, and few players, or all but few, make more of a difference than
    half of them. κ is a Matérn-3/2 kernel of (2|S| - n)/n, made odd or even.

    An even game has products of two players instead of the additive part, linear_variance Σ_{i<j} λ_i λ_j z_i z_j, even
    waves, with a plus in place of the minus, κ_even and κ_odd in each other's place, and a constant of variance 1.
    The ends are what a model was made for, the whole text or image and none of it, where coalitions in between are
    nothing that it has seen. The rough part belongs to the game; since it is part of what is estimated, efficiency
    holds exactly, and so do the values once all pairs are known.

    Attributes:
        influences: β (n_players,), positive: how much each player interacts.
        slopes: λ (n_players,), positive: how much each counts by itself.
        linear_variance, size_variance, slope_variance, ends_variance, rough_variance: in the payoff's squared unit.
        wave_variances, rates, skews: (n_terms,); t is `rates`, and k `skews`, between 0 and 1.
        size_length, slope_length: correlation lengths of κ, where the sizes 0 and n are 2 apart.
    """

    influences: Floats
    slopes: Floats
    linear_variance: float
    wave_variances: Floats
    rates: Floats
    skews: Floats
    size_variance: float
    size_length: float
    slope_variance: float
    slope_length: float
    ends_variance: float
    rough_variance: float
    even: bool = False

    @property
    def n_players(self) -> int:
        """How many players the game has."""
        return len(self.influences)

    def between(self, rows: Floats, columns: Floats) -> Floats:
        """Return the covariances (n_rows, n_columns) of two sets of pairs, without what each pair has for itself.

        Args:
            rows: float64 (n_rows, n_players) of +1 and -1.
            columns: likewise (n_columns, n_players).
        """
        row_sizes, column_sizes = coalition_sizes(rows), coalition_sizes(columns)
        row_balances, column_balances = self.balances(rows), self.balances(columns)
        by_sizes, slopes_by_sizes = self.size_tables()
        covariances = np.empty((len(rows), len(columns)))
        several = len(rows) * len(columns) > _BLOCK_FLOATS
        with one_thread() if several else nullcontext():  # threads would wait for each other at every block
            for block in blocks(len(rows), len(columns)):
                loops.fill_covariances(
                    weighted_products(rows[block], columns, self.influences),
                    (rows[block] * self.slopes) @ columns.T,
                    row_sizes[block],
                    column_sizes,
                    row_balances[block],
                    column_balances,
                    by_sizes,
                    slopes_by_sizes,
                    *self.of_loops(),
                    covariances[block],
                )
        return covariances

    def gram(self, signs: Floats) -> Floats:
        """Return the covariances (n_pairs, n_pairs) of distinct pairs with each other."""
        covariances = self.between(signs, signs)
        covariances[np.diag_indices(len(signs))] += self.own_variances(signs)
        return covariances

    def own_variances(self, signs: Floats) -> Floats:
        """Return the variance (n_pairs,) of what each pair has for itself, and shares with no other."""
        ends = np.abs(signs.sum(axis=1)) == self.n_players
        return np.where(ends, self.ends_variance, 0.0) + self.rough_variance

    def variances(self, signs: Floats) -> Floats:
        """Return the variance (n_pairs,) of each pair's odd or even payoff."""
        by_sizes, slopes_by_sizes = (np.diag(table) for table in self.size_tables())
        sizes = coalition_sizes(signs)
        same_for_all = self.pair_variance * float(self.slopes.sum() ** 2 - self.slopes @ self.slopes) / 2
        by_size = by_sizes[sizes] + slopes_by_sizes[sizes] * self.slopes.sum()
        of_waves = sum(
            variance * wave.variances(signs) for variance, wave in zip(self.wave_variances, self.waves(), strict=True)
        )
        return np.asarray(by_size + same_for_all + of_waves + self.own_variances(signs))

    def with_shapley(self, signs: Floats) -> Floats:
        """Return the covariances (n_pairs, n_players) of pairs with each player's Shapley value.

        Row b is the Shapley values of the odd game x -> covariance of o(x) and o(x_b).
        """
        covariances = 2 * self.linear_variance * self.slopes * signs
        covariances += self.own_variances(signs)[:, None] * pair_shapley(signs)
        covariances += self._sizes_with_shapley(signs)
        for variance, wave in zip(self.wave_variances, self.waves(), strict=True):
            covariances += variance * (wave.shapley_of_product(signs) - wave.shapley_of_product(-signs))
        return covariances

    def shapley_variances(self) -> Floats:
        """Return the prior variance (n_players,) of each player's Shapley value."""
        variances = 4 * self.linear_variance * self.slopes + self.ends_variance * (2 / self.n_players) ** 2
        variances += self.rough_variance * rough_shapley_variance(self.n_players)
        variances += self._size_shapley_variances()
        for variance, wave in zip(self.wave_variances, self.waves(), strict=True):
            variances += variance * wave.shapley_variances()
        return variances

    def size_tables(self) -> tuple[Floats, Floats]:
        """Return the covariances by the two coalitions' sizes, and the factors of λ·z: both (n + 1, n + 1)."""
        n_players = self.n_players
        by_sizes = self.size_variance * size_kernel(n_players, self.size_length, odd=not self.even)
        slopes = self.slope_variance * size_kernel(n_players, self.slope_length, odd=self.even)
        if self.even:
            return by_sizes + CONSTANT_VARIANCE, slopes
        return by_sizes, self.linear_variance + slopes

    @property
    def pair_variance(self) -> float:
        """The variance of an even game's products of two players; 0 of an odd game."""
        return self.linear_variance if self.even else 0.0

    def balances(self, signs: Floats) -> Floats:
        """Return β·x of pairs (n_pairs, n_players): (n_pairs,)."""
        total = float(self.influences.sum())
        return np.asarray(np.clip(signs @ self.influences, -total, total))

    def waves(self) -> list[Wave]:
        """The waves, each of variance 1 at the ends."""
        parameters = zip(self.rates, self.skews, strict=True)
        return [Wave(rate * self.influences, float(skew), self.even) for rate, skew in parameters]

    def of_loops(self) -> tuple[Floats, Floats, Floats, float, float, float, bool]:
        """Return what the loops are told: variances, rates, skews, total, pair_variance, squares, even."""
        total, squares = float(self.influences.sum()), float(self.slopes @ self.slopes)
        return self.wave_variances, self.rates, self.skews, total, self.pair_variance, squares, self.even

    def _sizes_with_shapley(self, signs: Floats) -> Floats:
        """The parts of `with_shapley` that depend on sizes."""
        sizes, n_players = coalition_sizes(signs), self.n_players
        by_size = self.size_variance * size_kernel(n_players, self.size_length, odd=True)[:, sizes]
        everyone = (by_size[-1] - by_size[0]) / n_players
        own, others = slope_functionals(n_players)
        slopes = self.slope_variance * size_kernel(n_players, self.slope_length, odd=False)[:, sizes]
        of_own, of_others = (own - others) @ slopes, others @ slopes
        shared = everyone + (signs @ self.slopes) * of_others
        return np.asarray(self.slopes * signs * of_own[:, None] + shared[:, None])

    def _size_shapley_variances(self) -> Floats:
        """The parts of `shapley_variances` that depend on sizes."""
        n_players = self.n_players
        sizes = size_kernel(n_players, self.size_length, odd=True)
        everyone = self.size_variance * (sizes[-1, -1] - sizes[-1, 0] - sizes[0, -1] + sizes[0, 0]) / n_players**2
        own, others = slope_functionals(n_players)
        slopes = self.slope_variance * size_kernel(n_players, self.slope_length, odd=False)
        own = own - others
        of_own = self.slopes * (own @ slopes @ own + 2 * (own @ slopes @ others))
        return np.asarray(everyone + of_own + self.slopes.sum() * (others @ slopes @ others))


@dataclass(frozen=True)
class Wave:
    """What of a random odd or even game is a product over players: F(x, x') = Π_j exp(β_j (x_j x'_j + k x_j + k x'_j)).

    The wave is (F(x, x') + F(-x, -x') ± F(x, -x') ± F(-x, x')) / 2 over its value at the ends. An index of the odd or
    even part gives F(x, .) and F(-x, .) the same, up to the sign, so that it has to be known of F alone.

    Attributes:
        influences: β (n_players,), positive.
        skew: k.
        even: the sign: a plus where it is true.
    """

    influences: Floats
    skew: float
    even: bool

    @property
    def log_size(self) -> float:
        """The logarithm of Z = exp(U) cosh(2 k U) ± exp(-U), U = Σ β, which the wave is divided by."""
        total = float(self.influences.sum())
        apart, least = np.exp(-2 * self.skew * total), np.exp(-2 * total)
        if self.even:
            scaled = (1 + apart**2) / 2 + apart * least
        else:  # without the difference of two numbers that are nearly the same
            scaled = np.expm1(-2 * self.skew * total) ** 2 / 2 - apart * np.expm1(-2 * total)
        return float(total + 2 * self.skew * total + np.log(scaled))

    def variances(self, signs: Floats) -> Floats:
        """Return the variance (n_pairs,) of pairs."""
        total, twice = float(self.influences.sum()), 2 * self.skew * np.abs(signs @ self.influences)
        same = np.exp(total + twice - self.log_size) * (1 + np.exp(-2 * twice)) / 2
        opposite = np.exp(-total - self.log_size)
        return np.asarray(same + opposite if self.even else same - opposite)

    def slopes(self) -> tuple[Floats, Floats]:
        """Return tanh h (n_players,) of x'_j = -1 and 1: F is Π_j (cosh h_j + x_j sinh h_j) times exp(k β·x')."""
        against, along = (np.tanh(self.influences * (self.skew + sign)) for sign in (-1, 1))
        return np.clip(against, -_LARGEST_TANH, _LARGEST_TANH), np.clip(along, -_LARGEST_TANH, _LARGEST_TANH)

    def log_scales(self, signs: Floats) -> Floats:
        """Return log(Π_j cosh h_j exp(k β·x') / Z) of pairs x': (n_pairs,)."""
        against, along = (_log_cosh(self.influences * (self.skew + sign)) for sign in (-1, 1))
        constant = (against + along).sum() / 2 - self.log_size
        return np.asarray(constant + signs @ ((along - against) / 2 + self.skew * self.influences))

    def moments(self) -> tuple[float, Floats, Floats]:
        """Return Σ log a_j - log Z, b / a and c / a, where F is Π_j (a_j + b_j (x_j + x'_j) + c_j x_j x'_j)."""
        both, neither = -4 * self.skew * self.influences, -2 * (1 + self.skew) * self.influences
        constant = 1 + 2 * np.exp(neither) + np.exp(both)
        first = -np.expm1(both)
        larger, smaller = np.maximum(both, neither), np.minimum(both, neither)
        difference = -np.exp(larger) * np.expm1(smaller - larger)
        product = -np.expm1(neither) + np.where(both > neither, difference, -difference)
        log_scale = ((1 + 2 * self.skew) * self.influences + np.log(constant / 4)).sum() - self.log_size
        return float(log_scale), first / constant, product / constant

    def shapley_of_product(self, signs: Floats) -> Floats:
        """Return the Shapley values of x -> F(x, x') / Z for pairs x': (n_pairs, n_players)."""
        nodes, weights = _legendre(len(self.influences))
        # Σ over T ∋ i of 1/|T| is an integral over r of the product over the other players: nodes are values of r.
        against, along = ((nodes[:, None] * tanh, tanh) for tanh in self.slopes())
        logs_against, logs_along = np.log1p(against[0]), np.log1p(along[0])
        log_products = (logs_against + logs_along).sum(axis=1) / 2 + signs @ ((logs_along - logs_against) / 2).T
        products = weights * np.exp(self.log_scales(signs)[:, None] + log_products)
        own_against, own_along = (products @ (tanh / (1 + damped)) for damped, tanh in (against, along))
        return np.asarray(np.where(signs > 0, own_along, own_against))

    def shapley_variances(self) -> Floats:
        """Return the variance (n_players,) of each player's Shapley value, of an odd game."""
        nodes, weights = _legendre(len(self.influences))
        first, second = (grid.ravel()[:, None] for grid in np.meshgrid(nodes, nodes, indexing="ij"))
        log_scale, single, product = self.moments()
        factors = 1 + single * (first + second) + product * (first * second)
        products = np.outer(weights, weights).ravel() * np.exp(log_scale + np.log(factors).sum(axis=1))
        return np.asarray(2 * products @ (product / factors))


def _log_cosh(numbers: Floats) -> Floats:
    """log(cosh(x)) without overflow."""
    sizes = np.abs(numbers)
    return np.asarray(sizes + np.log1p(np.exp(-2 * sizes)) - np.log(2))


def factorised(kernel: PartKernel, signs: Floats) -> tuple[PartKernel, Floats, Floats]:
    """Return the kernel, the Gram matrix of the pairs and its lower Cholesky factor.

    Where rounding has made the matrix indefinite, the kernel returned is rougher than the one given.
    """
    while True:
        gram = kernel.gram(signs)
        factor, failed = lapack.dpotrf(gram.T, lower=1)  # the same, in the order that LAPACK takes
        if not failed:
            return kernel, gram, factor
        kernel = replace(kernel, rough_variance=_ROUGHER * kernel.rough_variance)


def innovations(kernel: PartKernel, signs: Floats, payoffs: Floats, n_known: int = 0) -> tuple[Floats, Floats]:
    """Return how many standard deviations payoffs are from what a kernel expects, each given those before.

    Args:
        kernel: of each column.
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        payoffs: (n_pairs, n_columns).
        n_known: how many pairs, the first ones, are given; the others are told of.

    Returns:
        the deviations (n_pairs - n_known, n_columns) in standard deviations, and these (n_pairs - n_known,).
    """
    _, _, factor = factorised(kernel, signs)
    whitened, _ = lapack.dtrtrs(factor, payoffs, lower=1)
    return np.asarray(whitened[n_known:]), np.asarray(np.diag(factor)[n_known:])


class PartPosterior:
    """What is known of odd, or of even, games with one kernel once some of their pairs have been evaluated.

    Args:
        kernel: the prior covariance of each column.
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        payoffs: (n_pairs, n_columns), half the difference of each coalition's payoff and its complement's, or half
            their sum.
    """

    def __init__(self, kernel: PartKernel, signs: Floats, payoffs: Floats) -> None:
        self.kernel, gram, self._factor = factorised(kernel, signs)
        self._signs = signs
        weights, _ = lapack.dpotrs(self._factor, payoffs, lower=1)
        weights += lapack.dpotrs(self._factor, payoffs - gram @ weights, lower=1)[0]  # it may be ill-conditioned
        self._weights = weights

    def of_functionals(self, with_pairs: Floats, prior_variances: Floats) -> tuple[Floats, Floats]:
        """Return the means (n_functionals, n_columns) of linear functionals of the game, and their variances.

        Args:
            with_pairs: (n_pairs, n_functionals), the prior covariances of the pairs' payoffs with the functionals.
            prior_variances: (n_functionals,), those of the functionals.
        """
        whitened, _ = lapack.dtrtrs(self._factor, with_pairs, lower=1)
        variances = prior_variances - (whitened**2).sum(axis=0)
        return with_pairs.T @ self._weights, np.maximum(variances, 0.0)

    def shapley(self) -> tuple[Floats, Floats]:
        """Return the means of the Shapley values (n_players, n_columns), and their variances (n_players,).

        The variances do not depend on the payoffs.
        """
        return self.of_functionals(self.kernel.with_shapley(self._signs), self.kernel.shapley_variances())

    def predict(self, signs: Floats) -> Floats:
        """Return the means of the payoffs of pairs (n, n_players) that have not been evaluated: (n, n_columns)."""
        means = np.empty((len(signs), self._weights.shape[1]))
        for block in blocks(len(signs), len(self._signs)):
            means[block] = self.kernel.between(signs[block], self._signs) @ self._weights
        return means


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """The rows of a matrix in blocks that stay in the cache."""
    step = max(1, _BLOCK_FLOATS // max(n_columns, 1))
    return (slice(first, first + step) for first in range(0, n_rows, step))


def weighted_products(rows: Floats, columns: Floats, weights: Floats) -> Floats:
    """Return Σ_j weights_j x_j x'_j (n_rows, n_columns), rounding kept within ± Σ_j weights_j."""
    total = float(weights.sum())
    products = (rows * weights) @ columns.T
    return np.asarray(np.clip(products, -total, total, out=products))


def coalition_sizes(signs: Floats) -> Integers:
    """Return how many players are in each coalition (n_coalitions,)."""
    return np.asarray((signs > 0).sum(axis=1))


@lru_cache(maxsize=8)
def size_kernel(n_players: int, length: float, odd: bool) -> Floats:
    """Return a Matérn-3/2 kernel of two coalition sizes, made odd or even under s -> n - s in either argument.

    It is (n_players + 1, n_players + 1), and not to be written to.
    """
    near, mirrored = ((1 + scaled) * np.exp(-scaled) for scaled in _size_distances(n_players) / length)
    return np.asarray((near - mirrored if odd else near + mirrored) / 2)


@lru_cache(maxsize=32)
def _size_distances(n_players: int) -> Floats:
    """sqrt(3) times the distance of two coalition sizes, and of one and the other's mirror image: (2, n + 1, n + 1)."""
    places = np.arange(-n_players, n_players + 1, 2) / n_players
    return np.asarray(np.sqrt(3) * np.abs(np.stack([places[:, None] - places, places[:, None] + places])))


@lru_cache(maxsize=32)
def slope_functionals(n_players: int) -> tuple[Floats, Floats]:
    """Return the Shapley values of the game x_i h(|S|), h even, as weights of h(0), ..., h(n): player i's, another's.

    They are not to be written to.

    >>> slope_functionals(2)
    (array([0.5, 1. , 0.5]), array([ 0.5, -1. ,  0.5]))
    """
    own, others = np.zeros(n_players + 1), np.zeros(n_players + 1)
    sizes = np.arange(n_players)
    signed = 2 * sizes / max(n_players - 1, 1) - 1  # mean of x_i over coalitions of that size without the other
    own[sizes + 1] += 1 / n_players
    own[sizes] += 1 / n_players
    others[sizes + 1] += signed / n_players
    others[sizes] -= signed / n_players
    return own, others


def pair_shapley(signs: Floats) -> Floats:
    """Return the Shapley values of the games that are 1 on a coalition, -1 on its complement and 0 elsewhere.

    Row b, times the odd payoff of pair b, and summed over all 2**(n - 1) pairs, gives a game's Shapley values.

    >>> pair_shapley(np.array([[1.0, 1.0], [1.0, -1.0]]))
    array([[ 1.,  1.],
           [ 1., -1.]])
    """
    n_players = signs.shape[1]
    marginal = np.exp(_log_pair_weights(n_players))
    sizes = coalition_sizes(signs)
    member = np.append(0.0, marginal)[sizes]
    outsider = np.append(marginal, 0.0)[sizes]
    return np.where(signs > 0, member[:, None], -outsider[:, None])


@lru_cache(maxsize=32)
def rough_shapley_variance(n_players: int) -> float:
    """Return the variance of a Shapley value where the odd payoffs of all pairs are independent, of variance 1.

    >>> rough_shapley_variance(2)
    2.0
    """
    before = np.arange(n_players)
    log_counts = gammaln(n_players) - gammaln(before + 1) - gammaln(n_players - before)
    return float(np.exp(log_counts + 2 * _log_pair_weights(n_players)).sum())


@lru_cache(maxsize=32)
def _log_pair_weights(n_players: int) -> Floats:
    """log(2 s! (n - s - 1)! / n!) for s = 0, ..., n - 1 players before one."""
    before = np.arange(n_players)
    return np.asarray(np.log(2) + gammaln(before + 1) + gammaln(n_players - before) - gammaln(n_players + 1))


@lru_cache(maxsize=32)
def _legendre(n_players: int) -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(min(n_players // 2 + 1, _MAX_NODES))
    return nodes, weights
