"""Training of low-rank changes (LoRA, Hu et al. 2021) in place of all weights: little memory, and the model stays near.

The layers come from ``peft``. They are added when a run starts and folded into the weights when it ends, so that what
is saved is a model like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shapkit._optional import require
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionTransformer
from shapkit_diffusion.training.sharding import blocks_of

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
"""Layers of a transformer's block that are changed: those of attention, and those after it."""


@contextmanager
def low_rank_changes(denoiser: Denoiser, rank: int, seed: int) -> Iterator[None]:
    """A context in which the denoiser's weights are frozen, and changes of a rank to its blocks' layers are trained.

    The changes are zero at first, and part of the weights afterwards, however the context ends. In transformers the
    linear layers of attention and after it are changed, in UNets those and the convolutions. What a conversion has
    added (`RegionTransformer`'s embeddings) is trained as it is. A rank of 0 changes nothing, and all weights train.

    Raises:
        ImportError: without peft.
        ValueError: if no layer is wider than the rank.
    """
    if not rank:
        yield
        return
    peft = require("peft", extra="lora", purpose="low_rank")
    network: nn.Module = denoiser.unet
    trained = [weight.requires_grad for weight in denoiser.parameters()]
    added = []
    if isinstance(network, RegionTransformer):
        added = [network.region_embedding, network.clean_embedding]
        network = network.transformer
    names = [name for name in _layers(network) if rank < _width(network.get_submodule(name))]
    if not names:
        raise ValueError(f"low_rank must be less than the width of the model's layers, got {rank}")
    # Scaled by 1: that is what the learning rate was found for, whatever the rank
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    with torch.random.fork_rng(devices=[denoiser.device] if denoiser.device.type == "cuda" else []):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, network)
    for weight in added:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        _fold(denoiser, peft.tuners.lora.LoraLayer)
        vars(network).pop("peft_config", None)  # which peft leaves on it
        for weight, before in zip(denoiser.parameters(), trained, strict=True):
            weight.requires_grad_(before)


def _fold(denoiser: Denoiser, kind: type) -> None:
    """Add the changes to the weights they belong to, and take their layers out."""
    for name, layer in list(denoiser.unet.named_modules()):
        if isinstance(layer, kind):
            changed: Any = layer
            changed.merge()
            parent, _, child = name.rpartition(".")
            setattr(denoiser.unet.get_submodule(parent), child, changed.get_base_layer())


def _layers(network: nn.Module) -> list[str]:
    """The names of the layers that may be changed."""
    inside = {id(module) for block in blocks_of(network) for module in block.modules()}
    return [
        name
        for name, module in network.named_modules()
        if id(module) in inside
        and (isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and name.endswith(ATTENTION)))
    ]


def _width(layer: nn.Module) -> int:
    return min(layer.weight.shape[:2])  # type: ignore[arg-type,union-attr,index]
