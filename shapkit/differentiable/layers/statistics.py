"""Extra runs of a network that leave its BatchNorm statistics alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within it, runs of ``network`` update no running mean or variance; train and eval mode stay as they are.

    A layer in train mode goes on normalising by its batch. Composites are no data, and would spoil the statistics
    that the network is used with later. Wrap the call of the penalty, and with gradient checkpointing the backward
    pass too, which runs the network again.

    >>> layer = nn.BatchNorm2d(1)
    >>> with statistics_kept(layer):
    ...     _ = layer(5 + layer.weight.new_ones(2, 1, 3, 3))
    >>> float(layer.running_mean), layer.training
    (0.0, True)
    """
    tracking = [part for part in network.modules() if isinstance(part, _NormBase) and part.track_running_stats]
    for part in tracking:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True
