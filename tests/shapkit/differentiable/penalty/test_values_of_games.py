"""Values of torch games that are run chunk by chunk: exact and sampled, with gradients, and unbiased squares."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import shapkit
from shapkit.differentiable.penalty.values import exact_values, sampled_values, shapley_values
from shapkit.estimators import AntitheticSampler, PermutationSampler

N = 4
TABLE = torch.randn(2**N, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
POWERS = torch.tensor([2**player for player in range(N)])


def table_game(table: Tensor) -> Any:
    return lambda members: table[members.long() @ POWERS]


@pytest.mark.parametrize("chunk", [1, 3, 16, 100])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_exact_values_are_those_of_the_table(chunk: int, checkpoint: bool) -> None:
    table = TABLE.clone().requires_grad_()
    found = exact_values(table_game(table), N, chunk=chunk, checkpoint=checkpoint)
    expected = shapley_values(table)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(values, table, cotangent)[0] for values in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


def test_exact_values_gradcheck() -> None:
    def values(weight: Tensor) -> Tensor:
        return exact_values(lambda members: torch.tanh(members.double() @ weight), N, chunk=5)

    weight = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(values, weight)


@pytest.mark.parametrize("antithetic", [False, True])
def test_sampled_values_gradcheck(antithetic: bool) -> None:
    def values(weight: Tensor) -> tuple[Tensor, Tensor]:
        game = lambda members: torch.tanh(members.double() @ weight)  # noqa: E731
        found = sampled_values(game, N, 4, antithetic=antithetic, checkpoint=True, chunk=3)
        return found.values, found.squares

    weight = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(values, weight)


def slow_marginals(table: Tensor, order: tuple[int, ...]) -> Tensor:
    marginals = torch.zeros(N, *table.shape[1:], dtype=table.dtype)
    row = 0
    for player in order:
        marginals[player] = table[row + 2**player] - table[row]
        row += 2**player
    return marginals


def test_marginals_are_what_each_player_adds_in_the_order() -> None:
    found = sampled_values(table_game(TABLE), N, 40, seed=3).marginals
    every = {order: slow_marginals(TABLE, order) for order in itertools.permutations(range(N))}
    seen = set()
    for marginals in found:
        (order,) = [order for order, expected in every.items() if torch.allclose(expected, marginals)]
        seen.add(order)
    assert len(seen) > 12  # of 24; 40 uniform draws show about 20


@pytest.mark.parametrize(("antithetic", "sampler"), [(False, PermutationSampler), (True, AntitheticSampler)])
def test_steps_add_up_to_the_core_s_own_sampler(antithetic: bool, sampler: Any) -> None:
    """The same orders: ten steps of six permutations are its first sixty."""
    steps = [sampled_values(table_game(TABLE), N, 6, seed=5, step=step, antithetic=antithetic) for step in range(10)]
    marginals = torch.cat([found.marginals for found in steps])
    game = shapkit.Game(lambda members: TABLE[torch.as_tensor(members).long() @ POWERS].numpy(), N)
    core = sampler(game, seed=5)
    core.advance(2 + 60 * (N - 1))
    expected = core.attribution()
    np.testing.assert_allclose(marginals.mean(dim=0), expected.values, rtol=0, atol=1e-12)
    errors = (marginals.var(dim=0) / len(marginals)).sqrt()
    np.testing.assert_allclose(errors, expected.standard_errors, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
def test_sampled_values_are_unbiased_and_know_their_errors(antithetic: bool) -> None:
    exact = shapley_values(TABLE)
    found = sampled_values(table_game(TABLE), N, 4000, antithetic=antithetic, chunk=4096)
    assert bool(((found.values - exact).abs() < 5 * found.standard_errors + 1e-12).all())
    torch.testing.assert_close(found.values.sum(dim=0), TABLE[-1] - TABLE[0])  # efficiency
    few = torch.stack(
        [sampled_values(table_game(TABLE), N, 8, step=s, antithetic=antithetic).values for s in range(200)]
    )
    claimed = (sampled_values(table_game(TABLE), N, 4000, antithetic=antithetic).marginals.var(dim=0)) / (
        4 if antithetic else 8
    )
    measured = few.var(dim=0)
    # The variance of a sample variance of 200 is 2 / 199 of its square (normal); five standard deviations of that.
    assert bool(((measured - claimed).abs() < 5 * (2 / 199) ** 0.5 * claimed + 1e-12).all())


def test_squares_are_unbiased_where_squared_means_are_not() -> None:
    exact = shapley_values(TABLE).square()
    draws = [sampled_values(table_game(TABLE), N, 4, step=step) for step in range(1000)]
    for unbiased, squares in (
        (True, torch.stack([found.squares for found in draws])),
        (False, torch.stack([found.values.square() for found in draws])),
    ):
        errors = squares.std(dim=0) / len(squares) ** 0.5
        within = (squares.mean(dim=0) - exact).abs() < 5 * errors
        assert bool(within.all()) == unbiased
        if not unbiased:  # too large, by the variance of the mean
            assert bool((squares.mean(dim=0) > exact - 5 * errors).all())


def test_squares_are_products_of_independent_halves() -> None:
    found = sampled_values(table_game(TABLE), N, 5)
    products = [found.marginals[u] * found.marginals[w] for u in range(5) for w in range(5) if u != w]
    torch.testing.assert_close(found.squares, torch.stack(products).mean(dim=0), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="two independent units, got one"):
        _ = sampled_values(table_game(TABLE), N, 2, antithetic=True).squares


def test_costs_and_chunks() -> None:
    sizes: list[int] = []

    def game(members: Tensor) -> Tensor:
        assert members.dtype == torch.bool
        sizes.append(len(members))
        return members.double().sum(dim=1)

    exact_values(game, 5, chunk=12)
    assert sizes == [12, 12, 8]
    sizes.clear()
    sampled_values(game, 5, 6, chunk=7)
    assert sum(sizes) == 2 + 6 * 4 and max(sizes) == 7


def test_half_precision_payoffs_are_summed_in_float32() -> None:
    table = TABLE.float()
    for found in (
        exact_values(table_game(table.bfloat16()), N),
        sampled_values(table_game(table.bfloat16()), N, 2).values,
    ):
        assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(exact_values(table_game(table), N), shapley_values(table), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_values(table_game(TABLE), N, chunk=0), "chunk must be at least 1"),
        (lambda: exact_values(lambda members: torch.zeros(3), N), "one row of payoffs per coalition: 16"),
        (lambda: exact_values(lambda members: members.sum(dim=1), N), "payoffs must be floating point"),
        (lambda: exact_values(table_game(TABLE), 17), "n_players must be 1..16"),
        (lambda: sampled_values(table_game(TABLE), 1, 4), "n_players must be at least 2"),
        (lambda: sampled_values(table_game(TABLE), N, 0), "n_permutations must be at least 1"),
        (lambda: sampled_values(table_game(TABLE), N, 3, antithetic=True), "a positive even number"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
