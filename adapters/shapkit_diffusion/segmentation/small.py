"""A small face parser for rendered faces: label maps of generated images, and features to compare images by.

It is shipped trained, so that the regions of a generated face are measured, not assumed, and nothing is downloaded.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit._files import whole_file
from shapkit.randomness import counter_bits
from shapkit_diffusion.data.faces import FACE_LABELS, render_faces
from shapkit_diffusion.denoisers.checkpoints import check_same_architecture, read_tensors

WIDTHS = (16, 24, 32)
SIDE = 32
"""Height and width in pixels of the faces that the shipped parser was trained on."""


def _block(inputs: int, outputs: int) -> nn.Sequential:
    # Batch normalisation, not group normalisation: in use its statistics are constants, so a pixel's label and features
    # depend on its surroundings only, and colour is not normalised away.
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class FaceParser(nn.Module):
    """Label logits (batch, 7, height, width) for images (batch, 3, height, width) in [-1, 1]; sides divisible by 4.

    >>> parser = FaceParser()
    >>> parser(torch.zeros(1, 3, 32, 32)).shape, parser.features(torch.zeros(1, 3, 32, 32)).shape
    (torch.Size([1, 7, 32, 32]), torch.Size([1, 56, 16, 16]))
    """

    label_names = FACE_LABELS

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.fine = _block(3, fine)
        self.middle = _block(fine, middle)
        self.coarse = _block(middle, coarse)
        self.join_middle = _block(middle + coarse, middle)
        self.join_fine = _block(fine + middle, fine)
        self.head = nn.Conv2d(fine, len(FACE_LABELS), 1)

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(images)
        middle = self.middle(F.max_pool2d(fine, 2))
        return fine, middle, self.coarse(F.max_pool2d(middle, 2))

    def forward(self, images: Tensor) -> Tensor:
        fine, middle, coarse = self._encode(images)
        joined = self.join_middle(torch.cat([middle, F.interpolate(coarse, scale_factor=2.0)], dim=1))
        joined = self.join_fine(torch.cat([fine, F.interpolate(joined, scale_factor=2.0)], dim=1))
        logits: Tensor = self.head(joined)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Activations at half resolution, (batch, 56, height / 2, width / 2), for realism distances."""
        _, middle, coarse = self._encode(images)
        return torch.cat([middle, F.interpolate(coarse, scale_factor=2.0)], dim=1)

    @torch.no_grad()
    def parse(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """Label maps int64 (batch, height, width) whose values index ``label_names``.

        Larger images are looked at as squares of 32 pixels, since the network knows faces of that size; of their labels
        each pixel has the likeliest by interpolation.

        Raises:
            ValueError: if no side is longer than 32 pixels and one not divisible by 4, as the network halves it twice.
        """
        if max(images.shape[2:]) <= SIDE and (images.shape[2] % 4 or images.shape[3] % 4):
            raise ValueError(f"height and width of images must be divisible by 4, got {tuple(images.shape[2:])}")
        return torch.cat([self._logits(part).argmax(dim=1) for part in images.split(batch_size)])

    def _logits(self, images: Tensor) -> Tensor:
        size = images.shape[2:]
        if max(size) <= SIDE:
            return self(images)  # type: ignore[no-any-return]
        seen = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        return F.interpolate(self(seen), size, mode="bilinear")


def load_parser(path: str | Path | None = None) -> FaceParser:
    """The shipped face parser, or one from a safetensors file that ``save_parser`` wrote.

    Raises:
        ValueError: if the file cannot be read or holds another architecture.

    >>> load_parser().training
    False
    """
    if path is None:
        with as_file(files("shapkit_diffusion") / "models" / "face_parser.safetensors") as shipped:
            return load_parser(shipped)
    parser = FaceParser()
    state = read_tensors(path)
    check_same_architecture(parser, state, path)
    parser.load_state_dict(state)
    return parser.eval().requires_grad_(False)


def save_parser(parser: FaceParser, path: str | Path, metadata: dict[str, str]) -> None:
    """Write the parser's weights with ``metadata`` (how it was made), whole or not at all."""
    with whole_file(path) as partial:
        save_file(parser.state_dict(), partial, metadata=metadata)


def parser_metadata(path: str | Path) -> dict[str, str]:
    """What ``save_parser`` noted beside the weights."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def train_parser(steps: int = 1500, batch_size: int = 64, seed: int = 0, size: int = 32) -> FaceParser:
    """A face parser trained on faces rendered for it, ready for use.

    The faces are blurred and covered with noise by chance, because a generated face is never as clean as a rendered
    one.

    Args:
        steps: optimiser steps.
        batch_size: faces per step, none seen twice.
        seed: names faces, weights and augmentation.
        size: of the faces in pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parser = FaceParser()
    optimizer = torch.optim.AdamW(parser.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    parser.train()
    for step in range(steps):
        faces = render_faces(batch_size, size, seed=seed + 1, first=step * batch_size)
        images = torch.as_tensor(faces.images).float() / 127.5 - 1
        labels = torch.as_tensor(faces.labels).long()
        loss = F.cross_entropy(parser(_worn(images, seed, step)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return parser.eval().requires_grad_(False)


def mean_intersection_over_union(predicted: Tensor, labels: Tensor, n_labels: int) -> tuple[float, list[float]]:
    """The mean IoU over labels and the IoU of each, from int maps of one shape.

    >>> mean_intersection_over_union(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2)
    (0.5, [0.5, 0.5])
    """
    scores = []
    for label in range(n_labels):
        both = ((predicted == label) & (labels == label)).sum()
        either = ((predicted == label) | (labels == label)).sum()
        scores.append(float(both / either) if either else float("nan"))
    return float(torch.tensor(scores).nanmean()), scores


def _worn(images: Tensor, seed: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(counter_bits(seed, 2, step)) >> 1)
    count = len(images)
    blur = torch.rand(count, 1, 1, 1, generator=generator) * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    level = 0.15 * torch.rand(count, 1, 1, 1, generator=generator)
    return torch.lerp(images, smooth, blur) + level * torch.randn(images.shape, generator=generator)
