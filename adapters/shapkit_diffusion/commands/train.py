"""``train`` and ``finetune``."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

from accelerate import PartialState

from shapkit._files import user_path
from shapkit.differentiable import Regions
from shapkit_diffusion.commands.models import add_model, model_of, write_samples
from shapkit_diffusion.commands.options import Formatter, add_data, add_settings, settings_of
from shapkit_diffusion.data.labelled import Images
from shapkit_diffusion.demo import demo_config
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, load_autoencoder
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser, small_transformer
from shapkit_diffusion.denoisers.parameterisation import PREDICTIONS
from shapkit_diffusion.denoisers.region_transformer import convert
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.training.batches import concept_names, template_regions
from shapkit_diffusion.training.config import (
    PairedNoise,
    PenaltyConfig,
    TrainConfig,
    fast_precision,
    graph_called,
)
from shapkit_diffusion.training.denoiser import train
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED

ARCHITECTURES = ("unet", "dit", "region")

CONCEPT_WEIGHT, ANCHOR_SUBSTEPS = 4.0, 4
"""The reference study's (docs/study.md)."""

SETTINGS = (
    *("steps", "batch_size", "learning_rate", "warmup", "ema", "seed", "precision", "save_every", "log_every"),
    *("flip", "accumulation", "gradient_checkpointing", "gradient_clip", "sample_every", "cache_latents"),
    "noises_per_image",
)
"""What of ``TrainConfig`` is an option of both commands."""

LAUNCHING = """several GPUs:     accelerate launch --num_processes 8 -m shapkit_diffusion.cli {name} ...
several nodes:    accelerate launch --num_machines 4 --num_processes 32 --machine_rank RANK --main_process_ip HOST
                  --main_process_port 29500 -m shapkit_diffusion.cli {name} ...   (on each, with a common --out)
CPU processes:    ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 -m shapkit_diffusion.cli {name} ...

SIGTERM and SIGUSR1 (sbatch --signal=USR1@120) end a run after the step it is in: the state is saved, the exit status is
{status}, and --resume goes on to the numbers of a run that was not stopped."""


