"""``autoencoder``."""

from __future__ import annotations

import argparse

import torch

from shapkit._files import user_path
from shapkit_diffusion.commands.options import add_data, add_settings, settings_of
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
    parser.add_argument("--latent-channels", type=int, default=4, help="numbers of a latent at each place")
    add_settings(parser, AutoencoderConfig)
    parser.add_argument("--out", required=True, help="run folder; must be new unless --resume")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state in --out")


def _autoencoder(options: argparse.Namespace) -> None:
    config = AutoencoderConfig(**settings_of(options, AutoencoderConfig))
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
