"""diffusers' training script, ``train_unconditional.py``, run as it is but for the penalty's line.

The script is a program: it reads pictures from a folder, makes network, optimiser, EMA and accelerator itself, and
saves a pipeline. A copy of it is run without and with the line, and what it saved is measured.
"""

from __future__ import annotations

import importlib
import itertools
import json
import runpy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.loops import data, sources
from benchmarks.loops.measure import BATCH, HELD_OUT, PENALTY, Loop, figures_of, measured
from shapkit.differentiable import Regions

NAME = "train_unconditional"
WEIGHT = 8.0
PLACE = "                accelerator.backward(loss)\n"
"""The line of the script before which something is said."""
LINE = """\
                loss = loss + WEIGHT * penalty(
                    lambda x: model(x, timesteps).sample, noisy_images, regions, output=model_output, step=global_step
                )
"""
SEEN = "                seen(model, noisy_images, timesteps, model_output, global_step)\n"
"""For the measurement, in both runs."""


def train(steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and examples of the script without the line and with it."""
    importlib.import_module("diffusers.pipelines.ddpm.pipeline_ddpm")  # it asks whether there is a torchvision
    sources.stand_in_for_torchvision()
    sources.DIFFUSERS.fetch()
    sources.DATASETS.fetch()
    images, regions = data.faces()
    folder = sources.RUNS / "script"
    per_epoch = min(steps, (len(images) - HELD_OUT) // BATCH)
    pictures = _pictures(images[: per_epoch * BATCH], folder / f"pictures-{per_epoch}")
    rows, examples, seconds = {}, {}, {}
    for which in ("without", "with"):
        out = folder / which
        leaks, seconds[which] = _run(which == "with", pictures, out, round(steps / per_epoch), regions)
        loop = _saved(out, images, regions)
        rows[which], examples[which] = measured(loop, leaks, seconds[which])
    return figures_of(loop, rows, seconds["with"] / seconds["without"]), examples


def _pictures(images: Tensor, folder: Path) -> Path:
    """The images as PNG files in a folder, as the script reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(((images + 1) * 127.5).round().byte()):
        path = folder / f"{number:05}.png"
        if not path.exists():
            Image.fromarray(image.movedim(0, -1).numpy()).save(path)
    return folder


def _run(penalised: bool, pictures: Path, out: Path, epochs: int, regions: Regions) -> tuple[list[float], float]:
    """Run the script; the penalty at its steps, and the median of seconds between them."""
    out.mkdir(parents=True, exist_ok=True)
    source = sources.DIFFUSERS.folder / "examples" / "unconditional_image_generation" / "train_unconditional.py"
    text = source.read_text(encoding="utf-8")
    if text.count(PLACE) != 1:
        raise ValueError(f"{source} has another form than that of {sources.DIFFUSERS}")
    copy = out / "train_unconditional.py"
    copy.write_text(text.replace(PLACE, (LINE if penalised else "") + SEEN + PLACE), encoding="utf-8")
    config = out / "config"
    config.mkdir(exist_ok=True)
    (config / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **UNET}), encoding="utf-8")
    leaks: list[float] = []
    times: list[float] = []

    def penalty(network: Any, x: Tensor, regions: Regions, **options: Any) -> Tensor:
        leak = PENALTY(network, x, regions, **options)
        leaks.append(float(leak.detach()))
        return leak

    def seen(model: Any, x: Tensor, timesteps: Tensor, output: Tensor, step: int) -> None:
        times.append(time.perf_counter())
        if not penalised and step % 10 == 0:  # what it would have paid
            with torch.no_grad():
                leaks.append(float(PENALTY(lambda x: model(x, timesteps).sample, x, regions, output=output, step=step)))
            times[-1] = float("nan")

    options = {
        "train_data_dir": pictures,
        "model_config_name_or_path": config,
        "output_dir": out / "pipeline",
        "cache_dir": out / "cache",
        "resolution": 16,
        "train_batch_size": BATCH,
        "num_epochs": epochs,
        "learning_rate": 2e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 20,
        "ddpm_beta_schedule": "squaredcos_cap_v2",
        "checkpointing_steps": 10**9,
        "eval_batch_size": 1,
        "ddpm_num_inference_steps": 2,
    }
    before = sys.argv
    sys.argv = [str(copy), "--use_ema", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    torch.manual_seed(0)
    try:
        given = {"WEIGHT": WEIGHT, "penalty": penalty, "regions": regions, "seen": seen}
        runpy.run_path(str(copy), init_globals=given, run_name="__main__")
    finally:
        sys.argv = before
    between = [b - a for a, b in itertools.pairwise(times) if b > a]  # none with a step that was measured
    return leaks, statistics.median(between)


UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "norm_num_groups": 8,
}


def _saved(out: Path, images: Tensor, regions: Regions) -> Loop:
    """What the script saved, with its loss and diffusers' own DDIM."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    unet = UNet2DModel.from_pretrained(out / "pipeline", subfolder="unet").eval()
    schedule = DDPMScheduler.from_pretrained(out / "pipeline", subfolder="scheduler")
    sampler = DDIMScheduler.from_config(schedule.config)
    sampler.set_timesteps(25)

    def loss(batch: Tensor) -> Tensor:
        noise, t = torch.randn_like(batch), torch.randint(0, 1000, (len(batch),))
        error: Tensor = unet(schedule.add_noise(batch, noise, t), t).sample - noise
        return error.square().mean()

    def generate(x: Tensor) -> Tensor:
        for t in sampler.timesteps:
            x = sampler.step(unet(x, t).sample, t, x).prev_sample
        return x

    call = "model_output = model(noisy_images, timesteps).sample; F.mse_loss(model_output, noise)"
    return Loop(str(sources.DIFFUSERS), call, images, regions, unet, unet, loss, generate, (3, 16, 16), WEIGHT)
