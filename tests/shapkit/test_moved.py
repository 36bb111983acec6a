"""Modules of the core are found under their old names, with a warning that says where they went."""

import sys
from importlib import import_module

import pytest

import shapkit


@pytest.mark.parametrize("old", shapkit._MOVED)
def test_modules_are_found_under_their_old_names(old):
    if old.startswith("differentiable"):
        pytest.importorskip("torch")
    new = f"shapkit.{shapkit._MOVED[old]}"
    if old == "model_game":  # a function of the package has that name
        assert import_module("shapkit.model_game") is import_module(new)
        assert shapkit.model_game is import_module(new).model_game
        return
    sys.modules.pop(f"shapkit.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"shapkit\.{old} is now {new}: import it from there"):
        module = import_module(f"shapkit.{old}")
    assert module is import_module(new) and module.__name__ == new and module.__spec__.name == new
    del sys.modules[f"shapkit.{old}"]


def test_what_is_nowhere_is_still_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"shapkit\.no_such_module"):
        import_module("shapkit.no_such_module")


def test_names_that_were_importable_are():
    from shapkit.attribution import Attribution, to_shap
    from shapkit.exact import exact, shapley_values
    from shapkit.games import Game, table_game

    assert (Attribution, to_shap, exact, shapley_values, Game, table_game) == (
        shapkit.Attribution,
        shapkit.to_shap,
        shapkit.exact,
        shapkit.shapley_values,
        shapkit.Game,
        shapkit.table_game,
    )
