"""IGAN: a GAN whose filters of one layer stand, in groups, for parts of the image (Li et al., AAAI 2022).

"Interpretable Generative Adversarial Networks" (Li, Yao, Wang, Diao, Xu and Zhang) fine-tunes a generator until each
filter of an intermediate layer makes the image regions of one visual concept, the same in every image. The groups of
filters that stand for one concept are found, not given, and a concept is edited by exchanging the feature maps of its
group between two images.

The published table says "IGAN" and no more. This is the reading taken, because it edits local concepts, as the table
asks for, and comes from colleagues of the table's authors; the iGAN of Zhu et al. (ECCV 2016), which moves an image on
a GAN's manifold under a user's brush strokes, takes no concepts and is less likely.

What is trained follows the description in the paper's abstract and introduction, with a loss of the same group's
earlier work, and may differ from the published one:

* filters of a group are to be active in the same places and those of different groups in different places: the share
  of the similarities within the groups in all similarities, as the group's compositional CNN measures it (Shen et al.,
  IJCAI 2021), where the similarity of two filters is one plus the correlation of their feature maps over all images;
* the groups are clusters of that similarity, found anew as it changes;
* images with exchanged groups are to look real, to the discriminator.

The layer's activation becomes a ReLU, so that where a filter is not active there is nothing to exchange.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.published_tables.gan.clustering import spectral_clusters
from benchmarks.published_tables.gan.editing_in_style import REFERENCE, contributions
from benchmarks.published_tables.gan.inversion import GanImages
from benchmarks.published_tables.gan.style_gan import StyleGenerator, load_discriminator, load_generator, save_network
from benchmarks.published_tables.gan.training import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    ExtraLoss,
    GanConfig,
    Pair,
    draw_latents,
    train_pair,
)
from benchmarks.published_tables.systems.systems import Region
from shapkit._files import user_path
from shapkit.randomness import counter_bits
from shapkit_diffusion.fingerprints import digits_of_weights
from shapkit_diffusion.runs import RunFolder, write_json

GROUPS_FILE = "groups.json"
MEASURED_IMAGES = 256
"""Generated images on which the first groups, and the concepts of the last, are found."""
CONCEPTS_OF_GROUPS = 3  # purpose of a seed, see GanImages.w_of_seed


@dataclass(frozen=True)
class IganConfig:
    """A fine-tuning run. Equal configurations and beginnings give equal numbers on one machine.

    Args:
        gan: the steps, the batches and the rates; its architecture is the one the run starts from.
        layer: the layer whose filters are grouped.
        groups: how many groups.
        weight: of the similarities' loss, which lies between -1 and 0.
        realism: of the loss of images with an exchanged group.
        regroup_every: steps from one clustering to the next.
        memory: share of the similarities that is kept from one step to the next.

    Raises:
        ValueError: for a number out of its range.
    """

    gan: GanConfig = field(default_factory=lambda: GanConfig(steps=600, seed=1))
    layer: int = 4
    groups: int = 8
    weight: float = 50.0
    realism: float = 0.5
    regroup_every: int = 100
    memory: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.layer < self.gan.architecture.layers - 1:
            raise ValueError(f"layer must be from 0 to {self.gan.architecture.layers - 2}, got {self.layer}")
        if self.groups < 2 or self.regroup_every < 1:
            raise ValueError(
                f"groups must be 2 or more and regroup_every 1 or more, got {self.groups} and {self.regroup_every}"
            )
        if not self.weight >= 0 or not self.realism >= 0 or not 0 <= self.memory < 1:
            raise ValueError(
                "weight and realism must be 0 or more and memory in [0, 1), got "
                f"{self.weight}, {self.realism} and {self.memory}"
            )


class Grouping(nn.Module):
    """The group (filters,) of each filter, and the running mean of their similarity (filters, filters).

    Nothing in it is trained by gradients; it is a module so that it is saved with the networks.
    """

    groups: Tensor
    similarity: Tensor

    def __init__(self, similarity: Tensor, n_groups: int) -> None:
        super().__init__()
        self.register_buffer("similarity", similarity)
        self.register_buffer("groups", spectral_clusters(similarity, n_groups))


def filter_similarity(features: Tensor) -> Tensor:
    """One plus the correlation (filters, filters) of feature maps (n, filters, h, w) over all samples and pixels.

    >>> x = torch.tensor([[[[0.0, 1.0, 0.0]], [[0.0, 2.0, 0.0]], [[1.0, 0.0, 1.0]]]])
    >>> filter_similarity(x)[0].round(decimals=4)
    tensor([2., 2., 0.])
    """
    rows = features.movedim(1, 0).flatten(1)
    unit = F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)
    return 1 + unit @ unit.T


def within_share(similarity: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Mean over groups of their filters' similarity to each other as a share of that to all filters; a scalar."""
    member = F.one_hot(groups, n_groups).to(similarity)
    to_group = member.T @ similarity @ member
    # An empty group has no similarity to any filter; it counts as zero.
    return (to_group.diagonal() / to_group.sum(dim=1).clamp(min=1e-8)).mean()


