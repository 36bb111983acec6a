"""A hundred small photographs of faces that come with scikit-image: something real to try offline.

They are cut from Labeled Faces in the Wild (Huang, Ramesh, Berg and Learned-Miller, 2007). The faces are
aligned well enough for one label map to do for all of them. 97 of them also have a label map of their own, which
``benchmarks/locality/photograph_labels.py`` made.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from shapkit._optional import require
from shapkit_diffusion.data.labelled import LabelledImages

PHOTOGRAPH_LABELS = ("rest", "eyes", "nose", "mouth")
"""Names of the labels 0..3 of the photographs."""

# Drawn over the mean face and looked at on single faces. In most of them each part lies inside its outline;
# where a head is turned or tilted it is off by one to three pixels.
_TEMPLATE = """
    ........................
    ........................
    ........................
    ........................
    ........................
    ........................
    ........................
    ...eeeeee..eeeeeee......
    ...eeeeee..eeeeeee......
    ...eeeeee..eeeeeee......
    ........nnnn............
    ........nnnn............
    ........nnnn............
    .......nnnnnn...........
    .......nnnnnn...........
    .......nnnnnn...........
    ......mmmmmmmmm.........
    .....mmmmmmmmmmm........
    .....mmmmmmmmmmm........
    ......mmmmmmmmm.........
    ........................
    ........................
    ........................
    ........................
"""


def lfw_photographs(*, own_labels: bool = False) -> LabelledImages:
    """The 100 grey photographs of faces in ``skimage.data.lfw_subset``, with labels of eyes, nose and mouth.

    Args:
        own_labels: give each photograph the label map that the face mesh of MediaPipe found in it, and leave out the
            three in which it found none, in place of one map for all. The map for all fits only as well as the faces
            are aligned, mostly to a pixel or two, and takes the brows for parts of the eyes; the mesh does not.

    Returns:
        ``LabelledImages`` with ``images`` uint8 (100 or 97, 1, 24, 24) and ``labels`` uint8 (100 or 97, 24, 24), whose
        values index ``PHOTOGRAPH_LABELS``. The published pictures are 25 x 25; the last row and column are left off,
        because a network that halves its input twice needs a multiple of 4.

    Raises:
        ImportError: if scikit-image is not installed.

    >>> photographs = lfw_photographs()
    >>> photographs.images.shape, photographs.label_names
    ((100, 1, 24, 24), ('rest', 'eyes', 'nose', 'mouth'))
    >>> len(lfw_photographs(own_labels=True))
    97
    """
    skimage = require("skimage", extra="diffusion", purpose="the photographs of faces")
    faces = skimage.data.lfw_subset()[:100, :24, :24]  # the other 100 pictures show no faces
    images = np.round(faces * 255).astype(np.uint8)[:, None]
    if own_labels:
        with (files(__package__) / "photograph_labels.npz").open("rb") as file, np.load(file) as stored:
            found = stored["found"]
            return LabelledImages(images[found], stored["labels"][found], PHOTOGRAPH_LABELS)
    template = np.array([[".enm".index(initial) for initial in line] for line in _TEMPLATE.split()], np.uint8)
    return LabelledImages(images, np.repeat(template[None], 100, axis=0), PHOTOGRAPH_LABELS)
