"""The outputs of a game's odd or even part as components with a kernel each: every output, or principal components."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from shapkit.estimators.gaussian_process.forecasts import Forecast, missed_by, root_mean_square
from shapkit.estimators.gaussian_process.functionals import (
    IndexFunctional,
    of_products,
    prior_variances,
    with_pairs,
)
from shapkit.estimators.gaussian_process.kernel import PartKernel, PartPosterior, innovations
from shapkit.estimators.gaussian_process.kernel_fit import (
    MOST_SKEWED_PLAYERS,
    PATIENT,
    KernelFamily,
    LaplaceApproximation,
    fit_kernel,
    log_density,
    surprise_of_ends,
)
from shapkit.estimators.gaussian_process.minimise import Patience
from shapkit.estimators.polynomials import KnownPolynomial

Floats = NDArray[np.float64]

MAX_CHOOSING_PLAYERS = 100  # with more, all pairs are random
_MAX_INDIVIDUAL_PLAYERS = 2_000  # with more, players are alike in the prior

MAX_FITTED_PAIRS = 512  # that parameters are fitted to
_LEAST_DESIGN_PAIRS, _MOST_DESIGN_PAIRS = 160, 256  # the same, of kernels to choose further pairs by
_DESIGN_PAIRS_EACH = 8  # player, between these
_DRAWN_PAIRS = 4  # of kernels nearly as probable as the most probable one
_MANY_PAIRS = 160  # with more, half of them say where the fit to all begins, and whether there is a second wave
_MOST_LIKELIHOODS = 120  # of a fit with a second wave, about
_LARGE_SKEW = 0.95  # a wave with more would have more than 1 if it could
_FAR = 32.0  # rate of a second wave, far from most first ones
_FEW_PER_PARAMETER = 2.2  # up to so many pairs for each parameter, waves have no skew
_FEW_PAIRS = 250  # up to so many pairs, where there is no skew either, players may be alike
_BLOCK_COALITIONS = 1_024  # whose covariances with all pairs are held at once
_MAX_OUTPUTS = 8  # with parameters of their own
_FEW_VALUES = 3  # different sizes of odd payoffs, at most, in a voting game
_VOTING_ROUGHNESS = 0.03
_SKEWED_VOTING_ROUGHNESS = 0.06
_CLOSE = 0.1  # log probability: steps of a fit to many pairs that gain less are the last
_SURPRISING = 4.0  # standard deviations, of the ends
_LEAST_ROUGHNESS = 1e-9
_SAME = 1e-11  # relative: rounding
_GRID = 2.0**30  # steps per unit that payoffs are rounded to before parameters are fitted to them
_TAIL = -1  # key of the components beyond the leading ones


def additive_values(signs: Floats, odd: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the Shapley values of the outputs that are additive on these pairs, and which outputs are.

    Args:
        signs: float64 (n_pairs, n_players) of +1 and -1.
        odd: (n_pairs, n_outputs), odd payoffs.

    Returns:
        values (n_players, n_outputs), zero for the other outputs, and a bool array (n_outputs,). No output is called
        additive where that takes fewer than n_players + 2 pairs.

    >>> signs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> additive_values(signs, signs @ np.array([[1.0], [2.0]]))
    (array([[2.], [4.]]), array([ True]))
    """
    n_pairs, n_players = signs.shape
    none = np.zeros((n_players, odd.shape[1])), np.zeros(odd.shape[1], dtype=bool)
    if n_pairs < n_players + 2:
        return none
    slopes, _, rank, _ = np.linalg.lstsq(signs, odd, rcond=None)
    if rank < n_players:
        return none
    additive = np.abs(signs @ slopes - odd).max(axis=0) <= _SAME * np.abs(odd).max(axis=0)
    return np.where(additive, 2 * slopes, 0.0), additive


