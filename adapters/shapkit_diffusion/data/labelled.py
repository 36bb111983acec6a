"""Images with a label map each: the one form in which every data set enters training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Images(Protocol):
    """What training and evaluation need of a data set, in memory or on disk."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label is called."""
        ...

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images uint8 (n, channels, height, width) and label maps uint8 (n, height, width)."""
        ...


@dataclass(frozen=True)
class LabelledImages:
    """Images and label maps of one size, in memory.

    Args:
        images: uint8 (n, channels, height, width); RGB or grey.
        labels: uint8 (n, height, width); values index ``label_names``.
        label_names: what each label is called.

    Raises:
        ValueError: if the shapes do not fit, a type is wrong or a label has no name.

    >>> pair = LabelledImages(np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8), ("background",))
    >>> len(pair), pair.size
    (2, (8, 8))
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    label_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 (n, channels, height, width), got {self.images.dtype} {self.images.shape}"
            )
        expected = (len(self.images), *self.images.shape[2:])
        if self.labels.shape != expected or self.labels.dtype != np.uint8:
            raise ValueError(
                f"labels must be uint8 {expected}, one map of the image's size per image, "
                f"got {self.labels.dtype} {self.labels.shape}"
            )
        if len(self.labels) and int(self.labels.max()) >= len(self.label_names):
            raise ValueError(
                f"labels go up to {int(self.labels.max())} but there are only {len(self.label_names)} label names"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.int64]) -> LabelledImages:
        """The chosen rows, in the order asked for."""
        return LabelledImages(self.images[rows], self.labels[rows], self.label_names)

    def rows(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images and labels of the given indices, as training asks for them."""
        chosen = np.asarray(indices)
        return self.images[chosen], self.labels[chosen]


def concept_labels(label_names: Sequence[str], concepts: Sequence[str]) -> dict[str, list[int]]:
    """The label value of each concept, as ``Regions.from_labels`` takes them.

    Raises:
        ValueError: if a concept is no label of the data.
    """
    unknown = [concept for concept in concepts if concept not in label_names]
    if unknown:
        raise ValueError(f"no label is called {unknown[0]!r}: the data has {', '.join(label_names)}")
    return {concept: [label_names.index(concept)] for concept in concepts}


def label_template(
    data: Images, concepts: Mapping[str, Sequence[int]], *, mirrored: bool = False, at_least: float = 0.02
) -> NDArray[np.uint8]:
    """One label map (height, width) for aligned images: where each concept occurs at all.

    A pixel takes the label of the concept that covers it most often, if that is in ``at_least`` this share of the
    images; elsewhere it takes the label 0 or, where that belongs to a concept, the first that belongs to none.

    Args:
        data: aligned images, of which the first 2,000 are looked at.
        concepts: the label values of each concept.
        mirrored: count every label map's mirror image too, as training with ``flip`` needs it.

    >>> labels = np.zeros((4, 2, 3), np.uint8); labels[:3, 0, 0] = 1; labels[0, 1, 1] = 2
    >>> data = LabelledImages(np.zeros((4, 1, 2, 3), np.uint8), labels, ("rest", "eye", "mouth"))
    >>> label_template(data, {"eye": [1], "mouth": [2]}).tolist()
    [[1, 0, 0], [0, 2, 0]]
    """
    _, labels = data.rows(range(min(2000, len(data))))
    share = np.stack([np.isin(labels, list(values)).mean(axis=0) for values in concepts.values()])
    if mirrored:
        share = (share + share[:, :, ::-1]) / 2
    used = {label for values in concepts.values() for label in values}
    elsewhere = min(label for label in range(256) if label not in used)
    label_of = np.array([values[0] for values in concepts.values()], np.uint8)
    return np.where(share.max(axis=0) >= at_least, label_of[share.argmax(axis=0)], np.uint8(elsewhere))
