"""The command ``shapkit-diffusion``: train, fine-tune, measure and edit diffusion models from the shell.

Every command writes into a folder of its own: the configuration, the figures as JSON, the pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from shapkit_diffusion.commands.autoencoder import add_autoencoder
from shapkit_diffusion.commands.demo import add_demo
from shapkit_diffusion.commands.edit import add_edit
from shapkit_diffusion.commands.evaluate import add_evaluate
from shapkit_diffusion.commands.influence import add_influence
from shapkit_diffusion.commands.parse import add_parse
from shapkit_diffusion.commands.train import add_finetune, add_train
from shapkit_diffusion.progress import end_bars
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED, RunStopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one line on standard error."""
    options = _parser().parse_args(arguments)
    if options.threads:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shapkit-diffusion",
        description="Diffusion models whose noise regions own their image regions: train, fine-tune with the "
        "dummy-player penalty, measure, edit.",
        epilog="Try: shapkit-diffusion demo. Every command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_autoencoder(commands)
    add_train(commands)
    add_finetune(commands)
    add_influence(commands)
    add_edit(commands)
    add_evaluate(commands)
    add_parse(commands)
    add_demo(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
