"""The Inception network in whose features FIDs are published, from a weights file on this machine.

It is the network of Szegedy et al. (2016) as TensorFlow's ``inception-2015-12-05`` has it, in the key layout of
pytorch-fid's ``pt_inception-2015-12-05-6726825d.pth``. It differs from torchvision's: average pools leave padding out
of the mean, and the last block pools by the maximum. Nothing is ever downloaded, and torchvision is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit._files import user_path
from shapkit_diffusion.denoisers.checkpoints import check_same_architecture, read_tensors, with_counts
from shapkit_diffusion.evaluation.realism import WHOLE, Box

SIZE = 299


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _across(inputs: int, outputs: int) -> _Conv:
    return _Conv(inputs, outputs, (1, 7), padding=(0, 3))


def _down(inputs: int, outputs: int) -> _Conv:
    return _Conv(inputs, outputs, (7, 1), padding=(3, 0))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _chain(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class _A(nn.Module):
    """35 x 35: Mixed_5b, 5c and 5d."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 64, 1)
        self.branch5x5_1 = _Conv(inputs, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = _chain(x, (self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], dim=1)


class _B(nn.Module):
    """35 x 35 to 17 x 17: Mixed_6a."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = _chain(x, (self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], dim=1)


class _C(nn.Module):
    """17 x 17: Mixed_6b to 6e."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 192, 1)
        self.branch7x7_1 = _Conv(inputs, width, 1)
        self.branch7x7_2 = _across(width, width)
        self.branch7x7_3 = _down(width, 192)
        self.branch7x7dbl_1 = _Conv(inputs, width, 1)
        self.branch7x7dbl_2 = _down(width, width)
        self.branch7x7dbl_3 = _across(width, width)
        self.branch7x7dbl_4 = _down(width, width)
        self.branch7x7dbl_5 = _across(width, 192)
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = _chain(x, (self.branch7x7_1, self.branch7x7_2, self.branch7x7_3))
        twice = _chain(
            x,
            (self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5),
        )
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_average(x))], dim=1)


class _D(nn.Module):
    """17 x 17 to 8 x 8: Mixed_7a."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(inputs, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(inputs, 192, 1)
        self.branch7x7x3_2 = _across(192, 192)
        self.branch7x7x3_3 = _down(192, 192)
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = _chain(x, (self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class _E(nn.Module):
    """8 x 8: Mixed_7b, and 7c, which pools by the maximum."""

    def __init__(self, inputs: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = _Conv(inputs, 320, 1)
        self.branch3x3_1 = _Conv(inputs, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pool)]
        return torch.cat(parts, dim=1)


class FidInception(nn.Module):
    """Inception v3 of the published FIDs: 2,048 features of images (n, 3, height, width) in [-1, 1], any size.

    Images are resized to 299 x 299 bilinearly, ``align_corners=False`` and no antialiasing, as pytorch-fid does it.
    TensorFlow's own resize places pixels half a pixel off, as torch-fidelity and torchmetrics imitate; figures made
    either way differ a little, most for small images. ``fc`` is not used; it is there since the file has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b, self.Mixed_6c = _C(768, 128), _C(768, 160)
        self.Mixed_6d, self.Mixed_6e = _C(768, 160), _C(768, 192)
        self.Mixed_7a = _D(768)
        self.Mixed_7b, self.Mixed_7c = _E(1280, maximum=False), _E(2048, maximum=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (n, 2048) of images (n, 3, height, width) in [-1, 1]."""
        x = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = F.max_pool2d(_chain(x, (self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)), 3, stride=2)
        x = F.max_pool2d(_chain(x, (self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)), 3, stride=2)
        x = _chain(x, (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a))
        x = _chain(x, (self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e))
        return _chain(x, (self.Mixed_7a, self.Mixed_7b, self.Mixed_7c)).mean(dim=(2, 3))

    def features(self, images: Tensor, box: Box = WHOLE, batch_size: int = 16) -> Tensor:
        """Features (n, 2048) of a box of images, resized as whole images are; one grey channel stands for three.

        Raises:
            ValueError: for images of other than one or three channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be (n, 1 or 3, height, width), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        top, left = int(box.top * height), int(box.left * width)
        rows = slice(top, max(top + 1, round(box.bottom * height)))
        columns = slice(left, max(left + 1, round(box.right * width)))
        crop = images[:, :, rows, columns].expand(-1, 3, -1, -1)
        with torch.no_grad():
            return torch.cat([self(part) for part in crop.split(batch_size)])


def load_inception(path: str | Path) -> FidInception:
    """The network with weights of a local file, ``.safetensors`` or a ``.pth`` state dict, in evaluation mode.

    The file to have is pytorch-fid's ``pt_inception-2015-12-05-6726825d.pth``. A pickle is read with
    ``weights_only``, so that it cannot run code.

    Raises:
        ValueError: if the file is not there, is no state dict, or has other keys or shapes than the network.
    """
    path = user_path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}: Inception weights are never downloaded, put them there first")
    with torch.device("meta"):
        network = FidInception()
    state = with_counts(read_tensors(path), network)
    check_same_architecture(network, state, path)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
