"""Runs of a network on coalitions of regions: each once, several in one forward pass where that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from shapkit.differentiable.penalty.comparisons import Comparisons
from shapkit.differentiable.random_state import RandomState
from shapkit.differentiable.regions import Regions, composite

Network = Callable[..., Tensor]
"""Any function from (batch, channels, *size) to a tensor of that batch, of the same pixels or others.

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
    random_state: RandomState | None = None,
    batch_runs: int = 1,
    checkpoint: bool = False,
    channels: int = 1,
) -> list[Tensor]:
    """The output (batch, channels, *size) for every coalition of ``comparisons``, at least float32.

    All runs start from one state of torch's generators, so that a network with dropout draws the same in each of them:
    a change of the output is then a change of the input's. Where a network is found to draw, a coalition shares no pass
    with another, a sample no output with its neighbour, and an ``output`` that comes without its state is not used. The
    generators are left as one run leaves them; as they were, if ``random_state`` says where the runs begin.

    Args:
        network: see ``Network``.
        x, absent: what present and absent regions show, (batch, channels, *size).
        regions: the players.
        comparisons: whose coalitions are run.
        output: ``network(x)``, where it is known; saves a run.
        random_state: of torch's generators before ``output`` was made.
        batch_runs: coalitions per forward pass.
        checkpoint: keep no activations, and run every pass again in the backward pass.
        channels: the axis of the channels of ``x``.

    Raises:
        ValueError: if the network's output does not fit ``x``.
    """
    batch = x.shape[0]
    n_coalitions, grand, exchange = len(comparisons.coalitions), comparisons.grand, comparisons.exchange
    known: dict[int, Tensor] = {}
    if output is not None:
        output = checked_output(output, batch)
        if grand is not None:
            known[grand] = output
    entry = RandomState.of(x.device) if n_coalitions and not _recording() else None
    start = random_state or entry
    from_other = comparisons.empty if exchange is not None and exchange.outputs and grand is not None else None

    def forward(rows: list[int]) -> Tensor:
        coalitions = comparisons.coalitions
        mixed = [
            x if row == grand else composite(x, absent, regions, coalitions[row], channels=channels) for row in rows
        ]
        if batch_runs == 1:
            return network(mixed[0])
        return network(torch.cat(mixed), torch.arange(batch, device=x.device).repeat(len(rows)))

    draws: bool | None = None if entry is not None else False  # None until a run has shown it
    together = batch_runs
    todo = [row for row in range(n_coalitions) if row not in known and row != from_other]
    while todo:
        rows, todo = todo[:together], todo[together:]
        if start is not None and draws is not False:
            start.restore()
        outputs = recomputed(forward, rows, use_reentrant=False) if checkpoint else forward(rows)
        if start is not None and draws is None:
            draws = not start.is_current()
            if draws:
                valid = rows if len(rows) == 1 else []
                if random_state is None:
                    known = {}
                together, from_other = 1, None
                todo = [row for row in range(n_coalitions) if row not in known and row not in valid]
                if not valid:
                    continue
        known |= zip(rows, checked_output(outputs, batch * len(rows)).split(batch), strict=True)
        shape = outputs.shape[1:]
        if output is not None and output.shape[1:] != shape:
            raise ValueError(
                f"output must be network(x): it is {tuple(output.shape)}, and the network's own {(batch, *shape)}"
            )
    if entry is not None and random_state is not None:
        entry.restore()
    if from_other is not None and exchange is not None and grand is not None:
        known[from_other] = exchange.exchanged(known[grand])
    return [known[row] for row in range(n_coalitions)]


def _recording() -> bool:
    """Whether this is compiled, or captured as a CUDA graph, where no state can be taken or set."""
    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def checked_output(output: Tensor, n_rows: int) -> Tensor:
    """The output of a network on ``n_rows`` rows, at least float32; a ValueError if it has not as many."""
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network must return a tensor, got {type(output).__name__}: pick what is compared, such as "
            "lambda x: network(x, timesteps).sample"
        )
    if output.ndim < 3 or output.shape[0] != n_rows:
        raise ValueError(
            f"the network must map (batch, channels, *size) to a tensor of the same batch, {n_rows} rows, with an axis "
            f"of channels and at least one of pixels or tokens; the output is {tuple(output.shape)}"
        )
    return output if output.dtype == torch.float64 else output.float()
