"""Denoisers that obey an influence graph by construction: every region's output is from a run that sees what it may."""

from __future__ import annotations

import torch
from torch import Tensor

from shapkit.differentiable import Regions, allowed_influence, star
from shapkit.differentiable.regions import Graph
from shapkit_diffusion.denoisers import Denoiser

STAR = star()


class ComposedDenoiser(Denoiser):
    """A denoiser whose output in region k is that of a run on the coalition A_k, all other regions absent (zeros).

    In the words of the games: v_k(A_k) in place of v_k(N), so that every player outside A_k is a dummy of game k for
    any weights, and no penalty is needed. K regions take K runs, in one batch. A network has to be trained for it,
    since one that never saw an image with a region missing does not know what to make of it: `train` with the plain
    model as teacher.

    With the star graph the rest follows a path of its own. An edit of one concept leaves the rest's runs, and those of
    the other concepts, as they were.

    Args:
        denoiser: whose network, schedule and autoencoder are used; they are shared, not copied.
        regions: one partition for all images, on the denoiser's grid.
        graph: see ``allowed_influence``.

    Raises:
        ValueError: if the regions differ from image to image or have another size, or the graph does not fit.

    >>> from shapkit_diffusion.denoisers import small_denoiser
    >>> labels = torch.zeros(1, 16, 16, dtype=torch.long); labels[:, 8:] = 1
    >>> local = ComposedDenoiser(small_denoiser(16, channels=(8, 16)), Regions.from_labels(labels, {"mouth": [1]}))
    >>> x, timesteps = torch.zeros(1, 3, 16, 16), torch.tensor([500])
    >>> edited = x.clone(); edited[:, :, 8:] = 1
    >>> change = (local(edited, timesteps) - local(x, timesteps)).abs()
    >>> float(change[:, :, :8].max().detach()), bool(change[:, :, 8:].max() > 0)
    (0.0, True)
    """

    own: Tensor
    seen: Tensor

    def __init__(self, denoiser: Denoiser, regions: Regions, graph: Graph = STAR) -> None:
        super().__init__(denoiser.unet, denoiser.scheduler, denoiser.autoencoder, denoiser.prompt_embedding)
        self.text_source = denoiser.text_source
        own = torch.stack([regions.mask(name)[:, 0] for name in regions.names], dim=1).float()
        if len(own) != 1:
            raise ValueError(f"regions must be one partition for all images, got {len(own)}")
        if tuple(own.shape[2:]) != denoiser.latent_shape[1:]:
            raise ValueError(
                f"regions must be of the denoiser's grid {denoiser.latent_shape[1:]}, got {tuple(own.shape[2:])}"
            )
        allowed = allowed_influence(graph, regions.names).to(own)
        self.register_buffer("own", own[0][:, None, None], persistent=False)  # (K, 1, 1, height, width)
        self.register_buffer("seen", torch.einsum("kj,jhw->khw", allowed, own[0])[:, None, None], persistent=False)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction, shape of ``x`` (batch, channels, height, width), composed of one run per region."""
        count = len(self.own)
        runs = super().forward((x * self.seen.to(x)).flatten(0, 1), timesteps.expand(len(x)).repeat(count))
        composed: Tensor = (runs.unflatten(0, (count, len(x))) * self.own.to(runs)).sum(dim=0)
        return composed
