"""BiSeNet and SegFormer: the published architectures, from the published files, and from nothing else."""

from __future__ import annotations

import json
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit.differentiable import Regions
from shapkit_diffusion.data import CELEBAMASK_LABELS, open_folder
from shapkit_diffusion.segmentation.bisenet import BiSeNet, load_bisenet
from shapkit_diffusion.segmentation.classes import BISENET_CLASSES, SEGFORMER_CLASSES, face_concepts
from shapkit_diffusion.segmentation.label_maps import open_parser, write_label_maps
from shapkit_diffusion.segmentation.parsers import MergedParser, NetworkParser
from shapkit_diffusion.segmentation.segformer import load_segformer

State = dict[str, Tensor]

# Modules of zllrunning/face-parsing.PyTorch and of yakhyo/face-parsing, as their sources name them.
YAKHYO_NAMES = {
    "cp.resnet": "fpn.backbone",
    "cp.arm16.conv.conv": "fpn.arm16.conv_block.conv",
    "cp.arm16.conv.bn": "fpn.arm16.conv_block.norm",
    "cp.arm16.conv_atten": "fpn.arm16.attention.0",
    "cp.arm16.bn_atten": "fpn.arm16.attention.1",
    "cp.arm32.conv.conv": "fpn.arm32.conv_block.conv",
    "cp.arm32.conv.bn": "fpn.arm32.conv_block.norm",
    "cp.arm32.conv_atten": "fpn.arm32.attention.0",
    "cp.arm32.bn_atten": "fpn.arm32.attention.1",
    "cp.conv_head16.conv": "fpn.conv_head16.conv",
    "cp.conv_head16.bn": "fpn.conv_head16.norm",
    "cp.conv_head32.conv": "fpn.conv_head32.conv",
    "cp.conv_head32.bn": "fpn.conv_head32.norm",
    "cp.conv_avg.conv": "fpn.conv_avg.conv",
    "cp.conv_avg.bn": "fpn.conv_avg.norm",
    "ffm.convblk.conv": "ffm.conv_block.conv",
    "ffm.convblk.bn": "ffm.conv_block.norm",
    "ffm.conv1": "ffm.conv1",
    "ffm.conv2": "ffm.conv2",
    "conv_out.conv.conv": "conv_out.conv_block.conv",
    "conv_out.conv.bn": "conv_out.conv_block.norm",
    "conv_out.conv_out": "conv_out.conv",
    "conv_out16.conv.conv": "conv_out16.conv_block.conv",
    "conv_out16.conv.bn": "conv_out16.conv_block.norm",
    "conv_out16.conv_out": "conv_out16.conv",
    "conv_out32.conv.conv": "conv_out32.conv_block.conv",
    "conv_out32.conv.bn": "conv_out32.conv_block.norm",
    "conv_out32.conv_out": "conv_out32.conv",
}


