"""Post hoc influence: which input region of a denoiser drives which output region.

Every output region is a game on the input regions: how much of the region's change, when its whole input is exchanged
for that of another sample, does each input region account for? The Shapley values of a row sum to one, and a region
that Theorem 1 calls a dummy gets zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapkit import Attribution, Game, exact
from shapkit.differentiable import Regions, composite, partner
from shapkit_diffusion.denoisers import Denoiser
from shapkit_diffusion.sampling import generate

END_TO_END = "x_T to x_0"
"""What `influence_maps` calls the map from noise to image."""


def influence(network: Callable[[Tensor], Tensor], x: Tensor, regions: Regions) -> Attribution:
    """Shapley values of the input regions for every output region, ``values[j, k]``: of input ``j`` for output ``k``.

    The payoff of coalition S for output region k is ``1 - |f_k(x_S) - f_k(x)|^2 / |f_k(x') - f_k(x)|^2`` with x' the
    neighbouring sample, which also fills the absent regions; numerator and denominator are summed over the batch. It
    is 0 for the empty and 1 for the grand coalition. Exact: 2^K runs of the network.

    Args:
        network: maps (batch, channels, height, width) to the same batch and pixels.
        x: an even number of samples; neighbours are exchanged.
        regions: the K players, at most 16.

    Raises:
        ValueError: if regions and ``x`` do not fit, or the batch is odd.

    >>> labels = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> regions = Regions.from_labels(labels, {"right": [1]})
    >>> x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> influence(torch.tanh, x, regions).values.round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    regions.check_fits(x)
    regions = regions.to(x)
    other = partner(x)
    with torch.inference_mode():
        full = network(x).double()
        weights = regions.masks.double() / regions.areas.double()[:, :, None, None]

        def change(output: Tensor) -> Tensor:
            squares = (output.double() - full).square()
            return torch.einsum("bchw,bkhw->k", squares, weights.expand(len(x), -1, -1, -1))

        scale = change(partner(full))

        def value(coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
            payoffs = [
                1 - change(network(composite(x, other, regions, torch.as_tensor(row)))) / scale for row in coalitions
            ]
            return torch.stack(payoffs).cpu().numpy()

        return exact(Game(value, n_players=len(regions.names), names=regions.names))


def influence_at(denoiser: Denoiser, images: Tensor, regions: Regions, timestep: int, seed: int = 0) -> Attribution:
    """Influence within one run of the denoiser at ``timestep``, on images (n, channels, height, width) in [-1, 1].

    Raises:
        ValueError: if the timestep is outside the schedule, or as ``influence``.
    """
    if not 0 <= timestep < denoiser.n_timesteps:
        raise ValueError(f"timestep must be 0..{denoiser.n_timesteps - 1}, got {timestep}")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images)
    timesteps = torch.full((len(images),), timestep, device=images.device)
    noisy = denoiser.add_noise(images, noise, timesteps)
    return influence(lambda x: denoiser(x, timesteps), noisy, regions)


def influence_end_to_end(denoiser: Denoiser, noise: Tensor, regions: Regions, steps: int = 25) -> Attribution:
    """Influence of the regions of the noise x_T on those of the generated image x_0: 2^K generations."""
    return influence(lambda x: generate(denoiser, x, steps), noise, regions)


def influence_maps(
    denoiser: Denoiser,
    noise: Tensor,
    regions_of: Callable[[Tensor], Regions],
    timesteps: Sequence[int],
    steps: int = 25,
    seed: int = 0,
) -> dict[str, Attribution]:
    """Influence within single runs at some timesteps and from x_T to x_0, on images that the model generates itself.

    Args:
        denoiser: the model to look into.
        noise: x_T of the images, (n, channels, height, width), n even.
        regions_of: gives the regions of generated images, in [-1, 1].
        timesteps: at which single runs are looked at.
        steps: of DDIM, for the images and from noise to image.
        seed: names the noise that the images get at the timesteps.

    Returns:
        one attribution for each timestep, called ``"t = 900"`` and so on, and `END_TO_END`.

    Raises:
        ValueError: as `influence_at` and `influence_end_to_end`.
    """
    images = generate(denoiser, noise, steps)
    regions = regions_of(images)
    maps = {f"t = {timestep}": influence_at(denoiser, images, regions, timestep, seed) for timestep in timesteps}
    return maps | {END_TO_END: influence_end_to_end(denoiser, noise, regions, steps)}


def outside_mass(attribution: Attribution, allowed: Tensor) -> float:
    """Mean over output regions of the absolute influence that comes from players not allowed to influence them.

    Args:
        attribution: from ``influence``.
        allowed: boolean (K, K), ``[k, j]`` true when player j may influence output k.
    """
    forbidden = ~allowed.numpy()
    return float((np.abs(attribution.values.T) * forbidden).sum(axis=1).mean())
