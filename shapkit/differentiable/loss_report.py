"""What the penalty is made of, for logging: how much each output region contributes.

Everything stays on the device as tensors, so that a training loop decides when to wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossReport:
    """The penalty of a batch, taken apart without gradients.

    Args:
        unreduced: (batch, K), what ``DummyPlayerPenalty.unreduced`` returned.
        names: the K region names.

    Raises:
        ValueError: if the shape does not fit the names.

    >>> report = LossReport(torch.tensor([[1.0, 3.0], [1.0, 3.0]]), ("eyes", "rest"))
    >>> report.loss, report.shares
    (tensor(2.), tensor([0.2500, 0.7500]))
    """

    unreduced: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.unreduced.ndim != 2 or self.unreduced.shape[1] != len(self.names):
            raise ValueError(
                f"unreduced must have shape (batch, {len(self.names)}), one column per region, "
                f"got {tuple(self.unreduced.shape)}"
            )
        object.__setattr__(self, "unreduced", self.unreduced.detach())

    @property
    def loss(self) -> Tensor:
        """The penalty, a scalar."""
        return self.unreduced.mean()

    @property
    def by_region(self) -> Tensor:
        """The penalty of every output region, (K,); its mean is the loss."""
        return self.unreduced.mean(dim=0)

    @property
    def shares(self) -> Tensor:
        """Each output region's share of the loss, (K,), of sum one; zeros where the loss is zero."""
        by_region = self.by_region
        total = by_region.sum()
        return by_region / torch.where(total > 0, total, torch.ones_like(total))
