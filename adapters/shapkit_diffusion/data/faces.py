"""Rendered faces: colour pictures of faces with an exact label for every pixel, in any number, at any size.

They stand in for photographs where nothing can be downloaded, and they make locality exactly measurable:
which pixel belongs to the mouth is known, not estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from shapkit.randomness import counter_uniform
from shapkit_diffusion.data.labelled import LabelledImages

FACE_LABELS = ("background", "skin", "hair", "brows", "eyes", "nose", "mouth")
"""Names of the labels 0..6 of a rendered face."""


class Attribute(IntEnum):
    """What can be said of a rendered face in words; the values name the uniform draws, see ``draw_attribute``."""

    SKIN_TONE = 9
    HAIR_TONE = 10
    HAIR_LENGTH = 14
    EYE_OPENING = 24
    IRIS_TONE = 27
    NOSE_WIDTH = 34
    NOSE_REDNESS = 36
    SMILE = 42
    MOUTH_OPENING = 44
    LIP_TONE = 45


# float32 throughout; NumPy's stubs lose track of that where Python numbers take part.
Array = NDArray[np.floating]
_Bound = Array | float

_SKIN_TONES = np.array(
    [[0.98, 0.85, 0.75], [0.93, 0.75, 0.62], [0.82, 0.62, 0.47], [0.65, 0.45, 0.32], [0.45, 0.30, 0.22]],
    np.float32,
)
_HAIR_TONES = np.array(
    [[0.10, 0.08, 0.08], [0.28, 0.17, 0.10], [0.50, 0.30, 0.14], [0.85, 0.68, 0.36], [0.62, 0.24, 0.12]],
    np.float32,
)
_IRIS_TONES = np.array(
    [[0.25, 0.14, 0.08], [0.20, 0.42, 0.70], [0.22, 0.48, 0.26], [0.42, 0.45, 0.50], [0.55, 0.36, 0.12]],
    np.float32,
)
_LIP_TONES = np.array(
    [[0.80, 0.42, 0.42], [0.72, 0.20, 0.26], [0.90, 0.52, 0.50], [0.55, 0.16, 0.30], [0.66, 0.36, 0.30]],
    np.float32,
)


@dataclass(frozen=True)
class _Draw:
    """Uniform draws for a run of faces: attribute ``j`` of face ``i`` depends on seed, ``i`` and ``j``.

    Attributes in ``anew`` have the values given there, (n_faces,) in [0, 1).
    """

    seed: int
    faces: NDArray[np.int64]
    anew: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)

    def uniform(self, attribute: int) -> NDArray[np.float64]:
        """Where each face lies in the attribute's range, in [0, 1), (n_faces,)."""
        found = self.anew.get(attribute)
        return counter_uniform(self.seed, self.faces, attribute) if found is None else found

    def between(self, attribute: int, low: float, high: float) -> Array:
        """Values in [low, high), shape (n_faces, 1, 1), ready to broadcast over pixels."""
        return (low + (high - low) * self.uniform(attribute)).astype(np.float32)[:, None, None]

    def tone(self, attribute: int, palette: Array) -> Array:
        """A colour on the way from one palette entry to the next, shape (n_faces, 3, 1, 1)."""
        position = self.uniform(attribute) * (len(palette) - 1)
        lower = position.astype(np.int64)
        share = (position - lower)[:, None].astype(np.float32)
        colour = palette[lower] * (1 - share) + palette[lower + 1] * share
        return colour[:, :, None, None]


