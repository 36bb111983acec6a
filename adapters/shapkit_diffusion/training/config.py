"""What a training run is: the schedule of its steps, and the penalty that it adds; the published settings among them.

The defaults are those of the shipped demonstration; ``TrainConfig.published`` and ``PenaltyConfig.published`` are those
of Liu et al. 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from shapkit.differentiable import star
from shapkit.differentiable.penalty.absence import Fill
from shapkit.differentiable.penalty.comparisons import Estimator
from shapkit.differentiable.penalty.penalty import Payoff
from shapkit.differentiable.regions import Graph

TimestepWeighting = Literal["none", "min_snr", "signal_share", "noise_share"]
PlayersFrom = Literal["template", "label_maps"]
PayoffsFrom = Literal["clean", "prediction"]
Precision = Literal["no", "bf16"]

ALL_CONCEPTS = ("all",)
"""As ``PenaltyConfig.concepts``: every label of the data but the background."""


def fast_precision() -> Precision:
    """``"bf16"`` where this machine multiplies in bfloat16 by itself, else ``"no"``.

    Without instructions for it, a processor takes several times as long for bfloat16 as for float32.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "no"


def graph_called(name: str) -> Graph:
    """The influence graph that a configuration means by ``"star"``, ``"own"`` or chains of regions.

    In a chain each region may look at all that come before it: ``"rest>brows>eyes,rest>mouth"``.

    Raises:
        ValueError: for another text.

    >>> graph_called("rest>brows>eyes,rest>mouth")
    {'brows': ['rest'], 'eyes': ['rest', 'brows'], 'mouth': ['rest']}
    """
    if name == "star":
        return star()
    if name == "own":
        return "own"
    chains = [[region.strip() for region in chain.split(">")] for chain in name.split(",")]
    if any(len(chain) < 2 or not all(chain) for chain in chains):
        raise ValueError(
            f"graph must be 'star', 'own' or chains of regions such as 'rest>brows>eyes,rest>mouth', got {name!r}"
        )
    before: dict[str, list[str]] = {}
    for chain in chains:
        for place, region in enumerate(chain[1:], start=1):
            known = before.setdefault(region, [])
            known += [source for source in chain[:place] if source not in known]
    return before


@dataclass(frozen=True)
class PenaltyConfig:
    """How the penalty is weighed and what it asks for; the defaults are those of the shipped demonstration.

    Args:
        weight: lambda at the first step.
        final_weight: lambda at the last step; between the two it changes exponentially, as published. None, or the same
            number, for a constant.
        concepts: the concepts that become players, by label name; ``rest`` is every other pixel. One name is the
            published setting, a concept against the rest; several share one model; ``("all",)`` takes every label of
            the data but ``background``.
        graph: ``"star"`` (concepts may look at the rest, never the reverse), ``"own"``, or chains of regions, each of
            which may look at those before it: ``"rest>brows>eyes,rest>mouth"``.
        estimator: which coalitions' outputs are compared, see ``DummyPlayerPenalty``.
        fill: what stands in for an absent region. The mean of ``"batch_mean"`` is that of the micro-batch.
        payoff: what of a region's pixels is compared: each of them, or their mean.
        samples: coalitions per step.
        dilation: pixels by which concepts grow.
        regions: one partition for all aligned images (``"template"``), or each image's own (``"label_maps"``). The
            template has a concept wherever it occurs at all: a denoiser cannot know at high noise which pixels a
            concept is going to cover, and a border that moves from image to image punishes it for looking at its
            neighbours. With label maps, images without a concept do not count for it.
        output: what the payoffs are taken from: ``"clean"``, the clean image that the prediction amounts to, or
            ``"prediction"``, the network's own output (published, where it is the noise). Through the clean image the
            penalty counts at each timestep as much as the leak counts in the image; the bare prediction puts most
            weight on the last timesteps, where the network denoises across a region's border and should. The clean
            image of a network that predicts noise counts at most as much as that noise (`training.clean_payoff`).
        timestep_weighting: what a sample's penalty counts, by its signal-to-noise ratio, on top of that: ``"none"``,
            or a function of ``shapkit.differentiable``: ``"min_snr"``, ``"signal_share"``, ``"noise_share"``.

    Raises:
        ValueError: for an unknown name or a weight that is not positive.
    """

    weight: float = 24.0
    final_weight: float | None = None
    concepts: tuple[str, ...] = ("eyes", "nose", "mouth")
    graph: str = "star"
    estimator: Estimator = "present"
    fill: Fill = "exchange"
    payoff: Payoff = "pixels"
    samples: int = 1
    dilation: int = 1
    regions: PlayersFrom = "template"
    output: PayoffsFrom = "clean"
    timestep_weighting: TimestepWeighting = "none"

    def __post_init__(self) -> None:
        if self.regions not in get_args(PlayersFrom):
            raise ValueError(f"regions must be 'template' or 'label_maps', got {self.regions!r}")
        if self.output not in get_args(PayoffsFrom):
            raise ValueError(f"output must be 'clean' or 'prediction', got {self.output!r}")
        if self.timestep_weighting not in get_args(TimestepWeighting):
            names = ", ".join(get_args(TimestepWeighting))
            raise ValueError(f"timestep_weighting must be one of {names}, got {self.timestep_weighting!r}")
        if not self.concepts:
            raise ValueError("concepts must name at least one label")
        graph_called(self.graph)
        for weight in (self.weight, self.weight if self.final_weight is None else self.final_weight):
            if not 0 < weight < math.inf:
                raise ValueError(f"weights must be positive and finite, got {self.weight} and {self.final_weight}")

    @classmethod
    def published(cls, concept: str) -> PenaltyConfig:
        """The penalty of Liu et al. 2025 for one concept against the rest: eq. (8) by permutations, on the noise.

        Lambda falls from 1e3 to 10 for the nose and to 1 for every other concept. The paper does not say what fills an
        absent region, taken here as zeros, nor by how much masks are dilated.

        >>> penalty = PenaltyConfig.published("nose")
        >>> penalty.weight, penalty.final_weight, penalty.concepts
        (1000.0, 10.0, ('nose',))
        """
        return cls(
            weight=1e3,
            final_weight=10.0 if concept == "nose" else 1.0,
            concepts=(concept,),
            graph="own",
            estimator="per_region",
            fill="zeros",
            payoff="mean",
            regions="label_maps",
            output="prediction",
        )

    def at(self, step: int, steps: int) -> float:
        """lambda at ``step`` of ``steps``.

        >>> PenaltyConfig(weight=100, final_weight=1).at(50, 101)
        10.0
        """
        if self.final_weight is None or self.weight == self.final_weight:
            return self.weight
        share = step / max(1, steps - 1)
        weight: float = self.weight * (self.final_weight / self.weight) ** share
        return round(weight, 12)


