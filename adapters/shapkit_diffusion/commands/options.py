"""What all commands share: options made from the signatures of what they set. Loads nothing but argparse.

argparse and not a package that reads signatures too, because of what its help would lose: switches that may be left to
the model (``--clip``, ``--no-clip``, neither) without a ``None`` to type, and the list of commands before any of them
is loaded.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any, Literal, get_args, get_origin, get_type_hints

DATA_HELP = (
    "faces (rendered), photographs (100 real ones; photographs:own, each with its own labels), celebamask:FOLDER, "
    "folder:IMAGES:LABELS or shards:FOLDER"
)


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
        if action.default is None or action.default is False or action.default is argparse.SUPPRESS:
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


def add_settings(
    parser: Any,
    target: Callable[..., Any],
    defaults: object = None,
    *,
    only: Collection[str] | None = None,
    **help_texts: str,
) -> None:
    """Options for the settings of a class or function: names, types and defaults from its signature.

    Args:
        parser: a parser, or a group of one.
        target: parameters with a type of int, float, str, bool, a Literal, a tuple of one of these, or one of these
            or None. What its docstring says of a parameter, up to the first full stop, is the option's help.
        defaults: an instance whose attributes are the defaults; those of the signature if left out.
        only: names of parameters; all that have a default if left out.
        help_texts: help of single options, where the docstring's is not for the command line.

    >>> def grow(pixels: int = 1, norm: Literal["box", "disc"] = "box") -> None:
    ...     '''Grow a region.
    ...
    ...     Args:
    ...         pixels: how far; a radius.
    ...     '''
    >>> parser = argparse.ArgumentParser()
    >>> add_settings(parser, grow)
    >>> parser.parse_args(["--pixels", "2"])
    Namespace(pixels=2, norm='box')
    """
    told = {**_described(target), **help_texts}
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, parameter in inspect.signature(target).parameters.items():
        default = parameter.default if defaults is None else getattr(defaults, name)
        if name not in only if only is not None else default is parameter.empty:
            continue
        if isinstance(default, tuple):
            default = list(default)
        parser.add_argument(
            f"--{name.replace('_', '-')}", default=default, help=told.get(name), **_accepting(hints[name])
        )


def settings_of(options: argparse.Namespace, target: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of ``target`` that the options of ``add_settings`` were given."""
    names = [name for name in inspect.signature(target).parameters if hasattr(options, name)]
    given = {name: getattr(options, name) for name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _accepting(hint: Any) -> dict[str, Any]:
    """What argparse has to know of a type."""
    if type(None) in get_args(hint):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    many = {}
    if get_origin(hint) is tuple:
        hint, many = get_args(hint)[0], {"nargs": "+"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint), **many}
    return {"type": hint, **many}


def _described(target: Callable[..., Any]) -> dict[str, str]:
    """Of every parameter in the docstring's ``Args``, its first sentence without the marks of code."""
    arguments = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", inspect.getdoc(target) or "", re.DOTALL | re.MULTILINE)
    told: dict[str, str] = {}
    for entry in re.split(r"\n    (?=\S)", "\n" + arguments[1]) if arguments else []:
        names, _, text = entry.partition(": ")
        sentence = re.split(r"(?<=[^.])\.(?:\s|\Z)", " ".join(text.split()))[0].replace("`", "")
        told |= dict.fromkeys(names.split(", "), sentence.replace("%", "%%"))
    return told
