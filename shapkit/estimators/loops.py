"""The loops of sampling that run once per coalition or per player, compiled with numba.

Means and squared deviations grow sample by sample (Welford 1962), so that they do not depend on how samples are cut
into calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shapkit.kernels import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@compiled
def write_prefixes(orders: NDArray[np.int64], first: int, prefixes: NDArray[np.bool_]) -> None:
    """Write the proper, non-empty prefixes of orders (n_orders, n_players) to the rows of (n_rows, n_players).

    Row r is prefix number first + r: those of an order come one after the other, by size.
    """
    n_players = orders.shape[1]
    for row in range(prefixes.shape[0]):
        order = orders[(first + row) // (n_players - 1)]
        size = (first + row) % (n_players - 1) + 1
        if row == 0 or size == 1:
            prefixes[row] = False
            for position in range(size):
                prefixes[row, order[position]] = True
        else:
            prefixes[row] = prefixes[row - 1]
            prefixes[row, order[size - 1]] = True


@compiled
def add_marginals(
    orders: NDArray[np.int64],
    first: int,
    payoffs: NDArray[np.float64],
    ends: NDArray[np.float64],
    last: NDArray[np.float64],
    n_before: int,
    mean: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    """Add what players add to those before them to the means and squared deviations (n_players, n_columns).

    Args:
        orders, first: as for `write_prefixes`.
        payoffs: (n_rows, n_columns), of its rows.
        ends: (2, n_columns), payoffs of the empty and of the grand coalition.
        last: (n_columns,), the payoff of the row before, carried from call to call.
        n_before: how many orders came before these.
    """
    n_players, n_columns = orders.shape[1], payoffs.shape[1]
    for row in range(payoffs.shape[0]):
        number = (first + row) // (n_players - 1)
        size = (first + row) % (n_players - 1) + 1
        share = 1.0 / (n_before + number + 1)
        if size == 1:
            last[:] = ends[0]
        player = orders[number, size - 1]
        for column in range(n_columns):
            marginal = payoffs[row, column] - last[column]
            step = marginal - mean[player, column]
            mean[player, column] += step * share
            squares[player, column] += step * (marginal - mean[player, column])
            last[column] = payoffs[row, column]
        if size == n_players - 1:
            player = orders[number, size]
            for column in range(n_columns):
                marginal = ends[1, column] - last[column]
                step = marginal - mean[player, column]
                mean[player, column] += step * share
                squares[player, column] += step * (marginal - mean[player, column])


@compiled
def draw_pairs(
    players: NDArray[np.int64],
    sizes: NDArray[np.int64],
    states: NDArray[np.uint64],
    others: NDArray[np.int64],
    coalitions: NDArray[np.bool_],
) -> None:
    """Write random coalitions without a player to the first half of (2 n_draws, n_players), with it to the second.

    Draw r is of sizes[r] players other than players[r]. It has a state of its own, from which SplitMix64 (Steele, Lea
    and Flood 2014) draws the members one after the other, by the first steps of a Fisher-Yates shuffle. `others`
    (n_players - 1,) is overwritten.
    """
    n_draws, n_players = players.shape[0], coalitions.shape[1]
    for draw in range(n_draws):
        for position in range(n_players - 1):
            others[position] = position + (position >= players[draw])
        coalitions[draw] = False
        state = states[draw]
        for position in range(sizes[draw]):
            state += _GOLDEN
            bits = (state ^ (state >> np.uint64(30))) * _FIRST
            bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
            bits ^= bits >> np.uint64(31)
            uniform = np.float64(bits >> np.uint64(11)) * 2.0**-53
            chosen = position + int(uniform * (n_players - 1 - position))
            coalitions[draw, others[chosen]] = True
            others[chosen] = others[position]
        coalitions[n_draws + draw] = coalitions[draw]
        coalitions[n_draws + draw, players[draw]] = True


@compiled
def moments_of_runs(
    samples: NDArray[np.float64],
    lengths: NDArray[np.int64],
    means: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    """Write the mean of each run of samples (n_samples, n_columns), and the sum of squared deviations from it.

    `lengths` (n_runs,) says how long the runs are; means and squares are (n_runs, n_columns).
    """
    first = 0
    for run in range(lengths.shape[0]):
        means[run] = 0.0
        squares[run] = 0.0
        for number in range(lengths[run]):
            for column in range(samples.shape[1]):
                sample = samples[first + number, column]
                step = sample - means[run, column]
                means[run, column] += step / (number + 1)
                squares[run, column] += step * (sample - means[run, column])
        first += lengths[run]
