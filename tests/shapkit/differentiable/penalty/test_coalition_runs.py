"""How the penalty runs the network: batched, recomputed, compiled, without waiting, in the layout it was given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from shapkit.differentiable import DummyPlayerPenalty, LossReport, Regions, star, statistics_kept

ESTIMATORS: list[Any] = ["direct", "exact", "per_region", "shared", "grand", "present"]
FILLS: list[Any] = ["zeros", "noise", "exchange", "batch_mean"]
LABELS = torch.tensor([[[0, 0, 1, 1]] * 2 + [[2, 2, 1, 1]] * 2])
REGIONS = Regions.from_labels(LABELS, {"right": [1], "low": [2]}, dtype=torch.float64)
N_REGIONS = 3
X = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIMES = torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float64)


class Timed(nn.Module):
    """A small convolutional network that needs to know each row's timestep; counts its passes and the rows in them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64))
        self.sizes: list[int] = []

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        times = TIMES if rows is None else TIMES[rows]
        return torch.tanh(F.conv2d(x, self.weight, padding=1)) * times[:, None, None, None]


def loss_and_gradients(penalty: DummyPlayerPenalty, given: bool = False) -> tuple[list[Tensor], list[int]]:
    network, x = Timed(), X.clone().requires_grad_()
    output = network(x) if given else None
    loss = penalty(network, x, REGIONS, output=output, step=3)
    return [loss, *torch.autograd.grad(loss, [x, network.weight])], network.sizes


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", ["noise", "exchange"])
@pytest.mark.parametrize("options", [{"batch_runs": 3}, {"checkpoint": True}, {"batch_runs": 64, "checkpoint": True}])
def test_batched_and_recomputed_runs_change_neither_value_nor_gradient(
    estimator: Any, fill: Any, options: dict[str, Any]
) -> None:
    for given in (False, True):
        expected, _ = loss_and_gradients(DummyPlayerPenalty(estimator, fill, samples=3), given)
        found, _ = loss_and_gradients(DummyPlayerPenalty(estimator, fill, samples=3, **options), given)
        assert float(expected[0].detach()) > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_forward_passes() -> None:
    exact = DummyPlayerPenalty("exact", "zeros")
    assert loss_and_gradients(exact)[1] == [4] * 8
    batched = DummyPlayerPenalty("exact", "zeros", batch_runs=3)
    assert loss_and_gradients(batched)[1] == [12, 12, 8]  # never more than three coalitions at once
    recomputed = DummyPlayerPenalty("exact", "zeros", batch_runs=3, checkpoint=True)
    assert sorted(loss_and_gradients(recomputed)[1]) == [8, 8, 12, 12, 12, 12]  # once more, in the backward pass


def test_checkpointing_keeps_the_activations_of_one_pass() -> None:
    def activations(checkpoint: bool) -> int:
        """Tensors that autograd saves for the backward pass, in elements."""
        saved: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        penalty = DummyPlayerPenalty("exact", "zeros", checkpoint=checkpoint)
        weight = torch.ones(64, 2, 1, 1, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            penalty(lambda x: F.conv2d(x, weight).tanh().sum(dim=1, keepdim=True), X, REGIONS)
        return sum(saved)

    # Eight runs, each with 64 channels of tanh that the backward pass needs.
    per_run = 64 * 4 * 4 * len(X)
    assert activations(checkpoint=False) > 8 * per_run
    assert activations(checkpoint=True) < per_run


@pytest.mark.parametrize("wrong", [lambda x, rows: x[:4], lambda x, rows: x.sum(dim=(1, 2))])
def test_batched_outputs_are_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"same batch, 12 rows.* the output is \("):
        DummyPlayerPenalty("exact", batch_runs=3)(wrong, X, REGIONS)