@dataclass(frozen=True)
class PlausibleKernel:
    """A kernel to estimate with, one of several.

    Attributes:
        kernel: with the most probable parameters, or with others that are nearly as probable.
        weight: its share: how probable its family is, over the kernels of the family.
        inflation: what standard deviations are multiplied by at least, as something is fitted to each player, or,
            where players are alike, all that there is. 1 where pairs are so few that kernels differ as much as that.
    """

    kernel: PartKernel
    weight: float
    inflation: float


def _fitted(family: KernelFamily, parameters: Floats, n_pairs: int) -> PlausibleKernel:
    n_fitted = family.n_players if family.individual else len(parameters)
    return PlausibleKernel(family.kernel(parameters), 1.0, 1 + n_fitted / n_pairs)


def _fit(
    family: KernelFamily,
    signs: Floats,
    scores: Floats,
    start: Floats | None = None,
    patience: Patience = PATIENT,
) -> tuple[KernelFamily, Floats, float]:
    """The most probable parameters of a family and the objective there, and the family.

    In it the ends have a variance of their own where they are far from what all other pairs make expect, as a model's
    score is without any feature. Elsewhere they tell as much as other pairs, and of Shapley values more.
    """
    family = family.of(start)
    parameters, value = fit_kernel(family, signs, scores, start, patience)
    if family.ends:
        return family, parameters, value
    deviation, squared = surprise_of_ends(family.kernel(parameters), signs, scores)
    if deviation < _SURPRISING:
        return family, parameters, value
    family, begin = family.with_ends(parameters, squared)
    return family, *fit_kernel(family, signs, scores, begin, patience)


def _drawn(
    family: KernelFamily, parameters: Floats, about: LaplaceApproximation, inflation: float = 1.0
) -> list[PlausibleKernel]:
    """The most probable kernel of a family and others nearly as probable."""
    drawn = [parameters, *about.draws(_DRAWN_PAIRS)]
    return [PlausibleKernel(family.kernel(entry), 1 / len(drawn), inflation) for entry in drawn]


