"""Value functions made once in each worker: how often, what is sent, and what is said of those that cannot be."""

import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import shapkit
from shapkit.games import per_worker


class Large:
    """A model of 8 MB that leaves a file behind for every time it is made."""

    def __init__(self, folder, power=2):
        self.weights, self.power = np.ones(2**20), power
        Path(folder, f"{len(list(Path(folder).iterdir()))}-{id(self)}").touch()

    def __call__(self, coalitions):
        return (coalitions @ np.arange(1.0, coalitions.shape[1] + 1)) ** self.power

    def __getstate__(self):
        raise AssertionError("the model itself was sent")


def test_each_process_makes_it_once_and_it_is_never_sent(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        value = shapkit.PerWorker(partial(Large, tmp_path))
        game = shapkit.Game(value, 8, batch_size=8, executor=workers)
        found = shapkit.exact(game).values
        shapkit.exact(shapkit.Game(pickle.loads(pickle.dumps(value)), 8, batch_size=8, executor=workers))
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    expected = shapkit.exact(shapkit.Game(lambda s: (s @ np.arange(1.0, 9)) ** 2, 8)).values
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(pickle.dumps(value)) < 2000


def test_threads_make_it_once_together(tmp_path):
    with ThreadPoolExecutor(8) as workers:
        game = shapkit.Game(shapkit.PerWorker(partial(Large, tmp_path)), 10, batch_size=8, executor=workers)
        shapkit.exact(game)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_keeps_the_last_few(tmp_path):
    values = [shapkit.PerWorker(partial(Large, tmp_path, power)) for power in range(1, per_worker._KEPT + 2)]
    one = np.ones((1, 2), bool)
    assert [float(value(one)[0]) for value in values] == [3.0**power for power in range(1, per_worker._KEPT + 2)]
    made = len(list(tmp_path.iterdir()))
    values[-1](one)
    assert len(list(tmp_path.iterdir())) == made == len(values)
    values[0](one)  # the one that was used longest ago has gone, and is made again
    assert len(list(tmp_path.iterdir())) == made + 1


def test_errors():
    with pytest.raises(ValueError, match="make must be a function that returns a value function, got int"):
        shapkit.PerWorker(3)
    with pytest.raises(ValueError, match=r"make cannot be sent to workers .*functools\.partial binds"):
        shapkit.PerWorker(lambda: None)
