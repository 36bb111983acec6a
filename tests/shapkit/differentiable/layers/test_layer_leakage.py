"""The leakage probe against a plain loop, on networks whose leaks are known, and on the shipped denoiser."""

import copy
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from shapkit.differentiable import Regions, partner
from shapkit.differentiable.layers.layer_leakage import LayerLeakage, layer_leakage
from shapkit.differentiable.layers.region_norm import hard_masks, replace_group_norm

FACES = Path(str(files("shapkit_diffusion"))) / "models/faces32/unet"


def halves(side: int) -> Regions:
    labels = (torch.arange(side) >= side // 2).long().expand(1, side, side)
    return Regions.from_labels(labels, {"right": [1]})


def samples(rows: int, channels: int, side: int) -> Tensor:
    """Noise of a strength of its own in every sample and half, so that statistics differ."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, channels, side, side, generator=generator)
    strength = torch.rand(rows, 1, 1, 2, generator=generator).repeat_interleave(side // 2, dim=3)
    return noise * (0.5 + 2 * strength)


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.GroupNorm(4, 8),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 3, 1),
    )


def by_loops(network: nn.Sequential, x: Tensor, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
    """Both measures of a Sequential, written down sample by sample."""
    network = copy.deepcopy(network).eval()
    n_regions = len(regions.names)
    other = partner(x)

    def changes(a: Tensor, b: Tensor, region: int) -> float:
        masks = hard_masks(regions, (a.shape[2], a.shape[3])).expand(len(a), -1, -1, -1)
        return sum(float((a[i] - b[i]).double()[:, masks[i, region]].square().sum()) for i in range(len(a)))

    def mixed(a: Tensor, b: Tensor, region: int) -> Tensor:
        masks = hard_masks(regions, (a.shape[2], a.shape[3])).expand(len(a), -1, -1, -1)
        return torch.stack([a[i] * masks[i, region] + b[i] * ~masks[i, region] for i in range(len(a))])

    local, cumulative = np.empty((2, len(network), n_regions))
    with torch.no_grad():
        for region in range(n_regions):
            own, absent, only = x, other, mixed(x, other, region)
            for number, layer in enumerate(network):
                alone = layer(mixed(own, absent, region))
                own, absent, only = layer(own.clone()), layer(absent.clone()), layer(only.clone())
                local[number, region] = changes(alone, own, region) / changes(absent, own, region)
                cumulative[number, region] = changes(only, own, region) / changes(absent, own, region)
    return local, cumulative


def per_sample(side: int) -> Regions:
    labels = torch.zeros(4, side, side, dtype=torch.long)
    for row in range(4):
        labels[row, : 4 + 2 * row, :6] = 1
        labels[row, :, 10 - row :] = 2
    return Regions.from_labels(labels, {"a": [1], "b": [2]})


@pytest.mark.parametrize("regions", [halves(16), per_sample(16)], ids=["shared", "per-sample"])
def test_equals_the_loops(regions: Regions) -> None:
    network, x = convolutional(), samples(4, 3, 16)
    found = layer_leakage(network, x, regions)
    local, cumulative = by_loops(network, x, regions)
    assert found.names == tuple(str(number) for number in range(8))
    assert found.types[:3] == ("Conv2d", "GroupNorm", "ReLU") and found.regions == regions.names
    np.testing.assert_allclose(found.local, local, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.cumulative, cumulative, rtol=1e-4, atol=1e-9)


def test_group_norm_is_what_makes_a_convolutional_network_global() -> None:
    network, x, regions = convolutional(), samples(8, 3, 16), halves(16)
    before = layer_leakage(network, x, regions, erode=1)
    norms = [layer for layer, kind in enumerate(before.types) if kind == "GroupNorm"]
    others = [layer for layer, kind in enumerate(before.types) if kind != "GroupNorm"]
    assert set(before.worst()) == {before.names[layer] for layer in norms} and len(norms) == 2
    assert bool((before.local[others] == 0).all()) and bool((before.local[norms] > 0).all())
    with replace_group_norm(network).use(regions):
        after = layer_leakage(network, x, regions, erode=1)
    assert after.worst() == () and bool((after.local == 0).all())
    # What a convolution carries across the border enters the statistics of the region it has come to
    assert bool((after.cumulative[1:] > 0).all()) and bool((after.cumulative[1:] < before.cumulative[1:]).all())


def test_with_convolutions_of_one_pixel_nothing_is_left() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 2, 2), nn.GroupNorm(2, 4)
    )
    x, regions = samples(4, 3, 16), halves(16)
    assert bool((layer_leakage(network, x, regions).cumulative[1:] > 0).all())
    with replace_group_norm(network).use(regions):
        assert bool((layer_leakage(network, x, regions).cumulative == 0).all())


def test_a_convolution_leaks_at_the_border_alone() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2)), samples(2, 1, 8)
    leaks = [layer_leakage(network, x, halves(8), erode=erode).local for erode in range(3)]
    assert bool((leaks[0] > leaks[1]).all()) and bool((leaks[1] > 0).all()) and bool((leaks[2] == 0).all())


class Mixer(nn.Module):
    """Attention over flattened maps, batch first, between two convolutions of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.Conv2d(3, 16, 1)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Conv2d(16, 3, 1)
        self.act = nn.SiLU()
        self.embedding = nn.Linear(4, 16)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        height, width = x.shape[2:]
        maps = self.act(self.into(x) + self.embedding(time)[:, :, None, None])
        tokens = maps.flatten(2).transpose(1, 2)
        tokens, _ = self.attention(tokens, tokens, value=tokens)
        return self.act(self.out(tokens.transpose(1, 2).unflatten(2, (height, width))))


def test_attention_is_reported_and_what_is_no_map_is_left_out() -> None:
    network, x = Mixer(), samples(4, 3, 4)  # 16 tokens of 16 channels: the axes cannot be told by their length
    time = torch.ones(4, 4)
    found = layer_leakage(network, x, halves(4), run=lambda x: network(x, time))
    assert found.names == ("into", "act", "attention", "out", "act (2)")
    assert found.worst() == ("attention",)
    attention = found.names.index("attention")
    assert bool((found.local[attention] > 0.01).all())
    assert bool((np.delete(found.local, attention, axis=0) == 0).all())
    assert bool((found.cumulative[:attention] == 0).all()) and bool((found.cumulative[attention:] > 0).all())


def test_attention_alone_matches_a_run_by_hand() -> None:
    network, x = Mixer().eval(), samples(2, 3, 4)
    found = layer_leakage(network, x, halves(4), run=lambda x: network(x, torch.ones(2, 4)))
    right = torch.tensor([0, 0, 1, 1] * 4, dtype=torch.bool)
    with torch.no_grad():
        maps = network.act(network.into(x) + network.embedding(torch.ones(2, 4))[:, :, None, None])
        own = maps.flatten(2).transpose(1, 2)
        other = own.flip(0)
        mixed = torch.where(right[:, None], own, other)
        base, alone, moved = (network.attention(tokens, tokens, tokens)[0] for tokens in (own, mixed, other))
    expected = (alone - base)[:, right].square().sum() / (moved - base)[:, right].square().sum()
    assert found.local[2, 0] == pytest.approx(float(expected), rel=1e-4)


def test_a_stand_in_and_a_choice_of_layers() -> None:
    network, x = convolutional(), samples(3, 3, 16)  # an odd batch has no partners
    norms: Callable[[str, nn.Module], bool] = lambda name, module: isinstance(module, nn.GroupNorm)  # noqa: E731
    found = layer_leakage(network, x, halves(16), absent=torch.zeros_like(x), layers=norms)
    assert found.names == ("1", "5")
    whole = layer_leakage(network, x, halves(16), absent=torch.zeros_like(x), layers=lambda name, module: not name)
    assert whole.names == ("(network)",)
    np.testing.assert_allclose(whole.local, whole.cumulative, rtol=1e-6)


def test_a_region_that_vanishes_has_no_value() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 0, 0] = 1
    network = nn.Sequential(nn.Identity(), nn.AvgPool2d(2))
    found = layer_leakage(network, samples(2, 1, 8), Regions.from_labels(labels, {"dot": [1]}))
    assert np.isnan(found.local).tolist() == [[False, False], [True, False]]
    assert np.isnan(found.cumulative).tolist() == [[False, False], [True, False]]


