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

from shapkit.kernels import compiled, compiled_in_any_order

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LEAST_EXPONENT = -700.0
_LOG2_E = 1.4426950408889634
_LN2, _LN2_REST = 0.693147180369123816490, 1.90821492927058770002e-10  # of which the first has zeros to multiply by
_SHIFT = 1.5 * 2.0**52  # added to a number of little size, leaves a whole one
_BITS_OF_ONE = 1023 << 52


@compiled
def exponentials(products: Floats, offset: float, rate: float, powers: Floats, found: Floats) -> None:
    """Write exp(rate (product + offset)) to `found`, for exponents up to 0; `powers` is to work with, likewise (n,).

    The library's exponential is called for one number after the other. This one is worked out for as many at once as
    the processor takes: 2^k e^r, where e^r is a polynomial (Cody and Waite 1980, chapter 6). Its error is that of the
    last digit or two, and what would be less than 1e-304 is about that much.
    """
    for column in range(len(products)):
        exponent = max(rate * (products[column] + offset), _LEAST_EXPONENT)
        shifted = exponent * _LOG2_E + _SHIFT  # the last digits of which are k
        whole = shifted - _SHIFT
        rest = (exponent - whole * _LN2) - whole * _LN2_REST
        value = 1.0 / 6227020800.0
        value = value * rest + 1.0 / 479001600.0
        value = value * rest + 1.0 / 39916800.0
        value = value * rest + 1.0 / 3628800.0
        value = value * rest + 1.0 / 362880.0
        value = value * rest + 1.0 / 40320.0
        value = value * rest + 1.0 / 5040.0
        value = value * rest + 1.0 / 720.0
        value = value * rest + 1.0 / 120.0
        value = value * rest + 1.0 / 24.0
        value = value * rest + 1.0 / 6.0
        value = value * rest + 0.5
        value = value * rest + 1.0
        powers[column] = shifted
        found[column] = value * rest + 1.0
    bits = powers.view(np.int64)
    for column in range(len(products)):
        bits[column] = (bits[column] << 52) + _BITS_OF_ONE
    for column in range(len(products)):
        found[column] *= powers[column]


@compiled
def _exponentials(products: Floats, total: float, rate: float, powers: Floats, grown: Floats, fallen: Floats) -> None:
    """Write exp(t (u - U)) and exp(-t (u + U)), whose product is exp(-2 t U): one exponential where it can be."""
    exponentials(products, -total, rate, powers, grown)
    least = math.exp(-2.0 * rate * total)
    if least > 1e-280:
        for column in range(len(products)):
            fallen[column] = least / grown[column]
    else:
        exponentials(products, total, -rate, powers, fallen)


@compiled
def _scales(rates: Floats, skews: Floats, total: float, even: bool) -> Floats:
    """What makes a wave 1 at the ends, as `_leanings` and `_exponentials` are scaled."""
    scales = np.empty(len(rates))
    for term in range(len(rates)):
        apart = math.exp(-2.0 * skews[term] * rates[term] * total)
        if even:
            scales[term] = 1.0 / (1.0 + apart * apart + 2.0 * apart * math.exp(-2.0 * rates[term] * total))
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
    sign = 1.0 if even else -1.0
    scales = _scales(rates, skews, total, even)
    row_up, row_down = _leanings(row_balances, rates, skews, total)
    up, down = _leanings(column_balances, rates, skews, total)
    # Of one array, the compiler could not tell that these are apart, and would take one number after the other
    n_columns = products.shape[1]
    powers, grown, fallen = np.empty(n_columns), np.empty(n_columns), np.empty(n_columns)
    for row in range(products.shape[0]):
        found, slopes = covariances[row], linear[row]
        of_size, slopes_of_size = by_sizes[row_sizes[row]], slopes_by_sizes[row_sizes[row]]
        for column in range(len(found)):
            slope, other = slopes[column], column_sizes[column]
            pairs = 0.5 * pair_variance * (slope * slope - squares)
            found[column] = of_size[other] + slopes_of_size[other] * slope + pairs
        for term in range(len(rates)):
            _exponentials(products[row], total, rates[term], powers, grown, fallen)
            factor = variances[term] * scales[term]
            _add_wave(row_up[term, row], row_down[term, row], up[term], down[term], factor, sign, grown, fallen, found)


