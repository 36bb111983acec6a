"""Which word of a prompt drives which region of the images that a text-to-image model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapkit import Game, exact
from shapkit.differentiable import Regions
from shapkit.games.text_game import token_names
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.noise.influence import BUDGET, Influence, drawn_whole, with_errors
from shapkit_diffusion.noise.jackknife import Floats
from shapkit_diffusion.noise.sampling import generate


def word_influence(
    denoiser: Denoiser,
    noise: Tensor,
    regions: Regions,
    words: Sequence[str],
    embed: Callable[[str], Tensor],
    *,
    steps: int = 25,
    budget: int = BUDGET,
    method: str = "antithetic",
    seed: int = 0,
    batch_size: int = 64,
) -> Influence:
    """Shapley values of the words of a prompt for every region: the share of its change that each word drives.

    The payoff of a coalition of words for region k is ``1 - |x_k(S) - x_k(all)|^2 / |x_k(none) - x_k(all)|^2``, where
    x(S) is generated from the same noise with only the words of S in the prompt, in their order; numerator and
    denominator are sums over the images. It is 0 without words and 1 with all. Standard errors are the jackknife's over
    images; where coalitions are drawn, all images have the same, whose error they do not show. Where cross-attention
    maps say what a word looks at, this says what becomes of the picture without it.

    Args:
        denoiser: a model that takes a prompt.
        noise: x_T of the images, (n, channels, height, width), two at least.
        regions: of the images, or the latents, that the whole prompt makes of it.
        words: of the prompt, in order; put together with a space between.
        embed: makes the embedding (1, tokens, width) of a text, such as `shapkit_diffusion.text_encoder(folder)`.
        steps: of the sampler.
        budget: coalitions of words; exact where it pays for all 2^words, estimated otherwise.
        method, seed: of the estimate.
        batch_size: images that the network is given at once.

    Returns:
        an Influence whose ``values`` are (n_words, K): input words first, output regions last.

    Raises:
        ValueError: if an argument is not as described, or a region stays the same without any word.
    """
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"words must be a list of words, with one at least, got {words!r}")
    if len(noise) < 2:
        raise ValueError(f"noise holds {len(noise)} images, expected at least 2: errors are those of images")
    regions.check_fits(noise)
    own = regions.to(noise)

    def made(members: NDArray[np.bool_]) -> Tensor:
        text = " ".join(word for word, there in zip(words, members, strict=True) if there)
        return generate(denoiser.with_prompt(embed(text)), noise, steps, batch_size)

    whole = made(np.ones(len(words), dtype=np.bool_))

    def payoffs(coalitions: NDArray[np.bool_]) -> Floats:
        changes = [own.means((made(members).double() - whole.double()).square()) for members in coalitions]
        return -torch.stack(changes).cpu().numpy()

    game = Game(payoffs, len(words), token_names(words), batch_size=1, cache=True)
    with torch.inference_mode():
        by_image = exact(game) if 2 ** len(words) <= budget else drawn_whole(game, budget, method, seed)
    unchanged = np.flatnonzero(by_image.empty_value.sum(axis=0) >= 0)
    if len(unchanged):
        raise ValueError(f"region {regions.names[int(unchanged[0])]!r} stays the same without any word of the prompt")
    shares, without = with_errors(replace(by_image, standard_errors=None, degrees_of_freedom=None))
    return Influence(shares, without, n_images=len(noise), outputs=regions.names)
