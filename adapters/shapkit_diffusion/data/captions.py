"""Captions of rendered faces, from the attributes that the faces were drawn with.

A caption is made of one phrase a concept ("narrow blue eyes"), so that a model trained on captions can be asked for
another mouth by another phrase and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from shapkit_diffusion.data.faces import Attribute, draw_attribute

# The words of an attribute lie evenly spaced over its range; those of a tone are its palette's.
_WORDS: Mapping[str, tuple[tuple[Attribute, tuple[str, ...]], ...]] = {
    "hair": (
        (Attribute.HAIR_LENGTH, ("short", "long")),
        (Attribute.HAIR_TONE, ("black", "brown", "chestnut", "blond", "red")),
    ),
    "skin": ((Attribute.SKIN_TONE, ("pale", "fair", "tan", "brown", "dark")),),
    "eyes": (
        (Attribute.EYE_OPENING, ("narrow", "wide")),
        (Attribute.IRIS_TONE, ("brown", "blue", "green", "grey", "amber")),
    ),
    "nose": (
        (Attribute.NOSE_WIDTH, ("narrow", "broad")),
        (Attribute.NOSE_REDNESS, ("pale", "red")),
    ),
    "mouth": (
        (Attribute.MOUTH_OPENING, ("closed", "open")),
        (Attribute.SMILE, ("sad", "smiling")),
        (Attribute.LIP_TONE, ("pink", "red", "coral", "plum", "brown")),
    ),
}

CAPTIONED = tuple(_WORDS)
"""The concepts that captions speak of."""

Phrases = dict[str, str]
"""What a caption says of each concept: the concept's name and its phrase."""


def face_phrases(count: int, seed: int = 0, first: int = 0) -> list[Phrases]:
    """What there is to say of the faces that ``render_faces`` draws with the same seed, one entry a face.

    Every attribute is called by the nearest of its words.

    Args:
        count, seed, first: as in ``render_faces``; captions do not depend on the size.

    >>> face_phrases(1, seed=7)[0]["eyes"]
    'wide blue eyes'
    """
    said: list[Phrases] = [{} for _ in range(count)]
    for concept, attributes in _WORDS.items():
        columns = []
        for attribute, words in attributes:
            nearest = np.rint(draw_attribute(attribute, count, seed, first) * (len(words) - 1)).astype(int)
            columns.append([words[index] for index in nearest])
        for phrases, chosen in zip(said, zip(*columns, strict=True), strict=True):
            phrases[concept] = " ".join((*chosen, concept))
    return said


def caption(phrases: Phrases) -> str:
    """The caption that says these phrases; the empty one if there are none.

    >>> caption({"eyes": "narrow blue eyes", "nose": "broad red nose"})
    'a face with narrow blue eyes, broad red nose'
    """
    return "a face with " + ", ".join(phrases.values()) if phrases else ""


def phrases_for(concept: str) -> tuple[str, ...]:
    """Everything that captions can say of a concept.

    Raises:
        ValueError: if captions do not speak of it.

    >>> phrases_for("nose")
    ('narrow pale nose', 'narrow red nose', 'broad pale nose', 'broad red nose')
    """
    if concept not in _WORDS:
        raise ValueError(f"captions speak of {', '.join(CAPTIONED)}, got {concept!r}")
    words = (choices for _, choices in _WORDS[concept])
    return tuple(" ".join((*chosen, concept)) for chosen in product(*words))
