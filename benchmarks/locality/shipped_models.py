"""Make the models that ship with the package: the face parser and the small DDPMs of rendered faces, with their cards.

    python -m benchmarks.locality.shipped_models parser
    shapkit-diffusion train --data faces --flip --log-every 50 --threads 1 --out runs/faces32
    python -m benchmarks.locality.shipped_models plain runs/faces32
    shapkit-diffusion train --architecture region --data faces --flip --steps 10000 --batch-size 16 --precision no \
        --log-every 50 --threads 1 --out runs/faces32_local
    python -m benchmarks.locality.shipped_models local runs/faces32_local
    python -m benchmarks.locality.study --run staged-2400
    python -m benchmarks.locality.shipped_models composed runs/study/staged-2400-1/run

The last word is a run folder: its model is measured, its training curve drawn, and both written with the weights into
``adapters/shapkit_diffusion/models/``.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.locality.region_transformer import tokens_of
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import SHIPPED, load_denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, Evaluation, evaluate, realism_floor
from shapkit_diffusion.pictures.comparison import picture_of_training
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import RunFolder, read_json, write_json
from shapkit_diffusion.segmentation.small import mean_intersection_over_union, save_parser, train_parser

MODELS = Path(__file__).parents[2] / "adapters" / "shapkit_diffusion" / "models"

PLAIN_CARD = """# A small DDPM of rendered faces, 32 x 32

An unconditional pixel diffusion model (diffusers `UNet2DModel`, {parameters:,} parameters, v-prediction, cosine
schedule of 1,000 timesteps) of the faces that `shapkit_diffusion.data.render_faces` draws. It exists to be
looked into and fine-tuned: it is trained without any penalty, and the noise of one region moves others, as measured
below. MIT licence.

* **Recipe**: `shapkit-diffusion train --data faces --flip --log-every 50 --threads 1 --out runs/faces32`
* **Data**: 16,384 rendered faces (seed 0), mirrored by chance. No photograph, no person.
* **Training**: {steps:,} steps of {batch_size} images, AdamW, learning rate {learning_rate:g} after {warmup} steps,
  then a half cosine to zero; average of the weights with decay {ema:g}; bf16 autocast; seed {seed}.
* **Time**: {minutes:.0f} minutes with one thread on {machine}, beside other work; interrupted once and resumed.
{measured}"""

LOCAL_CARD = """# A region transformer of rendered faces, 32 x 32

A pixel diffusion model whose noise is local by construction: the noise of the eyes, the nose and the mouth owns the
eyes, the nose and the mouth of the image. Its attention mask is the graph that says who may look at whom
(`docs/region_transformer.md`). MIT licence.

**How it is used.** `shapkit_diffusion.load_denoiser` gives a `RegionDenoiser`: a DiT (diffusers'
`DiTTransformer2DModel`, {parameters:,} parameters, patches of {patch}, v-prediction, cosine schedule of 1,000
timesteps) over the tokens of {regions}. The rest is generated first, then each concept, which looks at the finished
rest. `composition.safetensors` says which pixels are whose, and holds the two embeddings that mark regions and
finished tokens. An edit of a concept computes that concept's tokens alone; all else stays as it was, bit for bit, also
in a given image, which needs no inversion. A diffusers pipeline, whose attention has no mask, refuses the folder and
says so.

* **Recipe**: `python -m benchmarks.locality.shipped_models local RUN` after
  `shapkit-diffusion train --architecture region --data faces --flip --steps {steps} --batch-size {batch_size}
  --precision no --log-every 50 --threads 1 --out RUN`
* **Data**: 16,384 rendered faces (seed 0), mirrored by chance. No photograph, no person.
* **Training**: {steps:,} steps of {batch_size} images, AdamW, learning rate {learning_rate:g} after {warmup} steps,
  then a half cosine to zero; average of the weights with decay {ema:g}; float32; seed {seed}. The weights are stored,
  and were measured, in half precision.
* **Time**: {minutes:.0f} minutes with one thread on {machine}, beside other work.
* **Cost**: an image takes {image:.2f} times the tokens of a plain transformer's; an edit of the
  {edits} of those.
* **Limits**: regions are where concepts occur in aligned faces, the same for all images, in whole tokens. Concepts
  depend on one another through the rest alone.
{measured}"""

COMPOSED_CARD = """# A DDPM of rendered faces with local noise, composed of four runs, 32 x 32

The plain model beside it (`faces32`), trained on so that the noise of the eyes, the nose and the mouth owns the eyes,
the nose and the mouth of the image: it is the best arm of the reference study (`docs/study.md`). MIT licence.

**How it is used.** `shapkit_diffusion.load_denoiser` gives a `ComposedDenoiser`: the UNet (diffusers'
`UNet2DModel`, {parameters:,} parameters, v-prediction) runs once for each of {regions}; a run sees its own region and,
in a concept's run, the rest, which is generated first. `composition.safetensors` says which pixels are whose. An edit
of a concept changes that concept, and by construction nothing else. A diffusers pipeline, whose UNet would run on
whole images, for which it was not trained, refuses the folder and says so.

* **Recipe**: `python -m benchmarks.locality.study --run staged-2400`, then
  `python -m benchmarks.locality.shipped_models composed RUN`
