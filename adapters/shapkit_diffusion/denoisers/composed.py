"""Denoisers that obey an influence graph by construction: every region's output is from a run that sees what it may."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shapkit.differentiable import Composition, Regions, star
from shapkit.differentiable.composition import Part
from shapkit.differentiable.regions import Graph
from shapkit_diffusion.denoisers.composition_file import (
    NoPlainNetwork as NoPlainNetwork,  # folders saved in November 2026 name it here
)
from shapkit_diffusion.denoisers.composition_file import check_one_partition, no_plain_network, write_composition
from shapkit_diffusion.denoisers.denoiser import COMPOSITION, Denoiser, Stage

STAR = star()


class ComposedDenoiser(Denoiser):
    """A denoiser whose output in each region is that of a run that sees no more than the graph lets it: `Composition`.

    `train` makes one of a plain model, best with that model as teacher. With the star graph the rest follows a path of
    its own, and an edit of one concept leaves the rest and the other concepts as they were.

    Args:
        denoiser: whose network, schedule and autoencoder are used; they are shared, not copied.
        regions: one partition for all images, on the denoiser's grid, hard.
        graph: see ``allowed_influence``.
        staged: whether regions are generated after those that they look at.

    Raises:
        ValueError: if the regions differ from image to image, are soft or have another size, or as `Composition`.

    >>> from shapkit_diffusion.denoisers.denoiser import small_denoiser
    >>> labels = torch.zeros(1, 16, 16, dtype=torch.long); labels[:, 8:] = 1
    >>> local = ComposedDenoiser(small_denoiser(16, channels=(8, 16)), Regions.from_labels(labels, {"mouth": [1]}))
    >>> x, timesteps = torch.zeros(1, 3, 16, 16), torch.tensor([500])
    >>> edited = x.clone(); edited[:, :, 8:] = 1
    >>> change = (local(edited, timesteps) - local(x, timesteps)).abs()
    >>> float(change[:, :, :8].max().detach()), bool(change[:, :, 8:].max() > 0)
    (0.0, True)
    """

    def __init__(self, denoiser: Denoiser, regions: Regions, graph: Graph = STAR, *, staged: bool = False) -> None:
        super().__init__(
            denoiser.unet,
            denoiser.scheduler,
            denoiser.autoencoder,
            denoiser.prompt_embedding,
            denoiser.class_label,
            denoiser.pooled_embedding,
        )
        self.text_source, self.ddim = denoiser.text_source, denoiser.ddim
        check_one_partition(denoiser, regions)
        masks = regions.masks
        if not bool(((masks == 0) | (masks == 1)).all()):
            raise ValueError("regions must be hard, every pixel of one: see regions.resized(..., hard=True)")
        self.composition = Composition(regions, graph, staged=staged)

    @property
    def regions(self) -> Regions:
        """Which pixel is whose, on the denoiser's grid."""
        return self.composition.regions

    @property
    def allowed(self) -> Tensor:
        """The influence graph, boolean (K, K)."""
        return self.composition.allowed

    def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> Tensor:
        """The prediction, shape of ``x`` (batch, channels, height, width), composed of one run per region.

        A staged model's runs see the other regions as they are in ``finished``, where it is given, or else in ``x``.
        """
        if finished is not None:  # one for several noised ones, see `Denoiser.forward`
            finished = finished.repeat_interleave(len(x) // len(finished), dim=0)
        return self._composed(x, timesteps, finished=finished)

    def stages(self, changed: Tensor | None = None) -> list[Stage]:
        """A staged model's regions in their order; everything at once, if it is not staged."""
        if not self.composition.staged:
            return super().stages(changed)
        return [Stage(partial(self._composed, part=part), part.where) for part in self.composition.stages(changed)]

    @property
    def given_others(self) -> Tensor:
        """Where a prediction is made with other regions finished in sight, boolean (1, 1, height, width) or (1,)."""
        if not self.composition.staged:
            return super().given_others
        return (self.composition.others.sum(dim=(2, 3, 4), keepdim=True) * self.composition.own).sum(dim=0) > 0

    def _composed(
        self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None, part: Part | None = None
    ) -> Tensor:
        timesteps, run = timesteps.expand(len(x)), super().forward
        composed: Tensor = self.composition(
            lambda seen, rows: run(seen, timesteps[rows]), x, finished=finished, part=part
        )
        return composed

    def _write_more(self, target: Path) -> dict[str, Any]:
        more = {"staged": torch.tensor(self.composition.staged)}
        write_composition(target / COMPOSITION, self.regions, self.composition.allowed, more)
        return no_plain_network("unet")
