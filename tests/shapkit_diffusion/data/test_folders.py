"""Folders of images and label maps: exact content, laziness, and every complaint."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shapkit_diffusion.data import FACE_LABELS, LabelledImages, open_folder, render_faces, write_folder
from shapkit_diffusion.data.folders import ImageFolder
from tests.complaints import complaint

FACES = render_faces(5, size=16, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(FACES, tmp_path)
    return tmp_path


def opened(folder: Path, **options: Any) -> ImageFolder:
    return open_folder(folder / "images", folder / "labels", **options)


def huge_png(width: int, height: int) -> bytes:
    """A png whose header promises that many pixels and whose data holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- what is read ---


def test_rows_are_the_files_in_the_order_asked_for(folder: Path) -> None:
    data = opened(folder)
    images, labels = data.rows([4, 0, 0])
    assert images.dtype == labels.dtype == np.uint8
    assert np.array_equal(images, FACES.images[[4, 0, 0]])
    assert np.array_equal(labels, FACES.labels[[4, 0, 0]])
    assert (len(data), data.size, data.label_names) == (5, (16, 16), FACE_LABELS)


def test_rows_of_no_index_are_empty(folder: Path) -> None:
    images, labels = opened(folder, size=8, channels=1).rows([])
    assert (images.shape, labels.shape) == ((0, 1, 8, 8), (0, 8, 8))


def test_a_row_past_the_end_is_an_index_error(folder: Path) -> None:
    with pytest.raises(IndexError):
        opened(folder).rows([5])


def test_grey_images_are_the_luma_of_colour_images(folder: Path) -> None:
    images, _ = opened(folder, channels=1).rows([1])
    luma = np.tensordot([0.299, 0.587, 0.114], FACES.images[1].astype(float), 1)
    assert images.shape == (1, 1, 16, 16)
    assert np.abs(images[0, 0] - luma).max() <= 1


def test_grey_files_become_three_equal_channels(tmp_path: Path) -> None:
    grey = LabelledImages(FACES.images[:, :1], FACES.labels, FACE_LABELS)
    write_folder(grey, tmp_path)
    images, _ = opened(tmp_path).rows([2])
    assert np.array_equal(images[0], np.repeat(grey.images[2], 3, axis=0))
    assert np.array_equal(opened(tmp_path, channels=1).rows([2])[0], grey.images[2:3])


def test_shrinking_averages_areas_and_takes_the_nearest_label(folder: Path) -> None:
    images, labels = opened(folder, size=4).rows([0])
    areas = FACES.images[0].reshape(3, 4, 4, 4, 4).mean(axis=(2, 4))
    assert np.abs(images[0] - areas).max() <= 1  # Pillow rounds after each direction
    assert np.array_equal(labels[0], FACES.labels[0, 2::4, 2::4])


def test_growing_interpolates_images_and_repeats_labels(folder: Path) -> None:
    images, labels = opened(folder, size=(32, 48)).rows([0])
    picture = Image.fromarray(np.moveaxis(FACES.images[0], 0, -1)).resize((48, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(images[0], np.moveaxis(np.asarray(picture), -1, 0))
    assert np.array_equal(labels[0], FACES.labels[0].repeat(2, axis=0).repeat(3, axis=1))


def test_images_of_several_sizes_are_brought_to_one(folder: Path) -> None:
    Image.new("RGB", (40, 20), (10, 200, 30)).save(folder / "images" / "wide.png")
    Image.new("L", (40, 20), 6).save(folder / "labels" / "wide.png")
    images, labels = opened(folder, size=8).rows([5])
    assert np.array_equal(images[0], np.broadcast_to(np.array([10, 200, 30])[:, None, None], (3, 8, 8)))
    assert (labels == 6).all()


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 95}), ("JPEG", {}), ("webp", {"lossless": True})])
def test_other_formats_are_read(folder: Path, suffix: str, options: dict[str, Any]) -> None:
    path = folder / "images" / "000000.png"
    picture = Image.open(path)
    picture.load()
    path.unlink()
    picture.save(path.with_suffix("." + suffix), **options)
    images, _ = opened(folder).rows([0])
    expected = np.asarray(Image.open(path.with_suffix("." + suffix)).convert("RGB"))
    assert np.array_equal(images[0], np.moveaxis(expected, -1, 0))


def test_palette_label_maps_are_read_by_index_not_by_colour(folder: Path) -> None:
    label_map = Image.fromarray(FACES.labels[0]).convert("P")
    label_map.putdata(FACES.labels[0].ravel().tolist())
    label_map.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    label_map.save(folder / "labels" / "000000.png")
    assert Image.open(folder / "labels" / "000000.png").mode == "P"
    assert np.array_equal(opened(folder).rows([0])[1][0], FACES.labels[0])


