"""Payoffs from a service: many calls at once, with a limit, tried again where they fail."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_integer, positive_integer, real_array
from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs, located

Ask = Callable[[NDArray[np.bool_]], Awaitable[Any]]
"""One coalition (n_players,) -> its payoff."""

_BATCHES = 8  # times `at_once` coalitions are a batch: calls overlap, and little is lost when a run is killed


class ConcurrentCalls:
    """A value function that awaits an `async def` function for each coalition: for models behind an API.

    All calls run in one event loop, in a thread of its own, so that `ask` may share a client between them, and
    notebooks, which have a loop already, can use it. An answer is never lost to another call that fails: what
    succeeded is kept for the next evaluation of the same coalition. With `Game(..., cache=CoalitionCache(path))`
    answers are on disk, batch by batch.

    Args:
        ask: takes a coalition, bool (n_players,), and returns its payoff, a real number or an array of them.
        at_once: how many calls may be under way at one time.
        retries: how often a call that raised an Exception is made again.
        wait: seconds before the first repetition; each further one waits twice as long.

    Attributes:
        batch_size: how many coalitions a game gives it at once, unless the game has a size of its own.

    Raises:
        ValueError: an argument is not as described.

    >>> import shapkit
    >>> async def ask(coalition):
    ...     await asyncio.sleep(0)
    ...     return coalition.sum() ** 2
    >>> shapkit.exact(shapkit.Game(ConcurrentCalls(ask, at_once=4), n_players=3)).values
    array([3., 3., 3.])
    """

    def __init__(self, ask: Ask, at_once: int = 8, retries: int = 3, wait: float = 1.0) -> None:
        if not callable(ask):
            raise ValueError(f"ask must be an async function of one coalition, got {type(ask).__name__}")
        if isinstance(wait, bool) or not isinstance(wait, int | float) or wait < 0:
            raise ValueError(f"wait must be a number of seconds, at least 0, got {wait!r}")
        self.ask, self.wait = ask, wait
        self.at_once = positive_integer("at_once", at_once)
        self.retries = checked_integer("retries", retries, least=0)
        self.batch_size = _BATCHES * self.at_once
        self._renew()

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        """Return the payoffs (n_coalitions, *output_shape).

        Raises:
            Exception: what `ask` raised at its last try, with the coalition as its attribute `coalition`.
            KeyboardInterrupt: calls under way are cancelled.
        """
        if not hasattr(self, "_lock"):
            self._renew()
        running = asyncio.run_coroutine_threadsafe(self._asked(coalitions), self._running_loop())
        try:
            return real_array(np.stack(running.result()))
        except BaseException:
            running.cancel()
            raise

    def __getstate__(self) -> dict[str, Any]:
        """What pickling keeps: no loop and no answers."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _renew(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: dict[bytes, Payoffs] = {}

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                Thread(target=self._loop.run_forever, name="shapkit calls", daemon=True).start()
            return self._loop

    async def _asked(self, coalitions: Coalitions) -> list[Payoffs]:
        gate = asyncio.Semaphore(self.at_once)
        keys = [row.tobytes() for row in coalitions]
        answers = {key: self._kept[key] for key in keys if key in self._kept}

        async def one(row: NDArray[np.bool_]) -> None:
            async with gate:
                answers[row.tobytes()] = await self._tried(row)

        wanted = {key: row for key, row in zip(keys, coalitions, strict=True) if key not in answers}
        try:
            async with asyncio.TaskGroup() as calls:
                for row in wanted.values():
                    calls.create_task(one(row.copy()))
        except ExceptionGroup as failed:
            self._kept.update(answers)
            raise failed.exceptions[0] from None
        except BaseException:
            self._kept.update(answers)
            raise
        for key in keys:
            self._kept.pop(key, None)
        return [answers[key] for key in keys]

    async def _tried(self, row: NDArray[np.bool_]) -> Payoffs:
        for attempt in range(self.retries + 1):
            try:
                answer = self.ask(row.copy())
                if inspect.isawaitable(answer):
                    return real_array(await answer)
            except Exception as error:
                if attempt == self.retries:
                    raise located(error, row) from error.__cause__
            else:
                raise located(TypeError("ask must be an async function: what it returns cannot be awaited"), row)
            await asyncio.sleep(self.wait * 2**attempt)
        raise AssertionError("unreachable")
