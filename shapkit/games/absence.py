"""What absent features are: rows of a background that fit the present ones, or drawn from a model of both."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from shapkit._checks import checked_integer, positive_integer, real_array
from shapkit.games.rows import Rows, rows_like
from shapkit.randomness import counter_bits, counter_uniform

Floats = NDArray[np.float64]

FillName = Literal["marginal", "baseline", "conditional"]

Completion: TypeAlias = Callable[[NDArray[np.bool_]], Any]
"""Which features (n_features,) are present -> rows (n_rows, *shape) whose mean prediction counts."""

_STREAM = 0x636F70756C61  # "copula"
_RIDGE = 1e-6  # added to a correlation matrix of features that depend on each other


class ConditionalFill(ABC):
    """Values of absent features that go with those of the present ones."""

    @abstractmethod
    def of(self, rows: Rows) -> Completion:
        """Return what completes the row to explain.

        Raises:
            ValueError: the background does not tell.
        """


@dataclass(frozen=True)
class NearestRows(ConditionalFill):
    """Absent features as in those rows of the background whose present features are nearest.

    Distances are Euclidean, of numbers in units of their standard deviation over the background; categories that differ
    are 1 apart. Where nothing is present, all rows are as near. Aas, Jullum and Løland (2021) weight rows by distance
    instead; the nearest are simpler, and need no bandwidth.

    Args:
        n_neighbours: how many rows; all of the background, where it has fewer.

    >>> import shapkit
    >>> background = np.array([[0.0, 0.0], [1.0, 10.0], [2.0, 20.0]])
    >>> game = shapkit.model_game(lambda rows: rows[:, 1], [1.9, 0.0], background, fill=NearestRows(1))
    >>> game(np.array([[True, False]]))
    array([20.])
    """

    n_neighbours: int = 10

    def __post_init__(self) -> None:
        positive_integer("n_neighbours", self.n_neighbours)

    def of(self, rows: Rows) -> Completion:
        return _Nearest(rows, rows.as_numbers(), self.n_neighbours)


@dataclass(frozen=True)
class GaussianCopula(ConditionalFill):
    """Absent features drawn given the present ones, from a Gaussian copula that is fitted to the background.

    Each feature keeps its own distribution, that of the background; what binds them are correlations of normal scores
    (Aas, Jullum and Løland 2021). The same draws serve all coalitions, so that payoffs differ by coalitions alone.

    Args:
        n_draws: rows for each coalition.
        seed: of the draws, an integer in [0, 2**64).

    >>> import shapkit
    >>> noise = np.random.default_rng(0).normal(size=(2, 1_000))
    >>> background = np.stack([noise[0], noise[0] + 0.01 * noise[1]], axis=1)
    >>> game = shapkit.model_game(lambda rows: rows[:, 1], [1.0, 0.0], background, fill=GaussianCopula(200))
    >>> bool(abs(game(np.array([[True, False]])) - 1.0) < 0.02)
    True
    """

    n_draws: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        positive_integer("n_draws", self.n_draws)
        checked_integer("seed", self.seed, least=0)

    def of(self, rows: Rows) -> Completion:
        table, category = rows.as_numbers()
        if category.any():
            raise ValueError("fill GaussianCopula needs features that are numbers, got categories: take NearestRows")
        if len(table) < 4:
            raise ValueError(f"fill GaussianCopula needs a background of at least 3 rows, got {len(table) - 1}")
        return _Copula.fitted(rows, table[-1], table[:-1], self)


@dataclass(frozen=True, eq=False)
class _Nearest:
    rows: Rows
    table: tuple[Floats, NDArray[np.bool_]]
    n_neighbours: int

    def __call__(self, present: NDArray[np.bool_]) -> Any:
        table, category = self.table
        steps = table[:-1, present] - table[-1, present]
        scale = table[:-1, present].std(axis=0)
        steps /= np.where(scale > 0, scale, 1)
        steps[:, category[present]] = steps[:, category[present]] != 0
        distances = np.square(steps).sum(axis=1)
        n_kept = min(self.n_neighbours, len(distances)) if present.any() else len(distances)
        nearest = np.argsort(distances, kind="stable")[:n_kept]
        return self.rows.mixed(present[None], np.sort(nearest))


@dataclass(frozen=True, eq=False)
class _Copula:
    rows: Rows
    row: Floats
    sorted_background: Floats  # (n_background, n_features)
    scores: Floats  # (n_features,), of the row
    correlations: Floats
    noise: Floats  # (n_draws, n_features)

    @classmethod
    def fitted(cls, rows: Rows, row: Floats, background: Floats, fill: GaussianCopula) -> _Copula:
        n_background, n_features = background.shape
        ordered = np.sort(background, axis=0)
        normal = np.stack([_scores(*columns) for columns in zip(ordered.T, background.T, strict=True)], axis=1)
        constant = np.ptp(background, axis=0) == 0
        normal[:, constant] = 0
        scale = np.where(constant, 1, normal.std(axis=0))
        correlations = (normal / scale).T @ (normal / scale) / n_background
        correlations[np.diag_indices(n_features)] = 1 + _RIDGE
        scores = np.array([_scores(ordered[:, at], row[at]) for at in range(n_features)])
        own_seed = int(counter_bits(fill.seed, _STREAM))
        pair = np.arange(-(-fill.n_draws // 2))[:, None]
        half = ndtri(np.maximum(counter_uniform(own_seed, pair, np.arange(n_features)), 2**-54))
        noise = np.concatenate([half, -half])[: fill.n_draws]  # in pairs of opposites, whose mean is exact
        return cls(rows, row, ordered, np.where(constant, 0, scores), correlations, noise)

    def __call__(self, present: NDArray[np.bool_]) -> Any:
        absent = ~present
        drawn = np.tile(self.row, (len(self.noise), 1))
        if absent.any():
            of_present = self.correlations[np.ix_(present, present)]
            between = self.correlations[np.ix_(absent, present)]
            slopes = np.linalg.solve(of_present, between.T).T
            spread = self.correlations[np.ix_(absent, absent)] - slopes @ between.T
            variances, directions = np.linalg.eigh(spread)
            root = directions * np.sqrt(np.maximum(variances, 0))
            # The symmetric root: a draw of a feature changes little with what else is absent
            scores = slopes @ self.scores[present] + self.noise[:, absent] @ (root @ directions.T)
            drawn[:, absent] = self._at_quantiles(ndtr(scores), np.flatnonzero(absent))
        return self.rows.of_numbers(drawn)

    def _at_quantiles(self, levels: Floats, features: NDArray[np.intp]) -> Floats:
        n_background = len(self.sorted_background)
        places = (np.arange(n_background) + 0.5) / n_background
        columns = [
            np.interp(levels[:, at], places, self.sorted_background[:, feature]) for at, feature in enumerate(features)
        ]
        return np.stack(columns, axis=1)


def _scores(ordered: Floats, values: Any) -> Floats:
    """Normal scores of values in a sorted column: of the share of it that is below, ties and itself by half."""
    below = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    least = 0.5 / len(ordered)
    return np.asarray(ndtri(np.clip(below / len(ordered), least, 1 - least)))


@dataclass(frozen=True, eq=False)
class FunctionFill:
    """A function of the user's as a completion.

    Args:
        fill: takes the row to explain and which of its features are present, bool of the row's shape, and returns rows
            (n_rows, *shape).
        row: as it was given.
        shape: of a row.
    """

    fill: Callable[[Any, NDArray[np.bool_]], Any]
    row: Any
    shape: tuple[int, ...]

    def __call__(self, present: NDArray[np.bool_]) -> Any:
        found = self.fill(self.row, present.reshape(self.shape))
        shape = tuple(np.shape(found)) if not hasattr(found, "shape") else tuple(found.shape)
        if shape[1:] != self.shape or shape[0] == 0:
            raise ValueError(f"fill returned shape {shape}, expected (n_rows, {', '.join(map(str, self.shape))}): rows")
        return found if hasattr(found, "shape") else np.asarray(found)


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Rows of a background that count more or less.

    Args:
        rows: (n_rows, *shape), as `model_game` takes them.
        weights: (n_rows,), not negative and not all 0; they need not sum to 1.

    Raises:
        ValueError: the weights are not as described.

    >>> import shapkit
    >>> background = WeightedRows([[0.0], [4.0]], [3, 1])
    >>> shapkit.model_game(lambda rows: rows[:, 0], [8.0], background)(np.array([[False]]))
    array([1.])
    """

    rows: Any
    weights: Any

    def __post_init__(self) -> None:
        weights = real_array(self.weights, "weights")
        n_rows = self.rows.shape[0] if hasattr(self.rows, "shape") else len(self.rows)
        if weights.shape != (n_rows,):
            raise ValueError(f"weights has shape {weights.shape}, expected ({n_rows},): one for each row")
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError("weights must be finite numbers of at least 0, and not all 0")
        object.__setattr__(self, "weights", weights / weights.sum())


