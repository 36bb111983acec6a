"""The parameters of a `PartKernel` from odd or even payoffs: the mode of their posterior, by L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.optimize import minimize

from shapkit.estimators.gaussian_process import loops
from shapkit.estimators.gaussian_process.kernel import PartKernel, coalition_sizes, size_kernel, weighted_products
from shapkit.estimators.gaussian_process.threads import threads_for

Floats = NDArray[np.float64]

# Logarithms of the parameters: order, start, prior mean, prior standard deviation, least and greatest value.
# The priors are weak, and centred on payoffs of mean square 1.
_LINEAR, _ROUGH, _SIZE, _SIZE_LENGTH, _SLOPE, _SLOPE_LENGTH, _N_SCALARS = range(7)
_LENGTHS = (np.log(0.5), np.log(0.7), 0.7, np.log(0.03), np.log(30.0))
_SCALARS = np.array(
    [
        (np.log(0.5), 0.0, 3.0, -14.0, 9.0),
        (np.log(1e-3), np.log(1e-4), 6.0, -25.0, 5.0),
        (np.log(0.1), np.log(0.1), 3.0, -14.0, 9.0),
        _LENGTHS,
        (np.log(0.1), np.log(0.1), 3.0, -14.0, 9.0),
        _LENGTHS,
    ]
)
_RATES = np.log([2.0, 8.0])  # β has mean 1/n: tanh(t β) is about 2/n for the first term
_PLAYER = (0.0, 0.0, 1.5, -14.0, 9.0)
_FAINT = -3.0  # log: how much less the second sinh term starts with than the first would
_FAILED = 1e25  # objective where a Gram matrix is not positive definite: the line search turns back
_RESTARTS = 3  # the line search sometimes gives up early


@dataclass(frozen=True)
class KernelFamily:
    """Which parameters a `PartKernel` has, and their meaning as a vector of logarithms.

    Attributes:
        n_players: of the game.
        n_terms: waves, 1 or 2.
        individual: whether players may differ; if not, all have the same influence and slope.
        least_roughness: what the rough variance is at least.
        even: whether the game is even, and not odd.
    """

    n_players: int
    n_terms: int = 1
    individual: bool = True
    least_roughness: float = 1e-9
    even: bool = False

    def table(self) -> Floats:
        """Return start, prior mean, prior standard deviation, least and greatest value: (n_parameters, 5)."""
        return _parameter_table(self).copy()

    def split(self, parameters: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Return views of a vector: scalars, wave variances, rates, log influences, log slopes over influences."""
        rates = _N_SCALARS + self.n_terms
        influences = rates + self.n_terms
        ratios = influences + self.n_players * self.individual
        return (
            parameters[:_N_SCALARS],
            parameters[_N_SCALARS:rates],
            parameters[rates:influences],
            parameters[influences:ratios],
            parameters[ratios:],
        )

    def kernel(self, parameters: Floats) -> PartKernel:
        """Return the kernel with these parameters (n_parameters,)."""
        scalars, variances, rates, log_influences, log_ratios = self.split(parameters)
        values = np.exp(scalars)
        n_players = self.n_players
        influences = np.exp(log_influences) / n_players if self.individual else np.full(n_players, 1 / n_players)
        return PartKernel(
            influences=influences,
            slopes=influences * np.exp(log_ratios) if self.individual else influences,
            linear_variance=float(values[_LINEAR]),
            wave_variances=np.exp(variances),
            rates=np.exp(rates),
            size_variance=float(values[_SIZE]),
            size_length=float(values[_SIZE_LENGTH]),
            slope_variance=float(values[_SLOPE]),
            slope_length=float(values[_SLOPE_LENGTH]),
            rough_variance=float(values[_ROUGH]) + self.least_roughness,
            even=self.even,
        )

    def widened(self, parameters: Floats) -> tuple[KernelFamily, Floats]:
        """Return the family with a second wave, and these parameters of one wave with a faint second."""
        family = replace(self, n_terms=2)
        start = family.table()[:, 0]
        for new, old in zip(family.split(start), self.split(parameters), strict=True):
            new[: len(old)] = old
        family.split(start)[1][1] += _FAINT
        return family, start


@lru_cache(maxsize=32)  # the likelihood asks for the prior at every step
def _parameter_table(family: KernelFamily) -> Floats:
    """What ``family.table()`` returns, not to be written to."""
    variances = [(np.log(0.5 / family.n_terms), 0.0, 3.0, -14.0, 9.0)] * family.n_terms
    rates = [(rate, rate, 1.0, -7.0, 6.0) for rate in _RATES[: family.n_terms]]
    players = [_PLAYER] * (2 * family.n_players if family.individual else 0)
    return np.concatenate([_SCALARS, np.array(variances + rates + players)])