@dataclass(frozen=True)
class _Canvas:
    """Pictures and their label maps, painted part by part, back to front.

    ``x`` (n_faces or 1, 1, width) and ``y`` (n_faces or 1, height, 1) are the coordinates of pixel centres,
    ``image`` is (n_faces, 3, height, width) and ``labels`` (n_faces, height, width); ``pixel`` is the width of
    a pixel.
    """

    x: Array
    y: Array
    pixel: float
    image: Array
    labels: NDArray[np.uint8]

    @classmethod
    def blank(cls, n_faces: int, size: int) -> _Canvas:
        """Black squares; coordinates run from -1 to 1."""
        centres: Array = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
        image = np.zeros((n_faces, 3, size, size), np.float32)
        labels = np.zeros((n_faces, size, size), np.uint8)
        return cls(centres[None, None, :], centres[None, :, None], 2.0 / size, image, labels)

    def posed(self, x: Array, y: Array) -> _Canvas:
        """The same pictures under other coordinates."""
        return replace(self, x=x, y=y)

    def window(self, left: _Bound, right: _Bound, top: _Bound, bottom: _Bound) -> _Canvas:
        """The rows and columns that the given box touches on any face, or a pixel and a half around it.

        A part is painted there alone, which saves most of the work. The margin is for ellipses, the distance
        to which is of first order only: their coverage ends within it unless one is over three times as long
        as wide.
        """
        margin = 1.5 * self.pixel
        columns = _span((self.x >= left - margin) & (self.x <= right + margin), axis=2)
        rows = _span((self.y >= top - margin) & (self.y <= bottom + margin), axis=1)
        image, labels = self.image[:, :, rows, columns], self.labels[:, rows, columns]
        return _Canvas(self.x[:, :, columns], self.y[:, rows], self.pixel, image, labels)

    def coverage(self, distance: Array) -> Array:
        """Share of each pixel inside a shape, from the signed distance of its centre to the outline."""
        covered: Array = np.clip(0.5 - distance / self.pixel, 0.0, 1.0)
        return covered

    def paint(self, coverage: Array, colour: Array, label: str | None = None) -> None:
        """Blend ``colour`` in; where the part covers most of a pixel, the pixel takes its label."""
        image = self.image
        image += coverage[:, None] * (colour - image)
        if label is not None:
            self.labels[np.broadcast_to(coverage >= 0.5, self.labels.shape)] = FACE_LABELS.index(label)


def _span(touched: NDArray[np.bool_], axis: int) -> slice:
    """From the first to the last index along ``axis`` that any face touches."""
    others = tuple(other for other in range(touched.ndim) if other != axis)
    indices = np.flatnonzero(touched.any(axis=others))
    return slice(indices[0], indices[-1] + 1) if len(indices) else slice(0, 0)


def _ellipse(x: Array, y: Array, radius_x: Array | float, radius_y: Array | float) -> Array:
    """Signed distance to an axis-aligned ellipse at the origin, first order in the distance."""
    scaled = np.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2) + 1e-6
    slope = np.sqrt((x / radius_x**2) ** 2 + (y / radius_y**2) ** 2) + 1e-6
    distance: Array = scaled * (scaled - 1) / slope
    return distance


