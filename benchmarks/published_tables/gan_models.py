"""Make the GANs of the locality table: a small style-based GAN of rendered faces, and the interpretable one from it.

    python -m benchmarks.published_tables.gan_models runs/tables

Writes the run folders ``gan`` and ``igan``; goes on where it was interrupted. About twenty minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.published_tables.gan.igan import IganConfig, train_igan
from benchmarks.published_tables.gan.training import GanConfig, train_gan
from shapkit_diffusion.progress import on_terminal


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the GANs of the locality table.")
    parser.add_argument("folder", type=Path, help="where the run folders go")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gan, igan = options.folder / "gan", options.folder / "igan"
    train_gan(GanConfig(), gan, resume=True, progress=on_terminal("style-based GAN"))
    train_igan(IganConfig(), gan, igan, resume=True, progress=on_terminal("interpretable GAN"))


if __name__ == "__main__":
    main()
