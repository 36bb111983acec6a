"""The parameters of a `PartKernel` from odd or even payoffs: the mode of their posterior, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import ndtri

from shapkit.estimators.gaussian_process import loops
from shapkit.estimators.gaussian_process.kernel import (
    CONSTANT_VARIANCE,
    PartKernel,
    coalition_sizes,
    factorised,
    innovations,
)
from shapkit.estimators.gaussian_process.minimise import Patience, minimised
from shapkit.estimators.threads import threads_for
from shapkit.randomness import counter_uniform

Floats = NDArray[np.float64]
Kernel = tuple[Floats, Floats, Floats, Floats, Floats, Floats]
"""Influences, slopes, numbers, variances, rates and skews, as `loops.fill_triangle` takes them."""

# Logarithms of the parameters: order, start, prior mean, prior standard deviation, least and greatest value.
# The priors are weak, and centred on payoffs of mean square 1.
_LINEAR, _ROUGH, _SIZE, _SIZE_LENGTH, _SLOPE, _SLOPE_LENGTH, _ENDS, _N_SCALARS = range(8)
_LENGTHS = (np.log(0.5), np.log(0.7), 0.7, np.log(0.03), np.log(30.0))
_SCALARS = np.array(
    [
        (np.log(0.5), 0.0, 3.0, -14.0, 9.0),
        (np.log(1e-3), np.log(1e-4), 6.0, -25.0, 5.0),
        (np.log(0.1), np.log(0.1), 3.0, -14.0, 9.0),
        _LENGTHS,
        (np.log(0.1), np.log(0.1), 3.0, -14.0, 9.0),
        _LENGTHS,
        (np.log(0.1), np.log(0.1), 3.0, -14.0, 9.0),
    ]
)
_NO_ENDS = -25.0  # stands for a variance of 0
# Start and prior mean of each rate. β has mean 1/n: by the prior tanh(t β) is about 2/n for the first term.
_RATES = ((np.log(2.0), np.log(2.0)), (np.log(2.0), np.log(8.0)))
_SKEWED_START = np.log(8.0)  # of the first, where there may be a skew: from less no game far from additive is found
MOST_SKEWED_PLAYERS = 20  # with more, waves never have a skew
_NO_SKEW = -7.0  # stands for none
_SKEW = (np.log(0.3), np.log(0.3), 1.5, _NO_SKEW, 0.0)
_PLAYER = (0.0, 0.0, 1.5, -14.0, 9.0)
_LEAST_ROUGHNESS, _VOTING_ROUGHNESS, _SKEWED_VOTING_ROUGHNESS = 1e-9, 0.03, 0.06
_ROUGHER, _NEVER_SMOOTH = np.log(10.0), np.log(1e-3)  # steps, and from where no Gram matrix is indefinite
_FAINT = -3.0  # log: how much less the second wave starts with than the first would
PATIENT = Patience(n_steps=60, tolerance=0.05)
_STEP = 1e-3  # in units of the prior: between gradients whose difference gives the curvature
_DRAWS_SEED = 0x64726177  # of parameters drawn
_LEAST_UNIFORM = 2.0**-54  # a number that is uniform in [0, 1) may be 0
_ROUNDING = 1e-9  # of places
_LEAST_SHARE = 0.3  # of a step that a draw is taken back to


@dataclass(frozen=True)
class KernelFamily:
    """Which parameters a `PartKernel` has, and their meaning as a vector of logarithms.

    Attributes:
        n_players: of the game.
        n_terms: waves, 1 or 2.
        individual: whether players may differ; if not, all have the same influence and slope.
        voting: whether it looks like a voting game, which is rough however smooth the sample seems.
        even: whether the game is even, and not odd.
        ends: whether the ends have a variance of their own.
        skewed: whether waves may have a skew.
    """

    n_players: int
    n_terms: int = 1
    individual: bool = True
    voting: bool = False
    even: bool = False
    ends: bool = False
    skewed: bool = True

    @property
    def least_roughness(self) -> float:
        """What the rough variance is at least.

        A skew explains more of a voting game, and is surer of it than it deserves unless that is rougher.
        """
        if not self.voting:
            return _LEAST_ROUGHNESS
        return _SKEWED_VOTING_ROUGHNESS if self.skewed else _VOTING_ROUGHNESS

    def table(self) -> Floats:
        """Return start, prior mean, prior standard deviation, least and greatest value: (n_parameters, 5)."""
        return _parameter_table(self).copy()

    def split(self, parameters: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
        """Return views of a vector: scalars, wave variances, rates, skews, influences, slopes over influences."""
        rates = _N_SCALARS + self.n_terms
        skews = rates + self.n_terms
        influences = skews + self.n_terms
        ratios = influences + self.n_players * self.individual
        return (
            parameters[:_N_SCALARS],
            parameters[_N_SCALARS:rates],
            parameters[rates:skews],
            parameters[skews:influences],
            parameters[influences:ratios],
            parameters[ratios:],
        )

    def kernel(self, parameters: Floats) -> PartKernel:
        """Return the kernel with these parameters (n_parameters,)."""
        scalars, variances, rates, skews, log_influences, log_ratios = self.split(parameters)
        values = np.exp(scalars)
        n_players = self.n_players
        influences = np.exp(log_influences) / n_players if self.individual else np.full(n_players, 1 / n_players)
        return PartKernel(
            influences=influences,
            slopes=influences * np.exp(log_ratios) if self.individual else influences,
            linear_variance=float(values[_LINEAR]),
            wave_variances=np.exp(variances),
            rates=np.exp(rates),
            skews=np.exp(skews) * self.skewed,
            size_variance=float(values[_SIZE]),
            size_length=float(values[_SIZE_LENGTH]),
            slope_variance=float(values[_SLOPE]),
            slope_length=float(values[_SLOPE_LENGTH]),
            ends_variance=float(values[_ENDS]) if self.ends else 0.0,
            rough_variance=float(values[_ROUGH]) + self.least_roughness,
            even=self.even,
        )

    def widened(self, parameters: Floats, rate: float | None = None) -> tuple[KernelFamily, Floats]:
        """Return the family with a second wave, and these parameters with a faint one, of this rate or the usual."""
        family = replace(self, n_terms=2)
        start = family.table()[:, 0]
        for new, old in zip(family.split(start), self.split(parameters), strict=True):
            new[: len(old)] = old
        family.split(start)[1][1] += _FAINT
        if rate is not None:
            family.split(start)[2][1] = np.log(rate)
        return family, start

    def with_skew(self, parameters: Floats) -> Floats:
        """Return parameters of a family without skews as a start for this one: those with a skew stay as they are."""
        start = parameters.copy()
        skews = self.split(start)[3]
        skews[skews <= _NO_SKEW] = _SKEW[0]
        return start

    def far_from_additive(self) -> Floats:
        """Return parameters to start from, with a first wave from which games far from additive are found."""
        start = self.table()[:, 0]
        self.split(start)[2][0] = _SKEWED_START
        return start

    def with_ends(self, parameters: Floats, variance: float) -> tuple[KernelFamily, Floats]:
        """Return the family in which the ends have a variance, and these parameters of one in which they had none."""
        start = parameters.copy()
        start[_ENDS] = np.log(variance)
        return replace(self, ends=True), start

    def of(self, parameters: Floats | None) -> KernelFamily:
        """Return the family that parameters of this one, with or without a variance of the ends, belong to."""
        return self if parameters is None else replace(self, ends=bool(parameters[_ENDS] > _NO_ENDS))


@lru_cache(maxsize=32)  # the likelihood asks for the prior at every step
def _parameter_table(family: KernelFamily) -> Floats:
    """What ``family.table()`` returns, not to be written to."""
    variances = [(np.log(0.5 / family.n_terms), 0.0, 3.0, -14.0, 9.0)] * family.n_terms
    rates = [(start, mean, 1.0, -7.0, 6.0) for start, mean in _RATES[: family.n_terms]]
    if family.n_players <= MOST_SKEWED_PLAYERS:
        rates[0] = (_SKEWED_START, *rates[0][1:])
    skews = [_SKEW if family.skewed else (_NO_SKEW, _NO_SKEW, 1.0, _NO_SKEW, _NO_SKEW)] * family.n_terms
    players = [_PLAYER] * (2 * family.n_players if family.individual else 0)
    table = np.concatenate([_SCALARS, np.array(variances + rates + skews + players)])
    if not family.ends:
        table[_ENDS, [0, 1, 3, 4]] = _NO_ENDS
    return table


def fit_kernel(
    family: KernelFamily,
    signs: Floats,
    payoffs: Floats,
    start: Floats | None = None,
    patience: Patience = PATIENT,
    judge: Callable[[PartKernel], float] | None = None,
) -> tuple[Floats, float]:
    """Return the most probable parameters (n_parameters,), and the objective there, from one start.

    Args:
        family: which parameters there are.
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        payoffs: (n_pairs, n_columns), odd payoffs of mean square about 1. Columns share the parameters.
        start: parameters to start from; by default those of the family.
        patience: how long L-BFGS goes on; its tolerance is in log probability.
        judge: returns a loss of a kernel, on other pairs. If given, parameters are the best so judged on the way there.
    """
    table = _parameter_table(family)
    begin = table[:, 0] if start is None else np.clip(start, table[:, 3], table[:, 4])
    posterior = _Posterior(family, signs, payoffs)
    judged = None if judge is None else lambda place: judge(family.kernel(posterior.parameters(place)))
    with threads_for(len(signs)):
        place, value = minimised(posterior, posterior.place(begin), *posterior.bounds, patience, judged)
        # Rounding makes the Gram matrix indefinite: begin with a rougher one
        while not np.isfinite(value) and begin[_ROUGH] < _NEVER_SMOOTH:
            begin = begin.copy()
            begin[_ROUGH] = max(begin[_ROUGH], np.log(_LEAST_ROUGHNESS)) + _ROUGHER
            place, value = minimised(posterior, posterior.place(begin), *posterior.bounds, patience, judged)
    return posterior.parameters(place), value


class LaplaceApproximation:
    """A normal distribution about the most probable parameters, with the curvature of the log posterior there.

    The curvature is from differences of gradients. No direction is taken to be less certain than the prior has it.

    Args:
        family: which parameters there are.
        signs, payoffs: what they were fitted to, as in `fit_kernel`.
        parameters: (n_parameters,), the most probable ones.
    """

    def __init__(self, family: KernelFamily, signs: Floats, payoffs: Floats, parameters: Floats) -> None:
        self._posterior = _Posterior(family, signs, payoffs)
        self._n_pairs = len(signs)
        self._place = self._posterior.place(parameters)
        with threads_for(len(signs)):
            self._value, self._gradient = self._posterior(self._place)
            changes = [self._posterior(self._place + _STEP * unit)[1] for unit in np.eye(len(self._place))]
        curvature = (np.array(changes) - self._gradient) / _STEP
        self._curvature = (curvature + curvature.T) / 2

    def log_evidence(self) -> float:
        """Return how probable the payoffs are with the family, its parameters integrated out, up to a constant."""
        eigenvalues = np.linalg.eigvalsh(self._curvature)
        return -self._value - 0.5 * float(np.log(np.maximum(eigenvalues, 1.0)).sum())

    def draws(self, n_pairs: int) -> list[Floats]:
        """Return parameters drawn from the distribution, `n_pairs` of them and as many on the other side of the mode.

        Those at a bound stay there. A draw that is less probable than a parabola would have it is drawn nearer, to
        where the parabola would be as low if it were as much steeper: the density may fall off sooner on one side
        (compare Rue, Martino and Chopin 2009, section 6.5).
        """
        least, greatest = self._posterior.bounds
        downhill = np.where(self._gradient > 0, least, greatest)
        free = np.flatnonzero((least < greatest) & (np.abs(self._place - downhill) > _ROUNDING))
        eigenvalues, vectors = np.linalg.eigh(self._curvature[np.ix_(free, free)])
        # The symmetric root: no sign of an eigenvector, which rounding decides, turns one draw into another
        root = vectors / np.sqrt(np.maximum(eigenvalues, 1.0)) @ vectors.T
        uniform = counter_uniform(_DRAWS_SEED, np.arange(n_pairs)[:, None], np.arange(len(free)))
        normal = ndtri(np.clip(uniform, _LEAST_UNIFORM, None))
        found = []
        with threads_for(self._n_pairs):
            for row in normal:
                step = np.zeros(len(self._place))
                step[free] = root @ row
                found += [self._drawn(sign * step, float(row @ row) / 2) for sign in (1, -1)]
        return found

    def _drawn(self, step: Floats, expected: float) -> Floats:
        """The parameters a step from the most probable ones, or less where the objective rises more than expected."""
        bounds = self._posterior.bounds
        place = np.clip(self._place + step, *bounds)
        rise = self._posterior(place)[0] - self._value
        if rise > expected:
            place = self._place + max(np.sqrt(expected / rise), _LEAST_SHARE) * (place - self._place)
        return self._posterior.parameters(place)


def surprise_of_ends(kernel: PartKernel, signs: Floats, payoffs: Floats) -> tuple[float, float]:
    """Return how far the ends are from what all other pairs make expect: in standard deviations, and squared.

    Args:
        kernel: that was fitted.
        signs: (n_pairs, n_players), the ends first.
        payoffs: (n_pairs, n_columns); of several columns it is the root mean square.
    """
    unit = np.zeros((len(signs), 1))
    unit[0] = 1.0
    with threads_for(len(signs)):
        _, _, factor = factorised(kernel, signs)
        precision, _ = lapack.dpotrs(factor, unit, lower=1)
    residuals = float(np.mean((precision.T @ payoffs) ** 2)) / float(precision[0, 0])
    return float(np.sqrt(residuals)), residuals / float(precision[0, 0])


def log_likelihood(kernel: PartKernel, signs: Floats, payoffs: Floats) -> float:
    """Return how probable payoffs (n_pairs, n_columns) are with a kernel, up to a constant of each pair: the log."""
    with threads_for(len(signs)):
        return log_density(*innovations(kernel, signs, payoffs))


def log_density(deviations: Floats, scales: Floats) -> float:
    """Return how probable what `innovations` found is, up to a constant of each pair: the log."""
    return -0.5 * float(np.vdot(deviations, deviations)) - float(deviations.shape[1] * np.log(scales).sum())


def objective(parameters: Floats, family: KernelFamily, signs: Floats, payoffs: Floats) -> tuple[float, Floats]:
    """Return minus the log of likelihood times prior, up to a constant, and its gradient (n_parameters,)."""
    posterior = _Posterior(family, signs, payoffs)
    value, gradient = posterior(posterior.place(parameters))
    return value, gradient / posterior.deviation


class _Posterior:
    """Minus the log of likelihood times prior as a function of a place: parameters in units of the prior.

    There the prior is standard normal, and no direction steeper than another but by what the payoffs say.
    """

    def __init__(self, family: KernelFamily, signs: Floats, payoffs: Floats) -> None:
        _, self.mean, self.deviation, least, greatest = _parameter_table(family).T
        self.bounds = self.place(least), self.place(greatest)
        self._likelihood = _Likelihood(family, signs, payoffs)

    def place(self, parameters: Floats) -> Floats:
        """Where these parameters are."""
        return np.asarray((parameters - self.mean) / self.deviation)

    def parameters(self, place: Floats) -> Floats:
        """Which parameters are there."""
        return np.asarray(self.mean + self.deviation * place)

    def __call__(self, place: Floats) -> tuple[float, Floats]:
        """Return the value and its gradient (n_parameters,)."""
        value, gradient = self._likelihood(self.parameters(place))
        return value + 0.5 * float(place @ place), gradient * self.deviation + place


class _Likelihood:
    """Minus the log of the likelihood, up to a constant, as a function of the parameters.

    Its memory is of the whole fit: of hundreds of pairs, new memory takes as long as what fills it.
    """

    def __init__(self, family: KernelFamily, signs: Floats, payoffs: Floats) -> None:
        n_pairs, n_players = signs.shape
        self._family, self._signs, self._payoffs = family, np.ascontiguousarray(signs), payoffs
        self._columns, self._sizes = np.ascontiguousarray(signs.T), coalition_sizes(signs)
        self._covariances = np.zeros((n_pairs, n_pairs))  # above the diagonal they stay so
        self._products, self._linear = np.empty((2, n_pairs, n_pairs))
        self._grown, self._fallen = np.empty((2, family.n_terms, n_pairs, n_pairs))
        self._leanings = np.empty((2, family.n_terms, n_pairs))
        self._slope_weights, self._product_weights = np.zeros((2, n_pairs, n_pairs))  # and these
        self._slopes_by_sizes = np.empty((n_players + 1, n_players + 1))
        self._numbers = np.full(_N_SCALARS + 1, CONSTANT_VARIANCE)
        self._alike = np.full(n_players, 1 / n_players)
        if not family.individual:
            self._products[:] = self._linear[:] = signs @ signs.T / n_players

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        """Return the value and its gradient (n_parameters,)."""
        family, payoffs = self._family, self._payoffs
        scalars, variances, rates, skews, influences, ratios = family.split(np.exp(parameters))
        skews = skews * family.skewed  # no skew is none: with the largest rates the least would be a large one
        numbers = self._numbers
        numbers[:_N_SCALARS] = scalars
        numbers[_ROUGH] += family.least_roughness
        if not family.ends:
            numbers[_ENDS] = 0.0
        influences = influences / family.n_players if family.individual else self._alike
        slopes = influences * ratios if family.individual else influences
        kernel = (influences, slopes, numbers, variances, rates, skews)
        kept = (self._products, self._linear, self._grown, self._fallen, self._leanings, self._slopes_by_sizes)
        scales, balances = loops.fill_triangle(
            self._signs, self._columns, self._sizes, *kernel, family.even, family.individual, self._covariances, *kept
        )
        # The lower triangle of rows is the upper one of columns, which LAPACK takes without a copy.
        factor, failed = lapack.dpotrf(self._covariances.T, lower=0, clean=0, overwrite_a=1)
        if failed:
            return np.inf, np.zeros_like(parameters)
        weights, _ = lapack.dpotrs(factor, payoffs, lower=0)
        value = 0.5 * float(np.vdot(payoffs, weights)) + payoffs.shape[1] * float(np.log(np.diag(factor)).sum())
        inverse, _ = lapack.dpotri(factor, lower=0, overwrite_c=1)
        gradient = self._gradient(kernel, inverse.T, np.ascontiguousarray(weights.T), scales, balances)
        family.split(gradient)[0][_ROUGH] *= scalars[_ROUGH]  # without the least there is
        return value, gradient

    def _gradient(
        self, kernel: Kernel, derivatives: Floats, weights: Floats, scales: Floats, balances: Floats
    ) -> Floats:
        """The derivatives in the parameters (n_parameters,), but in the rough variance itself.

        Args:
            kernel: the parameters.
            derivatives: K⁻¹ in its lower triangle, which is lost.
            weights: K⁻¹ y of every column of payoffs, one a row.
            scales, balances: what `fill_triangle` returned.
        """
        family = self._family
        influences, slopes, numbers, variances, rates, skews = kernel
        by_sizes = loops.contract_sizes(
            derivatives,
            weights,
            self._sizes,
            self._linear,
            self._slopes_by_sizes,
            numbers[_LINEAR] if family.even else 0.0,
            self._slope_weights,
        )
        self._product_weights[:] = 0.0
        leaning, of_waves = np.zeros(len(balances)), np.empty((family.n_terms, 3))
        for term in range(family.n_terms):
            of_waves[term] = loops.contract_wave(
                derivatives,
                self._products,
                self._grown[term],
                self._fallen[term],
                self._leanings[:, term],
                balances,
                scales[term],
                variances[term],
                rates[term],
                skews[term],
                1.0 if family.even else -1.0,
                self._product_weights,
                leaning,
            )
        gradient = np.zeros(len(_parameter_table(family)))
        # views, filled in place
        by_number, by_variance, by_rate, by_skew, by_influence, by_ratio = family.split(gradient)
        by_players = np.empty((2, family.n_players))
        loops.contract_rest(
            self._signs,
            self._columns,
            *kernel,
            family.even,
            family.individual,
            *by_sizes,
            of_waves,
            scales,
            self._slope_weights,
            self._product_weights,
            leaning,
            by_number,
            by_variance,
            by_rate,
            by_skew,
            *by_players,
        )
        if family.individual:
            by_ratio[:] = slopes * by_players[1]
            by_influence[:] = by_ratio + influences * by_players[0]
        return gradient
