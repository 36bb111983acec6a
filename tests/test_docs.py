"""The README says what was measured: its tables are those that the committed figures make."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _tables() -> object:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_readme_is_made_from_its_json() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert _tables().filled(readme, ROOT / "docs" / "results") == readme  # type: ignore[attr-defined]
    marked = set(re.findall(r"<!-- end ([\w-]+) -->", readme))
    assert marked == {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}


def test_the_readme_names_commands_that_exist() -> None:
    from shapkit_diffusion.cli import main

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^shapkit-diffusion (\w+)", readme, flags=re.MULTILINE))
    assert commands == {"train", "finetune", "influence", "edit", "evaluate"}
    for command in commands:
        try:
            main([command, "--help"])
        except SystemExit as stop:
            assert stop.code == 0
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in ("demo", "test"))
