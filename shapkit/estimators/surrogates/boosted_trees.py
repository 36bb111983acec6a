"""Gradient-boosted regression trees on coalitions, whose own Shapley values have a closed form.

A coalition is a row of yes-or-no features, one per player, so that the best split is found by adding up residuals, and
a leaf is the game "these players are in, those are not".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from shapkit.coalitions import Coalitions
from shapkit.kernels import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_NO_SPLIT = -1
_LEAST_GAIN = 1e-12
_TIE = 1 + 1e-9  # of gains that differ by less, as rounding may make equal ones do, the first player's wins


@dataclass(frozen=True)
class BoostedTrees:
    """A sum of regression trees on the members of a coalition.

    Attributes:
        players: int64 (n_trees, n_nodes), the player that each node asks for; -1 in a leaf and where there is no node.
            The children of node k are 2k + 1, for coalitions without that player, and 2k + 2, for those with.
        leaves: float64 (n_trees, n_nodes, n_columns), what a leaf predicts.
        constant: float64 (n_columns,), added to each prediction.
        n_players: of the game.
    """

    players: Integers
    leaves: Floats
    constant: Floats
    n_players: int

    def predict(self, coalitions: Coalitions) -> Floats:
        """Return the predicted payoffs (n_coalitions, n_columns) of bool coalitions (n_coalitions, n_players)."""
        predicted = np.tile(self.constant, (len(coalitions), 1))
        _add_predictions(coalitions, self.players, self.leaves, predicted)
        return predicted

    def shapley_values(self) -> Floats:
        """Return the Shapley values (n_players, n_columns) of the predicted game.

        A leaf that wants p players in and q out is the game that pays when they are: each of the p is worth
        (p - 1)! q! / (p + q)! of it and each of the q, less than nothing, p! (q - 1)! / (p + q)!.
        """
        values = np.zeros((self.n_players, self.leaves.shape[2]))
        depth = int(self.players.shape[1]).bit_length()
        _add_shapley_values(self.players, self.leaves, leaf_shares(depth), values)
        return values


def leaf_shares(n_most: int) -> Floats:
    """Return (p - 1)! q! / (p + q)! for p = 0, ..., n_most (0 where p = 0) and q likewise: (n_most + 1, n_most + 1)."""
    numbers = range(n_most + 1)
    return np.array([[1 / (p * comb(p + q, p)) if p else 0.0 for q in numbers] for p in numbers])


def fit_boosted_trees(
    coalitions: Coalitions,
    payoffs: Floats,
    n_trees: int = 200,
    depth: int = 4,
    learning_rate: float = 0.1,
    shrinkage: float = 1.0,
) -> BoostedTrees:
    """Return trees fitted by gradient boosting of the squared error (Friedman 2001); it involves no chance.

    All columns share the trees' questions, chosen for the sum of their gains, which are regularised as XGBoost's (Chen
    and Guestrin 2016, equation 7).

    Args:
        coalitions: bool (n_coalitions, n_players).
        payoffs: float64 (n_coalitions, n_columns).
        n_trees: how many trees.
        depth: the most questions on a path.
        learning_rate: what each tree's predictions are multiplied by.
        shrinkage: how many coalitions with a residual of zero are added to those of each leaf.

    >>> from shapkit.coalitions import members_of_masks
    >>> coalitions = members_of_masks(range(8), 3)
    >>> both = coalitions[:, [0, 1]].all(axis=1).astype(float)
    >>> fit_boosted_trees(coalitions, both[:, None]).shapley_values().round(3)
    array([[0.5],
           [0.5],
           [0. ]])
    """
    n_players, n_columns = coalitions.shape[1], payoffs.shape[1]
    constant = payoffs.mean(axis=0)
    players = np.full((n_trees, 2 ** (depth + 1) - 1), _NO_SPLIT, dtype=np.int64)
    leaves = np.zeros((*players.shape, n_columns))
    residuals = payoffs - constant
    unit = float(np.sqrt((residuals**2).mean())) or 1.0  # gains too small to count are the same in every unit
    _boost(coalitions, residuals / unit, depth, learning_rate, shrinkage, players, leaves)
    return BoostedTrees(players, leaves * unit, constant, n_players)


@compiled
def _boost(
    coalitions: Coalitions,
    residuals: Floats,
    depth: int,
    learning_rate: float,
    shrinkage: float,
    players: Integers,
    leaves: Floats,
) -> None:
    """Write the questions and the leaves of all trees; leaves in `residuals` what they do not explain."""
    n_rows, n_columns = residuals.shape
    n_players = coalitions.shape[1]
    node_of = np.zeros(n_rows, dtype=np.int64)
    for tree in range(players.shape[0]):
        node_of[:] = 0
        for level in range(depth + 1):
            first, n_nodes = 2**level - 1, 2**level
            counts, sums = np.zeros((n_nodes, n_players + 1)), np.zeros((n_nodes, n_columns, n_players + 1))
            _add_up(coalitions, residuals, node_of, first, level < depth, counts, sums)
            for node in range(n_nodes):
                player = _best_player(counts[node], sums[node], shrinkage) if level < depth else _NO_SPLIT
                players[tree, first + node] = player
                if player == _NO_SPLIT:
                    for column in range(n_columns):
                        mean = sums[node, column, n_players] / (counts[node, n_players] + shrinkage)
                        leaves[tree, first + node, column] = learning_rate * mean
            for row in range(n_rows):
                node = node_of[row]
                if node >= first and players[tree, node] != _NO_SPLIT:
                    node_of[row] = 2 * node + 1 + coalitions[row, players[tree, node]]
        for row in range(n_rows):
            for column in range(n_columns):
                residuals[row, column] -= leaves[tree, node_of[row], column]


@compiled
def _add_up(
    coalitions: Coalitions,
    residuals: Floats,
    node_of: Integers,
    first: int,
    by_player: bool,
    counts: Floats,
    sums: Floats,
) -> None:
    """Add up the rows of each node from `first` on: those with each player, and in the last place all.

    Writes to counts (n_nodes, n_players + 1) and to sums of residuals (n_nodes, n_columns, n_players + 1). Absent
    players are added up as zeros: without a branch, the loop over players adds several of them at once.
    """
    n_players, n_columns = coalitions.shape[1], residuals.shape[1]
    for row in range(coalitions.shape[0]):
        node = node_of[row] - first
        if node < 0:
            continue  # in a leaf further up
        members, count = coalitions[row], counts[node]
        count[n_players] += 1
        if by_player:
            for player in range(n_players):
                count[player] += members[player]
        for column in range(n_columns):
            residual, sum_of = residuals[row, column], sums[node, column]
            sum_of[n_players] += residual
            if by_player:
                for player in range(n_players):
                    sum_of[player] += residual * members[player]


@compiled
def _best_player(counts: Floats, sums: Floats, shrinkage: float) -> int:
    """The player whose question explains most, or _NO_SPLIT, given what `_add_up` has written for one node."""
    n_players = len(counts) - 1
    best_gain, best = _LEAST_GAIN, _NO_SPLIT
    for player in range(n_players):
        n_with, n_without = counts[player], counts[n_players] - counts[player]
        if n_with == 0 or n_without == 0:
            continue
        gain = 0.0
        for column in range(sums.shape[0]):
            total, part = sums[column, n_players], sums[column, player]
            gain += part**2 / (n_with + shrinkage) + (total - part) ** 2 / (n_without + shrinkage)
            gain -= total**2 / (counts[n_players] + shrinkage)
        if gain > best_gain * _TIE:
            best_gain, best = gain, player
    return best


@compiled
def _add_predictions(coalitions: Coalitions, players: Integers, leaves: Floats, predicted: Floats) -> None:
    for row in range(coalitions.shape[0]):
        for tree in range(players.shape[0]):
            node = 0
            while players[tree, node] != _NO_SPLIT:
                node = 2 * node + 1 + coalitions[row, players[tree, node]]
            for column in range(predicted.shape[1]):
                predicted[row, column] += leaves[tree, node, column]


@compiled
def _add_shapley_values(players: Integers, leaves: Floats, shares: Floats, values: Floats) -> None:
    """Add the Shapley values of all leaves to `values` (n_players, n_columns)."""
    for tree in range(players.shape[0]):
        for leaf in range(1, players.shape[1]):
            if players[tree, leaf] != _NO_SPLIT:
                continue
            n_in = n_out = 0
            node = leaf
            while node > 0:
                n_in += node % 2 == 0
                n_out += node % 2
                node = (node - 1) // 2
            node = leaf
            while node > 0:
                inside, node = node % 2 == 0, (node - 1) // 2
                player = players[tree, node]
                if player == _NO_SPLIT:
                    break  # the tree does not reach this far
                share = shares[n_in, n_out] if inside else -shares[n_out, n_in]
                for column in range(values.shape[1]):
                    values[player, column] += share * leaves[tree, leaf, column]