@compiled
def _add_wave(
    row_up: float,
    row_down: float,
    up: Floats,
    down: Floats,
    factor: float,
    sign: float,
    grown: Floats,
    fallen: Floats,
    covariances: Floats,
) -> None:
    """Add the wave of one row's pair with those of columns to `covariances`, all (n_columns,)."""
    for column in range(len(covariances)):
        same = row_up * up[column] + row_down * down[column]
        opposite = row_up * down[column] + row_down * up[column]
        covariances[column] += factor * (same * grown[column] + sign * opposite * fallen[column])


@compiled
def condition_on(
    candidate: int,
    columns: Floats,
    sizes: Integers,
    balances: Floats,
    influences: Floats,
    slopes: Floats,
    by_sizes: Floats,
    slopes_by_sizes: Floats,
    wave_variances: Floats,
    rates: Floats,
    skews: Floats,
    total: float,
    pair_variance: float,
    squares: float,
    even: bool,
    own_variance: float,
    known: Floats,
    factor: Floats,
    with_targets: Floats,
    variances: Floats,
) -> None:
    """Take one of the candidates as known too: the next row of the Cholesky factor, and rank-one updates.

    Args:
        candidate: its number.
        columns: (n_players, n_candidates) of +1 and -1, with their `sizes` and `balances`.
        influences, ..., even: the kernel's, as in `fill_covariances`.
        own_variance: what the candidate has for itself.
        known: (n_known, n_candidates), the factor's rows so far.
        factor: (n_candidates,), receives the next.
        with_targets: (n_candidates, n_targets), covariances of candidates with what is asked for, given what is known.
        variances: (n_candidates,), those of the candidates, likewise.
    """
    shape = (1, len(sizes))
    products, linear, covariances = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for player in range(len(columns)):
        seen = columns[player]
        influence, slope = influences[player] * seen[candidate], slopes[player] * seen[candidate]
        for column in range(len(sizes)):
            products[0, column] += influence * seen[column]
            linear[0, column] += slope * seen[column]
    for column in range(len(sizes)):
        products[0, column] = min(max(products[0, column], -total), total)
    fill_covariances(
        products,
        linear,
        sizes[candidate : candidate + 1],
        sizes,
        balances[candidate : candidate + 1],
        balances,
        by_sizes,
        slopes_by_sizes,
        wave_variances,
        rates,
        skews,
        total,
        pair_variance,
        squares,
        even,
        covariances,
    )
    factor[:] = covariances[0]
    factor[candidate] += own_variance
    for row in range(len(known)):
        before = known[row]
        share = before[candidate]
        for column in range(len(factor)):
            factor[column] -= share * before[column]
    deviation = math.sqrt(variances[candidate])
    targets = with_targets[candidate] / deviation
    for column in range(len(factor)):
        factor[column] /= deviation
        variances[column] -= factor[column] * factor[column]
        asked = with_targets[column]
        for target in range(len(targets)):
            asked[target] -= factor[column] * targets[target]


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
def _fill_sizes(profile: Floats, sign: float, variance: float, constant: float, covariances: Floats) -> None:
    """Write what `_mirrored` gives for any two sizes, times a variance and plus a constant, to `covariances`."""
    for size in range(len(profile)):
        for other in range(len(profile)):
            covariances[size, other] = variance * _mirrored(profile, size, other, sign) + constant


@compiled
def _sum_of_sizes(profile: Floats, sign: float, masses: Floats) -> float:
    """The sum of what `_mirrored` gives for any two sizes, each times its mass."""
    total = 0.0
    for size in range(len(profile)):
        for other in range(len(profile)):
            total += masses[size, other] * _mirrored(profile, size, other, sign)
    return total


