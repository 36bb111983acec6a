"""Noise that belongs to its images: found by inversion, white as noise is, kept on disk, added where it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import shipped_model
from shapkit_diffusion.noise.sampling import draw_noise, generate, invert, peak_signal_to_noise, trajectory
from shapkit_diffusion.training.batches import Batch, draw_batch, players
from shapkit_diffusion.training.config import PairedNoise, PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train
from shapkit_diffusion.training.paired_noise import noise_of, pairing
from shapkit_diffusion.training.row_files import RowFiles

FEW = PairedNoise(images=12, steps=3, refinements=0)
CONFIG = TrainConfig(steps=4, batch_size=4, log_every=1, save_every=2, warmup=1, seed=5, paired=FEW)


@pytest.fixture(scope="module")
def faces() -> LabelledImages:
    return render_faces(32, 32, seed=0)


@pytest.fixture(scope="module")
def images(faces: LabelledImages) -> Tensor:
    return to_unit_range(torch.as_tensor(faces.images))


def _tiny() -> Denoiser:
    return small_denoiser(size=32, channels=(8, 8, 16), seed=2)


def test_inversion_goes_on_from_an_image_that_is_noisy_already() -> None:
    model = _tiny()
    noise = draw_noise(model, 2, seed=3)
    path = trajectory(model, noise, 5)  # at timesteps 999, 799, 599, 399, 199, and clean
    found = invert(model, path[3], 5, refinements=40, timestep=399)
    assert float((found - noise).abs().max()) < 1e-3
    assert torch.equal(invert(model, path[0], 5, timestep=999), path[0])
    with pytest.raises(ValueError, match="timestep must be -1"):
        invert(model, path[0], 5, timestep=1000)


def test_a_little_noise_at_the_start_makes_the_inverted_noise_white(images: Tensor) -> None:
    """White noise's own sampling error is 0.003 to 0.006; inverted from clean images, noise is far from white."""
    model = shipped_model()

    def whiteness(noise: Tensor) -> tuple[float, float, float]:
        border = noise[:, :, :3].std()
        beside = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
        return float(border), float(beside), float(noise.std())

    border, beside, overall = whiteness(noise_of(model, images, range(32), PairedNoise()))
    assert abs(border - 1) < 0.04 and abs(beside) < 0.015 and abs(overall - 1) < 0.03
    border, beside, _ = whiteness(noise_of(model, images, range(32), PairedNoise(timestep=-1)))
    assert border < 0.93 and beside > 0.05


def test_the_model_generates_the_images_of_their_noise(images: Tensor) -> None:
    """Up to the noise that was added, of deviation 0.06: as good a copy as 24 dB, where strangers are at 10."""
    model = shipped_model()
    noise = noise_of(model, images[:8], range(8), PairedNoise(refinements=2))
    again = generate(model, noise, 12)
    own, stranger = (float(peak_signal_to_noise(again, other).mean()) for other in (images[:8], images[8:16]))
    assert own > 24 > stranger + 8


def test_noise_is_named_by_the_image_and_the_seed_alone(images: Tensor) -> None:
    model = _tiny()
    whole = noise_of(model, images[:4], range(4), replace(FEW, seed=1))
    torch.testing.assert_close(noise_of(model, images[2:4], [2, 3], replace(FEW, seed=1)), whole[2:])
    assert not torch.allclose(noise_of(model, images[:4], range(4), replace(FEW, seed=2)), whole)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("concepts", ["fresh", "paired"])
def test_a_batch_gets_the_noise_of_its_images(faces: LabelledImages, tmp_path: Path, flip: bool, concepts: str) -> None:
    model, wanted = _tiny(), replace(FEW, concepts=concepts)
    config = replace(CONFIG, flip=flip, paired=wanted, penalty=PenaltyConfig(concepts=("eyes", "mouth")))
    with_noise = pairing(faces, model, config, RowFiles(tmp_path), Accelerator(cpu=True))
    seen = set()
    for step in range(6):
        batch = draw_batch(faces, config, model.n_timesteps, step)
        regions = players(faces, model, config)(batch)
        assert regions is not None
        inside = (1 - regions.mask("rest")).bool().expand_as(batch.noise)
        noise = with_noise(batch, regions).noise
        for row, (number, mirrored) in enumerate(zip(batch.indices.tolist(), batch.mirrored.tolist(), strict=True)):
            seen.add(number)
            expected = noise_of(model, batch.images[row : row + 1], [number * (1 + flip) + mirrored], wanted)
            outside = ~inside[row] if concepts == "fresh" else torch.ones_like(inside[row])
            torch.testing.assert_close(noise[row][outside], expected[0][outside], atol=1e-4, rtol=1e-4)
        if concepts == "fresh":
            assert torch.equal(noise[inside], batch.noise[inside])
    assert seen == set(range(12))  # of 32: the others have no noise


