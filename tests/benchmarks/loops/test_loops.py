"""The benchmark of other people's loops: its data, what it measures, and how it reports; without their sources."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.loops import __main__ as loops
from benchmarks.loops import data, script, sources
from benchmarks.loops.measure import Loop, held_out_loss, locality
from benchmarks.loops.networks import TokenNet, tokens_of
from shapkit.differentiable import Regions


@pytest.mark.parametrize("make", [data.faces, data.heartbeats, data.volumes])
def test_every_concept_varies_in_its_region_more_than_elsewhere(make: Any) -> None:
    samples, regions = make(64)
    assert len(samples) == 64 and samples.shape[2:] == regions.size and len(regions.names) == 4
    assert samples.abs().max() < 3
    varies = regions.means(samples.var(dim=0, keepdim=True))[0]
    assert (varies > 1e-4).all()


@pytest.mark.parametrize(("size", "channels"), [((12,), 1), ((4, 4, 4), 1), ((16,), -1)])
@pytest.mark.parametrize("leak", [0.0, 0.5])
def test_locality_is_the_change_outside_and_inside_in_every_shape(
    size: tuple[int, ...], channels: int, leak: float
) -> None:
    labels = torch.zeros(1, *size, dtype=torch.long)
    labels[:, :2] = 1
    regions = Regions.from_labels(labels, {"a": [1]})
    noise = (2, *size) if channels == 1 else (*size, 2)

    def generate(x: Tensor) -> Tensor:
        return x + leak * x.flatten(1).mean(dim=1).reshape(-1, *(1,) * (x.ndim - 1))

    loop = _loop(generate, regions, noise, channels)
    found, examples = locality(loop, pairs=6)
    x, other = (torch.randn(6, *noise, generator=generator) for generator in [_seeded()] for _ in range(2))
    owned = labels[0].bool()
    place = owned.unsqueeze(channels if channels == -1 else 0).expand(noise)
    change = (generate(torch.where(place, other, x)) - generate(x)).double().square()
    assert found["a"]["inside"] == pytest.approx(float(change[:, place].mean()), rel=1e-6)
    assert found["a"]["outside"] == pytest.approx(float(change[:, ~place].mean()), rel=1e-6, abs=1e-12)
    assert (found["a"]["outside"] == 0) == (leak == 0)
    assert examples["concepts"]["a"]["change"].shape == size


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _loop(generate: Any, regions: Regions, noise: tuple[int, ...], channels: int = 1) -> Loop:
    network = nn.Dropout(0.5)
    samples = torch.ones(300, *noise)
    return Loop(
        "a source", "a call", samples, regions, network, network, lambda x: network(x).mean(), generate, noise, 1.0,
        channels=channels,
    )  # fmt: skip


def test_losses_are_measured_without_dropout_and_on_the_same_draws() -> None:
    loop = _loop(lambda x: x, Regions.grid(1, 2, 4, 4), (1, 4, 4))
    assert held_out_loss(loop, batches=2) == 1.0 and loop.trained.training


def test_tokens_are_patches() -> None:
    images = torch.arange(3 * 16 * 16.0).reshape(1, 3, 16, 16)
    tokens = tokens_of(images)
    assert tokens.shape == (1, 64, 12)
    torch.testing.assert_close(tokens[0, 9], images[0, :, 2:4, 2:4].flatten())  # row 1, column 1
    assert TokenNet(16, 1)(tokens, torch.ones(1)).shape == tokens.shape


def test_the_stand_in_reads_pictures_as_torchvision_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    transforms = sources._Transforms("torchvision.transforms")
    run = transforms.Compose([transforms.RandomCrop(4), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    expected = torch.as_tensor(pixels).movedim(-1, 0).float() / 127.5 - 1
    torch.testing.assert_close(run(Image.fromarray(pixels)), expected)
    with pytest.raises(ValueError, match="must be 8 x 8 pixels already, got"):
        transforms.Resize(8)(Image.fromarray(pixels))


def test_the_penalty_s_line_is_put_where_the_script_goes_back() -> None:
    text = "def main():\n    if True:\n        if True:\n            if True:\n" + script.PLACE
    changed = text.replace(script.PLACE, script.LINE + script.SEEN + script.PLACE)
    compile(changed, "script", "exec")
    assert changed.index("penalty(") < changed.index("accelerator.backward")


def test_the_report_says_whose_loop_it_is_and_what_changed() -> None:
    def row(penalty: float, loss: float, outside: float, seconds: float) -> dict[str, Any]:
        places = {name: {"inside": 0.1, "outside": outside} for name in ("eyes", "nose", "mouth")}
        return {"penalty": penalty, "loss": loss, "locality": places, "seconds": seconds}

    loop = {
        "source": "someone at 1234567", "call": "their_loss(x)", "shape": [3, 16, 16], "weight": 8.0, "step_ratio": 1.9,
        "without": row(0.01, 0.2, 0.03, 0.1), "with": row(0.0001, 0.21, 0.0005, 0.19),
    }  # fmt: skip
    results = {"loops": {"EDM": loop}, "steps": 10, "batch": 16, "machine": "a machine"}
    text = loops.report(results)
    assert "x 1.050" in text and "0.3000" in text and "0.0050" in text and "0.100 > 0.190" in text
    assert "someone at 1234567" in loops.whose(results) and "3 x 16 x 16" in loops.whose(results)
