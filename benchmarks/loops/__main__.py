"""The penalty in loops of others: EDM, improved-diffusion, lucidrains, flow_matching, diffusers' script, a VAE.

    python -m benchmarks.loops              # docs/results/loops.json and the pictures; an hour; goes on where stopped
    python -m benchmarks.loops --quick      # a few steps of each, prints only
    python -m benchmarks.loops --redraw     # the text from the JSON, and the pictures with what the run left beside it

In each loop two lines are added, the same everywhere:

    with watching(network) as call:
        loss = ...                                                        # their line
    loss = loss + weight * call.penalty(penalty, regions, step=step)

Two networks with the same weights are trained in turns, on the same batches, noises and timesteps, without and with
these lines. Afterwards both are given samples that neither has seen, and noises of which one concept's is exchanged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loops import picture, script, sources
from benchmarks.loops.measure import BATCH, HELD_OUT, PENALTY, Loop, figures_of, measured
from benchmarks.loops.others import LOOPS
from benchmarks.machine import machine
from shapkit.differentiable import watching
from shapkit_diffusion.runs import write_json

RESULTS = sources.ROOT / "docs" / "results" / "loops.json"
PICTURES = sources.ROOT / "docs" / "pictures"
STEPS, N_THREADS = 1500, 1


def train(name: str, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and examples of one loop without the two lines and with them."""
    pair: list[Loop] = []
    for _ in range(2):
        torch.manual_seed(0)
        pair.append(LOOPS[name]())
    if pair[0].steps is not None:
        steps = min(steps, pair[0].steps)
    optimizers = [torch.optim.AdamW(loop.trained.parameters(), lr=loop.learning_rate) for loop in pair]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in optimizers]
    seconds: list[list[float]] = [[], []]
    leaks: list[list[float]] = [[], []]
    for loop in pair:
        loop.trained.train()
    for step in range(steps):
        for which, (loop, optimizer, schedule) in enumerate(zip(pair, optimizers, schedules, strict=True)):
            torch.manual_seed(step)
            batch = loop.samples[torch.randint(len(loop.samples) - HELD_OUT, (BATCH,))]
            started = time.perf_counter()
            if which:
                with watching(loop.network, **loop.watch) as call:
                    loss = loop.loss(batch)
                leak = call.penalty(PENALTY, loop.regions, step=step, channels=loop.channels)
                loss = loss + loop.weight * leak
                leaks[1].append(float(leak.detach()))
            else:
                loss = loop.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seconds[which].append(time.perf_counter() - started)
            if not which and step % 10 == 0:  # what the plain one would have paid
                with torch.no_grad():
                    torch.manual_seed(step)
                    with watching(loop.network, **loop.watch) as call:
                        loop.loss(batch)
                    leaks[0].append(float(call.penalty(PENALTY, loop.regions, step=step, channels=loop.channels)))
        if step % 100 == 99:
            print(f"{name}: step {step + 1} of {steps}, penalty {statistics.mean(leaks[1][-100:]):.5f}", flush=True)
    rows, examples = {}, {}
    for which, loop, leak, times in zip(("without", "with"), pair, leaks, seconds, strict=True):
        rows[which], examples[which] = measured(loop, leak, statistics.median(times))
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return figures_of(pair[0], rows, statistics.median(ratios)), examples


def one(name: str, steps: int, folder: Path) -> None:
    """Train one loop and keep what it gave; in a process of its own, because the sources' names would meet."""
    torch.set_num_threads(N_THREADS)
    figures, examples = script.train(steps) if name == script.NAME else train(name, steps)
    np.savez_compressed(folder / f"{name}.npz", **_flat(examples))
    write_json(folder / f"{name}.json", figures)


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}/") if isinstance(value, dict) else {above + key: value}
    return flat


def run(steps: int, folder: Path, names: list[str]) -> dict[str, Any]:
    """All loops, each in its process; those that are in the folder already are not run again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / f"{name}.json").exists():
            command = [sys.executable, "-m", "benchmarks.loops", "--one", name, "--steps", str(steps)]
            subprocess.run([*command, "--folder", str(folder)], check=True, cwd=sources.ROOT)
    found = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    where = machine("torch", "diffusers", "accelerate", n_threads=N_THREADS)
    return {"steps": steps, "batch": BATCH, "machine": where, "loops": found}


def report(results: dict[str, Any]) -> str:
    """The figures as text, the same in the terminal and in the docs."""
    head = (
        f"{'':<20}{'penalty':>18}{'loss':>9}{'outside / inside, without':>30}{'with the penalty':>26}{'s a step':>16}"
    )
    lines = [head]
    for name, row in results["loops"].items():
        without, with_ = row["without"], row["with"]
        fall = f"{without['penalty']:.4f} > {with_['penalty']:.5f}"
        cells = [_ratios(part["locality"]) for part in (without, with_)]
        loss = f"x {with_['loss'] / without['loss']:.3f}"
        seconds = f"{without['seconds']:.3f} > {with_['seconds']:.3f}"
        lines.append(f"{name:<20}{fall:>18}{loss:>9}{cells[0]:>30}{cells[1]:>26}{seconds:>16}")
    fewer = ", ".join(f"{row['steps']} of {name}" for name, row in results["loops"].items() if row.get("steps"))
    steps = f"{results['steps']} steps{f' ({fewer})' if fewer else ''} of {results['batch']} samples"
    lines.append(f"{steps}; {results['machine']}")
    return "\n".join(lines)


def _ratios(places: dict[str, dict[str, float]]) -> str:
    return " ".join(f"{place['outside'] / place['inside']:.4f}" for place in places.values())


def whose(results: dict[str, Any]) -> str:
    """Whose loop each is, its line and the shape of its samples, as text."""
    return "\n".join(
        f"{name:<20}{row['source']:<38}{' x '.join(map(str, row['shape'])):<18}{row['call']}"
        for name, row in results["loops"].items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, prints only")
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="the text from the JSON, and the pictures with what the run left in its folder",
    )
    parser.add_argument("--only", nargs="+", help="these loops, prints only")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of training")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = 10 if options.quick else options.steps
    folder = options.folder or sources.RUNS / f"steps-{steps}"
    if options.one:
        one(options.one, steps, folder)
        return
    if options.redraw:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        results = run(steps, folder, options.only or [*LOOPS, script.NAME])
    print(report(results))
    if options.quick or options.only:
        return
    write_json(RESULTS, results)
    picture.draw(results, folder, PICTURES)


if __name__ == "__main__":
    main()
