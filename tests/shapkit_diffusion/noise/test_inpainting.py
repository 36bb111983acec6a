"""Absent pixels drawn by a denoiser: what stays, what goes with what, and as what is absent from a game of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import shapkit
from shapkit_diffusion import draw_noise, generate, inpaint, inpainter, open_domain, render_faces, shipped_model
from shapkit_diffusion.noise.sampling import completed


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return torch.as_tensor(render_faces(4, 32, seed=5).images).float() / 127.5 - 1


def lower_half() -> Tensor:
    hole = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    hole[..., 16:, :] = True
    return hole


def drawn_below(name: str, faces: Tensor) -> tuple[Tensor, Tensor]:
    """How far what a model draws is from the face that it completes, and from the others: mean squares, each (n,)."""
    hole = lower_half()
    made = inpaint(shipped_model(name), faces, hole, steps=15)
    present = ~hole.expand_as(faces)
    assert torch.equal(made[present], faces[present])
    below = made[..., 16:, :]
    distances = [(below - faces.roll(k, dims=0)[..., 16:, :]).square().mean(dim=(1, 2, 3)) for k in range(len(faces))]
    return distances[0], torch.stack(distances[1:]).mean(dim=0)


@pytest.mark.parametrize("name", ["plain", "composed"])
def test_present_pixels_stay_and_absent_ones_go_with_them(name: str, faces: Tensor) -> None:
    """What is drawn is nearer to the face that it completes than to the three others: skin and ground go on."""
    own, others = drawn_below(name, faces)
    assert bool((own < others).all()) and own.mean() < 0.6 * others.mean()


def test_present_pixels_stay_and_absent_ones_go_with_them_in_a_region_transformer() -> None:
    """Of eight faces, because it gives one of those four another ground: by chance, as the others do elsewhere."""
    own, others = drawn_below("local", torch.as_tensor(render_faces(8, 32, seed=5).images).float() / 127.5 - 1)
    assert own.mean() < 0.6 * others.mean() and int((own < others).sum()) >= 6


def test_all_absent_is_generated_and_nothing_absent_is_the_image(faces: Tensor) -> None:
    model = shipped_model("plain")
    noise = draw_noise(model, 2, 3)
    everything, nothing = torch.ones(1, 1, 32, 32, dtype=torch.bool), torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    torch.testing.assert_close(completed(model, noise, faces[:2], everything, 4), generate(model, noise, 4))
    assert torch.equal(completed(model, noise, faces[:2], nothing, 4), faces[:2])
    assert torch.equal(
        inpaint(model, faces[:2], everything, 4, seed=3), inpaint(model, -faces[:2], everything, 4, seed=3)
    ), "what stands in absent pixels does not matter"


def test_a_game_of_an_image_whose_absent_regions_are_drawn(faces: Tensor) -> None:
    model = shipped_model("plain")
    labels = open_domain("faces", count=2).parse(faces[:1])[0].numpy()
    segments = np.where(labels == labels[20, 16], 1, 0)

    def brightness(images: Any) -> Any:
        return torch.as_tensor(images).mean(dim=(1, 2, 3))

    game = shapkit.image_game(brightness, faces[0], segments, absent=inpainter(model, n_draws=2, steps=3))
    payoffs = game(np.array([[False, False], [True, False], [True, True]]))
    np.testing.assert_allclose(payoffs[2], float(faces[0].mean()), rtol=1e-5)
    assert len(set(payoffs.round(6).tolist())) == 3
    again = shapkit.image_game(brightness, faces[0], segments, absent=inpainter(model, n_draws=2, steps=3))
    np.testing.assert_array_equal(payoffs, again(np.array([[False, False], [True, False], [True, True]])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(1, 3, 8, 8)}, r"images has shape \(1, 3, 8, 8\)"),
        ({"absent": torch.zeros(1, 1, 32, 32)}, "absent must be a mask, bool"),
        ({"absent": torch.zeros(3, 1, 32, 32, dtype=torch.bool)}, "absent must be a mask"),
    ],
)
def test_errors(changes: dict[str, Tensor], message: str) -> None:
    given = {"images": torch.zeros(2, 3, 32, 32), "absent": lower_half()} | changes
    with pytest.raises(ValueError, match=message):
        inpaint(shipped_model("plain"), **given)
