"""Edits: the noise of a region drawn anew or taken from another image, and the image generated again.

A real image is first inverted to its noise (Liu et al. 2025, eq. 10). How well the model makes the image again is part
of every result, because an edit cannot be more faithful than that round trip.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit.randomness import counter_bits
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.noise.sampling import (
    draw_noise,
    generate,
    invert,
    peak_signal_to_noise,
    regenerate,
    replay,
    swap,
    trajectory,
)

Kind = Literal["resample", "swap"]
Outside = Literal["free", "replay"]

BATCH_SIZE = 64
"""Images that the network is given at once, unless the caller says otherwise; fewer where memory is short."""

FAITHFUL = 40.0
"""Round trips below this PSNR, in dB, are warned of: 40 dB is an error of 1% of the range of the pixel values."""


CLIPPING_TOLD = 1.0
"""dB that clipping must have cost a poor round trip to be named as what did."""


class InversionWarning(UserWarning):
    """The model makes some image again only roughly, so its edit will show unwanted changes."""


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no truth value to compare by
class Edit:
    """What is done to the noise of one region, or of several taken as one.

    Args:
        region: name of the region, or the names of several.
        kind: ``"resample"`` mixes in fresh noise, ``"swap"`` that of ``source``.
        seed: of the fresh noise, in [0, 2**64). The noise depends on the seed, the names and the sample's number, and
            on nothing else: not on the batch, the device or other edits.
        strength: 1 replaces the noise, 0 leaves it, and in between it is mixed on a circle, so that it stays
            standard normal; sqrt(1 - strength^2) is the correlation with the old noise. See ``sampling.swap``.
        source: for ``"swap"``, noise (n or 1, channels, height, width).

    Raises:
        ValueError: if the kind is unknown, the strength lies outside [0, 1], no region is named, or a source is
            missing or superfluous.

    >>> Edit("mouth", seed=3, strength=0.5).names
    ('mouth',)
    """

    region: str | tuple[str, ...]
    kind: Kind = "resample"
    seed: int = 0
    strength: float = 1.0
    source: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie in [0, 1], got {self.strength}")
        if not self.names:
            raise ValueError("an edit must name at least one region")
        if (self.kind == "swap") != (self.source is not None):
            raise ValueError(
                "a swap needs the noise to swap with: source=..."
                if self.kind == "swap"
                else "only a swap has a source: kind='swap'"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The regions' names, sorted, each once."""
        return tuple(sorted({self.region} if isinstance(self.region, str) else set(self.region)))


def apply_edits(denoiser: Denoiser, noise: Tensor, regions: Regions, edits: Sequence[Edit], first: int = 0) -> Tensor:
    """The noise after all edits, one on top of the other in their order, shape of ``noise``.

    What lies outside the edited regions, and everything where the strength is 0, stays bit for bit. If ``noise`` is
    standard normal and independent of the sources, so is the result.

    Args:
        denoiser: the model whose noise it is; of a latent model, each latent pixel belongs to one region
            (``latents.latent_regions``).
        noise: x_T, (n, *latent_shape).
        regions: of the n images or one partition for all, (n or 1, K, height, width) in pixels of the image.
        edits: what to do.
        first: number of the first sample, for batches of a longer series.

    Raises:
        ValueError: if a region is unknown or has no latent pixel, a source or the regions do not fit, or two edits
            would mix in the same fresh noise.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> denoiser, regions = small_denoiser(size=16, channels=(8, 16)), Regions.grid(1, 2, height=16, width=16)
    >>> edited = apply_edits(denoiser, torch.zeros(1, 3, 16, 16), regions, [Edit("r0c1", seed=7)])
    >>> bool((edited[..., :8] == 0).all()), bool((edited[..., 8:] != 0).all())
    (True, True)
    """
    drawn = [(edit.names, edit.seed) for edit in edits if edit.kind == "resample"]
    for names, seed in drawn:
        if drawn.count((names, seed)) > 1:
            # The second helping would add to the first instead of being independent of it.
            raise ValueError(f"two edits resample {', '.join(names)} with seed {seed}: give them different seeds")
    for edit in edits:
        mask = _noise_mask(denoiser, regions, edit.names, len(noise))
        noise = swap(noise, _incoming(edit, noise, first), mask, edit.strength)
    return noise


