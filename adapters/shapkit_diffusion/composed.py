"""Denoisers that obey an influence graph by construction: every region's output is from a run that sees what it may."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shapkit.differentiable import Regions, allowed_influence, star
from shapkit.differentiable.regions import Graph
from shapkit_diffusion.checkpoints import read_tensors
from shapkit_diffusion.denoisers import COMPOSITION, Denoiser, Stage

STAR = star()
MAX_REGIONS = 256


class ComposedDenoiser(Denoiser):
    """A denoiser whose output in region k is that of a run on the coalition A_k, all other regions absent (zeros).

    In the words of the games: v_k(A_k) in place of v_k(N), so that every player outside A_k is a dummy of game k for
    any weights, and no penalty is needed. K regions take K runs, in one batch. A network has to be trained for it,
    since one that never saw an image with a region missing does not know what to make of it: `train`, best with the
    plain model as teacher.

    With the star graph the rest follows a path of its own. An edit of one concept leaves the rest's runs, and those of
    the other concepts, as they were.

    ``staged`` generates one region after the other: first those that look at no other, then those that look at these,
    which are then finished. Together, a concept is fitted at every step to a rest with as much noise as itself, and
    what is learnt of that is an average over all ways on which the rest could have got there: too weak an agreement of
    the two, however long the training (``benchmarks/one_sided.py``). Given the finished rest there is nothing to
    average. The number of network runs is the same.

    Args:
        denoiser: whose network, schedule and autoencoder are used; they are shared, not copied.
        regions: one partition for all images, on the denoiser's grid.
        graph: see ``allowed_influence``.
        staged: whether regions are generated after those that they look at.

    Raises:
        ValueError: if the regions differ from image to image, are soft or have another size, or the graph does not fit:
            if it lets regions look at one another, they cannot be generated one after the other.

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
    others: Tensor

    def __init__(self, denoiser: Denoiser, regions: Regions, graph: Graph = STAR, *, staged: bool = False) -> None:
        super().__init__(denoiser.unet, denoiser.scheduler, denoiser.autoencoder, denoiser.prompt_embedding)
        self.text_source = denoiser.text_source
        masks = regions.masks.float()
        if len(masks) != 1:
            raise ValueError(f"regions must be one partition for all images, got {len(masks)}")
        if tuple(masks.shape[2:]) != denoiser.latent_shape[1:]:
            raise ValueError(
                f"regions must be of the denoiser's grid {denoiser.latent_shape[1:]}, got {tuple(masks.shape[2:])}"
            )
        if not bool(((masks == 0) | (masks == 1)).all()):
            raise ValueError("regions must be hard, every pixel of one region: regions.resized(..., hard=True)")
        self.regions = regions
        self.allowed = allowed_influence(graph, regions.names)
        self.staged = staged
        self._order = _stages_of(self.allowed, regions.names) if staged else []
        looked_at = self.allowed.float().fill_diagonal_(0)
        self.register_buffer("own", masks[0][:, None, None], persistent=False)  # (K, 1, 1, height, width)
        others = torch.einsum("kj,jhw->khw", looked_at, masks[0])
        self.register_buffer("others", others[:, None, None], persistent=False)

    def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> Tensor:
        """The prediction, shape of ``x`` (batch, channels, height, width), composed of one run per region.

        A staged model's runs see the other regions as they are in ``finished``, where it is given, or else in ``x``.
        """
        around = x if finished is None or not self.staged else finished
        return self._composed(range(len(self.own)), x, around, timesteps)

    def stages(self) -> list[Stage]:
        """A staged model's regions in their order; everything at once, if it is not staged."""
        if not self.staged:
            return super().stages()
        return [Stage(partial(self._velocity_of, part), self.own[part].sum(dim=0) > 0) for part in self._order]

    @property
    def given_others(self) -> Tensor:
        """Where a prediction is made with other regions finished in sight, boolean (1, 1, height, width) or (1,)."""
        looking = self.allowed.sum(dim=1).to(self.own.device) > 1
        return self.own[looking].sum(dim=0) > 0 if self.staged else super().given_others

    def _velocity_of(self, part: Sequence[int], x: Tensor, timesteps: Tensor) -> Tensor:
        return self.as_velocity(self._composed(part, x, x, timesteps), x, timesteps)

    def _composed(self, part: Sequence[int], x: Tensor, around: Tensor, timesteps: Tensor) -> Tensor:
        """The predictions of some regions, each in its place, and zeros elsewhere."""
        own, others = self.own[part].to(x), self.others[part].to(x)
        seen = (x * own + around * others).flatten(0, 1)
        runs = super().forward(seen, timesteps.expand(len(x)).repeat(len(part)))
        composed: Tensor = (runs.unflatten(0, (len(part), len(x))) * own.to(runs)).sum(dim=0)
        return composed

    def _save_more(self, folder: Path) -> None:
        tensors = {
            "masks": self.regions.masks[0].float().contiguous(),
            "allowed": self.allowed.contiguous(),
            "staged": torch.tensor(self.staged),
        }
        save_file(tensors, folder / COMPOSITION, {"names": json.dumps(self.regions.names)})


def restored(denoiser: Denoiser, path: Path) -> ComposedDenoiser:
    """The denoiser composed as the file says that was saved with it.

    Raises:
        ValueError: if the file is damaged, or does not fit the denoiser.
    """
    tensors, names = read_tensors(path), _names(path)
    expected = {"masks": 3, "allowed": 2, "staged": 0}
    if {name: tensor.ndim for name, tensor in tensors.items()} != expected:
        raise ValueError(f"{path} must hold masks (K, height, width), allowed (K, K) and staged, got {list(tensors)}")
    regions = Regions(tensors["masks"][None], names)
    return ComposedDenoiser(denoiser, regions, tensors["allowed"], staged=bool(tensors["staged"]))


def _names(path: Path) -> tuple[str, ...]:
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {})["names"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} does not name its regions: its metadata must have names, a JSON list") from error
    if not isinstance(names, list) or not 1 < len(names) <= MAX_REGIONS:
        raise ValueError(f"{path} must name 2 to {MAX_REGIONS} regions, got {names!r:.80}")
    return tuple(names)


def _stages_of(allowed: Tensor, names: Sequence[str]) -> list[list[int]]:
    """The regions by what they have to wait for: first those that look at no other, then those that look at these."""
    waiting, done, order = set(range(len(names))), set[int](), list[list[int]]()
    while waiting:
        ready = [k for k in sorted(waiting) if set(allowed[k].nonzero().flatten().tolist()) - {k} <= done]
        if not ready:
            stuck = ", ".join(names[k] for k in sorted(waiting))
            raise ValueError(f"regions that look at one another cannot be generated one after the other: {stuck}")
        order.append(ready)
        done.update(ready)
        waiting.difference_update(ready)
    return order
