"""Worker processes that end with the process that started them, however that ends.

A thread in each worker waits for the end of the parent, which the operating system tells even if it was killed, and
for the word to stop. It does so beside whatever the worker computes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

GRACE = 60.0
"""Seconds that a worker which is told to stop has for the step it is in and its state."""

_EXIT_WITH_PARENT = 1


@contextmanager
def worker_pool(
    workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes, none of which remains after the ``with`` block.

    When the block ends by an error, what the workers do is cancelled: training saves its state after the step it is in,
    as after SIGTERM, and everything else ends at once. When this process is killed, they end at once.

    Args:
        workers: how many processes.
        initializer: called in each as it starts, with
        initargs: as its arguments.
    """
    context = multiprocessing.get_context("spawn")
    stop, stopping = context.Pipe(duplex=False)  # never written to: the word is its end
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(stop, initializer, initargs)
    )
    try:
        yield pool
    except BaseException:
        stopping.close()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    else:
        pool.shutdown(wait=True)
    finally:
        stopping.close()
        stop.close()


def end_with_parent(stop: Connection | None = None) -> None:
    """Start the thread that ends this process with the one that started it, or when ``stop`` is closed there.

    In a process that multiprocessing did not start, it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel, stop), name="end with parent", daemon=True).start()


def _watch(parent: int, stop: Connection | None) -> None:
    ended = wait([parent] if stop is None else [parent, stop])
    given_up = time.monotonic() + GRACE
    while parent not in ended and time.monotonic() < given_up:
        # Training heeds the first after its step; once it has saved its state, the next one ends the process.
        os.kill(os.getpid(), signal.SIGTERM)
        ended = wait([parent], timeout=0.5)
    os._exit(_EXIT_WITH_PARENT)  # also from the middle of an operation, where no exception would be heeded


def _start_worker(stop: Connection, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    end_with_parent(stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent says what to do
    if initializer is not None:
        initializer(*initargs)


def start_messenger() -> None:
    """What a manager's process does as it starts: outlive a signal to all processes, and end with its parent."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
