"""RePaint: against a plain rewriting of its algorithm, and what it promises of the outside."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import RePaintScheduler
from torch import Tensor

from benchmarks.published_tables.systems.draws import generators
from benchmarks.published_tables.systems.repaint import RePaint
from benchmarks.published_tables.systems.systems import Region, System
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser


def mouth(count: int) -> Region:
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., 8:12, 4:12] = 1
    return Region("mouth", mask)


def small(denoiser: Denoiser, **options: float) -> RePaint:
    return RePaint(denoiser, **({"steps": 10, "jump_length": 2, "jump_n_sample": 2, "generate_steps": 5} | options))  # type: ignore[arg-type]


def slowly(denoiser: Denoiser, image: Tensor, mask: Tensor, generator: torch.Generator, system: RePaint) -> Tensor:
    """Algorithm 1 of Lugmayr et al. 2022 with DDIM's step of parameter eta, for one image, in double precision."""
    stride = denoiser.n_timesteps // system.steps
    alphas = denoiser.alphas_cumprod

    def remaining(t: int) -> Tensor:
        return alphas[t] if t >= 0 else torch.ones(()).double()

    def draw() -> Tensor:
        return torch.randn((1, *image.shape[1:]), generator=generator).double()

    def denoise(x: Tensor, t: int) -> Tensor:
        now, then = remaining(t), remaining(t - stride)
        noise = output = denoiser(x.float(), torch.tensor([t])).double()
        if denoiser.prediction == "v_prediction":
            noise = now.sqrt() * output + (1 - now).sqrt() * x
        clean = ((x - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
        fresh = draw()
        deviation = system.eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        unknown = then.sqrt() * clean + (1 - then - deviation**2).sqrt() * noise + deviation * fresh * (t > 0)
        known = then.sqrt() * image + (1 - then).sqrt() * fresh
        return torch.where(mask > 0, unknown, known)

    x = draw()
    walks = {
        stretch: system.jump_n_sample for stretch in range(0, system.steps - system.jump_length, system.jump_length)
    }
    t = system.steps
    while t > 0:
        t -= 1
        x = denoise(x, t * stride)
        if walks.get(t, 0) > 1:
            walks[t] -= 1
            for _ in range(system.jump_length):
                for small_step in range(stride):
                    beta = 1 - remaining(t * stride + small_step) / remaining(t * stride + small_step - 1)
                    x = (1 - beta).sqrt() * x + beta.sqrt() * draw()
                t += 1
    return x.clamp(-1, 1).float()


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_against_the_algorithm_written_out(eta: float, prediction: str) -> None:
    denoiser = small_denoiser(size=16, channels=(8, 16), prediction=prediction, seed=1).eval()
    system, region = small(denoiser, eta=eta), mouth(2)
    images = system.generate(2, seed=3)
    edited = system.edit(images, region, seed=5)
    with torch.no_grad():
        for number, generator in enumerate(generators(5, "mouth", 2)):
            expected = slowly(denoiser, images[number : number + 1].double(), region.mask[:1], generator, system)
            assert (edited[number] - expected[0]).abs().max() < 2e-3


def test_what_it_is_as_a_system(tiny: Denoiser) -> None:
    system: System = small(tiny)
    region, images = mouth(3), system.generate(3, seed=3)
    assert system.pastes and system.name == "RePaint"
    assert torch.equal(system.generate(3, seed=3), images) and not torch.equal(system.generate(3, seed=4), images)
    assert torch.equal(system.reconstruct(images), images)
    edited = system.edit(images, region, seed=5)
    assert edited.shape == images.shape and edited.abs().max() <= 1
    change = edited - images
    assert (change * (1 - region.mask)).abs().max() < 1e-6 < 0.1 < (change * region.mask).abs().max()
    assert torch.equal(system.edit(images, region, seed=5), edited)
    assert ((system.edit(images, region, seed=6) - edited) * region.mask).abs().max() > 0.1


def test_an_image_does_not_depend_on_its_batch(tiny: Denoiser) -> None:
    region, images = mouth(3), small(tiny).generate(3, seed=3)
    whole = small(tiny).edit(images, region, seed=5)
    assert torch.allclose(small(tiny).edit(images[:1], mouth(1), seed=5), whole[:1], atol=1e-3)
    shared = Region("mouth", region.mask[:1])
    assert torch.allclose(small(tiny).edit(images[:2], shared, seed=5), whole[:2], atol=1e-3)


def test_the_number_of_network_runs_that_the_documentation_states(tiny: Denoiser) -> None:
    for options, wanted in (((250, 10, 10), 2410), ((50, 5, 2), 95)):
        scheduler = RePaintScheduler()
        scheduler.set_timesteps(*options)
        visited = scheduler.timesteps.tolist()
        assert 1 + sum(later < earlier for earlier, later in pairwise(visited)) == wanted
    assert (RePaint(tiny).steps, RePaint(tiny).jump_length, RePaint(tiny).jump_n_sample) == (50, 5, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 30}, "steps must divide the schedule's 1000 timesteps, got 30"),
        ({"jump_length": 10}, "jump_length must be 1..9 and jump_n_sample at least 1, got 10 and 2"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
    ],
)
def test_errors(tiny: Denoiser, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(tiny, **options)
