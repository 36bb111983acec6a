"""The dummy-player penalty: a differentiable loss that is zero when every output region ignores the input
regions it may not depend on.

Players are the regions of the input ``x``; output region ``k`` has its own game, ``v_k(S)`` = region ``k`` of
``f(x_S)``, where ``x_S`` is ``x`` with the regions outside ``S`` replaced. With ``A_k`` the players that may
influence output ``k``, all others are dummies in ``v_k`` exactly when ``v_k(S) = v_k(S & A_k)`` for every
``S`` (Theorem 1 of Liu et al., "Disentangling the visual concept generation of denoising diffusion
probabilistic models from a game-theoretic view", 2025, where ``A_k = {k}``). The penalty is a mean square of
the violations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapkit.differentiable.absence import Fill, absent_input, check_fill, partner
from shapkit.differentiable.regions import Graph, Regions, allowed_influence, composite
from shapkit.differentiable.values import MAX_PLAYERS, all_coalitions, shapley_values
from shapkit.randomness import counter_bits

Network = Callable[[Tensor], Tensor]
"""Any function from (batch, channels, height, width) to a tensor of that batch and those pixels."""

Estimator = Literal["direct", "exact", "per_region", "shared", "grand", "present"]
Payoff = Literal["pixels", "mean"]


@dataclass(frozen=True)
class DummyPlayerPenalty:
    """The penalty, callable on any function from a spatial tensor to a spatial tensor.

    All forms are means over the batch and over the K output regions ``k``; ``E_S`` is the mean over all 2^K
    coalitions, ``|| ||^2`` the mean square and ``| |`` the mean magnitude over the payoff's elements.

    ========== ========================================================== ================================
    estimator  returns (or has as its mean)                               network runs
    ========== ========================================================== ================================
    direct     sum over j outside A_k of |Shapley value of j in v_k|      2^K
               (eq. 7)
    exact      E_S ||v_k(S) - v_k(S & A_k)||^2 (eq. 8 divided by K 2^K)   2^K
    per_region E_P ||v_k(P+k) - v_k((P+k) & A_k)||^2                      2 K samples + references
               + ||v_k(P) - v_k(P & A_k)||^2, P the predecessors of k in
               a random permutation (Castro's sampling of eq. 8, as
               published)
    shared     as exact; its coalitions serve all regions at once         samples + references
    grand      E_S [A_k in S] ||v_k(S) - v_k(N)||^2                       samples, +1 unless fill is
               + [A_k and S disjoint] ||v_k(S) - v_k(empty)||^2           "exchange", +1 without ``output``
    present    E_S [A_k in S] ||v_k(S) - v_k(N)||^2                       samples, +1 without ``output``
    ========== ========================================================== ================================

    With the own-only graph the references ``v_k(S & A_k)`` are at most K + 1 coalitions, and a coalition the
    batch shares runs once per call. With ``fill="exchange"`` the absent regions come from the neighbour in
    the batch, whose own output is then the empty coalition's payoff: given ``output``, ``grand`` costs
    ``samples`` runs, whatever K is. It is the default.

    ``exact`` is zero when, for the coalitions of the batch, every player outside ``A_k`` is a dummy in
    ``v_k``, and only then; so is the mean of ``shared`` and of ``per_region``, and that of ``grand`` with the
    own-only graph. ``direct`` is weaker (marginal contributions may cancel), and so is ``grand`` with a wider
    graph, which asks only for what both references can see: no influence from outside ``A_k`` while all of
    ``A_k`` is present, or none of it. ``shared`` and ``per_region`` may draw coalitions that compare nothing
    (the empty one, say); such a call returns a zero without gradient.

    ``present`` is the half of ``grand`` that has everybody present for reference. With the exchange it asks for no
    less over a whole batch, since an exchange seen from the neighbour is its complement; and it is the one to take
    where the regions differ from sample to sample, because there the neighbour's image is cut by masks that are not
    its own, and a comparison with its output would punish what is no leak.

    Args:
        estimator: one of the six above.
        fill: what stands in for an absent region: ``"exchange"``, ``"zeros"``, ``"noise"`` or
            ``"batch_mean"``. With ``"exchange"``, rows 2i and 2i + 1 must share whatever else the network is
            given (timestep, condition, its own knowledge of the masks), or the difference is penalised; all but
            ``"present"`` compare with the neighbour's output.
        payoff: ``"pixels"`` compares the region pixel by pixel; ``"mean"`` (as published) its mean over
            pixels and channels, which is blind to changes that cancel.
        graph: who may influence whom: ``"own"``, ``star(rest)`` or a boolean K x K matrix.
        samples: coalitions drawn per call (for ``per_region``, permutations per region); ``direct`` and
            ``exact`` ignore it.
        seed: names the random draws. Coalitions of ``grand`` and noise depend on the seed, the step and the
            sample's number (see ``first_index``); coalitions of ``shared`` and ``per_region``, which the
            whole batch has in common, on the seed and the step.

    Raises:
        ValueError: for an unknown estimator, fill or payoff, or ``samples`` below one.

    >>> from shapkit.differentiable import DummyPlayerPenalty, Regions
    >>> labels = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> regions = Regions.from_labels(labels, {"right": [1]})
    >>> x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> penalty = DummyPlayerPenalty()
    >>> float(penalty(torch.tanh, x, regions)), bool(penalty(lambda x: x.roll(1, 3), x, regions) > 0)
    (0.0, True)
    """

    estimator: Estimator = "grand"
    fill: Fill = "exchange"
    payoff: Payoff = "pixels"
    graph: Graph = "own"
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.estimator not in get_args(Estimator):
            names = ", ".join(get_args(Estimator))
            raise ValueError(f"estimator must be one of {names}, got {self.estimator!r}")
        if self.payoff not in get_args(Payoff):
            raise ValueError(f"payoff must be one of {', '.join(get_args(Payoff))}, got {self.payoff!r}")
        check_fill(self.fill)
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def __call__(
        self,
        network: Network,
        x: Tensor,
        regions: Regions,
        *,
        output: Tensor | None = None,
        step: int = 0,
        first_index: int = 0,
        noise_level: float | Tensor = 1.0,
    ) -> Tensor:
        """The penalty of ``network`` at ``x``, a scalar with gradients.

        Args:
            network: called with composites of ``x`` and its stand-in, each of x's shape.
            x: (batch, channels, height, width).
            regions: the players; masks of x's height and width.
            output: ``network(x)`` with its graph, where the training step has it already; saves one run.
            step: number of the training step; names the random draws with the seed.
            first_index: number of the batch's first sample in the global batch, when processes share one.
            noise_level: standard deviation of ``fill="noise"``, one number or (batch,).

        Raises:
            ValueError: if the regions do not fit ``x``, the network's output does not fit ``x``, there is one
                region only, there are more than ``MAX_PLAYERS`` for ``direct`` or ``exact``, or the batch is
                odd with ``fill="exchange"``.
        """
        return self.unreduced(
            network, x, regions, output=output, step=step, first_index=first_index, noise_level=noise_level
        ).mean()

    def unreduced(
        self,
        network: Network,
        x: Tensor,
        regions: Regions,
        *,
        output: Tensor | None = None,
        step: int = 0,
        first_index: int = 0,
        noise_level: float | Tensor = 1.0,
    ) -> Tensor:
        """The penalty of every sample and output region, (batch, K) with gradients; its mean is the penalty.

        Takes and raises what calling the penalty does. At least float32, and on the device of ``x``.
        """
        regions.check_fits(x)
        regions = regions.to(x)
        names = {"seed": self.seed, "step": step, "first_index": first_index}
        absent = absent_input(self.fill, x, noise_level=noise_level, **names)
        game = _Game(self, network, x, absent, regions, output)
        if self.estimator == "direct":
            return self._direct(game)
        if self.estimator == "exact":
            return self._compare(game, all_coalitions(game.n_players))
        if self.estimator == "shared":
            return self._compare(game, self._subsets(game.n_players, step))
        if self.estimator == "per_region":
            return self._per_region(game, step)
        return self._against_everybody(game, step, first_index)

    def _direct(self, game: _Game) -> Tensor:
        """Eq. (7): the absolute Shapley values of the players outside A_k, (batch, K)."""
        outputs = torch.stack([game.run(coalition) for coalition in all_coalitions(game.n_players)])
        forbidden = ~game.allowed
        if self.payoff == "mean":
            magnitudes = shapley_values(game.means(outputs)).abs()  # (player, batch, K)
        else:
            magnitudes = game.means(shapley_values(outputs).abs())
        return (magnitudes * game.moved(forbidden.T[:, None])).sum(dim=0)

    def _compare(self, game: _Game, coalitions: Tensor) -> Tensor:
        """Mean over ``coalitions`` of ||v_k(S) - v_k(S & A_k)||^2, (batch, K)."""
        return torch.stack([game.violation(coalition) for coalition in coalitions]).mean(dim=0)

    def _per_region(self, game: _Game, step: int) -> Tensor:
        """Castro's permutation sampling of eq. (8): region k with its predecessors, and these without it."""
        columns = []
        players, samples = np.arange(game.n_players), np.arange(self.samples)[:, None]
        for region in range(game.n_players):
            keys = counter_bits(self.seed, step, samples, region, players)
            before = torch.as_tensor(keys < keys[:, [region]])
            with_region = before.clone()
            with_region[:, region] = True
            violations = [game.violation(row, region) for row in torch.cat([before, with_region])]
            columns.append(torch.stack(violations).sum(dim=0) / self.samples)
        return torch.cat(columns, dim=1)

    def _against_everybody(self, game: _Game, step: int, first_index: int) -> Tensor:
        """Coalitions drawn for every sample on its own, compared with the grand and, in ``grand``, the empty one."""
        both = self.estimator == "grand"
        rows = np.arange(first_index, first_index + game.x.shape[0])
        compared = _comparing_coalitions(game.allowed, both)
        per_draw = []
        for sample in range(self.samples):
            coalitions, share = _drawn(compared, game.n_players, self.seed, step, rows, sample)
            complete = game.moved((coalitions[:, None] | ~game.allowed).all(dim=2))  # A_k lies in S: (batch, K)
            output = game.evaluate(coalitions)
            changed = complete * game.distance(output, game.grand())
            if both:
                disjoint = game.moved((~coalitions[:, None] | ~game.allowed).all(dim=2))  # A_k and S share nobody
                changed = changed + disjoint * game.distance(output, game.empty())
            per_draw.append(changed * share)
        return torch.stack(per_draw).mean(dim=0)

    def _subsets(self, n_players: int, step: int) -> Tensor:
        """Uniform subsets of the players shared by the batch, boolean (samples, K)."""
        bits = counter_bits(self.seed, step, np.arange(self.samples)[:, None], np.arange(n_players))
        return torch.as_tensor((bits >> np.uint64(63)).astype(bool))


