"""Regions, influence graphs and composites against brute force."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

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


def any_label_maps(max_batch: int = 3, max_pixels: int = 7) -> st.SearchStrategy[np.ndarray]:
    """Label maps of any size in which any label may be missing."""
    side = st.integers(1, max_pixels)
    return st.tuples(st.integers(1, max_batch), side, side).flatmap(
        lambda shape: st.lists(st.integers(0, 3), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))).map(
            lambda values: np.array(values, dtype=np.int64).reshape(shape)
        )
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels=any_label_maps(), dilation=st.integers(0, 3))
def test_growth_where_concepts_are_missing(labels: np.ndarray, dilation: int) -> None:
    """A concept never takes a pixel from another one, and one that a sample lacks grows nowhere."""
    regions = Regions.from_labels(torch.as_tensor(labels), CONCEPTS, dilation=dilation, missing="allow")
    assert np.array_equal(regions.masks.argmax(dim=1).numpy(), grown_by_brute_force(labels, CONCEPTS, dilation))
    assert regions.masks.sum(dim=1).eq(1).all()
    for region, values in enumerate(CONCEPTS.values()):
        shown = np.isin(labels, values)
        assert regions.masks[:, region].numpy()[shown].all()
        assert np.array_equal(regions.present[:, region].numpy(), shown.any(axis=(1, 2)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels=any_label_maps(), seed=st.integers(0, 2**31))
def test_means_and_weights_against_loops(labels: np.ndarray, seed: int) -> None:
    regions = Regions.from_labels(torch.as_tensor(labels), CONCEPTS, missing="allow")
    values = torch.randn(2, len(labels), 3, *labels.shape[1:], generator=torch.Generator().manual_seed(seed))
    values = values.double().requires_grad_()
    found, weights = regions.means(values), regions.weights
    for sample in range(len(labels)):
        expected = {}
        for region, label_values in enumerate([[1, 2], [3], [0]]):
            pixels = np.argwhere(np.isin(labels[sample], label_values)).tolist()
            for game in range(2):
                if pixels:
                    owned = [float(values[game, sample, c, i, j].detach()) for i, j in pixels for c in range(3)]
                    expected[game, region] = sum(owned) / len(owned)
                mean = expected.get((game, region), 0.0)
                assert float(found[game, sample, region].detach()) == pytest.approx(mean, abs=1e-12)
        weighted = (found[0] * weights)[sample].mean()
        of_those_shown = [mean for (game, _), mean in expected.items() if game == 0]
        if len(of_those_shown) > 1:
            assert float(weighted.detach()) == pytest.approx(sum(of_those_shown) / len(of_those_shown), abs=1e-6)
        else:
            assert weights[sample].eq(0).all()
    found.sum().backward()
    areas = regions.masks.sum(dim=(2, 3), keepdim=True)
    one_of = (regions.masks / areas.clamp(min=1)).sum(dim=1, keepdim=True) / 3  # each pixel's share of its region
    torch.testing.assert_close(values.grad, one_of.double().expand_as(values))


def test_means_are_single_precision_at_least() -> None:
    labels = torch.zeros(1, 300, 300, dtype=torch.int64)
    labels[..., 0, 0] = 1
    regions = Regions.from_labels(labels, {"dot": [1]}, dtype=torch.float16)
    found = regions.means(torch.full((2, 4, 300, 300), 60_000.0, dtype=torch.float16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((2, 2), float(torch.tensor(60_000.0).half())))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = regions.means(torch.full((2, 1, 300, 300), 1.001))
    torch.testing.assert_close(within, torch.full((2, 2), 1.001))
    assert regions.means(torch.zeros(1, 1, 300, 300, dtype=torch.float64)).dtype == torch.float64


def test_masks_that_are_learned_get_finite_gradients_where_a_region_is_missing() -> None:
    masks = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]], [[[1.0, 1.0]], [[0.0, 0.0]]]], requires_grad=True)
    values = torch.tensor([1.0, 2.0]).expand(2, 1, 1, 2)
    Regions(masks, ("a", "b"), "allow").means(values).square().sum().backward()
    assert masks.grad is not None and bool(masks.grad.isfinite().all()) and bool((masks.grad[0] != 0).any())


def test_a_region_may_be_missing_in_the_whole_batch() -> None:
    regions = Regions.from_labels(torch.zeros(2, 3, 3, dtype=torch.int64), CONCEPTS, missing="allow")
    assert regions.present.tolist() == [[False, False, True]] * 2
    assert regions.weights.tolist() == [[0, 0, 0]] * 2  # with one region only, nothing to compare
    assert Regions(torch.full((1, 2, 1, 1), 0.5), ("a", "b")).weights.tolist() == [[1, 1]]
    half = Regions(
        torch.tensor([1, 0, 0.5]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2).clone() / 1.5, tuple("abc"), "allow"
    )
    assert half.to(torch.zeros(1, dtype=torch.bfloat16)).weights.tolist() == [[1.5, 0, 1.5]]


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
    lenient = Regions.from_labels(torch.tensor([[[1, 1]]]), CONCEPTS, missing="allow")
    assert lenient.to(torch.zeros(1, dtype=torch.float64)).missing == "allow"
    assert lenient.masks.dtype == torch.float32  # the first is left alone


def test_regions_are_compared_and_hashed_by_identity() -> None:
    first, second = (Regions.grid(1, 2, 2, 2) for _ in range(2))
    assert first != second and first == first and len({first, second, first}) == 2


def test_areas_of_half_precision_masks_are_counted_exactly() -> None:
    labels = torch.zeros(1, 260, 260, dtype=torch.int64)
    labels[..., 0, 0] = 1
    for dtype in (torch.float16, torch.bfloat16):  # 260^2 is beyond the largest float16
        regions = Regions.from_labels(labels, {"dot": [1]}, dtype=dtype)
        assert regions.areas.tolist() == [[1, 260**2 - 1]]


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (torch.zeros(1, 2, 2), {}, r"integer tensor \(batch, \*size\), .* got torch.float32 \(1, 2, 2\)"),
        (torch.zeros(2, dtype=torch.int64), {}, r"integer tensor .* got torch.int64 \(2,\)"),
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
    with pytest.raises(ValueError, match=r"shape \(batch or 1, 3, \*size\).*got \(1, 2, 4, 4\)"):
        Regions(halves, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\)"):
        Regions(halves[0], ("a", "b"))  # the names are two, and the masks four of a line
    with pytest.raises(ValueError, match="names must differ from one another, got a, a"):
        Regions(halves, ("a", "a"))
    with pytest.raises(ValueError, match=r"masks must be floating point, got torch.int64"):
        Regions(halves.ceil().long(), ("a", "b"))
    with pytest.raises(ValueError, match=r"names must be a tuple of strings, one per region, got \(1, 2\)"):
        Regions(halves, (1, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names must be a tuple of strings, one per region, got 'ab'"):
        Regions(halves, "ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing must be 'refuse' or 'allow', got 'ignore'"):
        Regions(halves, ("a", "b"), "ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="region 'b' is empty in sample 0"):
        Regions(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None], ("a", "b"))


# Masks that are no partition.


@st.composite
def soft_masks(draw: st.DrawFn) -> torch.Tensor:
    """Masks (1 or 2, 1 to 4, 2, 2) that overlap, touch and leave pixels out, in twelfths."""
    batch, n_masks = draw(st.tuples(st.integers(1, 2), st.integers(1, 4)))
    count = batch * n_masks * 4
    twelfths = draw(st.lists(st.sampled_from([0, 0, 3, 4, 6, 8, 9, 12, 12]), min_size=count, max_size=count))
    return torch.tensor(twelfths, dtype=torch.float64).reshape(batch, n_masks, 2, 2) / 12


@settings(max_examples=100, deadline=None, derandomize=True)
@given(masks=soft_masks(), overlap=st.sampled_from(["refuse", "share", "first"]), single=st.booleans())
def test_overlapping_masks_against_loops(masks: torch.Tensor, overlap: Any, single: bool) -> None:
    names = tuple("abcd"[: masks.shape[1]])
    twelfths = (masks * 12).round().long()
    if single:
        masks = masks.float()
    if overlap == "refuse" and bool((twelfths.sum(dim=1) > 12).any()):
        with pytest.raises(ValueError, match=r"masks must not overlap: at \d pixels they sum to more than one, to"):
            Regions.from_masks(masks, names, overlap=overlap, missing="allow")
        return
    regions = Regions.from_masks(masks, names, overlap=overlap, missing="allow")
    assert regions.names == (*names, "rest") and regions.masks.dtype == masks.dtype
    for sample, row, column in np.ndindex(len(masks), 2, 2):
        wanted = [Fraction(int(value), 12) for value in twelfths[sample, :, row, column]]
        given_away = [Fraction(0)] * len(wanted)
        for k, share in enumerate(wanted):
            if overlap == "first":
                given_away[k] = min(share, 1 - sum(given_away, Fraction(0)))
            else:
                given_away[k] = share / max(Fraction(1), sum(wanted, Fraction(0)))
        expected = [float(share) for share in (*given_away, 1 - sum(given_away, Fraction(0)))]
        assert regions.masks[sample, :, row, column].tolist() == pytest.approx(expected, abs=1e-6)
        for found, share in zip(regions.masks[sample, :, row, column], expected, strict=True):
            assert share > 0 or float(found) == 0  # not rounding, which would make the region present


def test_boolean_and_half_precision_masks() -> None:
    face = torch.tensor([[[[True, True, False]], [[False, True, True]]]])
    regions = Regions.from_masks(face, ["face", "hair"], overlap="first", rest=None)
    assert regions.masks.dtype == torch.float32
    assert regions.masks.squeeze().tolist() == [[1, 1, 0], [0, 0, 1]]
    tenths = torch.full((1, 3, 1, 1), 0.1, dtype=torch.float16)
    assert Regions.from_masks(tenths, tuple("abc")).masks.flatten().tolist() == pytest.approx(
        [0.1, 0.1, 0.1, 0.7], abs=2**-11
    )


@pytest.mark.parametrize("overlap", ["refuse", "share", "first"])
def test_rounding_leaves_no_rest(overlap: Any) -> None:
    names = tuple("abcdefghijkl")
    masks = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    assert 0 < float((1 - masks.sum(dim=1)).max()) < 1e-6
    regions = Regions.from_masks(masks, names, overlap=overlap, missing="allow")
    assert regions.present.tolist() == [[True] * 12 + [False]]
    with pytest.raises(ValueError, match="region 'rest' is empty in sample 0"):
        Regions.from_masks(masks, names, overlap=overlap)


def test_errors_of_overlapping_masks() -> None:
    halves = torch.full((1, 2, 4, 4), 0.5)
    with pytest.raises(ValueError, match="overlap must be one of refuse, share, first, got 'last'"):
        Regions.from_masks(halves, ("a", "b"), overlap="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"float or boolean \(batch or 1, n, \*size\), got torch.float32 \(4,"):
        Regions.from_masks(halves[0, 0], ("a", "b"))
    with pytest.raises(ValueError, match=r"float or boolean .* got torch.int64"):
        Regions.from_masks(halves.long(), ("a", "b"))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got values from -0.5 to -0.5"):
        Regions.from_masks(-halves, ("a", "b"))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got values from 0.5 to 1.5"):
        Regions.from_masks(halves + torch.tensor([0, 1]).reshape(1, 2, 1, 1), ("a", "b"))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got values from nan"):
        Regions.from_masks(halves * float("nan"), ("a", "b"))
    with pytest.raises(ValueError, match=r"partition.*sums run from 0.5 to 0.5"):
        Regions.from_masks(halves / 2, ("a", "b"), rest=None)
    with pytest.raises(ValueError, match="region 'rest' is empty"):
        Regions.from_masks(halves, ("a", "b"))
    with pytest.raises(ValueError, match="one mask per name"):
        Regions.from_masks(halves / 2, ("a", "b", "c"))


# Grids, other sizes, parts of a batch.


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_grids_are_even(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rows, columns = data.draw(st.tuples(st.integers(1, height), st.integers(1, width)))
    regions = Regions.grid(rows, columns, height, width)
    assert regions.names == tuple(f"r{i}c{j}" for i in range(rows) for j in range(columns))
    for i, j in np.ndindex(rows, columns):
        expected = torch.zeros(height, width)
        expected[i * height // rows : (i + 1) * height // rows, j * width // columns : (j + 1) * width // columns] = 1
        assert torch.equal(regions.mask(f"r{i}c{j}")[0, 0], expected)
    heights, widths = {height // rows, -(-height // rows)}, {width // columns, -(-width // columns)}
    assert set(regions.areas.flatten().int().tolist()) <= {a * b for a in heights for b in widths}


def test_grid_errors() -> None:
    with pytest.raises(ValueError, match="rows must be from 1 to the 4 pixels there are, got 5"):
        Regions.grid(5, 2, 4, 4)
    with pytest.raises(ValueError, match="columns must be from 1 to the 3 pixels there are, got 0"):
        Regions.grid(2, 0, 4, 3)
    assert Regions.grid(2, 2, 2, 2, dtype=torch.float64).masks.dtype == torch.float64


def shares_by_loops(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of every region, whole quarters (k, h, w), in every cell of a new grid, fractions (k, height, width)."""
    shares = np.full((len(masks), height, width), Fraction(0), dtype=object)
    down, right = Fraction(masks.shape[1], height), Fraction(masks.shape[2], width)
    for k, i, j, y, x in np.ndindex(*shares.shape, *masks.shape[1:]):
        tall = min((i + 1) * down, Fraction(y + 1)) - max(i * down, Fraction(y))
        wide = min((j + 1) * right, Fraction(x + 1)) - max(j * right, Fraction(x))
        if tall > 0 and wide > 0:
            shares[k, i, j] += Fraction(int(masks[k, y, x]), 4) * tall * wide / (down * right)
    return shares


