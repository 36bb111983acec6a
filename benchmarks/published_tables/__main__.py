"""The two published tables, locality and realism, with every row measured on rendered faces.

    python -m benchmarks.published_tables --publish     # models that are missing, all rows, docs/results and pictures
    python -m benchmarks.published_tables --make all    # only the models; or some, by name
    python -m benchmarks.published_tables --rows ddpm ddpm-local
    python -m benchmarks.published_tables --quick       # the rows whose models are there, on a few images, prints only
    python -m benchmarks.published_tables --redraw      # pictures and text of what was published before

Models are made by commands of the project, which are listed with the results, and lie in --models; rows are measured
into --out. What is there is taken, what was interrupted goes on. With models, two processes take less than an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.locality import latent
from benchmarks.machine import machine
from benchmarks.published_tables.layout import locality_tables, realism_tables, text_of, verdicts
from benchmarks.published_tables.measure import TablesConfig, assemble, measure_tables
from benchmarks.published_tables.pictures import picture_of_edits, picture_of_trade, row_pictures
from benchmarks.published_tables.rows import ROWS, systems_of
from shapkit_diffusion.evaluation.domains import CONCEPTS, open_domain
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.runs import RunFolder, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "published_tables.json"
PICTURES = ROOT / "docs" / "pictures"
QUICK = TablesConfig(images=8, samples=16, given=4, shown=2)


def commands(models: Path) -> dict[str, list[str]]:
    """How each model is made, in an order in which each finds what it needs."""
    tune = ["shapkit-diffusion", "finetune", "--threads", "1", "--steps", "1200", "--precision", "no"]
    published = ["--batch-size", "16", "--seed", "1", "--flip", "--log-every", "10", "--save-every", "200"]
    found = {
        "ddpm-control": [*tune, "--weight", "0", "--target", "noise"],
        "ddpm-local": [*tune, "--anchor-substeps", "1"],
    }
    for concept in CONCEPTS:
        found[f"ddpm-published-{concept}"] = [*tune[:4], "--published", concept, *tune[4:], *published]
    for runs in latent.commands(models).values():
        found |= {name: ["shapkit-diffusion", *command] for name, command in runs.items()}
    autoencoder = str(models / "autoencoder" / "model")
    found["sd"] = ["python", "-m", "benchmarks.published_tables.text_models", "--autoencoder", autoencoder]
    found = {name: [*command, "--out", str(models / name)] for name, command in found.items()}
    found["gan"] = found["igan"] = ["python", "-m", "benchmarks.published_tables.gan_models", str(models)]
    return found


def finished(models: Path, name: str) -> bool:
    """Whether a model is made."""
    marks = {model: row.finished for row in ROWS for model in row.models(CONCEPTS)}
    mark = marks.get(name, "model/config.json" if name == "autoencoder" else "model/model_index.json")
    return (models / name / mark).is_file()


def make(models: Path, names: Collection[str]) -> None:
    """Make the models that are missing, and those they are made from."""
    known = commands(models)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SystemExit(f"--make knows {', '.join(known)}; got {', '.join(unknown)}")
    wanted = set(names)
    if any(name == "sd" or name.startswith("ldm") for name in wanted):
        wanted.add("autoencoder")
    if any(name.startswith("ldm-") for name in wanted):
        wanted.add("ldm")
    for name in (name for name in known if name in wanted):
        if finished(models, name):
            continue
        command, folder = known[name], models / name
        resume = ["--resume"] if "--out" in command and (folder / "config.json").is_file() else []
        print(f"{name}: {' '.join([*command, *resume])}", flush=True)
        run(*command, *resume)


def run(program: str, *arguments: str) -> None:
    """A command of the project, by this interpreter, in the root of the repository."""
    start = [sys.executable, *(["-m", "shapkit_diffusion.cli"] if program == "shapkit-diffusion" else [])]
    status = subprocess.run([*start, *arguments], cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(status)


def available(models: Path, rows: Sequence[str] | None) -> list[str]:
    """The rows asked for, or all, as far as their models are made."""
    keys = [row.key for row in ROWS if rows is None or row.key in rows]
    by_key = {row.key: row for row in ROWS}
    return [key for key in keys if all(finished(models, model) for model in by_key[key].models(CONCEPTS))]


def described(models: Path, results: dict[str, Any]) -> dict[str, Any]:
    """The results with what they were made by."""
    used = {model for row in results["rows"].values() for model in row["models"].values()}
    parts = {"autoencoder", "ldm"} if any(name.startswith(("ldm", "sd")) for name in used) else set()
    made = {name: command for name, command in commands(Path("MODELS")).items() if name in used | parts}
    return {
        "command": "python -m benchmarks.published_tables --publish",
        "commands": {name: " ".join(command) for name, command in made.items()},
        "training_minutes": {name: round(RunFolder(models / name).seconds() / 60, 1) for name in made},
        "machine": machine("torch", "diffusers", n_threads=1),
        **results,
    }


def locality(results: dict[str, Any]) -> str:
    """The published Table 1, every row measured."""
    return "\n\n".join(table.text() for table in locality_tables(results))


def realism(results: dict[str, Any]) -> str:
    """The published Table 2, for every row."""
    return "\n\n".join(table.text() for table in realism_tables(results))


def held(results: dict[str, Any]) -> str:
    """The interpretable models against their controls."""
    return verdicts(results)


def report(results: dict[str, Any]) -> str:
    """Both tables."""
    return "\n\n\n".join([text_of(results, "locality"), text_of(results, "realism"), cost(results)])


def cost(results: dict[str, Any]) -> str:
    """How long models and rows took, and on what."""
    minutes = sum(row["seconds"] for row in results["rows"].values()) / 60
    training = sum(results["training_minutes"].values()) / 60
    took = f"models trained in {training:.1f} hours, rows measured in {minutes:.0f} minutes, one thread each"
    return f"{took}\n{results['machine']}"


def draw(results: dict[str, Any], folder: Path) -> None:
    """The pictures of the page; those of edits where the images are still there."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / "tables_trade.png").write_bytes(png(picture_of_trade(results), dpi=100))
    kept = row_pictures(folder, results)
    for concept in CONCEPTS if kept else ():
        figure = picture_of_edits(results, kept, concept, given=True, count=2)
        (PICTURES / f"tables_edits_{concept}.png").write_bytes(png(figure, dpi=75))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "tables", help="where the run folders are")
    parser.add_argument("--out", type=Path, help="where rows are measured (MODELS/measured)")
    parser.add_argument("--make", nargs="+", metavar="MODEL", help="make these models, or all, and no more")
    parser.add_argument("--rows", nargs="+", help="measure these rows; all by default")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--quick", action="store_true", help="few images, and only rows whose models are there")
    parser.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    parser.add_argument("--redraw", action="store_true", help="draw and print what was published before")
    options = parser.parse_args()
    out = options.out or options.models / ("measured-quick" if options.quick else "measured")
    if options.redraw:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        draw(results, out)
        print(report(results))
        return
    torch.set_num_threads(1)
    if options.make:
        make(options.models, commands(options.models) if options.make == ["all"] else options.make)
        return
    keys = available(options.models, options.rows) if options.quick else options.rows
    config = QUICK if options.quick else TablesConfig()
    if not options.quick:
        wanted = [row for row in ROWS if keys is None or row.key in keys]
        make(options.models, {model for row in wanted for model in row.models(CONCEPTS)})
    rows = systems_of(options.models, config.concepts, keys)
    measure_tables(rows, partial(open_domain, "faces", 32, 2), config, out, workers=options.workers)
    results = described(options.models, assemble(out))
    print("\n" + report(results))
    if options.publish and not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS, results)
        draw(results, out)


if __name__ == "__main__":
    main()
