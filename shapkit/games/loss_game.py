"""What features are worth to a model as a whole: the loss that it would have without them, as in SAGE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import from_torch, real_array
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game
from shapkit.games.model_game import Fill, Groups, model_game
from shapkit.games.predictions import Output, Predict, classes_of
from shapkit.games.rows import single_rows

LossName = Literal["squared", "absolute", "cross_entropy"]
Loss: TypeAlias = LossName | Callable[[Payoffs, NDArray[Any]], Any]

_LEAST_PROBABILITY = 1e-12


def loss_game(
    predict: Predict,
    rows: Any,
    targets: Any,
    background: Any,
    loss: Loss = "squared",
    fill: Fill = "marginal",
    names: Sequence[str] | None = None,
    groups: Groups | None = None,
    max_rows: int = 2**14,
    batch_size: int | None = None,
    cache: CoalitionCache | bool | None = None,
    executor: Executor | None = None,
    output: Output | None = None,
) -> Game:
    """Return the game whose payoffs are minus the mean loss over rows, where absent features come from a background.

    Its Shapley values are the global importance of Covert, Lundberg and Lee (2020), SAGE: how much of the model's
    performance each feature brings. They sum to the loss without features less the loss with all.

    Args:
        predict, fill, names, groups, max_rows, output: as for `model_game`. Predictions of a coalition are averaged
            over the background first, and the loss is taken of the mean.
        rows: (n_rows, *shape), of which the loss is known, in any form that `explain_rows` takes.
        targets: (n_rows, ...), one for each row: real numbers, or for "cross_entropy" the true class: as a classifier
            knows it whose method `predict` is, else its place, an integer from 0.
        background: rows that give absent features.
        loss: "squared" or "absolute", summed over outputs; "cross_entropy" of probabilities (n_rows, n_classes), or of
            the probability of class 1, (n_rows,); or a function of predictions (n_rows, *output_shape) and targets that
            returns losses (n_rows,).
        batch_size, cache, executor: as for `Game`.

    Returns:
        a Game with scalar payoffs, in the unit of the loss.

    Raises:
        ValueError: an argument is not as described.

    >>> rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> game = loss_game(lambda rows: rows[:, 0], rows, rows[:, 0], background=rows)
    >>> game(np.array([[False, False], [True, False], [True, True]]))
    array([-0.25,  0.  ,  0.  ])
    """
    single = single_rows(rows)
    if not single:
        raise ValueError("rows is empty, expected at least one row to take the loss of")
    wanted = np.asarray(from_torch(targets))
    if wanted.ndim == 0 or len(wanted) != len(single):
        raise ValueError(f"targets has shape {wanted.shape}, expected ({len(single)}, ...): one for each row")
    if not callable(loss) and loss not in get_args(LossName):
        raise ValueError(f"loss must be one of {', '.join(map(repr, get_args(LossName)))} or a function, got {loss!r}")
    if loss == "cross_entropy":
        wanted = _places(wanted, classes_of(predict))
    games = [
        model_game(predict, row, background, fill=fill, names=names, groups=groups, max_rows=max_rows, output=output)
        for row in single
    ]
    measured = loss if callable(loss) else {"squared": _squared, "absolute": _absolute, "cross_entropy": _entropy}[loss]
    value = _MeanLoss(tuple(game.value for game in games), wanted, measured)
    return Game(value, games[0].n_players, games[0].names, batch_size, cache, executor)


@dataclass(frozen=True, eq=False)
class _MeanLoss:
    """Minus the mean loss, as a value function that other processes can be sent."""

    values: tuple[Callable[[Coalitions], Payoffs], ...]
    targets: NDArray[Any]
    loss: Callable[[Payoffs, NDArray[Any]], Any]

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        predictions = np.stack([value(coalitions) for value in self.values])
        losses = np.stack([self._losses(predictions[:, at]) for at in range(len(coalitions))])
        return np.asarray(0.0 - losses.mean(axis=1))

    def _losses(self, predictions: Payoffs) -> Payoffs:
        found = real_array(from_torch(self.loss(predictions, self.targets)), "loss's result")
        if found.shape != (len(self.targets),):
            raise ValueError(f"loss returned shape {found.shape}, expected ({len(self.targets)},): one for each row")
        return found


def _places(targets: NDArray[Any], classes: list[Any] | None) -> NDArray[Any]:
    """Targets that are classes of a classifier as places of its outputs; others as they are."""
    if classes is None or targets.ndim != 1:
        return targets
    place = {label: number for number, label in enumerate(classes)}
    unknown = [label for label in targets.tolist() if label not in place]
    if unknown:
        raise ValueError(f"targets has {unknown[0]!r}, expected classes of the model: {', '.join(map(str, classes))}")
    return np.array([place[label] for label in targets.tolist()], dtype=np.int64)


def _differences(predictions: Payoffs, targets: NDArray[Any]) -> Payoffs:
    wanted = real_array(targets, "targets")
    if predictions.shape != wanted.shape and predictions.shape == (len(wanted), 1):
        predictions = predictions[:, 0]
    if predictions.shape != wanted.shape:
        raise ValueError(f"targets has shape {wanted.shape}, expected {predictions.shape} as the predictions")
    return (predictions - wanted).reshape(len(wanted), -1)


def _squared(predictions: Payoffs, targets: NDArray[Any]) -> Payoffs:
    return np.asarray(np.square(_differences(predictions, targets)).sum(axis=1))


def _absolute(predictions: Payoffs, targets: NDArray[Any]) -> Payoffs:
    return np.asarray(np.abs(_differences(predictions, targets)).sum(axis=1))


def _entropy(predictions: Payoffs, targets: NDArray[Any]) -> Payoffs:
    if predictions.ndim == 1:
        predictions = np.stack([1 - predictions, predictions], axis=1)
    places = targets.astype(np.int64) if targets.dtype.kind in "biu" else None
    if predictions.ndim != 2 or places is None or places.ndim != 1:
        raise ValueError(
            f"loss 'cross_entropy' takes probabilities (n_rows, n_classes) and targets (n_rows,) of integers, got "
            f"predictions {predictions.shape} and targets {targets.shape} of {targets.dtype}"
        )
    if places.min() < 0 or places.max() >= predictions.shape[1]:
        raise ValueError(
            f"targets must be classes 0 to {predictions.shape[1] - 1}, got {places.min()} to {places.max()}"
        )
    return np.asarray(-np.log(np.maximum(predictions[np.arange(len(places)), places], _LEAST_PROBABILITY)))
