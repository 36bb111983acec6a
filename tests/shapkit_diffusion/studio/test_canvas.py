"""What the region editor does to an image: regions, edits, undoing, numbers, and files and commands that repeat it."""

from __future__ import annotations

import io
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapkit_diffusion import open_domain, shipped_model
from shapkit_diffusion.cli import main
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.studio.canvas import METADATA, OWN, Canvas, Step, pixels_of
from shapkit_diffusion.studio.page import numbers

STEPS = 5


@pytest.fixture(scope="module")
def canvas() -> Canvas:
    models = {name: shipped_model(name) for name in ("local", "plain")}
    return Canvas.of_seed(models, open_domain("faces", count=2), 7, STEPS)


def forehead() -> np.ndarray:
    mask = np.zeros((32, 32), dtype=bool)
    mask[4:8, 10:22] = True
    return mask


def test_a_face_before_any_edit(canvas: Canvas) -> None:
    assert list(canvas.views) == ["local", "plain"] and canvas.first == "local" and canvas.command() is None
    model = canvas.models["local"]
    torch.testing.assert_close(canvas.views["local"].after, generate(model, draw_noise(model, 1, 7), STEPS))
    view = canvas.views["plain"]
    assert math.isnan(view.inside) and math.isinf(view.psnr) and not view.change.any()


