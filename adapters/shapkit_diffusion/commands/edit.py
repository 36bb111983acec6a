"""``edit``."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit.differentiable.regions import OTHER
from shapkit_diffusion.commands.models import add_model, add_sampling, domain_of, model_of, read_image, write_image
from shapkit_diffusion.commands.options import add_data, add_parser_choice, settings
from shapkit_diffusion.data.pixels import to_bytes
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain
from shapkit_diffusion.noise.edits import (
    BATCH_SIZE,
    CLIPPING_TOLD,
    FAITHFUL,
    Edit,
    InversionWarning,
    Original,
    Outside,
    edit_by_own_regions,
    edit_original,
)
from shapkit_diffusion.noise.sampling import draw_noise
from shapkit_diffusion.pictures.edits import picture_of_edits
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.runs import result_folder, write_json


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``edit``."""
    parser.set_defaults(run=_edit)
    add_data(parser)
    add_parser_choice(parser)
    add_model(parser, default="local")
    add_sampling(parser)
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
        choices=get_args(Outside),
        default="free",
        help="free: the model decides what else changes; replay: put everything else back at every step",
    )
    parser.add_argument(
        "--no-inversion",
        action="store_true",
        help="of models that generate in stages: regions of given images are drawn anew from the image around them, "
        "which stays as it is, bit for bit",
    )
    parser.add_argument(
        "--own-regions",
        action="store_true",
        help="with --no-inversion, of a region transformer: each image is edited by the regions found in it, not by "
        "the one partition of the model; train such a model with --regions label_maps",
    )
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--refinements", type=int, default=3, help="fixed-point iterations per step of the inversion")
    parser.add_argument("--dilation", type=int, default=1, help="pixels by which the concepts grow")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="images that the network is given at once")
    parser.add_argument("--out", required=True, help="folder for the pictures; must be new")


def _edit(options: argparse.Namespace) -> None:
    for name in ("count", "variants", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    seeds, strengths = _for_each_region(options, "seed"), _for_each_region(options, "strength")
    model = model_of(options)
    domain = domain_of(options)
    for region in options.region:
        if region not in domain.label_names:
            raise ValueError(f"--region {region}: the data has {', '.join(domain.label_names)}")
    if options.no_inversion and (options.swap_with is not None or not options.image):
        raise ValueError("--no-inversion is for given images and new noise: add --image, and leave --swap-with out")
    if options.own_regions and not (options.no_inversion and isinstance(model, RegionDenoiser)):
        raise ValueError("--own-regions is for region transformers and given images: add --no-inversion, and --model")
    given = [read_image(path, model.image_shape) for path in options.image]
    other = None if options.swap_with is None else read_image(options.swap_with, model.image_shape)
    with result_folder(options.out, settings(options)) as folder:
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
        original = Original.from_noise(
            model,
            noise,
            options.steps,
            keep_trajectory=options.outside == "replay",
            batch_size=options.batch_size,
        )
    images = torch.stack(list(given)) if given else original.reconstruction
    regions = _regions(options, model, domain, images)
    if options.own_regions:
        assert isinstance(model, RegionDenoiser)
        results = [
            edit_by_own_regions(model, images, regions, edits, options.steps, seed=options.image_seed)
            for edits in chains
        ]
    else:
        results = [
            edit_original(model, original, regions, edits, outside=options.outside, batch_size=options.batch_size)
            for edits in chains
        ]
    title = f"The noise of {', '.join(options.region)} " + ("drawn anew" if options.swap_with is None else "exchanged")
    if options.outside == "replay":
        title += "\nand all else put back at every step"
    figure = picture_of_edits(results, regions.mask(*options.region), title, images if given else None)
    (folder / "edits.png").write_bytes(png(figure))
    rows = {"original": images} | {f"variant-{number + 1}": result.edited for number, result in enumerate(results)}
    if given:
        rows["reconstruction"] = original.reconstruction
        write_json(folder / "round_trip.json", {"psnr_db": original.psnr.tolist(), "images": options.image})
    for name, batch in rows.items():
        for number, image in enumerate(to_bytes(batch)):
            write_image(folder / f"{name}-image-{number + 1}.png", image)


def _regions(options: argparse.Namespace, model: Denoiser, domain: Domain, images: Tensor) -> Regions:
    """As they are found in the images; of images that are not inverted those of the model, which it generates apart."""
    if not options.no_inversion:
        return domain.regions(images, list(dict.fromkeys(options.region)), options.dilation)
    own: Regions = model.regions  # type: ignore[assignment]  # that models of stages have
    for region in options.region:
        if region not in own.names:
            raise ValueError(f"--region {region}: with --no-inversion, the model has {', '.join(own.names)}")
    if options.own_regions:
        return domain.regions(images, [name for name in own.names if name != OTHER], options.dilation)
    return own


def _inverted(options: argparse.Namespace, model: Denoiser, images: Sequence[Tensor], paths: Sequence[str]) -> Original:
    """The images inverted; how well that went is printed, before anything is edited."""
    if options.no_inversion:
        return Original.as_given(model, torch.stack(list(images)), options.steps, seed=options.image_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InversionWarning)  # said below, with the files' names
        original = Original.from_images(
            model,
            torch.stack(list(images)),
            options.steps,
            options.refinements,
            keep_trajectory=options.outside == "replay",
            batch_size=options.batch_size,
        )
    for number, path in enumerate(paths):
        psnr, limit = float(original.psnr[number]), float(original.autoencoder_psnr[number])
        remarks = [f"standard deviation of its noise {original.noise[number].std():.2f}"]
        if limit < math.inf:
            remarks.append(f"the autoencoder alone {limit:.1f} dB")
        if not psnr >= FAITHFUL:
            remarks.append(f"below {FAITHFUL:g} dB, the edit will show that loss too")
            if original.cost_of_clipping[number] > CLIPPING_TOLD:
                without = float(original.unclipped_psnr[number])
                remarks.append(f"clipping the clean image is what costs it: with --no-clip {without:.1f} dB")
        print(f"inversion round trip of {path}: {psnr:.1f} dB ({'; '.join(remarks)})", flush=True)
    return original