def exchanged(features: Tensor, others: Tensor, groups: Tensor, chosen: Tensor) -> Tensor:
    """Feature maps (n, filters, h, w) with those of the chosen groups from ``others``.

    Args:
        features, others: of two batches of images.
        groups: int64 (filters,).
        chosen: int64 (c,), the groups that are exchanged.
    """
    return torch.where(torch.isin(groups, chosen)[:, None, None], others, features)


def train_igan(
    config: IganConfig,
    start: str | Path,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[StyleGenerator, Tensor]:
    """Fine-tune the GAN of the run folder ``start``; returns the averaged generator, frozen, and its filters' groups.

    The run folder is as ``train_gan``'s, with ``groups.json`` and without the discriminator.

    Args:
        config: the run.
        start: a folder that ``train_gan`` filled.
        folder: the run folder; must be new, unless ``resume``.
        resume: go on from the last saved state of the same configuration.
        progress: called as ``progress(done, total)`` after every step.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another run), ``start`` holds a GAN of another
            architecture, or a loss is no longer finite.
        TrainingStopped: after SIGTERM or SIGUSR1, when the step is done and the state saved.
    """
    before, discriminator = (
        load_generator(user_path(start) / GENERATOR_FILE),
        load_discriminator(user_path(start) / DISCRIMINATOR_FILE),
    )
    if before.architecture != config.gan.architecture:
        raise ValueError(f"{start} holds a GAN of {before.architecture}, the run is for {config.gan.architecture}")
    generator = StyleGenerator(before.architecture, rectified_layer=config.layer)
    generator.load_state_dict(before.state_dict())
    pair = Pair(
        generator, discriminator.requires_grad_(True), Grouping(_first_similarity(generator, config), config.groups)
    )
    described = {
        "igan": asdict(config),
        "start": {"generator": digits_of_weights(before), "discriminator": digits_of_weights(discriminator)},
    }
    with RunFolder.held(folder, described, resume=resume) as run:
        train_pair(pair, config.gan, run, extra_loss=grouping_loss(config), progress=progress)
        groups = pair.extra.get_buffer("groups")
        write_json(run.path / GROUPS_FILE, groups.tolist())
        save_network(generator, run.path / GENERATOR_FILE)  # last: where it is, the run is finished
    return generator, groups


def load_igan(folder: str | Path) -> tuple[StyleGenerator, Tensor]:
    """What ``train_igan`` returned.

    Raises:
        ValueError: if the folder does not hold a finished run.
    """
    generator = load_generator(user_path(folder) / GENERATOR_FILE)
    path = user_path(folder) / GROUPS_FILE
    try:
        groups = torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.long)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {GROUPS_FILE}: train_igan did not finish there") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, it must hold a list of numbers: {error}") from error
    return generator, groups


def grouping_loss(config: IganConfig) -> Callable[[Pair, list[Tensor], int], ExtraLoss]:
    """What fine-tuning adds to the generator's loss; brings the pair's groups up to date on the way."""

    def loss(pair: Pair, styles: list[Tensor], step: int) -> ExtraLoss:
        features = pair.generator.features(styles, config.layer)
        similarity = filter_similarity(features)
        groups = _updated(pair.extra, similarity.detach(), config, step)
        share = within_share(similarity, groups, config.groups)
        chosen = torch.tensor([int(counter_bits(config.gan.seed, 4, step)) % config.groups])
        mixed = exchanged(features, features.roll(1, dims=0), groups, chosen)
        logits = pair.discriminator(pair.generator.finish(mixed, styles, config.layer))
        realism = F.softplus(-logits).mean()
        figures = {"within_share": share.item(), "realism": realism.item()}
        return ExtraLoss(config.realism * realism - config.weight * share, figures)

    return loss


