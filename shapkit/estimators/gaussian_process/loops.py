"""The loops of the Gaussian process that run once per two pairs of coalitions, compiled with numba.

Pairs are rows of +1 and -1. `products` holds Σ_j β_j x_j x'_j, at most `total` = Σ_j β_j in size, and `linear` the
same with other weights; `rates`, `skews` and `variances` are those of the waves of `kernel.py`: odd where `even` is
false. `pair_variance` is that of an even game's products of two players, whose kernel is
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
def _scales(least: Floats, rates: Floats, skews: Floats, total: float, even: bool) -> Floats:
    """What makes a wave 1 at the ends, as `_leanings` and `_exponentials` are scaled."""
    scales = np.empty(len(rates))
    for term in range(len(rates)):
        apart = math.exp(-2.0 * skews[term] * rates[term] * total)
        if even:
            scales[term] = 1.0 / (1.0 + apart * apart + 2.0 * apart * least[term])
        else:  # without the difference of two numbers that are nearly the same
            missing = math.expm1(-2.0 * skews[term] * rates[term] * total)
            scales[term] = 1.0 / (missing * missing - 2.0 * apart * math.expm1(-2.0 * rates[term] * total))
    return scales


@compiled
def _leanings(balances: Floats, rates: Floats, skews: Floats, total: float) -> tuple[Floats, Floats]:
    """exp(b - B) and exp(-b - B) of pairs, where b = k t `balances` is at most B in size: both (n_terms, n_pairs)."""
    up, down = np.empty((len(rates), len(balances))), np.empty((len(rates), len(balances)))
    for term in range(len(rates)):
        weight = skews[term] * rates[term]
        for row in range(len(balances)):
            up[term, row] = math.exp(weight * (balances[row] - total))
            down[term, row] = math.exp(-weight * (balances[row] + total))
    return up, down


@compiled
def fill_covariances(
    products: Floats,
    linear: Floats,
    row_sizes: Integers,
    column_sizes: Integers,
    row_balances: Floats,
    column_balances: Floats,
    by_sizes: Floats,
    slopes_by_sizes: Floats,
    variances: Floats,
    rates: Floats,
    skews: Floats,
    total: float,
    pair_variance: float,
    squares: float,
    even: bool,
    covariances: Floats,
) -> None:
    """Write the covariance of every row's with every column's pair, but not what each has for itself, to `covariances`.

    `by_sizes` and `slopes_by_sizes` (n_players + 1, n_players + 1) are looked up with the sizes of the two
    coalitions; the second, which includes the variance of the linear part, multiplies `linear`. Balances are
    Σ_j β_j x_j.
    """
    least, sign = np.exp(-2.0 * rates * total), 1.0 if even else -1.0
    scales = _scales(least, rates, skews, total, even)
    row_up, row_down = _leanings(row_balances, rates, skews, total)
    up, down = _leanings(column_balances, rates, skews, total)
    for row in range(products.shape[0]):
        for column in range(products.shape[1]):
            size, other = row_sizes[row], column_sizes[column]
            covariance = by_sizes[size, other] + slopes_by_sizes[size, other] * linear[row, column]
            covariance += 0.5 * pair_variance * (linear[row, column] * linear[row, column] - squares)
            for term in range(len(rates)):
                grown, fallen = _exponentials(products[row, column], total, rates[term], least[term])
                grown *= row_up[term, row] * up[term, column] + row_down[term, row] * down[term, column]
                fallen *= row_up[term, row] * down[term, column] + row_down[term, row] * up[term, column]
                covariance += variances[term] * (grown + sign * fallen) * scales[term]
            covariances[row, column] = covariance


@compiled
def _difference(first: float, second: float) -> float:
    """(first - second) / (first + second) of numbers that are not negative; 0 where both have vanished."""
    both = first + second
    return (first - second) / both if both > 0.0 else 0.0


@compiled
def _size_profile(n_players: int, length: float) -> tuple[Floats, Floats]:
    """A Matérn-3/2 kernel of 0, ..., n steps between two sizes, and its derivative in log(length): both (n + 1,)."""
    kernel, slope = np.empty(n_players + 1), np.empty(n_players + 1)
    for steps in range(n_players + 1):
        scaled = math.sqrt(3.0) * 2.0 * steps / (n_players * length)
        decay = math.exp(-scaled)
        kernel[steps] = (1.0 + scaled) * decay
        slope[steps] = scaled * scaled * decay
    return kernel, slope


@compiled
def _mirrored(profile: Floats, size: int, other: int, sign: float) -> float:
    """The value of `kernel.size_kernel` for two sizes; `sign` is -1 where it is odd."""
    n_players = len(profile) - 1
    near, far = profile[abs(size - other)], profile[abs(n_players - size - other)]
    return float(0.5 * (near + sign * far))


@compiled
def _weighted_products(signs: Floats, columns: Floats, weights: Floats, products: Floats) -> None:
    """Write Σ_j weights_j x_j x'_j of any two rows of `signs`, whose transpose is `columns`, to the lower triangle."""
    total = weights.sum()
    for row in range(signs.shape[0]):
        written = products[row, : row + 1]
        written[:] = 0.0
        for player in range(signs.shape[1]):
            weight = weights[player] * signs[row, player]
            seen = columns[player]
            for column in range(row + 1):
                written[column] += weight * seen[column]
        for column in range(row + 1):
            written[column] = min(max(written[column], -total), total)