def test_label_names_given_stand_over_the_file(folder: Path) -> None:
    names = tuple("abcdefg")
    assert opened(folder, label_names=names).label_names == names


def test_hidden_files_other_suffixes_and_spare_label_maps_are_passed_over(folder: Path) -> None:
    (folder / "images" / ".000009.png").write_bytes(b"x")
    (folder / "images" / "notes.txt").write_text("x")
    (folder / "images" / "folder.png").mkdir()
    Image.new("L", (16, 16)).save(folder / "labels" / "spare.png")
    assert len(opened(folder)) == 5


def test_pixels_are_decoded_only_when_asked_for(folder: Path) -> None:
    path = folder / "images" / "000003.png"
    path.write_bytes(path.read_bytes()[:200])  # the header is whole, the pixels are not
    data = opened(folder)
    assert np.array_equal(data.rows([2])[0], FACES.images[2:3])
    assert "000003.png is no readable" in complaint(lambda: data.rows([3]))


def test_writing_in_small_parts_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_folder(opened(folder), tmp_path / "again", rows_at_once=2)
    for path in folder.glob("*/*.*"):
        assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()


# --- what is refused ---


def test_a_folder_in_use_is_not_written_to(folder: Path) -> None:
    assert complaint(lambda: write_folder(FACES, folder)) == f"{folder} holds something already"
    file = folder / "labels" / "labels.json"
    assert complaint(lambda: write_folder(FACES, file)) == f"{file} holds something already"


def test_an_absent_folder(folder: Path) -> None:
    message = complaint(lambda: open_folder(folder / "none", folder / "labels"))
    assert message == f"there is no folder {folder / 'none'}"
    message = complaint(lambda: open_folder(folder / "images", folder / "none", FACE_LABELS))
    assert message == f"there is no folder {folder / 'none'}"


def test_an_empty_folder(folder: Path) -> None:
    (folder / "empty").mkdir()
    message = complaint(lambda: open_folder(folder / "empty", folder / "labels"))
    assert message == f"{folder / 'empty'} holds no png, jpg, jpeg, webp file"


def test_an_image_without_a_label_map(folder: Path) -> None:
    (folder / "labels" / "000002.png").unlink()
    message = complaint(lambda: opened(folder))
    assert "images/000002.png has no label map: there is no" in message
    assert message.endswith("labels/000002.png")


def test_two_images_with_one_stem(folder: Path) -> None:
    Image.new("RGB", (16, 16)).save(folder / "images" / "000002.jpg")
    message = complaint(lambda: opened(folder))
    assert "000002.jpg" in message and "000002.png" in message and "same stem" in message


def test_images_of_several_sizes_without_a_size(folder: Path) -> None:
    Image.new("RGB", (20, 16)).save(folder / "images" / "wide.png")
    Image.new("L", (20, 16)).save(folder / "labels" / "wide.png")
    message = complaint(lambda: opened(folder))
    assert "wide.png has 20 x 16 pixels, but" in message and "000000.png has 16 x 16: give a size" in message


@pytest.mark.parametrize("size", [None, 8])
def test_a_label_map_of_another_size_than_its_image(folder: Path, size: int | None) -> None:
    Image.new("L", (8, 16)).save(folder / "labels" / "000001.png")
    message = complaint(lambda: opened(folder, size=size))
    assert "labels/000001.png has 8 x 16 pixels, but its image" in message
    assert message.endswith("images/000001.png has 16 x 16")


def test_a_label_map_that_changes_its_size_after_opening(folder: Path) -> None:
    data = opened(folder, size=8)
    Image.new("L", (8, 16)).save(folder / "labels" / "000001.png")
    assert "labels/000001.png has 8 x 16 pixels" in complaint(lambda: data.rows([1]))


def test_a_label_without_a_name_even_where_resizing_would_skip_it(folder: Path) -> None:
    label_map = FACES.labels[1].copy()
    label_map[0, 0] = 7
    Image.fromarray(label_map).save(folder / "labels" / "000001.png")
    data = opened(folder, size=4)
    message = complaint(lambda: data.rows([0, 1]))
    assert message.endswith("labels/000001.png holds the label 7, but names exist for 0 to 6")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1"])
