"""The penalty on sounds, images, volumes and tokens, and on outputs of another size: against loops over coalitions.

Every property is asked of all estimators, fills and graphs, in one to four dimensions, with the channels first or last.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shapkit.differentiable import (
    Composition,
    DummyPlayerPenalty,
    LossReport,
    RandomState,
    Regions,
    TokenGraph,
    absent_input,
    allowed_influence,
    composite,
    layer_leakage,
    star,
)

ESTIMATORS: list[Any] = ["direct", "exact", "per_region", "shared", "grand", "present"]
FILLS: list[Any] = ["zeros", "noise", "exchange", "batch_mean"]
ZERO = (1e-24, 1e-12)
"""Rounding of squares, and of the magnitudes of ``direct``, in float64."""

SIZES = [(7,), (5, 4), (3, 4, 2), (2, 3, 2, 2)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Regions, int]:
    """An input, its regions and the axis of its channels; odd batches and batches of one among them."""
    size = draw(st.sampled_from(SIZES))
    batch, n_channels, each = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    labels = torch.randint(0, 3, (batch if each else 1, *size), generator=generator)
    labels.flatten(1)[:, :3] = torch.arange(3)  # everyone is present
    regions = Regions.from_labels(labels, {"a": [1], "b": [2]}, dtype=torch.float64)
    x = torch.randn(batch, n_channels, *size, generator=generator, dtype=torch.float64)
    channels = draw(st.sampled_from([1, -1]))
    return x.movedim(1, channels), regions, channels


def forms() -> st.SearchStrategy[DummyPlayerPenalty]:
    graphs = st.sampled_from(["own", star()])
    return st.builds(
        DummyPlayerPenalty,
        estimator=st.sampled_from(ESTIMATORS),
        fill=st.sampled_from(FILLS),
        graph=graphs,
        samples=st.just(4),
        seed=st.integers(0, 3),
        batch_runs=st.just(1),
        checkpoint=st.booleans(),
    )


def obedient(regions: Regions, graph: Any, channels: int) -> Any:
    """Output region k is made from all that it may look at, and from nothing else."""
    allowed = allowed_influence(graph, regions.names).double()

    def network(x: Tensor) -> Tensor:
        first = x.movedim(channels, 1)
        out = torch.zeros_like(first)
        for k in range(len(regions.names)):
            seen = torch.einsum("j,bj...->b...", allowed[k], regions.masks)[:, None]
            total = (first * seen).flatten(1).sum(dim=1).reshape(-1, *(1,) * (first.ndim - 1))
            out = out + torch.tanh(first + total) * regions.masks[:, [k]]
        return out.movedim(1, channels)

    return network


def leaking(x: Tensor) -> Tensor:
    """Everyone sees everyone."""
    return x + x.flatten(1).mean(dim=1).reshape(-1, *(1,) * (x.ndim - 1))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(), penalty=forms())
def test_local_networks_pay_nothing_whatever_the_shape(
    case: tuple[Tensor, Regions, int], penalty: DummyPlayerPenalty
) -> None:
    x, regions, channels = case
    network = obedient(regions, penalty.graph, channels)
    level = torch.linspace(0.5, 1, len(x), dtype=torch.float64)
    for output in (None, network(x)):
        found = penalty(network, x, regions, output=output, noise_level=level, channels=channels)
        assert float(found) <= ZERO[penalty.estimator == "direct"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(), penalty=forms())
def test_leaking_networks_pay_whatever_the_shape(
    case: tuple[Tensor, Regions, int], penalty: DummyPlayerPenalty
) -> None:
    x, regions, channels = case
    lone = penalty.fill == "batch_mean" and len(x) == 1  # its own mean, so that nothing is ever absent
    found = sum(float(penalty(leaking, x, regions, step=step, channels=channels)) for step in range(6))
    assert (found < 1e-12) if lone else (found > 1e-9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(), penalty=forms(), dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_half_precision_changes_no_more_than_its_rounding(
    case: tuple[Tensor, Regions, int], penalty: DummyPlayerPenalty, dtype: torch.dtype
) -> None:
    """Both networks run in half precision under autocast, and the penalty's own arithmetic in float32.

    Two runs of a network differ by its rounding, u for each of at most 3 + 1 operations on numbers up to ``largest``.
    With r the root of the mean square residual, |(r + d)^2 - r^2| <= d (2 r + d), and r is at most 2 ``largest``.
    """
    x, regions, channels = case[0].float(), case[1].to(case[0].float()), case[2]
    mix = torch.randn(x.shape[channels], x.shape[channels], generator=torch.Generator().manual_seed(0)).requires_grad_()

    def local(x: Tensor) -> Tensor:
        return (x.movedim(channels, -1) @ mix).movedim(-1, channels)

    largest = max(float(mix.detach().abs().sum()) * 3 * float(x.abs().max()), 1.0)
    rounding = 2 * 4 * torch.finfo(dtype).eps * largest
    magnitude = penalty.estimator == "direct"
    for network, leaks in ((local, False), (lambda x: leaking(local(x)), True)):
        exact = float(penalty(network, x, regions, channels=channels).detach())
        with torch.autocast("cpu", dtype):
            assert local(x).dtype == dtype
            found = penalty(network, x, regions, channels=channels)
        assert found.dtype == torch.float32
        bound = rounding if magnitude else rounding * (4 * largest + rounding)
        assert abs(float(found.detach()) - exact) <= bound
        if not leaks:
            assert float(found.detach()) <= (rounding if magnitude else rounding**2)
        elif found.requires_grad:
            (gradient,) = torch.autograd.grad(found, mix)
            assert gradient.isfinite().all() and gradient.dtype == torch.float32


def slow_exact(x: Tensor, regions: Regions, graph: Any, fill: Any, network: Any) -> float:
    """E_S ||v_k(S) - v_k(S & A_k)||^2, by loops over samples, regions, coalitions and pixels."""
    allowed, absent = allowed_influence(graph, regions.names), absent_input(fill, x)
    n, total = len(regions.names), 0.0
    outputs = {}
    for members in product([0, 1], repeat=n):
        mixed = absent.clone()
        for b in range(len(x)):
            masks = regions.masks[b if len(regions.masks) > 1 else 0]
            for place in product(*map(range, regions.size)):
                owner = int(masks[(slice(None), *place)].argmax())
                if members[owner]:
                    mixed[(b, slice(None), *place)] = x[(b, slice(None), *place)]
        outputs[members] = network(mixed)
    for members, b, k in product(outputs, range(len(x)), range(n)):
        masks = regions.masks[b if len(regions.masks) > 1 else 0]
        permitted = tuple(int(there and allowed[k, j]) for j, there in enumerate(members))
        places = [p for p in product(*map(range, regions.size)) if masks[(k, *p)] == 1]
        change = [outputs[members][(b, slice(None), *p)] - outputs[permitted][(b, slice(None), *p)] for p in places]
        total += float(torch.stack(change).square().mean())
    return total / len(outputs) / len(x) / n


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", ["zeros", "exchange", "batch_mean"])
@pytest.mark.parametrize("graph", ["own", star()])
def test_equal_to_loops_over_coalitions_and_pixels(size: tuple[int, ...], fill: Any, graph: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (3, *size), generator=generator)
    labels.flatten(1)[:, :3] = torch.arange(3)
    regions = Regions.from_labels(labels, {"a": [1], "b": [2]}, dtype=torch.float64)
    x = torch.randn(3, 2, *size, generator=generator, dtype=torch.float64)
    expected = slow_exact(x, regions, graph, fill, leaking)
    penalty = DummyPlayerPenalty("exact", fill, graph=graph)
    assert float(penalty(leaking, x, regions)) == pytest.approx(expected, rel=1e-10)
    last = penalty(leaking, x.movedim(1, -1), regions, channels=-1)
    assert float(last) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", SIZES)
def test_reports_and_gradients_in_every_shape(estimator: Any, size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    regions = Regions.grid(*[1] * (len(size) - 1), 2, *size, dtype=torch.float64)
    x = torch.randn(3, 2, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    penalty = DummyPlayerPenalty(estimator, samples=4)
    drawn = penalty.draw(x, regions)
    terms = penalty.terms(leaking, x, regions, drawn)
    report = LossReport.from_terms(terms, drawn, regions)
    loss = penalty(leaking, x, regions)
    assert float(report.loss) == pytest.approx(float(loss.detach()), rel=1e-10)
    (gradient,) = torch.autograd.grad(loss, x)
    at = (0, 0, *[0] * len(size))
    step = torch.zeros_like(x)
    step[at] = 1e-6
    with torch.no_grad():
        numeric = (penalty(leaking, x + step, regions) - penalty(leaking, x - step, regions)) / 2e-6
    assert float(gradient[at]) == pytest.approx(float(numeric), rel=1e-4, abs=1e-9)


def test_composites_are_the_same_with_channels_last() -> None:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(2))
    regions = Regions.grid(2, 2, 5, 4)
    coalition = torch.tensor([True, False, False, True])
    first = composite(x, x.flip(0), regions, coalition)
    last = composite(x.movedim(1, -1), x.flip(0).movedim(1, -1), regions, coalition, channels=-1)
    assert torch.equal(first.movedim(1, -1), last)


# Outputs of another size.


class Decoder(nn.Module):
    """Pixels of 4 x 4 for each latent; ``blur`` mixes neighbours."""

    def __init__(self, blur: bool) -> None:
        super().__init__()
        self.up, self.blur = nn.Upsample(scale_factor=4), nn.AvgPool2d(7, 1, 3) if blur else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.blur(self.up(z))
        return out


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", FILLS)
def test_a_decoder_s_regions_are_the_latents_resized(estimator: Any, fill: Any) -> None:
    z = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    regions, penalty = Regions.grid(1, 2, 4, 4), DummyPlayerPenalty(estimator, fill, samples=4)
    assert float(penalty(Decoder(False), z, regions)) <= (1e-7 if estimator == "direct" else 0)
    leak = float(penalty(Decoder(True), z, regions))
    assert leak > 1e-6
    assert float(penalty(Decoder(True), z, regions, output_regions=regions.resized(16, 16))) == leak


def test_patches_and_more_channels() -> None:
    """A network from pixels to tokens: (batch, 3, 8, 8) to (batch, 16, 12), with regions of its tokens derived."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    regions, penalty = Regions.grid(2, 1, 8, 8), DummyPlayerPenalty()

    def patches(x: Tensor) -> Tensor:
        return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 16, 12)

    assert float(penalty(patches, x, regions, channels=(1, -1))) == 0
    assert float(penalty(lambda x: patches(x).cumsum(dim=1), x, regions, channels=(1, -1))) > 0.01
    expected = regions.resized(4, 4).masks.flatten(2)
    assert torch.equal(regions.patched(2).masks, expected)
    with pytest.raises(ValueError, match="no regions of the output can be derived"):
        penalty(lambda x: patches(x)[:, 1:], x, regions, channels=(1, -1))
    with pytest.raises(ValueError, match="the sides must be multiples of the patch, 3, got 8 x 8"):
        regions.patched(3)


