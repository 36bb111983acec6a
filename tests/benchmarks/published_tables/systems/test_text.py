"""The systems driven by text, on an untrained model that diffusers opens: their edits are what they say."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from benchmarks.published_tables.systems import text
from benchmarks.published_tables.systems.draws import choices, region_noise
from benchmarks.published_tables.systems.systems import Region, System
from benchmarks.published_tables.systems.text import SemanticGuidance, TextInpainting
from benchmarks.published_tables.systems.text_model import MAX_TOKENS, TextModel, load_text_model, small_text_model
from benchmarks.published_tables.systems.text_training import TextTrainConfig, told, train_text_model
from shapkit_diffusion import runs
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.captions import CAPTIONED, caption, face_phrases, phrases_for
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, small_autoencoder
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.noise.sampling import draw_noise, generate, peak_signal_to_noise
from shapkit_diffusion.training.batches import draw_batch
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig

pytest.importorskip("transformers")


def small(seed: int = 0) -> TextModel:
    autoencoder = Autoencoder(small_autoencoder(channels=(8, 8)))
    return small_text_model(autoencoder, size=8, channels=(8, 16), width=16, seed=seed).eval()


@pytest.fixture(scope="module")
def model() -> TextModel:
    return small()


def region(name: str = "mouth", count: int = 3) -> Region:
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., 8:12, 4:12] = 1
    return Region(name, mask)


def systems(model: TextModel) -> list[System]:
    return [TextInpainting(model, steps=5), SemanticGuidance(model, steps=5)]


# The model


def test_each_word_is_one_token_and_every_caption_fits(model: TextModel) -> None:
    for concept in CAPTIONED:
        for phrase in phrases_for(concept):
            tokens = model.tokenizer.tokenize(phrase)
            assert tokens == [f"{word}</w>" for word in phrase.split()]
            assert model.tokenizer.unk_token not in tokens
    lengths = [len(model.tokenizer(caption(said)).input_ids) for said in face_phrases(50)]
    assert max(lengths) == MAX_TOKENS


def test_the_folder_opens_in_diffusers_and_here(model: TextModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model", card="a card")
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    vocabulary = json.loads((tmp_path / "model" / "tokenizer" / "vocab.json").read_text())
    assert vocabulary["blue</w>"] == model.tokenizer.convert_tokens_to_ids("blue</w>")
    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    opened.set_progress_bar_config(disable=True)
    assert isinstance(opened.scheduler, DDIMScheduler)
    noise, captions = draw_noise(model.denoiser, 2, 0), ["a face with wide blue eyes", ""]
    expected = model.sample(captions, noise, 5, 3.0)
    theirs = opened(captions, latents=noise, num_inference_steps=5, guidance_scale=3.0, output_type="latent").images
    assert torch.equal(theirs, expected)
    again = load_text_model(tmp_path / "model")
    assert torch.equal(again.sample(captions, noise, 5, 3.0), expected)
    again.save(tmp_path / "second")  # what was opened can be saved, tokenizer and all
    assert torch.equal(load_text_model(tmp_path / "second").embed(captions), model.embed(captions))
    # Without text it is the model of the empty caption.
    alone = generate(load_denoiser(tmp_path / "model"), noise, 5)
    assert torch.allclose(alone, model.sample(["", ""], noise, 5, 3.0), atol=1e-4)


def test_folders_that_are_no_text_models(model: TextModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    for part in ("text_encoder", "tokenizer"):
        for file in (tmp_path / "model" / part).iterdir():
            file.unlink()
        (tmp_path / "model" / part).rmdir()
    with pytest.raises(ValueError, match="is no model with text: expected text_encoder/ and tokenizer/"):
        load_text_model(tmp_path / "model")
    damaged = tmp_path / "damaged"
    model.denoiser.text_source = None
    model.save(damaged)
    (damaged / "text_encoder" / "config.json").write_text('{"model_type": "clip_text_model", "hidden_size": "wide"}')
    with pytest.raises(ValueError, match=r"the text encoder of .*damaged does not load") as caught:
        load_text_model(damaged)
    assert "\n" not in str(caught.value)
    model.denoiser.text_source = None


def test_a_text_encoder_of_another_width_is_refused(model: TextModel) -> None:
    other = small_text_model(Autoencoder(small_autoencoder(channels=(8, 8))), size=8, channels=(8, 16), width=32)
    with pytest.raises(ValueError, match="takes text embeddings of width 32, the text encoder makes 16"):
        TextModel(other.denoiser, model.text_encoder, model.tokenizer)


# Its training


def run(steps: int, **options: object) -> TextTrainConfig:
    training = TrainConfig(steps, batch_size=8, learning_rate=3e-3, warmup=5, save_every=4, log_every=4, flip=True)
    return TextTrainConfig(training, faces=16, **options)  # type: ignore[arg-type]


def test_training_learns_and_resumes_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_text_model(small(), run(24), tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["denoising"] for line in lines]
    assert losses[-1] < 0.7 * losses[0]
    before = small().state_dict()
    for part in ("unet", "text_encoder"):
        assert any(part in name and not torch.equal(value, before[name]) for name, value in whole.state_dict().items())

    def stop_after_ten(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_text_model(small(), run(24), tmp_path / "parts", progress=stop_after_ten)
    resumed = train_text_model(small(), run(24), tmp_path / "parts", resume=True)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    saved = load_text_model(tmp_path / "parts" / "model")
    assert torch.equal(saved.embed(["red lips"]), whole.embed(["red lips"]))


def test_a_finished_run_is_returned_and_another_model_or_process_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_PATIENCE", 0.0)

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(ValueError, match="is in use: process"):
            train_text_model(small(), run(3), tmp_path / "run", resume=True)

    whole = train_text_model(small(), run(3), tmp_path / "run", progress=meanwhile)
    steps: list[int] = []
    again = train_text_model(
        small(), run(3), tmp_path / "run", resume=True, progress=lambda done, total: steps.append(done)
    )
    assert steps == []
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    other = small()
    other.denoiser.prediction = "sample"
    with pytest.raises(ValueError, match=r"model\.prediction is '\w+' there and 'sample' here"):
        train_text_model(other, run(3), tmp_path / "run", resume=True)


def test_captions_are_left_out_as_often_as_asked() -> None:
    """The number of phrases that are kept, out of five, is binomial in half of the captions."""
    config = TextTrainConfig(TrainConfig(1, batch_size=8), faces=16, caption_dropout=0.1, partial=0.5)
    faces, phrases = render_faces(16, 16), face_phrases(16)
    kept = [0] * 6
    for step in range(500):
        batch = draw_batch(faces, config.training, 10, step)
        for heard, index in zip(told(phrases, batch, config, step), batch.indices.tolist(), strict=True):
            said = heard.removeprefix("a face with ").split(", ") if heard else []
            assert set(said) <= set(phrases[index].values())
            assert said == [phrase for phrase in phrases[index].values() if phrase in said]
            kept[len(said)] += 1
    half = [0.9 * 0.5 * math.comb(5, number) / 32 for number in range(6)]
    wanted = [half[0] + 0.1, *half[1:5], half[5] + 0.45]
    assert abs(sum(wanted) - 1) < 1e-12
    for found, probability in zip(kept, wanted, strict=True):
        assert abs(found - 4000 * probability) < 5 * math.sqrt(4000 * probability * (1 - probability))
    everything = dataclasses.replace(config, caption_dropout=0.0, partial=0.0)
    batch = draw_batch(faces, config.training, 10, 0)
    assert told(phrases, batch, everything, 0) == [caption(phrases[index]) for index in batch.indices.tolist()]


@pytest.mark.parametrize(
    ("training", "options", "message"),
    [
        ({"penalty": PenaltyConfig()}, {}, "training with captions knows penalty=None only"),
        ({"precision": "bf16"}, {}, "knows precision='no' only, got 'bf16'"),
        ({}, {"caption_dropout": 1.0}, r"caption_dropout must be in \[0, 1\), got 1.0"),
        ({}, {"partial": 1.1}, r"partial must be in \[0, 1\], got 1.1"),
        ({}, {"faces": 0}, "faces must be at least 1, got 0"),
    ],
)
def test_runs_that_are_refused(training: dict[str, object], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextTrainConfig(TrainConfig(1, **training), **options)  # type: ignore[arg-type]


# The systems


@pytest.mark.parametrize("number", [0, 1])
def test_what_they_are_as_systems(model: TextModel, number: int) -> None:
    system, other = systems(model)[number], systems(model)[number]
    images = system.generate(3, seed=2)
    assert images.shape == (3, 3, 16, 16) and images.abs().max() <= 1
    assert torch.equal(other.generate(3, seed=2), images) and not torch.equal(other.generate(3, seed=3), images)
    assert peak_signal_to_noise(system.reconstruct(images), images).min() > 80
    edited = system.edit(images, region(), seed=5)
    assert edited.shape == images.shape and edited.abs().max() <= 1
    assert torch.equal(system.edit(images, region(), seed=5), edited)
    assert (system.edit(images, region(), seed=6) - edited).abs().max() > 1e-3
    assert ((edited - images) * region().mask).abs().max() > 1e-3
    alone = system.edit(images[:1], region(count=1), seed=5)
    assert torch.allclose(alone, edited[:1], atol=1e-4)  # whatever else is in the batch
    with pytest.raises(ValueError, match="captions speak of hair, skin, eyes, nose, mouth, got 'brows'"):
        system.edit(images, region("brows"), seed=5)
    assert system.pastes is (number == 0)
    assert system.name == ("Stable Diffusion", "SEGA")[number]
    assert repr(system).startswith(f"{type(system).__name__}(steps=5, guidance=3.0")


def test_given_images(model: TextModel) -> None:
    given = small_images(model)
    inpainting, sega = systems(model)
    through = model.denoiser.decode(model.denoiser.encode(given)).clamp(-1, 1)
    assert torch.equal(inpainting.reconstruct(given), through)
    exact = SemanticGuidance(model, steps=20)
    assert peak_signal_to_noise(exact.reconstruct(given), through).min() > 40
    for system in (inpainting, sega):
        assert (system.edit(given, region(count=2), seed=1) - through).abs().max() > 1e-3


def small_images(model: TextModel) -> Tensor:
    return torch.as_tensor(render_faces(2, 16, seed=9).images).float() / 127.5 - 1


def test_inpainting_is_the_blending_of_latents(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the loop written out: DDIM under guidance, and the latents outside put back after every step."""
    system = TextInpainting(model, steps=5)
    images = system.generate(3, seed=2)
    latents = torch.stack([known.tensor for known in system._latents.of(images)])
    monkeypatch.setattr(text, "_decoded", lambda model, latents: latents)
    odd = Region("mouth", region().mask.roll((-1, 1), dims=(2, 3)))  # across the latent pixels
    edited = system.edit(images, odd, seed=5)
    inside = odd.mask[..., ::2, ::2] > 0
    assert torch.equal(torch.where(inside, latents, edited), latents)

    phrases = face_phrases(3, seed=2)
    options = [[p for p in phrases_for("mouth") if p != said["mouth"]] for said in phrases]
    chosen = choices(5, "mouth", options)
    captions = [caption(said | {"mouth": other}) for said, other in zip(phrases, chosen, strict=True)]
    noise = region_noise(5, "mouth", 3, model.denoiser.latent_shape)
    x, denoiser = noise, model.denoiser
    with torch.no_grad():
        told, mute = model.embed(captions), model.embed([""] * 3)
        for t, then in zip((999, 799, 599, 399, 199), (799, 599, 399, 199, -1), strict=True):
            times = torch.tensor([t] * 3)
            free, guided = (denoiser.unet(x, times, encoder_hidden_states=prompt).sample for prompt in (mute, told))
            velocity = free + 3.0 * (guided - free)
            signal, sigma = denoiser.signal_and_noise(times, x)
            clean, fresh = signal * x - sigma * velocity, signal * velocity + sigma * x
            signal, sigma = denoiser.signal_and_noise(torch.tensor([then] * 3), x)
            x = torch.where(inside, signal * clean + sigma * fresh, signal * latents + sigma * noise)
    assert torch.allclose(edited, x, atol=1e-4)


