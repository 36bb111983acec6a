"""The command ``shapkit-diffusion``: train, fine-tune, measure and edit diffusion models from the shell.

Every command writes into a folder of its own: the configuration, the figures as JSON, the pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any

from shapkit._optional import require
from shapkit_diffusion.commands.options import command
from shapkit_diffusion.progress import end_bars
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED, RunStopped

COMMANDS = {
    "autoencoder": ("autoencoder", "train a small autoencoder, for latent models"),
    "train": ("train", "train a small DDPM from scratch, of pixels or of latents"),
    "finetune": ("train", "train a model on with the dummy-player penalty"),
    "influence": ("influence", "show which input region of a model drives which output region"),
    "edit": ("edit", "edit regions of given or generated images through their noise"),
    "studio": ("studio", "edit regions in the browser, in a local and a plain model side by side"),
    "evaluate": ("evaluate", "measure locality and realism of a model"),
    "parse": ("parse", "write label maps of a folder of face images"),
    "demo": ("demo", "fine-tune with and without the penalty, compare, write a report"),
}
"""The commands in the order of the help: the module of each in this package, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words[:1]).parse_args(words)
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


class _Completion(argparse.Action):
    """Prints a shell's completion of all commands, and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        shtab = require("shtab", extra="diffusion", purpose="shell completion")
        print(shtab.complete(_parser(), values))
        parser.exit()


def _parser(loaded: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """All commands, with the options of those in ``loaded``; the others are listed, which loads nothing."""
    parser = argparse.ArgumentParser(
        prog="shapkit-diffusion",
        description="Diffusion models whose noise regions own their image regions: train, fine-tune with the "
        "dummy-player penalty, measure, edit.",
        epilog="Try: shapkit-diffusion demo. Every command has its own --help.",
    )
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        choices=("bash", "zsh", "tcsh"),
        help="print what makes this shell complete commands and options, to be sourced from its startup file",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, about) in COMMANDS.items():
        of_command = command(commands, name, about)
        if name in loaded:
            getattr(import_module(f"shapkit_diffusion.commands.{module}"), f"add_{name}")(of_command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
