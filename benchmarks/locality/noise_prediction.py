"""Models that predict noise, as published checkpoints do: generation beside diffusers, round trips, local fine-tuning.

    python -m benchmarks.locality.noise_prediction --publish   # docs/results and a picture; 25 minutes
    python -m benchmarks.locality.noise_prediction --redraw    # prints what was published

Two small models are trained by the project's own command, of a hundred photographs and of rendered faces. The one of
photographs is then trained on: without penalty, with it, and composed of a run for each region. Run folders are kept in
``--work``, taken where they are there and resumed where they were interrupted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from benchmarks.locality.latent import run_stage
from benchmarks.machine import machine
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, realism_floor
from shapkit_diffusion.noise.sampling import draw_noise, generate, invert, peak_signal_to_noise
from shapkit_diffusion.pictures.comparison import picture_of_swaps
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "noise_prediction.json"
PICTURE = ROOT / "docs" / "pictures" / "noise_prediction_swap_mouth.png"

PHOTOGRAPHS, FACES = "photographs", "rendered faces"
FOLDERS = {PHOTOGRAPHS: "photographs", FACES: "faces16"}
TUNED = {
    "control": ["--weight", "0", "--target", "noise"],
    "with penalty": [],
    "composed": ["--composed", "together"],
}
STEPS = (25, 50, 100)


def commands(work: Path) -> dict[str, list[str]]:
    """What makes the models, by run folder."""
    common = ["--threads", "1", "--precision", "no", "--flip"]
    train = ["train", "--prediction", "epsilon", *common]
    tune = ["finetune", "--data", "photographs", *common, "--model", str(work / FOLDERS[PHOTOGRAPHS] / "model")]
    return {
        FOLDERS[PHOTOGRAPHS]: [*train, "--data", "photographs", "--steps", "2500"],
        FOLDERS[FACES]: [*train, "--data", "faces", "--size", "16", "--steps", "4500"],
    } | {name.replace(" ", "-"): [*tune, *options] for name, options in TUNED.items()}


def compared(folder: Path, images: int) -> list[dict[str, float]]:
    """What is generated here and by diffusers' own loop from a model's folder, on the same noise."""
    model, rows = load_denoiser(folder), []
    noise = draw_noise(model, images, seed=0)
    for steps in STEPS:
        ours, theirs = generate(model, noise, steps, batch_size=images), _by_diffusers(model, folder, noise, steps)
        rows.append(
            {
                "steps": steps,
                "largest_difference": float((ours - theirs).abs().max()),
                "deviation": float(ours.std()),
                "deviation_diffusers": float(theirs.std()),
                "least": float(ours.min()),
                "largest": float(ours.max()),
                "deviation_unclipped": float(
                    generate(model, noise, steps, ddim=replace(model.ddim, clip_sample=False)).std()
                ),
            }
        )
    return rows


def _by_diffusers(model: Denoiser, folder: Path, noise: Tensor, steps: int) -> Tensor:
    scheduler, x = DDIMScheduler.from_pretrained(folder / "scheduler"), noise
    scheduler.set_timesteps(steps)
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            x = scheduler.step(model.unet(x, timestep.expand(len(x))).sample, timestep, x).prev_sample
    return x


def round_trips(model: Denoiser, images: Tensor) -> list[dict[str, float]]:
    """How well images come back from their noise."""
    rows = []
    for steps in STEPS:
        noise = invert(model, images, steps)
        psnr = peak_signal_to_noise(generate(model, noise, steps), images)
        rows.append(
            {
                "steps": steps,
                "mean_psnr_db": float(psnr.mean()),
                "least_psnr_db": float(psnr.min()),
                "below_40_db": int((psnr < 40).sum()),
                "noise_deviation": float(noise.std()),
            }
        )
    return rows


def measure(work: Path, config: EvaluateConfig, images: int) -> dict[str, Any]:
    """All figures."""
    domain = open_domain("photographs")
    given = {
        PHOTOGRAPHS: to_unit_range(torch.as_tensor(domain.training.rows(range(images))[0])),
        FACES: to_unit_range(torch.as_tensor(render_faces(images, 16, seed=7).images)),
    }
    trained: dict[str, Any] = {}
    for name, folder in FOLDERS.items():
        model = load_denoiser(work / folder / "model")
        trained[name] = {
            "ddim": asdict(model.ddim),
            "deviation_of_data": float(given[name].std()),
            "generated": compared(work / folder / "model", images),
            "round_trips": round_trips(model, given[name]),
        }
    tuned = {}
    for name in ("plain", *TUNED):
        folder = FOLDERS[PHOTOGRAPHS] if name == "plain" else name.replace(" ", "-")
        found = evaluate(load_denoiser(work / folder / "model"), domain, config, on_terminal(f"measure {name}"))
        tuned[name] = found.figures()
    return {
        "images": images,
        "evaluation": asdict(config) | {"concepts": list(config.concepts)},
        "trained": trained,
        "fine_tuned": tuned,
        "frechet_of_real_images": realism_floor(domain, config.concepts, config.images),
    }


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the docs."""
    lines = []
    for name, found in results["trained"].items():
        lines += [
            f"{name}: {results['images']} images generated here and by diffusers' DDIM from the same folder; "
            f"deviation of the data {found['deviation_of_data']:.3f}",
            "  steps  largest difference  deviation  diffusers'  least  largest  deviation without clipping",
        ]
        lines += [
            f"  {row['steps']:>5}  {row['largest_difference']:>18.1e}  {row['deviation']:>9.3f}  "
            f"{row['deviation_diffusers']:>10.3f}  {row['least']:>5.2f}  {row['largest']:>7.2f}  "
            f"{row['deviation_unclipped']:>26.3f}"
            for row in found["generated"]
        ]
        lines += ["  steps  round trip, mean      least  below 40 dB  deviation of the noise"]
        lines += [
            f"  {row['steps']:>5}  {row['mean_psnr_db']:>13.1f} dB  {row['least_psnr_db']:>6.1f} dB  "
            f"{row['below_40_db']:>8} of {results['images']:<2} {row['noise_deviation']:>20.3f}"
            for row in found["round_trips"]
        ]
        lines.append("")
    concepts, tuned = results["evaluation"]["concepts"], results["fine_tuned"]
    lines += [
        "photographs, trained on: locality (MSE out / MSE in) and MSE in of exchanged noise, Fréchet distances",
        f"{'':<14}" + "".join(f"{concept:>17}" for concept in concepts) + f"{'whole':>9}" + f"{'':3}crops",
    ]
    for name, found in tuned.items():
        cells = "".join(
            f"{entry['ratio']:>10.4f} {entry['mse_in']:.4f}" for entry in (found["locality"][c] for c in concepts)
        )
        crops = " ".join(f"{found['frechet'][c]:.3f}" for c in concepts)
        lines.append(f"{name:<14}{cells}{found['frechet']['whole']:>9.3f}   {crops}")
    for name in ("with penalty", "composed"):
        gains = (tuned["control"]["locality"][c]["ratio"] / tuned[name]["locality"][c]["ratio"] for c in concepts)
        lines.append(f"{name}, locality against the control: " + ", ".join(f"÷ {gain:.1f}" for gain in gains))
    return "\n".join([*lines, "", results["machine"]])


def draw(work: Path) -> None:
    """Exchanged mouths of the control, the penalised and the composed model."""
    domain, config = open_domain("photographs"), EvaluateConfig(("mouth",), pairs=8, images=100)
    swaps = {
        name: evaluate(load_denoiser(work / name.replace(" ", "-") / "model"), domain, config).swaps for name in TUNED
    }
    PICTURE.write_bytes(png(picture_of_swaps(swaps, "mouth")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "noise_prediction", help="where the runs are")
    options = parser.parse_args()
    if options.redraw:
        print(report(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    runs = commands(options.work)
    run_stage(runs, options.work)
    results = {
        "command": "python -m benchmarks.locality.noise_prediction --publish",
        "commands": {name: f"shapkit-diffusion {' '.join(command)}" for name, command in runs.items()},
        "machine": machine("torch", "diffusers", n_threads=1),
    } | measure(options.work, EvaluateConfig(CONCEPTS, pairs=64, images=100), images=32)
    print("\n" + report(results))
    if options.publish:
        write_json(RESULTS, results)
        draw(options.work)


if __name__ == "__main__":
    main()
