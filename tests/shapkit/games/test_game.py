"""Game: what it passes on, batches, remembers, counts and refuses, here and in an executor's workers."""

import copy
import gc
import os
import pickle
import sys
import threading
import time
import weakref
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapkit
from shapkit._checks import described, players_of_table
from shapkit.coalitions import members_of_masks
from shapkit.games.cache import CoalitionCache
from shapkit.games.classic import weighted_voting
from shapkit.games.game import Game, table_game

ALL_OF_THREE = members_of_masks(np.arange(8), 3)


def test_batches_are_no_larger_than_asked_and_all_are_counted():
    seen = []

    def value(coalitions):
        seen.append(len(coalitions))
        return coalitions.sum(axis=1)

    game = Game(value, 3, batch_size=3)
    np.testing.assert_array_equal(game(ALL_OF_THREE), ALL_OF_THREE.sum(axis=1))
    assert seen == [3, 3, 2] and game.n_evaluations == 8
    game(ALL_OF_THREE[:2])
    assert seen == [3, 3, 2, 2] and game.n_evaluations == 10


@pytest.mark.parametrize("batch_size", [None, 1, 5, 8, 100])
def test_vector_payoffs_for_every_batch_size(batch_size):
    table = np.arange(48.0).reshape(8, 2, 3)
    game = table_game(table, batch_size=batch_size)
    payoffs = game(ALL_OF_THREE)
    np.testing.assert_array_equal(payoffs, table)
    assert payoffs.dtype == np.float64 and game.output_shape == (2, 3)


@pytest.mark.parametrize("convert", [list, tuple, np.float32, np.int8, lambda payoffs: payoffs > 1])
def test_payoffs_of_other_types_become_float64(convert):
    payoffs = Game(lambda coalitions: convert(coalitions.sum(axis=1)), 3)(ALL_OF_THREE)
    assert payoffs.dtype == np.float64
    np.testing.assert_array_equal(payoffs, np.asarray(convert(ALL_OF_THREE.sum(axis=1)), dtype=float))


def test_a_value_function_may_write_to_its_argument():
    def value(coalitions):
        coalitions[:] = False
        return np.ones(len(coalitions))

    given = ALL_OF_THREE.copy()
    Game(value, 3)(given)
    np.testing.assert_array_equal(given, ALL_OF_THREE)


def test_names():
    assert Game(np.ndarray.any, 2).names == ("0", "1")
    game = Game(np.ndarray.any, 2, names=["eyes", "nose"])
    assert game.names == ("eyes", "nose")
    assert [game.player_index(player) for player in ("nose", 0, np.int64(1))] == [1, 0, 1]


def test_repr():
    assert repr(weighted_voting([2, 1, 1], 3)) == "Game(n_players=3, output_shape=None, batch_size=None)"
    with ThreadPoolExecutor(1) as pool:
        game = Game(np.ndarray.any, 2, batch_size=5, cache=True, executor=pool, check_finite=False)
        assert repr(game) == (
            "Game(n_players=2, output_shape=None, batch_size=5, cache=CoalitionCache(in memory, max_bytes=268435456), "
            "executor=ThreadPoolExecutor, check_finite=False)"
        )


def test_players_of_table():
    assert [players_of_table(np.zeros(2**n)) for n in range(6)] == [0, 1, 2, 3, 4, 5]


def returning(payoffs):
    return lambda: Game(lambda coalitions: payoffs, 3)(ALL_OF_THREE)


def changing_shape():
    game = Game(lambda coalitions: np.zeros((len(coalitions), len(coalitions))), 3, batch_size=6)
    return game(ALL_OF_THREE)


