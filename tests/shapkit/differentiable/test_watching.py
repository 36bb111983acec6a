"""Losses that call the network by themselves: what is remembered of the call, and that the penalty of it is right."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shapkit.differentiable import DummyPlayerPenalty, RandomState, Regions, watching

REGIONS = Regions.grid(1, 2, 8, 8)


class Net(nn.Module):
    """A network of (x, sigma), with dropout; local if the kernel is 1."""

    def __init__(self, kernel: int, rate: float = 0.2) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 3, kernel, padding=kernel // 2), nn.Dropout(rate)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = self.drop(self.conv(x)) / (1 + sigma[:, None, None, None])
        return out


def edm_like(network: Callable[..., Tensor], images: Tensor) -> Tensor:
    """A loss that draws noise and its level, and calls the network inside."""
    sigma = torch.rand(len(images)) + 0.1
    noised = images + sigma[:, None, None, None] * torch.randn_like(images)
    return (network(noised, sigma) - images).square().mean()


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, {"batch_runs": 2, "samples": 3}, {"checkpoint": True}])
@pytest.mark.parametrize("batch", [1, 4, 5])
def test_the_penalty_of_a_hidden_call(options: dict[str, Any], batch: int) -> None:
    found = []
    for kernel in (1, 5):
        torch.manual_seed(0)
        network = Net(kernel).train()
        with watching(network) as call:
            loss = edm_like(network, images(batch))
        penalty = call.penalty(DummyPlayerPenalty(**options), REGIONS, step=0)
        (loss + 10 * penalty).backward()
        assert network.conv.weight.grad is not None
        found.append(float(penalty.detach()))
    assert found[0] < 1e-12 < 1e-5 < found[1]


def test_it_is_the_penalty_of_the_same_call_by_hand() -> None:
    torch.manual_seed(0)
    network = Net(3, rate=0.0)
    with watching(network) as call:
        torch.manual_seed(1)
        edm_like(network, images())
    torch.manual_seed(1)
    sigma = torch.rand(4) + 0.1
    x = images() + sigma[:, None, None, None] * torch.randn_like(images())
    assert torch.equal(call.x, x) and torch.equal(call.output, network(x, sigma))
    for penalty in (DummyPlayerPenalty(), DummyPlayerPenalty("shared", samples=4, batch_runs=3)):
        by_hand = penalty(lambda x, rows=None: network(x, sigma if rows is None else sigma[rows]), x, REGIONS, step=7)
        assert torch.equal(call.penalty(penalty, REGIONS, step=7), by_hand)


def test_nothing_of_it_changes_the_loss_or_its_random_numbers() -> None:
    torch.manual_seed(0)
    network, losses = Net(3).train(), []
    for watched in (False, True):
        torch.manual_seed(1)
        if watched:
            with watching(network) as call:
                loss = edm_like(network, images())
            call.penalty(DummyPlayerPenalty(), REGIONS)
        else:
            loss = edm_like(network, images())
        losses.append((float(loss.detach()), float(torch.rand(()))))
    assert losses[0] == losses[1]


class Conditioned(nn.Module):
    """Self-conditioning: what was predicted before is an input, too; returns what diffusers' models return."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, *, sample: Tensor, timestep: int, before: Tensor | None = None) -> Any:
        before = torch.zeros_like(sample) if before is None else before
        return SimpleNamespace(sample=self.conv(torch.cat([sample, before], dim=1)))


