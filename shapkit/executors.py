"""An executor that outlives its workers: what a dead process had in hand is done again by another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from shapkit._checks import checked_integer

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Task:
    """A call, and the future that the caller holds."""

    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named_arguments: dict[str, Any]


class RestartingExecutor(Executor):
    """An executor that makes itself a new pool when a worker's death has broken the old one.

    `concurrent.futures.ProcessPoolExecutor` gives up all its tasks when one of its processes is killed, by the
    system when memory runs out or by a crash in compiled code. Here tasks that had not finished are submitted again,
    to a new pool. Dask's executor does so by itself.

    Args:
        make: returns a new executor, such as `lambda: ProcessPoolExecutor(4)`.
        max_restarts: how many pools may break. A task that kills every worker breaks them all: after that many
            restarts it is given up, with the error of the pool.

    Raises:
        ValueError: an argument is not as described.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import shapkit
    >>> with RestartingExecutor(lambda: ThreadPoolExecutor(2)) as workers:
    ...     game = shapkit.Game(lambda coalitions: coalitions.sum(axis=1), 3, executor=workers)
    ...     shapkit.exact(game).values
    array([1., 1., 1.])
    """

    def __init__(self, make: Callable[[], Executor], max_restarts: int = 3) -> None:
        if not callable(make):
            raise ValueError(f"make must be a function that returns an executor, got {make!r}")
        self.max_restarts = checked_integer("max_restarts", max_restarts, least=0)
        self.n_restarts = 0
        self._make = make
        self._pool = make()
        self._closed = False
        self._lock = Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return a future of fn(*args, **kwargs), as any executor does.

        Raises:
            RuntimeError: the executor was shut down.
        """
        if self._closed:
            raise RuntimeError("cannot submit to an executor that was shut down")
        task = _Task(Future(), fn, args, kwargs)
        self._start(task)
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the workers, as any executor does."""
        self._closed = True
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _start(self, task: _Task) -> None:
        while not task.future.cancelled():
            pool = self._pool
            try:
                running = pool.submit(task.function, *task.arguments, **task.named_arguments)
            except BrokenExecutor as error:
                if not self._replaced(pool):
                    task.future.set_exception(error)
                    return
                continue
            task.future.add_done_callback(partial(_pass_on_cancelling, running))
            running.add_done_callback(partial(self._finish, task, pool))
            return

    def _finish(self, task: _Task, pool: Executor, running: Future[Any]) -> None:
        with suppress(InvalidStateError):  # the caller has cancelled it meanwhile
            if running.cancelled():
                task.future.cancel()
                return
            error = running.exception()
            if isinstance(error, BrokenExecutor) and self._replaced(pool):
                self._start(task)
            elif error is not None:
                task.future.set_exception(error)
            else:
                task.future.set_result(running.result())

    def _replaced(self, broken: Executor) -> bool:
        """Whether there is a pool in place of the broken one: all its tasks come here, and the first makes it."""
        with self._lock:
            if self._pool is broken:
                if self._closed or self.n_restarts >= self.max_restarts:
                    return False
                self.n_restarts += 1
                self._pool = self._make()
                broken.shutdown(wait=False)
            return True


def _pass_on_cancelling(running: Future[Any], future: Future[Any]) -> None:
    if future.cancelled():
        running.cancel()
