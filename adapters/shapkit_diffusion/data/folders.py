"""Data sets that stay on disk: images in one folder, label maps in another, decoded when rows are asked for.

Files come from anywhere, so a picture's size is checked in its header before a pixel is decoded, only three
decoders are allowed to look at it, and whatever is wrong is reported in one line that names the file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shapkit._files import user_path

MAX_PIXELS = 64_000_000
"""Pixels that a picture may have unless the caller allows more."""

LABELS_FILE = "labels.json"
"""Name of the file that names the labels, in the folder of label maps."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Kinds of images read. 16-bit and float pictures are not among them: Pillow cuts their values off at 255."""

# Pillow knows some forty formats, one of which starts Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP")

Bytes = NDArray[np.uint8]


class StoredPicture(Protocol):
    """A picture that is no file of its own; its text names it."""

    def open(self) -> BinaryIO:
        """Its bytes."""
        ...


class Rows(Protocol):
    """Labelled images, in memory or not."""

    @property
    def label_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> tuple[Bytes, Bytes]: ...


class PairedPictures:
    """Images with a label map each, as pictures that are stored somewhere: how rows are read from them."""

    label_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    max_pixels: int

    def pictures(self, index: int) -> tuple[Path | StoredPicture, Path | StoredPicture]:
        """The image and the label map of a row."""
        raise NotImplementedError

    def rows(self, indices: Sequence[int]) -> tuple[Bytes, Bytes]:
        """uint8 images (n, channels, height, width) and uint8 labels (n, height, width), read and decoded now.

        Raises:
            ValueError: if a picture cannot be decoded, or a label map holds a value that has no name.
            IndexError: if there is no such row.
        """
        return stack_rows(self._row, indices, self.channels, self.size)

    def _row(self, index: int) -> tuple[Bytes, Bytes]:
        return paired_row(*self.pictures(index), self.label_names, self.size, self.channels, self.max_pixels)


@dataclass(frozen=True)
class ImageFolder(PairedPictures):
    """Images and label maps on disk; ``open_folder`` makes one from two folders.

    Args:
        image_paths: the images.
        label_paths: the label map of each image.
        label_names: what each label value is called.
        size: height and width of the rows in pixels.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture that is decoded.
    """

    image_paths: tuple[Path, ...]
    label_paths: tuple[Path, ...]
    label_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int = 3
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.image_paths)

    def pictures(self, index: int) -> tuple[Path, Path]:
        """The image and the label map of a row."""
        return self.image_paths[index], self.label_paths[index]


