"""``influence``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from shapkit.differentiable import allowed_influence, star
from shapkit.exact.interactions import VALUES, Index
from shapkit_diffusion.commands.models import add_model, add_sampling, domain_of, model_of
from shapkit_diffusion.commands.options import add_data, add_parser_choice, settings
from shapkit_diffusion.denoisers.checkpoints import find_folder
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.denoisers.prompts import text_encoder
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain
from shapkit_diffusion.noise.influence import BUDGET, END_TO_END, Influence, influence_maps, outside_error, outside_mass
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.noise.words import word_influence
from shapkit_diffusion.pictures.influence import (
    influence_json,
    influence_text,
    interactions_text,
    picture_of_influences,
    picture_of_interactions,
)
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.runs import result_folder, write_json


def add_influence(parser: argparse.ArgumentParser) -> None:
    """The options of the command ``influence``."""
    parser.set_defaults(run=_influence)
    add_data(parser)
    add_parser_choice(parser)
    add_model(parser)
    add_sampling(parser)
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
        "--interactions",
        choices=[name for name in get_args(Index) if name not in VALUES],
        help="also of pairs of regions",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images that the network is given at once")
    parser.add_argument("--dilation", type=int, default=1, help="pixels by which concepts grow")
    parser.add_argument(
        "--prompt", help="of a text-to-image model: which of its words drives which region, from noise to image"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of the coalitions where drawn")
    parser.add_argument("--out", required=True, help="folder for influence.json and the pictures; must be new")


def _influence(options: argparse.Namespace) -> None:
    model = model_of(options)
    domain = domain_of(options)
    if options.prompt is not None and options.interactions:
        raise ValueError("--interactions are of regions: leave them out with --prompt")
    if options.prompt is not None and model.prompt_embedding is None:
        raise ValueError(
            f"--prompt is for models of text and images, and {options.model} takes no prompt: leave it out"
        )
    with result_folder(options.out, settings(options)) as folder:
        if options.prompt is not None:
            _words(model, options, domain, folder)
            return
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
        (folder / "influence.png").write_bytes(png(picture_of_influences({"": maps}, title)))
        if options.interactions:
            title = f"{END_TO_END}: interactions of two input regions (%) ± standard error over images"
            (folder / "interactions.png").write_bytes(png(picture_of_interactions(maps[END_TO_END], title)))
    print(f"\nfigures and pictures are in {options.out}")


def _words(model: Denoiser, options: argparse.Namespace, domain: Domain, folder: Path) -> None:
    """Which word of the prompt drives which region."""
    words, embed = options.prompt.split(), text_encoder(find_folder(options.model))
    noise = draw_noise(model, options.images, options.seed)
    latents = generate(model.with_prompt(embed(options.prompt)), noise, options.steps, options.batch_size)
    regions = domain.regions(model.decode(latents), options.concepts, options.dilation)
    found = word_influence(
        model,
        noise,
        latent_regions(regions, model, missing="allow"),
        words,
        embed,
        steps=options.steps,
        budget=options.budget,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    print("share (%) of each region's change (row) that each word drives (column) ± standard error over images")
    print(influence_text(found))
    write_json(folder / "influence.json", {"words": influence_json(found)})
    title = "Which word drives each region: share of its change (%) ± standard error"
    (folder / "influence.png").write_bytes(png(picture_of_influences({"": {options.prompt: found}}, title)))
    print(f"\nfigures and the picture are in {options.out}")


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
