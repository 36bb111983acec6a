"""The loops of the Gaussian process that run once per two pairs of coalitions, compiled with numba.

Pairs are rows of +1 and -1. `products` holds Σ_j β_j x_j x'_j, at most `total` = Σ_j β_j in size, and `linear` the
same with other weights; `rates` and `variances` are those of the waves of `kernel.py`: sinh where `even` is false,
cosh where it is true. `pair_variance` is that of an even game's products of two players, whose kernel is
(`linear`² - `squares`) / 2; 0 for an odd game.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shapkit.kernels import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@compiled
def _exponentials(product: float, total: float, rate: float, least: float) -> tuple[float, float]:
    """exp(t (u - U)) and exp(-t (u + U)), whose product is `least` = exp(-2 t U): one exponential where it can be."""
    grown = math.exp(rate * (product - total))
    if least > 1e-280:
        return grown, least / grown
    return grown, math.exp(-rate * (product + total))


@compiled
def _scales(least: Floats, rates: Floats, total: float, even: bool) -> Floats:
    """1 / (1 ∓ exp(-2 t U)), which makes a wave 1 at u = U."""
    return 1.0 / (1.0 + least) if even else -1.0 / np.expm1(-2.0 * rates * total)


@compiled
def fill_covariances(
    products: Floats,
    linear: Floats,
    row_sizes: Integers,
    column_sizes: Integers,
    by_sizes: Floats,
    slopes_by_sizes: Floats,
    variances: Floats,
    rates: Floats,
    total: float,
    pair_variance: float,
    squares: float,
    even: bool,
    covariances: Floats,
) -> None:
    """Write the covariance of every row's with every column's pair, without the rough part, to `covariances`.

    `by_sizes` and `slopes_by_sizes` (n_players + 1, n_players + 1) are looked up with the sizes of the two
    coalitions; the second, which includes the variance of the linear part, multiplies `linear`.
    """
    least, sign = np.exp(-2.0 * rates * total), 1.0 if even else -1.0
    scales = _scales(least, rates, total, even)
    for row in range(products.shape[0]):
        for column in range(products.shape[1]):
            size, other = row_sizes[row], column_sizes[column]
            covariance = by_sizes[size, other] + slopes_by_sizes[size, other] * linear[row, column]
            covariance += 0.5 * pair_variance * (linear[row, column] * linear[row, column] - squares)
            for term in range(len(rates)):
                grown, fallen = _exponentials(products[row, column], total, rates[term], least[term])
                covariance += variances[term] * (grown + sign * fallen) * scales[term]
            covariances[row, column] = covariance


@compiled
def fill_triangle(
    products: Floats,
    linear: Floats,
    sizes: Integers,
    by_sizes: Floats,
    slopes_by_sizes: Floats,
    variances: Floats,
    rates: Floats,
    total: float,
    pair_variance: float,
    squares: float,
    even: bool,
    covariances: Floats,
    waves: Floats,
    tilts: Floats,
) -> None:
    """As `fill_covariances` for the lower triangle of one set of pairs, keeping what the gradient needs.

    `waves` and `tilts` (n_terms, n_pairs, n_pairs) receive sinh(t u)/sinh(t U) and cosh(t u)/sinh(t U), or, of an even
    game, cosh(t u)/cosh(t U) and sinh(t u)/cosh(t U): a tilt times t is the derivative of a wave in u.
    """
    least, sign = np.exp(-2.0 * rates * total), 1.0 if even else -1.0
    scales = _scales(least, rates, total, even)
    for row in range(products.shape[0]):
        for column in range(row + 1):
            size, other = sizes[row], sizes[column]
            covariance = by_sizes[size, other] + slopes_by_sizes[size, other] * linear[row, column]
            covariance += 0.5 * pair_variance * (linear[row, column] * linear[row, column] - squares)
            for term in range(len(rates)):
                grown, fallen = _exponentials(products[row, column], total, rates[term], least[term])
                waves[term, row, column] = (grown + sign * fallen) * scales[term]
                tilts[term, row, column] = (grown - sign * fallen) * scales[term]
                covariance += variances[term] * (grown + sign * fallen) * scales[term]
            covariances[row, column] = covariance


@compiled
def contract_gradient(
    gradient: Floats,
    products: Floats,
    linear: Floats,
    sizes: Integers,
    slopes_by_sizes: Floats,
    variances: Floats,
    rates: Floats,
    pair_variance: float,
    waves: Floats,
    tilts: Floats,
    linear_weights: Floats,
    product_weights: Floats,
    totals_by_sizes: Floats,
    linear_by_sizes: Floats,
    squared_total: Floats,
    wave_totals: Floats,
    tilt_totals: Floats,
) -> None:
    """Contract the derivative of the likelihood in each covariance with the derivatives of the covariances.

    `gradient` (n_pairs, n_pairs) is read in its lower triangle. Overwritten: `linear_weights` and `product_weights`
    (n_pairs, n_pairs), the derivatives in `linear` and in `products`. Added to: `totals_by_sizes` and
    `linear_by_sizes` (n_players + 1, n_players + 1), sums of the gradient, and of the gradient times `linear`, over
    pairs of two sizes; `squared_total` (1,), its sum times `linear`²; `wave_totals` and `tilt_totals` (n_terms,), its
    sums times the waves and times u and the tilts.
    """
    for row in range(gradient.shape[0]):
        for column in range(row + 1):
            size, other = sizes[row], sizes[column]
            once = gradient[row, column]
            both = once if row == column else 2.0 * once
            totals_by_sizes[size, other] += both
            linear_by_sizes[size, other] += both * linear[row, column]
            squared_total[0] += both * linear[row, column] * linear[row, column]
            weight = 0.0
            for term in range(len(rates)):
                tilt = tilts[term, row, column]
                wave_totals[term] += both * waves[term, row, column]
                tilt_totals[term] += both * tilt * products[row, column]
                weight += variances[term] * rates[term] * tilt
            slope = slopes_by_sizes[size, other] + pair_variance * linear[row, column]
            linear_weights[row, column] = linear_weights[column, row] = once * slope
            product_weights[row, column] = product_weights[column, row] = once * weight
