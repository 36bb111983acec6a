"""How many threads the linear algebra gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

_SMALL = 1_024  # rows of a matrix


def threads_for(n_rows: int) -> AbstractContextManager[Any]:
    """Return a context in which matrices of so many rows are worked on: one thread for small ones.

    A run is hundreds of factorisations of small matrices. More threads gain little there, and lose much where others
    work on the same cores, because the threads wait for each other in a loop; and the last digits would depend on how
    many threads there are.

    >>> with threads_for(100):
    ...     all(library["num_threads"] == 1 for library in _libraries().info() if library["user_api"] == "blas")
    True
    """
    return one_thread() if n_rows <= _SMALL else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Return a context in which linear algebra has one thread: much of it is small, or has long and thin matrices.

    The number of threads belongs to the process, not to who asks. The first to enter sets it and the last to leave puts
    it back, so that contexts within each other cost nothing, and contexts of several threads do not undo each other.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()


class _Limit:
    """The one limit of the process, and how many hold it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._holders = 0
        self._set: Any = None

    def enter(self) -> None:
        with self._lock:
            if not self._holders:
                self._set = _libraries().limit(limits=1, user_api="blas")
            self._holders += 1

    def leave(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._set.restore_original_limits()
                self._set = None


_limit = _Limit()


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
