"""Shapley values of games whose payoffs are torch tensors, with gradients.

Exact values are a fixed linear map of the 2^n payoffs: of a table of them, or of a game whose coalitions are run chunk
by chunk. Sampled values are means over random orders of the players, and know their errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from shapkit.estimators.permutation import ANTITHETIC_STREAM, PERMUTATION_STREAM
from shapkit.randomness import counter_bits, counter_permutations

TorchGame = Callable[[Tensor], Tensor]
"""A value function: boolean coalitions (rows, n_players) to payoffs (rows, *out), each output element a game."""

MAX_PLAYERS = 16
"""2^16 payoffs, each a network run: above this, exact differentiable values are out of reach."""


def all_coalitions(n_players: int) -> Tensor:
    """Every coalition as a boolean (2^n, n) tensor; row ``m`` holds player ``i`` when bit ``i`` of m is set.

    Raises:
        ValueError: for no player or more than ``MAX_PLAYERS``.

    >>> all_coalitions(2).int().tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    if not 1 <= n_players <= MAX_PLAYERS:
        raise ValueError(f"n_players must be 1..{MAX_PLAYERS} to enumerate 2^n coalitions, got {n_players}")
    masks = torch.arange(2**n_players, device="cpu")
    return (masks[:, None] >> torch.arange(n_players, device="cpu")) & 1 == 1


def shapley_weights(n_players: int) -> Tensor:
    """The float64 matrix (n, 2^n) that maps the payoffs of all coalitions to the Shapley values."""
    members = all_coalitions(n_players)
    sizes = members.sum(dim=1)
    joins = [0.0] + [1 / (s * comb(n_players, s)) for s in range(1, n_players + 1)]
    stays = [-1 / ((n_players - s) * comb(n_players, s)) for s in range(n_players)] + [0.0]
    of_size = torch.tensor([joins, stays], dtype=torch.float64, device="cpu")
    return torch.where(members, of_size[0, sizes][:, None], of_size[1, sizes][:, None]).T.contiguous()


def shapley_values(payoffs: Tensor) -> Tensor:
    """Shapley values (n, *out) of the game whose payoffs are ``payoffs`` (2^n, *out), with gradients.

    Args:
        payoffs: payoff of every coalition, in the order of ``all_coalitions``; each output element is a game.
            Floating point; the values have its type, under autocast too.

    Raises:
        ValueError: if the first axis is no power of two or holds more than ``MAX_PLAYERS`` players, or the
            payoffs are integers.

    >>> shapley_values(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    tensor([0.5000, 0.5000])
    """
    n_players = payoffs.shape[0].bit_length() - 1 if payoffs.ndim else 0
    if payoffs.ndim == 0 or payoffs.shape[0] != 2**n_players or n_players < 1:
        shape = tuple(payoffs.shape)
        raise ValueError(f"payoffs must have 2^n rows, one per coalition of n >= 1 players, got {shape}")
    return _weighted_sum(shapley_weights(n_players), payoffs)