@compiled
def _weighted_products(signs: Floats, columns: Floats, weights: Floats, products: Floats) -> None:
    """Write Σ_j weights_j x_j x'_j of any two rows of `signs`, whose transpose is `columns`, to the lower triangle."""
    n_players, total = signs.shape[1], weights.sum()
    in_fours = n_players - n_players % 4  # fewer passes over what is written
    for row in range(signs.shape[0]):
        written, own = products[row, : row + 1], weights * signs[row]
        written[:] = 0.0
        for player in range(0, in_fours, 4):
            weight, second, third, fourth = own[player], own[player + 1], own[player + 2], own[player + 3]
            seen, by_second = columns[player], columns[player + 1]
            by_third, by_fourth = columns[player + 2], columns[player + 3]
            for column in range(row + 1):
                some = weight * seen[column] + second * by_second[column]
                written[column] += some + (third * by_third[column] + fourth * by_fourth[column])
        for player in range(in_fours, n_players):
            weight, seen = own[player], columns[player]
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
    grown: Floats,
    fallen: Floats,
    leanings: Floats,
    slopes_by_sizes: Floats,
) -> tuple[Floats, Floats]:
    """Write the Gram matrix of pairs to the lower triangle of `covariances`, keeping what its derivatives need.

    `numbers` holds linear variance, rough variance, variance and length of sizes, variance and length of slopes, the
    variance of the ends, and that of a constant. `columns` is `signs` transposed. `products` and `linear` (n_pairs,
    n_pairs) receive Σ β_j x_j x'_j and the same of the slopes, or hold them already where players are not `individual`.
    `grown` and `fallen` (n_terms, n_pairs, n_pairs) receive the two exponentials that waves are made of, `leanings` (2,
    n_terms, n_pairs) what these are multiplied by, and `slopes_by_sizes` (n_players + 1, n_players + 1) what `linear`
    is, but for the pairs of an even game. Returns the scales of the waves (n_terms,) and Σ β_j x_j (n_pairs,).
    """
    n_players = signs.shape[1]
    linear_variance, rough_variance = numbers[0], numbers[1]
    total, squares = influences.sum(), (slopes * slopes).sum()
    sign = 1.0 if even else -1.0
    of_pairs, of_slopes = (0.5 * linear_variance, 0.0) if even else (0.0, linear_variance)
    by_sizes, constant = np.empty_like(slopes_by_sizes), numbers[7] - of_pairs * squares if even else 0.0
    _fill_sizes(_size_profile(n_players, numbers[3])[0], sign, numbers[2], constant, by_sizes)
    _fill_sizes(_size_profile(n_players, numbers[5])[0], -sign, numbers[4], of_slopes, slopes_by_sizes)
    scales, balances = _scales(rates, skews, total, even), _balances(columns, influences)
    leanings[0], leanings[1] = _leanings(balances, rates, skews, total)
    if individual:
        _weighted_products(signs, columns, influences, products)
        _weighted_products(signs, columns, slopes, linear)
    powers = np.empty(signs.shape[0])
    for row in range(signs.shape[0]):
        to = row + 1
        found, slope = covariances[row, :to], linear[row, :to]
        of_size, slopes_of_size = by_sizes[sizes[row]], slopes_by_sizes[sizes[row]]
        for column in range(to):
            other = sizes[column]
            found[column] = of_size[other] + (slopes_of_size[other] + of_pairs * slope[column]) * slope[column]
        for term in range(len(rates)):
            (up, down), both = leanings[:, term], (grown[term, row, :to], fallen[term, row, :to])
            _exponentials(products[row, :to], total, rates[term], powers[:to], *both)
            _add_wave(up[row], down[row], up, down, variances[term] * scales[term], sign, *both, found)
        found[row] += rough_variance
        if sizes[row] == 0 or sizes[row] == n_players:
            found[row] += numbers[6]
    return scales, balances


# The derivatives are of half of (n_columns log det K + Σ y' K⁻¹ y) in the kernel's parameters. They are found in three
# parts, called one by one: in one function, the compiler takes its loops for too many, and works on one number at once.


