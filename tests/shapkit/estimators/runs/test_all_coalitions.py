"""No run needs more than all coalitions: it asks for each once, then it is exact, says so and ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapkit
from shapkit import Attribution, Game, estimate, table_game
from shapkit.coalitions import masks_of_members
from shapkit.estimators import SAMPLERS, Budget, RelativeError, Seconds, StandardError
from shapkit.estimators.runs import known_payoffs
from shapkit.estimators.runs.known_payoffs import KnownPayoffs


def counted(table):
    """A game of a table, and how often it was asked for each coalition."""
    counts = np.zeros(len(table), dtype=int)

    def value(coalitions):
        masks = masks_of_members(coalitions)
        np.add.at(counts, masks, 1)
        return table[masks]

    return Game(value, len(table).bit_length() - 1), counts


def random_table(n_players, *output_shape):
    return np.random.default_rng(n_players).normal(size=(2**n_players, *output_shape))


def assert_exact(phi, table):
    np.testing.assert_allclose(phi.values, shapkit.shapley_values(table), atol=1e-12)
    assert (phi.standard_errors, phi.degrees_of_freedom, phi.seeds) == (None, None, ())
    assert phi.n_evaluations == len(table)
    assert phi.stopped_by == "all coalitions" and "exact" in repr(phi)


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("n_players", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("extra", [0, 1, 10_000])
def test_a_budget_that_pays_for_all_is_exact(method, n_players, extra):
    table = random_table(n_players, 2)
    game, counts = counted(table)
    phi = estimate(game, len(table) + extra, method)
    assert_exact(phi, table)
    assert phi.method == method and (counts == 1).all()
    assert_exact(phi.extend(5), table)
    assert (counts == 1).all()


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_budget_that_does_not_is_no_more_than_kept(method):
    table = random_table(8)
    for budget in (210, 255):
        game, counts = counted(table)
        phi = estimate(game, budget, method)
        assert phi.n_evaluations <= budget and phi.stopped_by == "budget" and (phi.standard_errors > 0).all()
        assert counts.max() == 1 and counts.sum() <= phi.n_evaluations
    assert_exact(phi.extend(1), table)
    assert (counts == 1).all()


@pytest.mark.parametrize("method", ["auto", *SAMPLERS])
@pytest.mark.parametrize("stop", [RelativeError(0.01), StandardError(1e-9), Seconds(600), Budget(10**9)])
def test_rules_end_where_all_values_are_zero(method, stop):
    """Worth 1 with one or two of three players, else 0."""
    table = np.array([0.0, 1, 1, 1, 1, 1, 1, 0])
    game, counts = counted(table)
    phi = estimate(game, method=method, stop=stop)
    assert_exact(phi, table)
    assert (counts == 1).all()


def test_a_process_with_more_pairs_than_it_takes_asks_for_none_of_them_again(monkeypatch):
    monkeypatch.setattr("shapkit.estimators.gaussian_process.sampler.MAX_PAIRS", 20)
    table = random_table(8)
    game, counts = counted(table)
    assert_exact(estimate(game, 1_000, "gaussian_process"), table)
    assert (counts == 1).all()


@pytest.mark.parametrize("method", ["permutation", "antithetic", "stratified"])
def test_numbers_are_those_of_a_game_that_is_not_remembered(method, monkeypatch):
    table = random_table(9)
    known = estimate(table_game(table), 450, method)
    monkeypatch.setattr(known_payoffs, "_MOST_PLAYERS", 8)
    plain = estimate(table_game(table), 450, method)
    np.testing.assert_array_equal(known.values, plain.values)
    np.testing.assert_array_equal(known.standard_errors, plain.standard_errors)


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("limit", ["_MOST_PLAYERS", "_MOST_NUMBERS"])
def test_games_too_large_to_be_remembered_are_exact_too(method, limit, monkeypatch):
    monkeypatch.setattr(known_payoffs, limit, 3)
    table = random_table(5, 2)
    phi = estimate(table_game(table), 10_000, method)
    assert phi.stopped_by == "all coalitions" and phi.standard_errors is None
    np.testing.assert_allclose(phi.values, shapkit.shapley_values(table), atol=1e-12)
    assert phi.n_evaluations <= 2 * 32, "those asked for before are asked for again"
    almost = estimate(table_game(table), 61, "permutation")
    assert almost.stopped_by == "budget" and almost.standard_errors is not None


def test_an_interruption_among_the_last_coalitions_loses_none_that_was_known():
    table = random_table(7)
    game, counts = counted(table)
    value = game.value

    def interrupted(coalitions):
        if game.n_evaluations + len(coalitions) == 2**7 and game.value is not value:
            game.value = value
            raise KeyboardInterrupt
        return value(coalitions)

    game.value = interrupted
    phi = estimate(game, 10_000, "permutation")
    assert phi.interrupted and phi.stopped_by == "interrupt" and phi.standard_errors is not None
    assert game.n_evaluations < phi.n_evaluations <= 2**7
    assert_exact(phi.extend(10_000), table)
    assert (counts == 1).all()


@given(st.integers(0, 5), st.integers(0, 2**32), st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_known_payoffs_are_those_of_the_game_and_each_is_asked_for_once(n_players, seed, sizes):
    table = random_table(n_players, 3)
    game, counts = counted(table)
    known = KnownPayoffs(game)
    rng = np.random.default_rng(seed)
    for size in sizes:
        masks = rng.integers(0, len(table), size)
        np.testing.assert_array_equal(known(shapkit.coalitions.members_of_masks(masks, n_players)), table[masks])
    assert counts.max() == 1


def test_what_ended_it_is_kept(tmp_path):
    phi = estimate(table_game(random_table(9)), stop=Budget(500) | StandardError(0.5), method="antithetic")
    assert phi.stopped_by == "StandardError(0.5)" and "stopped by StandardError(0.5)" in phi._repr_html_()
    phi.save(tmp_path / "phi.npz")
    assert Attribution.load(tmp_path / "phi.npz").stopped_by == "StandardError(0.5)"
    assert (2 * phi).stopped_by == (phi + phi).stopped_by == "StandardError(0.5)"
    assert (phi + shapkit.exact(table_game(random_table(9)))).stopped_by == ""
    both = estimate(table_game(random_table(9)), stop=Budget(100) & StandardError(0.5), method="antithetic")
    assert both.stopped_by == "Budget(100) & StandardError(0.5)"
    spent = estimate(table_game(random_table(9)), stop=Budget(100) | StandardError(1e-9), method="antithetic")
    assert spent.stopped_by == "budget"
