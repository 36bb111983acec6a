"""Worker processes end with the process that started them, whatever ends that: real processes, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from shapkit_diffusion.training.stop_signals import RunStopped, TrainingStopped, stopped_by_signals
from shapkit_diffusion.workers import worker_pool

SCRIPT = """
import os, sys, time
from pathlib import Path
from shapkit_diffusion.progress import Bars
from shapkit_diffusion.workers import worker_pool

def asleep(begun):
    begun.touch()
    time.sleep(1000)

def busy(begun):
    import torch
    begun.touch()
    while True:
        torch.linalg.svdvals(torch.randn(1000, 1000))

if __name__ == "__main__":
    folder, end = Path(sys.argv[1]), sys.argv[2]
    with Bars(), worker_pool(2) as pool:
        begun = [folder / "first", folder / "second"]
        for task, path in zip([busy if end == "SIGKILL" else asleep, asleep], begun):
            pool.submit(task, path)
        while not all(path.exists() for path in begun):
            time.sleep(0.01)
        (folder / "ready").touch()
        if end == "crash":
            raise OSError("on purpose")
        if end == "exit":
            os._exit(3)
        time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("end", "status"), [("SIGKILL", -9), ("SIGTERM", -15), ("SIGINT", -2), ("crash", 1), ("exit", 3)]
)
def test_no_worker_outlives_its_parent(end: str, status: int, tmp_path: Path, none_left: Callable[[str], bool]) -> None:
    """Neither one in the middle of torch's operations, nor one that waits, nor the messenger of the progress bars."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), end],
        env={**os.environ, "SHAPKIT_TEST": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "ready").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    if end.startswith("SIG"):
        parent.send_signal(getattr(signal, end))
    assert parent.wait(60) == status
    assert none_left(str(tmp_path))


def test_a_pool_gives_results_and_leaves_no_process(none_left: Callable[[str], bool], tmp_path: Path) -> None:
    with worker_pool(2) as pool:
        processes = {pool.submit(os.getpid).result() for _ in range(4)}
    assert os.getpid() not in processes
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_an_error_in_the_block_is_raised_and_cancels_what_waits() -> None:
    with pytest.raises(OSError, match="on purpose"), worker_pool(1) as pool:
        pool.submit(os.getpid).result()
        waiting = [pool.submit(time.sleep, 1000) for _ in range(5)]
        raise OSError("on purpose")
    assert all(task.done() for task in waiting)
    assert all(task.cancelled() or isinstance(task.exception(), BrokenProcessPool) for task in waiting)


def test_a_signal_raises_once_and_the_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    said = "stopped by a signal; what was done is kept in"
    with pytest.raises(RunStopped, match=said) as stopped, stopped_by_signals(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert stopped.value.folder == tmp_path and not isinstance(stopped.value, TrainingStopped)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
