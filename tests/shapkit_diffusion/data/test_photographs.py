"""The photographs that come with scikit-image."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from shapkit_diffusion.data import PHOTOGRAPH_LABELS, LabelledImages, lfw_photographs


def test_images_are_the_first_hundred_faces_to_half_a_grey_level() -> None:
    skimage = pytest.importorskip("skimage")
    photographs = lfw_photographs()
    assert photographs.images.shape == (100, 1, 24, 24)
    faces = skimage.data.lfw_subset()[:100, :24, :24]
    assert np.abs(photographs.images[:, 0] / 255 - faces).max() <= 0.5 / 255 + 1e-9


def test_one_label_map_serves_all_and_names_every_part() -> None:
    pytest.importorskip("skimage")
    photographs = lfw_photographs()
    assert photographs.label_names == PHOTOGRAPH_LABELS
    assert (photographs.labels == photographs.labels[0]).all()
    assert np.bincount(photographs.labels[0].ravel()).tolist() == [24 * 24 - 109, 39, 30, 40]


def test_parts_lie_where_the_mean_face_is_dark() -> None:
    pytest.importorskip("skimage")
    photographs = lfw_photographs()
    mean, labels = photographs.images[:, 0].mean(axis=0), photographs.labels[0]
    cheeks = mean[10:13, 3:7].mean()
    assert mean[labels == 1].mean() < cheeks - 20
    assert mean[labels == 3].mean() < cheeks - 10
    eyes, nose, mouth = (np.argwhere(labels == label).mean(axis=0) for label in (1, 2, 3))
    assert eyes[0] < nose[0] < mouth[0]
    assert np.ptp([eyes[1], nose[1], mouth[1]]) < 1  # in one upright line


def test_photographs_with_own_labels_are_those_with_a_mesh_and_differ_where_heads_do() -> None:
    pytest.importorskip("skimage")
    every, own = lfw_photographs(), lfw_photographs(own_labels=True)
    kept = [number for number in range(100) if number not in (9, 30, 76)]
    assert (own.images == every.images[kept]).all()
    assert len(np.unique(own.labels.reshape(97, -1), axis=0)) == 97
    for labels in own.labels:
        eyes, nose, mouth = (np.argwhere(labels == label).mean(axis=0) for label in (1, 2, 3))
        assert eyes[0] < nose[0] < mouth[0]
    # the map for all is that of the mean face: parts of single faces lie around it
    template = every.labels[0]
    for label in (1, 2, 3):
        centres = np.array([np.argwhere(labels == label).mean(axis=0) for labels in own.labels])
        expected = np.argwhere(template == label).mean(axis=0)
        assert np.abs(np.median(centres, axis=0) - expected).max() < 2
        assert centres.std(axis=0).max() > 0.5


def test_the_eyes_are_darker_by_their_own_labels_than_by_the_map_for_all() -> None:
    pytest.importorskip("skimage")
    every, own = lfw_photographs(), lfw_photographs(own_labels=True)

    def contrast(photographs: LabelledImages) -> np.float64:
        """How much darker the eyes are than the face's nose, in standard deviations of the photograph, mean."""
        pixels = photographs.images[:, 0].astype(float)
        parts = [np.where(photographs.labels == label, pixels, np.nan).reshape(len(pixels), -1) for label in (1, 2)]
        eyes, nose = (np.nanmean(part, axis=1) for part in parts)
        return np.mean((nose - eyes) / pixels.std(axis=(1, 2)))

    assert contrast(own) > contrast(every) + 0.1


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"photographs of faces: pip install 'shapkit\[diffusion\]'"):
        lfw_photographs()
