"""Captions say what is drawn: the words are checked against the pixels of the faces."""

from __future__ import annotations

import numpy as np
import pytest

from shapkit_diffusion.data import FACE_LABELS, captions, faces, render_faces
from shapkit_diffusion.data.captions import CAPTIONED, caption, face_phrases, phrases_for

COUNT = 600


@pytest.fixture(scope="module")
def rendered() -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and labels, large enough for an iris to have pixels of its own."""
    pictures = render_faces(COUNT, 64, seed=5)
    return pictures.images / 255.0, pictures.labels


def said(concept: str, word: str) -> np.ndarray:
    """Whose phrase for the concept has the word."""
    return np.array([word in phrases[concept].split() for phrases in face_phrases(COUNT, seed=5)])


def clearly_more(high: np.ndarray, low: np.ndarray) -> bool:
    """Whether the mean is higher by five standard errors, which happens to equal means once in 3 million."""
    error = np.sqrt(high.var() / len(high) + low.var() / len(low))
    return bool(high.mean() - low.mean() > 5 * error)


def areas(labels: np.ndarray, concept: str) -> np.ndarray:
    return (labels == FACE_LABELS.index(concept)).sum(axis=(1, 2))


def colours(rendered: tuple[np.ndarray, np.ndarray], concept: str) -> np.ndarray:
    """The mean colour of each face's concept, (n, 3)."""
    images, labels = rendered
    inside = labels == FACE_LABELS.index(concept)
    return (images * inside[:, None]).sum(axis=(2, 3)) / inside.sum(axis=(1, 2))[:, None]


@pytest.mark.parametrize(
    ("concept", "large", "small"),
    [("hair", "long", "short"), ("eyes", "wide", "narrow"), ("nose", "broad", "narrow"), ("mouth", "open", "closed")],
)
def test_words_of_size(rendered: tuple[np.ndarray, np.ndarray], concept: str, large: str, small: str) -> None:
    assert (said(concept, large) ^ said(concept, small)).all()
    found = areas(rendered[1], concept)
    assert clearly_more(found[said(concept, large)], found[said(concept, small)])


def test_words_of_tone_are_the_nearest_in_the_palette() -> None:
    """Drawn with the palette's own entries, a face has the word's colour exactly."""
    draw = faces._Draw(5, np.arange(COUNT))
    for concept, attribute, palette in (
        ("hair", faces.Attribute.HAIR_TONE, faces._HAIR_TONES),
        ("skin", faces.Attribute.SKIN_TONE, faces._SKIN_TONES),
        ("eyes", faces.Attribute.IRIS_TONE, faces._IRIS_TONES),
        ("mouth", faces.Attribute.LIP_TONE, faces._LIP_TONES),
    ):
        words = dict(captions._WORDS[concept])[attribute]
        assert len(words) == len(palette)
        tones = draw.tone(attribute, palette)[:, :, 0, 0]
        # On the way between neighbours a colour is at most half their distance from the nearer one.
        steps = np.linalg.norm(np.diff(palette, axis=0), axis=1)
        for number, word in enumerate(words):
            reach = max(steps[max(number - 1, 0) : number + 1]) / 2 + 1e-6
            drawn = tones[[word == phrases[concept].split()[-2] for phrases in face_phrases(COUNT, seed=5)]]
            assert len(drawn) > 0
            assert np.linalg.norm(drawn - palette[number], axis=1).max() <= reach


def test_words_of_colour_show_in_the_pixels(rendered: tuple[np.ndarray, np.ndarray]) -> None:
    hair = colours(rendered, "hair").mean(axis=1)
    assert clearly_more(hair[said("hair", "blond")], hair[said("hair", "chestnut")])
    assert clearly_more(hair[said("hair", "chestnut")], hair[said("hair", "black")])
    red, green, blue = colours(rendered, "nose").T
    redness = red / (red + green + blue)
    assert clearly_more(redness[said("nose", "red")], redness[said("nose", "pale")])
    green, closed = colours(rendered, "mouth")[:, 1], said("mouth", "closed")  # no teeth
    assert clearly_more(green[closed & said("mouth", "coral")], green[closed & said("mouth", "red")])


def test_smiling_mouths_have_raised_corners(rendered: tuple[np.ndarray, np.ndarray]) -> None:
    labels = rendered[1] == FACE_LABELS.index("mouth")
    columns = labels.any(axis=1)
    heights = (labels * np.arange(64)[:, None]).sum(axis=1) / np.maximum(labels.sum(axis=1), 1)
    first, last = columns.argmax(axis=1), 63 - columns[:, ::-1].argmax(axis=1)
    rows = np.arange(COUNT)
    corners = (heights[rows, first] + heights[rows, last]) / 2
    middle = heights[rows, (first + last) // 2]
    sag = middle - corners  # rows count downwards
    assert clearly_more(sag[said("mouth", "smiling")], sag[said("mouth", "sad")])
    assert sag[said("mouth", "smiling")].mean() > 0


def test_a_caption_depends_on_the_seed_and_the_number_alone() -> None:
    whole = face_phrases(50, seed=2)
    assert face_phrases(10, seed=2, first=40) == whole[40:]
    assert face_phrases(50, seed=3) != whole


def test_every_phrase_is_one_of_those_for_its_concept_and_all_occur() -> None:
    everybody = face_phrases(4000, seed=1)
    for concept in CAPTIONED:
        assert {phrases[concept] for phrases in everybody} == set(phrases_for(concept))


def test_captions() -> None:
    assert caption({}) == ""
    text = caption(face_phrases(1, seed=0)[0])
    assert text.startswith("a face with ")
    assert [part.split()[-1] for part in text.split(", ")] == list(CAPTIONED)
    with pytest.raises(ValueError, match="captions speak of hair, skin, eyes, nose, mouth, got 'brows'"):
        phrases_for("brows")
