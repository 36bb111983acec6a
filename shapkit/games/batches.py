"""Batches of coalitions through the value function, here or in an executor's workers.

What the value function raises comes out with the coalition that it was raised for.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import described, real_array
from shapkit.coalitions import Coalitions

Payoffs: TypeAlias = NDArray[np.float64]
"""(n_coalitions, *output_shape): one game per output element."""

ValueFunction: TypeAlias = Callable[[Coalitions], Any]
"""bool (n_coalitions, n_players) -> real numbers (n_coalitions, *output_shape), or convertible to them."""

Batches: TypeAlias = Generator[tuple[int, Payoffs], None, None]
"""The first row and the payoffs of each batch, as batches are complete."""

_Error = TypeVar("_Error", bound=Exception)

_MOMENT = 0.05  # seconds
_BATCHES_IN_FLIGHT = 256  # submitted and not yet collected; at least, and as many as the next allows
_ELEMENTS_IN_FLIGHT = 2**26  # payoffs that workers may have ready: a thousand of them are to have enough to do
_MOST_BATCHES_IN_FLIGHT = 2**12

_UNSENT = (pickle.PicklingError, AttributeError, TypeError)  # what pickling raises

_PROCESS = uuid.uuid4().hex, os.getpid()  # a forked worker inherits the first, a spawned one draws its own


def evaluated_here(value: ValueFunction, rows: Coalitions, starts: range, names: Sequence[str]) -> Batches:
    """Yield the payoffs of `rows` (n_coalitions, n_players), in batches that begin at `starts`, one after the other.

    Raises:
        ValueError, Exception: as for `batch_payoffs`, with a note that names the coalition.

    >>> rows = np.array([[True, False], [True, True]])
    >>> [batch.tolist() for _, batch in evaluated_here(lambda some: some.sum(axis=1), rows, range(0, 2, 1), "ab")]
    [[1.0], [2.0]]
    """
    for start in starts:
        try:
            batch = batch_payoffs(value, rows[start : start + starts.step])
        except Exception as error:
            _add_note(error, names)
            raise
        yield start, batch


def evaluated_in_workers(
    executor: Executor, value: ValueFunction, rows: Coalitions, starts: range, names: Sequence[str]
) -> Batches:
    """Yield the payoffs of `rows`, in batches that begin at `starts`, as an executor's workers complete them.

    Nothing new is started after an error, and what has not begun is cancelled when the caller stops listening.

    Raises:
        ValueError, Exception: as for `batch_payoffs`, with a note that names the coalition, or `value` cannot be
            sent to the workers, or what the executor itself raises.
    """
    finished: SimpleQueue[int] = SimpleQueue()
    pending: dict[int, Future[Payoffs]] = {}
    failures: dict[int, BaseException] = {}
    waiting = deque(starts)
    at_once = _BATCHES_IN_FLIGHT
    try:
        while waiting or pending:
            room = bool(waiting) and len(pending) < at_once
            if room:
                start = waiting.popleft()
                pending[start] = _submitted(executor, value, rows[start : start + starts.step])
                pending[start].add_done_callback(partial(_announce, finished, start))
            if room and finished.empty():
                continue
            start = finished.get()
            if start not in pending:  # cancelled below
                continue
            error = pending[start].exception()
            if error is None:
                payoffs = pending.pop(start).result()
                fitting = min(_ELEMENTS_IN_FLIGHT // max(1, np.size(payoffs)), _MOST_BATCHES_IN_FLIGHT)
                at_once = max(_BATCHES_IN_FLIGHT, fitting)
                yield start, payoffs
                continue
            del pending[start]
            failures[start] = error
            # Earlier rows that run already are waited for, so that the error is the first one in the order of
            # the rows for any number of workers that start tasks in order; later rows are let go unless done.
            waiting.clear()
            _let_start([future for number, future in pending.items() if number < start])
            pending = {
                number: future
                for number, future in pending.items()
                if not future.cancel() and (number < start or future.done())
            }
    finally:
        for future in pending.values():
            future.cancel()
    if failures:
        error = _explained(failures[min(failures)], names)
        try:
            raise error
        finally:
            del error, failures  # as in batch_payoffs


def batch_payoffs(value: ValueFunction, rows: Coalitions, caller: tuple[str, int] = _PROCESS) -> Payoffs:
    """Return what `value` returns for a copy of `rows`, as a float64 array; an executor's workers run it.

    Args:
        value: as for `Game`.
        rows: bool array (n_coalitions, n_players).
        caller: the process that will see the result, as that process knows itself.

    Raises:
        ValueError: NumPy cannot convert what `value` returned, or it holds no real numbers.
        Exception: what `value` raised. Its attribute `coalition` is the row that raises it, found by
            bisection, or None where the batch fails and both its halves, or those of its failing half and so
            on, do not. One that pickling does not preserve reaches another process as a RuntimeError.

    >>> batch_payoffs(lambda coalitions: coalitions.sum(axis=1), np.array([[True, True]]))
    array([2.])
    """
    payoffs, error = _attempt(value, rows)
    if error is None:
        return np.array(real_array(payoffs))  # a copy, since `value` may return one buffer again and again
    # A value function that works on coalitions one by one may know which it was
    culprit = error if _is_located(error) else located(*_bisected(value, rows, error))
    if caller != (_PROCESS[0], os.getpid()) and not _survives_pickling(culprit):
        culprit = located(RuntimeError(f"{type(culprit).__qualname__}: {culprit}"), vars(culprit)["coalition"])
    try:
        raise culprit
    finally:
        del error, culprit  # else the traceback, and with it the value function's memory, would hold itself


def _let_start(futures: Sequence[Future[Payoffs]]) -> None:
    """Give tasks that a worker has taken in hand the moment that it takes them to be known as running."""
    until = time.monotonic() + _MOMENT
    while time.monotonic() < until and not all(future.running() or future.done() for future in futures):
        time.sleep(_MOMENT / 50)


def _announce(finished: SimpleQueue[int], start: int, _: Future[Payoffs]) -> None:
    finished.put(start)


def _attempt(value: ValueFunction, rows: Coalitions) -> tuple[Any, Exception | None]:
    """What `value` returns for a copy of `rows`, or else what it raises."""
    try:
        return value(np.array(rows, order="C")), None
    except Exception as error:
        return None, error


def _bisected(value: ValueFunction, rows: Coalitions, error: Exception) -> tuple[Exception, NDArray[np.bool_] | None]:
    """The coalition among `rows` that raises, and what it raises alone; or `error` and None if there is none."""
    part, raised = rows, error
    while len(part) > 1:
        # The frames of a failed evaluation may hold the memory that the next one needs.
        traceback.clear_frames(raised.__traceback__)
        middle = len(part) // 2
        for half in (part[:middle], part[middle:]):
            half_error = _attempt(value, half)[1]
            if half_error is not None:
                part, raised = half, half_error
                break
        else:
            return error, None
    return raised, part[0].copy()


def located(error: _Error, coalition: NDArray[np.bool_] | None) -> _Error:
    """Return `error` with the coalition (n_players,) that it is about as an attribute.

    >>> located(ValueError("no"), np.array([True])).coalition
    array([ True])
    """
    vars(error)["coalition"] = coalition  # not by setattr, which an exception may refuse
    return error


def _is_located(error: BaseException) -> bool:
    return "coalition" in vars(error)


def _survives_pickling(error: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


def _not_sent(error: BaseException) -> str:
    return (
        f"value cannot be sent to the executor's workers ({error}): they need a function that pickle can name, one "
        "defined at the top of a module and not a lambda or a function within a function. functools.partial binds "
        "arguments to it; an executor of threads takes any function"
    )


def _submitted(executor: Executor, value: ValueFunction, rows: Coalitions) -> Future[Payoffs]:
    try:
        return executor.submit(batch_payoffs, value, rows, _PROCESS)
    except _UNSENT as error:  # Dask's executor pickles here, others later
        raise ValueError(_not_sent(error)) from error


def _explained(error: BaseException, names: Sequence[str]) -> BaseException:
    """What an executor's task failed with, as the caller is to see it."""
    if isinstance(error, _UNSENT) and not _is_located(error):
        unsent = ValueError(_not_sent(error))
        unsent.__cause__ = error
        return unsent
    _add_note(error, names)
    return error


def _add_note(error: BaseException, names: Sequence[str]) -> None:
    if not _is_located(error):
        return
    coalition = vars(error)["coalition"]
    if coalition is not None:
        note = f"raised by the value function for the coalition {described(coalition, names)}"
    else:
        note = (
            "raised by the value function for a batch of coalitions, whose halves it evaluates one after the "
            "other without an error: give the game a lower batch_size"
        )
    vars(error).setdefault("__notes__", []).append(note)  # add_note, for exceptions that refuse attributes too