def _paint_faces(draw: _Draw, size: int) -> _Canvas:
    canvas = _Canvas.blank(len(draw.faces), size)
    x, y = canvas.x, canvas.y

    # Background: a straight gradient between two colours.
    angle = draw.between(0, 0, 2 * np.pi)
    ramp = (0.5 + 0.35 * (np.cos(angle) * x + np.sin(angle) * y))[:, None]
    first = np.concatenate([draw.between(a, 0.15, 0.95)[:, None] for a in (1, 2, 3)], axis=1)
    second = np.clip(first + draw.between(4, -0.35, 0.35)[:, None], 0, 1)
    canvas.image[:] = first * (1 - ramp) + second * ramp

    # The pose moves everything together; photographs aligned by eyes and mouth vary about as little.
    scale = draw.between(5, 0.95, 1.04)
    x = (x - draw.between(6, -0.05, 0.05)) / scale
    y = (y - draw.between(7, -0.04, 0.04)) / scale
    canvas = canvas.posed(x, y)

    light = draw.between(8, -0.16, 0.16)  # brighter on one side of the face
    skin = draw.tone(Attribute.SKIN_TONE, _SKIN_TONES)
    hair = draw.tone(Attribute.HAIR_TONE, _HAIR_TONES)
    face_width, face_height = draw.between(11, 0.56, 0.66), draw.between(12, 0.72, 0.80)

    # Hair behind the head: an ellipse, and a curtain down to a length of its own.
    volume = draw.between(13, 0.08, 0.20)
    length = draw.between(Attribute.HAIR_LENGTH, -0.2, 1.1)
    phase = draw.between(15, 0, 6.3)
    crown = _ellipse(x, y + 0.08, face_width + volume, face_height + volume)
    curtain = np.maximum(np.abs(x) - (face_width + 0.75 * volume), np.maximum(-y - 0.05, y - length))
    behind = np.minimum(np.maximum(crown, y - np.maximum(length, 0.0)), curtain)
    canvas.paint(canvas.coverage(behind), hair * _strands(x, phase) * 0.85, "hair")

    neck_width = draw.between(16, 0.20, 0.27)
    neck = canvas.window(-neck_width, neck_width, 0.4, np.inf)
    outline = np.maximum(np.abs(neck.x) - neck_width, 0.4 - neck.y)
    neck.paint(neck.coverage(outline), skin * 0.82 * _shade(neck, light), "skin")

    face = canvas.window(-face_width, face_width, -face_height, face_height)
    outline = _ellipse(face.x, face.y, face_width, face_height)
    face.paint(face.coverage(outline), skin * _shade(face, light), "skin")
    # Five widths of the bell away, the blush is less than float32 can add to any colour.
    cheeks = canvas.window(-1.06, 1.06, -0.36, 0.84)
    blush = np.exp(-(((np.abs(cheeks.x) - 0.36) / 0.14) ** 2) - ((cheeks.y - 0.24) / 0.12) ** 2)
    cheeks.paint(blush * draw.between(17, 0.0, 0.35), _colour(0.90, 0.45, 0.42) * (0.4 + 0.6 * skin))

    parting = [draw.between(18, -0.58, -0.42), draw.between(19, -0.25, 0.35), draw.between(20, 0.2, 0.7)]
    _paint_fringe(canvas, parting, (face_width, face_height), hair, phase)
    _paint_eyes(canvas, draw, skin, hair)
    _paint_nose(canvas, draw, skin, light)
    _paint_mouth(canvas, draw)
    return canvas


def _colour(red: float, green: float, blue: float) -> Array:
    return np.array([red, green, blue], np.float32)[:, None, None]


def _shade(canvas: _Canvas, light: Array) -> Array:
    shade: Array = (1 + light * canvas.x - 0.10 * (canvas.x**2 + (canvas.y * 0.7) ** 2))[:, None]
    return shade


def _strands(x: Array, phase: Array) -> Array:
    strands: Array = (1 + 0.10 * np.sin(18 * x + phase))[:, None]
    return strands


def _paint_fringe(
    canvas: _Canvas, parting: list[Array], face_radii: tuple[Array, Array], hair: Array, phase: Array
) -> None:
    """Hair over the forehead, inside the face and above a parabola with the given coefficients."""
    width, height = (radius + 0.02 for radius in face_radii)
    head = canvas.window(-width, width, -height, height)
    lowest = (parting[0] + parting[1] * head.x + parting[2] * head.x**2).max(axis=2, keepdims=True)
    fringe = head.window(-width, width, -height, lowest)
    x, y = fringe.x, fringe.y
    hairline = parting[0] + parting[1] * x + parting[2] * x**2
    outline = np.maximum(_ellipse(x, y, *face_radii) - 0.02, y - hairline)
    fringe.paint(fringe.coverage(outline), hair * _strands(x, phase), "hair")


