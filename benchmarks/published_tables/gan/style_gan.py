"""A small style-based GAN: generator and discriminator of StyleGAN2 (Karras et al., CVPR 2020), for small images.

It leaves out what would stand in the way of the edits that are built on it: there are no noise inputs, so that an image
is a function of its latent, and no skip connections to the image, so that the feature maps of any one layer hold all
that the layers before it have to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit._files import whole_file
from shapkit_diffusion.denoisers.checkpoints import check_same_architecture, read_tensors

Network = TypeVar("Network", bound=nn.Module)

SLOPE = 0.2
GAIN = math.sqrt(2)
"""What a leaky ReLU's output is multiplied by, so that it keeps the variance of its input."""


@dataclass(frozen=True)
class GanArchitecture:
    """Sizes of a generator and its discriminator.

    Args:
        widths: channels of the generator's feature maps at 4 x 4 pixels, 8 x 8, and so on; the last are the image's.
        discriminator_widths: the same of the discriminator.
        latent: length of z and of w.
        mapping_layers: layers of the mapping network.

    Raises:
        ValueError: if there are no widths, not as many of both, or a number is below 1.

    >>> GanArchitecture().size, GanArchitecture().layers
    (32, 8)
    """

    widths: tuple[int, ...] = (96, 64, 32, 16)
    discriminator_widths: tuple[int, ...] = (96, 64, 32, 16)
    latent: int = 64
    mapping_layers: int = 4

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.discriminator_widths):
            raise ValueError(
                "widths and discriminator_widths must name one width for each resolution, got "
                f"{self.widths} and {self.discriminator_widths}"
            )
        if min(*self.widths, *self.discriminator_widths, self.latent, self.mapping_layers) < 1:
            raise ValueError(f"widths, latent and mapping_layers must be 1 or more, got {asdict(self)}")

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return 4 << (len(self.widths) - 1)

    @property
    def layers(self) -> int:
        """Modulated convolutions, the last of which makes colours: each has a style of its own."""
        return 2 * len(self.widths)


