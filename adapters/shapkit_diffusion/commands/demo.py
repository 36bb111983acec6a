"""``demo``."""

from __future__ import annotations

import argparse
from typing import Any

from shapkit_diffusion.commands.common import (
    command,
)
from shapkit_diffusion.demo import demo_config, run_demo


def add_demo(commands: Any) -> None:
    """Add the command ``demo``."""
    parser = command(commands, "demo", _demo, "fine-tune with and without the penalty, compare, write a report")
    parser.add_argument("--data", choices=("faces", "photographs"), default="faces")
    parser.add_argument("--out", default="runs/demo", help="folder for the report; must be new unless --overwrite")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demonstration in --out")


def _demo(options: argparse.Namespace) -> None:
    run_demo(demo_config(options.data), options.out, overwrite=options.overwrite)