def open_folder(
    images: str | Path,
    labels: str | Path,
    label_names: Sequence[str] | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> ImageFolder:
    """The images of one folder with the label maps of the same stems in another, in order of their names.

    Opening reads the header of every file and no pixel. Label maps without an image and hidden files are
    passed over. Images are taken as they are stored: transparency and an orientation noted in EXIF have no
    effect.

    Args:
        images: folder of png, jpg, jpeg or webp images.
        labels: folder of png label maps of mode L or P, whose pixel values are the labels.
        label_names: what each label value is called; by default the list of names in ``labels.json`` among
            the label maps.
        size: height and width of the rows in pixels, one number for squares. Images that shrink are averaged
            over areas, those that grow are interpolated bicubically; label maps take the nearest pixel. By
            default nothing is resized, and all images must be of one size.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture to decode.

    Returns:
        ``ImageFolder``, whose ``rows`` gives uint8 images (n, channels, height, width) and uint8 labels
        (n, height, width).

    Raises:
        ValueError: in one line that names the file or folder, if a folder is absent or empty, an image has no
            label map or shares its stem with another, a file is unreadable, too large or of a size that does
            not fit, or the names are no list of 1 to 256 different names.

    >>> from tempfile import TemporaryDirectory
    >>> from shapkit_diffusion.data.faces import render_faces
    >>> with TemporaryDirectory() as folder:
    ...     write_folder(render_faces(3, size=16), folder)
    ...     pairs = open_folder(f"{folder}/images", f"{folder}/labels", size=8)
    ...     chosen, label_maps = pairs.rows([2, 0])
    >>> len(pairs), chosen.shape, label_maps.shape, pairs.label_names[1]
    (3, (2, 3, 8, 8), (2, 8, 8), 'skin')
    """
    images, labels = user_path(images), user_path(labels)
    check_channels(channels)
    names = checked_names(label_names, "label_names") if label_names is not None else names_in(labels)
    image_paths = files_by_stem(images, IMAGE_SUFFIXES)
    label_paths = files_by_stem(labels, (".png",))
    for stem, path in image_paths.items():
        if stem not in label_paths:
            raise ValueError(f"{path} has no label map: there is no {labels / (stem + '.png')}")
    pairs = [(path, label_paths[stem]) for stem, path in image_paths.items()]
    stored = _stored_size(pairs, must_agree=size is None, max_pixels=max_pixels)
    return ImageFolder(
        tuple(image for image, _ in pairs),
        tuple(label_map for _, label_map in pairs),
        names,
        stored if size is None else checked_size(size),
        channels,
        max_pixels,
    )


def write_folder(pairs: Rows, folder: str | Path, rows_at_once: int = 64) -> None:
    """Write labelled images as png files that ``open_folder(folder/images, folder/labels)`` reads back.

    It is worth doing once to a data set whose rows are slow to read, such as CelebAMask-HQ at a small size.
    The names of the labels go to ``folder/labels/labels.json``.

    Args:
        pairs: ``LabelledImages``, ``ImageFolder`` or anything else with ``rows``.
        folder: is made; must not hold anything yet.
        rows_at_once: how many rows are in memory at a time.

    Raises:
        ValueError: if the folder holds something.

    >>> from tempfile import TemporaryDirectory
    >>> from shapkit_diffusion.data.faces import render_faces
    >>> with TemporaryDirectory() as folder:
    ...     write_folder(render_faces(2, size=16), folder)
    ...     sorted(path.name for path in Path(folder).glob("*/*"))
    ['000000.png', '000000.png', '000001.png', '000001.png', 'labels.json']
    """
    folder = user_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already")
    images, labels = folder / "images", folder / "labels"
    for part in (images, labels):
        part.mkdir(parents=True)
    for start in range(0, len(pairs), rows_at_once):
        numbers = range(start, min(start + rows_at_once, len(pairs)))
        for number, image, label_map in zip(numbers, *pairs.rows(numbers), strict=True):
            picture_of(image).save(images / f"{number:06d}.png")
            Image.fromarray(label_map).save(labels / f"{number:06d}.png")
    (labels / LABELS_FILE).write_text(json.dumps(list(pairs.label_names)), encoding="utf-8")


def stack_rows(
    read: Callable[[int], tuple[Bytes, Bytes]], indices: Sequence[int], channels: int, size: tuple[int, int]
) -> tuple[Bytes, Bytes]:
    """What ``read`` gives, stacked: images (n, channels, height, width) and labels (n, height, width)."""
    images = np.empty((len(indices), channels, *size), np.uint8)
    labels = np.empty((len(indices), *size), np.uint8)
    for row, index in enumerate(indices):
        images[row], labels[row] = read(index)
    return images, labels


def paired_row(
    image_path: Path | StoredPicture,
    label_path: Path | StoredPicture,
    label_names: Sequence[str],
    size: tuple[int, int],
    channels: int,
    max_pixels: int,
) -> tuple[Bytes, Bytes]:
    """An image, uint8 (channels, height, width), and its label map, uint8 (height, width), decoded and resized.

    Raises:
        ValueError: if one cannot be decoded, they differ in size, or the map holds a value that has no name.
    """
    image = decode_picture(image_path, IMAGE_MODES, max_pixels)
    label_map = decode_picture(label_path, ("L", "P"), max_pixels)
    _check_same_size(label_path, _size_of(label_map), image_path, _size_of(image))
    highest = int(np.asarray(label_map).max())  # before resizing, which may skip the pixel that is wrong
    if highest >= len(label_names):
        last = len(label_names) - 1
        raise ValueError(f"{label_path} holds the label {highest}, but names exist for 0 to {last}")
    return image_bytes(image, channels, size), np.asarray(resized_nearest(label_map, size))


def picture_of(image: Bytes) -> Image.Image:
    """An image of bytes (channels, height, width) as Pillow has it."""
    return Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))


def header_size(path: Path | StoredPicture, max_pixels: int) -> tuple[int, int]:
    """Height and width of a picture, from its header.

    Raises:
        ValueError: if the file is no readable picture or has more than ``max_pixels``.
    """
    with _opened(path, max_pixels) as picture:
        return _size_of(picture)


