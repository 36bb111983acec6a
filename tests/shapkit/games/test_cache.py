"""CoalitionCache: what it holds and lets go of, whose it is, and what is left when a process is killed."""

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import OrderedDict
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import shapkit
from shapkit.coalitions import masks_of_members, members_of_masks
from shapkit.games.cache import CoalitionCache, coalition_keys
from shapkit.games.game import Game

ALL_OF_THREE = members_of_masks(np.arange(8), 3)


def counting(coalitions):
    return masks_of_members(coalitions).astype(float)


def bound(path=None, n_players=20, names=None, **arguments):
    cache = CoalitionCache(path, **arguments)
    cache.bind(n_players, [str(player) for player in range(n_players)] if names is None else names)
    return cache


def keys_of(masks, n_players=20):
    return coalition_keys(members_of_masks(masks, n_players))


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40)))
def test_keys_tell_coalitions_apart_and_keep_the_order_of_masks(coalitions):
    keys = coalition_keys(coalitions)
    assert len(keys) == len(coalitions)
    assert {len(key) for key in keys} <= {-(-coalitions.shape[1] // 8)}
    assert len(set(keys)) == len({row.tobytes() for row in coalitions})
    masks = masks_of_members(coalitions)
    assert [int(mask) for _, mask in sorted(zip(keys, masks, strict=True))] == sorted(masks)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_what_is_put_is_what_is_got(tmp_path, in_file, shape):
    payoffs = np.random.default_rng(0).normal(size=(2_000, *shape))
    payoffs.reshape(2_000, -1)[:3, 0] = np.nan, -np.inf, -0.0
    keys = keys_of(np.arange(2_000) * 7)
    with bound(tmp_path / "cache" if in_file else None) as cache:
        assert cache.output_shape is None
        held, got = cache.get(keys)
        assert not held.any() and got.size == 0
        cache.put(keys[:500], payoffs[:500])
        cache.put(keys[500:], np.asfortranarray(payoffs[500:]))
        cache.put(keys[:10], payoffs[10:20])  # what is held stays
        assert cache.output_shape == shape and len(cache) == 2_000
        asked = keys[::-3] + keys_of([1, 2, 3])
        held, got = cache.get(asked)
        np.testing.assert_array_equal(held, [True] * 667 + [False] * 3)
        assert got.tobytes() == np.ascontiguousarray(payoffs[::-3]).tobytes()
        with pytest.raises(ValueError, match=r"payoffs have shape \(9,\), but the cache holds payoffs of shape"):
            cache.put(keys[:2], np.zeros((2, 9)))


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 30), min_size=1, unique=True)), max_size=40),
)
def test_the_least_recently_used_go_first(most, calls):
    cache = bound(max_bytes=most * (3 + 8 + 240))
    model = OrderedDict()  # key -> payoff, the least recently used first
    for is_put, masks in calls:
        if is_put:
            masks = [mask for mask in masks if mask not in model][-most:]  # a game puts what it did not get
            cache.put(keys_of(np.array(masks, dtype=int)), np.array(masks, dtype=float))
            for mask in masks:
                model[mask] = float(mask)
            while len(model) > most:
                model.popitem(last=False)
        else:
            held, got = cache.get(keys_of(masks))
            expected = [mask for mask in masks if mask in model]
            assert got.tolist() == expected and held.tolist() == [mask in model for mask in masks]
            for mask in expected:
                model.move_to_end(mask)
        assert len(cache) == len(model) <= most


def test_a_call_may_be_larger_than_the_cache():
    game = Game(counting, 10, cache=CoalitionCache(max_bytes=50 * (2 + 8 + 240)))
    rows = members_of_masks(np.arange(1_000), 10)
    np.testing.assert_array_equal(game(rows), np.arange(1_000))
    assert len(game.cache) == 50
    np.testing.assert_array_equal(game(rows[-50:]), np.arange(950, 1_000))
    assert (game.n_evaluations, game.n_cache_hits) == (1_000, 50)


def different_rows(number, n_rows, n_players):
    """Coalitions that do not come again with another number: 20 players tell 2**20 of them apart, scattered."""
    rows = np.random.default_rng(number).integers(0, 2, size=(n_rows, n_players)).astype(bool)
    masks = (number * n_rows + np.arange(n_rows)) * 654_321 % 2**20
    rows[:, :20] = members_of_masks(masks, 20)
    return rows