def bisenet_state(seed: int = 0) -> State:
    """Weights of a BiSeNet in the layout of zllrunning, batch statistics and all drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in BiSeNet().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) == 4:
            state[name] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        elif name.endswith("running_mean") or name.endswith("bias"):
            state[name] = 0.2 * torch.randn(shape, generator=generator)
        else:
            state[name] = 0.5 + torch.rand(shape, generator=generator)
    return state


def in_yakhyo_layout(state: State) -> State:
    renamed = {}
    for name, value in state.items():
        (prefix,) = (prefix for prefix in YAKHYO_NAMES if name.startswith(prefix + "."))
        renamed[YAKHYO_NAMES[prefix] + name.removeprefix(prefix)] = value
    return renamed | {"fpn.backbone.fc.weight": torch.zeros(1000, 512), "fpn.backbone.fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def state() -> State:
    return bisenet_state()


@pytest.fixture(scope="module")
def weights(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("bisenet") / "weights.safetensors"
    save_file(state, path)
    return path


def images(batch: int = 2, height: int = 40, width: int = 56, seed: int = 1) -> Tensor:
    return 2 * torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


def bisenet_logits(state: State, images: Tensor) -> Tensor:
    """The architecture spelled out on the state dict, operation by operation."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def conv_norm_relu(x: Tensor, name: str) -> Tensor:
        return norm(conv(x, f"{name}.conv"), f"{name}.bn").relu()

    def residual_block(x: Tensor, name: str, stride: int) -> Tensor:
        inner = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        inner = norm(conv(inner, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (inner + x).relu()

    def refine(x: Tensor, name: str) -> Tensor:
        x = conv_norm_relu(x, f"{name}.conv")
        return x * norm(conv(mean(x), f"{name}.conv_atten"), f"{name}.bn_atten").sigmoid()

    def mean(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1)

    def enlarge(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="nearest")

    x = norm(conv(images, "cp.resnet.conv1", 2), "cp.resnet.bn1").relu()
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    stages = []
    for layer in (1, 2, 3, 4):
        x = residual_block(x, f"cp.resnet.layer{layer}.0", stride=1 if layer == 1 else 2)
        x = residual_block(x, f"cp.resnet.layer{layer}.1", stride=1)
        stages.append(x)
    _, at8, at16, at32 = stages
    x = refine(at32, "cp.arm32") + enlarge(conv_norm_relu(mean(at32), "cp.conv_avg"), at32)
    x = conv_norm_relu(enlarge(x, at16), "cp.conv_head32")
    x = conv_norm_relu(enlarge(refine(at16, "cp.arm16") + x, at8), "cp.conv_head16")
    fused = conv_norm_relu(torch.cat([at8, x], dim=1), "ffm.convblk")
    attention = conv(conv(mean(fused), "ffm.conv1").relu(), "ffm.conv2").sigmoid()
    fused = fused * attention + fused
    logits = conv(conv_norm_relu(fused, "conv_out.conv"), "conv_out.conv_out")
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=True)


def test_bisenet_has_the_published_size_and_keys() -> None:
    with torch.device("meta"):
        network = BiSeNet()
    keys = list(network.state_dict())
    assert len(keys) == 191
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == 13.30
    assert {".".join(key.split(".")[:2]) for key in keys} == {
        *("cp.resnet", "cp.arm16", "cp.arm32", "cp.conv_head16", "cp.conv_head32", "cp.conv_avg"),
        *("ffm.convblk", "ffm.conv1", "ffm.conv2"),
        *(f"{head}.{part}" for head in ("conv_out", "conv_out16", "conv_out32") for part in ("conv", "conv_out")),
    }


@pytest.mark.parametrize("size", [(64, 64), (72, 100)])  # the second is no multiple of 32
def test_bisenet_is_its_definition(state: State, weights: Path, size: tuple[int, int]) -> None:
    batch = images(2, *size)
    logits = load_bisenet(weights).network(batch)
    expected = bisenet_logits(state, batch)
    assert logits.shape == (2, 19, *size)
    assert expected.std() > 0.1  # these weights keep the signal alive all the way
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("layout", ["zllrunning", "yakhyo"])
def test_both_layouts_and_formats_give_the_same_network(
    state: State, weights: Path, tmp_path: Path, layout: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    stored = in_yakhyo_layout(state) if layout == "yakhyo" else dict(state)
    assert len(stored) == (193 if layout == "yakhyo" else 191)
    if suffix == ".pth":
        torch.save(stored, path, _use_new_zipfile_serialization=False)  # the published file dates from 2019
    else:
        save_file(stored, path)
    parser, expected = load_bisenet(path, size=64), load_bisenet(weights, size=64)
    assert parser.label_names == BISENET_CLASSES
    for name, value in expected.network.state_dict().items():
        assert torch.equal(parser.network.state_dict()[name], value), name
    assert torch.equal(parser.network(images(1, 64, 64)), expected.network(images(1, 64, 64)))


def test_counts_of_training_steps_may_be_absent_and_halves_become_floats(state: State, tmp_path: Path) -> None:
    stored = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    save_file(stored, tmp_path / "converted.safetensors")
    network = load_bisenet(tmp_path / "converted.safetensors", size=64).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    torch.testing.assert_close(network.get_parameter("ffm.conv1.weight"), stored["ffm.conv1.weight"].float())


def test_loading_does_not_touch_the_global_generator(weights: Path) -> None:
    before = torch.get_rng_state()
    load_bisenet(weights, size=64)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_is_parsed_the_same_whatever_is_beside_it(weights: Path) -> None:
    parser = load_bisenet(weights, size=64)
    assert not parser.network.training
    batch = images(3)
    labels = parser.parse(batch)
    assert labels.shape == (3, 40, 56) and labels.dtype == torch.int64
    assert len(labels.unique()) > 3
    assert torch.equal(parser.parse(batch), labels)
    assert torch.equal(parser.parse(batch, batch_size=1), labels)
    assert parser.parse(batch[:0]).shape == (0, 40, 56)
    regions = Regions.from_labels(labels, face_concepts(parser.label_names), missing="allow", dilation=1)
    assert regions.names == (*CELEBAMASK_LABELS[1:], "rest")


class RunsCode:
    """A pickle that would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(state: State, tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "it_ran"
    torch.save(dict(state) | {"extra": RunsCode(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="no pickle of tensors and of nothing but tensors"):
        load_bisenet(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # it would have run
    assert trace.exists()


def test_an_archive_that_grows_when_unpacked_is_refused_before_it_does(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "whole.pth")
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            content = bytes(64 << 20) if name.endswith("data/0") else whole.read(name)
            packed.writestr(name, content)
    assert bomb.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.pth is no readable state dict: it unpacks to 67,\d+,\d+ bytes"):
        load_bisenet(bomb)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    with pytest.raises(ValueError, match="another architecture"):
        load_bisenet(tmp_path / "whole.pth")  # read, since it does not grow


def test_other_architectures_are_refused_with_the_first_difference(state: State, tmp_path: Path) -> None:
    def refusal(stored: State) -> str:
        save_file(stored, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=r"other\.safetensors holds another architecture") as caught:
            load_bisenet(tmp_path / "other.safetensors")
        return str(caught.value)

    fewer = dict(state) | {"conv_out.conv_out.weight": torch.zeros(11, 256, 1, 1)}
    assert "conv_out.conv_out.weight is (11, 256, 1, 1) there and (19, 256, 1, 1) in the model" in refusal(fewer)
    without = {name: value for name, value in state.items() if not name.startswith("cp.arm32")}
    assert "cp.arm32.bn_atten.bias is absent there" in refusal(without)
    # A ResNet-34 has a third block in its first layer.
    deeper = in_yakhyo_layout(dict(state)) | {"fpn.backbone.layer1.2.bn1.bias": torch.zeros(64)}
    assert "cp.resnet.layer1.2.bn1.bias is (64,) there and absent in the model" in refusal(deeper)
    # The classifier that one layout holds has no place in the other.
    assert "cp.resnet.fc.bias is (1000,) there" in refusal(dict(state) | {"cp.resnet.fc.bias": torch.zeros(1000)})


def test_files_that_hold_no_state_dict_are_refused(state: State, tmp_path: Path) -> None:
    for name, content in {"list.pth": [torch.zeros(1)], "keys.pth": {1: torch.zeros(1)}}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is no state dict: it holds a"):
            load_bisenet(tmp_path / name)
    torch.save({"model": dict(state), "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="'model' is no tensor but of type dict"):
        load_bisenet(tmp_path / "checkpoint.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no model")
        with pytest.raises(ValueError, match=f"{name} is no (readable )?state dict"):
            load_bisenet(tmp_path / name)
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is missing"):
            load_bisenet(tmp_path / name)


COLUMNS = tuple(f"column {number}" for number in range(32))


class Recorder(nn.Module):
    """Keeps what it is given, and finds a class of its own in every column of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        batch, _, height, width = images.shape
        return self.scale * torch.eye(width)[:, None].expand(batch, width, height, width)


@pytest.mark.parametrize("size", [(100, 130), (32, 32), (20, 200)])
def test_networks_see_what_pillow_and_imagenet_would_give_them(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    network = Recorder()
    parser = NetworkParser(network, COLUMNS, size=32)
    labels = parser.parse(torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    resized = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)).astype(float) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Pillow rounds to bytes after each of its two passes: a byte, at most, divided by the smallest deviation.
    difference = network.seen[0].permute(1, 2, 0).double().numpy() - expected
    assert np.abs(difference).max() < 1 / 255 / 0.224
    columns = Image.fromarray(np.arange(32, dtype=np.uint8)[None].repeat(32, axis=0))
    nearest = np.asarray(columns.resize((size[1], size[0]), Image.Resampling.NEAREST))
    # Where a centre lies on the border of two pixels, Pillow's answer is that of its rounding errors.
    tie = (2 * np.arange(size[1]) + 1) * 32 % (2 * size[1]) == 0
    assert tie.mean() < 0.05
    assert np.array_equal(labels[0, :, ~tie].numpy(), nearest[:, ~tie])


def test_grey_images_are_seen_as_rgb_and_excess_is_cut_off() -> None:
    network = Recorder()
    parser = NetworkParser(network, COLUMNS, size=32)
    parser.parse(torch.full((1, 1, 8, 8), 3.0))
    assert network.seen.shape == (1, 3, 32, 32)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(network.seen.mean(dim=(0, 2, 3)), white)


def test_images_that_are_no_images_or_too_large_are_refused() -> None:
    network = Recorder()
    parser = NetworkParser(network, COLUMNS, size=32, max_pixels=100)
    parser.parse(torch.zeros(1, 3, 10, 10))
    network.seen = torch.empty(0)
    for bad in (torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images must be float"):
            parser.parse(bad)
    # Expanded, so that they take no memory: it is the size that is refused.
    for height, width in ((2, 60), (60, 2), (10**6, 10**6), (0, 8)):
        with pytest.raises(ValueError, match="max_pixels=100"):
            parser.parse(torch.zeros(1, 1, 1, 1).expand(1, 3, height, width))
    assert network.seen.numel() == 0
    with pytest.raises(ValueError, match="size must be at least 32"):
        NetworkParser(network, COLUMNS, size=16)


def test_label_maps_are_written_for_open_folder(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(3)
    for name, size in {"b.png": (24, 40), "a.jpg": (24, 40)}.items():
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    parser = MergedParser(load_bisenet(weights, size=64))
    seen: list[tuple[int, int]] = []
    write_label_maps(
        tmp_path / "images", parser, tmp_path / "labels", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    folder = open_folder(tmp_path / "images", tmp_path / "labels")
    assert folder.label_names == CELEBAMASK_LABELS
    pixels, labels = folder.rows([0, 1])
    assert labels.shape == (2, 24, 40)
    assert np.array_equal(parser.parse(torch.tensor(pixels).float() / 127.5 - 1).numpy(), labels)
    classes = parser.parser.parse(torch.tensor(pixels).float() / 127.5 - 1)
    for concept, values in face_concepts(BISENET_CLASSES).items():
        assert np.array_equal(labels == CELEBAMASK_LABELS.index(concept), np.isin(classes.numpy(), values)), concept
    with pytest.raises(ValueError, match="holds label maps already"):
        write_label_maps(tmp_path / "images", parser, tmp_path / "labels")
    with pytest.raises(ValueError, match="more than max_pixels=100"):
        write_label_maps(tmp_path / "images", parser, tmp_path / "others", max_pixels=100)
    assert not (tmp_path / "others").exists()  # said by the headers, before anything is parsed
    (tmp_path / "images" / "a.webp").write_bytes((tmp_path / "images" / "b.png").read_bytes())
    with pytest.raises(ValueError, match="same stem"):
        write_label_maps(tmp_path / "images", parser, tmp_path / "others")
    (tmp_path / "others").mkdir()
    with pytest.raises(ValueError, match="holds no png"):
        write_label_maps(tmp_path / "others", parser, tmp_path / "more")


def test_parsers_are_opened_by_name(weights: Path) -> None:
    assert open_parser(f"bisenet:{weights}").label_names == BISENET_CLASSES
    assert "nose" in open_parser("small").label_names
    for spec in ("bisenet", "bisenet:", "small:er", "unet:file"):
        with pytest.raises(ValueError, match="parser must be small, bisenet:FILE or segformer:FOLDER"):
            open_parser(spec)


def test_merging_refuses_a_parser_of_something_else() -> None:
    with pytest.raises(ValueError, match="unknown class 'column 0'"):
        MergedParser(NetworkParser(Recorder(), COLUMNS, size=32))


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small SegFormer of random weights with the classes of ``jonathandinu/face-parsing``."""
    transformers = pytest.importorskip("transformers")
    folder: Path = tmp_path_factory.mktemp("segformer")
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        decoder_hidden_size=16,
        id2label=dict(enumerate(SEGFORMER_CLASSES)),
        label2id={name: label for label, name in enumerate(SEGFORMER_CLASSES)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = transformers.SegformerForSemanticSegmentation(config)
        nn.init.normal_(model.decode_head.classifier.weight)
    model.save_pretrained(folder)
    return folder


def copy_of(folder: Path, target: Path, config: dict[str, Any] | None = None, state: State | None = None) -> Path:
    """A copy of a model's folder with entries of its configuration, or its weights, exchanged."""
    target.mkdir()
    settings = json.loads((folder / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(settings))
    save_file(state or load_file(folder / "model.safetensors"), target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_segformer_is_what_transformers_makes_of_the_folder(segformer: Path) -> None:
    transformers = pytest.importorskip("transformers")
    parser = load_segformer(segformer, size=64)
    assert parser.label_names == SEGFORMER_CLASSES
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    pixels = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    standard = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits = model(torch.tensor(standard).permute(2, 0, 1)[None].float()).logits
    assert logits.shape == (1, 19, 16, 16)
    expected = F.interpolate(logits, (64, 64), mode="bilinear").argmax(dim=1)
    labels = parser.parse(torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert len(labels.unique()) > 3
    assert (labels == expected).float().mean() > 0.999  # rounding may tip a tie
    assert torch.equal(parser.parse(images(3)), parser.parse(images(3), batch_size=1))


def test_classes_of_a_segformer_go_by_name(segformer: Path, tmp_path: Path) -> None:
    order = torch.randperm(19, generator=torch.Generator().manual_seed(5)).tolist()
    state = load_file(segformer / "model.safetensors")
    for name in ("decode_head.classifier.weight", "decode_head.classifier.bias"):
        state[name] = state[name][order].contiguous()
    names = {str(label): SEGFORMER_CLASSES[former] for label, former in enumerate(order)}
    label2id = {name: int(label) for label, name in names.items()}
    permuted = copy_of(segformer, tmp_path / "permuted", {"id2label": names, "label2id": label2id}, state)
    parsers = load_segformer(segformer, size=64), load_segformer(permuted, size=64)
    assert parsers[0].label_names != parsers[1].label_names
    first, second = (
        Regions.from_labels(parser.parse(images()), face_concepts(parser.label_names), missing="allow", dilation=1)
        for parser in parsers
    )
    assert first.names == second.names and torch.equal(first.masks, second.masks)
    assert torch.equal(*(MergedParser(parser).parse(images()) for parser in parsers))


def test_segformers_of_something_else_are_refused(segformer: Path, tmp_path: Path) -> None:
    walls = {str(label): f"wall {label}" for label in range(19)}
    with pytest.raises(ValueError, match="unknown class 'wall 0'"):
        load_segformer(copy_of(segformer, tmp_path / "walls", {"id2label": walls}))
    gap = {str(label + (label > 4)): name for label, name in enumerate(SEGFORMER_CLASSES)}
    with pytest.raises(ValueError, match="id2label names the labels"):
        load_segformer(copy_of(segformer, tmp_path / "gap", {"id2label": gap}))
    state = load_file(segformer / "model.safetensors")
    lacking = {name: value for name, value in state.items() if name != "decode_head.classifier.weight"}
    with pytest.raises(ValueError, match=r"another architecture: missing_keys decode_head\.classifier\.weight"):
        load_segformer(copy_of(segformer, tmp_path / "lacking", state=lacking))
    more = state | {"auxiliary.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"another architecture: unexpected_keys auxiliary\.weight"):
        load_segformer(copy_of(segformer, tmp_path / "more", state=more))
    with pytest.raises(ValueError, match="no readable SegFormer"):
        load_segformer(copy_of(segformer, tmp_path / "wide", {"decoder_hidden_size": 24}))


def test_folders_without_a_segformer_are_refused(segformer: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no nvidia.*config\.json"):  # a name on the hub is no folder
        load_segformer("nvidia/mit-b0")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"there is no .*model\.safetensors"):
        load_segformer(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")  # pickles are not looked at
    with pytest.raises(ValueError, match=r"there is no .*model\.safetensors"):
        load_segformer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((segformer / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no readable SegFormer"):
        load_segformer(tmp_path)


def test_segformer_asks_for_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers is needed for SegFormer face parsing: .*shapkit\[segformer\]"):
        load_segformer(tmp_path)
