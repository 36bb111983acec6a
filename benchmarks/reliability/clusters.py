"""Games over many processes: what workers add, what each batch costs, and what is lost when workers are killed.

    python -m benchmarks.reliability.clusters                    # all; about four minutes; docs/results/clusters.json
    python -m benchmarks.reliability.clusters --only dask --players 8 --out /tmp/clusters.json
    python -m benchmarks.reliability.clusters --redraw

Real clusters on this machine: a pool of processes (`RestartingExecutor`), a Dask cluster of worker processes, and Ray,
where it is installed. The payoff waits, as for a model on another machine, so that more workers than cores can be seen
to help; without waiting, what is left is what the executor costs. For the kills, workers are ended by SIGKILL at random
moments; the values must be those of one process, bit for bit, and no coalition counted twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shapkit
from benchmarks.machine import machine
from shapkit_diffusion.runs import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "clusters.json"
WORKERS = (1, 2, 4, 8)
BATCH = 32
TITLES = {
    "processes": "processes, RestartingExecutor",
    "dask": "Dask, worker processes",
    "ray": "Ray, worker processes",
}


def payoff(folder: str, seconds: float, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weighted squares, after waiting; leaves the worker's number in the folder, for whoever is to kill it."""
    Path(folder, str(os.getpid())).touch()
    if seconds:
        time.sleep(seconds)
    weights = np.arange(1.0, coalitions.shape[1] + 1)
    return np.sqrt(coalitions @ weights) + coalitions[:, 0] * coalitions[:, -1]


class RayExecutor(Executor):
    """Ray as an executor, after ``ray.init()``; it repeats what the death of a worker ended."""

    def __init__(self) -> None:
        import ray

        self._call = ray.remote(max_retries=10)(lambda function, *args, **kwargs: function(*args, **kwargs))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of fn(*args, **kwargs)."""
        future: Future[Any] = self._call.remote(fn, *args, **kwargs).future()
        return future


@contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """A pool on this machine."""
    make = partial(ProcessPoolExecutor, workers, mp_context=get_context("spawn"))
    with shapkit.RestartingExecutor(make, max_restarts=100) as executor:
        yield executor


@contextmanager
def dask(workers: int) -> Iterator[Executor]:
    """A Dask cluster on this machine: a scheduler, and workers with nannies that start them anew."""
    from dask import config
    from distributed import Client, LocalCluster

    # A batch whose worker died is given to another one so often: all kills may hit the same
    with (
        config.set({"distributed.scheduler.allowed-failures": 100}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()


@contextmanager
def ray(workers: int) -> Iterator[Executor]:
    """A Ray cluster on this machine."""
    import ray as library

    library.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield RayExecutor()
    finally:
        library.shutdown()


BACKENDS = {"processes": processes, "dask": dask, "ray": ray}


def timed(executor: Executor, folder: str, n_players: int, seconds: float) -> float:
    """Seconds that all coalitions take through the executor, which has been used before."""
    game = shapkit.Game(partial(payoff, folder, seconds), n_players, batch_size=BATCH, executor=executor)
    started = time.perf_counter()
    shapkit.exact(game)
    return time.perf_counter() - started


def wait_for(executor: Executor, folder: str, workers: int, patience: float = 60.0) -> None:
    """Return when all workers have done something."""
    until = time.monotonic() + patience
    while len(list(Path(folder).iterdir())) < workers and time.monotonic() < until:
        timed(executor, folder, 8, 0.05)


def rates(name: str, n_players: int, seconds: float) -> dict[str, Any]:
    """Evaluations a second against the number of workers, and what a batch costs beside its evaluation."""
    rows = []
    batches = 2**n_players // BATCH
    for workers in WORKERS:
        with tempfile.TemporaryDirectory() as folder, BACKENDS[name](workers) as executor:
            wait_for(executor, folder, workers)
            waiting = timed(executor, folder, n_players, seconds)
            empty = min(timed(executor, folder, n_players, 0.0) for _ in range(3))
        rows.append({"workers": workers, "seconds": waiting, "overhead": empty / batches})
    return {"batch": BATCH, "batch_seconds": seconds, "players": n_players, "rows": rows}


class Model:
    """A value function of some megabytes."""

    def __init__(self, megabytes: int) -> None:
        self.weights = np.ones((megabytes, 2**17))

    def __call__(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The first players' number, times one."""
        payoffs: NDArray[np.float64] = coalitions.sum(axis=1) * self.weights[0, 0]
        return payoffs


