"""`import shapkit_diffusion` is how people begin: its names are imported when used, and old modules are found."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import shapkit_diffusion


def _loaded_by(code: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\nLOADED', *sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return set(shown[shown.rindex("LOADED") :].split()[1:])


def test_every_public_name_is_there() -> None:
    assert len(shapkit_diffusion.__all__) == len(set(shapkit_diffusion.__all__)) >= 12
    for name in shapkit_diffusion.__all__:
        assert callable(getattr(shapkit_diffusion, name))
    assert set(shapkit_diffusion.__all__) <= set(dir(shapkit_diffusion))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = shapkit_diffusion.no_such_name  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = _loaded_by("import shapkit_diffusion")
    assert not {"torch", "diffusers", "accelerate", "matplotlib"} & loaded
    assert len([name for name in loaded if name.startswith("shapkit_diffusion")]) == 1


@pytest.mark.parametrize(("words", "own"), [(["--help"], set()), (["parse", "--help"], {"parse"})])
def test_a_command_loads_what_it_needs_and_no_other_command(words: list[str], own: set[str]) -> None:
    code = f"from shapkit_diffusion.cli import main\ntry:\n    main({words})\nexcept SystemExit:\n    pass"
    loaded = _loaded_by(code)
    assert not {"torch", "diffusers", "accelerate", "matplotlib"} & loaded
    prefix = "shapkit_diffusion.commands."
    assert {name[len(prefix) :] for name in loaded if name.startswith(prefix)} == own | {"options"}


@pytest.mark.parametrize("old", shapkit_diffusion._MOVED)  # type: ignore[attr-defined]
def test_modules_are_found_under_their_old_names(old: str) -> None:
    new = shapkit_diffusion._MOVED[old]  # type: ignore[attr-defined]
    new = new[1:] if new.startswith(".") else f"shapkit_diffusion.{new}"
    sys.modules.pop(f"shapkit_diffusion.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"shapkit_diffusion\.{old} is now {new}: import it from there"):
        module = import_module(f"shapkit_diffusion.{old}")
    assert module is import_module(new) and module.__name__ == new
    assert module.__spec__ is not None and module.__spec__.name == new
    del sys.modules[f"shapkit_diffusion.{old}"]