class EqualLinear(nn.Module):
    """A linear layer with an equalised learning rate: weights of variance one, scaled when used.

    Args:
        rate: multiplies the learning rate.
        bias: what the bias begins with.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualConv(nn.Module):
    """A convolution with an equalised learning rate, padded: a stride of 1 keeps the size, one of 2 halves it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.stride, self.padding = 1 / math.sqrt(inputs * kernel**2), stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style (n, inputs), and its outputs to unit variance.

    The weights of every sample differ, w' = s_i w_oik (eq. 1 of the paper), and are demodulated by
    1 / sqrt(sum_ik w'^2) (eq. 3). Scaling the input and the output instead of the weights gives the same numbers by one
    convolution for the batch.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale, self.padding, self.demodulate = 1 / math.sqrt(inputs * kernel**2), kernel // 2, demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.weight * self.scale
        y = F.conv2d(x * style[:, :, None, None], weight, padding=self.padding)
        if not self.demodulate:
            return y
        power = F.linear(style.square(), weight.square().sum(dim=(2, 3)))
        return y * (power + 1e-8).rsqrt()[:, :, None, None]


class StyleGenerator(nn.Module):
    """Images (n, 3, size, size) of latents z (n, latent).

    The way there can be entered and left at every stage: ``mapping`` makes w of z, ``styles`` the scales of every
    layer's input channels of w, ``features`` the feature maps after any layer, and ``finish`` the image of those.

    Args:
        architecture: the sizes.
        rectified_layer: a layer whose activation is a ReLU, not a leaky one, so that its feature maps are zero where a
            filter is not active; ``None`` for no such layer.

    >>> generator = StyleGenerator(GanArchitecture((8, 4), (8, 4), latent=6))
    >>> z = torch.zeros(2, 6)
    >>> generator(z).shape, [tuple(style.shape) for style in generator.styles(generator.mapping(z))]
    (torch.Size([2, 3, 8, 8]), [(2, 8), (2, 8), (2, 4), (2, 4)])
    >>> generator.features(generator.styles(generator.mapping(z)), layer=1).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, architecture: GanArchitecture, rectified_layer: int | None = None) -> None:
        super().__init__()
        if rectified_layer is not None and not 0 <= rectified_layer < architecture.layers - 1:
            raise ValueError(f"rectified_layer must be from 0 to {architecture.layers - 2}, got {rectified_layer}")
        self.architecture, self.rectified_layer = architecture, rectified_layer
        latent, widths = architecture.latent, architecture.widths
        self.to_w = nn.ModuleList(EqualLinear(latent, latent, rate=0.01) for _ in range(architecture.mapping_layers))
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        # Inputs and outputs of every layer; a layer with an odd number doubles the resolution before it convolves.
        self.shapes = [(widths[0], widths[0])]
        for before, width in pairwise(widths):
            self.shapes += [(before, width), (width, width)]
        self.convolutions = nn.ModuleList(ModulatedConv(*shape, 3) for shape in self.shapes)
        self.biases = nn.ParameterList(torch.zeros(1, outputs, 1, 1) for _, outputs in self.shapes)
        self.to_colour = ModulatedConv(widths[-1], 3, 1, demodulate=False)
        self.colour_bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.shapes.append((widths[-1], 3))
        self.affine = nn.ModuleList(EqualLinear(latent, inputs, bias=1.0) for inputs, _ in self.shapes)

    def mapping(self, z: Tensor) -> Tensor:
        """w (n, latent) of z (n, latent), only the direction of which counts."""
        w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.to_w:
            w = F.leaky_relu(layer(w), SLOPE) * GAIN
        return w

    def styles(self, w: Tensor) -> list[Tensor]:
        """The style (n, inputs) of each layer; w is (n, latent), or (n, layers, latent) where layers have their own."""
        own = w.expand(len(self.affine), *w.shape) if w.ndim == 2 else w.unbind(1)
        return [affine(each) for affine, each in zip(self.affine, own, strict=True)]

    def inputs(self, styles: Sequence[Tensor]) -> list[Tensor]:
        """What each layer convolves (n, inputs, h, w), before its style scales the channels."""
        x = self._constant(styles)
        seen = []
        for layer in range(len(self.convolutions)):
            seen.append(_resized(x, layer))
            x = self._through(x, styles, range(layer, layer + 1))
        return [*seen, x]

    def features(self, styles: Sequence[Tensor], layer: int) -> Tensor:
        """Feature maps (n, outputs, h, w) after layer number ``layer``, from 0 to layers - 2."""
        return self._through(self._constant(styles), styles, range(layer + 1))

    def finish(self, features: Tensor, styles: Sequence[Tensor], layer: int) -> Tensor:
        """The image of the feature maps after layer number ``layer``."""
        x = self._through(features, styles, range(layer + 1, len(self.convolutions)))
        colours: Tensor = self.to_colour(x, styles[-1]) + self.colour_bias
        return colours

    def synthesis(self, styles: Sequence[Tensor]) -> Tensor:
        """The image of all layers' styles."""
        return self.finish(self.features(styles, 0), styles, 0)

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.styles(self.mapping(z)))

    def _constant(self, styles: Sequence[Tensor]) -> Tensor:
        return self.constant.expand(len(styles[0]), -1, -1, -1)

    def _through(self, x: Tensor, styles: Sequence[Tensor], layers: range) -> Tensor:
        for layer in layers:
            x = self.convolutions[layer](_resized(x, layer), styles[layer]) + self.biases[layer]
            x = F.leaky_relu(x, 0.0 if layer == self.rectified_layer else SLOPE) * GAIN
        return x


def _resized(x: Tensor, layer: int) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) if layer % 2 else x