class _LaunchFormatter(Formatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line ends of the epilog."""


class _Published(argparse.Action):
    """Sets what the paper states for one concept; options that come after it on the command line count."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        config = TrainConfig.published(values, namespace.steps)
        published = {name: getattr(config, name) for name in ("learning_rate", "warmup", "ema")}
        published |= {"constant_rate": True, "target": "noise"} | asdict(PenaltyConfig.published(values))
        vars(namespace).update(published)


def _add_training(parser: argparse.ArgumentParser, defaults: TrainConfig) -> None:
    parser.epilog = LAUNCHING.format(name=parser.prog.split()[-1], status=EXIT_STOPPED)
    parser.formatter_class = _LaunchFormatter
    add_settings(parser, TrainConfig, defaults, only=SETTINGS)
    parser.add_argument("--constant-rate", action="store_true", help="do not let the learning rate fall to zero")
    parser.add_argument("--out", required=True, help="run folder; must be new unless --resume")
    parser.add_argument(
        "--sharded",
        action="store_true",
        help="every process keeps its share of the weights and of what training keeps beside them (FSDP2), for models "
        "too large to be whole in each",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state in --out")


def _training_config(options: argparse.Namespace, penalty: PenaltyConfig | None, anchor: bool) -> TrainConfig:
    given = {name: getattr(options, name) for name in SETTINGS}
    return TrainConfig(**given, decay=not options.constant_rate, anchor=anchor, penalty=penalty)


def add_train(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``train``."""
    parser.set_defaults(run=_train)
    add_data(parser)
    parser.add_argument("--count", type=int, default=16384, help="how many faces to render")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[16, 32, 64], help="width of each level of the UNet, multiples of 8"
    )
    parser.add_argument(
        "--architecture",
        choices=ARCHITECTURES,
        default="unet",
        help="unet; dit, a transformer; or region, a transformer whose regions see no more of each other than --graph "
        "lets them: local by construction, as cheap to generate with as a plain one (docs/region_transformer.md)",
    )
    parser.add_argument("--width", type=int, default=96, help="of a transformer's tokens")
    parser.add_argument("--depth", type=int, default=5, help="blocks of a transformer")
    parser.add_argument("--patch", type=int, default=2, help="pixels per side of a transformer's token")
    group = parser.add_argument_group("regions of a region transformer")
    concepts = "labels that become regions of their own; one, several, or all, which is every label but the background"
    add_settings(group, PenaltyConfig, only=("concepts", "graph", "dilation"), concepts=concepts)
    weight = "what a concept's pixel counts in the loss, against one of the rest"
    add_settings(group, TrainConfig, only=("concept_weight", "regions"), concept_weight=weight)
    parser.add_argument(
        "--autoencoder", help="folder of the autoencoder whose latents the model is of; a pixel model if left out"
    )
    parser.add_argument("--prediction", choices=PREDICTIONS, default="v_prediction", help="what the network predicts")
    _add_training(
        parser, TrainConfig(steps=4500, learning_rate=1e-3, warmup=200, ema=0.999, precision=fast_precision())
    )


def _train(options: argparse.Namespace) -> None:
    own = {name: getattr(options, name) for name in ("concept_weight", "regions", "dilation")}
    config = replace(_training_config(options, None, anchor=False), **own)
    domain = open_domain(options.data, options.size, options.count)
    image_channels, size, _ = domain.training.rows([0])[0].shape[1:]
    autoencoder = load_autoencoder(options.autoencoder) if options.autoencoder else None
    model = _new_model(options, size, image_channels, autoencoder)
    if options.architecture == "region":
        model = convert(model, _regions(model, domain.training, options), graph_called(options.graph))
    trained = train(
        model,
        domain.training,
        config,
        options.out,
        resume=options.resume,
        sharded=options.sharded,
        progress=on_terminal("train"),
    )
    if PartialState().is_main_process:
        write_samples(trained, user_path(options.out))


def _new_model(options: argparse.Namespace, size: int, channels: int, autoencoder: Autoencoder | None) -> Denoiser:
    given = {"prediction": options.prediction, "seed": options.seed, "autoencoder": autoencoder}
    if options.architecture == "unet":
        return small_denoiser(size, channels, tuple(options.channels), **given)
    return small_transformer(size, channels, options.width, options.depth, options.patch, **given)


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``finetune``."""
    parser.set_defaults(run=_finetune)
    add_data(parser)
    parser.add_argument("--count", type=int, default=16384, help="how many faces to render")
    add_model(parser)
    parser.add_argument(
        "--target",
        choices=("model", "noise"),
        default="model",
        help="what the denoising loss compares with: predictions of the model started from, or (always without "
        "penalty, and with paired noise) the noise itself",
    )
    parser.add_argument(
        "--anchor-substeps",
        type=int,
        help="steps of the model started from that one prediction learns to do the work of; if left out, "
        f"{ANCHOR_SUBSTEPS} where that model is the target (docs/study.md)",
    )
    add_settings(parser, TrainConfig, demo_config("faces").finetune, only=("anchor_stride", "low_rank"))
    parser.add_argument(
        "--paired-noise",
        type=int,
        default=0,
        metavar="IMAGES",
        help="train on this many images with the noise that the model generates them from, found before the first "
        "step; 0 for new noise at every step",
    )
    parser.add_argument(
        "--paired-concepts",
        choices=("paired", "fresh"),
        default=PairedNoise().concepts,
        help="with paired noise: whether concepts get theirs, too, or new noise at every step",
    )
    parser.add_argument(
        "--composed",
        choices=("together", "staged"),
        help="no penalty: every region predicted by a run of its own, which sees what --graph lets it; staged: "
        "after the regions that it looks at, which are then finished (best with thousands of images); together: "
        "at once (best with few, since all is learnt from the model, nothing from the images)",
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="no penalty: a plain DiT becomes a region transformer of the same weights, which sees what --graph lets "
        "it, and is trained on (docs/region_transformer.md)",
    )
    parser.add_argument(
        "--concept-weight",
        type=float,
        help="of staged and converted models: what a concept's pixel counts in the loss, against one of the rest; if "
        f"left out, {CONCEPT_WEIGHT:g} for staged ones and 1 for converted ones",
    )
    group = parser.add_argument_group("penalty")
    add_settings(
        group,
        PenaltyConfig,
        weight="lambda at the first step; 0 trains without penalty",
        concepts="labels that become players; one, several, or all, which is every label but the background",
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
    if options.convert and options.composed:
        raise ValueError("--convert and --composed are two ways to one end: leave one of them out")
    if options.weight > 0 and options.composed is None and not options.convert:
        penalty = PenaltyConfig(**settings_of(options, PenaltyConfig))
    paired = PairedNoise(options.paired_noise, concepts=options.paired_concepts) if options.paired_noise else None
    substeps = options.anchor_substeps
    # Otherwise the anchor holds it where it is; a converted model learns from the images, as it did before
    learns = not options.convert and (penalty is not None or options.composed or substeps)
    anchored = bool(learns) and paired is None and options.target == "model"
    config = replace(
        _training_config(options, penalty, anchored),
        paired=paired,
        anchor_substeps=substeps or (ANCHOR_SUBSTEPS if anchored else 1),
        anchor_stride=options.anchor_stride,
        low_rank=options.low_rank,
        regions=options.regions if options.convert else "template",
        dilation=options.dilation,
        concept_weight=_concept_weight(options),
    )
    model = model_of(options)
    domain = open_domain(options.data, options.size, options.count)
    tuned = train(
        _made_local(model, domain.training, options),
        domain.training,
        config,
        options.out,
        resume=options.resume,
        teacher=model if anchored else None,
        sharded=options.sharded,
        progress=on_terminal("fine-tune"),
    )
    if PartialState().is_main_process:
        write_samples(tuned, user_path(options.out))


def _concept_weight(options: argparse.Namespace) -> float:
    if options.concept_weight is not None:
        return float(options.concept_weight)
    return 1.0 if options.convert else CONCEPT_WEIGHT


def _made_local(model: Denoiser, data: Images, options: argparse.Namespace) -> Denoiser:
    """The model, local by construction where that is asked for."""
    if options.convert:
        return convert(model, _regions(model, data, options), graph_called(options.graph))
    if options.composed:
        regions, staged = _regions(model, data, options), options.composed == "staged"
        return ComposedDenoiser(model, regions, graph_called(options.graph), staged=staged)
    return model


def _regions(model: Denoiser, data: Images, options: argparse.Namespace) -> Regions:
    """One partition for all images, on the model's grid."""
    wanted = PenaltyConfig(concepts=tuple(options.concepts))
    return template_regions(data, model, concept_names(data, wanted), dilation=options.dilation, mirrored=options.flip)
