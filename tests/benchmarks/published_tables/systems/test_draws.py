"""What systems draw is named by seed, region and the image's number, and is what it should be in distribution."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.published_tables.systems.draws import choices, region_noise


def test_noise_is_standard_normal_and_named() -> None:
    noise = region_noise(3, "mouth", 50, (4, 8, 8))
    assert noise.shape == (50, 4, 8, 8)
    count = noise.numel()
    assert abs(float(noise.mean())) < 5 / math.sqrt(count)
    assert abs(float(noise.var()) - 1) < 5 * math.sqrt(2 / count)
    correlation = (noise[:-1] * noise[1:]).mean()
    assert abs(float(correlation)) < 5 / math.sqrt(count)
    assert torch.equal(region_noise(3, "mouth", 20, (4, 8, 8)), noise[:20])
    assert not torch.equal(region_noise(4, "mouth", 20, (4, 8, 8)), noise[:20])
    assert not torch.equal(region_noise(3, "eyes", 20, (4, 8, 8)), noise[:20])


def test_choices_are_uniform_over_each_image_s_own_options() -> None:
    drawn = [choices(seed, "nose", [("a", "b", "c"), ("d",)]) for seed in range(3000)]
    assert {second for _, second in drawn} == {"d"}
    for option in "abc":
        share = sum(first == option for first, _ in drawn) / 3000
        assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / 3000)
    with pytest.raises(ValueError, match="image 2 has nothing to choose from for nose"):
        choices(0, "nose", [("a",), ()])
