"""The form in which labelled images are held in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shapkit_diffusion.data import LabelledImages

IMAGES = np.arange(4 * 3 * 2 * 5, dtype=np.uint8).reshape(4, 3, 2, 5)
LABELS = np.arange(4 * 2 * 5, dtype=np.uint8).reshape(4, 2, 5) % 3
NAMES = ("a", "b", "c")


def test_rows_and_slices_keep_images_and_labels_together() -> None:
    pairs = LabelledImages(IMAGES, LABELS, NAMES)
    images, labels = pairs.rows([3, 0, 3])
    assert np.array_equal(images, IMAGES[[3, 0, 3]]) and np.array_equal(labels, LABELS[[3, 0, 3]])
    part = pairs[1:3]
    assert (len(part), part.size, part.label_names) == (2, (2, 5), NAMES)
    assert np.array_equal(part.images, IMAGES[1:3]) and np.array_equal(part.labels, LABELS[1:3])


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (IMAGES.astype(float), LABELS, NAMES, "images must be uint8 .* got float64"),
        (IMAGES[0], LABELS, NAMES, r"images must be uint8 .* got uint8 \(3, 2, 5\)"),
        (IMAGES, LABELS[:3], NAMES, r"labels must be uint8 \(4, 2, 5\).* got uint8 \(3, 2, 5\)"),
        (IMAGES, LABELS.astype(int), NAMES, "labels must be uint8 .* got int64"),
        (IMAGES, LABELS, ("a", "b"), "labels go up to 2 but there are only 2 label names"),
    ],
)
def test_what_does_not_fit_is_refused(images: Any, labels: Any, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledImages(images, labels, names)
