"""An executor that outlives its workers: what a dead process had in hand is done again by another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from typing import Any, ParamSpec, TypeVar

from shapkit._checks import checked_integer

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
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
    to a new pool, also while a `with` block waits for them at its end. Dask's executor does so by itself.

    Args:
        make: returns a new executor, such as `lambda: ProcessPoolExecutor(4)`.
        max_restarts: how many pools may break. A task that kills every worker breaks them all: after that many
            restarts it is given up, with the error of the pool.

    Attributes:
        n_restarts: how many pools have been replaced.

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
        self._changed = Condition()  # its lock guards all that follows
        self._unfinished: set[_Task] = set()
        self._lost: deque[tuple[_Task, Executor, BaseException]] = deque()  # with the pool that broke, and its error
        self._restarter: Thread | None = None
        self._broken: Executor | None = None  # the last pool that did

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return a future of fn(*args, **kwargs), as any executor does.

        Raises:
            RuntimeError: the executor was shut down.
        """
        task = _Task(Future(), fn, args, kwargs)
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot submit to an executor that was shut down")
            self._unfinished.add(task)
        task.future.add_done_callback(partial(self._forget, task))
        try:
            self._start(task)
        except BaseException as error:  # no caller holds the future
            with suppress(InvalidStateError):
                task.future.set_exception(error)
            raise
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the workers once they have done what was submitted, as any executor does."""
        with self._changed:
            self._closed = True
            unstarted = [task for task, _, _ in self._lost] if cancel_futures else []
            pool = self._pool
        for task in unstarted:
            task.future.cancel()
        if cancel_futures:
            pool.shutdown(wait=False, cancel_futures=True)
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._unfinished)
                pool = self._pool
            pool.shutdown(wait=True)
        else:
            self._let_go()

    def _start(self, task: _Task) -> None:
        while not task.future.cancelled():
            pool = self._pool
            try:
                running = pool.submit(task.function, *task.arguments, **task.named_arguments)
            except BrokenExecutor as error:
                if not self._replaced(pool):
                    with suppress(InvalidStateError):
                        task.future.set_exception(error)
                    return
                continue
            task.future.add_done_callback(partial(_pass_on_cancelling, running))
            running.add_done_callback(partial(self._finish, task, pool))
            return

    def _finish(self, task: _Task, pool: Executor, running: Future[Any]) -> None:
        """Pass on what a pool's future holds; it may be a thread of the pool, which holds the pool's lock, that calls.

        From Python 3.12 on a broken process pool does: to submit to it here, or shut it down, would wait for ever.
        """
        with suppress(InvalidStateError):  # the caller has cancelled it meanwhile
            if running.cancelled():
                task.future.cancel()
                return
            error = running.exception()
            if isinstance(error, BrokenExecutor):
                self._restart_later(task, pool, error)
            elif error is not None:
                task.future.set_exception(error)
            else:
                task.future.set_result(running.result())

    def _restart_later(self, task: _Task, pool: Executor, error: BaseException) -> None:
        with self._changed:
            self._broken = pool
            self._lost.append((task, pool, error))
            if self._restarter is not None:
                return
            self._restarter = Thread(target=self._restart_lost, name="shapkit-restarter", daemon=True)
            try:
                self._restarter.start()
                return
            except RuntimeError:  # the interpreter is shutting down
                self._restarter = None
                self._lost.clear()
        task.future.set_exception(error)

    def _restart_lost(self) -> None:
        """Submit lost tasks again, until there are none."""
        while True:
            with self._changed:
                if not self._lost:
                    self._restarter = None
                    return
                task, pool, error = self._lost.popleft()
            try:
                if self._replaced(pool):
                    self._start(task)
                    continue
            except Exception as another:  # `make` failed, or the interpreter is shutting down
                error = another
            with suppress(InvalidStateError):
                task.future.set_exception(error)

    def _replaced(self, broken: Executor) -> bool:
        """Whether there is a pool in place of the broken one: all its tasks come here, and the first makes it."""
        with self._changed:
            if self._pool is not broken:
                return True
            if self.n_restarts >= self.max_restarts:
                return False
            self._pool = self._make()
            self.n_restarts += 1
        # Not with our lock held: a thread of the pool that holds the pool's may be waiting for ours
        broken.shutdown(wait=False)
        return True

    def _forget(self, task: _Task, _: Future[Any]) -> None:
        with self._changed:
            self._unfinished.discard(task)
            self._changed.notify_all()
        self._let_go()

    def _let_go(self) -> None:
        """Shut the last pool down where no one can submit any more and nothing is left that may need another."""
        with self._changed:
            pool = self._pool
            done = self._closed and not self._unfinished and pool is not self._broken
        if done:
            pool.shutdown(wait=False)


def _pass_on_cancelling(running: Future[Any], future: Future[Any]) -> None:
    if future.cancelled():
        running.cancel()
