"""One model measured: locality of every concept, realism of whole images and of every concept's crop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from shapkit.differentiable import Regions
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain
from shapkit_diffusion.evaluation.edit_measures import measure_edits
from shapkit_diffusion.evaluation.leakage import decoder_leakage
from shapkit_diffusion.evaluation.locality import (
    Locality,
    LocalityConvention,
    Normalisation,
    SwapResults,
    swap_and_measure,
)
from shapkit_diffusion.evaluation.realism import (
    WHOLE,
    Box,
    Features,
    concept_box,
    frechet_distance,
    map_features,
    statistics_of,
)
from shapkit_diffusion.evaluation.realism_measures import RealismReference, measure_realism
from shapkit_diffusion.evaluation.verdict import Measured
from shapkit_diffusion.noise.sampling import draw_noise, generate


@dataclass(frozen=True)
class EvaluateConfig:
    """How a model is measured; equal configurations give equal figures.

    Args:
        concepts: the concepts that are edited.
        pairs: noise pairs for the locality.
        images: generated images for the realism distances.
        steps: DDIM steps per image.
        dilation: pixels by which concepts grow, as in training.
        normalisation: the area that MSE-out is divided by: the area outside, or the region's, as the paper prints it.
        seed: names the noise.
        precision: ``"no"`` or ``"bf16"``, of the network runs.
    """

    concepts: tuple[str, ...] = CONCEPTS
    pairs: int = 100
    images: int = 1000
    steps: int = 25
    dilation: int = 1
    normalisation: Normalisation = "own_area"
    seed: int = 1000
    precision: Literal["no", "bf16"] = "no"


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model, and the pictures they were measured on."""

    locality: list[Locality]
    realism: dict[str, float]
    swaps: SwapResults
    samples: Tensor
    decoder_floor: list[Locality] | None = None
    """Of latent models: the locality that the decoder alone leaves, see ``decoder_leakage``."""

    def figures(self) -> dict[str, Any]:
        """Everything measured, as plain numbers for JSON."""
        figures: dict[str, Any] = {"locality": _plain(self.locality), "frechet": self.realism}
        return figures if self.decoder_floor is None else {**figures, "decoder_floor": _plain(self.decoder_floor)}


def _plain(locality: list[Locality]) -> dict[str, Any]:
    return {entry.concept: {**asdict(entry), "ratio": entry.ratio} for entry in locality}


