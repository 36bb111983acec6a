"""The coalitions that a seed draws stay the same: a change of them changes everybody's published figures."""

import hashlib

import numpy as np
import pytest

import shapkit
from shapkit.coalitions import masks_of_members
from shapkit.estimators.gaussian_process.pair_design import random_pairs

N_PLAYERS = 24
DRAWN = {
    "permutation": "65c3b51704ba",
    "antithetic": "878517435abb",
    "stratified": "8aefa8a18ccc",
    "kernel": "910b1ad1797c",
    "leverage": "7471b5ff90b7",
    "regression_adjusted": "3a38f0657f44",
    "gaussian_process": "7632f041e146",
    "sparse": "75b41890e852",
}


def digest(numbers):
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    "method, budget",
    [
        ("permutation", 400),
        ("antithetic", 400),
        ("stratified", 4_000),
        ("kernel", 400),
        ("leverage", 400),
        ("regression_adjusted", 400),
        ("sparse", 2_000),
    ],
)
def test_a_seed_draws_what_it_drew_before(method, budget):
    """To be changed together with the changelog, where a better draw is worth it."""
    asked = []

    def value(coalitions):
        asked.extend(masks_of_members(coalitions).tolist())
        return (coalitions @ np.arange(1.0, N_PLAYERS + 1)) ** 2

    shapkit.estimate(shapkit.Game(value, N_PLAYERS), budget, method, seed=7)
    assert digest(sorted(asked)) == DRAWN[method]  # how calls are cut, and so the order, depends on the clock


def test_the_first_pairs_of_a_gaussian_process_are_what_they_were():
    known = np.ones((1, 9))
    assert digest((random_pairs(9, 60, 7, known) > 0).astype(int).ravel()) == DRAWN["gaussian_process"]
