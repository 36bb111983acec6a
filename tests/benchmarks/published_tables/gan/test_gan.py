"""The small style-based GAN: its layers against slow twins, its training, its files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from scipy import stats
from torch.nn import functional as F

from benchmarks.published_tables.gan.style_gan import (
    GAIN,
    SLOPE,
    GanArchitecture,
    ModulatedConv,
    StyleGenerator,
    group_deviation,
    load_discriminator,
    load_generator,
    new_discriminator,
    new_generator,
    save_network,
)
from benchmarks.published_tables.gan.training import (
    GanConfig,
    Pair,
    discriminator_step,
    draw_latents,
    generator_step,
    gradient_penalty,
    mixed_w,
    real_images,
    train_gan,
)
from shapkit_diffusion import runs
from shapkit_diffusion.training.stop_signals import StopSignals, TrainingStopped

TINY = GanArchitecture(widths=(12, 8, 6), discriminator_widths=(12, 8, 6), latent=10, mapping_layers=2)
SHORT = GanConfig(TINY, steps=4, batch_size=4, penalty_every=2, save_every=2, log_every=1, sample_every=0)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolution_equals_one_convolution_a_sample(demodulate: bool) -> None:
    layer = ModulatedConv(5, 7, 3, demodulate=demodulate)
    x, style = normal(4, 5, 6, 6), 1 + normal(4, 5, seed=1)
    expected = []
    for sample, scale in zip(x, style, strict=True):
        weight = layer.weight * layer.scale * scale[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected.append(F.conv2d(sample[None], weight, padding=1))
    torch.testing.assert_close(layer(x, style), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_demodulation_gives_white_input_unit_variance_whatever_the_style() -> None:
    layer = ModulatedConv(16, 8, 3)
    style = torch.exp(normal(1, 16, seed=2)) * 7.0
    y = layer(normal(1, 16, 130, 130), style)[:, :, 1:-1, 1:-1]  # the border sees padding
    # Given the weights, every output is a sum of independent normal numbers whose squared weights sum to one. Outputs
    # two pixels apart share inputs, so 128^2 of them are worth at least 128^2 / 25 independent ones; the variance's
    # own deviation is then below sqrt(2 / 655) = 0.055.
    assert (y.var(dim=(0, 2, 3)) - 1).abs().max() < 5 * 0.055


def test_the_image_is_a_function_of_the_direction_of_z() -> None:
    generator = new_generator(TINY, seed=3)
    z = normal(3, TINY.latent)
    images = generator(z)
    assert images.shape == (3, 3, 16, 16)
    torch.testing.assert_close(generator(4.0 * z), images)
    assert not torch.allclose(images[0], images[1])


def test_the_generator_can_be_left_and_entered_at_every_layer() -> None:
    generator = new_generator(TINY, seed=3)
    styles = generator.styles(generator.mapping(normal(2, TINY.latent)))
    image = generator.synthesis(styles)
    inputs = generator.inputs(styles)
    for layer in range(TINY.layers - 1):
        features = generator.features(styles, layer)
        assert torch.equal(generator.finish(features, styles, layer), image)
        again = generator.convolutions[layer](inputs[layer], styles[layer]) + generator.biases[layer]
        assert torch.equal(F.leaky_relu(again, SLOPE) * GAIN, features)
    assert torch.equal(generator.to_colour(inputs[-1], styles[-1]) + generator.colour_bias, image)


def test_layers_with_one_w_each_equal_one_w_for_all() -> None:
    generator = new_generator(TINY, seed=3)
    w = generator.mapping(normal(2, TINY.latent))
    own = generator.styles(w[:, None].expand(-1, TINY.layers, -1))
    assert all(torch.allclose(a, b) for a, b in zip(own, generator.styles(w), strict=True))


def test_a_rectified_layer_is_zero_where_it_is_not_active() -> None:
    plain, rectified = StyleGenerator(TINY), StyleGenerator(TINY, rectified_layer=2)
    rectified.load_state_dict(plain.state_dict())
    styles = plain.styles(plain.mapping(normal(2, TINY.latent)))
    before, after = plain.features(styles, 2), rectified.features(styles, 2)
    assert torch.equal(after, before.clamp(min=0))
    assert (before < 0).any()
    with pytest.raises(ValueError, match="rectified_layer must be from 0 to 4, got 5"):
        StyleGenerator(TINY, rectified_layer=5)


def test_discriminator_gives_one_logit_an_image_and_sees_the_groups_deviation() -> None:
    discriminator = new_discriminator(TINY, seed=0)
    images = normal(8, 3, 16, 16)
    logits = discriminator(images)
    assert logits.shape == (8,)
    # Image 0 is in a group with 2, 4 and 6; with other company it is judged otherwise.
    changed = images.clone()
    changed[2] = images[0]
    assert discriminator(changed)[0] != logits[0]
    changed = images.clone()
    changed[1] = images[0]
    torch.testing.assert_close(discriminator(changed)[0], logits[0])


def test_group_deviation_against_numpy() -> None:
    x = normal(8, 3, 2, 2)
    found = group_deviation(x)
    assert found.shape == (8, 1, 2, 2)
    for first in (0, 1):
        expected = x[first::2].numpy().std(axis=0).mean()
        np.testing.assert_allclose(found[first::2].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("widths", "others", "message"),
    [((), (), "one width for each"), ((4, 4), (4,), "one width for each"), ((4, 0), (4, 4), "1 or more")],
)
def test_impossible_sizes_are_refused(widths: tuple[int, ...], others: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GanArchitecture(widths, others)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"batch_size": 6}, {"mixing": 1.5}, {"learning_rate": float("inf")}, {"sample_every": -1}]
)
def test_numbers_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SHORT, **change)


def test_latents_are_standard_normal() -> None:
    z = draw_latents(50, 400, seed=9).numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    correlation = np.corrcoef(z.T) - np.eye(50)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(400)  # 1,225 correlations of deviation 1/sqrt(400)


def test_mixing_changes_later_layers_only() -> None:
    generator = new_generator(TINY, seed=3)
    always = mixed_w(generator, replace(SHORT, batch_size=64, mixing=1.0), step=5, turn=1)
    never = mixed_w(generator, replace(SHORT, batch_size=64, mixing=0.0), step=5, turn=1)
    assert (never == never[:, :1]).all()
    same = (always == never).all(dim=2)
    assert same[:, 0].all()
    assert not same[:, -1].any()
    assert (same.int().diff(dim=1) <= 0).all()  # once over to the second latent, never back
    assert same.sum(dim=1).unique().tolist() == [1, 2, 3, 4, 5]


def test_no_face_is_shown_in_two_steps() -> None:
    first, second = real_images(SHORT, 0), real_images(SHORT, 1)
    both = torch.cat([first, second])
    assert first.shape == (4, 3, 16, 16)
    assert both.abs().max() <= 1
    assert len(both.unique(dim=0)) == 8


def test_gradient_penalty_of_a_linear_discriminator() -> None:
    weight, images = normal(3, 4, 4), normal(5, 3, 4, 4).requires_grad_()
    logits = (images * weight).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gradient_penalty(logits, images), 0.5 * weight.square().sum())


def test_each_step_changes_its_own_network_only() -> None:
    pair = Pair(new_generator(TINY, 0), new_discriminator(TINY, 0))
    optimizer = torch.optim.Adam(pair.parameters(), lr=2e-3, betas=(0.0, 0.99))
    for step in range(2):  # from the second on, Adam has moments for both
        for act, changes in ((discriminator_step, "discriminator"), (generator_step, "generator")):
            before = {name: value.clone() for name, value in pair.named_parameters()}
            act(pair, optimizer, SHORT, step)
            for name, value in pair.named_parameters():
                assert torch.equal(before[name], value) != name.startswith(changes), name


def test_the_discriminator_learns_to_tell_and_the_generator_to_please() -> None:
    config = replace(SHORT, batch_size=8, gradient_penalty=0.0)
    pair = Pair(new_generator(TINY, 0), new_discriminator(TINY, 0))
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2, betas=(0.0, 0.99))
    told = [discriminator_step(pair, optimizer, config, step)["discriminator"] for step in range(30)]
    assert np.mean(told[-5:]) < 0.5 * np.mean(told[:5])
    pleased = [generator_step(pair, optimizer, config, step)["generator"] for step in range(30)]
    assert np.mean(pleased[-5:]) < 0.5 * np.mean(pleased[:5])


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_gan(SHORT, tmp_path / "whole")

    received, calls = StopSignals.received, []

    def after_three(self: StopSignals, accelerator: Accelerator) -> bool:
        calls.append(1)
        return len(calls) == 3 or received(self, accelerator)

    monkeypatch.setattr(StopSignals, "received", after_three)
    with pytest.raises(TrainingStopped, match="after 3 of 4 steps"):
        train_gan(SHORT, tmp_path / "parts")
    parts = train_gan(SHORT, tmp_path / "parts", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    figures = []
    for folder in ("whole", "parts"):
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        figures.append([{**json.loads(line), "seconds": 0} for line in lines])
    assert figures[0] == figures[1]
    assert [record["step"] for record in figures[0]] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="exists"):
        train_gan(SHORT, tmp_path / "parts")
    with pytest.raises(ValueError, match="holds another run"):
        train_gan(replace(SHORT, seed=1), tmp_path / "parts", resume=True)
    steps: list[int] = []
    again = train_gan(SHORT, tmp_path / "parts", resume=True, progress=lambda done, total: steps.append(done))
    assert steps == [] and torch.equal(again.constant, whole.constant)
    monkeypatch.setattr(runs, "LOCK_PATIENCE", 0.0)
    held = runs.RunFolder.held(tmp_path / "parts", {"gan": asdict(SHORT)}, resume=True)
    with held, pytest.raises(ValueError, match="is in use: process"):
        train_gan(SHORT, tmp_path / "parts", resume=True)


def test_what_is_kept_is_the_average_of_the_generators_weights(tmp_path: Path) -> None:
    kept = train_gan(replace(SHORT, ema=0.5), tmp_path / "run")
    last = load_file(next((tmp_path / "run" / "state").glob("step-*")) / "weights.safetensors")
    assert not torch.equal(kept.constant, last["generator.constant"])
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    read = load_generator(tmp_path / "run" / "generator.safetensors")
    assert torch.equal(read.constant, kept.constant)
    critic = load_discriminator(tmp_path / "run" / "discriminator.safetensors")
    assert torch.equal(critic.out.weight, last["discriminator.out.weight"])


def test_files_keep_sizes_and_the_rectified_layer(tmp_path: Path) -> None:
    generator = StyleGenerator(TINY, rectified_layer=1)
    save_network(generator, tmp_path / "g.safetensors")
    read = load_generator(tmp_path / "g.safetensors")
    assert (read.architecture, read.rectified_layer) == (TINY, 1)
    z = normal(2, TINY.latent)
    assert torch.equal(read(z), generator(z))
    with pytest.raises(ValueError):
        load_discriminator(tmp_path / "g.safetensors")
    for described in ("{", "[]", "{}", '{"architecture": 3}'):
        save_file(dict(generator.state_dict()), tmp_path / "damaged.safetensors", {"network": described})
        with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged"):
            load_generator(tmp_path / "damaged.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="no readable state dict"):
        load_generator(tmp_path / "text.safetensors")
