"""The influence graph of a game: both directions of the generalised theorem, and what a sample can say."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapkit
from shapkit import Game, dummy_residual, influence_graph, table_game


def local_game(allowed, seed):
    """A random game whose output k depends on the players with allowed[player, k], and on nobody else."""
    n_players, n_outputs = allowed.shape
    tables = np.random.default_rng(seed).normal(size=(n_outputs, 2**n_players))
    powers = 1 << np.arange(n_players)

    def value(coalitions):
        seen = (coalitions[:, :, None] & allowed) * powers[:, None]
        return tables[np.arange(n_outputs), seen.sum(axis=1)]

    return Game(value, n_players)


def allowed_graphs(max_players=6):
    shapes = st.tuples(st.integers(1, max_players), st.integers(1, 4))
    return st.tuples(shapes, st.integers(0, 2**32 - 1)).map(
        lambda case: np.random.default_rng(case[1]).random(case[0]) < 0.5
    )


@given(allowed_graphs(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_graph_of_a_local_game_is_found(allowed, seed):
    game = local_game(allowed, seed)
    graph = influence_graph(game)
    np.testing.assert_array_equal(graph.influences, allowed)  # normal tables: an allowed player is never a dummy
    assert graph.n_evaluations == game.n_evaluations == 2**game.n_players
    # the theorem: those outside A_k are dummies, and the payoff of S is that of S ∩ A_k
    every = np.concatenate([block for _, block in shapkit.coalitions.enumerate_coalitions(game.n_players, 64)])
    payoffs = game(every)
    for output in range(allowed.shape[1]):
        alone = game(every & graph.influences[:, output])[:, output]
        np.testing.assert_array_equal(payoffs[:, output], alone)


@given(st.integers(1, 7), st.sampled_from([(), (3,), (2, 2)]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_tolerance_bounds_what_the_ignored_can_do_together(n_players, output_shape, seed):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(2**n_players, *output_shape)) * rng.choice([1e-3, 1], size=output_shape)
    graph = influence_graph(table_game(table), tolerance=1.0)
    for player in range(n_players):
        pairs = np.arange(2**n_players) & ~(1 << player)
        moved = np.abs(table[pairs | 1 << player] - table[pairs]).max(axis=0)
        np.testing.assert_array_equal(graph.largest[player], moved)
        np.testing.assert_array_equal(graph.influences[player], moved > 1.0)
    for output in np.ndindex(*output_shape):
        kept = sum(1 << player for player in range(n_players) if graph.influences[(player, *output)])
        column = table[(slice(None), *output)]
        reach = np.abs(column - column[np.arange(2**n_players) & kept]).max()
        assert reach <= n_players - bin(kept).count("1") + 1e-12


@pytest.mark.parametrize("block_floats", [1, 8, 64, 2**20])
def test_mean_squares_are_dummy_residuals_in_blocks_of_any_size(block_floats, monkeypatch):
    monkeypatch.setattr(sys.modules["shapkit.dummies.influence"], "_BLOCK_FLOATS", block_floats)
    table = np.random.default_rng(0).normal(size=(32, 2, 2))
    graph = influence_graph(table_game(table))
    for player in range(5):
        expected = dummy_residual(table_game(table), player).per_output
        np.testing.assert_allclose(graph.mean_squares[player], expected, rtol=1e-12)
    sampled = influence_graph(table_game(table), method="sampled", samples=50, seed=3)
    monkeypatch.undo()
    again = influence_graph(table_game(table), method="sampled", samples=50, seed=3)
    np.testing.assert_allclose(sampled.mean_squares, again.mean_squares, rtol=1e-12)
    np.testing.assert_array_equal(sampled.largest, again.largest)


def test_sampled_mean_squares_are_unbiased_with_true_standard_errors():
    table = np.random.default_rng(0).normal(size=(64, 2))
    exact = influence_graph(table_game(table)).mean_squares
    runs = [influence_graph(table_game(table), method="sampled", samples=40, seed=seed) for seed in range(300)]
    estimates = np.array([run.mean_squares for run in runs])
    spread = estimates.std(axis=0, ddof=1)
    assert (np.abs(estimates.mean(axis=0) - exact) < 4.5 * spread / np.sqrt(300)).all()
    stated = np.sqrt(np.mean([run.standard_errors**2 for run in runs], axis=0))
    # a standard deviation from 300 runs has a relative error of about 4 %, more for long tails; 5 errors
    np.testing.assert_allclose(stated, spread, rtol=0.25)
    assert runs[0].n_evaluations == 40 * 7 + 1


def test_a_rare_influence_is_missed_about_as_often_as_stated():
    # player 0 matters only when all seven others are there: in one coalition of 128
    game = Game(lambda coalitions: coalitions.all(axis=1), 8)
    assert influence_graph(game).influences.all()
    samples = 300
    runs = [influence_graph(game, method="sampled", samples=samples, seed=seed) for seed in range(200)]
    missed = np.mean([not run.influences[0] for run in runs])
    expected = (1 - 1 / 128) ** samples
    assert abs(missed - expected) < 4 * np.sqrt(expected * (1 - expected) / 200)
    # the bound: a share this large is missed with a probability of 5 % at most
    share = runs[0].missed_share(0.95)
    assert (1 - share) ** samples == pytest.approx(0.05)
    assert influence_graph(game).missed_share() == 0


def test_rounding_is_no_influence_by_default():
    def value(coalitions):
        exact = 1000 + coalitions[:, 0] * 5.0
        return (exact + 1e-6 * coalitions[:, 1]).astype(np.float32)[:, None] + np.array([0, 1e-7]) * coalitions[:, 1:2]

    graph = influence_graph(Game(value, 2, names=["eyes", "nose"]))
    assert graph.players_of(0) == graph.players_of((1,)) == ("eyes",)
    assert influence_graph(Game(value, 2), tolerance=0).influences[:, 1].all()
    assert repr(graph).startswith("InfluenceGraph: 2 players, outputs of shape (2,), 2 of 4 possible influences, exact")
    assert "sampled in 9 coalitions" in repr(influence_graph(Game(value, 2), method="sampled", samples=9))


def test_games_without_players():
    game = Game(lambda coalitions: np.ones((len(coalitions), 2)), 0)
    for method in ("exact", "sampled"):
        assert influence_graph(game, method=method).influences.shape == (0, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda game: influence_graph(game, tolerance=-1), "tolerance must be a finite number of at least 0, got -1"),
        (lambda game: influence_graph(game, method="fast"), "method must be one of 'exact', 'sampled', got 'fast'"),
        (lambda game: influence_graph(game, method="sampled", samples=0), "samples must be an integer of at least 1"),
        (lambda game: influence_graph(game).missed_share(1), "level must be between 0 and 1"),
        (
            lambda game: influence_graph(Game(lambda rows: np.zeros((len(rows), 2**10)), 20)),
            r"all payoffs, 2\*\*20 of 1024 elements, more than 268435456 in all: use method=\"sampled\"",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(table_game([0, 1, 2, 4]))


def test_outputs_that_do_not_exist():
    graph = influence_graph(table_game(np.zeros((4, 2, 3))))
    for output in (0, (0, 3), ()):
        with pytest.raises(IndexError):
            graph.players_of(output)
