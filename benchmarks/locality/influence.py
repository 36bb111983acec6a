"""Which region of the noise drives which region of the image: the plain model, fine-tuned ones, and the local one.

    python -m benchmarks.locality.influence --publish   # docs/results/influence.json and a picture; 15 minutes
    python -m benchmarks.locality.influence             # the same, prints only
    python -m benchmarks.locality.influence --quick     # a minute or two: few images, few training steps, prints only
    python -m benchmarks.locality.influence --local --publish   # the local model anew, the others as published
    python -m benchmarks.locality.influence --redraw    # the picture and the text from the JSON

The plain model of 32 x 32 faces is fine-tuned as `shapkit-diffusion demo` does it, but in float32 (resumed where it was
interrupted, kept in runs/influence), or a model that is there already is taken: --penalised
runs/demo-faces/penalty/model. These and the local model that comes with the package then generate images of the same
noise, and every influence is exact in the coalitions of four regions: errors are those of the images, by the jackknife
over independent pairs. For nine regions, estimates stand beside exact values.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from benchmarks.machine import machine
from shapkit import Attribution
from shapkit.differentiable import Regions, allowed_influence, star
from shapkit_diffusion.demo import FINETUNE
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser, shipped_model
from shapkit_diffusion.evaluation.domains import CONCEPTS, open_domain
from shapkit_diffusion.noise.influence import (
    END_TO_END,
    Influence,
    influence_at,
    influence_maps,
    outside_error,
    outside_mass,
    outside_masses,
)
from shapkit_diffusion.noise.jackknife import jackknife_error
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.pictures.influence import (
    influence_json,
    influence_text,
    interactions_text,
    picture_of_influences,
)
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import write_json
from shapkit_diffusion.training.denoiser import train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "influence.json"
PICTURE = ROOT / "docs" / "pictures" / "influence.png"

PLAIN, PENALISED, LOCAL = "plain", "fine-tuned with penalty", "shipped, local"
TIMESTEPS = (50, 250, 500, 750, 950)
INTERACTIONS = "k-SII"
SEED = 77  # of the noise: none that a model was trained or measured with elsewhere


def fine_tuned(folder: Path, steps: int) -> Denoiser:
    """The plain model after ``steps`` of the demonstration's fine-tuning, from ``folder`` as far as it is there."""
    if not (folder / "model").is_dir():
        # In float32, because bf16 is many times slower on processors without instructions for it.
        config = replace(FINETUNE, steps=steps, precision="no", save_every=50)
        resume = (folder / "config.json").is_file()
        train(
            shipped_model(),
            open_domain("faces").training,
            config,
            folder,
            resume=resume,
            progress=on_terminal("fine-tune"),
        )
    return load_denoiser(folder / "model")


def measure_models(models: Mapping[str, Denoiser], n_images: int, steps: int) -> dict[str, Any]:
    """The influence maps of every model on images of the same noise, and what is left of the plain one's leaks."""
    domain = open_domain("faces", count=2)
    maps: dict[str, dict[str, Influence]] = {}
    for name, model in models.items():
        print(f"measuring: {name}", flush=True)
        maps[name] = influence_maps(
            model,
            draw_noise(model, n_images, SEED),
            lambda images: domain.regions(images, CONCEPTS),
            TIMESTEPS,
            steps,
            SEED,
            interactions=INTERACTIONS,
        )
    allowed = allowed_influence(star(), (*CONCEPTS, "rest"))
    results: dict[str, Any] = {"n_images": n_images, "steps": steps, "models": {}, "factors": {}}
    for name, columns in maps.items():
        results["models"][name] = {
            column: influence_json(found)
            | {"outside": outside_mass(found, allowed), "outside_error": outside_error(found, allowed)}
            for column, found in columns.items()
        }
    for name, columns in maps.items():
        if name != PLAIN:
            results["factors"][name] = {
                column: factor(maps[PLAIN][column], found, allowed) for column, found in columns.items()
            }
    return results


