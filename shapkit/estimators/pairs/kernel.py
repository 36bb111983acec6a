"""KernelSHAP on pairs: Lundberg and Lee (2017), with the pairing and the constraint of Covert and Lee (2021)."""

from __future__ import annotations

from shapkit.attribution.attribution import Attribution
from shapkit.estimators.pairs.regression import regression_attribution, shapley_kernel
from shapkit.estimators.pairs.samples import PairedSampler
from shapkit.games.game import Game

_STREAM = 0x6B65726E656C  # "kernel": other methods with the same seed draw other numbers


class KernelSampler(PairedSampler):
    """Shapley values by least squares on pairs of coalitions, drawn as often as the Shapley kernel weighs their sizes.

    Lundberg and Lee (2017), theorem 2: the Shapley value is the additive game nearest to the game, in squares weighted
    by 1 / (C(n, s) s (n - s)), that shares out the same total. Covert and Lee (2021): each coalition with its
    complement, and the total as an exact constraint. They draw with replacement and random sizes. Here no coalition is
    drawn twice, the number of each size is what the kernel asks for to within one pair, and the weights follow what
    was drawn: see `PairedSamples`. Both lower the variance, and the estimate is exact once the sample is complete.

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
    >>> sampler = KernelSampler(shapkit.weighted_voting([4, 4, 4, 2, 2, 1, 1, 1], quota=12))
    >>> sampler.advance(80)
    80
    >>> phi = sampler.attribution()
    >>> float(phi.values.sum().round(12)), phi.method, phi.n_evaluations
    (1.0, 'kernel', 80)
    """

    def __init__(self, game: Game, seed: int = 0) -> None:
        super().__init__(game, seed, _STREAM, shapley_kernel)

    def attribution(self) -> Attribution:
        """Return the estimates from all pairs so far; exact, with standard errors of zero, once there are no more.

        Raises:
            ValueError: nothing has been evaluated yet.
        """
        return self._measured.restored(regression_attribution(self._samples, "kernel"))
