"""The region transformer against a plain DiT: locality, realism, cost, and conversion, on faces, rendered or real.

    python -m benchmarks.locality.region_transformer --publish                # docs/results/region_transformer.json
    python -m benchmarks.locality.region_transformer --steps 40 --images 60 --seeds 0 --out /tmp/small   # a trial
    python -m benchmarks.locality.region_transformer --seeds 0 --noises 4 --publish equal_time   # beside the others
    python -m benchmarks.locality.region_transformer --domain photographs --size 24 --steps 2000 --seeds 0 \
        --arms plain region converted "plain long" penalty --publish photographs
    python -m benchmarks.locality.region_transformer --shipped --publish      # the models of the package
    python -m benchmarks.locality.region_transformer --redraw                 # the table from the JSON

For every seed, by ``train`` as everybody has it:

    plain       a plain DiT
    region      a region transformer from scratch, of as many steps
    converted   the plain one, converted and trained on for a tenth of its steps
    plain+      the plain one, trained on for as long as the converted one in seconds (the control)
    plain long  a plain DiT trained for as long as the region transformer in seconds
    low rank    the plain one, converted by changes of rank 16 (LoRA), for as many steps as the converted one
    one noise   a region transformer that sees every image with one noise a step, where the others see --noises of them
    plain one   a plain DiT trained for as long as that in seconds
    brief       the plain one, converted with one noise an image
    brows       the one-noise region transformer with brows between the rest and the eyes, which look at both
    penalty     the plain one, trained on with the dummy-player penalty for as many steps as the converted one

Every arm is written to a file of its own as soon as it is known, and found there by the next call.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from shapkit._optional import require
from shapkit.differentiable import Regions
from shapkit.differentiable.regions import Graph
from shapkit_diffusion.data.faces import redraw_concept, render_faces
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.pixels import to_bytes, to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_transformer
from shapkit_diffusion.denoisers.loading import SHIPPED, load_denoiser, shipped_model
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser, convert
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.evaluation.edit_measures import measure_edits
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, measured_by_concept, realism_reference
from shapkit_diffusion.evaluation.locality import LocalityConvention
from shapkit_diffusion.evaluation.realism_measures import RealismReference
from shapkit_diffusion.noise.sampling import draw_noise, generate, regenerate, swap
from shapkit_diffusion.runs import write_json
from shapkit_diffusion.training.batches import template_regions
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "region_transformer.json"
PICTURE = ROOT / "docs" / "pictures" / "region_transformer.png"

ARMS = (
    "plain",
    "region",
    "converted",
    "plain+",
    "plain long",
    "low rank",
    "one noise",
    "plain one",
    "brief",
    "brows",
    "penalty",
)
BROWS: Graph = {"brows": ["rest"], "eyes": ["rest", "brows"], "nose": ["rest"], "mouth": ["rest"]}
CONVERSION = 0.1
"""Steps of a conversion, in those of the plain model."""
RANK = 16
TITLES = {
    "plain": "plain DiT",
    "region": "region transformer",
    "converted": "the plain DiT, converted",
    "plain+": "the plain DiT, trained on",
    "plain long": "plain DiT, equal time",
    "low rank": "converted by LoRA",
    "one noise": "region transformer, one noise an image",
    "plain one": "plain DiT, as long as that",
    "brief": "converted, one noise an image",
    "brows": "eyes that look at the brows",
    "penalty": "plain DiT, then penalty",
}
SHOWN = 8
_WIDE = 9  # characters of a figure
_PICTURES = 4  # side by side


@dataclass(frozen=True)
class Plan:
    """What is trained and how it is measured."""

    domain: str = "faces"
    size: int = 32
    width: int = 96
    depth: int = 5
    patch: int = 2
    steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 1e-3
    precision: str = "no"
    faces: int = 16384
    pairs: int = 200
    images: int = 2000
    sampling_steps: int = 25
    dilation: int = 1
    noises: int = 1


def on_cpu(domain: Domain) -> Domain:
    """The domain with its networks fed from wherever the images are."""
    return replace(
        domain,
        parse=lambda images: domain.parse(images.cpu()).to(images.device),
        extractor=lambda images: domain.extractor(images.cpu()),
    )


def regions_of(plan: Plan, domain: Domain, model: Denoiser, concepts: Sequence[str] = CONCEPTS) -> Regions:
    """Where each concept occurs at all, on the model's grid."""
    return template_regions(domain.training, model, concepts, dilation=plan.dilation, mirrored=True)