@pytest.mark.parametrize("n_players, n_outputs", [(20, 1), (20, 100), (1_000, 1)])
def test_memory_keeps_its_bound(n_players, n_outputs):
    max_bytes = 2**20
    calls = [different_rows(number, 700, n_players) for number in range(16)]
    payoffs = np.ones((700, n_outputs))
    tracemalloc.start()
    try:
        cache = bound(n_players=n_players, max_bytes=max_bytes)
        for rows in calls:
            cache.put(coalition_keys(rows), payoffs)
        held, _ = cache.get(coalition_keys(calls[-1]))
        n_held = len(cache)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        del cache  # what it gives back is what it took, whatever other threads do meanwhile
        gc.collect()
        taken -= tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert max_bytes / 2 < taken < 1.02 * max_bytes + 70 * n_players  # the names
    assert held.all() and n_held < 16 * 700


@pytest.mark.parametrize("n_players, n_outputs", [(20, 1), (20, 60), (20, 250), (20, 3_000), (3_000, 1), (2_000, 40)])
def test_a_file_keeps_its_bound_and_the_newest(tmp_path, n_players, n_outputs):
    max_bytes, n_rows = 2**20, 40 if n_outputs > 60 else 700
    with bound(tmp_path / "cache", n_players=n_players, max_bytes=max_bytes) as cache:
        for number in range(30):
            keys = coalition_keys(different_rows(number, n_rows, n_players))
            cache.put(keys, np.full((n_rows, n_outputs), float(number)))
            held, got = cache.get(keys[-30:])
            assert held.all() and (got == number).all()
        n_held = len(cache)
    facts = 6 * 4_096 + 9 * n_players  # the empty tables, and the names
    assert max_bytes / 5 < (tmp_path / "cache").stat().st_size < max_bytes + facts
    assert n_held < 30 * n_rows and os.listdir(tmp_path) == ["cache"]


def test_one_payoff_too_large():
    with pytest.raises(ValueError, match=r"max_bytes is 100, but one payoff of shape \(\) takes 249"):
        Game(counting, 3, cache=CoalitionCache(max_bytes=100))(ALL_OF_THREE)


def test_a_file_outlives_the_cache(tmp_path):
    table = np.random.default_rng(1).normal(size=(2**8, 2))
    path = tmp_path / "payoffs.sqlite"
    value = shapkit.table_game(table).value
    names = [f"région {player}" for player in range(8)]
    with CoalitionCache(path, key="model 3") as cache:
        first = shapkit.exact(Game(value, 8, names, cache=cache))
    with CoalitionCache(str(path), key="model 3") as cache:
        assert repr(cache) == f"CoalitionCache({str(path)!r}, max_bytes=268435456)"
        game = Game(lambda coalitions: pytest.fail("evaluated again"), 8, names, cache=cache)
        again = shapkit.exact(game)
        assert game.output_shape == (2,) and len(cache) == 256
    np.testing.assert_array_equal(first.values, again.values)
    assert (first.n_evaluations, again.n_evaluations) == (256, 0)


def test_a_file_says_whose_payoffs_it_holds_in_words_that_stay(tmp_path):
    path = tmp_path / "payoffs.sqlite"
    with CoalitionCache(path, key="model 3") as cache:
        Game(counting, 3, ["x", "y", "z"], cache=cache)(ALL_OF_THREE)
    with closing(sqlite3.connect(path)) as connection:
        facts = dict(connection.execute("SELECT name, fact FROM facts"))
    own = {"key": "model 3", "n_players": "3", "names": '["x", "y", "z"]', "output_shape": "[]"}
    assert facts == {"format": "shapkit.CoalitionCache 1", **own}  # files of earlier versions are read by these


@pytest.mark.parametrize("in_file", [False, True])
def test_another_game_is_refused(tmp_path, in_file):
    path = tmp_path / "cache" if in_file else None
    cache = CoalitionCache(path, key="a")
    Game(counting, 3, ["x", "y", "z"], cache=cache)(ALL_OF_THREE)
    owned = "cache" if in_file else "the cache"
    for n_players, names, key, message in [
        (4, None, "a", f"{owned} is of a game of '3' players, this one has 4: give each game a cache of its own"),
        (3, ["x", "y", "Z"], "a", rf"{owned} is of a game whose players have other names than \['x', 'y', 'Z'\]"),
        (3, ["x", "y", "z"], "b", f"{owned} was made with key 'a', got key 'b'"),
    ]:
        if in_file:
            cache.close()
            cache = CoalitionCache(path, key=key)
        elif key == "b":
            continue
        with pytest.raises(ValueError, match=message):
            Game(counting, n_players, names, cache=cache)
    if in_file:
        cache.close()
        cache = CoalitionCache(path, key="a")
    game = Game(lambda coalitions: np.zeros((len(coalitions), 2)), 3, ["x", "y", "z"], cache=cache)
    assert game(ALL_OF_THREE).tolist() == list(range(8))  # not its own payoffs: that only the key could have told
    cache.close()


