"""What the study's results say: every run against its control, the tables of docs/study.md, and the pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

from shapkit_diffusion.data import LabelledImages
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS
from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, compare_edits
from shapkit_diffusion.noise.edits import Edit, Original, edit_original
from shapkit_diffusion.noise.sampling import draw_noise
from shapkit_diffusion.pictures.comparison import picture_of_samples
from shapkit_diffusion.training.batches import template_regions

TARGET_GAINS = {"faces": 20, "photographs": 5}
"""What the study is after: this much more local, at no loss of realism."""


def against(line: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """A run's figures over the control's: those of whole images, and those of every concept that both measured."""
    realism, before = line["realism"]["crops"], control["realism"]["crops"]
    concepts = {}
    for concept in line["edits"]:
        edits, reference = (EditMeasurement.from_json(one["edits"][concept]) for one in (line, control))
        pairs = compare_edits(edits, reference)
        gain = 1 / pairs["ratio"].value
        concepts[concept] = {
            "gain": [gain, 1 / pairs["ratio"].high, 1 / pairs["ratio"].low],
            **{name: pairs[name].value for name in ("mse_in", "diversity", "seam")},
            **{name: realism[concept][name] / before[concept][name] for name in ("fid", "kid")},
        }
    return {
        "whole": realism["whole"]["fid"] / before["whole"]["fid"],
        "whole_kid": realism["whole"]["kid"] / before["whole"]["kid"],
        "outside": line["influence_outside"][0] / control["influence_outside"][0],
        "concepts": concepts,
    }


def report(results: Mapping[str, Any]) -> str:
    """A line per run, by question: locality gain, what changes inside, realism, influence, cost."""
    lines = [HEAD]
    families = dict.fromkeys(arm["family"] for arm in results["arms"].values())
    for family in sorted(families, key=lambda name: FAMILIES.index(name)):
        runs = [run for run in results["runs"] if results["arms"][run["arm"]]["family"] == family]
        lines += [family, *(_line(run, results["arms"][run["arm"]]) for run in runs)] if runs else []
        lines += [_line_of_data(results)] if family == "base" and _control(results) else []
    settings = results["evaluation"]
    notes = (
        "runs: images through the trained network + through its anchor for each image of a batch; min: of training",
        "gain: the control's locality over the arm's (MSE out over MSE in); in, div, FID: over the control's",
        f"{settings['pairs']} pairs and {settings['images']} images a run, {settings['steps']} DDIM steps",
        results["machine"],
    )
    done = {run["arm"] for run in results["runs"]}
    missing = ", ".join(name for name in results["arms"] if name not in done)
    return "\n".join(
        [
            *lines,
            *notes,
            *textwrap.wrap(f"described, without a line here: {missing or 'none'}", 150, break_on_hyphens=False),
        ]
    )


FAMILIES = (
    "base",
    "published",
    "graph",
    "weight",
    "rate",
    "timesteps",
    "regions",
    "network",
    "noise",
    "distilled",
    "composed",
    "staged",
    "hair",
    "long",
    "photographs",
)
_GROUPS = (("gain", 7), ("in", 6), ("div", 6), ("FID of crop", 6))
HEAD = (
    f"{'':<28}{'':>5}"
    + "".join(f"{name:^{width * 3}}" for name, width in _GROUPS)
    + f"{'FID':>6}{'KID':>6}{'outside':>9}{'runs':>6}{'min':>6}\n"
    + f"{'arm':<28}{'seed':>5}"
    + "".join(f"{concept:>{width}}" for _, width in _GROUPS for concept in CONCEPTS)
)


def _line(run: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    images = run.get("network_images", {"trained": 0, "anchor": 0})
    seen = f"{images['trained']:.0f}+{images['anchor']:.0f}"
    cost = f"{seen:>6}{run.get('training_seconds', 0) / 60:>6.1f}"
    outside = f"{run['influence_outside'][0]:>9.2%}"
    start = f"  {run['arm']:<26}{run['seed']:>5}"
    if run["against"] is None:
        fid = run["realism"]["crops"]["whole"]["fid"]
        return f"{start}{'':>{sum(3 * width for _, width in _GROUPS)}}{fid:>6.3f}{'':>6}{outside}{cost}"
    of = run["against"]["concepts"]
    cells = ""
    for key, width in zip(("gain", "mse_in", "diversity", "fid"), (width for _, width in _GROUPS), strict=True):
        for concept in CONCEPTS:
            value = of[concept][key][0] if key == "gain" else of[concept][key]
            own = concept in arm["concepts"]
            cells += f"{value:>{width}.{1 if key == 'gain' else 2}f}" if own or key == "fid" else f"{'-':>{width}}"
    against = run["against"]
    return f"{start}{cells}{against['whole']:>6.2f}{against['whole_kid']:>6.2f}{outside}{cost}"


def _line_of_data(results: Mapping[str, Any]) -> str:
    """What a perfect local edit would have against the first control."""
    control, cells = _control(results), ""
    assert control is not None
    for key, width in (("ratio", 7), ("mse_in", 6), ("diversity", 6)):
        for concept in CONCEPTS:
            data, before = (of[concept][key]["value"] for of in (results["data"], control["edits"]))
            cells += f"{before / data:>{width}.1f}" if key == "ratio" else f"{data / before:>{width}.2f}"
    return f"  {'the data, a concept redrawn':<31}{cells}"


def _control(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first run of the control, if it is done."""
    return next((run for run in results["runs"] if run["arm"] == "control"), None)


