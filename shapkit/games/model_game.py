"""The game of a model for one row, of a table or of any shape: what features, or groups, do to the prediction.

A coalition is worth the model's prediction where the other features are absent, which means here that a background
gives their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_names, is_masked, player_index, positive_integer
from shapkit.coalitions import Coalitions
from shapkit.games.absence import Completion, ConditionalFill, FillName, FunctionFill, NearestRows, WeightedRows
from shapkit.games.batches import Payoffs, ValueFunction
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game
from shapkit.games.predictions import Link, Output, Predict, Predictor, link_of
from shapkit.games.rows import Rows, feature_names, is_frame, is_polars, is_sparse, rows_like, rows_of

Fill: TypeAlias = FillName | ConditionalFill | Callable[[Any, NDArray[np.bool_]], Any]

Groups: TypeAlias = Mapping[str, Sequence[int | str | tuple[int, ...]]] | Any
"""Features by player's name, or an array of labels in the row's shape."""


def model_game(
    predict: Predict,
    row: Any,
    background: Any,
    fill: Fill = "marginal",
    names: Sequence[str] | None = None,
    groups: Groups | None = None,
    max_rows: int = 2**14,
    batch_size: int | None = None,
    cache: CoalitionCache | bool | None = None,
    executor: Executor | None = None,
    output: Output | None = None,
    link: Link = "identity",
    average: bool = True,
) -> Game:
    """Return the game whose players are the features of `row` and whose payoffs are predictions.

    "marginal" is the mean prediction over the background, each of whose rows in turn gives the absent features:
    Lundberg and Lee (2017), the marginal removal of Covert, Lundberg and Lee (2021), also called interventional.
    "baseline" is the prediction where the mean row of the background gives them. "conditional" takes rows of the
    background that are like the row in its present features.

    Args:
        predict: takes rows (n_rows, n_features) and returns real numbers (n_rows,) or (n_rows, *output_shape), such
            as `model.predict` or `model.predict_proba`. What it returns for a row must depend on that row only. Where
            it predicts as many rows at once as it has outputs, it is asked for one of them alone, to tell which axis is
            the rows'. Or a torch module: it is run in evaluation and inference mode, on tensors of its parameters'
            type and device.
        row: the features (n_features,) of the row to explain, or an array of any shape, such as a window of a time
            series (n_steps, n_channels), each of whose elements is a feature.
        background: rows (n_background, n_features), or one of them, (n_features,); of rows of another shape
            (n_background, *shape). Where it is a pandas DataFrame, `predict` is given DataFrames with its columns and
            their types, and `row` may be a Series or a DataFrame of one row, whose columns may come in another order.
            Polars frames and torch tensors stay what they are, on their device, scipy's sparse matrices become CSR
            matrices; else `predict` is given arrays. Or `WeightedRows`, such as those of `shapkit.summarize`.
        fill: "marginal" predicts n_background rows for each coalition, "baseline" one, "conditional" the ten that are
            nearest, which is `NearestRows(10)`; or `GaussianCopula(...)`; or a function of the row and of which
            features are present, bool of the row's shape, that returns rows (n_rows, *shape), the background left None.
        names: of the features; by default a DataFrame's columns, those of the background before those of the row, or a
            Series' labels, or else "0", "1", ..., and "0,0", "0,1", ... of rows of two dimensions.
        groups: for each player, by name, the features, by index or name, that are present and absent together; every
            feature in exactly one group. In rows of several dimensions an index is a tuple. Or labels, an array of the
            row's shape: features of one label are a player. By default every feature is a player.
        max_rows: the most rows `predict` is given at once.
        batch_size, cache, executor: as for `Game`.
        output: what of each prediction counts: an output's place, such as 1 or (0, 1); a class by name, where `predict`
            is a method of a fitted classifier; or a function of predictions (n_rows, *output_shape).
        link: what the mean prediction is measured by: "identity", "logit", ln p / (1 - p), or a function of payoffs.
        average: False for payoffs (n_coalitions, n_background, *output_shape), a prediction for each row of the
            background, with "marginal": `Attribution.sample_mean` then says how much the choice of rows matters.

    Returns:
        a Game with payoffs (n_coalitions, *output_shape), in the unit of the prediction, or of the link.

    Raises:
        ValueError: an argument is not as described, or, in an evaluation, a prediction is not.

    >>> game = model_game(lambda rows: rows @ [1.0, 2.0], row=[3, 4], background=[[0, 0], [2, 2]])
    >>> game(np.array([[False, False], [True, False], [True, True]]))
    array([ 3.,  5., 11.])
    """
    predictor, measured = Predictor(predict, output), link_of(link)
    conditional = isinstance(fill, ConditionalFill)
    own_fill = callable(fill) and not conditional
    if not (conditional or own_fill or (isinstance(fill, str) and fill in get_args(FillName))):
        known = ", ".join(map(repr, get_args(FillName)))
        raise ValueError(f"fill must be one of {known}, a conditional fill or a function, got {fill!r}")
    weights = None
    if isinstance(background, WeightedRows):
        if fill not in ("marginal", "baseline"):
            raise ValueError(f"fill is {fill!r}, which takes rows as they are, but the background has weights")
        weights, background = background.weights, background.rows
    if background is None:
        if not own_fill:
            raise ValueError("background is None, expected rows: only a fill that is a function can do without")
        background = _alone(row)
    for argument, given in (("row", row), ("background", background)):
        if is_masked(given):
            raise ValueError(f"{argument} holds masked entries, expected features: fill them, with .filled(value)")
    if fill == "baseline" and weights is not None:
        background = rows_like(background, np.average(np.asarray(background), axis=0, weights=weights)[None])
        weights = None
    rows = rows_of(row, background, "baseline" if fill == "baseline" else "marginal")
    if not average and (fill not in ("marginal", "baseline") or weights is not None):
        raise ValueError("average=False needs fill 'marginal' and a background whose rows count the same")
    n_features = prod(rows.shape)
    default = rows.names or (None if len(rows.shape) == 1 else feature_names(rows.shape))
    features = checked_names(default if names is None else names, n_features)
    players, player_of_feature = features, np.arange(n_features)
    if groups is not None:
        groups = _labelled(groups, rows.shape)
        players, player_of_feature = tuple(groups), _group_of_feature(groups, features, rows.shape)
    max_rows = positive_integer("max_rows", max_rows)
    value: ValueFunction
    if fill in ("marginal", "baseline"):
        value = _MeanPrediction(predictor, rows, player_of_feature, max_rows, weights, average, measured)
    else:
        complete = _completion(fill, row, rows)
        value = _CompletedPrediction(predictor, complete, player_of_feature, max_rows, measured)
    return Game(value, len(players), players, batch_size, cache, executor)


@dataclass(frozen=True, eq=False)
class _MeanPrediction:
    """The mean prediction over the background, as a value function that other processes can be sent."""

    predictor: Predictor
    rows: Rows
    player_of_feature: NDArray[np.intp]
    max_rows: int
    weights: NDArray[np.float64] | None
    average: bool
    link: Callable[[Payoffs], Payoffs]

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        blocks = self._blocks(coalitions[:, self.player_of_feature])
        if not self.average:
            return self.link(np.concatenate(list(blocks)))
        if self.rows.n_background == 1:
            return self.link(np.concatenate([block[:, 0] for block in blocks]))
        if self.weights is not None:
            return self.link(np.concatenate([np.einsum("b,cb...->c...", self.weights, block) for block in blocks]))
        # One coalition at a time: the order in which many are summed at once may depend on how many there are.
        sums = [np.add.reduce(predictions, axis=0) for block in blocks for predictions in block]
        return self.link(np.asarray(sums) / self.rows.n_background)

    def _blocks(self, present: NDArray[np.bool_]) -> Iterator[Payoffs]:
        """Predictions (n_coalitions, n_background, *output_shape), of as many coalitions as make up `max_rows`."""
        n_background = self.rows.n_background
        n_coalitions, n_rows = max(1, self.max_rows // n_background), min(self.max_rows, n_background)
        for first in range(0, len(present), n_coalitions):
            block = present[first : first + n_coalitions]
            parts = [self._predictions(block, at, n_rows) for at in range(0, n_background, n_rows)]
            yield np.concatenate(parts, axis=1)

    def _predictions(self, present: NDArray[np.bool_], first: int, n_rows: int) -> Payoffs:
        stop = min(first + n_rows, self.rows.n_background)
        predictions = self.predictor.checked(
            self.rows.mixed(present, slice(first, stop)),
            len(present) * (stop - first),
            lambda: self.rows.mixed(present[:1], slice(first, first + 1)),
        )
        return predictions.reshape(len(present), stop - first, *predictions.shape[1:])


@dataclass(frozen=True, eq=False)
class _CompletedPrediction:
    """The mean prediction over rows that depend on the coalition: conditional absence, and functions of the user's."""

    predictor: Predictor
    complete: Completion
    player_of_feature: NDArray[np.intp]
    max_rows: int
    link: Callable[[Payoffs], Payoffs]

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        return self.link(np.stack([self._mean(present) for present in coalitions[:, self.player_of_feature]]))

    def _mean(self, present: NDArray[np.bool_]) -> Payoffs:
        rows = self.complete(present)
        n_rows = rows.shape[0]
        parts = []
        for first in range(0, n_rows, self.max_rows):
            part = rows[first : first + self.max_rows]  # slices are rows of frames and of sparse matrices, too
            parts.append(self.predictor.checked(part, part.shape[0], partial(_first_row, part)))
        return np.asarray(np.add.reduce(np.concatenate(parts), axis=0) / n_rows)


