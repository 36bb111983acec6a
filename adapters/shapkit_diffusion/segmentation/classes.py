"""Classes of face parsers merged into the 11 concepts of a face: by name, as every parser has an order of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from shapkit_diffusion.data.celebamask import CELEBAMASK_LABELS, CONCEPT_OF_PART
from shapkit_diffusion.data.labelled import Images

BISENET_CLASSES = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eye_g",
    "l_ear",
    "r_ear",
    "ear_r",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "neck_l",
    "cloth",
    "hair",
    "hat",
)
"""Names of the labels 0..18 of the published BiSeNet face parsers (zllrunning/face-parsing.PyTorch)."""

SEGFORMER_CLASSES = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
"""Names of the labels 0..18 of the SegFormer ``jonathandinu/face-parsing``; loading reads them from its files."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "left_brow": "l_brow",
        "right_brow": "r_brow",
        "left_eyebrow": "l_brow",
        "right_eyebrow": "r_brow",
        "left_eye": "l_eye",
        "right_eye": "r_eye",
        "eyeglasses": "eye_g",
        "glasses": "eye_g",
        "left_ear": "l_ear",
        "right_ear": "r_ear",
        "earring": "ear_r",
        "inner_mouth": "mouth",
        "upper_lip": "u_lip",
        "lower_lip": "l_lip",
        "necklace": "neck_l",
        "clothes": "cloth",
        "clothing": "cloth",
    }
)
"""Other names in use for the parts of CelebAMask-HQ."""

# A class may be a part, or a concept as a whole, as in label maps that are merged already.
_CONCEPT_OF_CLASS = {name: name for name in CELEBAMASK_LABELS} | dict(CONCEPT_OF_PART)
_CONCEPT_OF_CLASS |= {alias: CONCEPT_OF_PART[part] for alias, part in ALIASES.items()}


def merged_labels(class_names: Sequence[str], label_names: Sequence[str] = CELEBAMASK_LABELS) -> NDArray[np.uint8]:
    """The label in ``label_names`` of each class, uint8 (n_classes,): ``merged_labels(names)[label_map]``.

    Names are compared in lower case, with blanks and hyphens taken for underscores. A class takes the label of its own
    name, or else the one of its concept; one that has neither is background.

    Args:
        class_names: what each label value is called, in the parser's order: parts of CelebAMask-HQ, their
            ``ALIASES``, concepts, or background.
        label_names: what the labels are to be, out of the same names, the background among them.

    Raises:
        ValueError: if a name is unknown or stands twice, there is no background, or a class could take several labels.

    >>> merged_labels(["background", "l_lip", "Upper lip", "hat"]).tolist()
    [0, 7, 7, 11]
    >>> merged_labels(["background", "l_lip", "Upper lip", "hat"], ["background", "skin", "lips"]).tolist()
    [0, 2, 2, 0]
    """
    classes, labels = _plain(class_names), _plain(label_names)
    if "background" not in labels:
        raise ValueError(f"label_names must have a background for what is none of them, got {', '.join(label_names)}")
    concepts = [_CONCEPT_OF_CLASS[label] for label in labels]
    found = []
    for name, as_given in zip(classes, class_names, strict=True):
        fits = [label for label, concept in enumerate(concepts) if concept == _CONCEPT_OF_CLASS[name]]
        if name not in labels and len(fits) > 1:
            several = ", ".join(label_names[label] for label in fits)
            raise ValueError(f"class {as_given!r} could be any of the labels {several}: it cannot be told which")
        found.append(labels.index(name) if name in labels else fits[0] if fits else labels.index("background"))
    return np.array(found, np.uint8)


def _plain(names: Sequence[str]) -> list[str]:
    """Names in one spelling, known and different from one another."""
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in names]
    for name, as_given in zip(plain, names, strict=True):
        if name not in _CONCEPT_OF_CLASS:
            raise ValueError(
                f"unknown class {as_given!r}: classes are merged by name into the concepts of a face, so each must be "
                f"a part ({', '.join(BISENET_CLASSES)}), a concept ({', '.join(CELEBAMASK_LABELS[1:])}) or an alias"
            )
        if plain.count(name) > 1:
            raise ValueError(f"class_names must differ from one another, but {as_given!r} stands there twice")
    return plain


def face_concepts(class_names: Sequence[str]) -> dict[str, list[int]]:
    """The label values of each of the 11 concepts, as ``Regions.from_labels`` takes them.

    The concepts of the paper (skin, brows, eyes with glasses, ears with earrings, nose, mouth, lips, neck with
    necklace, cloth, hair, hat), in its order; one that no class belongs to is left out. The background belongs to
    none: it is what ``Regions`` calls the rest.

    Args:
        class_names: what each label value is called, in the parser's order; see ``merged_labels``.

    Raises:
        ValueError: if a name is unknown or stands twice.

    >>> face_concepts(["background", "nose", "r_eye", "hair", "l_eye"])
    {'eyes': [2, 4], 'nose': [1], 'hair': [3]}
    """
    concept_of = merged_labels(class_names)
    concepts = {
        concept: np.flatnonzero(concept_of == label).tolist()
        for label, concept in enumerate(CELEBAMASK_LABELS)
        if label > 0
    }
    return {concept: labels for concept, labels in concepts.items() if labels}


@dataclass(frozen=True)
class MergedImages:
    """A data set whose labels are merged by name into ``CELEBAMASK_LABELS``, for given maps of the 19 classes.

    Args:
        images: the data set.

    Raises:
        ValueError: if one of its label names is unknown or stands twice.

    >>> from shapkit_diffusion.data import LabelledImages
    >>> labels = np.array([[[0, 1, 2]]], np.uint8)
    >>> given = LabelledImages(np.zeros((1, 3, 1, 3), np.uint8), labels, ("hat", "l_eye", "r_eye"))
    >>> [CELEBAMASK_LABELS[label] for label in MergedImages(given).rows([0])[1].flatten()]
    ['hat', 'eyes', 'eyes']
    """

    images: Images

    def __post_init__(self) -> None:
        merged_labels(self.images.label_names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """``CELEBAMASK_LABELS``."""
        return CELEBAMASK_LABELS

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """uint8 images (n, channels, height, width) and uint8 labels (n, height, width)."""
        images, labels = self.images.rows(indices)
        return images, merged_labels(self.images.label_names)[labels]
