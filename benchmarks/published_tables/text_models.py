"""Train the small Stable Diffusion of captioned faces, which the tables' text-driven systems run on.

python -m benchmarks.published_tables.text_models --autoencoder runs/tables/autoencoder/model --out runs/tables/sd
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.published_tables.systems.text_model import small_text_model
from benchmarks.published_tables.systems.text_training import TextTrainConfig, train_text_model
from shapkit_diffusion.denoisers.autoencoders import load_autoencoder
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.training.config import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--autoencoder", type=Path, required=True, help="folder of an AutoencoderKL, which stays as it is"
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--steps", type=int, default=3500, help="optimiser steps of 16 images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training = TrainConfig(
        options.steps,
        batch_size=16,
        learning_rate=1e-3,
        warmup=200,
        decay=True,
        ema=0.998,
        seed=options.seed,
        cache_latents=True,
    )
    model = small_text_model(load_autoencoder(options.autoencoder), seed=options.seed)
    progress = on_terminal("train")
    train_text_model(model, TextTrainConfig(training), options.out, resume=options.resume, progress=progress)


if __name__ == "__main__":
    main()
