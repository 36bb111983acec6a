"""``evaluate --table``: the published tables, with every row measured anew."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, get_args

from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.evaluation.locality import Aggregate, Colours, Extent, LocalityConvention
from shapkit_diffusion.tables.layout import text_of
from shapkit_diffusion.tables.measure import TablesConfig, assemble, measure_tables
from shapkit_diffusion.tables.pages import write_report
from shapkit_diffusion.tables.rows import ROWS, systems_of

TABLES = ("locality", "realism")


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate`` that have to do with the tables."""
    defaults = TablesConfig()
    group = parser.add_argument_group(
        "the published tables",
        "With --table, every compared system is measured on the models in --models, and --model, --pairs, --images, "
        "--steps and --precision are not looked at. A row that is in --out already is not measured again.",
    )
    group.add_argument("--table", choices=TABLES, help="measure all systems, and print this table")
    group.add_argument("--models", help="folder with the run folders of the models")
    group.add_argument("--rows", nargs="+", help=f"only these of {', '.join(row.key for row in ROWS)}")
    group.add_argument("--from", dest="from_run", metavar="RUN", help="print what was measured there, and no more")
    group.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    group.add_argument("--edits", type=int, default=defaults.images, help="images that each system edits")
    group.add_argument("--samples", type=int, default=defaults.samples, help="generated images for the realism")
    group.add_argument("--inception", metavar="FILE", help="Inception's weights, for realism in its features")
    convention = defaults.convention
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
