"""The latents of images: remembered where the generator made them, found by optimisation where they were given.

The search is in W+, where every layer follows a w of its own (Abdal et al., ICCV 2019), from the mean w, for pixels and
for a face parser's features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.published_tables.gan.style_gan import StyleGenerator
from benchmarks.published_tables.gan.training import draw_latents
from benchmarks.published_tables.systems.systems import Remembered
from shapkit.randomness import counter_bits
from shapkit_diffusion.evaluation.realism import Extractor


@dataclass(frozen=True)
class InversionConfig:
    """How a given image's latent is searched for.

    Args:
        steps: of Adam.
        learning_rate: at first; it falls to zero along a half cosine.
        feature_weight: of the features' mean square error against the pixels'.
        batch_size: images at once.

    Raises:
        ValueError: for a number out of its range.
    """

    steps: int = 200
    learning_rate: float = 0.1
    feature_weight: float = 0.1
    batch_size: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be 1 or more, got {self.steps} and {self.batch_size}")
        if not self.learning_rate > 0 or not self.feature_weight >= 0:
            raise ValueError(
                "learning_rate must be positive and feature_weight 0 or more, got "
                f"{self.learning_rate} and {self.feature_weight}"
            )


@torch.no_grad()
def mean_w(generator: StyleGenerator, count: int = 4096) -> Tensor:
    """The mean (latent,) of w over ``count`` latents."""
    return generator.mapping(draw_latents(generator.architecture.latent, count, seed=0)).mean(dim=0)


def invert(generator: StyleGenerator, images: Tensor, extractor: Extractor, config: InversionConfig) -> Tensor:
    """W+ (n, layers, latent) whose images are like the given ones (n, 3, size, size).

    Each image's result depends on that image alone, up to rounding.

    Args:
        generator: frozen.
        images: in [-1, 1].
        extractor: feature maps, of frozen weights, through which gradients flow.
        config: the search.
    """
    start = mean_w(generator).expand(generator.architecture.layers, -1)
    return torch.cat([_found(generator, part, start, extractor, config) for part in images.split(config.batch_size)])


def _found(
    generator: StyleGenerator, images: Tensor, start: Tensor, extractor: Extractor, config: InversionConfig
) -> Tensor:
    w = start.repeat(len(images), 1, 1).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=config.learning_rate)
    with torch.no_grad():
        wanted = extractor(images)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2
        optimizer.zero_grad()
        made = generator.synthesis(generator.styles(w))
        # Means over each image's numbers and sums over images: no image's gradient depends on how many there are.
        pixels = (made - images).square().mean(dim=(1, 2, 3)).sum()
        features = (extractor(made) - wanted).square().mean(dim=(1, 2, 3)).sum()
        (pixels + config.feature_weight * features).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return w.detach()


@dataclass(eq=False)
class GanImages:
    """A generator's images and their W+: what the systems built on it have in common.

    Args:
        generator: frozen.
        extractor: for the search, see ``invert``.
        inversion: the search for the latents of images that were given.
    """

    generator: StyleGenerator
    extractor: Extractor
    inversion: InversionConfig = field(default_factory=InversionConfig)

    def __post_init__(self) -> None:
        self._known: Remembered[Tensor] = Remembered(search=self._search)

    def _search(self, images: Tensor) -> list[Tensor]:
        return list(invert(self.generator, images, self.extractor, self.inversion))

    @torch.no_grad()
    def w_of_seed(self, count: int, seed: int, purpose: int = 0) -> Tensor:
        """w (count, latent) that ``seed`` names; purposes, numbers, have series of their own."""
        series = int(counter_bits(seed, purpose))
        return self.generator.mapping(draw_latents(self.generator.architecture.latent, count, series))

    def generate(self, count: int, seed: int) -> Tensor:
        """``count`` images (count, 3, size, size), whose latents are remembered."""
        w = self.w_of_seed(count, seed)[:, None].repeat(1, self.generator.architecture.layers, 1)
        images = self.image(self.generator.styles(w))
        self._known.keep(images, list(w))
        return images

    def latents(self, images: Tensor) -> Tensor:
        """W+ (n, layers, latent) of images; those that are not known are searched for."""
        return torch.stack(self._known.of(images))

    def reconstruct(self, images: Tensor) -> Tensor:
        """The images of the W+ of images."""
        return self.image(self.generator.styles(self.latents(images)))

    @torch.no_grad()
    def image(self, styles: list[Tensor]) -> Tensor:
        """The image of all layers' styles, within [-1, 1]."""
        return self.generator.synthesis(styles).clamp(-1, 1)
