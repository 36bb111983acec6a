"""The GPU run on a CPU, at the smallest sizes: every step, its file, and the text of what is committed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.report import report

ROOT = Path(__file__).parents[3]


def test_all_steps_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    steps = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(steps) == {"correctness", "cost", "attention", "compiled", "generation", "games", "training"}
    assert all(step["complete"] for step in steps.values())
    checks = steps["correctness"]["rows"]
    assert len(checks) > 50 and all(row["passed"] for row in checks)
    assert {row["form"] for row in steps["cost"]["rows"]} >= {"plain", "exchange, K = 11", "its own step"}
    assert all(row["seconds"] > 0 for row in steps["cost"]["rows"])
    attention = {row["form"]: row for row in steps["attention"]["rows"]}
    assert set(attention) == {"plain", "a dense mask", "blocks", "FlexAttention, forward alone"}
    assert all(row.get("difference") is None or row["difference"] < 0.02 for row in attention.values())  # bfloat16
    assert attention["blocks"]["pairs"] < attention["a dense mask"]["pairs"] / 2
    assert [row["what"] for row in steps["compiled"]["rows"]] == ["an image", "an image", "an edit of the nose"]
    trained = json.loads((tmp_path / "training" / "results.json").read_text())
    assert [run["arm"] for run in trained["runs"]] == ["converted", "plain", "region"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (
        "done after" not in again.stdout
        and "coalitions a second" in again.stdout
        and "as fast as not compiled" in again.stdout
    )  # nothing complete is done again


def test_the_committed_figures_can_be_read() -> None:
    text = report(json.loads((ROOT / "docs" / "results" / "gpu.json").read_text(encoding="utf-8")))
    assert "NVIDIA" in text and "checks passed" in text and "coalitions a second" in text
