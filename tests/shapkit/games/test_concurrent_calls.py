"""Value functions that call a service: how many calls are under way, what is tried again, what is kept."""

import asyncio
import pickle
import threading

import numpy as np
import pytest

from shapkit import CoalitionCache, ConcurrentCalls, Game, estimate, exact, weighted_voting

VOTING = weighted_voting([3, 2, 2, 1], quota=5)


class Service:
    """Answers after a turn of the loop; some calls fail."""

    def __init__(self, fails=lambda number, coalition: False):
        self.fails, self.n_calls, self.under_way, self.most = fails, 0, 0, 0
        self.loops = set()

    async def __call__(self, coalition):
        self.n_calls += 1
        number = self.n_calls
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.loops.add(id(asyncio.get_running_loop()))
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if self.fails(number, coalition):
                raise ConnectionError(f"call {number}")
            return VOTING(coalition[None])[0]
        finally:
            self.under_way -= 1


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_values_and_limit(at_once):
    service = Service()
    found = exact(Game(ConcurrentCalls(service, at_once), 4))
    np.testing.assert_allclose(found.values, exact(VOTING).values)
    assert service.most == min(at_once, service.most) and service.n_calls == 16
    assert at_once == 1 or service.most > 1
    assert len(service.loops) == 1  # a client of its own may be shared


def test_calls_that_fail_are_made_again():
    service = Service(fails=lambda number, _: number % 3 == 0)
    found = exact(Game(ConcurrentCalls(service, retries=5, wait=0), 4))
    np.testing.assert_allclose(found.values, exact(VOTING).values)
    assert service.n_calls > 16


def test_what_fails_to_the_end_names_the_coalition_and_loses_no_answer():
    down = True
    service = Service(fails=lambda _, coalition: down and bool(coalition[[0, 2]].all()))
    game = Game(ConcurrentCalls(service, at_once=1, retries=1, wait=0), 4, names=["a", "b", "c", "d"])
    coalitions = np.array([[True, False, False, False], [True, False, True, False], [False, True, False, False]])
    with pytest.raises(ConnectionError) as caught:
        game(coalitions)
    np.testing.assert_array_equal(caught.value.coalition, coalitions[1])
    assert "{a, c}" in caught.value.__notes__[0]
    n_before = service.n_calls
    down = False
    np.testing.assert_array_equal(game(coalitions), VOTING(coalitions))
    assert service.n_calls - n_before <= 2  # the first answer was kept


def test_batches_are_a_few_times_the_limit_and_go_to_disk(tmp_path):
    service = Service()
    calls = ConcurrentCalls(service, at_once=2)
    game = Game(calls, 4, cache=CoalitionCache(tmp_path / "answers.sqlite"))
    assert game.batch_size == 16
    exact(game)
    again = Service()
    exact(Game(ConcurrentCalls(again), 4, cache=CoalitionCache(tmp_path / "answers.sqlite")))
    assert again.n_calls == 0
    assert Game(calls, 4, batch_size=3).batch_size == 3


def test_inside_a_loop_that_runs_already():
    async def notebook():
        return exact(Game(ConcurrentCalls(Service()), 4)).values

    np.testing.assert_allclose(asyncio.run(notebook()), exact(VOTING).values)


def test_payoffs_of_several_numbers():
    async def ask(coalition):
        return [coalition.sum(), 1.0]

    assert estimate(Game(ConcurrentCalls(ask), 12), 100).output_shape == (2,)


async def count(coalition):
    return coalition.sum()


def test_pickled_and_used_from_several_threads():
    calls = pickle.loads(pickle.dumps(ConcurrentCalls(count)))
    game, found = Game(calls, 3), []
    threads = [threading.Thread(target=lambda: found.append(exact(game).values)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, np.ones((4, 3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConcurrentCalls(3), ValueError, "ask must be an async function"),
        (lambda: ConcurrentCalls(count, at_once=0), ValueError, "at_once must be an integer of at least 1"),
        (lambda: ConcurrentCalls(count, retries=-1), ValueError, "retries must be an integer of at least 0"),
        (lambda: ConcurrentCalls(count, wait=-1), ValueError, "wait must be a number of seconds"),
        (lambda: Game(count, 3), ValueError, "value is an async function: give shapkit.ConcurrentCalls"),
        (lambda: exact(Game(ConcurrentCalls(np.sum), 2)), TypeError, "ask must be an async function"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
