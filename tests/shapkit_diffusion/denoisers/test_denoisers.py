"""Denoisers: one signature for three kinds of prediction, pixels and latents; folders that diffusers opens."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from shapkit_diffusion.denoisers.autoencoders import load_autoencoder
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.schedules import DDIM

TIMESTEPS = torch.tensor([5, 500])
DOWN_UP: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixel_unet(channels: int = 3, **settings: Any) -> UNet2DModel:
    """The blocks of google/ddpm-celebahq-256, few and narrow."""
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **settings,
    )


def vq_model(**settings: Any) -> VQModel:
    return VQModel(
        block_out_channels=(8, 8), norm_num_groups=8, latent_channels=3, num_vq_embeddings=16, **DOWN_UP, **settings
    )


def kl_model(latent_channels: int = 4, **settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=8, latent_channels=latent_channels, **DOWN_UP, **settings
    )


def conditional_unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": 12,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        | settings
    )


def frozen(network: Any) -> Any:
    """As an ``Autoencoder`` is: torch rounds convolutions with frozen weights otherwise."""
    return network.eval().requires_grad_(False)


def change(path: Path, **settings: Any) -> None:
    """Give settings of a JSON file other values; None takes one out."""
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)  # diffusers draws weights from the global generator


@pytest.fixture
def ldm(tmp_path: Path) -> Path:
    """A folder as CompVis/ldm-celebahq-256 lies on the hub, whose autoencoder's config lacks the scaling factor."""
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    LDMPipeline(vqvae=vq_model(), unet=pixel_unet(), scheduler=scheduler).save_pretrained(tmp_path / "ldm")
    config = tmp_path / "ldm" / "vqvae" / "config.json"
    assert json.loads(config.read_text())["scaling_factor"] == 0.18215  # what diffusers would take it to be
    change(config, scaling_factor=None)
    return tmp_path / "ldm"


@pytest.fixture
def stable_diffusion(tmp_path: Path) -> Path:
    """A Stable Diffusion folder without its text encoder."""
    folder = tmp_path / "sd"
    conditional_unet().save_pretrained(folder / "unet")
    kl_model().save_pretrained(folder / "vae")
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, **betas).save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_gives_image_and_noise_in_every_form(prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([10, 400, 900])
    noisy = denoiser.add_noise(clean, noise, timesteps)
    perfect = denoiser.target(clean, noise, timesteps)
    found = denoiser.clean_and_noise(perfect, noisy, timesteps)
    torch.testing.assert_close(found, (clean, noise))


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
    x = normal(2, 3, 16, 16)
    expected = tiny(x, TIMESTEPS)
    torch.testing.assert_close(load_denoiser(tmp_path / "model")(x, TIMESTEPS), expected, rtol=0, atol=0)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    torch.testing.assert_close(pipeline.unet(x, TIMESTEPS).sample, expected, rtol=0, atol=0)
    assert (tmp_path / "model" / "README.md").read_text() == "# A card"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_saving_keeps_the_kind_of_prediction(prediction: str, tmp_path: Path) -> None:
    small_denoiser(size=16, channels=(8, 16), prediction=prediction).save(tmp_path / "model")
    assert load_denoiser(tmp_path / "model").prediction == prediction


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(clip_sample=True, variance_type="fixed_large", clip_sample_range=2.0),
        PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        DDIMScheduler(timestep_spacing="trailing", thresholding=True, set_alpha_to_one=False),
        EulerDiscreteScheduler(interpolation_type="log_linear", timestep_spacing="leading"),
        DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_loading_and_saving_changes_no_setting_of_the_scheduler(scheduler: Any, tmp_path: Path) -> None:
    DDPMPipeline(pixel_unet(), scheduler).save_pretrained(tmp_path / "theirs")
    load_denoiser(tmp_path / "theirs").save(tmp_path / "ours")
    theirs, ours = (
        json.loads((tmp_path / name / "scheduler" / "scheduler_config.json").read_text()) for name in ("theirs", "ours")
    )
    assert ours == theirs
    index = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", type(scheduler).__name__]


def test_unet_at_the_root_loads_as_published_checkpoints_lie(tmp_path: Path) -> None:
    unet = pixel_unet()
    unet.save_pretrained(tmp_path)
    DDPMScheduler(clip_sample=True).save_pretrained(tmp_path)
    denoiser = load_denoiser(tmp_path)
    assert (denoiser.prediction, denoiser.is_latent, denoiser.training) == ("epsilon", False, False)
    assert denoiser.ddim == DDIM(clip_sample=True)
    assert denoiser.image_shape == denoiser.latent_shape == (3, 8, 8)
    x = normal(2, 3, 8, 8)
    torch.testing.assert_close(denoiser(x, TIMESTEPS), unet(x, TIMESTEPS).sample, rtol=0, atol=0)
    assert denoiser.encode(x) is x and denoiser.decode(x) is x


def test_latent_diffusion_does_what_diffusers_parts_do(ldm: Path) -> None:
    denoiser = load_denoiser(ldm)
    assert denoiser.is_latent
    assert (denoiser.latent_shape, denoiser.image_shape) == ((3, 8, 8), (3, 16, 16))
    unet = UNet2DModel.from_pretrained(ldm / "unet")
    vqvae = frozen(VQModel.from_pretrained(ldm / "vqvae", scaling_factor=1.0))
    x, images = normal(2, 3, 8, 8), normal(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, TIMESTEPS), unet(x, TIMESTEPS).sample, rtol=0, atol=0)
        torch.testing.assert_close(denoiser.encode(images), vqvae.encode(images).latents, rtol=0, atol=0)
        decoded = vqvae.decode(x / vqvae.config.scaling_factor).sample  # as LDMPipeline does
        torch.testing.assert_close(denoiser.decode(x), decoded, rtol=0, atol=0)
        raw = vqvae.decode(x, force_not_quantize=True).sample
    assert float((denoiser.decode(x) - raw).abs().max()) > 1e-3  # decoding quantises


