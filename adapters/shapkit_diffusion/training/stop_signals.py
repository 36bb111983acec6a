"""Signals that ask a run to stop: heeded at the end of a step, by all processes at the same one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

EXIT_STOPPED = 75
"""Exit status of a run that was stopped and can go on; EX_TEMPFAIL of sysexits.h, "try again later"."""

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""SIGTERM, as every scheduler sends it, and SIGUSR1, as ``sbatch --signal=USR1@120`` sends it before the time is up."""


class RunStopped(RuntimeError):
    """A run was ended from outside; ``folder`` holds what was done.

    >>> print(RunStopped(Path("runs/demo")))
    stopped by a signal; what was done is kept in runs/demo, go on with --resume
    """

    def __init__(self, folder: Path, reason: str = "stopped by a signal") -> None:
        super().__init__(folder, reason)  # what pickle hands over from a worker process
        self.folder, self.reason = folder, reason

    def __str__(self) -> str:
        return f"{self.reason}; what was done is kept in {self.folder}, go on with --resume"


class TrainingStopped(RunStopped):
    """A signal ended the run after ``step`` steps; ``folder`` holds its state.

    >>> print(TrainingStopped(40, 100, Path("runs/eyes")))
    stopped by a signal after 40 of 100 steps; the state is saved in runs/eyes, go on with --resume
    """

    def __init__(self, step: int, steps: int, folder: Path) -> None:
        super().__init__(folder)
        self.args = (step, steps, folder)  # what pickle hands over from a worker process
        self.step, self.steps = step, steps

    def __str__(self) -> str:
        return (
            f"stopped by a signal after {self.step} of {self.steps} steps; the state is saved in {self.folder}, "
            "go on with --resume"
        )


@contextmanager
def stopped_by_signals(folder: Path) -> Iterator[None]:
    """Within the block, SIGTERM and SIGUSR1 raise `RunStopped`; a second one does what it did before the block.

    Outside the main thread, where Python takes no signals, it does nothing.
    """
    former: dict[int, Any] = {}

    def put_back() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        put_back()
        raise RunStopped(folder)

    if threading.current_thread() is threading.main_thread():
        former |= {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        put_back()


class StopSignals:
    """A context in which SIGTERM and SIGUSR1 end nothing at once, but are remembered.

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __enter__(self) -> StopSignals:
        self._received = False
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def received(self, accelerator: Accelerator) -> bool:
        """Whether any process has got a signal: the same answer in all of them, which must ask together."""
        if accelerator.num_processes == 1:
            return self._received
        import torch  # here, since the command line imports this file before it knows what it will need

        received = torch.tensor(float(self._received), device=accelerator.device)
        return bool(accelerator.reduce(received, reduction="sum").item() > 0)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = True