def _widest(
    family: KernelFamily, signs: Floats, scores: Floats, start: Floats | None, until: float
) -> tuple[KernelFamily, Floats]:
    """The most probable parameters of a family, and it: with a second wave where that is more probable.

    Half of many pairs say nearly as much in a quarter of the time or less: most steps are taken with these. All are
    asked for a second wave again only where the one they have has the largest skew, and may not be enough.
    """
    patience = replace(PATIENT, until=until, n_steps=PATIENT.n_steps if len(signs) <= 400 else PATIENT.n_steps // 2)
    if len(signs) <= max(_MANY_PAIRS, 2 * len(family.table())):
        return _with_second(*_fit(family, signs, scores, start, patience), signs, scores, patience)
    patience = replace(PATIENT, until=until, tolerance=_CLOSE)
    rows = _fitted_rows(len(signs), len(signs) // 2)
    found = _fit(family, signs[rows], scores[rows], start, patience)
    family, start = _with_second(*found, signs[rows], scores[rows], patience)
    family, best, lowest = _fit(family, signs, scores, start, patience)
    if family.n_terms == 1 and _strained(family, best):
        return _with_second(family, best, lowest, signs, scores, patience)
    return family, best


def _with_second(
    family: KernelFamily, best: Floats, lowest: float, signs: Floats, scores: Floats, patience: Patience
) -> tuple[KernelFamily, Floats]:
    """A family of one wave and its most probable parameters, or the same of two waves where these are more probable.

    The second begins near the first, where most are found, and far from it where the first cannot be enough.
    """
    rates = (None, _FAR) if _strained(family, best) else (None,)
    for rate in rates if family.individual else ():
        wider, faint = family.widened(best, rate)
        parameters, value = fit_kernel(wider, signs, scores, faint, patience)
        if value < lowest:
            return wider, parameters
    return family, best


def _strained(family: KernelFamily, parameters: Floats) -> bool:
    """Whether the first wave would have a larger skew if it could."""
    return bool(family.kernel(parameters).skews[0] > _LARGE_SKEW)


def _few_pairs(family: KernelFamily) -> float:
    """How many pairs are too few to say what a skew makes of small coalitions.

    With more than twenty players hardly any pair is near a small coalition, however many there are: kernels with a skew
    are far more probable there, and surer of their values than these deserve.
    """
    return _FEW_PER_PARAMETER * len(family.table()) if family.n_players <= MOST_SKEWED_PLAYERS else math.inf


def _with_skew(family: KernelFamily, start: Floats | None, n_pairs: int) -> tuple[KernelFamily, Floats | None]:
    """The family, and parameters to start from, with skews only where pairs are many for the parameters.

    A skew explains more of a voting game, and is surer of it than it deserves unless that is rougher.
    """
    if n_pairs <= _few_pairs(family):
        return replace(family, skewed=False), start
    is_voting = family.least_roughness == _VOTING_ROUGHNESS
    family = replace(
        family, skewed=True, least_roughness=_SKEWED_VOTING_ROUGHNESS if is_voting else family.least_roughness
    )
    return family, None if start is None else family.with_skew(start)


def _either(first: list[PlausibleKernel], second: list[PlausibleKernel], evidence: float) -> list[PlausibleKernel]:
    """The kernels of two families, with the log of how much more probable the first family is."""
    share = float(expit(evidence))
    shared = ((first, share), (second, 1 - share))
    return [replace(known, weight=known.weight * weight) for family, weight in shared for known in family]


def fit_effort(n_pairs: int, n_players: int) -> float:
    """Return about how long a component's fits to so many pairs take; those to the most pairs take 1.

    By the number of likelihoods that each way of fitting takes where kernels are found late, as counted for games of
    14, 30 and 100 players. One likelihood takes the square of the number of pairs in time.

    >>> fit_effort(512, n_players=30), fit_effort(256, n_players=30)
    (1.0, 0.25)
    """
    family, n_rows = KernelFamily(n_players, skewed=False), min(n_pairs, MAX_FITTED_PAIRS)
    n_likelihoods, n_parameters = _MOST_LIKELIHOODS, len(family.table())
    if n_players <= MAX_CHOOSING_PLAYERS and n_rows <= min(_few_pairs(family), _FEW_PAIRS):
        n_likelihoods = 80 + n_parameters  # two fits, and a gradient for each parameter
    elif n_rows <= _MANY_PAIRS:
        n_likelihoods += n_parameters
    return n_likelihoods / _MOST_LIKELIHOODS * (n_rows / MAX_FITTED_PAIRS) ** 2


@dataclass(frozen=True)
class Component:
    """Columns that share a kernel, scaled to mean square 1, and what they add to each output.

    Parameters are fitted to scores rounded to 2**-30. The search for them is long and its course chaotic: where payoffs
    differ in their last digit, as those of one game in two units do, so would the parameters in their third.

    Attributes:
        key: which component it is, from one fit to the next.
        scores: (n_pairs, n_columns).
        loadings: (n_columns, n_outputs): payoffs are sums over components of scores @ loadings.
        projection: (n_outputs, n_columns): scores are payoffs @ projection.
        mean_square: relative, of all columns together: 1 for an output of its own.
        family: its kernel's.
    """

    key: int
    scores: Floats
    loadings: Floats
    projection: Floats
    mean_square: float
    family: KernelFamily

    def refitted(self, signs: Floats, starts: dict[int, Floats]) -> PartKernel:
        """The kernel to choose pairs by; `starts` is read, and updated for the next fit."""
        n_players = self.family.n_players
        most = min(max(_LEAST_DESIGN_PAIRS, _DESIGN_PAIRS_EACH * n_players), _MOST_DESIGN_PAIRS)
        rows = _fitted_rows(len(signs), most)
        start = starts.get(self.key)
        n_steps = 40 if len(rows) == len(signs) else 15  # of many pairs the last fit has seen most already
        family, start = _with_skew(self.family, start, len(rows))
        family, parameters, _ = _fit(
            family, signs[rows], on_grid(self.scores[rows]), start, replace(PATIENT, n_steps=n_steps)
        )
        starts[self.key] = parameters
        return family.kernel(parameters)

    def plausible_kernels(
        self, signs: Floats, starts: dict[int, Floats], until: float = math.inf
    ) -> list[PlausibleKernel]:
        """Kernels to estimate with; their weights sum to 1.

        While pairs are few for so many parameters, the kernel that tells players apart is one of two. The other treats
        them alike, and each weighs as much as the payoffs speak for it.

        Args:
            signs: (n_pairs, n_players) of +1 and -1.
            starts: parameters of earlier fits by component.
            until: of `time.monotonic`, in seconds; by then fits end, as good as they are.
        """
        if self.family.individual and self.family.n_players > MAX_CHOOSING_PLAYERS:
            return self._judged_by_other_pairs(signs, until)
        rows = _fitted_rows(len(signs), MAX_FITTED_PAIRS)
        signs, scores = signs[rows], on_grid(self.scores[rows])
        start = None if len(rows) <= _FEW_PAIRS else starts.get(self.key)
        family, start = _with_skew(self.family, start, len(rows))
        if family.individual and not family.skewed and len(rows) <= _FEW_PAIRS:
            patience = replace(PATIENT, until=until)
            alike, shared, _ = _fit(replace(family, individual=False), signs, scores, patience=patience)
            family, best, _ = _fit(family, signs, scores, start, patience)
            about = LaplaceApproximation(family, signs, scores, best)
            evidence = about.log_evidence() - LaplaceApproximation(alike, signs, scores, shared).log_evidence()
            return _either(_drawn(family, best, about), [_fitted(alike, shared, len(rows))], evidence)
        family, best = _widest(family, signs, scores, start, until)
        known = _fitted(family, best, len(rows))
        if len(rows) > _MANY_PAIRS or time.monotonic() > until:
            return [known]
        return _drawn(family, best, LaplaceApproximation(family, signs, scores, best), known.inflation)

    def _judged_by_other_pairs(self, signs: Floats, until: float) -> list[PlausibleKernel]:
        """The same of many players: evidence would take a gradient for each of them, but pairs are left to judge by."""
        scores = on_grid(self.scores)
        most = max(MAX_FITTED_PAIRS, self.family.n_players // 2)
        rows = _fitted_rows(len(signs), min(most, max(1, 3 * len(signs) // 4)))
        told_apart = replace(self.family, skewed=False)  # of so many players
        left = np.setdiff1d(np.arange(len(signs)), rows)
        rows_and_others = np.concatenate([rows, left[_fitted_rows(len(left), MAX_FITTED_PAIRS)]])
        found, evidence = [], []
        for family in (told_apart, replace(told_apart, individual=False)):
            known = _fitted(*_widest(family, signs[rows], scores[rows], None, until), len(rows))
            deviations, scales = innovations(known.kernel, signs[rows_and_others], scores[rows_and_others], len(rows))
            found.append(replace(known, inflation=max(known.inflation, root_mean_square(deviations))))
            evidence.append(log_density(deviations, scales))
        return _either(found[:1], found[1:], evidence[0] - evidence[1])


def components(
    signs: Floats, payoffs: Floats, even: bool = False, known: KnownPolynomial | None = None
) -> list[Component]:
    """The outputs that are neither additive nor known, each by itself, or as principal components where there are many.

    Args:
        signs: (n_pairs, n_players) of +1 and -1.
        payoffs: (n_pairs, n_outputs), odd or even ones.
        even: which of the two. What all coalitions have in common, which is no interaction and may be much larger than
            the rest, is taken off even ones.
        known: outputs of which there is nothing to be modelled.
    """
    if even:
        payoffs = payoffs - payoffs.mean(axis=0)
    modelled = payoffs.any(axis=0)
    if known is not None:
        modelled &= ~known.of_part(even)
    outputs = np.flatnonzero(modelled if even else modelled & ~additive_values(signs, payoffs)[1])
    largest = np.abs(payoffs).max(axis=0)[outputs]  # divided by first, so that squares neither overflow nor vanish
    scales = largest * np.sqrt(((payoffs[:, outputs] / largest) ** 2).mean(axis=0))
    scores, (loadings, projection) = payoffs[:, outputs] / scales, np.zeros((2, len(outputs), payoffs.shape[1]))
    loadings[np.arange(len(outputs)), outputs], projection[np.arange(len(outputs)), outputs] = scales, 1 / scales
    individual = signs.shape[1] <= _MAX_INDIVIDUAL_PLAYERS
    if len(outputs) <= _MAX_OUTPUTS:
        return [
            Component(
                int(output),
                scores[:, [column]],
                loadings[[column]],
                projection[[column]].T,
                1.0,
                KernelFamily(signs.shape[1], 1, individual, _least_roughness(payoffs[:, output]), even),
            )
            for column, output in enumerate(outputs)
        ]
    return _principal_components(scores, loadings, projection.T, KernelFamily(signs.shape[1], 1, individual, even=even))


class PartModel:
    """The posterior of a game's odd or even part, given some of its pairs.

    Args:
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        payoffs: (n_pairs, n_outputs), odd or even payoffs.
        starts: parameters of earlier fits by component.
        even: which of the two.
        forecasts: earlier kernels by component. Standard deviations are multiplied by what they were off by, if more.
        known: what is known without a model.
        until: of `time.monotonic`, in seconds; by then fits end, as good as they are.
    """

    def __init__(
        self,
        signs: Floats,
        payoffs: Floats,
        starts: dict[int, Floats],
        even: bool = False,
        forecasts: Mapping[int, Sequence[Forecast]] | None = None,
        known: KnownPolynomial | None = None,
        until: float = math.inf,
    ) -> None:
        self.even = even
        self._polynomial, self._doubts = None, np.zeros(payoffs.shape[1])
        if known is not None and known.of_part(even).any():
            self._polynomial = known.polynomial.of_part(even, known.of_part(even))
            self._doubts = known.doubts(even)
        if even:
            self._additive = np.zeros((signs.shape[1], payoffs.shape[1]))
        else:
            self._additive, _ = additive_values(signs, payoffs)
            if known is not None:
                self._additive[:, known.odd] = 0.0
        self._signs = signs
        centred = payoffs - payoffs.mean(axis=0) if even else payoffs
        self._mixtures = [
            _Mixture(
                component, signs, starts, missed_by((forecasts or {}).get(component.key, ()), signs, centred), until
            )
            for component in components(signs, payoffs, even, known)
        ]

    def index(self, functional: IndexFunctional, members: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return what this part adds to an index of coalitions, and its variances: both (n_coalitions, n_outputs).

        Args:
            functional: the index, of coalitions of one size.
            members: (n_coalitions, size), their players.
        """
        values, variances = np.zeros((2, len(members), self._additive.shape[1]))
        part = functional.of_part(self.even)
        if part is None:
            return values, variances
        if functional.size == 1:
            values += self._additive[members[:, 0]]
        if self._polynomial is not None:
            values += self._polynomial.index_values(members, of_products(part, self._signs.shape[1]))
            variances += 4.0 ** (functional.size - 1) * self._doubts**2
        for first in range(0, len(members), _BLOCK_COALITIONS):
            block = slice(first, first + _BLOCK_COALITIONS)

            def asked(posterior: PartPosterior, block: slice = block) -> tuple[Floats, Floats]:
                covariances = with_pairs(posterior.kernel, self._signs, part, members[block])
                return posterior.of_functionals(covariances, prior_variances(posterior.kernel, part, members[block]))

            for mixture in self._mixtures:
                means, spread = mixture.of(asked)
                values[block] += means
                variances[block] += spread
        return values, variances

    def shapley(self) -> tuple[Floats, Floats]:
        """Return the values and their variances, both (n_players, n_outputs)."""
        values, variances = self._additive.copy(), np.zeros_like(self._additive)
        if self._polynomial is not None:
            values += self._polynomial.shapley_values()
            variances += self._doubts**2
        for mixture in self._mixtures:
            means, spread = mixture.of(PartPosterior.shapley)
            values += means
            variances += spread
        return values, variances

    def predict(self, signs: Floats) -> Floats:
        """Return the odd payoffs (n, n_outputs) to expect of pairs (n, n_players) that have not been evaluated.

        Of the odd part only.
        """
        expected = signs @ self._additive / 2
        if self._polynomial is not None:
            expected += self._polynomial.predict(signs > 0)
        for mixture in self._mixtures:
            expected += mixture.predict(signs)
        return expected


class _Mixture:
    """A component's posteriors, one for each plausible kernel."""

    def __init__(
        self, component: Component, signs: Floats, starts: dict[int, Floats], least_inflation: float, until: float
    ) -> None:
        self._loadings, self._least_inflation = component.loadings, least_inflation
        kernels = component.plausible_kernels(signs, starts, until)
        self._posteriors = [(known, PartPosterior(known.kernel, signs, component.scores)) for known in kernels]

    def of(self, asked: Callable[[PartPosterior], tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
        """Return means and variances of what is asked of each posterior, both (n_functionals, n_outputs)."""
        answers = [(known, *asked(posterior)) for known, posterior in self._posteriors]
        mean = sum(known.weight * means for known, means, _ in answers)
        variances = sum(
            known.weight * ((max(known.inflation, self._least_inflation) ** 2 * within)[:, None] + (means - mean) ** 2)
            for known, means, within in answers
        )
        return np.asarray(mean @ self._loadings), np.asarray(variances @ self._loadings**2)

    def predict(self, signs: Floats) -> Floats:
        """Return the mean payoffs of pairs (n, n_players): (n, n_outputs)."""
        means = sum(known.weight * posterior.predict(signs) for known, posterior in self._posteriors)
        return np.asarray(means @ self._loadings)


def _principal_components(
    scores: Floats, loadings: Floats, projection: Floats, family: KernelFamily
) -> list[Component]:
    """The leading components one by one, then the others together, which treat players alike."""
    left, singular, right = np.linalg.svd(scores, full_matrices=False)
    kept = singular > _SAME * singular[0]
    sizes = singular[kept] / np.sqrt(len(scores))
    scores, loadings = left[:, kept] * np.sqrt(len(scores)), sizes[:, None] * (right[kept] @ loadings)
    projection = projection @ right[kept].T / sizes
    leading = [slice(first, first + 1) for first in range(min(_MAX_OUTPUTS, len(sizes)))]
    tail = [slice(_MAX_OUTPUTS, None)] if len(sizes) > _MAX_OUTPUTS else []
    return [
        Component(
            _TAIL if group in tail else group.start,
            scores[:, group],
            loadings[group],
            projection[:, group],
            float(on_grid((sizes[group] ** 2).sum())),
            replace(family, individual=False) if group in tail else family,
        )
        for group in leading + tail
    ]


def on_grid(numbers: Floats) -> Floats:
    """Return numbers of about 1, rounded to multiples of 2**-30.

    >>> on_grid(np.array([1 / 3])) == on_grid(np.array([1 / 3 + 1e-15]))
    array([ True])
    """
    return np.asarray(np.rint(numbers * _GRID) / _GRID)


def _least_roughness(odd: Floats) -> float:
    """More where payoffs (n_pairs,) look like a voting game's, which is rough however smooth the sample seems."""
    n_values = len(np.unique((np.abs(odd) / np.abs(odd).max()).round(9)))
    return _VOTING_ROUGHNESS if len(odd) >= 8 and n_values <= _FEW_VALUES else _LEAST_ROUGHNESS


def _fitted_rows(n_pairs: int, most: int) -> NDArray[np.int64]:
    """The pairs that parameters are fitted to, at most so many, spread evenly over all."""
    return np.linspace(0, n_pairs - 1, min(n_pairs, most)).astype(np.int64)
