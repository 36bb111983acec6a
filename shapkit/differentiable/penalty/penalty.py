"""The dummy-player penalty: a differentiable loss that is zero when every output region ignores the input
regions it may not depend on.

Players are the regions of the input ``x``; output region ``k`` has its own game, ``v_k(S)`` = region ``k`` of
``f(x_S)``, where ``x_S`` is ``x`` with the regions outside ``S`` replaced. With ``A_k`` the players that may
influence output ``k``, all others are dummies in ``v_k`` exactly when ``v_k(S) = v_k(S & A_k)`` for every
``S`` (Theorem 1 of Liu et al., "Disentangling the visual concept generation of denoising diffusion
probabilistic models from a game-theoretic view", 2025, where ``A_k = {k}``). The penalty is a mean square of
the violations.

Its parts: which coalitions are compared with which, ``comparisons``; what fills an absent region, ``absence``; who may
influence whom, ``regions``; how the network is run, ``coalition_runs``; and after it, how much a sample counts,
``timestep_weights``, and who is to blame, ``loss_report``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from shapkit.differentiable.penalty.absence import (
    Conditions,
    Exchange,
    Fill,
    absent_input,
    check_fill,
    standard_noise,
)
from shapkit.differentiable.penalty.coalition_runs import Network, coalition_outputs
from shapkit.differentiable.penalty.comparisons import Comparisons, Draw, Estimator, draw_comparisons
from shapkit.differentiable.penalty.values import shapley_values
from shapkit.differentiable.random_state import RandomState
from shapkit.differentiable.regions import Graph, Regions, allowed_influence, spatial_size

Payoff = Literal["pixels", "mean"]
Channels = int | tuple[int, int]


@dataclass(frozen=True)
class DummyPlayerPenalty:
    """The penalty, callable on any function from a spatial tensor to a spatial tensor: sounds, images, volumes, tokens.

    All forms are means over the batch and over the K output regions ``k``, in each sample those that it has;
    ``E_S`` is the mean over all 2^K coalitions, ``|| ||^2`` the mean square and ``| |`` the mean magnitude over the
    payoff's elements.

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
    grand      E_S [A_k in S] ||v_k(S) - v_k(N)||^2                       samples + 1, +1 without ``output``
               + [A_k and S disjoint] ||v_k(S) - v_k(empty)||^2
    present    E_S [A_k in S] ||v_k(S) - v_k(N)||^2                       samples, +1 without ``output``
    ========== ========================================================== ================================

    With the own-only graph the references ``v_k(S & A_k)`` are at most K + 1 coalitions, and a coalition the
    batch shares runs once per call. ``present``, the default, costs one run beside the loss's own, whatever K is.

    With ``fill="exchange"`` the absent regions come from the neighbour in the batch. Where the two have all else in
    common that the network is given (``conditions``), the neighbour's own output is the empty coalition's payoff, and
    that run is saved. Nothing is taken for granted: without a word on it, no output is taken for another's.

    ``exact`` is zero when, for the coalitions of the batch, every player outside ``A_k`` is a dummy in
    ``v_k``, and only then; so is the mean of ``shared`` and of ``per_region``, and that of ``grand`` with the
    own-only graph. ``direct`` is weaker (marginal contributions may cancel), and so is ``grand`` with a wider
    graph, which asks only for what both references can see: no influence from outside ``A_k`` while all of
    ``A_k`` is present, or none of it. ``shared`` and ``per_region`` may draw coalitions that compare nothing
    (the empty one, say); such a call returns a zero without gradient.

    ``present`` is the half of ``grand`` whose reference is the grand coalition. With the exchange it asks for no
    less over a whole batch, since an exchange seen from the neighbour is its complement. No sample is compared with
    another's output, so that timesteps, conditions and regions may differ from sample to sample as they like.

    Random layers draw the same in all runs of a call, so dropout is no leak. Where a network is found to draw, every
    coalition has a pass of its own, and an ``output`` is used only with the ``random_state`` it was made from. Under
    ``torch.compile`` no state can be kept: compile the network, not the call, if it draws.

    Args:
        estimator: one of the six above.
        fill: what stands in for an absent region: ``"exchange"``, ``"zeros"``, ``"noise"`` or
            ``"batch_mean"``. ``"exchange"`` of a single sample takes its own image, moved by half its size.
        payoff: ``"pixels"`` compares the region pixel by pixel; ``"mean"`` (as published) its mean over
            pixels and channels, which is blind to changes that cancel.
        graph: who may influence whom: ``"own"``, ``star(rest)``, a mapping of names or a boolean matrix; see
            ``allowed_influence``.
        samples: coalitions drawn per call (for ``per_region``, permutations per region); ``direct`` and
            ``exact`` ignore it.
        seed: names the random draws. Coalitions of ``grand`` and noise depend on the seed, the step and the
            sample's number (see ``first_index``); coalitions of ``shared`` and ``per_region``, which the
            whole batch has in common, on the seed and the step.
        batch_runs: coalitions per forward pass. Above one, the network is called as ``network(x, rows)``, where
            ``rows`` (len(x),) says which sample of the batch each row of its input was made from. A layer that
            normalises over the batch, in train mode, then sees several coalitions at once.
        checkpoint: keep no activations of the penalty's runs, and run them again in the backward pass.

    Raises:
        ValueError: for an unknown estimator, fill or payoff, or ``samples`` or ``batch_runs`` below one.

    >>> from shapkit.differentiable import DummyPlayerPenalty, Regions
    >>> labels = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> regions = Regions.from_labels(labels, {"right": [1]})
    >>> x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> penalty = DummyPlayerPenalty()
    >>> float(penalty(torch.tanh, x, regions)), bool(penalty(lambda x: x.roll(1, 3), x, regions) > 0)
    (0.0, True)
    """

    estimator: Estimator = "present"
    fill: Fill = "exchange"
    payoff: Payoff = "pixels"
    graph: Graph = "own"
    samples: int = 1
    seed: int = 0
    batch_runs: int = 1
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.estimator not in get_args(Estimator):
            names = ", ".join(get_args(Estimator))
            raise ValueError(f"estimator must be one of {names}, got {self.estimator!r}")
        if self.payoff not in get_args(Payoff):
            raise ValueError(f"payoff must be one of {', '.join(get_args(Payoff))}, got {self.payoff!r}")
        check_fill(self.fill)
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.batch_runs < 1:
            raise ValueError(f"batch_runs must be at least 1, got {self.batch_runs}")

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
        sample_weights: Tensor | None = None,
        conditions: Conditions | None = None,
        channels: Channels = 1,
        output_regions: Regions | None = None,
        random_state: RandomState | None = None,
        drawn: Comparisons | None = None,
    ) -> Tensor:
        """The penalty of ``network`` at ``x``, a scalar with gradients.

        Args:
            network: called with composites of ``x`` and its stand-in, each of x's shape (see ``batch_runs``).
            x: (batch, channels, *size), such as (batch, channels, height, width), or as ``channels`` says.
            regions: the players; masks of x's size.
            output: ``network(x)`` with its graph, where the training step has it already; saves one run.
            step: number of the training step; names the random draws with the seed.
            first_index: number of the batch's first sample in the global batch, when processes share one.
            noise_level: standard deviation of ``fill="noise"``, one number or (batch,).
            sample_weights: (batch,), factors of the samples' penalties before the mean (see ``timestep_weights``).
            conditions: for ``fill="exchange"``, what else the network is given of every sample (timesteps, labels),
                each (batch, ...): samples are exchanged with those alone that have the same, at the price of a wait for
                the device. ``"paired"`` says that rows 2i and 2i + 1 have it in common; None, that nothing is known.
            channels: the axis of the channels of ``x`` and of the output, or of each; -1 for (batch, tokens, features).
            output_regions: the same regions of the output, where it has another size than ``x``. By default they are
                resized to it (``Regions.resized``), or to its patches where it is a sequence (``Regions.patched``).
            random_state: of torch's generators before ``output`` was made, for networks with dropout.
            drawn: what ``draw`` returned; then ``step``, ``first_index`` and ``conditions`` have no effect. With it,
                the call makes no decision that depends on random numbers, and ``torch.compile`` takes it as one graph.

        Raises:
            ValueError: if the regions do not fit ``x``, the network's output does not fit the batch or its regions,
                there is one region only, or there are more than ``MAX_PLAYERS`` for ``direct`` or ``exact``.
        """
        losses = self.unreduced(
            network,
            x,
            regions,
            output=output,
            step=step,
            first_index=first_index,
            noise_level=noise_level,
            conditions=conditions,
            channels=channels,
            output_regions=output_regions,
            random_state=random_state,
            drawn=drawn,
        )
        if sample_weights is not None:
            losses = losses * sample_weights.to(losses, non_blocking=losses.is_cuda)[:, None]
        return losses.mean()

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
        conditions: Conditions | None = None,
        channels: Channels = 1,
        output_regions: Regions | None = None,
        random_state: RandomState | None = None,
        drawn: Comparisons | None = None,
    ) -> Tensor:
        """The penalty of every sample and output region, (batch, K) with gradients; its mean is the penalty.

        A region that a sample lacks has a zero there, and the others count for it: the mean of a row is the mean over
        the regions that the sample has. Takes and raises what calling the penalty does. At least float32, and on the
        device of ``x``.
        """
        if drawn is None:
            drawn = self.draw(
                x, regions, step=step, first_index=first_index, conditions=conditions, channels=_of_input(channels)
            )
        terms = self.terms(
            network,
            x,
            regions,
            drawn,
            output=output,
            noise_level=noise_level,
            channels=channels,
            output_regions=output_regions,
            random_state=random_state,
        )
        return drawn.sum_of(terms, regions.to(x))

    def draw(
        self,
        x: Tensor,
        regions: Regions,
        *,
        step: int = 0,
        first_index: int = 0,
        conditions: Conditions | None = None,
        channels: int = 1,
    ) -> Comparisons:
        """The random part of a call, and who is exchanged with whom; of ``x`` it takes shape, type and device alone."""
        regions.check_fits(x, channels=channels)
        allowed = allowed_influence(self.graph, regions.names).numpy()
        rows = np.arange(first_index, first_index + x.shape[0])
        draw = Draw(allowed, self.samples, self.seed, step, rows)
        exchange = Exchange.of(x, conditions) if self.fill == "exchange" else None
        found = draw_comparisons(self.estimator, draw, x, exchange=exchange)
        if self.fill != "noise":
            return found
        return replace(found, noise=standard_noise(x, seed=self.seed, step=step, first_index=first_index))

    def terms(
        self,
        network: Network,
        x: Tensor,
        regions: Regions,
        drawn: Comparisons,
        *,
        output: Tensor | None = None,
        noise_level: float | Tensor = 1.0,
        channels: Channels = 1,
        output_regions: Regions | None = None,
        random_state: RandomState | None = None,
    ) -> Tensor:
        """What ``drawn`` compares, before it is weighted: ||v_k(S_c) - v_k(R_c)||^2, (n_terms, batch, K).

        ``drawn.sum_of`` makes the penalty of them, ``LossReport.from_terms`` says where it comes from.

        For ``direct``, the magnitude of every player's Shapley value in every v_k. Takes and raises what calling the
        penalty does.
        """
        own, of_output = _of_input(channels), channels if isinstance(channels, int) else channels[1]
        regions.check_fits(x, channels=own)
        regions = regions.to(x)
        outputs = coalition_outputs(
            network,
            x,
            absent_input(
                self.fill, x, noise_level=noise_level, noise=drawn.noise, exchange=drawn.exchange, channels=own
            ),
            regions,
            drawn,
            output=output,
            random_state=random_state,
            batch_runs=self.batch_runs,
            checkpoint=self.checkpoint,
            channels=own,
        )
        if not outputs:
            return drawn.weights.new_zeros(0, x.shape[0], len(regions.names))
        found = regions_of_output(regions, outputs[0], of_output, output_regions)
        if self.estimator == "direct":
            return self._magnitudes(torch.stack(outputs), found, of_output)
        if not drawn.pairs:
            return drawn.weights.new_zeros(0, x.shape[0], len(regions.names))
        return torch.stack(
            [self._distance(outputs[first] - outputs[second], found, of_output) for first, second in drawn.pairs]
        )

    def _distance(self, difference: Tensor, regions: Regions, channels: int) -> Tensor:
        """||v_k - v'_k||^2 for every sample and region, (batch, K), of the difference d of two outputs.

        ``pixels``: mean of d^2 over the channels and the pixels of k; ``mean``: square of the mean of d over them.
        """
        if self.payoff == "mean":
            return regions.means(difference, channels=channels).square()
        return regions.means(difference.square(), channels=channels)

    def _magnitudes(self, outputs: Tensor, regions: Regions, channels: int) -> Tensor:
        """|Shapley value of j in v_k|, (player j, batch, K), of the outputs of all coalitions (2^K, batch, ...)."""
        if self.payoff == "mean":
            return shapley_values(regions.means(outputs, channels=channels)).abs()
        return regions.means(shapley_values(outputs).abs(), channels=channels)


def regions_of_output(regions: Regions, output: Tensor, channels: int = 1, given: Regions | None = None) -> Regions:
    """The regions of an output, which may have another size than the input that ``regions`` are of.

    Args:
        regions: of the input.
        output: (batch, channels, *size), or as ``channels`` says.
        channels: the axis of the output's channels.
        given: these, if they fit; by default the input's, resized, or as patches if the output is a sequence.

    Raises:
        ValueError: if the given ones have other names or do not fit, or none can be derived.

    >>> of_patches = regions_of_output(Regions.grid(1, 2, 4, 4), torch.zeros(2, 4, 12), channels=-1)
    >>> of_patches.masks.int().tolist()
    [[[1, 0, 1, 0], [0, 1, 0, 1]]]
    """
    size = spatial_size(output, channels)
    if given is not None:
        if given.names != regions.names:
            raise ValueError(
                f"output_regions must be the same regions as the input's, {', '.join(regions.names)}, got "
                f"{', '.join(given.names)}"
            )
        given.check_fits(output, channels=channels)
        return given.to(output)
    if size == regions.size:
        return regions
    if len(size) == len(regions.size):
        return regions.resized(*size, missing="allow").to(output)
    if len(size) == 1:
        n_tokens, n_pixels = size[0], math.prod(regions.size)
        patch = round((n_pixels / n_tokens) ** (1 / len(regions.size)))
        if patch and n_tokens * patch ** len(regions.size) == n_pixels and not any(n % patch for n in regions.size):
            return regions.patched(patch, missing="allow").to(output)
    raise ValueError(
        f"no regions of the output can be derived: the input is of {' x '.join(map(str, regions.size))} pixels and the "
        f"output of {' x '.join(map(str, size))}, its channels on axis {channels}. Pass output_regions, or channels "
        "where they are on another axis"
    )


def _of_input(channels: Channels) -> int:
    return channels if isinstance(channels, int) else channels[0]
