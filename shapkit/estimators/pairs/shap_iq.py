"""Any index without bias: each evaluated pair weighted by what the index gives its two coalitions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import coalitions_of_size
from shapkit.estimators.pairs.samples import PairedSampler, row_blocks, stratum_variance
from shapkit.estimators.runs.moments import degrees_of_freedom, uncertainties
from shapkit.exact.interactions import Index, checked_order, derivative_weights
from shapkit.games.game import Game

Floats = NDArray[np.float64]

_STREAM = 0x534951  # of random numbers, this method's own
_EQUALLY = 0.25  # share of the pairs that every size gets alike


class ShapIqSampler(PairedSampler):
    """Interaction indices as weighted sums of payoffs, unbiased: SHAP-IQ on pairs, stratified by size.

    Fumagalli and others (2023): the index of T is Σ_S ± e(|S \\ T|) v(S), and a sum over all coalitions is estimated
    by one over a sample. Here a coalition is drawn with its complement, each size without replacement and about as
    often as its pairs' weights ask for (Neyman 1934), so that sizes with few coalitions are soon known in full, and
    the estimate is exact once all are. The additive game with the same total, whose index is known, is taken off first.

    Every evaluation serves every coalition T. Nothing is assumed of the game: the estimate is unbiased, its standard
    errors are those of a stratified sample, and on smooth games it is far less accurate than "gaussian_process".

    Args:
        game: any number of players.
        seed: an integer in [0, 2**64).
        index: of `shapkit.exact.interactions.Index`.
        order: the largest size of coalition that has a value; by default 1 for values, 2 for interactions.

    Attributes:
        game: the game.

    Raises:
        ValueError: an argument is not as described.

    >>> import shapkit
    >>> sampler = ShapIqSampler(shapkit.unanimity_sum(8, [(0, 1), (2, 3, 4)], [1.0, 2.0]), index="SII")
    >>> sampler.advance(200)
    200
    >>> pairs = sampler.attribution()
    >>> bool(abs(pairs[0, 1] - 1) < 3 * pairs.standard_error(0, 1))
    True
    """

    def __init__(self, game: Game, seed: int = 0, index: Index = "SII", order: int | None = None) -> None:
        self.index: Index = index
        self.order = checked_order(index, order)
        n_players = game.n_players
        self._weights = [
            derivative_weights(index, self.order, size, n_players)[size:]
            for size in range(1, min(self.order, n_players) + 1)
        ]
        super().__init__(game, seed, _STREAM, self._rates)

    def attribution(self) -> Attribution:
        """Return the estimates from all pairs so far; standard errors are NaN while a size has one pair.

        Raises:
            ValueError: a size of coalition has no pair yet.
        """
        samples = self._samples
        pairs, counts = samples.pairs(), samples.counts
        if (counts == 0).any():
            raise ValueError(f"{samples.n_evaluations} evaluations are fewer than two of every size of coalition")
        assert samples.ends is not None
        n_players, n_columns = self.game.n_players, samples.ends[0].size
        shares = samples.equal_shares()  # of the additive game with the same total
        sizes = pairs.coalitions.sum(axis=1)[:, None]
        empty = samples.ends[0].reshape(-1)
        residuals = [
            pairs.payoffs[:, 0] - (empty + shares * sizes),
            pairs.payoffs[:, 1] - (empty + shares * (n_players - sizes)),
        ]
        values, variances, uncertainty = [], [], []
        for size in range(1, len(self._weights) + 1):
            found = self._of_size(size, coalitions_of_size(n_players, size), residuals)
            values.append(found[0] + (shares if size == 1 else 0.0))
            variances.append(found[1])
            uncertainty.append(found[2])
        none = np.empty((0, n_columns))
        total, spread, doubt = (np.concatenate([none, *parts]) for parts in (values, variances, uncertainty))
        freedom = np.where(np.isnan(spread), 1.0, degrees_of_freedom(spread, doubt))
        known = samples.attribution(total, np.sqrt(spread), "shap_iq", freedom, self.index, self.order)
        return self._measured.restored(known)

    def _of_size(self, size: int, members: NDArray[np.int64], residuals: list[Floats]) -> tuple[Floats, Floats, Floats]:
        """Values of coalitions (n_coalitions, size), their variances and the uncertainty of these, by column."""
        samples, pairs = self._samples, self._samples.pairs()
        shape = len(members), residuals[0].shape[1]
        values, variances, uncertainty = (np.zeros(shape) for _ in range(3))
        for stratum, drawn in enumerate(samples.counts):
            rows = np.flatnonzero(pairs.strata == stratum)
            sums, squares = np.zeros(shape), np.zeros(shape)
            table = self._scaled(size, stratum + 1)
            for block in row_blocks(pairs.coalitions[rows], len(members)):
                chosen = rows[block]
                weights = [
                    _signed(coalitions, members, table)
                    for coalitions in (pairs.coalitions[chosen], ~pairs.coalitions[chosen])
                ]
                for column in range(shape[1]):
                    terms = sum(
                        w * residual[chosen, column][:, None] for w, residual in zip(weights, residuals, strict=True)
                    )
                    sums[:, column] += np.sum(terms, axis=0)
                    squares[:, column] += np.sum(np.square(terms), axis=0)
            values += sums / drawn
            if drawn == samples.populations[stratum]:
                continue
            variance = stratum_variance(squares, sums, int(drawn), samples.populations[stratum])
            variances += variance
            uncertainty += uncertainties(variance, int(drawn))
        return values, variances, uncertainty

    def _scaled(self, size: int, members: int) -> Floats:
        """The weight e(k) times how many pairs there are of coalitions of `members` players, by k, (n - size + 1,)."""
        n_players = self.game.n_players
        n_pairs = Fraction(comb(n_players, members), 2 if 2 * members == n_players else 1)
        return np.array([float(n_pairs * weight) for weight in self._weights[size - 1]])

    def _rates(self, sizes: Floats, n_players: int) -> Floats:
        """How often to draw each size: by the root mean square weight of its coalitions in the largest T."""
        size = len(self._weights)
        weights = [float(weight) for weight in map(abs, self._weights[-1])] if size else []
        spreads = []
        for number in map(int, sizes):
            squares = 0.0
            for members in (number, n_players - number):
                for inside in range(max(0, members + size - n_players), min(size, members) + 1):
                    share = comb(size, inside) * comb(n_players - size, members - inside) / comb(n_players, members)
                    squares += share * weights[members - inside] ** 2
            spreads.append(comb(n_players, number) * squares**0.5)
        neyman = np.array(spreads)
        if not neyman.sum() > 0:
            return np.ones_like(sizes)
        return np.asarray(_EQUALLY / max(1, len(sizes)) + (1 - _EQUALLY) * neyman / neyman.sum())


def _signed(coalitions: NDArray[np.bool_], members: NDArray[np.int64], table: Floats) -> Floats:
    """±table[|S \\ T|] for coalitions S (rows) and T (columns); the sign is that of (-1)^|T \\ S|."""
    inside = coalitions[:, members].sum(axis=2)
    outside = coalitions.sum(axis=1)[:, None] - inside
    return np.asarray(np.where((members.shape[1] - inside) % 2 == 1, -1.0, 1.0) * table[outside])
