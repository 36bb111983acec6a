"""The distribution: types are announced, versions are ranges, and the core needs nothing but its four packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_both_packages_announce_their_types() -> None:
    for package in ("shapkit", "shapkit_diffusion"):
        assert (Path(str(files(package))) / "py.typed").is_file()


def test_published_requirements_are_ranges_and_development_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name.split(">")[0] for name in project["dependencies"]} == {"numpy", "scipy", "numba", "threadpoolctl"}
    extras = project["optional-dependencies"]
    assert set(extras) >= {"torch", "diffusion", "plots", "docs", "test"}
    for requirement in [*project["dependencies"], *(r for extra in extras.values() for r in extra)]:
        assert "==" not in requirement
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert "torch==2.13.0" in pins and all("==" in pin for pin in pins)


def test_torch_is_asked_for_in_one_line_when_it_is_absent() -> None:
    """An interpreter in which torch cannot be imported gets the core, and one clear line for the rest."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import shapkit; print(float(shapkit.exact(shapkit.table_game([0, 1])).values[0]))\n"
        "try:\n    import shapkit.differentiable\n"
        "except ImportError as error:\n    print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert shown[0] == "1.0"
    assert "torch is needed for shapkit.differentiable: pip install 'shapkit[torch]'" in shown[1]
    assert len(shown) == 2


def test_no_folder_of_the_packages_is_ignored_by_name() -> None:
    """What .gitignore leaves out is left out of the wheel, too."""
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    anywhere = {pattern.strip("/") for pattern in patterns if not pattern.startswith("/")}
    folders = {path.parent.name for package in ("shapkit", "adapters") for path in (ROOT / package).rglob("*.py")}
    assert "runs" in folders and not anywhere & folders


def test_the_oldest_versions_that_are_tested_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    found = [re.fullmatch(r"([\w-]+)>=([\d.]+)", name) for name in asked]
    least = {match[1]: match[2] for match in found if match}
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert dict(line.split("==") for line in lines).items() <= least.items()
    assert {name.split(">=")[0] for name in project["dependencies"]} <= {line.split("==")[0] for line in lines}


USE = """
import numpy as np
import shapkit

game = shapkit.Game(lambda coalitions: coalitions.sum(axis=1), 3)
phi: shapkit.Attribution = shapkit.exact(game, orders=shapkit.Hierarchy([[0, 1]]))
low, high = shapkit.estimate(game, 8, stop=shapkit.StandardError(0.1) | shapkit.Seconds(1.0)).interval(0.95)
model = shapkit.model_game(lambda rows: rows, [1.0], np.zeros((3, 1)), fill=shapkit.NearestRows(3), link="logit")
reveal_type(shapkit.explain_rows(lambda rows: rows, np.zeros((3, 1)), np.zeros((3, 1)), budget=2))
reveal_type(low)
wrong: str = shapkit.exact(game)
"""


def test_a_stranger_s_mypy_knows_the_types(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "use.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "shapkit.attribution.attributions.Attributions" in found and "numpy.dtype[numpy.float64]" in found
    assert found.count("error:") == 1 and 'variable has type "str"' in found, found


def test_the_library_holds_no_study() -> None:
    for package in ("shapkit", "shapkit_diffusion"):
        folders = {path.name for path in Path(str(files(package))).rglob("*") if path.is_dir()}
        assert not {"tables", "compared", "gan", "benchmarks"} & folders
