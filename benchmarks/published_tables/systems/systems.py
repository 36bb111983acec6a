"""What every compared system can do: make images of its own, and edit one region of images.

A system is compared on images that it generated itself, as published, or on images given to it, which it has to find in
its own terms first (invert, project). What it remembers of the images it generated spares it the search.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Region:
    """What is to be edited: a concept's name, and where it is, ``mask`` (n, 1, height, width) of zeros and ones."""

    name: str
    mask: Tensor


class System(Protocol):
    """A way to edit regions of images; images are (n, channels, height, width) in [-1, 1].

    ``name`` is the row's name in the tables. ``pastes`` says whether the outside of the region is put back after or
    during the edit, so that MSE-out is zero, or a decoder's, by construction, and says nothing of the model.
    """

    @property
    def name(self) -> str: ...

    @property
    def pastes(self) -> bool: ...

    def generate(self, count: int, seed: int) -> Tensor:
        """``count`` images of the system's own; equal seeds give equal images."""
        ...

    def reconstruct(self, images: Tensor) -> Tensor:
        """What the system makes of images without any edit; an edit's change counts from here."""
        ...

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """The images with the region's content made anew; ``seed`` names the new content."""
        ...


State = TypeVar("State")


@dataclass(eq=False)
class Remembered(Generic[State]):
    """What a system knows of images: kept where it generated them, searched for once where it did not.

    Args:
        search: the states of images (n, channels, height, width), in their order.

    >>> known = Remembered(search=lambda images: [f"found {image.mean():.0f}" for image in images])
    >>> known.keep(torch.zeros(1, 3, 2, 2), ["made"])
    >>> known.of(torch.stack([torch.ones(3, 2, 2), torch.zeros(3, 2, 2)]))
    ['found 1', 'made']
    """

    search: Callable[[Tensor], list[State]]
    _states: dict[bytes, State] = field(default_factory=dict)

    def keep(self, images: Tensor, states: list[State]) -> None:
        """Remember the states of images."""
        self._states.update(zip(_names(images), states, strict=True))

    def of(self, images: Tensor) -> list[State]:
        """The state of each image; those not known are searched for, all at once, and kept."""
        names = _names(images)
        unknown = [number for number, name in enumerate(names) if name not in self._states]
        if unknown:
            missing = images[torch.tensor(unknown)]
            self.keep(missing, self.search(missing))
        return [self._states[name] for name in names]


def _names(images: Tensor) -> list[bytes]:
    return [hashlib.blake2b(image.detach().cpu().contiguous().numpy().tobytes()).digest() for image in images]
