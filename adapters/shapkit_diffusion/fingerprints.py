"""What a run's model and data are, in a few numbers that are kept with the run and compared when it is resumed.

Settings are kept as they are, so that a difference can be said in words; weights and pixels as a few digits of a hash.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from shapkit_diffusion.data.labelled import Images, LabelledImages
from shapkit_diffusion.data.shards import ImageShards
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser

LOOKED_AT = 64
"""Images of a data set on disk that are read for its fingerprint, spread over all; files are compared by size, too."""

_BYTES_AT_ONCE = 2**26


def described_model(denoiser: Denoiser, *, weights: bool = False) -> dict[str, Any]:
    """What of a denoiser makes two runs differ, as plain values for JSON.

    Args:
        denoiser: of which the settings count, the schedule, an autoencoder's weights, and how it is composed.
        weights: whether its own weights count as well: those of an anchor do, but not those that training changes.
    """
    described: dict[str, Any] = {
        "prediction": denoiser.prediction,
        "image_shape": list(denoiser.image_shape),
        "network": described_network(denoiser.unet),
        "schedule": {"timesteps": denoiser.n_timesteps, "digits": digits_of(denoiser.alphas_cumprod)},
        "autoencoder": None,
    }
    if denoiser.autoencoder is not None:
        network = denoiser.autoencoder.network
        described["autoencoder"] = described_network(network) | {"weights": digits_of_weights(network)}
    if denoiser.prompt_embedding is not None:
        described["prompt"] = digits_of(denoiser.prompt_embedding)
    if denoiser.class_label is not None:
        described["class_label"] = denoiser.class_label
    if isinstance(denoiser, ComposedDenoiser | RegionDenoiser):
        described["composition"] = {
            "regions": list(denoiser.regions.names),
            "masks": digits_of(denoiser.regions.masks),
            "allowed": denoiser.allowed.int().tolist(),
        }
    if isinstance(denoiser, ComposedDenoiser):
        described["composition"]["staged"] = denoiser.composition.staged
    if weights:
        described["weights"] = digits_of_weights(denoiser.unet)
    return described


def described_network(network: nn.Module) -> dict[str, Any]:
    """A network's class, how many parameters it has, and those of its settings that are not the class's defaults.

    Defaults are left out, so that a setting that a later version of diffusers adds changes no description.
    """
    defaults = inspect.signature(type(network).__init__).parameters
    described: dict[str, Any] = {
        "class": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    for name, value in sorted(getattr(network, "config", {}).items()):
        plain = _plain(value)
        if not name.startswith("_") and not (name in defaults and _plain(defaults[name].default) == plain):
            described[name] = plain
    return described


def _plain(value: Any) -> Any:
    """As JSON gives it back: a network that was loaded has lists where a new one has tuples."""
    return json.loads(json.dumps(value, default=str))


def described_data(data: Images) -> dict[str, Any]:
    """What of a data set makes two runs differ, as plain values for JSON; see `digits_of_data`."""
    return {
        "count": len(data),
        "image_shape": list(data.rows([0])[0].shape[1:]),
        "label_names": list(data.label_names),
        **digits_of_data(data, len(data)),
    }


def digits_of_data(data: Images, count: int) -> dict[str, str]:
    """Digits that tell the images, and the label maps, of the first ``count`` rows from others'.

    Every pixel counts of data in memory. Of files, the pixels of `LOOKED_AT` images and the sizes of all files do.
    """
    images, labels = hashlib.sha256(), hashlib.sha256()
    if isinstance(data, ImageShards):
        images.update(repr([path.stat().st_size for path in data.shard_paths]).encode())
    rows = np.arange(count)
    if not isinstance(data, LabelledImages):
        rows = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(int))
        for name, digest in (("image_paths", images), ("label_paths", labels)):
            paths: tuple[Path, ...] = getattr(data, name, ())
            digest.update(repr([path.stat().st_size for path in paths[:count]]).encode())
    size = max(1, data.rows([0])[0].nbytes)
    for part in np.array_split(rows, max(1, -(-len(rows) * size // _BYTES_AT_ONCE))):
        some_images, some_labels = data.rows(part.tolist())
        images.update(some_images.tobytes())
        labels.update(some_labels.tobytes())
    return {"images": images.hexdigest()[:12], "label_maps": labels.hexdigest()[:12]}


def digits_of(tensor: Tensor) -> str:
    """Digits that tell a tensor from others of its shape."""
    return _digits({"": tensor})


def digits_of_weights(network: nn.Module) -> str:
    """Digits that tell a network's weights from others."""
    return _digits(network.state_dict())


def _digits(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
