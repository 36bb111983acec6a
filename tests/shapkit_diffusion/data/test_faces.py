"""Rendered faces: reproducible one by one, complete, and the same as without shortcuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shapkit_diffusion.data import FACE_LABELS, faces, redraw_concept, render_faces


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


@pytest.mark.parametrize("concept", ["eyes", "nose", "mouth"])
def test_a_concept_drawn_anew_leaves_the_rest_as_it_was(concept: str) -> None:
    before, after = render_faces(200, seed=3), redraw_concept(concept, 200, seed=3)
    value = FACE_LABELS.index(concept)
    # A part blends into pixels that it covers by less than half, the corners of a mouth over a length of some pixels.
    either = torch.as_tensor((before.labels == value) | (after.labels == value))[:, None].float()
    near = F.max_pool2d(either, 7, stride=1, padding=3)[:, 0].bool().numpy()
    difference = np.abs(before.images.astype(int) - after.images).max(axis=1)
    assert (difference[~near] <= 1).all()  # a brow's place is computed from other numbers, and may be rounded otherwise
    assert ((difference > 8).any(axis=(1, 2))).mean() > 0.98
    assert not np.array_equal(after.images, redraw_concept(concept, 200, seed=3, redraw=1).images)


@pytest.mark.parametrize("concept", ["eyes", "nose", "mouth"])
def test_faces_with_a_concept_drawn_anew_are_faces(concept: str) -> None:
    """Given the rest, the new concept has the distribution of the old one: so has each pixel of the whole image."""
    count = 6000
    old, new = (
        faces.images.reshape(count, -1).astype(float)
        for faces in (render_faces(count, size=16, seed=8), redraw_concept(concept, count, size=16, seed=8))
    )
    change = new - old
    scale = change.std(axis=0) / np.sqrt(count)
    moved = scale > 0.05  # elsewhere hardly a face of the 6,000 changes, which no normal approximation covers
    # Of 768 pixel values, strongly correlated, the largest of as many independent normals stays under 4.5 (p = 0.005).
    assert moved.sum() > 30 and np.abs(change.mean(axis=0)[moved] / scale[moved]).max() < 4.5
    squares = new**2 - old**2
    assert np.abs(squares.mean(axis=0)[moved] / (squares.std(axis=0)[moved] / np.sqrt(count))).max() < 4.5


def test_only_concepts_are_drawn_anew() -> None:
    with pytest.raises(ValueError, match="one of eyes, nose, mouth, got 'hair'"):
        redraw_concept("hair", 1)
    with pytest.raises(ValueError, match="redraw must be >= 0"):
        redraw_concept("eyes", 1, redraw=-1)
