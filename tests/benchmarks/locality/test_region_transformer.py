"""The study of the region transformer: what it takes a model's tokens to be, and the committed figures' text."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.locality.region_transformer import RESULTS, headline, photographs, report, times, tokens_of
from shapkit.differentiable import Regions
from shapkit_diffusion.denoisers.denoiser import small_transformer
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser


def test_tokens() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :2, :4], labels[:, 4:6, :2], labels[:, 6:, :6] = 1, 2, 3
    regions = Regions.from_labels(labels, {"eyes": [1], "nose": [2], "mouth": [3]})
    model = RegionDenoiser(small_transformer(8, width=16, depth=1), regions)
    found = tokens_of(model, regions, 10)  # of 16 tokens: 2 eyes, 1 nose, 3 mouth, 10 rest
    assert found == pytest.approx({"image": 170 / 160, "eyes": 30 / 160, "nose": 20 / 160, "mouth": 40 / 160})


def test_the_committed_figures_can_be_read() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = report(results)
    assert "locality, nose" in text and "converted" in text and "seeds 0, 1, 2" in text
    assert "new mouth, of an image" in times(results)
    assert "the plain DiT, converted, 200 steps" in headline(results)
    assert "the plain DiT, converted" in photographs(results) and "the data" not in photographs(results)