class Discriminator(nn.Module):
    """Logits (n,) of images (n, 3, size, size): residual blocks, and the deviation within groups of four as a feature.

    >>> Discriminator(GanArchitecture((8, 4), (8, 4)))(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2])
    """

    def __init__(self, architecture: GanArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = architecture.discriminator_widths[::-1]
        self.of_colour = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(_Halving(*pair) for pair in pairwise(widths))
        self.last = EqualConv(widths[-1] + 1, widths[-1], 3)
        self.flat = EqualLinear(widths[-1] * 16, widths[-1])
        self.out = EqualLinear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.leaky_relu(self.of_colour(images), SLOPE) * GAIN
        for block in self.blocks:
            x = block(x)
        x = F.leaky_relu(self.last(torch.cat([x, group_deviation(x)], dim=1)), SLOPE) * GAIN
        x = F.leaky_relu(self.flat(x.flatten(1)), SLOPE) * GAIN
        logits: Tensor = self.out(x)[:, 0]
        return logits


class _Halving(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = EqualConv(inputs, inputs, 3), EqualConv(inputs, outputs, 3, stride=2)
        self.past = EqualConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), SLOPE) * GAIN
        y = F.leaky_relu(self.second(y), SLOPE) * GAIN
        past: Tensor = self.past(F.avg_pool2d(x, 2))
        return (y + past) / GAIN


def group_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Minibatch standard deviation (Karras et al. 2018): one number a group, painted over (n, 1, height, width).

    A group is ``group`` of the n samples of x (n, channels, height, width), or all of them where it does not divide n.

    >>> group_deviation(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)).flatten().tolist()
    [1.0, 1.0]
    """
    count = len(x)
    group = group if count % group == 0 else count
    spread = x.reshape(group, count // group, *x.shape[1:]).var(dim=0, correction=0)
    numbers = (spread + 1e-8).sqrt().mean(dim=(1, 2, 3), keepdim=True)
    return numbers.repeat(group, 1, 1, 1).expand(-1, -1, *x.shape[2:])


def new_generator(architecture: GanArchitecture, seed: int) -> StyleGenerator:
    """A generator with the initial weights that ``seed`` names."""
    return _seeded(lambda: StyleGenerator(architecture), 2 * seed)


def new_discriminator(architecture: GanArchitecture, seed: int) -> Discriminator:
    """A discriminator with the initial weights that ``seed`` names."""
    return _seeded(lambda: Discriminator(architecture), 2 * seed + 1)


def _seeded(make: Callable[[], Network], seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def save_network(network: StyleGenerator | Discriminator, path: str | Path) -> None:
    """Write weights and sizes as safetensors, whole or not at all."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    described: dict[str, Any] = {"architecture": asdict(network.architecture)}
    if isinstance(network, StyleGenerator):
        described["rectified_layer"] = network.rectified_layer
    with whole_file(path) as partial:
        save_file(weights, partial, metadata={"network": json.dumps(described)})


def load_generator(path: str | Path) -> StyleGenerator:
    """The generator that ``save_network`` wrote, frozen.

    Raises:
        ValueError: if the file cannot be read or holds no generator.
    """
    described, weights = _read(path)
    return _filled(StyleGenerator(_architecture(described), described.get("rectified_layer")), weights, path)


def load_discriminator(path: str | Path) -> Discriminator:
    """The discriminator that ``save_network`` wrote, frozen.

    Raises:
        ValueError: if the file cannot be read or holds no discriminator.
    """
    described, weights = _read(path)
    return _filled(Discriminator(_architecture(described)), weights, path)


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    weights = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    if "network" not in metadata:
        raise ValueError(f"{path} does not say its network's sizes: it is no file that save_network wrote")
    try:
        described = json.loads(metadata["network"])
        if not isinstance(described["architecture"], dict):
            raise TypeError(f"its architecture is a {type(described['architecture']).__name__}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, its metadata do not describe a network: {error}") from error
    return described, weights


def _architecture(described: dict[str, Any]) -> GanArchitecture:
    sizes: dict[str, Any] = {}
    for name, value in described["architecture"].items():
        sizes[name] = tuple(value) if isinstance(value, list) else value
    return GanArchitecture(**sizes)


def _filled(network: Network, weights: dict[str, Tensor], path: str | Path) -> Network:
    check_same_architecture(network, weights, path)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
