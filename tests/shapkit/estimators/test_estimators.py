"""The choice by name that `estimate` makes, the one between exact and estimated that `explain` makes, and errors."""

import sys

import numpy as np
import pytest
from scipy import stats

import shapkit
from shapkit import Game, estimate, explain, shapley_values, table_game, weighted_voting
from shapkit.estimators import SAMPLERS, Budget, StandardError, permutation
from shapkit.estimators.runs.moments import RunningMoments
from shapkit.estimators.runs.stopping import EVALUATIONS_PER_PLAYER

N_PLAYERS = 5
TABLE = np.random.default_rng(4).normal(size=(2**N_PLAYERS, 2))


def test_names_are_written_on_the_result():
    table = np.random.default_rng(4).normal(size=(2**8, 2))
    for method in SAMPLERS:
        phi = estimate(table_game(table), 250, method=method, seed=11)
        assert (phi.index, phi.method, phi.seeds, phi.interrupted) == ("shapley", method, (11,), False)
        assert phi.stopped_by == "budget"
        np.testing.assert_array_equal(phi.empty_value, table[0])
        np.testing.assert_array_equal(phi.grand_value, table[-1])


def test_no_two_methods_draw_the_same_numbers():
    streams = {permutation.PERMUTATION_STREAM, permutation.ANTITHETIC_STREAM}
    for sampler in SAMPLERS.values():
        if sampler.__module__ != permutation.__name__:
            streams.add(sys.modules[sampler.__module__]._STREAM)
    assert len(streams) == len(SAMPLERS)


def test_moments_in_chunks_equal_moments_at_once():
    samples = 1e6 + np.random.default_rng(0).normal(size=(100, 3))
    moments = RunningMoments()
    for chunk in np.split(samples, [1, 2, 30]):
        moments.add(chunk)
    np.testing.assert_allclose(moments.mean, samples.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.standard_error(), stats.sem(samples, axis=0), rtol=1e-9)


def test_explain_is_exact_exactly_when_the_budget_pays():
    game = table_game(TABLE)
    assert explain(game, budget=32).method == "exact"
    assert explain(game, budget=31).method == "gaussian_process"
    assert explain(game, budget=31).n_evaluations <= 31
    np.testing.assert_array_equal(explain(game, 31, seed=3).values, estimate(game, 31, seed=3).values)
    np.testing.assert_allclose(explain(game).values, shapley_values(TABLE), atol=1e-12)


def test_explain_estimates_beyond_what_exact_can_do(monkeypatch):
    monkeypatch.setattr("shapkit.estimators.MAX_EXACT_PLAYERS", 4)
    assert explain(table_game(TABLE), budget=2**10).method == "gaussian_process"


def slow(seconds, n_players, clock):
    """A game whose clock says that a coalition takes so long, and which counts what it is asked for."""
    weights = np.random.default_rng(0).random(n_players)

    def value(coalitions):
        clock.now += seconds * len(coalitions)
        return np.tanh(coalitions @ weights)

    return Game(value, n_players)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def test_explain_by_default_is_exact_where_that_takes_at_most_a_minute(clock):
    game = slow(0.05, 10, clock)  # 51 seconds
    phi = explain(game)
    assert (phi.method, phi.stopped_by, phi.standard_errors) == ("exact", "all coalitions", None)
    assert phi.n_evaluations == game.n_evaluations == 2**10, "what was timed is not evaluated again"
    np.testing.assert_array_equal(phi.values, shapkit.exact(game).values)


def test_explain_by_default_ends_at_small_errors_or_after_a_minute(clock):
    game = slow(0.07, 10, clock)  # 72 seconds
    phi = explain(game, seed=3)
    assert phi.stopped_by == "RelativeError(0.02)"
    assert phi.standard_errors.max() <= 0.02 * np.abs(phi.values).max()
    assert EVALUATIONS_PER_PLAYER * 10 <= phi.n_evaluations < 2**10 and clock.now < 60
    game = slow(1.0, 30, clock)
    began = clock.now
    phi = explain(game)
    assert phi.stopped_by == "Seconds(60.0)" and "stopped by Seconds(60.0)" in repr(phi)
    # a step that is under way is finished: the first are of 64 evaluations
    assert phi.n_evaluations <= game.n_evaluations <= 3 * 64 and clock.now - began <= 3 * 64


