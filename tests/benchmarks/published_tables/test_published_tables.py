"""The benchmark knows how every model of the tables is made, in an order that works."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.published_tables.rows import ROWS
from shapkit_diffusion.cli import _parser
from shapkit_diffusion.denoisers.loading import SHIPPED
from shapkit_diffusion.evaluation.domains import CONCEPTS


@pytest.fixture
def tables() -> ModuleType:
    return importlib.import_module("benchmarks.published_tables.__main__")


def test_every_model_of_every_row_is_made_by_a_command_that_exists(tables: ModuleType, tmp_path: Path) -> None:
    commands = tables.commands(tmp_path)
    assert {model for row in ROWS for model in row.models(CONCEPTS)} <= set(commands)
    made: set[str] = set()
    for name, (program, *arguments) in commands.items():
        if program == "shapkit-diffusion":
            options = _parser().parse_args(arguments)
            assert options.out == str(tmp_path / name)
            needed = [getattr(options, "model", None), getattr(options, "autoencoder", None)]
            assert {Path(path).parent.name for path in needed if path and path not in SHIPPED} <= made
        else:
            assert (program, arguments[0]) == ("python", "-m")
            assert importlib.util.find_spec(arguments[1]) is not None
        made.add(name)


def test_models_are_made_with_what_they_are_made_from_and_only_once(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(*command: str) -> None:
        folder = tmp_path / (Path(command[command.index("--out") + 1]).name if "--out" in command else "gan")
        ran.append(folder.name + (" resumed" if "--resume" in command else ""))
        names = ["gan", "igan"] if folder.name == "gan" else [folder.name]
        for name in names:
            for mark in ("model/config.json", "model/model_index.json", "generator.safetensors"):
                (tmp_path / name / mark).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name / mark).write_text("{}")

    monkeypatch.setattr(tables, "run", run)
    (tmp_path / "ldm").mkdir()
    (tmp_path / "ldm" / "config.json").write_text("{}")
    tables.make(tmp_path, ["ldm-local", "igan", "gan"])
    assert ran == ["autoencoder", "ldm resumed", "ldm-local", "gan"]
    tables.make(tmp_path, ["ldm-local", "igan", "gan", "autoencoder"])
    assert len(ran) == 4
    with pytest.raises(SystemExit, match="--make knows"):
        tables.make(tmp_path, ["ldm-global"])


def test_rows_whose_models_are_missing_are_not_available(tables: ModuleType, tmp_path: Path) -> None:
    model = tmp_path / "ddpm-control" / "model"
    model.mkdir(parents=True)
    (model / "model_index.json").write_text(json.dumps({}))
    assert tables.available(tmp_path, None) == ["repaint", "ddpm", "replay"]
    assert tables.available(tmp_path, ["ddpm", "ldm"]) == ["ddpm"]
