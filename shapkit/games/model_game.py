"""The game of a supervised model for one row of a table: what its features, or groups of them, do to the prediction.

A coalition is worth the model's prediction where the other features are absent, which means here that a background
gives their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_names, is_masked, player_index, positive_integer, real_array
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game

Fill = Literal["marginal", "baseline"]

Predict: TypeAlias = Callable[[Any], Any]
"""Rows (n_rows, n_features) -> real numbers (n_rows, *output_shape), or convertible to them."""

# present, bool (n_coalitions, n_features), and a part of the background of n_rows -> rows (n_coalitions * n_rows,
# n_features), the background running fastest
_Mix: TypeAlias = Callable[[NDArray[np.bool_], slice], Any]


def model_game(
    predict: Predict,
    row: Any,
    background: Any,
    fill: Fill = "marginal",
    names: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[int | str]] | None = None,
    max_rows: int = 2**14,
    batch_size: int | None = None,
    cache: CoalitionCache | bool | None = None,
    executor: Executor | None = None,
) -> Game:
    """Return the game whose players are the features of `row` and whose payoffs are predictions.

    "marginal" is the mean prediction over the background, each of whose rows in turn gives the absent features:
    Lundberg and Lee (2017), the marginal removal of Covert, Lundberg and Lee (2021), also called interventional.
    "baseline" is the prediction where the mean row of the background gives them.

    Args:
        predict: takes rows (n_rows, n_features) and returns real numbers (n_rows,) or (n_rows, *output_shape), such
            as `model.predict` or `model.predict_proba`. What it returns for a row must depend on that row only. Where
            it predicts as many rows at once as it has outputs, it is asked for one of them alone, to tell which axis is
            the rows'.
        row: the features (n_features,) of the row to explain.
        background: rows (n_background, n_features), or one of them, (n_features,). Where it is a pandas DataFrame,
            `predict` is given DataFrames with its columns and their types, and `row` may be a Series or a DataFrame
            of one row, whose columns may come in another order; else `predict` is given arrays.
        fill: "marginal" predicts n_background rows for each coalition, "baseline" one.
        names: of the features; by default a DataFrame's columns, those of the background before those of the row, or a
            Series' labels, or else "0", "1", ...
        groups: for each player, by name, the features, by index or name, that are present and absent together; every
            feature in exactly one group. By default every feature is a player.
        max_rows: the most rows `predict` is given at once.
        batch_size, cache, executor: as for `Game`.

    Returns:
        a Game with payoffs (n_coalitions, *output_shape), in the unit of the prediction.

    Raises:
        ValueError: an argument is not as described, or, in an evaluation, a prediction is not.

    >>> game = model_game(lambda rows: rows @ [1.0, 2.0], row=[3, 4], background=[[0, 0], [2, 2]])
    >>> game(np.array([[False, False], [True, False], [True, True]]))
    array([ 3.,  5., 11.])
    """
    if not callable(predict):
        raise ValueError(f"predict must be a function of rows, such as model.predict, got {type(predict).__name__}")
    if fill not in get_args(Fill):
        raise ValueError(f"fill must be one of {', '.join(map(repr, get_args(Fill)))}, got {fill!r}")
    for argument, rows in (("row", row), ("background", background)):
        if is_masked(rows):
            raise ValueError(f"{argument} holds masked entries, expected features: fill them, with .filled(value)")
    if _is_frame(background):
        stacked = _stacked_frame(row, background, fill)
        mix: _Mix = partial(_mixed_frame, stacked)
        n_background, n_features = len(stacked) - 1, stacked.shape[1]
        names = [str(column) for column in stacked.columns] if names is None else names
    else:
        explained, filler = _checked_arrays(row, background, fill)
        mix = partial(_mixed_array, explained, filler)
        n_background, n_features = filler.shape
        names = _labels(row) if names is None else names
    features = checked_names(names, n_features)
    players, player_of_feature = features, np.arange(n_features)
    if groups is not None:
        players, player_of_feature = tuple(groups), _group_of_feature(groups, features)
    value = _MeanPrediction(predict, mix, n_background, player_of_feature, positive_integer("max_rows", max_rows))
    return Game(value, len(players), players, batch_size, cache, executor)


@dataclass(frozen=True, eq=False)
class _MeanPrediction:
    """The mean prediction over the background, as a value function that other processes can be sent."""

    predict: Predict
    mix: _Mix
    n_background: int
    player_of_feature: NDArray[np.intp]
    max_rows: int

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        blocks = self._blocks(coalitions[:, self.player_of_feature])
        if self.n_background == 1:
            return np.concatenate([block[:, 0] for block in blocks])
        # One coalition at a time: the order in which many are summed at once may depend on how many there are.
        sums = [np.add.reduce(predictions, axis=0) for block in blocks for predictions in block]
        return np.asarray(sums) / self.n_background

    def _blocks(self, present: NDArray[np.bool_]) -> Iterator[Payoffs]:
        """Predictions (n_coalitions, n_background, *output_shape), of as many coalitions as make up `max_rows`."""
        n_coalitions, n_rows = max(1, self.max_rows // self.n_background), min(self.max_rows, self.n_background)
        for first in range(0, len(present), n_coalitions):
            block = present[first : first + n_coalitions]
            parts = [self._predictions(block, at, n_rows) for at in range(0, self.n_background, n_rows)]
            yield np.concatenate(parts, axis=1)

    def _predictions(self, present: NDArray[np.bool_], first: int, n_rows: int) -> Payoffs:
        stop = min(first + n_rows, self.n_background)
        predictions = real_array(self.predict(self.mix(present, slice(first, stop))), "predict's result")
        n_expected = len(present) * (stop - first)
        if predictions.ndim == 0 or len(predictions) != n_expected:
            raise ValueError(
                f"predict returned shape {predictions.shape} for {n_expected} rows, expected ({n_expected}, ...): "
                "one prediction per row, along the first axis"
            )
        if n_expected > 1 and n_expected in predictions.shape[1:]:
            self._check_axes(present[:1], first, predictions.shape)
        # A copy, since `predict` may return one buffer again and again
        return predictions.reshape(len(present), stop - first, *predictions.shape[1:]).copy()

    def _check_axes(self, present: NDArray[np.bool_], row: int, shape: tuple[int, ...]) -> None:
        """Refuse (outputs, rows) where it passes for (rows, outputs), because there are as many of both."""
        alone = real_array(self.predict(self.mix(present, slice(row, row + 1))), "predict's result")
        if alone.shape != (1, *shape[1:]):
            raise ValueError(
                f"predict returned shape {shape} for {shape[0]} rows and {alone.shape} for one, expected "
                "(n_rows, ...): one prediction per row, along the first axis"
            )


def _checked_arrays(row: Any, background: Any, fill: Fill) -> tuple[NDArray[Any], NDArray[Any]]:
    """The row (n_features,), and the rows (n_background, n_features) that give absent features."""
    filler = np.array(background)
    filler = filler[None] if filler.ndim == 1 else filler
    explained = np.array(row, dtype=object if filler.dtype == object else None)
    _check_shapes(explained.shape, filler.shape)
    if fill == "baseline" and len(filler) > 1:
        filler = _mean_row(lambda: filler.mean(axis=0)[None])
    return explained.reshape(-1), filler


def _mixed_array(
    row: NDArray[Any], filler: NDArray[Any], present: NDArray[np.bool_], background: slice
) -> NDArray[Any]:
    return np.where(present[:, None], row, filler[background]).reshape(-1, len(row))


def _labels(row: Any) -> list[str] | None:
    """The names that a Series or a DataFrame of one row brings."""
    labels = row.columns if _is_frame(row) else row.index if hasattr(row, "to_frame") else None
    return None if labels is None else [str(label) for label in labels]


def _is_frame(rows: Any) -> bool:
    return hasattr(rows, "iloc") and hasattr(rows, "columns")


def _stacked_frame(row: Any, background: Any, fill: Fill) -> Any:
    """A DataFrame: the rows that give absent features, and below them the row to explain."""
    pandas: Any = import_module("pandas")  # there, since the background is one of its frames
    columns = background.columns
    if _is_frame(row) or hasattr(row, "to_frame"):  # a Series has the latter
        frame = row if _is_frame(row) else row.to_frame().T
        missing = [str(column) for column in columns if column not in frame.columns]
        if missing:
            raise ValueError(f"row lacks {', '.join(missing)}, which the background has")
        frame = frame[columns]
    else:
        _check_shapes(np.shape(row), background.shape)
        frame = pandas.DataFrame([list(np.array(row, dtype=object).reshape(-1))], columns=columns)
    _check_shapes(frame.shape, background.shape)
    filler = background
    if fill == "baseline" and len(background) > 1:
        means = _mean_row(lambda: background.mean().to_numpy(dtype=np.float64))
        filler = pandas.DataFrame([means], columns=columns)
    typed = {at: _with_type(frame.iloc[:, at], filler.iloc[:, at].dtype) for at in range(len(columns))}
    stacked = pandas.concat([filler.set_axis(range(len(columns)), axis=1), pandas.DataFrame(typed)], ignore_index=True)
    return stacked.set_axis(columns, axis=1)


def _with_type(column: Any, dtype: Any) -> Any:
    """A column of that type, or as it is where the type cannot hold its value: pandas then finds a common one."""
    if hasattr(dtype, "categories") and not (column.isin(dtype.categories) | column.isna()).all():
        return column
    try:
        typed = column.astype(dtype)
    except (TypeError, ValueError):
        return column
    same = (typed.isna() & column.isna()) | (typed.astype(object) == column.astype(object))
    return typed if same.all() else column


def _mixed_frame(stacked: Any, present: NDArray[np.bool_], background: slice) -> Any:
    last = len(stacked) - 1
    rows = np.where(present[:, None], last, np.arange(last)[background][:, None]).reshape(-1, present.shape[1])
    columns = {at: stacked.iloc[:, at].array.take(rows[:, at]) for at in range(present.shape[1])}
    return type(stacked)(columns).set_axis(stacked.columns, axis=1)


def _check_shapes(row: tuple[int, ...], background: tuple[int, ...]) -> None:
    if len(background) != 2 or 0 in background:
        raise ValueError(
            f"background has shape {background}, expected (n_background, n_features), with at least one row and column"
        )
    if row not in (background[1:], (1, *background[1:])):
        raise ValueError(f"row has shape {row}, expected {background[1:]}: the features of one row of the background")


def _mean_row(mean: Callable[[], Any]) -> Any:
    try:
        return mean()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"fill 'baseline' takes the mean of the background, which is not numbers throughout ({error}): "
            "give a background of one row, whose values stand for absence"
        ) from error


def _group_of_feature(groups: Mapping[str, Sequence[int | str]], features: tuple[str, ...]) -> NDArray[np.intp]:
    """The group of each feature, as an index (n_features,)."""
    if not isinstance(groups, Mapping):
        raise ValueError(f"groups must be a mapping of names to lists of features, got {type(groups).__name__}")
    group_of_feature = np.full(len(features), -1, dtype=np.intp)
    for number, (group, members) in enumerate(groups.items()):
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise ValueError(f"groups[{group!r}] must be a list of features, got {members!r}")
        for member in members:
            feature = _feature(member, features, group)
            if group_of_feature[feature] >= 0:
                raise ValueError(f"groups has feature {features[feature]!r} more than once, expected each once")
            group_of_feature[feature] = number
    left = [name for name, group in zip(features, group_of_feature, strict=True) if group < 0]
    if left:
        raise ValueError(f"groups leaves out {', '.join(left)}, expected every feature in one group")
    return group_of_feature


def _feature(feature: int | str, features: tuple[str, ...], group: str) -> int:
    try:
        return player_index(feature, features)
    except ValueError:
        advice = ": of a mask, give np.flatnonzero(mask)" if isinstance(feature, bool | np.bool_) else ""
        expected = f"expected features by name or by index, 0 to {len(features) - 1}{advice}"
        raise ValueError(f"groups[{group!r}] has {feature!r}, {expected}") from None