def test_payoffs_of_another_shape_are_refused(tmp_path):
    for cache in (CoalitionCache(), CoalitionCache(tmp_path / "cache")):
        Game(counting, 3, cache=cache)(ALL_OF_THREE[:4])
        other = Game(lambda coalitions: np.zeros((len(coalitions), 2)), 3, cache=cache)
        with pytest.raises(
            ValueError, match=r"payoffs of shape \(2,\), expected \(\) as in its first evaluation or in"
        ):
            other(ALL_OF_THREE)
        cache.close()


def test_a_closed_cache_is_refused(tmp_path):
    for cache in (CoalitionCache(), CoalitionCache(tmp_path / "cache")):
        game = Game(counting, 3, cache=cache)
        game(ALL_OF_THREE)
        cache.close()
        cache.close()
        assert len(cache) == 0
        with pytest.raises(ValueError, match="is closed: make a new one"):
            game(ALL_OF_THREE)
        with pytest.raises(ValueError, match="is closed: make a new one"):
            Game(counting, 3, cache=cache)


def foreign_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE payoffs(key BLOB PRIMARY KEY, payoff BLOB NOT NULL)")
    connection.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("weights of a model"),
        lambda path: path.write_bytes(b"\0"),
        lambda path: path.write_bytes(b"SQLite format 3\0"),
        foreign_database,
    ],
)
def test_files_of_others_are_refused_and_left_alone(tmp_path, write):
    path = tmp_path / "file"
    write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"file is not a file that a CoalitionCache wrote") as caught:
        CoalitionCache(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["file"]


def written(path, n_players=8):
    with bound(path, n_players=n_players) as cache:
        cache.put(keys_of(np.arange(2**8), 8), np.arange(2.0**8))
    return path


def change(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statements, message",
    [
        (["DROP TABLE facts"], "is not a file that a CoalitionCache wrote"),
        (["DROP TABLE payoffs", "CREATE VIEW payoffs AS SELECT 1 AS key, 2 AS payoff"], "is not a file that a Coal"),
        (["CREATE TRIGGER t AFTER INSERT ON payoffs BEGIN DELETE FROM payoffs; END"], "is not a file that a Coal"),
        (["UPDATE facts SET fact = 'shapkit.CoalitionCache 9' WHERE name = 'format'"], "has format 'shapkit.Coal.* 9'"),
        (["DELETE FROM facts WHERE name = 'key'"], "has format None, this version"),
        (["UPDATE facts SET fact = x'ff00' WHERE name = 'key'"], "has format None, this version"),
        (["UPDATE facts SET fact = cast(x'ff' AS TEXT) WHERE name = 'key'"], "was made with key '�'"),
        (["UPDATE facts SET fact = '[-1]' WHERE name = 'output_shape'"], "damaged .the shape of its payoffs"),
        (["UPDATE facts SET fact = '[true]' WHERE name = 'output_shape'"], "damaged .the shape of its payoffs"),
        (["UPDATE facts SET fact = '{' WHERE name = 'output_shape'"], "damaged .the shape of its payoffs"),
        (["UPDATE facts SET fact = '[1e9]' WHERE name = 'output_shape'"], "damaged .the shape of its payoffs"),
        (
            ["UPDATE facts SET fact = '[99999999999]' WHERE name = 'output_shape'"],
            "max_bytes is 268435456, but .*cache",
        ),
        (["UPDATE facts SET fact = '[3]' WHERE name = 'output_shape'"], "damaged .a payoff does not have 24 bytes"),
        (["UPDATE payoffs SET payoff = zeroblob(10000000)"], "damaged .a payoff does not have 8 bytes"),
        (["UPDATE payoffs SET payoff = 'eight by'"], "damaged .a payoff does not have 8 bytes"),
    ],
)
def test_files_that_were_tampered_with_are_refused_in_a_line(tmp_path, statements, message):
    path = written(tmp_path / "cache")
    if "zeroblob" in statements[0]:
        statements = [statements[0] + " WHERE rowid = 1"]
    change(path, *statements)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught, CoalitionCache(path) as cache:
        Game(counting, 8, cache=cache)(members_of_masks(np.arange(8), 8))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [100, 4_096, 10_000])