def nan_for_two(coalitions):
    return np.where(coalitions[:, 0] & coalitions[:, 2], np.nan, 1.0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Game(3, 2), "value must be a function of a boolean matrix, got int"),
        (lambda: Game(len, -1), "n_players must be an integer of at least 0, got -1"),
        (lambda: Game(len, 2.0), "n_players must be an integer of at least 0, got 2.0"),
        (lambda: Game(len, True), "n_players must be an integer of at least 0, got True"),
        (lambda: Game(len, 2, batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (lambda: Game(len, 2, names=["a"]), "names has 1 entries, expected one for each of the 2 players"),
        (lambda: Game(len, 3, names=["a", "b", "a"]), "names must be distinct, got 'a' more than once"),
        (lambda: Game(len, 2, names="ab"), "names must be a list of strings, got 'ab'"),
        (lambda: Game(len, 2, names=["a", 1]), "names must be a list of strings"),
        (lambda: Game(len, 2, names=2), "names must be a list of strings, got 2"),
        (lambda: Game(len, 2, cache="a.sqlite"), "cache must be True or a shapkit.CoalitionCache, got 'a.sqlite'"),
        (lambda: Game(len, 2, executor=4), r"executor must be a concurrent.futures.Executor, .* got 4 \(of a Dask"),
        (lambda: Game(len, 2, check_finite=1), "check_finite must be True or False, got 1"),
        (
            lambda: Game(len, 3)(ALL_OF_THREE[0]),
            r"coalitions has shape \(3,\), .* give one coalition as coalition\[None",
        ),
        (
            lambda: Game(len, 4)(ALL_OF_THREE),
            r"coalitions has shape \(8, 3\), expected a boolean matrix \(n_coalitions, 4",
        ),
        (lambda: Game(len, 3)(ALL_OF_THREE[:0]), r"coalitions has shape \(0, 3\), .* at least one row"),
        (lambda: Game(len, 3)(ALL_OF_THREE.astype(int)), r"coalitions has dtype int64, .* \.astype\(bool\)"),
        (returning(1.0), r"value returned shape \(\) for 8 coalitions, expected \(8, ...\)"),
        (returning(np.zeros(7)), r"value returned shape \(7,\) for 8 coalitions, expected \(8, ...\)"),
        (
            returning(np.zeros((8, 0))),
            r"value returned shape \(8, 0\): a payoff must have at least one element",
        ),
        (returning([[1], [1, 2]]), "value returned something NumPy cannot convert to an array"),
        (returning(np.zeros(8, complex)), "value returned dtype complex128, expected real numbers"),
        (returning(["1"] * 8), "value returned dtype <U1, expected real numbers"),
        (returning(None), "value returned dtype object, expected real numbers"),
        (changing_shape, r"payoffs of shape \(6,\), expected \(1,\) as in its first evaluation"),
        (
            lambda: Game(nan_for_two, 3, ["eyes", "nose", "hair"])(ALL_OF_THREE),
            r"NaN or infinity for 2 of 8 coalitions, expected finite numbers; the first is \{eyes, hair\}",
        ),
        (returning(np.full(8, np.inf)), r"NaN or infinity for 8 of 8 coalitions, .* the first is \{\}"),
        (lambda: Game(len, 2).player_index("mouth"), "player 'mouth' is not among the names 0, 1"),
        (lambda: Game(len, 2).player_index(2), "player 2 is out of range, expected 0 to 1"),
        (lambda: Game(len, 2).player_index(-1), "player -1 is out of range, expected 0 to 1"),
        (lambda: Game(len, 2).player_index(0.5), "player must be a name or an index, got 0.5"),
        (lambda: table_game([1, 2, 3]), r"values has shape \(3,\), expected \(2\*\*n_players, ...\)"),
        (lambda: table_game([]), r"values has shape \(0,\), expected"),
        (lambda: table_game(5.0), r"values has shape \(\), expected"),
        (lambda: table_game(["a", "b"]), "values holds dtype <U1, expected real numbers"),
        (
            lambda: table_game([0, 1, 2, 3], names=["a"]),
            "names has 1 entries, expected one for each of the 2",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_failed_evaluations_stop_every_way_in():
    game = Game(nan_for_two, 3)
    for run in (shapkit.exact, shapkit.explain, lambda game: shapkit.estimate(game, 50)):
        with pytest.raises(ValueError, match="value returned NaN"):
            run(game)


def random_rows(n_rows, n_players, seed=0):
    return np.random.default_rng(seed).integers(0, 2, size=(n_rows, n_players)).astype(bool)


def test_a_game_of_nobody_has_one_coalition():
    game = Game(lambda coalitions: np.full(len(coalitions), 7.0), 0, cache=True)
    assert game.names == () and game(np.zeros((3, 0), dtype=bool)).tolist() == [7, 7, 7]
    assert (game.n_evaluations, game.n_cache_hits) == (1, 2)


def test_ten_thousand_players():
    rows = np.resize(random_rows(90, 10_000), (9_000, 10_000))
    seen = []

    def value(coalitions):
        seen.append(len(coalitions))
        return coalitions[:, -1]

    np.testing.assert_array_equal(Game(value, 10_000)(rows), rows[:, -1])
    assert seen == [1, 2**26 // 10_000, 9_000 - 1 - 2**26 // 10_000]  # 64 MiB of coalitions at once
    game = Game(value, 10_000, cache=True)
    np.testing.assert_array_equal(game(rows[:180]), rows[:180, -1])
    assert (game.n_evaluations, game.n_cache_hits) == (90, 90)
    with pytest.raises(ValueError, match="names must be distinct, got 'a', 'b' more than once"):
        Game(value, 10_000, names=["a", "b"] * 5_000)


def sizes_of_batches(n_rows, payoff_shape=(), n_players=17, warm=False, **arguments):
    seen = []

    def value(coalitions):
        seen.append(len(coalitions))
        return np.broadcast_to(
            coalitions.sum(axis=1).reshape(-1, *[1] * len(payoff_shape)), (len(coalitions), *payoff_shape)
        )

    game = Game(value, n_players, **arguments)
    if warm:
        game(random_rows(1, n_players, seed=1))
        seen.clear()
    game(members_of_masks(np.arange(n_rows), n_players))
    return sorted(seen, reverse=True) if "executor" in arguments else seen


def test_batch_sizes_follow_the_size_of_a_payoff():
    assert sizes_of_batches(64) == [64]
    assert sizes_of_batches(65) == [1, 64]
    assert sizes_of_batches(100_000) == [1, 2**16, 99_999 - 2**16]
    assert sizes_of_batches(100_000, warm=True) == [2**16, 100_000 - 2**16]
    assert sizes_of_batches(2_500, payoff_shape=(2, 2**11), warm=True) == [2**10, 2**10, 452]
    assert sizes_of_batches(3, payoff_shape=(2**22 + 1,), warm=True) == [1, 1, 1]
    assert sizes_of_batches(100_000, batch_size=70_000) == [70_000, 30_000]


def test_batches_are_small_where_they_are_spread_or_committed(tmp_path):
    assert sizes_of_batches(2_500, cache=True) == [1, 2_499]
    with CoalitionCache(tmp_path / "cache.sqlite") as cache:
        assert sizes_of_batches(2_500, cache=cache) == [1, 1024, 1024, 451]
    with ThreadPoolExecutor(2) as pool:
        assert sizes_of_batches(64, executor=pool) == [2] * 32
        assert sizes_of_batches(100, executor=pool, warm=True) == [4] * 25
        assert sizes_of_batches(2**17, executor=pool, warm=True) == [1024] * 128
        assert sizes_of_batches(100, executor=pool, batch_size=60) == [60, 40]


def test_a_returned_buffer_may_be_used_again():
    buffer = np.zeros(8)

    def value(coalitions):
        buffer[:] = coalitions.sum(axis=1)
        return buffer

    game = Game(value, 3)
    first = game(ALL_OF_THREE)
    game(~ALL_OF_THREE)
    np.testing.assert_array_equal(first, ALL_OF_THREE.sum(axis=1))


def test_without_a_cache_nothing_is_looked_up():
    game = table_game(np.arange(8.0))
    game(ALL_OF_THREE[[1, 1, 1]])
    assert (game.n_evaluations, game.n_cache_hits) == (3, 0)


def test_with_a_cache_nothing_is_evaluated_twice():
    seen = []

    def value(coalitions):
        seen.extend(coalitions @ [1, 2, 4])
        return np.stack([coalitions @ [1, 2, 4], coalitions[:, 0], coalitions[:, 0]], axis=1)

    game = Game(value, 3, batch_size=2, cache=True)
    payoffs = game(ALL_OF_THREE[[3, 1, 3, 3, 7, 1]])
    assert payoffs[:, :2].tolist() == [[3, 1], [1, 1], [3, 1], [3, 1], [7, 1], [1, 1]]
    assert (game.n_evaluations, game.n_cache_hits) == (3, 3)
    np.testing.assert_array_equal(game(ALL_OF_THREE)[:, 0], np.arange(8))
    assert seen == [3, 1, 7, 0, 2, 4, 5, 6]
    assert (game.n_evaluations, game.n_cache_hits) == (8, 6)
    payoffs[:] = -1  # the caller's own
    np.testing.assert_array_equal(game(ALL_OF_THREE)[:, 0], np.arange(8))
    assert len(seen) == 8 and len(game.cache) == 8


def test_exact_values_do_not_change_with_a_cache_and_cost_nothing_twice():
    table = np.random.default_rng(5).normal(size=(2**6, 2))
    plain = shapkit.exact(table_game(table))
    game = Game(table_game(table).value, 6, cache=True)
    for evaluations in (64, 0):
        phi = shapkit.exact(game)
        np.testing.assert_array_equal(phi.values, plain.values)
        assert phi.n_evaluations == evaluations


TABLE = np.random.default_rng(0).normal(size=(2**7, 2))


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(3) as pool:
        yield pool


WORKER_MODULE = """
import os
import numpy as np


def third_and_fifth(coalitions):
    coalitions = coalitions.copy()
    if (coalitions[:, 2] & coalitions[:, 4]).any():
        raise LookupError("two is one too many", os.getpid())
    return coalitions.sum(axis=1)


class Stubborn(Exception):
    def __init__(self, code, *, reason):
        super().__init__(f"{code}: {reason}")


def stubborn(coalitions):
    if coalitions[:, 1].any():
        raise Stubborn(7, reason="no")
    return coalitions.sum(axis=1)


def deadly(coalitions):
    if coalitions[:, 1].any():
        os._exit(1)
    return coalitions.sum(axis=1)


def weighted(coalitions):
    return np.cumsum(coalitions * np.sqrt(np.arange(1, coalitions.shape[1] + 1)), axis=1)[:, ::3]


def worker_process(coalitions):
    return np.full(len(coalitions), os.getpid())


def of_strings(coalitions):
    return ["?"] * len(coalitions)
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A module that worker processes can import, however they are started."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "shapkit_test_worker.py").write_text(WORKER_MODULE)
    sys.path.insert(0, str(folder))
    import shapkit_test_worker

    yield shapkit_test_worker
    sys.path.remove(str(folder))
    del sys.modules["shapkit_test_worker"]


@pytest.fixture(scope="module")
def processes(worker):
    with ProcessPoolExecutor(2) as pool:
        yield pool


@given(
    st.lists(st.integers(0, 2**7 - 1), min_size=1, max_size=200),
    st.sampled_from([None, 1, 2, 3, 17, 200]),
    st.sampled_from(["none", "memory", "tiny", "file"]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_payoffs_are_the_same_bits_in_every_way(tmp_path_factory, threads, masks, batch_size, store, spread):
    rows = members_of_masks(masks, 7)
    cache = None
    if store == "file":
        cache = CoalitionCache(tmp_path_factory.mktemp("cache") / "cache.sqlite")
    elif store != "none":
        cache = CoalitionCache(max_bytes=1_000 if store == "tiny" else 2**20)
    look_up = table_game(TABLE).value
    game = Game(look_up, 7, batch_size=batch_size, cache=cache, executor=threads if spread else None)
    for asked in (rows, rows[::-1], rows[: len(rows) // 2 + 1]):
        np.testing.assert_array_equal(game(asked), look_up(asked))
    if cache is None:
        assert game.n_cache_hits == 0
    elif store != "tiny":
        assert game.n_evaluations == len(set(masks))
    if cache is not None:
        assert game.n_evaluations + game.n_cache_hits == 2 * len(rows) + len(rows) // 2 + 1
        cache.close()


def test_worker_processes_evaluate(worker, processes):
    rows = random_rows(500, 11)
    there = Game(worker.worker_process, 11, executor=processes)(rows)
    assert 1 <= len(set(there)) <= 2 and os.getpid() not in there
    for batch_size in (None, 7):
        game = Game(worker.weighted, 11, batch_size=batch_size, executor=processes, cache=True)
        np.testing.assert_array_equal(game(rows), Game(worker.weighted, 11)(rows))
        assert game.n_evaluations == len(np.unique(rows, axis=0)) and game.output_shape == (4,)


@pytest.mark.parametrize("way", ["here", "threads", "processes"])
@pytest.mark.parametrize("batch_size", [None, 1, 8, 32])
def test_an_exception_says_which_coalition_raised_it(request, worker, way, batch_size):
    executor = None if way == "here" else request.getfixturevalue(way)
    game = Game(worker.third_and_fifth, 6, list("abcdef"), batch_size, executor=executor)
    with pytest.raises(LookupError, match="two is one too many") as caught:
        game(members_of_masks(np.arange(64), 6))
    assert caught.value.coalition.tolist() == [False, False, True, False, True, False]  # the first in order
    assert caught.value.__notes__ == ["raised by the value function for the coalition {c, e}"]
    assert (caught.value.args[1] == os.getpid()) == (way != "processes")


def failing_on(player, error, *arguments):
    def value(coalitions):
        if coalitions[:, player].any():
            raise error(*arguments)
        return np.ones(len(coalitions))

    return value


@pytest.mark.parametrize("way", ["here", "threads"])
def test_the_exception_is_the_same_object(threads, way):
    error = KeyError("x")
    executor = threads if way == "threads" else None
    game = Game(failing_on(2, lambda: error), 3, batch_size=8, executor=executor)
    with pytest.raises(KeyError) as caught:
        game(ALL_OF_THREE)
    assert caught.value is error and error.coalition.tolist() == [False, False, True]


def test_finding_the_coalition_costs_at_most_twice_the_batch():
    seen = []

    def value(coalitions):
        seen.append(len(coalitions))
        if coalitions[:, :6].all(axis=1).any():
            raise RuntimeError
        return np.ones(len(coalitions))

    game = Game(value, 7, batch_size=64)
    with pytest.raises(RuntimeError) as caught:
        game(members_of_masks(np.arange(64), 7))  # the last row fails, the dearest case
    assert caught.value.coalition.tolist() == [True] * 6 + [False]
    assert seen[0] == 64 and sum(seen[1:]) < 128 and game.n_evaluations == 0


def test_a_batch_that_only_fails_as_a_whole():
    def value(coalitions):
        if len(coalitions) > 2:
            raise MemoryError("too large")
        return np.ones(len(coalitions))

    with pytest.raises(MemoryError, match="too large") as caught:
        Game(value, 3)(ALL_OF_THREE)
    assert caught.value.coalition is None and "lower batch_size" in caught.value.__notes__[0]
    assert Game(value, 3, batch_size=2)(ALL_OF_THREE).tolist() == [1] * 8


def test_a_failed_batch_frees_its_memory_before_its_halves_are_evaluated():
    class Buffer:
        pass

    alive = []

    def value(coalitions):
        assert not any(reference() for reference in alive), "the last evaluation's memory is held"
        buffer = Buffer()
        alive.append(weakref.ref(buffer))
        if coalitions[:, 0].any():
            raise MemoryError
        return np.ones(len(coalitions))

    with pytest.raises(MemoryError):
        Game(value, 3)(ALL_OF_THREE)


@pytest.mark.parametrize("way", ["here", "threads"])
def test_a_caught_exception_leaves_no_memory_behind(threads, way):
    class Buffer:
        pass

    alive = []

    def value(coalitions):
        buffer = Buffer()
        alive.append(weakref.ref(buffer))
        raise MemoryError

    gc.disable()
    try:
        Game(value, 3, executor=None if way == "here" else threads)(ALL_OF_THREE[:1])
    except MemoryError:
        pass
    finally:
        gc.enable()
    assert len(alive) == 1 and alive[0]() is None


def test_exceptions_that_refuse_attributes():
    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    with pytest.raises(Frozen) as caught:
        Game(failing_on(0, Frozen, 3), 3)(ALL_OF_THREE)
    assert caught.value.coalition.tolist() == [True, False, False]
    assert caught.value.__notes__ == ["raised by the value function for the coalition {0}"]


def test_exceptions_that_pickling_would_lose_come_back_as_runtime_errors(worker, processes):
    with pytest.raises(RuntimeError, match="Stubborn: 7: no") as caught:
        Game(worker.stubborn, 3, executor=processes)(ALL_OF_THREE)
    assert caught.value.coalition.tolist() == [False, True, False]
    with pytest.raises(worker.Stubborn):
        Game(worker.stubborn, 3)(ALL_OF_THREE)


def test_long_coalitions_are_abbreviated():
    game = Game(failing_on(5, ValueError, "no"), 10_000)
    with pytest.raises(ValueError) as caught:
        game(np.ones((1, 10_000), dtype=bool))
    assert caught.value.__notes__[0].endswith("{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... and 9,990 more}")
    assert described(np.ones(10, dtype=bool), list("abcdefghij")) == "{a, b, c, d, e, f, g, h, i, j}"


def test_what_cannot_be_sent_to_workers_is_said_in_plain_words(processes):
    with pytest.raises(ValueError, match=r"value cannot be sent to the executor's workers \(.*defined at the top of a"):
        Game(lambda coalitions: coalitions[:, 0], 3, executor=processes)(ALL_OF_THREE)
    lock = threading.Lock()

    class Locked:
        def __init__(self):
            self.lock = lock

        def __call__(self, coalitions):
            return coalitions[:, 0]

    with pytest.raises(ValueError, match="value cannot be sent"):
        Game(Locked(), 3, executor=processes)(ALL_OF_THREE)


def test_executors_that_pickle_as_tasks_are_submitted():
    class Eager(Executor):
        def submit(self, function, /, *args, **kwargs):
            pickle.dumps((function, args, kwargs))

    with pytest.raises(ValueError, match="value cannot be sent"):
        Game(lambda coalitions: coalitions[:, 0], 3, executor=Eager())(ALL_OF_THREE)


def test_type_errors_of_the_value_function_are_not_taken_for_that(threads):
    for error in (TypeError, AttributeError, pickle.PicklingError):
        with pytest.raises(error, match="mine"):
            Game(failing_on(0, error, "mine"), 3, executor=threads)(ALL_OF_THREE)


def test_errors_about_what_workers_return(worker, processes):
    with pytest.raises(ValueError, match="value returned dtype <U1, expected real numbers"):
        Game(worker.of_strings, 3, executor=processes)(ALL_OF_THREE)


def test_a_dead_worker_is_the_executors_own_error(worker):
    with ProcessPoolExecutor(1) as pool, pytest.raises(BrokenProcessPool) as caught:
        Game(worker.deadly, 3, executor=pool)(ALL_OF_THREE)
    assert not hasattr(caught.value, "coalition")


def test_an_executor_that_was_shut_down():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        Game(np.ndarray.any, 3, executor=pool)(ALL_OF_THREE)


class Held(Executor):
    """Runs some tasks, by their numbers, as they are submitted, and holds the others back."""

    def __init__(self, run):
        self.run, self.futures = run, []

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        self.futures.append(future)
        if len(self.futures) - 1 in self.run:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
        return future


def test_an_error_cancels_what_has_not_started_and_keeps_what_was_done():
    pool = Held(run={0, 1, 6})
    game = Game(failing_on(1, ValueError, "no"), 3, batch_size=1, cache=True, executor=pool)
    with pytest.raises(ValueError, match="no") as caught:
        game(ALL_OF_THREE)
    assert caught.value.coalition.tolist() == [False, True, True]
    assert [future.cancelled() for future in pool.futures] == [False, False, True, True, True, True, False]
    assert len(game.cache) == 2 and game.n_evaluations == 2


def test_an_interrupt_cancels_what_has_not_started():
    class Interrupted(Held):
        def submit(self, function, /, *args, **kwargs):
            if len(self.futures) == 5:
                raise KeyboardInterrupt  # as the user's Ctrl-C would, here or while waiting
            return super().submit(function, *args, **kwargs)

    pool = Interrupted(run={1})
    game = Game(failing_on(2, ValueError), 3, batch_size=1, cache=True, executor=pool)
    with pytest.raises(KeyboardInterrupt):
        game(ALL_OF_THREE)
    assert [future.cancelled() for future in pool.futures] == [True, False, True, True, True]
    assert len(game.cache) == 1


def test_an_error_of_the_cache_cancels_what_has_not_started():
    pool = Held(run={2})
    cache = CoalitionCache(max_bytes=100)  # too little for one payoff
    with pytest.raises(ValueError, match="max_bytes is 100, but one payoff"):
        Game(failing_on(2, ValueError), 3, batch_size=1, cache=cache, executor=pool)(ALL_OF_THREE)
    assert [future.cancelled() for future in pool.futures] == [True, True, False]


def test_the_error_is_the_first_in_the_order_of_the_rows():
    later_failed = threading.Event()

    def value(coalitions):
        if coalitions[0, 2]:
            later_failed.set()
            raise ValueError("later")
        if coalitions[0, 0]:
            assert later_failed.wait(timeout=60)
            raise ValueError("earlier")
        return np.ones(1)

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="earlier"):
        Game(value, 3, batch_size=1, executor=pool)(ALL_OF_THREE[[1, 4, 0]])


def test_an_earlier_error_is_waited_for_while_later_batches_are_let_go():
    later_failed = threading.Event()

    def value(coalitions):
        if coalitions[0, 2]:
            time.sleep(0.2)  # in which the batches behind are submitted
            later_failed.set()
            raise ValueError("later")
        if coalitions[0, 0]:
            assert later_failed.wait(timeout=60)
            time.sleep(0.3)  # in which they are cancelled, and say so
            raise ValueError("earlier")
        time.sleep(0.001)
        return np.ones(1)

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="earlier"):
        Game(value, 3, batch_size=1, executor=pool)(ALL_OF_THREE[[1, 4] + 2_000 * [0]])


@pytest.mark.parametrize(("elements", "most"), [(10, 10), (90, 45)])  # payoffs of two numbers each
def test_batches_in_flight_are_bounded(elements, most, monkeypatch):
    """By a number, and beyond it by the payoffs that may be waiting."""
    in_flight = []

    class Counting(ThreadPoolExecutor):
        unfinished = 0

        def submit(self, function, /, *args, **kwargs):
            future = super().submit(function, *args, **kwargs)
            in_flight.append(sum(not future.done() for future in futures))
            futures.append(future)
            return future

    def slow_table(coalitions):
        time.sleep(0.002)
        return table_game(TABLE).value(coalitions)

    futures = []
    monkeypatch.setattr("shapkit.games.batches._BATCHES_IN_FLIGHT", 10)
    monkeypatch.setattr("shapkit.games.batches._ELEMENTS_IN_FLIGHT", elements)
    rows = members_of_masks(np.arange(100), 7)
    with Counting(1) as pool:
        np.testing.assert_array_equal(Game(slow_table, 7, batch_size=1, executor=pool)(rows), TABLE[:100])
    assert len(futures) == 100 and most - 10 < max(in_flight) < most


def test_an_interrupt_in_the_value_function_keeps_what_was_done():
    def value(coalitions):
        if coalitions[-1].all():
            raise KeyboardInterrupt
        return np.ones(len(coalitions))

    game = Game(value, 3, batch_size=2, cache=True)
    with pytest.raises(KeyboardInterrupt) as caught:
        game(ALL_OF_THREE)
    assert len(game.cache) == 6 and not hasattr(caught.value, "coalition")


def test_numbers_that_are_not_finite():
    game = Game(nan_for_two, 3, check_finite=False, cache=True)
    for _ in range(2):
        np.testing.assert_array_equal(game(ALL_OF_THREE), nan_for_two(ALL_OF_THREE))
    assert game.n_evaluations == 8
    with pytest.raises(ValueError, match="value returned NaN") as caught:
        Game(nan_for_two, 3, cache=True)(ALL_OF_THREE)
    assert caught.value.coalition.tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"the cache holds NaN or infinity for 2 of 8 coalitions, .* is \{0, 2\}"):
        Game(nan_for_two, 3, cache=game.cache)(ALL_OF_THREE)


def test_what_is_refused_is_not_remembered():
    game = Game(nan_for_two, 3, cache=True, batch_size=4)
    with pytest.raises(ValueError, match="NaN"):
        game(ALL_OF_THREE)
    assert len(game.cache) == 4


def test_ready_made_games_can_be_sent_to_processes():
    for game in (table_game([0, 1, 2, 5]), weighted_voting([2, 1], 2)):
        again = pickle.loads(pickle.dumps(game.value))
        np.testing.assert_array_equal(again(members_of_masks(np.arange(4), 2)), game(members_of_masks(np.arange(4), 2)))


def in_many_threads(call, n_calls=16, n_threads=8):
    with ThreadPoolExecutor(n_threads) as threads:
        return [future.result() for future in [threads.submit(call) for _ in range(n_calls)]]


@pytest.mark.parametrize(
    "evaluate, n_each",
    [
        (shapkit.exact, 2**9),
        (lambda game: shapkit.exact(game, "k-SII", order=2), 2**9),
        (lambda game: shapkit.estimate(game, 100, "antithetic"), 98),
        (lambda game: shapkit.estimate(game, 100, "gaussian_process"), 100),
        (lambda game: shapkit.dummy_residual(game, 0), 2**9),
        (lambda game: shapkit.isolation_residual(game, 0), 2**9),
        (shapkit.influence_graph, 2**9),
    ],
)
def test_each_thread_counts_its_own_evaluations_and_the_game_all(evaluate, n_each):
    game = Game(lambda coalitions: np.tanh(coalitions @ np.arange(9.0)), 9, batch_size=7)
    alone = Game(game.value, 9)
    assert evaluate(alone).n_evaluations == n_each
    results = in_many_threads(lambda: evaluate(game))
    assert {result.n_evaluations for result in results} == {n_each}
    assert game.n_evaluations == 16 * alone.n_evaluations


def test_threads_that_share_a_cache_pay_at_most_once_each_and_get_the_same_numbers():
    game = Game(lambda coalitions: coalitions.sum(axis=1) ** 2.0, 9, batch_size=7, cache=True)
    results = in_many_threads(lambda: shapkit.exact(game))
    assert all((result.values == results[0].values).all() for result in results)
    assert game.n_evaluations == sum(result.n_evaluations for result in results) >= 2**9
    assert game.n_evaluations + game.n_cache_hits == 16 * 2**9
    assert shapkit.exact(game).n_evaluations == 0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda game: pickle.loads(pickle.dumps(game))])
@pytest.mark.parametrize("store", [None, "memory", "file"])
def test_copies_of_a_game_have_what_its_cache_holds_and_count_for_themselves(copied, store, tmp_path):
    cache = {None: None, "memory": True, "file": CoalitionCache(tmp_path / "payoffs.sqlite")}[store]
    game = Game(np.count_nonzero if store is None else SumOfSquares(), 3, ["a", "b", "c"], cache=cache)
    if store is not None:
        game(ALL_OF_THREE[:5])
        other = copied(game)
        np.testing.assert_array_equal(other(ALL_OF_THREE), game(ALL_OF_THREE))
        assert (other.names, other.n_evaluations, other.n_cache_hits) == (game.names, 8, 5)
    else:
        other = copied(game)
    assert (other.n_players, other.batch_size, other.check_finite) == (3, None, True)


class SumOfSquares:
    def __call__(self, coalitions):
        return coalitions.sum(axis=1) ** 2.0


def test_a_copy_of_a_cache_in_memory_goes_on_by_itself():
    game = Game(SumOfSquares(), 3, cache=True)
    game(ALL_OF_THREE[:2])
    other = copy.deepcopy(game)
    other(ALL_OF_THREE)
    assert (len(game.cache), len(other.cache)) == (2, 8)
    shared = copy.copy(game)
    shared(ALL_OF_THREE)
    assert len(game.cache) == 8 and shared.cache is game.cache
    closed = CoalitionCache()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        Game(SumOfSquares(), 3, cache=copy.copy(closed))


def test_copies_share_the_executor_and_pickles_have_none():
    with ThreadPoolExecutor(1) as threads:
        game = Game(SumOfSquares(), 3, executor=threads)
        assert copy.copy(game).executor is copy.deepcopy(game).executor is threads
        assert pickle.loads(pickle.dumps(game)).executor is None


def test_ready_made_games_can_be_pickled():
    game = weighted_voting([2, 1, 1], quota=3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(game))(ALL_OF_THREE), game(ALL_OF_THREE))


@pytest.mark.parametrize("executor", [False, True])
@pytest.mark.parametrize("n_outputs", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_outputs_by_coalitions_are_refused_also_where_there_are_as_many_of_both(executor, n_outputs, batch_size):
    outputs = np.arange(3.0 * n_outputs).reshape(n_outputs, 3)
    with ThreadPoolExecutor(1) as threads:
        options = {"batch_size": batch_size, "executor": threads if executor else None}
        game = Game(lambda coalitions: outputs @ coalitions.T, 3, **options)
        if n_outputs == 1 and (
            batch_size == 1 or (executor and batch_size is None)
        ):  # one of both: nothing tells them apart, and nothing is wrong
            assert game(ALL_OF_THREE).shape == (8, 1)
            return
        for n_rows in (2, 3, 8):
            with pytest.raises(ValueError, match=r"value returned shape .*expected"):
                game(ALL_OF_THREE[:n_rows])
        right = Game(lambda coalitions: coalitions @ outputs.T, 3, **options)
        np.testing.assert_array_equal(right(ALL_OF_THREE[-n_outputs:]), ALL_OF_THREE[-n_outputs:] @ outputs.T)
        assert right.n_evaluations == n_outputs  # the one that is looked at twice is not counted twice


def test_masked_payoffs_are_refused():
    hidden = np.ma.masked_array(np.arange(8.0), mask=[0, 1, 0, 0, 0, 0, 0, 0])
    for value in (lambda coalitions: hidden, lambda coalitions: [hidden[:2]] * 8, lambda coalitions: tuple(hidden)):
        with pytest.raises(ValueError, match=r"masked|NaN"):
            Game(value, 3, batch_size=8)(ALL_OF_THREE)
    shown = Game(lambda coalitions: np.ma.masked_array(coalitions.sum(axis=1), mask=False), 3)
    np.testing.assert_array_equal(shown(ALL_OF_THREE), ALL_OF_THREE.sum(axis=1))


@pytest.mark.parametrize("player", [True, False, np.True_, np.False_])
def test_a_boolean_is_no_player(player):
    game = Game(lambda coalitions: coalitions[:, 0], 2)
    for call in (
        lambda: game.player_index(player),
        lambda: shapkit.dummy_residual(game, player),
        lambda: shapkit.unanimity_sum(3, [[player]], [1.0]),
    ):
        with pytest.raises(ValueError, match=r"name or an index, got .*: of a mask, give np.flatnonzero"):
            call()
    with pytest.raises(TypeError, match="a player must be a name or an index"):
        shapkit.exact(game)[player]
