"""Training: the same numbers after an interruption and over processes, and a penalty that makes a network local."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shapkit.differentiable import Regions, allowed_influence, star
from shapkit_diffusion.data import LabelledImages
from shapkit_diffusion.data.labelled import concept_labels, label_template
from shapkit_diffusion.demo import shipped_model
from shapkit_diffusion.denoisers import Denoiser, load_denoiser, small_denoiser
from shapkit_diffusion.influence import influence_at, outside_mass
from shapkit_diffusion.training import (
    PenaltyConfig,
    TrainConfig,
    draw_batch,
    losses,
    to_bytes,
    to_unit_range,
    train,
)

QUICK = TrainConfig(steps=6, batch_size=4, log_every=1, save_every=2, warmup=1, seed=5)


@pytest.fixture(scope="module")
def small_faces() -> LabelledImages:
    from shapkit_diffusion.data import render_faces

    return render_faces(40, 32, seed=9)


def _tiny() -> Denoiser:
    return small_denoiser(size=32, channels=(8, 8, 16), seed=2)


def test_a_run_writes_what_it_promises(small_faces: LabelledImages, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = replace(QUICK, penalty=PenaltyConfig())
    model = train(_tiny(), small_faces, config, tmp_path / "run", progress=lambda *done: seen.append(done))
    assert seen == [(step, 6) for step in range(1, 7)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(line["penalty"] > 0 and line["weight"] == 24 for line in lines)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["steps"] == 6
    stored = load_denoiser(tmp_path / "run" / "model")
    for mine, theirs in zip(model.parameters(), stored.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_resuming_after_a_kill_gives_the_numbers_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """The command itself, in a process that is really killed."""
    base = [sys.executable, "-m", "shapkit_diffusion.cli", "finetune", "--threads", "1", "--count", "32"]
    base += [
        "--steps",
        "60",
        "--batch-size",
        "4",
        "--save-every",
        "3",
        "--log-every",
        "1",
        "--precision",
        "no",
        "--seed",
        "3",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*base, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while (not metrics.is_file() or metrics.read_text().count("\n") < 5) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model").exists()
    state = json.loads((killed / "state" / "state.json").read_text())["step"]
    assert 3 <= state < 60
    subprocess.run([*base, "--out", str(killed), "--resume"], check=True, capture_output=True)
    subprocess.run([*base, "--out", str(whole)], check=True, capture_output=True)

    def lines(folder: Path) -> list[dict[str, float]]:
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in found]

    assert lines(killed) == lines(whole)
    resumed, uninterrupted = load_denoiser(killed / "model"), load_denoiser(whole / "model")
    for mine, theirs in zip(resumed.parameters(), uninterrupted.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_batches_cover_every_image_once_per_epoch_and_pair_their_timesteps(small_faces: LabelledImages) -> None:
    config = replace(QUICK, batch_size=8)
    batches = [draw_batch(small_faces, config, 1000, step) for step in range(5)]
    images = np.concatenate([to_bytes(batch.images) for batch in batches])
    assert len(np.unique(images.reshape(40, -1), axis=0)) == len(np.unique(small_faces.images.reshape(40, -1), axis=0))
    for batch in batches:
        assert torch.equal(batch.timesteps[0::2], batch.timesteps[1::2])
        assert sorted((batch.timesteps[0::2] * 4 // 1000).tolist()) == [0, 1, 2, 3]  # one per stratum
    second_epoch = [draw_batch(small_faces, config, 1000, step) for step in range(5, 10)]
    assert not np.array_equal(images, np.concatenate([to_bytes(batch.images) for batch in second_epoch]))


def test_processes_share_the_batch_without_splitting_pairs(small_faces: LabelledImages) -> None:
    batch = draw_batch(small_faces, replace(QUICK, batch_size=8), 1000, 0)
    shares = [batch.share(rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([s.images for s in shares]), batch.images)
    assert all(torch.equal(s.timesteps[0::2], s.timesteps[1::2]) for s in shares)
    assert [share.first for share in shares] == [0, 4]


def test_processes_penalise_what_one_process_would(small_faces: LabelledImages) -> None:
    """The mean over the shares is the whole batch's penalty: coalitions go by a sample's number, not by its process."""
    model = _tiny()
    config = replace(QUICK, batch_size=8, penalty=PenaltyConfig())
    batch = draw_batch(small_faces, config, 1000, 0)
    regions = Regions.from_labels(batch.labels[:1], concept_labels(small_faces.label_names, ("eyes", "nose", "mouth")))
    whole = losses(model, model, batch, config, regions, 0)[1]
    parts = [losses(model, model, batch.share(rank, 2), config, regions, 0)[1] for rank in range(2)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


def test_mirroring_moves_images_and_labels_together(small_faces: LabelledImages) -> None:
    plain = draw_batch(small_faces, replace(QUICK, batch_size=16), 1000, 0)
    mirrored = draw_batch(small_faces, replace(QUICK, batch_size=16, flip=True), 1000, 0)
    turned = 0
    for row in range(16):
        same = torch.equal(mirrored.images[row], plain.images[row])
        turned += not same
        assert torch.equal(mirrored.images[row], plain.images[row] if same else plain.images[row].flip(2))
        assert torch.equal(mirrored.labels[row], plain.labels[row] if same else plain.labels[row].flip(1))
    assert 0 < turned < 16


def test_penalty_makes_a_leaking_model_local(small_faces: LabelledImages, tmp_path: Path) -> None:
    """Thirty steps from the shipped model: what regions outside the graph drive at least halves, and not by itself."""
    images = to_unit_range(torch.as_tensor(small_faces.images[:8]))
    labels = torch.as_tensor(small_faces.labels[:8]).long()
    names = ("eyes", "nose", "mouth")
    regions = Regions.from_labels(labels, concept_labels(small_faces.label_names, names), dilation=1)
    config = TrainConfig(steps=30, batch_size=8, learning_rate=1e-3, warmup=1, ema=0.5, log_every=30)
    mass = {}
    for name, penalty in (("control", None), ("penalty", PenaltyConfig(weight=100, final_weight=100))):
        model = train(shipped_model(), small_faces, replace(config, penalty=penalty), tmp_path / name)
        mass[name] = outside_mass(influence_at(model, images, regions, 500), allowed_influence(star(), regions.names))
    assert mass["penalty"] < 0.5 * mass["control"]


def test_the_penalty_of_a_step_uses_the_prediction_that_was_paid_for(small_faces: LabelledImages) -> None:
    model = _tiny()
    calls = []
    model.unet.register_forward_hook(lambda *_: calls.append(1))
    batch = draw_batch(small_faces, QUICK, 1000, 0)
    config = replace(QUICK, penalty=PenaltyConfig())
    concepts = concept_labels(small_faces.label_names, ("eyes", "nose", "mouth"))
    regions = Regions.from_labels(batch.labels, concepts)
    denoising, penalty = losses(model, model, batch, config, regions, step=0)
    assert len(calls) == 2 and denoising.requires_grad and penalty.requires_grad


def test_an_anchored_model_is_pulled_towards_what_it_was(small_faces: LabelledImages) -> None:
    """Where it still is what it was, loss and gradient are zero; where it is not, the loss is the distance."""
    anchor, model = _tiny(), _tiny()
    batch = draw_batch(small_faces, QUICK, 1000, 0)
    loss, _ = losses(model, model, batch, QUICK, None, 0, anchor)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    loss, _ = losses(model, model, batch, QUICK, None, 0, anchor)
    noisy = model.add_noise(batch.images, batch.noise, batch.timesteps)
    distance = (model(noisy, batch.timesteps) - anchor(noisy, batch.timesteps)).square().mean()
    torch.testing.assert_close(loss, distance)
    assert float(loss.detach()) > 0


def test_the_anchor_of_a_run_is_the_model_it_starts_from(small_faces: LabelledImages, tmp_path: Path) -> None:
    train(_tiny(), small_faces, replace(QUICK, anchor=True), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["denoising"] == 0 and lines[0]["gradient_norm"] == 0


def test_template_regions_cover_where_concepts_occur_at_all(small_faces: LabelledImages) -> None:
    concepts = concept_labels(small_faces.label_names, ("eyes", "nose", "mouth"))
    template = label_template(small_faces, concepts, mirrored=True)
    assert np.array_equal(template, template[:, ::-1])
    for values in concepts.values():
        occurs = np.isin(small_faces.labels, values).any(axis=0)
        owned = template == values[0]
        assert not (owned & ~(occurs | occurs[:, ::-1])).any()  # nothing is owned where it never occurs
        assert owned.sum() > np.isin(small_faces.labels, values).sum(axis=(1, 2)).mean()


@pytest.mark.parametrize("regions", ["template", "label_maps"])
@pytest.mark.parametrize("output", ["clean", "prediction"])
def test_players_and_payoffs_can_be_chosen(
    small_faces: LabelledImages, tmp_path: Path, regions: str, output: str
) -> None:
    config = replace(QUICK, steps=1, penalty=PenaltyConfig(regions=regions, output=output))
    train(_tiny(), small_faces, config, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["penalty"] > 0


def test_penalty_of_the_clean_image_is_that_of_the_prediction_times_sigma_squared(small_faces: LabelledImages) -> None:
    """With v-prediction and equal x outside the exchanged region, x_0 differs by sigma times what v differs by."""
    model = _tiny()
    batch = draw_batch(small_faces, replace(QUICK, batch_size=8), 1000, 0)
    timestep = torch.full((8,), 300)
    batch = replace(batch, timesteps=timestep)
    concepts = concept_labels(small_faces.label_names, ("eyes", "nose", "mouth"))
    regions = Regions.from_labels(batch.labels[:1], concepts)
    penalties = {
        output: losses(model, model, batch, replace(QUICK, penalty=PenaltyConfig(output=output)), regions, 0)[1]
        for output in ("clean", "prediction")
    }
    _, sigma = model.signal_and_noise(timestep[:1], batch.images)
    torch.testing.assert_close(penalties["clean"], penalties["prediction"] * sigma.square().squeeze())


def test_refusals_come_before_anything_is_written(small_faces: LabelledImages, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"works on images of shape \(3, 16, 16\), the data has \(3, 32, 32\)"):
        train(small_denoiser(size=16, channels=(8, 16)), small_faces, QUICK, folder)
    with pytest.raises(ValueError, match="no label is called 'ears'"):
        train(_tiny(), small_faces, replace(QUICK, penalty=PenaltyConfig(concepts=("ears",))), folder)
    with pytest.raises(ValueError, match="estimator must be one of"):
        train(_tiny(), small_faces, replace(QUICK, penalty=PenaltyConfig(estimator="fast")), folder)
    assert not folder.exists()
    train(_tiny(), small_faces, replace(QUICK, steps=1), folder)
    with pytest.raises(ValueError, match="exists: choose another, or go on with --resume"):
        train(_tiny(), small_faces, replace(QUICK, steps=1), folder)
    with pytest.raises(ValueError, match=r"holds another run: training\.learning_rate is 0\.0004 there and 0\.1 here"):
        train(_tiny(), small_faces, replace(QUICK, steps=1, learning_rate=0.1), folder, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(small_faces: LabelledImages, tmp_path: Path) -> None:
    model = _tiny()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite at step 1"):
        train(model, small_faces, QUICK, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 3}, "batch_size must be even"),
        ({"precision": "fp8"}, "precision must be"),
        ({"ema": 1.0}, "ema must be in"),
    ],
)
def test_configurations_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)  # type: ignore[arg-type]


def test_weight_falls_exponentially_from_first_to_last() -> None:
    penalty = PenaltyConfig(weight=1000, final_weight=10)
    weights = [penalty.at(step, 101) for step in (0, 50, 100)]
    assert weights == pytest.approx([1000, 100, 10])