def test_batch_runs_below_one() -> None:
    with pytest.raises(ValueError, match="batch_runs must be at least 1, got 0"):
        DummyPlayerPenalty(batch_runs=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("batch_runs", [1, 4])
def test_channels_last_stays_channels_last(estimator: Any, fill: Any, batch_runs: int) -> None:
    x = X.float().contiguous(memory_format=torch.channels_last)
    layouts = []

    def network(mixed: Tensor, rows: Tensor | None = None) -> Tensor:
        layouts.append((mixed.is_contiguous(memory_format=torch.channels_last), mixed.is_contiguous()))
        return torch.tanh(mixed)

    DummyPlayerPenalty(estimator, fill, samples=2, batch_runs=batch_runs)(network, x, REGIONS)
    assert layouts and set(layouts) == {(True, False)}


class Waits(TorchDispatchMode):
    """Notes the operations that would make the host wait for a device: scalars read, sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("action", "name"),
    [(lambda: float(X.sum()), "_local_scalar_dense"), (lambda: X[X > 0], "index"), (lambda: bool((X > 0).all()), "")],
)
def test_waits_are_noticed(action: Any, name: str) -> None:
    with Waits() as waits:
        action()
    assert waits.found and name in (*waits.found, "")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("fill", FILLS)
def test_nothing_waits_for_the_device(estimator: Any, fill: Any) -> None:
    x = X.clone().requires_grad_()
    weights, levels = torch.ones(4), torch.ones(4)
    for graph in ("own", star()):
        for options in ({}, {"batch_runs": 4}):
            penalty = DummyPlayerPenalty(estimator, fill, graph=graph, samples=2, **options)  # type: ignore[arg-type]
            with Waits() as waits:
                loss = penalty(
                    lambda mixed, rows=None: torch.tanh(mixed),
                    x,
                    REGIONS,
                    output=torch.tanh(x),
                    noise_level=levels,
                    sample_weights=weights,
                )
                if loss.requires_grad:
                    loss.backward()
            assert waits.found == []


def test_making_a_report_waits_for_nothing() -> None:
    penalty = DummyPlayerPenalty("exact")
    with Waits() as waits:
        drawn = penalty.draw(X, REGIONS)
        report = LossReport.from_terms(penalty.terms(torch.tanh, X, REGIONS, drawn), drawn, REGIONS)
        assert report.shares.shape == (N_REGIONS,)
    assert waits.found == []


@pytest.mark.parametrize(
    ("estimator", "fill"),
    [*((name, "exchange") for name in ESTIMATORS), *(("grand", fill) for fill in FILLS if fill != "exchange")],
)
def test_compiles_to_one_graph(estimator: Any, fill: Any) -> None:
    torch._dynamo.reset()
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    penalty = DummyPlayerPenalty(estimator, fill, samples=2)

    def loss(x: Tensor, drawn: Any) -> Tensor:
        return penalty(network, x, REGIONS, output=network(x), drawn=drawn)

    compiled = torch.compile(loss, backend="eager", fullgraph=True)  # raises at the first graph break
    drawn = penalty.draw(X, REGIONS, step=1)
    torch.testing.assert_close(compiled(X, drawn), loss(X, drawn), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ["grand", "present"])
def test_new_draws_do_not_compile_again(estimator: Any) -> None:
    torch._dynamo.reset()
    penalty, n_graphs = DummyPlayerPenalty(estimator, samples=2), 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal n_graphs
        n_graphs += 1
        return graph.forward

    def loss(x: Tensor, drawn: Any) -> Tensor:
        return penalty(lambda mixed: torch.tanh(mixed.roll(1, 3)), x, REGIONS, drawn=drawn)

    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    losses = {float(compiled(X, penalty.draw(X, REGIONS, step=step))) for step in range(8)}
    assert len(losses) > 1  # the draws do differ
    assert n_graphs == 1


def test_what_was_drawn_names_the_call() -> None:
    for fill in FILLS:
        penalty = DummyPlayerPenalty(fill=fill, samples=2)
        drawn = penalty.draw(X, REGIONS, step=7, first_index=2)
        expected = penalty(Timed(), X, REGIONS, step=7, first_index=2)
        torch.testing.assert_close(penalty(Timed(), X, REGIONS, drawn=drawn), expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"batch_runs": 4}, {"checkpoint": True}])
def test_autocast_leaves_the_residuals_in_float32(options: dict[str, Any]) -> None:
    """A constant of 1,000 hides differences of 0.1 from bfloat16, but not from the float32 of its outputs."""
    x = X.float()

    def network(mixed: Tensor, rows: Tensor | None = None) -> Tensor:
        small = F.conv2d(mixed, torch.ones(2, 2, 3, 3), padding=1)
        assert small.dtype == torch.bfloat16
        return small.float() * 0.01 + 1000

    penalty = DummyPlayerPenalty("exact", **options)
    with torch.autocast("cpu", torch.bfloat16):
        loss = penalty(network, x, REGIONS)
    expected = penalty(lambda mixed, rows=None: F.conv2d(mixed, torch.ones(2, 2, 3, 3), padding=1) * 0.01, x, REGIONS)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=0.03)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{"batch_runs": 3}, {"checkpoint": True}])
def test_batch_statistics_stay_as_they_were(training: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)).double().train(training)
    before = copy.deepcopy(plain.state_dict())
    with statistics_kept(plain):  # around the backward pass too, which runs the network again
        DummyPlayerPenalty("exact", **options)(lambda mixed, rows=None: plain(mixed), X, REGIONS).backward()
    assert plain.training is training and plain[1].training is training
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