def _paint_eyes(canvas: _Canvas, draw: _Draw, skin: Array, hair: Array) -> None:
    apart, height = draw.between(21, 0.265, 0.31), draw.between(22, -0.15, -0.09)
    width, opening = draw.between(23, 0.125, 0.165), draw.between(Attribute.EYE_OPENING, 0.055, 0.115)
    gaze_x, gaze_y = draw.between(25, -0.045, 0.045), draw.between(26, -0.015, 0.015)
    iris = draw.tone(Attribute.IRIS_TONE, _IRIS_TONES)
    iris_radius = draw.between(28, 0.060, 0.085)
    lid = draw.tone(29, np.stack([_HAIR_TONES[0], _HAIR_TONES[1], _IRIS_TONES[1] * 0.5])) * 0.7
    for side in (-1.0, 1.0):
        left, right = side * apart - width - 0.02, side * apart + width + 0.02
        eye = canvas.window(left, right, height - opening - 0.04, height + opening)
        x, y = eye.x - side * apart, eye.y - height
        white = eye.coverage(_ellipse(x, y, width, opening))
        eye.paint(eye.coverage(_ellipse(x, y + 0.02, width + 0.02, opening + 0.02)), lid, "eyes")
        eye.paint(white, _colour(0.96, 0.96, 0.95), "eyes")
        x, y = x - gaze_x, y - gaze_y
        eye.paint(white * eye.coverage(_ellipse(x, y, iris_radius, iris_radius)), iris)
        eye.paint(white * eye.coverage(_ellipse(x, y, 0.032, 0.032)), _colour(0.04, 0.04, 0.05))
    _paint_brows(canvas, draw, apart, height - opening, hair * 0.6 + 0.1 * skin)


def _paint_brows(canvas: _Canvas, draw: _Draw, apart: Array, eye_top: Array, colour: Array) -> None:
    raised, thickness = draw.between(30, 0.14, 0.20), draw.between(33, 0.032, 0.056)
    tilt, arch = draw.between(31, -0.25, 0.25), draw.between(32, 0.3, 1.6)
    middle = eye_top - raised + 0.04
    reach = 0.17 + canvas.pixel
    top = middle - np.abs(tilt) * reach - thickness
    bottom = middle + np.abs(tilt) * reach + arch * reach**2 + thickness
    for side in (-1.0, 1.0):
        brow = canvas.window(side * apart - 0.17, side * apart + 0.17, top, bottom)
        x = side * brow.x - apart
        line = brow.y - (middle + tilt * x + arch * x**2)
        outline = np.maximum(np.abs(line) - thickness, np.abs(x) - 0.17)
        brow.paint(brow.coverage(outline), colour, "brows")


def _paint_nose(canvas: _Canvas, draw: _Draw, skin: Array, light: Array) -> None:
    width, tip = draw.between(Attribute.NOSE_WIDTH, 0.09, 0.17), draw.between(35, 0.20, 0.31)
    bridge = -0.06
    nose = canvas.window(-width, width, bridge, tip)
    x, y = nose.x, nose.y
    along = np.clip((y - bridge) / (tip - bridge), 0, 1)
    outline = np.maximum(np.abs(x) - width * (0.42 + 0.58 * along**1.5), np.maximum(bridge - y, y - tip))
    coverage = nose.coverage(outline)
    redness = draw.between(Attribute.NOSE_REDNESS, -0.1, 0.85)
    base = skin * (1 - redness[:, None] * _colour(0.05, 0.45, 0.45))
    side_light = draw.between(37, -0.55, 0.55) + light
    tone = draw.between(47, 0.62, 1.12) + 0.9 * side_light * x / width * along
    nose.paint(coverage, base * tone[:, None], "nose")
    ridge = np.exp(-((x / 0.035) ** 2)) * draw.between(38, 0.0, 0.75) * coverage
    nose.paint(ridge, _colour(1.0, 0.95, 0.90) * (0.35 + 0.65 * skin))
    for side in (-1.0, 1.0):
        nostril = _ellipse(x - side * width * 0.5, y - tip + 0.035, 0.032, 0.022)
        nose.paint(nose.coverage(nostril) * draw.between(39, 0.2, 1.0) * coverage, skin * 0.35)


