"""Training in two real processes: the same model as in one, from one run folder, and the same end of both."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shapkit.differentiable import Regions
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import small_denoiser, small_transformer
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import train
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED

CONFIG = TrainConfig(
    steps=4,
    batch_size=8,
    warmup=0,
    precision="no",
    save_every=2,
    log_every=1,
    penalty=PenaltyConfig(weight=5.0),
)

SCRIPT = """
import os, signal
import torch
from accelerate import PartialState
from shapkit_diffusion.data import render_faces
from shapkit.differentiable import Regions
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import small_denoiser, small_transformer
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.training.stop_signals import EXIT_STOPPED, TrainingStopped
from shapkit_diffusion.training.denoiser import train

os.environ.update(environment)
torch.set_num_threads(1)
data, rank = render_faces(24, 32, seed=9), environment["RANK"]

class Signalled:
    '''The faces; one process gets SIGTERM, from outside as it were, while it reads those of a step.'''

    label_names, calls = data.label_names, 0

    def __len__(self):
        return len(data)

    def rows(self, indices):
        self.calls += len(indices) == 4  # its half of a batch of 8; not what else is looked at beforehand
        if rank == "1" and len(indices) == 4 and self.calls == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return data.rows(indices)

resume = (folder / "config.json").is_file()
denoiser = small_denoiser(size=32, channels=(8, 8, 16), seed=2)
halves, order = Regions.grid(1, 2, 32, 32), torch.tensor([[True, False], [True, True]])
if kind == "staged":
    denoiser = ComposedDenoiser(denoiser, halves, order, staged=True)
elif kind == "region":
    denoiser = RegionDenoiser(small_transformer(32, width=16, depth=2, patch=4, seed=2), halves, order)
try:
    train(denoiser, Signalled(), config, folder, resume=resume, sharded=sharded)
except TrainingStopped as stopped:
    assert PartialState().num_processes == 2
    (folder / f"stopped-{rank}").write_text(str(stopped))
    raise SystemExit(EXIT_STOPPED)
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same training in one process, this one."""
    folder = tmp_path_factory.mktemp("one") / "run"
    train(small_denoiser(size=32, channels=(8, 8, 16), seed=2), render_faces(24, 32, seed=9), CONFIG, folder)
    return folder


def in_two(
    processes: ForkServerContext,
    script: Path,
    folder: Path,
    config: TrainConfig,
    stop_at: int = 0,
    *,
    count: int = 2,
    kind: str = "unet",
    sharded: bool = False,
    launcher: Mapping[str, str] | None = None,
) -> set[Any]:
    """The exit statuses of two processes that find each other as a launcher's do, or of so many."""
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in map(str, range(count)):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "1",
            **(launcher or {}),
        }
        given = {"environment": environment, "folder": folder, "config": config, "stop_at": stop_at}
        given |= {"kind": kind, "sharded": sharded}
        process = processes.Process(target=runpy.run_path, args=(str(script), given), daemon=True)
        process.start()
        started.append(process)
    for process in started:
        process.join(timeout=240)
    return {process.exitcode for process in started}


def check_same(folder: Path, expected: Path, *, exactly: bool = False) -> None:
    """Equal metrics and models, up to rounding or to the last bit."""
    records = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (folder, expected)
    ]
    assert [record["step"] for record in records[0]] == [1, 2, 3, 4]
    for found, wanted in zip(*records, strict=True):
        for figure in ("denoising", "penalty"):
            assert found[figure] == pytest.approx(wanted[figure], rel=0 if exactly else 1e-4)
    # Their outputs, not their weights: Adam moves a weight without a gradient by the sign of its rounding error.
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([20, 300, 600, 950])
    with torch.inference_mode():
        outputs = [load_denoiser(run / "model")(x, timesteps) for run in (folder, expected)]
    atol = 0 if exactly else 1e-4 * float(outputs[1].abs().max())
    torch.testing.assert_close(*outputs, rtol=0, atol=atol)


def test_two_processes_train_what_one_does(processes: ForkServerContext, one: Path, tmp_path: Path) -> None:
    assert in_two(processes, tmp_path / "script.py", tmp_path / "run", CONFIG) == {0}
    check_same(tmp_path / "run", one)


def test_two_processes_train_a_staged_model(processes: ForkServerContext, tmp_path: Path) -> None:
    config = replace(CONFIG, penalty=None, anchor=True, concept_weight=4.0)
    plain, order = small_denoiser(size=32, channels=(8, 8, 16), seed=2), torch.tensor([[True, False], [True, True]])
    staged = ComposedDenoiser(plain, Regions.grid(1, 2, 32, 32), order, staged=True)
    train(staged, render_faces(24, 32, seed=9), config, tmp_path / "one")
    assert in_two(processes, tmp_path / "script.py", tmp_path / "two", config, kind="staged") == {0}
    check_same(tmp_path / "two", tmp_path / "one")


