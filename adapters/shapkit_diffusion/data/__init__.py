"""Data sets: images with a label map each, in memory or on disk, all read through ``rows(indices)``."""

from shapkit_diffusion.data.celebamask import (
    CELEBAMASK_LABELS,
    CONCEPT_OF_PART,
    CelebAMask,
    open_celebamask,
)
from shapkit_diffusion.data.datasets import ImageTable, open_dataset
from shapkit_diffusion.data.faces import FACE_LABELS, redraw_concept, render_faces
from shapkit_diffusion.data.folders import ImageFolder, open_folder, write_folder
from shapkit_diffusion.data.labelled import LabelledImages
from shapkit_diffusion.data.photographs import PHOTOGRAPH_LABELS, lfw_photographs
from shapkit_diffusion.data.shards import ImageShards, open_shards, write_shards

__all__ = [
    "CELEBAMASK_LABELS",
    "CONCEPT_OF_PART",
    "FACE_LABELS",
    "PHOTOGRAPH_LABELS",
    "CelebAMask",
    "ImageFolder",
    "ImageShards",
    "ImageTable",
    "LabelledImages",
    "lfw_photographs",
    "open_celebamask",
    "open_dataset",
    "open_folder",
    "open_shards",
    "redraw_concept",
    "render_faces",
    "write_folder",
    "write_shards",
]