def summarize(background: Any, n_rows: int, seed: int = 0) -> WeightedRows:
    """Return a few rows that stand for a background: the means of its clusters, weighted by their sizes.

    Every coalition then costs `n_rows` predictions. It is another background, whose values differ a little, for models
    that are not linear: `shapkit.model_game(..., average=False)` tells how far a plain sample of rows is off.

    Args:
        background: real numbers (n_background, *shape), an array or a DataFrame, whose kind and columns are kept.
        n_rows: how many clusters, of k-means with k-means++ starts, features in units of their standard deviation.
        seed: an integer in [0, 2**64).

    Raises:
        ValueError: the background is not numbers, or has fewer rows.

    >>> few = summarize(np.array([[0.0], [0.2], [4.0], [4.2], [4.4], [0.4]]), 2)
    >>> sorted(few.rows.ravel().round(3).tolist()), few.weights.tolist()
    ([0.2, 4.2], [0.5, 0.5])
    """
    table = real_array(background, "background")
    if table.ndim < 2:
        raise ValueError(f"background has shape {table.shape}, expected (n_background, *shape of the row)")
    if positive_integer("n_rows", n_rows) > len(table):
        raise ValueError(f"n_rows is {n_rows}, expected at most {len(table)}, as many as the background has")
    flat = table.reshape(len(table), -1)
    scale = flat.std(axis=0)
    scaled = flat / np.where(scale > 0, scale, 1)
    from scipy.cluster.vq import kmeans2  # loads a good deal of scipy

    cluster = np.arange(len(table))
    if n_rows < len(table):
        rng = np.random.default_rng(int(counter_bits(seed, _STREAM)))
        with warnings.catch_warnings():  # of empty clusters, which are left out here
            warnings.simplefilter("ignore", UserWarning)
            _, cluster = kmeans2(scaled, n_rows, minit="++", seed=rng)
    kept, cluster, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    sums = np.zeros((len(kept), flat.shape[1]))
    np.add.at(sums, cluster, flat)
    return WeightedRows(rows_like(background, (sums / sizes[:, None]).reshape(len(kept), *table.shape[1:])), sizes)
