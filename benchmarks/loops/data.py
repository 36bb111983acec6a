"""What the loops are trained on: faces, heartbeats and volumes, each of three concepts and a rest."""

from __future__ import annotations

import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.labelled import label_template

CONCEPTS = {"eyes": [4], "nose": [5], "mouth": [6]}


def faces(count: int = 4096) -> tuple[Tensor, Regions]:
    """Rendered faces (count, 3, 16, 16) in [-1, 1], and one set of regions for all: where concepts occur."""
    rendered = render_faces(count, size=16)
    labels = torch.as_tensor(label_template(rendered, CONCEPTS)[None])
    return torch.as_tensor(rendered.images) / 127.5 - 1, Regions.from_labels(labels, CONCEPTS, dilation=1)


def heartbeats(count: int = 4096, length: int = 64) -> tuple[Tensor, Regions]:
    """Signals (count, 1, length) in about [-1, 1]: three waves of random height, width and place, on a baseline."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(length).float()
    signal = 0.1 * torch.randn(count, 1, generator=generator) * torch.linspace(-1, 1, length)
    places = {"P": (14, 3.0, 0.25), "QRS": (31, 1.5, 0.9), "T": (48, 4.0, 0.35)}
    labels = torch.zeros(1, length, dtype=torch.long)
    for k, (centre, width, height) in enumerate(places.values(), start=1):
        moved = centre + torch.randn(count, 1, generator=generator)
        wide = width * (1 + 0.15 * torch.randn(count, 1, generator=generator))
        high = height * (1 + 0.3 * torch.randn(count, 1, generator=generator))
        signal = signal + high * torch.exp(-0.5 * ((time - moved) / wide) ** 2)
        reach = round(2.5 * width) + 2
        labels[:, centre - reach : centre + reach + 1] = k
    regions = Regions.from_labels(labels, {name: [k] for k, name in enumerate(places, start=1)})
    return (signal + 0.01 * torch.randn(count, length, generator=generator)).unsqueeze(1), regions


def volumes(count: int = 1024, side: int = 12) -> tuple[Tensor, Regions]:
    """Volumes (count, 1, side, side, side) in [-1, 1]: an ellipsoid with three balls of random size and brightness."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, side)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).reshape(-1, 1, 1, 1)

    body = torch.sigmoid(12 * (uniform(0.85, 1.0) - (x**2 + y**2 + z**2).sqrt()))
    volume = -1 + 0.8 * body
    labels = torch.zeros(1, side, side, side, dtype=torch.long)
    balls = {"left": (0.0, 0.0, -0.45), "right": (0.0, 0.0, 0.45), "low": (0.5, 0.0, 0.0)}
    for k, centre in enumerate(balls.values(), start=1):
        distance = sum(((a - b) ** 2 for a, b in zip((z, y, x), centre, strict=True)), torch.zeros(())).sqrt()
        volume = volume + uniform(0.3, 1.1) * torch.sigmoid(14 * (uniform(0.15, 0.3) - distance))
        labels[0][distance < 0.42] = k
    names = {name: [k] for k, name in enumerate(balls, start=1)}
    return volume.clamp(-1, 1).unsqueeze(1), Regions.from_labels(labels, names)
