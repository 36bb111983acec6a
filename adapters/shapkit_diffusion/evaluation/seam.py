"""The seam of an edit: how much steeper the image became across the border of the edited region.

Blending methods leave an edge where the pasted and the kept part meet (Perez et al. 2003, on which gradients across the
border a seamless paste must keep). Here the energy of that edge is measured: the mean squared difference between
neighbouring pixels of which one lies in the region. Its mean over edited images divided by the mean over the originals
is 1 where the edit is distributed as the originals are, grows by c^2 over the originals' energy where a patch is
pasted that is brighter by c, and hardly moves under a change that is smooth across the border. A region parsed in the
original hugs the original's own edges, so that even an honest edit may lie somewhat off 1: compare with a control.
"""

from __future__ import annotations

from torch import Tensor


def border_energy(images: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference across the region's border, float64 (n,); NaN where the region has no border.

    Args:
        images: (n, channels, height, width); the squares are averaged over channels.
        mask: the region, (n or 1, 1, height, width); pixels above a half belong to it.

    >>> import torch
    >>> step = torch.zeros(1, 1, 4, 4); step[..., 2:] = 0.5
    >>> border_energy(step, (step > 0).float()), border_energy(0.1 * step, (step > 0).float())
    (tensor([0.2500], dtype=torch.float64), tensor([0.0025], dtype=torch.float64))
    """
    values = images.double()
    region = (mask > 0.5).expand(len(images), -1, -1, -1)
    total, pairs = values.new_zeros(len(images)), values.new_zeros(len(images))
    for axis in (2, 3):
        squares = values.diff(dim=axis).square().mean(dim=1, keepdim=True)
        across = region.diff(dim=axis).double()  # of booleans: where the two differ
        total += (squares * across).sum(dim=(1, 2, 3))
        pairs += across.sum(dim=(1, 2, 3))
    return total / pairs
