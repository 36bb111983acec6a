"""One of the published tables on any data and by any convention, from models that are there.

python -m benchmarks.published_tables.on_data --table locality --models runs/tables --out runs/tables/measured
python -m benchmarks.published_tables.on_data --table realism --from runs/tables/measured    # prints only
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from benchmarks.published_tables.layout import text_of
from benchmarks.published_tables.measure import TablesConfig, assemble, measure_tables
from benchmarks.published_tables.pages import write_report
from benchmarks.published_tables.rows import ROWS, systems_of
from shapkit_diffusion.commands.options import add_data, add_parser_choice
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.evaluation.locality import Aggregate, Colours, Extent, LocalityConvention, Normalisation

TABLES = ("locality", "realism")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the table, write the report; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        run_tables(options)
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"published tables: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    defaults = TablesConfig()
    convention = defaults.convention
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, required=True, help="measure all systems, and print this table")
    parser.add_argument("--models", help="folder with the run folders of the models")
    parser.add_argument("--out", help="folder for rows and report; a row that is there is not measured again")
    parser.add_argument("--from", dest="from_run", metavar="RUN", help="print what was measured there, and no more")
    add_data(parser)
    add_parser_choice(parser)
    parser.add_argument("--rows", nargs="+", help=f"only these of {', '.join(row.key for row in ROWS)}")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--concepts", nargs="+", default=list(defaults.concepts), help="labels that are edited")
    parser.add_argument("--edits", type=int, default=defaults.images, help="images that each system edits")
    parser.add_argument("--samples", type=int, default=defaults.samples, help="generated images for the realism")
    parser.add_argument("--dilation", type=int, default=defaults.dilation, help="pixels by which concepts grow")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--inception", metavar="FILE", help="Inception's weights, for realism in its features")
    group = parser.add_argument_group("the convention of the locality")
    group.add_argument("--normalisation", choices=get_args(Normalisation), default=convention.normalisation)
    group.add_argument("--colours", choices=get_args(Colours), default=convention.colours, help="of the changes")
    group.add_argument(
        "--extent",
        choices=get_args(Extent),
        default=convention.extent,
        help="the region measured: the concept before the edit, or before and after",
    )
    group.add_argument("--aggregate", choices=get_args(Aggregate), default=convention.aggregate, help="over the images")
    group.add_argument(
        "--measured-dilation",
        type=int,
        default=convention.dilation,
        help="pixels by which the region measured grows",
    )
    return parser


def run_tables(options: argparse.Namespace) -> None:
    """Measure what is missing, print the table, write the report."""
    if options.from_run is not None:
        print(text_of(assemble(options.from_run), options.table))
        return
    for name in ("models", "out"):
        if getattr(options, name) is None:
            raise ValueError(f"--table {options.table} needs --{name}, or --from RUN to print what was measured there")
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    config = _config(options)
    results = measure_tables(
        systems_of(options.models, config.concepts, options.rows),
        partial(open_domain, options.data, options.size, 2, parser=options.parser),
        config,
        options.out,
        data=options.data if options.parser is None else f"{options.data}, parsed by {options.parser}",
        workers=options.workers,
    )
    write_report(options.out, results)
    print(f"\n{text_of(results, options.table)}\n\nreport: {Path(options.out) / 'report.html'}")


def _config(options: argparse.Namespace) -> TablesConfig:
    defaults: dict[str, Any] = {"normalisation": options.normalisation, "colours": options.colours}
    convention = LocalityConvention(
        **defaults, dilation=options.measured_dilation, extent=options.extent, aggregate=options.aggregate
    )
    order = TablesConfig().concepts
    others = tuple(concept for concept in options.concepts if concept not in order)
    return TablesConfig(
        tuple(concept for concept in order if concept in options.concepts) + others,
        images=options.edits,
        samples=options.samples,
        dilation=options.dilation,
        convention=convention,
        seed=options.seed,
        inception=options.inception,
    )


if __name__ == "__main__":
    sys.exit(main())
