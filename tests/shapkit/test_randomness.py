"""Counter-based randomness: independent of batching, uniform, avalanching, and nothing global."""

import random

import numpy as np
import pytest
from scipy import stats

from shapkit.randomness import counter_bits, counter_permutations, counter_uniform

MASK = 2**64 - 1


def splitmix_in_python(seed, *indices):
    """The published generator, in Python integers."""

    def mixed(state):
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        return state ^ (state >> 31)

    golden = 0x9E3779B97F4A7C15
    state = mixed((seed + golden) & MASK)
    for index in indices:
        state = mixed((state + golden * (index + 1)) & MASK)
    return state


def test_first_outputs_of_splitmix64():
    # The first output of SplitMix64 seeded with 1234567 (Vigna's splitmix64.c, as on Rosetta Code).
    assert int(counter_bits(1234567)) == 6457827717110365317


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7, 2**64 - 1])
def test_equals_the_slow_twin(seed):
    rows, columns = np.array([0, 1, 5, 2**31, 2**62]), np.arange(4)
    bits = counter_bits(seed, rows[:, None], columns)
    expected = [[splitmix_in_python(seed, int(row), int(column)) for column in columns] for row in rows]
    assert bits.dtype == np.uint64 and bits.tolist() == expected


def test_blocks_of_any_size_agree():
    whole = counter_bits(3, np.arange(100)[:, None], np.arange(7))
    for size in (1, 9, 64):
        parts = [counter_bits(3, np.arange(a, min(a + size, 100))[:, None], np.arange(7)) for a in range(0, 100, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_number_and_order_of_indices_matter():
    assert len({int(counter_bits(0, *where)) for where in [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0)]}) == 6
    many = counter_bits(0, np.arange(300)[:, None], np.arange(300))
    assert len(np.unique(many)) == many.size


def test_every_input_bit_flips_every_output_bit_half_the_time():
    indices = np.arange(4096, dtype=np.uint64)
    before = counter_bits(11, indices)
    for bit in range(64):
        changed = before ^ counter_bits(11, indices ^ np.uint64(1 << bit))
        flips = (changed[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        # 64 * 64 frequencies of 4096 fair flips each: six standard deviations of 1/128 for the worst
        assert np.abs(flips.mean(axis=0) - 0.5).max() < 6 / 128
    seeds = counter_bits(12, indices) ^ before
    assert abs(np.bitwise_count(seeds).mean() - 32) < 6 * 4 / 64


def test_uniform_fills_the_unit_interval():
    numbers = counter_uniform(5, np.arange(200)[:, None], np.arange(100)).ravel()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    neighbours = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(numbers.size)


def test_permutations_are_uniform_and_numbered():
    orders = counter_permutations(0, np.arange(24_000), 4)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.broadcast_to(np.arange(4), orders.shape))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(counter_permutations(0, [777], 4)[0], orders[777])
    np.testing.assert_array_equal(np.argsort(counter_bits(0, 777, np.arange(4))), orders[777])


def test_global_generators_are_not_touched():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    counter_permutations(0, np.arange(10), 5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None, True])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*64\), got"):
        counter_bits(seed, 0)


@pytest.mark.parametrize("index", [-1, [0, -3], 1.5, [True]])
def test_bad_indices(index):
    with pytest.raises(ValueError, match="an index must hold non-negative integers, got"):
        counter_uniform(0, index)
