"""Realism: the Fréchet distance between the features of generated and of real images, whole or cropped to a concept.

The crop matters: a concept filled with noise hardly moves the distance of whole images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor
from torch.nn import functional as F

Extractor = Callable[[Tensor], Tensor]
"""Feature maps (n, features, h, w) of images (n, channels, height, width) in [-1, 1]; h/height = w/width."""


@dataclass(frozen=True)
class Box:
    """Rows and columns of an image, in shares of its height and width."""

    top: float
    bottom: float
    left: float
    right: float


WHOLE = Box(0.0, 1.0, 0.0, 1.0)

Features = Callable[[Tensor, Box], Tensor]
"""Feature vectors (n, d) of a box of images (n, channels, height, width) in [-1, 1]."""


class FeatureStatistics:
    """Mean and covariance of feature vectors, gathered batch by batch in float64.

    >>> rng = np.random.default_rng(0); rows = rng.normal(size=(50, 3))
    >>> statistics = FeatureStatistics(3)
    >>> statistics.add(rows[:20]); statistics.add(rows[20:])
    >>> bool(np.allclose(statistics.covariance, np.cov(rows.T)))
    True
    """

    def __init__(self, n_features: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(n_features)
        self._scatter: NDArray[np.float64] = np.zeros((n_features, n_features))

    def add(self, rows: NDArray[np.floating]) -> None:
        """Take in feature vectors (n, n_features); Chan's update, so that no large sums cancel."""
        rows = np.asarray(rows, dtype=np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        total = self.count + len(rows)
        shift = mean - self.mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Unbiased covariance, (n_features, n_features)."""
        return self._scatter / max(1, self.count - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Squared Fréchet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) (Heusel et al. 2017).

    The trace of the root comes from the eigenvalues of C1^1/2 C2 C1^1/2, which is symmetric: nothing becomes complex.
    """
    root = _symmetric_root(first.covariance)
    eigenvalues = linalg.eigvalsh(root @ second.covariance @ root)
    shared = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    shift = first.mean - second.mean
    return float(shift @ shift + np.trace(first.covariance) + np.trace(second.covariance) - 2 * shared)


def _symmetric_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def concept_box(labels: Tensor, values: list[int], margin: float = 0.04) -> Box:
    """The box in which a concept lies in nearly all label maps (n, height, width): crops compare like with like.

    Raises:
        ValueError: if the concept occurs in no label map.
    """
    often = torch.isin(labels, labels.new_tensor(values)).float().mean(dim=0) > 0.02
    if not bool(often.any()):
        raise ValueError(f"labels {values} occur in no label map")
    rows, columns = often.any(dim=1).nonzero().flatten(), often.any(dim=0).nonzero().flatten()
    height, width = labels.shape[1:]
    return Box(
        max(0.0, float(rows[0]) / height - margin),
        min(1.0, float(rows[-1] + 1) / height + margin),
        max(0.0, float(columns[0]) / width - margin),
        min(1.0, float(columns[-1] + 1) / width + margin),
    )


def pooled(maps: Tensor, box: Box = WHOLE, cells: int = 1) -> Tensor:
    """Mean and deviation of feature maps (n, f, h, w) over ``cells`` x ``cells`` parts of a box, (n, 2 f cells^2)."""
    height, width = maps.shape[2:]
    rows = slice(int(box.top * height), max(int(box.top * height) + cells, round(box.bottom * height)))
    columns = slice(int(box.left * width), max(int(box.left * width) + cells, round(box.right * width)))
    part = maps[:, :, rows, columns]
    mean = F.adaptive_avg_pool2d(part, cells)
    variance = (F.adaptive_avg_pool2d(part.square(), cells) - mean.square()).clamp(min=0)
    return torch.cat([mean.flatten(1), variance.sqrt().flatten(1)], dim=1)


def map_features(extractor: Extractor, cells: int = 1) -> Features:
    """Features of a box from feature maps of the whole image, pooled over ``cells`` x ``cells`` parts of the box."""
    return lambda images, box: pooled(extractor(images), box, cells)


def statistics_of(
    images: Tensor, extractor: Extractor, box: Box = WHOLE, cells: int = 1, batch_size: int = 256
) -> FeatureStatistics:
    """Statistics of the pooled features of images (n, channels, height, width)."""
    gathered: FeatureStatistics | None = None
    for rows in _batches(images, map_features(extractor, cells), box, batch_size):
        gathered = gathered or FeatureStatistics(rows.shape[1])
        gathered.add(rows)
    if gathered is None:
        raise ValueError("images must hold at least one image")
    return gathered


def features_of(
    images: Tensor, features: Features, box: Box = WHOLE, batch_size: int = 256
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Feature vectors (n, d) of images (n, channels, height, width), all in memory, in the extractor's own type.

    The kernel distance and the manifolds compare single images, so that no sums can stand in for them: 10,000 images of
    2,048 features in float32 take 82 MB.

    Raises:
        ValueError: if there are no images.
    """
    if len(images) == 0:
        raise ValueError("images must hold at least one image")
    return np.concatenate(list(_batches(images, features, box, batch_size)))


def _batches(
    images: Tensor, features: Features, box: Box, batch_size: int
) -> Iterator[NDArray[np.float32] | NDArray[np.float64]]:
    for part in images.split(batch_size):
        with torch.no_grad():
            rows = features(part.clamp(-1, 1), box)
        yield rows.to(torch.promote_types(rows.dtype, torch.float32)).cpu().numpy()


def pixel_features(images: Tensor) -> Tensor:
    """Features that need no trained network: brightness, edges and fine detail, (n, 4 channels, height, width)."""
    across = F.pad(images, (0, 1, 0, 0), mode="replicate").diff(dim=3)
    down = F.pad(images, (0, 0, 0, 1), mode="replicate").diff(dim=2)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.cat([images, across, down, (images - smooth).abs()], dim=1)
