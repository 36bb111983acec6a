"""Small models and data shared by the tests of the adapters."""

from __future__ import annotations

import pytest
import torch

from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.denoisers import Denoiser, small_denoiser


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two test machines' cores are often shared: more threads than free cores slow torch tenfold."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def faces() -> LabelledImages:
    return render_faces(64, 32, seed=3)


@pytest.fixture
def tiny() -> Denoiser:
    """An untrained denoiser of 16 x 16 images whose output is not zero."""
    return small_denoiser(size=16, channels=(8, 16), seed=1)