@st.composite
def partitions_in_quarters(draw: st.DrawFn) -> np.ndarray:
    """Whole quarters (batch, 3, h, w) that sum to four at each pixel; hard where the draw says so."""
    labels = draw(any_label_maps(max_batch=2, max_pixels=5)) % 3
    hard = 4 * np.eye(3, dtype=np.int64)[labels].transpose(0, 3, 1, 2)
    if draw(st.booleans()):
        return hard
    moved = draw(st.integers(0, 4))
    return (hard * moved + np.roll(hard, 1, axis=1) * (4 - moved)) // 4


@settings(max_examples=80, deadline=None, derandomize=True)
@given(quarters=partitions_in_quarters(), height=st.integers(1, 6), width=st.integers(1, 6))
def test_resized_regions_are_a_partition_and_those_of_the_loops(quarters: np.ndarray, height: int, width: int) -> None:
    regions = Regions(torch.as_tensor(quarters).double() / 4, ("a", "b", "c"), "allow")
    soft, hard = (regions.resized(height, width, hard=hard) for hard in (False, True))
    for resized in (soft, hard):
        assert resized.masks.shape == (len(quarters), 3, height, width) and resized.missing == "allow"
        Regions(resized.masks, resized.names, "allow")  # a partition, as the constructor checks it
    assert hard.masks.sum(dim=1).eq(1).all() and set(hard.masks.unique().tolist()) <= {0.0, 1.0}
    for sample in range(len(quarters)):
        shares = shares_by_loops(quarters[sample], height, width)
        np.testing.assert_allclose(soft.masks[sample].numpy(), shares.astype(float), rtol=1e-14, atol=1e-15)
        for i, j in np.ndindex(height, width):
            cell = list(shares[:, i, j])
            assert int(hard.masks[sample, :, i, j].argmax()) == cell.index(max(cell))  # the first of equals
    of_the_picture = height * width / (quarters.shape[2] * quarters.shape[3])
    torch.testing.assert_close(soft.areas, regions.areas * of_the_picture)
    assert torch.equal(soft.present, regions.present)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(labels=any_label_maps(), up=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_whole_ratios_pool_and_repeat(labels: np.ndarray, up: tuple[int, int]) -> None:
    regions = Regions.from_labels(torch.as_tensor(labels), CONCEPTS, missing="allow")
    height, width = labels.shape[1] * up[0], labels.shape[2] * up[1]
    repeated = regions.masks.repeat_interleave(up[0], dim=2).repeat_interleave(up[1], dim=3)
    larger = regions.resized(height, width, hard=True)
    assert torch.equal(larger.masks, repeated)
    assert torch.equal(regions.resized(height, width).masks, repeated)
    assert torch.equal(larger.resized(*labels.shape[1:], hard=True).masks, regions.masks)
    rolled = Regions(repeated.roll(1, 3), regions.names, "allow")
    pooled = F.adaptive_avg_pool2d(rolled.masks, labels.shape[1:])
    torch.testing.assert_close(rolled.resized(*labels.shape[1:]).masks, pooled)


def test_resized_types_and_errors() -> None:
    labels = torch.zeros(2, 6, 6, dtype=torch.int64)
    labels[0, 0, 0] = labels[1, :4, :4] = 1
    regions = Regions.from_labels(labels, {"dot": [1]}, dtype=torch.bfloat16)
    assert regions.resized(4, 4).masks.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = regions.resized(4, 4)
    assert torch.equal(within.masks, regions.resized(4, 4).masks)
    assert regions.resized(6, 6, hard=True).masks.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"region 'dot' is empty in sample 0 at 2 x 3 pixels: .*'allow'"):
        regions.resized(2, 3, hard=True)
    assert regions.resized(2, 3).areas[0, 0] == pytest.approx(6 / 36, rel=1e-6)
    lenient = Regions.from_labels(labels, {"dot": [1]}, missing="allow").resized(2, 3, hard=True)
    assert lenient.present.tolist() == [[False, True], [True, True]]
    assert torch.equal(regions.resized(2, 3, hard=True, missing="allow").masks, lenient.masks.bfloat16())
    for hard in (False, True):
        with pytest.raises(ValueError, match="region 'dot' is empty in sample 0 at 6 x 6 pixels"):
            lenient.resized(6, 6, hard=hard, missing="refuse")
        with pytest.raises(ValueError, match="missing must be 'refuse' or 'allow', got 'keep'"):
            lenient.resized(6, 6, hard=hard, missing="keep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one pixel along every axis, got 0 x 4"):
        regions.resized(0, 4)


