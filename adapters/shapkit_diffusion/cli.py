"""The command ``shapkit-diffusion``: train, fine-tune, measure and edit diffusion models from the shell.

Every command writes into a folder of its own: the configuration, the figures as JSON, the pictures.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from shapkit.differentiable import allowed_influence, star
from shapkit_diffusion import report
from shapkit_diffusion.data.folders import IMAGE_MODES, MAX_PIXELS, decode_picture, image_bytes
from shapkit_diffusion.demo import demo_config, run_demo, shipped_model
from shapkit_diffusion.denoisers import Denoiser, load_denoiser, small_denoiser
from shapkit_diffusion.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.edit_report import picture_of_edits
from shapkit_diffusion.edits import FAITHFUL, Edit, InversionWarning, Original, edit_original
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate
from shapkit_diffusion.influence import BUDGET, END_TO_END, Influence, influence_maps, outside_error, outside_mass
from shapkit_diffusion.influence_report import (
    influence_json,
    influence_text,
    interactions_text,
    picture_of_influences,
    picture_of_interactions,
)
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import result_folder, write_json
from shapkit_diffusion.sampling import draw_noise, generate
from shapkit_diffusion.segmentation.label_maps import open_parser, write_label_maps
from shapkit_diffusion.segmentation.parsers import MergedParser
from shapkit_diffusion.training import (
    EXIT_STOPPED,
    PenaltyConfig,
    TrainConfig,
    TrainingStopped,
    to_bytes,
    to_unit_range,
    train,
)
from shapkit_diffusion.training_config import TimestepWeighting, fast_precision

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
    except TrainingStopped as stopped:
        print(f"\nshapkit-diffusion {options.command}: {stopped}", file=sys.stderr)
        return EXIT_STOPPED
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
    _add_parse(commands)
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


LAUNCHING = """several GPUs:     accelerate launch --num_processes 8 -m shapkit_diffusion.cli {name} ...
several nodes:    accelerate launch --num_machines 4 --num_processes 32 --machine_rank RANK --main_process_ip HOST
                  --main_process_port 29500 -m shapkit_diffusion.cli {name} ...   (on each, with a common --out)
CPU processes:    ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 -m shapkit_diffusion.cli {name} ...

SIGTERM and SIGUSR1 (sbatch --signal=USR1@120) end a run after the step it is in: the state is saved, the exit status is
{status}, and --resume goes on to the numbers of a run that was not stopped."""


class _LaunchFormatter(_Formatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line ends of the epilog."""


