"""Everything on a GPU in one command: that it is right, what it costs, and a real training.

    python -m benchmarks.gpu --publish                # on a GPU: ten minutes; docs/results/gpu.json
    python -m benchmarks.gpu --device cpu --small     # the same steps at the smallest sizes: two minutes
    python -m benchmarks.gpu --redraw                 # the text from the JSON

Every step is a process of its own with a time limit, and writes each figure to the results folder as soon as it knows
it: a run that is cut off has lost nothing but what it was at. A step whose file is complete is not taken again.

    correctness   equal to the CPU: penalty, composition, region transformer, Shapley values, noise; low precision;
                  ``torch.compile``; no waiting of the host for the device
    cost          a training step with the penalty over one without, and of region transformers over plain ones
    attention     one attention of a region transformer: dense mask, blocks, FlexAttention, against the plain one
    generation    images per second, plain and region transformer; what an edit takes of an image
    games         coalitions per second through ``Game``, beside the bare model
    compiled      generation and an edit under ``torch.compile`` with CUDA graphs
    training      `benchmarks.locality.region_transformer` with batches of a size that keeps a GPU busy
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import report as report  # docs/tables.py asks for it here
from benchmarks.gpu.steps import LIMITS, STEPS, Setting
from shapkit_diffusion.runs import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "gpu.json"


def run_step(name: str, setting: Setting, out: Path) -> None:
    """Take one step in this process; its file is written anew with every figure."""
    found: dict[str, Any] = {"complete": False, "rows": []}

    def record(**row: Any) -> None:
        found["rows"].append(row)
        write_json(out / f"{name}.json", found)
        print(name, row, flush=True)

    started = time.perf_counter()
    STEPS[name](setting, record, out)
    write_json(out / f"{name}.json", found | {"complete": True, "seconds": round(time.perf_counter() - started, 1)})


def gathered(setting: Setting, out: Path) -> dict[str, Any]:
    """What all steps have written."""
    steps = {
        name: json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        for name in STEPS
        if (out / f"{name}.json").exists()
    }
    return {"command": "python -m benchmarks.gpu --publish", "machine": setting.described(), "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--small", action="store_true", help="the smallest sizes")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="in this order")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="results folder")
    parser.add_argument("--limit", type=float, default=1.0, help="factor on the time limits")
    parser.add_argument("--publish", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    options = parser.parse_args()
    if options.redraw:
        print(report(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    setting = Setting(options.device, options.small)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.step:
        run_step(options.step, setting, options.out)
        return
    failed = []
    for name in options.steps:
        path = options.out / f"{name}.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8"))["complete"]:
            continue
        words = ["--step", name, "--device", options.device, "--out", str(options.out)]
        command = [sys.executable, "-m", "benchmarks.gpu", *words, *(["--small"] if options.small else [])]
        started = time.perf_counter()
        try:
            status = subprocess.run(command, timeout=options.limit * LIMITS[name], check=False).returncode
        except subprocess.TimeoutExpired:
            status = None
        outcome = "out of time" if status is None else "done" if status == 0 else f"failed with status {status}"
        print(f"{name}: {outcome} after {time.perf_counter() - started:.0f} s", flush=True)
        failed += [name] if status else []
    results = gathered(setting, options.out)
    print(report(results))
    if options.publish:
        write_json(RESULTS, results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
