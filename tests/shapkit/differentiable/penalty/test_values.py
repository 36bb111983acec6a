"""Differentiable Shapley values against the subset formula."""

from itertools import combinations
from math import factorial

import pytest
import torch

from shapkit.differentiable import all_coalitions, shapley_values
from shapkit.differentiable.penalty.values import MAX_PLAYERS


def by_subset_formula(payoffs: torch.Tensor, n_players: int) -> torch.Tensor:
    """phi_i = sum over S without i of |S|! (n - 1 - |S|)! / n! (v(S + i) - v(S)), coalition by coalition."""
    values = []
    for player in range(n_players):
        others = [p for p in range(n_players) if p != player]
        value = torch.zeros_like(payoffs[0])
        for size in range(n_players):
            weight = factorial(size) * factorial(n_players - 1 - size) / factorial(n_players)
            for coalition in combinations(others, size):
                row = sum(2**p for p in coalition)
                value = value + weight * (payoffs[row + 2**player] - payoffs[row])
        values.append(value)
    return torch.stack(values)


def random_payoffs(n_players: int, *out: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2**n_players, *out, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_coalitions_puts_player_i_in_bit_i() -> None:
    coalitions = all_coalitions(4)
    assert coalitions.dtype == torch.bool
    for row, members in enumerate(coalitions.tolist()):
        assert [player for player in range(4) if row >> player & 1] == [p for p in range(4) if members[p]]


@pytest.mark.parametrize("n_players", [0, -1, MAX_PLAYERS + 1])
def test_all_coalitions_refuses_what_cannot_be_enumerated(n_players: int) -> None:
    with pytest.raises(ValueError, match=f"n_players must be 1..{MAX_PLAYERS}.*got {n_players}"):
        all_coalitions(n_players)


@pytest.mark.parametrize("n_players", [1, 2, 3, 5])
@pytest.mark.parametrize("out", [(), (1,), (3,), (2, 3, 4), (2, 0)])
def test_values_follow_the_subset_formula(n_players: int, out: tuple[int, ...]) -> None:
    payoffs = random_payoffs(n_players, *out)
    values = shapley_values(payoffs)
    assert values.shape == (n_players, *out)
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, by_subset_formula(payoffs, n_players), rtol=1e-12, atol=1e-12)


def test_axioms() -> None:
    payoffs = random_payoffs(4, 3)
    values = shapley_values(payoffs)
    torch.testing.assert_close(values.sum(dim=0), payoffs[-1] - payoffs[0])  # efficiency
    without_player_2 = torch.tensor([row & ~0b0100 for row in range(16)])
    torch.testing.assert_close(shapley_values(payoffs[without_player_2])[2], torch.zeros(3).double())  # dummy
    swapped = torch.tensor([(row & 0b1100) | (row & 1) << 1 | (row >> 1 & 1) for row in range(16)])
    symmetric = shapley_values(payoffs + payoffs[swapped])
    torch.testing.assert_close(symmetric[0], symmetric[1])
    torch.testing.assert_close(shapley_values(payoffs[swapped]), values[[1, 0, 2, 3]])


def test_most_players() -> None:
    additive = all_coalitions(MAX_PLAYERS).double() @ torch.arange(1.0, MAX_PLAYERS + 1).double()
    torch.testing.assert_close(shapley_values(additive), torch.arange(1.0, MAX_PLAYERS + 1).double())


def test_gradients_are_those_of_the_linear_map() -> None:
    payoffs = random_payoffs(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(shapley_values, payoffs)
    jacobian = torch.autograd.functional.jacobian(shapley_values, payoffs)  # (3, 2, 8, 2)
    for element in range(2):
        unit = torch.eye(8, dtype=torch.float64)  # game number m pays 1 to coalition m alone
        torch.testing.assert_close(jacobian[:, element, :, element], by_subset_formula(unit, 3))
    assert not jacobian[:, 0, :, 1].any()
    assert not jacobian[:, 1, :, 0].any()
    there = torch.autograd.functional.jacobian(shapley_values, payoffs * 3 + 1)
    torch.testing.assert_close(there, jacobian, rtol=0, atol=0)


def test_linear() -> None:
    first, second = random_payoffs(4, 2, seed=1), random_payoffs(4, 2, seed=2)
    combined = 2 * shapley_values(first) - 3 * shapley_values(second)
    torch.testing.assert_close(shapley_values(2 * first - 3 * second), combined)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (1, 4), (3,), (6, 2), (9,)])
def test_rows_must_be_the_coalitions_of_at_least_one_player(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"payoffs must have 2\^n rows.*got \("):
        shapley_values(torch.zeros(shape))


def test_too_many_players() -> None:
    with pytest.raises(ValueError, match=r"n_players must be 1\.\.16"):
        shapley_values(torch.zeros(2 ** (MAX_PLAYERS + 1)))


def test_integer_payoffs_are_refused_rather_than_rounded_to_zero() -> None:
    with pytest.raises(ValueError, match="payoffs must be floating point"):
        shapley_values(torch.tensor([0, 0, 0, 1]))


def test_autocast_does_not_round_them() -> None:
    payoffs = random_payoffs(4, 3).float()
    expected = shapley_values(payoffs)
    with torch.autocast("cpu", torch.bfloat16):
        values = shapley_values(payoffs)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
