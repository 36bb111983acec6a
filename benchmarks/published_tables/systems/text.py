"""The compared systems driven by text, through diffusers' classes: Stable Diffusion inpainting, and SEGA.

Both run on one Stable Diffusion model, such as ``text_training`` makes. What an edit asks for is said in words: another
phrase for the region's concept, drawn by the seed from those that captions have for it.
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from diffusers import SemanticStableDiffusionPipeline, StableDiffusionInpaintPipeline
from torch import Tensor

from benchmarks.published_tables.systems.draws import choices, region_noise
from benchmarks.published_tables.systems.systems import Region, Remembered
from benchmarks.published_tables.systems.text_model import TextModel
from shapkit_diffusion.data.captions import Phrases, caption, face_phrases, phrases_for
from shapkit_diffusion.noise.sampling import draw_noise, invert


class Told(NamedTuple):
    """What a text-driven system knows of an image: a tensor of latent shape, and what its caption said."""

    tensor: Tensor
    phrases: Phrases


@dataclass(frozen=True)
class TextInpainting:
    """Stable Diffusion inpainting: the region is generated to a caption, the outside put back, noised, at every step.

    The class is ``StableDiffusionInpaintPipeline``, on a UNet of 4 channels, which knows of the mask only by what is
    put back. That is done with latents: outside the region MSE is the decoder's reach, by construction. The pipeline
    takes a latent pixel as the region's where the mask covers the first pixel of it.

    A generated image's caption is known, and only the phrase of the region's concept changes; of a given image the
    model is told that phrase alone.

    Args:
        model: the model, with latents of 4 channels.
        steps: DDIM steps; they must divide the length of the schedule.
        guidance: scale of classifier-free guidance; the 7.5 usual with the published models oversaturates small ones.
        batch_size: images at a time.

    Raises:
        ValueError: if the latents have other channels, or the steps do not divide the schedule.
    """

    model: TextModel = field(repr=False)
    steps: int = 50
    guidance: float = 3.0
    batch_size: int = 64
    name: str = "Stable Diffusion"
    _latents: Remembered[Told] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_steps(self.model, self.steps)
        channels = self.model.denoiser.latent_shape[0]
        if channels != 4:
            raise ValueError(f"diffusers' inpainting takes latents of 4 channels, the model's have {channels}")
        object.__setattr__(self, "_latents", Remembered(self._search))

    @property
    def pastes(self) -> bool:
        """True: the latents outside the region are put back at every step."""
        return True

    def generate(self, count: int, seed: int) -> Tensor:
        """Images (count, *image_shape) of the captions that the faces of the series ``seed`` have."""
        noise, phrases = draw_noise(self.model.denoiser, count, seed), face_phrases(count, seed)
        captions = [caption(said) for said in phrases]
        latents = self.model.sample(captions, noise, self.steps, self.guidance, self.batch_size)
        images = _decoded(self.model, latents)
        self._latents.keep(images, [Told(row, said) for row, said in zip(latents, phrases, strict=True)])
        return images

    def reconstruct(self, images: Tensor) -> Tensor:
        """The images encoded and decoded, which is what the pipeline leaves where it changes nothing."""
        return _decoded(self.model, torch.stack([known.tensor for known in self._latents.of(images)]))

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """The images with the region generated to another phrase.

        Raises:
            ValueError: if captions do not speak of the region.
        """
        known = self._latents.of(images)
        others = _other_phrases(known, region.name, seed)
        captions = [caption(told.phrases | {region.name: other}) for told, other in zip(known, others, strict=True)]
        latents = torch.stack([told.tensor for told in known])
        noise = region_noise(seed, region.name, len(images), self.model.denoiser.latent_shape).to(latents)
        mask = region.mask.expand(len(images), -1, -1, -1)
        pipeline = self.model.pipeline(StableDiffusionInpaintPipeline)
        parts = []
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            edited = pipeline(
                captions[rows],
                image=latents[rows],  # taken as they are, where images would be encoded with noise
                masked_image_latents=latents[rows],  # unused with 4 channels
                mask_image=mask[rows],  # in this pipeline, one is painted
                latents=noise[rows],
                strength=1.0,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                output_type="latent",
            ).images
            parts.append(edited)
        return _decoded(self.model, torch.cat(parts))

    def _search(self, images: Tensor) -> list[Told]:
        return [Told(latents, {}) for latents in self.model.denoiser.encode(images)]


@dataclass(frozen=True)
class SemanticGuidance:
    """SEGA (Brack et al. 2023): the same noise and caption, guided towards a phrase wherever that matters most.

    The class is ``SemanticStableDiffusionPipeline``; guidance scale, threshold, momentum and the warm-up's share of the
    steps are its defaults. No mask is used: the region only says of which concept the phrase is.

    A generated image's noise and caption are known; a given image is inverted to its noise with the empty caption,
    under which it is then edited.

    Args:
        model: the model.
        steps: DDIM steps; they must divide the length of the schedule.
        guidance: scale of the caption's guidance, above 1, without which the class does not guide at all.
        edit_guidance: scale of the phrase's guidance.
        threshold: share of the latent pixels that the phrase leaves alone, in [0, 1).
        warmup: share of the steps before the phrase counts.
        momentum, momentum_decay: ``edit_momentum_scale`` and ``edit_mom_beta`` of the class.
        refinements: fixed-point iterations per step of the inversion of given images.
        batch_size: images at a time.

    Raises:
        ValueError: for a guidance that is not above 1, or if the steps do not divide the schedule.
    """

    model: TextModel = field(repr=False)
    steps: int = 50
    guidance: float = 3.0
    edit_guidance: float = 5.0
    threshold: float = 0.9
    warmup: float = 0.2
    momentum: float = 0.1
    momentum_decay: float = 0.4
    refinements: int = 3
    batch_size: int = 64
    name: str = "SEGA"
    _noise: Remembered[Told] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_steps(self.model, self.steps)
        if not self.guidance > 1:
            raise ValueError(f"guidance must be above 1, or SEGA guides nothing, got {self.guidance}")
        for option in ("threshold", "warmup"):
            if not 0 <= getattr(self, option) < 1:
                raise ValueError(f"{option} must be in [0, 1), got {getattr(self, option)}")
        object.__setattr__(self, "_noise", Remembered(self._search))

    @property
    def pastes(self) -> bool:
        """False: nothing is put back."""
        return False

    def generate(self, count: int, seed: int) -> Tensor:
        """Images (count, *image_shape) of the captions that the faces of the series ``seed`` have."""
        noise, phrases = draw_noise(self.model.denoiser, count, seed), face_phrases(count, seed)
        known = [Told(row, said) for row, said in zip(noise, phrases, strict=True)]
        images = self._sampled(known)
        self._noise.keep(images, known)
        return images

    def reconstruct(self, images: Tensor) -> Tensor:
        """What the model makes of the images' noise and captions."""
        return self._sampled(self._noise.of(images))

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """The images generated again, guided towards another phrase of the concept.

        Raises:
            ValueError: if captions do not speak of the region.
        """
        known = self._noise.of(images)
        wanted: defaultdict[str, list[int]] = defaultdict(list)  # a call of the pipeline has one phrase for all
        for number, phrase in enumerate(_other_phrases(known, region.name, seed)):
            wanted[phrase].append(number)
        with _quiet():
            pipeline = self.model.pipeline(SemanticStableDiffusionPipeline)
        edited = torch.empty(len(images), *self.model.denoiser.latent_shape)
        for phrase, numbers in wanted.items():
            for start in range(0, len(numbers), self.batch_size):
                rows = numbers[start : start + self.batch_size]
                edited[rows] = pipeline(
                    [caption(known[row].phrases) for row in rows],
                    latents=torch.stack([known[row].tensor for row in rows]),
                    num_inference_steps=self.steps,
                    guidance_scale=self.guidance,
                    editing_prompt=caption({region.name: phrase}),
                    edit_guidance_scale=self.edit_guidance,
                    edit_threshold=self.threshold,
                    edit_warmup_steps=round(self.warmup * self.steps),
                    edit_momentum_scale=self.momentum,
                    edit_mom_beta=self.momentum_decay,
                    output_type="latent",
                ).images.cpu()
        return _decoded(self.model, edited)

    def _sampled(self, known: list[Told]) -> Tensor:
        captions, noise = [caption(told.phrases) for told in known], torch.stack([told.tensor for told in known])
        return _decoded(self.model, self.model.sample(captions, noise, self.steps, self.guidance, self.batch_size))

    def _search(self, images: Tensor) -> list[Told]:
        denoiser = self.model.denoiser
        noise = invert(denoiser, denoiser.encode(images), self.steps, self.refinements, self.batch_size)
        return [Told(row, {}) for row in noise]


def _other_phrases(known: list[Told], concept: str, seed: int) -> list[str]:
    """For each image a phrase of the concept that its caption has not."""
    phrases = phrases_for(concept)
    return choices(seed, concept, [[p for p in phrases if p != told.phrases.get(concept)] for told in known])


def _decoded(model: TextModel, latents: Tensor) -> Tensor:
    return model.denoiser.decode(latents).clamp(-1, 1)


def _check_steps(model: TextModel, steps: int) -> None:
    total = model.denoiser.n_timesteps
    if not 1 <= steps <= total or total % steps:
        raise ValueError(f"steps must divide the schedule's {total} timesteps, got {steps}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what diffusers says of pipelines that it keeps but no longer develops."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