def train_arm(plan: Plan, arm: str, seed: int, domain: Domain, out: Path) -> tuple[Denoiser, dict[str, Any]]:
    """The trained model of an arm, and what its training took."""
    channels = domain.reference.images.shape[1]
    fresh = small_transformer(plan.size, channels, plan.width, plan.depth, plan.patch, seed=seed)
    regions = regions_of(plan, domain, fresh)

    def plain() -> Denoiser:
        return load_denoiser(out / f"plain-{seed}-run" / "model")

    def pace(other: str) -> float:
        return float(json.loads((out / f"{other}-{seed}.json").read_text())["training"]["seconds_per_step"])

    config = TrainConfig(
        plan.steps,
        plan.batch_size,
        plan.learning_rate,
        warmup=min(200, plan.steps // 10),
        decay=True,
        ema=0.999 if plan.steps >= 2000 else 0.99,
        seed=seed,
        precision=plan.precision,
        flip=True,
        save_every=10**9,
    )
    on = replace(config, steps=max(1, round(CONVERSION * plan.steps)), warmup=20, ema=0.99, seed=seed + 100)
    as_long_as = {"plain+": "region", "plain long": "region", "plain one": "one noise"}
    ratio = pace(as_long_as[arm]) / pace("plain") if arm in as_long_as else 1.0
    model: Denoiser
    if arm in ("plain", "plain long", "plain one"):
        model, config = fresh, replace(config, steps=round(ratio * plan.steps))
    elif arm in ("region", "one noise"):
        noises = plan.noises if arm == "region" else 1
        model, config = RegionDenoiser(fresh, regions), replace(config, noises_per_image=noises)
    elif arm == "brows":
        model = RegionDenoiser(fresh, regions_of(plan, domain, fresh, ("brows", *CONCEPTS)), BROWS)
    elif arm in ("converted", "low rank", "brief"):
        model = convert(plain(), regions)
        noises = 1 if arm == "brief" else plan.noises
        config = replace(on, noises_per_image=noises, low_rank=RANK if arm == "low rank" else 0)
    elif arm == "penalty":
        model, config = plain(), replace(on, anchor=True, penalty=PenaltyConfig(concepts=CONCEPTS))
    else:
        model, config = plain(), replace(on, steps=round(ratio * on.steps))
    folder = out / f"{arm.replace(' ', '_')}-{seed}-run"
    shutil.rmtree(folder, ignore_errors=True)
    trained = train(model, domain.training, config, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    paces = [
        (later["seconds"] - earlier["seconds"]) / (later["step"] - earlier["step"])
        for earlier, later in pairwise(lines)
    ]
    # what a step takes while nothing else runs beside it: other work on the machine only ever adds
    pace_of_arm = float(np.quantile(paces, 0.1)) if paces else lines[-1]["seconds"] / lines[-1]["step"]
    return trained, {
        "steps": config.steps,
        "seconds_per_step": pace_of_arm,
        "seconds": lines[-1]["seconds"],
        "loss": statistics.mean(line["denoising"] for line in lines[-10:]),
    }


def seconds_of(call: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """The median of some calls, after one that warms up."""
    taken = []
    for _ in range(times + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def measure(plan: Plan, model: Denoiser, domain: Domain, reference: RealismReference) -> dict[str, Any]:
    """Locality, realism, diversity and seconds of a model."""
    config = EvaluateConfig(
        pairs=plan.pairs, images=plan.images, steps=plan.sampling_steps, dilation=plan.dilation, seed=1000
    )
    result = evaluate(model, on_cpu(domain), config)
    samples = result.samples.cpu()
    found = measured_by_concept(replace(result, samples=samples), reference, config)
    realism = next(iter(found.values())).realism
    figures = {
        concept: {
            "ratio": measured.edits.ratio,
            "mse_in": measured.edits.mse_in,
            "mse_out": measured.edits.mse_out,
            "diversity": measured.edits.mean_diversity,
            "seam": measured.edits.seam,
        }
        for concept, measured in found.items()
    }
    frechet = {name: crop.fid for name, crop in realism.crops.items()}
    return {"concepts": figures, "frechet": frechet}


def edited_part(model: Denoiser, regions: Regions, concept: str) -> Tensor:
    """Where an edit of a concept changes the noise, (1, 1, height, width): see `edits.apply_edits`."""
    own = model.owned((concept,))
    return regions.mask(concept) if own is None else regions.mask(concept) * own.to(regions.masks)


def timed(plan: Plan, model: Denoiser, domain: Domain) -> dict[str, float]:
    """Seconds of a training step, and those an image of generating a batch and of editing each concept in it."""
    device = model.device
    count = 512 if device.type == "cuda" else 16
    noise, other = draw_noise(model, count, 5), draw_noise(model, count, 6)
    known = generate(model, noise, plan.sampling_steps, count)
    regions = regions_of(plan, domain, model).to(noise)
    timesteps = torch.full((count,), 500, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    finished = known[:: plan.noises] if isinstance(model, RegionDenoiser) else known

    def step() -> None:
        model.train()
        model(noise, timesteps, finished).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    seconds = {"step": seconds_of(step, device)}
    seconds["image"] = seconds_of(lambda: generate(model, noise, plan.sampling_steps, count), device) / count
    for concept in CONCEPTS:
        edited = swap(noise, other, edited_part(model, regions, concept))

        def edit(edited: Tensor = edited) -> Tensor:
            return regenerate(model, edited, noise, known, plan.sampling_steps, count)

        seconds[concept] = seconds_of(edit, device) / count
    return seconds


def tokens_of(model: RegionDenoiser, regions: Regions, steps: int) -> dict[str, float]:
    """Tokens that generating an image takes, and editing each concept, over those of a plain model's image."""
    tokens, plain = model.network.tokens, steps * model.network.tokens.n_tokens

    def taken(changed: Tensor | None) -> float:
        stages = tokens.stages(changed)
        return sum(steps * len(stage.tokens) + len(stage.context) for stage in stages) / plain

    changed = {name: model.network.changed_tokens(edited_part(model, regions, name) > 0) for name in CONCEPTS}
    return {"image": taken(None)} | {name: taken(where) for name, where in changed.items()}


def data_figures(plan: Plan, reference: RealismReference) -> dict[str, Any]:
    """The same of the data: each concept drawn anew by the renderer, given the rest of the face."""
    faces = render_faces(plan.pairs * 4, plan.size, seed=7)
    before = to_unit_range(torch.as_tensor(faces.images))
    labels = torch.as_tensor(faces.labels).long()
    figures = {}
    for concept, values in concept_labels(faces.label_names, CONCEPTS).items():
        anew = redraw_concept(concept, plan.pairs * 4, plan.size, seed=7)
        regions = Regions.from_labels(labels, {concept: values}, dilation=plan.dilation, missing="allow")
        found = measure_edits(
            concept,
            before,
            to_unit_range(torch.as_tensor(anew.images)),
            regions.mask(concept),
            convention=LocalityConvention(dilation=plan.dilation),
            grown=plan.dilation,
            features=reference.features,
            box=reference.boxes[concept],
        )
        figures[concept] = {
            "ratio": found.ratio,
            "mse_in": found.mse_in,
            "mse_out": found.mse_out,
            "diversity": found.mean_diversity,
        }
    return figures


def edits_shown(plan: Plan, model: Denoiser, domain: Domain) -> Tensor:
    """Images, then each with one concept's noise exchanged, bytes (1 + concepts, SHOWN, channels, height, width)."""
    noise, other = draw_noise(model, SHOWN, 3), draw_noise(model, SHOWN, 4)
    known = generate(model, noise, plan.sampling_steps)
    regions = regions_of(plan, domain, model).to(noise)
    edited = [
        regenerate(model, swap(noise, other, edited_part(model, regions, concept)), noise, known, plan.sampling_steps)
        for concept in CONCEPTS
    ]
    return torch.stack([torch.as_tensor(to_bytes(images.cpu())) for images in (known, *edited)])


def run_seed(plan: Plan, seed: int, arms: Sequence[str], out: Path) -> None:
    """Train and measure the arms of one seed that are not there yet."""
    domain = open_domain(plan.domain, plan.size, plan.faces)
    reference = realism_reference(domain)
    for arm in arms:
        path = out / f"{arm}-{seed}.json"
        if path.exists():
            continue
        started = time.perf_counter()
        model, training = train_arm(plan, arm, seed, domain, out)
        figures = measure(plan, model, domain, reference)
        if seed == 0:
            np.savez_compressed(out / f"{arm}-shown.npz", edits=edits_shown(plan, model, domain).numpy())
        write_json(path, {"arm": arm, "seed": seed, "training": training} | figures)
        print(f"{arm}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)


def gathered(plan: Plan, out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """All that was measured, with the data's own figures, and the seconds of what the first seed trained."""
    domain = open_domain(plan.domain, plan.size, plan.faces)
    found = [json.loads(path.read_text()) for seed in seeds for path in sorted(out.glob(f"*-{seed}.json"))]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {arm: load_denoiser(out / f"{arm}-{seeds[0]}-run" / "model") for arm in ("plain", "region")}
    local = models["region"]
    assert isinstance(local, RegionDenoiser)
    tokens = tokens_of(local, regions_of(plan, domain, local), plan.sampling_steps)
    seconds = {arm: timed(plan, model.to(device), domain) for arm, model in models.items()}
    return {
        "command": f"python -m benchmarks.locality.region_transformer {' '.join(sys.argv[1:])}",
        "machine": described_machine(),
        "plan": asdict(plan),
        "data": data_figures(plan, realism_reference(domain)) if plan.domain == "faces" else {},
        "runs": found,
        "timing": {"machine": described_machine(), "seconds": seconds, "tokens": tokens},
    }


def gathered_of_shipped(plan: Plan) -> dict[str, Any]:
    """The same figures, and seconds, of the models that come with the package."""
    domain = open_domain(plan.domain, plan.size, plan.faces)
    reference = realism_reference(domain)
    runs = []
    for name in SHIPPED:
        model = shipped_model(name)
        figures = measure(plan, model, domain, reference)
        runs.append({"arm": name, "seconds": timed(plan, model, domain)} | figures)
    return {
        "command": f"python -m benchmarks.locality.region_transformer {' '.join(sys.argv[1:])}",
        "machine": described_machine(),
        "plan": {name: value for name, value in asdict(plan).items() if name in ("pairs", "images", "sampling_steps")},
        "data": data_figures(plan, reference),
        "runs": runs,
    }


def described_machine() -> str:
    """The machine, for the results."""
    name = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    return name + machine("torch", "diffusers", n_threads=torch.get_num_threads())


def report(results: dict[str, Any]) -> str:
    """The table: mean over the seeds, and beside it the least and the most."""
    runs, data = results["runs"], results["data"]
    seeds = sorted({run["seed"] for run in runs})
    arms = [arm for arm in ARMS if any(run["arm"] == arm for run in runs)]
    plan = results["plan"]

    def of(arm: str, figure: Callable[[dict[str, Any]], float]) -> list[float]:
        return [figure(run) for run in runs if run["arm"] == arm]

    def row(name: str, figure: Callable[[dict[str, Any]], float], own: str = "") -> str:
        return f"{name:<18}" + "".join(f"{_span(of(arm, figure)):>30}" for arm in arms) + f"{own:>10}"

    lines = [f"{'':<18}" + "".join(f"{arm:>30}" for arm in arms) + f"{'the data':>10}"]
    for concept in CONCEPTS:
        own = {name: f"{value:.{5 if name == 'ratio' else 3}f}" for name, value in data.get(concept, {}).items()}
        lines += [
            row(f"locality, {concept}", lambda run, c=concept: run["concepts"][c]["ratio"], own.get("ratio", "")),
            row("  MSE-in", lambda run, c=concept: run["concepts"][c]["mse_in"], own.get("mse_in", "")),
            row("  diversity", lambda run, c=concept: run["concepts"][c]["diversity"], own.get("diversity", "")),
        ]
    for crop in ("whole", *CONCEPTS):
        lines.append(row(f"Fréchet, {crop}", lambda run, c=crop: run["frechet"][c]))
    lines.append(row("training, steps", lambda run: float(run["training"]["steps"])))
    lines.append(row("  seconds a step", lambda run: float(run["training"]["seconds_per_step"])))
    lines.append(f"{_setting(plan, seeds)}: mean (least to most)")
    return "\n".join([*lines, results["machine"]])


def headline(results: dict[str, Any]) -> str:
    """The few figures that the README shows: how much more local, how realistic, what an edit takes."""
    runs = results["runs"]

    def over_plain(arm: str, figure: Callable[[dict[str, Any]], float]) -> float:
        own, plain = (statistics.fmean(figure(run) for run in runs if run["arm"] == name) for name in (arm, "plain"))
        return own / plain

    seeds = sorted({run["seed"] for run in runs})
    lines = [
        f"{'':<36}{'locality of plain ÷ its':^27}{'its Fréchet distance ÷ that of plain':^36}",
        f"{'':<36}" + "".join(f"{name:>{_WIDE}}" for name in (*CONCEPTS, "whole", *CONCEPTS)),
    ]
    for arm in ("region", "converted"):
        gains = [1 / over_plain(arm, lambda run, c=concept: run["concepts"][c]["ratio"]) for concept in CONCEPTS]
        distances = [over_plain(arm, lambda run, c=crop: run["frechet"][c]) for crop in ("whole", *CONCEPTS)]
        steps = next(run["training"]["steps"] for run in runs if run["arm"] == arm)
        lines.append(
            f"{f'{TITLES[arm]}, {steps} steps':<36}"
            + "".join(f"{gain:>{_WIDE}.0f}" for gain in gains)
            + "".join(f"{distance:>{_WIDE}.2f}" for distance in distances)
        )
    timing = results["equal_time"]["timing"]
    region, tokens = timing["seconds"]["region"], timing["tokens"]
    image = region["image"] / timing["seconds"]["plain"]["image"]
    edits = ", ".join(f"new {name} {tokens[name]:.2f} ({region[name] / region['image']:.2f})" for name in CONCEPTS)
    lines.append(f"tokens (seconds) of a plain DiT's image: an image {tokens['image']:.2f} ({image:.2f}), {edits}")
    machines = f"{results['machine']}; times: {timing['machine']}"
    return "\n".join([*lines, _setting(results["plan"], seeds), machines])


def equal_time(results: dict[str, Any]) -> str:
    """The arms of the study with several noises per image and equal times, a line each."""
    return by_arm(results["equal_time"])


def photographs(results: dict[str, Any]) -> str:
    """The arms of the study of photographs, likewise."""
    return by_arm(results["photographs"])


def shipped(results: dict[str, Any]) -> str:
    """A line for each model that comes with the package."""
    found = results["shipped"]
    lines = [
        f"{'':<14}{'s an':>7}{'s an':>7}" + _HEADS[0],
        f"{'':<14}{'image':>7}{'edit':>7}" + _HEADS[1],
    ]
    for run in found["runs"]:
        edit = statistics.fmean(run["seconds"][concept] for concept in CONCEPTS)
        lines.append(f"{run['arm']:<14}{run['seconds']['image']:>7.2f}{edit:>7.2f}" + _figures([run]))
    lines.append(f"{'the data':<14}{'':>14}" + _data_figures(found["data"]))
    plan = found["plan"]
    lines.append(f"{plan['pairs']} pairs, {plan['images']:,} images, {plan['sampling_steps']} sampling steps a stage")
    return "\n".join([*lines, found["machine"]])


def by_arm(found: dict[str, Any]) -> str:
    """A line for each arm: means over the seeds."""
    runs, data, plan = found["runs"], found["data"], found["plan"]
    lines = [f"{'':<38}{'':>6}{'s a':>6}" + _HEADS[0], f"{'':<38}{'steps':>6}{'step':>6}" + _HEADS[1]]
    for arm in ARMS:
        of_arm = [run for run in runs if run["arm"] == arm]
        if of_arm:
            steps, seconds = (
                statistics.fmean(run["training"][name] for run in of_arm) for name in ("steps", "seconds_per_step")
            )
            line = f"{TITLES[arm]:<38}{steps:>6.0f}{seconds:>6.2f}"
            lines.append(line + _figures(of_arm))
    if data:
        lines.append(f"{'the data':<38}{'':>12}" + _data_figures(data))
    lines.append(_setting(plan, sorted({run["seed"] for run in runs})))
    return "\n".join([*lines, found["machine"]])


_MEASURES = ("ratio", "mse_in", "diversity")
_HEADS = (
    "".join(f"{head:^{3 * _WIDE}}" for head in ("locality", "MSE-in", "diversity")) + f"{'Fréchet':^{4 * _WIDE}}",
    "".join(f"{concept:>{_WIDE}}" for concept in (*CONCEPTS * 3, "whole", *CONCEPTS)),
)


def _figures(runs: Sequence[dict[str, Any]]) -> str:
    """Locality, change and diversity of each concept, and distances of each crop: means over the runs."""
    figures = [
        statistics.fmean(run["concepts"][concept][measure] for run in runs)
        for measure in _MEASURES
        for concept in CONCEPTS
    ]
    figures += [statistics.fmean(run["frechet"][crop] for run in runs) for crop in ("whole", *CONCEPTS)]
    return "".join(f"{figure:>{_WIDE}.2g}" for figure in figures)


def _data_figures(data: dict[str, Any]) -> str:
    return "".join(f"{data[concept][measure]:>{_WIDE}.2g}" for measure in _MEASURES for concept in CONCEPTS)


def equal_times(results: dict[str, Any]) -> str:
    """The same of seconds and tokens, with several noises per image in a training step."""
    return times(results["equal_time"])


def times(results: dict[str, Any]) -> str:
    """What the region transformer takes of a plain one's seconds."""
    seconds = results["timing"]["seconds"]
    plain, region = seconds["plain"], seconds["region"]
    tokens = results["timing"]["tokens"]
    rows = [
        ("a training step, of a plain one", region["step"] / plain["step"], None),
        ("an image, of a plain one", region["image"] / plain["image"], tokens["image"]),
        *(
            (f"new {name}, of an image", region[name] / region["image"], tokens[name] / tokens["image"])
            for name in CONCEPTS
        ),
    ]
    lines = [f"{'':<34}{'seconds':>10}{'tokens':>10}"]
    lines += [f"{name:<34}{took:>10.2f}{'' if share is None else f'{share:.2f}':>10}" for name, took, share in rows]
    return "\n".join([*lines, results["timing"]["machine"]])


def _setting(plan: dict[str, Any], seeds: Sequence[int]) -> str:
    """What was trained, and how it was measured."""
    noises = f", {plan['noises']} noises an image" if plan.get("noises", 1) > 1 else ""
    return (
        f"{plan['size']} x {plan['size']} pixels, patch {plan['patch']}, width {plan['width']}, {plan['depth']} blocks,"
        f" batches of {plan['batch_size']}{noises}; {plan['pairs']} pairs, {plan['images']:,} images, "
        f"{plan['sampling_steps']} sampling steps a stage; seeds {', '.join(map(str, seeds))}"
    )


def _span(values: Sequence[float]) -> str:
    """Mean, least and most, as far as they differ."""
    if not values:
        return "-"
    mean, least, most = (
        f"{value:.2g}" if value < 100 else f"{value:.0f}"
        for value in (statistics.mean(values), min(values), max(values))
    )
    return mean if least == most else f"{mean} ({least} to {most})"


def draw(out: Path, path: Path) -> None:
    """The picture: images of the first seed's models, and below each the same with one concept's noise exchanged."""
    plt = require("matplotlib.pyplot", extra="plots", purpose="the picture")
    arms = [arm for arm in ARMS if (out / f"{arm}-shown.npz").exists()]
    n_lines = -(-len(arms) // _PICTURES)
    n_columns = -(-len(arms) // n_lines)
    size = (4.6 * n_columns, 2.8 * n_lines + 1.1)
    figure, axes = plt.subplots(n_lines, n_columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(arms) :]:
        axis.remove()
    for axis, arm in zip(axes.flat, arms, strict=False):
        with np.load(out / f"{arm}-shown.npz") as file:
            edits = file["edits"][:, :6]
        rows = [np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1) for images in edits]
        axis.imshow(np.concatenate(rows), interpolation="nearest", cmap="gray", vmin=0, vmax=255)
        side = edits.shape[-1]
        axis.set_yticks(
            [side * (row + 0.5) for row in range(len(rows))], ["generated", *(f"new {c}" for c in CONCEPTS)]
        )
        axis.set_xticks([])
        axis.set_title(TITLES[arm], fontsize=10)
    figure.suptitle("A plain DiT answers a new nose with a new face; a region transformer leaves the rest as it is")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "region_transformer", help="folder of the runs")
    parser.add_argument("--parallel", action="store_true", help="a process for each seed")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--publish",
        nargs="?",
        const="",
        metavar="PART",
        help=f"write {RESULTS.relative_to(ROOT)} anew, or a part of that name into it",
    )
    parser.add_argument("--shipped", action="store_true", help="measure the models of the package, and train nothing")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    options = parser.parse_args()
    if options.redraw:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        print(report(found), times(found), sep="\n\n")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    plan = Plan(**{name: getattr(options, name) for name in asdict(Plan())})
    if options.shipped:
        part = {"shipped": gathered_of_shipped(plan)}
        print(shipped(part))
        if options.publish is not None:
            write_json(RESULTS, json.loads(RESULTS.read_text(encoding="utf-8")) | part)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.parallel:
        words = [word for word in sys.argv[1:] if word != "--parallel"]
        if "--publish" in words:
            at = words.index("--publish")
            del words[at : at + (2 if options.publish else 1)]
        if "--seeds" in words:
            at = words.index("--seeds")
            del words[at : at + 1 + len(options.seeds)]
        module = ["-m", "benchmarks.locality.region_transformer"]
        children = [subprocess.Popen([sys.executable, *module, *words, "--seeds", str(seed)]) for seed in options.seeds]
        failed = [child.wait() for child in children]
        if any(failed):
            sys.exit(f"a seed failed: {failed}")
    else:
        for seed in options.seeds:
            run_seed(plan, seed, options.arms, options.out)
    results = gathered(plan, options.out, options.seeds)
    write_json(options.out / "results.json", results)
    print(report(results), times(results), sep="\n\n")
    if options.publish == "":
        published = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        write_json(RESULTS, published | results)  # the parts stay
        draw(options.out, PICTURE)
    elif options.publish:
        write_json(RESULTS, json.loads(RESULTS.read_text(encoding="utf-8")) | {options.publish: results})
        draw(options.out, PICTURE.with_stem(options.publish))


if __name__ == "__main__":
    main()