@compiled
def _balances(columns: Floats, influences: Floats) -> Floats:
    """Σ_j β_j x_j of pairs, given as columns (n_players, n_pairs)."""
    balances = np.zeros(columns.shape[1])
    for player in range(columns.shape[0]):
        balances += influences[player] * columns[player]
    total = influences.sum()
    for pair in range(len(balances)):
        balances[pair] = min(max(balances[pair], -total), total)
    return balances


@compiled
def fill_triangle(
    signs: Floats,
    columns: Floats,
    sizes: Integers,
    influences: Floats,
    slopes: Floats,
    numbers: Floats,
    variances: Floats,
    rates: Floats,
    skews: Floats,
    even: bool,
    individual: bool,
    covariances: Floats,
    products: Floats,
    linear: Floats,
    waves: Floats,
    tilts: Floats,
) -> None:
    """Write the Gram matrix of pairs to the lower triangle of `covariances`, keeping what its derivatives need.

    `numbers` holds linear variance, rough variance, variance and length of sizes, variance and length of slopes, the
    variance of the ends, and that of a constant. `columns` is `signs` transposed. `products` and `linear` (n_pairs,
    n_pairs) receive Σ β_j x_j x'_j and the same of the slopes, or hold them already where players are not `individual`.
    `waves` and `tilts` (n_terms, n_pairs, n_pairs) receive the waves and their derivatives in t u.
    """
    n_players = signs.shape[1]
    linear_variance, rough_variance = numbers[0], numbers[1]
    profile, slope_profile = _size_profile(n_players, numbers[3])[0], _size_profile(n_players, numbers[5])[0]
    total, squares = influences.sum(), (slopes * slopes).sum()
    least, sign = np.exp(-2.0 * rates * total), 1.0 if even else -1.0
    scales = _scales(least, rates, skews, total, even)
    up, down = _leanings(_balances(columns, influences), rates, skews, total)
    if individual:
        _weighted_products(signs, columns, influences, products)
        _weighted_products(signs, columns, slopes, linear)
    for row in range(signs.shape[0]):
        for column in range(row + 1):
            size, other, slope = sizes[row], sizes[column], linear[row, column]
            by_slope = numbers[4] * _mirrored(slope_profile, size, other, -sign)
            covariance = numbers[2] * _mirrored(profile, size, other, sign)
            if even:
                covariance += numbers[7] + by_slope * slope + 0.5 * linear_variance * (slope * slope - squares)
            else:
                covariance += (linear_variance + by_slope) * slope
            for term in range(len(rates)):
                grown, fallen = _exponentials(products[row, column], total, rates[term], least[term])
                grown *= up[term, row] * up[term, column] + down[term, row] * down[term, column]
                fallen *= up[term, row] * down[term, column] + down[term, row] * up[term, column]
                waves[term, row, column] = (grown + sign * fallen) * scales[term]
                tilts[term, row, column] = (grown - sign * fallen) * scales[term]
                covariance += variances[term] * waves[term, row, column]
            covariances[row, column] = covariance
        covariances[row, row] += rough_variance
        if sizes[row] == 0 or sizes[row] == n_players:
            covariances[row, row] += numbers[6]