def _updated(grouping: nn.Module, similarity: Tensor, config: IganConfig, step: int) -> Tensor:
    running, groups = grouping.get_buffer("similarity"), grouping.get_buffer("groups")
    running.lerp_(similarity, 1 - config.memory)
    if step % config.regroup_every == 0:
        groups.copy_(spectral_clusters(running, config.groups))
    return groups


@torch.no_grad()
def _first_similarity(generator: StyleGenerator, config: IganConfig) -> Tensor:
    z = draw_latents(generator.architecture.latent, MEASURED_IMAGES, int(counter_bits(config.gan.seed, 5)))
    return filter_similarity(generator.features(generator.styles(generator.mapping(z)), config.layer))


def concept_groups(
    features: Tensor, labels: Tensor, groups: Tensor, concepts: Mapping[str, int], n_labels: int
) -> dict[str, Tensor]:
    """The groups that stand for each concept, int64 (c,).

    A group stands for the label where its filters' energy is densest, next to the label's area. A concept that no group
    stands for has the one that is densest there.

    Args:
        features: of the layer, (n, filters, h, w).
        labels: label maps (n, height, width).
        groups: int64 (filters,).
        concepts: the label of each.
        n_labels: how many labels there are.
    """
    masks = F.one_hot(labels, n_labels).movedim(-1, 1).float()
    shares = contributions(features, masks)
    of_group = torch.stack([shares[:, groups == group].mean(dim=1) for group in groups.unique()])
    density = of_group / masks.mean(dim=(0, 2, 3)).clamp(min=1e-6)
    best, numbers = density.argmax(dim=1), groups.unique()
    found = {}
    for concept, label in concepts.items():
        chosen = numbers[best == label]
        found[concept] = chosen if len(chosen) else numbers[density[:, label].argmax()][None]
    return found


@dataclass(frozen=True, eq=False)
class Igan:
    """The system: a concept's groups of feature maps are taken from an image that the seed names.

    Args:
        images: the generator, whose rectified layer has the groups, and its images.
        groups: of the layer's filters, int64 (filters,).
        concepts: the groups that stand for each concept.
    """

    images: GanImages
    groups: Tensor
    concepts: Mapping[str, Tensor]
    name: str = "IGAN"
    pastes: bool = False

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        images: GanImages,
        groups: Tensor,
        parse: Callable[[Tensor], Tensor],
        concepts: Mapping[str, int],
        n_labels: int,
        seed: int = 0,
    ) -> Igan:
        """Find the groups of each concept on generated images; see ``concept_groups``.

        Args:
            images: the generator and its images.
            groups: of the layer's filters.
            parse: label maps int64 (n, height, width) of images.
            concepts: the label of each.
            n_labels: how many labels there are.
            seed: names the images.
        """
        styles = images.generator.styles(images.w_of_seed(MEASURED_IMAGES, seed, CONCEPTS_OF_GROUPS))
        features = images.generator.features(styles, _layer(images.generator))
        labels = parse(images.image(styles))
        return cls(images, groups, concept_groups(features, labels, groups, concepts, n_labels))

    def generate(self, count: int, seed: int) -> Tensor:
        """See ``System``."""
        return self.images.generate(count, seed)

    def reconstruct(self, images: Tensor) -> Tensor:
        """See ``System``."""
        return self.images.reconstruct(images)

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        """See ``System``; the region's name says which groups, and its mask is not looked at.

        Raises:
            ValueError: if the region is none of the concepts.
        """
        if region.name not in self.concepts:
            raise ValueError(f"region must be one of {', '.join(self.concepts)}, got {region.name!r}")
        generator, layer = self.images.generator, _layer(self.images.generator)
        with torch.no_grad():
            target = generator.styles(self.images.latents(images))
            reference = generator.styles(self.images.w_of_seed(len(images), seed, REFERENCE))
            features, others = (generator.features(styles, layer) for styles in (target, reference))
            mixed = exchanged(features, others, self.groups, self.concepts[region.name])
            return generator.finish(mixed, target, layer).clamp(-1, 1)


def _layer(generator: StyleGenerator) -> int:
    if generator.rectified_layer is None:
        raise ValueError("the generator of an IGAN has a rectified layer, this one has none: make it by train_igan")
    return generator.rectified_layer
