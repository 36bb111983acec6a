"""The house: imports go down from floor to floor, never up, and no files import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, ADAPTERS, BENCHMARKS = ROOT / "shapkit", ROOT / "adapters" / "shapkit_diffusion", ROOT / "benchmarks"

# From the ground up; rooms of one floor do not know each other. docs/design.md says what each is for.
FLOORS = {
    CORE: [
        ["_moved", "_optional", "_files", "kernels", "randomness"],
        ["coalitions", "progress"],
        ["_checks"],
        ["games", "attribution", "transforms", "orders"],
        ["exact"],
        ["estimators"],
        ["dummies", "differentiable"],
        ["__init__"],
    ],
    ADAPTERS: [
        ["denoisers", "data", "runs", "workers"],
        ["progress", "fingerprints", "segmentation", "noise"],
        ["evaluation", "training"],
        ["pictures", "demo_records"],
        ["demo", "first_look", "studio"],
        ["commands"],
        ["cli", "__init__"],
    ],
}


def imports(file: Path, package: Path) -> list[Path]:
    """The files of a package that a file imports, anywhere in it; `from .x import y` too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = [_file(name, package) for name in names if name.split(".")[0] == package.name]
    return [other for other in found if other is not None and other != file]


def _file(name: str, package: Path) -> Path | None:
    """The file that a dotted name is, or is defined in."""
    path = package.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py")):
        if candidate.is_file() and candidate != package.with_suffix(".py"):
            return candidate
    return path.parent / "__init__.py"


def room(file: Path, package: Path) -> str:
    return file.relative_to(package).parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", FLOORS, ids=lambda package: package.name)
def test_imports_go_down(package: Path) -> None:
    floor = {name: number for number, names in enumerate(FLOORS[package]) for name in names}
    upward = [
        f"{file.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for file in package.rglob("*.py")
        for other in imports(file, package)
        if room(file, package) != room(other, package) and floor[room(file, package)] <= floor[room(other, package)]
    ]
    assert not upward


@pytest.mark.parametrize("package", FLOORS, ids=lambda package: package.name)
def test_no_files_import_each_other_in_a_circle(package: Path) -> None:
    graph = {
        str(file.relative_to(ROOT)): [str(o.relative_to(ROOT)) for o in imports(file, package)]
        for file in package.rglob("*.py")
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


def test_packages_do_not_know_what_is_built_on_them() -> None:
    for package, others in {CORE: ("shapkit_diffusion", "benchmarks"), ADAPTERS: ("benchmarks",)}.items():
        for file in package.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in names if name.split(".")[0] in others], file
