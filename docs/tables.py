"""Put the measured figures into the README: every table there comes from a JSON file in ``docs/results``.

    make demo && cp runs/demo-faces/summary.json docs/results/demo-faces.json
    python benchmarks/exact.py
    python docs/tables.py

A table stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``, where ``docs/results/NAME.json`` holds its figures.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from shapkit_diffusion.demo import comparison_table, verdict

ROOT = Path(__file__).parents[1]


def filled(text: str, results: Path) -> str:
    """``text`` with every marked table made anew from the JSON files in ``results``."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        measured = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return f"<!-- {name} -->\n{rendered(name, measured)}\n<!-- end {name} -->"

    return re.sub(r"<!-- (?P<name>[\w-]+) -->.*?<!-- end (?P=name) -->", table, text, flags=re.DOTALL)


def rendered(name: str, measured: dict[str, Any]) -> str:
    """The figures of one JSON file as Markdown."""
    if name.startswith("demo-"):
        return f"```\n{comparison_table(measured)}\n```\n\n{verdict(measured)}"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return f"```\n{benchmark.report(measured)}\n```"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8"), ROOT / "docs" / "results"), encoding="utf-8")
