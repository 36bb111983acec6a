"""Influence: Shapley values that add up, zero for regions that are dummies, and equal to a slow twin."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from shapkit.differentiable import Regions, allowed_influence, composite, partner, star
from shapkit_diffusion.denoisers import Denoiser
from shapkit_diffusion.influence import influence, influence_at, influence_end_to_end, outside_mass
from shapkit_diffusion.sampling import draw_noise


@pytest.fixture
def regions() -> Regions:
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    labels[:, 2:6, 2:6] = 1
    labels[:, 8:12, 8:14] = 2
    return Regions.from_labels(labels, {"eye": [1], "mouth": [2]})


def test_values_are_those_of_the_definition_over_all_orders(regions: Regions) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 16, 16, generator=generator)
    kernel = torch.randn(3, 3, 5, 5, generator=generator)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x, kernel, padding=2)) + 0.1 * x.mean(dim=(2, 3), keepdim=True)

    full = network(x)

    def change(output: torch.Tensor, k: int) -> float:
        mask = regions.masks[:, k : k + 1]
        return float(((output - full).square() * mask).sum())  # areas are equal across samples here, so they cancel

    def payoff(members: tuple[int, ...], k: int) -> float:
        row = torch.tensor([player in members for player in range(3)])
        return 1 - change(network(composite(x, partner(x), regions, row)), k) / change(partner(full), k)

    result = influence(network, x, regions)
    for k in range(3):
        for player in range(3):
            marginals = []
            for order in permutations(range(3)):
                before = order[: order.index(player)]
                marginals.append(payoff((*before, player), k) - payoff(before, k))
            assert result.values[player, k] == pytest.approx(sum(marginals) / 6, abs=1e-5)
    assert result.efficiency_gap == pytest.approx([0, 0, 0], abs=1e-9)
    assert result.grand_value == pytest.approx([1, 1, 1]) and result.empty_value == pytest.approx([0, 0, 0])
    assert result.names == ("eye", "mouth", "rest") and result.n_evaluations == 8


def test_mass_outside_the_graph_is_zero_for_a_network_of_that_graph(regions: Regions) -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rest = regions.mask("rest")

    def looks_at_the_rest(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + (x * rest).mean(dim=(2, 3), keepdim=True))

    allowed = allowed_influence(star(), regions.names)
    result = influence(looks_at_the_rest, x, regions)
    assert outside_mass(result, allowed) == pytest.approx(0, abs=1e-6)
    own = allowed_influence("own", regions.names)
    # Two of three outputs look at the rest; the rest's influence on itself is no violation.
    leaked = abs(result.values[2, 0]) + abs(result.values[2, 1])  # a share may be negative
    assert outside_mass(result, own) == pytest.approx(leaked / 3, abs=1e-6)


def test_influence_of_a_denoiser_within_a_run_and_end_to_end(tiny: Denoiser, regions: Regions) -> None:
    noise = draw_noise(tiny, 4, seed=0)
    for result in (influence_at(tiny, noise.clamp(-1, 1), regions, 500), influence_end_to_end(tiny, noise, regions, 3)):
        assert result.values.shape == (3, 3)
        assert result.values.sum(axis=0) == pytest.approx([1, 1, 1], abs=1e-6)
    with pytest.raises(ValueError, match=r"timestep must be 0\.\.999, got 1000"):
        influence_at(tiny, noise, regions, 1000)
    with pytest.raises(ValueError, match="the batch must be even"):
        influence_at(tiny, noise[:3], Regions(regions.masks[:3], regions.names), 10)