def test_a_label_map_that_is_not_one_byte_per_pixel(folder: Path, mode: str) -> None:
    Image.new(mode, (16, 16)).save(folder / "labels" / "000001.png")
    message = complaint(lambda: opened(folder).rows([1]))
    assert message.endswith(f"labels/000001.png must be of mode L, P, but is of mode {mode}")


def test_a_16_bit_image_is_not_cut_off_at_255(folder: Path) -> None:
    Image.new("I;16", (16, 16), 1000).save(folder / "images" / "000001.png")
    assert "images/000001.png must be of mode" in complaint(lambda: opened(folder).rows([1]))


@pytest.mark.parametrize("where", ["images", "labels"])
def test_an_unreadable_file(folder: Path, where: str) -> None:
    (folder / where / "000001.png").write_bytes(b"no picture at all")
    message = complaint(lambda: opened(folder))
    assert message == f"{folder / where / '000001.png'} is no readable PNG, JPEG or WebP picture"


def test_a_format_that_is_not_asked_for_is_not_opened(folder: Path) -> None:
    picture = Image.open(folder / "images" / "000001.png")
    picture.save(folder / "images" / "000001.png", format="GIF")
    assert "000001.png is no readable PNG, JPEG or WebP" in complaint(lambda: opened(folder))


def test_damaged_files_are_always_reported_by_name(folder: Path) -> None:
    path = folder / "images" / "000001.png"
    whole = path.read_bytes()
    data = opened(folder)
    reported = 0
    for position in range(8, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            data.rows([1])
        except ValueError as error:
            assert "000001.png" in str(error)
            reported += 1
    assert reported > 5


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("where", ["images", "labels"])
def test_a_picture_over_the_limit_is_refused_by_its_header(folder: Path, where: str, size: int | None) -> None:
    (folder / where / "000000.png").write_bytes(huge_png(8001, 8000))
    message = complaint(lambda: opened(folder, size=size))
    assert message == (
        f"{folder / where / '000000.png'} has 8001 x 8000 pixels, which is more than max_pixels=64000000"
    )


def test_a_picture_that_grows_over_the_limit_after_opening_is_not_decoded(folder: Path) -> None:
    data = opened(folder, size=8)
    (folder / "images" / "000000.png").write_bytes(huge_png(8001, 8000))
    assert "8001 x 8000 pixels" in complaint(lambda: data.rows([0]))


def test_the_limit_is_the_largest_size_allowed(folder: Path) -> None:
    assert len(opened(folder, max_pixels=256)) == 5
    assert "000000.png has 16 x 16 pixels" in complaint(lambda: opened(folder, max_pixels=255))


def test_a_picture_beyond_pillows_limit(folder: Path) -> None:
    (folder / "images" / "000000.png").write_bytes(huge_png(60_000, 60_000))
    assert "000000.png has more pixels than Pillow's own limit" in complaint(lambda: opened(folder))


def test_names_are_needed(folder: Path) -> None:
    (folder / "labels" / "labels.json").unlink()
    message = complaint(lambda: opened(folder))
    assert message == f"there is no {folder / 'labels' / 'labels.json'}, so label_names must be given"
    assert opened(folder, label_names=FACE_LABELS).label_names == FACE_LABELS


@pytest.mark.parametrize(
    "names", [[], ["a", "a"], ["a", 1], ["a", ""], {"a": 1}, "abc", [str(i) for i in range(257)], None]
)
def test_names_that_are_no_list_of_different_names(folder: Path, names: object) -> None:
    path = folder / "labels" / "labels.json"
    path.write_text(json.dumps(names))
    assert complaint(lambda: opened(folder)) == f"{path} must be a list of 1 to 256 different names"


def test_names_given_as_one_string(folder: Path) -> None:
    message = complaint(lambda: opened(folder, label_names="abc"))
    assert message == "label_names must be a list of 1 to 256 different names"


@pytest.mark.parametrize("content", [b"", b"[", b'["\xff"]', b"[" * 100_000])
def test_names_that_are_no_json(folder: Path, content: bytes) -> None:
    path = folder / "labels" / "labels.json"
    path.write_bytes(content)
    assert complaint(lambda: opened(folder)).startswith(f"{path} is no readable JSON: ")


@pytest.mark.parametrize("size", [0, -3, (8, 0)])
def test_a_size_out_of_range(folder: Path, size: object) -> None:
    assert complaint(lambda: opened(folder, size=size)).startswith("size must be a positive number of pixels")


def test_channels_out_of_range(folder: Path) -> None:
    assert complaint(lambda: opened(folder, channels=4)) == "channels must be 3 for RGB or 1 for grey, got 4"