@compiled_in_any_order
def contract_sizes(
    inverse: Floats,
    weights: Floats,
    sizes: Integers,
    linear: Floats,
    slopes_by_sizes: Floats,
    pair_variance: float,
    slope_weights: Floats,
) -> tuple[Floats, Floats, float, float, float]:
    """Turn K⁻¹, in the lower triangle of `inverse`, into the derivatives in each covariance, and sum them up by sizes.

    A covariance that is there twice, above the diagonal too, counts twice. `weights` (n_columns, n_pairs) are K⁻¹ y,
    and `slopes_by_sizes` is what `fill_triangle` found. `slope_weights` (n_pairs, n_pairs) receives the derivatives in
    `linear`. Returns the sums of the derivatives by the two sizes, and of their products with `linear`, both (n_players
    + 1, n_players + 1), the sum of those with its square, that of the diagonal, and that of the ends.
    """
    n_columns, n_sizes = len(weights), len(slopes_by_sizes)
    masses, slope_masses = np.zeros((2, n_sizes, n_sizes))
    squared = trace = of_ends = 0.0
    for row in range(len(inverse)):
        to, size = row + 1, sizes[row]
        once, slopes, found = inverse[row], linear[row], slope_weights[row]
        for column in range(to):
            once[column] *= n_columns
        for payoff in range(n_columns):
            weight, others = weights[payoff, row], weights[payoff]
            for column in range(to):
                once[column] -= weight * others[column]
        once[row] *= 0.5
        trace += once[row]
        if size == 0 or size == n_sizes - 1:
            of_ends += once[row]
        mass, slope_mass, by_size = masses[size], slope_masses[size], slopes_by_sizes[size]
        for column in range(to):
            product = once[column] * slopes[column]
            mass[sizes[column]] += once[column]
            slope_mass[sizes[column]] += product
            squared += product * slopes[column]
            found[column] = once[column] * by_size[sizes[column]] + pair_variance * product
    return masses, slope_masses, squared, trace, of_ends


@compiled_in_any_order
def contract_wave(
    derivatives: Floats,
    products: Floats,
    grown: Floats,
    fallen: Floats,
    leanings: Floats,
    balances: Floats,
    scale: float,
    variance: float,
    rate: float,
    skew: float,
    sign: float,
    product_weights: Floats,
    leaning: Floats,
) -> tuple[float, float, float]:
    """Add a wave's derivatives to `product_weights` (n_pairs, n_pairs), in `products`, and `leaning`, in `balances`.

    `derivatives` are what `contract_sizes` makes of K⁻¹. Returns the sums of their products with the wave, of those
    with its derivative in t u, times u, and of those with its derivative in the leanings b, times Σ β_j x_j.
    """
    (up, down), work = leanings, np.empty(len(balances))
    factor, lean = variance * rate, variance * rate * skew
    waves = tilted = leant = 0.0
    for row in range(len(derivatives)):
        to, row_up, row_down = row + 1, up[row] * scale, down[row] * scale
        once, high, low = derivatives[row], grown[row], fallen[row]
        product, found = products[row], product_weights[row]
        # loops of few arrays each, or the compiler cannot tell that these are apart
        for column in range(to):
            rising = once[column] * high[column] * (row_up * up[column] + row_down * down[column])
            falling = sign * once[column] * low[column] * (row_up * down[column] + row_down * up[column])
            waves += rising + falling
            work[column] = rising - falling
        for column in range(to):
            tilted += work[column] * product[column]
            found[column] += factor * work[column]
        if lean != 0.0:
            # the part that grows with t u leans as tanh(b + b') does, the other as tanh(b - b')
            by_row = by_columns = 0.0
            for column in range(to):
                rising = once[column] * high[column] * (row_up * up[column] - row_down * down[column])
                falling = sign * once[column] * low[column] * (row_up * down[column] - row_down * up[column])
                by_row += rising + falling
                work[column] = rising - falling
            for column in range(to):
                by_columns += work[column] * balances[column]
                leaning[column] += lean * work[column]
            leaning[row] += lean * by_row
            leant += by_row * balances[row] + by_columns
    return waves, tilted, leant