@dataclass(frozen=True)
class PairedNoise:
    """Noise that belongs to the images it is added to: that from which the model a run starts from would generate them.

    A denoising loss adds new noise to every image, so what is learnt of one region *given* another is an average over
    all noises the other could have come from. Where one region may look at another but not the reverse (the star
    graph), that loses the agreement of the two, however long the training (`docs/penalty.md`); with the noise
    that belongs to the image nothing is averaged. It also makes the paths from noise to image straighter, which fewer
    sampling steps can follow (Liu et al. 2023, "Flow straight and fast": reflow, here with real images at one end).

    Args:
        images: how many images of the data get noise, the first ones; the run uses no others.
        steps: network steps of the inversion, see ``sampling.invert``.
        refinements: the same.
        timestep: the inversion starts from the image with new noise of this timestep. Inverted from the clean image, a
            flat background ends in a noise too weak and smooth to be one, since no model generates it quite so flat;
            a little noise at the start gives unit normals.
        concepts: ``"fresh"``: new noise in the concepts at every step; ``"paired"``: theirs, too.
        seed: names the noise that the inversion starts with.

    Raises:
        ValueError: for a number out of its range or an unknown name.
    """

    images: int = 4096
    steps: int = 12
    refinements: int = 1
    timestep: int = 40
    concepts: Literal["fresh", "paired"] = "paired"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"images": 1, "steps": 1, "refinements": 0, "timestep": -1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"paired.{name} must be at least {least}, got {getattr(self, name)}")
        if self.concepts not in ("fresh", "paired"):
            raise ValueError(f"paired.concepts must be 'fresh' or 'paired', got {self.concepts!r}")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Equal configurations give equal numbers on one machine.

    Args:
        steps: optimiser steps.
        batch_size: images per step over all processes and micro-batches; even, because samples are paired for the
            exchange.
        learning_rate: reached after ``warmup`` steps; then constant, or falling to zero along a half cosine.
        warmup: steps of linear increase.
        decay: whether the learning rate falls to zero along a half cosine.
        ema: decay of the exponential moving average of the weights, which is what is kept.
        seed: names every random draw.
        precision: ``"no"`` or ``"bf16"``: the network's operations under autocast; weights, residuals and losses stay
            in float32.
        flip: mirror half of the images.
        save_every: steps between saved states.
        log_every: steps between lines of ``metrics.jsonl``.
        anchor: learn from the predictions of the model that the run starts from, not from the noise itself. Both have
            the same minimum under the penalty (the mean of the one given ``x`` is the other), but the anchor's
            gradients carry no noise, which matters when few steps are to change a good model a little.
        anchor_substeps: steps of the anchor that one prediction of the model learns to do the work of, over
            ``anchor_stride`` timesteps: more than one makes the model sample in steps of that length with the accuracy
            of shorter ones (`stride_velocity`), at the price of as many runs of the anchor.
        anchor_stride: timesteps that these substeps go over; the default is that of 25 sampling steps of 1,000.
        noises_per_image: noised copies, each with noise and a timestep of its own, of regions that are generated with
            others finished in sight: a region transformer computes the clean tokens that they look at once for all of
            these copies, which makes a step cheaper. What looks at nothing needs no clean tokens, and is of a different
            image in each of the ``batch_size`` samples (unless images have regions of their own). For runs without
            penalty and paired noise.
        regions: of a region transformer, trained without penalty: its own partition, one for all images
            (``"template"``), or each image's own (``"label_maps"``), which `RegionDenoiser.with_regions` edits by.
        dilation: pixels by which concepts of label maps grow, then.
        low_rank: train changes of this rank to the layers of the network's blocks (LoRA, by ``peft``), and no weight
            itself; folded into the weights at the end. 0 trains all weights.
        concept_weight: what a pixel counts in the denoising loss, against one of the rest, in regions that a staged
            `ComposedDenoiser` generates given others. Concepts are small, and learn from data what the rest learns from
            an anchor.
        accumulation: micro-batches in which each process takes its share of a batch, one after the other. More of them
            take less memory and give the same numbers up to rounding.
        gradient_checkpointing: compute the UNet's activations again in the backward pass and keep none: slower, and
            less memory.
        gradient_clip: the gradient's largest norm; what is longer is scaled down to it.
        sample_every: steps between grids of images that the averaged model generates from fixed noise; 0 for none.
        cache_latents: encode all images once, before the first step, into a file of the run folder, and not each batch
            anew; has no effect on pixel models.
        penalty: the dummy-player penalty; ``None`` trains without.
        paired: noise that belongs to the images, found before the first step; ``None`` for new noise at every step.

    Raises:
        ValueError: for a number out of its range; for an anchor together with paired noise, which would ask for what
            the model predicts of new noise; for an anchor's substeps without anchor; or for several noises per image
            with a penalty, which compares neighbours that are different images, or with paired noise, of which there is
            one per image.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 4e-4
    warmup: int = 50
    decay: bool = False
    ema: float = 0.995
    seed: int = 0
    precision: Precision = "no"
    flip: bool = False
    save_every: int = 250
    log_every: int = 25
    anchor: bool = False
    anchor_substeps: int = 1
    anchor_stride: int = 40
    noises_per_image: int = 1
    regions: PlayersFrom = "template"
    dilation: int = 1
    low_rank: int = 0
    concept_weight: float = 1.0
    accumulation: int = 1
    gradient_checkpointing: bool = False
    gradient_clip: float = 1.0
    sample_every: int = 0
    cache_latents: bool = False
    penalty: PenaltyConfig | None = None
    paired: PairedNoise | None = None

    def __post_init__(self) -> None:
        if self.anchor and self.paired is not None:
            raise ValueError(
                "anchor and paired exclude each other: the anchor's predictions are averages over new noise"
            )
        if self.anchor_substeps > 1 and not self.anchor:
            raise ValueError(f"anchor_substeps asks for an anchor, got {self.anchor_substeps} without one")
        for name in (
            "steps",
            "save_every",
            "log_every",
            "accumulation",
            "anchor_substeps",
            "anchor_stride",
            "noises_per_image",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise ValueError(f"batch_size must be even, since samples are exchanged in pairs, got {self.batch_size}")
        if self.batch_size % self.noises_per_image:
            raise ValueError(
                f"batch_size must be a multiple of noises_per_image, got {self.batch_size} and {self.noises_per_image}"
            )
        if self.noises_per_image > 1 and (self.penalty is not None or self.paired is not None):
            raise ValueError(
                f"noises_per_image must be 1 with a penalty or paired noise, got {self.noises_per_image}: a penalty "
                "compares neighbours that are different images, and paired noise is one per image"
            )
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be 'no' or 'bf16', got {self.precision!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if not 0 < self.concept_weight < math.inf:
            raise ValueError(f"concept_weight must be positive and finite, got {self.concept_weight}")
        if not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip must be positive, got {self.gradient_clip}")
        if self.regions not in get_args(PlayersFrom):
            raise ValueError(f"regions must be 'template' or 'label_maps', got {self.regions!r}")
        if self.regions == "label_maps" and self.penalty is not None:
            raise ValueError("regions is for runs without a penalty, which has its own: PenaltyConfig.regions")
        if self.dilation < 0:
            raise ValueError(f"dilation must be a number of pixels, got {self.dilation}")
        if self.low_rank < 0:
            raise ValueError(f"low_rank must be a rank, or 0 for all weights, got {self.low_rank}")
        if self.sample_every < 0:
            raise ValueError(f"sample_every must be a number of steps, or 0 for no samples, got {self.sample_every}")

    @classmethod
    def published(cls, concept: str, steps: int) -> TrainConfig:
        """The training of Liu et al. 2025: a constant learning rate of 2e-4, an EMA of 0.9999, ``PenaltyConfig``'s own.

        The paper gives hours, not steps or batch sizes: the former are asked for, the latter is this class's default.

        >>> config = TrainConfig.published("eyes", steps=100_000)
        >>> config.learning_rate, config.ema, config.penalty.at(99_999, 100_000)
        (0.0002, 0.9999, 1.0)
        """
        return cls(steps, learning_rate=2e-4, warmup=0, ema=0.9999, penalty=PenaltyConfig.published(concept))

    def rate(self, step: int) -> float:
        """The learning rate at ``step``."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup))
        if self.decay:
            rate *= 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return rate
