"""README and docs say what was measured: their tables are those that the committed figures make."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_made_from_its_json() -> None:
    tables, marked = _tables(), set()
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text, ROOT / "docs" / "results") == text, page
        marked |= set(re.findall(r"<!-- end ([\w-]+)(?::\w+)? -->", text))
    assert marked == {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}


def test_links_between_pages_lead_somewhere() -> None:
    for page in _tables().pages():
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            # the site makes docs/generated/gallery of docs/gallery, whose first page is README.md
            source = target.replace("generated/gallery/index.md", "gallery/README.md")
            assert (page.parent / source).exists(), (page, target)


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    import shapkit
    from shapkit import differentiable

    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: \S+\.(\w+)$", pages, flags=re.MULTILINE))
    stub = (ROOT / "adapters" / "shapkit_diffusion" / "__init__.pyi").read_text(encoding="utf-8")
    public = {*shapkit.__all__, *differentiable.__all__, *re.findall(r" as (\w+)$", stub, flags=re.MULTILINE)}
    assert public == shown


def test_the_readme_names_commands_that_exist() -> None:
    from shapkit_diffusion.cli import main

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^shapkit-diffusion (\w+)", readme, flags=re.MULTILINE))
    assert commands == {"train", "autoencoder", "finetune", "influence", "edit", "studio", "parse", "evaluate"}
    for command in commands:
        try:
            main([command, "--help"])
        except SystemExit as stop:
            assert stop.code == 0
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in ("demo", "test"))
