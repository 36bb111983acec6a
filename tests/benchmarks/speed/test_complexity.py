"""The complexity benchmark counts honestly: its slow twins compute the penalty, and their runs follow the formulas."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def complexity() -> ModuleType:
    return importlib.import_module("benchmarks.speed.complexity")


def test_the_published_forms_compute_what_the_package_computes(complexity: ModuleType) -> None:
    n = 4
    x = complexity.images(n)
    losses = {form.name: float(form.loss(complexity.Network(), x)) for form in complexity.FORMS}
    assert losses["published, eq. (7)"] == pytest.approx(n * losses["ours, direct"], rel=1e-10)
    assert losses["published, Theorem 1"] == pytest.approx(n * 2**n * losses["ours, exact"], rel=1e-10)
    value = complexity.value_function(complexity.Network(), x)
    many = torch.stack([complexity.published_sampled(value, n, samples=4, seed=seed) for seed in range(100)])
    sampled = complexity.DummyPlayerPenalty("per_region", "zeros", samples=400)
    expected = n * float(sampled(complexity.Network(), x, complexity.stripes(n)))
    assert float(many.mean()) == pytest.approx(expected, abs=5 * float(many.std()) / 10 * 2**0.5)


def test_runs_follow_the_formulas_and_the_exponent_is_one(complexity: ModuleType) -> None:
    rows = complexity.measure(5)
    for row in rows:
        if row["form"] == "ours, shared":
            assert row["runs"] <= row["formula"]
        else:
            assert row["runs"] == row["formula"]
    assert complexity.exponents(rows) == pytest.approx(dict.fromkeys(complexity.exponents(rows), 1.0), abs=1e-9)
    text = complexity.report({"rows": rows, "samples": 4, "exponents": complexity.exponents(rows), "machine": "here"})
    assert "192" in text and "K = 4" in text


def test_the_picture(complexity: ModuleType, tmp_path: Path) -> None:
    complexity.draw({"rows": complexity.measure(3)}, tmp_path / "complexity.png")
    assert (tmp_path / "complexity.png").stat().st_size > 10_000