def test_files_cut_short_are_refused_in_a_line(tmp_path, keep):
    path = written(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="cache is damaged") as caught, CoalitionCache(path) as cache:
        Game(counting, 8, cache=cache)(members_of_masks(np.arange(2**8), 8))
    assert "\n" not in str(caught.value) and path.stat().st_size == keep


@pytest.mark.parametrize("seed", range(8))
def test_damaged_pages_never_pass_for_payoffs_of_another_size_nor_crash(tmp_path, seed):
    path = written(tmp_path / "cache")
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for position in rng.integers(100, len(content), size=200):
        content[position] = rng.integers(256)
    path.write_bytes(content)
    try:
        with CoalitionCache(path) as cache:
            payoffs = Game(counting, 8, cache=cache, check_finite=False)(members_of_masks(np.arange(2**8), 8))
            assert payoffs.shape == (2**8,)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)


def test_an_empty_file_is_taken_for_a_new_one(tmp_path):
    path = tmp_path / "cache"
    path.touch()
    assert len(written(path).read_bytes()) > 4_096


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda path: CoalitionCache(max_bytes=0), ValueError, "max_bytes must be an integer of at least 1, got 0"),
        (lambda path: CoalitionCache(max_bytes=1.5), ValueError, "max_bytes must be an integer of at least 1, got 1.5"),
        (lambda path: CoalitionCache(key=3), ValueError, "key must be a string that describes the game, got 3"),
        (lambda path: CoalitionCache(path / "no" / "cache"), FileNotFoundError, "the folder of the cache file .* does"),
        (CoalitionCache, IsADirectoryError, "Is a directory"),
        (lambda path: CoalitionCache().get([b""]), ValueError, "the cache belongs to no game yet: give it to one"),
        (lambda path: CoalitionCache().put([b""], np.ones(1)), ValueError, "the cache belongs to no game yet"),
    ],
)
def test_errors(tmp_path, call, error, message):
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    written(path)
    with bound(path, n_players=8) as cache:
        monkeypatch.setattr("shapkit.games.cache._WAIT_SECONDS", 0.0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match=r"the cache file .* cannot be used: database is locked"):
            bound(path, n_players=8)
        other.execute("ROLLBACK")
        other.close()
        assert len(cache) == 256


