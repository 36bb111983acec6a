"""Run folders: the configuration, the metrics and the results of one run, in files that survive an interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


@dataclass(frozen=True)
class RunFolder:
    """A folder with ``config.json`` and ``metrics.jsonl``."""

    path: Path

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any], *, resume: bool = False) -> RunFolder:
        """A new run folder, or with ``resume`` the one that holds a run of the same configuration.

        Raises:
            ValueError: if the folder exists and is not to be resumed, or holds another configuration.
        """
        path = Path(path)
        wanted = json.loads(json.dumps(config))
        if (path / "config.json").is_file():
            if not resume:
                raise ValueError(f"run folder {path} exists: choose another, or go on with --resume")
            found = json.loads((path / "config.json").read_text(encoding="utf-8"))
            if found != wanted:
                raise ValueError(f"run folder {path} holds another run: {_first_difference(found, wanted)}")
            return cls(path)
        if path.exists() and any(path.iterdir()):
            raise ValueError(f"{path} exists and is no run folder: choose another")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", wanted)
        return cls(path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a line cut short by an interruption is left out."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def seconds(self) -> float:
        """Seconds that the run had spent when it last logged."""
        metrics = self.metrics()
        return float(metrics[-1]["seconds"]) if metrics else 0.0

    def drop_metrics_from(self, step: int) -> None:
        """Forget the lines after ``step``, which a resumed run is going to write again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        partial = self.path / "metrics.jsonl.partial"
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.path / "metrics.jsonl")


@contextmanager
def result_folder(path: str | Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill within the ``with`` block; it takes the name ``path`` when the block succeeds, and else goes.

    Raises:
        ValueError: if ``path`` exists.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"run folder {path} exists: choose another")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_json(partial / "config.json", config)
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _first_difference(found: Any, wanted: Any, where: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**found, **wanted}:
            if found.get(key) != wanted.get(key):
                return _first_difference(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
    return f"{where} is {found!r} there and {wanted!r} here"
