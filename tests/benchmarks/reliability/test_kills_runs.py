"""The kills of runs: what is counted, on folders whose faults are known, and one real killing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.reliability import kills_runs

COUNTING = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
lines = folder / "metrics.jsonl"
done = sum(1 for _ in lines.open()) if lines.is_file() and {faithful} else 0
with lines.open("a") as file:
    for step in range(done + 1, 41):
        file.write('{{"step": %d, "seconds": 1}}\\n' % step)
        file.flush()
        state = folder / "state" / ("step-%08d" % step)
        state.mkdir(parents=True, exist_ok=True)
        (state / "state.json").touch()
        time.sleep(0.02)
"""


def _subject(script: Path, faithful: bool) -> kills_runs.Subject:
    script.write_text(COUNTING.format(faithful=faithful))
    return kills_runs.Subject(
        "count",
        lambda folder: [str(script), str(folder)],
        {".": (40, 1)},
        lambda folder: {"lines": (folder / "metrics.jsonl").read_text()},
    )


@pytest.mark.parametrize("faithful", [True, False])
def test_a_run_that_begins_again_is_found_out(faithful: bool, tmp_path: Path) -> None:
    row = kills_runs.killed(_subject(tmp_path / "count.py", faithful), 4, seed=1, work=tmp_path)
    assert row["kills"] == {"SIGKILL": 2, "SIGTERM": 2} and sum(row["kills_by_tenth_of_life"]) == 4
    assert row["processes_left"] == 0 and row["unexpected_statuses"] == []
    assert (row["records_missing_or_twice"] > 0, row["other_results"] > 0) == (not faithful, not faithful)


def test_what_a_killed_process_leaves_is_found(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.Popen(['sleep', '1000']); print('begun', flush=True)"
    environment = {**os.environ, kills_runs.MARKER: str(tmp_path)}
    subprocess.run([sys.executable, "-c", child], env=environment, check=True, stdout=subprocess.DEVNULL)
    found: list[int] = []
    for _ in range(100):  # the system shows a program's environment a moment after it has begun
        found = kills_runs.processes_marked(str(tmp_path))
        if found:
            break
        time.sleep(0.05)
    (left,) = found
    os.kill(left, signal.SIGKILL)


def test_steps_are_read_of_whole_lines_and_whole_states(tmp_path: Path) -> None:
    assert (kills_runs.steps_logged(tmp_path), kills_runs.step_saved(tmp_path)) == ([], 0)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    for name in ("step-00000001", "step-00000002.partial"):
        (tmp_path / "state" / name).mkdir(parents=True)
        (tmp_path / "state" / name / "state.json").touch()
    assert (kills_runs.steps_logged(tmp_path), kills_runs.step_saved(tmp_path)) == ([1, 2], 1)
