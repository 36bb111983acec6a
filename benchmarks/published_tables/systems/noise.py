"""The edit of the noise as a compared system: plain and interpretable DDPM and LDM (Liu et al. 2025, section 4).

An image is the noise x_T that DDIM makes it of. The noise of the region is replaced and the image generated again; what
changes outside is the model's doing, unless the outside is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from benchmarks.published_tables.systems.systems import Region, Remembered
from shapkit.differentiable import Regions
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.noise.edits import Edit, Kind, Original, Outside, apply_edits
from shapkit_diffusion.noise.sampling import draw_noise, generate, replay, trajectory


@dataclass(frozen=True)
class NoiseEdit:
    """Edits of the noise of a diffusion model of pixels or latents.

    Args:
        denoiser: the model.
        name: of the row.
        kind: ``"resample"`` draws the region's noise anew; ``"swap"`` takes it from another image of the batch, as
            published: from the one ``1 + seed mod (n - 1)`` places further on, cyclically.
        outside: with ``"replay"`` the outside of the region is put back at every step, see ``sampling.replay``.
        steps: DDIM steps.
        refinements: fixed-point iterations per step of the inversion of given images.

    Raises:
        ValueError: for an unknown kind or outside.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> system = NoiseEdit(small_denoiser(size=16, channels=(8, 16)), "DDPM", steps=5)
    >>> images = system.generate(2, seed=0)
    >>> mask = torch.zeros(2, 1, 16, 16); mask[..., 8:, :] = 1
    >>> system.edit(images, Region("mouth", mask), seed=1).shape
    torch.Size([2, 3, 16, 16])
    """

    denoiser: Denoiser = field(repr=False)
    name: str
    kind: Kind = "resample"
    outside: Outside = "free"
    steps: int = 25
    refinements: int = 3
    _noise: Remembered[Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for option, found, known in (("kind", self.kind, Kind), ("outside", self.outside, Outside)):
            if found not in get_args(known):
                raise ValueError(f"{option} must be one of {', '.join(get_args(known))}, got {found!r}")
        object.__setattr__(self, "_noise", Remembered(self._search))

    @property
    def pastes(self) -> bool:
        """Whether the outside is put back: in a replay."""
        return self.outside == "replay"

    def generate(self, count: int, seed: int) -> Tensor:
        """Images (count, *image_shape) that DDIM makes of the series ``seed`` of noises."""
        noise = draw_noise(self.denoiser, count, seed)
        images = self._decoded(generate(self.denoiser, noise, self.steps))
        self._noise.keep(images, list(noise))
        return images

    def reconstruct(self, images: Tensor) -> Tensor:
        """What the model makes of the images' noise; an `InversionWarning` if that is far from given images."""
        return self._decoded(generate(self.denoiser, self._noise_of(images), self.steps))

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """The images generated again with other noise in the region.

        Raises:
            ValueError: if the mask is not the images', the region has no latent pixel in some image, or there is no
                other image to swap with.
        """
        noise = self._noise_of(images)
        regions = Regions(torch.cat([region.mask, 1 - region.mask], dim=1), (region.name, "elsewhere"), missing="allow")
        source = self._partners(noise, seed) if self.kind == "swap" else None
        changed = apply_edits(self.denoiser, noise, regions, [Edit(region.name, self.kind, seed=seed, source=source)])
        if self.outside == "free":
            return self._decoded(generate(self.denoiser, changed, self.steps))
        inside = latent_regions(regions, self.denoiser).mask(region.name)
        unedited = trajectory(self.denoiser, noise, self.steps)
        return self._decoded(replay(self.denoiser, changed, unedited, inside))

    def _search(self, images: Tensor) -> list[Tensor]:
        return list(Original.from_images(self.denoiser, images, self.steps, self.refinements).noise)

    def _noise_of(self, images: Tensor) -> Tensor:
        return torch.stack(self._noise.of(images))

    def _decoded(self, clean: Tensor) -> Tensor:
        return self.denoiser.decode(clean).clamp(-1, 1)

    @staticmethod
    def _partners(noise: Tensor, seed: int) -> Tensor:
        """For each image the noise of another."""
        if len(noise) < 2:
            raise ValueError("a swap takes the noise of another image of the batch: give at least two images")
        return noise.roll(-(1 + seed % (len(noise) - 1)), dims=0)
