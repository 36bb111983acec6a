"""Influence: Shapley values that add up, zero for dummies, equal to a slow twin, with errors that are honest."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from shapkit.differentiable import Regions, allowed_influence, composite, partner, star
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.noise.influence import (
    Influence,
    influence,
    influence_at,
    influence_end_to_end,
    influence_maps,
    outside_error,
    outside_mass,
    outside_masses,
)
from shapkit_diffusion.noise.jackknife import jackknife_error, ratio_of_sums
from shapkit_diffusion.noise.sampling import draw_noise


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
    shares = result.attribution
    assert shares.efficiency_gap == pytest.approx([0, 0, 0], abs=1e-9)
    assert shares.grand_value == pytest.approx([1, 1, 1]) and shares.empty_value == pytest.approx([0, 0, 0])
    assert result.names == ("eye", "mouth", "rest") and shares.n_evaluations == 8 and result.n_images == 4


def test_mass_outside_the_graph_is_zero_for_a_network_of_that_graph(regions: Regions) -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rest = regions.mask("rest")[:1]

    def looks_at_the_rest(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + (x * rest).mean(dim=(2, 3), keepdim=True))

    allowed = allowed_influence(star(), regions.names)
    result = influence(looks_at_the_rest, x, regions)
    assert outside_mass(result, allowed) == pytest.approx(0, abs=1e-6)
    own = allowed_influence("own", regions.names)
    # Two of three outputs look at the rest; the rest's influence on itself is no violation.
    leaked = abs(result.values[2, 0]) + abs(result.values[2, 1])  # a share may be negative
    assert outside_mass(result, own) == pytest.approx(leaked / 3, abs=1e-6)


def test_a_sample_without_a_region_adds_nothing_to_it() -> None:
    """Against plain loops: areas differ between samples, and the second pair has no mouth."""
    labels = torch.zeros(4, 6, 6, dtype=torch.long)
    labels[:, 1:3, 1:3] = 1
    labels[0, 4:, 2:] = labels[1, 5:, 2:] = 2
    regions = Regions.from_labels(labels, {"eye": [1], "mouth": [2]}, missing="allow")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 2, 6, 6, generator=generator)
    kernel = torch.randn(2, 2, 3, 3, generator=generator)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x, kernel, padding=1)) + x.mean(dim=(2, 3), keepdim=True)

    full = network(x)

    def change(output: torch.Tensor, k: int) -> float:
        total = 0.0
        for sample in range(4):
            owned = labels[sample] == (1, 2, 0)[k]
            if owned.any():
                total += float((output - full)[sample, :, owned].double().square().mean())
        return total

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
            assert result.values[player, k] == pytest.approx(sum(marginals) / 6, abs=1e-6)


def test_a_region_without_any_change_is_refused(regions: Regions) -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    nowhere = Regions.from_labels(labels, {"eye": [1]}, missing="allow")
    with pytest.raises(ValueError, match=r"region 'eye' has no change to account for .*: no sample has pixels of it"):
        influence(torch.tanh, x, nowhere)
    with pytest.raises(ValueError, match=r"region 'mouth' has no change .* or the network ignores its input"):
        influence(lambda x: x * (1 - regions.mask("mouth")[:1]), x, regions)


def test_influence_of_a_denoiser_within_a_run_and_end_to_end(tiny: Denoiser, regions: Regions) -> None:
    noise = draw_noise(tiny, 4, seed=0)
    tiny.train()
    within = influence_at(tiny, noise.clamp(-1, 1), regions, 500)
    for result in (within, influence_end_to_end(tiny, noise, regions, 3)):
        assert result.values.shape == (3, 3)
        assert result.values.sum(axis=0) == pytest.approx([1, 1, 1], abs=1e-6)
        assert (result.standard_errors > 0).all()
    assert within.timestep == 500 and tiny.training
    with pytest.raises(ValueError, match=r"timestep must be 0\.\.999, got 1000"):
        influence_at(tiny, noise, regions, 1000)
    with pytest.raises(ValueError, match="the batch must be even"):
        influence_at(tiny, noise[:3], Regions(regions.masks[:3], regions.names), 10)


def test_maps_are_those_of_the_generated_images(tiny: Denoiser, regions: Regions) -> None:
    noise = draw_noise(tiny, 4, seed=0)
    seen: list[torch.Tensor] = []

    def regions_of(images: torch.Tensor) -> Regions:
        seen.append(images)
        return regions

    maps = influence_maps(tiny, noise, regions_of, timesteps=[900, 100], steps=2, seed=7, interactions="FSII")
    assert list(maps) == ["t = 900", "t = 100", "x_T to x_0"] and len(seen) == 1
    assert [found.timestep for found in maps.values()] == [900, 100, None]
    np.testing.assert_array_equal(maps["t = 900"].values, influence_at(tiny, seen[0], regions, 900, seed=7).values)
    np.testing.assert_array_equal(maps["x_T to x_0"].values, influence_end_to_end(tiny, noise, regions, 2).values)
    assert all(found.interactions is not None and found.interactions.index == "FSII" for found in maps.values())


def test_images_get_another_noise_than_they_were_made_from(tiny: Denoiser, regions: Regions) -> None:
    """At the last timestep the network sees nearly nothing but the noise, which one seed must not give twice."""
    seen: list[torch.Tensor] = []
    tiny.unet.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    influence_at(tiny, torch.zeros(4, 3, 16, 16), regions, 999, seed=0)
    made_from = draw_noise(tiny, 4, seed=0)
    correlation = np.corrcoef(seen[0].flatten().numpy(), made_from.flatten().numpy())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(made_from.numel())  # five standard deviations of independent noises


def pixels(n_regions: int) -> Regions:
    """Regions of one pixel each, so that a network is a function of ``n_regions`` numbers."""
    return Regions.grid(1, n_regions, 1, n_regions, dtype=torch.float64)


def mixing(weights: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The linear network whose output k is the sum of weights[k, j] times input j."""
    return lambda x: x @ weights.T


