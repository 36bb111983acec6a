"""What a benchmark ran on, for its results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, as exactly as the system tells it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    return name


def machine(*packages: str, n_threads: int | None = None) -> str:
    """Processor, cores, threads where they are set, and the versions of Python and of ``packages``."""
    threads = "" if n_threads is None else f", {n_threads} threads"
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    return f"{processor()}, {os.cpu_count()} cores{threads}; Python {platform.python_version()}{versions}"
