"""Pictures of the tables: edits side by side, heat maps of the change, locality against realism."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.published_tables.layout import PASTES, Results
from shapkit._files import user_path
from shapkit._optional import require
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.pictures.comparison import NEGLIGIBLE, STRONG, change_map
from shapkit_diffusion.pictures.pages import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTLINE = "#56b4e9"
# Okabe and Ito's colours, told apart by the colour-blind; one for each family of systems.
COLOURS = {"text": "#009e73", "gan": "#cc79a7", "ldm": "#e69f00", "ddpm": "#0072b2"}
FAMILIES = {"sd": "text", "sega": "text", "style": "gan", "igan": "gan", "ldm": "ldm", "ldm-published": "ldm"}
FAMILIES |= {"ldm-local": "ldm"}
MARKERS = {"sd": "s", "repaint": "X", "sega": "v", "style": "v", "igan": "^", "ldm": "o", "ddpm": "o", "replay": "P"}
MARKERS |= {"ldm-published": "D", "ddpm-published": "D", "ldm-local": "*", "ddpm-local": "*"}


def row_pictures(folder: str | Path, results: Results) -> dict[str, dict[str, np.ndarray]]:
    """The images that were kept of every row, by row and name."""
    found = {}
    for key in results["rows"]:
        path = user_path(folder) / "rows" / f"{key}.npz"
        if path.is_file():
            with np.load(path) as kept:
                found[key] = {name: kept[name] for name in kept.files}
    return found


def picture_of_edits(
    results: Results, kept: Mapping[str, Mapping[str, np.ndarray]], concept: str, *, given: bool = False, count: int = 4
) -> Figure:
    """One column for each system; for each image a row of what it was, one of what became of it, one of the change.

    Args:
        results: of ``assemble``.
        kept: of ``row_pictures``.
        concept: what was edited.
        given: the same given images in every column, as each system reconstructs them, and not the systems' own.
        count: images at most.
    """
    pyplot: Any = require("matplotlib.pyplot", extra="plots", purpose="pictures of edits")
    names = ("reconstructed", "edited", "place") if given else ("before", "after", "mask")
    columns = [key for key in results["rows"] if key in kept]
    count = min(count, *(len(kept[key][f"{concept}-before"]) for key in columns))
    figure: Figure
    figure, axes = pyplot.subplots(
        3 * count, len(columns) + 1 if given else len(columns), squeeze=False, layout="constrained"
    )
    figure.set_size_inches(0.92 * axes.shape[1] + 1.4, 0.86 * axes.shape[0] + 1.0)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[], frame_on=False)
    drawn = None
    for column, key in enumerate(columns, start=int(given)):
        before, after, masks = (kept[key][f"{concept}-{name}"] for name in names)
        changes = change_map(_tensor(before[:count]), _tensor(after[:count]))
        for number in range(count):
            top, middle, bottom = axes[3 * number : 3 * number + 3, column]
            _show(top, before[number])
            _show(middle, after[number])
            drawn = bottom.imshow(changes[number], cmap="inferno", vmin=NEGLIGIBLE, vmax=STRONG)
            for axis, width in ((middle, 0.5), (bottom, 0.8)):
                axis.contour(masks[number, 0], levels=[0.5], colors=OUTLINE, linewidths=width)
        row = results["rows"][key]
        axes[0, column].set_title(_wrapped(row["name"] + (PASTES if row["pastes"] else "")), fontsize=7.5)
    if given:
        for number in range(count):
            _show(axes[3 * number, 0], kept[columns[0]][f"{concept}-given"][number])
        axes[0, 0].set_title("given", fontsize=7.5)
    words = ("made again" if given else "generated", "edited", "change")
    for number in range(count):
        for word, axis in zip(words, axes[3 * number : 3 * number + 3, int(given)], strict=True):
            axis.set_ylabel(word, rotation=0, ha="right", va="center", fontsize=8)
    whose = "given images" if given else "each system's own images"
    between = " " if len(columns) > 4 else "\n"
    title = f"Edits of the {concept} of {whose};{between}outline: the region that was to be edited"
    figure.suptitle(title, fontsize=10)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=0.4, pad=0.01)
        bar.set_label("change of the pixel (CIELAB distance)", fontsize=8)
    return figure


def picture_of_trade(results: Results) -> Figure:
    """Locality against realism of the edited concept, a panel for each concept; better is lower and further left."""
    pyplot: Any = require("matplotlib.pyplot", extra="plots", purpose="locality against realism")
    concepts = results["tables"]["concepts"]
    figure: Figure
    figure, axes = pyplot.subplots(
        1, len(concepts), figsize=(3.5 * len(concepts) + 2.6, 3.9), sharex=True, sharey=True, layout="constrained"
    )
    free = [row for row in results["rows"].values() if not row["pastes"]] or list(results["rows"].values())
    least = min((row["concepts"][c]["edits"]["ratio"]["value"] or 1.0 for row in free for c in concepts), default=1.0)
    edge = least / 4
    for axis, concept in zip(np.atleast_1d(axes), concepts, strict=True):
        for key, row in results["rows"].items():
            ratio = row["concepts"][concept]["edits"]["ratio"]
            colour = COLOURS[FAMILIES.get(key, "ddpm")]
            where = max(edge, ratio["value"])
            realism = row["concepts"][concept]["edited"]["crops"][concept]["fid"]
            ends = [[where - max(edge, min(where, ratio["low"]))], [max(where, ratio["high"]) - where]]
            axis.errorbar(
                where,
                realism,
                xerr=None if row["pastes"] else ends,
                fmt=MARKERS.get(key, "o"),
                color=colour,
                markerfacecolor="none" if row["pastes"] else colour,
                markersize=9 if MARKERS.get(key) == "*" else 6.5,
                elinewidth=0.8,
                label=row["name"] + (PASTES if row["pastes"] else ""),
            )
        axis.set(xscale="log", yscale="log", title=f"edits of the {concept}", xlabel="MSE out / MSE in")
        axis.grid(alpha=0.2)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(pyplot.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(pyplot.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.tick_params(which="minor", labelsize=7)
    np.atleast_1d(axes)[0].set_ylabel("Fréchet distance of the edited crop")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    title = f"Edited images: lower left is better. Hollow ({PASTES}): the outside is put back"
    figure.suptitle(f"{title},\nat the left edge where next to nothing of it changes", fontsize=10)
    return figure


def all_pictures(folder: str | Path, results: Results) -> dict[str, tuple[str, bytes]]:
    """Every picture by file name: its caption, and it as PNG."""
    kept = row_pictures(folder, results)
    found = {"trade": ("Locality against realism of edited images", png(picture_of_trade(results)))}
    for concept in results["tables"]["concepts"] if kept else ():
        for name, given in (("edits", False), ("given", True)):
            figure = picture_of_edits(results, kept, concept, given=given)
            whose = "given images" if given else "each system's own images"
            caption = f"Edits of the {concept} of {whose}, with the change in CIELAB on one scale"
            found[f"{name}_{concept}"] = (caption, png(figure, dpi=90))
    return found


def _tensor(images: np.ndarray) -> Tensor:
    return to_unit_range(torch.as_tensor(images))


def _show(axis: Any, image: np.ndarray) -> None:
    pixels = np.moveaxis(image, 0, -1)
    axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)


def _wrapped(name: str) -> str:
    """A column's name on as many lines as it has words, short ones together.

    >>> _wrapped("Editing in Style")
    'Editing in\\nStyle'
    """
    lines: list[str] = []
    for word in name.split():
        if lines and len(lines[-1]) + len(word) < 11:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
