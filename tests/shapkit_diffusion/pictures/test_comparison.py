"""The report's pictures and page: what they show is what was given, and the page needs nothing from outside."""

from __future__ import annotations

import re

import matplotlib
import numpy as np
import pytest
import torch

from shapkit_diffusion.evaluation.locality import SwapResults
from shapkit_diffusion.pictures.comparison import change_map, picture_of_samples, picture_of_swaps, picture_of_training
from shapkit_diffusion.pictures.pages import html_report, png

matplotlib.use("Agg")


def test_change_maps_are_lab_distances() -> None:
    black, white = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), 1.0)
    assert change_map(black, white) == pytest.approx(np.full((1, 4, 4), 100), abs=1e-3)
    assert change_map(black[:, :1], white[:, :1]) == pytest.approx(np.full((1, 4, 4), 100), abs=1e-3)
    assert not change_map(white, white).any()


def test_swap_and_sample_pictures_draw_what_they_are_given() -> None:
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    mask = torch.zeros(3, 1, 8, 8)
    mask[..., 2:5, 2:5] = 1
    swaps = SwapResults(images, {"mouth": images.flip(0)}, {"mouth": mask})
    figure = picture_of_swaps({"control": swaps, "with penalty": swaps}, "mouth", count=3)
    assert sum(len(axis.images) for axis in figure.axes) >= 18
    assert png(figure).startswith(b"\x89PNG")
    assert png(picture_of_samples({"plain": images[:, :1]}, count=3)).startswith(b"\x89PNG")
    curve = [{"step": step, "denoising": 0.1 / step, "penalty": 0.0} for step in range(1, 4)]
    figure = picture_of_training({"control": curve})
    assert len(figure.axes[0].lines) == 2 and len(figure.axes[1].lines) == 0
    png(figure)


def test_page_is_self_contained_and_escapes_text() -> None:
    page = html_report("A <title>", "One.\n\nTwo & three.", "a < b", {"caption <1>": b"\x89PNG"}, "Note.")
    assert "A &lt;title&gt;" in page and "<p>Two &amp; three.</p>" in page and "a &lt; b" in page
    assert "data:image/png;base64,iVBORw==" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
