"""Values and interactions by Gaussian processes on the two parts of a game, which also choose what to evaluate next.

They and their standard errors are the posterior's, in closed form: see `kernel.py` and `functionals.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_integer
from shapkit.attribution.attribution import Attribution
from shapkit.coalitions import coalitions_of_size
from shapkit.estimators.gaussian_process.additive_players import RemainingPairs, further_singles, remaining_pairs
from shapkit.estimators.gaussian_process.components import Component, PartModel, components
from shapkit.estimators.gaussian_process.forecasts import Forecast
from shapkit.estimators.gaussian_process.functionals import IndexFunctional, index_functionals, with_pairs
from shapkit.estimators.gaussian_process.kernel import PartKernel, pair_shapley
from shapkit.estimators.gaussian_process.pair_design import (
    informative_pairs,
    n_pairs_of,
    pair_keys,
    random_pairs,
    single_pairs,
)
from shapkit.estimators.gaussian_process.plausible_kernels import (
    MAX_CHOOSING_PLAYERS,
    MAX_FITTED_PAIRS,
    fit_effort,
)
from shapkit.estimators.pairs.samples import PairedSamples, residual_rates, stratified_variances, weighted_marginals
from shapkit.estimators.polynomials import (
    MOST_SEARCHED,
    FittedPolynomial,
    KnownPolynomial,
    known_polynomial,
    short_polynomial,
)
from shapkit.estimators.runs.own_unit import GameInOwnUnit
from shapkit.estimators.threads import threads_for
from shapkit.exact.indices import exact
from shapkit.exact.interactions import Index, checked_order
from shapkit.games.game import Game, table_game
from shapkit.randomness import counter_bits

Floats = NDArray[np.float64]

MAX_PAIRS = 4_096  # of the process: its linear algebra takes their cube in time and their square in memory

_STREAM = 0x6770  # of random numbers, this method's own
_MORE_STREAM = 0x67702B  # of the pairs beyond
_GROWTH = 1.5  # of the number of pairs from one choice of pairs to the next
_CANDIDATES = 600
_MOST_CHOSEN_BY = 600  # pairs known; with more, where a kernel errs it would go on to look where it errs
_SOLUTIONS = 110  # with as many pairs as are fitted to: they take as long as the fits
_FORETOLD = 2  # and as many times the most pairs are foretold in that time
_MOST_TARGETS = 6_000  # coalitions of one size, to choose pairs for


class GaussianProcessSampler:
    """Shapley values from pairs of coalitions chosen by a Gaussian process, more accurate the more are evaluated.

    A coalition and its complement are evaluated together, beginning with the grand and the empty one. The first
    n_players + 2 pairs are random. Then, each time their number has grown by half, a kernel is fitted, and half as many
    as there are then are chosen greedily where they reduce the posterior variances of the values the most. Beyond some
    600 to 900 pairs they are random again: there is little left to gain, and no kernel to be led astray by. Which pair
    comes when depends on the seed and the payoffs before, not on the steps in which the evaluations are asked for.

    The process takes at most 4,096 pairs. From then on it is a fixed model of the game, and further pairs are drawn at
    random, by size, to estimate without bias the Shapley values of what it is wrong by, as
    `RegressionAdjustedSampler` does. The two are weighted by the inverse of their variances: that of the correction is
    known from its sample, that of the model is as large as the posterior says or as the correction shows.

    Up to 4,096 pairs the estimates are biased, as regularised ones are; they sum to the grand coalition's payoff less
    the empty one's. A standard error is a posterior standard deviation. Parameters fitted to every player are not known
    well: while pairs are few it is that of a mixture of nine posteriors or more, with the most probable parameters and
    with some drawn about them; with more pairs it is one posterior's, times at least 1 + n/m for n players and m pairs.
    Where the pairs evaluated since were further from what the last two kernels had foretold than these were sure of, it
    is multiplied by that instead. How often nominal 95 % intervals cover is in `docs/accuracy.md`. A game that is
    additive on all pairs evaluated, more than there are players, is taken to be additive, with standard errors of zero;
    so is one that is a polynomial of few terms (`known_polynomial`), as a shallow tree is, or a sum of few unanimity
    games (`few_unanimity_games`). Once all pairs are known the values are exact.

    With 50 players or more, two of them are evaluated alone and against all others at first, and then twice as many
    each time while at least half add the same to nobody as to all others. Those who do are taken to be additive, with
    that value and a standard error of zero, and the game of the rest is modelled. Pairs that would show them to be
    otherwise come next, and one in twenty later on; if one does, all players are modelled from then on.

    The grand and the empty coalition are often unlike all others, as the score of a model without any feature is.
    Where all other pairs make expect something else, by four standard deviations, they have a variance of their own.

    Up to 8 outputs have a kernel each. Of more, each is scaled to mean square 1, and they are replaced by their
    principal components, since Shapley values are linear: the 8 leading ones have a kernel each, and the rest share one
    that treats players alike. Parameters are fitted to at most 512 pairs; of more than 100 players, to at most 768, or
    half as many as there are players.

    Whether players differ is for the payoffs to say. While pairs are few, a kernel that treats them alike has a share
    in the estimate, as large as its evidence (MacKay 1992, "Bayesian interpolation"); with some more, a kernel without
    skew has. With more than 100 players all pairs are random, and shares and widths are by pairs that the parameters
    were not fitted to. With more than 2,000 all are alike.

    Interactions cost no evaluations of their own: half the sum of a pair's two payoffs, which Shapley values do not
    depend on, is the even part of the game, and has a process and kernels of its own. Any index is a linear functional
    of the two parts. They take no more than 4,096 pairs, and begin with those of one player against all others.

    Args:
        game: any number of players and outputs.
        seed: an integer in [0, 2**64).
        index: of `shapkit.exact.interactions.Index`; Shapley values by default.
        order: the largest size of coalition that has a value; 1 for values of players, 2 by default for interactions.

    Attributes:
        game: the game.
        least_budget: the empty and the grand coalition, whose payoffs can be shared out equally.

    Raises:
        ValueError: an argument is not as described.

    >>> import shapkit
    >>> sampler = GaussianProcessSampler(shapkit.weighted_voting([4, 4, 4, 3, 3, 2, 2, 1, 1, 1], quota=13), seed=0)
    >>> sampler.advance(100)
    100
    >>> phi = sampler.attribution()
    >>> float(phi.values.sum().round(9)), bool(phi.standard_errors.max() < 0.1)
    (1.0, True)
    """

    def __init__(self, game: Game, seed: int = 0, index: Index = "shapley", order: int | None = None) -> None:
        self.game = game
        self._measured = GameInOwnUnit(game)
        self.seed = checked_integer("seed", seed, least=0)
        counter_bits(self.seed)  # refuses what is too large
        self.index: Index = index
        self.order = checked_order(index, order)
        n_players = game.n_players
        self.least_budget = min(n_players, 1) + 1
        self._n_pairs = min(n_pairs_of(n_players), MAX_PAIRS)
        self._signs = np.empty((0, n_players))
        self._odd = np.empty((0, 0))  # (n_known, n_outputs)
        self._even = np.empty((0, 0))
        self._planned = np.ones((1, n_players))
        self._ends: tuple[Floats, Floats] | None = None  # payoffs of the empty and of the grand coalition
        self._n_evaluations = 0
        self._remaining: RemainingPairs | None = None  # what is modelled, until more is evaluated
        self._short: FittedPolynomial | None = None  # found among the pairs that are searched
        self._searched = False  # whether these were as many as ever will be
        self._modelled = np.arange(n_players)  # the players that the last fits were of
        self._starts: dict[int, Floats] = {}  # parameters of the last fits
        self._even_starts: dict[int, Floats] = {}
        self._forecasts: dict[int, list[Forecast]] = {}  # of the last kernels that pairs were chosen by
        self._even_forecasts: dict[int, list[Forecast]] = {}
        n_sizes = 0 if index == "shapley" else min(self.order, n_players)
        self._members = [coalitions_of_size(n_players, size) for size in range(1, n_sizes + 1)]
        self._more: PairedSamples | None = None  # pairs beyond the most that the process takes
        self._model: PartModel | None = None  # of the process, once it takes no more
        self._known: tuple[Floats, Floats] | None = None  # values and variances, until more is evaluated
        self._until = math.inf  # of `time.monotonic`: when fits have to end

    def advance(self, n_evaluations: int) -> int:
        """Evaluate up to `n_evaluations` more coalitions, an even number, and return how many.

        0 means that a pair costs more or that all are known. Coalitions that the game has in its cache count too.

        Raises:
            ValueError: `n_evaluations` is not an integer of at least 0, or what `Game` raises.
        """
        n_left = checked_integer("n_evaluations", n_evaluations, least=0)
        if self.game.n_players == 0:
            return self._evaluate_empty(n_left)
        n_before = len(self._signs)
        n_goal = min(n_before + n_left // 2, self._n_pairs)
        while len(self._signs) < n_goal:
            if not len(self._planned):
                with threads_for(len(self._signs)):
                    self._plan()
            self._evaluate(n_goal - len(self._signs))
        spent = 2 * (len(self._signs) - n_before)
        if len(self._signs) < self._n_pairs or self._n_pairs == n_pairs_of(self.game.n_players):
            return spent
        if self.index != "shapley":
            return spent
        return spent + self._evaluate_more(n_left - spent)

    @property
    def complete(self) -> bool:
        """Whether every pair has been evaluated, so that the values are exact."""
        if self._ends is None:
            return False
        return len(self._signs) == n_pairs_of(self.game.n_players) or (self._more is not None and self._more.complete)

    def attribution(self) -> Attribution:
        """Return the values known so far; standard errors are NaN while only the two ends are known.

        Raises:
            ValueError: no coalition has been evaluated.
        """
        if self._ends is None:
            raise ValueError("no coalition has been evaluated yet: call advance(n_evaluations) with at least 2")
        empty, grand = self._ends
        if self._known is None:
            with threads_for(len(self._signs)):
                self._known = self._posterior()
        values, variances = self._known
        if self.index == "shapley":  # what the posterior misses efficiency by is rounding: it is shared out
            values = values + ((grand - empty).ravel() - values.sum(axis=0)) / max(len(values), 1)
        shape = (len(values), *empty.shape)
        known = Attribution(
            values=values.reshape(shape),
            standard_errors=np.sqrt(variances).reshape(shape),
            empty_value=empty.copy(),
            grand_value=grand.copy(),
            n_evaluations=self._n_evaluations + (0 if self._more is None else self._more.n_evaluations),
            names=self.game.names,
            index=self.index,
            method="gaussian_process",
            order=self.order,
            seeds=(self.seed,),
        )
        return self._measured.restored(known)

    def effort(self, n_evaluations: int) -> float:
        """Return about how long an estimate takes after so many evaluations; a fit to the most pairs takes 1."""
        return sum(self._efforts(max(n_evaluations // 2, 1)))

    def _efforts(self, n_pairs: int) -> tuple[float, float]:
        """About how long fits take, and what comes after: a solution with all pairs, and foretelling what is more."""
        share = min(n_pairs, MAX_PAIRS) / MAX_FITTED_PAIRS
        foretold = max(n_pairs / MAX_PAIRS - 1.0, 0.0)
        return fit_effort(n_pairs, self.game.n_players), share**3 / _SOLUTIONS + foretold / _FORETOLD

    def prepare(self) -> None:
        """Compile, or load, what the first estimate would: once in a process."""
        _compiled_for(self.index)

    def hurry(self, until: float) -> None:
        """Have estimates from now on be ready at about this time of `time.monotonic`, with fits as good as they are.

        The time from now on is shared out between the fits and what comes after them.
        """
        n_more = 0 if self._more is None else self._more.n_evaluations // 2
        fits, after = self._efforts(max(len(self._signs) + n_more, 1))
        now = time.monotonic()
        self._until = now + (until - now) * fits / (fits + after)

    def _evaluate_empty(self, n_left: int) -> int:
        """The one coalition of a game without players."""
        if n_left == 0 or self._ends is not None:
            return 0
        payoff = self._measured(np.zeros((1, 0), dtype=bool))[0]
        self._n_evaluations = 1
        self._ends = payoff, payoff
        self._signs, self._odd, self._even = np.ones((1, 0)), np.zeros((1, payoff.size)), payoff.reshape(1, -1)
        return 1

    def _evaluate(self, n_most: int) -> None:
        """Evaluate planned pairs; nothing changes where the game raises an exception."""
        signs, planned = self._planned[:n_most], self._planned[n_most:]
        members = signs > 0
        payoffs = self._measured(np.concatenate([members, ~members]))
        self._n_evaluations += len(payoffs)
        outputs = payoffs.reshape(len(payoffs), -1)
        members_half, others_half = outputs[: len(signs)] / 2, outputs[len(signs) :] / 2  # their sum may overflow
        odd, even = members_half - others_half, members_half + others_half
        if self._ends is None:
            self._ends = payoffs[len(signs)], payoffs[0]
        else:
            signs, odd = np.concatenate([self._signs, signs]), np.concatenate([self._odd, odd])
            even = np.concatenate([self._even, even])
        self._signs, self._odd, self._even, self._planned = signs, odd, even, planned
        self._known = self._remaining = None

    def _evaluate_more(self, n_left: int) -> int:
        """Pairs that the model of all pairs before is corrected by."""
        if n_left < 2:
            return 0
        if self._more is None:
            assert self._ends is not None
            self._more = PairedSamples(self._measured, self.seed, _MORE_STREAM, residual_rates, np.stack(self._ends))
        spent = self._more.advance(n_left)
        if spent:
            self._known = None
        return spent

    def _plan(self) -> None:
        """What to evaluate until the kernels are fitted again."""
        n_known, n_players = self._signs.shape
        seed = int(counter_bits(self.seed, _STREAM, n_known))
        if self._members and n_known == 1 and n_players > 2:
            self._planned = single_pairs(n_players, n_players + 1, seed)
            return
        pairs = self._pairs_of_remaining()
        self._planned = further_singles(self._signs, self._odd, self._even, self.seed)
        if not len(self._planned):
            self._planned = pairs.checks(self._signs, seed)
        if len(self._planned):
            return
        n_remaining = len(pairs.players)
        n_goal = min(max(n_remaining + 2, math.ceil(_GROWTH * len(pairs.signs))), n_pairs_of(n_remaining))
        n_wanted = min(n_goal - len(pairs.signs), self._n_pairs - n_known)
        if n_wanted:
            chosen = self._chosen(pairs, n_wanted, seed)
            self._planned = pairs.of_all_players(chosen, seed)
        else:  # the remaining game is known
            self._planned = random_pairs(n_players, math.ceil((_GROWTH - 1) * n_known), seed, self._signs)

    def _pairs_of_remaining(self) -> RemainingPairs:
        """What is known of the players that are not additive."""
        if self._remaining is None:
            self._remaining = remaining_pairs(self._signs, self._odd, self._even)
            if len(self._remaining.players) != len(self._modelled):  # parameters are of so many players
                self._starts, self._even_starts = {}, {}
                self._forecasts, self._even_forecasts = {}, {}
                self._searched = False
            self._modelled = self._remaining.players
        return self._remaining

    def _polynomial(self, pairs: RemainingPairs) -> KnownPolynomial | None:
        """What of the remaining game is a short polynomial, and need not be modelled."""
        known = pairs.signs, pairs.odd, pairs.even
        if not self._searched:
            self._short = short_polynomial(*known, even_counts=bool(self._members))
            self._searched = len(pairs.signs) >= MOST_SEARCHED
        return None if self._short is None else known_polynomial(*known, self._short)

    def _chosen(self, pairs: RemainingPairs, n_wanted: int, seed: int) -> Floats:
        """Pairs of the remaining players to evaluate: where they tell the most, once a kernel can be fitted."""
        n_known, n_players = pairs.signs.shape
        chooses = n_players + 2 <= n_known <= _MOST_CHOSEN_BY and n_players <= MAX_CHOOSING_PLAYERS
        parts = components(pairs.signs, pairs.odd) if chooses else []
        even_parts = components(pairs.signs, pairs.even, even=True) if chooses and self._members else []
        if not parts and not even_parts:
            return random_pairs(n_players, n_wanted, seed, pairs.signs)
        starts, even_starts = self._starts.copy(), self._even_starts.copy()
        kernels = [component.refitted(pairs.signs, starts) for component in parts]
        kernels += [component.refitted(pairs.signs, even_starts) for component in even_parts]
        weights = np.array([component.mean_square for component in parts])
        targets: Callable[[PartKernel, Floats], Floats] = PartKernel.with_shapley
        if self._members:
            total = (pairs.odd**2).mean(axis=0) + pairs.even.var(axis=0)  # each output counts as much
            units = np.where(total > 0, total, 1.0)
            weights = np.array([(component.loadings**2 / units).sum() for component in parts + even_parts])
            targets = self._with_index
        candidates = random_pairs(n_players, max(_CANDIDATES, 2 * n_wanted), seed, pairs.signs)
        chosen = informative_pairs(n_wanted, candidates, pairs.signs, kernels, weights, targets)
        self._starts, self._even_starts = starts, even_starts
        made = [Forecast(kernel, c.projection, n_known) for kernel, c in zip(kernels, parts + even_parts, strict=True)]
        self._forecasts = _followed(self._forecasts, parts, made)
        self._even_forecasts = _followed(self._even_forecasts, even_parts, made[len(parts) :])
        return chosen

    def _with_index(self, kernel: PartKernel, signs: Floats) -> Floats:
        """The covariances (n_pairs, n_terms) of pairs with what of the index depends on the kernel's part."""
        found = [
            with_pairs(kernel, signs, part, members)
            for functional, members in self._functionals(signs.shape[1])
            if len(members) <= _MOST_TARGETS and (part := functional.of_part(kernel.even)) is not None
        ]
        return np.concatenate([np.empty((len(signs), 0)), *found], axis=1)

    def _functionals(self, n_players: int) -> Iterator[tuple[IndexFunctional, NDArray[np.int64]]]:
        """The index of each size of coalition in a game of so many players, and those coalitions."""
        for size, functional in enumerate(index_functionals(self.index, self.order, n_players), start=1):
            yield functional, coalitions_of_size(n_players, size)

    def _posterior(self) -> tuple[Floats, Floats]:
        """Values and their variances (n_terms, n_outputs)."""
        if self._more is not None:
            return self._corrected(self._more)
        pairs = self._pairs_of_remaining()
        if len(pairs.signs) == n_pairs_of(len(pairs.players)):
            values = self._exact_values(pairs)
            found = values, np.zeros_like(values)
        elif self.index == "shapley":
            found = self._shapley_posterior(pairs)
        else:
            found = self._index_posterior(pairs)
        return self._with_additive(pairs, *found)

    def _with_additive(self, pairs: RemainingPairs, values: Floats, variances: Floats) -> tuple[Floats, Floats]:
        """Values and variances (n_terms, n_outputs) of all players, from those of the remaining ones."""
        if not pairs.reduced:
            return values, variances
        everyone = [np.arange(len(pairs.additive))[:, None]] if self.index == "shapley" else self._members
        without = np.concatenate([np.isin(members, pairs.players).all(axis=1) for members in everyone])
        of_all = np.zeros((2, len(without), values.shape[1]))
        of_all[0, : len(pairs.additive)] = pairs.additive
        of_all[:, without] = values, variances
        return of_all[0], of_all[1]

    def _exact_values(self, pairs: RemainingPairs) -> Floats:
        """The values (n_terms, n_outputs) of the remaining players, of whom every pair is known."""
        n_players = len(pairs.players)
        if self.index == "shapley":
            return pair_shapley(pairs.signs).T @ pairs.odd if n_players else pairs.odd[:0]
        powers = 1 << np.arange(n_players)
        table = np.empty((2**n_players, pairs.odd.shape[1]))
        for sign in (1, -1):
            table[((sign * pairs.signs) > 0) @ powers] = pairs.even + sign * pairs.odd
        return exact(table_game(table), self.index, self.order).values

    def _shapley_posterior(self, pairs: RemainingPairs) -> tuple[Floats, Floats]:
        """Shapley values of the remaining players, and their variances."""
        if len(pairs.signs) == 1:
            shared = np.repeat(2 * pairs.odd / len(pairs.players), len(pairs.players), axis=0)
            return shared, np.full_like(shared, np.nan)
        return self._odd_model(pairs, self._polynomial(pairs)).shapley()

    def _odd_model(self, pairs: RemainingPairs, known: KnownPolynomial | None) -> PartModel:
        return PartModel(
            pairs.signs, pairs.odd, self._starts, forecasts=self._forecasts, known=known, until=self._until
        )

    def _index_posterior(self, pairs: RemainingPairs) -> tuple[Floats, Floats]:
        """Another index of the remaining players, and its variances, from both parts."""
        functionals = list(self._functionals(len(pairs.players)))
        if len(pairs.signs) == 1:
            shape = (sum(len(members) for _, members in functionals), pairs.odd.shape[1])
            return np.zeros(shape), np.full(shape, np.nan)
        known = self._polynomial(pairs)
        even_model = PartModel(
            pairs.signs, pairs.even, self._even_starts, True, self._even_forecasts, known, self._until
        )
        parts = (self._odd_model(pairs, known), even_model)
        found = [
            np.sum([part.index(functional, members) for part in parts], axis=0) for functional, members in functionals
        ]
        values, variances = np.concatenate(found, axis=1)
        return values, variances

    def _corrected(self, samples: PairedSamples) -> tuple[Floats, Floats]:
        """The model's values, and what more pairs say it is wrong by, each weighted with the other's variance."""
        if samples.complete:
            exact_values = samples.exact_values()
            return exact_values, np.zeros_like(exact_values)
        known = self._pairs_of_remaining()
        if self._model is None:
            self._model = self._odd_model(known, self._polynomial(known))
        values, variances = self._with_additive(known, *self._model.shapley())
        if (samples.counts[samples.counts < samples.populations] < 2).any():
            return values, variances
        pairs = samples.pairs()
        signs = np.where(pairs.coalitions, 1.0, -1.0)
        unknown = ~np.isin(pair_keys(signs), pair_keys(self._signs))
        expected = signs @ known.additive / 2 + self._model.predict(signs[:, known.players])
        residuals = np.where(unknown[:, None], pairs.odd - expected, 0.0)
        weights = (2 * samples.shares / samples.counts)[pairs.strata]
        errors = weighted_marginals(pairs.coalitions, weights[:, None] * residuals)
        spread, _ = stratified_variances(samples, pairs, residuals)
        # The posterior may be surer of itself than it should be: the errors say how large they are
        claimed, sampled = variances.sum(axis=0), spread.sum(axis=0)
        actual = np.maximum(claimed, (errors**2).sum(axis=0) - sampled)
        shares = np.divide(variances, claimed, out=np.full_like(variances, 1 / len(variances)), where=claimed > 0)
        weight = np.divide(actual, actual + sampled, out=np.zeros_like(actual), where=actual > 0)
        return values + weight * errors, (1 - weight) ** 2 * actual * shares + weight**2 * spread


@cache
def _compiled_for(index: Index) -> None:
    """Estimate a small game, so that no loop has to be compiled or loaded later."""
    game = Game(lambda coalitions: np.sqrt(coalitions.sum(axis=1)), 8)
    sampler = GaussianProcessSampler(game, index=index)
    sampler.advance(64)
    sampler.attribution()


def _followed(
    forecasts: dict[int, list[Forecast]], parts: Sequence[Component], made: Sequence[Forecast]
) -> dict[int, list[Forecast]]:
    """The last two forecasts of each component, the second one new."""
    return {part.key: [*forecasts.get(part.key, [])[-1:], new] for part, new in zip(parts, made, strict=False)}
