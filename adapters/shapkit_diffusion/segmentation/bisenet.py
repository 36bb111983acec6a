"""BiSeNet on a ResNet-18: the face parser with published weights for the 19 classes of CelebAMask-HQ.

Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", ECCV 2018, in the variant of
zllrunning/face-parsing.PyTorch, which takes the ResNet's features at 1/8 for the spatial path. Nothing is downloaded:
the weights are a file that the user has.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit_diffusion.data.folders import MAX_PIXELS
from shapkit_diffusion.denoisers.checkpoints import check_same_architecture, read_tensors, with_counts
from shapkit_diffusion.segmentation.classes import BISENET_CLASSES
from shapkit_diffusion.segmentation.parsers import NetworkParser

# How the keys of yakhyo/face-parsing become those of zllrunning/face-parsing.PyTorch, one rule after the other.
_RENAMED = (
    (r"^fpn\.backbone\.", "cp.resnet."),
    (r"^fpn\.", "cp."),
    (r"^(conv_out(?:16|32)?)\.conv\.", r"\1.conv_out."),
    (r"^ffm\.conv_block\.", "ffm.convblk."),
    (r"\.conv_block\.", ".conv."),
    (r"\.norm\.", ".bn."),
    (r"\.attention\.0\.", ".conv_atten."),
    (r"\.attention\.1\.", ".bn_atten."),
)
# The ResNet's classifier of ImageNet is saved in that layout, though no pixel is classified by it.
_UNUSED = re.compile(r"cp\.resnet\.fc\.(weight|bias)")


class BiSeNet(nn.Module):
    """Class logits (batch, 19, height, width) for normalised images (batch, 3, height, width).

    The modules bear the names that they have in the published state dict of zllrunning/face-parsing.PyTorch.

    >>> BiSeNet().eval()(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 19, 64, 96])
    """

    def __init__(self) -> None:
        super().__init__()
        classes = len(BISENET_CLASSES)
        self.cp = _ContextPath()
        self.ffm = _FeatureFusion()
        self.conv_out = _Output(256, 256, classes)
        # Deep supervision in training; here for the sake of complete state dicts.
        self.conv_out16 = _Output(128, 64, classes)
        self.conv_out32 = _Output(128, 64, classes)

    def forward(self, images: Tensor) -> Tensor:
        spatial, context = self.cp(images)
        logits = self.conv_out(self.ffm(spatial, context))
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=True)


def load_bisenet(path: str | Path, *, size: int = 512, max_pixels: int = MAX_PIXELS) -> NetworkParser:
    """The face parser whose weights a file holds, with ``BISENET_CLASSES`` for its label names.

    Args:
        path: a state dict, as ``.safetensors`` or else as torch saves it (``.pth``, ``.pt``), in the key layout of
            zllrunning/face-parsing.PyTorch or of yakhyo/face-parsing (ResNet-18). A pickle may hold tensors and
            nothing else: code in it is refused, not run.
        size: side of the square, in pixels, to which images are resized; the published weights were trained for 512.
        max_pixels: the largest image that is parsed.

    Raises:
        ValueError: if the file cannot be read, holds anything but tensors, or those of another architecture, which
            is reported with the first key that differs.
    """
    with torch.device("meta"):
        network = BiSeNet()
    state = with_counts(_renamed(read_tensors(path)), network)
    check_same_architecture(network, state, path)
    network.to_empty(device="cpu").load_state_dict(state)
    return NetworkParser(network.eval().requires_grad_(False), BISENET_CLASSES, size, max_pixels)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the keys of zllrunning/face-parsing.PyTorch."""
    if not any(name.startswith("fpn.") for name in state):
        return state
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if not _UNUSED.fullmatch(name):
            renamed[name] = value
    return renamed


class _ConvBNReLU(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.bn(self.conv(x))
        return F.relu(features)


class _Output(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(inputs, width)
        self.conv_out = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_out(self.conv(x))
        return logits


class _AttentionRefinement(nn.Module):
    """Channels weighted by what the whole image says of them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        attention: Tensor = self.bn_atten(self.conv_atten(_image_mean(features)))
        return features * attention.sigmoid()


class _FeatureFusion(nn.Module):
    """Spatial and contextual features, 128 channels each, joined at 1/8 of the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvBNReLU(256, 256, kernel=1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        features: Tensor = self.convblk(torch.cat([spatial, context], dim=1))
        attention: Tensor = self.conv2(F.relu(self.conv1(_image_mean(features))))
        return features + features * attention.sigmoid()


class _ContextPath(nn.Module):
    """Spatial features of the ResNet and context features refined on the way up, both (batch, 128, h / 8, w / 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16 = _AttentionRefinement(256, 128)
        self.arm32 = _AttentionRefinement(512, 128)
        self.conv_head16 = _ConvBNReLU(128, 128)
        self.conv_head32 = _ConvBNReLU(128, 128)
        self.conv_avg = _ConvBNReLU(512, 128, kernel=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at8, at16, at32 = self.resnet(images)
        context = self.arm32(at32) + self.conv_avg(_image_mean(at32))
        context = self.conv_head32(F.interpolate(context, at16.shape[2:]))
        context = self.arm16(at16) + context
        return at8, self.conv_head16(F.interpolate(context, at8.shape[2:]))


class _ResNet18(nn.Module):
    """He et al., "Deep Residual Learning for Image Recognition", CVPR 2016: features at 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_BasicBlock(64, 64), _BasicBlock(64, 64))
        self.layer2 = nn.Sequential(_BasicBlock(64, 128, stride=2), _BasicBlock(128, 128))
        self.layer3 = nn.Sequential(_BasicBlock(128, 256, stride=2), _BasicBlock(256, 256))
        self.layer4 = nn.Sequential(_BasicBlock(256, 512, stride=2), _BasicBlock(512, 512))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(images)))
        at8 = self.layer2(self.layer1(F.max_pool2d(x, 3, stride=2, padding=1)))
        at16 = self.layer3(at8)
        return at8, at16, self.layer4(at16)


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.downsample(x))


def _image_mean(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3), keepdim=True)
