"""Two gloo processes, under DistributedDataParallel and FSDP2, against one process on the same global batch."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from shapkit.differentiable import DummyPlayerPenalty, Regions

REGIONS = Regions.from_labels(torch.tensor([[[0, 0, 1, 1]] * 2 + [[2, 2, 1, 1]] * 2]), {"right": [1], "low": [2]})
X = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def gradients(rank: int, world: int, estimator: str, wrapper: str = "none") -> dict[str, Tensor]:
    """The penalty and its gradient, of this process's rows, averaged over the processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1))
    network: nn.Module = plain
    if wrapper == "data parallel":
        network = DistributedDataParallel(plain)
    elif wrapper == "in parts":
        fully_shard(plain[0])
        network = fully_shard(plain)
    size = len(X) // world
    rows = X[rank * size : (rank + 1) * size]
    loss = DummyPlayerPenalty(estimator, samples=2)(network, rows, REGIONS, step=5, first_index=rank * size)
    loss.backward()
    total = loss.detach().clone()
    if world > 1:
        torch.distributed.all_reduce(total)
    whole = [g.full_tensor() if isinstance(g := p.grad, DTensor) else g for p in plain.parameters()]
    return {"loss": total / world, "gradient": torch.cat([gradient.flatten() for gradient in whole])}


def main() -> None:
    rank, store, found = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = {
        (estimator, wrapper): gradients(rank, 2, estimator, wrapper)
        for estimator in ("grand", "present", "exact", "shared")
        for wrapper in ("data parallel", "in parts")
    }
    if rank == 0:
        torch.save(results, found)
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    store, found = tmp_path / "store", tmp_path / "found.pt"
    command = [sys.executable, __file__]
    processes = [subprocess.Popen([*command, str(rank), str(store), str(found)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    measurements = torch.load(found)
    assert len(measurements) == 8
    for (estimator, wrapper), measured in measurements.items():
        alone = gradients(0, 1, estimator)
        for name, expected in alone.items():
            assert float(expected.norm()) > 0
            assert float((measured[name] - expected).norm() / expected.norm()) < 1e-6, (estimator, wrapper, name)


if __name__ == "__main__":
    main()
