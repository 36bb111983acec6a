"""Post hoc influence: which input region of a denoiser drives which output region, and how sure that is.

Every output region is a game on the input regions: how much of the region's change, when its whole input is exchanged
for that of another sample, does each input region account for? The Shapley values of an output region sum to one, and a
region that Theorem 1 calls a dummy gets zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapkit import Attribution, Game, estimate, exact
from shapkit.attribution.matrices import matrix_html
from shapkit.differentiable import Regions, composite, partner
from shapkit.exact.interactions import VALUES, Index
from shapkit.randomness import counter_bits
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.noise.jackknife import Floats, jackknife_error, ratio_of_sums
from shapkit_diffusion.noise.sampling import draw_noise, generate

END_TO_END = "x_T to x_0"
"""What `influence_maps` calls the map from noise to image."""

BUDGET = 2**8
"""Coalitions for each pair of images: all of them for up to eight regions."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Influence:
    """An influence matrix with its errors. In all arrays the input region comes first, the output region last.

    Attributes:
        attribution: K games of K players in one. ``values`` and ``standard_errors`` are (K, K): row j, column k is the
            share of output region k's change that input region j accounts for; every column sums to one. The errors are
            those of the images, as a sample of all the model makes, and where coalitions were drawn, of those too. They
            are NaN from a single pair of images, and have one degree of freedom less than there are pairs with the
            region. ``n_evaluations`` counts the coalitions of each pair.
        without_pair: (n_pairs, K, K), the matrix with each pair of images left out: jackknife replicates, from which
            `jackknife_error` has the standard error of any function of the matrix.
        n_images: how many images it is an average over; neighbours are a pair.
        timestep: of the single run of the network; None from noise to image, and where unknown.
        interactions: where asked for, of all regions and pairs of regions, values (K + K (K - 1) / 2, K).
        outputs: the output regions, where the players are others, such as words.
    """

    attribution: Attribution
    without_pair: Floats
    n_images: int
    timestep: int | None = None
    interactions: Attribution | None = None
    outputs: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The K regions, in the order of both axes."""
        return self.attribution.names

    @property
    def output_names(self) -> tuple[str, ...]:
        """The output regions, in the order of the last axis."""
        return self.names if self.outputs is None else self.outputs

    @property
    def values(self) -> Floats:
        """The matrix (K, K), ``[input, output]``."""
        return self.attribution.values

    def _repr_html_(self) -> str:
        shares, errors = 100 * self.values.T, 100 * self.standard_errors.T
        texts = [[f"{s:.1f} ± {e:.1f}" for s, e in zip(*row, strict=True)] for row in zip(shares, errors, strict=True)]
        caption = (
            f"share (%) of each output's change (row) that each input drives (column) ± standard error, "
            f"{self.n_images} images"
        )
        return matrix_html(shares / 100, texts, self.output_names, self.names, caption)

    @property
    def standard_errors(self) -> Floats:
        """The standard errors (K, K) of `values`."""
        errors = self.attribution.standard_errors
        assert errors is not None  # an average over images always has some
        return errors


def influence(
    network: Network,
    x: Tensor,
    regions: Regions,
    *,
    interactions: Index | None = None,
    budget: int = BUDGET,
    method: str = "antithetic",
    seed: int = 0,
    batch_size: int = 64,
) -> Influence:
    """Shapley values of the input regions for every output region, ``values[j, k]``: of input ``j`` for output ``k``.

    The payoff of coalition S for output region k is ``1 - |f_k(x_S) - f_k(x)|^2 / |f_k(x') - f_k(x)|^2`` with x' the
    neighbouring sample, which also fills the absent regions; numerator and denominator are summed over the batch. It
    is 0 for the empty and 1 for the grand coalition. ``| |^2`` is the mean over the region's pixels; a sample that
    lacks the region adds nothing to either sum.

    Shapley values are linear in the game, so every pair of neighbours has its own, in the unit of the squared change,
    and the matrix is a ratio of sums over pairs. Its errors are the jackknife's over pairs, which are independent where
    the samples are. With more regions than ``budget`` pays for, every pair draws coalitions of its own: estimates
    without bias stay so, their errors average out over the pairs, and show in the spread between them.

    Args:
        network: maps (n, channels, height, width), for any n, to (n, any channels, height, width), each row on its own.
        x: an even number of samples; neighbours are exchanged.
        regions: the K players, the same for all samples or each sample's own.
        interactions: an index of pairs of regions, such as "k-SII" or "FSII", computed from the same runs.
        budget: coalitions per pair of samples: exact where they are 2^K or more, estimated otherwise.
        method: of the estimate, as for `shapkit.estimate`. A method with bias, such as "gaussian_process", has an error
            that is the same for all pairs and that the standard errors do not show.
        seed: of the coalitions drawn.
        batch_size: rows that the network is given at once, at most.

    Raises:
        ValueError: if regions and ``x`` do not fit, the batch is odd, a region does not change at all, interactions are
            wanted where the budget does not pay for all coalitions, or as `shapkit.estimate`.

    >>> labels = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> regions = Regions.from_labels(labels, {"right": [1]})
    >>> x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> found = influence(torch.tanh, x, regions)
    >>> found.values.round(6).tolist(), found.standard_errors.round(6).tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    """
    regions.check_fits(x)
    if len(x) % 2:
        raise ValueError(f"samples are compared with their neighbours, so the batch must be even, got {len(x)}")
    n_regions = len(regions.names)
    _check_counts(n_regions, interactions, budget, batch_size)
    affordable = 2**n_regions <= budget
    with torch.inference_mode():
        groups = list(
            _groups(network, x, regions.to(x), batch_size, n_pairs=max(1, batch_size // 2) if affordable else 1)
        )
        _check_changed(groups)
        games = [group.game() for group in groups]
        if affordable:
            by_pair = _joined([exact(game) for game in games])
        else:
            seeds = [int(counter_bits(seed, number)) for number in range(len(games))]  # each pair draws its own
            by_pair = _joined([drawn_whole(game, budget, method, own) for game, own in zip(games, seeds, strict=True)])
        pairs = None if interactions is None else _joined([exact(game, interactions, order=2) for game in games])
    shares, without_pair = with_errors(by_pair)
    return Influence(
        replace(shares, seeds=() if affordable else (seed,)),
        without_pair,
        n_images=len(x),
        interactions=None if pairs is None else replace(with_errors(pairs)[0], n_evaluations=shares.n_evaluations),
    )


def influence_at(
    denoiser: Denoiser,
    images: Tensor,
    regions: Regions,
    timestep: int,
    seed: int = 0,
    *,
    interactions: Index | None = None,
    budget: int = BUDGET,
    batch_size: int = 64,
) -> Influence:
    """Influence within one run of the denoiser at ``timestep``, on images (n, channels, height, width) in [-1, 1].

    Args:
        denoiser: the model to look into.
        images, regions: as for `influence`.
        timestep: of the run, from 0.
        seed: names the noise that the images get, another for every timestep, and the coalitions, where drawn.
        interactions, budget, batch_size: as for `influence`.

    Raises:
        ValueError: if the timestep is outside the schedule, or as `influence`.
    """
    if not 0 <= timestep < denoiser.n_timesteps:
        raise ValueError(f"timestep must be 0..{denoiser.n_timesteps - 1}, got {timestep}")
    # Another series than draw_noise(denoiser, n, seed), from which these very images may have been generated.
    noise = draw_noise(denoiser, len(images), int(counter_bits(seed, timestep))).to(images)
    noisy = denoiser.add_noise(images, noise, torch.full((len(images),), timestep, device=images.device))

    def network(both: Tensor) -> Tensor:
        x, finished = both.chunk(2, dim=1)
        output: Tensor = denoiser(x, torch.full((len(x),), timestep, device=x.device), finished)
        return output

    with _evaluating(denoiser):
        found = influence(
            network,
            torch.cat([noisy, images], dim=1),
            regions,
            interactions=interactions,
            budget=budget,
            seed=seed,
            batch_size=batch_size,
        )
    return replace(found, timestep=timestep)


def influence_end_to_end(
    denoiser: Denoiser,
    noise: Tensor,
    regions: Regions,
    steps: int = 25,
    *,
    seed: int = 0,
    interactions: Index | None = None,
    budget: int = BUDGET,
    batch_size: int = 64,
) -> Influence:
    """Influence of the regions of the noise x_T on those of the generated image x_0: generates for every coalition.

    Args:
        denoiser: the model to look into.
        noise: x_T, (n, channels, height, width), n even.
        regions: of the generated images.
        steps: of DDIM.
        seed: names the coalitions, where drawn.
        interactions, budget, batch_size: as for `influence`.

    Raises:
        ValueError: as `influence` and `generate`.
    """
    return influence(
        lambda x: generate(denoiser, x, steps, batch_size),
        noise,
        regions,
        interactions=interactions,
        budget=budget,
        seed=seed,
        batch_size=batch_size,
    )


def influence_maps(
    denoiser: Denoiser,
    noise: Tensor,
    regions_of: Callable[[Tensor], Regions],
    timesteps: Sequence[int],
    steps: int = 25,
    seed: int = 0,
    *,
    interactions: Index | None = None,
    budget: int = BUDGET,
    batch_size: int = 64,
) -> dict[str, Influence]:
    """Influence within single runs at some timesteps and from x_T to x_0, on images that the model generates itself.

    Of a latent model, x_0 and its regions are those of the latents.

    Args:
        denoiser: the model to look into.
        noise: x_T of the images, (n, channels, height, width), n even.
        regions_of: gives the regions of generated images, in [-1, 1]; a region may be missing from some.
        timesteps: at which single runs are looked at.
        steps: of DDIM, for the images and from noise to image.
        seed: names the noise that the images get at the timesteps, and the coalitions, where drawn.
        interactions, budget, batch_size: as for `influence`.

    Returns:
        one Influence for each timestep, called ``"t = 900"`` and so on, and `END_TO_END`.

    Raises:
        ValueError: as `influence_at` and `influence_end_to_end`.
    """
    images = generate(denoiser, noise, steps, batch_size)
    regions = latent_regions(regions_of(denoiser.decode(images)), denoiser, missing="allow")
    maps = {}
    for timestep in timesteps:
        maps[f"t = {timestep}"] = influence_at(
            denoiser,
            images,
            regions,
            timestep,
            seed,
            interactions=interactions,
            budget=budget,
            batch_size=batch_size,
        )
    maps[END_TO_END] = influence_end_to_end(
        denoiser, noise, regions, steps, seed=seed, interactions=interactions, budget=budget, batch_size=batch_size
    )
    return maps


def outside_mass(found: Influence, allowed: Tensor) -> float:
    """Mean over output regions of the absolute influence that comes from players not allowed to influence them.

    The absolute value makes noise look like influence: where the matrix is zero and its standard errors are s, this is
    the mean over output regions of the sum of about 0.8 s. `outside_error` says how much of it that may be.

    Args:
        found: from ``influence``.
        allowed: boolean (K, K), ``[k, j]`` true when player j may influence output k.
    """
    return float(outside_masses(found.values, allowed))


def outside_error(found: Influence, allowed: Tensor) -> float:
    """The standard error of `outside_mass`, by the jackknife over pairs of images."""
    return float(jackknife_error(outside_masses(found.without_pair, allowed)))


def outside_masses(matrices: Floats, allowed: Tensor) -> Floats:
    """`outside_mass` of matrices (..., K, K), shape (...): those of `Influence.without_pair`, say."""
    forbidden = ~allowed.cpu().numpy().T  # [input, output], as the matrices
    return np.asarray((np.abs(matrices) * forbidden).sum(axis=-2).mean(axis=-1))


@dataclass(frozen=True, eq=False)
class _Changes:
    """How much the output regions of some pairs of samples change when regions of the input are exchanged.

    ``full`` is the network's output at ``x``, and ``all_exchanged`` (n_pairs, K) the change when the whole input is.
    """

    network: Network
    x: Tensor
    regions: Regions
    batch_size: int
    full: Tensor
    all_exchanged: Tensor

    def game(self) -> Game:
        """The game of what does not change, payoffs (n_pairs, K) from -all_exchanged to zero.

        Its cache makes a second index of the game free.
        """
        at_once = max(1, self.batch_size // len(self.x))
        return Game(self._payoffs, len(self.regions.names), self.regions.names, batch_size=at_once, cache=True)

    def _payoffs(self, coalitions: NDArray[np.bool_]) -> Floats:
        payoffs = np.zeros((len(coalitions), *self.all_exchanged.shape))
        size = coalitions.sum(axis=1)
        payoffs[size == 0] = -self.all_exchanged.cpu().numpy()
        mixed = (size > 0) & (size < coalitions.shape[1])  # the others are known already
        if mixed.any():
            payoffs[mixed] = -self._exchanged_outside(torch.as_tensor(coalitions[mixed])).cpu().numpy()
        return payoffs

    def _exchanged_outside(self, coalitions: Tensor) -> Tensor:
        """The changes (n_coalitions, n_pairs, K) when the regions outside a coalition are exchanged."""
        other = partner(self.x)
        inputs = torch.cat([composite(self.x, other, self.regions, row) for row in coalitions])
        outputs = torch.cat([self.network(rows) for rows in inputs.split(self.batch_size)])
        return _change(outputs.reshape(len(coalitions), *self.full.shape), self.full, self.regions)


def _groups(network: Network, x: Tensor, regions: Regions, batch_size: int, n_pairs: int) -> Iterator[_Changes]:
    """The changes of ``n_pairs`` pairs of samples after another, each group with its outputs computed."""
    for start in range(0, len(x), 2 * n_pairs):
        rows = slice(start, start + 2 * n_pairs)
        own = regions.select(rows)
        full = torch.cat([network(part) for part in x[rows].split(batch_size)])
        yield _Changes(network, x[rows], own, batch_size, full, _change(partner(full), full, own))


def _change(outputs: Tensor, full: Tensor, regions: Regions) -> Tensor:
    """Mean squares of the change in every region, summed over each pair: (..., n, c, h, w) to (..., n / 2, K)."""
    means = regions.means((outputs.double() - full.double()).square())
    return means.reshape(*means.shape[:-2], -1, 2, means.shape[-1]).sum(dim=-2)


def drawn_whole(game: Game, budget: int, method: str, seed: int) -> Attribution:
    """Return the estimate from all of the budget; an interruption ends all of the measurement."""
    found = estimate(game, budget, method, seed=seed)
    if found.interrupted:  # estimate() returns what it has; with most of the work missing that is nothing
        raise KeyboardInterrupt
    return found


def _check_counts(n_regions: int, interactions: str | None, budget: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least one row, got {batch_size}")
    if interactions is None:
        return
    if interactions in VALUES:
        raise ValueError(f"interactions must be an index of pairs, such as 'k-SII' or 'FSII', got {interactions!r}")
    if 2**n_regions > budget:
        raise ValueError(
            f"interactions={interactions!r} needs all 2**{n_regions} coalitions, but the budget is {budget} for each "
            f"pair of images: raise it to {2**n_regions}, or take fewer regions"
        )


def _check_changed(groups: Sequence[_Changes]) -> None:
    """Refuse an output region that does not change, rounding aside."""
    changed = torch.stack([group.all_exchanged.sum(dim=0) for group in groups]).sum(dim=0)
    size = torch.stack([group.regions.means(group.full.double().square()).sum(dim=0) for group in groups]).sum(dim=0)
    rounding = 16 * torch.finfo(groups[0].full.dtype).eps
    unchanged = (changed <= rounding**2 * size).nonzero()
    if len(unchanged):
        raise ValueError(
            f"output region {groups[0].regions.names[int(unchanged[0])]!r} has no change to account for when the whole "
            "input is exchanged: no sample has pixels of it, neighbours are equal, or the network ignores its input"
        )


def _joined(groups: Sequence[Attribution]) -> Attribution:
    """Attributions with payoffs (n_pairs, K) as one of all pairs; its errors are in the spread over the pairs."""
    return replace(
        groups[0],
        values=np.concatenate([group.values for group in groups], axis=1),
        empty_value=np.concatenate([group.empty_value for group in groups]),
        grand_value=np.concatenate([group.grand_value for group in groups]),
        standard_errors=None,
        degrees_of_freedom=None,
        n_evaluations=max(group.n_evaluations for group in groups),
    )


def with_errors(by_pair: Attribution) -> tuple[Attribution, Floats]:
    """Return the shares of the whole change, with payoffs (K,), and the same without each pair.

    Args:
        by_pair: exact, or as good as that, with payoffs (n_pairs, K).
    """
    scale = by_pair.grand_value - by_pair.empty_value
    values, without = ratio_of_sums(np.moveaxis(by_pair.values, 1, 0), scale[:, None])
    n_informative = (scale > 0).sum(axis=0)  # pairs that have the region
    shares = replace(
        by_pair,
        values=values,
        standard_errors=jackknife_error(without),
        degrees_of_freedom=np.broadcast_to(n_informative - 1.0, values.shape),
        empty_value=np.zeros(scale.shape[1]),
        grand_value=np.ones(scale.shape[1]),
    )
    return shares, without


@contextmanager
def _evaluating(denoiser: Denoiser) -> Iterator[None]:
    training = denoiser.training
    denoiser.eval()
    try:
        yield
    finally:
        denoiser.train(training)
