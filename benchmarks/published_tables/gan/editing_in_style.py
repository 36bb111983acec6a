"""Editing in Style (Collins, Bala, Price and Süsstrunk, CVPR 2020): local edits by exchanging a few style channels.

Clusters of a layer's activations are parts of the face. How much of a channel's energy lies in a part says how much its
style has to do with that part, and an edit takes the channels that have most to do with it from a reference image.
Nothing is pasted: what the channels do elsewhere shows.

Two things are as this project needs them. The paper names the clusters by hand, here the face parser does. And the
styles are StyleGAN2's, which scale the input of a convolution, so that the energy is the input's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.published_tables.gan.clustering import spherical_kmeans
from benchmarks.published_tables.gan.inversion import GanImages
from benchmarks.published_tables.gan.style_gan import StyleGenerator
from benchmarks.published_tables.systems.systems import Region

REFERENCE, CATALOGUE = 1, 2  # purposes of seeds, see GanImages.w_of_seed


@dataclass(frozen=True)
class CatalogueConfig:
    """How the parts of the face and their channels are found.

    Args:
        layer: the layer after which activations are clustered; a late one, where the parts have more pixels.
        clusters: how many clusters.
        images: generated images that are looked at.
        threshold: ρ, the least share of its energy that a channel must have in a part to be taken.
        budget: ε, the sum over the channels taken in a layer of the shares of their energy elsewhere, per channel of
            the layer. The paper's is not divided by the number of channels, of which its layers have 16 times as many.
        seed: names the images and the first centres.

    Raises:
        ValueError: for a number out of its range.
    """

    layer: int = 5
    clusters: int = 16
    images: int = 256
    threshold: float = 0.1
    budget: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layer < 0 or self.clusters < 1 or self.images < 1:
            raise ValueError(
                "layer must be 0 or more, clusters and images 1 or more, got "
                f"{self.layer}, {self.clusters} and {self.images}"
            )
        if not 0 <= self.threshold <= 1 or not self.budget >= 0:
            raise ValueError(
                f"threshold must be between 0 and 1 and budget 0 or more, got {self.threshold} and {self.budget}"
            )


def part_masks(activations: Tensor, labels: Tensor, wanted: Sequence[int], config: CatalogueConfig) -> Tensor:
    """Masks (n, parts, h, w), of zeros and ones, of the clusters that are each part.

    A cluster is the part that most of its pixels are labelled as. A part that no cluster is so has the cluster where
    its own pixels are densest.

    Args:
        activations: of a layer, (n, channels, h, w).
        labels: label maps (n, height, width), of the same or a finer resolution.
        wanted: the label of each part.
    """
    count, channels, height, width = activations.shape
    _, owner = spherical_kmeans(activations.movedim(1, -1).reshape(-1, channels), config.clusters, config.seed)
    of_label = F.one_hot(labels, int(labels.max()) + 1 if labels.numel() else 1).movedim(-1, 1).float()
    shares = F.adaptive_avg_pool2d(of_label, (height, width)).movedim(1, -1).reshape(len(owner), -1)
    present = torch.zeros(config.clusters, shares.shape[1]).index_add_(0, owner, shares)
    density = present / present.sum(dim=1, keepdim=True).clamp(min=1e-12)
    member = torch.zeros(len(wanted), config.clusters)
    for part, label in enumerate(wanted):
        member[part] = (density.argmax(dim=1) == label).float()
        if not bool(member[part].any()):
            member[part, density[:, label].argmax()] = 1.0
    return member.T[owner].reshape(count, height, width, len(wanted)).movedim(-1, 1)


def contributions(inputs: Tensor, masks: Tensor) -> Tensor:
    """M (parts, channels): the share of each channel's energy that lies in each part.

    Args:
        inputs: of a layer, (n, channels, h, w); each channel is given zero mean and unit variance first.
        masks: (n, parts, height, width), averaged to the layer's resolution.

    >>> inputs, left = torch.tensor([[[[3.0, 1.0, 1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    >>> contributions(inputs, torch.cat([left, 1 - left], dim=1)).flatten()
    tensor([0.7500, 0.2500])
    """
    centred = inputs - inputs.mean(dim=(0, 2, 3), keepdim=True)
    energy = centred.square()
    parts = F.adaptive_avg_pool2d(masks, (inputs.shape[2], inputs.shape[3]))
    within = torch.einsum("nchw,nkhw->kc", energy, parts)
    return within / energy.sum(dim=(0, 2, 3)).clamp(min=1e-12)


def query(contribution: Tensor, threshold: float, budget: float) -> Tensor:
    """q (channels,), 1 for the channels that are taken from the reference and 0 for the rest.

    The channels are taken in the order of their contribution M until those taken have a sum of 1 - M of ``budget``, and
    none whose M is not over ``threshold``: the paper's greedy selection.

    >>> query(torch.tensor([0.9, 0.1, 0.6, 0.8]), threshold=0.05, budget=0.65).tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    order = contribution.argsort(descending=True, stable=True)
    spent = (1 - contribution[order]).cumsum(0)
    taken = torch.zeros_like(contribution)
    taken[order[spent < budget]] = 1.0
    return taken * (contribution > threshold)


def interpolated(target: Sequence[Tensor], reference: Sequence[Tensor], queries: Sequence[Tensor]) -> list[Tensor]:
    """Styles s + q (r - s) of each layer; target and reference are (n, inputs), the queries (inputs,)."""
    return [torch.lerp(s, r, q.expand_as(s)) for s, r, q in zip(target, reference, queries, strict=True)]


@dataclass(frozen=True, eq=False)
class EditingInStyle:
    """The system: channels of each concept are taken from an image that the seed names.

    Args:
        images: the generator and its images.
        queries: q of every layer, for each concept.
    """

    images: GanImages
    queries: Mapping[str, Sequence[Tensor]]
    name: str = "Editing in Style"
    pastes: bool = False

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        images: GanImages,
        parse: Callable[[Tensor], Tensor],
        concepts: Mapping[str, int],
        config: CatalogueConfig | None = None,
    ) -> EditingInStyle:
        """Find the channels of each concept on generated images.

        Args:
            images: the generator and its images.
            parse: label maps int64 (n, height, width) of images.
            concepts: the label of each.
            config: how.
        """
        config = config or CatalogueConfig()
        generator: StyleGenerator = images.generator
        styles = generator.styles(images.w_of_seed(config.images, config.seed, CATALOGUE))
        labels = parse(images.image(styles))
        masks = part_masks(generator.features(styles, config.layer), labels, list(concepts.values()), config)
        shares = [contributions(inputs, masks) for inputs in generator.inputs(styles)]
        queries = {
            concept: [query(share[part], config.threshold, config.budget * share.shape[1]) for share in shares]
            for part, concept in enumerate(concepts)
        }
        return cls(images, queries)

    def generate(self, count: int, seed: int) -> Tensor:
        """See ``System``."""
        return self.images.generate(count, seed)

    def reconstruct(self, images: Tensor) -> Tensor:
        """See ``System``."""
        return self.images.reconstruct(images)

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """See ``System``; the region's name says which channels, and its mask is not looked at.

        Raises:
            ValueError: if the region is no concept of the catalogue.
        """
        if region.name not in self.queries:
            raise ValueError(f"region must be one of {', '.join(self.queries)}, got {region.name!r}")
        generator = self.images.generator
        with torch.no_grad():
            target = generator.styles(self.images.latents(images))
            reference = generator.styles(self.images.w_of_seed(len(images), seed, REFERENCE))
        return self.images.image(interpolated(target, reference, self.queries[region.name]))
