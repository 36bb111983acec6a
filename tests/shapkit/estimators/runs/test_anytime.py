"""Runs that are cut, extended, interrupted and watched, and that give the same numbers however they are evaluated."""

import copy
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapkit
from shapkit import Attribution, Game, table_game
from shapkit.coalitions import masks_of_members
from shapkit.estimators import SAMPLERS, Budget, StandardError

pytestmark = pytest.mark.usefixtures("too_many_to_enumerate")


def estimate(game, budget=None, method="permutation", **options):
    """By permutations unless said otherwise: quick, and endless."""
    return shapkit.estimate(game, budget, method, **options)


METHODS = ["permutation", "antithetic", "stratified"]
TABLE = np.random.default_rng(4).normal(size=(2**6, 2))
FIRST = {"permutation": 7, "antithetic": 12, "stratified": 110}  # the cost of a first estimate of six players


def assert_same(one, other):
    """The same numbers, to the last bit, from as many evaluations."""
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.standard_errors, other.standard_errors)
    assert (one.n_evaluations, one.seeds, one.method) == (other.n_evaluations, other.seeds, other.method)


def failing_after(n_calls, error):
    """A game whose value function raises once, when it has been called so often before."""
    calls = []

    def value(coalitions):
        calls.append(len(coalitions))
        if len(calls) == n_calls + 1:
            raise error
        return TABLE[masks_of_members(coalitions)]

    value.calls = calls
    return Game(value, 6)


