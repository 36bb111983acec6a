"""Run the examples as they stand, without and with the penalty, and write what they show to one JSON file.

    python examples/measure.py                      # all four, a few minutes each; docs/results/examples.json
    python examples/measure.py gan --results a.json # one of them, its entry renewed or added in that file

`main` of an example is called twice: with `weight=0`, and with its defaults.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

EXAMPLES = ("ddpm", "flow_matching", "gan", "diffusers_unconditional")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "examples.json"
LAST = 100
"""Steps at the end of training over which losses are averaged."""


def measure(name: str) -> dict[str, Any]:
    """One example at its default steps, without the penalty and at its default weight."""
    main = importlib.import_module(name).main
    defaults = {key: parameter.default for key, parameter in inspect.signature(main).parameters.items()}
    runs = {}
    for run, weight in (("without", 0.0), ("with", defaults["weight"])):
        print(f"--- {name}, weight of the penalty: {weight:g}", flush=True)
        history, localities = main(weight=weight)
        loss, penalty = torch.tensor(history[-LAST:]).double().mean(dim=0).tolist()
        concepts = {one.concept: asdict(one) | {"ratio": one.ratio} for one in localities}
        runs[run] = {"loss": loss, "penalty": penalty, "concepts": concepts}
    return {"steps": defaults["steps"], "weight": defaults["weight"], "runs": runs}


def report(results: dict[str, Any]) -> str:
    """The table of the README: a line for each example and concept."""
    lines = [
        f"{'':32}{'change inside':>20}{'outside / inside':>22}",
        f"{'example':24}{'concept':8}{'without':>10}{'with':>10}{'without':>11}{'with':>11}",
    ]
    for name, entry in results.items():
        without, with_penalty = entry["runs"]["without"], entry["runs"]["with"]
        for i, (concept, before) in enumerate(without["concepts"].items()):
            after = with_penalty["concepts"][concept]
            label = name if i == 0 else ""
            lines.append(
                f"{label:24}{concept:8}{before['mse_in']:10.4f}{after['mse_in']:10.4f}"
                f"{before['ratio']:11.4f}{after['ratio']:11.4f}"
            )
    losses = (
        f"{name} {entry['runs']['without']['loss']:.4f} and {entry['runs']['with']['loss']:.4f}"
        for name, entry in results.items()
    )
    return "\n".join([*lines, "", f"loss, mean of the last {LAST} steps, without and with:", *losses])


def write(path: Path, results: dict[str, Any]) -> None:
    """Write ``results`` as JSON, the whole file or nothing of it."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the examples that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help="examples to run; all of them by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to write")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(EXAMPLES)):
        parser.error(f"no example is called {unknown[0]!r}; there are {', '.join(EXAMPLES)}")
    torch.set_num_threads(1)  # the figures of a run depend on it in the last digits
    results = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else {}
    for name in options.names or EXAMPLES:
        results[name] = measure(name)
        results = {known: results[known] for known in EXAMPLES if known in results}
        write(options.results, results)
    print(report(results))


if __name__ == "__main__":
    main()
