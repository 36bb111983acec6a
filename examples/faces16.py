"""What the examples have in common: small faces with their regions, a small UNet, and the locality of a generator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.labelled import label_template
from shapkit_diffusion.evaluation.locality import Locality, swap_and_measure

CONCEPTS = {"eyes": [4], "nose": [5], "mouth": [6]}
"""The players, by label; the rest of the image is the fourth."""

Trained = tuple[list[tuple[float, float]], list[Locality]]
"""What a training run returns: loss and penalty of every step, and the locality of every concept in the end."""


def load_faces(device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Rendered faces, (4096, 3, 16, 16) in [-1, 1], and where concepts occur in them, one label map (1, 16, 16)."""
    faces = render_faces(4096, size=16)
    labels = torch.as_tensor(label_template(faces, CONCEPTS)[None])
    return torch.as_tensor(faces.images, device=device) / 127.5 - 1, labels.to(device)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """Convolution, group normalisation and SiLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.SiLU())


class SmallUNet(nn.Module):
    """Images (batch, 3, 16, 16) at times from 0 to ``last_time``, (batch,) or one, to a tensor like them.

    At 4 x 4 pixels it sees the whole image, and group normalisation does at any size: nothing keeps regions apart.
    """

    def __init__(self, last_time: float = 1.0, width: int = 32) -> None:
        super().__init__()
        self.last_time = last_time
        self.fine, self.middle = block(4, width), block(width, 2 * width, stride=2)
        self.coarse = nn.Sequential(block(2 * width, 2 * width, stride=2), block(2 * width, 2 * width))
        self.rise, self.rest = block(4 * width, width), block(2 * width, width)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        clock = (time / self.last_time).reshape(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])
        fine = self.fine(torch.cat([x, clock], dim=1))
        middle = self.middle(fine)
        coarse = F.interpolate(self.coarse(middle), scale_factor=2)
        risen = F.interpolate(self.rise(torch.cat([coarse, middle], dim=1)), scale_factor=2)
        out: Tensor = self.out(self.rest(torch.cat([risen, fine], dim=1)))
        return out


@torch.no_grad()
def print_locality(
    generate: Callable[[Tensor], Tensor], labels: Tensor, channels: int = 3, n_images: int = 32
) -> list[Locality]:
    """Exchange one concept's noise between images, print how much changes inside and outside of it, and return it.

    A small ratio of outside to inside is worth something only where the concept itself still changes.

    Args:
        generate: images from noise (n_images, channels, 16, 16).
        labels: one label map for all images.
    """
    noise = torch.randn(n_images, channels, 16, 16, generator=torch.Generator().manual_seed(1)).to(labels.device)
    measured, _ = swap_and_measure(generate, lambda x: labels.expand(len(x), -1, -1), noise, noise.flip(0), CONCEPTS)
    for one in measured:
        print(f"{one.concept:>6}: change inside {one.mse_in:.4f}, outside {one.mse_out:.5f}, ratio {one.ratio:.4f}")
    return measured
