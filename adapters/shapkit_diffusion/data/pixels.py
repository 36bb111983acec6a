"""Bytes of images and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] as uint8, what lies outside cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