def _comparing_coalitions(allowed: Tensor, both: bool) -> Tensor | None:
    """The coalitions whose terms are not zero from the outset, boolean (n, K); None where 2^K are too many to list."""
    if len(allowed) > MAX_PLAYERS:
        return None
    proper = all_coalitions(len(allowed))[1:-1]
    complete = (proper[:, None] | ~allowed).all(dim=2).any(dim=1)
    return proper if both or not complete.any() else proper[complete]


def _drawn(
    compared: Tensor | None, n_players: int, seed: int, step: int, rows: NDArray[np.int64], sample: int
) -> tuple[Tensor, float]:
    """A uniform coalition of ``compared`` for every row, boolean (rows, K), and the share of all 2^K they make up."""
    if compared is None:
        bits = counter_bits(seed, step, rows[:, None], sample, np.arange(n_players))
        return torch.as_tensor((bits >> np.uint64(63)).astype(bool)), 1.0
    numbers = counter_bits(seed, step, rows, sample) % np.uint64(max(1, len(compared)))
    return compared[torch.as_tensor(numbers.astype(np.int64))], len(compared) / 2.0**n_players


class _Game:
    """The K games of one batch: runs of the network on coalitions, each paid for once."""

    def __init__(
        self,
        penalty: DummyPlayerPenalty,
        network: Network,
        x: Tensor,
        absent: Tensor,
        regions: Regions,
        output: Tensor | None,
    ) -> None:
        self.n_players = len(regions.names)
        if self.n_players < 2:
            raise ValueError("the penalty needs at least two regions: with one, nobody can be a dummy")
        if penalty.estimator in ("direct", "exact") and self.n_players > MAX_PLAYERS:
            raise ValueError(
                f"estimator={penalty.estimator!r} runs all 2^K coalitions and {self.n_players} regions are "
                f"too many (at most {MAX_PLAYERS}): use 'grand' or 'shared'"
            )
        self.allowed = allowed_influence(penalty.graph, regions.names)
        self.x = x
        self._network = network
        self._regions = regions
        self._exchange = penalty.fill == "exchange"
        self._mean_payoff = penalty.payoff == "mean"
        self._absent = absent
        areas = regions.areas[:, :, None, None]
        # A region absent from a sample has no area and weighs nothing; 0 / 0 would spoil the whole batch.
        self._weights = regions.masks / torch.where(areas > 0, areas, torch.ones_like(areas))
        self._runs: dict[tuple[bool, ...], Tensor] = {}
        if output is not None:
            self._runs[(True,) * self.n_players] = self._checked(output)

    def evaluate(self, coalitions: Tensor) -> Tensor:
        """One network run on the composites of ``coalitions``, boolean (K,) or (batch, K)."""
        return self._checked(self._network(composite(self.x, self._absent, self._regions, coalitions)))

    def run(self, coalition: Tensor) -> Tensor:
        """The output for a coalition shared by the whole batch, evaluated once and kept."""
        key = tuple(bool(member) for member in coalition)
        if key not in self._runs:
            if all(key):
                self._runs[key] = self._checked(self._network(self.x))
            elif self._exchange and not any(key):
                self._runs[key] = partner(self.grand())
            else:
                self._runs[key] = self.evaluate(coalition)
        return self._runs[key]

    def grand(self) -> Tensor:
        """f(x), the output when every player is present."""
        return self.run(torch.ones(self.n_players, dtype=torch.bool))

    def empty(self) -> Tensor:
        """The output when every player is absent; with exchange, the neighbour's own output."""
        return self.run(torch.zeros(self.n_players, dtype=torch.bool))

    def means(self, output: Tensor) -> Tensor:
        """Mean of every region over its pixels and all channels: (..., batch, c, h, w) -> (..., batch, K)."""
        # No matrix product (einsum, say): autocast would round it to half precision.
        over_channels = output.mean(dim=-3, keepdim=True)
        return (over_channels * self._weights.to(output.dtype)).sum(dim=(-2, -1))

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """||v_k - v'_k||^2 of two outputs for every sample and region, (batch, K)."""
        if self._mean_payoff:
            return self.means(first - second).square()
        return self.means((first - second).square())

    def violation(self, coalition: Tensor, region: int | None = None) -> Tensor:
        """||v_k(S) - v_k(S & A_k)||^2 for one region (batch, 1), or for all of them (batch, K)."""
        regions = range(self.n_players) if region is None else [region]
        columns = []
        for k in regions:
            permitted = coalition & self.allowed[k]
            if bool((permitted == coalition).all()):
                columns.append(self.moved(torch.zeros(self.x.shape[0], 1)))  # compared with itself
            else:
                columns.append(self.distance(self.run(coalition), self.run(permitted))[:, k : k + 1])
        return torch.cat(columns, dim=1)

    def moved(self, factors: Tensor) -> Tensor:
        """``factors`` made on the CPU, in x's place and the loss's type, without waiting for the device."""
        dtype = torch.promote_types(self.x.dtype, torch.float32)
        return factors.to(self.x.device, dtype, non_blocking=self.x.is_cuda)

    def _checked(self, output: Tensor) -> Tensor:
        x = self.x
        if output.ndim != 4 or output.shape[0] != x.shape[0] or output.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"the network must map (batch, channels, height, width) to the same batch and pixels: "
                f"x is {tuple(x.shape)}, the output {tuple(output.shape)}"
            )
        return output if output.dtype == torch.float64 else output.float()