def test_threads_may_share_a_cache(tmp_path):
    for cache in (CoalitionCache(), CoalitionCache(tmp_path / "cache")):
        rows = members_of_masks(np.arange(2**10), 10)
        results = []

        def evaluate(first, cache=cache, rows=rows, results=results):
            game = Game(counting, 10, batch_size=50, cache=cache)
            results.append((game(np.roll(rows, first, axis=0)) == np.roll(np.arange(2**10), first)).all())

        workers = [threading.Thread(target=evaluate, args=(first,)) for first in (0, 300, 600)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert results == [True] * 3 and len(cache) == 2**10
        cache.close()


SCRIPT = """
import os, sys, time
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from shapkit.games.cache import CoalitionCache
from shapkit.coalitions import masks_of_members, members_of_masks
from shapkit.games.game import Game

path, log, n_players, batch_size, seconds, n_workers, go = sys.argv[1:]
open(log + ".ready", "w").close()
while not os.path.exists(go):
    time.sleep(0.001)


def value(coalitions):
    time.sleep(float(seconds))
    masks = masks_of_members(coalitions)
    with open(log, "a") as file:
        file.write(" ".join(map(str, masks)) + "\\n")  # one write, so that threads do not mix lines
    return np.sqrt(masks)


executor = ThreadPoolExecutor(int(n_workers)) if n_workers != "0" else None
game = Game(value, int(n_players), batch_size=int(batch_size), cache=CoalitionCache(path), executor=executor)
rows = members_of_masks(np.arange(2 ** int(n_players)), int(n_players))
assert (game(rows) == np.sqrt(np.arange(len(rows)))).all()
print(game.n_evaluations, game.n_cache_hits)
"""


def start(path, log, n_players=13, batch_size=256, seconds=0.02, n_workers=0, go="/"):
    environment = {**os.environ, "PYTHONPATH": str(Path(shapkit.__file__).parents[1])}
    arguments = [path, log, n_players, batch_size, seconds, n_workers, go]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(log):
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def killed(process, log, n_lines):
    """Kill `process` once the log has that many lines, and return what it had evaluated."""
    while len(lines_of(log)) < n_lines:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # it was in the middle
    return lines_of(log)


def finished(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [int(number) for number in output.split()]


def test_a_killed_process_resumes_without_paying_again(tmp_path):
    path, log, again = tmp_path / "cache", tmp_path / "log", tmp_path / "again"
    lines = killed(start(path, log), log, n_lines=9)
    assert len(lines) < 2**13 // 256
    with bound(path, n_players=13) as cache:
        n_held = len(cache)
    n_evaluations, n_hits = finished(start(path, again))
    repeated = {mask for line in lines for mask in line} & {mask for line in lines_of(again) for mask in line}
    assert repeated <= set(lines[-1])  # every batch before the one in flight had been committed
    assert n_hits == n_held and n_evaluations == 2**13 - n_held
    assert n_held >= 256 * (len(lines) - 1)


def test_processes_killed_again_and_again_with_batches_in_flight(tmp_path):
    path = tmp_path / "cache"
    n_held, held_before = 0, set()
    for number in range(3):
        log = tmp_path / str(number)
        options = {"batch_size": 32, "seconds": 0.002, "n_workers": 3}
        if number < 2:
            killed(start(path, log, **options), log, n_lines=15 + 7 * number)
        else:
            n_evaluations, n_hits = finished(start(path, log, **options))
            assert (n_evaluations, n_hits) == (2**13 - n_held, n_held)
        evaluated = [int(mask) for line in lines_of(log) for mask in line]
        assert len(set(evaluated)) == len(evaluated)
        assert not set(keys_of(evaluated, 13)) & held_before
        with bound(path, n_players=13) as cache:
            everything = keys_of(np.arange(2**13), 13)
            held, payoffs = cache.get(everything)
            held_before = {key for key, is_held in zip(everything, held, strict=True) if is_held}
            np.testing.assert_array_equal(payoffs, np.sqrt(np.flatnonzero(held)))  # nothing half-written
            assert n_held <= len(cache) == len(held_before)
            n_held = len(cache)
    assert n_held == 2**13


def test_processes_may_share_a_file(tmp_path):
    path = tmp_path / "cache"
    logs, go = [tmp_path / f"log {number}" for number in range(3)], tmp_path / "go"
    processes = [start(path, log, n_players=10, batch_size=16, seconds=0.0005, go=go) for log in logs]
    while not all(log.with_name(f"{log.name}.ready").exists() for log in logs):
        assert [process.poll() for process in processes] == [None] * 3, processes[0].communicate()[1]
        time.sleep(0.002)
    go.touch()  # they make the file together, too
    for process in processes:
        n_evaluations, n_hits = finished(process)
        assert n_evaluations + n_hits == 2**10
    with bound(path, n_players=10) as cache:
        assert len(cache) == 2**10
        held, payoffs = cache.get(keys_of(np.arange(2**10), 10))
        assert held.all()
        np.testing.assert_array_equal(payoffs, np.sqrt(np.arange(2**10)))
    assert {name for name in os.listdir(tmp_path) if name.startswith("cache")} == {"cache"}


def test_what_was_used_last_stays_and_what_was_used_longest_ago_goes():
    keys = coalition_keys(members_of_masks(np.arange(8), 3))
    entry = len(keys[0]) + 8 + 240
    cache = CoalitionCache(max_bytes=3 * entry)
    cache.bind(3, ("a", "b", "c"))
    for number in range(3):
        cache.put([keys[number]], np.array([float(number)]))
    assert cache.get([keys[0]])[0].tolist() == [True]  # the first is used again
    cache.put([keys[3]], np.array([3.0]))
    held, payoffs = cache.get(keys)
    assert np.flatnonzero(held).tolist() == [0, 2, 3] and payoffs.tolist() == [0.0, 2.0, 3.0]
    cache.put([keys[4], keys[5]], np.array([4.0, 5.0]))  # of the last look-up the third is the most recent
    assert np.flatnonzero(cache.get(keys)[0]).tolist() == [3, 4, 5]


def test_batches_that_were_complete_before_an_error_stay():
    def value(coalitions):
        if coalitions[0].all():
            raise OSError("no")
        return coalitions.sum(axis=1) * 1.0

    game = Game(value, 3, batch_size=2, cache=True)
    with pytest.raises(OSError, match="no"):
        game(members_of_masks([1, 2, 3, 4, 7, 5, 6, 0], 3))
    assert len(game.cache) == 4 and game.n_evaluations == 4
    game(members_of_masks([1, 2, 3, 4], 3))
    assert game.n_evaluations == 4