@compiled
def contract_rest(
    signs: Floats,
    columns: Floats,
    influences: Floats,
    slopes: Floats,
    numbers: Floats,
    variances: Floats,
    rates: Floats,
    skews: Floats,
    even: bool,
    individual: bool,
    masses: Floats,
    slope_masses: Floats,
    squared: float,
    trace: float,
    of_ends: float,
    of_waves: Floats,
    scales: Floats,
    slope_weights: Floats,
    product_weights: Floats,
    leaning: Floats,
    by_number: Floats,
    by_variance: Floats,
    by_rate: Floats,
    by_skew: Floats,
    by_influence: Floats,
    by_slope: Floats,
) -> None:
    """Write the derivatives in the kernel's parameters.

    The arguments up to `individual` are those of `fill_triangle`; those up to `leaning` are what the other two found,
    `of_waves` (n_terms, 3) what they returned of each wave. `by_number` (7,), `by_variance`, `by_rate` and `by_skew`
    (n_terms,) receive the derivatives in the logarithms of `numbers`, `variances`, `rates` and `skews`, except that of
    the rough variance itself; `by_influence` and `by_slope` (n_players,) those in `influences` and `slopes` themselves,
    where players are `individual`.
    """
    n_players, total = len(influences), influences.sum()
    sign = 1.0 if even else -1.0
    squares, everything = (slopes * slopes).sum(), masses.sum()
    profile, profile_slope = _size_profile(n_players, numbers[3])
    slope_profile, slope_slope = _size_profile(n_players, numbers[5])
    by_number[0] = numbers[0] * (0.5 * (squared - squares * everything) if even else slope_masses.sum())
    by_number[1] = trace
    by_number[2] = numbers[2] * _sum_of_sizes(profile, sign, masses)
    by_number[3] = numbers[2] * _sum_of_sizes(profile_slope, sign, masses)
    by_number[4] = numbers[4] * _sum_of_sizes(slope_profile, -sign, slope_masses)
    by_number[5] = numbers[4] * _sum_of_sizes(slope_slope, -sign, slope_masses)
    by_number[6] = numbers[6] * of_ends
    shared = 0.0  # from what waves are scaled by
    for term in range(len(rates)):
        waves, tilted, leant = of_waves[term]
        apart = math.exp(-2.0 * skews[term] * rates[term] * total)
        least = math.exp(-2.0 * rates[term] * total)
        steepness = (1.0 + apart * apart - 2.0 * sign * apart * least) * scales[term]
        skewness = 2.0 * (1.0 - apart * apart) * scales[term]
        by_variance[term] = variances[term] * waves
        leant = skews[term] * (leant - total * skewness * waves)
        by_skew[term] = variances[term] * rates[term] * leant
        by_rate[term] = variances[term] * rates[term] * (tilted - total * steepness * waves + leant)
        shared += variances[term] * rates[term] * waves * (steepness + skews[term] * skewness)
    by_influence[:] = -shared
    # from the squares that products of pairs leave out
    by_slope[:] = (-numbers[0] * everything if even else 0.0) * slopes
    if individual:
        _contract_players(signs, columns, product_weights, slope_weights, leaning, by_influence, by_slope)


@compiled_in_any_order
def _contract_players(
    signs: Floats,
    columns: Floats,
    product_weights: Floats,
    slope_weights: Floats,
    leaning: Floats,
    by_influence: Floats,
    by_slope: Floats,
) -> None:
    """Add the derivatives through `products`, `linear` and the balances, whose own are given, to those by player."""
    n_players = signs.shape[1]
    in_twos = n_players - n_players % 2  # fewer passes over the weights
    for row in range(len(signs)):
        of_products, of_linear, leant = product_weights[row, : row + 1], slope_weights[row, : row + 1], leaning[row]
        for player in range(0, in_twos, 2):
            seen, by_second = columns[player], columns[player + 1]
            influence = slope = second_influence = second_slope = 0.0
            for column in range(row + 1):
                influence += of_products[column] * seen[column]
                slope += of_linear[column] * seen[column]
                second_influence += of_products[column] * by_second[column]
                second_slope += of_linear[column] * by_second[column]
            by_influence[player] += signs[row, player] * (influence + leant)
            by_slope[player] += signs[row, player] * slope
            by_influence[player + 1] += signs[row, player + 1] * (second_influence + leant)
            by_slope[player + 1] += signs[row, player + 1] * second_slope
        for player in range(in_twos, n_players):
            seen = columns[player]
            influence = slope = 0.0
            for column in range(row + 1):
                influence += of_products[column] * seen[column]
                slope += of_linear[column] * seen[column]
            by_influence[player] += signs[row, player] * (influence + leant)
            by_slope[player] += signs[row, player] * slope
