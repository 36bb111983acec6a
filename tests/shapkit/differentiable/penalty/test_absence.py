"""What stands in for absent regions."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shapkit.differentiable import DummyPlayerPenalty, Regions, absent_input, partner
from shapkit.differentiable.penalty.absence import Exchange, standard_noise


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


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9])
def test_everyone_has_a_partner_and_is_the_partner_of_one(size: int) -> None:
    partners = partner(torch.arange(size)).tolist()
    assert sorted(partners) == list(range(size))
    assert all(other != row for row, other in enumerate(partners))
    assert torch.equal(absent_input("exchange", batch(size)), batch(size)[partners])


def test_one_sample_has_no_partner_and_takes_its_own_image_moved() -> None:
    with pytest.raises(ValueError, match="takes two at least, got 1"):
        partner(batch(1))
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(absent_input("exchange", x), x.roll((1, 2), (2, 3)))
    assert torch.equal(absent_input("exchange", x.movedim(1, -1), channels=-1), x.roll((1, 2), (2, 3)).movedim(1, -1))


def slow_exchange(rows: list[tuple[float, ...]]) -> tuple[list[int], list[bool]]:
    """Each sample takes from the next one with the same conditions, in a round; alone it takes from itself."""
    source, alone = [], []
    for row, own in enumerate(rows):
        same = [other for other in range(len(rows)) if rows[other] == own]
        source.append(same[(same.index(row) + 1) % len(same)])
        alone.append(len(same) == 1)
    return source, alone


@settings(max_examples=60, deadline=None, derandomize=True)
@given(times=st.lists(st.integers(0, 3), min_size=1, max_size=9), data=st.data())
def test_samples_are_exchanged_with_those_of_their_own_conditions(times: list[int], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    x = torch.arange(len(times) * 6.0).reshape(len(times), 1, 6)
    t, y = torch.tensor(times), torch.tensor(labels, dtype=torch.float32)[:, None].expand(-1, 2)
    found = Exchange.of(x, [t, y])
    source, alone = slow_exchange(list(zip(map(float, times), map(float, labels), strict=True)))
    assert found.source is not None and found.source.tolist() == source
    assert (found.alone is not None) == any(alone) and found.outputs == (not any(alone))
    stand_in = found.stand_in(x)
    for row in range(len(times)):
        assert torch.equal(stand_in[row], x[row].roll(3, 1) if alone[row] else x[source[row]])


def test_conditions_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="'paired' means rows 2i and 2i \\+ 1, so the batch must be even, got 3"):
        Exchange.of(batch(3), "paired")
    with pytest.raises(ValueError, match="conditions must be tensors, 'paired' or None, got 'alike'"):
        Exchange.of(batch(4), "alike")  # type: ignore[arg-type]
    for wrong in (torch.tensor(3.0), torch.zeros(3)):
        with pytest.raises(ValueError, match="one row for each of the 4 samples"):
            Exchange.of(batch(4), wrong)


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
