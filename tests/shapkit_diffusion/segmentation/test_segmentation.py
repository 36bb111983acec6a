"""The shipped face parser: right on faces it has never seen, small, and refused when it is something else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shapkit_diffusion.data import render_faces
from shapkit_diffusion.segmentation.small import (
    FaceParser,
    load_parser,
    mean_intersection_over_union,
    parser_metadata,
    save_parser,
    train_parser,
)

SHIPPED = Path(str(files("shapkit_diffusion"))) / "models" / "face_parser.safetensors"


def test_shipped_parser_is_right_on_unseen_faces() -> None:
    faces = render_faces(300, 32, seed=77)
    images = torch.as_tensor(faces.images).float() / 127.5 - 1
    score, each = mean_intersection_over_union(load_parser().parse(images), torch.as_tensor(faces.labels).long(), 7)
    stated = float(parser_metadata(SHIPPED)["mean_iou"])
    assert abs(score - stated) < 0.02  # what the file says of itself, on other faces
    assert min(each) > 0.75
    assert SHIPPED.stat().st_size < 400_000


@pytest.mark.parametrize("size", [48, 64, 128])
def test_larger_faces_are_parsed_at_the_size_the_parser_knows(size: int) -> None:
    faces = render_faces(40, size, seed=78)
    images = torch.as_tensor(faces.images).float() / 127.5 - 1
    parser, labels = load_parser(), torch.as_tensor(faces.labels).long()
    found = parser.parse(images)
    assert mean_intersection_over_union(found, labels, 7)[0] > 0.83
    with torch.no_grad():
        at_full_size = parser(images).argmax(dim=1)
    assert mean_intersection_over_union(at_full_size, labels, 7)[0] < 0.8
    assert torch.equal(found, parser.parse(images, batch_size=7))


def test_training_learns_and_repeats_itself() -> None:
    first, second = train_parser(steps=40, batch_size=8), train_parser(steps=40, batch_size=8)
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    faces = render_faces(20, 32, seed=5)
    images, labels = torch.as_tensor(faces.images).float() / 127.5 - 1, torch.as_tensor(faces.labels).long()
    commonest = labels.flatten().bincount().max() / labels.numel()  # what a parser gets that has learnt one label
    assert (first.parse(images) == labels).float().mean() > commonest + 0.2


def test_mean_iou_is_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, labels = torch.randint(0, 3, (2, 2, 5, 5), generator=generator).unbind()
    expected = []
    for label in range(3):
        mine = {tuple(place) for place in (predicted == label).nonzero().tolist()}
        theirs = {tuple(place) for place in (labels == label).nonzero().tolist()}
        expected.append(len(mine & theirs) / len(mine | theirs))
    score, each = mean_intersection_over_union(predicted, labels, 3)
    assert each == pytest.approx(expected)
    assert score == pytest.approx(sum(expected) / 3)


def test_files_round_trip_and_strangers_are_refused(tmp_path: Path) -> None:
    parser = FaceParser().eval()
    save_parser(parser, tmp_path / "parser.safetensors", {"seed": "4"})
    assert parser_metadata(tmp_path / "parser.safetensors") == {"seed": "4"}
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(load_parser(tmp_path / "parser.safetensors")(image), parser(image))
    save_file({"fine.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="another architecture"):
        load_parser(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no model")
    with pytest.raises(ValueError, match="no readable state dict"):
        load_parser(tmp_path / "text.safetensors")
