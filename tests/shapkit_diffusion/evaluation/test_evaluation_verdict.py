"""The verdict on models whose faults are known: what wins the bare ratio dishonestly loses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.evaluation.domains import open_domain
from shapkit_diffusion.evaluation.edit_measures import compare_edits, measure_edits
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, measured_by_concept, realism_reference
from shapkit_diffusion.evaluation.intervals import Interval
from shapkit_diffusion.evaluation.locality import swap_and_measure
from shapkit_diffusion.evaluation.realism import Box, map_features, pixel_features
from shapkit_diffusion.evaluation.realism_measures import RealismReference, measure_realism
from shapkit_diffusion.evaluation.verdict import Measured, VerdictBounds, verdict

SIZE, PAIRS, IMAGES = 16, 60, 200
BOX = Box(5 / 16, 11 / 16, 5 / 16, 11 / 16)
REGION = torch.zeros(1, 1, SIZE, SIZE)
REGION[..., 5:11, 5:11] = 1  # the concept of 4 x 4 pixels, grown by one
FEATURES = map_features(pixel_features)


def _smooth(noise: Tensor) -> Tensor:
    return 1.2 * F.avg_pool2d(noise, 3, stride=1, padding=1)


def _with_region(noise: Tensor, inside: Tensor, sees: float) -> Tensor:
    """An image whose outside sees so much of the region's noise, in its neighbourhood and everywhere."""
    everywhere = (noise * REGION).sum(dim=(1, 2, 3), keepdim=True) / (3 * REGION.sum())
    outside = _smooth(noise * (1 - REGION) + sees * noise * REGION) + 2 * sees * everywhere
    return torch.where(REGION > 0, inside, outside).clamp(-1, 1)


def control(noise: Tensor) -> Tensor:
    """A model that leaks."""
    return _with_region(noise, _smooth(noise), 1.0)


def honest(noise: Tensor) -> Tensor:
    """The same inside, a fifth of the leak."""
    return _with_region(noise, _smooth(noise), 0.2)


def filled_with_noise(noise: Tensor) -> Tensor:
    """The leak of the control, and the region is the bare noise."""
    return _with_region(noise, noise, 1.0)


def ignoring_its_noise(noise: Tensor) -> Tensor:
    """No leak; the region looks real, but is made of noise from elsewhere."""
    return _with_region(noise, 0.1 * _smooth(noise) + 0.995 * _smooth(noise).roll(8, dims=3), 0.0)


def with_a_seam(noise: Tensor) -> Tensor:
    """A fifth of the leak; the edit's mean brightness is lifted by a patch with sharp edges."""
    lift = 0.6 * torch.sign(noise[:, :1, 8:9, 8:9])
    return _with_region(noise, 0.6 * _smooth(noise) + lift, 0.2)


def _noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def _labels(images: Tensor) -> Tensor:
    labels = torch.zeros(len(images), SIZE, SIZE, dtype=torch.long)
    labels[:, 6:10, 6:10] = 1
    return labels


@pytest.fixture(scope="module")
def reference() -> RealismReference:
    # Of lower contrast than all models, so that the control has a distance of its own and not that of small samples.
    return RealismReference.of(0.8 * control(_noise(IMAGES, 9)), FEATURES, {"eye": BOX}, extractor_name="pixels")


def _measured(make: object, reference: RealismReference) -> Measured:
    assert callable(make)
    _, swaps = swap_and_measure(make, _labels, _noise(PAIRS, 0), _noise(PAIRS, 1), {"eye": [1]})
    edits = measure_edits(
        "eye", swaps.originals, swaps.edited["eye"], swaps.masks["eye"], grown=1, features=FEATURES, box=BOX
    )
    return Measured(edits, measure_realism(make(_noise(IMAGES, 2)), reference))


@pytest.mark.parametrize(
    ("make", "faults"),
    [
        (filled_with_noise, {"MSE in", "crop Fréchet distance"}),
        (ignoring_its_noise, {"MSE in", "diversity"}),
        (with_a_seam, {"seam"}),
    ],
)
def test_what_wins_the_bare_ratio_by_a_trick_loses(make: object, faults: set[str], reference: RealismReference) -> None:
    candidate, against = _measured(make, reference), _measured(control, reference)
    assert compare_edits(candidate.edits, against.edits)["ratio"].high < 1  # it wins the ratio, beyond chance
    result = verdict(candidate, against)
    assert result.outcome == "loses"
    assert faults <= {line.name for line in result.lines if not line.passed}
    assert result.lines[0].passed and "although" in result.sentence
    failed = [line for line in result.lines if not line.passed]
    assert result.sentence.count("), ") == len(failed)  # between the faults, and before "although"
    for line in failed:
        assert f" {line.name} {line.figure:.3g} (" in result.sentence


