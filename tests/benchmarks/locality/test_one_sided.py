"""Generation with exact denoisers: what is unbiased, and what is not."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def one_sided() -> ModuleType:
    return importlib.import_module("benchmarks.locality.one_sided")


def test_conditional_means_are_those_of_a_regression(one_sided: ModuleType) -> None:
    """The slow twin: least squares on drawn data, within five standard errors of a residual of at most 1."""
    rng, rho, signal, sigma, count = np.random.default_rng(1), 0.6, 0.8, 0.6, 200_000
    clean = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], count).T
    noise = rng.normal(size=(2, count))
    for training in one_sided.TRAININGS:
        fresh = noise.copy()
        if training == "paired":
            fresh[0] = clean[0] * (1 - signal) / sigma  # so that r_t is r_0, where its flow has it
        r, c = signal * clean + sigma * fresh
        of_r, of_c = one_sided.clean_means(training, rho, signal, sigma, r, c)
        seen = {"both ways": [r, c], "fresh": [r], "paired": [r]}[training]
        if training != "paired":  # there r may not use that it knows r_0: its flow is the marginal one
            fitted = np.linalg.lstsq(np.stack(seen, axis=1), clean[0], rcond=None)[0] @ np.stack(seen)
            assert np.abs(fitted - of_r).std() < 5 * np.sqrt(2 / count)
        fitted = np.linalg.lstsq(np.stack([r, c], axis=1), clean[1], rcond=None)[0] @ np.stack([r, c])
        assert np.abs(fitted - of_c).std() < 5 * np.sqrt(2 / count)


def test_paired_noise_gives_back_what_fresh_noise_halves(one_sided: ModuleType) -> None:
    """Standard errors of a correlation are below 1 / sqrt(count); 200 steps are off by 0.01 at most."""
    count, allowed = 40_000, 5 / np.sqrt(40_000) + 0.01
    for rho in (0.2, 0.5, 0.8):
        for training in ("both ways", "paired"):
            found, deviation = one_sided.generated(training, rho, count, 200)
            assert abs(found - rho) < allowed and abs(deviation - 1) < allowed
        assert one_sided.generated("fresh", rho, count, 200)[0] < rho * 0.7