def decode_picture(path: Path | StoredPicture, modes: Collection[str], max_pixels: int) -> Image.Image:
    """A picture of one of the given Pillow modes, decoded once its header has passed the checks.

    Raises:
        ValueError: if the file is no readable picture, has more than ``max_pixels`` or is of another mode.
    """
    with _opened(path, max_pixels) as picture:
        if picture.mode not in modes:
            raise ValueError(f"{path} must be of mode {', '.join(modes)}, but is of mode {picture.mode}")
        with _naming(path):
            picture.load()
    return picture


def image_bytes(picture: Image.Image, channels: int, size: tuple[int, int]) -> Bytes:
    """The picture in RGB or grey, resized, as uint8 (channels, height, width)."""
    picture = picture.convert("RGB" if channels == 3 else "L")
    if _size_of(picture) != size:
        height, width = size
        shrinks = height <= picture.height and width <= picture.width
        how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
        picture = picture.resize((width, height), how)
    return np.moveaxis(np.asarray(picture).reshape(*size, channels), -1, 0)


def resized_nearest(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at (height, width); every pixel is one of its own."""
    return picture.resize((size[1], size[0]), Image.Resampling.NEAREST)


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number for both or from the two.

    Raises:
        ValueError: if it is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be a positive number of pixels or (height, width), got {size}")
    return height, width


def check_channels(channels: int) -> None:
    """Raise a ValueError unless ``channels`` is 3 or 1."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 3 for RGB or 1 for grey, got {channels}")


def files_in(folder: Path) -> list[Path]:
    """The files of a folder by name, hidden ones left out.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _opened(path: Path | StoredPicture, max_pixels: int) -> Image.Image:
    with _naming(path), warnings.catch_warnings():
        # max_pixels is the limit, and says so in one line.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(path if isinstance(path, Path) else path.open(), formats=_FORMATS)
    width, height = picture.size
    if width * height > max_pixels:
        picture.close()
        raise ValueError(f"{path} has {width} x {height} pixels, which is more than max_pixels={max_pixels}")
    return picture


@contextmanager
def _naming(path: Path | StoredPicture) -> Iterator[None]:
    """Report what Pillow raises on a bad file as a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no readable PNG, JPEG or WebP picture") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has more pixels than Pillow's own limit allows: {error}") from error
    except Exception as error:  # on damaged files the decoders raise SyntaxError, struct.error and others
        raise ValueError(f"{path} is no readable PNG, JPEG or WebP picture: {error}") from error


def _size_of(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width


def _check_same_size(
    label_path: Path | StoredPicture,
    label_size: tuple[int, int],
    image_path: Path | StoredPicture,
    size: tuple[int, int],
) -> None:
    if label_size != size:
        raise ValueError(
            f"{label_path} has {label_size[1]} x {label_size[0]} pixels, but its image {image_path} has "
            f"{size[1]} x {size[0]}"
        )


def _stored_size(pairs: Sequence[tuple[Path, Path]], must_agree: bool, max_pixels: int) -> tuple[int, int]:
    """(height, width) of the first image, once every header has been read and fits."""
    first = header_size(pairs[0][0], max_pixels)
    for image_path, label_path in pairs:
        size = header_size(image_path, max_pixels)
        _check_same_size(label_path, header_size(label_path, max_pixels), image_path, size)
        if must_agree and size != first:
            raise ValueError(
                f"{image_path} has {size[1]} x {size[0]} pixels, but {pairs[0][0]} has "
                f"{first[1]} x {first[0]}: give a size to resize to"
            )
    return first


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files of a folder with one of these suffixes, by stem.

    Raises:
        ValueError: if there is none, or two share a stem.
    """
    found: dict[str, Path] = {}
    for path in files_in(folder):
        if path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise ValueError(f"{path} has the same stem as {found[path.stem]}: one label map for two images")
        found[path.stem] = path
    if not found:
        raise ValueError(f"{folder} holds no {', '.join(suffix[1:] for suffix in suffixes)} file")
    return found


def names_in(folder: Path) -> tuple[str, ...]:
    """The label names that ``labels.json`` in a folder lists; a ValueError if there is none, or it is damaged."""
    path = folder / LABELS_FILE
    if not path.is_file():
        raise ValueError(f"there is no {path}, so label_names must be given")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from error
    return checked_names(names, path)


def checked_names(names: object, source: object) -> tuple[str, ...]:
    """The names, if they are a list of 1 to 256 different ones; a ValueError that names their source otherwise."""
    whole = isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names)
    if not isinstance(names, list | tuple) or not whole or not 1 <= len(set(names)) == len(names) <= 256:
        raise ValueError(f"{source} must be a list of 1 to 256 different names")
    return tuple(names)
