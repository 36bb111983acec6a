"""Runs of a network on coalitions of regions: each once, several in one forward pass where that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from shapkit.differentiable.penalty.absence import partner
from shapkit.differentiable.penalty.comparisons import Comparisons
from shapkit.differentiable.regions import Regions, composite

Network = Callable[..., Tensor]
"""Any function from (batch, channels, height, width) to a tensor of that batch and those pixels.

Called as ``network(x)``; where several coalitions share a forward pass as ``network(x, rows)``, with ``rows`` int64
(len(x),) the number of the sample that each row of x was made from, to pick timesteps and conditions with.
"""


def coalition_outputs(
    network: Network,
    x: Tensor,
    absent: Tensor,
    regions: Regions,
    comparisons: Comparisons,
    *,
    output: Tensor | None,
    exchange: bool,
    batch_runs: int = 1,
    checkpoint: bool = False,
) -> list[Tensor]:
    """The output (batch, channels, height, width) for every coalition of ``comparisons``, at least float32.

    Args:
        network: see ``Network``.
        x, absent: what present and absent regions show, (batch, channels, height, width).
        regions: the players.
        comparisons: whose coalitions are run.
        output: ``network(x)``, where it is known; saves a run.
        exchange: whether the empty coalition's output is the grand coalition's with neighbours exchanged; saves a run.
        batch_runs: coalitions per forward pass.
        checkpoint: keep no activations, and run every pass again in the backward pass.

    Raises:
        ValueError: if the network's output does not fit ``x``.
    """
    batch = x.shape[0]
    known: dict[int, Tensor] = {}
    if output is not None:
        output = checked_output(output, x, batch)
        if comparisons.grand is not None:
            known[comparisons.grand] = output

    def forward(rows: list[int]) -> Tensor:
        coalitions = comparisons.coalitions
        mixed = [x if row == comparisons.grand else composite(x, absent, regions, coalitions[row]) for row in rows]
        if batch_runs == 1:
            return network(mixed[0])
        return network(torch.cat(mixed), torch.arange(batch, device=x.device).repeat(len(rows)))

    from_partner = comparisons.empty if exchange else None
    todo = [row for row in range(len(comparisons.coalitions)) if row not in known and row != from_partner]
    for first in range(0, len(todo), batch_runs):
        rows = todo[first : first + batch_runs]
        outputs = recomputed(forward, rows, use_reentrant=False) if checkpoint else forward(rows)
        known |= zip(rows, checked_output(outputs, x, batch * len(rows)).split(batch), strict=True)
    if from_partner is not None and comparisons.grand is not None:
        known[from_partner] = partner(known[comparisons.grand])
    return [known[row] for row in range(len(comparisons.coalitions))]


def checked_output(output: Tensor, x: Tensor, n_rows: int) -> Tensor:
    """The output of a network on ``n_rows`` rows made from ``x``, at least float32; a ValueError if it does not fit."""
    if output.ndim != 4 or output.shape[0] != n_rows or output.shape[2:] != x.shape[2:]:
        given = (n_rows, *x.shape[1:])
        raise ValueError(
            f"the network must map (batch, channels, height, width) to the same batch and pixels: "
            f"x is {given}, the output {tuple(output.shape)}"
        )
    return output if output.dtype == torch.float64 else output.float()
