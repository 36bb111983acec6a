"""Clusters, inversion, Editing in Style and IGAN, on tiny random networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from benchmarks.published_tables.gan.clustering import spectral_clusters, spherical_kmeans
from benchmarks.published_tables.gan.editing_in_style import (
    REFERENCE,
    CatalogueConfig,
    EditingInStyle,
    contributions,
    interpolated,
    part_masks,
    query,
)
from benchmarks.published_tables.gan.igan import (
    Igan,
    IganConfig,
    concept_groups,
    exchanged,
    filter_similarity,
    load_igan,
    train_igan,
    within_share,
)
from benchmarks.published_tables.gan.inversion import GanImages, InversionConfig, invert
from benchmarks.published_tables.gan.style_gan import GanArchitecture, StyleGenerator, new_generator
from benchmarks.published_tables.gan.training import GanConfig, train_gan
from benchmarks.published_tables.systems.systems import Region, System
from shapkit_diffusion.training.stop_signals import StopSignals, TrainingStopped

TINY = GanArchitecture(widths=(12, 8, 6), discriminator_widths=(12, 8, 6), latent=10, mapping_layers=2)
CONCEPTS = {"left": 1, "right": 2}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frozen(rectified_layer: int | None = None) -> StyleGenerator:
    generator = StyleGenerator(TINY, rectified_layer)
    generator.load_state_dict(new_generator(TINY, seed=3).state_dict())
    return generator.eval().requires_grad_(False)


def pixels(images: torch.Tensor) -> torch.Tensor:
    return images


def halves(images: torch.Tensor) -> torch.Tensor:
    """Label maps: background above, "left" and "right" below."""
    labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.long)
    rows, columns = (side // 2 for side in images.shape[2:])
    labels[:, rows:, :columns], labels[:, rows:, columns:] = 1, 2
    return labels


def region(name: str, count: int = 3) -> Region:
    return Region(name, torch.ones(count, 1, 16, 16))


@pytest.fixture
def styled() -> EditingInStyle:
    config = CatalogueConfig(layer=3, clusters=6, images=16, threshold=0.0, budget=0.4)
    return EditingInStyle.build(GanImages(frozen(), pixels), halves, CONCEPTS, config)


@pytest.fixture
def grouped() -> Igan:
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    return Igan.build(GanImages(frozen(rectified_layer=2), pixels), groups, halves, CONCEPTS, n_labels=3)


# --- clusters


def test_spherical_kmeans_is_at_a_fixed_point_and_finds_bundles() -> None:
    directions = torch.eye(5)[:3]
    points = (directions.repeat(20, 1) + 0.1 * normal(60, 5)) * torch.linspace(0.1, 9, 60)[:, None]
    centres, labels = spherical_kmeans(points, clusters=3, seed=4)
    unit = points / points.norm(dim=1, keepdim=True)
    for cluster in range(3):
        total = sum(row for row, label in zip(unit, labels.tolist(), strict=True) if label == cluster)
        torch.testing.assert_close(centres[cluster], total / total.norm())
    assert torch.equal(labels, (unit @ centres.T).argmax(dim=1))
    assert all(len(labels[first::3].unique()) == 1 for first in range(3))
    assert len(labels.unique()) == 3
    with pytest.raises(ValueError, match="clusters must be from 1 to the 60 points"):
        spherical_kmeans(points, clusters=61)


def test_spherical_kmeans_of_one_direction_has_no_trouble() -> None:
    centres, labels = spherical_kmeans(torch.ones(4, 2), clusters=3)
    assert centres.isfinite().all()
    assert len(labels.unique()) == 1


def test_spectral_clusters_do_not_depend_on_the_order() -> None:
    member = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    similarity = (member[:, None] == member).float() + 0.05
    order = torch.tensor([5, 2, 7, 0, 3, 1, 6, 4])
    labels, shuffled = spectral_clusters(similarity, 3), spectral_clusters(similarity[order][:, order], 3)
    assert torch.equal(labels[:, None] == labels, member[:, None] == member)
    assert torch.equal((labels[:, None] == labels)[order][:, order], shuffled[:, None] == shuffled)


# --- inversion


def test_inversion_lowers_the_loss_and_finds_what_the_generator_can_make() -> None:
    generator = frozen()
    with torch.no_grad():
        images = generator(normal(3, TINY.latent, seed=8))
    errors = []
    for steps in (1, 20, 150):
        w = invert(generator, images, pixels, InversionConfig(steps=steps, learning_rate=0.1))
        assert w.shape == (3, TINY.layers, TINY.latent)
        assert not w.requires_grad
        errors.append((generator.synthesis(generator.styles(w)) - images).square().mean().item())
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.05 * errors[0]


def test_inversion_of_an_image_does_not_depend_on_its_company() -> None:
    generator, config = frozen(), InversionConfig(steps=10, batch_size=2)
    images = normal(3, 3, 16, 16).clamp(-1, 1)
    together, alone = (invert(generator, part, pixels, config) for part in (images, images[2:]))
    torch.testing.assert_close(together[2:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 0}, {"learning_rate": 0.0}, {"feature_weight": -1.0}])
def test_inversion_refuses_numbers_out_of_range(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(InversionConfig(), **change)


def test_generated_images_are_remembered_and_not_searched_for() -> None:
    made = GanImages(frozen(), pixels, InversionConfig(steps=1))
    images = made.generate(3, seed=5)
    assert torch.equal(images, made.generate(3, seed=5))
    torch.testing.assert_close(images, made.generate(4, seed=5)[:3])
    assert not torch.equal(images, made.generate(3, seed=6))
    assert torch.equal(made.reconstruct(images.flip(0)), images.flip(0))
    given = images + 0.25
    assert not torch.allclose(made.reconstruct(given), given, atol=0.05)


# --- Editing in Style


def test_contributions_against_a_loop_and_sum_to_one() -> None:
    inputs = normal(3, 4, 4, 4) * torch.tensor([1.0, 5.0, 0.1, 2.0])[:, None, None] + 3
    masks = torch.stack([(halves(torch.zeros(3, 3, 8, 8)) == label).float() for label in range(3)], dim=1)
    small = masks[:, :, ::2, ::2]  # the parts' borders lie between the coarse pixels
    found = contributions(inputs, masks)
    values = inputs.double().numpy()
    for channel in range(4):
        standard = (values[:, channel] - values[:, channel].mean()) / values[:, channel].std()
        for part in range(3):
            expected = (standard**2 * small[:, part].numpy()).sum() / standard.size
            assert found[part, channel].item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(4))


def test_query_against_a_loop() -> None:
    for seed in range(20):
        contribution = torch.rand(30, generator=torch.Generator().manual_seed(seed))
        taken, spent = [0.0] * 30, 0.0
        for channel in sorted(range(30), key=lambda channel: -contribution[channel].item()):
            spent += 1 - contribution[channel].item()
            if spent >= 3.0:
                break
            taken[channel] = float(contribution[channel] > 0.6)
        assert query(contribution, threshold=0.6, budget=3.0).tolist() == taken


def test_query_is_zero_or_one_and_a_larger_budget_takes_more() -> None:
    contribution = torch.linspace(0, 1, 11)
    sizes = []
    for budget in (0.0, 0.05, 1.0, 11.0):
        q = query(contribution, threshold=-1.0, budget=budget)
        assert set(q.unique().tolist()) <= {0.0, 1.0}
        sizes.append(int(q.sum()))
    assert sizes == [0, 1, 4, 11]  # 0, 0.1, 0.2, 0.3 and 0.4 sum to 1.0, of which the last does not stay below


def test_a_part_is_the_clusters_that_it_fills() -> None:
    labels = halves(torch.zeros(2, 3, 8, 8))
    activations = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float() + 0.01 * normal(2, 3, 8, 8)
    masks = part_masks(activations, labels, [1, 2], CatalogueConfig(clusters=3))
    for part, label in enumerate((1, 2)):
        assert torch.equal(masks[:, part] > 0, labels == label)
    # One cluster for all: each part has to make do with it.
    assert (part_masks(activations, labels, [1, 2], CatalogueConfig(clusters=1)) == 1).all()


def test_full_queries_give_the_references_styles_and_empty_ones_the_targets() -> None:
    generator = frozen()
    target, reference = (generator.styles(generator.mapping(normal(2, TINY.latent, seed=seed))) for seed in (1, 2))
    for value, expected in ((1.0, reference), (0.0, target)):
        queries = [torch.full((style.shape[1],), value) for style in target]
        for found, wanted in zip(interpolated(target, reference, queries), expected, strict=True):
            assert torch.equal(found, wanted)


def test_editing_in_style_edits_by_seed_and_by_concept(styled: EditingInStyle) -> None:
    system: System = styled
    assert (system.name, system.pastes) == ("Editing in Style", False)
    images = system.generate(3, seed=0)
    edited = system.edit(images, region("left"), seed=1)
    assert torch.equal(edited, system.edit(images, region("left"), seed=1))
    assert edited.shape == images.shape
    assert edited.abs().max() <= 1
    for other in (images, system.edit(images, region("left"), seed=2), system.edit(images, region("right"), seed=1)):
        assert not torch.equal(edited, other)
    with pytest.raises(ValueError, match="region must be one of left, right, got 'nose'"):
        system.edit(images, region("nose"), seed=1)


def test_editing_in_style_takes_the_channels_of_its_queries_from_the_reference(styled: EditingInStyle) -> None:
    images = styled.generate(3, seed=0)
    made = styled.images
    reference = made.image(made.generator.styles(made.w_of_seed(3, 1, REFERENCE)))
    full = EditingInStyle(made, {"left": [torch.ones_like(q) for q in styled.queries["left"]]})
    assert torch.equal(full.edit(images, region("left"), seed=1), reference)
    none = EditingInStyle(made, {"left": [torch.zeros_like(q) for q in styled.queries["left"]]})
    assert torch.equal(none.edit(images, region("left"), seed=1), images)


# --- IGAN


def test_filter_similarity_against_numpy() -> None:
    features = normal(5, 4, 3, 3).clamp(min=0)
    rows = features.movedim(1, 0).flatten(1).double().numpy()
    np.testing.assert_allclose(filter_similarity(features).numpy(), 1 + np.corrcoef(rows), atol=1e-5)


def test_within_share_against_a_loop() -> None:
    similarity = filter_similarity(normal(5, 6, 3, 3))
    groups = torch.tensor([0, 1, 2, 0, 1, 0])
    shares = []
    for group in range(4):  # the last one is empty
        own = [i for i in range(6) if groups[i] == group]
        total = sum(similarity[i, j].item() for i in own for j in range(6))
        shares.append(sum(similarity[i, j].item() for i in own for j in own) / total if own else 0.0)
    assert within_share(similarity, groups, 4).item() == pytest.approx(np.mean(shares), rel=1e-5)


def test_exchanging_takes_the_chosen_groups_only() -> None:
    features, others = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    groups = torch.tensor([0, 1, 2, 1])
    assert torch.equal(exchanged(features, others, groups, torch.tensor([0, 1, 2])), others)
    mixed = exchanged(features, others, groups, torch.tensor([1]))
    assert torch.equal(mixed[:, [1, 3]], others[:, [1, 3]])
    assert torch.equal(mixed[:, [0, 2]], features[:, [0, 2]])


def test_groups_stand_for_the_label_where_they_are_densest() -> None:
    labels = halves(torch.zeros(4, 3, 8, 8))
    above, left, right = ((labels == label).float()[:, None] for label in range(3))
    noise = normal(4, 1, 8, 8).square()
    features = torch.cat([left * noise, right * noise, left * noise, above * noise], dim=1)
    found = concept_groups(features, labels, torch.tensor([3, 0, 3, 1]), CONCEPTS, n_labels=3)
    assert {name: numbers.tolist() for name, numbers in found.items()} == {"left": [3], "right": [0]}
    # Without filters of its own, a concept has the densest group that there is.
    found = concept_groups(features[:, :1] + 0.1 * features[:, 1:2], labels, torch.tensor([0]), CONCEPTS, n_labels=3)
    assert {name: numbers.tolist() for name, numbers in found.items()} == {"left": [0], "right": [0]}


def test_igan_edits_by_seed_and_by_concept(grouped: Igan) -> None:
    system: System = grouped
    assert (system.name, system.pastes) == ("IGAN", False)
    images = system.generate(3, seed=0)
    edited = system.edit(images, region("left"), seed=1)
    assert torch.equal(edited, system.edit(images, region("left"), seed=1))
    assert edited.abs().max() <= 1
    assert not torch.equal(edited, images)
    assert not torch.equal(edited, system.edit(images, region("left"), seed=2))
    with pytest.raises(ValueError, match="region must be one of left, right, got 'nose'"):
        system.edit(images, region("nose"), seed=1)


def test_igan_with_all_groups_goes_on_from_the_references_feature_maps(grouped: Igan) -> None:
    images, made = grouped.generate(3, seed=0), grouped.images
    target = made.generator.styles(made.latents(images))
    reference = made.generator.styles(made.w_of_seed(3, 1, REFERENCE))
    expected = made.generator.finish(made.generator.features(reference, 2), target, 2).clamp(-1, 1)
    everything = Igan(made, grouped.groups, {"left": torch.tensor([0, 1, 2])})
    assert torch.equal(everything.edit(images, region("left"), seed=1), expected)
    nothing = Igan(made, grouped.groups, {"left": torch.tensor([], dtype=torch.long)})
    assert torch.equal(nothing.edit(images, region("left"), seed=1), images)


def test_igan_needs_a_rectified_layer() -> None:
    with pytest.raises(ValueError, match="has a rectified layer, this one has none"):
        Igan.build(GanImages(frozen(), pixels), torch.zeros(8, dtype=torch.long), halves, CONCEPTS, n_labels=3)


def test_fine_tuning_draws_filters_of_a_group_together_and_can_be_read_again(tmp_path: Path) -> None:
    start = GanConfig(TINY, steps=1, batch_size=4, save_every=100, log_every=1, sample_every=0)
    train_gan(start, tmp_path / "gan")
    shares = {}
    for weight in (0.0, 20.0):
        gan = replace(start, steps=30, batch_size=8, learning_rate=3e-3, ema=0.5, seed=1)
        config = IganConfig(gan, layer=2, groups=3, weight=weight, regroup_every=10)
        generator, groups = train_igan(config, tmp_path / "gan", tmp_path / f"igan-{weight:g}")
        features = generator.features(generator.styles(generator.mapping(normal(64, TINY.latent))), 2)
        assert (features >= 0).all()
        shares[weight] = within_share(filter_similarity(features), groups, 3).item()
        assert set(groups.tolist()) <= {0, 1, 2}
    assert shares[20.0] > shares[0.0] + 0.05
    read, read_groups = load_igan(tmp_path / "igan-20")
    assert read.rectified_layer == 2
    assert torch.equal(read_groups, groups)
    assert torch.equal(read.constant, generator.constant)


def test_fine_tuning_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = GanConfig(TINY, steps=1, batch_size=4, log_every=1, sample_every=0)
    train_gan(start, tmp_path / "gan")
    config = IganConfig(replace(start, steps=5, learning_rate=1e-2), layer=2, groups=3, regroup_every=2, memory=0.2)
    whole, groups = train_igan(config, tmp_path / "gan", tmp_path / "whole")

    received, calls = StopSignals.received, []

    def after_three(self: StopSignals, accelerator: Accelerator) -> bool:
        calls.append(1)
        return len(calls) == 3 or received(self, accelerator)

    monkeypatch.setattr(StopSignals, "received", after_three)
    with pytest.raises(TrainingStopped, match="after 3 of 5 steps"):
        train_igan(config, tmp_path / "gan", tmp_path / "parts")
    assert not (tmp_path / "parts" / "generator.safetensors").exists()
    parts, same = train_igan(config, tmp_path / "gan", tmp_path / "parts", resume=True)
    assert torch.equal(same, groups)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_fine_tuning_refuses_a_gan_of_another_size_and_an_unfinished_run(tmp_path: Path) -> None:
    start = GanConfig(TINY, steps=1, batch_size=4, sample_every=0)
    train_gan(start, tmp_path / "gan")
    with pytest.raises(ValueError, match="holds a GAN of"):
        train_igan(IganConfig(), tmp_path / "gan", tmp_path / "igan")
    with pytest.raises(ValueError, match="train_igan did not finish"):
        load_igan(tmp_path / "gan")
    for change in ({"layer": 9}, {"groups": 1}, {"memory": 1.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            replace(IganConfig(), **change)
