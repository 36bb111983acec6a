"""RegionNorm against slow twins, its separation to the last bit, its exchange for GroupNorm in UNets of diffusers."""

import copy
import io
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointError

from shapkit.differentiable import Regions
from shapkit.differentiable.layers.region_norm import RegionNorm, hard_masks, map_size, replace_group_norm

FACES = Path(str(files("shapkit_diffusion"))) / "models/faces32/unet"


def random_regions(rows: int, n_regions: int, size: tuple[int, int], seed: int = 0) -> Regions:
    """Hard regions, scattered pixel by pixel; every region has a pixel in every sample."""
    owner = np.random.default_rng(seed).integers(n_regions, size=(rows, size[0] * size[1]))
    owner[:, :n_regions] = np.arange(n_regions)
    labels = torch.as_tensor(owner).reshape(rows, *size)
    return Regions.from_labels(labels, {str(k): [k] for k in range(n_regions)}, rest=None)


def quadrants(side: int) -> Regions:
    """Four squares, which stay whole at every even resolution."""
    half = torch.arange(side) >= side // 2
    labels = (2 * half[:, None] + half[None, :]).long()[None]
    return Regions.from_labels(labels, {"nw": [0], "ne": [1], "sw": [2], "se": [3]}, rest=None)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_norm(groups: int, channels: int, regions: Regions | None, dtype: torch.dtype = torch.float32) -> RegionNorm:
    norm = RegionNorm(groups, channels, regions=regions, dtype=dtype)
    with torch.no_grad():
        norm.weight.copy_(randn(channels, seed=1))
        norm.bias.copy_(randn(channels, seed=2))
    return norm