def test_saved_latent_diffusion_opens_in_its_pipeline(ldm: Path, tmp_path: Path) -> None:
    denoiser = load_denoiser(ldm)
    denoiser.save(tmp_path / "saved")
    pipeline = LDMPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert type(pipeline.scheduler) is DDIMScheduler
    assert pipeline.vqvae.config.scaling_factor == 1.0  # written out, so that diffusers takes the right one too
    frozen(pipeline.vqvae)
    x = normal(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(x, TIMESTEPS).sample, denoiser(x, TIMESTEPS), rtol=0, atol=0)
        torch.testing.assert_close(pipeline.vqvae.decode(x).sample, denoiser.decode(x), rtol=0, atol=0)
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), denoiser.alphas_cumprod, rtol=0, atol=0)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    again = load_denoiser(tmp_path / "saved")
    torch.testing.assert_close(again.decode(again(x, TIMESTEPS)), denoiser.decode(denoiser(x, TIMESTEPS)))


def test_unconditional_latents_of_a_kl_autoencoder(tmp_path: Path) -> None:
    vae, unet = kl_model(latent_channels=3, scaling_factor=0.25), pixel_unet()
    scheduler = LMSDiscreteScheduler(prediction_type="v_prediction")
    LDMPipeline(vqvae=vae, unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "kl")
    denoiser = load_denoiser(tmp_path / "kl")
    assert denoiser.prediction == "v_prediction"
    images, latents = normal(3, 3, 16, 16), normal(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(denoiser.encode(images), vae.encode(images).latent_dist.mode() * 0.25)
        torch.testing.assert_close(denoiser.decode(latents), vae.decode(latents / 0.25).sample)
    denoiser.save(tmp_path / "again")
    saved = LDMPipeline.from_pretrained(tmp_path / "again", local_files_only=True)
    assert type(saved.vqvae) is AutoencoderKL and saved.vqvae.config.scaling_factor == 0.25


def test_batches_do_not_change_what_is_encoded(ldm: Path) -> None:
    denoiser, images = load_denoiser(ldm), normal(5, 3, 16, 16)
    torch.testing.assert_close(denoiser.encode(images, batch_size=2), denoiser.encode(images, batch_size=5))
    latents = normal(5, 3, 8, 8)
    torch.testing.assert_close(denoiser.decode(latents, batch_size=2), denoiser.decode(latents, batch_size=5))
    with torch.autocast("cpu", torch.bfloat16):
        inside = denoiser.decode(latents, 5)
    torch.testing.assert_close(inside, denoiser.decode(latents, 5), rtol=0, atol=0)  # not for the autoencoder


def test_training_a_latent_denoiser_leaves_its_autoencoder_alone(ldm: Path) -> None:
    denoiser = load_denoiser(ldm)
    unet = UNet2DModel.from_pretrained(ldm / "unet")
    assert [tuple(p.shape) for p in denoiser.parameters()] == [tuple(p.shape) for p in unet.parameters()]
    assert all(name.startswith("unet.") for name in denoiser.state_dict())
    denoiser.train().requires_grad_(True)
    assert denoiser.autoencoder is not None
    network = denoiser.autoencoder.network
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert copy.deepcopy(denoiser).autoencoder is denoiser.autoencoder


def test_images_and_latents_that_do_not_fit_are_refused(ldm: Path, tmp_path: Path) -> None:
    denoiser = load_denoiser(ldm)
    with pytest.raises(ValueError, match=r"3 channels and sides that are multiples of 2, got \(3, 15, 16\)"):
        denoiser.encode(normal(1, 3, 15, 16))
    with pytest.raises(ValueError, match="must have 3 channels"):
        denoiser.decode(normal(1, 4, 8, 8))
    for setting, value in (("shift_factor", "some"), ("scaling_factor", -0.5), ("latents_mean", [0.5])):
        kl_model(latent_channels=3, **{setting: value}).save_pretrained(tmp_path / setting / "vae")
        pixel_unet().save_pretrained(tmp_path / setting / "unet")
        DDPMScheduler().save_pretrained(tmp_path / setting / "scheduler")
        with pytest.raises(ValueError, match=setting):
            load_denoiser(tmp_path / setting)


def test_stable_diffusion_runs_on_a_given_embedding_and_saves_it(stable_diffusion: Path, tmp_path: Path) -> None:
    embedding = normal(1, 5, 12)
    denoiser = load_denoiser(stable_diffusion, prompt_embedding=embedding)
    assert (denoiser.latent_shape, denoiser.image_shape) == ((4, 8, 8), (3, 16, 16))
    unet = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet")
    vae = frozen(AutoencoderKL.from_pretrained(stable_diffusion / "vae"))
    x, images = normal(2, 4, 8, 8), normal(2, 3, 16, 16)
    with torch.no_grad():
        expected = unet(x, TIMESTEPS, encoder_hidden_states=torch.cat([embedding, embedding])).sample
        torch.testing.assert_close(denoiser(x, TIMESTEPS), expected, rtol=0, atol=0)
        mode = vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(denoiser.encode(images), mode * 0.18215, rtol=0, atol=0)
        torch.testing.assert_close(denoiser.decode(x), vae.decode(x / 0.18215).sample, rtol=0, atol=0)
    denoiser.save(tmp_path / "saved")
    again = load_denoiser(tmp_path / "saved")  # without transformers: the embedding lies beside the model
    torch.testing.assert_close(again(x, TIMESTEPS), expected, rtol=0, atol=0)
    torch.testing.assert_close(again.alphas_cumprod, denoiser.alphas_cumprod, rtol=0, atol=0)
    saved = UNet2DConditionModel.from_pretrained(tmp_path / "saved" / "unet")
    torch.testing.assert_close(saved(x, TIMESTEPS, encoder_hidden_states=embedding.repeat(2, 1, 1)).sample, expected)
    assert AutoencoderKL.from_pretrained(tmp_path / "saved" / "vae").config.scaling_factor == 0.18215
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_a_prompt_that_does_not_fit_or_is_missing_is_refused(stable_diffusion: Path, ldm: Path) -> None:
    with pytest.raises(ValueError, match=r"prompt_embedding must be \(1, tokens, 12\), got \(1, 5, 13\)"):
        load_denoiser(stable_diffusion, prompt_embedding=normal(1, 5, 13))
    with pytest.raises(ValueError, match="takes no prompt_embedding"):
        load_denoiser(ldm, prompt_embedding=normal(1, 5, 12))
    with pytest.raises(ValueError, match="has no text_encoder and tokenizer: pass prompt_embedding"):
        load_denoiser(stable_diffusion)
    if importlib.util.find_spec("transformers") is None:
        for part in ("text_encoder", "tokenizer"):
            (stable_diffusion / part).mkdir()
        with pytest.raises(ValueError, match="install transformers, or pass prompt_embedding"):
            load_denoiser(stable_diffusion)


def test_the_empty_prompt_is_embedded_as_the_pipeline_does(
    stable_diffusion: Path, write_text_encoder: Callable[[Path], Any], tmp_path: Path
) -> None:
    encoder = write_text_encoder(stable_diffusion)
    denoiser = load_denoiser(stable_diffusion)
    with torch.no_grad():
        expected = encoder(torch.tensor([[0] + [1] * 8]))[0]  # start, end, and padding with the end
    assert denoiser.prompt_embedding is not None
    torch.testing.assert_close(denoiser.prompt_embedding, expected)
    denoiser.save(tmp_path / "saved")
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    theirs, _ = pipeline.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(theirs, denoiser.prompt_embedding)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("", num_inference_steps=2, guidance_scale=1.0, output_type="np").images
    assert images.shape == (1, 16, 16, 3)
    load_denoiser(tmp_path / "saved").save(tmp_path / "saved")  # over itself
    assert (tmp_path / "saved" / "text_encoder" / "model.safetensors").is_file()


def test_text_encoders_are_read_with_the_same_care(
    stable_diffusion: Path, write_text_encoder: Callable[[Path], Any]
) -> None:
    write_text_encoder(stable_diffusion)
    expected = load_denoiser(stable_diffusion).prompt_embedding
    path, config = (stable_diffusion / "text_encoder" / name for name in ("model.safetensors", "config.json"))
    weights = load_file(path)
    bare = {name.removeprefix("text_model."): value for name, value in weights.items()}
    save_file({f"text_model.{name}": value for name, value in bare.items()}, path)  # as published
    torch.testing.assert_close(load_denoiser(stable_diffusion).prompt_embedding, expected)
    for settings, message in (
        ({"num_hidden_layers": 10**9}, "asks for num_hidden_layers = 1000000000, but"),
        ({"num_hidden_layers": 3}, "does not load: .*is missing"),
        ({"vocab_size": 10**10}, "does not load"),
    ):
        change(config, **settings)
        with pytest.raises(ValueError, match=message):
            load_denoiser(stable_diffusion)
        change(config, vocab_size=8, num_hidden_layers=2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="does not load"):
        load_denoiser(stable_diffusion)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pixel_unet(class_embed_type="timestep"), "conditioned by class_embed_type are not supported"),
        (lambda: conditional_unet(in_channels=9), "as many channels as it takes, .*got 9 and 4"),
        (lambda: conditional_unet(sample_size=None), "sample_size must be"),
        (lambda: conditional_unet(sample_size=10**9), "sample_size must be"),
        (conditional_unet, "has no autoencoder"),
    ],
)
def test_models_that_need_or_give_something_else_are_refused(
    make: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match=message):
        load_denoiser(tmp_path)


