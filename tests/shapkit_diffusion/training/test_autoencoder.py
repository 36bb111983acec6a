"""Training of autoencoders: it learns, resumes to the same bits, and leaves what latent diffusion starts from."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from shapkit_diffusion.cli import main
from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.autoencoders import load_autoencoder, small_autoencoder
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.training.autoencoder import (
    AutoencoderConfig,
    autoencoder_losses,
    reconstruction_psnr,
    rectangles,
    train_autoencoder,
)
from shapkit_diffusion.training.batches import draw_batch
from shapkit_diffusion.training.stop_signals import TrainingStopped

QUICK = AutoencoderConfig(steps=6, batch_size=4, warmup=2, save_every=2, log_every=1, flip=True)


@pytest.fixture(scope="module")
def small_faces() -> LabelledImages:
    return render_faces(32, 16, seed=3)


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_learning_lowers_the_loss_and_leaves_a_diffusers_folder_of_unit_latents(
    small_faces: LabelledImages, tmp_path: Path
) -> None:
    config = replace(QUICK, steps=120, learning_rate=1e-2, ema=0.9)
    trained = train_autoencoder(small_autoencoder(channels=(8, 8)), small_faces, config, tmp_path / "run")
    found = [line["reconstruction"] for line in _lines(tmp_path / "run")]
    # Guessing the mean of the data costs its variance; the untrained network does no better.
    variance = float(to_unit_range(torch.as_tensor(small_faces.images)).var())
    assert np.mean(found[-10:]) < 0.7 * min(variance, np.mean(found[:5]))
    opened = AutoencoderKL.from_pretrained(tmp_path / "run" / "model")
    images = to_unit_range(torch.as_tensor(small_faces.images))
    with torch.no_grad():
        latents = opened.encode(images).latent_dist.mode() * opened.config.scaling_factor
        decoded = opened.decode(latents / opened.config.scaling_factor).sample
    assert float(latents.std()) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(trained.encode(images), latents, atol=1e-5)
    error = (decoded.clamp(-1, 1) - images).square().mean(dim=(1, 2, 3))
    assert reconstruction_psnr(trained, images) == pytest.approx(float((10 * torch.log10(4 / error)).mean()), abs=1e-3)


def test_a_stopped_run_goes_on_to_the_bits_of_an_uninterrupted_one(small_faces: LabelledImages, tmp_path: Path) -> None:
    whole = train_autoencoder(small_autoencoder(channels=(8, 8)), small_faces, QUICK, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGTERM)  # heeded at the end of the next step

    with pytest.raises(TrainingStopped, match="after 3 of 6 steps"):
        train_autoencoder(small_autoencoder(channels=(8, 8)), small_faces, QUICK, tmp_path / "parts", progress=stop)
    assert not (tmp_path / "parts" / "model").exists()
    other = small_autoencoder(channels=(8, 8), seed=9)  # whose weights the state replaces
    parts = train_autoencoder(other, small_faces, QUICK, tmp_path / "parts", resume=True)
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.scaling_factor == parts.scaling_factor
    assert [line["step"] for line in _lines(tmp_path / "parts")] == list(range(1, 7))
    with pytest.raises(ValueError, match=r"holds another run: autoencoder\.kl_weight is 1e-05 there and 0.1 here"):
        train_autoencoder(other, small_faces, replace(QUICK, kl_weight=0.1), tmp_path / "parts", resume=True)


def test_losses_are_those_of_composites_put_together_pixel_by_pixel(small_faces: LabelledImages) -> None:
    network = small_autoencoder(channels=(8, 8)).eval()
    step = 5
    batch = draw_batch(small_faces, QUICK.schedule, 1, step, noise_shape=(4, 8, 8))
    with torch.no_grad():
        found = autoencoder_losses(network, batch, QUICK, step)
        posterior = network.encode(batch.images).latent_dist
        latents = posterior.mean + posterior.std * batch.noise
    mixed, images = latents.clone(), batch.images.clone()
    cells = rectangles(QUICK.seed, step, 4, 8, 8)
    assert 0 < int(cells.sum()) < cells.numel()
    for row, _, y, x in cells.nonzero().tolist():
        mixed[row, :, y, x] = latents[row ^ 1, :, y, x]
        images[row, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = batch.images[
            row ^ 1, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2
        ]
    with torch.no_grad():
        expected = (network.decode(mixed).sample - images).square().mean()
        normal = torch.distributions.Normal(posterior.mean, posterior.std)
        divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    assert float(found.reconstruction) == pytest.approx(float(expected), rel=1e-5)
    assert float(found.divergence) == pytest.approx(float(divergence), rel=1e-4)


def test_rectangles_reach_every_cell_as_often_as_uniform_borders_do() -> None:
    count, side = 4000, 4
    cells = rectangles(0, 1, count, side, side)
    # A line is inside when its two borders, uniform among side + 1 lines, fall on its two sides.
    line = np.array([2 * (i + 1) * (side - i) for i in range(side)]) / (side + 1) ** 2
    expected = np.outer(line, line)
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(cells.float().mean(dim=(0, 1)).numpy() - expected) < 4 * deviation).all()


def test_without_composites_every_image_is_its_own(small_faces: LabelledImages) -> None:
    network = small_autoencoder(channels=(8, 8)).eval()
    batch = draw_batch(small_faces, QUICK.schedule, 1, 0, noise_shape=(4, 8, 8))
    with torch.no_grad():
        found = autoencoder_losses(network, batch, replace(QUICK, composites=False), 0).reconstruction
        posterior = network.encode(batch.images).latent_dist
        decoded = network.decode(posterior.mean + posterior.std * batch.noise).sample
    assert float(found) == pytest.approx(float((decoded - batch.images).square().mean()), rel=1e-5)


def test_what_cannot_be_is_refused_before_anything_is_written(small_faces: LabelledImages, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sides are multiples of 32, the data has"):
        train_autoencoder(small_autoencoder(channels=(8,) * 6), small_faces, QUICK, tmp_path / "run")
    with pytest.raises(ValueError, match="images of 1 channels"):
        train_autoencoder(small_autoencoder(image_channels=1, channels=(8, 8)), small_faces, QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_weight": -1.0}, "kl_weight must be 0 or more"),
        ({"kl_weight": float("nan")}, "kl_weight must be 0 or more"),
        ({"batch_size": 3}, "batch_size must be even"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_configurations_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


def test_a_loss_that_is_not_finite_stops_the_run(small_faces: LabelledImages, tmp_path: Path) -> None:
    network = small_autoencoder(channels=(8, 8))
    torch.nn.init.constant_(network.decoder.conv_out.bias, float("inf"))
    with pytest.raises(ValueError, match="not finite at step 1"):
        train_autoencoder(network, small_faces, QUICK, tmp_path / "run")


def test_small_latent_denoisers_fit_their_autoencoder(tmp_path: Path) -> None:
    network = small_autoencoder(channels=(8, 8, 16), latent_channels=3)
    network.register_to_config(scaling_factor=0.5)
    network.save_pretrained(tmp_path / "model")
    autoencoder = load_autoencoder(tmp_path / "model")
    denoiser = small_denoiser(size=32, channels=(8, 16), autoencoder=autoencoder)
    assert denoiser.latent_shape == (3, 8, 8) and denoiser.image_shape == (3, 32, 32)
    with pytest.raises(ValueError, match="size must be a multiple of 8"):
        small_denoiser(size=20, channels=(8, 16), autoencoder=autoencoder)
    with pytest.raises(ValueError, match="channels must be multiples of 8"):
        small_autoencoder(channels=(8, 12))


def test_from_the_shell_images_become_a_latent_model_that_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "photographs"]  # whose label maps are known, whatever an untrained model makes
    few = [*data, "--steps", "2", "--batch-size", "4", "--log-every", "1"]
    coder, base, tuned, measured = (tmp_path / name for name in ("coder", "base", "tuned", "measured"))
    assert main(["autoencoder", *few, "--channels", "8", "8", "--out", str(coder)]) == 0
    psnr = json.loads((coder / "reconstruction.json").read_text())["psnr_db"]
    assert f"reconstruction of 100 reference images: {psnr:.1f} dB" in capsys.readouterr().out
    assert (coder / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    latent = ["--autoencoder", str(coder / "model"), "--channels", "8", "16", "--cache-latents", "--precision", "no"]
    assert main(["train", *few, *latent, "--out", str(base)]) == 0
    assert (base / "latents.npy").is_file()
    model, kept = load_denoiser(base / "model"), load_autoencoder(coder / "model")
    assert model.latent_shape == (4, 12, 12) and model.image_shape == (1, 24, 24)
    assert model.autoencoder is not None and model.autoencoder.scaling_factor == kept.scaling_factor
    start = ["--model", str(base / "model"), "--precision", "no"]
    assert main(["finetune", *few, *start, "--out", str(tuned)]) == 0
    assert all(line["penalty"] > 0 for line in _lines(tuned))
    counts = ["--concepts", "mouth", "--pairs", "4", "--images", "8", "--steps", "2", "--model", str(tuned / "model")]
    assert main(["evaluate", *data, *counts, "--out", str(measured)]) == 0
    figures = json.loads((measured / "evaluation.json").read_text())
    assert set(figures["decoder_floor"]) == set(figures["locality"]) == {"mouth"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "cats"], "data must be faces"),
        (["--channels", "8", "8", "8", "8", "8", "8"], "sides are multiples of 32"),
        (["--channels", "12"], "channels must be multiples of 8"),
    ],
)
def test_mistakes_in_the_shell_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--size", "16", "--count", "4", "--steps", "1", *options]
    assert main(["autoencoder", *few, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("shapkit-diffusion autoencoder: ") and message in error and error.count("\n") == 1


def test_train_names_the_folder_that_holds_no_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--size", "16", "--count", "4", "--autoencoder", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(["train", *few]) == 2
    assert f"{tmp_path} holds no autoencoder: expected config.json" in capsys.readouterr().err
