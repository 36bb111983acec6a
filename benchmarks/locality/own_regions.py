"""A region transformer that is edited by each image's own regions, beside one of a partition for all: given faces.

    python -m benchmarks.locality.region_transformer --seeds 0 --noises 4 --publish equal_time   # makes the model
    MODEL=runs/region_transformer/region-0-run/model
    python -m benchmarks.locality.own_regions $MODEL --publish      # docs/results/own_regions.json and the picture
    python -m benchmarks.locality.own_regions --domain photographs --edited 204 --steps 2000 \
        --learning-rate 1e-3 --publish
    python -m benchmarks.locality.own_regions --redraw

Rendered faces: from one region transformer, trained on for equal steps, on its partition and on label maps
(``regions="label_maps"``). Photographs: both from scratch, on 80 of those that have labels of their own. Then every
concept of faces that neither has seen is drawn anew in the face as it is, without an inversion (`Original.as_given`):
by the partition, and by the face's own regions (`RegionDenoiser.with_regions`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.locality.region_transformer import described_machine, edited_part
from shapkit._optional import require
from shapkit.differentiable import Regions
from shapkit_diffusion.data.faces import redraw_concept, render_faces
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.photographs import lfw_photographs
from shapkit_diffusion.data.pixels import to_bytes, to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_transformer
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.evaluation.edit_measures import measure_edits
from shapkit_diffusion.evaluation.evaluate import realism_reference
from shapkit_diffusion.evaluation.locality import LocalityConvention
from shapkit_diffusion.evaluation.realism_measures import RealismReference, measure_realism
from shapkit_diffusion.noise.edits import Edit, Original, edit_by_own_regions, edit_original
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.runs import write_json
from shapkit_diffusion.training.batches import template_regions
from shapkit_diffusion.training.config import TrainConfig
from shapkit_diffusion.training.denoiser import train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "own_regions.json"
PICTURES = {
    "faces": ROOT / "docs" / "pictures" / "own_regions.png",
    "photographs": ROOT / "docs" / "pictures" / "own_photographs.png",
}
TIMED, SHOWN = 9, 6
SEEN = 80
"""Photographs that are trained on; the other 17 are kept back."""
ARMS = ("partition", "own regions")


@dataclass(frozen=True)
class Plan:
    """What is trained and measured."""

    domain: str = "faces"
    steps: int = 600
    batch_size: int = 16
    noises: int = 4
    learning_rate: float = 5e-4
    faces: int = 16384
    edited: int = 200
    sampling_steps: int = 25
    dilation: int = 1


@dataclass(frozen=True)
class Given:
    """Faces that are not trained on: images, the regions of each, and concepts that a renderer drew anew."""

    images: Tensor
    own: Regions
    redrawn: Mapping[str, Tensor]


def opened(plan: Plan) -> Domain:
    """What is trained on and compared with."""
    if plan.domain == "faces":
        return open_domain("faces", 32, plan.faces)
    return replace(open_domain("photographs:own"), training=lfw_photographs(own_labels=True)[:SEEN])


def given(plan: Plan) -> Given:
    """The faces of a plan. A photograph that is kept back is edited several times, to make up the number."""
    if plan.domain == "faces":
        faces = render_faces(plan.edited, 32, seed=5)
        drawn = {concept: redraw_concept(concept, plan.edited, 32, seed=5) for concept in CONCEPTS}
        redrawn = {concept: to_unit_range(torch.as_tensor(anew.images)) for concept, anew in drawn.items()}
    else:
        every, redrawn = lfw_photographs(own_labels=True), {}
        faces = every[np.resize(np.arange(SEEN, len(every)), plan.edited)]
    labels, wanted = torch.as_tensor(faces.labels).long(), concept_labels(faces.label_names, CONCEPTS)
    own = Regions.from_labels(labels, wanted, dilation=plan.dilation, missing="allow")
    return Given(to_unit_range(torch.as_tensor(faces.images)), own, redrawn)


def trained(plan: Plan, source: Path | None, arm: str, domain: Domain, out: Path) -> RegionDenoiser:
    """The model of an arm: trained, from a model or from scratch, or found where it was."""
    folder = out / arm.replace(" ", "_")
    if not (folder / "model").exists():
        if source is None:
            fresh = small_transformer(domain.reference.size[0], domain.reference.images.shape[1], seed=0)
            partition = template_regions(domain.training, fresh, CONCEPTS, dilation=plan.dilation, mirrored=True)
            model: Denoiser = RegionDenoiser(fresh, partition)
        else:
            model = load_denoiser(source)
        config = TrainConfig(
            plan.steps,
            plan.batch_size,
            plan.learning_rate,
            warmup=20,
            decay=True,
            ema=0.99,
            flip=True,
            noises_per_image=plan.noises,
            regions="template" if arm == "partition" else "label_maps",
            dilation=plan.dilation,
        )
        train(model, domain.training, config, folder, resume=folder.exists())
    found = load_denoiser(folder / "model")
    assert isinstance(found, RegionDenoiser)
    return found


def edited_by(plan: Plan, model: RegionDenoiser, images: Tensor, own: Regions, arm: str, concept: str) -> Tensor:
    """The faces with a concept drawn anew, each as it is otherwise."""
    edits = [Edit(concept, seed=11)]
    if arm != "partition":
        return edit_by_own_regions(model, images, own, edits, plan.sampling_steps).edited
    original = Original.as_given(model, images, plan.sampling_steps)
    return edit_original(model, original, model.regions, edits).edited


def costs(plan: Plan, model: RegionDenoiser, images: Tensor, own: Regions, arm: str, concept: str) -> dict[str, float]:
    """What an edit of one face takes of generating one: tokens in the mean over the faces, seconds in the median."""
    tokens, edits, whole = [], [], []
    for number in range(len(images)):
        local = model if arm == "partition" else model.with_regions(own.select([number]))
        changed = edited_part(local, local.regions, concept) > 0
        stages = local.network.tokens.stages(local.network.changed_tokens(changed))
        every = local.network.tokens.stages()
        taken, all_taken = (
            sum(plan.sampling_steps * len(stage.tokens) + len(stage.context) for stage in some)
            for some in (stages, every)
        )
        tokens.append(taken / all_taken)
        if number < TIMED:
            started = time.perf_counter()
            original = Original.as_given(local, images[number : number + 1], plan.sampling_steps)
            edit_original(local, original, local.regions, [Edit(concept)])
            between = time.perf_counter()
            generate(local, draw_noise(local, 1, number), plan.sampling_steps)
            edits.append(between - started)
            whole.append(time.perf_counter() - between)
    return {"tokens": statistics.mean(tokens), "seconds": statistics.median(edits) / statistics.median(whole)}


def measured(
    plan: Plan, images: Tensor, edited: Tensor, own: Regions, concept: str, reference: RealismReference
) -> dict[str, float]:
    """Locality by each face's own region, the crop's realism, and how much outside of it is as it was, bit for bit."""
    found = measure_edits(
        concept,
        images,
        edited,
        own.mask(concept),
        convention=LocalityConvention(dilation=plan.dilation),
        grown=plan.dilation,
        features=reference.features,
        box=reference.boxes[concept],
    )
    same = (images == edited).all(dim=1, keepdim=True)
    return {
        "ratio": found.ratio,
        "mse_in": found.mse_in,
        "diversity": found.mean_diversity,
        "same_outside": float(same[own.mask(concept) == 0].float().mean()),
        "frechet": measure_realism(edited, reference).crops[concept].fid,
    }


def run(plan: Plan, source: Path | None, out: Path) -> dict[str, Any]:
    """All figures: of both arms, of a renderer drawing a concept anew, and of the faces as they are."""
    domain, faces = opened(plan), given(plan)
    reference = realism_reference(domain)
    results: dict[str, Any] = {"arms": {}, "data": {}, "faces": {}}
    for concept in CONCEPTS:
        if faces.redrawn:
            redrawn = faces.redrawn[concept]
            results["data"][concept] = measured(plan, faces.images, redrawn, faces.own, concept, reference)
        results["faces"][concept] = {"frechet": measure_realism(faces.images, reference).crops[concept].fid}
    for arm in ARMS:
        model = trained(plan, source, arm, domain, out)
        results["arms"][arm] = {}
        for concept in CONCEPTS:
            edited = edited_by(plan, model, faces.images, faces.own, arm, concept)
            figures = measured(plan, faces.images, edited, faces.own, concept, reference)
            results["arms"][arm][concept] = figures | costs(plan, model, faces.images, faces.own, arm, concept)
            print(arm, concept, results["arms"][arm][concept], flush=True)
    return {
        "command": f"python -m benchmarks.locality.own_regions {' '.join(sys.argv[1:])}",
        "machine": described_machine(),
        "plan": asdict(plan),
        **results,
    }


def draw(plan: Plan, models: dict[str, RegionDenoiser], path: Path) -> None:
    """The picture: given faces, and below each the same with one concept drawn anew, by either arm."""
    plt = require("matplotlib.pyplot", extra="plots", purpose="the picture")
    faces = given(replace(plan, edited=SHOWN))
    figure, axes = plt.subplots(1, len(models), figsize=(6.4 * len(models), 4.9), squeeze=False, layout="constrained")
    for axis, (arm, model) in zip(axes[0], models.items(), strict=True):
        edited = [edited_by(plan, model, faces.images, faces.own, arm, concept) for concept in CONCEPTS]
        pixels = [np.concatenate(list(to_bytes(row).transpose(0, 2, 3, 1)), axis=1) for row in (faces.images, *edited)]
        axis.imshow(np.concatenate(pixels), cmap="grey", vmin=0, vmax=255, interpolation="nearest")
        side = faces.images.shape[-1]
        axis.set_yticks([side * (row + 0.5) for row in range(len(pixels))], ["given", *(f"new {c}" for c in CONCEPTS)])
        axis.set_xticks([])
        axis.set_title({"partition": "by one partition for all", "own regions": "by each face's own regions"}[arm])
    figure.suptitle("Given faces with one concept drawn anew, no inversion: all other pixels are the file's own")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(results: dict[str, Any]) -> str:
    """The table."""
    arms, plan = results["arms"], results["plan"]
    columns = [*arms, *(["the data"] if results["data"] else []), "the faces as they are"]
    lines = [f"{'':<32}" + "".join(f"{column:>23}" for column in columns)]
    rows = {
        "locality": ("ratio", "{:.2g}"),
        "  as it was outside, bit for bit": ("same_outside", "{:.1%}"),
        "  MSE-in": ("mse_in", "{:.3f}"),
        "  diversity": ("diversity", "{:.2f}"),
        "  Fréchet of the crop": ("frechet", "{:.3f}"),
        "  tokens, of a face": ("tokens", "{:.2f}"),
        "  seconds, of a face": ("seconds", "{:.2f}"),
    }
    for concept in CONCEPTS:
        own = [results["data"][concept]] if results["data"] else []
        found = [*(arms[arm][concept] for arm in arms), *own, results["faces"][concept]]
        for name, (key, shape) in rows.items():
            label = f"{name}, {concept}" if name == "locality" else name
            cells = [shape.format(figures[key]) if key in figures else "" for figures in found]
            lines.append(f"{label:<32}" + "".join(f"{cell:>23}" for cell in cells))
    how = "trained on" if plan.get("domain", "faces") == "faces" else f"trained on {SEEN} photographs"
    lines.append(
        f"{plan['edited']} faces, each concept drawn anew in {plan['sampling_steps']} steps; {how} for "
        f"{plan['steps']} steps of {plan['batch_size']}; regions grown by {plan['dilation']} pixel"
    )
    return "\n".join([*lines, results["machine"]])


def photographs(results: dict[str, Any]) -> str:
    """The table of photographs."""
    return report(results["photographs"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="folder of a region transformer of faces, 32 x 32")
    for name, value in asdict(Plan()).items():
        known = PICTURES if name == "domain" else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, choices=known)
    parser.add_argument("--out", type=Path, help="folder of the runs [runs/own_regions, runs/own_photographs]")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--publish", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    options = parser.parse_args()
    if options.redraw:
        published = json.loads(RESULTS.read_text(encoding="utf-8"))
        print(report(published), photographs(published), sep="\n\n")
        return
    plan = Plan(**{name: getattr(options, name) for name in asdict(Plan())})
    if (options.model is None) == (plan.domain == "faces"):
        parser.error("give the folder of a region transformer for faces, and none for photographs")
    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or ROOT / "runs" / f"own_{'regions' if plan.domain == 'faces' else plan.domain}"
    results = run(plan, options.model, out)
    print(report(results))
    if options.publish:
        published = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        kept = {name: published[name] for name in ("photographs",) if name in published}
        write_json(RESULTS, results | kept if plan.domain == "faces" else published | {plan.domain: results})
        domain = opened(plan)
        draw(plan, {arm: trained(plan, options.model, arm, domain, out) for arm in ARMS}, PICTURES[plan.domain])


if __name__ == "__main__":
    main()
