"""What stands in for absent regions."""

from typing import Any

import pytest
import torch

from shapkit.differentiable import DummyPlayerPenalty, Regions, absent_input, partner
from shapkit.differentiable.penalty.absence import standard_noise


def batch(size: int = 4) -> torch.Tensor:
    return torch.randn(size, 2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_partner_exchanges_neighbours() -> None:
    x = batch(6)
    exchanged = partner(x)
    for row in range(6):
        assert torch.equal(exchanged[row], x[row + 1 if row % 2 == 0 else row - 1])
    assert torch.equal(partner(exchanged), x)


def test_partner_of_halves_is_the_halves_of_the_partner() -> None:
    x = batch(4)
    assert torch.equal(torch.cat([partner(x[:2]), partner(x[2:])]), partner(x))


def test_partner_passes_gradients() -> None:
    x = batch(2).requires_grad_()
    partner(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad[1].eq(1).all()
    assert x.grad[0].eq(0).all()


@pytest.mark.parametrize("size", [1, 3])
def test_odd_batches_have_no_partners(size: int) -> None:
    for call in (partner, lambda x: absent_input("exchange", x)):
        with pytest.raises(ValueError, match=f"exchange.*must be even, got {size}"):
            call(batch(size))


def test_zeros_exchange_and_batch_mean() -> None:
    x = batch()
    assert torch.equal(absent_input("zeros", x), torch.zeros_like(x))
    assert torch.equal(absent_input("exchange", x), x[[1, 0, 3, 2]])
    mean = absent_input("batch_mean", x)
    assert mean.shape == x.shape
    for row in mean:
        torch.testing.assert_close(row, (x[0] + x[1] + x[2] + x[3]) / 4)


def test_noise_is_named_by_seed_step_and_sample() -> None:
    x = batch()
    noise = absent_input("noise", x, seed=3, step=5)
    assert torch.equal(noise, absent_input("noise", torch.zeros_like(x), seed=3, step=5))
    assert not torch.equal(noise, absent_input("noise", x, seed=4, step=5))
    assert not torch.equal(noise, absent_input("noise", x, seed=3, step=6))
    assert len({float(value) for value in noise.flatten()}) == noise.numel()  # no two samples or pixels alike
    halves = [absent_input("noise", x[rows : rows + 2], seed=3, step=5, first_index=rows) for rows in (0, 2)]
    assert torch.equal(torch.cat(halves), noise)


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    absent_input("noise", batch())
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal_times_its_level() -> None:
    x = torch.zeros(50, 4, 10, 10, dtype=torch.float64)  # 20,000 numbers
    noise = absent_input("noise", x)
    assert abs(float(noise.mean())) < 4 / 20_000**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / 20_000) ** 0.5
    assert torch.equal(absent_input("noise", x, noise_level=0.3), noise * 0.3)
    levels = torch.linspace(0, 2, 50, dtype=torch.float64)
    scaled = absent_input("noise", x, noise_level=levels)
    for sample in range(50):
        assert torch.equal(scaled[sample], noise[sample] * levels[sample])


@pytest.mark.parametrize("fill", ["zeros", "noise", "exchange", "batch_mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_like_x(fill: str, dtype: torch.dtype) -> None:
    x = batch().to(dtype)
    absent = absent_input(fill, x, noise_level=torch.ones(4))  # type: ignore[arg-type]
    assert (absent.shape, absent.dtype) == (x.shape, dtype)


def test_unknown_fill() -> None:
    with pytest.raises(ValueError, match="one of zeros, noise, exchange, batch_mean, got 'grey'"):
        absent_input("grey", batch())  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.0, 0.25, torch.tensor([0.0, 0.5, 1.0, 2.0])])
def test_the_noise_of_absent_regions_has_the_level_asked_for(level: float | torch.Tensor) -> None:
    x = batch()
    wanted = torch.as_tensor(level, dtype=x.dtype).reshape(-1, 1, 1, 1)
    assert torch.equal(absent_input("noise", x, noise_level=level), wanted * standard_noise(x))


@pytest.mark.parametrize("estimator", ["direct", "exact", "per_region"])
def test_the_penalty_takes_the_level_of_the_noise_too(estimator: Any) -> None:
    """A bilinear network: its change, and so the penalty, is a known multiple of the noise that fills a region."""
    x, half = torch.zeros(4, 2, 6, 6, dtype=torch.float64), torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    half[..., :3] = 1
    regions = Regions(torch.cat([half, 1 - half], dim=1), ("left", "right"))
    penalty = DummyPlayerPenalty(estimator=estimator, fill="noise", graph="own", seed=1)

    def network(z: torch.Tensor) -> torch.Tensor:
        return z + z.flip(3)

    one = float(penalty(network, x, regions, noise_level=1.0))
    assert one > 0.1 and float(penalty(network, x, regions, noise_level=0.0)) == 0
    power = 1 if estimator == "direct" else 2  # sizes of Shapley values; squares of changes
    assert float(penalty(network, x, regions, noise_level=3.0)) == pytest.approx(3**power * one)
    levels = torch.tensor([0.0, 1.0, 2.0, 0.0])
    by_sample = penalty.unreduced(network, x, regions).mean(dim=1)
    by_level = penalty.unreduced(network, x, regions, noise_level=levels).mean(dim=1)
    torch.testing.assert_close(by_level, by_sample * levels.double() ** power)
