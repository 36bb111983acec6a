"""Edits of one region measured image by image, whatever system made them: locality, seam and diversity.

Every figure keeps its convention and its values for single images, so that intervals, and ratios of two systems on the
same images, can be computed later. MSE-in and MSE-out always go with the ratio: noise alone improves a bare ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapkit_diffusion.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Floats, Interval, bootstrap
from shapkit_diffusion.evaluation.locality import Aggregate, LocalityConvention, changes_per_image, grow, in_colours
from shapkit_diffusion.evaluation.realism import WHOLE, Box, Features, features_of
from shapkit_diffusion.evaluation.seam import border_energy

DEFAULT_CONVENTION = LocalityConvention()
_INSIDE, _OUTSIDE, _BEFORE, _AFTER, _DIVERSITY = range(5)


@dataclass(frozen=True, eq=False)
class EditMeasurement:
    """Edits of one concept, image by image; arrays are float64 (n,).

    Args:
        concept: what was edited.
        convention: what the locality figures mean.
        numbers: int64 (n,), the images' global numbers, by which two systems are paired.
        inside, outside: MSE-in and MSE-out.
        border_before, border_after: ``border_energy`` of the images before and after the edit.
        diversity: distance between versions of the concept, see ``measure_edits``; None where not measured.
    """

    concept: str
    convention: LocalityConvention
    numbers: NDArray[np.int64]
    inside: Floats
    outside: Floats
    border_before: Floats
    border_after: Floats
    diversity: Floats | None = None

    @property
    def n_images(self) -> int:
        """Images in which the concept was found."""
        return len(self.numbers)

    @property
    def mse_in(self) -> float:
        """Mean square change inside the region."""
        return float(self.inside.mean())

    @property
    def mse_out(self) -> float:
        """Mean square change outside the region."""
        return float(self.outside.mean())

    @property
    def ratio(self) -> float:
        """MSE-out over MSE-in, lower is more local; NaN where nothing changes inside."""
        return float(_ratio(self.convention.aggregate)(self._rows()))

    @property
    def seam(self) -> float:
        """Energy across the border after the edits over the energy before; 1 is no seam."""
        return float(_seam(self._rows()))

    @property
    def mean_diversity(self) -> float | None:
        """Mean distance between versions of the concept, in units of the features."""
        return None if self.diversity is None else float(self.diversity.mean())

    def intervals(self, how: Bootstrap = DEFAULT_BOOTSTRAP) -> dict[str, Interval]:
        """Intervals over images of ``mse_in``, ``mse_out``, ``ratio``, ``seam`` and, where measured, ``diversity``."""
        rows = self._rows()
        return {name: bootstrap(figure, rows, how) for name, figure in self._figures().items()}

    def to_json(self, *, per_image: bool = True, how: Bootstrap = DEFAULT_BOOTSTRAP) -> dict[str, Any]:
        """Figures, intervals and convention as plain numbers; with ``per_image`` also the values of each image."""
        content: dict[str, Any] = {
            "concept": self.concept,
            "convention": self.convention.to_json(),
            "n_images": self.n_images,
            **{name: interval.to_json() for name, interval in self.intervals(how).items()},
        }
        if per_image:
            content["per_image"] = {
                "numbers": self.numbers.tolist(),
                "inside": self.inside.tolist(),
                "outside": self.outside.tolist(),
                "border_before": self.border_before.tolist(),
                "border_after": self.border_after.tolist(),
                "diversity": None if self.diversity is None else self.diversity.tolist(),
            }
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EditMeasurement:
        """The measurement that ``to_json`` wrote.

        Raises:
            ValueError: if it was written without the values of each image.
        """
        if "per_image" not in content:
            raise ValueError("content must hold the values of each image: write it with to_json(per_image=True)")
        values = dict(content["per_image"])
        numbers, diversity = values.pop("numbers"), values.pop("diversity")
        return cls(
            content["concept"],
            LocalityConvention(**content["convention"]),
            np.asarray(numbers, dtype=np.int64),
            **{name: np.asarray(column, dtype=np.float64) for name, column in values.items()},
            diversity=None if diversity is None else np.asarray(diversity, dtype=np.float64),
        )

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {interval}" for name, interval in self.intervals().items())
        return f"{self.concept}: {figures} ({self.n_images} images; {self.convention})"

    def _rows(self) -> Floats:
        diversity = np.full(self.n_images, np.nan) if self.diversity is None else self.diversity
        return np.stack([self.inside, self.outside, self.border_before, self.border_after, diversity], axis=1)

    def _figures(self) -> dict[str, Callable[[Floats], Floats]]:
        figures: dict[str, Callable[[Floats], Floats]] = {
            "mse_in": lambda rows: _mean(rows, _INSIDE),
            "mse_out": lambda rows: _mean(rows, _OUTSIDE),
            "ratio": _ratio(self.convention.aggregate),
            "seam": _seam,
        }
        return figures if self.diversity is None else figures | {"diversity": lambda rows: _mean(rows, _DIVERSITY)}


def measure_edits(
    concept: str,
    before: Tensor,
    after: Tensor,
    masks: Tensor,
    *,
    masks_after: Tensor | None = None,
    convention: LocalityConvention = DEFAULT_CONVENTION,
    grown: int = 0,
    resamples: Sequence[Tensor] = (),
    features: Features | None = None,
    box: Box = WHOLE,
    numbers: Sequence[int] | None = None,
) -> EditMeasurement:
    """Edits of one concept by any system, from the images alone.

    Diversity is the mean distance, over all pairs of versions of an image, between the features of the concept's box;
    versions are ``after`` and ``resamples``, or ``before`` and ``after`` where there are no resamples. Outside the
    region every version is put back to ``before`` first, so that leaks do not pass for diversity.

    Args:
        concept: what was edited.
        before, after: images (n, channels, height, width) in [-1, 1].
        masks: the concept in the images before, (n or 1, 1, height, width); images where it is empty, or everything,
            after growing are left out.
        masks_after: the concept in the edited images, for ``extent="union"``.
        convention: what the figures mean.
        grown: pixels by which the masks given were grown already, at most the convention's dilation.
        resamples: further edits of the same images, with other seeds.
        features: makes feature vectors of a box of images, for the diversity.
        box: where the concept lies.
        numbers: the images' global numbers (n,), from 0 where not given.

    Raises:
        ValueError: if shapes do not fit, the convention lacks something to be measured, or no image has the region.

    >>> mask = torch.zeros(2, 1, 4, 4); mask[..., :2, :2] = 1
    >>> edited = 0.5 * mask + 0.1 * (1 - mask)
    >>> found = measure_edits("eye", torch.zeros(2, 1, 4, 4), edited, mask, convention=LocalityConvention(dilation=0))
    >>> round(found.mse_in, 6), round(found.mse_out, 6), round(found.ratio, 6)
    (0.25, 0.01, 0.04)
    """
    if any(version.shape != before.shape for version in (after, *resamples)) or before.ndim != 4:
        shapes = ", ".join(str(tuple(version.shape)) for version in (before, after, *resamples))
        raise ValueError(f"before, after and resamples must share the shape (n, channels, height, width), got {shapes}")
    region = _region(before, masks, masks_after, convention, grown)
    wanted = np.arange(len(before)) if numbers is None else np.asarray(numbers, dtype=np.int64)
    if wanted.shape != (len(before),) or len(set(wanted.tolist())) != len(wanted):
        raise ValueError(f"numbers must be {len(before)} different numbers, one for each image, got {wanted.shape}")
    share = (region > 0.5).double().mean(dim=(1, 2, 3))
    shown = (share > 0) & (share < 1)
    if not bool(shown.any()):
        raise ValueError(f"none of the {len(before)} images shows the {concept}: every mask is empty or everything")
    region, versions = region[shown], [version.detach().cpu()[shown] for version in (before, after, *resamples)]
    old, new = (in_colours(version, convention.colours) for version in versions[:2])
    inside, outside = changes_per_image(old, new, region, convention.normalisation)
    return EditMeasurement(
        concept,
        convention,
        wanted[shown.numpy()],
        inside.numpy(),
        outside.numpy(),
        border_energy(old, region).numpy(),
        border_energy(new, region).numpy(),
        None if features is None else _diversity(versions, region, features, box),
    )


def _region(
    before: Tensor, masks: Tensor, masks_after: Tensor | None, convention: LocalityConvention, grown: int
) -> Tensor:
    """The region that is measured, float64 (n, 1, height, width)."""
    if not 0 <= grown <= convention.dilation:
        raise ValueError(f"grown must lie between 0 and the convention's dilation {convention.dilation}, got {grown}")
    if convention.extent == "union" and masks_after is None:
        raise ValueError("extent='union' needs masks_after: the concept's masks in the edited images")
    given = [masks] if masks_after is None or convention.extent == "source" else [masks, masks_after]
    size = (1, *before.shape[2:])
    if any(mask.ndim != 4 or mask.shape[1:] != size or len(mask) not in (1, len(before)) for mask in given):
        shapes = ", ".join(str(tuple(mask.shape)) for mask in given)
        raise ValueError(f"masks must be (n or 1, 1, height, width) of images {tuple(before.shape)}, got {shapes}")
    region = torch.stack([mask.detach().cpu().double().expand(len(before), -1, -1, -1) for mask in given]).amax(dim=0)
    return grow(region, convention.dilation - grown)


def _diversity(versions: Sequence[Tensor], region: Tensor, features: Features, box: Box) -> Floats:
    """Mean distance between versions of each image, (n,); ``versions`` begins with the image before the edit."""
    before = versions[0]
    compared = versions[1:] if len(versions) > 2 else versions
    inside = region.to(before.dtype)
    rows = [features_of(before + (version - before) * inside, features, box) for version in compared]
    distances = [np.linalg.norm(first - second, axis=1) for first, second in combinations(rows, 2)]
    return np.asarray(np.mean(distances, axis=0), dtype=np.float64)


def compare_edits(
    candidate: EditMeasurement, control: EditMeasurement, how: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, Interval]:
    """The candidate's figures over the control's on the images both have: intervals of paired resamples.

    Returns:
        ``ratio``, ``mse_in``, ``mse_out``, ``seam`` and, where both measured it, ``diversity``. Here ``seam`` compares
        the energies across the border after the edits with one another: a model that edits images of its own may have
        the seam in all of them, and then its edits add none.

    Raises:
        ValueError: if concepts or conventions differ, or no image is common to both.
    """
    if candidate.concept != control.concept or candidate.convention != control.convention:
        raise ValueError(
            f"figures of different kinds do not compare: {candidate.concept} ({candidate.convention}) against "
            f"{control.concept} ({control.convention})"
        )
    _, first, second = np.intersect1d(candidate.numbers, control.numbers, return_indices=True)
    if len(first) == 0:
        raise ValueError(f"candidate and control have no image in common for the {control.concept}")
    rows = np.concatenate([candidate._rows()[first], control._rows()[second]], axis=1)
    width = rows.shape[1] // 2

    def over(figure: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
        return lambda both: _over(figure(both[..., :width]), figure(both[..., width:]))

    figures = candidate._figures() if control.diversity is not None else control._figures()
    figures["seam"] = lambda columns: _mean(columns, _AFTER)
    return {name: bootstrap(over(figure), rows, how) for name, figure in figures.items()}


def _mean(rows: Floats, column: int) -> Floats:
    return np.asarray(rows[..., column].mean(axis=-1))


def _over(above: Floats, below: Floats) -> Floats:
    """The quotient; NaN where there is nothing to divide by."""
    above, below = np.asarray(above), np.asarray(below)
    quotient: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return quotient


def _ratio(aggregate: Aggregate) -> Callable[[Floats], Floats]:
    if aggregate == "ratio_of_means":
        return lambda rows: _over(_mean(rows, _OUTSIDE), _mean(rows, _INSIDE))
    return lambda rows: np.asarray(_over(rows[..., _OUTSIDE], rows[..., _INSIDE]).mean(axis=-1), dtype=np.float64)


def _seam(rows: Floats) -> Floats:
    return _over(_mean(rows, _AFTER), _mean(rows, _BEFORE))
