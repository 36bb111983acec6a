"""Data sets larger than memory, or than a folder can hold: images and label maps in tar files, as WebDataset has them.

A sample is the members of a tar file that share a name up to the first dot: ``000001.jpg`` and ``000001.labels.png``.
The files are not streamed but read by place: opening goes through the headers once and keeps where each picture is, 40
bytes a sample. So training shuffles over all of the data, each process reads its own samples alone, and a run that is
resumed reads what it would have read.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shapkit._files import user_path
from shapkit_diffusion.data.folders import (
    IMAGE_SUFFIXES,
    LABELS_FILE,
    MAX_PIXELS,
    PairedPictures,
    Rows,
    check_channels,
    checked_names,
    checked_size,
    files_in,
    names_in,
    picture_of,
)

LABELS_SUFFIX = ".labels.png"


@dataclass(frozen=True)
class Member:
    """A picture in a tar file."""

    shard: Path
    offset: int
    size: int

    def __str__(self) -> str:
        """The file's name and, as far as its last header tells, the member's."""
        with self.shard.open("rb") as file:
            file.seek(self.offset - tarfile.BLOCKSIZE)
            name = file.read(100).split(b"\0", 1)[0].decode("utf-8", "replace")
        return f"{self.shard}:{name}"

    def open(self) -> io.BytesIO:
        """Its bytes."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


@dataclass(frozen=True)
class ImageShards(PairedPictures):
    """Images and label maps in tar files; ``open_shards`` makes one.

    Args:
        shard_paths: the tar files.
        places: int64 (n, 5): of each sample the number of its file, then offset and size of the image and of the label
            map in it.
        label_names: what each label value is called.
        size: height and width of the rows in pixels.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture that is decoded.
    """

    shard_paths: tuple[Path, ...]
    places: NDArray[np.int64]
    label_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int = 3
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.places)

    def pictures(self, index: int) -> tuple[Member, Member]:
        """The image and the label map of a row."""
        shard, *places = self.places[index].tolist()
        path = self.shard_paths[shard]
        return Member(path, *places[:2]), Member(path, *places[2:])


def open_shards(
    shards: str | Path | Sequence[str | Path],
    label_names: Sequence[str] | None = None,
    *,
    size: int | tuple[int, int],
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    labels_suffix: str = LABELS_SUFFIX,
) -> ImageShards:
    """The images of tar files with their label maps, in the order of the files and of their members.

    Opening reads the headers of the tar files' members and no picture. Members that are neither an image nor a label
    map (captions, say) are passed over, and so are label maps without an image.

    Args:
        shards: a folder of ``.tar`` files, or the files. Compressed ones cannot be read by place, and are refused.
        label_names: what each label value is called; by default the list of names in ``labels.json`` in the folder.
        size: height and width of the rows in pixels, one number for squares; how pictures are resized, ``open_folder``
            says.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture to decode.
        labels_suffix: what a label map is called after its sample's name: a png of mode L or P.

    Raises:
        ValueError: in one line that names the file, if there is no tar file, one is no readable tar file or compressed,
            an image has no label map or a sample two images, or the names are no list of 1 to 256 different names.

    >>> from tempfile import TemporaryDirectory
    >>> from shapkit_diffusion.data.faces import render_faces
    >>> with TemporaryDirectory() as folder:
    ...     write_shards(render_faces(5, size=16), folder, rows_per_shard=2)
    ...     shards = open_shards(folder, size=8)
    ...     images, label_maps = shards.rows([4, 0])
    >>> len(shards), len(shards.shard_paths), images.shape, label_maps.shape
    (5, 3, (2, 3, 8, 8), (2, 8, 8))
    """
    check_channels(channels)
    folder = user_path(shards) if isinstance(shards, str | Path) else None
    if folder is not None and folder.is_dir():
        paths = tuple(path for path in files_in(folder) if path.suffix == ".tar")
    else:
        paths = (folder,) if folder is not None else tuple(map(user_path, shards))  # type: ignore[arg-type]
    if not paths:
        raise ValueError(f"shards must be a folder of .tar files, or some of them: {shards!r} holds none")
    names = checked_names(label_names, "label_names") if label_names is not None else names_in(paths[0].parent)
    found = [_places_in(path, number, labels_suffix) for number, path in enumerate(paths)]
    places = np.concatenate(found)
    if not len(places):
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise ValueError(f"{paths[0]} and {len(paths) - 1} more hold no {kinds} member")
    return ImageShards(paths, places, names, checked_size(size), channels, max_pixels)


def write_shards(pairs: Rows, folder: str | Path, rows_per_shard: int = 4096) -> None:
    """Write labelled images as tar files that ``open_shards(folder)`` reads back, and WebDataset, too.

    Args:
        pairs: ``LabelledImages``, ``ImageFolder`` or anything else with ``rows``.
        folder: is made; must not hold anything yet.
        rows_per_shard: samples in a file, each written aside and moved in place when it is whole.

    Raises:
        ValueError: if the folder holds something.
    """
    folder = user_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already")
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(pairs), rows_per_shard)):
        partial = folder / f".{number:06d}.partial"
        with tarfile.open(partial, "w") as archive:
            for row in range(start, min(start + rows_per_shard, len(pairs))):
                images, labels = pairs.rows([row])
                for suffix, picture in ((".png", picture_of(images[0])), (LABELS_SUFFIX, Image.fromarray(labels[0]))):
                    _add(archive, f"{row:08d}{suffix}", picture)
        partial.rename(folder / f"{number:06d}.tar")
    (folder / LABELS_FILE).write_text(json.dumps(list(pairs.label_names)), encoding="utf-8")


def _add(archive: tarfile.TarFile, name: str, picture: Image.Image) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    header = tarfile.TarInfo(name)
    header.size = content.tell()
    content.seek(0)
    archive.addfile(header, content)


def _places_in(path: Path, number: int, labels_suffix: str) -> NDArray[np.int64]:
    """Where the pictures of a tar file are, (n, 5)."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, tuple[int, int]] = {}
    for name, place in _members(path):
        stem, _, rest = os.path.basename(name).partition(".")
        key, suffix = os.path.join(os.path.dirname(name), stem), f".{rest}"
        kind = labels if suffix == labels_suffix else images if suffix.lower() in IMAGE_SUFFIXES else None
        if kind is None:
            continue
        if key in kind:
            raise ValueError(f"{path}:{name} is the second {'label map' if kind is labels else 'image'} of {key}")
        kind[key] = place
    for key in images:
        if key not in labels:
            raise ValueError(f"{path}:{key} has no label map: there is no member {key}{labels_suffix}")
    rows = [(number, *place, *labels[key]) for key, place in images.items()]
    return np.array(rows, dtype=np.int64).reshape(-1, 5)


def _members(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names of a tar file's files, and where their contents begin and how long they are."""
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:  # uncompressed alone: what is compressed has no places
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or all headers would be kept
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > length:
                    raise ValueError(f"{path} is cut off: {member.name} goes beyond its end")
                yield member.name, (member.offset_data, member.size)
    except (tarfile.TarError, OSError, UnicodeError) as error:
        raise ValueError(f"{path} is no readable uncompressed tar file: {error}") from error