* **Data**: 16,384 rendered faces (seed 0). No photograph, no person.
* **Training**: {steps:,} steps of {batch_size} images and four runs each, AdamW, learning rate {learning_rate:g} after
  {warmup} steps, then a half cosine to zero; average of the weights with decay {ema:g}; float32; seed {seed}. The rest
  learns from four smaller steps of the plain model, the concepts from data, with the finished rest in sight.
* **Time**: {minutes:.0f} minutes with one thread on {machine}, beside other work.
* **Limits**: regions are where concepts occur in aligned faces, the same for all images. Concepts depend on one another
  through the rest alone. Generating an image takes {runs} times the plain model's network runs, an edit of a concept
  as many as the plain model's.
{measured}"""

MEASURED = """* **Final denoising loss** (mean of the last ten logged steps): {loss:.4f}. Curve: `training_curve.png`;
  figures: `evaluation.json`.

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
    for name in CARDS:
        denoiser = commands.add_parser(name, help=f"measure a trained run and ship it as the {name} model")
        denoiser.add_argument("run", type=Path, help="run folder")
    options = parser.parse_args()
    if options.command == "parser":
        make_parser()
    else:
        ship_denoiser(options.run, options.command)


def make_parser(steps: int = 1500, batch_size: int = 64, seed: int = 0) -> None:
    """Train the face parser and state its mean IoU on faces it has not seen."""
    parser = train_parser(steps, batch_size, seed)
    faces = render_faces(2000, 32, seed=999)
    predicted = parser.parse(to_unit_range(torch.as_tensor(faces.images)))
    score, each = mean_intersection_over_union(predicted, torch.as_tensor(faces.labels).long(), len(faces.label_names))
    print(f"mean IoU {score:.4f}:", dict(zip(faces.label_names, each, strict=True)))
    facts = {"seed": str(seed), "steps": str(steps), "batch_size": str(batch_size), "mean_iou": f"{score:.4f}"}
    save_parser(parser, MODELS / "face_parser.safetensors", facts)


CARDS = {"plain": PLAIN_CARD, "local": LOCAL_CARD, "composed": COMPOSED_CARD}


def ship_denoiser(folder: Path, name: str) -> None:
    """Measure the model of a run folder and write it with its card."""
    run = RunFolder(folder)
    config = read_json(folder / "config.json")["training"]
    metrics = run.metrics()
    model, domain = load_denoiser(folder / "model"), open_domain("faces", count=2)
    if isinstance(model, RegionDenoiser):  # what is measured is what is shipped: weights of half the size
        model.network.transformer.half().float()
    measuring = EvaluateConfig()
    result = evaluate(model, domain, measuring, on_terminal("measure"))
    floor = realism_floor(domain, CONCEPTS, measuring.images)
    names = model.regions.names if isinstance(model, ComposedDenoiser | RegionDenoiser) else ()
    card = CARDS[name].format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        minutes=run.seconds() / 60,
        machine=_processor(),
        regions=", ".join(names),
        runs=len(names),
        measured=_measured(result, floor, measuring, metrics),
        **_tokens(model),
        **{key: config[key] for key in ("steps", "batch_size", "learning_rate", "warmup", "ema", "seed")},
    )
    target = MODELS / SHIPPED[name]
    figures, curve = target / "evaluation.json", target / "training_curve.png"
    for beside in (figures, curve):  # a model is saved in no folder that holds anything else
        beside.unlink(missing_ok=True)
    model.save(target, card)
    if isinstance(model, RegionDenoiser):
        weights = target / "transformer" / "diffusion_pytorch_model.safetensors"
        halves = {name: tensor.half() for name, tensor in load_file(weights).items()}
        save_file(halves, weights, metadata={"format": "pt"})
    write_json(figures, result.figures() | {"frechet_of_real_images": floor})
    curve.write_bytes(png(picture_of_training({"train": metrics}), dpi=80))
    print(f"shipped to {target}")


def _measured(
    result: Evaluation, floor: Mapping[str, float], measuring: EvaluateConfig, metrics: Sequence[Mapping[str, Any]]
) -> str:
    """What the cards say of a model's figures."""
    return MEASURED.format(
        loss=sum(line["denoising"] for line in metrics[-10:]) / 10,
        images=measuring.images,
        pairs=result.locality[0].n_pairs,
        heads=" | ".join(entry.concept for entry in result.locality),
        rules="|".join("---" for _ in result.locality),
        inside=" | ".join(f"{entry.mse_in:.4f}" for entry in result.locality),
        outside=" | ".join(f"{entry.mse_out:.5f}" for entry in result.locality),
        ratio=" | ".join(f"{entry.ratio:.4f}" for entry in result.locality),
        crop=" | ".join(f"{result.realism[c]:.3f}" for c in CONCEPTS),
        floor=" | ".join(f"{floor[c]:.3f}" for c in CONCEPTS),
        whole=result.realism["whole"],
        whole_floor=floor["whole"],
    )


def _tokens(model: Denoiser) -> dict[str, Any]:
    """What the card says of a region transformer's patches and tokens."""
    if not isinstance(model, RegionDenoiser):
        return {}
    taken = tokens_of(model, model.regions, EvaluateConfig().steps)
    edits = ", ".join(f"{concept} {taken[concept]:.0%}" for concept in CONCEPTS)
    return {"patch": model.network.config.patch_size, "image": taken["image"], "edits": edits}


def _processor() -> str:
    """The processor's name, as the system gives it."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
