"""Denoisers: one signature for three kinds of prediction; folders that diffusers opens; clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from shapkit_diffusion.denoisers import Denoiser, load_denoiser, small_denoiser


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_gives_the_same_velocity_in_every_form(prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([10, 400, 900])
    noisy = denoiser.add_noise(clean, noise, timesteps)
    perfect = denoiser.target(clean, noise, timesteps)
    denoiser.forward = lambda x, t: perfect  # type: ignore[method-assign]
    signal, sigma = denoiser.signal_and_noise(timesteps, clean)
    torch.testing.assert_close(denoiser.velocity(noisy, timesteps), signal * noise - sigma * clean)
    torch.testing.assert_close(denoiser.as_clean(perfect, noisy, timesteps), clean)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_targets_are_those_of_diffusers(prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction)
    clean, noise = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    timesteps = torch.tensor([3, 700])
    scheduler = denoiser.scheduler
    torch.testing.assert_close(
        denoiser.add_noise(clean, noise, timesteps), scheduler.add_noise(clean, noise, timesteps), atol=1e-6, rtol=1e-5
    )
    theirs = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, timesteps)}
    torch.testing.assert_close(denoiser.target(clean, noise, timesteps), theirs[prediction], atol=1e-6, rtol=1e-5)


def test_saved_folder_opens_here_and_in_diffusers(tiny: Denoiser, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model", card="# A card")
    x, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([5, 500])
    expected = tiny(x, timesteps)
    torch.testing.assert_close(load_denoiser(tmp_path / "model")(x, timesteps), expected, rtol=0, atol=0)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    torch.testing.assert_close(pipeline.unet(x, timesteps).sample, expected, rtol=0, atol=0)
    assert (tmp_path / "model" / "README.md").read_text() == "# A card"
    assert not list(tmp_path.glob("*.partial"))


def test_unet_at_the_root_loads_as_published_checkpoints_lie(tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    unet.save_pretrained(tmp_path)
    DDPMScheduler(clip_sample=True).save_pretrained(tmp_path)
    denoiser = load_denoiser(tmp_path)
    assert denoiser.prediction == "epsilon"
    assert denoiser.scheduler.config["clip_sample"] is False  # clipping would make inversion impossible


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tiny: Denoiser, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")
    path = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"] = torch.zeros(12, 3, 3, 3)
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"another architecture: conv_in\.weight is \(12, 3, 3, 3\) there"):
        load_denoiser(tmp_path / "model")


def test_other_refusals_say_what_is_wrong(tiny: Denoiser, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no denoiser"):
        load_denoiser(tmp_path)
    tiny.save(tmp_path / "model")
    config = tmp_path / "model" / "unet" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ValueError, match="describes a UNet2DConditionModel"):
        load_denoiser(tmp_path / "model")
    config.write_text(json.dumps(settings))
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="does not load"):
        load_denoiser(tmp_path / "model")
    weights.unlink()
    with pytest.raises(ValueError, match="only safetensors are read"):
        load_denoiser(tmp_path / "model")
    with pytest.raises(ValueError, match="multiple of 4"):
        small_denoiser(size=30)
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        small_denoiser(size=16, channels=(8, 16), prediction="score")