def exact_values(
    game: TorchGame, n_players: int, *, chunk: int = 256, checkpoint: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """Shapley values (n_players, *out) of ``game``, with gradients; all 2^n coalitions are run, and no table is kept.

    Args:
        game: see ``TorchGame``; floating-point payoffs.
        n_players: at most ``MAX_PLAYERS``.
        chunk: coalitions per call of the game.
        checkpoint: run every chunk again in the backward pass, so that the graphs of all but one are never in memory.
        device: where the game wants its coalitions.

    Raises:
        ValueError: for a wrong number of players, a chunk below one, or payoffs of a wrong shape or type.

    >>> glove = lambda members: torch.minimum(members[:, 0] + 0.0, members[:, 1:].any(dim=1) + 0.0)
    >>> exact_values(glove, 3)  # one left glove, two right ones
    tensor([0.6667, 0.1667, 0.1667])
    """
    _check_chunk(chunk)
    coalitions, weights = all_coalitions(n_players).to(device), shapley_weights(n_players)
    values: Tensor | None = None
    for first in range(0, len(coalitions), chunk):
        payoffs = _payoffs(game, coalitions[first : first + chunk], checkpoint)
        part = _weighted_sum(weights[:, first : first + chunk], payoffs)
        values = part if values is None else values + part
    assert values is not None
    return values


@dataclass(frozen=True)
class SampledValues:
    """What players add in random orders, with gradients.

    Args:
        marginals: (n_units, n_players, *out); a unit is an order or, antithetic, an order and its reverse. Units are
            independent.
    """

    marginals: Tensor

    @property
    def values(self) -> Tensor:
        """Unbiased Shapley values (n_players, *out); their sum is v(N) - v(empty), whatever was drawn."""
        return self.marginals.mean(dim=0)

    @property
    def standard_errors(self) -> Tensor:
        """Of ``values``: the standard deviation over units / sqrt(n_units); NaN for one unit."""
        return (self.marginals.var(dim=0) / len(self.marginals)).sqrt()

    @property
    def squares(self) -> Tensor:
        """Unbiased squares of the Shapley values, (n_players, *out); single ones may be negative.

        E[mean^2] = phi^2 + Var(mean), so the square of the mean would be too large. The product of the means of two
        independent halves is unbiased; this is its mean over all ways to halve the units:

            sum over u != u' of x_u x_u' / (U (U - 1))  =  mean^2 - var / U.

        Raises:
            ValueError: if there is one unit only, which has no two halves.
        """
        if len(self.marginals) < 2:
            raise ValueError("an unbiased square needs at least two independent units, got one: draw more permutations")
        return self.values.square() - self.marginals.var(dim=0) / len(self.marginals)


def sampled_values(
    game: TorchGame,
    n_players: int,
    n_permutations: int,
    *,
    seed: int = 0,
    step: int = 0,
    antithetic: bool = False,
    chunk: int = 256,
    checkpoint: bool = False,
    device: torch.device | str = "cpu",
) -> SampledValues:
    """Castro, Gómez and Tejada (2009): Shapley values as means over random orders, with gradients.

    Costs 2 + n_permutations (n_players - 1) coalitions. Step s takes the permutations (or pairs) from number
    s n_units on of ``shapkit``'s own sampler of that seed, so that the steps of a training run are independent and
    their mean is that sampler's estimate.

    Args:
        game: see ``TorchGame``; floating-point payoffs.
        n_players: at least two.
        n_permutations: how many orders; even where antithetic.
        seed, step: name the orders.
        antithetic: every order comes with its reverse.
        chunk: coalitions per call of the game.
        checkpoint: run every chunk again in the backward pass, so that the graphs of all but one are never in memory.
        device: where the game wants its coalitions.

    Raises:
        ValueError: for fewer than two players, too few permutations, an odd number of antithetic ones, a chunk below
            one, or payoffs of a wrong shape or type.

    >>> found = sampled_values(lambda members: members.double().prod(dim=1), 2, 4)
    >>> float(found.values.sum())
    1.0
    """
    _check_chunk(chunk)
    if n_players < 2:
        raise ValueError(f"n_players must be at least 2 to be put in random orders, got {n_players}")
    n_reverses = 2 if antithetic else 1
    if n_permutations < 1 or n_permutations % n_reverses:
        wanted = "a positive even number, orders and their reverses," if antithetic else "at least 1"
        raise ValueError(f"n_permutations must be {wanted} got {n_permutations}")
    n_units = n_permutations // n_reverses
    orders_seed = int(counter_bits(seed, ANTITHETIC_STREAM if antithetic else PERMUTATION_STREAM))
    orders = counter_permutations(orders_seed, step * n_units + np.arange(n_units), n_players)
    if antithetic:
        orders = np.stack([orders, orders[:, ::-1]], axis=1).reshape(n_permutations, n_players)
    positions = np.argsort(orders, axis=1)  # of each player in each order
    prefixes = positions[:, None] < np.arange(1, n_players)[:, None]  # (order, length of the prefix - 1, player)
    ends = np.arange(2)[:, None].repeat(n_players, axis=1).astype(np.bool_)
    coalitions = torch.as_tensor(np.concatenate([ends, prefixes.reshape(-1, n_players)])).to(device)
    payoffs = torch.cat([_payoffs(game, rows, checkpoint) for rows in coalitions.split(chunk)])
    out = payoffs.shape[1:]
    empty, grand = (payoffs[end].expand(n_permutations, 1, *out) for end in range(2))
    inner = payoffs[2:].reshape(n_permutations, n_players - 1, *out)
    added = torch.cat([empty, inner, grand], dim=1).diff(dim=1)  # by the player at each position
    where = torch.as_tensor(np.arange(n_permutations)[:, None] * n_players + positions).to(added.device)
    marginals = added.flatten(0, 1)[where.flatten()].reshape(n_units, n_reverses, n_players, *out)
    return SampledValues(marginals.mean(dim=1))


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 coalition per call of the game, got {chunk}")


def _payoffs(game: TorchGame, coalitions: Tensor, checkpoint: bool) -> Tensor:
    """The game's payoffs (rows, *out), at least float32."""
    payoffs = recomputed(game, coalitions, use_reentrant=False) if checkpoint else game(coalitions)
    if payoffs.ndim == 0 or len(payoffs) != len(coalitions):
        raise ValueError(
            f"the game must return one row of payoffs per coalition: {len(coalitions)} were asked for, "
            f"the payoffs have shape {tuple(payoffs.shape)}"
        )
    if not payoffs.is_floating_point():
        raise ValueError(f"payoffs must be floating point, got {payoffs.dtype}")
    return payoffs if payoffs.dtype == torch.float64 else payoffs.float()


def _weighted_sum(weights: Tensor, payoffs: Tensor) -> Tensor:
    """``weights`` (n, rows) times payoffs (rows, *out), in the payoffs' own type."""
    if not payoffs.is_floating_point():
        raise ValueError(f"payoffs must be floating point, got {payoffs.dtype}")
    weights = weights.to(payoffs, non_blocking=payoffs.is_cuda)
    with torch.autocast(payoffs.device.type, enabled=False):  # it would round the product to half precision
        values = weights @ payoffs.reshape(len(payoffs), -1)
    return values.reshape(len(weights), *payoffs.shape[1:])
