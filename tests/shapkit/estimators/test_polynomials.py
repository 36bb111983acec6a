"""Polynomials of few terms, against transforms of whole tables, and what `known_polynomial` must not be sure of."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import shapkit
from shapkit.coalitions import coalitions_of_size, members_of_masks
from shapkit.estimators import polynomials
from shapkit.estimators.gaussian_process.functionals import index_functionals, of_products
from shapkit.estimators.polynomials import (
    FittedPolynomial,
    KnownPolynomial,
    Polynomial,
    fit_polynomial,
    short_polynomial,
)
from shapkit.exact.interactions import Index
from shapkit.randomness import counter_bits

Floats = NDArray[np.float64]


def known_polynomial(signs: Floats, odd: Floats, even: Floats, even_counts: bool) -> KnownPolynomial | None:
    found = short_polynomial(signs, odd, even, even_counts)
    return None if found is None else polynomials.known_polynomial(signs, odd, even, found)


def random_signs(n_pairs: int, n_players: int, seed: int = 0) -> Floats:
    return np.where(counter_bits(seed, np.arange(n_pairs)[:, None], np.arange(n_players)) & 1, 1.0, -1.0)


def products(terms: list[tuple[int, ...]], signs: Floats) -> Floats:
    return np.stack([signs[:, list(term)].prod(axis=1) for term in terms], axis=1)


def random_terms(n_players: int, n_carriers: int, most: int, seed: int) -> tuple[list[tuple[int, ...]], Floats]:
    """The polynomial of a sum of unanimity games, its terms and their coefficients (n_terms, 1)."""
    rng = np.random.default_rng(seed)
    coefficients: dict[tuple[int, ...], float] = {}
    for _ in range(n_carriers):
        carrier = sorted(rng.choice(n_players, rng.integers(1, most + 1), replace=False).tolist())
        dividend = rng.choice([-1, 1]) * rng.uniform(0.5, 2.0)
        for size in range(len(carrier) + 1):  # the carrier's is the product of (1 + x_j) / 2
            for part in combinations(carrier, size):
                coefficients[part] = coefficients.get(part, 0.0) + dividend / 2 ** len(carrier)
    terms = sorted(coefficients)
    return terms, np.array([[coefficients[term]] for term in terms])


def payoffs_of_pairs(terms: list[tuple[int, ...]], coefficients: Floats, signs: Floats) -> tuple[Floats, Floats]:
    odd = np.array([len(term) % 2 == 1 for term in terms])
    all_products = products(terms, signs)
    return all_products[:, odd] @ coefficients[odd], all_products[:, ~odd] @ coefficients[~odd]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n_players=st.integers(10, 40), n_carriers=st.integers(1, 12))
def test_a_sum_of_few_interactions_is_found_with_every_coefficient(seed, n_players, n_carriers):
    terms, coefficients = random_terms(n_players, n_carriers, 4, seed)
    n_odd = sum(len(term) % 2 for term in terms)
    signs = random_signs(32 + 6 * max(n_odd, n_players), n_players, seed)
    odd, even = payoffs_of_pairs(terms, coefficients, signs)
    known = known_polynomial(signs, odd, even, even_counts=True)
    if min(len(np.unique(np.abs(part).round(9))) for part in (odd, even)) <= 3:
        return  # it might be a voting game
    assert known is not None and known.odd.all() and known.even.all()
    found = dict(zip(known.polynomial.members(), known.polynomial.coefficients[:, 0], strict=True))
    expected = dict(zip(terms, coefficients[:, 0], strict=True))
    for term in found.keys() | expected.keys():
        assert found.get(term, 0.0) == pytest.approx(expected.get(term, 0.0), abs=1e-9)


@pytest.mark.parametrize(
    ("index", "order"), [("SII", 2), ("k-SII", 3), ("STII", 2), ("FSII", 2), ("BII", 2), ("FBII", 3)]
)
def test_an_index_of_a_polynomial_is_that_of_its_table(index: Index, order: int):
    n_players = 6
    terms, coefficients = random_terms(n_players, 5, 5, seed=1)
    everyone = members_of_masks(range(2**n_players), n_players)
    table = products(terms, np.where(everyone, 1.0, -1.0)) @ coefficients
    expected = shapkit.exact(shapkit.table_game(table[:, 0]), index, order).values
    parents, players, places = [-1], [-1], {(): 0}
    for term in sorted(terms, key=len):  # all parts are there
        if term:
            places[term] = len(parents)
            parents.append(places[term[:-1]])
            players.append(term[-1])
    ordered = [coefficients[terms.index(term)] for term in places]
    polynomial = Polynomial(np.array(parents), np.array(players), np.array(ordered), n_players)
    np.testing.assert_allclose(polynomial.predict(everyone), table, atol=1e-12)
    found = [
        polynomial.index_values(coalitions_of_size(n_players, size), of_products(functional, n_players))
        for size, functional in enumerate(index_functionals(index, order, n_players), start=1)
    ]
    np.testing.assert_allclose(np.concatenate(found)[:, 0], expected, atol=1e-10)
    shapley = shapkit.exact(shapkit.table_game(table[:, 0])).values
    np.testing.assert_allclose(polynomial.shapley_values()[:, 0], shapley, atol=1e-10)


def test_parts_of_a_polynomial_add_up_to_it():
    terms, coefficients = random_terms(8, 4, 4, seed=3)
    signs = random_signs(300, 8)
    odd, even = payoffs_of_pairs(terms, coefficients, signs)
    known = known_polynomial(signs, odd, even, even_counts=True)
    assert known is not None and known.odd.all() and known.even.all()
    others = random_signs(50, 8, seed=9) > 0
    parts = [known.polynomial.of_part(even=part).predict(others) for part in (False, True)]
    np.testing.assert_allclose(sum(parts), known.polynomial.predict(others), atol=1e-12)
    np.testing.assert_allclose(parts[0], -known.polynomial.of_part(even=False).predict(~others), atol=1e-12)
    np.testing.assert_allclose(parts[1], known.polynomial.of_part(even=True).predict(~others), atol=1e-12)


def test_terms_that_others_make_up_are_not_fitted_twice():
    signs = np.repeat(random_signs(200, 5), 2, axis=1)  # each player twice
    odd = signs[:, [0]] * signs[:, [2]] * signs[:, [4]]
    even = signs[:, [0]] * signs[:, [2]] + signs[:, [2]] * signs[:, [4]]
    found = fit_polynomial(signs, odd, even, most_terms=60)
    assert found is not None
    assert (found.polynomial.sizes() % 2).sum() <= 5 + 10 + 1  # as many as there are of five players
    assert found.odd_solved.all()


def test_each_output_is_judged_by_itself():
    terms, coefficients = random_terms(9, 6, 4, seed=5)
    signs = random_signs(250, 9)
    odd, even = payoffs_of_pairs(terms, coefficients, signs)
    noise = np.random.default_rng(0).normal(size=odd.shape)
    known = known_polynomial(signs, np.concatenate([odd, noise], axis=1), np.concatenate([even, noise], axis=1), True)
    assert known is not None
    assert known.odd.tolist() == [True, False] and known.even.tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n_players=st.integers(5, 12))
def test_a_voting_game_is_as_far_from_a_polynomial_as_the_doubts_say(seed, n_players):
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 10, n_players)
    quota = int(rng.integers(weights.sum() // 2, weights.sum() + 1))
    game = shapkit.weighted_voting(weights.tolist(), quota=quota)
    exact = shapkit.exact(game).values
    every = 2.0 * members_of_masks(range(2 ** (n_players - 1), 2**n_players), n_players) - 1
    order = np.append(len(every) - 1, rng.permutation(len(every) - 1))  # the grand coalition, and others at random
    for n_pairs in (40, 80, 200):
        signs = every[order[:n_pairs]]
        won, lost = game(signs > 0)[:, None], game(signs < 0)[:, None]
        known = known_polynomial(signs, (won - lost) / 2, (won + lost) / 2, even_counts=False)
        if known is not None and known.odd.all():
            errors = np.abs(known.polynomial.shapley_values()[:, 0] - exact)
            assert errors.max() <= 1e-9 + 4 * known.odd_doubts[0]


def test_noise_is_no_polynomial():
    signs = random_signs(300, 10)
    noise = np.random.default_rng(1).normal(size=(300, 1))
    assert known_polynomial(signs, noise, noise, even_counts=True) is None


def test_too_few_pairs_give_none():
    signs = random_signs(20, 10)
    assert known_polynomial(signs, signs[:, :1], signs[:, :1] * signs[:, 1:2], even_counts=True) is None


def test_an_index_takes_the_part_that_is_known(monkeypatch):
    """A known even part with an odd part that is not known, and the other way round."""
    from shapkit.estimators.gaussian_process import sampler

    n_players = 9
    table = np.random.default_rng(0).normal(size=2**n_players)
    everyone = np.where(members_of_masks(range(2**n_players), n_players), 1.0, -1.0)
    rough = (table - table[::-1]) / 2  # odd
    even = everyone[:, [0, 2, 4]] * everyone[:, [1, 3, 5]] @ np.array([1.0, 0.3, -2.2])
    game = shapkit.table_game(rough + even)
    exact = shapkit.exact(game, "SII", 2)
    seen: list[KnownPolynomial | None] = []

    def spied(signs: Floats, odd: Floats, even: Floats, found: FittedPolynomial) -> KnownPolynomial | None:
        seen.append(polynomials.known_polynomial(signs, odd, even, found))
        return seen[-1]

    monkeypatch.setattr(sampler, "known_polynomial", spied)
    found = shapkit.estimate(game, 200, index="SII")
    assert seen[-1] is not None and seen[-1].even.all() and not seen[-1].odd.any()
    pairs = slice(n_players, None)  # which depend on the even part alone
    np.testing.assert_allclose(found.values[pairs], exact.values[pairs], atol=1e-9)
    assert found.standard_errors is not None
    assert (found.standard_errors[pairs] == 0).all() and (found.standard_errors[:n_players] > 0).all()


def test_a_part_of_few_values_and_many_players_is_not_known():
    """Of five hundred coins the sign of the sum is no polynomial of few terms; nothing overflows on the way."""
    signs = random_signs(900, 500)
    majority = np.sign(signs.sum(axis=1, keepdims=True) + 0.5)
    assert known_polynomial(signs, majority, np.zeros_like(majority), even_counts=False) is None
    known = known_polynomial(signs, signs @ np.arange(500.0)[:, None], np.zeros_like(majority), even_counts=False)
    assert known is not None and known.odd.all() and known.odd_doubts[0] == 0


def test_the_search_is_guided_by_the_outputs_of_which_most_is_left():
    """Twelve outputs, more than guide a round, each a sum of other interactions of the same players."""
    found = [random_terms(12, 2, 3, seed) for seed in range(12)]
    signs = random_signs(400, 12)
    parts = [payoffs_of_pairs(terms, coefficients, signs) for terms, coefficients in found]
    odd, even = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    fitted = fit_polynomial(signs, odd, even, most_terms=200)
    assert fitted is not None and fitted.odd_solved.all() and fitted.even_solved.all()


def test_a_look_on_the_way_changes_nothing_where_certainty_comes_late():
    """A multiplexer of 11 of 20 players has few terms and values +1 and -1: more than 1,280 pairs must tell that."""

    def multiplexer(coalitions: NDArray[np.bool_]) -> Floats:
        address = coalitions[:, :3] @ np.array([4, 2, 1])
        return np.where(coalitions[np.arange(len(coalitions)), 3 + address], 1.0, -1.0)

    game = shapkit.Game(multiplexer, 20)
    at_once, with_a_look = shapkit.estimate(game, 4_000), shapkit.estimate(game, 2_600).extend(1_400)
    np.testing.assert_array_equal(with_a_look.values, at_once.values)
    np.testing.assert_array_equal(with_a_look.standard_errors, at_once.standard_errors)
