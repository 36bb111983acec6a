"""The choice by name that `estimate` makes, the one between exact and estimated that `explain` makes, and errors."""

import sys

import numpy as np
import pytest
from scipy import stats

from shapkit import estimate, explain, shapley_values, table_game, weighted_voting
from shapkit.estimators import SAMPLERS, Budget, StandardError, gaussian_process, permutation
from shapkit.estimators.moments import RunningMoments

N_PLAYERS = 5
TABLE = np.random.default_rng(4).normal(size=(2**N_PLAYERS, 2))


def test_names_are_written_on_the_result():
    for method in SAMPLERS:
        phi = estimate(table_game(TABLE), 500, method=method, seed=11)
        assert (phi.index, phi.method, phi.seeds, phi.interrupted) == ("shapley", method, (11,), False)
        np.testing.assert_array_equal(phi.empty_value, TABLE[0])
        np.testing.assert_array_equal(phi.grand_value, TABLE[-1])


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


def test_explain_keeps_to_its_default_budget(monkeypatch):
    monkeypatch.setattr(gaussian_process, "MAX_PAIRS", 100)  # for speed; what is beyond it counts too
    seventeen = explain(weighted_voting(range(17), quota=60))
    assert seventeen.method == "gaussian_process" and seventeen.n_evaluations == 2**16
    assert explain(weighted_voting(range(16), quota=60)).method == "exact"


def test_auto_says_what_it_chose():
    game = table_game(TABLE)
    assert estimate(game, 32).method == "exact"
    assert estimate(game, 32, stop=StandardError(1e9)).method == "gaussian_process", "a rule asks for less than all"
    assert estimate(game, stop=StandardError(1e9)).method == "gaussian_process"
    np.testing.assert_array_equal(
        estimate(game, 20, seed=5).values, estimate(game, 20, "gaussian_process", seed=5).values
    )
    many = weighted_voting([1] * 1_001, quota=300)
    assert estimate(many, 3_000).method == "antithetic"
    assert estimate(many, 2_001).method == "permutation", "a pair costs 2,002"
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
        (lambda game: estimate(game, 71, "stratified"), "budget is 71 evaluations, expected at least 72"),
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