def draws(n_images: int, n_regions: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, 1, 1, n_regions, generator=generator, dtype=torch.float64)


WEIGHTS = torch.tensor([[1.0, 0.5, 0.0], [-0.3, 2.0, 0.7], [0.0, 0.0, 1.0]], dtype=torch.float64)


def contributions(x: torch.Tensor) -> np.ndarray:
    """What each input changes in each output of the linear network: (n_pairs, K outputs, K inputs)."""
    difference = (x[1::2] - x[::2]).reshape(len(x) // 2, 1, -1)
    return (WEIGHTS * difference).numpy()


def test_a_network_without_mixing_has_the_identity_and_no_error() -> None:
    found = influence(lambda x: x**3, draws(10, 4, seed=0), pixels(4))
    np.testing.assert_allclose(found.values, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(found.standard_errors, 0, atol=1e-12)


def test_a_linear_network_has_the_values_and_interactions_that_algebra_gives() -> None:
    """Let c_j be what input j changes. The game -(sum of the c outside S)^2 has Shapley values c_j sum(c), and every
    discrete derivative in i and j is -2 c_i c_j, whatever the others: the interaction of any index. Both samples of a
    pair have the same game."""
    x = draws(12, 3, seed=1)
    changed = contributions(x)
    total = changed.sum(axis=2)
    for index in ("k-SII", "FSII", "BII"):
        found = influence(mixing(WEIGHTS), x, pixels(3), interactions=index)
        expected = (changed * total[..., None]).sum(axis=0) / (total**2).sum(axis=0)[:, None]
        np.testing.assert_allclose(found.values, expected.T, atol=1e-12)
        assert found.interactions is not None and found.interactions.n_evaluations == 8
        pairs = found.interactions.interaction_matrix()
        for i, j in ((0, 1), (0, 2), (1, 2)):
            product = -2 * (changed[..., i] * changed[..., j]).sum(axis=0) / (total**2).sum(axis=0)
            np.testing.assert_allclose(pairs[i, j], product, atol=1e-12)


def test_interactions_of_a_product_are_those_computed_by_hand() -> None:
    """Output 0 is a * b. From (1, 1) to (2, 3): 1 becomes 6, or 3 if only b changes, or 2 if only a does. Squared
    changes in this direction: 25 in all, 4 with a kept, 1 with b kept; in the other: 25, 16 (6 to 2) and 9 (6 to 3).
    Payoffs are 1 - 20/50 for {a}, 1 - 10/50 for {b}: interaction 1 - 0.6 - 0.8, values 0.4 and 0.6. c is a dummy."""
    x = torch.tensor([[1.0, 1.0, 5.0], [2.0, 3.0, 7.0]], dtype=torch.float64).reshape(2, 1, 1, 3)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :1] * x[..., 1:2], x[..., 1:]], dim=-1)

    found = influence(network, x, pixels(3), interactions="k-SII")
    np.testing.assert_allclose(found.values[:, 0], [0.4, 0.6, 0], atol=1e-12)
    assert found.interactions is not None
    pairs = found.interactions.interaction_matrix()[..., 0]
    np.testing.assert_allclose([pairs[0, 1], pairs[0, 2], pairs[1, 2]], [-0.4, 0, 0], atol=1e-12)
    assert np.isnan(found.standard_errors).all()  # a single pair says nothing about others


