"""Regions, influence graphs and composites against brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shapkit.differentiable import Regions, allowed_influence, composite, star

CONCEPTS = {"eyes": [1, 2], "mouth": [3]}


def grown_by_brute_force(labels: np.ndarray, concepts: dict[str, list[int]], dilation: int) -> np.ndarray:
    """Index of every pixel's region: the nearest concept in the maximum norm, the first-named on a tie."""
    owner = np.full(labels.shape, len(concepts))
    for sample, row, column in np.ndindex(*labels.shape):
        distances = []
        for values in concepts.values():
            rows, columns = np.nonzero(np.isin(labels[sample], values))
            away = np.maximum(abs(rows - row), abs(columns - column))
            distances.append(away.min(initial=10_000))
        if min(distances) <= dilation:
            owner[sample, row, column] = distances.index(min(distances))
    return owner


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Small label maps, both concepts in every sample and beside them four columns for the rest to keep."""
    batch, height, width = draw(st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(2, 6)))
    labels = np.zeros((batch, height, width + 4), dtype=np.int64)
    for sample in labels[:, :, :width]:
        spots = draw(st.lists(st.integers(0, height * width - 1), min_size=2, max_size=8, unique=True))
        values = [1, 3, *draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=6, max_size=6))]
        for spot, value in zip(spots, values, strict=False):
            sample[spot // width, spot % width] = value
    return labels


@settings(max_examples=150, deadline=None, derandomize=True)
@given(labels=label_maps(), dilation=st.integers(0, 3))
def test_growth_and_partition(labels: np.ndarray, dilation: int) -> None:
    owner = grown_by_brute_force(labels, CONCEPTS, dilation)
    regions = Regions.from_labels(torch.as_tensor(labels), CONCEPTS, dilation=dilation)
    assert regions.names == ("eyes", "mouth", "rest")
    assert regions.masks.shape == (len(labels), 3, *labels.shape[1:])
    assert np.array_equal(regions.masks.argmax(dim=1).numpy(), owner)
    assert set(regions.masks.unique().tolist()) == {0.0, 1.0}
    assert regions.masks.sum(dim=1).eq(1).all()
    assert regions.areas.sum(dim=1).eq(labels[0].size).all()
    for region, values in enumerate(CONCEPTS.values()):  # no concept loses a pixel
        assert regions.masks[:, region].numpy()[np.isin(labels, values)].all()
    if dilation:
        smaller = Regions.from_labels(torch.as_tensor(labels), CONCEPTS, dilation=dilation - 1)
        assert (regions.masks[:, :2] >= smaller.masks[:, :2]).all()


def test_ties_go_to_the_concept_named_first() -> None:
    labels = torch.tensor([[[0, 1, 0, 3, 0]]])
    eyes_first = Regions.from_labels(labels, {"eyes": [1], "mouth": [3]}, rest=None, dilation=1)
    mouth_first = Regions.from_labels(labels, {"mouth": [3], "eyes": [1]}, rest=None, dilation=1)
    assert eyes_first.mask("eyes").flatten().tolist() == [1, 1, 1, 0, 0]
    assert mouth_first.mask("eyes").flatten().tolist() == [1, 1, 0, 0, 0]


def test_without_a_rest() -> None:
    labels = torch.tensor([[[1, 2], [3, 3]]])
    regions = Regions.from_labels(labels, CONCEPTS, rest=None)
    assert regions.names == ("eyes", "mouth")
    assert regions.areas.tolist() == [[2, 2]]
    with pytest.raises(ValueError, match=r"partition.*sums run from 0 to 1"):
        Regions.from_labels(labels * torch.tensor([1, 0]), {"eyes": [1], "mouth": [3]}, rest=None)


def test_dtype_and_other_names() -> None:
    labels = torch.tensor([[[1, 2], [3, 0]]], dtype=torch.uint8)
    regions = Regions.from_labels(labels, CONCEPTS, rest="skin", dtype=torch.float64)
    assert regions.names[-1] == "skin"
    assert regions.masks.dtype == torch.float64


def test_joint_mask() -> None:
    regions = Regions.from_labels(torch.tensor([[[1, 2], [3, 0]]]), CONCEPTS)
    assert regions.mask("mouth", "eyes").tolist() == [[[[1, 1], [1, 0]]]]
    assert torch.equal(regions.mask("mouth", "mouth"), regions.mask("mouth"))
    assert torch.equal(regions.mask("rest"), regions.masks[:, 2:])
    assert regions.mask().eq(0).all()
    with pytest.raises(ValueError, match="no region is called 'nose': the regions are eyes, mouth, rest"):
        regions.mask("eyes", "nose")


def test_to_takes_type_and_keeps_the_rest() -> None:
    regions = Regions.from_labels(torch.tensor([[[1, 2], [3, 0]]]), CONCEPTS)
    assert regions.to(torch.zeros(1)) is regions
    moved = regions.to(torch.zeros(1, dtype=torch.float64))
    assert moved.names == regions.names
    assert moved.masks.dtype == torch.float64
    assert torch.equal(moved.masks, regions.masks.double())


def test_areas_of_half_precision_masks_are_counted_exactly() -> None:
    labels = torch.zeros(1, 260, 260, dtype=torch.int64)
    labels[..., 0, 0] = 1
    for dtype in (torch.float16, torch.bfloat16):  # 260^2 is beyond the largest float16
        regions = Regions.from_labels(labels, {"dot": [1]}, dtype=dtype)
        assert regions.areas.tolist() == [[1, 260**2 - 1]]


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (torch.zeros(1, 2, 2), {}, r"integer tensor \(batch, height, width\), got torch.float32 \(1, 2, 2\)"),
        (torch.zeros(2, 2, dtype=torch.int64), {}, r"integer tensor .* got torch.int64 \(2, 2\)"),
        (torch.tensor([[[1, 3]]]), {}, "region 'rest' is empty in sample 0"),
        (
            torch.tensor([[[1, 3, 0]], [[1, 0, 0]]]),
            {},
            "region 'mouth' is empty in sample 1: a player without",
        ),
        (torch.tensor([[[1, 3, 0]]]), {"dilation": -1}, "dilation must be a number of pixels >= 0, got -1"),
        (torch.tensor([[[1, 3, 0]]]), {"concepts": {}}, "concepts must name at least one region"),
        (torch.tensor([[[1, 3, 0]]]), {"concepts": {"a": [1, 3], "b": [3]}}, "must not share labels"),
        (torch.tensor([[[1, 3, 0]]]), {"rest": "eyes"}, "names must differ from one another"),
    ],
)
def test_label_errors(labels: torch.Tensor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regions.from_labels(labels, **{"concepts": CONCEPTS, **arguments})


def test_mask_errors() -> None:
    halves = torch.full((1, 2, 4, 4), 0.5)
    assert Regions(halves, ("a", "b")).areas.tolist() == [[8, 8]]  # soft masks may share a pixel
    with pytest.raises(ValueError, match=r"partition.*sums run from 0.9 to 0.9"):
        Regions(halves * 0.9, ("a", "b"))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        Regions(torch.stack([halves[0, 0] - 1, halves[0, 1] + 1])[None], ("a", "b"))
    with pytest.raises(ValueError, match="partition"):
        Regions(halves * float("nan"), ("a", "b"))
    with pytest.raises(ValueError, match=r"shape \(batch or 1, 3, height, width\).*got \(1, 2, 4, 4\)"):
        Regions(halves, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\)"):
        Regions(halves[0], ("a", "b"))
    with pytest.raises(ValueError, match="names must differ from one another, got a, a"):
        Regions(halves, ("a", "a"))
    with pytest.raises(ValueError, match=r"masks must be floating point, got torch.int64"):
        Regions(halves.ceil().long(), ("a", "b"))
    with pytest.raises(ValueError, match="region 'b' is empty in sample 0"):
        Regions(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None], ("a", "b"))


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 4, 5), (3, 3, 4, 4), (1, 3, 4, 4), (3, 4, 4)])
def test_regions_of_another_tensor(shape: tuple[int, ...]) -> None:
    regions = Regions(torch.full((2, 2, 4, 4), 0.5), ("a", "b"))
    regions.check_fits(torch.zeros(2, 7, 4, 4))
    with pytest.raises(ValueError, match="the label map and the tensor must have one size and one batch"):
        regions.check_fits(torch.zeros(shape))


def test_one_mask_serves_any_batch() -> None:
    Regions(torch.full((1, 2, 4, 4), 0.5), ("a", "b")).check_fits(torch.zeros(5, 7, 4, 4))


def test_own_and_star_graphs() -> None:
    names = ("eyes", "skin", "mouth")
    assert allowed_influence("own", names).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert allowed_influence(star("skin"), names).int().tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert star().rest == "rest"


def test_matrices_in_every_form() -> None:
    rows = [[True, True], [False, True]]
    for graph in (rows, np.array(rows), torch.tensor(rows)):
        assert allowed_influence(graph, ("a", "b")).tolist() == rows


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("star", "graph must be 'own', star.*got 'star'"),
        (star("skin"), r"star\('skin'\) names no region: the regions are a, b"),
        (torch.ones(3, 3, dtype=torch.bool), r"shape \(2, 2\), one row per output region, got .*\(3, 3\)"),
        (torch.eye(2), "boolean matrix .*got torch.float32"),
        ([[1, 0], [0, 1]], "boolean matrix .*got torch.int64"),
        ([[True, True], [True, False]], "must let every region influence itself, but 'b' may not"),
    ],
)
def test_graph_errors(graph: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allowed_influence(graph, ("a", "b"))


@pytest.mark.parametrize("n_masks", [1, 3])
@pytest.mark.parametrize("per_sample", [False, True])
def test_composite_pixel_by_pixel(n_masks: int, per_sample: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, absent = torch.randn(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 2, 3, 0, 0] * 4]).reshape(1, 4, 5).repeat(n_masks, 1, 1)
    labels = torch.stack([labels[sample].roll(sample, 1) for sample in range(n_masks)])
    regions = Regions.from_labels(labels, CONCEPTS)  # float32: composite converts
    coalitions = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    if not per_sample:
        coalitions = coalitions[0]
    mixed = composite(x, absent, regions, coalitions)
    assert mixed.dtype == torch.float64
    owner = {0: 2, 1: 0, 2: 0, 3: 1}
    for sample, channel, row, column in np.ndindex(*x.shape):
        region = owner[int(labels[sample if n_masks > 1 else 0, row, column])]
        present = bool(coalitions[sample, region] if per_sample else coalitions[region])
        expected = (x if present else absent)[sample, channel, row, column]
        assert mixed[sample, channel, row, column] == expected


def test_composite_of_soft_masks_mixes() -> None:
    regions = Regions(torch.tensor([0.25, 0.75]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2), ("a", "b"))
    x, absent = torch.full((1, 1, 2, 2), 8.0), torch.zeros(1, 1, 2, 2)
    for members, value in (([1, 0], 2), ([0, 1], 6), ([1, 1], 8), ([0, 0], 0)):
        assert composite(x, absent, regions, torch.tensor(members).bool()).unique().tolist() == [value]
