"""How many threads the linear algebra gets."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
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


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which linear algebra has one thread: much of it is small, or has long and thin matrices."""
    limited: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limited


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