def test_sega_without_guidance_by_the_phrase_changes_nothing(model: TextModel) -> None:
    still = SemanticGuidance(model, steps=5, edit_guidance=0.0)
    images = still.generate(3, seed=2)
    assert torch.allclose(still.edit(images, region(), seed=5), images, atol=1e-5)
    few = SemanticGuidance(model, steps=5, threshold=0.95).generate(3, seed=2)
    assert torch.equal(few, images)


def test_the_phrase_is_another_one_of_the_concept(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    system = SemanticGuidance(model, steps=2)
    images = system.generate(3, seed=2)
    asked: list[tuple[list[str], str]] = []

    class Recorder:
        def __call__(self, captions: list[str], *, latents: Tensor, editing_prompt: str, **_: object) -> object:
            asked.append((captions, editing_prompt))
            return type("Output", (), {"images": latents})

    monkeypatch.setattr(TextModel, "pipeline", lambda self, kind: Recorder())
    for seed in range(20):
        system.edit(images, region("nose"), seed)
    own = {caption(said): said["nose"] for said in face_phrases(3, seed=2)}
    wanted = {(text, prompt) for captions, prompt in asked for text in captions}
    for text_of_image, phrase in own.items():
        others = {f"a face with {other}" for other in phrases_for("nose") if other != phrase}
        assert {prompt for told_of, prompt in wanted if told_of == text_of_image} == others  # 3 in 20 draws


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TextInpainting, {"steps": 30}, "steps must divide the schedule's 1000 timesteps, got 30"),
        (SemanticGuidance, {"steps": 0}, "steps must divide the schedule's 1000 timesteps, got 0"),
        (SemanticGuidance, {"guidance": 1.0}, "guidance must be above 1, or SEGA guides nothing, got 1.0"),
        (SemanticGuidance, {"threshold": 1.0}, r"threshold must be in \[0, 1\), got 1.0"),
        (SemanticGuidance, {"warmup": -0.1}, r"warmup must be in \[0, 1\), got -0.1"),
    ],
)
def test_options_that_are_refused(model: TextModel, kind: type, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(model, **options)


def test_inpainting_wants_four_channels() -> None:
    narrow = Autoencoder(small_autoencoder(channels=(8, 8), latent_channels=3))
    model = small_text_model(narrow, size=8, channels=(8, 16), width=16)
    with pytest.raises(ValueError, match="takes latents of 4 channels, the model's have 3"):
        TextInpainting(copy.deepcopy(model))