def finalists(results: Mapping[str, Any]) -> str:
    """The arms of rendered faces with three seeds or more."""
    return _over_seeds(results, "faces", least=3)


def photographs(results: Mapping[str, Any]) -> str:
    """The arms of photographs."""
    return _over_seeds(results, "photographs", least=1)


def _over_seeds(results: Mapping[str, Any], data: str, least: int) -> str:
    """Each seed of an arm against its own control: mean, and the range over seeds."""
    lines = [f"{'':<26}{'':<8}" + "".join(f"{name:>24}" for name in MEASURES)]
    for name, arm in results["arms"].items():
        runs = [run for run in results["runs"] if run["arm"] == name and run["against"]]
        if len(runs) < least or arm["data"] != data or arm["is_control"]:
            continue
        for concept in (*CONCEPTS, "whole"):
            cells = []
            for key in MEASURES.values():
                found = [_measured(run["against"], concept, key) for run in runs]
                span = f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})" if None not in found else ""
                cells.append(f"{span:>24}")
            lines.append(f"{name if concept == CONCEPTS[0] else '':<26}{concept:<8}{''.join(cells)}".rstrip())
        within = sum(meets_bars(run["against"], data) for run in runs)
        lines.append(f"{'':<26}within every bar: {within} of {len(runs)} seed{'s' if len(runs) > 1 else ''}")
    return "\n".join(
        [*lines, "everything over the control's of the same seed, but locality: how many times less", BARS[data]]
    )


def beside_data(results: Mapping[str, Any]) -> str:
    """What edits change inside and outside, and how they differ, beside those of the renderer; means over seeds."""
    heads = {"MSE in": ("mse_in", ".4f"), "MSE out / MSE in": ("ratio", ".5f"), "diversity": ("diversity", ".3f")}
    lines = [
        f"{'':<32}" + "".join(f"{head:^27}" for head in heads),
        f"{'':<32}" + "".join(f"{concept:>9}" for _ in heads for concept in CONCEPTS),
    ]
    sources = {"the data, a concept redrawn": [results["data"]]}
    for name in BESIDE_DATA:
        sources[name] = [run["edits"] for run in results["runs"] if run["arm"] == name]
    for name, found in sources.items():
        if found:
            cells = "".join(
                f"{np.mean([edits[concept][key]['value'] for edits in found]):>9{form}}"
                for key, form in heads.values()
                for concept in CONCEPTS
            )
            lines.append(f"{name:<32}{cells}")
    return "\n".join([*lines, "MSE of images in [-1, 1], by each region's own area"])


