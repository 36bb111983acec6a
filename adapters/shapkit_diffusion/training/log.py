"""What a training run shows of itself: JSON lines, TensorBoard's events where it is installed, grids of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor

from shapkit._files import whole_file
from shapkit.differentiable import LossReport
from shapkit_diffusion.data.pixels import to_bytes
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.noise.sampling import draw_noise, generate
from shapkit_diffusion.runs import RunFolder

SAMPLES = 16


class TrainingLog:
    """Writes the records of one run, each to ``metrics.jsonl`` and to ``tensorboard/``; use it in a ``with`` block.

    Args:
        run: the run folder; lines after ``step`` are dropped, as the run is going to write them again.
        step: the steps that are done.
    """

    def __init__(self, run: RunFolder, step: int) -> None:
        self.run = run
        run.drop_metrics_from(step)
        self._events: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def record(self, record: Mapping[str, Any]) -> None:
        """One line; numbers, and numbers within mappings, become TensorBoard's scalars."""
        self.run.log(record)
        for name, value in _scalars(record):
            if self._events is not None and name != "step":
                self._events.add_scalar(name, value, record["step"])

    def samples(self, images: Tensor, step: int) -> None:
        """``samples/step-N.png``: images (n, channels, height, width) in [-1, 1] in a square grid."""
        folder = self.run.path / "samples"
        folder.mkdir(exist_ok=True)
        grid = image_grid(images)
        write_picture(folder / f"step-{step:08d}.png", grid)
        if self._events is not None:
            self._events.add_image("samples", grid, step, dataformats="HWC")


def shared_report(report: LossReport, accelerator: Accelerator) -> LossReport:
    """The report of the global batch, of each process's own; all of them must call it."""
    by_region = accelerator.reduce(report.by_region, reduction="mean")
    if report.gram is None or report.blame is None:
        return LossReport(by_region[None], report.names)
    gram, blame = (accelerator.reduce(sums, reduction="sum") for sums in (report.gram, report.blame))
    return LossReport(by_region[None], report.names, gram, blame)


def figures_of(report: LossReport) -> dict[str, Any]:
    """A report as a record: the penalty of every output region, and the share of all blame that each pair has.

    >>> import torch
    >>> figures_of(LossReport(torch.tensor([[1.0, 3.0]]), ("eyes", "rest")))
    {'penalty_of': {'eyes': 1.0, 'rest': 3.0}}
    """
    figures: dict[str, Any] = {"penalty_of": dict(zip(report.names, report.by_region.tolist(), strict=True))}
    if report.gram is not None:
        figures["blame"] = {
            f"{output} for {source}": share
            for output, row in zip(report.names, report.pair_shares.tolist(), strict=True)
            for source, share in zip(report.names, row, strict=True)
            if share > 0
        }
    return figures


def averaged_samples(denoiser: Denoiser, average: EMAModel | None, seed: int, steps: int = 25) -> Tensor:
    """Images (16, channels, height, width) that the averaged weights make of noise that ``seed`` names.

    The denoiser has its own weights again afterwards; without ``average`` those that it has are the averaged ones.
    """
    if average is not None:
        average.store(denoiser.parameters())
        average.copy_to(denoiser.parameters())
    try:
        noise = draw_noise(denoiser, SAMPLES, seed)
        return denoiser.decode(generate(denoiser, noise, min(steps, denoiser.n_timesteps)))
    finally:
        if average is not None:
            average.restore(denoiser.parameters())


def image_grid(images: Tensor) -> np.ndarray:
    """Images (n, channels, height, width) in [-1, 1] as one of uint8 (height, width, 3), in a square grid.

    >>> import torch
    >>> image_grid(torch.zeros(5, 1, 8, 8)).shape
    (16, 24, 3)
    """
    pixels = np.moveaxis(to_bytes(images), 1, -1)
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    count, height, width, channels = pixels.shape
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = pixels
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return np.broadcast_to(grid.reshape(rows * height, columns * width, channels), (rows * height, columns * width, 3))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (height, width, 3) as PNG, whole or not at all."""
    with whole_file(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, format="png")


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        else:
            found.append((f"{prefix}{name}", float(value)))
    return found
