"""A minimum of a smooth function between bounds, by L-BFGS, where a call of the function takes little time itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.kernels import compiled

Floats = NDArray[np.float64]

_MEMORY = 20  # steps that the curvature is known from
_LONGEST = 3.0  # a step, in any coordinate
_SUFFICIENT = 1e-4  # of the decrease that the gradient promises (Armijo)
_MOST_TRIES = 12  # lengths of a step
_MOST_IN_VAIN = 2  # steps in a row that gain little
_JUDGED_EVERY = 10  # steps
_MOST_JUDGED_WORSE = 2  # in a row
_SHORTER, _LEAST_SHORTER = 0.5, 0.1  # what a step that does not do is shortened by, at least and at most


@dataclass(frozen=True)
class Patience:
    """How long a search goes on.

    Attributes:
        n_steps: at most.
        tolerance: two steps in a row that decrease the function by less are the last.
        until: of `time.monotonic`, in seconds; no step begins later.
    """

    n_steps: int
    tolerance: float
    until: float = math.inf


def minimised(
    function: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    least: Floats,
    greatest: Floats,
    patience: Patience,
    judge: Callable[[Floats], float] | None = None,
) -> tuple[Floats, float]:
    """Return where a function is smallest near `start`, and its value there.

    L-BFGS (Nocedal and Wright 2006, algorithm 7.4), each step cut off at the bounds, with a line search that goes back
    to where the function decreases enough. Coordinates should be scaled so that 1 is a step to be reckoned with.

    Args:
        function: returns its value and its gradient (n,); infinite where it is not defined.
        start: (n,), between the bounds.
        least, greatest: (n,), bounds.
        patience: when to stop.
        judge: returns a loss of a place, as on data that the function does not see. If given, every tenth place is
            judged, the search ends once two in a row are no better than one before, and the best of them is returned.

    >>> def parabola(place):
    ...     return float(place @ place) / 2, place
    >>> minimised(parabola, np.array([3.0, 4.0]), np.array([1.0, -9.0]), np.array([9.0, 9.0]), Patience(20, 1e-9))
    (array([1., 0.]), 0.5)
    """
    place, (value, gradient) = start, function(start)
    steps, changes = np.zeros((2, _MEMORY, len(start)))
    n_kept = few = 0
    judged = _Judged(judge, (place, value))
    for n_done in range(patience.n_steps if np.isfinite(value) else 0):
        if n_done and n_done % _JUDGED_EVERY == 0 and judged.are_worse(place, value):
            break
        if time.monotonic() >= patience.until:
            break
        free = ~(((place <= least) & (gradient > 0)) | ((place >= greatest) & (gradient < 0)))
        direction = descent(steps, changes, n_kept, np.where(free, gradient, 0.0)) * free
        longest = np.abs(direction).max()
        if longest == 0:
            break
        direction *= min(1.0, _LONGEST / float(longest))
        found = _along(function, place, value, gradient, direction, least, greatest)
        if found is None:
            if n_kept == 0:
                break
            n_kept = 0  # what was known of the curvature misleads: begin again downhill
            continue
        new_place, new_value, new_gradient = found
        step, change = new_place - place, new_gradient - gradient
        if step @ change > 1e-10 * (change @ change):
            steps[n_kept % _MEMORY], changes[n_kept % _MEMORY] = step, change
            n_kept += 1
        few = few + 1 if value - new_value < patience.tolerance else 0
        place, value, gradient = new_place, new_value, new_gradient
        if few >= _MOST_IN_VAIN:
            break
    if np.isfinite(value) and place is not judged.last:
        judged.are_worse(place, value)
    return judged.best


class _Judged:
    """The best of the places judged, with its value: the last one where nobody judges."""

    def __init__(self, judge: Callable[[Floats], float] | None, start: tuple[Floats, float]) -> None:
        self.best = start
        self.last: Floats | None = None
        self._judge = judge
        self._least_loss = math.inf
        self._n_worse = 0

    def are_worse(self, place: Floats, value: float) -> bool:
        """Judge one more place, and return whether it and those before it are worse than one before them."""
        self.last = place
        loss = -math.inf if self._judge is None else self._judge(place)
        if self._judge is None or loss < self._least_loss:
            self.best, self._least_loss, self._n_worse = (place, value), loss, 0
        else:
            self._n_worse += 1
        return self._n_worse >= _MOST_JUDGED_WORSE


def _along(
    function: Callable[[Floats], tuple[float, Floats]],
    place: Floats,
    value: float,
    gradient: Floats,
    direction: Floats,
    least: Floats,
    greatest: Floats,
) -> tuple[Floats, float, Floats] | None:
    """The first place along a direction where the function has decreased enough, its value and gradient."""
    length = 1.0
    for _ in range(_MOST_TRIES):
        tried = np.clip(place + length * direction, least, greatest)
        promised = float(gradient @ (tried - place))
        new_value, new_gradient = function(tried)
        if new_value <= value + _SUFFICIENT * promised and promised < 0:
            return tried, new_value, new_gradient
        # where a parabola through what is known is smallest
        bend = new_value - value - promised
        share = -0.5 * promised / bend if np.isfinite(bend) and bend > 0 else _LEAST_SHORTER
        length *= min(max(share, _LEAST_SHORTER), _SHORTER)
    return None


@compiled
def descent(steps: Floats, changes: Floats, n_kept: int, gradient: Floats) -> Floats:
    """Return where to go, by the curvature along the last steps: the two-loop recursion of L-BFGS.

    Args:
        steps, changes: (memory, n), the last steps and the changes of the gradient, number k in row k modulo memory.
        n_kept: how many there were in all.
        gradient: (n,).
    """
    memory = len(steps)
    first = max(0, n_kept - memory)
    direction = -gradient
    shares = np.zeros(memory)
    for number in range(n_kept - 1, first - 1, -1):
        row = number % memory
        shares[row] = steps[row] @ direction / (steps[row] @ changes[row])
        direction -= shares[row] * changes[row]
    if n_kept > first:
        last = (n_kept - 1) % memory
        direction *= (steps[last] @ changes[last]) / (changes[last] @ changes[last])
    else:
        direction /= max(1.0, float(np.sqrt(gradient @ gradient)))
    for number in range(first, n_kept):
        row = number % memory
        direction += (shares[row] - changes[row] @ direction / (steps[row] @ changes[row])) * steps[row]
    return direction
