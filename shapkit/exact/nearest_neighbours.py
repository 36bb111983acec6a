"""Shapley values of the training points of a nearest-neighbour classifier, in closed form: Jia and others (2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from shapkit._checks import checked_names, from_torch, positive_integer, real_array
from shapkit.attribution.attribution import Attribution

_BLOCK_FLOATS = 2**22  # distances held at once


def knn_values(
    features: Any,
    targets: Any,
    test_features: Any,
    test_targets: Any,
    n_neighbours: int = 5,
    metric: str = "euclidean",
    names: Any = None,
) -> Attribution:
    """Return what each training point is worth to a classifier by its nearest neighbours, exactly.

    The payoff of a coalition is the share of `n_neighbours` that its points win: how many of the nearest, at most so
    many, are of the test point's class, divided by `n_neighbours`, in the mean over test points. Sorting is all the
    work there is: n_points log n_points for each test point, where the definition needs 2**n_points models.

    Args:
        features: real numbers (n_points, n_features), or a row of any shape for each point.
        targets: classes (n_points,).
        test_features, test_targets: likewise, (n_test, n_features) and (n_test,).
        n_neighbours: how many vote.
        metric: a name that `scipy.spatial.distance.cdist` knows. Of points that are as near, the earlier is nearer.
        names: of the points; by default their numbers.

    Returns:
        an Attribution of the training points, with values (n_points,), without standard errors: it is exact.

    Raises:
        ValueError: an argument is not as described.

    >>> knn_values([[0.0], [1.0], [10.0]], [0, 0, 1], [[0.4]], [0], n_neighbours=1).values.round(4)
    array([0.5, 0.5, 0. ])
    """
    points, tests = (_flat(rows, name) for rows, name in ((features, "features"), (test_features, "test_features")))
    classes = _classes(targets, len(points), "targets")
    wanted = _classes(test_targets, len(tests), "test_targets")
    if points.shape[1] != tests.shape[1]:
        raise ValueError(f"test_features has {tests.shape[1]} features for each point, expected {points.shape[1]}")
    n_points, k = len(points), positive_integer("n_neighbours", n_neighbours)
    rank = np.arange(1, n_points + 1)
    shares = np.minimum(k, rank) / rank / k
    total, grand = np.zeros(n_points), 0.0
    step = max(1, _BLOCK_FLOATS // n_points)
    for first in range(0, len(tests), step):
        try:
            distances = cdist(tests[first : first + step], points, metric)
        except ValueError as error:
            raise ValueError(f"metric is {metric!r}, expected one that scipy's cdist knows: {error}") from None
        order = np.argsort(distances, axis=1, kind="stable")
        wins = (classes[order] == wanted[first : first + step, None]).astype(np.float64)
        grand += float(wins[:, :k].sum() / k)
        # From the farthest point inwards: a point differs from the next one by what it wins that the other does not
        steps = (wins - np.concatenate([wins[:, 1:], np.zeros((len(wins), 1))], axis=1)) * shares
        values = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
        np.add.at(total, order.ravel(), values.ravel())
    return Attribution(
        values=total / len(tests),
        standard_errors=None,
        empty_value=np.zeros(()),
        grand_value=np.asarray(grand / len(tests)),
        n_evaluations=0,
        names=checked_names(names, n_points),
        index="shapley",
        method="nearest neighbours",
        stopped_by="closed form",
    )


def _flat(rows: Any, argument: str) -> NDArray[np.float64]:
    table = real_array(from_torch(rows), argument)
    if table.ndim < 2 or 0 in table.shape:
        raise ValueError(f"{argument} has shape {table.shape}, expected (n_points, n_features), with one at least")
    if not np.isfinite(table).all():
        raise ValueError(f"{argument} holds NaN or infinity, expected finite numbers: distances are taken of them")
    return table.reshape(len(table), -1)


def _classes(targets: Any, n_points: int, argument: str) -> NDArray[Any]:
    classes = np.asarray(from_torch(targets))
    if classes.shape != (n_points,):
        raise ValueError(f"{argument} has shape {classes.shape}, expected ({n_points},): a class for each point")
    return classes
