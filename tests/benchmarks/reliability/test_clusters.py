"""The benchmark of many processes: real clusters, kills that are counted, faults that are found, and its text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import clusters


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(clusters.ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("name", ["processes", "dask"])
def test_killed_workers_change_nothing(name: str) -> None:
    pytest.importorskip("distributed")
    found = clusters.killed(name, n_players=9, kills=2, seconds=0.4, workers=2)
    assert found["kills"] == 2
    assert found["largest_difference"] == 0 and found["evaluations_lost_or_twice"] == 0


def test_the_command_measures_and_says_it(tmp_path: Path) -> None:
    out = tmp_path / "clusters.json"
    command = [sys.executable, "-m", "benchmarks.reliability.clusters", "--only", "processes", "--players", "7"]
    command += ["--seconds", "0.01", "--kills", "1", "--megabytes", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=clusters.ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(out.read_text())
    found = results["clusters"]["processes"]
    assert [row["workers"] for row in found["rates"]["rows"]] == list(clusters.WORKERS)
    assert all(row["seconds"] > 0 and row["overhead"] > 0 for row in found["rates"]["rows"])
    assert found["model"]["sent"] > 0 < found["model"]["per_worker"]
    assert clusters.report(results) in done.stdout


def test_the_text() -> None:
    rows = [{"workers": 1, "seconds": 4.0, "overhead": 0.002}, {"workers": 4, "seconds": 1.0, "overhead": 0.004}]
    found = {
        "version": "1",
        "rates": {"batch": 32, "batch_seconds": 0.05, "players": 11, "rows": rows},
        "model": {"megabytes": 5, "sent": 0.02, "per_worker": 0.001},
        "kills": {"kills": 3, "largest_difference": 0.0, "evaluations_lost_or_twice": 0, "workers": 3, "players": 11},
    }
    text = clusters.report({"clusters": {"dask": found}, "machine": "here"})
    # 64 batches of .05 s: 3.2 s alone, .8 s for four
    assert "      1                   512                 80%             2.00 ms" in text
    assert "      4                 2,048                 80%             4.00 ms" in text
    assert "a thousand workers are kept busy by batches of 2.0 s or more, 25 workers by batches of 50 ms" in text
    assert "3 of its workers killed meanwhile: largest difference of a value 0e+00, evaluations lost or counted" in text
