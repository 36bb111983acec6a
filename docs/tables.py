"""Put the measured figures into the README: every table there comes from a JSON file in ``docs/results``.

    make demo && cp runs/demo-faces/summary.json docs/results/demo-faces.json
    python docs/tables.py

A table stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``, where ``docs/results/NAME.json`` holds its figures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from shapkit_diffusion.demo import comparison_table, verdict

ROOT = Path(__file__).parents[1]


def filled(text: str, results: Path) -> str:
    """``text`` with every marked table made anew from the JSON files in ``results``."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        summary = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return f"<!-- {name} -->\n```\n{comparison_table(summary)}\n```\n\n{verdict(summary)}\n<!-- end {name} -->"

    return re.sub(r"<!-- (?P<name>[\w-]+) -->.*?<!-- end (?P=name) -->", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8"), ROOT / "docs" / "results"), encoding="utf-8")