def test_selected_samples() -> None:
    labels = torch.stack([torch.arange(6).reshape(2, 3) // (sample + 1) for sample in range(4)])
    regions = Regions.from_labels(labels, {"a": [0], "b": [2]}, missing="allow")
    for rows in (slice(1, 3), [3, 0], torch.tensor([2, 2]), torch.tensor([True, False, True, False]), [1]):
        chosen = regions.select(rows)
        assert torch.equal(chosen.masks, regions.masks[rows]) and chosen.names == regions.names
        assert chosen.missing == "allow"
        if rows != [1]:
            assert torch.equal(chosen.resized(1, 2).masks, regions.resized(1, 2).masks[rows])
            assert torch.equal(chosen.weights, regions.weights[rows])
    shared = Regions.grid(2, 2, 4, 4)
    assert shared.select(slice(2, 3)) is shared
    with pytest.raises(ValueError, match=r"rows must be a slice, indices or booleans, got 1; write \[1\] for one row"):
        regions.select(1)  # type: ignore[arg-type]


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


def test_graphs_by_name() -> None:
    names = ("eyes", "brows", "rest")
    found = allowed_influence({"brows": ("eyes", "rest"), "rest": []}, names)
    assert found.int().tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    assert torch.equal(allowed_influence({name: ["rest"] for name in names}, names), allowed_influence(star(), names))
    assert torch.equal(allowed_influence({}, names), allowed_influence("own", names))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("star", "graph must be 'own', star.*got 'star'"),
        (star("skin"), r"star\('skin'\) names no region: the regions are a, b"),
        (torch.ones(3, 3, dtype=torch.bool), r"shape \(2, 2\), one row per output region, got .*\(3, 3\)"),
        (torch.eye(2), "boolean matrix .*got torch.float32"),
        ([[1, 0], [0, 1]], "boolean matrix .*got torch.int64"),
        ([[True, True], [True, False]], "must let every region influence itself, but 'b' may not"),
        ({"a": ["skin"]}, "graph names no region with 'skin': the regions are a, b"),
        ({"skin": ["a"]}, "graph names no region with 'skin': the regions are a, b"),
        ({"a": "b"}, "graph must give a list of regions for 'a', got the text 'b'"),
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


@pytest.mark.parametrize(
    "concepts", [3, None, "eyes", [1, 2], {"eyes": 1}, {"eyes": "1"}, {"eyes": [True]}, {"eyes": [1.0]}]
)
def test_concepts_that_are_no_lists_of_labels_by_name_are_refused(concepts: Any) -> None:
    with pytest.raises(ValueError, match="concepts must map names to lists of label values, such as"):
        Regions.from_labels(torch.zeros(1, 4, 4, dtype=torch.long), concepts)


@pytest.mark.parametrize(
    "labels", [np.zeros((1, 4, 4), int), [[[0]]], None, torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)]
)
def test_labels_that_are_no_integer_tensor_are_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"labels must be an? (integer )?tensor"):
        Regions.from_labels(labels, {"eyes": [1]})


@pytest.mark.parametrize("names", [3, None, "ab", [1, 2]])
def test_names_that_are_no_strings_are_refused(names: Any) -> None:
    masks = torch.full((1, 2, 4, 4), 0.5)
    for call in (lambda: Regions(masks, names), lambda: Regions.from_masks(masks, names, rest=None)):
        with pytest.raises(ValueError, match="names must be a tuple of strings"):
            call()
    with pytest.raises(ValueError, match="masks must be a tensor, got ndarray"):
        Regions(masks.numpy(), ("a", "b"))


@pytest.mark.parametrize("dilation", [-1, 1.5, True, "2"])
def test_a_dilation_that_is_no_number_of_pixels_is_refused(dilation: Any) -> None:
    with pytest.raises(ValueError, match="dilation must be a number of pixels"):
        Regions.from_labels(torch.zeros(1, 4, 4, dtype=torch.long), {"eyes": [1]}, dilation=dilation)