def self_conditioned(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        first = network(sample=images, timestep=3).sample[:, :3]
    predicted: Tensor = network(sample=images, timestep=3, before=first).sample[:, :3]
    return (predicted - images).square().mean()


@pytest.mark.parametrize("number", [-2, -1, 0, 1])
def test_which_of_several_calls(number: int) -> None:
    network, x = Conditioned(), images()
    with watching(network, input="sample", output=lambda result: result.sample[:, :3], number=number) as call:
        self_conditioned(network, x)
    assert call.output.requires_grad == (number in (-1, 1))
    assert float(call.penalty(DummyPlayerPenalty(), REGIONS).detach()) == 0
    for beyond in (2, -3):
        with watching(network, input="sample", number=beyond) as call:
            self_conditioned(network, x)
        with pytest.raises(ValueError, match=f"number={beyond} asks for a call that was not made: there were 2"):
            call.penalty(DummyPlayerPenalty(), REGIONS)


@pytest.mark.parametrize(
    ("result", "output"),
    [
        (lambda y: y, None),
        (lambda y: (y, "more"), None),
        (lambda y: ("more", y), 1),
        (lambda y: {"prediction": y}, None),
        (lambda y: {"aux": 3, "prediction": y}, "prediction"),
        (lambda y: SimpleNamespace(sample=y), None),
        (lambda y: SimpleNamespace(mean=y), "mean"),
        (lambda y: torch.cat([y, y], dim=1), lambda result: result[:, :3]),
    ],
)
def test_what_of_a_result_is_compared(result: Any, output: Any) -> None:
    class Packs(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return result(torch.tanh(x) + x.mean(dim=3, keepdim=True))

    network = Packs()
    with watching(network, output=output) as call:
        network(images())
    direct = DummyPlayerPenalty()(lambda x: torch.tanh(x) + x.mean(dim=3, keepdim=True), images(), REGIONS)
    assert torch.equal(call.penalty(DummyPlayerPenalty(), REGIONS), direct)
    with watching(network, output=lambda result: "nothing") as call:  # type: ignore[arg-type, return-value]
        network(images())
    with pytest.raises(ValueError, match="picks no tensor of the network's result but str"):
        call.penalty(DummyPlayerPenalty(), REGIONS)


def test_arguments_go_along_with_their_rows() -> None:
    """In every container, where several coalitions share a pass; what has other rows, or none, stays."""

    class Takes(nn.Module):
        def forward(self, x: Tensor, more: dict[str, Any], table: Tensor, *, pair: tuple[Tensor, Tensor]) -> Tensor:
            scale = more["scale"] * pair[0] + pair[1]
            assert len(scale) == len(x) and len(table) == 7 and more["name"] == "n"
            return torch.tanh(x) * scale[:, None, None, None]

    network, penalty = Takes(), DummyPlayerPenalty("exact", batch_runs=4)
    with watching(network) as call:
        network(images(), {"scale": torch.rand(4), "name": "n"}, torch.rand(7), pair=(torch.rand(4), torch.tensor(1.0)))
    assert float(call.penalty(penalty, REGIONS)) == 0


def test_autocast_holds_in_the_penalty_s_runs_too() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 1)
    with watching(network) as call, torch.autocast("cpu", torch.bfloat16):
        assert network(images()).dtype == torch.bfloat16
    assert float(call.penalty(DummyPlayerPenalty("exact"), REGIONS).detach()) == 0


def test_nothing_stays_after_the_step() -> None:
    network = Net(3).train()
    with watching(network) as call:
        loss = edm_like(network, images())
        inside = len(network._forward_hooks), len(network._forward_pre_hooks)
    assert inside == (1, 1) and not network._forward_hooks and not network._forward_pre_hooks
    total, kept = loss + call.penalty(DummyPlayerPenalty(), REGIONS), weakref.ref(call.x)
    total.backward()
    del loss, total
    gc.collect()
    assert kept() is None
    with pytest.raises(ValueError, match="the call was released"):
        call.penalty(DummyPlayerPenalty(), REGIONS)


def test_a_loss_that_fails_leaves_no_hook() -> None:
    network = Net(3)
    with pytest.raises(RuntimeError, match="no such"), watching(network):
        raise RuntimeError("no such")
    assert not network._forward_hooks
    with watching(network) as call:
        with pytest.raises(TypeError):
            network("text", None)
        edm_like(network, images())
    assert call.x.shape == (4, 3, 8, 8)


def test_what_cannot_be_watched_is_told() -> None:
    refused = pytest.raises(ValueError, match="watching needs the module that the loss calls, got function")
    with refused, watching(lambda x: x):  # type: ignore[arg-type]
        pass
    with watching(Net(3)) as call:
        pass
    with pytest.raises(ValueError, match=r"the network was not called within watching\(...\)"):
        call.penalty(DummyPlayerPenalty(), REGIONS)
    network = Net(3)
    with watching(network, input="sample") as call:
        edm_like(network, images())
    with pytest.raises(ValueError, match="called without an argument 'sample': pass input=, one of 0, 1"):
        call.penalty(DummyPlayerPenalty(), REGIONS)
    with watching(network, input=1) as call:
        edm_like(network, images())
    with pytest.raises(ValueError, match=r"with the channels on axis 1|channels must be an axis"):
        call.penalty(DummyPlayerPenalty(), REGIONS)


def test_wrapped_networks_are_seen_once() -> None:
    """DistributedDataParallel, and whatever else keeps its network as ``module``; the loss may call either."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        network = Net(3, rate=0.0)
        wrapped = nn.parallel.DistributedDataParallel(network)
        found = []
        for called in (wrapped, network):
            torch.manual_seed(1)
            with watching(wrapped) as call:
                loss = edm_like(called, images())
            penalty = call.penalty(DummyPlayerPenalty(), REGIONS)
            (loss + penalty).backward()
            found.append(float(penalty.detach()))
        assert found[0] == found[1] > 0
        assert call._calls == 1
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_networks_are_watched() -> None:
    torch.manual_seed(0)
    network = Net(3, rate=0.0)
    compiled = torch.compile(network, backend="eager")
    with watching(compiled) as call:  # type: ignore[arg-type]
        loss = edm_like(compiled, images())
    penalty = call.penalty(DummyPlayerPenalty(), REGIONS)
    (loss + penalty).backward()
    assert float(penalty.detach()) > 0 and network.conv.weight.grad is not None


def test_the_random_state_is_that_before_the_call() -> None:
    network = Net(1).train()
    with watching(network) as call:
        torch.manual_seed(4)
        state = RandomState.of("cpu")
        expected = network(images(), torch.zeros(4))
    call.random_state.restore()
    assert state.is_current() and torch.equal(network(images(), torch.zeros(4)), expected)
