"""CelebAMask-HQ as it lies on disk: a jpg per face and a png per part, read as one label map of 11 concepts.

Lee, Liu, Wu and Luo, "MaskGAN: Towards Diverse and Interactive Facial Image Manipulation", CVPR 2020. It has
to be fetched from its authors, whose terms allow non-commercial research only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from shapkit._files import user_path
from shapkit_diffusion.data.folders import (
    IMAGE_MODES,
    MAX_PIXELS,
    Bytes,
    check_channels,
    checked_size,
    decode_picture,
    files_in,
    image_bytes,
    resized_nearest,
    stack_rows,
)

CONCEPT_OF_PART: Mapping[str, str] = MappingProxyType(
    {
        "skin": "skin",
        "l_brow": "brows",
        "r_brow": "brows",
        "l_eye": "eyes",
        "r_eye": "eyes",
        "eye_g": "eyes",
        "l_ear": "ears",
        "r_ear": "ears",
        "ear_r": "ears",
        "nose": "nose",
        "mouth": "mouth",
        "u_lip": "lips",
        "l_lip": "lips",
        "neck": "neck",
        "neck_l": "neck",
        "cloth": "cloth",
        "hair": "hair",
        "hat": "hat",
    }
)
"""Concept of each of the 18 parts, which stand in the order in which they are painted over one another."""

CELEBAMASK_LABELS = ("background", *dict.fromkeys(CONCEPT_OF_PART.values()))
"""Names of the labels 0..11: the background and the 11 concepts."""


@dataclass(frozen=True)
class CelebAMask:
    """Faces of CelebAMask-HQ on disk; ``open_celebamask`` makes one from the data set's folder.

    Args:
        root: the data set's folder.
        numbers: number of the face in each row.
        size: height and width of the rows in pixels.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture that is decoded.
    """

    root: Path
    numbers: tuple[int, ...]
    size: tuple[int, int]
    channels: int = 3
    max_pixels: int = MAX_PIXELS

    @property
    def label_names(self) -> tuple[str, ...]:
        """``CELEBAMASK_LABELS``."""
        return CELEBAMASK_LABELS

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, indices: Sequence[int]) -> tuple[Bytes, Bytes]:
        """uint8 images (n, channels, height, width) and uint8 labels (n, height, width), decoded now.

        Raises:
            ValueError: if a file cannot be decoded or is too large, a part has not its image's shape, or a
                face has no parts.
            IndexError: if there is no such row.
        """
        return stack_rows(self._row, indices, self.channels, self.size)

    def _row(self, index: int) -> tuple[Bytes, Bytes]:
        number = self.numbers[index]
        path = self.root / "CelebA-HQ-img" / f"{number}.jpg"
        image = decode_picture(path, IMAGE_MODES, self.max_pixels)
        return image_bytes(image, self.channels, self.size), self._labels(number, path, image.size)

    def _labels(self, number: int, image_path: Path, image_size: tuple[int, int]) -> Bytes:
        folder = self.root / "CelebAMask-HQ-mask-anno" / f"{number // 2000}"
        labels = np.zeros(self.size, np.uint8)
        n_parts = 0
        for part, concept in CONCEPT_OF_PART.items():
            path = folder / f"{number:05d}_{part}.png"
            if not path.is_file():
                continue
            labels[self._covered(path, image_path, image_size)] = CELEBAMASK_LABELS.index(concept)
            n_parts += 1
        if not n_parts:
            raise ValueError(f"{image_path} has no label map: there is no {folder}/{number:05d}_*.png")
        return labels

    def _covered(self, path: Path, image_path: Path, image_size: tuple[int, int]) -> np.ndarray:
        """Which pixels of the row a part covers, bool (height, width)."""
        part = decode_picture(path, IMAGE_MODES, self.max_pixels)
        # Parts are published at half the resolution of the images, so only the shape can be compared.
        if part.width * image_size[1] != part.height * image_size[0]:
            raise ValueError(
                f"{path} has {part.width} x {part.height} pixels, which is not the shape of its image "
                f"{image_path} with {image_size[0]} x {image_size[1]}"
            )
        # Taking the nearest pixel first and the threshold after is the same as the reverse, and cheaper.
        covered: np.ndarray = np.asarray(resized_nearest(part, self.size).convert("L")) > 127
        return covered


def open_celebamask(
    root: str | Path, size: int | tuple[int, int] = 256, *, channels: int = 3, max_pixels: int = MAX_PIXELS
) -> CelebAMask:
    """The faces of CelebAMask-HQ with their 18 parts merged into 11 concepts, in order of their numbers.

    A face takes up to 19 files, so reading is slow; ``write_folder`` keeps the rows at the size at hand.

    Args:
        root: the folder that holds ``CelebA-HQ-img`` and ``CelebAMask-HQ-mask-anno``; any number of the
            30,000 faces will do.
        size: height and width of the rows in pixels, one number for squares. Images that shrink are averaged
            over areas, those that grow are interpolated bicubically; parts take the nearest pixel.
        channels: 3 for RGB, 1 for grey.
        max_pixels: the largest picture to decode.

    Returns:
        ``CelebAMask``, whose ``rows`` gives uint8 images (n, channels, height, width) and uint8 labels
        (n, height, width), the values of which index ``CELEBAMASK_LABELS``.

    Raises:
        ValueError: if a folder is absent, there is no image, or ``size`` or ``channels`` is out of range.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     (Path(folder) / "CelebA-HQ-img").mkdir()
    ...     (Path(folder) / "CelebAMask-HQ-mask-anno" / "0").mkdir(parents=True)
    ...     Image.new("RGB", (64, 64), "pink").save(f"{folder}/CelebA-HQ-img/7.jpg")
    ...     Image.new("L", (32, 32), 255).save(f"{folder}/CelebAMask-HQ-mask-anno/0/00007_hat.png")
    ...     images, labels = open_celebamask(folder, size=16).rows([0])
    >>> images.shape, CELEBAMASK_LABELS[labels[0, 8, 8]]
    ((1, 3, 16, 16), 'hat')
    """
    root = user_path(root)
    check_channels(channels)
    if not (root / "CelebAMask-HQ-mask-anno").is_dir():
        raise ValueError(f"there is no folder {root / 'CelebAMask-HQ-mask-anno'}")
    images = root / "CelebA-HQ-img"
    matches = (re.fullmatch(r"(0|[1-9][0-9]{0,8})\.jpg", path.name) for path in files_in(images))
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        raise ValueError(f"{images} holds no image called by a number, such as 0.jpg")
    return CelebAMask(root, tuple(numbers), checked_size(size), channels, max_pixels)
