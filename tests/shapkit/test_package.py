"""The package as a whole: what importing it takes, what it names, and what it says of absent extras."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shapkit
from shapkit._optional import require


def run(code):
    environment = {**os.environ, "PYTHONPATH": str(Path(shapkit.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_importing_takes_no_optional_package():
    heavy = ("torch", "matplotlib", "shap", "pandas", "sklearn", "diffusers")
    done = run(f"import sys, shapkit; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_randomness_needs_no_more_than_the_package():
    done = run("from shapkit.randomness import counter_bits; print(counter_bits(0, 0).dtype)")
    assert done.stdout.strip() == "uint64", done.stderr


def test_public_names_exist_and_are_documented():
    assert shapkit.__version__ == "0.1.0"
    for name in shapkit.__all__:
        assert getattr(shapkit, name).__doc__, name


@pytest.mark.parametrize(
    "module, call, feature",
    [
        ("shap", "phi.to_shap()", "Attribution.to_shap()"),
        ("matplotlib", "phi.plot()", "plots of an Attribution"),
    ],
)
def test_an_absent_extra_is_one_clear_line(module, call, feature):
    done = run(
        f"import sys; sys.modules[{module!r}] = None\n"
        f"import shapkit; phi = shapkit.exact(shapkit.table_game([0, 1, 1, 3])); {call}"
    )
    line = done.stderr.strip().splitlines()[-1]
    assert line == f"ImportError: {module} is needed for {feature}: pip install 'shapkit[plots]'"
    assert "another exception" not in done.stderr


def test_require():
    assert require("json.decoder", "plots").__name__ == "json.decoder"
    with pytest.raises(ImportError, match=r"^no_such_package is needed: pip install 'shapkit\[torch\]'$"):
        require("no_such_package.part", "torch")


def test_errors_inside_an_installed_package_are_passed_on(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'"):
        require("broken_package", "torch")
