"""Merging classes by name: the order of the labels must not matter, and no name is guessed at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shapkit.differentiable import Regions
from shapkit_diffusion.data import CELEBAMASK_LABELS, CONCEPT_OF_PART, FACE_LABELS, LabelledImages
from shapkit_diffusion.segmentation.classes import (
    ALIASES,
    BISENET_CLASSES,
    SEGFORMER_CLASSES,
    MergedImages,
    face_concepts,
    merged_labels,
)

# Sorted into concepts by hand, from the numbers of the published label maps.
CONCEPTS_OF_BISENET = {
    "skin": [1],
    "brows": [2, 3],
    "eyes": [4, 5, 6],
    "ears": [7, 8, 9],
    "nose": [10],
    "mouth": [11],
    "lips": [12, 13],
    "neck": [14, 15],
    "cloth": [16],
    "hair": [17],
    "hat": [18],
}
CONCEPTS_OF_SEGFORMER = {
    "skin": [1],
    "brows": [6, 7],
    "eyes": [3, 4, 5],
    "ears": [8, 9, 15],
    "nose": [2],
    "mouth": [10],
    "lips": [11, 12],
    "neck": [16, 17],
    "cloth": [18],
    "hair": [13],
    "hat": [14],
}


def test_concepts_of_both_published_orders() -> None:
    assert face_concepts(BISENET_CLASSES) == CONCEPTS_OF_BISENET
    assert face_concepts(SEGFORMER_CLASSES) == CONCEPTS_OF_SEGFORMER
    assert list(face_concepts(SEGFORMER_CLASSES)) == list(CELEBAMASK_LABELS[1:])  # the order decides ties of dilation
    assert set(BISENET_CLASSES) == set(SEGFORMER_CLASSES) == {"background", *CONCEPT_OF_PART}


def test_any_order_of_the_labels_gives_the_same_regions() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 19, (2, 12, 12), generator=generator)
    labels[:, 4:] = 0  # room to grow into
    expected = Regions.from_labels(labels, CONCEPTS_OF_BISENET, missing="allow", dilation=2)
    for _ in range(5):
        order = torch.randperm(19, generator=generator)  # the class that each label now stands for
        names = [BISENET_CLASSES[label] for label in order]
        regions = Regions.from_labels(order.argsort()[labels], face_concepts(names), missing="allow", dilation=2)
        assert regions.names == expected.names
        assert torch.equal(regions.masks, expected.masks)


def test_merged_labels_name_the_concept_of_every_class() -> None:
    for names in (BISENET_CLASSES, SEGFORMER_CLASSES):
        for name, label in zip(names, merged_labels(names), strict=True):
            assert CELEBAMASK_LABELS[label] == CONCEPT_OF_PART.get(name, "background")
    assert merged_labels(CELEBAMASK_LABELS).tolist() == list(range(12))  # merging twice changes nothing
    assert [CELEBAMASK_LABELS[label] for label in merged_labels(FACE_LABELS)] == list(FACE_LABELS)


def test_aliases_are_other_names_of_parts() -> None:
    assert set(ALIASES.values()) <= set(CONCEPT_OF_PART)
    assert not set(ALIASES) & {*CONCEPT_OF_PART, *CELEBAMASK_LABELS}
    assert face_concepts(["Left Eye", "right-eye", " Eyeglasses"]) == {"eyes": [0, 1, 2]}


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown class 'LABEL_3'"):
        face_concepts(["background", "skin", "nose", "LABEL_3"])
    with pytest.raises(ValueError, match="'Nose' stands there twice"):
        face_concepts(["Nose", "nose"])


def test_classes_go_into_other_labels_by_their_own_name_or_their_concept() -> None:
    labels = ("background", "skin", "hair", "brows", "eyes", "nose", "mouth")
    for name, label in zip(BISENET_CLASSES, merged_labels(BISENET_CLASSES, labels), strict=True):
        concept = CONCEPT_OF_PART.get(name, "background")
        assert labels[label] == (concept if concept in labels else "background")
    # Labels as fine as the classes keep them apart, whatever their order.
    assert [BISENET_CLASSES[label] for label in merged_labels(SEGFORMER_CLASSES, BISENET_CLASSES)] == list(
        SEGFORMER_CLASSES
    )
    with pytest.raises(ValueError, match="class 'eyes' could be any of the labels l_eye, r_eye"):
        merged_labels(["eyes"], ["background", "l_eye", "r_eye"])
    with pytest.raises(ValueError, match="must have a background"):
        merged_labels(["eyes"], ["eyes"])
    with pytest.raises(ValueError, match="unknown class 'rest'"):
        merged_labels(["eyes"], ["background", "rest"])


def test_given_label_maps_are_merged() -> None:
    labels = np.arange(19, dtype=np.uint8).reshape(1, 1, 19)
    given = LabelledImages(np.zeros((1, 3, 1, 19), np.uint8), labels, SEGFORMER_CLASSES)
    merged = MergedImages(given)
    images, concepts = merged.rows([0])
    assert len(merged) == 1 and images.shape == (1, 3, 1, 19) and concepts.dtype == np.uint8
    for concept, values in CONCEPTS_OF_SEGFORMER.items():
        assert np.flatnonzero(concepts == merged.label_names.index(concept)).tolist() == values
    with pytest.raises(ValueError, match="unknown class 'sky'"):
        MergedImages(LabelledImages(given.images, labels[:, :, :1] * 0 + np.zeros((1, 1, 19), np.uint8), ("sky",)))
