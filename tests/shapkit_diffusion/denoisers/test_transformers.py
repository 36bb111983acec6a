"""SD3 and Flux: transformers of a joint stream of text and image, opened, run as their pipelines do, edited, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn

from shapkit.differentiable import DummyPlayerPenalty, Regions
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.noise.edits import Edit, apply_edits
from shapkit_diffusion.noise.sampling import draw_noise, generate

WIDTH, POOLED = 12, 10


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=16,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=8,
    )


def flux(*, guided: bool = False) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        axes_dims_rope=(2, 4, 2),
        guidance_embeds=guided,
    )


MODELS = {"sd3": sd3, "flux": flux, "flux, guided": lambda: flux(guided=True)}


def pipeline_of(transformer: nn.Module) -> Any:
    """A whole pipeline without text encoders, of which nothing but prompts' embeddings is asked."""
    torch.manual_seed(1)
    parts: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    parts |= {"vae": autoencoder(), "transformer": transformer}
    if isinstance(transformer, SD3Transformer2DModel):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        return StableDiffusion3Pipeline(scheduler=scheduler, text_encoder_3=None, tokenizer_3=None, **parts)
    return FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), **parts)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Denoiser]:
    """The pipeline that diffusers makes of a folder, and the denoiser."""
    torch.manual_seed(0)
    pipeline = pipeline_of(MODELS[request.param]())
    pipeline.save_pretrained(tmp_path / "model")
    prompt, pooled = torch.randn(1, 5, WIDTH), torch.randn(1, POOLED)
    return pipeline, load_denoiser(tmp_path / "model", prompt, pooled_embedding=pooled)


def test_generated_as_the_pipeline_does(model: tuple[Any, Denoiser]) -> None:
    pipeline, denoiser = model
    assert denoiser.latent_shape == (4, 8, 8) and denoiser.image_shape == (3, 16, 16)
    noise = draw_noise(denoiser, 2, seed=0)
    latents = noise
    options: dict[str, Any] = {"guidance_scale": 3.5}
    if isinstance(pipeline, FluxPipeline):
        latents = FluxPipeline._pack_latents(noise, 2, 4, 8, 8)
    else:
        options = {"guidance_scale": 1.0}
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt_embeds=denoiser.prompt_embedding,
        pooled_prompt_embeds=denoiser.pooled_embedding,
        num_images_per_prompt=2,
        latents=latents,
        num_inference_steps=6,
        height=16,
        width=16,
        output_type="pt",
        **options,
    ).images
    images = denoiser.decode(generate(denoiser, noise, 6))
    torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), expected, rtol=1e-3, atol=1e-3)


def test_saved_and_opened_again(model: tuple[Any, Denoiser], tmp_path: Path) -> None:
    pipeline, denoiser = model
    denoiser.save(tmp_path / "again")
    again, noise = load_denoiser(tmp_path / "again"), draw_noise(denoiser, 2, seed=0)
    assert torch.equal(generate(again, noise, 3), generate(denoiser, noise, 3))
    absent = {name: None for name, part in pipeline.components.items() if part is None}
    theirs = type(pipeline).from_pretrained(tmp_path / "again", local_files_only=True, **absent)
    assert type(theirs.transformer) is type(denoiser.unet)
    denoiser.save(tmp_path / "again")


def test_trained_with_the_penalty_and_composed(model: tuple[Any, Denoiser]) -> None:
    _, denoiser = model
    regions = Regions.grid(1, 2, 8, 8)
    x, timesteps = draw_noise(denoiser, 4, seed=2), torch.tensor([999, 700, 400, 100])
    penalty = DummyPlayerPenalty()

    def predict(x: torch.Tensor) -> torch.Tensor:
        return denoiser(x, timesteps)

    loss = penalty(predict, x, regions)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in denoiser.unet.parameters() if parameter.grad is not None]
    assert float(loss.detach()) > 0 and any(float(gradient.abs().max()) > 0 for gradient in gradients)
    local = ComposedDenoiser(denoiser, regions, "own")
    assert float(penalty(lambda x: local(x, timesteps), x, regions).detach()) == 0
    original = generate(local, x, 3)
    edited = generate(local, apply_edits(local, x, Regions.grid(1, 2, 16, 16), [Edit("r0c0", seed=3)]), 3)
    assert torch.equal(edited[..., 4:], original[..., 4:]) and not torch.equal(edited, original)


def test_without_a_prompt_zeros_are_taken_with_a_warning(tmp_path: Path) -> None:
    pipeline_of(sd3()).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="conditioned on zeros: pass prompt_embedding and pooled_embedding"):
        denoiser = load_denoiser(tmp_path)
    assert denoiser.prompt_embedding is not None and not denoiser.prompt_embedding.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt_embedding": torch.zeros(1, 5, 3)}, r"prompt_embedding must be \(1, tokens, 12\), got \(1, 5, 3\)"),
        ({"pooled_embedding": torch.zeros(2, 10)}, r"pooled_embedding must be \(1, 10\), got \(2, 10\)"),
        ({"class_label": 3}, "takes no class_label"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is conditioned on zeros")
def test_conditions_that_do_not_fit_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    pipeline_of(sd3()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_denoiser(tmp_path, **given)


def test_a_pixel_model_takes_no_pooled_embedding(tiny: Denoiser, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")
    with pytest.raises(ValueError, match="takes no pooled_embedding"):
        load_denoiser(tmp_path / "model", pooled_embedding=torch.zeros(1, 3))