def test_explain_by_default_times_few_evaluations_of_a_slow_model(clock):
    game = slow(100.0, 12, clock)
    calls = []
    inner = game.value
    game.value = lambda coalitions: calls.append(len(coalitions)) or inner(coalitions)
    explain(game)
    assert calls[:3] == [1, 1, 1] and calls[3] >= 8, "nobody and everybody, one more, and the estimate"


def test_explain_by_default_takes_no_more_than_the_coalitions_of_few_players():
    for n_players in range(5):
        game = table_game(np.random.default_rng(4).normal(size=2**n_players))
        phi = explain(game)
        assert phi.method == "exact" and phi.n_evaluations == game.n_evaluations == 2**n_players


def test_auto_says_what_it_chose():
    game = table_game(TABLE)
    assert estimate(game, 32).method == "exact"
    assert estimate(game, 32, stop=StandardError(1e9)).method == "gaussian_process", "a rule asks for less than all"
    assert estimate(game, stop=StandardError(1e9)).method == "gaussian_process"
    np.testing.assert_array_equal(
        estimate(game, 20, seed=5).values, estimate(game, 20, "gaussian_process", seed=5).values
    )
    many = weighted_voting([1] * 2_001, quota=300)
    assert estimate(many, 6_000).method == "antithetic"
    assert estimate(many, 4_001).method == "permutation", "a pair costs 4,002"
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*64\)"):
        estimate(game, 32, seed=-1)


def test_an_estimate_by_auto_is_extended_with_the_same_method():
    longer = estimate(table_game(TABLE), 16).extend(1_000)
    assert longer.method == "gaussian_process" and longer.n_evaluations == 32
    np.testing.assert_allclose(longer.values, shapley_values(TABLE), atol=1e-12)


def test_explain_takes_rules():
    phi = explain(table_game(TABLE), stop=Budget(20))
    assert phi.n_evaluations == 20


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda game: estimate(game, 5, "permutation"),
            "budget is 5 evaluations, expected at least 6: method 'permutation' has no estimate of 5 players before",
        ),
        (lambda game: estimate(game, 9, "antithetic"), "budget is 9 evaluations, expected at least 10"),
        (lambda game: estimate(game, 31, "stratified"), "budget is 31 evaluations, expected at least 32"),
        (lambda game: estimate(game, 0), "budget must be an integer of at least 1, got 0"),
        (lambda game: estimate(game, 1e3), "budget must be an integer of at least 1, got 1000.0"),
        (lambda game: estimate(game), "neither budget nor stop is given"),
        (lambda game: estimate(game, stop=1_000), "stop must be a rule such as .*, got 1000"),
        (
            lambda game: estimate(game, 50, method="castro"),
            "method must be 'auto' or one of 'permutation', 'antithetic', 'stratified', .*, got 'castro'",
        ),
        (lambda game: estimate(game, 50, seed=-1), r"seed must be an integer in \[0, 2\*\*64\), got -1"),
        (lambda game: explain(game, 1), "budget is 1 evaluations, expected at least 2: method 'gaussian_process'"),
        (lambda game: explain(game, -3), "budget must be an integer of at least 1, got -3"),
    ],
)
def test_errors(call, message):
    game = table_game(TABLE)
    with pytest.raises(ValueError, match=message):
        call(game)
    assert game.n_evaluations == 0


@pytest.mark.parametrize(
    ("each", "seconds", "chosen"),
    [
        (1e-7, 5.0, "sparse"),
        (3e-5, 0.1, "sparse"),
        (1e-4, 1.0, "sparse"),  # enough to find a short polynomial, which the other would see too few pairs for
        (3e-5, 5.0, "gaussian_process"),
        (1e-3, 1.0, "gaussian_process"),
        (0.01, 20.0, "gaussian_process"),
        (1.0, 60.0, "gaussian_process"),
    ],
)
def test_auto_makes_the_most_of_its_time(clock, each, seconds, chosen):
    game = slow(each, 30, clock)
    phi = estimate(game, stop=shapkit.Seconds(seconds))
    assert phi.method == chosen
    limited = estimate(game, budget=90, stop=shapkit.Seconds(1e6))
    assert limited.method == "gaussian_process", "so few evaluations are best spent on it"


def test_what_auto_timed_is_not_asked_again(clock):
    game = slow(0.01, 12, clock)
    seen = []
    inner = game.value
    game.value = lambda coalitions: seen.extend(map(bytes, np.packbits(coalitions, axis=1))) or inner(coalitions)
    estimate(game, stop=shapkit.Seconds(3.0))
    assert len(seen) == len(set(seen))
