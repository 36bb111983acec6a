"""Run folders: the configuration, the metrics and the results of one run, in files that survive an interruption.

A run folder is worked in by one run at a time, which holds the operating system's lock on a file in it. The lock goes
with the process, however that ends, so that a killed run can be resumed at once.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from shapkit._files import user_path, whole_file

LOCK, HOLDER = ".run.lock", ".run.holder.json"
"""The file whose lock a run holds, and the one that says who does."""

LOCK_PATIENCE = 3.0
"""Seconds to wait for a lock: the workers of a process that was killed notice it a moment later."""

_HOLDER, _LOCK = re.escape(HOLDER), re.escape(LOCK)
_BEGINNINGS = re.compile(rf"{_LOCK}|{_HOLDER}|\.?({_HOLDER}|config\.json)(\.[\w-]+)?\.partial")
"""What a run has in its folder before its configuration is in place."""


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        ValueError: if the file is damaged, or holds something else than an object; the message names it.
        OSError: if it cannot be read.
    """
    return _object(path.read_bytes(), str(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects that a file holds, one a line; a last line cut short by an interruption is left out.

    Raises:
        ValueError: if a line is damaged, or holds something else than an object; the message names the file and line.
        OSError: if it cannot be read.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise ValueError(f"{where} is damaged, it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} is damaged, it must hold a JSON object, got a {type(content).__name__}")
    return content


def whole_number(content: Mapping[str, Any], name: str, where: str) -> int:
    """``content[name]``, which must be a whole number of 0 or more.

    Raises:
        ValueError: if it is none; the message says ``where``.
    """
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{where} is damaged: {name!r} must be a whole number of 0 or more, got {value!r:.80}")
    return value


@dataclass(frozen=True)
class RunFolder:
    """A folder with ``config.json`` and ``metrics.jsonl``."""

    path: Path

    @classmethod
    @contextmanager
    def held(
        cls, path: str | Path, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> Iterator[RunFolder]:
        """`open`, with the folder locked for this process during the ``with`` block.

        Args:
            path: of the folder.
            config: what the run depends on, by section.
            resume: go on with the run of the same configuration that the folder may hold.
            overwrite: remove the run that the folder may hold.

        Raises:
            ValueError: as `open`, or if another run holds the folder.
        """
        path = user_path(path)
        _check_usable(path, resume or overwrite)
        path.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if overwrite:
                _empty(path)
            yield cls.open(path, config, resume=resume)

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any], *, resume: bool = False) -> RunFolder:
        """A new run folder, or with ``resume`` the one that holds a run of the same configuration.

        Where a run was interrupted before its configuration was in place, there is nothing to go on with: it is new.

        Raises:
            ValueError: if the folder exists and is not to be resumed, or holds another configuration.
        """
        run = cls(user_path(path))
        _check_usable(run.path, resume)
        if (run.path / "config.json").is_file():
            run.check(config)
            return run
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "config.json", config)
        return run

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse another configuration than the folder's.

        Args:
            config: the sections that are compared.

        Raises:
            ValueError: if a section is another there, or missing; the message says what was and what is.
        """
        found = read_json(self.path / "config.json")
        for section, wanted in json.loads(json.dumps(config)).items():
            if section not in found:
                raise ValueError(
                    f"run folder {self.path} holds another run, or one of an older version: its config.json has no "
                    f"{section!r}; choose another folder"
                )
            if found[section] != wanted:
                difference = _first_difference(found[section], wanted, section)
                raise ValueError(f"run folder {self.path} holds another run: {difference}")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a line cut short by an interruption is left out.

        Raises:
            ValueError: if a line is damaged.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        records = read_json_lines(path)
        for number, record in enumerate(records, 1):
            whole_number(record, "step", f"{path}, line {number}")
        return records

    def seconds(self) -> float:
        """Seconds that the run had spent when it last logged.

        Raises:
            ValueError: if ``metrics.jsonl`` is damaged.
        """
        metrics = self.metrics()
        if not metrics:
            return 0.0
        seconds = metrics[-1].get("seconds")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
            raise ValueError(
                f"{self.path / 'metrics.jsonl'}, line {len(metrics)} is damaged: 'seconds' must be a number of 0 or "
                f"more, got {seconds!r:.80}"
            )
        return float(seconds)

    def drop_metrics_from(self, step: int) -> None:
        """Forget the lines after ``step``, which a resumed run is going to write again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        with whole_file(self.path / "metrics.jsonl") as partial:
            partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def _check_usable(path: Path, used_before: bool) -> None:
    """Raise a ValueError unless a run may begin in ``path``, or go on there if it was ``used_before``."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and no run folder: choose another")
    if (path / "config.json").is_file():
        if not used_before:
            raise ValueError(f"run folder {path} exists: choose another, or go on with --resume")
    elif path.exists() and not all(_BEGINNINGS.fullmatch(entry.name) for entry in path.iterdir()):
        raise ValueError(f"{path} exists and is no run folder: choose another")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a run folder; a ValueError says who else does."""
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=LOCK_PATIENCE)
    except Timeout:
        raise ValueError(f"run folder {path} is in use: {_holder(path)}; wait for its end, or choose another") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        write_json(path / HOLDER, {"process": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        (path / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        holder = read_json(path / HOLDER)
        return f"process {holder['process']} on {holder['host']} has held it since {holder['since']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is about to end
        return "another process holds it"


def _empty(path: Path) -> None:
    """Remove what a run left; its configuration last, so that an interrupted call can be made again."""
    for inner in sorted(path.glob(f"*/{LOCK}")):  # runs inside, of workers that may not have ended yet
        with _lock(inner.parent):
            pass
    kept = (LOCK, HOLDER, "config.json")
    for entry in [entry for entry in path.iterdir() if entry.name not in kept]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / "config.json").unlink(missing_ok=True)


@contextmanager
def result_folder(path: str | Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill within the ``with`` block; it takes the name ``path`` when the block succeeds, and else goes.

    Raises:
        ValueError: if ``path`` exists.
    """
    path = user_path(path)
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