def factor(before: Influence, after: Influence, allowed: torch.Tensor) -> dict[str, float]:
    """How many times less comes from outside the graph, and the standard error of its logarithm.

    Pair p of images comes from the same noise in both models, so both leave it out together.
    """
    ratio = outside_mass(before, allowed) / outside_mass(after, allowed)
    logs = np.log(outside_masses(before.without_pair, allowed) / outside_masses(after.without_pair, allowed))
    return {"factor": ratio, "error_of_logarithm": float(jackknife_error(logs))}


def measure_estimates(model: Denoiser, n_images: int, budgets: tuple[int, ...]) -> dict[str, Any]:
    """Nine regions, the cells of a grid, within a run at t = 500: estimates beside the exact values, same images."""
    images = generate(model, draw_noise(model, n_images, SEED + 1), steps=10)
    _, height, width = model.image_shape
    cells = Regions.grid(3, 3, height, width)
    exactly = influence_at(model, images, cells, 500, SEED, budget=2**9)
    rows = []
    for budget in budgets:
        found = influence_at(model, images, cells, 500, SEED, budget=budget)
        distance = np.abs(found.values - exactly.values)
        low, high = found.attribution.interval(0.95)
        rows.append(
            {
                "coalitions": found.attribution.n_evaluations,
                "distance": float(distance.mean()),
                "within_intervals": float(((low <= exactly.values) & (exactly.values <= high)).mean()),
                "error": float(found.standard_errors.mean()),
            }
        )
        print(f"nine regions, {budget} coalitions: distance {rows[-1]['distance']:.4f}", flush=True)
    return {"n_images": n_images, "error_of_exact": float(exactly.standard_errors.mean()), "rows": rows}


