"""SegFormer face parsing through transformers, from a folder on disk such as a copy of ``jonathandinu/face-parsing``.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021.
Nothing is downloaded, and only safetensors are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from shapkit._files import user_path
from shapkit._optional import require
from shapkit_diffusion.data.folders import MAX_PIXELS
from shapkit_diffusion.segmentation.classes import merged_labels
from shapkit_diffusion.segmentation.parsers import NetworkParser


def load_segformer(folder: str | Path, *, size: int = 512, max_pixels: int = MAX_PIXELS) -> NetworkParser:
    """The face parser in a folder; what its labels are called is read from its configuration, never assumed.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``, as ``SegformerForSemanticSegmentation`` saves them.
        size: side of the square, in pixels, to which images are resized; the published weights were trained for 512.
        max_pixels: the largest image that is parsed.

    Raises:
        ImportError: if transformers is not installed.
        ValueError: if a file is absent or unreadable, is of another architecture, or ``id2label`` does not name every
            class by a part of a face.
    """
    transformers = require("transformers", extra="segformer", purpose="SegFormer face parsing")
    folder = user_path(folder)
    # Looked for here, because transformers takes a folder that is not there for a name on the hub.
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no SegFormer: there is no {folder / name}")
    try:
        config = transformers.SegformerConfig.from_pretrained(folder, local_files_only=True)
        label_names = _label_names(config.id2label)
        model, report = transformers.SegformerForSemanticSegmentation.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # on damaged files transformers raises OSError, RuntimeError, TypeError and others
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} holds no readable SegFormer: {reason}") from error
    # transformers only warns of these, and draws at random what is missing.
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise ValueError(f"{folder} holds another architecture: {kind} {sorted(map(str, report[kind]))[0]}")
    network = _AtInputSize(model.float()).eval().requires_grad_(False)
    return NetworkParser(network, label_names, size, max_pixels)


def _label_names(id2label: dict[int, str]) -> tuple[str, ...]:
    if sorted(id2label) != list(range(len(id2label))):
        raise ValueError(f"id2label names the labels {sorted(id2label)}, not 0 to {len(id2label) - 1}")
    names = tuple(id2label[label] for label in range(len(id2label)))
    merged_labels(names)
    return names


class _AtInputSize(nn.Module):
    """The logits of a SegFormer, which it gives at a quarter of the image's size, interpolated to that size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=images).logits
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
