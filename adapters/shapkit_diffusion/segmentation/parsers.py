"""What every face parser is to the rest of the package, and how published networks are run as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit_diffusion.data.celebamask import CELEBAMASK_LABELS
from shapkit_diffusion.data.folders import MAX_PIXELS
from shapkit_diffusion.segmentation.classes import merged_labels

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Parser(Protocol):
    """A face parser: the small one that is shipped, ``NetworkParser``, ``MergedParser``, or one of the caller's own."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label is called."""
        ...

    def parse(self, images: Tensor) -> Tensor:
        """Label maps int64 (batch, height, width) of images float (batch, channels, height, width) in [-1, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkParser:
    """A face parser that runs a network on images resized to a square and normalised as for ImageNet.

    This is the published procedure: bilinear interpolation of the image, averaging where it shrinks; the most likely
    class of each pixel of the square; and of those the nearest for each pixel of the image. It keeps the image in
    floating point where the published scripts round it to bytes.

    Args:
        network: class logits (batch, classes, size, size) of normalised images (batch, 3, size, size), in evaluation
            mode.
        label_names: what each class is called.
        size: side of the square in pixels.
        max_pixels: the largest image that is parsed.

    Raises:
        ValueError: if ``size`` is less than 32 pixels, by which the networks shrink their input.
    """

    network: nn.Module
    label_names: tuple[str, ...]
    size: int = 512
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"size must be at least 32 pixels, got {self.size}")

    @torch.no_grad()
    def parse(self, images: Tensor, batch_size: int = 8) -> Tensor:
        """Label maps int64 (batch, height, width) whose values index ``label_names``.

        Args:
            images: float (batch, 3, height, width) in [-1, 1], or (batch, 1, height, width) where they are grey;
                what lies outside of the range is cut off. The labels are on their device.
            batch_size: images that the network sees at a time.

        Raises:
            ValueError: if the images have another shape, are not floating point, or larger than ``max_pixels``.
        """
        _check_images(images, self.max_pixels)
        parts = [self._parse(part).to(images.device) for part in images.split(batch_size)]
        return torch.cat(parts) if parts else images.new_zeros((0, *images.shape[2:]), dtype=torch.long)

    def _parse(self, images: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        labels: Tensor = self.network(_normalised(images.to(device), self.size)).argmax(dim=1)
        rows, columns = (_nearest(self.size, length, device) for length in images.shape[2:])
        return labels[:, rows[:, None], columns]


@dataclass(frozen=True, eq=False)
class MergedParser:
    """A face parser whose classes are merged by name into given labels, see ``merged_labels``.

    Args:
        parser: the parser; its label names are parts of CelebAMask-HQ, concepts or aliases of them.
        label_names: the labels, out of the same names; by default the 11 concepts and the background.

    Raises:
        ValueError: as ``merged_labels``.

    >>> from shapkit_diffusion.segmentation.small import load_parser
    >>> parser = MergedParser(load_parser())
    >>> parser.parser.label_names.index("hair"), parser.label_names.index("hair")
    (2, 10)
    """

    parser: Parser
    label_names: tuple[str, ...] = CELEBAMASK_LABELS

    def __post_init__(self) -> None:
        merged_labels(self.parser.label_names, self.label_names)

    def parse(self, images: Tensor) -> Tensor:
        """Label maps int64 (batch, height, width) whose values index ``label_names``."""
        labels = self.parser.parse(images)
        merged = merged_labels(self.parser.label_names, self.label_names)
        return torch.as_tensor(merged, device=labels.device).long()[labels]


def _check_images(images: Tensor, max_pixels: int) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(
            "images must be float (batch, 3 or 1, height, width) in [-1, 1], got "
            f"{images.dtype} {tuple(images.shape)}: bytes become that by images / 127.5 - 1"
        )
    height, width = images.shape[2:]
    if not 1 <= height * width <= max_pixels:
        raise ValueError(f"images have {width} x {height} pixels, but 1 to max_pixels={max_pixels} are parsed")


def _normalised(images: Tensor, size: int) -> Tensor:
    """Images in [-1, 1] as (batch, 3, size, size) with the mean and deviation that ImageNet's have."""
    images = images.float().clamp(-1, 1)
    square = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (square.new_tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
    return ((square + 1) / 2 - mean) / std


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """Which of ``old`` pixels holds the centre of each of ``new`` that cover the same length, int64 (new,)."""
    return (2 * torch.arange(new, device=device) + 1) * old // (2 * new)
