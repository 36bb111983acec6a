"""The demonstration within a minute: what it writes, what it says, and what it does not overwrite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shapkit_diffusion.cli import main
from shapkit_diffusion.first_look import first_look, table

SMALL = {"pairs": 4, "steps": 3, "influence_images": 2}


def test_a_page_with_pictures_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = first_look(tmp_path / "look", **SMALL)
    shown = capsys.readouterr().out
    assert table(summary) in shown and str(tmp_path / "look" / "index.html") in shown
    assert json.loads((tmp_path / "look" / "first_look.json").read_text())["models"] == summary["models"]
    page = (tmp_path / "look" / "index.html").read_text()
    assert page.count("data:image/png") == 4 == len(list((tmp_path / "look" / "pictures").iterdir()))
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert all(gain > 3 for gain in summary["locality_gain"].values()), "even with three steps the local one is local"
    for concept, gain in summary["locality_gain"].items():
        plain, local = (summary["models"][name]["locality"][concept] for name in ("plain", "local"))
        assert gain == plain["ratio"] / local["ratio"] and plain["ratio"] == plain["mse_out"] / plain["mse_in"]


def test_only_a_first_look_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="holds no first look, so that it is not overwritten"):
        first_look(tmp_path / "mine", overwrite=True)
    with pytest.raises(ValueError, match="exists: choose another"):
        first_look(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    for _ in range(2):
        first_look(tmp_path / "look", **SMALL, overwrite=True)


def test_the_command_refuses_what_it_cannot_do_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--quick", "--data", "photographs"]) != 0
    assert "--quick shows the models of rendered faces at once" in capsys.readouterr().err