def _first_row(rows: Any) -> Any:
    return rows[:1]


def _completion(fill: Any, row: Any, rows: Rows) -> Completion:
    """What gives absent features where they depend on the present ones."""
    if isinstance(fill, ConditionalFill):
        return fill.of(rows)
    return NearestRows().of(rows) if fill == "conditional" else FunctionFill(fill, row, rows.shape)


def _alone(row: Any) -> Any:
    """A row as rows, of which it is the only one."""
    if is_frame(row) or is_polars(row) or is_sparse(row):
        return row
    return row.to_frame().T if hasattr(row, "to_frame") else (row if hasattr(row, "shape") else np.asarray(row))[None]


def _labelled(groups: Any, shape: tuple[int, ...]) -> Any:
    """Labels of features, an array of the row's shape, as a mapping; what is no such array as it is."""
    if isinstance(groups, Mapping) or not hasattr(groups, "shape"):
        return groups
    labels = np.asarray(groups)
    if labels.shape != shape:
        raise ValueError(f"groups has shape {labels.shape}, expected {shape}: one label for each feature of the row")
    flat = labels.reshape(-1)
    return {str(label): np.flatnonzero(flat == label).tolist() for label in np.unique(flat)}


def _group_of_feature(groups: Any, features: tuple[str, ...], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """The group of each feature, as an index (n_features,)."""
    if not isinstance(groups, Mapping):
        raise ValueError(f"groups must be a mapping of names to lists of features, got {type(groups).__name__}")
    group_of_feature = np.full(len(features), -1, dtype=np.intp)
    for number, (group, members) in enumerate(groups.items()):
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise ValueError(f"groups[{group!r}] must be a list of features, got {members!r}")
        for member in members:
            feature = _feature(member, features, group, shape)
            if group_of_feature[feature] >= 0:
                raise ValueError(f"groups has feature {features[feature]!r} more than once, expected each once")
            group_of_feature[feature] = number
    left = [name for name, group in zip(features, group_of_feature, strict=True) if group < 0]
    if left:
        raise ValueError(f"groups leaves out {', '.join(left)}, expected every feature in one group")
    return group_of_feature


def _feature(feature: Any, features: tuple[str, ...], group: str, shape: tuple[int, ...]) -> int:
    if isinstance(feature, tuple):
        inside = len(feature) == len(shape) and all(
            isinstance(at, int | np.integer) and 0 <= at < side for at, side in zip(feature, shape, strict=True)
        )
        if not inside:
            raise ValueError(f"groups[{group!r}] has {feature!r}, expected the place of a feature in a row of {shape}")
        return int(np.ravel_multi_index(feature, shape))
    try:
        return player_index(feature, features)
    except ValueError:
        advice = ": of a mask, give np.flatnonzero(mask)" if isinstance(feature, bool | np.bool_) else ""
        expected = f"expected features by name or by index, 0 to {len(features) - 1}{advice}"
        raise ValueError(f"groups[{group!r}] has {feature!r}, {expected}") from None
