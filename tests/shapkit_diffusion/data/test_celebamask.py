"""CelebAMask-HQ: a small tree in its layout, made from rendered faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shapkit_diffusion.data import (
    CELEBAMASK_LABELS,
    CONCEPT_OF_PART,
    FACE_LABELS,
    open_celebamask,
    open_folder,
    render_faces,
    write_folder,
)

# Folder 1 begins with face 2000, and names do not sort as numbers do.
NUMBERS = (3, 11, 2000)
FACES = render_faces(len(NUMBERS), size=64, seed=5)
HALVES = {"brows": ("l_brow", "r_brow"), "eyes": ("l_eye", "r_eye"), "mouth": ("u_lip", "l_lip")}
"""Rendered labels that the data set keeps as two parts."""


def write_part(root: Path, number: int, part: str, covered: NDArray[np.bool_]) -> None:
    folder = root / "CelebAMask-HQ-mask-anno" / f"{number // 2000}"
    folder.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(covered.astype(np.uint8) * 255).convert("RGB")  # as published: RGB, though grey
    mask.save(folder / f"{number:05d}_{part}.png")


def parts_of(label_map: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    left = np.arange(label_map.shape[1]) < label_map.shape[1] // 2
    parts: dict[str, NDArray[np.bool_]] = {}
    for value, name in enumerate(FACE_LABELS[1:], start=1):
        covered = label_map == value
        if name in HALVES:
            parts |= {HALVES[name][0]: covered & left, HALVES[name][1]: covered & ~left}
        else:
            parts[name] = covered
    return parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "CelebA-HQ-img").mkdir()
    for number, image, label_map in zip(NUMBERS, FACES.images, FACES.labels, strict=True):
        picture = Image.fromarray(np.moveaxis(image, 0, -1)).resize((128, 128))  # twice the parts, as published
        picture.save(tmp_path / "CelebA-HQ-img" / f"{number}.jpg", quality=95)
        for part, covered in parts_of(label_map).items():
            write_part(tmp_path, number, part, covered)
    return tmp_path


def expected_labels(label_maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    names = ["lips" if name == "mouth" else name for name in FACE_LABELS]
    return np.array([CELEBAMASK_LABELS.index(name) for name in names], np.uint8)[label_maps]


def test_the_names_are_the_background_and_eleven_concepts() -> None:
    names = ["background", "skin", "brows", "eyes", "ears", "nose"]
    names += ["mouth", "lips", "neck", "cloth", "hair", "hat"]
    assert list(CELEBAMASK_LABELS) == names
    assert len(CONCEPT_OF_PART) == 18


def test_faces_come_in_the_order_of_their_numbers(root: Path) -> None:
    (root / "CelebA-HQ-img" / "notes.txt").write_text("x")
    (root / "CelebA-HQ-img" / "007.jpg").write_bytes(b"x")
    data = open_celebamask(root, size=64)
    assert (data.numbers, len(data), data.label_names) == (NUMBERS, 3, CELEBAMASK_LABELS)


def test_parts_are_merged_by_name(root: Path) -> None:
    images, labels = open_celebamask(root, size=64).rows([2, 0])
    assert images.dtype == labels.dtype == np.uint8
    assert np.array_equal(labels, expected_labels(FACES.labels[[2, 0]]))
    picture = np.asarray(Image.open(root / "CelebA-HQ-img" / "2000.jpg"), float)
    areas = picture.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert images.shape == (2, 3, 64, 64)
    assert np.abs(np.moveaxis(images[0], 0, -1) - areas).max() <= 1


def test_resizing_takes_the_nearest_pixel_of_a_part(root: Path) -> None:
    images, labels = open_celebamask(root, size=(16, 32), channels=1).rows([1])
    assert images.shape == (1, 1, 16, 32)
    assert np.array_equal(labels[0], expected_labels(FACES.labels[1, 2::4, 1::2]))


@pytest.mark.parametrize("part", CONCEPT_OF_PART)
def test_every_part_becomes_its_concept(root: Path, part: str) -> None:
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").iterdir():
        path.unlink()
    write_part(root, 3, part, np.ones((64, 64), bool))
    assert (open_celebamask(root, size=8).rows([0])[1] == CELEBAMASK_LABELS.index(CONCEPT_OF_PART[part])).all()


def test_later_parts_are_painted_over_earlier_ones(root: Path) -> None:
    order = [
        *("skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r"),
        *("nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat"),
    ]
    for part in order:
        write_part(root, 3, part, np.ones((64, 64), bool))
    data = open_celebamask(root, size=8)
    for part in reversed(order):  # every part covers everything, so the last of those left shows
        assert (data.rows([0])[1] == CELEBAMASK_LABELS.index(CONCEPT_OF_PART[part])).all()
        (root / "CelebAMask-HQ-mask-anno" / "0" / f"00003_{part}.png").unlink()


def test_a_part_covers_what_is_brighter_than_127(root: Path) -> None:
    for path in (root / "CelebAMask-HQ-mask-anno" / "0").glob("00003_*"):
        path.unlink()
    mask = np.full((64, 64), 127, np.uint8)
    mask[:32] = 128
    Image.fromarray(mask).save(root / "CelebAMask-HQ-mask-anno" / "0" / "00003_skin.png")
    labels = open_celebamask(root, size=64).rows([0])[1][0]
    assert (labels[:32] == 1).all() and (labels[32:] == 0).all()


def test_written_at_a_small_size_it_reads_back_the_same(root: Path, tmp_path: Path) -> None:
    data = open_celebamask(root, size=32)
    write_folder(data, tmp_path / "small")
    copy = open_folder(tmp_path / "small" / "images", tmp_path / "small" / "labels")
    for written, read in zip(data.rows(range(3)), copy.rows(range(3)), strict=True):
        assert np.array_equal(written, read)
    assert copy.label_names == CELEBAMASK_LABELS


def test_a_face_without_parts(root: Path) -> None:
    for path in (root / "CelebAMask-HQ-mask-anno" / "1").iterdir():
        path.unlink()
    data = open_celebamask(root, size=8)
    with pytest.raises(ValueError, match=r"2000\.jpg has no label map: there is no .*/1/02000_\*\.png$"):
        data.rows([2])


def test_a_part_of_another_shape_than_its_image(root: Path) -> None:
    write_part(root, 11, "nose", np.ones((64, 32), bool))
    data = open_celebamask(root, size=8)
    with pytest.raises(ValueError, match=r"00011_nose\.png has 32 x 64 .* its image .*11\.jpg with 128 x 128$"):
        data.rows([1])


def test_an_unreadable_image_or_part_is_named(root: Path) -> None:
    data = open_celebamask(root, size=8)
    (root / "CelebAMask-HQ-mask-anno" / "0" / "00003_nose.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"00003_nose\.png is no readable"):
        data.rows([0])
    image = root / "CelebA-HQ-img" / "11.jpg"
    image.write_bytes(image.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"11\.jpg is no readable"):
        data.rows([1])


def test_pictures_over_the_limit_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"3\.jpg has 128 x 128 pixels, which is more than max_pixels=16383$"):
        open_celebamask(root, size=8, max_pixels=128**2 - 1).rows([0])
    write_part(root, 3, "hat", np.ones((130, 130), bool))
    with pytest.raises(ValueError, match=r"00003_hat\.png has 130 x 130 pixels"):
        open_celebamask(root, size=8, max_pixels=128**2).rows([0])


def test_absent_and_empty_folders(root: Path) -> None:
    with pytest.raises(ValueError, match=r"^there is no folder .*CelebAMask-HQ-mask-anno$"):
        open_celebamask(root / "CelebA-HQ-img")
    for path in (root / "CelebA-HQ-img").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"CelebA-HQ-img holds no image called by a number"):
        open_celebamask(root)
    (root / "CelebA-HQ-img").rmdir()
    with pytest.raises(ValueError, match=r"^there is no folder .*CelebA-HQ-img$"):
        open_celebamask(root)


def test_size_and_channels_out_of_range(root: Path) -> None:
    with pytest.raises(ValueError, match="size must be a positive number of pixels"):
        open_celebamask(root, size=0)
    with pytest.raises(ValueError, match="channels must be 3 for RGB or 1 for grey, got 2"):
        open_celebamask(root, channels=2)
