"""``studio``."""

from __future__ import annotations

import argparse
import threading

from shapkit_diffusion.commands.models import add_model, add_sampling, model_of
from shapkit_diffusion.denoisers.loading import shipped_model
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.studio.page import served


def add_studio(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``studio``."""
    parser.set_defaults(run=_studio)
    add_model(parser, default="local")
    add_sampling(parser)
    parser.add_argument("--beside", default="plain", help="the model that it is compared with")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--port", type=int, help="to listen on, of this machine alone; a free one if left out")
    parser.add_argument("--browser", action=argparse.BooleanOptionalAction, default=True, help="open it in the browser")


def _studio(options: argparse.Namespace) -> None:
    model = model_of(options)
    beside = model_of(argparse.Namespace(**{**vars(options), "model": options.beside}))
    if model.image_shape != beside.image_shape:
        raise ValueError(f"--beside makes images of {beside.image_shape}, expected {model.image_shape} as --model does")
    reference = shipped_model("plain").image_shape
    if model.image_shape != reference:
        raise ValueError(f"the editor knows faces of {reference}, as rendered, got a model of {model.image_shape}")
    models = {options.model: model, options.beside: beside}
    domain = open_domain("faces", count=2)
    with served(models, domain, options.steps, options.port, browser=options.browser) as address:
        print(f"the region editor is at {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
