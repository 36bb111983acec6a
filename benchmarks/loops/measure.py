"""A loop of others, and what is measured of it: loss on samples kept back, and the locality of an exchange."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from shapkit.differentiable import DummyPlayerPenalty, Regions, composite, star
from shapkit_diffusion.evaluation.locality import locality_of

BATCH, HELD_OUT = 16, 256
PENALTY = DummyPlayerPenalty(graph=star())  # concepts may look at the rest, the rest at no concept


@dataclass(frozen=True, eq=False)
class Loop:
    """A training loop of others.

    Args:
        source: whose it is.
        call: its line that makes the loss, for the report.
        samples: clean data, (n, ...), in the range that the loss takes.
        regions: whose noise is whose, over the input of the watched network.
        trained: all that is trained.
        network: the module that is watched, a part of it or the whole.
        loss: their loss of a batch.
        generate: their sampler, or a deterministic one from their predictions: outputs of noise.
        noise: the shape of the noise of one sample.
        weight: of the penalty.
        watch: arguments of ``watching``.
        channels: the axis of the channels.
        steps: of training, where it is not the benchmark's number.
    """

    source: str
    call: str
    samples: Tensor
    regions: Regions
    trained: nn.Module
    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    generate: Callable[[Tensor], Tensor]
    noise: tuple[int, ...]
    weight: float
    learning_rate: float = 2e-3
    watch: dict[str, Any] = field(default_factory=dict)
    channels: int = 1
    steps: int | None = None


def locality(loop: Loop, pairs: int = 32) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Mean square change inside and outside of each concept when its noise is exchanged, and one example of each."""
    generator = torch.Generator().manual_seed(1)
    noise, other = (torch.randn(pairs, *loop.noise, generator=generator) for _ in range(2))
    found, examples = {}, {}
    with torch.no_grad():
        before = loop.generate(noise)
        regions = _output_regions(loop.regions, before, loop.channels)
        masks = regions.masks.flatten(2).unsqueeze(-1)
        for k, name in enumerate(loop.regions.names[:-1]):
            kept = torch.ones(len(loop.regions.names), dtype=torch.bool)
            kept[k] = False
            after = loop.generate(composite(noise, other, loop.regions, kept, channels=loop.channels))
            measured = locality_of(name, _flat(before, loop.channels), _flat(after, loop.channels), masks[:, [k]])
            found[name] = {"inside": measured.mse_in, "outside": measured.mse_out}
            change = (after - before).square().mean(dim=(0, loop.channels))
            examples[name] = {"after": after[0].numpy(), "change": change.numpy()}
    return found, {"before": before[0].numpy(), "mask": regions.masks[0].numpy(), "concepts": examples}


def _flat(values: Tensor, channels: int) -> Tensor:
    """(n, channels, *size), or with the channels elsewhere, as (n, channels, places, 1): images of one column."""
    return values.movedim(channels, 1).flatten(2).unsqueeze(-1)


def _output_regions(regions: Regions, output: Tensor, channels: int) -> Regions:
    size = output.movedim(channels, 1).shape[2:]
    return regions if regions.size == size else regions.resized(*size)


def held_out_loss(loop: Loop, batches: int = 32) -> float:
    """The mean of their loss on samples kept out of training, with the same noises and timesteps for every network."""
    samples, losses = loop.samples[-HELD_OUT:], []
    loop.trained.eval()
    with torch.no_grad():
        for number in range(batches):
            torch.manual_seed(10**6 + number)
            losses.append(float(loop.loss(samples[torch.randint(len(samples), (64,))])))
    loop.trained.train()
    return statistics.mean(losses)


def measured(loop: Loop, leaks: list[float], seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the results keep of one network, and its examples: the penalties of its steps and a step's seconds given."""
    loss = held_out_loss(loop)
    loop.trained.eval()
    places, examples = locality(loop)
    figures = {
        "loss": loss,
        "penalty": statistics.mean(leaks[-max(1, len(leaks) // 10) :]),
        "seconds": seconds,
        "locality": places,
        "first_penalty": statistics.mean(leaks[: max(1, len(leaks) // 50)]),
    }
    return figures, examples


def figures_of(loop: Loop, rows: dict[str, Any], step_ratio: float) -> dict[str, Any]:
    """What the results keep of a loop that was trained without and with the penalty."""
    return {
        "source": loop.source,
        "call": loop.call,
        "shape": list(loop.samples.shape[1:]),
        "weight": loop.weight,
        "steps": loop.steps,
        "n_parameters": sum(weights.numel() for weights in loop.trained.parameters()),
        "step_ratio": step_ratio,
        **rows,
    }
