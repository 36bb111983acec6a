"""Make the models that ship with the package: the face parser and the small DDPM of rendered faces, with its card.

    python benchmarks/shipped_models.py parser
    shapkit-diffusion train --data faces --flip --log-every 50 --threads 1 --out runs/faces32
    python benchmarks/shipped_models.py denoiser runs/faces32

The last step measures the trained model, draws its training curve, and writes both with the weights into
``adapters/shapkit_diffusion/models/``.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from shapkit_diffusion import report
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers import load_denoiser
from shapkit_diffusion.domains import CONCEPTS, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, realism_floor
from shapkit_diffusion.pixels import to_unit_range
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import RunFolder, write_json
from shapkit_diffusion.segmentation.small import mean_intersection_over_union, save_parser, train_parser

MODELS = Path(__file__).parents[1] / "adapters" / "shapkit_diffusion" / "models"

CARD = """# A small DDPM of rendered faces, 32 x 32

An unconditional pixel diffusion model (diffusers `UNet2DModel`, {parameters:,} parameters, v-prediction, cosine
schedule of 1,000 timesteps) of the faces that `shapkit_diffusion.data.render_faces` draws. It exists to be
looked into and fine-tuned: it is trained without any penalty, and the noise of one region moves others, as measured
below. MIT licence.

* **Recipe**: {command}
* **Data**: 16,384 rendered faces (seed 0), mirrored by chance. No photograph, no person.
* **Training**: {steps:,} steps of {batch_size} images, AdamW, learning rate {learning_rate:g} after {warmup} steps,
  then a half cosine to zero; average of the weights with decay {ema:g}; bf16 autocast; seed {seed}.
* **Time**: {minutes:.0f} minutes with one thread on {machine}, beside other work; interrupted once and resumed.
* **Final denoising loss** (mean of the last ten logged steps): {loss:.4f}. Curve: `training_curve.png`; figures:
  `evaluation.json`.

Measured on {images} generated images and {pairs} pairs (DDIM, 25 steps; locality by each region's own area):

| | {heads} |
|---|{rules}|
| MSE in | {inside} |
| MSE out | {outside} |
| locality (out / in) | {ratio} |
| Fréchet distance of the crop | {crop} |
| the same of real images | {floor} |

Fréchet distance of whole images: {whole:.3f} (real images against real images: {whole_floor:.3f}), in features of the
shipped face parser.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the shipped models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("parser", help="train the face parser")
    denoiser = commands.add_parser("denoiser", help="measure a trained run and ship it")
    denoiser.add_argument("run", type=Path, help="run folder of `shapkit-diffusion train`")
    options = parser.parse_args()
    if options.command == "parser":
        make_parser()
    else:
        ship_denoiser(options.run)


def make_parser(steps: int = 1500, batch_size: int = 64, seed: int = 0) -> None:
    """Train the face parser and state its mean IoU on faces it has not seen."""
    parser = train_parser(steps, batch_size, seed)
    faces = render_faces(2000, 32, seed=999)
    predicted = parser.parse(to_unit_range(torch.as_tensor(faces.images)))
    score, each = mean_intersection_over_union(predicted, torch.as_tensor(faces.labels).long(), len(faces.label_names))
    print(f"mean IoU {score:.4f}:", dict(zip(faces.label_names, each, strict=True)))
    facts = {"seed": str(seed), "steps": str(steps), "batch_size": str(batch_size), "mean_iou": f"{score:.4f}"}
    save_parser(parser, MODELS / "face_parser.safetensors", facts)


def ship_denoiser(folder: Path) -> None:
    """Measure the model of a run folder and write it with its card."""
    run = RunFolder(folder)
    config = json.loads((folder / "config.json").read_text())["training"]
    metrics = run.metrics()
    model, domain = load_denoiser(folder / "model"), open_domain("faces", count=2)
    measuring = EvaluateConfig()
    result = evaluate(model, domain, measuring, on_terminal("measure"))
    floor = realism_floor(domain, CONCEPTS, measuring.images)
    target = MODELS / "faces32"
    card = CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        command="`shapkit-diffusion train --data faces --flip --log-every 50 --threads 1 --out runs/faces32`",
        minutes=run.seconds() / 60,
        machine=_processor(),
        loss=sum(line["denoising"] for line in metrics[-10:]) / 10,
        images=measuring.images,
        pairs=result.locality[0].n_pairs,
        heads=" | ".join(entry.concept for entry in result.locality),
        rules="|".join("---" for _ in result.locality),
        inside=" | ".join(f"{entry.mse_in:.4f}" for entry in result.locality),
        outside=" | ".join(f"{entry.mse_out:.5f}" for entry in result.locality),
        ratio=" | ".join(f"{entry.ratio:.3f}" for entry in result.locality),
        crop=" | ".join(f"{result.realism[c]:.3f}" for c in CONCEPTS),
        floor=" | ".join(f"{floor[c]:.3f}" for c in CONCEPTS),
        whole=result.realism["whole"],
        whole_floor=floor["whole"],
        **{key: config[key] for key in ("steps", "batch_size", "learning_rate", "warmup", "ema", "seed")},
    )
    model.save(target, card)
    write_json(target / "evaluation.json", result.figures() | {"frechet_of_real_images": floor})
    (target / "training_curve.png").write_bytes(report.png(report.picture_of_training({"train": metrics}), dpi=80))
    print(f"shipped to {target}")


def _processor() -> str:
    """The processor's name, as the system gives it."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