def _paint_mouth(canvas: _Canvas, draw: _Draw) -> None:
    height, width = draw.between(40, 0.45, 0.50), draw.between(41, 0.17, 0.29)
    smile = draw.between(Attribute.SMILE, -0.9, 1.6)
    lips, opening = draw.between(43, 0.035, 0.062), np.maximum(draw.between(Attribute.MOUTH_OPENING, -0.05, 0.085), 0)
    # The lips follow a parabola, which is highest and lowest in the middle and at the corners.
    thickness, bend = lips + opening + 0.008, smile * (width + canvas.pixel) ** 2
    middle = height + 0.03 + smile * 0.02
    top, bottom = middle - np.maximum(bend, 0) - thickness, middle - np.minimum(bend, 0) + thickness
    mouth = canvas.window(-width, width, top, bottom)
    x, y = mouth.x, mouth.y
    taper = 1 - (x / width) ** 2
    line = y - (height + 0.03 - smile * (x**2 - 0.02))
    outer = np.maximum(np.abs(line) - (lips + opening) * np.maximum(taper, 0) - 0.008, np.abs(x) - width)
    colour = draw.tone(Attribute.LIP_TONE, _LIP_TONES)
    upper = np.where(line < 0, np.float32(0.86), np.float32(1.0))[:, None]
    coverage = mouth.coverage(outer)
    mouth.paint(coverage, colour * upper, "mouth")
    inner = np.abs(line) - opening * np.maximum(taper, 0)
    teeth = draw.between(46, 0, 1)[:, None]
    between = np.where(teeth > 0.5, _colour(0.95, 0.93, 0.88), _colour(0.20, 0.05, 0.07))
    mouth.paint(mouth.coverage(inner) * (opening > 0.01) * coverage, between)
    crease = mouth.coverage(np.abs(line) - 0.012) * coverage * (opening <= 0.01)
    mouth.paint(crease * 0.7, colour * 0.5)


def _batches(first: int, count: int, per_batch: int) -> Iterator[NDArray[np.int64]]:
    for start in range(first, first + count, per_batch):
        yield np.arange(start, min(start + per_batch, first + count))


def draw_attribute(attribute: Attribute, count: int, seed: int = 0, first: int = 0) -> NDArray[np.float64]:
    """Where each of the faces that ``render_faces`` draws lies in the range of an attribute, in [0, 1), (count,).

    Widths, lengths and openings grow with it; tones go from one end of their palette to the other, the entries of which
    lie evenly spaced.

    >>> draw_attribute(Attribute.SMILE, 3, seed=7).round(2)
    array([0.65, 0.52, 0.77])
    """
    return counter_uniform(seed, np.arange(first, first + count), attribute)


def render_faces(count: int, size: int = 32, seed: int = 0, first: int = 0) -> LabelledImages:
    """Faces number ``first`` to ``first + count - 1`` of the endless series that ``seed`` names.

    Args:
        count: how many faces, at least 1.
        size: height and width in pixels, at least 8.
        seed: names the series; a non-negative integer.
        first: number of the first face. Face ``i`` is the same whatever ``first`` and ``count`` are.

    Returns:
        ``LabelledImages`` with ``images`` uint8 (count, 3, size, size) in RGB and ``labels`` uint8
        (count, size, size), whose values index ``FACE_LABELS``.

    Raises:
        ValueError: if ``count``, ``size`` or ``first`` is out of range.

    >>> faces = render_faces(4, size=32, seed=7)
    >>> faces.images.shape, faces.labels.max()
    ((4, 3, 32, 32), np.uint8(6))
    """
    return _rendered(count, size, first, lambda faces: _Draw(seed, faces))


_OWN_ATTRIBUTES = {
    "eyes": (23, 25, 26, Attribute.IRIS_TONE, 28, 29),
    "nose": (Attribute.NOSE_WIDTH, 35, Attribute.NOSE_REDNESS, 37, 38, 39, 47),
    "mouth": (40, 41, Attribute.SMILE, 43, Attribute.MOUTH_OPENING, Attribute.LIP_TONE, 46),
}
"""What each concept alone shows. Where the eyes are and how far they open, the brows tell in part."""

