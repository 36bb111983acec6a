"""Put the measured figures into the README and the pages here: every table comes from a JSON file in ``docs/results``.

    make demo FULL=1 && cp runs/demo-faces/summary.json docs/results/demo-faces.json
    python -m benchmarks.speed.exact
    python docs/tables.py

A table stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``, where ``docs/results/NAME.json`` holds its figures
and ``report`` of the benchmark NAME makes it; ``<!-- NAME:PART -->`` is made by the function PART there instead.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from shapkit_diffusion.demo import comparison_table, verdict

ROOT = Path(__file__).parents[1]


def pages() -> list[Path]:
    """The files that have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str, results: Path) -> str:
    """``text`` with every marked table made anew from the JSON files in ``results``."""

    def table(match: re.Match[str]) -> str:
        marker, name = match["marker"], match["name"]
        measured = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return f"<!-- {marker} -->\n{rendered(name, measured, match['part'] or 'report')}\n<!-- end {marker} -->"

    marked = r"<!-- (?P<marker>(?P<name>[\w-]+)(?::(?P<part>\w+))?) -->.*?<!-- end (?P=marker) -->"
    return re.sub(marked, table, text, flags=re.DOTALL)


def rendered(name: str, measured: dict[str, Any], part: str = "report") -> str:
    """The figures of one JSON file as Markdown."""
    if name.startswith("demo-"):
        return f"```\n{comparison_table(measured)}\n```\n\n{verdict(measured)}"
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # for the benchmarks
    benchmark = importlib.import_module(_module(name))
    return f"```\n{getattr(benchmark, part)(measured)}\n```"


def _module(name: str) -> str:
    """The benchmark of that name: a file, or a folder with a ``__main__.py``."""
    folder = ROOT / "benchmarks"
    (found,) = [*folder.rglob(f"{name}.py"), *folder.rglob(f"{name}/__main__.py")]
    return ".".join(found.relative_to(ROOT).with_suffix("").parts)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8"), ROOT / "docs" / "results"), encoding="utf-8")
