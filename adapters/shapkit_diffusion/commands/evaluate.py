"""``evaluate``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from shapkit_diffusion.commands.models import add_model, add_sampling, domain_of, model_of
from shapkit_diffusion.commands.options import add_data, add_parser_choice, add_settings, settings, settings_of
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate
from shapkit_diffusion.pictures.comparison import picture_of_swaps
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import result_folder, write_json


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``evaluate``."""
    parser.set_defaults(run=_evaluate)
    add_data(parser)
    add_parser_choice(parser)
    add_model(parser)
    add_sampling(parser)
    add_settings(parser, EvaluateConfig)
    parser.add_argument("--out", required=True, help="folder for evaluation.json and the pictures; must be new")


def _evaluate(options: argparse.Namespace) -> None:
    model = model_of(options)
    config = EvaluateConfig(**settings_of(options, EvaluateConfig))
    domain = domain_of(options)
    with result_folder(options.out, {"evaluation": asdict(config)} | settings(options)) as folder:
        result = evaluate(model, domain, config, on_terminal("measure"))
        print(f"{'concept':<12}{'MSE in':>10}{'MSE out':>10}{'ratio':>10}{'pairs':>8}{'Fréchet (crop)':>17}")
        for entry in result.locality:
            print(
                f"{entry.concept:<12}{entry.mse_in:>10.4f}{entry.mse_out:>10.5f}{entry.ratio:>10.4f}{entry.n_pairs:>8}"
                f"{result.realism[entry.concept]:>17.3f}"
            )
        print(f"{'whole image':<50}{result.realism['whole']:>17.3f}")
        for entry in result.decoder_floor or []:
            print(f"the decoder alone: ratio {entry.ratio:.4f} for edits of the {entry.concept}")
        write_json(folder / "evaluation.json", result.figures())
        for concept in config.concepts:
            figure = picture_of_swaps({"model": result.swaps}, concept)
            (folder / f"swap_{concept}.png").write_bytes(png(figure))
