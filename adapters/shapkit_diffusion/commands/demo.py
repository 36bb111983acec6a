"""``demo``."""

from __future__ import annotations

import argparse

from shapkit_diffusion.demo import demo_config, run_demo
from shapkit_diffusion.first_look import first_look
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED


def add_demo(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``demo``."""
    parser.set_defaults(run=_demo)
    parser.add_argument("--data", choices=("faces", "photographs"), default="faces")
    parser.add_argument(
        "--out", default="runs/demo", help="folder for the report; must be new unless --resume or --overwrite"
    )
    parser.add_argument(
        "--quick", action="store_true", help="the shipped models side by side, without training: within a minute"
    )
    former = parser.add_mutually_exclusive_group()
    former.add_argument("--resume", action="store_true", help="go on with an interrupted demonstration in --out")
    former.add_argument("--overwrite", action="store_true", help="replace an earlier demonstration in --out")
    parser.epilog = (
        f"SIGTERM ends the demonstration with its state saved and the exit status {EXIT_STOPPED}; --resume goes on to "
        "the figures of one that was not stopped."
    )


def _demo(options: argparse.Namespace) -> None:
    if options.quick:
        if options.data != "faces" or options.resume:
            raise ValueError("--quick shows the models of rendered faces at once: leave --data and --resume out")
        first_look(options.out, overwrite=options.overwrite)
        return
    run_demo(demo_config(options.data), options.out, resume=options.resume, overwrite=options.overwrite)
