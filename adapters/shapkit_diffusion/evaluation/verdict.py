"""Is a model's locality better than a control's, honestly? The ratio alone does not say.

Filling a region with noise raises MSE-in and so lowers the ratio; a model that ignores its noise inside a region edits
nothing. So the claim, a lower ratio, counts only where every guard holds: what changes inside stays about as much as
the control's, the crop stays as real, versions of the concept stay as varied, and the border shows no new seam.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, compare_edits
from shapkit_diffusion.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from shapkit_diffusion.evaluation.realism_measures import RealismMeasurement

Outcome = Literal["better", "draw", "loses"]


@dataclass(frozen=True)
class VerdictBounds:
    """What the candidate's figures may be of the control's.

    Args:
        mse_in: least and most change inside.
        crop_fid: most Fréchet distance of the concept's crop.
        diversity: least distance between versions of the concept.
        seam: most energy across the border of edited images.
    """

    mse_in: tuple[float, float] = (0.5, 1.5)
    crop_fid: float = 1.25
    diversity: float = 0.8
    seam: float = 1.25


DEFAULT_BOUNDS = VerdictBounds()


@dataclass(frozen=True)
class Measured:
    """One model's figures for one concept: its edits, and the realism of its images (whole, and the concept's crop)."""

    edits: EditMeasurement
    realism: RealismMeasurement


@dataclass(frozen=True)
class Line:
    """One condition: the candidate's figure over the control's, the ends it has to lie between, and whether it does."""

    name: str
    figure: float
    low: float
    high: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the figures of one concept say of a candidate against a control.

    ``outcome`` is ``"better"`` where all lines passed; ``"draw"`` where every guard held but the locality may as well
    be the control's; ``"loses"`` otherwise.
    """

    concept: str
    lines: tuple[Line, ...]
    outcome: Outcome
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; open ends are None."""
        content = asdict(self)
        for line in content["lines"]:
            line.update({end: None for end in ("low", "high") if abs(line[end]) == float("inf")})
        return content

    def __str__(self) -> str:
        lines = (f"  {'pass' if e.passed else 'FAIL'}  {e.name:<22}{e.figure:>9.3g}  ({_ends(e)})" for e in self.lines)
        return "\n".join([self.sentence, *lines])


def _ends(line: Line) -> str:
    if line.low == float("-inf"):
        return f"at most {line.high:g}"
    return f"at least {line.low:g}" if line.high == float("inf") else f"{line.low:g} to {line.high:g}"


def verdict(
    candidate: Measured,
    control: Measured,
    *,
    bounds: VerdictBounds = DEFAULT_BOUNDS,
    how: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Verdict:
    """The candidate's figures held against the control's, on the images both edited.

    The locality improves where the interval of the paired ratio of the two ratios lies below one. The guards bound
    point estimates. A figure that is not a number passes nothing.

    Raises:
        ValueError: if concepts, conventions or features differ, the diversity or the concept's crop was not measured.
    """
    concept = control.edits.concept
    against = compare_edits(candidate.edits, control.edits, how)
    if "diversity" not in against:
        raise ValueError("a verdict needs the diversity of both: measure_edits(..., features=..., box=...)")
    if candidate.realism.extractor != control.realism.extractor:
        raise ValueError(
            f"realism was measured in different features: {candidate.realism.extractor} and {control.realism.extractor}"
        )
    for model in (candidate, control):
        if concept not in model.realism.crops:
            raise ValueError(f"realism lacks the crop {concept!r}, it has {', '.join(model.realism.crops)}")
    crops = [model.realism.crops[concept].fid for model in (candidate, control)]
    nowhere, gain = float("inf"), against["ratio"]
    claim = Line("locality, upper end", gain.high, -nowhere, 1.0, gain.high < 1)
    guards = (
        _line("MSE in", against["mse_in"].value, *bounds.mse_in),
        _line(
            "crop Fréchet distance", crops[0] / crops[1] if crops[1] > 0 else float("nan"), -nowhere, bounds.crop_fid
        ),
        _line("diversity", against["diversity"].value, bounds.diversity, nowhere),
        _line("seam", against["seam"].value, -nowhere, bounds.seam),
    )
    failed = [line for line in guards if not line.passed]
    outcome: Outcome = "loses"
    if not failed and claim.passed:
        outcome = "better"
    elif not failed and gain.low <= 1:
        outcome = "draw"
    return Verdict(concept, (claim, *guards), outcome, _sentence(concept, outcome, str(gain), claim, failed))


def _line(name: str, figure: float, low: float, high: float) -> Line:
    return Line(name, figure, low, high, low <= figure <= high)


def _sentence(concept: str, outcome: Outcome, gain: str, claim: Line, failed: list[Line]) -> str:
    if outcome == "better":
        return f"Edits of the {concept} are better: the locality ratio is {gain} of the control's and every guard held."
    if outcome == "draw":
        return f"Edits of the {concept} are a draw: the locality ratio is {gain} of the control's."
    if not failed:
        return f"Edits of the {concept} lose: the locality ratio is {gain} of the control's."
    faults = ", ".join(f"{line.name} {line.figure:.3g} ({_ends(line)})" for line in failed)
    though = "although" if claim.passed else "and"
    return f"Edits of the {concept} lose on {faults}, {though} the locality ratio is {gain} of the control's."
