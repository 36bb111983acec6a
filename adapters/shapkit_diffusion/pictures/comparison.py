"""Pictures of a comparison of models, drawn from what ``evaluate`` returns; nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from shapkit._optional import require
from shapkit_diffusion.data.pixels import to_bytes
from shapkit_diffusion.evaluation.locality import SwapResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEGLIGIBLE, STRONG = 0.5, 30.0
"""Ends of the common scale of the change maps, in CIELAB units; about 2 is just noticeable."""


def change_map(before: Tensor, after: Tensor) -> np.ndarray:
    """The change of every pixel as a distance in CIELAB, (n, height, width); images (n, channels, h, w) in [-1, 1]."""
    color = require("skimage.color", extra="diffusion", purpose="change maps in CIELAB")

    def lab(images: Tensor) -> np.ndarray:
        pixels = np.moveaxis(to_bytes(images), 1, -1)
        return np.asarray(color.rgb2lab(pixels if pixels.shape[-1] == 3 else pixels.repeat(3, axis=-1)))

    return np.asarray(np.linalg.norm(lab(after) - lab(before), axis=-1))


def in_colours_of_change(changes: np.ndarray) -> np.ndarray:
    """Maps of change, of any shape, as pixels (..., 3), uint8, on the scale that all of them share."""
    matplotlib = require("matplotlib", extra="plots", purpose="maps of change")
    levels = np.clip((changes - NEGLIGIBLE) / (STRONG - NEGLIGIBLE), 0, 1)
    return np.asarray(255 * matplotlib.colormaps["inferno"](levels)[..., :3]).astype(np.uint8)


def picture_of_samples(
    samples: Mapping[str, Tensor], count: int = 12, title: str = "The same noise through each model"
) -> Figure:
    """A named row of images per entry, (n, channels, height, width) each."""
    figure, axes = _grid(len(samples), count, title)
    for row, (name, images) in zip(axes, samples.items(), strict=True):
        for axis, image in zip(row, images[:count], strict=False):
            _show(axis, image)
        _label_row(row[0], name)
    return figure


def picture_of_swaps(swaps: Mapping[str, SwapResults], concept: str, count: int = 8) -> Figure:
    """For each model: originals, the same with one concept's noise exchanged, and where the picture changed."""
    title = f"Only the noise of the {concept} was exchanged: what changed, and where"
    figure, axes = _grid(3 * len(swaps), count, title=title)
    for number, (name, result) in enumerate(swaps.items()):
        original, edited, heat = axes[3 * number : 3 * number + 3]
        changes = change_map(result.originals[:count], result.edited[concept][:count])
        for column in range(min(count, len(result.originals))):
            _show(original[column], result.originals[column])
            _show(edited[column], result.edited[concept][column])
            drawn = heat[column].imshow(changes[column], cmap="inferno", vmin=NEGLIGIBLE, vmax=STRONG)
            mask = result.masks[concept][column % len(result.masks[concept]), 0].cpu().numpy()
            heat[column].contour(mask, levels=[0.5], colors="#56b4e9", linewidths=0.8)
        _label_row(original[0], f"{name}\noriginal")
        _label_row(edited[0], "edited")
        _label_row(heat[0], "change")
    bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=0.5, pad=0.01)
    bar.set_label("change of the pixel (CIELAB distance)")
    return figure


def picture_of_training(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss and penalty over the steps, from the lines of ``metrics.jsonl`` of each run.

    The loss of an anchored run is small because its target, another model's prediction, holds no noise.
    """
    pyplot: Any = require("matplotlib.pyplot", extra="plots", purpose="training curves")
    figure: Figure
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    colours = ("#0072b2", "#d55e00", "#009e73")
    for (name, lines), colour in zip(curves.items(), colours, strict=False):
        steps = [line["step"] for line in lines]
        for axis, key in zip(axes, ("denoising", "penalty"), strict=True):
            values = np.array([line[key] for line in lines])
            if values.any():
                axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                axis.plot(steps, _smoothed(values), color=colour, label=name)
    for axis, label in zip(axes, ("loss against its target", "dummy-player penalty"), strict=True):
        axis.set(xlabel="step", ylabel=f"{label} (mean square)", yscale="log")
        if axis.lines:
            axis.legend(fontsize=8)
    return figure


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, np.ndarray]:
    pyplot = require("matplotlib.pyplot", extra="plots", purpose="pictures")
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(columns + 1.6, rows + 0.4), squeeze=False, layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[], frame_on=False)
    return figure, axes


def _label_row(axis: Any, text: str) -> None:
    axis.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)


def _show(axis: Any, image: Tensor) -> None:
    pixels = np.moveaxis(to_bytes(image), 0, -1)
    axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)


def _smoothed(values: np.ndarray, window: int = 9) -> np.ndarray:
    window = min(window, len(values))
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")
