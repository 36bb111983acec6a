"""The benchmark of equal seconds: estimates are kept, side by side where games are slow, and others get what fits."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import equal_seconds


def test_estimates_are_measured_kept_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = np.arange(30.0)
    monkeypatch.setattr(equal_seconds, "games", lambda n_players: {"additive": (lambda rows: rows @ exact, exact)})
    monkeypatch.setattr(equal_seconds, "N_PLAYERS", (30,))
    monkeypatch.setattr(equal_seconds, "METHODS", ("auto", "antithetic"))
    monkeypatch.setattr(equal_seconds, "POINTS", {1e-6: (0.05,), 2e-2: (0.5,)})
    monkeypatch.setattr(equal_seconds, "SLOW", 1e-2)
    arguments = ["run", "--cache", str(tmp_path)]
    equal_seconds.main(arguments)
    kept = (tmp_path / "shapkit.jsonl").read_text()
    records = [json.loads(line) for line in kept.splitlines()]
    assert len(records) == 2 * 2 * 2
    assert all(record["taken"] >= record["wait"] * record["evaluations"] for record in records)
    equal_seconds.main(arguments)
    assert (tmp_path / "shapkit.jsonl").read_text() == kept, "what is known is not measured again"
    peer = {"n_players": 30, "game": "additive", "method": "shapiq LeverageSHAP", "seed": 0, "game_seconds": 0.0}
    errors = {14: 1.0, 20: 0.1, 40: 0.01}
    lines = [
        peer | {"budget": budget, "evaluations": budget, "seconds": 0.01, "squared_error": error, "squares": 1.0}
        for budget, error in errors.items()
    ]
    (tmp_path / "peers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = equal_seconds.aggregate(tmp_path)
    found = {row["wait"]: row for row in rows if row["method"] == "shapiq LeverageSHAP"}
    assert found[1e-6]["error"] == pytest.approx(0.01)
    assert found[2e-2]["evaluations"] == 20, "40 take .8 seconds"
    capsys.readouterr()
    equal_seconds.main(["report", "--cache", str(tmp_path)])
    assert "shapiq LeverageSHAP" in capsys.readouterr().out
