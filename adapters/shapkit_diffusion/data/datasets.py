"""Data sets of Hugging Face ``datasets``: tables on disk, mapped into memory and read row by row."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from shapkit_diffusion.data.folders import (
    MAX_PIXELS,
    PairedPictures,
    StoredPicture,
    check_channels,
    checked_names,
    checked_size,
)


class Table(Protocol):
    """What is used of ``datasets.Dataset``."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Cell:
    """A picture in a table."""

    content: bytes
    name: str

    def __str__(self) -> str:
        return self.name

    def open(self) -> io.BytesIO:
        """Its bytes."""
        return io.BytesIO(self.content)


@dataclass(frozen=True)
class ImageTable(PairedPictures):
    """Images and label maps in two columns of a table; ``open_dataset`` makes one.

    Args:
        table: whose rows hold pictures as they were stored, not decoded.
        image, labels: the columns.
        label_names: what each label value is called.
        size: height and width of the rows in pixels.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture that is decoded.
    """

    table: Table
    image: str
    labels: str
    label_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int = 3
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.table)

    def pictures(self, index: int) -> tuple[Path | StoredPicture, Path | StoredPicture]:
        """The image and the label map of a row."""
        record = self.table[int(index)]
        return picture_in(record, self.image, index), picture_in(record, self.labels, index)


def open_dataset(
    dataset: Table,
    label_names: Sequence[str],
    *,
    image: str = "image",
    labels: str = "labels",
    size: int | tuple[int, int],
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> ImageTable:
    """The images of a ``datasets.Dataset`` with their label maps, in its order; nothing but what is asked for is read.

    Pictures are decoded here, not by ``datasets``, once their header has passed the checks. A dataset that only
    streams (``IterableDataset``) has no rows to go back to: save it to disk, or write it into shards.

    Args:
        dataset: with two columns of pictures, which ``datasets.Image`` describes.
        label_names: what each value of the label maps is called.
        image: the column of images.
        labels: the column of label maps, png of mode L or P.
        size: height and width of the rows in pixels, one number for squares; how pictures are resized, ``open_folder``
            says.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture to decode.

    Raises:
        ValueError: if the dataset is empty or only streams, lacks a column, or the names are no list of 1 to 256
            different names.
    """
    check_channels(channels)
    names = checked_names(label_names, "label_names")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"dataset must have rows by number, got {type(dataset).__name__}: save it to disk first")
    if not len(dataset):
        raise ValueError("dataset must have a row at least, got none")
    columns = getattr(dataset, "column_names", None) or list(dataset[0])
    for column in (image, labels):
        if column not in columns:
            raise ValueError(f"dataset must have a column {column!r}, got {', '.join(map(repr, columns))}")
        dataset = _as_stored(dataset, column)
    return ImageTable(dataset, image, labels, names, checked_size(size), channels, max_pixels)


def picture_in(record: Mapping[str, Any], column: str, index: int) -> Path | StoredPicture:
    """The picture of a row, as it was stored.

    Raises:
        ValueError: if there is none.
    """
    name, value = f"row {index}, column {column!r}", record[column]
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        return Cell(bytes(value["bytes"]), name)
    if isinstance(value, Mapping) and value.get("path") is not None:
        return Path(value["path"])
    if isinstance(value, bytes):
        return Cell(value, name)
    if isinstance(value, Image.Image):
        content = io.BytesIO()
        value.save(content, "PNG")
        return Cell(content.getvalue(), name)
    raise ValueError(f"{name} must be a picture, got {type(value).__name__}")


def _as_stored(dataset: Any, column: str) -> Any:
    """The dataset with the pictures of a column left as they are stored, where it can say so."""
    features = getattr(dataset, "features", None)
    if not features or type(features[column]).__name__ != "Image":
        return dataset
    return dataset.cast_column(column, replace(features[column], decode=False))
