"""Folders laid out as the published models are, small and random: loaded, attributed, fine-tuned, saved, opened again.

The classes, the block types, the schedules and the places of the files are those of google/ddpm-celebahq-256,
CompVis/ldm-celebahq-256 and Stable Diffusion 1.5; widths and sizes are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from shapkit.differentiable import Regions
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.noise.influence import END_TO_END, influence_maps
from shapkit_diffusion.noise.sampling import draw_noise
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train


@dataclass(frozen=True)
class Layout:
    """A folder, and what diffusers makes of what is saved of it."""

    folder: Path
    pipeline: Any
    image_size: int
    latent_size: int
    call: dict[str, Any]


def write_ddpm(folder: Path) -> Layout:
    """google/ddpm-celebahq-256: everything at the root, six levels, attention in the fifth, a clipping scheduler."""
    UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 8, 16, 16, 16, 16),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=8,
    ).save_pretrained(folder)
    DDPMScheduler(clip_sample=True, variance_type="fixed_small").save_pretrained(folder)
    return Layout(folder, DDPMPipeline, 32, 32, {})


def write_ldm(folder: Path) -> Layout:
    """CompVis/ldm-celebahq-256: ``unet/ vqvae/ scheduler/``, a VQModel whose configuration has no scaling factor."""
    UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
        up_block_types=("AttnUpBlock2D",) * 3 + ("UpBlock2D",),
        layers_per_block=2,
        attention_head_dim=8,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    VQModel(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=3,
        layers_per_block=2,
        norm_num_groups=8,
        num_vq_embeddings=64,
        sample_size=32,
    ).save_pretrained(folder / "vqvae")
    config = folder / "vqvae" / "config.json"
    settings = json.loads(config.read_text())
    del settings["scaling_factor"]
    config.write_text(json.dumps(settings))
    betas: dict[str, Any] = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
    DDIMScheduler(clip_sample=False, **betas).save_pretrained(folder / "scheduler")
    return Layout(folder, LDMPipeline, 32, 8, {})


def write_stable_diffusion(folder: Path) -> Layout:
    """Stable Diffusion 1.5 but for its text encoder: four levels with cross-attention in three, a KL autoencoder."""
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=12,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
    ).save_pretrained(folder / "vae")
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, **betas).save_pretrained(folder / "scheduler")
    return Layout(folder, StableDiffusionPipeline, 64, 8, {"prompt": "", "guidance_scale": 1.0})


@pytest.fixture(params=["ddpm-celebahq", "ldm-celebahq", "stable-diffusion"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    folder = tmp_path / request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # diffusers draws weights from the global generator
        if request.param == "stable-diffusion":
            request.getfixturevalue("write_text_encoder")(folder)
        write: dict[str, Callable[[Path], Layout]] = {"ddpm-celebahq": write_ddpm, "ldm-celebahq": write_ldm}
        return write.get(request.param, write_stable_diffusion)(folder)


def test_a_published_layout_is_attributed_fine_tuned_and_given_back(layout: Layout, tmp_path: Path) -> None:
    denoiser = load_denoiser(layout.folder)
    assert denoiser.image_shape == (3, layout.image_size, layout.image_size)
    assert denoiser.latent_shape[1:] == (layout.latent_size, layout.latent_size)
    assert denoiser.prediction == "epsilon" and denoiser.ddim.clip_sample == (layout.pipeline is DDPMPipeline)
    assert (denoiser.prompt_embedding is not None) == (layout.pipeline is StableDiffusionPipeline)
    check_attribution(denoiser)

    penalty = PenaltyConfig(weight=1.0, concepts=("nose", "mouth"))
    config = TrainConfig(steps=10, batch_size=2, warmup=0, ema=0.5, log_every=1, save_every=10, penalty=penalty)
    data = render_faces(12, layout.image_size, seed=5)
    x = draw_noise(denoiser, 1, seed=2)
    with torch.no_grad():
        before = denoiser(x, torch.tensor([400]))
    tuned = train(denoiser, data, config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert all(math.isfinite(line["denoising"]) and line["penalty"] > 0 for line in lines)

    saved = tmp_path / "run" / "model"
    pipeline = layout.pipeline.from_pretrained(saved, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(**layout.call, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, layout.image_size, layout.image_size, 3) and np.isfinite(images).all()
    given = {}
    if tuned.prompt_embedding is not None:
        theirs, _ = pipeline.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(theirs, tuned.prompt_embedding)
        given = {"encoder_hidden_states": theirs}
    with torch.no_grad():
        after = pipeline.unet(x, torch.tensor([400]), **given).sample
        torch.testing.assert_close(load_denoiser(saved)(x, torch.tensor([400])), after)
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), tuned.alphas_cumprod)
    assert float((after - before).abs().max()) > 1e-3  # it did learn something


def check_attribution(denoiser: Denoiser) -> None:
    """Exact for four regions, estimated for nine: shares that sum to one, with finite errors."""
    _, height, width = denoiser.image_shape
    for rows, method, evaluations in ((2, "exact", 16), (3, "antithetic", 40)):
        regions = Regions.grid(rows, rows, height, width)
        noise = draw_noise(denoiser, 4, seed=3)
        maps = influence_maps(denoiser, noise, lambda x, regions=regions: regions, [300], steps=2, budget=evaluations)
        for name in ("t = 300", END_TO_END):
            attribution = maps[name].attribution
            assert method in attribution.method and attribution.n_evaluations <= evaluations
            assert attribution.values.shape == (rows**2, rows**2)
            np.testing.assert_allclose(attribution.values.sum(axis=0), 1, atol=1e-4)
            assert np.isfinite(maps[name].standard_errors).all()
            # The untrained network's own region drives it more than an average one.
            assert np.trace(attribution.values) > 1
