"""Inversion round trips of the shipped model, and a photograph that no model has seen edited through the command line.

    python -m benchmarks.locality.edits --publish     # docs/results/edits.json and the pictures; 25 minutes
    python -m benchmarks.locality.edits --roundtrips  # the first part only: half a minute, prints

The photographs' model and its fine-tuning are commands of the project; their run folders are kept in --work, taken
where they are there and resumed where they were interrupted. The photograph is scikit-image's astronaut (NASA, public
domain), cropped to the face as the training photographs are.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from skimage import data as skimage_data

from benchmarks.machine import machine
from shapkit_diffusion.cli import main as shapkit_diffusion
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.loading import shipped_model
from shapkit_diffusion.noise.sampling import generate, invert, peak_signal_to_noise
from shapkit_diffusion.runs import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "edits.json"
PICTURES = ROOT / "docs" / "pictures"

FACE = (186, 70, 284, 168)
"""Left, top, right and bottom of the face in the photograph, so that eyes, nose and mouth lie where the template is."""

EDITS = {"free": [], "replay": ["--outside", "replay"]}


def round_trips(count: int, settings: tuple[tuple[int, int], ...]) -> list[dict[str, float]]:
    """PSNR of faces that the shipped model was not trained on, inverted and made again: (steps, refinements)."""
    model = shipped_model()
    images = to_unit_range(torch.as_tensor(render_faces(count, 32, seed=7).images))
    rows = []
    for steps, refinements in settings:
        noise = invert(model, images, steps, refinements)
        psnr = peak_signal_to_noise(generate(model, noise, steps), images)
        rows.append(
            {
                "steps": steps,
                "refinements": refinements,
                "mean_psnr_db": float(psnr.mean()),
                "least_psnr_db": float(psnr.min()),
                "noise_deviation": float(noise.std()),
            }
        )
        print(f"{steps} steps, {refinements} refinements: {rows[-1]['least_psnr_db']:.1f} dB at least", flush=True)
    return rows


def commands(work: Path) -> dict[str, list[str]]:
    """What makes the photographs' models."""
    common = ["--data", "photographs", "--threads", "1", "--precision", "no"]
    tune = ["--steps", "1200", "--anchor-substeps", "1"]
    plain = ["--steps", "2500", "--flip", "--learning-rate", "1e-3", "--warmup", "200", "--ema", "0.999"]
    return {
        "plain": ["train", *common, *plain],
        "local": ["finetune", *common, "--model", str(work / "plain" / "model"), *tune],
    }


def edit_photograph(work: Path) -> dict[str, Any]:
    """Train what is missing, edit, and say how well the photograph went round."""
    for name, command in commands(work).items():
        folder = work / name
        if not (folder / "model").is_dir():
            resume = ["--resume"] if (folder / "config.json").is_file() else []
            _run([*command, "--out", str(folder), *resume])
    photograph = work / "astronaut.png"
    Image.fromarray(skimage_data.astronaut()).crop(FACE).save(photograph)
    ran: dict[str, Any] = {}
    for outside, options in EDITS.items():
        out = work / f"edit-{outside}"
        shutil.rmtree(out, ignore_errors=True)
        command = [
            "edit",
            "--data",
            "photographs",
            "--model",
            str(work / "local" / "model"),
            "--image",
            str(photograph),
        ]
        command += ["--region", "mouth", "--region", "eyes", "--variants", "4", "--steps", "50", *options]
        _run([*command, "--out", str(out)])
        trip = json.loads((out / "round_trip.json").read_text(encoding="utf-8"))
        ran[outside] = {
            "command": f"shapkit-diffusion {' '.join([*command, '--out', str(out)])}",
            "psnr_db": trip["psnr_db"][0],
        }
    return ran


def _run(command: list[str]) -> None:
    status = shapkit_diffusion(command)
    if status:
        raise SystemExit(status)


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the docs."""
    lines = [
        f"{results['faces']} rendered faces the shipped model has not seen, inverted and generated again",
        "  steps  refinements  network runs  PSNR mean  PSNR least  deviation of the noise",
    ]
    for row in results["round_trips"]:
        runs = row["steps"] * (2 + row["refinements"])
        lines.append(
            f"  {row['steps']:>5}  {row['refinements']:>11}  {runs:>12}  {row['mean_psnr_db']:>6.1f} dB  "
            f"{row['least_psnr_db']:>7.1f} dB  {row['noise_deviation']:>22.3f}"
        )
    if "photograph" in results:
        trip = results["photograph"]["free"]["psnr_db"]
        lines += ["", f"a photograph that no model has seen, 50 steps, 3 refinements: {trip:.1f} dB"]
    return "\n".join([*lines, "", results["machine"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    parser.add_argument("--roundtrips", action="store_true", help="no photograph")
    parser.add_argument("--faces", type=int, default=32, help="faces of the round trips")
    parser.add_argument("--work", type=Path, default=Path("runs/photographs"), help="where the photographs' models are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": "python -m benchmarks.locality.edits --publish",
        "machine": machine("torch", "diffusers", n_threads=1),
        "faces": options.faces,
        "round_trips": round_trips(options.faces, ((25, 0), (25, 3), (50, 0), (50, 1), (50, 3), (100, 3))),
    }
    if not options.roundtrips:
        results["photograph"] = edit_photograph(options.work)
    print("\n" + report(results))
    if options.publish:
        write_json(RESULTS, results)
        for outside in EDITS:
            shutil.copyfile(options.work / f"edit-{outside}" / "edits.png", PICTURES / f"edits_{outside}.png")


if __name__ == "__main__":
    main()