class _Published(argparse.Action):
    """Sets what the paper states for one concept; options that come after it on the command line count."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        config = TrainConfig.published(values, namespace.steps)
        penalty = asdict(PenaltyConfig.published(values))
        for name, value in {
            "learning_rate": config.learning_rate,
            "warmup": config.warmup,
            "ema": config.ema,
            "constant_rate": True,
            "target": "noise",
            **penalty,
        }.items():
            setattr(namespace, name, value)


def _add_training(parser: argparse.ArgumentParser, defaults: TrainConfig) -> None:
    parser.epilog = LAUNCHING.format(name=parser.prog.split()[-1], status=EXIT_STOPPED)
    parser.formatter_class = _LaunchFormatter
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
    parser.add_argument(
        "--accumulation",
        type=int,
        default=defaults.accumulation,
        help="micro-batches per step and process, to save memory",
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="compute activations twice and keep none, to save memory"
    )
    parser.add_argument(
        "--gradient-clip", type=float, default=defaults.gradient_clip, help="the gradient's largest norm"
    )
    parser.add_argument(
        "--sample-every", type=int, default=defaults.sample_every, help="steps between grids of samples; 0 for none"
    )
    parser.add_argument(
        "--cache-latents", action="store_true", help="latent models: encode all images once, before the first step"
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
    _add_training(
        parser, TrainConfig(steps=4500, learning_rate=1e-3, warmup=200, ema=0.999, precision=fast_precision())
    )


def _train(options: argparse.Namespace) -> None:
    config = _training_config(options, None, anchor=False)
    domain = open_domain(options.data, options.size, options.count)
    image_channels, size, _ = domain.training.rows([0])[0].shape[1:]
    model = small_denoiser(size, image_channels, tuple(options.channels), options.prediction, options.seed)
    trained = train(model, domain.training, config, options.out, resume=options.resume, progress=on_terminal("train"))
    if PartialState().is_main_process:
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
    group.add_argument(
        "--concepts",
        nargs="+",
        default=list(wanted.concepts),
        help="labels that become players; one, several, or all, which is every label but the background",
    )
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
    group.add_argument(
        "--timestep-weighting",
        choices=get_args(TimestepWeighting),
        default=wanted.timestep_weighting,
        help="what a sample's penalty counts, by its signal-to-noise ratio",
    )
    group.add_argument(
        "--published",
        action=_Published,
        metavar="CONCEPT",
        help="the paper's settings for a concept against the rest: learning rate, EMA, penalty; options after it count",
    )
    _add_training(parser, demo_config("faces").finetune)


def _finetune(options: argparse.Namespace) -> None:
    penalty = None
    if options.weight > 0:
        penalty = PenaltyConfig(
            weight=options.weight,
            final_weight=options.final_weight,
            concepts=tuple(options.concepts),
            graph=options.graph,
            estimator=options.estimator,
            fill=options.fill,
            payoff=options.payoff,
            samples=options.samples,
            dilation=options.dilation,
            regions=options.regions,
            output=options.output,
            timestep_weighting=options.timestep_weighting,
        )
    config = _training_config(options, penalty, anchor=penalty is not None and options.target == "model")
    model = _model(options)
    domain = open_domain(options.data, options.size, options.count)
    tuned = train(model, domain.training, config, options.out, resume=options.resume, progress=on_terminal("fine-tune"))
    if PartialState().is_main_process:
        _write_samples(tuned, Path(options.out))


def _add_influence(commands: Any) -> None:
    parser = _command(
        commands, "influence", _influence, "show which input region of a model drives which output region"
    )
    _add_data(parser)
    _add_model(parser)
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS), help="labels that become players")
    parser.add_argument(
        "--timesteps", type=int, nargs="+", default=[50, 250, 500, 750, 950], help="single runs to look into"
    )
    parser.add_argument("--images", type=int, default=16, help="generated images to average over, even")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument(
        "--budget",
        type=int,
        default=BUDGET,
        help="coalitions for each pair of images; with fewer than there are, influence is estimated",
    )
    parser.add_argument(
        "--interactions", choices=("SII", "k-SII", "STII", "FSII", "BII", "FBII"), help="also of pairs of regions"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images that the network is given at once")
    parser.add_argument("--dilation", type=int, default=1, help="pixels by which concepts grow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for influence.json and the pictures; must be new")


def _influence(options: argparse.Namespace) -> None:
    model = _model(options)
    domain = open_domain(options.data, options.size, count=2)
    with result_folder(options.out, _settings(options)) as folder:
        maps = influence_maps(
            model,
            draw_noise(model, options.images, options.seed),
            lambda images: domain.regions(images, options.concepts, options.dilation),
            options.timesteps,
            options.steps,
            options.seed,
            interactions=options.interactions,
            budget=options.budget,
            batch_size=options.batch_size,
        )
        _show_influence(maps)
        write_json(folder / "influence.json", {name: influence_json(found) for name, found in maps.items()})
        title = "What drives each region: share of its change (%) ± standard error over images"
        (folder / "influence.png").write_bytes(report.png(picture_of_influences({"": maps}, title)))
        if options.interactions:
            title = f"{END_TO_END}: interactions of two input regions (%) ± standard error over images"
            (folder / "interactions.png").write_bytes(report.png(picture_of_interactions(maps[END_TO_END], title)))
    print(f"\nfigures and pictures are in {options.out}")


def _show_influence(maps: Mapping[str, Influence]) -> None:
    allowed = allowed_influence(star(), next(iter(maps.values())).names)
    for name, found in maps.items():
        how = "exact" if found.attribution.method == "exact" else f"{found.attribution.n_evaluations} coalitions a pair"
        print(
            f"\n{name}: share (%) of each output region's change (row) that each input region drives (column)\n"
            f"± its standard error over {found.n_images} images; {how}"
        )
        print(influence_text(found))
        mass, error = 100 * outside_mass(found, allowed), 100 * outside_error(found, allowed)
        print(f"from concepts to other regions: {mass:.1f} ± {error:.1f}")
        if found.interactions is not None:
            print(interactions_text(found))


def _add_edit(commands: Any) -> None:
    parser = _command(commands, "edit", _edit, "edit regions of given or generated images through their noise")
    _add_data(parser)
    _add_model(parser)
    parser.add_argument(
        "--region",
        action="append",
        required=True,
        help=f"a concept to edit, e.g. {CONCEPTS[-1]}; may be repeated: edits follow one another",
    )
    parser.add_argument(
        "--image", action="append", default=[], help="a given image to invert and edit; may be repeated"
    )
    parser.add_argument("--count", type=int, default=4, help="generated images to edit, where no --image is given")
    parser.add_argument("--image-seed", type=int, default=0, help="of the generated images")
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], help="of the regions' fresh noise: one for all, or one for each"
    )
    parser.add_argument(
        "--strength",
        type=float,
        nargs="+",
        default=[1.0],
        help="from 0, nothing, to 1, all noise is new: one for all regions, or one for each",
    )
    parser.add_argument("--variants", type=int, default=3, help="edits per image, with seeds that count up")
    parser.add_argument(
        "--swap-with", metavar="IMAGE", help="take the regions' noise from this image instead; makes one variant"
    )
    parser.add_argument(
        "--outside",
        choices=("free", "replay"),
        default="free",
        help="free: the model decides what else changes; replay: put everything else back at every step",
    )
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--refinements", type=int, default=3, help="fixed-point iterations per step of the inversion")
    parser.add_argument("--dilation", type=int, default=1, help="pixels by which the concepts grow")
    parser.add_argument("--out", required=True, help="folder for the pictures; must be new")


def _edit(options: argparse.Namespace) -> None:
    for name in ("count", "variants"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    seeds, strengths = _for_each_region(options, "seed"), _for_each_region(options, "strength")
    model = _model(options)
    domain = open_domain(options.data, options.size, count=2)
    for region in options.region:
        if region not in domain.label_names:
            raise ValueError(f"--region {region}: the data has {', '.join(domain.label_names)}")
    given = [_read_image(path, model.image_shape) for path in options.image]
    other = None if options.swap_with is None else _read_image(options.swap_with, model.image_shape)
    with result_folder(options.out, _settings(options)) as folder:
        source = None if other is None else _inverted(options, model, [other], [options.swap_with]).noise
        chains = [
            [
                Edit(region, "resample" if source is None else "swap", seed + variant, strength, source)
                for region, seed, strength in zip(options.region, seeds, strengths, strict=True)
            ]
            for variant in range(options.variants if source is None else 1)
        ]
        _write_edits(options, model, domain, given, chains, folder)
    print(f"edited images are in {options.out}")


def _for_each_region(options: argparse.Namespace, name: str) -> list[Any]:
    values, regions = getattr(options, name), options.region
    if len(values) not in (1, len(regions)):
        raise ValueError(f"--{name} takes one value, or one for each of the {len(regions)} regions, got {len(values)}")
    return list(values) if len(values) > 1 else values * len(regions)


def _write_edits(
    options: argparse.Namespace,
    model: Denoiser,
    domain: Domain,
    given: Sequence[Tensor],
    chains: Sequence[Sequence[Edit]],
    folder: Path,
) -> None:
    """Invert or generate the originals, edit each by every chain of edits, write the picture and single images."""
    if given:
        original = _inverted(options, model, given, options.image)
    else:
        noise = draw_noise(model, options.count, options.image_seed)
        original = Original.from_noise(model, noise, options.steps, keep_trajectory=options.outside == "replay")
    images = torch.stack(list(given)) if given else original.reconstruction
    regions = domain.regions(images, list(dict.fromkeys(options.region)), options.dilation)
    results = [edit_original(model, original, regions, edits, outside=options.outside) for edits in chains]
    title = f"The noise of {', '.join(options.region)} " + ("drawn anew" if options.swap_with is None else "exchanged")
    if options.outside == "replay":
        title += "\nand all else put back at every step"
    figure = picture_of_edits(results, regions.mask(*options.region), title, images if given else None)
    (folder / "edits.png").write_bytes(report.png(figure))
    rows = {"original": images} | {f"variant-{number + 1}": result.edited for number, result in enumerate(results)}
    if given:
        rows["reconstruction"] = original.reconstruction
        write_json(folder / "round_trip.json", {"psnr_db": original.psnr.tolist(), "images": options.image})
    for name, batch in rows.items():
        for number, image in enumerate(to_bytes(batch)):
            _write_image(folder / f"{name}-image-{number + 1}.png", image)


def _inverted(options: argparse.Namespace, model: Denoiser, images: Sequence[Tensor], paths: Sequence[str]) -> Original:
    """The images inverted; how well that went is printed, before anything is edited."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InversionWarning)  # said below, with the files' names
        original = Original.from_images(
            model,
            torch.stack(list(images)),
            options.steps,
            options.refinements,
            keep_trajectory=options.outside == "replay",
        )
    for number, path in enumerate(paths):
        psnr, limit = float(original.psnr[number]), float(original.autoencoder_psnr[number])
        remarks = [f"standard deviation of its noise {original.noise[number].std():.2f}"]
        if limit < math.inf:
            remarks.append(f"the autoencoder alone {limit:.1f} dB")
        if not psnr >= FAITHFUL:
            remarks.append(f"below {FAITHFUL:g} dB, the edit will show that loss too")
        print(f"inversion round trip of {path}: {psnr:.1f} dB ({'; '.join(remarks)})", flush=True)
    return original


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
        for entry in result.decoder_floor or []:
            print(f"the decoder alone: ratio {entry.ratio:.4f} for edits of the {entry.concept}")
        write_json(folder / "evaluation.json", result.figures())
        for concept in config.concepts:
            figure = report.picture_of_swaps({"model": result.swaps}, concept)
            (folder / f"swap_{concept}.png").write_bytes(report.png(figure))


