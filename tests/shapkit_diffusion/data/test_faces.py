"""Rendered faces: reproducible one by one, complete, and the same as without shortcuts."""

from __future__ import annotations

import numpy as np
import pytest

from shapkit_diffusion.data import FACE_LABELS, faces, render_faces


def test_a_face_depends_on_the_seed_and_its_number_alone() -> None:
    whole = render_faces(150, size=16, seed=4)  # more than are painted at a time
    part = render_faces(7, size=16, seed=4, first=140)
    assert np.array_equal(part.images, whole.images[140:147])
    assert np.array_equal(part.labels, whole.labels[140:147])
    assert not np.array_equal(part.images, render_faces(7, size=16, seed=5, first=140).images)


@pytest.mark.parametrize("size", [8, 9, 16, 32, 64, 200])
def test_painting_parts_in_their_windows_changes_no_byte(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = max(8, 4096 // size)
    windowed = render_faces(count, size=size, seed=11)
    monkeypatch.setattr(faces._Canvas, "window", lambda canvas, *box: canvas)
    everywhere = render_faces(count, size=size, seed=11)
    assert np.array_equal(windowed.images, everywhere.images)
    assert np.array_equal(windowed.labels, everywhere.labels)


def test_every_face_has_every_part_in_its_place() -> None:
    labels = render_faces(200, size=32, seed=1).labels
    centres = {}
    for value, name in enumerate(FACE_LABELS):
        assert (labels == value).any(axis=(1, 2)).all()
        centres[name] = np.array([np.argwhere(label_map == value).mean(axis=0) for label_map in labels])
    heights = [centres[name][:, 0] for name in ("brows", "eyes", "nose", "mouth")]
    assert (np.diff(heights, axis=0) > 0).all()
    assert np.abs(centres["nose"][:, 1] - 15.5).max() < 3


def test_faces_differ() -> None:
    images = render_faces(100, size=16).images.reshape(100, -1)
    assert len(np.unique(images, axis=0)) == 100


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 1, "size": 7}, {"count": 1, "first": -1}])
def test_numbers_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="count must be >= 1, size >= 8 and first >= 0"):
        render_faces(**wrong)