# Regions, composition, token graphs and the probe.


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_resizing_gives_every_cell_its_share_in_every_dimension(data: st.DataObject) -> None:
    old = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    new = data.draw(st.lists(st.integers(1, 5), min_size=len(old), max_size=len(old)))
    labels = torch.randint(0, 3, (1, *old), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    regions = Regions.from_labels(labels, {"a": [1], "b": [2]}, missing="allow")
    fine = regions.masks.double()
    for axis, n in enumerate(new, start=2):  # cells of a grid that both sizes divide
        fine = fine.repeat_interleave(n, dim=axis)
    slow = fine
    for axis, (o, n) in enumerate(zip(old, new, strict=True), start=2):
        slow = slow.unflatten(axis, (n, o)).mean(dim=axis + 1)
    torch.testing.assert_close(regions.resized(*new).masks.double(), slow, rtol=0, atol=1e-7)
    hard = regions.resized(*new, hard=True, missing="allow").masks
    assert torch.equal(hard.sum(dim=1), torch.ones(1, *new))
    with pytest.raises(ValueError, match="one for every axis"):
        regions.resized(*new, 3)


@pytest.mark.parametrize("size", [(9,), (6, 7), (4, 5, 6)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_concepts_grow_by_a_box_in_every_dimension(size: tuple[int, ...], dilation: int) -> None:
    labels = torch.zeros(1, *size, dtype=torch.long)
    centre = tuple(side // 2 for side in size)
    labels[(0, *centre)] = 1
    grown = Regions.from_labels(labels, {"dot": [1]}, dilation=dilation).mask("dot")[0, 0]
    for place in product(*map(range, size)):
        near = max(abs(a - b) for a, b in zip(place, centre, strict=True)) <= dilation
        assert bool(grown[place]) == near


def test_grids_of_any_number_of_axes() -> None:
    assert Regions.grid(3, 7).names == ("c0", "c1", "c2")
    assert Regions.grid(3, 7).areas.tolist() == [[2, 2, 3]]
    volume = Regions.grid(2, 1, 2, 4, 3, 2)
    assert volume.names == ("d0r0c0", "d0r0c1", "d1r0c0", "d1r0c1") and volume.size == (4, 3, 2)
    assert volume.mask("d1r0c0")[0, 0, :, :, 0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [1] * 3]
    for wrong in ((), (2,), (1, 2, 3)):
        with pytest.raises(ValueError, match="grid takes the number of cells along every axis"):
            Regions.grid(*wrong)
    with pytest.raises(ValueError, match="columns must be from 1 to the 3 pixels there are, got 4"):
        Regions.grid(4, 3)


@pytest.mark.parametrize("channels", [1, -1])
@pytest.mark.parametrize("size", [(6,), (2, 3, 4)])
def test_compositions_are_local_in_every_shape(size: tuple[int, ...], channels: int) -> None:
    regions = Regions.grid(*[1] * (len(size) - 1), 2, *size)
    compose = Composition(regions, "own", channels=channels)
    x = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(5)).movedim(1, channels)
    penalty = DummyPlayerPenalty("exact")
    assert float(penalty(lambda x: compose(lambda z, rows: leaking(z), x), x, regions, channels=channels)) < 1e-12
    assert float(penalty(leaking, x, regions, channels=channels)) > 1e-4


@pytest.mark.parametrize("size", [(8,), (4, 4, 4)])
def test_tokens_of_sounds_and_volumes(size: tuple[int, ...]) -> None:
    regions = Regions.grid(*[1] * (len(size) - 1), 2, *size)
    graph = TokenGraph.of(regions, "own", patch=2)
    assert torch.equal(graph.owners, regions.patched(2).masks.argmax(dim=1))


@pytest.mark.parametrize(("size", "channels"), [((8,), 1), ((8,), -1), ((4, 4, 4), 1)])
def test_the_probe_finds_the_layer_that_leaks_in_every_shape(size: tuple[int, ...], channels: int) -> None:
    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[len(size)]
    torch.manual_seed(0)
    local: nn.Module = nn.Linear(3, 3) if channels == -1 else convolution(3, 3, 1)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            axes = tuple(range(1, x.ndim - 1)) if channels == -1 else tuple(range(2, x.ndim))
            return x + x.mean(dim=axes, keepdim=True)

    network = nn.Sequential(local, Mean())
    x = torch.randn(4, 3, *size).movedim(1, channels)
    regions = Regions.grid(*[1] * (len(size) - 1), 2, *size)
    found = layer_leakage(network, x, regions, channels=channels)
    assert found.worst() == ("1",)
    assert (found.local[0] == 0).all() and (found.local[1] > 0.001).all()


# Dropout, and other numbers that a network draws.


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("options", [{}, {"batch_runs": 3}, {"checkpoint": True}])
def test_dropout_is_no_leak(estimator: Any, fill: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.3), nn.Conv2d(8, 3, 1)).train()
    x, regions = torch.randn(5, 3, 8, 8), Regions.grid(1, 2, 8, 8)
    penalty = DummyPlayerPenalty(estimator, fill, samples=3, **options)

    def run(x: Tensor, rows: Tensor | None = None) -> Tensor:
        out: Tensor = network(x)
        return out

    state = RandomState.of("cpu")
    output = run(x)
    for known in ({}, {"output": output}, {"output": output, "random_state": state}):
        found = penalty(run, x, regions, **known)
        assert float(found.detach()) < (1e-6 if estimator == "direct" else 1e-12)
    paired = penalty(run, x[:4], regions, conditions="paired")  # the neighbour's output has another mask
    assert float(paired.detach()) < (1e-6 if estimator == "direct" else 1e-12)


@pytest.mark.parametrize("options", [{}, {"batch_runs": 3}, {"checkpoint": True}])
def test_dropout_hides_no_leak(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Dropout(0.3), nn.Conv2d(8, 3, 1)).train()
    x, regions = torch.randn(4, 3, 8, 8), Regions.grid(1, 2, 8, 8)
    penalty = DummyPlayerPenalty("exact", **options)
    torch.manual_seed(1)
    mask = nn.Dropout(0.3)(torch.ones(4, 8, 8, 8))

    def with_that_mask(x: Tensor, rows: Tensor | None = None) -> Tensor:
        out: Tensor = network[2](network[0](x) * (mask if rows is None else mask[rows]))
        return out

    torch.manual_seed(1)
    found = penalty((lambda x, rows: network(x)) if "batch_runs" in options else network, x, regions)
    expected = penalty(with_that_mask, x, regions)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, network[0].weight)
    (slow,) = torch.autograd.grad(expected, network[0].weight)
    torch.testing.assert_close(gradient, slow, rtol=1e-4, atol=1e-7)


def test_the_generators_are_left_as_one_run_leaves_them() -> None:
    network, x = nn.Dropout(0.5).train(), torch.randn(4, 3, 4, 4)
    regions, penalty = Regions.grid(1, 2, 4, 4), DummyPlayerPenalty("exact")
    torch.manual_seed(3)
    network(x)
    after_one = RandomState.of("cpu")
    torch.manual_seed(3)
    penalty(network, x, regions)
    assert after_one.is_current()
    torch.manual_seed(3)
    state, output = RandomState.of("cpu"), network(x)
    penalty(network, x, regions, output=output, random_state=state)
    assert after_one.is_current()


def test_an_output_without_its_random_state_is_used_where_nothing_is_drawn_alone() -> None:
    runs = []
    x, regions = torch.randn(4, 3, 4, 4), Regions.grid(1, 2, 4, 4)
    for rate in (0.0, 0.5):
        calls: list[Tensor] = []

        def network(x: Tensor, rate: float = rate, calls: list[Tensor] = calls) -> Tensor:
            calls.append(x)
            return nn.functional.dropout(x, rate) if rate else x

        DummyPlayerPenalty()(network, x, regions, output=network(x))
        runs.append(len(calls) - 1)
    assert runs == [1, 2]
