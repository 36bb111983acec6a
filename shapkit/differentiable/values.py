"""Shapley values of games whose payoffs are torch tensors, with gradients.

The value is a fixed linear map of the 2^n payoffs, so it is one matrix product and differentiates as one.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

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
    masks = torch.arange(2**n_players)
    return (masks[:, None] >> torch.arange(n_players)) & 1 == 1


def shapley_weights(n_players: int) -> Tensor:
    """The float64 matrix (n, 2^n) that maps the payoffs of all coalitions to the Shapley values."""
    members = all_coalitions(n_players)
    sizes = members.sum(dim=1)
    joins = [0.0] + [1 / (s * comb(n_players, s)) for s in range(1, n_players + 1)]
    stays = [-1 / ((n_players - s) * comb(n_players, s)) for s in range(n_players)] + [0.0]
    of_size = torch.tensor([joins, stays], dtype=torch.float64)
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
    if not payoffs.is_floating_point():
        raise ValueError(f"payoffs must be floating point, got {payoffs.dtype}")
    weights = shapley_weights(n_players).to(payoffs, non_blocking=payoffs.is_cuda)
    with torch.autocast(payoffs.device.type, enabled=False):  # it would round the product to half precision
        values = weights @ payoffs.reshape(2**n_players, -1)
    return values.reshape(n_players, *payoffs.shape[1:])