@given(
    st.sampled_from(METHODS),
    st.integers(1, 6),
    st.integers(0, 2**64 - 1),
    st.integers(1, 600),
    st.lists(st.integers(1, 300), max_size=8),
)
@settings(max_examples=80, deadline=None)
def test_cuts_change_nothing(method, n_players, seed, n_evaluations, cuts):
    game = table_game(np.random.default_rng(seed).normal(size=(2**n_players, 2)))
    whole, cut = SAMPLERS[method](game, seed), SAMPLERS[method](game, seed)
    spent = whole.advance(n_evaluations)
    n_before = game.n_evaluations
    done = 0
    for piece in cuts:
        piece = min(piece, spent - done)
        more = cut.advance(piece)
        assert 0 <= more <= piece
        done += more
    done += cut.advance(spent - done)
    assert done == spent <= n_evaluations and game.n_evaluations - n_before == spent
    if spent >= whole.least_budget:
        assert_same(cut.attribution(), whole.attribution())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_the_same_numbers_for_every_batch_size(method, batch_size):
    expected = estimate(table_game(TABLE), 1_500, method, seed=5)
    assert_same(estimate(table_game(TABLE, batch_size=batch_size), 1_500, method, seed=5), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_same_numbers_for_any_number_of_workers(method, n_workers):
    expected = estimate(table_game(TABLE), 1_500, method, seed=5)

    def value(coalitions):
        time.sleep(1e-4 * (coalitions[0].sum() % 3))  # batches finish in another order than they start
        return TABLE[masks_of_members(coalitions)]

    with ThreadPoolExecutor(n_workers) as executor:
        assert_same(estimate(Game(value, 6, executor=executor, batch_size=19), 1_500, method, seed=5), expected)


def test_a_cache_saves_evaluations_and_changes_nothing():
    game = Game(lambda coalitions: TABLE[masks_of_members(coalitions)], 6, cache=True)
    assert_same(estimate(game, 1_500), estimate(table_game(TABLE), 1_500))
    assert game.n_evaluations == 2**6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budgets", [(500, 500), (121, 3, 2, 700), (110, 1, 1, 1, 1)])
def test_extending_equals_a_longer_run(method, budgets):
    game = table_game(TABLE)
    phi = first = estimate(game, budgets[0], method, seed=2)
    for budget in budgets[1:]:
        phi = phi.extend(budget)
    assert_same(phi, estimate(table_game(TABLE), sum(budgets), method, seed=2))
    assert game.n_evaluations == phi.n_evaluations  # nothing was evaluated twice
    assert_same(first, estimate(table_game(TABLE), budgets[0], method, seed=2))  # and the first is as it was


def test_extending_by_a_rule():
    first = estimate(table_game(TABLE), 100)
    phi = first.extend(stop=StandardError(0.05))
    assert phi.standard_errors.max() <= 0.05
    assert_same(phi.extend(stop=StandardError(0.05)), phi)  # it is as good as that already
    assert_same(phi.extend(stop=Budget(50)), phi)
    assert first.extend(stop=Budget(100_000)).n_evaluations > phi.n_evaluations


def test_an_earlier_result_is_extended_rightly_or_not_at_all():
    game = table_game(TABLE)
    first = estimate(game, 200)
    second = first.extend(300)
    assert_same(first.extend(800), estimate(table_game(TABLE), 1_000))
    assert game.n_evaluations == first.extend(800).n_evaluations
    with pytest.raises(ValueError, match="of 197 evaluations, has been extended before, to 997, and there is no way b"):
        first.extend(300)
    assert_same(second.extend(500), estimate(table_game(TABLE), 1_000))
    assert_same(second, estimate(table_game(TABLE), 500))


def test_what_cannot_be_extended(tmp_path):
    phi = estimate(Game(lambda coalitions: coalitions[:, 0], 3), 100)
    phi.save(tmp_path / "phi.npz")
    for other in (Attribution.load(tmp_path / "phi.npz"), pickle.loads(pickle.dumps(phi)), 2 * phi, copy.copy(phi)):
        with pytest.raises(ValueError, match=r"cannot be extended\. Only what .* loaded from a file"):
            other.extend(10)
    with pytest.raises(ValueError, match=r"cannot be extended\. Its values are exact"):
        shapkit.exact(table_game(TABLE)).extend(10)
    for call in (lambda: phi.extend(), lambda: phi.extend(0), lambda: phi.extend(stop=3)):
        with pytest.raises(ValueError, match=r"neither budget nor stop|budget must be|stop must be"):
            call()
    assert_same(phi.extend(10), estimate(Game(lambda coalitions: coalitions[:, 0], 3), 110))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_calls", range(12))
def test_an_interruption_keeps_what_is_known(method, n_calls, tmp_path):
    game = failing_after(n_calls, KeyboardInterrupt())
    try:
        phi = estimate(game, 2_000, method, seed=1)
    except KeyboardInterrupt:
        assert game.n_evaluations <= 2 * FIRST[method]
        return
    assert phi.interrupted == (len(game.value.calls) > n_calls)
    assert_same(phi, estimate(table_game(TABLE), phi.n_evaluations, method, seed=1))
    assert ("interrupted" in repr(phi)) == phi.interrupted == (phi + phi).interrupted == phi.output(0).interrupted
    phi.save(tmp_path / "phi.npz")
    assert Attribution.load(tmp_path / "phi.npz").interrupted == phi.interrupted
    if phi.interrupted:
        longer = phi.extend(1_000)
        assert not longer.interrupted
        assert_same(longer, estimate(table_game(TABLE), phi.n_evaluations + 1_000, method, seed=1))


def test_an_extension_can_be_interrupted():
    game = failing_after(8, KeyboardInterrupt())
    first = estimate(game, 300)
    assert not first.interrupted
    second = first.extend(100_000)
    assert second.interrupted and 300 <= second.n_evaluations < 100_000
    assert_same(second.extend(1_000), estimate(table_game(TABLE), second.n_evaluations + 1_000))


@pytest.mark.parametrize("method", METHODS)
def test_other_exceptions_pass_and_harm_nothing(method):
    with pytest.raises(OSError, match="no"):
        estimate(failing_after(5, OSError("no")), 5_000, method)
    game = failing_after(9, OSError("no"))
    first = estimate(game, 200, method)
    with pytest.raises(OSError, match="no"):
        first.extend(50_000)
    assert_same(first.extend(20_000), estimate(table_game(TABLE), 20_200, method))


# A process whose parent ignores SIGINT, as those of pytest-xdist do, starts by ignoring it too.
SCRIPT = """
import signal, sys, time
import numpy as np
import shapkit

signal.signal(signal.SIGINT, signal.default_int_handler)

def value(coalitions):
    time.sleep(1e-3 * len(coalitions))
    if game.n_evaluations > 150:
        print("ready", flush=True)
    return coalitions @ np.arange(1.0, 27.0)

game = shapkit.Game(value, 26)  # more than a run remembers
phi = shapkit.estimate(game, 10_000_000, method=sys.argv[1])
print(phi.interrupted, 100 < phi.n_evaluations < 100_000, phi.values.round(9).tolist(), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")
@pytest.mark.parametrize("method", ["permutation", "antithetic"])
def test_a_real_interrupt(method):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, method], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        last = process.communicate(timeout=60)[0].splitlines()[-1]
    finally:
        process.kill()
    assert last == f"True True {np.arange(1.0, 27.0).tolist()}" and process.returncode == 0


def test_a_bar_counts_to_the_budget(capsys):
    pytest.importorskip("tqdm")
    phi = estimate(table_game(TABLE), 4_002, progress=True)
    shown = capsys.readouterr().err
    assert "permutation: 100%" in shown and "4.00k/4.00k" in shown
    assert_same(phi, estimate(table_game(TABLE), 4_002))
    phi.extend(2_000, progress=True)
    assert "6.00k/6.00k" in capsys.readouterr().err


def test_a_bar_forecasts_the_end_of_a_rule(capsys):
    pytest.importorskip("tqdm")
    phi = estimate(table_game(TABLE), stop=StandardError(0.02), progress=True)
    last = capsys.readouterr().err.rsplit("permutation:", 1)[1]
    assert phi.standard_errors.max() <= 0.02 and "k/" in last
