"""Checkpoints of a training run: all that the next step depends on, in safetensors, whole or not at all.

Random numbers are named by seed and step, so there is no generator's state to keep, and a checkpoint does not depend on
how many processes made it. Of a model in parts (`sharding`) every process writes and reads its own rows; what any
number of processes wrote, any other number reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shapkit_diffusion.denoisers.checkpoints import TensorParts, check_same_shapes
from shapkit_diffusion.runs import read_json, whole_number, write_json
from shapkit_diffusion.training.sharding import own, own_rows, shared_like

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TrainingState(Generic[Network]):
    """What a step changes: the weights, the optimiser's moments, the average of the weights.

    Args:
        model: what is trained, not wrapped for several processes.
        optimizer: what ``accelerator.prepare`` made of it.
        average: the exponential moving average.
    """

    model: Network
    optimizer: Any
    average: EMAModel

    def save(self, folder: Path, step: int, accelerator: Accelerator) -> None:
        """Write ``folder/step-N`` and remove what was there before; every process calls it, and all wait for its end.

        It is written aside and renamed, and the older one goes last, so that a kill at any time leaves a complete one.
        """
        target = folder / f"step-{step:08d}"
        partial = target.with_name(target.name + ".partial")
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        shared_out = any(isinstance(weight, DTensor) for weight in self.model.parameters())
        part, parts = (accelerator.process_index, accelerator.num_processes) if shared_out else (0, 1)
        if shared_out:
            accelerator.wait_for_everyone()  # the folder is there
        if shared_out or accelerator.is_main_process:
            self._write(partial, part, parts)
        if shared_out:
            accelerator.wait_for_everyone()  # all parts are
        if accelerator.is_main_process:
            write_json(partial / "state.json", {"step": step, "average_steps": self.average.optimization_step})
            older = [path for path in target.parent.iterdir() if path not in (partial, target)]
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            for path in older:
                shutil.rmtree(path, ignore_errors=True)
        accelerator.wait_for_everyone()

    def _write(self, folder: Path, part: int, parts: int) -> None:
        """Write the rows that this process has; of what is not shared out, all in the first part."""
        moments = {
            f"{number}.{name}": torch.as_tensor(value)
            for number, entry in self.optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        shadows = {f"{number}": shadow for number, shadow in enumerate(self.average.shadow_params)}
        for name, tensors in (("weights", self.model.state_dict()), ("optimizer", moments), ("average", shadows)):
            rows = {
                key: own(value).contiguous()
                for key, value in tensors.items()
                if part == 0 or isinstance(value, DTensor)
            }
            save_file(rows, TensorParts.path(folder, name, part, parts))

    def load(self, folder: Path, accelerator: Accelerator) -> int:
        """Fill everything from the last checkpoint; returns the step to go on with, 0 where there is none.

        Raises:
            ValueError: if the checkpoint is of another model or damaged, or not every process sees the same one.
        """
        last = max(_complete(folder), default=None)  # the names sort by step
        step, average_steps = _read_counts(last / "state.json") if last else (0, 0)
        found = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
        if len(set(found)) > 1:
            raise ValueError(
                f"the processes found checkpoints of different steps in {folder}, {found}: it must be one folder that "
                "all of them can read"
            )
        if last:
            self._read(last)
            self.average.optimization_step = average_steps
        return step

    def _read(self, source: Path) -> None:
        weights, moments, shadows = (TensorParts(source, name) for name in ("weights", "optimizer", "average"))
        state = self.model.state_dict()
        check_same_shapes(state, weights.shapes, source)
        with torch.no_grad():
            for name, value in state.items():
                own(value).copy_(weights.rows(name, own_rows(value)))
            for number, shadow in enumerate(self.average.shadow_params):
                own(shadow).copy_(shadows.rows(f"{number}", own_rows(shadow)))
        parameters = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        entries: dict[int, dict[str, Tensor]] = {}
        for key, shape in moments.shapes.items():
            index, name = key.split(".", 1)
            number = int(index)
            of = parameters[number]
            alike = bool(shape) and shape == tuple(of.shape)  # a moment; else a count of steps
            value = shared_like(moments.rows(key, own_rows(of)), of) if alike else moments.rows(key)
            entries.setdefault(number, {})[name] = value
        self.optimizer.load_state_dict({"state": entries, "param_groups": self.optimizer.state_dict()["param_groups"]})


def _read_counts(path: Path) -> tuple[int, int]:
    """The step of a checkpoint, and the steps of its average."""
    state = read_json(path)
    if path.parent.name != f"step-{whole_number(state, 'step', str(path)):08d}":
        raise ValueError(f"{path} is damaged: it says step {state['step']}")
    return whole_number(state, "step", str(path)), whole_number(state, "average_steps", str(path))


def _complete(folder: Path) -> Iterator[Path]:
    """The checkpoints that were written to their end."""
    return (path.parent for path in folder.glob("step-*/state.json") if path.parent.suffix != ".partial")
