"""Outputs that obey an influence graph by construction: each region's from a run that sees no more than it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shapkit.differentiable.penalty.coalition_runs import Network, checked_output
from shapkit.differentiable.regions import Graph, Regions, allowed_influence, spatial_size, star

STAR = star()


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no truth value to compare by
class Part:
    """Regions that are generated together, by number; ``where`` they lie is boolean (batch or 1, 1, *size)."""

    regions: tuple[int, ...]
    where: Tensor


class Composition(nn.Module):
    """Composes an output of one run per region, on the coalition of the regions that it may look at; no parameters.

    Output region k is that of v_k(A_k), where the penalty's is that of v_k(N): every region outside A_k is a dummy
    player of game k for any weights, which no penalty can promise, and training has nothing to trade realism for. It
    takes K runs where the penalty takes one or two. The network has to be trained for it: one that never saw an input
    with a region missing (zeros) does not know what to make of it.

    ``staged`` is for generative models, and for graphs without circles: regions are generated when those are finished
    that they look at (``stages``), and see them finished in training, too. Otherwise a region and those that it looks
    at are fitted to one another while both are noisy, which loses part of their agreement, however long the training
    (docs/penalty.md, "What a one-sided graph costs").

    Args:
        regions: the K regions, of every sample or one partition for all.
        graph: see `allowed_influence`.
        staged: whether regions are generated after those that they look at; needs hard regions.
        channels: the axis of the channels; -1 for (batch, tokens, features).

    Raises:
        ValueError: if the graph does not fit, or has circles, or the regions are soft, and they are staged.

    Training and generation with a velocity network, whose data are ``x1``:

        compose = Composition(regions, star(), staged=True)
        prediction = compose(lambda x, rows: unet(x, t[rows]), x_t, finished=x1)

        for part in compose.stages():  # the rest; then every concept, given the rest
            for t, following in pairwise(times):
                step = (following - t) * compose(lambda x, rows: unet(x, t), x, part=part)
                x = torch.where(part.where, x + step, x)

    >>> regions = Regions.grid(1, 2, height=2, width=4)
    >>> right_looks_left = torch.tensor([[True, False], [True, True]])
    >>> compose = Composition(regions, right_looks_left)
    >>> everywhere = lambda x, rows: x.sum(dim=(2, 3), keepdim=True).expand_as(x)
    >>> compose(everywhere, torch.ones(1, 1, 2, 4)).squeeze().tolist()
    [[4.0, 4.0, 8.0, 8.0], [4.0, 4.0, 8.0, 8.0]]
    """

    own: Tensor
    others: Tensor

    def __init__(self, regions: Regions, graph: Graph = STAR, *, staged: bool = False, channels: int = 1) -> None:
        super().__init__()
        masks = regions.masks
        if staged and not bool(((masks == 0) | (masks == 1)).all()):
            raise ValueError("staged regions must be hard, every pixel of one: see regions.resized(..., hard=True)")
        self.regions = regions
        self.allowed = allowed_influence(graph, regions.names)
        self.staged = staged
        self._order = stages_of(self.allowed, regions.names) if staged else [tuple(range(len(regions.names)))]
        looked_at = self.allowed.to(masks).fill_diagonal_(0)
        others = torch.einsum("kj,bj...->kb...", looked_at, masks)
        # (K, batch or 1, *size), with an axis for the channels
        self.channels = channels
        axis = channels if channels < 0 else channels + 1
        self.register_buffer("own", masks.transpose(0, 1).unsqueeze(axis), persistent=False)
        self.register_buffer("others", others.unsqueeze(axis), persistent=False)

    def stages(self, changed: Tensor | None = None) -> list[Part]:
        """What is generated one after the other; everything at once, if it is not staged.

        Args:
            changed: boolean (batch or 1, 1, *size), where the noise is not that of a sample that is known: no
                more than what depends on it, the other regions being finished already.
        """
        count = len(self.own)
        reached = torch.ones(count, dtype=torch.bool)
        if changed is not None and self.staged:
            reached = (self.own * changed).flatten(1).any(dim=1).cpu()
            for _ in range(count):
                reached = (self.allowed & reached).any(dim=1)
        parts = [[k for k in part if reached[k]] for part in self._order]
        return [Part(tuple(part), self.own[part].sum(dim=0) > 0) for part in parts if part]

    def forward(
        self,
        network: Network,
        x: Tensor,
        *,
        finished: Tensor | None = None,
        part: Part | None = None,
        batch_runs: int | None = None,
    ) -> Tensor:
        """The output, (batch, channels, *size): each region's from its own run.

        Args:
            network: called as ``network(x, rows)`` with several runs below one another; ``rows`` int64 (len(x),) is
                the sample that each row of x was made from, to pick timesteps and conditions with.
            x: (batch, channels, *size).
            finished: what staged regions see of others, in training: the clean data. By default they see ``x``, in
                which they are finished when a sample is generated stage by stage.
            part: one of the ``stages``; the output is zero elsewhere. By default all regions.
            batch_runs: runs per forward pass; all by default.

        Raises:
            ValueError: if the regions or the network's output do not fit ``x``.
        """
        self.regions.check_fits(x, channels=self.channels)
        chosen = list(range(len(self.own)) if part is None else part.regions)
        around = x if finished is None or not self.staged else finished
        batch, together = len(x), batch_runs or len(chosen)
        composed: Tensor | None = None
        for first in range(0, len(chosen), together):
            rows = chosen[first : first + together]
            own, others = self.own[rows].to(x), self.others[rows].to(x)
            seen = (x * own + around * others).flatten(0, 1)
            output = checked_output(
                network(seen, torch.arange(batch, device=x.device).repeat(len(rows))), batch * len(rows)
            )
            if spatial_size(output, self.channels) != self.regions.size:
                raise ValueError(
                    f"the network must keep the pixels: its input is {tuple(seen.shape)}, its output "
                    f"{tuple(output.shape)}"
                )
            parts = (output.unflatten(0, (len(rows), batch)) * own.to(output)).sum(dim=0)
            composed = parts if composed is None else composed + parts
        assert composed is not None
        return composed


def stages_of(allowed: Tensor, names: Sequence[str]) -> list[tuple[int, ...]]:
    """The regions by what they have to wait for: first those that look at no other, then those that look at these.

    Args:
        allowed: boolean (K, K), see `allowed_influence`.
        names: of the K regions, for the message.

    Raises:
        ValueError: if regions look at one another, in a circle.

    >>> stages_of(torch.tensor([[True, True], [False, True]]), ("mouth", "rest"))
    [(1,), (0,)]
    """
    waiting, done, order = set(range(len(names))), set[int](), list[tuple[int, ...]]()
    while waiting:
        ready = {k for k in waiting if set(allowed[k].nonzero().flatten().tolist()) - {k} <= done}
        if not ready:
            stuck = ", ".join(names[k] for k in sorted(waiting))
            raise ValueError(f"regions that look at one another cannot be generated one after the other: {stuck}")
        order.append(tuple(sorted(ready)))
        done |= ready
        waiting -= ready
    return order
