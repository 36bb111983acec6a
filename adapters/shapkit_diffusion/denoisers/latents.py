"""Regions of latent models: masks on the latent grid, for the penalty, the edits and the influence of latents."""

from __future__ import annotations

from shapkit.differentiable import Regions
from shapkit.differentiable.regions import Missing
from shapkit_diffusion.denoisers.denoiser import Denoiser


def latent_regions(
    regions: Regions, denoiser: Denoiser, *, hard: bool = True, missing: Missing | None = None
) -> Regions:
    """Regions of images as regions of what the denoiser works on: its latents, or the same images of a pixel model.

    Args:
        regions: of images, (batch or 1, K, height, width) with the sides of ``denoiser.image_shape``.
        denoiser: whose latent grid is wanted.
        hard: give each latent pixel to the region with most of its pixels. In soft masks the penalty's composites mix
            two noises linearly, which leaves less than their variance: nothing the model has been trained on.
        missing: whether a region may have no latent pixels, as small ones get none; None for what holds for
            ``regions``.

    Raises:
        ValueError: if the regions have another size, or one loses all its pixels and may not.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> regions = Regions.grid(2, 2, 16, 16)
    >>> latent_regions(regions, small_denoiser(size=16, channels=(8, 16))) is regions
    True
    """
    image_size, (_, height, width) = denoiser.image_shape[1:], denoiser.latent_shape
    if tuple(regions.masks.shape[2:]) != image_size:
        raise ValueError(f"regions must be of images of {image_size} pixels, got {tuple(regions.masks.shape[2:])}")
    return regions.resized(height, width, hard=hard, missing=missing) if denoiser.is_latent else regions
