"""Domains: what training and evaluation have to know about a kind of images, gathered in one place.

A domain says where images come from, how label maps of generated images are made, and in which features realism is
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data import lfw_photographs, open_celebamask, open_folder, open_shards, render_faces
from shapkit_diffusion.data.labelled import Images, LabelledImages, concept_labels
from shapkit_diffusion.evaluation.realism import Extractor, pixel_features
from shapkit_diffusion.segmentation.label_maps import open_parser
from shapkit_diffusion.segmentation.parsers import MergedParser
from shapkit_diffusion.segmentation.small import load_parser

CONCEPTS = ("eyes", "nose", "mouth")


@dataclass(frozen=True)
class Domain:
    """Images to train on, images to compare with, and how to parse and compare them.

    Args:
        name: what the user calls it.
        training: the training images.
        reference: images for the realism distances; where data are scarce, the training images themselves.
        parse: label maps int64 (n, height, width) of images (n, channels, height, width) in [-1, 1].
        extractor: feature maps for the realism distances.
        cells: parts per side of an image or crop over which features are pooled.
        extractor_name: for the report.
    """

    name: str
    training: Images
    reference: LabelledImages
    parse: Callable[[Tensor], Tensor]
    extractor: Extractor
    cells: int
    extractor_name: str

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label of the training images is called."""
        return self.training.label_names

    def regions(self, images: Tensor, concepts: Sequence[str] = CONCEPTS, dilation: int = 1) -> Regions:
        """Regions of images (n, channels, height, width), as parsed: the concepts and the rest.

        Where a concept is not found in an image, its place in a reference image stands in.

        Raises:
            ValueError: if a concept is no label of the domain.
        """
        wanted = concept_labels(self.label_names, concepts)
        labels = self.parse(images)
        reference = torch.as_tensor(self.reference.labels[0]).long().to(labels.device)
        for values in wanted.values():
            lost = ~torch.isin(labels, labels.new_tensor(values)).flatten(1).any(dim=1)
            stand_in = torch.isin(reference, labels.new_tensor(values)) & lost[:, None, None]
            labels = torch.where(stand_in, values[0], labels)
        return Regions.from_labels(labels, wanted, dilation=dilation)


def open_domain(spec: str, size: int = 32, count: int = 16384, *, parser: str | None = None) -> Domain:
    """The domain that ``spec`` names.

    Args:
        spec: ``faces``, ``photographs``, ``photographs:own`` (each with labels of its own), ``celebamask:FOLDER``,
            ``folder:IMAGES:LABELS`` or ``shards:FOLDER``.
        size: height and width in pixels, for the kinds that come in any size.
        count: how many faces to render for training.
        parser: what gives generated images their label maps: ``small``, ``bisenet:FILE`` or ``segformer:FOLDER``, its
            classes merged by name into the labels of the data. By default the shipped parser for rendered faces, and
            for aligned photographs the most frequent label of every pixel.

    Raises:
        ImportError: if the parser needs a package that is not installed.
        ValueError: if the spec or the parser names no known kind, its files cannot be used, or the parser's classes do
            not go into the labels of the data.
    """
    domain = _opened(spec, size, count)
    if parser is None:
        return domain
    return replace(domain, parse=MergedParser(open_parser(parser), domain.label_names).parse)


def _opened(spec: str, size: int, count: int) -> Domain:
    kind, _, path = spec.partition(":")
    if kind == "faces" and not path:
        return _faces(size, count)
    if kind == "photographs" and path in ("", "own"):
        photographs = lfw_photographs(own_labels=path == "own")
        return _aligned(spec, photographs, photographs)
    if kind == "celebamask" and path:
        images = open_celebamask(path, size=size)
        return _aligned(spec, images, _first_rows(images, 1000))
    if kind == "folder" and path:
        image_folder, _, label_folder = path.partition(":")
        folder = open_folder(image_folder, label_folder, size=size)
        return _aligned(spec, folder, _first_rows(folder, 1000))
    if kind == "shards" and path:
        shards = open_shards(path, size=size)
        return _aligned(spec, shards, _first_rows(shards, 1000))
    raise ValueError(
        "data must be faces, photographs, photographs:own, celebamask:FOLDER, folder:IMAGES:LABELS or shards:FOLDER, "
        f"got {spec!r}"
    )


def _faces(size: int, count: int) -> Domain:
    parser = load_parser()
    return Domain(
        name="faces",
        training=render_faces(count, size, seed=0),
        reference=render_faces(4000, size, seed=1),
        parse=parser.parse,
        extractor=parser.features,
        cells=1,
        extractor_name="features of the shipped face parser",
    )


def _aligned(name: str, training: Images, reference: LabelledImages) -> Domain:
    """A domain of aligned images, whose generated images are given the most frequent label of every pixel."""
    template = most_frequent_labels(reference)
    return Domain(
        name=name,
        training=training,
        reference=reference,
        parse=lambda images: template.to(images.device).expand(len(images), -1, -1),
        extractor=pixel_features,
        cells=2,
        extractor_name="brightness, edges and fine detail of the pixels",
    )


def most_frequent_labels(images: LabelledImages) -> Tensor:
    """The most frequent label of every pixel, int64 (1, height, width): a template for aligned images."""
    counts = np.stack([(images.labels == label).sum(axis=0) for label in range(len(images.label_names))])
    return torch.as_tensor(counts.argmax(axis=0)[None]).long()


def _first_rows(images: Images, count: int) -> LabelledImages:
    return LabelledImages(*images.rows(range(min(count, len(images)))), images.label_names)
