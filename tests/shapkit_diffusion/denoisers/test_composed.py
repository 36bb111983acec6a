"""A composed denoiser: exactly local for any weights, equal to its slow twin, trained by a teacher that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DiffusionPipeline, LDMPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

import shapkit_diffusion
from shapkit.differentiable import Regions, allowed_influence, star
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, small_autoencoder
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.noise.influence import influence_at, influence_end_to_end, outside_mass
from shapkit_diffusion.noise.sampling import draw_noise, generate, invert, regenerate, replay, swap, trajectory
from shapkit_diffusion.training.batches import draw_batch, template_regions
from shapkit_diffusion.training.config import TrainConfig
from shapkit_diffusion.training.denoiser import losses, train

NAMES = ("eyes", "mouth", "rest")


def _plain() -> Denoiser:
    return small_denoiser(size=16, channels=(8, 16), seed=3)


def _regions(size: int = 16) -> Regions:
    labels = torch.zeros(1, size, size, dtype=torch.long)
    labels[:, 2:6, 3:13] = 1
    labels[:, 10:14, 5:11] = 2
    return Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})


@pytest.mark.parametrize("graph", ["star", "own", "matrix"])
def test_each_region_is_predicted_from_what_it_may_see(graph: str) -> None:
    """The twin runs the network once for each image and region, with everything else put to zero by hand."""
    matrix = torch.tensor([[True, True, False], [False, True, True], [False, False, True]])
    chosen = {"star": star(), "own": "own", "matrix": matrix}[graph]
    plain, regions = _plain(), _regions()
    local = ComposedDenoiser(plain, regions, chosen)  # type: ignore[arg-type]
    x, timesteps = draw_noise(plain, 3, seed=1), torch.tensor([10, 500, 999])
    expected = torch.zeros_like(x)
    allowed = allowed_influence(chosen, NAMES)  # type: ignore[arg-type]
    for row in range(3):
        for k, name in enumerate(NAMES):
            seen = x[row : row + 1].clone()
            for j, other in enumerate(NAMES):
                if not allowed[k, j]:
                    seen[:, :, regions.mask(other)[0, 0] > 0] = 0
            inside = regions.mask(name)[0, 0] > 0
            expected[row, :, inside] = plain(seen, timesteps[row : row + 1])[0][:, inside].detach()
    torch.testing.assert_close(local(x, timesteps).detach(), expected, rtol=1e-4, atol=1e-5)


def test_edits_leave_the_rest_and_the_other_concepts_alone() -> None:
    local = ComposedDenoiser(_plain(), _regions())
    noise, other = draw_noise(local, 4, seed=1), draw_noise(local, 4, seed=2)
    before = generate(local, noise, 5)
    for name in ("eyes", "mouth"):
        inside = _regions().mask(name)
        change = (generate(local, swap(noise, other, inside), 5) - before).abs().amax(dim=1, keepdim=True)
        assert float((change * (1 - inside)).max()) == 0 < float((change * inside).max())


def test_no_influence_from_outside_the_graph() -> None:
    local = ComposedDenoiser(_plain(), _regions())
    found = influence_end_to_end(local, draw_noise(local, 4, seed=1), _regions(), 4)
    assert outside_mass(found, allowed_influence(star(), NAMES)) < 1e-6


def test_with_everybody_in_sight_it_is_the_plain_model() -> None:
    plain = _plain()
    local = ComposedDenoiser(plain, _regions(), torch.ones(3, 3, dtype=torch.bool))
    x, timesteps = draw_noise(plain, 2, seed=1), torch.tensor([10, 500])
    torch.testing.assert_close(local(x, timesteps), plain(x, timesteps))


def test_stages_are_generated_one_after_the_other() -> None:
    """The twin: the rest alone, then each concept with the finished rest around it, by runs of the plain network."""
    plain, regions = _plain(), _regions()
    staged = ComposedDenoiser(plain, regions, staged=True)
    noise, steps = draw_noise(plain, 3, seed=1), 4
    masks = {name: regions.mask(name) for name in NAMES}
    grid = [999, 749, 499, 249, -1]

    def follow(around: Tensor, name: str) -> Tensor:
        x = noise * masks[name]
        for noisier, cleaner in pairwise(grid):
            timesteps = torch.full((3,), noisier)
            signal, sigma = plain.signal_and_noise(timesteps, x)
            velocity = plain(x * masks[name] + around, timesteps)
            clean, epsilon = signal * x - sigma * velocity, sigma * x + signal * velocity
            signal, sigma = plain.signal_and_noise(torch.full((3,), cleaner), x)
            x = signal * clean + sigma * epsilon
        return x * masks[name]

    with torch.no_grad():
        rest = follow(torch.zeros_like(noise), "rest")
        expected = rest + follow(rest, "eyes") + follow(rest, "mouth")
    torch.testing.assert_close(generate(staged, noise, steps), expected, rtol=1e-4, atol=1e-4)
    states = trajectory(staged, noise, steps)
    assert len(states) == 2 * steps + 1 and torch.equal(states[-1], generate(staged, noise, steps))
    assert torch.equal(states[steps] * (1 - masks["rest"]), noise * (1 - masks["rest"]))
    assert torch.equal(replay(staged, noise, states, masks["eyes"]), states[-1])


def test_stages_are_inverted_last_first() -> None:
    staged = ComposedDenoiser(_plain(), _regions(), staged=True)
    noise = draw_noise(staged, 2, seed=1)
    images = generate(staged, noise, 8)
    torch.testing.assert_close(invert(staged, images, 8, refinements=30), noise, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="a model of 2 stages has no image of one timestep, got timestep 40"):
        invert(staged, images, 8, timestep=40)


def test_an_edit_of_a_staged_model_moves_its_own_region_alone() -> None:
    staged = ComposedDenoiser(_plain(), _regions(), staged=True)
    noise, other = draw_noise(staged, 4, seed=1), draw_noise(staged, 4, seed=2)
    inside = _regions().mask("mouth")
    change = (generate(staged, swap(noise, other, inside), 5) - generate(staged, noise, 5)).abs().amax(1, keepdim=True)
    assert float((change * (1 - inside)).max()) == 0 < float((change * inside).max())
    found = influence_at(staged, generate(staged, noise, 3), _regions(), 500)
    allowed = allowed_influence(star(), NAMES)
    assert outside_mass(found, allowed) < 1e-6 < float(found.values[2, 0])  # the finished rest moves the eyes


def test_an_edit_takes_the_runs_of_what_depends_on_it_alone() -> None:
    staged, seen = ComposedDenoiser(_plain(), _regions(), staged=True), list[int]()
    noise, other = draw_noise(staged, 4, seed=1), draw_noise(staged, 4, seed=2)
    known = generate(staged, noise, 5)
    staged.unet.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    for names, runs in ((("mouth",), [4] * 5), (("eyes", "mouth"), [8] * 5), (("rest",), [4] * 5 + [8] * 5), ((), [])):
        changed = swap(noise, other, _regions().mask(*names)) if names else noise
        seen.clear()
        found = regenerate(staged, changed, noise, known, 5)
        assert seen == runs
        torch.testing.assert_close(found, generate(staged, changed, 5), rtol=1e-4, atol=1e-5)
        untouched = 1 - _regions().mask(*names) if names and "rest" not in names else torch.zeros(1)
        assert torch.equal(found * untouched, known * untouched)
    everything = ComposedDenoiser(_plain(), _regions())
    known = generate(everything, noise, 5)
    changed = swap(noise, other, _regions().mask("eyes"))
    assert torch.equal(regenerate(everything, changed, noise, known, 5), generate(everything, changed, 5))
    with pytest.raises(ValueError, match=r"must have one shape, got \(4, 3, 16, 16\), \(1, 3, 16, 16\)"):
        regenerate(staged, noise, noise[:1], known, 5)


def test_regions_wait_for_those_that_they_look_at() -> None:
    regions = Regions.grid(1, 3, 16, 16)
    chain = torch.tensor([[True, True, False], [False, True, False], [False, True, True]])
    stages = ComposedDenoiser(_plain(), regions, chain, staged=True).stages()
    areas = [int(stage.where.sum()) for stage in stages if stage.where is not None]
    assert areas == [5 * 16, 11 * 16] and len(stages) == 2  # the middle, and then both sides
    circle = chain | chain.T
    with pytest.raises(ValueError, match="cannot be generated one after the other: r0c0, r0c1, r0c2"):
        ComposedDenoiser(_plain(), regions, circle, staged=True)


def test_a_staged_model_learns_concepts_from_data_and_the_rest_from_its_teacher() -> None:
    faces, teacher, plain = render_faces(16, 16, seed=9), small_denoiser(size=16, channels=(8, 16), seed=4), _plain()
    staged, regions = ComposedDenoiser(plain, _regions(), staged=True), _regions()
    config = TrainConfig(steps=1, batch_size=8, anchor=True, concept_weight=3.0)
    batch = draw_batch(faces, config, 1000, 0)
    noisy = staged.add_noise(batch.images, batch.noise, batch.timesteps)
    with torch.no_grad():
        squares = (plain(noisy * regions.mask("rest"), batch.timesteps) - teacher(noisy, batch.timesteps)).square()
        expected = (squares * regions.mask("rest")).sum()
        target = staged.target(batch.images, batch.noise, batch.timesteps)
        for name in ("eyes", "mouth"):
            seen = noisy * regions.mask(name) + batch.images * regions.mask("rest")
            expected += 3 * ((plain(seen, batch.timesteps) - target).square() * regions.mask(name)).sum()
        found = losses(staged, staged, batch, config, None, 0, teacher).denoising
    torch.testing.assert_close(found, expected / noisy.numel())


def test_it_learns_from_the_plain_model_and_is_saved_whole(tmp_path: Path) -> None:
    faces, teacher = render_faces(40, 16, seed=9), _plain()
    config = TrainConfig(steps=80, batch_size=8, learning_rate=5e-3, warmup=1, anchor=True, ema=0.5, log_every=1)
    local = train(ComposedDenoiser(_plain(), _regions()), faces, config, tmp_path / "run", teacher=teacher)
    lines = [json.loads(line)["denoising"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    batch = draw_batch(faces, config, 1000, 0)
    first = losses(start := ComposedDenoiser(_plain(), _regions()), start, batch, config, None, 0, teacher).denoising
    assert lines[0] == pytest.approx(float(first.detach()), rel=1e-4) and lines[0] > 0
    assert sum(lines[-9:]) < 0.8 * sum(lines[:9])  # not to zero: the teacher looks at what this one may not see
    again = load_denoiser(tmp_path / "run" / "model")
    x, timesteps = draw_noise(again, 2, seed=1), torch.tensor([10, 500])
    torch.testing.assert_close(again(x, timesteps), local(x, timesteps))


@pytest.mark.parametrize("staged", [False, True])
def test_what_is_loaded_is_composed_as_what_was_saved(tmp_path: Path, staged: bool) -> None:
    chain = torch.tensor([[True, True, False], [False, True, False], [False, True, True]])
    local = ComposedDenoiser(_plain(), _regions(), chain, staged=staged)
    local.save(tmp_path / "model")
    again = load_denoiser(tmp_path / "model")
    assert isinstance(again, ComposedDenoiser) and again.composition.staged is staged and again.regions.names == NAMES
    noise = draw_noise(local, 2, seed=1)
    assert torch.equal(generate(again, noise, 3), generate(local, noise, 3))
    index = tmp_path / "model" / "model_index.json"
    earlier = json.loads(index.read_text()) | {"unet": ["diffusers", "UNet2DModel"]}  # as this package once wrote it
    index.write_text(json.dumps(earlier))
    assert torch.equal(generate(load_denoiser(tmp_path / "model"), noise, 3), generate(local, noise, 3))


@pytest.mark.parametrize("pipeline", [DDPMPipeline, DDIMPipeline, LDMPipeline, DiffusionPipeline])
@pytest.mark.parametrize("latent", [False, True])
def test_pipelines_refuse_a_composed_model_and_say_why(pipeline: Any, latent: bool, tmp_path: Path) -> None:
    autoencoder = Autoencoder(small_autoencoder(channels=(8, 8))) if latent else None
    plain = small_denoiser(size=32 if latent else 16, channels=(8, 16), autoencoder=autoencoder)
    ComposedDenoiser(plain, _regions()).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"composed model.*open it with shapkit_diffusion\.load_denoiser"):
        pipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(("name", "pipeline"), [("faces32_composed", "DDPMPipeline"), ("faces32_local", "DiTPipeline")])
def test_a_process_without_this_package_in_it_is_refused_the_shipped_local_models_too(name: str, pipeline: str) -> None:
    script = (
        "import sys\n"
        f"from diffusers import {pipeline}\n"
        "try:\n"
        f"    {pipeline}.from_pretrained(sys.argv[1])\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    folder = Path(shapkit_diffusion.__file__).parent / "models" / name
    said = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    ).stdout
    assert "shapkit_diffusion" in said, "what it takes to open it is named"


def test_a_latent_model_is_composed_on_its_own_grid(tmp_path: Path) -> None:
    autoencoder = Autoencoder(small_autoencoder(channels=(8, 8)))
    plain, faces = small_denoiser(size=32, channels=(8, 16), autoencoder=autoencoder), render_faces(8, 32, seed=9)
    regions = template_regions(faces, plain, ("eyes", "mouth"))
    assert regions.masks.shape[2:] == plain.latent_shape[1:] != plain.image_shape[1:]
    config = TrainConfig(steps=2, batch_size=4, anchor=True, concept_weight=4.0)
    local = train(ComposedDenoiser(plain, regions, staged=True), faces, config, tmp_path / "run", teacher=plain)
    again = load_denoiser(tmp_path / "run" / "model")
    assert isinstance(again, ComposedDenoiser) and again.is_latent
    noise, other = draw_noise(local, 2, seed=1), draw_noise(local, 2, seed=2)
    before, after = (generate(again, x, 3) for x in (noise, swap(noise, other, regions.mask("mouth"))))
    assert (
        float(((after - before) * (1 - regions.mask("mouth"))).abs().max()) == 0 < float((after - before).abs().max())
    )


def test_damaged_compositions_are_refused(tmp_path: Path) -> None:
    ComposedDenoiser(_plain(), _regions()).save(tmp_path / "model")
    path = tmp_path / "model" / "composition.safetensors"
    good = load_file(path)
    for tensors, names, message in (
        (good, None, "does not name its regions"),
        (good, "3", "must name 2 to 256 regions, got 3"),
        (good, '["eyes", "rest"]', "one mask per name"),
        ({"masks": good["masks"]}, '["eyes", "mouth", "rest"]', "must hold masks"),
        (good | {"masks": good["masks"] * 2}, '["eyes", "mouth", "rest"]', "must be a partition"),
        (good | {"masks": good["masks"][..., :8]}, '["eyes", "mouth", "rest"]', "denoiser's grid"),
    ):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, names and {"names": names})
        with pytest.raises(ValueError, match=message):
            load_denoiser(tmp_path / "model")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no readable state dict"):
        load_denoiser(tmp_path / "model")


def test_wrong_regions_and_idle_teachers_are_refused(tmp_path: Path) -> None:
    both: Tensor = torch.cat([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)]).long()
    with pytest.raises(ValueError, match="one partition for all images, got 2"):
        ComposedDenoiser(_plain(), Regions.from_labels(both, {"eyes": [1]}, missing="allow"))
    with pytest.raises(ValueError, match=r"denoiser's grid \(16, 16\), got \(32, 32\)"):
        ComposedDenoiser(_plain(), _regions(32))
    soft = Regions(torch.full((1, 2, 16, 16), 0.5), ("eyes", "rest"))
    with pytest.raises(ValueError, match="regions must be hard"):
        ComposedDenoiser(_plain(), soft)
    config = TrainConfig(steps=1, batch_size=2)
    with pytest.raises(ValueError, match=r"a teacher is for runs with config\.anchor"):
        train(_plain(), render_faces(4, 16), config, tmp_path / "run", teacher=_plain())
    assert not (tmp_path / "run").exists() and replace(config, anchor=True).anchor
