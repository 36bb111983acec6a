"""Which kernels to estimate with: the most probable one, others nearly as probable, families weighed by evidence.

Which of them a number of pairs can tell apart is said here: waves with a skew, a second wave, players that differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from shapkit.estimators.gaussian_process.forecasts import root_mean_square
from shapkit.estimators.gaussian_process.kernel import PartKernel, innovations
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

Floats = NDArray[np.float64]

MAX_CHOOSING_PLAYERS = 100  # with more, all pairs are random
MAX_FITTED_PAIRS = 512  # that parameters are fitted to
_MOST_FITTED_OF_MANY = 768  # the same, of more players than these, or half as many as there are players
_MOST_STEPS_OF_MANY = 120  # of a fit to them, where other pairs do not end it sooner
_LEAST_DESIGN_PAIRS, _MOST_DESIGN_PAIRS = 160, 256  # the same, of kernels to choose further pairs by
_DESIGN_PAIRS_EACH = 8  # player, between these
_DRAWN_PAIRS = 4  # of kernels nearly as probable as the most probable one
_MANY_PAIRS = 160  # with more, one kernel is enough, and half of them say where the fit begins and how many waves
_MOST_LIKELIHOODS = 120  # of a fit with a second wave, about
_ROUGH = 0.05  # of payoffs of mean square 1, taken for noise: other parameters may explain it
_CALLED = 50  # pairs that take as long as what a likelihood takes anyway
_PLAYERS_CALLED = 100  # players that take as long as what the square of the number of pairs takes anyway
_LARGE_SKEW = 0.95  # a wave with more would have more than 1 if it could
_FAR = 32.0  # rate of a second wave, far from most first ones
_FEW_PER_PARAMETER = 2.2  # up to so many pairs for each parameter, waves have no skew
_FEW_PAIRS = 250  # up to so many pairs, where there is no skew either, players may be alike
_NEGLIGIBLE = 1e-6  # share of a family
_SLIGHT = 0.05  # share of a family of which one kernel is enough
_CLOSE = 0.1  # log probability: steps of a fit to many pairs that gain less are the last
_FINE = 0.01  # the same, of many players
_SURPRISING = 4.0  # standard deviations, of the ends


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


def fit_to_choose_by(
    family: KernelFamily, signs: Floats, scores: Floats, start: Floats | None
) -> tuple[KernelFamily, Floats]:
    """Return a family and its most probable parameters, to choose pairs by: of some of the pairs, and in few steps.

    Args:
        family: without what is said by the number of pairs.
        signs: (n_pairs, n_players) of +1 and -1.
        scores: (n_pairs, n_columns), of mean square about 1.
        start: parameters of the last such fit.
    """
    most = min(max(_LEAST_DESIGN_PAIRS, _DESIGN_PAIRS_EACH * family.n_players), _MOST_DESIGN_PAIRS)
    rows = _fitted_rows(len(signs), most)
    n_steps = 40 if len(rows) == len(signs) else 15  # of many pairs the last fit has seen most already
    family, start = _with_skew(family, start, len(rows))
    family, parameters, _ = _fit(family, signs[rows], scores[rows], start, replace(PATIENT, n_steps=n_steps))
    return family, parameters


def plausible_kernels(
    family: KernelFamily, signs: Floats, scores: Floats, start: Floats | None = None, until: float = math.inf
) -> list[PlausibleKernel]:
    """Return kernels to estimate with; their weights sum to 1.

    While pairs are few for so many parameters, kernels that tell players apart are weighed against one that treats them
    alike, by what the payoffs say; with some more, kernels with a skew against kernels without one. Those of one family
    are the most probable one and others nearly as probable.

    Args:
        family: without what is said by the number of pairs.
        signs: (n_pairs, n_players) of +1 and -1.
        scores: (n_pairs, n_columns), of mean square about 1.
        start: parameters of an earlier fit.
        until: of `time.monotonic`, in seconds; by then fits end, as good as they are.
    """
    if family.individual and family.n_players > MAX_CHOOSING_PLAYERS:
        return _judged_by_other_pairs(family, signs, scores, until)
    rows = _fitted_rows(len(signs), MAX_FITTED_PAIRS)
    signs, scores = signs[rows], scores[rows]
    family, start = _with_skew(family, None if len(rows) <= _FEW_PAIRS else start, len(rows))
    if family.individual and len(rows) <= (_MANY_PAIRS if family.skewed else _FEW_PAIRS):
        return _weighed(family, signs, scores, start, until)
    family, best = _widest(family, signs, scores, start, until)
    known = _fitted(family, best, len(rows))
    if len(rows) > _MANY_PAIRS or time.monotonic() > until:
        return [known]
    return _drawn(family, known, LaplaceApproximation(family, signs, scores, best))


def _weighed(
    family: KernelFamily, signs: Floats, scores: Floats, start: Floats | None, until: float
) -> list[PlausibleKernel]:
    """Kernels of a family, and of a simpler one, where pairs are too few to choose: by the evidence of both.

    The simpler one has no skew, or, where there is none, treats players alike.
    """
    n_pairs, patience = len(signs), replace(PATIENT, until=until)
    simpler = replace(family, skewed=False) if family.skewed else replace(family, individual=False)
    simpler, plain, _ = _fit(simpler, signs, scores, patience=patience)
    if family.skewed:
        family, best = _widest(family, signs, scores, start, until)
    else:
        family, best, _ = _fit(family, signs, scores, start, patience)
    known, known_simpler = _fitted(family, best, n_pairs), _fitted(simpler, plain, n_pairs)
    if time.monotonic() > until:
        return [known]
    about = LaplaceApproximation(family, signs, scores, best)
    about_simpler = LaplaceApproximation(simpler, signs, scores, plain)
    evidence = [about.log_evidence(), about_simpler.log_evidence()]
    if not simpler.individual:
        return by_evidence([_drawn(family, replace(known, inflation=1.0), about), [known_simpler]], evidence)
    share, share_simpler = softmax(evidence)
    kernels = _drawn(family, known, about) if share > _SLIGHT else [known]
    of_simpler = _drawn(simpler, known_simpler, about_simpler) if share_simpler > _SLIGHT else [known_simpler]
    return by_evidence([kernels, of_simpler], evidence)


def _judged_by_other_pairs(family: KernelFamily, signs: Floats, scores: Floats, until: float) -> list[PlausibleKernel]:
    """The same of many players: evidence would take a gradient for each of them, but pairs are left to judge by.

    Of more parameters than pairs, a fit that goes on learns the pairs by heart: it is the others that say when it ends.
    """
    rows = _fitted_rows(len(signs), min(_most_fitted(family.n_players), max(1, 3 * len(signs) // 4)))
    left = np.setdiff1d(np.arange(len(signs)), rows)
    rows_and_others = np.concatenate([rows, left[_fitted_rows(len(left), MAX_FITTED_PAIRS)]])

    def missed(kernel: PartKernel) -> tuple[Floats, Floats]:
        return innovations(kernel, signs[rows_and_others], scores[rows_and_others], len(rows))

    def loss(kernel: PartKernel) -> float:
        return -log_density(*missed(kernel))

    told_apart, alike = (replace(family, skewed=False, individual=individual) for individual in (True, False))
    fitted, patience = (signs[rows], scores[rows]), Patience(_MOST_STEPS_OF_MANY, _FINE, until)
    told_apart, one_wave, _ = _fit(told_apart, *fitted, None, patience, loss)
    wider, faint = told_apart.widened(one_wave)
    two_waves, _ = fit_kernel(wider, *fitted, faint, patience, loss)
    found, evidence = [], []
    for each, parameters in ((told_apart, one_wave), (wider, two_waves), _widest(alike, *fitted, None, until)):
        known = _fitted(each, parameters, len(rows))
        deviations, scales = missed(known.kernel)
        found.append([replace(known, inflation=max(known.inflation, root_mean_square(deviations)))])
        evidence.append(log_density(deviations, scales))
    return by_evidence(found, evidence)


def _most_fitted(n_players: int) -> int:
    """How many pairs parameters are fitted to at most."""
    return max(_MOST_FITTED_OF_MANY, n_players // 2) if n_players > MAX_CHOOSING_PLAYERS else MAX_FITTED_PAIRS


def fit_effort(n_pairs: int, n_players: int) -> float:
    """Return about how long a component's fits to so many pairs take; those of 30 players to the most pairs take 1.

    By the number of likelihoods that each way of fitting takes where kernels are found late, as counted for games of
    14, 30, 100 and 1,000 players. One likelihood takes the square of the number of pairs in time, and what it takes
    anyway; the more players, the longer.

    >>> fit_effort(512, n_players=30), round(fit_effort(256, n_players=30), 2)
    (1.0, 0.26)
    """
    family, n_rows = KernelFamily(n_players, skewed=False), min(n_pairs, _most_fitted(n_players))
    n_likelihoods, n_parameters = _MOST_LIKELIHOODS, len(family.table())
    if n_players > MAX_CHOOSING_PLAYERS:
        n_likelihoods = 2 * _MOST_STEPS_OF_MANY
    elif n_rows <= min(_few_pairs(family), _FEW_PAIRS):
        n_likelihoods = 80 + n_parameters  # two fits, and a gradient for each parameter
    elif n_rows <= _MANY_PAIRS:
        n_likelihoods += 40 + 2 * n_parameters  # without a skew as well, and a gradient for each parameter of both
    of_each, of_largest = (pairs**2 + _CALLED**2 for pairs in (n_rows, MAX_FITTED_PAIRS))
    of_players = (_PLAYERS_CALLED + n_players) / (_PLAYERS_CALLED + 30)
    return n_likelihoods / _MOST_LIKELIHOODS * of_each / of_largest * of_players


def _fitted(family: KernelFamily, parameters: Floats, n_pairs: int) -> PlausibleKernel:
    n_fitted = family.n_players if family.individual else len(parameters)
    return PlausibleKernel(family.kernel(parameters), 1.0, 1 + n_fitted / n_pairs)


def _fit(
    family: KernelFamily,
    signs: Floats,
    scores: Floats,
    start: Floats | None = None,
    patience: Patience = PATIENT,
    judge: Callable[[PartKernel], float] | None = None,
) -> tuple[KernelFamily, Floats, float]:
    """The most probable parameters of a family and the objective there, and the family.

    In it the ends have a variance of their own where they are far from what all other pairs make expect, as a model's
    score is without any feature. Elsewhere they tell as much as other pairs, and of Shapley values more.
    """
    family = family.of(start)
    parameters, value = fit_kernel(family, signs, scores, start, patience, judge)
    if _may_be_far(family, parameters):
        far, lower = fit_kernel(family, signs, scores, family.far_from_additive(), patience, judge)
        parameters, value = (far, lower) if lower < value else (parameters, value)
    if family.ends:
        return family, parameters, value
    deviation, squared = surprise_of_ends(family.kernel(parameters), signs, scores)
    if deviation < _SURPRISING:
        return family, parameters, value
    family, begin = family.with_ends(parameters, squared)
    return family, *fit_kernel(family, signs, scores, begin, patience, judge)


def _may_be_far(family: KernelFamily, parameters: Floats) -> bool:
    """Whether these parameters take for noise what may be a game far from additive, which is not found from near it.

    Of few players all fits begin far from it.
    """
    begun_near = family.n_players > MOST_SKEWED_PLAYERS and family.n_terms == 1 and not family.voting
    return begun_near and family.kernel(parameters).rough_variance > _ROUGH


def _drawn(family: KernelFamily, known: PlausibleKernel, about: LaplaceApproximation) -> list[PlausibleKernel]:
    """The most probable kernel of a family and others nearly as probable."""
    kernels = [known.kernel, *map(family.kernel, about.draws(_DRAWN_PAIRS))]
    return [replace(known, kernel=kernel, weight=1 / len(kernels)) for kernel in kernels]


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
    """The family, and parameters to start from, with skews only where pairs are many for the parameters."""
    family = replace(family, skewed=n_pairs > _few_pairs(family))
    return family, family.with_skew(start) if start is not None and family.skewed else start


def by_evidence(families: list[list[PlausibleKernel]], evidence: list[float]) -> list[PlausibleKernel]:
    """The kernels of several families, with the log of how probable each family is, up to a constant.

    Those of families that count for nothing are left out: each kernel takes a factorisation of all pairs.
    """
    shares = softmax(evidence)
    shares = np.where(shares < _NEGLIGIBLE, 0.0, shares)
    return [
        replace(known, weight=known.weight * float(share))
        for family, share in zip(families, shares / shares.sum(), strict=True)
        for known in family
        if share > 0
    ]


def _fitted_rows(n_pairs: int, most: int) -> NDArray[np.int64]:
    """The pairs that parameters are fitted to, at most so many, spread evenly over all."""
    return np.linspace(0, n_pairs - 1, min(n_pairs, most)).astype(np.int64)
