"""The command ``shapkit-diffusion``: train, fine-tune, measure and edit diffusion models from the shell.

Every command writes into a folder of its own: the configuration, the figures as JSON, the pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shapkit_diffusion import report
from shapkit_diffusion.data.folders import IMAGE_MODES, MAX_PIXELS, decode_picture, image_bytes
from shapkit_diffusion.demo import demo_config, influence_table, run_demo, shipped_model
from shapkit_diffusion.denoisers import Denoiser, load_denoiser, small_denoiser
from shapkit_diffusion.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate
from shapkit_diffusion.influence import influence_maps
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import result_folder, write_json
from shapkit_diffusion.sampling import draw_noise, generate, invert, peak_signal_to_noise, resample
from shapkit_diffusion.training import PenaltyConfig, TrainConfig, to_bytes, to_unit_range, train

DATA_HELP = "faces (rendered), photographs (100 real ones), celebamask:FOLDER or folder:IMAGES:LABELS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one line on standard error."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"shapkit-diffusion {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nshapkit-diffusion {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shapkit-diffusion",
        description="Diffusion models whose noise regions own their image regions: train, fine-tune with the "
        "dummy-player penalty, measure, edit.",
        epilog="Try: shapkit-diffusion demo. Every command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_finetune(commands)
    _add_influence(commands)
    _add_edit(commands)
    _add_evaluate(commands)
    _add_demo(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", formatter_class=_Formatter
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of the network's operations; 0 leaves it to torch"
    )
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is nothing to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="faces", help=DATA_HELP)
    parser.add_argument(
        "--size", type=int, default=32, help="height and width in pixels, for data that come in any size"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder of the model; the shipped model of rendered faces if left out")


def _add_training(parser: argparse.ArgumentParser, defaults: TrainConfig) -> None:
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="images per step, even")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument(
        "--warmup", type=int, default=defaults.warmup, help="steps of linear increase of the learning rate"
    )
    parser.add_argument("--constant-rate", action="store_true", help="do not let the learning rate fall to zero")
    parser.add_argument("--ema", type=float, default=defaults.ema, help="decay of the average of the weights")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--precision", choices=("no", "bf16"), default=defaults.precision)
    parser.add_argument("--save-every", type=int, default=defaults.save_every, help="steps between saved states")
    parser.add_argument(
        "--log-every", type=int, default=defaults.log_every, help="steps between lines of metrics.jsonl"
    )
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=defaults.flip, help="mirror half of the images"
    )
    parser.add_argument("--out", required=True, help="run folder; must be new unless --resume")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state in --out")


def _training_config(options: argparse.Namespace, penalty: PenaltyConfig | None, anchor: bool) -> TrainConfig:
    names = {f.name for f in fields(TrainConfig)} - {"penalty", "decay", "anchor"}
    chosen = {name: getattr(options, name) for name in names}
    return TrainConfig(**chosen, decay=not options.constant_rate, anchor=anchor, penalty=penalty)


def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", _train, "train a small pixel DDPM from scratch")
    _add_data(parser)
    parser.add_argument("--count", type=int, default=16384, help="how many faces to render")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[16, 32, 64], help="width of each level of the UNet, multiples of 8"
    )
    parser.add_argument("--prediction", choices=("v_prediction", "epsilon", "sample"), default="v_prediction")
    _add_training(parser, TrainConfig(steps=4500, learning_rate=1e-3, warmup=200, ema=0.999, precision="bf16"))


def _train(options: argparse.Namespace) -> None:
    config = _training_config(options, None, anchor=False)
    domain = open_domain(options.data, options.size, options.count)
    image_channels, size, _ = domain.training.rows([0])[0].shape[1:]
    model = small_denoiser(size, image_channels, tuple(options.channels), options.prediction, options.seed)
    trained = train(model, domain.training, config, options.out, resume=options.resume, progress=on_terminal("train"))
    _write_samples(trained, Path(options.out))


def _add_finetune(commands: Any) -> None:
    parser = _command(commands, "finetune", _finetune, "train a model on with the dummy-player penalty")
    _add_data(parser)
    parser.add_argument("--count", type=int, default=16384, help="how many faces to render")
    _add_model(parser)
    wanted = PenaltyConfig()
    parser.add_argument(
        "--target",
        choices=("model", "noise"),
        default="model",
        help="what the denoising loss compares with: predictions of the model started from, or (always without "
        "penalty) the noise itself",
    )
    group = parser.add_argument_group("penalty")
    group.add_argument(
        "--weight", type=float, default=wanted.weight, help="lambda at the start; 0 trains without penalty"
    )
    group.add_argument(
        "--final-weight", type=float, help="lambda at the end, reached exponentially; --weight if left out"
    )
    group.add_argument("--concepts", nargs="+", default=list(wanted.concepts), help="labels that become players")
    group.add_argument(
        "--graph", choices=("star", "own"), default=wanted.graph, help="star: concepts may look at the rest"
    )
    group.add_argument(
        "--estimator", choices=("present", "grand", "shared", "per_region", "exact", "direct"), default=wanted.estimator
    )
    group.add_argument("--fill", choices=("exchange", "zeros", "noise", "batch_mean"), default=wanted.fill)
    group.add_argument("--payoff", choices=("pixels", "mean"), default=wanted.payoff)
    group.add_argument("--samples", type=int, default=wanted.samples, help="coalitions per step")
    group.add_argument("--dilation", type=int, default=wanted.dilation, help="pixels by which concepts grow")
    group.add_argument(
        "--regions",
        choices=("template", "label_maps"),
        default=wanted.regions,
        help="one partition for all aligned images, or each image's own",
    )
    group.add_argument(
        "--output",
        choices=("clean", "prediction"),
        default=wanted.output,
        help="payoffs from the predicted clean image, or from the network's own prediction",
    )
    _add_training(parser, demo_config("faces").finetune)


def _finetune(options: argparse.Namespace) -> None:
    penalty = None
    if options.weight > 0:
        penalty = PenaltyConfig(
            weight=options.weight,
            final_weight=options.weight if options.final_weight is None else options.final_weight,
            concepts=tuple(options.concepts),
            graph=options.graph,
            estimator=options.estimator,
            fill=options.fill,
            payoff=options.payoff,
            samples=options.samples,
            dilation=options.dilation,
            regions=options.regions,
            output=options.output,
        )
    config = _training_config(options, penalty, anchor=penalty is not None and options.target == "model")
    model = _model(options)
    domain = open_domain(options.data, options.size, options.count)
    tuned = train(model, domain.training, config, options.out, resume=options.resume, progress=on_terminal("fine-tune"))
    _write_samples(tuned, Path(options.out))


def _add_influence(commands: Any) -> None:
    parser = _command(
        commands, "influence", _influence, "show which input region of a model drives which output region"
    )
    _add_data(parser)
    _add_model(parser)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[100, 500, 900], help="single runs to look into")
    parser.add_argument("--images", type=int, default=16, help="generated images to average over, even")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--dilation", type=int, default=1, help="pixels by which concepts grow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for influence.json and influence.png; must be new")


def _influence(options: argparse.Namespace) -> None:
    model = _model(options)
    domain = open_domain(options.data, options.size, count=2)
    with result_folder(options.out, _settings(options)) as folder:
        noise = draw_noise(model, options.images, options.seed)
        maps = influence_maps(
            model,
            noise,
            lambda images: domain.regions(images, CONCEPTS, options.dilation),
            options.timesteps,
            options.steps,
            options.seed,
        )
        for name, attribution in maps.items():
            print(f"\n{name}: share of each output region's change (row) that each input region drives (column)")
            print(influence_table(attribution))
        write_json(
            folder / "influence.json",
            {name: {"regions": list(a.names), "output_by_input": a.values.T.tolist()} for name, a in maps.items()},
        )
        figure = report.picture_of_influence(maps, "Influence of the input regions on the output regions")
        (folder / "influence.png").write_bytes(report.png(figure))


def _add_edit(commands: Any) -> None:
    parser = _command(commands, "edit", _edit, "edit one region of images by resampling its noise")
    _add_data(parser)
    _add_model(parser)
    parser.add_argument("--region", required=True, help=f"the concept to edit, e.g. {CONCEPTS[-1]}")
    parser.add_argument(
        "--image", action="append", default=[], help="a given image to invert and edit; may be repeated"
    )
    parser.add_argument("--count", type=int, default=4, help="generated images to edit, where no --image is given")
    parser.add_argument("--variants", type=int, default=5, help="edits per image")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--dilation", type=int, default=1, help="pixels by which the concept grows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for the pictures; must be new")


def _edit(options: argparse.Namespace) -> None:
    model = _model(options)
    domain = open_domain(options.data, options.size, count=2)
    given = [_read_image(path, model.image_shape) for path in options.image]
    if options.region not in domain.label_names:
        raise ValueError(f"--region {options.region}: the data has {', '.join(domain.label_names)}")
    with result_folder(options.out, _settings(options)) as folder:
        _write_edits(options, model, domain, given, folder)
    print(f"edited images are in {options.out}")


def _write_edits(
    options: argparse.Namespace, model: Denoiser, domain: Domain, given: Sequence[Tensor], folder: Path
) -> None:
    if given:
        originals = torch.stack(list(given))
        noise = invert(model, originals, options.steps)
        quality = peak_signal_to_noise(generate(model, noise, options.steps), originals)
        print("inversion round trip: " + ", ".join(f"{value:.1f} dB" for value in quality.tolist()))
    else:
        noise = draw_noise(model, options.count, options.seed)
        originals = generate(model, noise, options.steps)
    mask = domain.regions(originals, [options.region], options.dilation).mask(options.region)
    edits = [
        generate(model, resample(noise, mask, options.seed + 1 + variant), options.steps)
        for variant in range(options.variants)
    ]
    rows = {"original": originals} | {f"variant {number + 1}": edit for number, edit in enumerate(edits)}
    title = f"The noise of the {options.region} drawn anew"
    (folder / "edits.png").write_bytes(report.png(report.picture_of_samples(rows, len(originals), title)))
    for name, images in rows.items():
        for number, image in enumerate(to_bytes(images)):
            _write_image(folder / f"{name.replace(' ', '-')}-image-{number + 1}.png", image)


def _add_evaluate(commands: Any) -> None:
    parser = _command(commands, "evaluate", _evaluate, "measure locality and realism of a model")
    _add_data(parser)
    _add_model(parser)
    defaults = EvaluateConfig()
    parser.add_argument(
        "--concepts", nargs="+", default=list(defaults.concepts), help="labels whose noise is exchanged"
    )
    parser.add_argument("--pairs", type=int, default=defaults.pairs, help="noise pairs for the locality")
    parser.add_argument("--images", type=int, default=defaults.images, help="generated images for the realism")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="DDIM steps")
    parser.add_argument("--dilation", type=int, default=defaults.dilation, help="pixels by which concepts grow")
    parser.add_argument(
        "--normalisation",
        choices=("own_area", "published"),
        default=defaults.normalisation,
        help="area that MSE out is divided by: the area outside, or the region's as the paper prints it",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--precision", choices=("no", "bf16"), default=defaults.precision)
    parser.add_argument("--out", required=True, help="folder for evaluation.json and the pictures; must be new")


def _evaluate(options: argparse.Namespace) -> None:
    model = _model(options)
    config = EvaluateConfig(
        tuple(options.concepts),
        **{f.name: getattr(options, f.name) for f in fields(EvaluateConfig) if f.name != "concepts"},
    )
    domain = open_domain(options.data, options.size, count=2)
    with result_folder(options.out, {"evaluation": asdict(config)} | _settings(options)) as folder:
        result = evaluate(model, domain, config, on_terminal("measure"))
        print(f"{'concept':<12}{'MSE in':>10}{'MSE out':>10}{'ratio':>10}{'pairs':>8}{'Fréchet (crop)':>17}")
        for entry in result.locality:
            print(
                f"{entry.concept:<12}{entry.mse_in:>10.4f}{entry.mse_out:>10.5f}{entry.ratio:>10.4f}{entry.n_pairs:>8}"
                f"{result.realism[entry.concept]:>17.3f}"
            )
        print(f"{'whole image':<50}{result.realism['whole']:>17.3f}")
        write_json(folder / "evaluation.json", result.figures())
        for concept in config.concepts:
            figure = report.picture_of_swaps({"model": result.swaps}, concept)
            (folder / f"swap_{concept}.png").write_bytes(report.png(figure))


def _add_demo(commands: Any) -> None:
    parser = _command(commands, "demo", _demo, "fine-tune with and without the penalty, compare, write a report")
    parser.add_argument("--data", choices=("faces", "photographs"), default="faces")
    parser.add_argument("--out", default="runs/demo", help="folder for the report; must be new unless --overwrite")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demonstration in --out")


def _demo(options: argparse.Namespace) -> None:
    run_demo(demo_config(options.data), options.out, overwrite=options.overwrite)


def _model(options: argparse.Namespace) -> Denoiser:
    return load_denoiser(options.model) if options.model else shipped_model()


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("run", "out", "threads")}


def _write_samples(model: Denoiser, folder: Path) -> None:
    images = generate(model, draw_noise(model, 24, seed=0))
    rows = {"": images[:12], " ": images[12:]}
    (folder / "samples.png").write_bytes(report.png(report.picture_of_samples(rows, title="Generated images")))


def _read_image(path: str, shape: tuple[int, int, int]) -> Tensor:
    """An image file as (channels, height, width) in [-1, 1], resized to the model's shape."""
    channels, height, width = shape
    picture = decode_picture(Path(path), IMAGE_MODES, MAX_PIXELS)
    return to_unit_range(torch.tensor(image_bytes(picture, channels, (height, width))))


def _write_image(path: Path, pixels: np.ndarray) -> None:
    picture = np.moveaxis(pixels, 0, -1)
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(path)


if __name__ == "__main__":
    sys.exit(main())
