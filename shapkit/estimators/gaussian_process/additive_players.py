"""Players who add the same to every coalition, found by evaluating them alone, and the smaller game without them.

A player whose marginal contribution is the same to nobody and to all others together, and not zero, most likely has no
other. It is taken to be additive until a pair of coalitions says otherwise. Its Shapley value is that contribution, and
what is left is a game of the other players, whose values and interactions are what they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.estimators.gaussian_process.kernel import coalition_sizes
from shapkit.estimators.gaussian_process.pair_design import pair_keys, single_pairs
from shapkit.randomness import counter_bits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEAST_PLAYERS = 50
"""Of fewer players none is looked for: two pairs are more of what is evaluated, and additive ones save less."""

_FIRST_SINGLES = 2
_CHECKS, _CHECKED_SHARE = 3, 0.05  # pairs, and their share of all, that only tell whether players are additive
_SAME = 1e-11  # relative: rounding


@dataclass(frozen=True)
class RemainingPairs:
    """What is known of the game of the players that are not additive.

    Attributes:
        players: int64 (n_remaining,), those players, in increasing order.
        additive: (n_players, n_outputs), what each additive player adds; 0 of the others.
        signs: float64 (n_pairs, n_remaining) of +1 and -1, distinct pairs; the grand and the empty coalition first.
        odd: (n_pairs, n_outputs), odd payoffs of the remaining game.
        even: likewise, even payoffs.
        n_checks: how many further pairs have shown that the additive players are additive together.
    """

    players: Integers
    additive: Floats
    signs: Floats
    odd: Floats
    even: Floats
    n_checks: int

    @property
    def reduced(self) -> bool:
        """Whether any player is additive."""
        return len(self.players) < len(self.additive)

    @property
    def n_wanted_checks(self) -> int:
        """How many more pairs should be checks."""
        wanted = max(_CHECKS, math.floor(_CHECKED_SHARE * len(self.signs))) if self.reduced else 0
        return max(wanted - self.n_checks, 0)

    def of_all_players(self, signs: Floats, seed: int) -> Floats:
        """Return pairs (n, n_players) that are these (n, n_remaining) among the remaining players.

        Additive players are members at random, so that every pair may show that they are not additive.
        """
        if not self.reduced:
            return signs
        n_players = len(self.additive)
        pairs = np.where(counter_bits(seed, 3, np.arange(len(signs))[:, None], np.arange(n_players)) & 1, 1.0, -1.0)
        pairs[:, self.players] = signs
        return pairs

    def checks(self, known: Floats, seed: int) -> Floats:
        """Return new pairs (n, n_players) that are known already of the remaining game: `n_wanted_checks`, or fewer.

        The first has all additive players on one side: those who are weak one by one may not be so together.
        """
        n_known = len(self.signs)
        rows = self.signs[counter_bits(seed, 4, np.arange(4 * self.n_wanted_checks)) % n_known]
        pairs = self.of_all_players(rows, int(counter_bits(seed, 5)))
        if self.n_checks == 0 and self.reduced:
            together = np.ones((1, len(self.additive)))
            together[:, self.players] = -1.0
            pairs = np.concatenate([together, pairs])
        keys, first = np.unique(pair_keys(pairs), return_index=True)
        fresh = np.sort(first[~np.isin(keys, pair_keys(known))])
        return np.asarray(pairs[fresh[: self.n_wanted_checks]])


@dataclass(frozen=True)
class _Singles:
    """What is known of players alone: their marginal contributions to nobody and to all others.

    Attributes:
        players: int64 (n_singles,), whose pairs are known.
        contributions: (n_singles, n_outputs), to nobody.
        additive: bool (n_singles,), whether that to all others is the same.
        scale: (n_outputs,), the largest payoffs.
        promising: whether at least half are additive, and not because they add nothing: as of voters, who alone
            decide nothing, that says little.
    """

    players: Integers
    contributions: Floats
    additive: NDArray[np.bool_]
    scale: Floats
    promising: bool

    @classmethod
    def of(cls, signs: Floats, odd: Floats, even: Floats) -> _Singles:
        sizes, n_players = coalition_sizes(signs), signs.shape[1]
        rows = np.flatnonzero((sizes == 1) | (sizes == n_players - 1))
        alone = np.where(sizes[rows] == 1, 1.0, -1.0)[:, None]
        scale = (np.abs(odd) + np.abs(even)).max(axis=0)
        contributions = (even[rows] + alone * odd[rows]) - (even[0] - odd[0])
        additive = (np.abs(even[rows] - even[0]) <= _SAME * scale).all(axis=1)
        telling = additive & (np.abs(contributions) > _SAME * scale).any(axis=1)
        return cls(
            players=(alone * signs[rows]).argmax(axis=1),
            contributions=contributions,
            additive=additive,
            scale=scale,
            promising=0 < len(rows) <= 2 * int(telling.sum()),
        )


def remaining_pairs(signs: Floats, odd: Floats, even: Floats) -> RemainingPairs:
    """Return what pairs say of the game without its additive players; of all players where none is additive.

    Args:
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs, the first that of the grand coalition.
        odd: (n_pairs, n_outputs), odd payoffs.
        even: likewise, even payoffs.
    """
    n_players = signs.shape[1]
    whole = RemainingPairs(np.arange(n_players), np.zeros((n_players, odd.shape[1])), signs, odd, even, 0)
    if n_players < LEAST_PLAYERS or not (singles := _Singles.of(signs, odd, even)).promising:
        return whole
    additive = np.zeros_like(whole.additive)
    additive[singles.players[singles.additive]] = singles.contributions[singles.additive]
    players = np.setdiff1d(whole.players, singles.players[singles.additive])
    left = signs[:, players]
    turned = np.where(left[:, :1] > 0, 1.0, -1.0) if len(players) else np.ones((len(signs), 1))
    reduced_odd = turned * (odd - signs @ additive / 2)
    reduced_even = even - additive.sum(axis=0) / 2
    _, first, group = np.unique(pair_keys(left), return_index=True, return_inverse=True)
    differences = [np.abs(part - part[first[group]]).max(axis=0) for part in (reduced_odd, reduced_even)]
    if (np.maximum(*differences) > _SAME * singles.scale).any():
        return whole  # they are not additive together
    rows = np.sort(first)
    n_checks = len(signs) - len(rows) - int(singles.additive.sum())
    return RemainingPairs(players, additive, (turned * left)[rows], reduced_odd[rows], reduced_even[rows], n_checks)


def further_singles(signs: Floats, odd: Floats, even: Floats, seed: int) -> Floats:
    """Return the pairs (n, n_players) of one player against all others that are to be evaluated before any others.

    Two, and then twice as many each time while at least half of those known are additive.
    """
    n_players = signs.shape[1]
    n_known = len(signs) - 1
    if n_players < LEAST_PLAYERS or n_known >= n_players:
        return np.empty((0, n_players))
    if n_known and not ((coalition_sizes(signs[1:]) == 1).all() and _Singles.of(signs, odd, even).promising):
        return np.empty((0, n_players))
    return single_pairs(n_players, n_players, seed)[n_known : max(2 * n_known, _FIRST_SINGLES)]