def by_loops(x: np.ndarray, owner: np.ndarray, norm: nn.GroupNorm) -> np.ndarray:
    """The definition: owner (rows, height, width) holds each pixel's region."""
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    result = np.empty_like(x)
    width = x.shape[1] // norm.num_groups
    for row in range(len(x)):
        for group in range(norm.num_groups):
            channels = slice(group * width, (group + 1) * width)
            for region in np.unique(owner[row]):
                inside = owner[row] == region
                values = x[row, channels][:, inside]
                values = (values - values.mean()) / np.sqrt(values.var() + norm.eps)
                for offset, channel in enumerate(range(channels.start, channels.stop)):
                    result[row, channel][inside] = values[offset] * weight[channel] + bias[channel]
    return result


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 3),
    repeats=st.integers(1, 2),
    n_regions=st.integers(2, 4),
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    groups=st.integers(1, 3),
    width=st.integers(1, 3),
    flat=st.booleans(),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_equals_the_loops(
    rows: int,
    repeats: int,
    n_regions: int,
    size: tuple[int, int],
    groups: int,
    width: int,
    flat: bool,
    memory_format: torch.memory_format,
) -> None:
    regions = random_regions(rows, n_regions, size)
    norm = random_norm(groups, groups * width, regions, torch.float64)
    x = randn(rows * repeats, groups * width, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    owner = regions.masks.argmax(dim=1).numpy()
    expected = by_loops(x.numpy(), np.concatenate([owner] * repeats), norm)
    found = norm(x.flatten(2)).reshape(x.shape) if flat else norm(x)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_equals_group_norm_of_the_crops() -> None:
    norm = random_norm(2, 6, quadrants(8))
    x = 5 + 3 * randn(3, 6, 8, 8)
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            crop = F.group_norm(x[:, :, rows, columns], 2, norm.weight, norm.bias, norm.eps)
            torch.testing.assert_close(norm(x)[:, :, rows, columns], crop, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("regions", [None, random_regions(2, 1, (4, 4))], ids=["none", "one"])
def test_without_regions_or_with_one_it_is_group_norm(regions: Regions | None) -> None:
    norm, x = random_norm(2, 4, regions), randn(2, 4, 4, 4)
    assert torch.equal(norm(x), F.group_norm(x, 2, norm.weight, norm.bias, norm.eps))


def test_inputs_without_pixels_are_normalised_as_by_group_norm() -> None:
    norm, x = random_norm(2, 4, quadrants(4)), randn(3, 4)
    assert torch.equal(norm(x), F.group_norm(x, 2, norm.weight, norm.bias, norm.eps))


def test_without_affine() -> None:
    norm = RegionNorm(1, 2, affine=False, regions=quadrants(4))
    moments = norm(randn(1, 2, 4, 4))[:, :, :2, :2]
    assert abs(float(moments.mean())) < 1e-6 and float(moments.var(correction=0)) == pytest.approx(1, rel=1e-3)


def test_gradients() -> None:
    norm = random_norm(2, 4, random_regions(2, 3, (3, 2)), torch.float64)
    x = randn(4, 4, 3, 2, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, norm.weight, norm.bias)
    assert torch.autograd.gradcheck(run, inputs) and torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("side", [8, 4, 2, 16], ids=lambda side: f"map{side}")
def test_the_jacobian_across_regions_is_zero_at_every_resolution(side: int) -> None:
    regions = random_regions(1, 3, (8, 8))
    norm = random_norm(2, 4, regions, torch.float64)
    x = randn(1, 4, side, side, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(norm, x).reshape(4, side**2, 4, side**2)
    owner = hard_masks(regions, (side, side)).int().argmax(dim=1).flatten()
    same = owner[:, None] == owner[None, :]
    across = jacobian.permute(1, 3, 0, 2)[~same]
    assert len(across) and bool((across == 0).all())
    assert bool((jacobian.permute(1, 3, 0, 2)[same] != 0).any())


def test_soft_masks_separate_too() -> None:
    soft = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    regions = Regions(torch.cat([soft, 1 - soft], dim=1), ("a", "b"))
    norm, x = random_norm(1, 2, regions), randn(1, 2, 4, 4)
    other = torch.where(soft >= 0.5, x, 100 * randn(1, 2, 4, 4, seed=3))
    same = (soft >= 0.5).expand_as(x)
    assert torch.equal(norm(x)[same], norm(other)[same]) and not torch.equal(norm(x)[~same], norm(other)[~same])


def test_hard_masks_are_a_partition_and_ties_go_to_the_first() -> None:
    regions = random_regions(2, 4, (9, 7))
    for size in ((9, 7), (5, 4), (2, 2), (1, 1), (18, 14)):
        assert hard_masks(regions, size).sum(dim=1).eq(1).all()
    assert torch.equal(hard_masks(regions, (9, 7)), regions.masks.bool())
    halves = Regions.from_labels(torch.tensor([[[1, 0]]]), {"left": [1]})
    assert hard_masks(halves, (1, 1)).flatten().tolist() == [True, False]


def test_tiny_and_vanished_regions_are_finite_and_do_not_leak() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 0, 0] = 1  # one pixel at full resolution, none at half
    regions = Regions.from_labels(labels, {"dot": [1]})
    norm = random_norm(4, 4, regions)  # one channel per group: the dot is one element
    for side in (8, 4):
        x = (1000 * randn(1, 4, side, side)).requires_grad_()
        output = norm(x)
        (gradient,) = torch.autograd.grad(output.square().sum(), x)
        assert bool(torch.isfinite(output).all()) and bool(torch.isfinite(gradient).all())
        if side == 8:
            torch.testing.assert_close(output[0, :, 0, 0], norm.bias, rtol=0, atol=0)
            assert bool((gradient[0, :, 0, 0] == 0).all())
        else:
            torch.testing.assert_close(output, F.group_norm(x, 4, norm.weight, norm.bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_cancels(dtype: torch.dtype) -> None:
    norm = random_norm(2, 4, quadrants(8), dtype)
    x = (30000 + 1000 * randn(2, 4, 8, 8)).to(dtype)
    output = norm(x)
    expected = random_norm(2, 4, quadrants(8), torch.float64)(x.double())
    assert output.dtype == dtype
    rounding = 4 * torch.finfo(dtype).eps  # of weight, bias and result, none of them above 4
    torch.testing.assert_close(output.double(), expected, rtol=rounding, atol=rounding)


def test_a_large_mean_does_not_cancel() -> None:
    x = 1000 + randn(2, 4, 8, 8)
    expected = random_norm(2, 4, quadrants(8), torch.float64)(x.double())
    # x - mean is exact up to the rounding of the mean, 1000 * 2^-24 = 6e-5
    torch.testing.assert_close(random_norm(2, 4, quadrants(8))(x).double(), expected, rtol=2e-4, atol=4e-4)


def test_autocast_does_not_touch_the_statistics() -> None:
    norm, x = random_norm(2, 4, quadrants(8)), 100 + randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = norm(x)
    assert inside.dtype == torch.float32 and torch.equal(inside, norm(x))


def test_masks_are_resized_once_per_resolution_and_anew_for_new_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def counted(regions: Regions, size: tuple[int, int]) -> Tensor:
        sizes.append(size)
        return hard_masks(regions, size)

    monkeypatch.setattr("shapkit.differentiable.layers.region_norm.hard_masks", counted)
    model = nn.Sequential(nn.GroupNorm(1, 2), nn.GroupNorm(1, 2), nn.AvgPool2d(2), nn.GroupNorm(1, 2))
    norms, x = replace_group_norm(model, quadrants(8)), randn(1, 2, 8, 8)
    first = model(x)
    model(x)
    assert sizes == [(8, 8), (4, 4)]
    norms.regions = random_regions(1, 3, (8, 8))
    assert not torch.equal(model(x), first) and sizes == [(8, 8), (4, 4)] * 2


def test_training_follows_a_run_in_inference_mode() -> None:
    norm, x = random_norm(1, 2, quadrants(4)), randn(1, 2, 4, 4)
    with torch.inference_mode():
        norm(x)
    norm(x.requires_grad_()).square().sum().backward()
    assert x.grad is not None


def test_use_restores_the_regions_after_an_error() -> None:
    norms = replace_group_norm(nn.GroupNorm(1, 1), quadrants(4))
    before = norms.regions
    with pytest.raises(RuntimeError), norms.use(None):
        assert norms.regions is None
        raise RuntimeError
    assert norms.regions is before
    assert repr(norms) == "RegionNorms(1 layers, regions: nw, ne, sw, se)"


def test_errors() -> None:
    norm = RegionNorm(1, 2, regions=random_regions(2, 2, (4, 4)))
    with pytest.raises(ValueError, match=r"regions are of 2 samples but the input has 3 rows"):
        norm(randn(3, 2, 4, 4))
    with pytest.raises(ValueError, match=r"flattened map of 77 pixels from regions of 4 x 4"):
        norm(randn(2, 2, 77))
    with pytest.raises(ValueError, match=r"needs an input \(rows, 2, \*size\).*got \(2, 3, 4, 4\)"):
        norm(randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"got \(2, 2, 1, 4, 4\)"):
        norm(randn(2, 2, 1, 4, 4))
    with pytest.raises(ValueError, match="no GroupNorm to replace"):
        replace_group_norm(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="keep names 'x'"):
        replace_group_norm(nn.GroupNorm(1, 1), keep=["x"])


def test_sizes_of_flattened_maps() -> None:
    def by_search(length: int, like: tuple[int, int]) -> tuple[int, int] | None:
        """All factors, tried at many scales."""
        scales = np.linspace(0.01, 3, 3000)
        sizes = [(h, length // h) for h in range(1, length + 1) if length % h == 0]
        exact = [size for size in sizes if size[0] * like[1] == size[1] * like[0]]
        near = [
            size
            for size in sizes
            if (np.maximum(abs(size[0] - like[0] * scales), abs(size[1] - like[1] * scales)) < 1).any()
        ]
        return exact[0] if exact else near[0] if len(near) == 1 else None

    for like in ((8, 8), (12, 8), (9, 5), (7, 3)):
        assert [map_size(n, like) for n in range(1, 120)] == [by_search(n, like) for n in range(1, 120)]
    for height, width in ((64, 64), (48, 32), (33, 65), (100, 75)):
        for halvings in range(4):
            size = -(-height // 2**halvings), -(-width // 2**halvings)
            assert map_size(size[0] * size[1], (height, width)) in (size, None)
            assert halvings > 1 or map_size(size[0] * size[1], (height, width)) == size


class GroupNorm32(nn.GroupNorm):
    """As in guided-diffusion and latent-diffusion."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).type(input.dtype)


def test_replace_keep_and_restore() -> None:
    model = nn.Sequential(nn.GroupNorm(1, 2), GroupNorm32(2, 2), nn.GroupNorm(1, 2))
    classes, parameters = [type(part) for part in model], list(model.parameters())
    attributes = [set(vars(part)) for part in model]
    norms = replace_group_norm(model, keep=["0"])
    assert norms.names == ("1", "2") and type(model[0]) is nn.GroupNorm
    assert all(isinstance(part, RegionNorm) and isinstance(part, nn.GroupNorm) for part in model[1:])
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    norms.restore()
    norms.restore()
    assert [type(part) for part in model] == classes and [set(vars(part)) for part in model] == attributes


def small_unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def small_conditional_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()


def predict(unet: nn.Module, x: Tensor) -> Tensor:
    if isinstance(unet, UNet2DConditionModel):
        return unet(x, 10, torch.ones(len(x), 5, 8)).sample
    return unet(x, 10).sample


UNETS = pytest.mark.parametrize("make", [small_unet, small_conditional_unet], ids=["plain", "conditional"])


@UNETS
def test_copies_follow_and_saved_models_load_as_the_plain_class(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    unet, x, regions = make(), randn(2, 3, 16, 16), quadrants(16)
    with torch.no_grad():
        plain = predict(unet, x)
        norms = replace_group_norm(unet)
        assert torch.equal(predict(unet, x), plain)  # no regions: GroupNorm
        twin = copy.deepcopy(unet)
        with norms.use(regions):
            separate = predict(unet, x)
            assert torch.equal(predict(twin, x), separate)
            doubled = predict(unet, torch.cat([x, x]))
            torch.testing.assert_close(doubled, torch.cat([separate, separate]), rtol=1e-4, atol=1e-5)
            unet.save_pretrained(tmp_path)
            saved = io.BytesIO()
            torch.save(unet, saved)
        assert not torch.allclose(separate, plain, atol=1e-3)
        reloaded = type(unet).from_pretrained(tmp_path).eval()
        assert not any(isinstance(part, RegionNorm) for part in reloaded.modules())
        assert torch.equal(predict(reloaded, x), plain)
        saved.seek(0)
        unpickled = torch.load(saved, weights_only=False)
        assert torch.equal(predict(unpickled, x), plain)
        with replace_group_norm(unpickled).use(regions):  # a handle of its own
            assert torch.equal(predict(unpickled, x), separate)
        norms.restore()
        assert torch.equal(predict(unet, x), plain)
        assert len(norms.names) and not any(isinstance(part, RegionNorm) for part in unet.modules())


def test_gradient_checkpointing_within_use_and_its_error_outside() -> None:
    unet, x = small_unet().train(), randn(2, 3, 16, 16)
    norms = replace_group_norm(unet)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.zero_grad()
        with norms.use(quadrants(16)):
            predict(unet, x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in unet.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    with norms.use(quadrants(16)):
        loss = predict(unet, x).square().mean()
    with pytest.raises(CheckpointError):
        loss.backward()


def test_compiles_without_graph_breaks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.AvgPool2d(2), nn.GroupNorm(2, 4))
    norms, x = replace_group_norm(model), randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for regions in (quadrants(8), random_regions(1, 3, (8, 8))):
        with norms.use(regions):
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)


def test_the_shipped_denoiser_is_replaced_and_restored_bit_for_bit() -> None:
    unet = UNet2DModel.from_pretrained(FACES).eval()
    x = randn(2, 3, 32, 32)
    with torch.no_grad():
        before, state = predict(unet, x), copy.deepcopy(unet.state_dict())
        norms = replace_group_norm(unet, quadrants(32))
        assert "mid_block.attentions.0.group_norm" in norms.names
        assert list(unet.state_dict()) == list(state)
        replaced = predict(unet, x)
        assert bool(torch.isfinite(replaced).all()) and not torch.equal(replaced, before)
        norms.restore()
        assert torch.equal(predict(unet, x), before)
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())
