"""Progress bars for work in several processes: each task reports through a channel, one place draws."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from types import TracebackType
from typing import Any

from tqdm import tqdm

from shapkit_diffusion.workers import start_messenger


@dataclass(frozen=True)
class Channel:
    """What a task calls as ``channel(done, total)``; may be sent to another process."""

    title: str
    messages: Any

    def __call__(self, done: int, total: int) -> None:
        self.messages.put((self.title, done, total))


class Bars:
    """A context in which every channel has a progress bar with an estimate of the time left."""

    def __enter__(self) -> Bars:
        self._manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
        self._manager.start(start_messenger)
        self._messages = self._manager.Queue()
        self._bars: dict[str, tqdm[Any]] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()
        self._manager.shutdown()

    def channel(self, title: str) -> Channel:
        """A channel whose bar appears with its first report."""
        return Channel(title, self._messages)

    def wait(self, tasks: Sequence[Future[Any]]) -> None:
        """Draw until all tasks are done; the first failure is raised at once."""
        pending = set(tasks)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            self._draw()
            for task in done:
                task.result()

    def _draw(self) -> None:
        while True:
            try:
                title, done, total = self._messages.get_nowait()
            except queue.Empty:
                return
            if title not in self._bars:
                self._bars[title] = bar(title, total, position=len(self._bars), initial=max(0, done - 1))
            self._bars[title].update(done - self._bars[title].n)


def bar(title: str, total: int, position: int = 0, initial: int = 0) -> tqdm[Any]:
    """A progress bar; on a terminal it redraws often, in a log seldom.

    Args:
        title: what stands before it.
        total: the number of steps.
        position: its line, from the top.
        initial: steps that were done before, by a run that was interrupted; they do not count for the speed.
    """
    return tqdm(
        total=total,
        desc=f"{title:<26}",
        position=position,
        initial=initial,
        leave=True,
        mininterval=1.0,
        dynamic_ncols=True,
    )


_drawn: list[tqdm[Any]] = []


def end_bars() -> None:
    """Leave the line of every bar that ``on_terminal`` drew and that was cut short, so that a message has its own."""
    while _drawn:
        _drawn.pop().close()


def on_terminal(title: str) -> Callable[[int, int], None]:
    """A ``progress(done, total)`` function that draws one bar."""
    shown: list[tqdm[Any]] = []

    def progress(done: int, total: int) -> None:
        if not shown:
            shown.append(bar(title, total, initial=max(0, done - 1)))
            _drawn.append(shown[0])
        shown[0].update(done - shown[0].n)
        if done >= total:
            shown[0].close()

    return progress
