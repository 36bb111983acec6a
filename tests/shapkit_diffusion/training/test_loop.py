"""The training loop: what it gives, logs, saves and heeds, on a model of one number."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.loop import descend, finite, training
from shapkit_diffusion.training.state import TrainingState
from shapkit_diffusion.training.stop_signals import TrainingStopped


@dataclass(frozen=True)
class Pace:
    steps: int = 7
    log_every: int = 3
    save_every: int = 2


def _state() -> TrainingState[nn.Linear]:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return TrainingState(model, optimizer, EMAModel(model.parameters(), decay=0.5))


def _run(folder: Path, pace: Pace = Pace(), *, resume: bool = False, stop_at: int = -1, fail_at: int = -1) -> Any:
    """The weights after a run, and what was seen of its steps."""
    state, seen, told = _state(), [], []
    accelerator = Accelerator(cpu=True)
    with (
        RunFolder.held(folder, {"pace": 1}, resume=resume) as run,
        training(run, state, pace, accelerator, lambda *counts: told.append(counts)) as steps,
    ):
        for step in steps:
            seen.append((step.number, step.done, step.logged))
            loss = (state.model(torch.tensor([[step.number + 1.0]])) - 1).square().mean()
            norm = descend(state, loss, 0.1 / step.done, gradient_clip=1.0)

            def figures(step: Any = step, loss: Any = loss, norm: Any = norm) -> Mapping[str, float]:
                bad = float("nan") if step.number == fail_at else loss.item()
                return finite(step.done, loss=bad) | {"norm": float(norm)}

            step.figures = figures
            if step.number == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
    weights = [*state.model.parameters(), *state.average.shadow_params]
    return [float(value) for weight in weights for value in weight.detach().flatten()], seen, told


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_are_counted_logged_saved_and_told(tmp_path: Path) -> None:
    _, seen, told = _run(tmp_path / "run")
    assert seen == [(number, number + 1, number + 1 in (3, 6, 7)) for number in range(7)]
    assert told == [(done, 7) for done in range(1, 8)]
    lines = _lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 6, 7] and list(lines[0]) == ["step", "loss", "norm", "seconds"]
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-00000007"]


@pytest.mark.parametrize("stop_at", [0, 2, 5])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path: Path, stop_at: int) -> None:
    whole, _, _ = _run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped, match=f"after {stop_at + 1} of 7 steps"):
        _run(tmp_path / "parts", stop_at=stop_at)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "parts" / "state").iterdir()] == [f"step-{stop_at + 1:08d}"]
    parts, seen, _ = _run(tmp_path / "parts", resume=True)
    assert parts == whole and seen[0][0] == stop_at + 1
    alike = [[{**line, "seconds": 0} for line in _lines(tmp_path / name)] for name in ("whole", "parts")]
    assert alike[0] == alike[1]


def test_a_signal_in_the_last_step_stops_nothing(tmp_path: Path) -> None:
    _run(tmp_path / "run", stop_at=6)
    assert _lines(tmp_path / "run")[-1]["step"] == 7


@pytest.mark.parametrize(("fail_at", "kept"), [(1, []), (2, ["step-00000002"]), (3, ["step-00000002"])])
def test_no_state_is_saved_of_a_loss_that_is_not_finite(tmp_path: Path, fail_at: int, kept: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match=rf"not finite at step {fail_at + 1} \(loss nan\): lower the learning rate"):
        _run(tmp_path / "run", fail_at=fail_at)
    assert signal.getsignal(signal.SIGTERM) is before
    folder = tmp_path / "run" / "state"
    assert ([path.name for path in folder.iterdir()] if folder.exists() else []) == kept


def test_an_error_in_a_step_gives_the_signals_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with RunFolder.held(tmp_path / "run", {}, resume=False) as run:
        loop = training(run, _state(), Pace(), Accelerator(cpu=True))
        with pytest.raises(OSError, match="on purpose"), loop as steps:
            for _ in steps:
                raise OSError("on purpose")
        assert signal.getsignal(signal.SIGTERM) is before


def test_descending_clips_the_gradient_and_averages_the_weights() -> None:
    state = _state()
    start = [weight.detach().clone() for weight in state.model.parameters()]
    norm = descend(state, 100 * state.model(torch.ones(1, 1)).square().sum(), 0.05, gradient_clip=1.0)
    gradient = torch.stack([weight.grad.flatten()[0] for weight in state.model.parameters()])  # type: ignore[union-attr]
    assert float(norm) > 1 and float(gradient.norm()) == pytest.approx(1.0, rel=1e-4)
    for first, now, shadow in zip(start, state.model.parameters(), state.average.shadow_params, strict=True):
        assert float((now.detach() - first).abs()) == pytest.approx(0.05, rel=0.05)  # AdamW's first step is the rate
        assert float((shadow - first).abs()) > 0
