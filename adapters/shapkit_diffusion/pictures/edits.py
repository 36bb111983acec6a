"""A picture of edits: the images, what the model makes of them unedited, every edit, and where it changed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shapkit._optional import require
from shapkit_diffusion.data.pixels import to_bytes
from shapkit_diffusion.noise.edits import EditResult
from shapkit_diffusion.pictures.comparison import NEGLIGIBLE, STRONG, change_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture_of_edits(
    results: Sequence[EditResult], mask: Tensor, title: str, originals: Tensor | None = None
) -> Figure:
    """A column per image: the original, its reconstruction, then each edit with its change, the region outlined.

    Of a single image, these stand side by side.

    Args:
        results: edits of the same n images.
        mask: the edited region, (n or 1, 1, height, width).
        title: above the picture.
        originals: the images that were inverted, (n, channels, height, width); the row, and the PSNR below the
            reconstructions, are left out where images were generated.

    Raises:
        ValueError: if there is no edit.
    """
    if not results:
        raise ValueError("there is no edit to show")
    pyplot: Any = require("matplotlib.pyplot", extra="plots", purpose="pictures of edits")
    unedited = results[0].reconstruction
    n_images = len(unedited)
    rows = [("generated" if originals is None else "round trip", unedited)]
    if originals is not None:
        rows.insert(0, ("original", originals))
    one = n_images == 1  # then what are rows with several images become columns
    shape = (2, len(rows) + len(results)) if one else (len(rows) + 2 * len(results), n_images)
    size = (max(1.15 * shape[1] + 1.8, 4.0), 1.15 * shape[0] + (0.9 if one else 0.6))
    figure: Figure
    figure, axes = pyplot.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[], frame_on=False)
    outlines = mask.expand(n_images, -1, -1, -1)[:, 0].cpu().numpy()
    for number, (name, images) in enumerate(rows):
        cells = axes[:1, number] if one else axes[number]
        _show_row(cells, images, name, above=one)
        if name == "round trip":
            for axis, psnr in zip(cells, results[0].psnr.tolist(), strict=True):
                axis.set_xlabel(f"{psnr:.1f} dB", fontsize=8)
    for number, result in enumerate(results):
        first = len(rows) + (number if one else 2 * number)
        edited, change = (axes[:1, first], axes[1:, first]) if one else axes[first : first + 2]
        _show_row(edited, result.edited, f"edit {number + 1}" if len(results) > 1 else "edit", above=one)
        changes = change_map(result.reconstruction.cpu(), result.edited.cpu())
        for axis, values, outline in zip(change, changes, outlines, strict=True):
            drawn = axis.imshow(values, cmap="inferno", vmin=NEGLIGIBLE, vmax=STRONG)
            axis.contour(outline, levels=[0.5], colors="#56b4e9", linewidths=0.8)
        if not (one and number):
            _name_row(change[0], "change")
    bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=0.9 if one else 0.5, pad=0.02)
    bar.set_label("change of the pixel (CIELAB distance)", fontsize=7 if one else 8)
    return figure


def _show_row(row: Sequence[Axes], images: Tensor, name: str, *, above: bool) -> None:
    for axis, image in zip(row, to_bytes(torch.as_tensor(images)), strict=True):
        pixels = np.moveaxis(image, 0, -1)
        axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
    if above:
        row[0].set_title(name, fontsize=9)
    else:
        _name_row(row[0], name)


def _name_row(axis: Axes, name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