def test_replicates_are_the_matrices_without_each_pair() -> None:
    """The slow twin leaves the images out and starts anew."""
    x = draws(10, 3, seed=2)
    found = influence(mixing(WEIGHTS), x, pixels(3))
    without = []
    for pair in range(5):
        kept = torch.cat([x[: 2 * pair], x[2 * pair + 2 :]])
        without.append(influence(mixing(WEIGHTS), kept, pixels(3)).values)
    np.testing.assert_allclose(found.without_pair, without, atol=1e-12)
    spread = np.sqrt(4 * np.var(without, axis=0))  # (n - 1) / n times the sum of squared deviations
    np.testing.assert_allclose(found.standard_errors, spread, atol=1e-12)
    own = allowed_influence("own", found.names)
    masses = [np.abs(matrix - np.diag(np.diag(matrix))).sum() / 3 for matrix in without]
    np.testing.assert_allclose(outside_masses(found.without_pair, own), masses)
    assert outside_error(found, own) == pytest.approx(np.sqrt(4 * np.var(masses)))


def test_errors_are_the_spread_over_images_and_intervals_hold_the_truth() -> None:
    """Of normal inputs the linear network's matrix is known: E[c_j sum(c)] / E[sum(c)^2] = w_kj^2 / sum_j w_kj^2."""
    n_draws, n_images = 400, 80
    truth = (WEIGHTS**2 / (WEIGHTS**2).sum(dim=1, keepdim=True)).T.numpy()
    found = [influence(mixing(WEIGHTS), draws(n_images, 3, seed), pixels(3)) for seed in range(n_draws)]
    values = np.stack([one.values for one in found])
    random = truth * (1 - truth) > 0
    assert random.sum() == 5  # the others are 0 or 1 whatever the images
    np.testing.assert_allclose(values[:, ~random], np.broadcast_to(truth[~random], (n_draws, 4)), atol=1e-12)
    # A sample variance of 400 normal draws has a relative deviation of sqrt(2 / 400) = 0.07: four of them, and 1 / 40
    # for each of the terms of order 1 / n_pairs that the jackknife and the ratio leave out.
    variances = np.mean([one.standard_errors**2 for one in found], axis=0)
    ratio = variances[random] / values.var(axis=0, ddof=1)[random]
    assert (ratio > 1 - 0.28 - 0.05).all() and (ratio < 1 + 0.28 + 0.05).all(), ratio
    # Bias of a ratio is of order 1 / n_pairs of its deviation; the mean of 400 has a deviation of 1/20 of one.
    offset = (values.mean(axis=0) - truth)[random] / values.std(axis=0)[random]
    assert (np.abs(offset) < 4 / 20 + 1 / np.sqrt(40)).all(), offset
    low, high = np.swapaxes([one.attribution.interval(0.95) for one in found], 0, 1)
    covered = ((low <= truth) & (truth <= high)).mean(axis=0)[random]
    # The share of 400 has a deviation of 0.011; intervals of 40 pairs of a skewed ratio may lose 0.03.
    assert (covered > 0.95 - 0.03 - 4 * 0.011).all(), covered


