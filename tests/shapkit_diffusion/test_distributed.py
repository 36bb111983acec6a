"""Training in two real processes: the same model as in one, from one run folder."""

import json
import os
import subprocess
import sys

import pytest
import torch

from shapkit_diffusion.denoisers import load_denoiser

SCRIPT = """
import sys
import torch
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers import small_denoiser
from shapkit_diffusion.training import PenaltyConfig, TrainConfig, train

torch.set_num_threads(1)
torch.manual_seed(0)
data = render_faces(24, 32, seed=9)
denoiser = small_denoiser(size=32, channels=(8, 8, 16), seed=2)
config = TrainConfig(
    steps=4, batch_size=8, warmup=0, precision="no", save_every=2, log_every=1, penalty=PenaltyConfig(weight=5.0)
)
train(denoiser, data, config, sys.argv[1])
"""


def run(tmp_path, processes):
    script, folder = tmp_path / "script.py", tmp_path / f"run{processes}"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_two_processes_train_what_one_does(tmp_path):
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    # Their outputs, not their weights: Adam moves a weight without a gradient by the sign of its rounding error.
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([20, 300, 600, 950])
    with torch.inference_mode():
        expected, found = (load_denoiser(folder / "model")(x, timesteps) for folder in (one, two))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    records = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, two)
    ]
    assert [record["step"] for record in records[1]] == [1, 2, 3, 4]
    for expected, found in zip(*records, strict=True):
        assert found["denoising"] == pytest.approx(expected["denoising"], rel=1e-4)
        assert found["penalty"] == pytest.approx(expected["penalty"], rel=1e-4)
