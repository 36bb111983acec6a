"""The game of a model for one row, of a table or of any shape: what features, or groups, do to the prediction.

A coalition is worth the model's prediction where the other features are absent, which means here that a background
gives their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_names, from_torch, is_masked, is_tensor, player_index, positive_integer, real_array
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game
from shapkit.games.rows import Fill, Rows, feature_names, is_sparse, predictions_of, rows_of

Predict: TypeAlias = Callable[[Any], Any]
"""Rows (n_rows, *shape) -> real numbers (n_rows, *output_shape), or convertible to them."""

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
) -> Game:
    """Return the game whose players are the features of `row` and whose payoffs are predictions.

    "marginal" is the mean prediction over the background, each of whose rows in turn gives the absent features:
    Lundberg and Lee (2017), the marginal removal of Covert, Lundberg and Lee (2021), also called interventional.
    "baseline" is the prediction where the mean row of the background gives them.

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
            Torch tensors stay tensors on their device, scipy's sparse matrices CSR matrices; else `predict` is given
            arrays.
        fill: "marginal" predicts n_background rows for each coalition, "baseline" one.
        names: of the features; by default a DataFrame's columns, those of the background before those of the row, or a
            Series' labels, or else "0", "1", ..., and "0,0", "0,1", ... of rows of two dimensions.
        groups: for each player, by name, the features, by index or name, that are present and absent together; every
            feature in exactly one group. In rows of several dimensions an index is a tuple. Or labels, an array of the
            row's shape: features of one label are a player. By default every feature is a player.
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
    rows = rows_of(row, background, fill)
    n_features = prod(rows.shape)
    default = rows.names or (None if len(rows.shape) == 1 else feature_names(rows.shape))
    features = checked_names(default if names is None else names, n_features)
    players, player_of_feature = features, np.arange(n_features)
    if groups is not None:
        groups = _labelled(groups, rows.shape)
        players, player_of_feature = tuple(groups), _group_of_feature(groups, features, rows.shape)
    value = _MeanPrediction(predict, rows, player_of_feature, positive_integer("max_rows", max_rows))
    return Game(value, len(players), players, batch_size, cache, executor)


@dataclass(frozen=True, eq=False)
class _MeanPrediction:
    """The mean prediction over the background, as a value function that other processes can be sent."""

    predict: Predict
    rows: Rows
    player_of_feature: NDArray[np.intp]
    max_rows: int

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        blocks = self._blocks(coalitions[:, self.player_of_feature])
        if self.rows.n_background == 1:
            return np.concatenate([block[:, 0] for block in blocks])
        # One coalition at a time: the order in which many are summed at once may depend on how many there are.
        sums = [np.add.reduce(predictions, axis=0) for block in blocks for predictions in block]
        return np.asarray(sums) / self.rows.n_background

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
        n_expected = len(present) * (stop - first)
        predictions = predictions_of(self._of(self.rows.mixed(present, slice(first, stop))), n_expected, "row")
        if n_expected > 1 and n_expected in predictions.shape[1:]:
            self._check_axes(present[:1], first, predictions.shape)
        # A copy, since `predict` may return one buffer again and again
        return predictions.reshape(len(present), stop - first, *predictions.shape[1:]).copy()

    def _of(self, rows: Any) -> Any:
        """The predictions of rows, as the model returns them."""
        return _run_module(self.predict, rows) if _is_module(self.predict) else self.predict(rows)

    def _check_axes(self, present: NDArray[np.bool_], row: int, shape: tuple[int, ...]) -> None:
        """Refuse (outputs, rows) where it passes for (rows, outputs), because there are as many of both."""
        alone = real_array(from_torch(self._of(self.rows.mixed(present, slice(row, row + 1)))), "predict's result")
        if alone.shape != (1, *shape[1:]):
            raise ValueError(
                f"predict returned shape {shape} for {shape[0]} rows and {alone.shape} for one, expected "
                "(n_rows, ...): one prediction per row, along the first axis"
            )


_ONE_MODULE_AT_A_TIME = Lock()  # whether a module is being trained is a switch that all threads share


def _is_module(predict: Any) -> bool:
    """Whether this is a torch module, without importing it."""
    return any(kind.__module__.startswith("torch.nn.") and kind.__name__ == "Module" for kind in type(predict).__mro__)


def _run_module(module: Any, rows: Any) -> Any:
    """What a torch module makes of rows: in evaluation mode, which is undone, and without gradients."""
    import torch

    weights = next((weights for weights in module.parameters() if weights.is_floating_point()), None)
    tensor = rows
    if not is_tensor(rows):  # numbers of a table are for the network's arithmetic, whatever they are kept as
        tensor = torch.as_tensor(rows.toarray() if is_sparse(rows) else np.asarray(rows))
    if weights is not None:
        whole = is_tensor(rows) and not tensor.is_floating_point()  # indices of an embedding
        tensor = tensor.to(device=weights.device, dtype=tensor.dtype if whole else weights.dtype)
    with _ONE_MODULE_AT_A_TIME:
        trained = [part for part in module.modules() if part.training]
        module.eval()
        try:
            with torch.inference_mode():
                return module(tensor)
        finally:
            for part in trained:
                part.training = True


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
