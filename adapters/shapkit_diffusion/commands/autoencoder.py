"""``autoencoder``."""

from __future__ import annotations

import argparse
from dataclasses import fields

import torch

from shapkit._files import user_path
from shapkit_diffusion.commands.options import add_data
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.autoencoders import small_autoencoder
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.pictures.comparison import picture_of_samples
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import write_json
from shapkit_diffusion.training.autoencoder import AutoencoderConfig, reconstruction_psnr, train_autoencoder

MEASURED_IMAGES = 1000


def add_autoencoder(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``autoencoder``."""
    parser.set_defaults(run=_autoencoder)
    add_data(parser)
    parser.add_argument("--count", type=int, default=16384, help="how many faces to render")
    parser.add_argument(
        "--channels",
        type=int,
        nargs="+",
        default=[32, 32],
        help="width of each level, multiples of 8; every level but the first halves the sides",
    )
    parser.add_argument("--latent-channels", type=int, default=4)
    defaults = AutoencoderConfig()
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="images per step, even")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument(
        "--warmup", type=int, default=defaults.warmup, help="steps of linear increase of the learning rate"
    )
    parser.add_argument("--ema", type=float, default=defaults.ema, help="decay of the average of the weights")
    parser.add_argument(
        "--kl-weight", type=float, default=defaults.kl_weight, help="of the latents' divergence from a normal"
    )
    parser.add_argument(
        "--composites",
        action=argparse.BooleanOptionalAction,
        default=defaults.composites,
        help="let the decoder learn on latents of two images put together, so that it leaks less",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=defaults.flip, help="mirror half of the images"
    )
    parser.add_argument("--save-every", type=int, default=defaults.save_every, help="steps between saved states")
    parser.add_argument(
        "--log-every", type=int, default=defaults.log_every, help="steps between lines of metrics.jsonl"
    )
    parser.add_argument("--out", required=True, help="run folder; must be new unless --resume")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state in --out")


def _autoencoder(options: argparse.Namespace) -> None:
    config = AutoencoderConfig(**{f.name: getattr(options, f.name) for f in fields(AutoencoderConfig)})
    domain = open_domain(options.data, options.size, options.count)
    image_channels = domain.training.rows([0])[0].shape[1]
    network = small_autoencoder(image_channels, tuple(options.channels), options.latent_channels, options.seed)
    trained = train_autoencoder(
        network, domain.training, config, options.out, resume=options.resume, progress=on_terminal("train")
    )
    images = to_unit_range(torch.as_tensor(domain.reference.images[:MEASURED_IMAGES])).to(network.device)
    psnr = reconstruction_psnr(trained, images)
    folder = user_path(options.out)
    write_json(folder / "reconstruction.json", {"psnr_db": psnr, "images": len(images)})
    rows = {"images": images[:12], "reconstructed": trained.decode(trained.encode(images[:12]))}
    (folder / "reconstructions.png").write_bytes(png(picture_of_samples(rows, title="Reconstructions")))
    print(f"reconstruction of {len(images)} reference images: {psnr:.1f} dB; autoencoder in {folder / 'model'}")
