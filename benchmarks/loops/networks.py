"""Small networks for the loops that leave the network to their user."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.SiLU())


class TokenNet(nn.Module):
    """Tokens (batch, 64, 12) and times to a velocity: three layers of attention among all tokens."""

    def __init__(self, width: int = 96, depth: int = 3) -> None:
        super().__init__()
        self.rise, self.fall = nn.Linear(12, width), nn.Linear(width, 12)
        self.place = nn.Parameter(0.02 * torch.randn(64, width))
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.register_buffer("waves", torch.pi * 2.0 ** torch.arange(-1, 7))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t.reshape(-1, 1) * self.waves
        clock = self.time(torch.cat([waves.sin(), waves.cos()], dim=1)).unsqueeze(1)
        out: Tensor = self.fall(self.mix(self.rise(x) + self.place + clock))
        return out


def tokens_of(images: Tensor) -> Tensor:
    """Patches of 2 x 2 pixels: (n, 3, 16, 16) to (n, 64, 12)."""
    n = len(images)
    return images.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(n, 64, 12)


def encoder(latents: int = 128) -> Any:
    """Images (n, 3, 16, 16) to means and log variances of latents, as pythae wants it."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(_block(3, 32), _block(32, 64, 2), nn.Conv2d(64, 2 * latents // 64, 3, 1, 1))

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.network(x).chunk(2, dim=1)
            return ModelOutput(embedding=mean.flatten(1), log_covariance=log_variance.flatten(1))

    return Encoder()


def decoder() -> Any:
    """Latents (n, 128) = (n, 2, 8, 8) to images, as pythae wants it; ``network`` is its convolutions."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(
                _block(2, 64), _block(64, 64, 2), nn.Upsample(scale_factor=2), _block(64, 64),
                nn.Upsample(scale_factor=2), _block(64, 32), nn.Conv2d(32, 3, 3, padding=1),
            )  # fmt: skip

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z.reshape(len(z), 2, 8, 8)))

    return Decoder()
