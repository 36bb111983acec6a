"""The gallery's scripts run, each draws what it says, and warns of nothing."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

SCRIPTS = sorted((Path(__file__).parents[1] / "docs" / "gallery").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_and_draws(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("agg")
    torch.set_num_threads(1)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        runpy.run_path(str(script))
    assert plt.get_fignums()
    for number in plt.get_fignums():
        assert any(axis.has_data() for axis in plt.figure(number).axes)
    plt.close("all")


def test_there_are_many_and_each_begins_with_a_title() -> None:
    assert len(SCRIPTS) >= 20
    for script in SCRIPTS:
        assert script.read_text(encoding="utf-8").startswith('"""\n# '), script