def groups_of_three(x: torch.Tensor) -> torch.Tensor:
    """Every output is the product of the three inputs in its group: a game with interactions of all orders."""
    groups = x.unflatten(-1, (-1, 3)).prod(dim=-1)
    return groups.repeat_interleave(3, dim=-1)


def in_groups(n_images: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.rand(n_images, 1, 1, 9, generator=generator, dtype=torch.float64)


def test_estimates_agree_with_exact_values_and_say_how_sure_they_are() -> None:
    """By symmetry every input of a group has a third, and others, being dummies, exactly nothing."""
    truth = np.kron(np.eye(3), np.full((3, 3), 1 / 3))
    n_draws, covered, off = 60, [], []
    for seed in range(n_draws):
        found = influence(groups_of_three, in_groups(40, seed), pixels(9), budget=20, seed=seed)
        assert found.attribution.method == "antithetic" and found.attribution.n_evaluations <= 20
        np.testing.assert_allclose(found.values.sum(axis=0), 1, atol=1e-12)
        np.testing.assert_allclose(found.values[truth == 0], 0, atol=1e-12)
        low, high = found.attribution.interval(0.95)
        covered.append(((low <= truth) & (truth <= high))[truth > 0].mean())
        off.append((found.values - truth)[truth > 0] / found.standard_errors[truth > 0])
    # The three groups are independent: at least 3 n_draws independent trials.
    assert np.mean(covered) > 0.95 - 0.03 - 4 * np.sqrt(0.95 * 0.05 / (3 * n_draws)), np.mean(covered)
    # Squared errors in standard errors have mean 19 / 17 for Student's t with 19 degrees, variance 3.0.
    assert np.mean(np.square(off)) == pytest.approx(19 / 17, abs=4 * np.sqrt(3.0 / (3 * n_draws)))


def test_coalitions_that_are_drawn_show_in_the_errors() -> None:
    """With one pair of images again and again, the coalitions are all that differs between pairs."""
    x = in_groups(2, seed=0).repeat(100, 1, 1, 1)
    exactly = influence(groups_of_three, x, pixels(9), budget=512)
    assert exactly.attribution.method == "exact" and exactly.attribution.n_evaluations == 512
    np.testing.assert_allclose(exactly.standard_errors, 0, atol=1e-12)
    few = influence(groups_of_three, x, pixels(9), budget=2 + 16)  # an order and its reverse for each pair
    many = influence(groups_of_three, x, pixels(9), budget=2 + 16 * 16)
    known = exactly.values > 0.01
    for found in (few, many):
        assert (np.abs(found.values - exactly.values)[known] < 5 * found.standard_errors[known]).all()
    # Sixteen times the orders: a quarter of the error. Both are known to 1 / sqrt(2 * 99) of themselves, 0.1 together.
    gain = few.standard_errors[known] / many.standard_errors[known]
    assert (gain > 4 * (1 - 0.4)).all() and (gain < 4 * (1 + 0.4)).all(), gain
    assert not np.array_equal(few.values, influence(groups_of_three, x, pixels(9), budget=18, seed=1).values)


@pytest.mark.parametrize("budget", [8, 100])
def test_the_network_is_given_no_more_rows_than_allowed_and_the_numbers_stay(budget: int) -> None:
    n_regions = 3 if budget == 8 else 9
    x = in_groups(8, seed=3)[..., :n_regions]
    sizes: list[int] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return groups_of_three(x)

    found: list[Influence] = []
    for batch_size in (1, 2, 7, 64):
        sizes.clear()
        found.append(influence(network, x, pixels(n_regions), budget=budget, batch_size=batch_size))
        assert max(sizes) <= batch_size
        assert max(sizes) > batch_size // 2
        np.testing.assert_allclose(found[-1].values, found[0].values, atol=1e-12)
        np.testing.assert_allclose(found[-1].standard_errors, found[0].standard_errors, atol=1e-12)


def test_a_region_in_a_single_pair_has_a_share_and_no_error() -> None:
    labels = torch.zeros(6, 4, 4, dtype=torch.long)
    labels[:2, 1:3, 1:3] = 1
    regions = Regions.from_labels(labels, {"mouth": [1]}, missing="allow")
    x = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    found = influence(lambda x: x + x.mean(dim=(2, 3), keepdim=True), x, regions)
    assert found.values.sum(axis=0) == pytest.approx([1, 1])
    assert np.isnan(found.standard_errors[:, 0]).all() and (found.standard_errors[:, 1] > 0).all()


def test_what_cannot_be_done_is_refused() -> None:
    x = draws(4, 9, seed=5)
    with pytest.raises(
        ValueError, match=r"'k-SII' needs all 2\*\*9 coalitions, but the budget is 256 .*raise it to 512"
    ):
        influence(torch.tanh, x, pixels(9), interactions="k-SII")
    with pytest.raises(ValueError, match="must be an index of pairs, such as 'k-SII' or 'FSII', got 'shapley'"):
        influence(torch.tanh, x, pixels(9), interactions="shapley")
    with pytest.raises(ValueError, match="batch_size must be at least one row, got 0"):
        influence(torch.tanh, x, pixels(9), batch_size=0)


def test_jackknife_of_a_ratio_is_the_delta_method_in_large_samples() -> None:
    """The delta method's error of sum(a) / sum(b) is sqrt(n var(a - r b)) / sum(b); both agree to order 1 / n."""
    generator = np.random.default_rng(0)
    below = generator.uniform(1, 2, size=2000)
    above = 0.7 * below + generator.normal(size=2000)
    ratio, without = ratio_of_sums(above, below)
    delta = np.sqrt(2000 * np.var(above - ratio * below, ddof=1)) / below.sum()
    assert jackknife_error(without) == pytest.approx(delta, rel=10 / 2000)
    assert np.isnan(jackknife_error(without[:1]))


def test_every_timestep_has_noise_of_its_own_and_so_has_every_seed(tiny: Denoiser, regions: Regions) -> None:
    seen: list[Tensor] = []

    class Spy(Denoiser):
        def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> Tensor:
            seen.append(x[:1].clone())
            return super().forward(x, timesteps, finished)

    spy = Spy(tiny.unet, tiny.scheduler)
    images = 0.3 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    noises = []
    for timestep, seed in ((100, 0), (101, 0), (500, 0), (500, 1)):
        seen.clear()
        influence_at(spy, images, regions, timestep, seed)
        signal, sigma = spy.signal_and_noise(torch.tensor([timestep]), images)
        noises.append(((seen[0] - signal * images[:1]) / sigma).flatten())
    agreement = torch.corrcoef(torch.stack(noises)).fill_diagonal_(0).abs().max()
    # Of independent noise, 768 numbers each: the largest of six correlations passes 5 standard errors one time in 10^5
    assert float(agreement) < 5 / 768**0.5


def test_it_shows_itself_in_a_notebook() -> None:
    regions = Regions.from_labels(torch.tensor([[[0, 0, 1, 1]] * 4]), {"right": [1]})
    found = influence(torch.tanh, torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), regions)
    html = found._repr_html_()
    assert html.count("100.0 ± 0.0") == 2 and html.count("<th ") == 4 and "4 images" in html