def test_an_autoencoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    pixel_unet().save_pretrained(tmp_path / "unet")
    kl_model(latent_channels=4).save_pretrained(tmp_path / "vae")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match="vae makes latents of 4 channels, the UNet takes 3"):
        load_denoiser(tmp_path)


def test_a_save_that_fails_leaves_the_earlier_model(tiny: Denoiser, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")

    def full_disk(folder: Path) -> None:
        raise OSError("no space left on device")

    broken = small_denoiser(size=16, channels=(8, 16), seed=2)
    broken.scheduler.save_pretrained = full_disk
    with pytest.raises(OSError, match="no space left"):
        broken.save(tmp_path / "model")
    x = normal(2, 3, 16, 16)
    torch.testing.assert_close(load_denoiser(tmp_path / "model")(x, TIMESTEPS), tiny(x, TIMESTEPS), rtol=0, atol=0)


def test_small_denoisers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        small_denoiser(size=30)
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        small_denoiser(size=16, channels=(8, 16), prediction="score")


def test_a_folder_with_other_things_is_refused_and_left_alone(tiny: Denoiser, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, which an earlier save did not write: choose another"):
        tiny.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    tiny.save(tmp_path / "model")
    for name in ("unet/notes.txt", "weights.bin", "unet/diffusion_pytorch_model.bin", "samples/1.png"):
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("mine")
        with pytest.raises(ValueError, match=f"holds {name}, which an earlier save did not write"):
            small_denoiser(size=16, channels=(8, 16), seed=2).save(tmp_path / "model")
        (tmp_path / "model" / name).unlink()
        if name.startswith("samples"):
            (tmp_path / "model" / "samples").rmdir()
    x = normal(2, 3, 16, 16)
    torch.testing.assert_close(load_denoiser(tmp_path / "model")(x, TIMESTEPS), tiny(x, TIMESTEPS), rtol=0, atol=0)


def test_saving_here_there_and_at_home(tiny: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    x = normal(2, 3, 16, 16)
    for folder in (".", "~/model", "model/", "../" + tmp_path.name):
        if folder == "model/":
            for path in list(tmp_path.iterdir()):  # what was saved in "."
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if folder.startswith(".."):
            shutil.rmtree(tmp_path / "model")
        for _ in range(2):
            tiny.save(folder)
        torch.testing.assert_close(load_denoiser(folder)(x, TIMESTEPS), tiny(x, TIMESTEPS), rtol=0, atol=0)
        if folder == "~/model":
            assert (tmp_path / "home" / "model" / "model_index.json").is_file()
            shutil.rmtree(tmp_path / "home")


def test_a_smaller_model_leaves_nothing_of_a_larger_one(ldm: Path, tiny: Denoiser, tmp_path: Path) -> None:
    load_denoiser(ldm).save(tmp_path / "model", card="# Of the latent one")
    tiny.save(tmp_path / "model")
    names = sorted(str(p.relative_to(tmp_path / "model")) for p in (tmp_path / "model").rglob("*") if p.is_file())
    weights = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    # A card may be the user's own by now: only another card takes its place
    assert names == ["README.md", "model_index.json", "scheduler/scheduler_config.json", *weights]
    tiny.save(tmp_path / "model", card="# Of this one")
    assert (tmp_path / "model" / "README.md").read_text() == "# Of this one"


def test_no_pickle_is_copied_with_a_text_encoder(
    stable_diffusion: Path, write_text_encoder: Callable[[Path], Any], tmp_path: Path
) -> None:
    write_text_encoder(stable_diffusion)
    for name in ("pytorch_model.bin", "weights.pt", "old.ckpt", "state.pkl", "more.pth"):
        (stable_diffusion / "text_encoder" / name).write_bytes(b"a pickle")
    load_denoiser(stable_diffusion).save(tmp_path / "saved")
    copied = {path.name for path in (tmp_path / "saved" / "text_encoder").iterdir()}
    assert copied == {"config.json", "model.safetensors"}


def test_a_save_that_was_cut_off_is_finished_by_the_next_reader(tiny: Denoiser, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")
    other = small_denoiser(size=16, channels=(8, 16), prediction="epsilon", seed=2)
    other.save(tmp_path / "other")
    stage = tmp_path / "model" / ".saving"
    shutil.copytree(tmp_path / "other", stage)
    x = normal(2, 3, 16, 16)
    kept = load_denoiser(tmp_path / "model")
    assert kept.prediction == tiny.prediction, "what was still being written is nothing"
    (stage / "complete.json").write_text('{"stale": []}')
    (stage / "unet" / "config.json").replace(tmp_path / "model" / "unet" / "config.json")  # as far as it came
    new = load_denoiser(tmp_path / "model")
    assert new.prediction == "epsilon" and not stage.exists()
    torch.testing.assert_close(new(x, TIMESTEPS), other(x, TIMESTEPS), rtol=0, atol=0)


def test_an_autoencoder_is_saved_with_the_same_care(ldm: Path, tmp_path: Path) -> None:
    autoencoder = load_autoencoder(ldm / "vqvae")
    autoencoder.save(tmp_path / "model")
    autoencoder.save(tmp_path / "model")
    assert load_autoencoder(tmp_path / "model").factor == autoencoder.factor
    (tmp_path / "model" / "thesis.txt").write_text("three years")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, which an earlier save did not write"):
        autoencoder.save(tmp_path / "model")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "three years"
