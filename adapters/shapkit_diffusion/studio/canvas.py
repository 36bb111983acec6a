"""An image that is edited region by region, in two models at once; nothing here knows how it is shown.

A canvas is never changed: every edit returns another one, so that undoing is to go back.
"""

from __future__ import annotations

import json
import math
import shlex
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data.pixels import to_bytes
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain
from shapkit_diffusion.evaluation.locality import changes_per_image
from shapkit_diffusion.noise.edits import Edit, InversionWarning, Original, Outside, edit_original
from shapkit_diffusion.noise.sampling import draw_noise
from shapkit_diffusion.pictures.comparison import change_map

OWN = "own region"
"""The region that is drawn with the brush."""

METADATA = "shapkit"
"""The text chunk of a saved PNG that says how it was made."""


@dataclass(frozen=True)
class Step:
    """One edit: what `Edit` takes, with the other image as a seed, so that it can be written down.

    Args:
        region: a concept, or `OWN`.
        seed: of the fresh noise, or of the other face.
        strength: from 0 to 1.
        other: whether the noise is taken from the face of that seed.
    """

    region: str
    seed: int = 0
    strength: float = 1.0
    other: bool = False


@dataclass(frozen=True, eq=False)
class View:
    """What one model makes of the canvas.

    Attributes:
        before, after: images (1, channels, height, width) in [-1, 1].
        inside, outside: mean square changes inside and outside of the regions that were edited; NaN before any edit.
        milliseconds: that the edited image took.
        psnr: of ``before`` against an uploaded image, dB; infinite for generated faces and where it is the image.
    """

    before: Tensor
    after: Tensor
    inside: float
    outside: float
    milliseconds: float
    psnr: float

    @property
    def change(self) -> NDArray[np.float64]:
        """The change of every pixel, (height, width), as a distance in CIELAB."""
        return np.asarray(change_map(self.before, self.after)[0])


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image in each of several models, and what was done to it.

    Args:
        domain: finds regions.
        models: by name; the first is the one whose regions are shown.
        originals: the image in each of them.
        image_seed: of a generated face; None for an uploaded image.
        steps: of DDIM.
        uploaded: the image that was given, (1, channels, height, width).
        given: the same for the models that can draw a concept anew from the image as it is.
        own: the region that was drawn, bool (height, width).
        outside: whether the model decides what else changes, or all else is put back at every step: see
            `shapkit_diffusion.edit_original`.
        done: the edits, in their order.
    """

    domain: Domain
    models: Mapping[str, Denoiser]
    originals: Mapping[str, Original]
    image_seed: int | None
    steps: int
    uploaded: Tensor | None = None
    given: Mapping[str, Original] = field(default_factory=dict)
    own: Tensor | None = None
    outside: Outside = "free"
    done: tuple[Step, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)

    @classmethod
    def of_seed(cls, models: Mapping[str, Denoiser], domain: Domain, seed: int, steps: int = 25) -> Canvas:
        """Return a generated face."""
        originals = {
            name: Original.from_noise(model, draw_noise(model, 1, _checked_seed(seed)), steps, keep_trajectory=True)
            for name, model in models.items()
        }
        return cls(domain, models, originals, seed, steps)._seen()

    @classmethod
    def of_image(cls, models: Mapping[str, Denoiser], domain: Domain, image: Tensor, steps: int = 25) -> Canvas:
        """Return a given image (channels, height, width) in [-1, 1], inverted in every model.

        A model that generates in stages draws concepts anew from the image as it is, which no inversion blurs.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InversionWarning)  # the round trip's PSNR is shown
            originals = {
                name: Original.from_images(model, image[None], steps, keep_trajectory=True)
                for name, model in models.items()
            }
        given = {
            name: Original.as_given(model, image[None], steps)
            for name, model in models.items()
            if len(model.stages()) > 1
        }
        return cls(domain, models, originals, None, steps, uploaded=image[None], given=given)._seen()

    @property
    def first(self) -> str:
        """The name of the first model."""
        return next(iter(self.models))

    def image(self, model: str) -> Tensor:
        """Return the image before all edits: the given one, or what the model generates; (1, channels, h, w)."""
        return self.originals[model].reconstruction if self.uploaded is None else self.uploaded

    def masks(self, model: str | None = None) -> dict[str, NDArray[np.bool_]]:
        """Return the regions of the unedited image, bool (height, width), by name: concepts, and what was drawn."""
        regions = self.domain.regions(self.image(model or self.first), CONCEPTS)
        found = {name: regions.mask(name)[0, 0].numpy() > 0.5 for name in CONCEPTS}
        return found if self.own is None else found | {OWN: self.own.numpy()}

    def region_at(self, x: int, y: int) -> str | None:
        """Return the name of the region at a pixel; the one that was drawn lies on top."""
        names = [name for name, mask in self.masks().items() if mask[y, x]]
        return names[-1] if names else None

    def drawn(self, mask: NDArray[np.bool_]) -> Canvas:
        """Return the canvas with a region of one's own, bool (height, width).

        Raises:
            ValueError: it is empty, everything, or of another size.
        """
        shape = tuple(self.image(self.first).shape[-2:])
        if mask.shape != shape:
            raise ValueError(f"the region has {mask.shape} pixels, expected {shape}")
        if not mask.any() or mask.all():
            raise ValueError("draw a region: some pixels, and not all of them")
        kept = tuple(step for step in self.done if step.region != OWN)
        return replace(self, own=torch.as_tensor(mask.copy()), done=kept)._seen()

    def edited(self, step: Step) -> Canvas:
        """Return the canvas after one more edit; one that differs from the last in its strength alone replaces it.

        So dragging the slider changes one edit, and does not add to it.

        Raises:
            ValueError: there is no such region, or a number is out of range.
        """
        if step.region not in (*CONCEPTS, *([] if self.own is None else [OWN])):
            raise ValueError(f"there is no region {step.region!r}: click one, or draw one of your own")
        _checked_seed(step.seed)
        done = self.done
        if done and replace(done[-1], strength=step.strength) == step:
            done = done[:-1]
        if step in done or any(replace(one, strength=step.strength) == step for one in done):
            raise ValueError(f"{step.region} has had the noise of seed {step.seed} already: take another seed")
        return replace(self, done=(*done, step))._seen()

    def keeping(self, outside: Outside) -> Canvas:
        """Return the canvas with all else put back at every step, or not."""
        return replace(self, outside=outside)._seen()

    def undone(self) -> Canvas:
        """Return the canvas without its last edit."""
        return replace(self, done=self.done[:-1])._seen()

    def command(self) -> str | None:
        """Return the shell command that makes the edited image of the first model; None where there is none."""
        plain = all(step.region != OWN and not step.other for step in self.done)
        if self.image_seed is None or not self.done or not plain:
            return None
        words = [
            "shapkit-diffusion",
            "edit",
            "--model",
            self.first,
            "--count",
            "1",
            "--image-seed",
            str(self.image_seed),
        ]
        for step in self.done:
            words += ["--region", step.region]
        words += ["--seed", *(str(step.seed) for step in self.done)]
        words += ["--strength", *(repr(step.strength) for step in self.done)]
        words += ["--variants", "1", "--steps", str(self.steps)]
        words += [*(["--outside", self.outside] if self.outside != "free" else []), "--out", "runs/edit"]
        return shlex.join(words)

    def png(self, model: str | None = None) -> bytes:
        """Return the edited image as PNG, with what it was made of in its text chunk `METADATA`."""
        facts = {
            "model": model or self.first,
            "image_seed": self.image_seed,
            "steps": self.steps,
            "outside": self.outside,
            "edits": [vars(step) for step in self.done],
            "command": self.command(),
        }
        info = PngInfo()
        info.add_text(METADATA, json.dumps(facts))
        buffer = BytesIO()
        pixels = pixels_of(self.views[model or self.first].after)
        Image.fromarray(pixels).save(buffer, format="png", pnginfo=info)
        return buffer.getvalue()

    def _seen(self) -> Canvas:
        """The canvas with what the models make of it now."""
        return replace(self, views={name: self._view(name) for name in self.models})

    def _view(self, name: str) -> View:
        original = self._original(name)
        psnr = float(original.psnr[0])
        if not self.done:
            return View(original.reconstruction, original.reconstruction, math.nan, math.nan, math.nan, psnr)
        regions = self._regions(name)
        edits = [self._edit(step, name) for step in self.done]
        began = time.perf_counter()
        after = edit_original(self.models[name], original, regions, edits, outside=self.outside).edited
        milliseconds = 1e3 * (time.perf_counter() - began)
        mask = regions.mask(*dict.fromkeys(step.region for step in self.done))
        inside, outside = changes_per_image(original.reconstruction, after, mask, "own_area")
        return View(original.reconstruction, after, float(inside[0]), float(outside[0]), milliseconds, psnr)

    def _original(self, name: str) -> Original:
        """What the edits begin from: an uploaded image itself, where that does, or else what inversion makes of it.

        Noise is mixed with the image's own where a strength is below 1, or followed outside. In a region that was drawn
        parts may lie that others look at, and these would be drawn anew as well.
        """
        anew = bool(self.done) and all(step.strength == 1 and step.region != OWN for step in self.done)
        return self.given.get(name, self.originals[name]) if anew and self.outside == "free" else self.originals[name]

    def _regions(self, name: str) -> Regions:
        """Of the edits, as the command `edit` finds them: those that are edited, and the rest."""
        wanted = list(dict.fromkeys(step.region for step in self.done))
        if OWN not in wanted:
            return self.domain.regions(self.image(name), wanted)
        masks = self.masks(name)
        labels = torch.zeros(1, *masks[OWN].shape, dtype=torch.long)
        for number, region in enumerate(wanted, start=1):
            labels[0][torch.as_tensor(masks[region])] = number
        labels[0][self.own] = 1 + wanted.index(OWN)  # what was drawn lies on top
        return Regions.from_labels(labels, {region: [n] for n, region in enumerate(wanted, start=1)}, missing="allow")

    def _edit(self, step: Step, name: str) -> Edit:
        if not step.other:
            return Edit(step.region, "resample", step.seed, step.strength)
        source = draw_noise(self.models[name], 1, step.seed)
        return Edit(step.region, "swap", strength=step.strength, source=source)


def pixels_of(images: Tensor) -> NDArray[Any]:
    """Return the first of images in [-1, 1] as uint8 (height, width, 3)."""
    pixels = np.moveaxis(to_bytes(images[:1])[0], 0, -1)
    return np.asarray(pixels if pixels.shape[-1] == 3 else pixels.repeat(3, axis=-1))


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"a seed must be a whole number of at least 0, got {seed!r}")
    return seed