_EYE_HEIGHT, _BROWS_RAISED, _ATTEMPTS = 22, 30, 64


def redraw_concept(
    concept: str, count: int, size: int = 32, seed: int = 0, first: int = 0, *, redraw: int = 0
) -> LabelledImages:
    """The faces that ``render_faces`` draws, with one concept drawn anew given all the rest of the face.

    It is what an edit by a perfect local model does: a sample of the concept from its distribution given the other
    pixels, which stay as they are but where the old concept or the new one covers them. Eyes move up and down and open
    under brows that stay, as far as the brows allow.

    Args:
        concept: ``"eyes"``, ``"nose"`` or ``"mouth"``.
        count, size, seed, first: as in ``render_faces``.
        redraw: number of the new drawing, from 0; every number draws another.

    Raises:
        ValueError: for another concept, or a number out of its range.

    >>> before, after = render_faces(4), redraw_concept("mouth", 4)
    >>> changed = (before.images != after.images).any(axis=(0, 1))
    >>> bool(changed[20:28].any()), bool(changed[:20].any())
    (True, False)
    """
    if concept not in _OWN_ATTRIBUTES:
        raise ValueError(f"concept must be one of {', '.join(_OWN_ATTRIBUTES)}, got {concept!r}")
    if redraw < 0:
        raise ValueError(f"redraw must be >= 0, got {redraw}")

    def draw(faces: NDArray[np.int64]) -> _Draw:
        anew = {name: counter_uniform(seed, faces, name, redraw) for name in _OWN_ATTRIBUTES[concept]}
        return _Draw(seed, faces, anew | (_under_the_brows(seed, faces, redraw) if concept == "eyes" else {}))

    return _rendered(count, size, first, draw)


def _under_the_brows(seed: int, faces: NDArray[np.int64], redraw: int) -> dict[int, NDArray[np.float64]]:
    """Height and opening of the eyes drawn anew, given where the brows are; by rejection, exactly.

    Brows lie at height - opening - raised, and the ranges of the three are equally long: new heights and openings go
    with the one new value of raised that leaves the brows where they are, if that is in its range. Where no attempt
    succeeds, which is rare, the eyes stay as they are.
    """
    names = (_EYE_HEIGHT, Attribute.EYE_OPENING, _BROWS_RAISED)
    height, opening, raised = (counter_uniform(seed, faces, name) for name in names)
    attempts = np.arange(_ATTEMPTS)[:, None]
    heights, openings = (counter_uniform(seed, faces, name, redraw, attempts) for name in names[:2])
    implied = raised + (heights - height) - (openings - opening)
    possible = (implied >= 0) & (implied < 1)
    chosen, found, column = possible.argmax(axis=0), possible.any(axis=0), np.arange(len(faces))
    return {
        name: np.where(found, candidates[chosen, column], before)
        for name, candidates, before in zip(names, (heights, openings, implied), (height, opening, raised), strict=True)
    }


def _rendered(count: int, size: int, first: int, draw: Callable[[NDArray[np.int64]], _Draw]) -> LabelledImages:
    """The faces that ``draw`` says, by number, a block at a time."""
    if count < 1 or size < 8 or first < 0:
        raise ValueError(f"count must be >= 1, size >= 8 and first >= 0; got count={count}, size={size}, first={first}")
    images = np.empty((count, 3, size, size), np.uint8)
    labels = np.empty((count, size, size), np.uint8)
    # Blocks small enough that the pixels of one stay in the cache while parts are painted over one another.
    per_batch = max(1, 2**16 // size**2)
    for faces in _batches(first, count, per_batch):
        canvas = _paint_faces(draw(faces), size)
        rows = slice(int(faces[0]) - first, int(faces[-1]) - first + 1)
        images[rows] = np.round(np.clip(canvas.image, 0, 1) * 255)
        labels[rows] = canvas.labels
    return LabelledImages(images, labels, FACE_LABELS)
