"""LeverageSHAP: least squares on pairs drawn by their leverage in it (Musco and Witter 2025)."""

from __future__ import annotations

import numpy as np

from shapkit.attribution.attribution import Attribution
from shapkit.estimators.pairs.regression import regression_attribution
from shapkit.estimators.pairs.samples import Floats, PairedSampler
from shapkit.games.game import Game

_STREAM = 0x6C65766572616765  # "leverage": other methods with the same seed draw other numbers


def equal_rates(sizes: Floats, n_players: int) -> Floats:
    """Return the leverage of all coalitions of each size together, up to a factor: ones."""
    return np.ones_like(sizes)


class LeverageSampler(PairedSampler):
    """Shapley values by least squares on pairs of coalitions, the same number of every size.

    Musco and Witter (2025), lemma 3.2: the leverage of a coalition in the regression that `KernelSampler` describes is
    1 / C(n, s), so that sampling by leverage scores draws every size equally often and reweights. O(n log n)
    evaluations then bound the error by a multiple of how far the game is from an additive one. They include each
    coalition with probability min(1, c / C(n, s)), without replacement, with c such that the budget is met. Here the
    number of each size is that expectation, to within one pair, instead of a random number, and a sample is extended
    by raising c: sizes with fewer coalitions than c are then complete, and all others share what is left. See
    `PairedSamples`.

    The estimate is consistent but not unbiased: the bias, of order 1 / n_pairs, is that of any regression. Its sum is
    exact. It needs n_players - 1 pairs to be determined; before, it is the solution nearest to equal shares, and
    standard errors are NaN until there are more pairs than players. See `regression_attribution` for those.

    Memory: two payoffs and n_players bytes for each pair, and a few matrices (n_players, n_players).

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64). It fixes the coalitions, whatever the game's batch size.

    Attributes:
        game: the game.
        n_evaluations: how many coalitions this sampler has evaluated.

    Raises:
        ValueError: the seed is not as described.

    >>> import shapkit
    >>> sampler = LeverageSampler(shapkit.weighted_voting([4, 4, 4, 2, 2, 1, 1, 1], quota=12))
    >>> sampler.advance(80)
    80
    >>> phi = sampler.attribution()
    >>> float(phi.values.sum().round(12)), phi.method, phi.n_evaluations
    (1.0, 'leverage', 80)
    """

    def __init__(self, game: Game, seed: int = 0) -> None:
        super().__init__(game, seed, _STREAM, equal_rates)

    def attribution(self) -> Attribution:
        """Return the estimates from all pairs so far; exact, with standard errors of zero, once there are no more.

        Raises:
            ValueError: nothing has been evaluated yet.
        """
        return self._measured.restored(regression_attribution(self._samples, "leverage"))
