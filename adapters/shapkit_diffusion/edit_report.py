"""A picture of edits: the images, what the model makes of them unedited, every edit, and where it changed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shapkit._optional import require
from shapkit_diffusion.edits import EditResult
from shapkit_diffusion.report import NEGLIGIBLE, STRONG, change_map
from shapkit_diffusion.training import to_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture_of_edits(
    results: Sequence[EditResult], mask: Tensor, title: str, originals: Tensor | None = None
) -> Figure:
    """A column per image: the original, its reconstruction, then each edit with its change, the region outlined.

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
    names = [] if originals is None else ["original"]
    names.append("generated" if originals is None else "round trip")
    size = (max(1.15 * n_images + 1.8, 4.0), 1.15 * (len(names) + 2 * len(results)) + 0.6)
    figure: Figure
    figure, axes = pyplot.subplots(
        len(names) + 2 * len(results), n_images, figsize=size, squeeze=False, layout="constrained"
    )
    figure.suptitle(title, fontsize=10)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[], frame_on=False)
    for row, name, images in zip(
        axes, names, (unedited,) if originals is None else (originals, unedited), strict=False
    ):
        _show_row(row, images, name)
    if originals is not None:
        for axis, psnr in zip(axes[1], results[0].psnr.tolist(), strict=True):
            axis.set_xlabel(f"{psnr:.1f} dB", fontsize=8)
    outlines = mask.expand(n_images, -1, -1, -1)[:, 0].cpu().numpy()
    for number, result in enumerate(results):
        edited, change = axes[len(names) + 2 * number : len(names) + 2 * number + 2]
        _show_row(edited, result.edited, f"edit {number + 1}" if len(results) > 1 else "edit")
        changes = change_map(result.reconstruction.cpu(), result.edited.cpu())
        for axis, values, outline in zip(change, changes, outlines, strict=True):
            drawn = axis.imshow(values, cmap="inferno", vmin=NEGLIGIBLE, vmax=STRONG)
            axis.contour(outline, levels=[0.5], colors="#56b4e9", linewidths=0.8)
        _name_row(change[0], "change")
    bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), shrink=0.5, pad=0.02)
    bar.set_label("change of the pixel (CIELAB distance)", fontsize=8)
    return figure


def _show_row(row: Sequence[Axes], images: Tensor, name: str) -> None:
    for axis, image in zip(row, to_bytes(torch.as_tensor(images)), strict=True):
        pixels = np.moveaxis(image, 0, -1)
        axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
    _name_row(row[0], name)


def _name_row(axis: Axes, name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
