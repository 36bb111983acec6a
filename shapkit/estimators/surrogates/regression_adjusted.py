"""Any regression model of the game, corrected without bias by what it gets wrong: Witter, Liu and Musco (2025).

The Shapley values of a fitted model are exact but biased; those of its residuals are small, and sampled without bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import Coalitions
from shapkit.estimators.pairs.samples import (
    PairedSampler,
    Pairs,
    residual_rates,
    stratified_variances,
    weighted_marginals,
)
from shapkit.estimators.runs.moments import degrees_of_freedom
from shapkit.estimators.surrogates.models import fit_trees
from shapkit.games.game import Game

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STREAM = 0x61646A757374  # "adjust": other methods with the same seed draw other numbers
_MOST_FOLDS = 5


class GameModel(Protocol):
    """A game that is known in full: one payoff per element of a flattened payoff, its columns."""

    def predict(self, coalitions: Coalitions) -> Floats:
        """Return the payoffs (n_coalitions, n_columns) of bool coalitions (n_coalitions, n_players)."""

    def shapley_values(self) -> Floats:
        """Return the Shapley values (n_players, n_columns) of exactly the game that `predict` computes."""


Fit: TypeAlias = Callable[[Coalitions, Floats], GameModel]
"""Takes coalitions, bool (2 n_pairs, n_players), and payoffs, float64 (2 n_pairs, n_columns), and returns a model.

