"""Where the eyes, nose and mouth of every photograph of ``lfw_photographs`` are, by the face mesh of MediaPipe.

    python -m venv mesh && mesh/bin/pip install mediapipe==0.10.21 scikit-image
    mesh/bin/python benchmarks/locality/photograph_labels.py     # adapters/shapkit_diffusion/data/photograph_labels.npz

MediaPipe asks for an older numpy than this project, so it has an environment of its own, and this file imports nothing
of the project. The mesh (Kartynnik, Ablavatski, Grishchenko and Grundmann, 2019) wants larger faces: every photograph
is enlarged first, by the first of some scales at which a face is found. Where none is found, `found` is false.
"""

from __future__ import annotations

import os
from pathlib import Path

import mediapipe
import numpy as np
import skimage
from skimage.morphology import convex_hull_image, dilation, disk
from skimage.transform import resize

LABELS = Path(__file__).parents[2] / "adapters" / "shapkit_diffusion" / "data" / "photograph_labels.npz"
SIDE, FINE = 24, 16  # pixels of a label map; points of each, a side, that are asked whether a part covers them
SCALES = ((10, 60), (10, 120), (16, 100), (8, 200))
"""Times as large, and pixels of padding."""
GROWN = 0.5
"""Pixels by which an outline is grown: lids, nostrils and the corners of a mouth lie just outside."""

_mesh = mediapipe.solutions.face_mesh
_parts = mediapipe.solutions.face_mesh_connections
PARTS = (
    ("eyes", (_parts.FACEMESH_LEFT_EYE, _parts.FACEMESH_RIGHT_EYE)),
    ("nose", (_parts.FACEMESH_NOSE,)),
    ("mouth", (_parts.FACEMESH_LIPS,)),
)


def landmarks(photograph: np.ndarray, mesh: _mesh.FaceMesh) -> np.ndarray | None:
    """Points (468, 2) of the mesh, x and y in pixels of a photograph (25, 25); None where no face is found."""
    for scale, padding in SCALES:
        large = resize(photograph, np.multiply(photograph.shape, scale), order=3, mode="edge")
        padded = np.pad(np.clip(large, 0, 1), padding, mode="edge")
        found = mesh.process(np.repeat((padded * 255).astype(np.uint8)[..., None], 3, axis=2))
        if found.multi_face_landmarks:
            points = np.array([(point.x, point.y) for point in found.multi_face_landmarks[0].landmark])
            return (points * padded.shape[::-1] - padding) / scale
    return None


def label_map(points: np.ndarray) -> np.ndarray:
    """Labels uint8 (24, 24): a pixel is of a part if half of it lies within the part's grown hull."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for value, (_, outlines) in enumerate(PARTS, start=1):
        covered = np.zeros((SIDE * FINE,) * 2, bool)
        for outline in outlines:
            corners = points[sorted({end for edge in outline for end in edge})]
            fine = np.zeros_like(covered)
            rows, columns = np.clip((corners[:, ::-1] * FINE).astype(int), 0, SIDE * FINE - 1).T
            fine[rows, columns] = True
            covered |= dilation(convex_hull_image(fine), disk(round(GROWN * FINE)))
        share = covered.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
        labels[share >= 0.5] = value
    return labels


def main() -> None:
    photographs = skimage.data.lfw_subset()[:100]
    labels, found = np.zeros((100, SIDE, SIDE), np.uint8), np.zeros(100, bool)
    with _mesh.FaceMesh(static_image_mode=True, max_num_faces=1, min_detection_confidence=0.1) as mesh:
        for number, photograph in enumerate(photographs):
            points = landmarks(photograph, mesh)
            if points is not None:
                labels[number], found[number] = label_map(points), True
    temporary = LABELS.with_suffix(".new.npz")
    np.savez_compressed(temporary, labels=labels, found=found)
    os.replace(temporary, LABELS)
    print(f"{found.sum()} of 100 photographs; no face found in {np.flatnonzero(~found).tolist()}")
    for value, (name, _) in enumerate(PARTS, start=1):
        print(f"{name}: {(labels[found] == value).sum(axis=(1, 2)).mean():.1f} pixels in the mean")


if __name__ == "__main__":
    main()
