"""Domains: where label maps of generated images come from, and what may say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shapkit_diffusion.data import FACE_LABELS, render_faces, write_folder
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.evaluation.domains import most_frequent_labels, open_domain
from shapkit_diffusion.segmentation.small import load_parser


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write_folder(render_faces(6, 32, seed=11), tmp_path / "set")
    return f"folder:{tmp_path / 'set' / 'images'}:{tmp_path / 'set' / 'labels'}"


def test_aligned_images_are_parsed_by_the_template_or_by_a_parser_that_is_asked_for(folder: str) -> None:
    other = render_faces(3, 32, seed=12)
    images = to_unit_range(torch.as_tensor(other.images))
    by_template, by_parser = open_domain(folder), open_domain(folder, parser="small")
    assert by_template.label_names == by_parser.label_names == FACE_LABELS
    template = most_frequent_labels(by_template.reference)
    assert torch.equal(by_template.parse(images), template.expand(3, -1, -1))
    assert torch.equal(by_parser.parse(images), load_parser().parse(images))
    # What it is for: the regions of an image are its own.
    truth = torch.as_tensor(other.labels) == FACE_LABELS.index("eyes")
    overlap = {}
    for name, domain in (("template", by_template), ("parser", by_parser)):
        found = domain.regions(images, ["eyes"], dilation=0).mask("eyes")[:, 0] > 0
        overlap[name] = float((found & truth).sum() / (found | truth).sum())
    assert overlap["parser"] > 0.8 > overlap["template"]


def test_a_parser_whose_classes_are_no_labels_of_the_data_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="unknown class 'rest'"):
        open_domain("photographs", parser="small")
    with pytest.raises(ValueError, match="parser must be small, bisenet:FILE or segformer:FOLDER"):
        open_domain(folder, parser="large")


def test_the_reference_stands_in_only_for_what_an_image_lacks(folder: str) -> None:
    domain = open_domain(folder)
    eyes, mouth = FACE_LABELS.index("eyes"), FACE_LABELS.index("mouth")
    labels = torch.zeros(3, 32, 32, dtype=torch.long)
    labels[0, 5:7, 4:8], labels[0, 20:23, 10:14] = eyes, mouth
    labels[1, 9:11, 20:25] = eyes  # no mouth
    labels[2, 25:27, 3:9] = mouth  # no eyes
    parsed = replace(domain, parse=lambda images: labels.clone())
    found = parsed.regions(torch.zeros(3, 3, 32, 32), ["eyes", "mouth"], dilation=0)
    reference = torch.as_tensor(domain.reference.labels[0]).long()
    for name, value, lost in (("eyes", eyes, 2), ("mouth", mouth, 1)):
        for row in range(3):
            own = labels[row] == value if row != lost else reference == value
            assert torch.equal(found.mask(name)[row, 0] > 0, own), f"{name} of image {row}"