def test_without_players_the_whole_noise_is_the_images_own(faces: LabelledImages, tmp_path: Path) -> None:
    model, config = _tiny(), replace(CONFIG, paired=replace(FEW, concepts="fresh"))
    batch = draw_batch(faces, config, model.n_timesteps, 0)
    noise = pairing(faces, model, config, RowFiles(tmp_path), Accelerator(cpu=True))(batch, None).noise
    kept = np.load(tmp_path / "noise.npy")
    assert kept.shape == (12, 1, 3, 32, 32)
    assert torch.equal(noise, torch.from_numpy(kept[batch.indices, 0]))


def test_an_interrupted_inversion_goes_on(
    faces: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shapkit_diffusion.training.paired_noise as paired_noise

    monkeypatch.setattr(paired_noise, "INVERTED_AT_ONCE", 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    pairing(faces, _tiny(), CONFIG, RowFiles(whole), Accelerator(cpu=True))
    calls = []

    def failing(*args: object, **options: object) -> Tensor:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return noise_of(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(paired_noise, "noise_of", failing)
    with pytest.raises(KeyboardInterrupt):
        pairing(faces, _tiny(), CONFIG, RowFiles(broken), Accelerator(cpu=True))
    assert not (broken / "noise.npy").exists()
    pairing(faces, _tiny(), CONFIG, RowFiles(broken), Accelerator(cpu=True))
    assert len(calls) == 4  # the third part alone was left
    assert (broken / "noise.npy").read_bytes() == (whole / "noise.npy").read_bytes()


def test_runs_share_what_the_same_model_makes_of_the_same_images(faces: LabelledImages, tmp_path: Path) -> None:
    shared = tmp_path / "shared"

    def files() -> int:
        return len(list(shared.glob("noise-*.npy")))

    accelerator = Accelerator(cpu=True)
    pairing(faces, _tiny(), CONFIG, RowFiles(tmp_path / "one", shared), accelerator)
    other_concepts = replace(CONFIG, seed=9, paired=replace(FEW, concepts="fresh"))
    pairing(faces, _tiny(), other_concepts, RowFiles(tmp_path / "two", shared), accelerator)
    assert files() == 1
    pairing(faces, _tiny(), replace(CONFIG, paired=replace(FEW, steps=2)), RowFiles(tmp_path, shared), accelerator)
    pairing(faces, _tiny(), replace(CONFIG, flip=True), RowFiles(tmp_path, shared), accelerator)
    pairing(faces[8:], _tiny(), CONFIG, RowFiles(tmp_path, shared), accelerator)
    pairing(
        faces, small_denoiser(size=32, channels=(8, 8, 16), seed=3), CONFIG, RowFiles(tmp_path, shared), accelerator
    )
    assert files() == 5


def test_a_resumed_run_keeps_the_noise_of_the_model_it_started_from(faces: LabelledImages, tmp_path: Path) -> None:
    config = replace(CONFIG, penalty=PenaltyConfig())
    straight = train(_tiny(), faces, config, tmp_path / "straight")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_tiny(), faces, config, tmp_path / "run", progress=stop)
    resumed = train(_tiny(), faces, config, tmp_path / "run", resume=True)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_labels_of_each_image_say_where_its_concepts_have_new_noise(faces: LabelledImages, tmp_path: Path) -> None:
    penalty = PenaltyConfig(concepts=("mouth",), regions="label_maps", dilation=0)
    config = replace(CONFIG, penalty=penalty, paired=replace(FEW, concepts="fresh"))
    batch = draw_batch(faces, config, 1000, 0)
    regions = players(faces, _tiny(), config)(batch)
    assert isinstance(regions, Regions)
    noise = pairing(faces, _tiny(), config, RowFiles(tmp_path), Accelerator(cpu=True))(batch, regions).noise
    mouth = (batch.labels == faces.label_names.index("mouth"))[:, None].expand_as(noise)
    assert torch.equal(noise[mouth], batch.noise[mouth]) and bool((noise != batch.noise)[~mouth].all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "paired.images must be at least 1"),
        ({"timestep": -2}, "paired.timestep must be at least -1"),
        ({"concepts": "none"}, "paired.concepts must be 'fresh' or 'paired', got 'none'"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FEW, **change)  # type: ignore[arg-type]


def test_substeps_ask_for_an_anchor() -> None:
    with pytest.raises(ValueError, match="anchor_substeps asks for an anchor, got 4 without one"):
        TrainConfig(steps=1, anchor_substeps=4)


def test_an_anchor_and_paired_noise_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="anchor and paired exclude each other"):
        replace(CONFIG, anchor=True)


def test_a_step_says_which_regions_have_new_noise(
    faces: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Regions | None] = []

    def noted(*arguments: Any) -> Any:
        with_noise = pairing(*arguments)

        def noting(batch: Batch, regions: Regions | None) -> Batch:
            given.append(regions)
            return with_noise(batch, regions)

        return noting

    monkeypatch.setattr("shapkit_diffusion.training.denoiser.pairing", noted)
    config = replace(CONFIG, steps=2, paired=replace(FEW, concepts="fresh"), penalty=PenaltyConfig(concepts=("mouth",)))
    train(_tiny(), faces, config, tmp_path / "run")
    assert len(given) == 2 and all(regions is not None and regions.names == ("mouth", "rest") for regions in given)