Row n_pairs + r is the complement of row r. Row 0 is the empty coalition.
"""


class RegressionAdjustedSampler(PairedSampler):
    """Shapley values of a fitted model of the game, plus an unbiased estimate of its error.

    Witter, Liu and Musco (2025), RegressionMSR, with four differences:

    - Coalitions come with their complements, so the values always share out the right total.
    - They are drawn by size, without replacement (see `PairedSamples`). The sizes add no error, and the estimate
      becomes exact as the sample becomes complete.
    - The model is fitted to all folds of the sample but one and corrected by the residuals of that one, in turn
      (Chernozhukov and others 2018). No residual is of a pair that its model has seen.
    - What the other folds have seen counts as known and is not estimated.

    The estimate is unbiased, for any model, once at least two pairs of each size have been drawn, or all of them: from
    about 3 n_players evaluations on. Before, it is the model's, with standard errors of NaN. Standard errors are those
    of a stratified sample of the residuals, with Satterthwaite's degrees of freedom. They take the folds for
    independent, which they nearly are.

    Where there are fewer than about 10 n_players evaluations and the game is nearly additive, `KernelSampler` is more
    accurate: each model here sees only a part of the sample.

    Memory: two payoffs and n_players bytes for each pair, and what the model takes.

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64). It fixes the coalitions, whatever the game's batch size.
        fit: fits a model to payoffs: see `Fit`. By default `fit_trees`; `fit_linear` is faster.

    Attributes:
        game: the game.

    Raises:
        ValueError: the seed is not as described.

    >>> import shapkit
    >>> sampler = RegressionAdjustedSampler(shapkit.weighted_voting([4, 4, 4, 2, 2, 1, 1, 1], quota=12))
    >>> sampler.advance(80)
    80
    >>> phi = sampler.attribution()
    >>> float(phi.values.sum().round(12)), phi.method, phi.n_evaluations
    (1.0, 'regression_adjusted', 80)
    """

    def __init__(self, game: Game, seed: int = 0, fit: Fit = fit_trees) -> None:
        super().__init__(game, seed, _STREAM, residual_rates)
        self._fit = fit

    def attribution(self) -> Attribution:
        """Return the estimates from all pairs so far; exact, with standard errors of zero, once there are no more.

        It fits the model up to five times, and depends on nothing but the sample.

        Raises:
            ValueError: nothing has been evaluated yet, or the model's predictions or values have a wrong shape.
        """
        return self._measured.restored(self._estimate())

    def effort(self, n_evaluations: int) -> float:
        """Return about how long an estimate takes after so many evaluations, in some unit: a model for each fold."""
        n_folds = self._samples.of_rarest_size(n_evaluations // 2)
        return n_evaluations * min(max(n_folds, 1.0), _MOST_FOLDS)

    def _estimate(self) -> Attribution:
        samples, pairs = self._samples, self._samples.pairs()
        equal = np.tile(samples.equal_shares(), (self.game.n_players, 1))
        unknown = np.full_like(equal, np.nan)
        if samples.complete:
            return samples.attribution(samples.exact_values(), np.zeros_like(equal), "regression_adjusted")
        if samples.n_pairs == 0:
            return samples.attribution(equal, unknown, "regression_adjusted")
        n_folds = min(_MOST_FOLDS, int(samples.counts[samples.counts < samples.populations].min()))
        if n_folds < 2:
            values, _ = self._modelled(pairs, np.ones(len(pairs.strata), dtype=np.bool_))
            return samples.attribution(equal + values, unknown, "regression_adjusted")
        return self._cross_fitted(pairs, (pairs.ranks + pairs.strata) % n_folds, n_folds)

    def _cross_fitted(self, pairs: Pairs, folds: Integers, n_folds: int) -> Attribution:
        samples = self._samples
        values = np.tile(samples.equal_shares(), (self.game.n_players, 1))
        unseen = np.empty_like(pairs.odd)
        for fold in range(n_folds):
            held_out = folds == fold
            modelled, residuals = self._modelled(pairs, ~held_out)
            represented = _represented(pairs.strata, held_out, samples.counts, samples.populations)
            represented *= 2 * samples.shares[pairs.strata]
            values += (modelled + weighted_marginals(pairs.coalitions, represented[:, None] * residuals)) / n_folds
            unseen[held_out] = residuals[held_out]
        variances, uncertainty = stratified_variances(samples, pairs, unseen)
        freedom = degrees_of_freedom(variances, uncertainty)
        return samples.attribution(values, np.sqrt(variances), "regression_adjusted", freedom)

    def _modelled(self, pairs: Pairs, fitted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """The model's values less their mean, and the odd part of what it leaves of all pairs.

        Args:
            pairs: the sample.
            fitted: bool (n_pairs,), which of them the model may see.
        """
        ends = self._samples.ends
        assert ends is not None
        known = pairs.coalitions[fitted]
        empty = np.zeros((1, self.game.n_players), dtype=np.bool_)
        payoffs = pairs.payoffs[fitted]
        seen = np.concatenate([ends[:1].reshape(1, -1), payoffs[:, 0], ends[1:].reshape(1, -1), payoffs[:, 1]])
        # A model of the user's may know the game: it sees payoffs in their own unit
        model = self._fit(
            np.concatenate([empty, known, ~empty, ~known]), self._columns(seen, self._measured.in_unit_of_payoff)
        )
        values = _checked("shapley_values()", model.shapley_values(), (self.game.n_players, pairs.odd.shape[1]))
        halves = [
            _checked("predict()", model.predict(c), pairs.odd.shape) for c in (pairs.coalitions, ~pairs.coalitions)
        ]
        values, *halves = (self._columns(amounts, self._measured.in_own_unit) for amounts in (values, *halves))
        return values - values.mean(axis=0), pairs.odd - (halves[0] - halves[1]) / 2

    def _columns(self, amounts: Floats, convert: Callable[[Floats], Floats]) -> Floats:
        """`amounts` (n, n_columns) converted from one unit to the other."""
        shape = () if self._samples.ends is None else self._samples.ends.shape[1:]
        return convert(amounts.reshape(len(amounts), *shape)).reshape(amounts.shape)


def _represented(strata: Integers, held_out: NDArray[np.bool_], counts: Integers, populations: Floats) -> Floats:
    """The fraction of its stratum that each sampled pair stands for: (n_pairs,).

    Given the pairs that the model has seen, which stand for themselves, those held out are a random sample of the rest.
    """
    n_held_out = np.bincount(strata[held_out], minlength=len(counts))
    rest = 1 - (counts - n_held_out) / populations
    return np.where(held_out, (rest / np.maximum(n_held_out, 1))[strata], (1 / populations)[strata])


def _checked(method: str, array: Floats, shape: tuple[int, ...]) -> Floats:
    if np.shape(array) != shape:
        raise ValueError(f"the model's {method} returned shape {np.shape(array)}, expected {shape}")
    return np.asarray(array, dtype=np.float64)