def headline(results: dict[str, Any]) -> str:
    """How much regions outside the graph drive, in every model."""
    models = results["models"]
    columns = list(next(iter(models.values())))
    margin = 2 + max(map(len, models))
    lines = [
        "from regions outside the star graph (concepts see themselves and the rest, the rest itself): share (%) of a",
        f"region's change, mean over regions ± standard error; {results['n_images']} images, DDIM in "
        f"{results['steps']} steps",
        " " * margin + "".join(f"{column:>14}" for column in columns),
    ]
    for name, found in models.items():
        cells = (f"{100 * one['outside']:.2f} ± {100 * one['outside_error']:4.2f}" for one in found.values())
        lines.append(f"{name:<{margin}}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and on the page."""
    models, lines = results["models"], [headline(results)]
    margin = 2 + max(map(len, models))
    for name, factors in results["factors"].items():
        if len(results["factors"]) > 1:
            lines.append(name)
        cells = (f"÷ {one['factor']:.1f}" for one in factors.values())
        lines.append(f"{'  less by a factor':<{margin}}" + "".join(f"{cell:>14}" for cell in cells))
        spans = (_span(**one, n_pairs=results["n_images"] // 2) for one in factors.values())
        lines.append(f"{'  95 % interval':<{margin}}" + "".join(f" {span:>13}" for span in spans))
    for name, found in models.items():
        lines += ["", f"{name}, {END_TO_END}: share (%) of each output region's change (row) by input region (column)"]
        lines.append(influence_text(read(found[END_TO_END])))
    for name, found in models.items():
        lines += [
            "",
            f"{name}, {END_TO_END}: interaction (%) of two input regions (row) in each output region (column)",
        ]
        lines.append(interactions_text(read(found[END_TO_END])))
    estimates = results["estimates"]
    lines += [
        "",
        f"nine regions, one run at t = 500, {estimates['n_images']} images: estimated beside exact (512 coalitions a "
        f"pair, mean error {100 * estimates['error_of_exact']:.2f} %)",
    ]
    for row in estimates["rows"]:
        lines.append(
            f"  {row['coalitions']:>4} coalitions a pair: mean error {100 * row['error']:.2f} %, mean distance from "
            f"exact {100 * row['distance']:.3f} %, {row['within_intervals']:.0%} of them in the 95 % intervals"
        )
    lines += ["", results["machine"]]
    return "\n".join(lines)


def _span(factor: float, error_of_logarithm: float, n_pairs: int) -> str:
    spread = np.exp(stdtrit(n_pairs - 1, 0.975) * error_of_logarithm)
    return f"{factor / spread:.1f} to {factor * spread:.1f}"


def read(entry: dict[str, Any]) -> Influence:
    """The matrix and interactions of one entry of the JSON, without the replicates."""
    n_regions = len(entry["regions"])

    def attribution(values: list[Any], errors: list[Any], index: str, order: int) -> Attribution:
        return Attribution(
            values=np.array(values).T,
            standard_errors=np.array(errors, dtype=np.float64).T,
            empty_value=np.zeros(n_regions),
            grand_value=np.ones(n_regions),
            n_evaluations=entry["coalitions_per_pair"],
            names=tuple(entry["regions"]),
            index=index,
            method=entry["method"],
            order=order,
        )

    pairs = entry["interactions"]
    return Influence(
        attribution(entry["output_by_input"], entry["standard_errors"], "shapley", 1),
        without_pair=np.empty((0, n_regions, n_regions)),
        n_images=entry["n_images"],
        interactions=attribution(pairs["output_by_inputs"], pairs["standard_errors"], pairs["index"], 2),
    )


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    rows = {name: {column: read(entry) for column, entry in found.items()} for name, found in results["models"].items()}
    before, after, local = (100 * results["models"][name][END_TO_END]["outside"] for name in (PLAIN, PENALISED, LOCAL))
    title = (
        f"From noise to image, fine-tuning with the penalty takes influence from outside the graph from {before:.1f} % "
        f"to {after:.1f} % of a region's change; the local model has {local:.1f} %\n"
        "(concepts may depend on themselves and the rest, the rest on itself; share of the output's change in % ± "
        f"standard error, {results['n_images']} images)"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture_of_influences(rows, title), dpi=100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and training steps")
    parser.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    parser.add_argument("--redraw", action="store_true", help="draw and print what was published before")
    parser.add_argument("--penalised", type=Path, help="folder of a model fine-tuned with the penalty")
    parser.add_argument("--control", type=Path, help="folder of a model fine-tuned without it, measured too")
    parser.add_argument("--images", type=int, help="generated images to average over, even (48; quick: 4)")
    parser.add_argument("--steps", type=int, help="DDIM steps (10; quick: 2)")
    parser.add_argument("--training-steps", type=int, default=FINETUNE.steps, help="of the fine-tuning")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "influence", help="where fine-tuning is kept")
    parser.add_argument("--threads", type=int, default=1, help="threads of the network's operations")
    parser.add_argument(
        "--local", action="store_true", help="measure the local model again, and the plain one that it is compared with"
    )
    options = parser.parse_args()
    if options.redraw:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        draw(results, PICTURE)
        print(report(results))
        return
    torch.set_num_threads(options.threads)
    command = " ".join(["python -m benchmarks.locality.influence", *sys.argv[1:]])
    if options.local:
        results = with_local(json.loads(RESULTS.read_text(encoding="utf-8"))) | {"command_of_local": command}
        _told(results, options.publish)
        return
    quick = options.quick
    models = {PLAIN: shipped_model("plain")}
    if options.control:
        models["fine-tuned without"] = load_denoiser(options.control)
    if options.penalised:
        models[PENALISED] = load_denoiser(options.penalised)
    else:
        folder = options.work / ("quick" if quick else "penalty")
        models[PENALISED] = fine_tuned(folder, 10 if quick else options.training_steps)
    models[LOCAL] = shipped_model("local")
    n_images, steps = options.images or (4 if quick else 48), options.steps or (2 if quick else 10)
    results = {
        "command": command,
        "machine": machine("torch", "diffusers", n_threads=torch.get_num_threads()),
    }
    results |= measure_models(models, n_images, steps)
    results["estimates"] = measure_estimates(models[PLAIN], 4 if quick else 8, (18,) if quick else (18, 66, 258))
    _told(results, options.publish)


def with_local(results: dict[str, Any]) -> dict[str, Any]:
    """Published results with the local model measured anew, on images of the same noise."""
    models = {PLAIN: shipped_model("plain"), LOCAL: shipped_model("local")}
    found = measure_models(models, results["n_images"], results["steps"])
    return results | {part: results[part] | {LOCAL: found[part][LOCAL]} for part in ("models", "factors")}


def _told(results: dict[str, Any], publish: bool) -> None:
    print("\n" + report(results))
    if publish:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS, results)
        draw(results, PICTURE)


if __name__ == "__main__":
    main()
