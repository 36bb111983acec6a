"""The outputs of a game's odd or even part as components with a kernel each: every output, or principal components."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shapkit.estimators.gaussian_process.functionals import IndexFunctional, prior_variances, with_pairs
from shapkit.estimators.gaussian_process.kernel import PartKernel, PartPosterior
from shapkit.estimators.gaussian_process.kernel_fit import KernelFamily, fit_kernel

Floats = NDArray[np.float64]

MAX_CHOOSING_PLAYERS = 100  # with more, players are alike in the prior, which has nothing to choose by

_MAX_FITTED_PAIRS = 512  # that parameters are fitted to
_BLOCK_COALITIONS = 1_024  # whose covariances with all pairs are held at once
_FEW_PAIRS = 250  # fits are cheap: one from the general start too
_MAX_OUTPUTS = 8  # with parameters of their own
_FEW_VALUES = 3  # different sizes of odd payoffs, at most, in a voting game
_VOTING_ROUGHNESS = 0.03
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
class Component:
    """Columns that share a kernel, scaled to mean square 1, and what they add to each output.

    Parameters are fitted to scores rounded to 2**-30. The search for them is long and its course chaotic: where payoffs
    differ in their last digit, as those of one game in two units do, so would the parameters in their third.

    Attributes:
        key: which component it is, from one fit to the next.
        scores: (n_pairs, n_columns).
        loadings: (n_columns, n_outputs): payoffs are sums over components of scores @ loadings.
        mean_square: relative, of all columns together: 1 for an output of its own.
        family: its kernel's.
    """

    key: int
    scores: Floats
    loadings: Floats
    mean_square: float
    family: KernelFamily

    def refitted(self, signs: Floats, starts: dict[int, Floats]) -> PartKernel:
        """The kernel to choose pairs by; `starts` is read, and updated for the next fit."""
        rows = _fitted_rows(len(signs))
        start = starts.get(self.key)
        n_iterations = 40 if len(rows) == len(signs) else 15  # of many pairs the last fit has seen most already
        parameters, _ = fit_kernel(self.family, signs[rows], on_grid(self.scores[rows]), start, n_iterations)
        starts[self.key] = parameters
        return self.family.kernel(parameters)

    def best_kernel(self, signs: Floats, starts: dict[int, Floats]) -> PartKernel:
        """The most probable kernel of several fits, from the last parameters and from general ones."""
        rows = _fitted_rows(len(signs))
        signs, scores = signs[rows], on_grid(self.scores[rows])
        start = starts.get(self.key)
        family, n_iterations = self.family, 60 if len(rows) <= 400 else 30
        best, lowest = fit_kernel(family, signs, scores, start, n_iterations)
        if start is not None and len(rows) <= _FEW_PAIRS:
            parameters, value = fit_kernel(family, signs, scores, None, n_iterations)
            if value < lowest:
                best, lowest = parameters, value
        if family.individual:
            wider, start = family.widened(best)
            parameters, value = fit_kernel(wider, signs, scores, start, n_iterations)
            if value < lowest:
                family, best = wider, parameters
        return family.kernel(best)

    def inflation(self, n_pairs: int) -> float:
        """What standard deviations are multiplied by, as the influence and the slope of each player are fitted."""
        n_parameters = 2 * self.family.n_players if self.family.individual else 0
        return 1 + n_parameters / len(_fitted_rows(n_pairs))


def components(signs: Floats, payoffs: Floats, even: bool = False) -> list[Component]:
    """The outputs that are not additive, each by itself, or as principal components where there are many.

    Args:
        signs: (n_pairs, n_players) of +1 and -1.
        payoffs: (n_pairs, n_outputs), odd or even ones.
        even: which of the two. What all coalitions have in common, which is no interaction and may be much larger than
            the rest, is taken off even ones.
    """
    if even:
        payoffs = payoffs - payoffs.mean(axis=0)
    modelled = payoffs.any(axis=0)
    outputs = np.flatnonzero(modelled if even else modelled & ~additive_values(signs, payoffs)[1])
    largest = np.abs(payoffs).max(axis=0)[outputs]  # divided by first, so that squares neither overflow nor vanish
    scales = largest * np.sqrt(((payoffs[:, outputs] / largest) ** 2).mean(axis=0))
    scores, loadings = payoffs[:, outputs] / scales, np.zeros((len(outputs), payoffs.shape[1]))
    loadings[np.arange(len(outputs)), outputs] = scales
    individual = signs.shape[1] <= MAX_CHOOSING_PLAYERS
    if len(outputs) <= _MAX_OUTPUTS:
        return [
            Component(
                int(output),
                scores[:, [column]],
                loadings[[column]],
                1.0,
                KernelFamily(signs.shape[1], 1, individual, _least_roughness(payoffs[:, output]), even),
            )
            for column, output in enumerate(outputs)
        ]
    return _principal_components(scores, loadings, KernelFamily(signs.shape[1], 1, individual, even=even))


class PartModel:
    """The posterior of a game's odd or even part, given some of its pairs.

    Args:
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        payoffs: (n_pairs, n_outputs), odd or even payoffs.
        starts: parameters of earlier fits by component.
        even: which of the two.
    """

    def __init__(self, signs: Floats, payoffs: Floats, starts: dict[int, Floats], even: bool = False) -> None:
        self.even = even
        if even:
            self._additive = np.zeros((signs.shape[1], payoffs.shape[1]))
        else:
            self._additive, _ = additive_values(signs, payoffs)
        self._signs = signs
        self._n_pairs = len(signs)
        self._parts = [
            (component, PartPosterior(component.best_kernel(signs, starts), signs, component.scores))
            for component in components(signs, payoffs, even)
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
        for first in range(0, len(members), _BLOCK_COALITIONS):
            block = slice(first, first + _BLOCK_COALITIONS)
            for component, posterior in self._parts:
                means, spread = posterior.of_functionals(
                    with_pairs(posterior.kernel, self._signs, part, members[block]),
                    prior_variances(posterior.kernel, part, members[block]),
                )
                values[block] += means @ component.loadings
                spread *= component.inflation(self._n_pairs) ** 2
                variances[block] += spread[:, None] * (component.loadings**2).sum(axis=0)
        return values, variances

    def shapley(self) -> tuple[Floats, Floats]:
        """Return the values and their variances, both (n_players, n_outputs)."""
        values, variances = self._additive.copy(), np.zeros_like(self._additive)
        for component, posterior in self._parts:
            means, spread = posterior.shapley()
            values += means @ component.loadings
            spread *= component.inflation(self._n_pairs) ** 2
            variances += spread[:, None] * (component.loadings**2).sum(axis=0)
        return values, variances

    def predict(self, signs: Floats) -> Floats:
        """Return the odd payoffs (n, n_outputs) to expect of pairs (n, n_players) that have not been evaluated.

        Of the odd part only.
        """
        expected = signs @ self._additive / 2
        for component, posterior in self._parts:
            expected += posterior.predict(signs) @ component.loadings
        return expected


def _principal_components(scores: Floats, loadings: Floats, family: KernelFamily) -> list[Component]:
    """The leading components one by one, then the others together, which treat players alike."""
    left, singular, right = np.linalg.svd(scores, full_matrices=False)
    kept = singular > _SAME * singular[0]
    sizes = singular[kept] / np.sqrt(len(scores))
    scores, loadings = left[:, kept] * np.sqrt(len(scores)), sizes[:, None] * (right[kept] @ loadings)
    leading = [slice(first, first + 1) for first in range(min(_MAX_OUTPUTS, len(sizes)))]
    tail = [slice(_MAX_OUTPUTS, None)] if len(sizes) > _MAX_OUTPUTS else []
    return [
        Component(
            _TAIL if group in tail else group.start,
            scores[:, group],
            loadings[group],
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


def _fitted_rows(n_pairs: int) -> NDArray[np.int64]:
    """The pairs that parameters are fitted to, spread evenly over all."""
    return np.linspace(0, n_pairs - 1, min(n_pairs, _MAX_FITTED_PAIRS)).astype(np.int64)
