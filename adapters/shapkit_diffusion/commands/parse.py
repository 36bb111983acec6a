"""``parse``."""

from __future__ import annotations

import argparse

from shapkit_diffusion.commands.options import settings
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import result_folder


def add_parse(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``parse``."""
    parser.set_defaults(run=_parse)
    parser.add_argument("--images", required=True, help="folder of pictures")
    parser.add_argument(
        "--parser",
        default="small",
        help="small (shipped, for rendered faces), bisenet:FILE of published weights, or segformer:FOLDER",
    )
    parser.add_argument(
        "--all-classes", action="store_true", help="keep the parser's own classes; concepts are merged by name if not"
    )
    parser.add_argument("--device", default="cpu", help="where the parser runs")
    parser.add_argument("--out", required=True, help="folder for the label maps; must be new")


def _parse(options: argparse.Namespace) -> None:
    # Here, so that --help and a misspelt option answer at once
    from shapkit_diffusion.segmentation.label_maps import open_parser, write_label_maps
    from shapkit_diffusion.segmentation.parsers import MergedParser

    parser = open_parser(options.parser, options.device)
    chosen = parser if options.all_classes or options.parser == "small" else MergedParser(parser)
    with result_folder(options.out, settings(options)) as folder:
        write_label_maps(options.images, chosen, folder, progress=on_terminal("parse"))
    print(f"label maps are in {options.out}: train with --data folder:{options.images}:{options.out}")
