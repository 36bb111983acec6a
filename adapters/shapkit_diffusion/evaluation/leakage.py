"""What a latent model's decoder alone spoils of the locality of edits.

A decoder's output at a pixel depends on more than the latent pixel above it, so even a perfectly local denoiser's edits
leak into the rest of the image. That floor is measured here, and belongs beside every latent model's locality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shapkit.differentiable import Regions, partner
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.evaluation.locality import Locality, Normalisation, locality_of


def decoder_leakage(
    denoiser: Denoiser,
    latents: Tensor,
    regions: Regions,
    *,
    normalisation: Normalisation = "own_area",
    batch_size: int = 8,
) -> list[Locality]:
    """Locality of edits of the clean latents: the floor of what any denoiser before this decoder can reach.

    Each region's latent pixels are taken from the neighbouring sample and both latents are decoded; the change of the
    image is measured in and outside the region of the image, as ``locality_of`` does for edits of the noise. Besides
    the decoder's reach it contains the border of the latent grid, which is coarser than the region's. Samples in which
    a region has no pixel, or no latent pixel, are left out of its figures.

    Args:
        denoiser: a latent model; for a pixel model the change outside is zero.
        latents: clean latents (n, *latent_shape) of the kind to be edited, n even; neighbours are exchanged.
        regions: of the images, (n or 1, K, height, width).
        normalisation: as ``locality_of``.
        batch_size: images decoded at a time.

    Returns:
        one ``Locality`` for each region, in their order.

    Raises:
        ValueError: if the shapes do not fit, n is odd, or no sample has a region.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    >>> floor = decoder_leakage(small_denoiser(size=16, channels=(8, 16)), x, Regions.grid(1, 2, 16, 16))
    >>> [(entry.concept, entry.ratio) for entry in floor]
    [('r0c0', 0.0), ('r0c1', 0.0)]
    """
    if tuple(latents.shape[1:]) != denoiser.latent_shape:
        raise ValueError(f"latents must be (n, *{denoiser.latent_shape}), got {tuple(latents.shape)}")
    if len(regions.masks) not in (1, len(latents)):
        raise ValueError(f"regions must be those of {len(latents)} samples or one for all, got {len(regions.masks)}")
    regions = regions.to(latents)
    cells = latent_regions(regions, denoiser, missing="allow")
    other = partner(latents)
    before = denoiser.decode(latents, batch_size).clamp(-1, 1)
    results = []
    for number, name in enumerate(regions.names):
        shown = (regions.present & cells.present)[:, number].expand(len(latents))
        if not bool(shown.any()):
            raise ValueError(f"region {name!r} has no latent pixel in any sample: it is too small for this autoencoder")
        mask, image_mask = cells.select(shown).mask(name), regions.select(shown).mask(name)
        edited = torch.where(mask > 0, other[shown], latents[shown])
        after = denoiser.decode(edited, batch_size).clamp(-1, 1)
        results.append(locality_of(name, before[shown], after, image_mask, normalisation))
    return results