def fit_kernel(
    family: KernelFamily, signs: Floats, payoffs: Floats, start: Floats | None = None, n_iterations: int = 60
) -> tuple[Floats, float]:
    """Return the most probable parameters (n_parameters,), and the objective there, from one start.

    Args:
        family: which parameters there are.
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        payoffs: (n_pairs, n_columns), odd payoffs of mean square about 1. Columns share the parameters.
        start: parameters to start from; by default those of the family.
        n_iterations: the most steps of L-BFGS.
    """
    with threads_for(len(signs)):
        return _fitted(family, signs, payoffs, start, n_iterations)


def _fitted(
    family: KernelFamily, signs: Floats, payoffs: Floats, start: Floats | None, n_iterations: int
) -> tuple[Floats, float]:
    table, buffers = family.table(), _Buffers(signs, family.n_terms)
    best = table[:, 0] if start is None else np.clip(start, table[:, 3], table[:, 4])
    lowest = np.inf
    for _ in range(_RESTARTS):
        scale = _step_scale(best, family, signs, payoffs, buffers)
        found = minimize(
            _scaled_objective,
            best,
            args=(family, signs, payoffs, scale, buffers),
            jac=True,
            method="L-BFGS-B",
            bounds=table[:, 3:],
            options={"maxiter": n_iterations, "maxcor": 20},
        )
        value = float(found.fun) * scale
        much_lower = value < lowest - 0.5
        if value < lowest:
            best, lowest = found.x, value
        if found.status != 2 or not much_lower:
            break
    return best, lowest


def _step_scale(parameters: Floats, family: KernelFamily, signs: Floats, payoffs: Floats, buffers: _Buffers) -> float:
    """What the objective is divided by: where all parameters have bounds, the first step is as long as the gradient.

    Even payoffs can be far less likely at the start than odd ones, with a gradient that leads from bound to bound. Fits
    of odd payoffs, which do well without, keep the course that the published figures were made with.
    """
    if not family.even:
        return 1.0
    return max(1.0, float(np.abs(objective(parameters, family, signs, payoffs, buffers)[1]).max()))


def _scaled_objective(
    parameters: Floats, family: KernelFamily, signs: Floats, payoffs: Floats, scale: float, buffers: _Buffers
) -> tuple[float, Floats]:
    value, gradient = objective(parameters, family, signs, payoffs, buffers)
    return value / scale, gradient / scale


def objective(
    parameters: Floats, family: KernelFamily, signs: Floats, payoffs: Floats, buffers: _Buffers | None = None
) -> tuple[float, Floats]:
    """Return minus the log of likelihood times prior, up to a constant, and its gradient (n_parameters,)."""
    kernel = family.kernel(parameters)
    parts = _Parts(kernel, signs, _Buffers(signs, family.n_terms) if buffers is None else buffers)
    # The lower triangle of rows is the upper one of columns, which LAPACK takes without a copy.
    factor, failed = lapack.dpotrf(parts.covariances.T, lower=0, clean=0, overwrite_a=1)
    if failed:
        return _FAILED, np.zeros_like(parameters)
    weights, _ = lapack.dpotrs(factor, payoffs, lower=0)
    n_columns = payoffs.shape[1]
    value = 0.5 * float(np.sum(payoffs * weights)) + n_columns * float(np.log(np.diag(factor)).sum())
    inverse, _ = lapack.dpotri(factor, lower=0, overwrite_c=1)
    by_covariance = np.matmul(weights, weights.T, out=parts.buffers.by_covariance)
    np.subtract(n_columns * inverse.T if n_columns > 1 else inverse.T, by_covariance, out=by_covariance)
    by_covariance *= 0.5
    gradient = parts.contracted(by_covariance, family, parameters)
    _, mean, deviation = _parameter_table(family)[:, :3].T
    distance = (parameters - mean) / deviation
    return value + 0.5 * float(distance @ distance), gradient + distance / deviation


