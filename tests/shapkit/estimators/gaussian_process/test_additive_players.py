"""Players that add the same everywhere are found alone; what is left is a smaller game."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import shapkit
from shapkit.estimators.gaussian_process.additive_players import LEAST_PLAYERS, further_singles, remaining_pairs
from shapkit.estimators.gaussian_process.pair_design import random_pairs, single_pairs
from shapkit.estimators.gaussian_process.sampler import GaussianProcessSampler
from shapkit.exact.interactions import Index

Floats = NDArray[np.float64]
Coalitions = NDArray[np.bool_]


def partly_additive(
    n_players: int, n_interacting: int, seed: int = 0, n_outputs: int = 1
) -> tuple[shapkit.Game, Floats]:
    """Players of whom the first interact, and the exact Shapley values: (n_players, n_outputs)."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=(n_players, n_outputs)) * 10.0 ** rng.integers(-3, 4)
    worth[:n_interacting] = 0.0
    directions = rng.normal(size=(n_interacting, 4, n_outputs))

    def among_few(coalitions: Coalitions) -> Floats:
        members = coalitions[:, :n_interacting].astype(float)
        return np.asarray(5.0 + np.tanh(np.einsum("ci,iho->cho", members, directions)).sum(axis=1))

    exact = worth.copy()
    if n_interacting:
        exact[:n_interacting] = shapkit.exact(shapkit.Game(among_few, n_interacting)).values
    return shapkit.Game(lambda coalitions: coalitions @ worth + among_few(coalitions), n_players), exact


def voting(n_players: int) -> Callable[[Coalitions], Floats]:
    weights = np.random.default_rng(1).integers(1, 20, size=n_players)
    return lambda coalitions: (coalitions @ weights > weights.sum() / 2).astype(float)


def payoffs_of_pairs(game: shapkit.Game, signs: Floats) -> tuple[Floats, Floats]:
    members, others = (game(sign * signs > 0).reshape(len(signs), -1) for sign in (1, -1))
    return (members - others) / 2, (members + others) / 2


@pytest.mark.parametrize(("n_players", "n_interacting"), [(100, 10), (60, 20), (300, 7)])
def test_additive_players_are_exact_for_two_evaluations_each(n_players: int, n_interacting: int) -> None:
    game, exact = partly_additive(n_players, n_interacting, n_outputs=2)
    found = shapkit.estimate(game, 2 * n_players + 2, seed=3)
    assert found.method == "gaussian_process"
    assert found.standard_errors is not None
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found.values[n_interacting:], exact[n_interacting:], rtol=0, atol=1e-12 * scale)
    assert (found.standard_errors[n_interacting:] == 0).all()
    assert (found.standard_errors[:n_interacting] > 0).all()


