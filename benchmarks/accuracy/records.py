"""The records of `benchmarks/accuracy/`: files of JSON lines that a killed run leaves in order and goes on with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TextIO

from benchmarks.machine import processor

Record = dict[str, Any]
Cell = tuple[tuple[Any, ...], Callable[[], Record]]  # the key of a record, and what measures it


def fill(path: Path, key: tuple[str, ...], cells: Iterable[Cell], minutes: float) -> None:
    """Measure every cell that the file has no record of, a line each, for `minutes` at most.

    `key` names the entries of a record that tell it from the others.
    """
    done = {tuple(record[name] for name in key) for record in read_lines(path)}
    end = time.monotonic() + minutes * 60
    with appending(path) as file:
        for cell, measured in cells:
            if cell in done:
                continue
            if time.monotonic() > end:
                print("out of time: run the same command again to go on")
                return
            record = measured()
            file.write(json.dumps(record) + "\n")
            file.flush()
            if "error" in record and record["seed"] == 0:
                print(f"{', '.join(str(part) for part in cell)}: {record['error']}", flush=True)
    print(f"complete: {path.name}")


def forget(path: Path, methods: Collection[str]) -> None:
    """Take the records of these methods out of the file."""
    keep = [record for record in read_lines(path) if record["method"] not in methods]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in keep))


def read_lines(path: Path) -> list[Record]:
    """The records of a file; a last line that a killed run left unfinished is dropped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def appending(path: Path) -> TextIO:
    """The file open at its end, on a new line even where a killed run left one unfinished."""
    file = path.open("a+", encoding="utf-8")
    file.seek(0)
    text = file.read()
    if text and not text.endswith("\n"):
        file.write("\n")
    return file


def write_whole(path: Path, text: str) -> None:
    """The whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def rounded(results: Any) -> Any:
    """The same with four significant digits, for a smaller file."""
    if isinstance(results, dict):
        return {key: rounded(entry) for key, entry in results.items()}
    if isinstance(results, list):
        return [rounded(entry) for entry in results]
    return float(f"{results:.4g}") if isinstance(results, float) else results


def print_report(
    report: Callable[[dict[str, Any]], str],
    path: Path,
    measured: Callable[[], dict[str, Any]],
    redraw: bool,
    publish: bool,
) -> None:
    """Print the report of what was measured, and write that to `path` where asked; with `redraw`, of what is there."""
    results = json.loads(path.read_text(encoding="utf-8")) if redraw else measured()
    print(report(results))
    if publish and not redraw:
        write_whole(path, json.dumps(rounded(results), indent=1) + "\n")


def machines_in(folder: Path) -> dict[str, str]:
    """What `machine` said of each kind of method, from the files ``machine-KIND.txt``."""
    return {
        path.stem.removeprefix("machine-"): path.read_text(encoding="utf-8")
        for path in sorted(folder.glob("machine-*.txt"), reverse=True)
    }


def machine(methods: str) -> str:
    """The processor, and the versions of what takes part in measuring these methods."""
    packages = {"shapkit": ("numpy", "scipy", "numba"), "slow": ("numpy", "shapiq", "torch", "botorch")}
    packages["large"] = packages["shapkit"]
    wanted = packages.get(methods, ("numpy", "shapiq", "shap", "captum", "torch", "scikit-learn", "xgboost"))
    # Metadata may be there for a package of which nothing can be imported, and the other way round
    versions = []
    for name in wanted:
        if importlib.util.find_spec({"scikit-learn": "sklearn"}.get(name, name)):
            try:
                versions.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                versions.append(name)
    return f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(versions)}"
