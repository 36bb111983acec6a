"""The cost benchmark measures what it says, with the same functions for the CPU and for a GPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture
def penalty_cost() -> ModuleType:
    torch.set_num_threads(1)
    return importlib.import_module("benchmarks.speed.penalty_cost")


@pytest.fixture
def tiny(penalty_cost: ModuleType) -> Any:
    """The large DDPM's functions on a small one of its kind."""
    network = penalty_cost.Ddpm(8, channels=(8, 8, 8), layers=1)
    return penalty_cost.problem_of("8 x 8, batch 2, bf16, here", network, 8, 2, "cpu", autocast=True)


def test_a_step_trains_and_counts_its_runs(penalty_cost: ModuleType, tiny: Any) -> None:
    regions = penalty_cost.stripes(3, tiny.x)
    before = [weights.detach().clone() for weights in tiny.network.parameters()]
    runs = {form: penalty_cost.train_step(tiny, penalty, regions, 0) for form, penalty in penalty_cost.FORMS.items()}
    assert penalty_cost.train_step(tiny, None, regions, 0) == 1
    assert runs["default"] == 2
    assert runs["grand coalition"] == 3
    assert 1 < runs["shared, C = 4"] <= 1 + 4 + 3 + 1
    assert runs["published, C = 1"] < runs["published, C = 4"]
    assert any(not torch.equal(a, b) for a, b in zip(before, tiny.network.parameters(), strict=True))
    assert all(weights.grad is None for weights in tiny.network.parameters())


def test_a_whole_measurement_and_its_report(penalty_cost: ModuleType, tiny: Any, tmp_path: Path) -> None:
    problem = penalty_cost.measured_problem(tiny, [2, 3], turns=1, batch_on_cpu=None)
    assert len(problem["rows"]) == 2 * len(penalty_cost.FORMS)
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in problem["rows"])
    problem["plain_peak_mb"] = 10.0
    for row in problem["rows"]:
        row["peak_mb"] = 25.0
    results = {"problems": [problem], "machine": "a machine"}
    text = penalty_cost.report(results)
    assert "K = 3" in text and "2.5 x MB" in text and "times cheaper" in text
    penalty_cost.draw(results, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 10_000


def test_forms_that_do_not_fit_are_said_not_to(penalty_cost: ModuleType) -> None:
    rows = [
        {"form": form, "n_regions": 2, "seconds": 2.0, "ratio": 2.0, "plain_seconds": 1.0, "peak_mb": 20.0}
        for form in penalty_cost.FORMS
    ]
    rows[0] = {"form": rows[0]["form"], "n_regions": 2, "seconds": None, "peak_mb": None}
    problem = {"name": "P", "n_parameters": 1, "plain_peak_mb": 10.0, "waits": 0, "rows": rows}
    text = penalty_cost.report({"problems": [problem], "machine": "a machine"})
    assert text.count("does not fit") == 2  # in the table and in the verdict
    assert "wait for the GPU 0 times" in text


def test_waits_are_counted_by_name(penalty_cost: ModuleType, tiny: Any) -> None:
    names = ["aten::mul", "cudaStreamSynchronize", "Memcpy DtoH (Device -> Pageable)", "Memcpy HtoD"]
    assert penalty_cost.count_waits(names) == 2
    assert penalty_cost.waits(penalty_cost.FORMS["default"], tiny.x, penalty_cost.stripes(2, tiny.x)) == 0


def test_the_large_ddpm_has_the_published_size(penalty_cost: ModuleType) -> None:
    with torch.device("meta"):
        network = penalty_cost.Ddpm(256)
    assert sum(weights.numel() for weights in network.parameters()) == pytest.approx(113.7e6, rel=1e-3)
