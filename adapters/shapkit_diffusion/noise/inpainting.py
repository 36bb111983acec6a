"""Pixels that a denoiser draws to go with the others: what is absent from an image, for games and for anyone else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.noise.sampling import completed, draw_noise

Inpainting = Callable[[Any, Any], Tensor]
"""An image and which of its numbers are present, both (channels, height, width) -> images (n, ...)."""


def inpaint(
    denoiser: Denoiser, images: Tensor, absent: Tensor, steps: int = 25, *, seed: int = 0, batch_size: int = 64
) -> Tensor:
    """Images (n, *image_shape) whose absent pixels are generated to go with the present ones, which stay as they are.

    After every step the present pixels are put back, with as much noise as that step leaves: RePaint (Lugmayr and
    others 2022) without its repetitions. Of a latent model present pixels are the image's again at the end.

    Args:
        denoiser: the model.
        images: in [-1, 1]; what stands in absent pixels does not matter.
        absent: bool (n or 1, 1, height, width).
        steps: of the sampler.
        seed: of the noise, in [0, 2**63).
        batch_size: images at a time.

    Raises:
        ValueError: if images or mask do not fit the model.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> model, image = small_denoiser(size=16, channels=(8, 16)), torch.zeros(1, 3, 16, 16)
    >>> hole = torch.zeros(1, 1, 16, 16, dtype=torch.bool); hole[..., 4:8, 4:8] = True
    >>> made = inpaint(model, image, hole, steps=3)
    >>> bool((made[..., :4, :] == 0).all()), bool((made[..., 4:8, 4:8] != 0).all())
    (True, True)
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != denoiser.image_shape:
        raise ValueError(f"images has shape {tuple(images.shape)}, expected (n, {denoiser.image_shape})")
    if absent.dtype != torch.bool or absent.shape[1:] != (1, *images.shape[2:]) or len(absent) not in (1, len(images)):
        raise ValueError(
            f"absent must be a mask, bool (n or 1, 1, {images.shape[2]}, {images.shape[3]}), got {absent.dtype} "
            f"{tuple(absent.shape)}"
        )
    absent = absent.to(images.device).expand(len(images), -1, -1, -1)
    known = denoiser.encode(torch.where(absent, 0.0, images)) if denoiser.is_latent else images
    missing = F.adaptive_max_pool2d(absent.float(), denoiser.latent_shape[1:]) > 0
    noise = draw_noise(denoiser, len(images), seed).to(known)
    made = denoiser.decode(completed(denoiser, noise, known, missing, steps, batch_size))
    return torch.where(absent, made, images)


def inpainter(
    denoiser: Denoiser, n_draws: int = 4, steps: int = 25, *, seed: int = 0, batch_size: int = 64
) -> Inpainting:
    """Return what `shapkit.image_game(..., absent=...)` takes: absent regions are drawn by a diffusion model.

    Where a blur or a grey patch is like no image that a classifier ever saw, these are. A coalition's payoff is the
    mean prediction over the draws, of which the noise is the same for all coalitions.

    Args:
        denoiser: of images like the one that is explained, (channels, height, width) in [-1, 1].
        n_draws: images for each coalition.
        steps, seed, batch_size: as for `inpaint`.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> fill = inpainter(small_denoiser(size=16, channels=(8, 16)), n_draws=2, steps=2)
    >>> fill(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16, dtype=torch.bool)).shape
    torch.Size([2, 3, 16, 16])
    """

    def fill(image: Any, present: Any) -> Tensor:
        pixels = torch.as_tensor(image, dtype=torch.float32, device=denoiser.device)
        absent = ~torch.as_tensor(present, device=denoiser.device).all(dim=0)[None, None]
        copies = pixels.expand(n_draws, *pixels.shape)
        return inpaint(denoiser, copies, absent, steps, seed=seed, batch_size=batch_size)

    return fill