class _Buffers:
    """What one fit writes to again and again: of hundreds of pairs, new memory takes as long as what fills it."""

    def __init__(self, signs: Floats, n_terms: int) -> None:
        n_pairs = len(signs)
        self.sizes = coalition_sizes(signs)
        self.covariances = np.zeros((n_pairs, n_pairs))  # above the diagonal they stay so
        self.products, self.linear, self.by_covariance = np.empty((3, n_pairs, n_pairs))
        self.linear_weights, self.product_weights = np.empty((2, n_pairs, n_pairs))
        self.waves, self.tilts = np.empty((2, n_terms, n_pairs, n_pairs))


class _Parts:
    """The Gram matrix of a kernel (its lower triangle), and what its derivatives need."""

    def __init__(self, kernel: PartKernel, signs: Floats, buffers: _Buffers) -> None:
        n_pairs = len(signs)
        self.kernel, self.signs, self.sizes, self.buffers = kernel, signs, buffers.sizes, buffers
        self.products = weighted_products(signs, signs, kernel.influences, out=buffers.products)
        self.linear = np.matmul(signs * kernel.slopes, signs.T, out=buffers.linear)
        by_sizes, self.slopes_by_sizes = kernel.size_tables()
        self.covariances, self.waves, self.tilts = buffers.covariances, buffers.waves, buffers.tilts
        loops.fill_triangle(
            self.products,
            self.linear,
            self.sizes,
            by_sizes,
            self.slopes_by_sizes,
            *kernel.of_loops(),
            self.covariances,
            self.waves,
            self.tilts,
        )
        self.covariances.flat[:: n_pairs + 1] += kernel.rough_variance

    def contracted(self, by_covariance: Floats, family: KernelFamily, parameters: Floats) -> Floats:
        """The derivatives in the parameters of a function with these (n_pairs, n_pairs) in the covariances."""
        kernel, n_terms, n_sizes = self.kernel, len(self.kernel.rates), self.kernel.n_players + 1
        linear_weights, product_weights = self.buffers.linear_weights, self.buffers.product_weights
        by_sizes, linear_by_sizes = np.zeros((n_sizes, n_sizes)), np.zeros((n_sizes, n_sizes))
        squared_total, wave_totals, tilt_totals = np.zeros(1), np.zeros(n_terms), np.zeros(n_terms)
        loops.contract_gradient(
            by_covariance,
            self.products,
            self.linear,
            self.sizes,
            self.slopes_by_sizes,
            kernel.wave_variances,
            kernel.rates,
            kernel.pair_variance,
            self.waves,
            self.tilts,
            linear_weights,
            product_weights,
            by_sizes,
            linear_by_sizes,
            squared_total,
            wave_totals,
            tilt_totals,
        )
        gradient = np.zeros(len(parameters))
        scalars, variances, rates, influences, ratios = family.split(gradient)  # views, filled in place
        size_table, size_slope = size_kernel(kernel.n_players, kernel.size_length, odd=not kernel.even)
        slope_table, slope_slope = size_kernel(kernel.n_players, kernel.slope_length, odd=kernel.even)
        squares, total_gradient = float(kernel.slopes @ kernel.slopes), float(by_sizes.sum())
        additive = (squared_total[0] - squares * total_gradient) / 2 if kernel.even else linear_by_sizes.sum()
        scalars[_LINEAR] = kernel.linear_variance * additive
        scalars[_ROUGH] = (kernel.rough_variance - family.least_roughness) * np.trace(by_covariance)
        scalars[_SIZE] = kernel.size_variance * np.sum(by_sizes * size_table)
        scalars[_SIZE_LENGTH] = kernel.size_variance * np.sum(by_sizes * size_slope)
        scalars[_SLOPE] = kernel.slope_variance * np.sum(linear_by_sizes * slope_table)
        scalars[_SLOPE_LENGTH] = kernel.slope_variance * np.sum(linear_by_sizes * slope_slope)
        total = float(kernel.influences.sum())
        steepness = np.tanh(kernel.rates * total)
        # from sinh(t U) or cosh(t U) in the denominator
        normalised = wave_totals * steepness if kernel.even else wave_totals / steepness
        variances[:] = kernel.wave_variances * wave_totals
        rates[:] = kernel.wave_variances * kernel.rates * (tilt_totals - total * normalised)
        if family.individual:
            shrunk = kernel.pair_variance * kernel.slopes * total_gradient  # from the squares that pairs leave out
            ratios[:] = kernel.slopes * (np.sum((linear_weights @ self.signs) * self.signs, axis=0) - shrunk)
            shared = float(np.sum(kernel.wave_variances * kernel.rates * normalised))
            curved = np.sum((product_weights @ self.signs) * self.signs, axis=0) - shared
            influences[:] = ratios + kernel.influences * curved
        return gradient
