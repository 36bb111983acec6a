"""The outputs of a game's odd or even part as components with a kernel each: every output, or principal components."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shapkit.estimators.gaussian_process.forecasts import Forecast, missed_by
from shapkit.estimators.gaussian_process.functionals import (
    IndexFunctional,
    of_products,
    prior_variances,
    with_pairs,
)
from shapkit.estimators.gaussian_process.kernel import PartKernel, PartPosterior
from shapkit.estimators.gaussian_process.kernel_fit import KernelFamily
from shapkit.estimators.gaussian_process.plausible_kernels import (
    PlausibleKernel,
    fit_to_choose_by,
    plausible_kernels,
)
from shapkit.estimators.polynomials import KnownPolynomial

Floats = NDArray[np.float64]

_MAX_INDIVIDUAL_PLAYERS = 2_000  # with more, players are alike in the prior

_BLOCK_COALITIONS = 1_024  # whose covariances with all pairs are held at once
_MAX_OUTPUTS = 8  # with parameters of their own
_FEW_VALUES = 3  # different sizes of odd payoffs, at most, in a voting game
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
        family, starts[self.key] = fit_to_choose_by(self.family, signs, on_grid(self.scores), starts.get(self.key))
        return family.kernel(starts[self.key])

    def plausible_kernels(
        self, signs: Floats, starts: dict[int, Floats], until: float = math.inf
    ) -> list[PlausibleKernel]:
        """Kernels to estimate with; their weights sum to 1. See `plausible_kernels`; `starts` is read."""
        return plausible_kernels(self.family, signs, on_grid(self.scores), starts.get(self.key), until)


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
                KernelFamily(signs.shape[1], 1, individual, _is_voting(payoffs[:, output]), even),
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


def _is_voting(odd: Floats) -> bool:
    """Whether payoffs (n_pairs,) look like a voting game's: of very few sizes."""
    n_values = len(np.unique((np.abs(odd) / np.abs(odd).max()).round(9)))
    return len(odd) >= 8 and n_values <= _FEW_VALUES