def evaluate(
    denoiser: Denoiser,
    domain: Domain,
    config: EvaluateConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Locality and realism of ``denoiser`` on ``domain``.

    Args:
        progress: called as ``progress(done, total)`` in generated images.

    Raises:
        ValueError: if a concept is no label of the domain, or no generated image shows all concepts.
    """
    concepts = concept_labels(domain.label_names, config.concepts)
    total = config.images + config.pairs * (1 + len(concepts))
    done = 0

    def latents_of(noise: Tensor) -> Tensor:
        nonlocal done
        parts = []
        for part in noise.split(50):
            with torch.autocast(noise.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                parts.append(generate(denoiser, part, config.steps))
            done += len(part)
            if progress is not None:
                progress(min(done, total), total)
        return torch.cat(parts)

    def make(noise: Tensor) -> Tensor:
        return denoiser.decode(latents_of(noise)).clamp(-1, 1)

    noise = draw_noise(denoiser, config.pairs, config.seed)
    other = draw_noise(denoiser, config.pairs, config.seed + 1)
    locality, swaps = swap_and_measure(
        make,
        domain.parse,
        noise,
        other,
        concepts,
        dilation=config.dilation,
        normalisation=config.normalisation,
        noise_regions=lambda regions: latent_regions(regions, denoiser, missing="allow"),
    )
    latents = latents_of(draw_noise(denoiser, config.images, config.seed + 2))
    samples = denoiser.decode(latents).clamp(-1, 1)
    if progress is not None:
        progress(total, total)
    floor = _decoder_floor(denoiser, domain, config, latents, samples) if denoiser.is_latent else None
    return Evaluation(locality, realism(samples, domain, concepts), swaps, samples, floor)


def _decoder_floor(
    denoiser: Denoiser, domain: Domain, config: EvaluateConfig, latents: Tensor, samples: Tensor
) -> list[Locality]:
    """``decoder_leakage`` of each concept on generated samples, as many as there are pairs in the locality."""
    count = 2 * min(config.pairs, len(latents) // 2)
    labels = domain.parse(samples[:count])
    concepts = concept_labels(domain.label_names, config.concepts)
    regions = Regions.from_labels(labels, concepts, dilation=config.dilation, missing="allow")
    floor = decoder_leakage(denoiser, latents[:count], regions, normalisation=config.normalisation)
    return [entry for entry in floor if entry.concept in concepts]


def realism(samples: Tensor, domain: Domain, concepts: dict[str, list[int]]) -> dict[str, float]:
    """Fréchet distances to the domain's reference images: ``whole``, and each concept's crop."""
    real = to_unit_range(torch.as_tensor(domain.reference.images))
    boxes = realism_boxes(domain, concepts)
    return {
        name: frechet_distance(
            statistics_of(samples, domain.extractor, box, domain.cells),
            statistics_of(real, domain.extractor, box, domain.cells),
        )
        for name, box in boxes.items()
    }


def realism_boxes(domain: Domain, concepts: Mapping[str, list[int]]) -> dict[str, Box]:
    """The crops in which realism is measured: ``whole``, and where each concept lies in the reference."""
    labels = torch.as_tensor(domain.reference.labels).long()
    return {"whole": WHOLE} | {name: concept_box(labels, values) for name, values in concepts.items()}


def realism_reference(
    domain: Domain, concepts: Sequence[str] = CONCEPTS, features: Features | None = None, extractor_name: str = ""
) -> RealismReference:
    """The domain's reference images, whole and cropped to each concept, for ``measure_realism`` of any system.

    Args:
        features: in place of the domain's own, such as ``load_inception(path).features``.
        extractor_name: what to call them.

    Raises:
        ValueError: if a concept is no label of the domain, or features of one's own have no name.
    """
    if (features is None) != (not extractor_name):
        raise ValueError("features and extractor_name go together: a figure must say in which features it was measured")
    boxes = realism_boxes(domain, concept_labels(domain.label_names, concepts))
    real = to_unit_range(torch.as_tensor(domain.reference.images))
    features = features or map_features(domain.extractor, domain.cells)
    return RealismReference.of(real, features, boxes, extractor_name=extractor_name or domain.extractor_name)


def measured_by_concept(result: Evaluation, reference: RealismReference, config: EvaluateConfig) -> dict[str, Measured]:
    """What a verdict wants to know of an evaluated model, for each concept; its seam and diversity are added here."""
    convention = LocalityConvention(normalisation=config.normalisation, dilation=config.dilation)
    found = measure_realism(result.samples, reference)
    swaps = result.swaps
    numbers = None if swaps.numbers is None else swaps.numbers.tolist()
    return {
        concept: Measured(
            measure_edits(
                concept,
                swaps.originals,
                swaps.edited[concept],
                swaps.masks[concept],
                convention=convention,
                grown=config.dilation,
                features=reference.features,
                box=reference.boxes[concept],
                numbers=numbers,
            ),
            found,
        )
        for concept in config.concepts
    }


def realism_floor(domain: Domain, concepts: Sequence[str], images: int) -> dict[str, float]:
    """The distances that real images themselves have: half of the reference against the other, ``images`` at most."""
    values = concept_labels(domain.label_names, concepts)
    half = min(images, len(domain.reference) // 2)
    real = to_unit_range(torch.as_tensor(domain.reference.images[:half]))
    return realism(real, replace(domain, reference=domain.reference[half:]), values)
