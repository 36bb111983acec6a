"""A model in parts: every process keeps a share of the weights, and of what training keeps beside each (FSDP2).

`fully_shard` of torch (Zhao et al. 2023) splits each parameter's rows over the processes, gathers those of a block when
it runs, and leaves each process the sum of its own rows' gradients. Moments and averages are shares as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from shapkit_diffusion.denoisers.denoiser import Denoiser


def sharded_copy(denoiser: Denoiser, device: torch.device) -> Denoiser:
    """The same denoiser in parts, on the device, of which every process has its share; all call it together.

    The blocks of the network are gathered one after the other. A region transformer's, which are not called one by
    one, are gathered all at once: its weights are shared out between steps alone.
    """
    split = copy.deepcopy(denoiser)
    for block in blocks_of(split.unet):
        fully_shard(block)
    fully_shard(split)
    split.to(device)  # the rest: buffers, the autoencoder
    return split


@torch.no_grad()
def gather_into(denoiser: Denoiser, shares: Iterable[Tensor]) -> None:
    """Fill the denoiser's parameters with the whole of their shares; all processes call it together."""
    for mine, share in zip(denoiser.parameters(), shares, strict=True):
        mine.copy_(whole(share))


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which this process may have a share, gathered from all of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process has, with the same memory: all of them unless it is shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> slice | None:
    """Which rows of the whole tensor these are; None for all of it.

    >>> own_rows(torch.zeros(5, 2)) is None
    True
    """
    if not isinstance(tensor, DTensor):
        return None
    size = math.ceil(len(tensor) / tensor.device_mesh.size())
    first = min(tensor.device_mesh.get_local_rank() * size, len(tensor))
    return slice(first, first + len(own(tensor)))


def shared_like(rows: Tensor, tensor: Tensor) -> Tensor:
    """This process's rows as a tensor that is shared out as another of the same shape is."""
    if not isinstance(tensor, DTensor):
        return rows
    return DTensor.from_local(
        rows.to(own(tensor)), tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride()
    )


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """What of a UNet or a transformer of diffusers is called block by block."""
    for name, child in network.named_children():
        if name.endswith("blocks") and isinstance(child, nn.ModuleList):
            yield from child
        elif name == "mid_block" and child is not None:
            yield child