@dataclass(frozen=True, eq=False)
class Original:
    """An image as the model sees it: what an edit starts from and is to be compared with.

    Args:
        noise: x_T, (n, *latent_shape).
        clean: x_0, what the model makes of the noise unedited, (n, *latent_shape).
        reconstruction: that as images, (n, *image_shape).
        psnr: of the reconstruction against the image that was given, dB, (n,); infinite for generated images.
        steps: DDIM steps.
        autoencoder_psnr: what the psnr would be if the inversion were perfect, dB, (n,); infinite for pixel models.
        unclipped_psnr: what the psnr would be if the model were sampled without clipping, dB, (n,); as ``psnr``, where
            nothing is clipped, or the psnr is no less than ``FAITHFUL``.
        trajectory: every x_t, (steps + 1, n, *latent_shape), where it was kept for a replay.
        inverted: whether ``noise`` is what the model makes the image of; False where it is any noise, since the model
            generates an edited region from the finished image around it.
    """

    noise: Tensor
    clean: Tensor
    reconstruction: Tensor
    psnr: Tensor
    steps: int
    autoencoder_psnr: Tensor
    unclipped_psnr: Tensor
    trajectory: Tensor | None = None
    inverted: bool = True

    @property
    def cost_of_clipping(self) -> Tensor:
        """By how much clipping makes the round trip worse, dB, (n,); 0 where that was not what made it poor."""
        return (self.unclipped_psnr - self.psnr).nan_to_num(nan=0.0).clamp(min=0)

    @classmethod
    def from_noise(
        cls,
        denoiser: Denoiser,
        noise: Tensor,
        steps: int = 50,
        *,
        keep_trajectory: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Original:
        """Generated images: what ``denoiser`` makes of ``noise`` (n, *latent_shape) in ``steps`` steps.

        Args:
            keep_trajectory: also keep every x_t, ``steps + 1`` times the noise's memory, as a replay needs it.
            batch_size: images that the network is given at once.

        Raises:
            ValueError: as ``sampling.generate``.
        """
        states = trajectory(denoiser, noise, steps, batch_size) if keep_trajectory else None
        clean = generate(denoiser, noise, steps, batch_size) if states is None else states[-1]
        perfect = torch.full((len(noise),), torch.inf)
        return cls(noise, clean, denoiser.decode(clean), perfect, steps, perfect, perfect, states)

    @classmethod
    def from_images(
        cls,
        denoiser: Denoiser,
        images: Tensor,
        steps: int = 50,
        refinements: int = 3,
        *,
        keep_trajectory: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Original:
        """Given images (n, *image_shape) in [-1, 1], inverted by DDIM and generated again.

        Args:
            refinements: fixed-point iterations per step. More of them come closer to the image, at the price of noise
                whose variance grows away from the one the model knows.
            keep_trajectory, batch_size: as in ``from_noise``.

        Raises:
            ValueError: as ``sampling.invert``.

        Warns:
            InversionWarning: where the PSNR of the reconstruction is below ``FAITHFUL``.
        """
        latents = denoiser.encode(images)
        noise = invert(denoiser, latents, steps, refinements, batch_size)
        found = cls.from_noise(denoiser, noise, steps, keep_trajectory=keep_trajectory, batch_size=batch_size)
        psnr = peak_signal_to_noise(found.reconstruction, images).cpu()
        found = replace(found, psnr=psnr, unclipped_psnr=psnr)
        if denoiser.is_latent:
            best = peak_signal_to_noise(denoiser.decode(latents), images).cpu()
            found = replace(found, autoencoder_psnr=best)
        poor = [number for number, value in enumerate(found.psnr.tolist()) if not value >= FAITHFUL]  # NaN is poor too
        if poor and denoiser.ddim.bounds:
            free = denoiser.ddim.unbounded()
            noise = invert(denoiser, latents[poor], steps, refinements, batch_size, ddim=free)
            made = denoiser.decode(generate(denoiser, noise, steps, batch_size, ddim=free))
            unclipped = psnr.clone()
            unclipped[poor] = peak_signal_to_noise(made, images[poor]).cpu()
            found = replace(found, unclipped_psnr=unclipped)
        if poor:
            message = f"round trip below {FAITHFUL:g} dB, the edit will show that loss too: "
            message += ", ".join(f"image {number + 1} {found.psnr[number]:.1f} dB" for number in poor)
            if denoiser.is_latent:
                limits = ", ".join(f"{found.autoencoder_psnr[number]:.1f}" for number in poor)
                message += f" (the autoencoder alone: {limits} dB)"
            if any(found.cost_of_clipping[number] > CLIPPING_TOLD for number in poor):
                limits = ", ".join(f"{found.unclipped_psnr[number]:.1f}" for number in poor)
                message += f" (it is clipping the clean image that costs it: without, {limits} dB)"
            warnings.warn(message, InversionWarning, stacklevel=2)
        return found

    @classmethod
    def as_given(cls, denoiser: Denoiser, images: Tensor, steps: int = 50, *, seed: int = 0) -> Original:
        """Given images (n, *image_shape), not inverted: the image itself is what an edited region is generated from.

        For models that generate in stages, region transformers and staged compositions: an edit draws its region anew,
        with all that the region may look at as it is in the image, and leaves everything else as it is, bit for bit (of
        a latent model, but for the decoder's reach). It takes no inversion, and loses nothing by one.

        Args:
            denoiser: a model of several stages.
            images: in [-1, 1].
            steps: of DDIM, for each stage.
            seed: of the noise of regions that are not edited but depend on one that is.

        Raises:
            ValueError: if the model generates everything at once.

        >>> from shapkit_diffusion.denoisers.denoiser import small_transformer
        >>> from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.long); labels[:, 4:] = 1
        >>> regions = Regions.from_labels(labels, {"mouth": [1]})
        >>> local = RegionDenoiser(small_transformer(8, width=16, depth=1), regions)
        >>> image = torch.rand(1, 3, 8, 8)
        >>> edited = edit_original(local, Original.as_given(local, image, steps=2), regions, [Edit("mouth")]).edited
        >>> bool((edited[:, :, :4] == image[:, :, :4]).all()), bool((edited[:, :, 4:] == image[:, :, 4:]).any())
        (True, False)
        """
        if len(denoiser.stages()) < 2:
            raise ValueError(
                "the model generates all regions at once, from noise alone: invert the image, with "
                "Original.from_images, or take a model of stages, such as a RegionDenoiser"
            )
        clean = denoiser.encode(images)
        made = denoiser.decode(clean) if denoiser.is_latent else images
        psnr = peak_signal_to_noise(made, images).cpu() if denoiser.is_latent else torch.full((len(images),), torch.inf)
        noise = draw_noise(denoiser, len(images), seed).to(clean)
        return cls(noise, clean, made, psnr, steps, psnr, psnr, inverted=False)


@dataclass(frozen=True, eq=False)
class EditResult:
    """Edited images, with what they have to be compared with.

    Args:
        noise: x_T of the originals, (n, *latent_shape).
        reconstruction: what the model makes of it, (n, *image_shape); an edit's change counts from here.
        psnr: of the reconstruction against the image that was given, dB, (n,).
        edited_noise, edited: the same after the edits.
    """

    noise: Tensor
    reconstruction: Tensor
    psnr: Tensor
    edited_noise: Tensor
    edited: Tensor


def edit_original(
    denoiser: Denoiser,
    original: Original,
    regions: Regions,
    edits: Sequence[Edit],
    *,
    outside: Outside = "free",
    first: int = 0,
    batch_size: int = BATCH_SIZE,
) -> EditResult:
    """The original with the noise edited and the image generated again.

    Args:
        denoiser: the model that ``original`` is of.
        original: images with their noise.
        regions: of the original's images.
        edits: applied one after the other; see ``apply_edits``.
        outside: with ``"free"`` the model makes the whole image anew, and what lies outside the edited regions
            changes as much as the model lets it. With ``"replay"`` it is put back at every step
            (``sampling.replay``), so that it is bit for bit the reconstruction's, with a latent model up to the
            decoder's reach: a wish about the result, not a property of the model, and never to be used where locality
            is measured.
        first: number of the first sample.
        batch_size: images that the network is given at once.

    Raises:
        ValueError: as ``apply_edits``; for an unknown ``outside``; or if there is no trajectory to replay.
    """
    if outside not in get_args(Outside):
        raise ValueError(f"outside must be one of {', '.join(get_args(Outside))}, got {outside!r}")
    if not original.inverted and (outside != "free" or any(edit.strength < 1 for edit in edits)):
        raise ValueError(
            "the image was not inverted: its regions have no noise of their own to mix with or to follow, expected "
            "strength 1 and outside='free'"
        )
    noise = apply_edits(denoiser, original.noise, regions, edits, first)
    if outside == "free":
        clean = regenerate(denoiser, noise, original.noise, original.clean, original.steps, batch_size)
        edited = denoiser.decode(clean)
    elif original.trajectory is None:
        raise ValueError("outside='replay' needs the trajectory of the original: make it with keep_trajectory=True")
    else:
        changed = sorted({name for edit in edits for name in edit.names})
        mask = _noise_mask(denoiser, regions, changed, len(noise))
        edited = denoiser.decode(replay(denoiser, noise, original.trajectory, mask, batch_size))
    return EditResult(original.noise, original.reconstruction, original.psnr, noise, edited)


def edit_by_own_regions(
    denoiser: RegionDenoiser,
    images: Tensor,
    regions: Regions,
    edits: Sequence[Edit],
    steps: int = 50,
    *,
    seed: int = 0,
    first: int = 0,
) -> EditResult:
    """Edits of given images by a region transformer, each by its own regions, and without an inversion.

    It is ``RegionDenoiser.with_regions``, ``Original.as_given`` and ``edit_original`` of one image after another. What
    lies outside of an image's own region, and of tokens that it has a part in, stays as it was, bit for bit (of a
    latent model, but for the decoder's reach). The model should have been trained on such regions:
    ``TrainConfig(regions="label_maps")``.

    Args:
        denoiser: the model.
        images: (n, *image_shape) in [-1, 1].
        regions: of these images, with the names of the model's own.
        edits: resampled regions of strength 1, applied one after the other.
        steps, seed: as in ``Original.as_given``.
        first: number of the first sample.

    Raises:
        ValueError: as ``edit_original``; if the names differ from the model's, or if there are not as many partitions
            as images.

    >>> from shapkit_diffusion.denoisers.denoiser import small_transformer
    >>> labels = torch.zeros(2, 8, 8, dtype=torch.long); labels[0, 4:] = labels[1, 6:] = 1
    >>> regions = Regions.from_labels(labels, {"mouth": [1]})
    >>> local = RegionDenoiser(small_transformer(8, width=16, depth=1), Regions(regions.masks[:1], regions.names))
    >>> images = torch.rand(2, 3, 8, 8)
    >>> edited = edit_by_own_regions(local, images, regions, [Edit("mouth")], steps=2).edited
    >>> bool((edited[0, :, :4] == images[0, :, :4]).all()), bool((edited[1, :, :6] == images[1, :, :6]).all())
    (True, True)
    """
    own = latent_regions(regions, denoiser)
    if len(own.masks) != len(images):
        raise ValueError(f"regions must be one partition for each of the {len(images)} images, got {len(own.masks)}")
    results = []
    for number in range(len(images)):
        local = denoiser.with_regions(own.select([number]))
        original = Original.as_given(local, images[number : number + 1], steps, seed=seed)
        results.append(edit_original(local, original, local.regions, edits, first=first + number))
    names = [field.name for field in fields(EditResult)]
    return EditResult(**{name: torch.cat([getattr(result, name) for result in results]) for name in names})


def edit_images(
    denoiser: Denoiser,
    images: Tensor,
    regions: Regions,
    edits: Sequence[Edit],
    steps: int = 50,
    refinements: int = 3,
    *,
    outside: Outside = "free",
    first: int = 0,
    batch_size: int = BATCH_SIZE,
) -> EditResult:
    """Edits of real images: DDIM inversion, the edits on x_T, generation (Liu et al. 2025, eq. 10).

    It is ``Original.from_images`` and ``edit_original``, which are there to try several edits of one inversion.

    Args:
        denoiser: the model.
        images: (n, *image_shape) in [-1, 1].
        regions: of these images.
        edits, outside, first, batch_size: as in ``edit_original``.
        steps, refinements: as in ``Original.from_images``.

    Raises:
        ValueError: as those.

    Warns:
        InversionWarning: before anything is edited, where the round trip's PSNR is below ``FAITHFUL``.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> denoiser = small_denoiser(size=16, channels=(8, 16))
    >>> regions = Regions.grid(2, 2, height=16, width=16)
    >>> result = edit_images(denoiser, torch.zeros(1, 3, 16, 16), regions, [Edit("r0c0", seed=1)])
    >>> result.edited.shape, bool(result.psnr > 40)
    (torch.Size([1, 3, 16, 16]), True)
    """
    original = Original.from_images(
        denoiser, images, steps, refinements, keep_trajectory=outside == "replay", batch_size=batch_size
    )
    return edit_original(denoiser, original, regions, edits, outside=outside, first=first, batch_size=batch_size)


def _incoming(edit: Edit, noise: Tensor, first: int) -> Tensor:
    """The noise that the edit mixes in, (n or 1, channels, height, width)."""
    if edit.source is not None:
        if edit.source.shape[1:] != noise.shape[1:] or len(edit.source) not in (1, len(noise)):
            raise ValueError(
                f"the source of a swap must have the shape of the noise, {tuple(noise.shape)}, or be one for all, "
                f"got {tuple(edit.source.shape)}"
            )
        return edit.source
    # Keyed by the names too: else the seed an image was drawn with would resample it to itself.
    name = int.from_bytes(hashlib.blake2b("\0".join(edit.names).encode(), digest_size=8).digest(), "little")
    bits = counter_bits(edit.seed, name, range(first, first + len(noise)))
    generators = (torch.Generator().manual_seed(int(number) >> 1) for number in bits)
    return torch.stack([torch.randn(noise.shape[1:], generator=generator) for generator in generators])


def _noise_mask(denoiser: Denoiser, regions: Regions, names: Sequence[str], count: int) -> Tensor:
    """Where the noise of the named regions is, (count or 1, 1, height, width)."""
    if len(regions.masks) not in (1, count):
        raise ValueError(f"regions must be those of the {count} images or one for all, got {len(regions.masks)}")
    mask = latent_regions(regions, denoiser, missing="allow").mask(*names)
    own = denoiser.owned(names)  # a transformer's token that is another region's is left to it
    if own is not None:
        mask = mask * own.to(mask)
    lost = (regions.mask(*names) > 0).flatten(1).any(dim=1) & ~(mask > 0).flatten(1).any(dim=1)
    if bool(lost.any()):
        grid = "latent grid" if own is None else "grid of tokens"
        raise ValueError(f"{', '.join(names)} is too small for the {grid}: dilate the region")
    return mask