def test_micro_batches_in_two_processes_are_the_batch_of_one(
    processes: ForkServerContext, one: Path, tmp_path: Path
) -> None:
    """Four parts of two samples: gradients are added over micro-batches, and averaged over processes once."""
    assert in_two(processes, tmp_path / "script.py", tmp_path / "run", replace(CONFIG, accumulation=2)) == {0}
    check_same(tmp_path / "run", one)


def test_a_signal_to_one_of_two_processes_stops_both_and_resuming_gives_the_same_numbers(
    processes: ForkServerContext, one: Path, tmp_path: Path
) -> None:
    script, folder, whole = tmp_path / "script.py", tmp_path / "run", tmp_path / "whole"
    assert in_two(processes, script, whole, CONFIG) == {0}
    assert in_two(processes, script, folder, CONFIG, stop_at=3) == {EXIT_STOPPED}
    assert [path.name for path in (folder / "state").iterdir()] == ["step-00000003"]
    for rank in (0, 1):
        assert "stopped by a signal after 3 of 4 steps" in (folder / f"stopped-{rank}").read_text()
    assert not (folder / "model").exists()
    assert in_two(processes, script, folder, CONFIG) == {0}
    check_same(folder, whole, exactly=True)
    check_same(folder, one)


def test_a_model_in_parts_trains_as_a_whole_one_and_goes_on_in_one_process(
    processes: ForkServerContext, one: Path, tmp_path: Path
) -> None:
    """FSDP2: stopped and resumed in two processes, then stopped there and ended in one, from rows of both."""
    script, folder = tmp_path / "script.py", tmp_path / "run"
    assert in_two(processes, script, folder, CONFIG, stop_at=1, sharded=True) == {EXIT_STOPPED}
    saved = folder / "state" / "step-00000001"
    parts = [load_file(saved / f"weights-0000{rank}-of-00002.safetensors") for rank in (0, 1)]
    sizes = [sum(value.numel() for value in part.values()) for part in parts]
    total = sum(weight.numel() for weight in small_denoiser(size=32, channels=(8, 8, 16), seed=2).parameters())
    assert sum(sizes) == total and max(sizes) < 0.55 * total
    assert in_two(processes, script, folder, CONFIG, stop_at=2, sharded=True) == {EXIT_STOPPED}
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    assert in_two(processes, script, folder, CONFIG, sharded=True) == {0}
    check_same(folder, one)
    assert in_two(processes, script, alone, CONFIG, count=1) == {0}
    check_same(alone, one)


def test_what_began_whole_goes_on_in_parts(processes: ForkServerContext, tmp_path: Path) -> None:
    """As a launcher asks for it (FSDP), with an anchor that is in parts as well, and samples that all draw together."""
    config = replace(CONFIG, anchor=True, sample_every=2, accumulation=2)
    script = tmp_path / "script.py"
    expected = tmp_path / "expected"
    train(small_denoiser(size=32, channels=(8, 8, 16), seed=2), render_faces(24, 32, seed=9), config, expected)
    stopping = in_two(processes, script, tmp_path / "two", config, stop_at=2)
    assert stopping == {EXIT_STOPPED}  # whole in each process, in one file
    launcher = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    assert in_two(processes, script, tmp_path / "two", config, launcher=launcher) == {0}
    check_same(tmp_path / "two", expected)
    pictures = [sorted(path.name for path in (run / "samples").iterdir()) for run in (tmp_path / "two", expected)]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2


def test_a_region_transformer_in_parts_by_low_rank_changes(processes: ForkServerContext, tmp_path: Path) -> None:
    config = replace(CONFIG, penalty=None, noises_per_image=2, low_rank=2)
    halves, order = Regions.grid(1, 2, 32, 32), torch.tensor([[True, False], [True, True]])
    model = RegionDenoiser(small_transformer(32, width=16, depth=2, patch=4, seed=2), halves, order)
    train(model, render_faces(24, 32, seed=9), config, tmp_path / "one")
    for name, sharded in (("whole", False), ("parts", True)):
        assert in_two(processes, tmp_path / "script.py", tmp_path / name, config, kind="region", sharded=sharded) == {0}
        check_same(tmp_path / name, tmp_path / "one")


def test_one_process_has_nobody_to_share_a_model_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sharded asks for several processes, and this run has one"):
        train(small_denoiser(size=16, channels=(8,)), render_faces(8, 16), CONFIG, tmp_path / "run", sharded=True)


def test_the_command_runs_behind_a_launcher(tmp_path: Path) -> None:
    """As the help and the documentation say it: two processes, one run folder, one batch between them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "shapkit_diffusion.cli", "train", "--out", str(tmp_path / "run"), "--threads", "1"]
    command += ["--steps", "1", "--batch-size", "4", "--count", "8", "--channels", "8", "--size", "16"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert load_denoiser(tmp_path / "run" / "model").image_shape == (3, 16, 16)
