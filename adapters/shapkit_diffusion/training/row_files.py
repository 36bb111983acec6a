"""What is computed once of every image of a data set, kept in a file: latents, and noise that belongs to the images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from shapkit_diffusion.data.labelled import Images
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.fingerprints import digits_of_data, digits_of_weights

Compute = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Rows:
    """The images of which something is computed, and what shape it has.

    Args:
        data: a data set.
        count: how many of its images, the first ones.
        flip: their mirror images, too.
        shape: (channels, height, width) of what is computed.
    """

    data: Images
    count: int
    flip: bool
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RowFiles:
    """Where the files of a run lie: in its own folder, or in one that runs share.

    Args:
        folder: the run's.
        shared: a folder of files that other runs made or will use. Their names tell the network, the settings and the
            data, so that runs of other models may share it as well.
    """

    folder: Path
    shared: Path | None = None

    def made(
        self,
        name: str,
        rows: Rows,
        compute: Compute,
        network: nn.Module,
        settings: Mapping[str, Any],
        accelerator: Accelerator,
        at_once: int = 8,
    ) -> np.ndarray:
        """What ``compute`` makes of each image, float32 (count, 1 or 2, *shape), mapped from the disk.

        Each process makes its share, in parts. Parts not made yet are NaN, so that an interrupted call goes on.

        Args:
            name: of the file.
            rows: the images.
            compute: called with images (n, channels, height, width) and a number for each, mirror images' own.
            network: what computes, and
            settings: how; both are part of a shared file's name.
            accelerator: the processes.
            at_once: images given to ``compute`` at a time.
        """
        path = self.folder / f"{name}.npy"
        if self.shared is not None:
            self.shared.mkdir(parents=True, exist_ok=True)
            path = self.shared / f"{name}-{_fingerprint(rows, network, settings)}.npy"
        if not path.is_file():
            _make(path, rows, compute, accelerator, at_once)
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found


def rows_of(made: np.ndarray, indices: Tensor, mirrored: Tensor, device: torch.device) -> Tensor:
    """What a file holds for the images with these indices, or their mirror images, (n, *shape)."""
    return torch.from_numpy(made[indices.cpu().numpy(), mirrored.cpu().numpy().astype(int)]).to(device)


def _make(path: Path, rows: Rows, compute: Compute, accelerator: Accelerator, at_once: int) -> None:
    partial, sides = path.with_name(path.name + ".partial"), 2 if rows.flip else 1
    if accelerator.is_main_process and not partial.is_file():
        kept = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(rows.count, sides, *rows.shape))
        kept[:] = np.nan
    accelerator.wait_for_everyone()
    kept = np.lib.format.open_memmap(partial, mode="r+")
    starts = range(0, rows.count, at_once)
    for start in starts[accelerator.process_index :: accelerator.num_processes]:
        part = range(start, min(start + at_once, rows.count))
        images = to_unit_range(torch.as_tensor(rows.data.rows(part)[0])).to(accelerator.device)
        for side in range(sides):
            if np.isnan(kept[part.start : part.stop, side]).any():
                made = compute(images.flip(3) if side else images, [sides * row + side for row in part])
                kept[part.start : part.stop, side] = made.float().cpu().numpy()
        kept.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and partial.is_file():  # another run that shares the file may have been first
        partial.rename(path)
    accelerator.wait_for_everyone()


def _fingerprint(rows: Rows, network: nn.Module, settings: Mapping[str, Any]) -> str:
    """Twelve digits that tell networks, settings and data apart."""
    images = digits_of_data(rows.data, rows.count)["images"]
    described = [digits_of_weights(network), images, rows.count, rows.flip, rows.shape, dict(settings)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
