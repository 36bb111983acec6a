"""A small latent diffusion model of rendered faces: trained, made local by fine-tuning, measured.

    python -m benchmarks.locality.latent --publish      # all stages; docs/results/latent.json and two pictures
    python -m benchmarks.locality.latent --stages local # one of them: autoencoder ldm control local published measure
    python -m benchmarks.locality.latent --redraw       # the text from the JSON

Every stage is a command of the project, listed with the results, and leaves a run folder in --work; what is there is
taken, and what was interrupted is resumed. A latent model's edits cannot be more local than its decoder, so that
floor, measured on clean latents of the same model, stands beside every figure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from shapkit_diffusion.cli import main as shapkit_diffusion
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.evaluation.domains import Domain, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, realism, realism_floor
from shapkit_diffusion.evaluation.locality import SwapResults, locality_of
from shapkit_diffusion.noise.jackknife import jackknife_error, ratio_of_sums
from shapkit_diffusion.pictures.comparison import picture_of_samples, picture_of_swaps
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import RunFolder, read_json, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "latent.json"
PICTURES = ROOT / "docs" / "pictures"

CONCEPTS = ("eyes", "nose", "mouth", "brows", "hair")
TUNED = ("eyes", "nose", "mouth")
PLAIN, CONTROL, LOCAL = "ldm", "ldm-control", "ldm-local"
LOCAL_WEIGHT = "24"
PUBLISHED = tuple(f"ldm-published-{concept}" for concept in TUNED)


def commands(work: Path) -> dict[str, dict[str, list[str]]]:
    """The command of every run folder, by stage."""
    thread = ["--threads", "1"]
    base = ["--autoencoder", str(work / "autoencoder" / "model"), "--cache-latents", "--flip", "--precision", "no"]
    # Fine-tuning sees fewer images than there are: to encode all of them first would take longer.
    tune = ["finetune", "--model", str(work / PLAIN / "model"), "--precision", "no", *thread]
    published = {
        name: [*tune, "--published", concept, "--steps", "1200", "--batch-size", "16", "--seed", "1"]
        for name, concept in zip(PUBLISHED, TUNED, strict=True)
    }
    return {
        "autoencoder": {"autoencoder": ["autoencoder", *thread, "--steps", "3500", "--log-every", "50"]},
        "ldm": {PLAIN: ["train", *base, *thread, "--steps", "4000", "--batch-size", "16", "--log-every", "50"]},
        "control": {CONTROL: [*tune, "--weight", "0", "--target", "noise", "--steps", "1200"]},
        "local": {LOCAL: [*tune, "--weight", LOCAL_WEIGHT, "--steps", "1200", "--anchor-substeps", "1"]},
        "published": published,
    }


def run_stage(runs: Mapping[str, list[str]], work: Path) -> None:
    """Make the run folders of a stage, as far as they are not there."""
    for name, command in runs.items():
        folder = work / name
        if (folder / "model").is_dir():
            continue
        resume = ["--resume"] if (folder / "config.json").is_file() else []
        print(f"{name}: shapkit-diffusion {' '.join(command)}", flush=True)
        status = shapkit_diffusion([*command, "--out", str(folder), *resume])
        if status:
            raise SystemExit(status)


def measure(work: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Figures of every model that is there."""
    domain = open_domain("faces", count=2)
    names = [name for name in (PLAIN, CONTROL, LOCAL, *PUBLISHED) if (work / name / "model").is_dir()]
    return {
        "evaluation": asdict(config) | {"concepts": list(config.concepts)},
        "autoencoder": measure_autoencoder(work, domain, config),
        "models": {name: measure_model(work / name, domain, config) for name in names},
        "frechet_of_real_images": realism_floor(domain, config.concepts, config.images),
    }


def measure_model(folder: Path, domain: Domain, config: EvaluateConfig) -> dict[str, Any]:
    """Figures of the model of a run folder, from ``latent-evaluation.json`` if it was measured in the same way."""
    kept = folder / "latent-evaluation.json"
    wanted = json.loads(json.dumps(asdict(config)))
    if kept.is_file():
        found = read_json(kept)
        if found.get("config") == wanted:
            return found
    result = evaluate(load_denoiser(folder / "model"), domain, config, on_terminal(f"measure {folder.name}"))
    errors = {concept: ratio_error(result.swaps, concept) for concept in config.concepts}
    figures = {"config": wanted, "seconds": RunFolder(folder).seconds(), "ratio_error": errors} | result.figures()
    write_json(kept, figures)
    return figures


def ratio_error(swaps: SwapResults, concept: str) -> float:
    """Standard error of a concept's locality, by the jackknife over the pairs."""
    pairs = [
        locality_of(concept, swaps.originals[one], swaps.edited[concept][one], swaps.masks[concept][one])
        for one in (slice(row, row + 1) for row in range(len(swaps.originals)))
    ]
    _, without = ratio_of_sums(np.array([p.mse_out for p in pairs]), np.array([p.mse_in for p in pairs]))
    return float(jackknife_error(without))


