"""What all commands share, and what loads nothing but argparse."""

from __future__ import annotations

import argparse
from typing import Any

DATA_HELP = "faces (rendered), photographs (100 real ones), celebamask:FOLDER or folder:IMAGES:LABELS"


def command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """A new command without options but ``--threads``; ``about`` is its line in the list of commands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", formatter_class=Formatter
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of the network's operations; 0 leaves it to torch"
    )
    return parser


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is nothing to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def add_data(parser: argparse.ArgumentParser) -> None:
    """The options that ``open_domain`` takes."""
    parser.add_argument("--data", default="faces", help=DATA_HELP)
    parser.add_argument(
        "--size", type=int, default=32, help="height and width in pixels, for data that come in any size"
    )


def add_parser_choice(parser: argparse.ArgumentParser) -> None:
    """The option that says how generated and given images are parsed; with ``add_data``, for ``domain_of``."""
    parser.add_argument(
        "--parser",
        help="what gives generated and given images their label maps: small (shipped, for rendered faces), "
        "bisenet:FILE or segformer:FOLDER; if left out, small for rendered faces, and for aligned photographs the "
        "most frequent label of every pixel",
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What ``config.json`` of a result folder says."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "out", "threads")}