def test_a_game_is_exact_once_all_pairs_of_those_who_interact_are_known() -> None:
    game, exact = partly_additive(60, 6)
    found = shapkit.estimate(game, 2 * (1 + 60 + 3 + 32), seed=1)
    np.testing.assert_allclose(found.values, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    assert found.standard_errors is not None
    assert (found.standard_errors == 0).all()
    more = shapkit.estimate(game, 1_000, seed=1)  # what is asked for is evaluated, to see whether it is so
    assert more.n_evaluations == 1_000
    np.testing.assert_allclose(more.values, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@pytest.mark.parametrize("n_evaluations", [122, 128, 200])
def test_a_game_of_additive_players_alone(n_evaluations: int) -> None:
    game, exact = partly_additive(60, 0)
    found = shapkit.estimate(game, n_evaluations, seed=2)
    np.testing.assert_allclose(found.values, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@pytest.mark.parametrize("index", ["SII", "k-SII", "STII", "FSII", "BII", "FBII", "banzhaf"])
def test_interactions_are_those_of_the_players_that_interact(index: Index) -> None:
    game, _ = partly_additive(52, 5)
    order = 1 if index == "banzhaf" else 2
    found = shapkit.estimate(game, 2 * (1 + 52 + 3 + 16), seed=1, index=index, order=order)
    few = shapkit.Game(lambda some: game(np.concatenate([some, np.zeros((len(some), 47), dtype=bool)], axis=1)), 5)
    exact = shapkit.exact(few, index, order)
    known = dict(zip(shapkit.interaction_terms(5, order), exact.values, strict=True))
    for term, value, error in zip(
        shapkit.interaction_terms(52, order), found.values, found.standard_errors, strict=True
    ):
        if len(term) > 1 or max(term) < 5:
            np.testing.assert_allclose(value, known.get(term, 0.0), rtol=0, atol=1e-9)
            assert error < 1e-9


def test_steps_do_not_matter() -> None:
    game, _ = partly_additive(60, 20)
    at_once, by_steps = (GaussianProcessSampler(game, seed=5) for _ in range(2))
    assert at_once.advance(240) == 240
    assert sum(by_steps.advance(n) for n in (2, 2, 6, 110, 14, 106)) == 240
    found = (
        by_steps.attribution().values
    )  # a game's payoffs may differ in their last digit with what is evaluated at once
    np.testing.assert_allclose(found, at_once.attribution().values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_players_are_not_additive_whom_two_evaluations_do_not_show(share: float) -> None:
    """Voters alone decide nothing, and a few additive players are not worth looking for."""
    vote, n_players = voting(60), 60
    worth = np.where(np.arange(n_players) < share * n_players, np.random.default_rng(2).normal(size=n_players), 0.0)
    game = shapkit.Game(lambda coalitions: vote(coalitions) + coalitions @ worth, n_players)
    signs = np.concatenate([np.ones((1, n_players)), single_pairs(n_players, n_players, seed=4)])
    known = remaining_pairs(signs, *payoffs_of_pairs(game, signs))
    assert not known.reduced


def test_players_that_are_additive_one_by_one_and_not_together_are_not_taken_to_be() -> None:
    """Voters who are paid: each is worth what it is paid to nobody and to all others."""
    others, exact = partly_additive(60, 10)
    vote = voting(50)
    game = shapkit.Game(lambda coalitions: others(coalitions)[:, 0] + 30 * vote(coalitions[:, 10:]), 60)
    sampler = GaussianProcessSampler(game, seed=0)
    sampler.advance(2 * 60 + 2)
    errors = sampler.attribution().standard_errors
    assert errors is not None
    assert (errors[10:] == 0).all()  # nothing known speaks against it
    sampler.advance(4)
    errors = sampler.attribution().standard_errors
    assert errors is not None
    assert (errors > 0).all()
    sampler.advance(1_200 - 2 * 60 - 6)
    found = sampler.attribution()
    assert found.standard_errors is not None
    ballots = found.values[10:] - exact[10:, 0]
    assert abs(ballots.sum() - 30) < found.standard_errors[10:].sum()  # of a sum, errors at their most dependent
    assert ballots.min() > -4 * found.standard_errors.max()


def test_a_payoff_with_noise_has_no_additive_players() -> None:
    rng = np.random.default_rng(0)
    game = shapkit.Game(lambda coalitions: coalitions.sum(axis=1) + 1e-6 * rng.normal(size=len(coalitions)), 60)
    sampler = GaussianProcessSampler(game, seed=0)
    sampler.advance(40)
    assert ((sampler._signs > 0).sum(axis=1) == 1).sum() <= 4  # it looked at two of them


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32), st.integers(10, 80))
def test_remaining_pairs_are_those_of_the_smaller_game(n_interacting: int, seed: int, n_random: int) -> None:
    """The slow twin: the game of the few, additive players absent and paid for, evaluated directly."""
    n_players = LEAST_PLAYERS
    game, exact = partly_additive(n_players, n_interacting, seed)
    singles = np.concatenate([np.ones((1, n_players)), single_pairs(n_players, n_players, seed=1)])
    signs = np.concatenate([singles, random_pairs(n_players, n_random, 2, singles)])
    odd, even = payoffs_of_pairs(game, signs)
    known = remaining_pairs(signs, odd, even)
    scale = np.abs(odd).max() + np.abs(even).max()
    assert known.reduced
    assert set(known.players) <= set(range(n_interacting))  # one alone may be additive
    np.testing.assert_allclose(known.additive[n_interacting:], exact[n_interacting:], rtol=0, atol=1e-12 * scale)
    everyone = np.full((len(known.signs), n_players), -1.0)
    everyone[:, known.players] = known.signs
    members, others = np.zeros((2, len(known.signs), n_players), dtype=bool)
    members[:, known.players], others[:, known.players] = known.signs > 0, known.signs < 0
    expected = game(members).reshape(-1, 1), game(others).reshape(-1, 1)
    np.testing.assert_allclose(known.odd, (expected[0] - expected[1]) / 2, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(known.even, (expected[0] + expected[1]) / 2, rtol=0, atol=1e-11 * scale)
    assert len(np.unique(known.signs * known.signs[:, :1], axis=0)) == len(known.signs) if known.signs.size else True
    assert not len(further_singles(signs, odd, even, seed=1))