def _add_parse(commands: Any) -> None:
    parser = _command(commands, "parse", _parse, "write label maps of a folder of face images")
    parser.add_argument("--images", required=True, help="folder of pictures")
    parser.add_argument(
        "--parser",
        default="small",
        help="small (shipped, for rendered faces), bisenet:FILE of published weights, or segformer:FOLDER",
    )
    parser.add_argument(
        "--all-classes", action="store_true", help="keep the parser's own classes; concepts are merged by name if not"
    )
    parser.add_argument("--device", default="cpu", help="where the parser runs")
    parser.add_argument("--out", required=True, help="folder for the label maps; must be new")


def _parse(options: argparse.Namespace) -> None:
    parser = open_parser(options.parser, options.device)
    chosen = parser if options.all_classes or options.parser == "small" else MergedParser(parser)
    with result_folder(options.out, _settings(options)) as folder:
        write_label_maps(options.images, chosen, folder, progress=on_terminal("parse"))
    print(f"label maps are in {options.out}: train with --data folder:{options.images}:{options.out}")


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
    images = model.decode(generate(model, draw_noise(model, 24, seed=0)))
    rows = {"": images[:12], " ": images[12:]}
    (folder / "samples.png").write_bytes(report.png(report.picture_of_samples(rows, title="Generated images")))


def _read_image(path: str, shape: tuple[int, int, int]) -> Tensor:
    """An image file as (channels, height, width) in [-1, 1], resized to the model's shape."""
    channels, height, width = shape
    with warnings.catch_warnings():
        # MAX_PIXELS is the stricter limit, and says so in one line.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = decode_picture(Path(path), IMAGE_MODES, MAX_PIXELS)
    return to_unit_range(torch.tensor(image_bytes(picture, channels, (height, width))))


def _write_image(path: Path, pixels: np.ndarray) -> None:
    picture = np.moveaxis(pixels, 0, -1)
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(path)


if __name__ == "__main__":
    sys.exit(main())
