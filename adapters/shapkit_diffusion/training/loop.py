"""The one training loop: what a run keeps beside its steps - state, log, signals, progress - whatever it trains.

    with training(run, state, config, accelerator) as steps:
        for step in steps:
            loss = ...
            step.figures = lambda: {"loss": loss.item()}

A step is done when the loop comes back for the next one. Then its figures are logged, the state is saved and signals
are heeded, so that a run that is interrupted anywhere resumes to the numbers of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.log import TrainingLog
from shapkit_diffusion.training.state import TrainingState
from shapkit_diffusion.training.stop_signals import StopSignals, TrainingStopped

Progress = Callable[[int, int], None]


class Pace(Protocol):
    """What the loop reads of a run's configuration; every training configuration has it."""

    @property
    def steps(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...


def _no_figures() -> Mapping[str, Any]:
    return {}


@dataclass
class Step:
    """One step of a run.

    Attributes:
        number: counted from 0; names the random draws of the step.
        logged: whether the figures of the step will be logged.
        log: for what a step logs beside its figures; None in all processes but the main one.
        figures: set by the body: returns what is logged, in the order of the line. It is called after the step where
            figures are logged or the state is saved, in all processes together, and raises where a loss is not finite,
            so that no state is saved of it.
    """

    number: int
    logged: bool
    log: TrainingLog | None
    figures: Callable[[], Mapping[str, Any]] = _no_figures

    @property
    def done(self) -> int:
        """How many steps are done after this one."""
        return self.number + 1


@contextmanager
def training(
    run: RunFolder,
    state: TrainingState[Any],
    pace: Pace,
    accelerator: Accelerator,
    progress: Progress | None = None,
) -> Iterator[Iterator[Step]]:
    """A context that gives the steps that are left of a run, from its last saved state on.

    Args:
        run: the folder, held by this process; ``metrics.jsonl`` and ``state/`` are kept there.
        state: what the steps change; loaded here.
        pace: how many steps, how often figures are logged and the state is saved.
        accelerator: all of its processes go through the steps together.
        progress: called as ``progress(done, total)`` after every step, in the main process.

    Raises:
        ValueError: as `TrainingState.load`.
        TrainingStopped: by the steps, after SIGTERM or SIGUSR1, when a step is done and the state saved.
    """
    first = state.load(run.path / "state", accelerator)
    main = accelerator.is_main_process
    with StopSignals() as signals, TrainingLog(run, first) if main else nullcontext() as log:
        yield _steps(run, state, pace, accelerator, progress, first, signals, log)


def _steps(
    run: RunFolder,
    state: TrainingState[Any],
    pace: Pace,
    accelerator: Accelerator,
    progress: Progress | None,
    first: int,
    signals: StopSignals,
    log: TrainingLog | None,
) -> Iterator[Step]:
    started, before = time.perf_counter(), run.seconds()
    for number in range(first, pace.steps):
        done, last = number + 1, number + 1 == pace.steps
        step = Step(number, done % pace.log_every == 0 or last, log)
        yield step
        stopping = signals.received(accelerator) and not last
        saved = done % pace.save_every == 0 or stopping or last
        figures = step.figures() if step.logged or saved else {}
        if step.logged and log is not None:
            seconds = round(before + time.perf_counter() - started, 3)
            log.record({"step": done} | dict(figures) | {"seconds": seconds})
        if saved:
            state.save(run.path / "state", done, accelerator)
        if progress is not None and accelerator.is_main_process:
            progress(done, pace.steps)
        if stopping:
            raise TrainingStopped(done, pace.steps, run.path)


def descend(state: TrainingState[Any], loss: Tensor, learning_rate: float, gradient_clip: float) -> Tensor:
    """Take one optimiser step down a scalar loss, and average the weights; returns the gradient's norm, a scalar."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm: Tensor = torch.nn.utils.clip_grad_norm_(state.model.parameters(), gradient_clip)
    state.optimizer.step()
    state.average.step(state.model.parameters())
    return norm


def finite(step: int, **losses: float) -> dict[str, float]:
    """The losses of a step, counted from 1, if they are finite.

    Raises:
        ValueError: if they are not.

    >>> finite(7, denoising=float("nan"))
    Traceback (most recent call last):
    ...
    ValueError: the loss is not finite at step 7 (denoising nan): lower the learning rate
    """
    if not all(map(math.isfinite, losses.values())):
        found = ", ".join(f"{name} {loss}" for name, loss in losses.items())
        raise ValueError(f"the loss is not finite at step {step} ({found}): lower the learning rate")
    return losses
