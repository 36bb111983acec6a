"""What training data are worth: a model is trained on a coalition of points, and its score is the payoff."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_names, from_torch
from shapkit._optional import require
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game
from shapkit.games.rows import is_frame, is_sparse

Score = Callable[[Any, Any, Any], Any]
"""A fitted model, test features and test targets -> a real number, or several."""


def data_game(
    model: Any,
    features: Any,
    targets: Any,
    test_features: Any,
    test_targets: Any,
    score: Score | None = None,
    sources: Any = None,
    empty: Any = 0.0,
    names: Sequence[str] | None = None,
    batch_size: int | None = None,
    cache: CoalitionCache | bool | None = None,
    executor: Executor | None = None,
) -> Game:
    """Return the game whose players are training points, or sources of them, and whose payoffs are test scores.

    Its Shapley values are data values (Ghorbani and Zou 2019). Estimate them with
    `shapkit.estimate(game, ..., method="truncated")`; of nearest neighbours, `shapkit.knn_values` has them exactly.

    Args:
        model: an estimator of scikit-learn's kind, cloned for each coalition; give it an integer as random_state if it
            draws numbers.
        features: (n_points, ...), an array, a DataFrame or a sparse matrix.
        targets: (n_points, ...).
        test_features, test_targets: what the score is taken of.
        score: takes a fitted model and these; `model.score` by default, of classifiers the accuracy.
        sources: the source of each point, (n_points,): points of one source are one player. By default each is its own.
        empty: the score without any training point; of several scores, one for each.
        names: of the players; by default sources, or numbers of the points.
        batch_size, cache, executor: as for `Game`.

    Returns:
        a Game with the score as its payoff. A classifier that is given points of one class only predicts that class.

    Raises:
        ValueError: an argument is not as described.
        ImportError: scikit-learn is not installed.

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> points = np.array([[0.0], [1.0], [10.0]])
    >>> game = data_game(KNeighborsClassifier(1), points, [0, 0, 1], [[0.5], [9.0]], [0, 1])
    >>> game(np.array([[False] * 3, [True, False, False], [True, False, True]]))
    array([0. , 0.5, 1. ])
    """
    base: Any = require("sklearn.base", extra="data", purpose="data_game")
    if not hasattr(model, "fit"):
        raise ValueError(f"model must have fit(features, targets), as scikit-learn's, got {type(model).__name__}")
    if score is None and not hasattr(model, "score"):
        raise ValueError(f"model {type(model).__name__} has no score(): give a score of a model, features and targets")
    table, wanted = _as_rows(features), np.asarray(from_torch(targets))
    n_points = table.shape[0]
    if wanted.ndim == 0 or len(wanted) != n_points:
        raise ValueError(f"targets has shape {wanted.shape}, expected ({n_points}, ...): one for each point")
    if sources is None:
        players, player_of_point = checked_names(names, n_points), np.arange(n_points)
    else:
        labels = np.asarray(from_torch(sources))
        if labels.shape != (n_points,):
            raise ValueError(f"sources has shape {labels.shape}, expected ({n_points},): one for each point")
        known, player_of_point = np.unique(labels, return_inverse=True)
        players = checked_names([str(label) for label in known] if names is None else names, len(known))
    value = _TestScore(
        base.clone(model),
        table,
        wanted,
        (_as_rows(test_features), np.asarray(from_torch(test_targets))),
        score or _own_score,
        player_of_point,
        np.asarray(empty, dtype=np.float64),
        bool(base.is_classifier(model)),
    )
    return Game(value, len(players), players, batch_size, cache, executor)


@dataclass(frozen=True, eq=False)
class _TestScore:
    """The score of a model trained on a coalition, as a value function that other processes can be sent."""

    model: Any
    features: Any
    targets: NDArray[Any]
    test: tuple[Any, NDArray[Any]]
    score: Score
    player_of_point: NDArray[np.intp]
    empty: Payoffs
    classifies: bool

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        return np.stack([self._of(np.flatnonzero(row)) for row in coalitions[:, self.player_of_point]])

    def _of(self, points: NDArray[np.intp]) -> Payoffs:
        if not len(points):
            return self.empty
        base: Any = import_module("sklearn.base")
        targets = self.targets[points]
        model = self.model
        if self.classifies and targets.ndim == 1 and (targets == targets[0]).all():
            model = import_module("sklearn.dummy").DummyClassifier(strategy="most_frequent")
        features = self.features.iloc[points] if is_frame(self.features) else self.features[points]
        return np.asarray(self.score(base.clone(model).fit(features, targets), *self.test), dtype=np.float64)


def _own_score(model: Any, features: Any, targets: Any) -> Any:
    return model.score(features, targets)


def _as_rows(features: Any) -> Any:
    if is_frame(features):
        return features
    if is_sparse(features):
        return features.tocsr()
    return np.asarray(from_torch(features))