def measure_autoencoder(work: Path, domain: Domain, config: EvaluateConfig) -> dict[str, Any]:
    """What the autoencoder does to images it has not seen, as many as are generated; compared with the others."""
    autoencoder = load_denoiser(work / PLAIN / "model").autoencoder
    assert autoencoder is not None
    images = to_unit_range(torch.as_tensor(domain.reference.images[: config.images]))
    others = replace(domain, reference=domain.reference[config.images :])
    rebuilt = autoencoder.decode(autoencoder.encode(images))
    concepts = concept_labels(domain.label_names, config.concepts)
    described = read_json(work / "autoencoder" / "config.json")
    reconstruction = read_json(work / "autoencoder" / "reconstruction.json")
    return {
        **described,
        **reconstruction,
        "parameters": sum(parameter.numel() for parameter in autoencoder.network.parameters()),
        "seconds": RunFolder(work / "autoencoder").seconds(),
        "frechet": realism(rebuilt.clamp(-1, 1), others, concepts),
    }


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the docs."""
    coder, models = results["autoencoder"], results["models"]
    concepts = list(next(iter(models.values()))["locality"])
    evaluation = results["evaluation"]
    lines = [
        f"autoencoder: {coder['parameters']:,} parameters, {coder['psnr_db']:.1f} dB on {coder['images']} faces it has "
        f"not seen, {coder['seconds'] / 60:.0f} minutes",
        "",
        f"locality (MSE out / MSE in, ± standard error; less is better) of edits of a concept's noise, up to "
        f"{evaluation['pairs']} pairs,",
        "and of edits of its clean latents, which is the decoder's floor:",
        f"{'':<22}" + "".join(f"{concept:>17}" for concept in concepts),
    ]
    for name, found in models.items():
        cells = (f"{found['locality'][c]['ratio']:.4f} ± {found['ratio_error'][c]:.4f}" for c in concepts)
        lines.append(f"{name:<22}" + "".join(f"{cell:>17}" for cell in cells))
        floors = (f"{found['decoder_floor'][c]['ratio']:.4f}" for c in concepts)
        lines.append(f"{'  decoder alone':<22}" + "".join(f"{cell:>17}" for cell in floors))
    lines += ["", "MSE in, MSE out (images in [-1, 1]):", f"{'':<22}" + "".join(f"{c:>17}" for c in concepts)]
    for name, found in models.items():
        cells = (f"{found['locality'][c]['mse_in']:.3f} {found['locality'][c]['mse_out']:.5f}" for c in concepts)
        lines.append(f"{name:<22}" + "".join(f"{cell:>17}" for cell in cells))
    if {CONTROL, LOCAL} <= set(models):
        gains = (models[CONTROL]["locality"][c]["ratio"] / models[LOCAL]["locality"][c]["ratio"] for c in concepts)
        lines += ["", f"{'local to control':<22}" + "".join(f"{f'÷ {gain:.1f}':>17}" for gain in gains)]
    lines += [
        "",
        f"Fréchet distance of {evaluation['images']} images, whole and of each concept's crop:",
        f"{'':<22}" + "".join(f"{crop:>10}" for crop in ("whole", *concepts)),
    ]
    rows = {name: found["frechet"] for name, found in models.items()}
    rows |= {"reconstructed images": coder["frechet"], "real images": results["frechet_of_real_images"]}
    for name, distances in rows.items():
        lines.append(f"{name:<22}" + "".join(f"{distances[crop]:>10.3f}" for crop in ("whole", *concepts)))
    return "\n".join([*lines, "", results["machine"]])


def draw(work: Path) -> None:
    """Samples of the models beside real and rebuilt images; exchanged mouths of the control and the local model."""
    denoisers = {name: load_denoiser(work / name / "model") for name in (PLAIN, CONTROL, LOCAL)}
    domain, config = open_domain("faces", count=2), EvaluateConfig(("mouth",), pairs=8, images=12)
    found = {name: evaluate(denoiser, domain, config) for name, denoiser in denoisers.items()}
    real = to_unit_range(torch.as_tensor(domain.reference.images[:12]))
    rows = {"real": real, "rebuilt": denoisers[PLAIN].decode(denoisers[PLAIN].encode(real))}
    rows |= {name: one.samples for name, one in found.items()}
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure = picture_of_samples(rows, title="Real images, the same rebuilt by the autoencoder, generated ones")
    (PICTURES / "latent_samples.png").write_bytes(png(figure, dpi=90))
    figure = picture_of_swaps({name: found[name].swaps for name in (CONTROL, LOCAL)}, "mouth")
    (PICTURES / "latent_swap_mouth.png").write_bytes(png(figure, dpi=90))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = ("autoencoder", "ldm", "control", "local", "published", "measure")
    parser.add_argument("--stages", nargs="+", choices=stages, default=list(stages), help="what to do, in this order")
    parser.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "tables", help="where the run folders are")
    options = parser.parse_args()
    if options.redraw:
        print(report(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    work = options.work
    runs = commands(work)
    for stage in stages[:-1]:
        if stage in options.stages:
            run_stage(runs[stage], work)
    if "measure" not in options.stages:
        return
    results = measure(work, EvaluateConfig(CONCEPTS))
    shown = {name: " ".join(command) for stage in runs.values() for name, command in stage.items()}
    results = {
        "command": "python -m benchmarks.locality.latent --publish",
        "commands": {
            name: f"shapkit-diffusion {command} --out {name}".replace(f"{work}/", "") for name, command in shown.items()
        },
        "machine": machine("torch", "diffusers", n_threads=1),
    } | results
    print("\n" + report(results))
    if options.publish:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS, results)
        draw(work)


if __name__ == "__main__":
    main()
