"""What local noise is, within a minute and without training: the shipped plain and local models side by side."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapkit._files import user_path
from shapkit.differentiable import allowed_influence, star
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import shipped_model
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.evaluation.locality import Locality, SwapResults, locality_gain, swap_and_measure
from shapkit_diffusion.noise.influence import END_TO_END, Influence, influence_end_to_end, outside_mass
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.pictures.comparison import picture_of_swaps
from shapkit_diffusion.pictures.influence import picture_of_influences
from shapkit_diffusion.pictures.pages import html_report, png
from shapkit_diffusion.runs import result_folder, write_json

MODELS = {"plain": "plain", "local": "local"}
"""What the two models are called here, and the names that they ship under."""

_MARK = "first_look.json"
_DILATION = 1  # pixels by which concepts grow, as in training


@dataclass(frozen=True)
class _Seen:
    locality: dict[str, Locality]
    swaps: SwapResults
    influence: Influence


def first_look(
    out: str | Path, *, pairs: int = 16, steps: int = 20, influence_images: int = 6, overwrite: bool = False
) -> dict[str, Any]:
    """Exchange the noise of each concept in both shipped models, and write a page of pictures and numbers.

    The folder receives ``index.html``, ``first_look.json`` and ``pictures/``.

    Args:
        out: the folder; must be new, unless ``overwrite``.
        pairs: of generated faces between which noise is exchanged.
        steps: of DDIM.
        influence_images: that influence is averaged over, even.
        overwrite: replace an earlier first look in ``out``.

    Returns:
        the figures, as in ``first_look.json``: locality of every concept and model, and what they come to.

    Raises:
        ValueError: if the folder exists, or is to be replaced and holds something else.
    """
    started = time.perf_counter()
    out = user_path(out)
    if overwrite and out.exists():
        if not (out / _MARK).is_file():
            raise ValueError(f"{out} holds no first look, so that it is not overwritten: choose another folder")
        shutil.rmtree(out)
    settings = {"pairs": pairs, "steps": steps, "influence_images": influence_images}
    with result_folder(out, settings) as folder:
        domain = open_domain("faces", count=2)
        seen = {name: _seen(shipped_model(ships), domain, **settings) for name, ships in MODELS.items()}
        summary = _summary(seen) | settings
        summary["seconds"] = round(time.perf_counter() - started, 1)
        pictures = _pictures(seen)
        (folder / "pictures").mkdir()
        for number, data in enumerate(pictures.values()):
            (folder / "pictures" / f"{number + 1}.png").write_bytes(data)
        write_json(folder / _MARK, summary)
        (folder / "index.html").write_text(_page(summary, pictures), encoding="utf-8")
    print(f"{table(summary)}\n\n{verdict(summary)}\n\npage: {out / 'index.html'}")
    return summary


def _seen(model: Denoiser, domain: Domain, pairs: int, steps: int, influence_images: int) -> _Seen:
    noise, other = draw_noise(model, pairs, 0), draw_noise(model, pairs, 1)

    def make(rows: Any) -> Any:
        return model.decode(generate(model, rows, steps))

    concepts = concept_labels(domain.label_names, CONCEPTS)
    found, swaps = swap_and_measure(make, domain.parse, noise, other, concepts, dilation=_DILATION)
    few = draw_noise(model, influence_images, 2)
    regions = domain.regions(make(few), CONCEPTS, _DILATION)
    return _Seen({entry.concept: entry for entry in found}, swaps, influence_end_to_end(model, few, regions, steps))


def _summary(seen: Mapping[str, _Seen]) -> dict[str, Any]:
    allowed = allowed_influence(star(), seen["plain"].influence.names)
    models: dict[str, dict[str, Any]] = {
        name: {
            "locality": {
                concept: {"mse_in": entry.mse_in, "mse_out": entry.mse_out, "ratio": entry.ratio}
                for concept, entry in model.locality.items()
            },
            "influence_outside_graph": outside_mass(model.influence, allowed),
        }
        for name, model in seen.items()
    }
    plain, local = (models[name]["locality"] for name in MODELS)
    gain = {concept: locality_gain(plain[concept]["ratio"], local[concept]["ratio"]) for concept in plain}
    return {"models": models, "locality_gain": gain}


def table(summary: Mapping[str, Any]) -> str:
    """The figures as text: how much an edit changes inside and outside its region, and from where influence comes."""
    lines = [
        " " * 8 + "".join(f"{f'noise of the {concept} exchanged':^30}" for concept in CONCEPTS) + "influence",
        f"{'model':8}" + "".join(f"{'MSE in':>10}{'MSE out':>10}{'ratio':>10}" for _ in CONCEPTS) + f"{'outside':>9}",
    ]
    for name, model in summary["models"].items():
        cells = "".join(
            f"{entry['mse_in']:>10.4f}{entry['mse_out']:>10.5f}{entry['ratio']:>10.5f}"
            for entry in (model["locality"][concept] for concept in CONCEPTS)
        )
        lines.append(f"{name:8}{cells}{model['influence_outside_graph']:>9.1%}")
    return "\n".join(lines)


def verdict(summary: Mapping[str, Any]) -> str:
    """What the figures say, and what else there is to see."""
    gains = ", ".join(f"{concept} {gain:.0f}×" for concept, gain in summary["locality_gain"].items())
    return (
        f"Locality of the local model over the plain one's: {gains}. {summary['pairs']} pairs, {summary['steps']} "
        f"steps, {summary['seconds']:.0f} seconds.\n\n"
        "The full comparison fine-tunes a model with the penalty and one without, and measures realism as well: "
        "make demo FULL=1, which takes some minutes."
    )


def _pictures(seen: Mapping[str, _Seen]) -> dict[str, bytes]:
    swaps = {name: model.swaps for name, model in seen.items()}
    pictures = {
        f"Only the noise of the {concept} was exchanged. Blue outline: its region": picture_of_swaps(swaps, concept, 6)
        for concept in CONCEPTS
    }
    maps = {name: {END_TO_END: model.influence} for name, model in seen.items()}
    pictures["Which region of the noise drives which region of the image"] = picture_of_influences(
        maps, "In the local model, no concept drives another region"
    )
    return {caption: png(figure) for caption, figure in pictures.items()}


def _page(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    introduction = (
        "A diffusion model turns noise into an image. Ask it for the same face with another mouth, by exchanging the "
        "noise of the mouth alone, and a plain model changes eyes and hair as well. In the local model each region of "
        "the noise owns the matching region of the image: the mouth changes, and nothing else."
        "\n\nMSE in and MSE out are mean square changes inside and outside of the region whose noise was exchanged, of "
        "images in [-1, 1]; their ratio is the locality, lower is better. 'Influence outside' is the share of a "
        "region's change that is driven from regions that should not, from noise to image."
    )
    return html_report("Local noise, a first look", introduction, table(summary), pictures, verdict(summary))
