"""What a model predicts for rows: functions and torch modules, one output of several, and odds of probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from shapkit._checks import from_torch, is_tensor, real_array
from shapkit.games.batches import Payoffs
from shapkit.games.rows import is_sparse

Predict: TypeAlias = Callable[[Any], Any]
"""Rows (n_rows, *shape) -> real numbers (n_rows, *output_shape), or convertible to them."""

Output: TypeAlias = int | str | tuple[int, ...] | Callable[[Payoffs], Any]
"""One output by its place, or its class by name, or a function of predictions (n_rows, *output_shape)."""

LinkName = Literal["identity", "logit"]
Link: TypeAlias = LinkName | Callable[[Payoffs], Any]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model as a function of rows that returns float64 (n_rows, *output_shape).

    Args:
        predict: a function or a torch module, which is run in evaluation and inference mode.
        output: what of its predictions is returned; all of it by default.
        of: what one row is called in messages.

    Raises:
        ValueError: `predict` is no function, or `output` is none of its outputs.

    >>> Predictor(lambda rows: np.asarray(rows) * 2.0, output=1)(np.array([[1, 2], [3, 4]])).tolist()
    [4.0, 8.0]
    """

    predict: Predict
    output: Output | None = None
    of: str = "row"

    def __post_init__(self) -> None:
        if not callable(self.predict):
            kind = type(self.predict).__name__
            raise ValueError(f"predict must be a function of rows, such as model.predict, got {kind}")
        if isinstance(self.output, str):
            object.__setattr__(self, "output", _place_of_class(self.predict, self.output))
        place = isinstance(self.output, int | np.integer | tuple) and not isinstance(self.output, bool)
        if not (self.output is None or place or callable(self.output)):
            raise ValueError(
                "output must be the place of an output, a class by name or a function of predictions, "
                f"got {self.output!r}"
            )

    def __call__(self, rows: Any) -> Payoffs:
        """Return the predictions of rows, as they are: `checked` says whether there is one for each."""
        found = real_array(from_torch(self._raw(rows)), "predict's result")
        if self.output is None or found.ndim == 0:
            return found
        if callable(self.output):
            return real_array(from_torch(self.output(found)), "output's result")
        try:
            return np.asarray(found[(slice(None), *np.atleast_1d(self.output).tolist())])
        except IndexError:
            raise ValueError(
                f"output is {self.output!r}, expected the place of an output: predict returned shape {found.shape[1:]} "
                f"for each {self.of}"
            ) from None

    def checked(self, rows: Any, n_expected: int, one: Callable[[], Any]) -> Payoffs:
        """Return predictions (n_expected, *output_shape) of that many rows, a new array.

        Args:
            rows: to predict.
            n_expected: how many they are.
            one: gives the first of them alone. Where there are as many outputs as rows, it tells which axis is which.

        Raises:
            ValueError: there is not one prediction for each row, along the first axis.
        """
        found = self(rows)
        if found.ndim == 0 or len(found) != n_expected:
            raise ValueError(
                f"predict returned shape {found.shape} for {n_expected} {self.of}s, expected ({n_expected}, ...): one "
                f"prediction per {self.of}, along the first axis"
            )
        if n_expected > 1 and n_expected in found.shape[1:]:
            alone = self(one())
            if alone.shape != (1, *found.shape[1:]):
                raise ValueError(
                    f"predict returned shape {found.shape} for {len(found)} {self.of}s and {alone.shape} for one, "
                    f"expected (n_{self.of}s, ...): one prediction per {self.of}, along the first axis"
                )
        return found.copy()  # since `predict` may return one buffer again and again

    def _raw(self, rows: Any) -> Any:
        return _run_module(self.predict, rows) if _is_module(self.predict) else self.predict(rows)


def link_of(link: Link) -> Callable[[Payoffs], Payoffs]:
    """Return the function that payoffs go through.

    Args:
        link: "identity"; "logit", ln p / (1 - p), of probabilities; or a function of payoffs.

    Raises:
        ValueError: it is none of these, or, when called, a payoff is no probability between 0 and 1.

    >>> link_of("logit")(np.array([0.5])).tolist()
    [0.0]
    """
    if callable(link):
        return _Checked(link)
    if link not in get_args(LinkName):
        raise ValueError(f"link must be {' or '.join(map(repr, get_args(LinkName)))}, or a function, got {link!r}")
    return _logit if link == "logit" else _same


@dataclass(frozen=True)
class _Checked:
    link: Callable[[Payoffs], Any]

    def __call__(self, payoffs: Payoffs) -> Payoffs:
        return real_array(from_torch(self.link(payoffs)), "link's result")


def _same(payoffs: Payoffs) -> Payoffs:
    return payoffs


def _logit(payoffs: Payoffs) -> Payoffs:
    if not ((payoffs > 0) & (payoffs < 1)).all():
        wrong = payoffs[~((payoffs > 0) & (payoffs < 1))][0]
        raise ValueError(
            f"link 'logit' takes probabilities between 0 and 1, got a mean prediction of {wrong:g}: for a model that "
            "is certain, take a function that stays finite, such as link=lambda p: np.log(p + 1e-6)"
        )
    return np.asarray(np.log(payoffs) - np.log1p(-payoffs))


def classes_of(predict: Predict) -> list[Any] | None:
    """Return the classes of a fitted classifier, in the order of its outputs, given a method of it; else None."""
    classes = getattr(getattr(predict, "__self__", None), "classes_", None)
    return None if classes is None else np.asarray(classes).tolist()


def _place_of_class(predict: Predict, name: str) -> int:
    classes = classes_of(predict)
    if classes is None:
        raise ValueError(
            f"output is {name!r}, but predict brings no names: give a method of a fitted classifier, such as "
            "model.predict_proba, or the output's place"
        )
    known = [str(label) for label in classes]
    if name not in known:
        raise ValueError(f"output is {name!r}, expected one of the classes {', '.join(known)}")
    return known.index(name)


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
