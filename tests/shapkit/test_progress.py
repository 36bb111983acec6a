"""Progress bars: what they count, and what a missing tqdm says."""

import sys

import numpy as np
import pytest

import shapkit
from shapkit.progress import evaluations_bar


def test_a_bar_counts_every_coalition(capsys):
    pytest.importorskip("tqdm")
    game = shapkit.table_game(np.arange(2.0**12))
    phi = shapkit.exact(game, progress=True)
    shown = capsys.readouterr().err
    assert "exact: 100%" in shown and "4.10k/4.10k" in shown
    assert shapkit.exact(game).values.tolist() == phi.values.tolist()
    assert capsys.readouterr().err == ""


def test_a_bar_is_closed_when_the_game_fails(capsys):
    pytest.importorskip("tqdm")

    def value(coalitions):
        if coalitions.any():
            raise OSError("no")
        return coalitions.sum(axis=1)

    with pytest.raises(OSError, match="no"):
        shapkit.exact(shapkit.Game(value, 3), progress=True)
    assert "0.00/8.00" in capsys.readouterr().err


def test_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="tqdm is needed for a progress bar"), evaluations_bar("exact", 8, shown=True):
        pass
    assert shapkit.exact(shapkit.table_game([0, 1])).values.tolist() == [1.0]
