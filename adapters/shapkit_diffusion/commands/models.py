"""Models, domains and pictures of the commands that work with a model: their options, reading and writing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shapkit._files import user_path
from shapkit_diffusion.data.folders import IMAGE_MODES, MAX_PIXELS, decode_picture, image_bytes
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import SHIPPED, load_denoiser, shipped_model
from shapkit_diffusion.denoisers.schedules import DDIM, Spacing
from shapkit_diffusion.evaluation.domains import Domain, open_domain
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.pictures.comparison import picture_of_samples
from shapkit_diffusion.pictures.pages import png


def domain_of(options: argparse.Namespace) -> Domain:
    """The domain that the options name, for measuring: few images to train on."""
    return open_domain(options.data, options.size, count=2, parser=options.parser)


def add_model(parser: argparse.ArgumentParser, default: str = "plain") -> None:
    """The option that ``model_of`` reads."""
    shipped = " or ".join(SHIPPED)
    parser.add_argument(
        "--model", default=default, help=f"folder of the model, or {shipped}: those of rendered faces that are shipped"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The options of how the model is sampled, which ``model_of`` reads too."""
    parser.add_argument(
        "--clip",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether sampling clips the predicted clean image; if left out, as the model's own scheduler says",
    )
    parser.add_argument(
        "--timestep-spacing",
        choices=get_args(Spacing),
        help="which timesteps sampling takes; if left out, those of the model's own scheduler",
    )


def model_of(options: argparse.Namespace) -> Denoiser:
    """The model that the options name, sampled as they say."""
    model = shipped_model(options.model) if options.model in SHIPPED else load_denoiser(options.model)
    wanted = {"clip_sample": "clip", "timestep_spacing": "timestep_spacing"}
    given = {setting: getattr(options, option, None) for setting, option in wanted.items()}
    changes = {setting: value for setting, value in given.items() if value is not None}
    if isinstance(model.ddim, DDIM):
        model.ddim = replace(model.ddim, **changes)
    elif changes:
        raise ValueError("--clip and --timestep-spacing are of DDIM: a flow is sampled as its own scheduler says")
    return model


def write_samples(model: Denoiser, folder: Path) -> None:
    """Two rows of generated images, as ``samples.png``."""
    images = model.decode(generate(model, draw_noise(model, 24, seed=0)))
    rows = {"": images[:12], " ": images[12:]}
    (folder / "samples.png").write_bytes(png(picture_of_samples(rows, title="Generated images")))


def read_image(path: str, shape: tuple[int, int, int]) -> Tensor:
    """An image file as (channels, height, width) in [-1, 1], resized to the model's shape."""
    channels, height, width = shape
    picture = decode_picture(user_path(path), IMAGE_MODES, MAX_PIXELS)
    return to_unit_range(torch.tensor(image_bytes(picture, channels, (height, width))))


def write_image(path: Path, pixels: np.ndarray) -> None:
    """uint8 pixels (channels, height, width) as a picture, RGB or grey."""
    picture = np.moveaxis(pixels, 0, -1)
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(path)
