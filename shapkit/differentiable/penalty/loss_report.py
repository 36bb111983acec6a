"""What the penalty is made of, for logging: the part of each output region, and which input region is to blame.

Everything stays on the device as tensors, so that a training loop decides when to wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shapkit.differentiable.penalty.comparisons import Comparisons
from shapkit.differentiable.regions import Regions


@dataclass(frozen=True)
class LossReport:
    """The penalty of a batch, taken apart without gradients. Reports of several batches add up.

    Args:
        unreduced: (batch, K), what ``DummyPlayerPenalty.unreduced`` returned.
        names: the K region names.
        gram, blame: (K, K, K) and (K, K), the normal equations of ``pairs``; see ``from_terms``.

    Raises:
        ValueError: if the shape does not fit the names.

    >>> report = LossReport(torch.tensor([[1.0, 3.0], [1.0, 3.0]]), ("eyes", "rest"))
    >>> report.loss, report.shares
    (tensor(2.), tensor([0.2500, 0.7500]))
    """

    unreduced: Tensor
    names: tuple[str, ...]
    gram: Tensor | None = None
    blame: Tensor | None = None

    def __post_init__(self) -> None:
        if self.unreduced.ndim != 2 or self.unreduced.shape[1] != len(self.names):
            raise ValueError(
                f"unreduced must have shape (batch, {len(self.names)}), one column per region, "
                f"got {tuple(self.unreduced.shape)}"
            )
        object.__setattr__(self, "unreduced", self.unreduced.detach())

    @classmethod
    def from_terms(cls, terms: Tensor, drawn: Comparisons, regions: Regions) -> LossReport:
        """The report that knows about pairs of regions.

        Args:
            terms: (n_terms, batch, K), what ``DummyPlayerPenalty.terms`` returned.
            drawn: the comparisons they are the outcome of.
            regions: the players.

        >>> from shapkit.differentiable import DummyPlayerPenalty
        >>> regions = Regions.from_labels(torch.tensor([[[0, 0, 1, 1]] * 4]), {"right": [1]})
        >>> x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> penalty = DummyPlayerPenalty()
        >>> drawn = penalty.draw(x, regions)
        >>> terms = penalty.terms(lambda x: x + x.flip(3) * regions.masks[:, :1], x, regions, drawn)
        >>> LossReport.from_terms(terms, drawn, regions).pair_shares  # what is right listens to what is left
        tensor([[0., 1.],
                [0., 0.]], dtype=torch.float64)
        """
        with torch.no_grad(), torch.autocast(terms.device.type, enabled=False):
            regions = regions.to(terms)
            weights = drawn.weights * regions.weights
            exchanged = (drawn.exchanged & regions.present).to(terms).expand_as(terms)
            gram, blame = [], []
            for k in range(len(regions.names)):
                weighted = (exchanged * weights[..., k : k + 1]).flatten(0, 1)  # (terms of all samples, j)
                gram.append(weighted.T @ exchanged.flatten(0, 1))
                blame.append(weighted.T @ terms[..., k].flatten())
            return cls((weights * terms).sum(dim=0), regions.names, torch.stack(gram), torch.stack(blame))

    def __add__(self, other: LossReport) -> LossReport:
        """The report of both batches together."""
        if self.names != other.names:
            raise ValueError(f"reports of different regions do not add up: {self.names} and {other.names}")
        unreduced = torch.cat([self.unreduced, other.unreduced])
        if self.gram is None or self.blame is None or other.gram is None or other.blame is None:
            return LossReport(unreduced, self.names)
        return LossReport(unreduced, self.names, self.gram + other.gram, self.blame + other.blame)

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
        return _shares(self.by_region)

    @property
    def pairs(self) -> Tensor:
        """How much output region k changes when input region j is exchanged, ``pairs[k, j]``, (K, K) in float64.

        A term exchanges a set T of regions that k should not see, and changes k by d. The blame a_kj is the least
        squares solution, with the penalty's own weights w, of the smallest norm:

            minimise over a_k:  sum over terms and samples of w (d - sum over j in T of a_kj)^2.

        One term on its own is split equally over T. As soon as the sets tell the regions apart, and the changes that
        different regions cause are uncorrelated, as they are in a linear network of independent noise, a_kj is the
        mean of ||v_k(N) - v_k(N less j)||^2. Zero where j may influence k. Solved on the CPU, so it waits for the
        device.

        Raises:
            ValueError: if the report was not made by ``from_terms``.
        """
        if self.gram is None or self.blame is None:
            raise ValueError("this report knows nothing of pairs of regions: make it with LossReport.from_terms")
        # The sums are float32's, so that smaller singular values are rounding.
        inverse: Tensor = torch.linalg.pinv(self.gram.cpu().double(), hermitian=True, rtol=1e-5)
        return (inverse @ self.blame.cpu().double()[..., None])[..., 0]

    @property
    def pair_shares(self) -> Tensor:
        """Each pair's share of all blame, (K, K) in float64, of sum one; blame below zero is noise and left out."""
        return _shares(self.pairs.clamp(min=0))


def _shares(parts: Tensor) -> Tensor:
    total = parts.sum()
    return parts / torch.where(total > 0, total, torch.ones_like(total))
