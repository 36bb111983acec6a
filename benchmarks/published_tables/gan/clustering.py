"""Clusters of directions: spherical k-means, and spectral clustering, which ends in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit.randomness import counter_uniform


def spherical_kmeans(points: Tensor, clusters: int, seed: int = 0, iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Unit centres (clusters, d) and the cluster (n,) of each of the points (n, d), of which only the direction counts.

    Each point belongs to the centre of the largest cosine, each centre is the direction of its points' sum (Dhillon and
    Modha 2001). The centres begin as k-means++ draws them, with the cosine distance.

    Args:
        points: (n, d), n at least ``clusters``.
        clusters: how many, at least 1.
        seed: names the first centres.
        iterations: at most; it stops before where no point changes its cluster.

    Raises:
        ValueError: if there are fewer points than clusters, or no clusters.

    >>> points = torch.tensor([[1.0, 0.1], [0.0, 2.0], [3.0, 0.0], [0.1, 1.0]])
    >>> labels = spherical_kmeans(points, clusters=2)[1]
    >>> bool(labels[0] == labels[2]), bool(labels[1] == labels[3]), bool(labels[0] == labels[1])
    (True, True, False)
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"clusters must be from 1 to the {len(points)} points there are, got {clusters}")
    unit = F.normalize(points, dim=1)
    centres = _first_centres(unit, clusters, seed)
    labels = (unit @ centres.T).argmax(dim=1)
    for _ in range(iterations):
        sums = torch.zeros_like(centres).index_add_(0, labels, unit)
        empty = torch.bincount(labels, minlength=clusters) == 0
        centres = torch.where(empty[:, None], centres, F.normalize(sums, dim=1))
        before, labels = labels, (unit @ centres.T).argmax(dim=1)
        if bool((before == labels).all()):
            break
    return centres, labels


def _first_centres(unit: Tensor, clusters: int, seed: int) -> Tensor:
    chosen: list[int] = []
    distance = torch.ones(len(unit), dtype=torch.float64)
    for number in range(clusters):
        # Points on a centre have distance zero; where all are, any will do.
        distance = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        cumulative = distance.cumsum(0)
        drawn = float(counter_uniform(seed, number)) * float(cumulative[-1])
        chosen.append(min(int(torch.searchsorted(cumulative, drawn, right=True)), len(unit) - 1))
        cosine = (unit @ unit[chosen[-1]]).double()
        distance = (1 - cosine).clamp(min=0) if number == 0 else torch.minimum(distance, (1 - cosine).clamp(min=0))
    return unit[chosen]


def spectral_clusters(similarity: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """The cluster (n,) of each of n things whose similarity (n, n) is symmetric and not negative.

    Ng, Jordan and Weiss (2001): the rows of the leading eigenvectors of D^-1/2 S D^-1/2, by direction.

    >>> block = torch.tensor([[1.0, 0.9, 0.0, 0.1], [0.9, 1.0, 0.1, 0.0], [0.0, 0.1, 1.0, 0.8], [0.1, 0.0, 0.8, 1.0]])
    >>> labels = spectral_clusters(block, 2)
    >>> bool(labels[0] == labels[1]), bool(labels[2] == labels[3]), bool(labels[0] == labels[2])
    (True, True, False)
    """
    degree = similarity.double().sum(dim=1).clamp(min=1e-12).rsqrt()
    _, vectors = torch.linalg.eigh(degree[:, None] * similarity.double() * degree)
    return spherical_kmeans(vectors[:, -clusters:], clusters, seed)[1]