def test_a_smaller_leak_alone_is_better(reference: RealismReference) -> None:
    result = verdict(_measured(honest, reference), _measured(control, reference))
    assert result.outcome == "better" and all(line.passed for line in result.lines)
    assert str(result).count("pass") == 5
    assert verdict(_measured(control, reference), _measured(honest, reference)).outcome == "loses"


def test_a_model_against_itself_draws(reference: RealismReference) -> None:
    same = _measured(control, reference)
    result = verdict(same, same)
    assert result.outcome == "draw" and [line.name for line in result.lines if not line.passed] == [
        "locality, upper end"
    ]
    assert [line.figure for line in result.lines] == [1, 1, 1, 1, 1]
    content = json.loads(json.dumps(result.to_json()))
    assert content["outcome"] == "draw" and content["lines"][2]["low"] is None


def test_bounds_are_the_callers(reference: RealismReference) -> None:
    candidate, against = _measured(filled_with_noise, reference), _measured(control, reference)
    loose = VerdictBounds(mse_in=(0, 100), crop_fid=1e9, diversity=0, seam=1e9)
    assert verdict(candidate, against, bounds=loose).outcome == "better"


def test_a_figure_that_is_no_number_passes_nothing(reference: RealismReference) -> None:
    against = _measured(control, reference)
    frozen = replace(against, edits=replace(against.edits, inside=0 * against.edits.inside))
    result = verdict(frozen, against)
    assert result.outcome == "loses" and not result.lines[0].passed


def test_a_verdict_wants_like_with_like(reference: RealismReference) -> None:
    against = _measured(control, reference)
    with pytest.raises(ValueError, match="needs the diversity"):
        verdict(replace(against, edits=replace(against.edits, diversity=None)), against)
    with pytest.raises(ValueError, match="different features"):
        verdict(replace(against, realism=replace(against.realism, extractor="other")), against)
    with pytest.raises(ValueError, match="lacks the crop 'eye'"):
        verdict(replace(against, realism=replace(against.realism, crops={})), against)


def test_an_evaluated_model_is_ready_for_the_verdict() -> None:
    domain = open_domain("photographs")
    model = small_denoiser(size=24, image_channels=1, channels=(8, 16), seed=3)
    config = EvaluateConfig(pairs=3, images=12, steps=2)
    result = evaluate(model, domain, config)
    measured = measured_by_concept(result, realism_reference(domain, config.concepts), config)
    assert list(measured) == list(config.concepts)
    for entry in result.locality:
        found = measured[entry.concept]
        assert found.edits.mse_in == pytest.approx(entry.mse_in, rel=2e-7)  # differences rounded to float32
        assert found.edits.mse_out == pytest.approx(entry.mse_out, rel=2e-7)
        assert found.realism.crops[entry.concept].fid == pytest.approx(result.realism[entry.concept], rel=1e-9)
        assert verdict(found, found).outcome == "draw"
    with pytest.raises(ValueError, match="go together"):
        realism_reference(domain, config.concepts, FEATURES)


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (Interval(0.9, 0.7, 1.1), "draw"),  # smaller, but perhaps by chance
        (Interval(0.9, 0.8, 0.99), "better"),
        (Interval(1.1, 0.9, 1.3), "draw"),
        (Interval(1.2, 1.05, 1.4), "loses"),
    ],
)
def test_the_claim_is_held_to_its_interval_not_to_its_figure(
    ratio: Interval, outcome: str, reference: RealismReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = _measured(control, reference)
    found = compare_edits(same.edits, same.edits)
    monkeypatch.setattr("shapkit_diffusion.evaluation.verdict.compare_edits", lambda *_: {**found, "ratio": ratio})
    result = verdict(same, same)
    assert result.outcome == outcome and result.lines[0].passed is (outcome == "better")
    assert result.lines[0].figure == ratio.high and str(ratio) in result.sentence