def test_regions_are_clicked(canvas: Canvas) -> None:
    masks = canvas.masks()
    assert list(masks) == list(CONCEPTS)
    for name, mask in masks.items():
        y, x = np.argwhere(mask)[len(np.argwhere(mask)) // 2]
        hit = canvas.region_at(int(x), int(y))
        assert hit == name or masks[str(hit)][y, x]
    assert canvas.region_at(0, 0) is None


def test_an_edit_is_local_in_the_local_model_and_can_be_undone(canvas: Canvas) -> None:
    edited = canvas.edited(Step("mouth", seed=3))
    local, plain = edited.views["local"], edited.views["plain"]
    assert local.inside > 0.01 and local.outside / local.inside < plain.outside / plain.inside / 3
    mask = edited._regions("local").mask("mouth")[0, 0].numpy() > 0.5
    change = (local.after - local.before)[0].double().square().mean(dim=0).numpy()
    assert local.inside == pytest.approx(change[mask].mean()) and local.outside == pytest.approx(change[~mask].mean())
    assert local.milliseconds > 0 and local.change[mask].max() > local.change[~mask].max()
    back = edited.undone()
    assert back.done == () and torch.equal(back.views["local"].after, canvas.views["local"].after)
    assert canvas.done == (), "a canvas is never changed"


def test_dragging_the_strength_changes_one_edit(canvas: Canvas) -> None:
    once = canvas.edited(Step("eyes", 1, 0.3))
    dragged = once.edited(Step("eyes", 1, 0.8))
    assert dragged.done == (Step("eyes", 1, 0.8),)
    assert dragged.views["local"].inside > once.views["local"].inside
    further = dragged.edited(Step("eyes", 2)).edited(Step("mouth", 2))
    assert len(further.done) == 3
    with pytest.raises(ValueError, match="eyes has had the noise of seed 1 already"):
        further.edited(Step("eyes", 1, 0.5))


def test_noise_of_another_face(canvas: Canvas) -> None:
    edited = canvas.edited(Step("mouth", 9, other=True))
    assert edited.command() is None and edited.views["local"].inside > 0
    assert not torch.equal(edited.views["local"].after, canvas.edited(Step("mouth", 9)).views["local"].after)


def test_a_region_of_ones_own(canvas: Canvas) -> None:
    drawn = canvas.drawn(forehead())
    assert drawn.region_at(15, 5) == OWN and list(drawn.masks()) == [*CONCEPTS, OWN]
    edited = drawn.edited(Step(OWN, 1)).edited(Step("mouth", 2))
    assert edited.views["local"].inside > 0 and edited.command() is None
    kept = drawn.edited(Step(OWN, 1)).keeping("replay")
    for view in kept.views.values():
        assert view.outside == 0.0 and view.inside > 0
    again = edited.drawn(np.roll(forehead(), 2, axis=0))
    assert again.done == (Step("mouth", 2),), "edits of the former region are gone"


def test_an_uploaded_image_is_inverted(canvas: Canvas) -> None:
    image = canvas.views["plain"].after[0].clamp(-1, 1)
    uploaded = Canvas.of_image(canvas.models, canvas.domain, image, steps=20)
    assert uploaded.image_seed is None and uploaded.command() is None
    assert all(20 < view.psnr < math.inf for view in uploaded.views.values())
    half = uploaded.edited(Step("nose", 4, 0.5)).views["local"]
    assert half.inside > 0 and torch.equal(half.before, uploaded.views["local"].before)


def test_the_local_model_draws_a_concept_of_an_uploaded_image_anew_as_it_is(canvas: Canvas) -> None:
    """At full strength; what is not in the concept's tokens stays the image's own, bit for bit."""
    image = canvas.views["plain"].after[0].clamp(-1, 1)
    uploaded = Canvas.of_image(canvas.models, canvas.domain, image, steps=20)
    edited = uploaded.edited(Step("nose", 4))
    local, plain = edited.views["local"], edited.views["plain"]
    model = canvas.models["local"]
    assert isinstance(model, RegionDenoiser)
    nose = model.regions.mask("nose").bool().expand_as(local.after)
    assert torch.equal(local.before[0], image) and torch.equal(local.after[~nose], local.before[~nose])
    assert local.inside > 0 and math.isinf(local.psnr) and math.isfinite(plain.psnr)
    assert "as it is" in numbers(edited) and "generated" not in numbers(edited)
    drawn = uploaded.drawn(forehead()).edited(Step(OWN, 1))
    assert math.isfinite(drawn.views["local"].psnr), "parts that look at the forehead keep their noise"


def test_a_saved_image_says_how_it_was_made_and_the_command_makes_it_again(canvas: Canvas, tmp_path: Path) -> None:
    edited = canvas.edited(Step("mouth", 3, 0.7)).edited(Step("eyes", 5))
    with Image.open(io.BytesIO(edited.png())) as picture:
        facts, pixels = json.loads(picture.text[METADATA]), np.asarray(picture)  # type: ignore[attr-defined]
    assert facts["image_seed"] == 7 and facts["model"] == "local" and facts["steps"] == STEPS
    assert facts["edits"][0] == {"region": "mouth", "seed": 3, "strength": 0.7, "other": False}
    assert facts["command"] == edited.command()
    np.testing.assert_array_equal(pixels, pixels_of(edited.views["local"].after))
    program, *words = shlex.split(edited.command() or "")
    words[words.index("--out") + 1] = str(tmp_path / "edit")
    assert program == "shapkit-diffusion" and main(words) == 0
    with Image.open(tmp_path / "edit" / "variant-1-image-1.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_the_command_puts_all_else_back_too(canvas: Canvas) -> None:
    kept = canvas.edited(Step("mouth", 3)).keeping("replay")
    assert "--outside replay" in (kept.command() or "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda canvas: canvas.edited(Step("ears")), "there is no region 'ears'"),
        (lambda canvas: canvas.edited(Step(OWN)), "there is no region 'own region'"),
        (lambda canvas: canvas.edited(Step("mouth", -1)), "a seed must be a whole number of at least 0"),
        (lambda canvas: canvas.edited(Step("mouth", 1, 1.5)), r"strength must lie in \[0, 1\]"),
        (lambda canvas: canvas.drawn(np.zeros((32, 32), dtype=bool)), "draw a region: some pixels"),
        (lambda canvas: canvas.drawn(np.ones((32, 32), dtype=bool)), "and not all of them"),
        (
            lambda canvas: canvas.drawn(np.ones((3, 3), dtype=bool)),
            r"the region has \(3, 3\) pixels, expected \(32, 32\)",
        ),
    ],
)
def test_errors(canvas: Canvas, make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make(canvas)
