"""Executors whose workers die: lost coalitions are evaluated again, and a deadly one is given up."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest

import shapkit
from shapkit import CoalitionCache, Game
from shapkit.games.executors import RestartingExecutor


def squares(coalitions):
    return (coalitions @ np.arange(1.0, coalitions.shape[1] + 1)) ** 2


def killed_once(folder, coalitions):
    """Squares; the process that meets the grand coalition kills itself the first time, as the system might."""
    if coalitions.all(axis=1).any():
        try:
            (folder / "killed").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return squares(coalitions)


def deadly(coalitions):
    if coalitions.all(axis=1).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(coalitions)


def processes():
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def test_a_killed_workers_coalitions_are_evaluated_again(tmp_path):
    expected = shapkit.exact(Game(squares, 8))
    with RestartingExecutor(processes) as workers:
        game = Game(partial(killed_once, tmp_path), 8, batch_size=16, executor=workers)
        phi = shapkit.exact(game)
        assert workers.n_restarts == 1 and (tmp_path / "killed").exists()
    np.testing.assert_allclose(phi.values, expected.values, rtol=1e-12)
    assert game.n_evaluations == 2**8  # each counted once


def test_a_coalition_that_kills_every_worker_is_given_up(tmp_path):
    cache = CoalitionCache()
    with RestartingExecutor(processes, max_restarts=1) as workers:
        game = Game(deadly, 6, batch_size=8, executor=workers, cache=cache)
        with pytest.raises(BrokenExecutor):
            shapkit.exact(game)
        assert workers.n_restarts == 1
    assert shapkit.exact(Game(squares, 6, cache=cache)).n_evaluations < 2**6  # what was complete stays


def test_without_restarting_the_pools_error_comes_through():
    with processes() as workers, pytest.raises(BrokenExecutor):
        shapkit.exact(Game(deadly, 4, batch_size=4, executor=workers))


def test_results_errors_and_cancelling_are_passed_on():
    with RestartingExecutor(lambda: ThreadPoolExecutor(1)) as workers:
        assert workers.submit(pow, 2, 5).result(10) == 32
        assert workers.submit(int, "7", base=8).result(10) == 7
        with pytest.raises(ZeroDivisionError):
            workers.submit(divmod, 1, 0).result(10)
        slow, waiting = workers.submit(time.sleep, 0.2), workers.submit(time.sleep, 60)
        assert waiting.cancel() and waiting.cancelled()
        assert slow.result(10) is None
    with pytest.raises(RuntimeError, match="shut down"):
        workers.submit(pow, 2, 5)


def test_errors():
    with pytest.raises(ValueError, match="make must be a function that returns an executor"):
        RestartingExecutor(ThreadPoolExecutor(1))
    with pytest.raises(ValueError, match="max_restarts must be an integer of at least 0, got -1"):
        RestartingExecutor(processes, max_restarts=-1)


def test_a_pool_that_is_broken_when_asked():
    class Broken(ThreadPoolExecutor):
        def submit(self, *arguments) -> Future:
            raise BrokenExecutor("gone")

    pools = iter([Broken(1), ThreadPoolExecutor(1)])
    with RestartingExecutor(lambda: next(pools)) as workers:
        assert workers.submit(pow, 2, 3).result(10) == 8 and workers.n_restarts == 1
    with RestartingExecutor(lambda: Broken(1), max_restarts=2) as workers, pytest.raises(BrokenExecutor, match="gone"):
        workers.submit(pow, 2, 3).result(10)


def test_the_executor_of_dask_with_a_worker_that_dies(tmp_path):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    with cluster, distributed.Client(cluster) as client:
        game = Game(partial(killed_once, tmp_path), 8, batch_size=16, executor=client.get_executor())
        phi = shapkit.exact(game)
    assert (tmp_path / "killed").exists()
    np.testing.assert_allclose(phi.values, shapkit.exact(Game(squares, 8)).values, rtol=1e-12)


def killed_the_first_time(folder, seconds, number):
    """The square of a number; the first process that is asked for it kills itself after a while."""
    time.sleep(seconds)
    try:
        (folder / f"killed-{number}").touch(exist_ok=False)
    except FileExistsError:
        return number**2
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_while_the_block_ends(tmp_path):
    with RestartingExecutor(processes) as workers:
        futures = [workers.submit(killed_the_first_time, tmp_path, 0.3, 7), workers.submit(pow, 3, 2)]
    assert [future.result(0) for future in futures] == [49, 9] and workers.n_restarts == 1


def test_a_worker_that_dies_after_a_shutdown_that_did_not_wait(tmp_path):
    workers = RestartingExecutor(processes)
    future = workers.submit(killed_the_first_time, tmp_path, 0.3, 7)
    workers.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut down"):
        workers.submit(pow, 2, 5)
    assert future.result(60) == 49


def test_many_deaths_with_many_tasks_waiting(tmp_path):
    with RestartingExecutor(processes, max_restarts=12) as workers:
        killed = partial(killed_the_first_time, tmp_path, 0.0)
        futures = [
            workers.submit(killed if n % 20 == 0 else pow, *((n,) if n % 20 == 0 else (n, 2))) for n in range(100)
        ]
        assert [future.result(120) for future in futures] == [n**2 for n in range(100)]
    assert 1 <= workers.n_restarts <= 5


def test_what_has_not_begun_is_cancelled_at_a_shutdown_that_asks_for_it():
    with RestartingExecutor(lambda: ThreadPoolExecutor(1)) as workers:
        slow, waiting = workers.submit(time.sleep, 0.2), workers.submit(time.sleep, 60)
        workers.shutdown(cancel_futures=True)
        assert slow.result(0) is None and waiting.cancelled()


def test_an_error_of_the_function_that_makes_pools_reaches_the_future(tmp_path):
    pools = iter([ProcessPoolExecutor(1, mp_context=get_context("spawn"))])

    def one_pool():
        try:
            return next(pools)
        except StopIteration:
            raise OSError("no more processes") from None

    with RestartingExecutor(one_pool) as workers:
        future = workers.submit(killed_the_first_time, tmp_path, 0.0, 1)
        with pytest.raises(OSError, match="no more processes"):
            future.result(60)


def test_an_executor_that_nobody_shuts_down_does_not_keep_the_interpreter(tmp_path):
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from shapkit.games.executors import RestartingExecutor\n"
        "workers = RestartingExecutor(lambda: ThreadPoolExecutor(1))\n"
        "print(workers.submit(pow, 2, 5).result())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "32\n", "")


class OneBuffer:
    """A value function that fills and returns one array again and again."""

    def __init__(self, n_players):
        self.buffer, self.weights = np.empty(2**n_players), np.arange(1.0, n_players + 1)

    def __call__(self, coalitions):
        part = self.buffer[: len(coalitions)]
        part[:] = coalitions @ self.weights
        return part


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(1), processes])
def test_a_value_function_that_returns_one_buffer_again_and_again(make):
    executor = make()
    phi = shapkit.exact(Game(OneBuffer(8), 8, batch_size=4, executor=executor))
    np.testing.assert_allclose(phi.values, np.arange(1.0, 9.0), atol=1e-12)
    if executor is not None:
        executor.shutdown()