def model_sent(name: str, megabytes: int, n_players: int = 9) -> dict[str, Any]:
    """Seconds a batch of a model that is sent with every batch, and of one that each of two workers makes once."""
    found: dict[str, Any] = {"megabytes": megabytes}
    values = {"sent": Model(megabytes), "per_worker": shapkit.PerWorker(partial(Model, megabytes))}
    with BACKENDS[name](2) as executor:
        for how, value in values.items():
            game = shapkit.Game(value, n_players, batch_size=BATCH, executor=executor)
            shapkit.exact(game)
            started = time.perf_counter()
            shapkit.exact(game)
            found[how] = (time.perf_counter() - started) / (2**n_players // BATCH)
    return found


def killed(name: str, n_players: int, kills: int, seconds: float, workers: int = 3, seed: int = 0) -> dict[str, Any]:
    """A game during which workers are killed, beside the same in this process."""
    with tempfile.TemporaryDirectory() as folder, BACKENDS[name](workers) as executor:
        wait_for(executor, folder, workers)
        game = shapkit.Game(partial(payoff, folder, seconds), n_players, batch_size=BATCH, executor=executor)
        done = threading.Event()
        ended: list[int] = []
        killer = threading.Thread(target=_kill, args=(Path(folder), kills, done, ended, seed))
        killer.start()
        try:
            found = shapkit.exact(game).values
        finally:
            done.set()
            killer.join()
        alone = shapkit.Game(partial(payoff, folder, 0.0), n_players, batch_size=BATCH)
        expected = shapkit.exact(alone).values
    return {
        "workers": workers,
        "players": n_players,
        "kills": len(ended),
        "largest_difference": float(np.abs(found - expected).max()),
        "evaluations_lost_or_twice": game.n_evaluations - 2**n_players,
    }


def _kill(folder: Path, kills: int, done: threading.Event, ended: list[int], seed: int) -> None:
    """End workers that have left their number, one at a time, by SIGKILL, until so many are or all is done."""
    draw = random.Random(seed)
    while len(ended) < kills and not done.wait(draw.uniform(0.3, 1.2)):
        alive = sorted(int(path.name) for path in folder.iterdir() if int(path.name) not in (os.getpid(), *ended))
        if alive:
            chosen = draw.choice(alive)
            (folder / str(chosen)).unlink(missing_ok=True)
            with suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGKILL)
                ended.append(chosen)


def measured(names: list[str], n_players: int, seconds: float, kills: int, megabytes: int) -> dict[str, Any]:
    """All figures."""
    found = {}
    for name in names:
        package = {"processes": "shapkit", "dask": "distributed", "ray": "ray"}[name]
        try:
            installed = version(package)
        except PackageNotFoundError:
            print(f"{name}: {package} is not installed", flush=True)
            continue
        found[name] = {"version": installed, "rates": rates(name, n_players, seconds)}
        found[name]["model"] = model_sent(name, megabytes)
        found[name]["kills"] = killed(name, n_players, kills, seconds)
        print(report({"clusters": found, "machine": ""}), flush=True)
    return {
        "command": "python -m benchmarks.reliability.clusters",
        "clusters": found,
        "machine": machine("numpy"),
    }


def report(results: dict[str, Any]) -> str:
    """The tables."""
    lines = []
    for name, found in results["clusters"].items():
        rated, lost = found["rates"], found["kills"]
        each = rated["batch_seconds"]
        evaluations = 2 ** rated["players"]
        release = "" if name == "processes" else f" {found['version']}"
        lines.append(f"{TITLES[name]}{release}")
        lines.append("  workers  evaluations a second  of what they could  a batch's overhead")
        for row in rated["rows"]:
            ideal = evaluations / rated["batch"] * each / row["workers"]
            lines.append(
                f"  {row['workers']:>7}{evaluations / row['seconds']:>22,.0f}{ideal / row['seconds']:>20.0%}"
                f"{1e3 * row['overhead']:>17.2f} ms"
            )
        overhead = min(row["overhead"] for row in rated["rows"])
        lines.append(
            f"  a thousand workers are kept busy by batches of {1e3 * overhead:.1f} s or more, "
            f"{each / overhead:.0f} workers by batches of {1e3 * each:.0f} ms"
        )
        if "model" in found:
            sent = found["model"]
            lines.append(
                f"  a model of {sent['megabytes']} MB: sent with every batch {1e3 * sent['sent']:.0f} ms a batch, "
                f"made once in each worker {1e3 * sent['per_worker']:.2f} ms"
            )
        lines.append(
            f"  {lost['kills']} of its workers killed meanwhile: largest difference of a value "
            f"{lost['largest_difference']:.0e}, evaluations lost or counted twice {lost['evaluations_lost_or_twice']}"
        )
        lines.append("")
    batch = next(iter(results["clusters"].values()))["rates"]
    lines.append(f"batches of {batch['batch']} coalitions that wait {1e3 * batch['batch_seconds']:.0f} ms")
    return "\n".join([*lines, results["machine"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--players", type=int, default=13)
    parser.add_argument("--seconds", type=float, default=0.05, help="that a batch waits")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=50, help="of the model that is sent")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--redraw", action="store_true", help="print what was published before")
    options = parser.parse_args()
    if options.redraw:
        print(report(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # the workers' too
    results = measured(options.only, options.players, options.seconds, options.kills, options.megabytes)
    write_json(options.out, results)
    print(report(results))


if __name__ == "__main__":
    main()