class Failing(nn.Module):
    """Passes a few calls, then raises."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.left = passes

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("on purpose")
        return x


@pytest.mark.parametrize("passes", [None, 0, 1, 4], ids=["no error", "first run", "second run", "alone"])
def test_modes_buffers_and_hooks_are_as_before(passes: int | None) -> None:
    network = convolutional().train()
    network[4].eval()
    seen: list[int] = []
    network[0].register_forward_hook(lambda *_: seen.append(1))
    if passes is not None:
        network.append(Failing(passes))
    state = copy.deepcopy(network.state_dict())
    modes = [part.training for part in network.modules()]
    if passes is None:
        layer_leakage(network, samples(2, 3, 16), halves(16))
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            layer_leakage(network, samples(2, 3, 16), halves(16))
    assert [part.training for part in network.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules()]
    assert sum(hooks) == 1 and len(seen) > 0


def test_errors() -> None:
    network, x = convolutional(), samples(2, 3, 16)
    with pytest.raises(ValueError, match="regions are"):
        layer_leakage(network, x, halves(8))
    with pytest.raises(ValueError, match="at least two regions"):
        layer_leakage(network, x, Regions(torch.ones(1, 1, 16, 16), ("all",)))
    with pytest.raises(ValueError, match="erode"):
        layer_leakage(network, x, halves(16), erode=-1)
    with pytest.raises(ValueError, match="absent must have the shape of x"):
        layer_leakage(network, x, halves(16), absent=x[:1])
    with pytest.raises(ValueError, match="takes two at least, got 1"):
        layer_leakage(network, x[:1], halves(16))
    with pytest.raises(ValueError, match="no layer"):
        layer_leakage(network, x, halves(16), layers=lambda name, module: False)


def test_the_table() -> None:
    report = LayerLeakage(
        names=("a", "b", "c", "d", "e"),
        types=("Conv2d",) * 5,
        regions=("eyes", "rest"),
        local=np.array([[0, 0], [0.2, 0.1], [np.nan, 0.3], [np.nan, np.nan], [0.1, 0.15]]),
        cumulative=np.full((5, 2), 0.5),
    )
    assert report.worst() == ("c", "b", "e") and report.worst(1) == ("c",)
    lines = repr(report).splitlines()
    assert len(lines) == 2 + 5 + 1
    assert [line[0] for line in lines[2:7]] == [" ", "*", "*", " ", "*"]
    assert lines[2].split() == ["a", "Conv2d", "0", "0", "|", "0.5000", "0.5000"]
    assert lines[4].split() == ["*", "c", "Conv2d", "-", "0.3000", "|", "0.5000", "0.5000"]


def test_the_shipped_denoiser() -> None:
    unet = UNet2DModel.from_pretrained(FACES)
    x, regions = samples(4, 3, 32), halves(32)

    def probe() -> LayerLeakage:
        return layer_leakage(unet, x, regions, run=lambda x: unet(x, 100), erode=1)

    before = probe()
    with replace_group_norm(unet).use(regions):
        after = probe()
    norms = [layer for layer, kind in enumerate(before.types) if kind == "GroupNorm"]
    assert len(norms) == sum(isinstance(part, nn.GroupNorm) for part in unet.modules())
    assert bool((before.local[norms] > 0).all()) and bool((after.local[norms] == 0).all())
    assert after.worst() == ("mid_block.attentions.0",)  # attention stays global
    assert bool((after.cumulative[-1] < before.cumulative[-1]).all()) and bool((after.cumulative[-1] > 0).all())