@compiled
def contract_gradient(
    signs: Floats,
    columns: Floats,
    sizes: Integers,
    influences: Floats,
    slopes: Floats,
    numbers: Floats,
    variances: Floats,
    rates: Floats,
    skews: Floats,
    even: bool,
    individual: bool,
    inverse: Floats,
    weights: Floats,
    products: Floats,
    linear: Floats,
    waves: Floats,
    tilts: Floats,
    by_number: Floats,
    by_variance: Floats,
    by_rate: Floats,
    by_skew: Floats,
    by_influence: Floats,
    by_slope: Floats,
) -> None:
    """Write the derivatives of half of (n_columns log det K + Σ y' K⁻¹ y) in the kernel's parameters.

    `inverse` (n_pairs, n_pairs) holds K⁻¹ in its lower triangle, and `weights` (n_pairs, n_columns) are K⁻¹ y; the
    other arguments up to `tilts` are those of `fill_triangle`. `by_number` (7,), `by_variance`, `by_rate` and `by_skew`
    (n_terms,) receive the derivatives in the logarithms of `numbers`, `variances`, `rates` and `skews`, except that of
    the rough variance itself; `by_influence` and `by_slope` (n_players,) those in `influences` and `slopes` themselves,
    where players are `individual`.
    """
    n_pairs, n_players = signs.shape
    n_columns, n_terms = weights.shape[1], len(rates)
    profile, profile_slope = _size_profile(n_players, numbers[3])
    slope_profile, slope_slope = _size_profile(n_players, numbers[5])
    sign = 1.0 if even else -1.0
    everything = squared = by_size = by_length = by_slopes = by_slope_length = additive = trace = of_ends = 0.0
    wave_totals, tilt_totals, lean_totals = np.zeros(n_terms), np.zeros(n_terms), np.zeros(n_terms)
    total = influences.sum()
    balances, leaning = _balances(columns, influences), np.zeros(n_pairs)
    up, down = _leanings(balances, rates, skews, total)
    by_influence[:] = 0.0
    by_slope[:] = 0.0
    of_products, of_linear = np.empty(n_players), np.empty(n_players)
    for row in range(n_pairs):
        of_products[:] = 0.0
        of_linear[:] = 0.0
        for column in range(row + 1):
            size, other, slope = sizes[row], sizes[column], linear[row, column]
            once = n_columns * inverse[row, column]
            for payoff in range(n_columns):
                once -= weights[row, payoff] * weights[column, payoff]
            once *= 0.5 if row == column else 1.0  # the entry above the diagonal is the same
            if row == column:
                trace += once
                if size == 0 or size == n_players:
                    of_ends += once
            everything += once
            squared += once * slope * slope
            additive += once * slope
            by_size += once * _mirrored(profile, size, other, sign)
            by_length += once * _mirrored(profile_slope, size, other, sign)
            of_sizes = _mirrored(slope_profile, size, other, -sign)
            by_slopes += once * slope * of_sizes
            by_slope_length += once * slope * _mirrored(slope_slope, size, other, -sign)
            weight = 0.0
            for term in range(n_terms):
                tilt = tilts[term, row, column]
                wave_totals[term] += once * waves[term, row, column]
                tilt_totals[term] += once * tilt * products[row, column]
                weight += variances[term] * rates[term] * tilt
                # the part that grows with t u leans as tanh(b + b') does, the other as tanh(b - b')
                wave = waves[term, row, column]
                same = (
                    0.5
                    * (wave + tilt)
                    * _difference(up[term, row] * up[term, column], down[term, row] * down[term, column])
                )
                opposite = (
                    0.5
                    * (wave - tilt)
                    * _difference(up[term, row] * down[term, column], down[term, row] * up[term, column])
                )
                by_row, by_column = once * (same + opposite), once * (same - opposite)
                lean_totals[term] += by_row * balances[row] + by_column * balances[column]
                lean = variances[term] * rates[term] * skews[term]
                leaning[row] += lean * by_row
                leaning[column] += lean * by_column
            if individual:
                linear_weight = once * (numbers[4] * of_sizes + numbers[0] * (slope if even else 1.0))
                product_weight = once * weight
                seen = signs[column]
                for player in range(n_players):
                    of_linear[player] += linear_weight * seen[player]
                    of_products[player] += product_weight * seen[player]
        for player in range(n_players if individual else 0):
            by_slope[player] += signs[row, player] * of_linear[player]
            by_influence[player] += signs[row, player] * of_products[player]
    squares = (slopes * slopes).sum()
    by_number[0] = numbers[0] * (0.5 * (squared - squares * everything) if even else additive)
    by_number[1] = trace
    by_number[2] = numbers[2] * by_size
    by_number[3] = numbers[2] * by_length
    by_number[4] = numbers[4] * by_slopes
    by_number[5] = numbers[4] * by_slope_length
    by_number[6] = numbers[6] * of_ends
    scales = _scales(np.exp(-2.0 * rates * total), rates, skews, total, even)
    shared = 0.0  # from what waves are scaled by
    for term in range(n_terms):
        apart = math.exp(-2.0 * skews[term] * rates[term] * total)
        least = math.exp(-2.0 * rates[term] * total)
        steepness = (1.0 + apart * apart - 2.0 * sign * apart * least) * scales[term]
        skewness = 2.0 * (1.0 - apart * apart) * scales[term]
        by_variance[term] = variances[term] * wave_totals[term]
        leant = skews[term] * (lean_totals[term] - total * skewness * wave_totals[term])
        by_skew[term] = variances[term] * rates[term] * leant
        by_rate[term] = (
            variances[term] * rates[term] * (tilt_totals[term] - total * steepness * wave_totals[term] + leant)
        )
        shared += variances[term] * rates[term] * wave_totals[term] * (steepness + skews[term] * skewness)
    for player in range(n_players):
        by_influence[player] -= shared
        if individual:
            by_influence[player] += columns[player] @ leaning
        if even:  # from the squares that products of pairs leave out
            by_slope[player] -= numbers[0] * slopes[player] * everything
