"""Label maps made by a face parser, written where ``open_folder`` reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from shapkit._files import user_path
from shapkit_diffusion.data.folders import (
    IMAGE_MODES,
    IMAGE_SUFFIXES,
    LABELS_FILE,
    MAX_PIXELS,
    decode_picture,
    files_by_stem,
    header_size,
    image_bytes,
)
from shapkit_diffusion.runs import write_json
from shapkit_diffusion.segmentation.bisenet import load_bisenet
from shapkit_diffusion.segmentation.parsers import NetworkParser, Parser
from shapkit_diffusion.segmentation.segformer import load_segformer
from shapkit_diffusion.segmentation.small import load_parser


def open_parser(spec: str, device: str | torch.device = "cpu") -> Parser:
    """The face parser that ``spec`` names, on a device; ``MergedParser`` makes concepts of its classes.

    Args:
        spec: ``small`` (the shipped one, for rendered faces), ``bisenet:FILE`` or ``segformer:FOLDER``.
        device: of the network.

    Raises:
        ImportError: if transformers is needed and not installed.
        ValueError: if the spec names no known parser, or its files cannot be used.

    >>> open_parser("small").label_names[:3]
    ('background', 'skin', 'hair')
    """
    kind, _, path = spec.partition(":")
    if kind == "small" and not path:
        return load_parser().to(device)
    if kind == "bisenet" and path:
        return _on(device, load_bisenet(path))
    if kind == "segformer" and path:
        return _on(device, load_segformer(path))
    raise ValueError(f"parser must be small, bisenet:FILE or segformer:FOLDER, got {spec!r}")


def write_label_maps(
    images: str | Path,
    parser: Parser,
    folder: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a label map of every image of a folder, as ``open_folder(images, folder)`` reads them.

    Each is a png of the image's stem and size; the names of the labels go to ``labels.json``, after all maps, so that
    a folder with that file is complete.

    Args:
        images: folder of png, jpg, jpeg or webp images.
        parser: with at most 256 labels; ``MergedParser`` of another for the 11 concepts of a face.
        folder: is made, unless it exists; must hold no label maps yet.
        max_pixels: the largest picture to decode.
        progress: called as ``progress(done, total)`` in images.

    Raises:
        ValueError: if there is no image, two share a stem, one is unreadable or too large, the parser has too many
            labels, or the folder holds label maps already.

    >>> from tempfile import TemporaryDirectory
    >>> from shapkit_diffusion.data import open_folder, render_faces, write_folder
    >>> with TemporaryDirectory() as place:
    ...     write_folder(render_faces(2, size=32), f"{place}/given")
    ...     write_label_maps(f"{place}/given/images", open_parser("small"), f"{place}/parsed")
    ...     _, given = open_folder(f"{place}/given/images", f"{place}/given/labels").rows([0, 1])
    ...     _, parsed = open_folder(f"{place}/given/images", f"{place}/parsed").rows([0, 1])
    >>> bool((given == parsed).mean() > 0.9)
    True
    """
    if len(parser.label_names) > 256:
        raise ValueError(f"label maps hold 256 labels, but the parser has {len(parser.label_names)}")
    folder = user_path(folder)
    paths = files_by_stem(user_path(images), IMAGE_SUFFIXES)
    if folder.is_dir() and any(path.suffix == ".png" or path.name == LABELS_FILE for path in folder.iterdir()):
        raise ValueError(f"{folder} holds label maps already")
    for path in paths.values():  # a header is read at once; what it says would else come to light after hours
        header_size(path, max_pixels)
    folder.mkdir(parents=True, exist_ok=True)
    for done, (stem, path) in enumerate(paths.items(), start=1):
        picture = decode_picture(path, IMAGE_MODES, max_pixels)
        pixels = torch.tensor(image_bytes(picture, 3, (picture.height, picture.width)))
        labels = parser.parse(pixels[None].float() / 127.5 - 1)[0]
        Image.fromarray(labels.cpu().numpy().astype(np.uint8)).save(folder / f"{stem}.png")
        if progress is not None:
            progress(done, len(paths))
    write_json(folder / LABELS_FILE, list(parser.label_names))


def _on(device: str | torch.device, parser: NetworkParser) -> NetworkParser:
    parser.network.to(device)
    return parser
