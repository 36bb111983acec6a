"""The command ``shapkit-diffusion``: train, fine-tune, measure and edit diffusion models from the shell.

Every command writes into a folder of its own: the configuration, the figures as JSON, the pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from shapkit_diffusion.progress import end_bars
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED, RunStopped

COMMANDS = {
    "autoencoder": "autoencoder",
    "train": "train",
    "finetune": "train",
    "influence": "influence",
    "edit": "edit",
    "evaluate": "evaluate",
    "parse": "parse",
    "demo": "demo",
}
"""The commands, in the order of the help, and the modules of this package that have them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words[0] if words and words[0] in COMMANDS else None).parse_args(words)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    try:
        options.run(options)
        return 0
    except (ValueError, OSError, ImportError) as error:
        status, message = 2, str(error)
    except RunStopped as stopped:
        status, message = EXIT_STOPPED, str(stopped)
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    end_bars()
    print(f"shapkit-diffusion {options.command}: {message}", file=sys.stderr)
    return status


def _parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The command's options: those of all commands, or of the chosen one alone, which spares loading the others."""
    parser = argparse.ArgumentParser(
        prog="shapkit-diffusion",
        description="Diffusion models whose noise regions own their image regions: train, fine-tune with the "
        "dummy-player penalty, measure, edit.",
        epilog="Try: shapkit-diffusion demo. Every command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        if chosen in (None, name):
            getattr(import_module(f"shapkit_diffusion.commands.{module}"), f"add_{name}")(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