BESIDE_DATA = ("plain", "control", "control-2400", "star", "distilled-24", "composed", "staged", "local")
MEASURES = {
    "locality gain": "gain",
    "MSE in": "mse_in",
    "diversity": "diversity",
    "FID": "fid",
    "seam": "seam",
    "outside": "outside",
}
_SHARED_BARS = "MSE in 0.5 to 1.5, diversity at least 0.8, FID whole and of every crop at most 1"
BARS = {
    "faces": f"bars: locality at least {TARGET_GAINS['faces']}, {_SHARED_BARS}, influence outside at most 0.1",
    "photographs": f"bars: locality at least {TARGET_GAINS['photographs']}, {_SHARED_BARS}",
}


def _measured(of: Mapping[str, Any], concept: str, key: str) -> float | None:
    if concept == "whole":
        return {"fid": of["whole"], "outside": of["outside"]}.get(key)
    value = of["concepts"][concept].get(key)
    return value[0] if key == "gain" else value


def meets_bars(of: Mapping[str, Any], data: str = "faces") -> bool:
    """Whether a run, against its control, is all that the study is after."""
    return (
        of["whole"] <= 1
        and (of["outside"] <= 0.1 or data != "faces")
        and all(
            found["gain"][0] >= TARGET_GAINS[data]
            and 0.5 <= found["mse_in"] <= 1.5
            and found["diversity"] >= 0.8
            and found["fid"] <= 1
            for found in of["concepts"].values()
        )
    )


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX*<>hp"


def picture(results: Mapping[str, Any]) -> Figure:
    """Locality bought against realism paid, an axis pair for each concept; the bars of the study as lines."""
    figure, axes = pyplot.subplots(1, len(CONCEPTS), figsize=(13, 4.8), sharey=True, layout="constrained")
    families = [name for name in FAMILIES if name not in ("base", "photographs")]
    for axis, concept in zip(axes, CONCEPTS, strict=True):
        for number, family in enumerate(families):
            points = np.array(
                [
                    (*of["gain"], of["fid"])
                    for run in results["runs"]
                    if (arm := results["arms"][run["arm"]])["family"] == family and concept in arm["concepts"]
                    if run["against"] and (of := run["against"]["concepts"][concept])
                ]
            )
            if len(points):
                gain, low, high, fid = points.T
                colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number]
                errors = (gain - low, high - gain)
                axis.errorbar(
                    gain, fid, xerr=errors, fmt=marker, color=colour, markersize=6, elinewidth=0.8, label=family
                )
        axis.axvline(TARGET_GAINS["faces"], color="grey", linewidth=1, linestyle="--")
        axis.axhline(1, color="grey", linewidth=1, linestyle="--")
        if control := _control(results):
            before, data = (edits[concept]["ratio"]["value"] for edits in (control["edits"], results["data"]))
            axis.axvline(before / data, color="black", linewidth=1, linestyle=":", label="the data, a concept redrawn")
        axis.set(xscale="log", yscale="log", xlabel="locality, times the control's", title=concept)
        axis.set_xticks([1, 2, 5, 10, 20, 50, 100, 200], labels=["1", "2", "5", "10", "20", "50", "100", "200"])
        axis.set_yticks([0.7, 1, 1.5, 2, 3, 4, 6], labels=["0.7", "1", "1.5", "2", "3", "4", "6"])
        axis.minorticks_off()
    axes[0].set(ylabel="Fréchet distance of the concept's crop, over the control's")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=9, fontsize=8)
    figure.suptitle(
        "Penalties pay for locality in realism; the rest first, and each concept given the rest, does not "
        "(wanted: lower right; bars: 95 % intervals)"
    )
    return figure


def edits_picture(models: Mapping[str, Denoiser], data: LabelledImages, steps: int, title: str) -> Figure:
    """New noise in one concept after the other, with each of the models, on images of the same noise.

    Args:
        data: says where the concepts may be.
        steps: of DDIM.
    """
    rows, count, seed = {}, 12, 11
    for name, model in models.items():
        original = Original.from_noise(model, draw_noise(model, count, seed), steps)
        rows[f"{name}: original"] = original.reconstruction
        regions = template_regions(data, model, CONCEPTS)
        for concept in CONCEPTS:
            result = edit_original(model, original, regions, [Edit(concept, seed=seed)])
            rows[f"{name}: new {concept}"] = result.edited
    return picture_of_samples(rows, count, title)
