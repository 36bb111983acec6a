"""Realism of any system's images, whole and cropped to each concept, against one set of real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from shapkit_diffusion.evaluation.feature_metrics import Rows, density_coverage, kernel_distance, precision_recall
from shapkit_diffusion.evaluation.realism import Box, Features, FeatureStatistics, features_of, frechet_distance


@dataclass(frozen=True)
class CropRealism:
    """One crop's figures. ``fid`` and ``kid`` are Fréchet and kernel distance in whatever features were used.

    ``precision``, ``recall``, ``density`` and ``coverage`` compare as many reference images as samples, the first ones
    of whichever there are more of, since all four depend on the numbers.
    """

    fid: float
    kid: float
    precision: float
    recall: float
    density: float
    coverage: float
    n_samples: int
    n_reference: int


@dataclass(frozen=True)
class RealismMeasurement:
    """Figures of a system's images by crop, and the features they were measured in."""

    crops: Mapping[str, CropRealism]
    extractor: str

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {"extractor": self.extractor, "crops": {name: asdict(crop) for name, crop in self.crops.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RealismMeasurement:
        """The measurement that ``to_json`` wrote."""
        crops = {name: CropRealism(**figures) for name, figures in content["crops"].items()}
        return cls(crops, content["extractor"])

    def __str__(self) -> str:
        head = f"{'crop':<12}" + "".join(
            f"{n:>11}" for n in ("FID", "KID", "precision", "recall", "density", "coverage")
        )
        lines = [
            f"{name:<12}{crop.fid:>11.4g}{crop.kid:>11.4g}{crop.precision:>11.3f}{crop.recall:>11.3f}"
            f"{crop.density:>11.3f}{crop.coverage:>11.3f}"
            for name, crop in self.crops.items()
        ]
        return "\n".join([head, *lines])


@dataclass(frozen=True, eq=False)
class RealismReference:
    """Real images' features by crop, computed once and compared with every system's."""

    features: Features
    boxes: Mapping[str, Box]
    rows: Mapping[str, Rows]
    statistics: Mapping[str, FeatureStatistics]
    extractor_name: str

    @classmethod
    def of(
        cls, images: Tensor, features: Features, boxes: Mapping[str, Box], *, extractor_name: str = ""
    ) -> RealismReference:
        """The reference that real images (n, channels, height, width) in [-1, 1] make.

        Raises:
            ValueError: if there are no images or no boxes.
        """
        if not boxes:
            raise ValueError("boxes must name at least one crop")
        rows = {name: features_of(images, features, box) for name, box in boxes.items()}
        statistics = {name: _statistics(crop) for name, crop in rows.items()}
        return cls(features, dict(boxes), rows, statistics, extractor_name)


def measure_realism(samples: Tensor, reference: RealismReference) -> RealismMeasurement:
    """Realism of images (n, channels, height, width) in [-1, 1], at least six, in every crop of the reference.

    Raises:
        ValueError: for too few samples or reference images.

    >>> import torch
    >>> from shapkit_diffusion.evaluation.realism import WHOLE, map_features, pixel_features
    >>> noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> reference = RealismReference.of(noise[:10], map_features(pixel_features), {"whole": WHOLE})
    >>> crop = measure_realism(noise[:10], reference).crops["whole"]
    >>> crop.precision, crop.recall, crop.coverage, crop.n_samples, round(abs(crop.fid), 6)
    (1.0, 1.0, 1.0, 10, 0.0)
    """
    return RealismMeasurement(
        {
            name: _crop(features_of(samples, reference.features, box), reference, name)
            for name, box in reference.boxes.items()
        },
        reference.extractor_name,
    )


def _crop(rows: Rows, reference: RealismReference, name: str) -> CropRealism:
    real = reference.rows[name]
    count = min(len(real), len(rows))
    precision, recall = precision_recall(real[:count], rows[:count])
    density, coverage = density_coverage(real[:count], rows[:count])
    return CropRealism(
        frechet_distance(_statistics(rows), reference.statistics[name]),
        kernel_distance(rows, real),
        precision,
        recall,
        density,
        coverage,
        len(rows),
        len(real),
    )


def _statistics(rows: Rows) -> FeatureStatistics:
    statistics = FeatureStatistics(rows.shape[1])
    statistics.add(rows)
    return statistics
