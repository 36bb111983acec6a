"""What training data are worth: games of models that are trained anew, nearest neighbours, and truncated sampling."""

import functools
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

import shapkit
from shapkit import data_game, estimate, exact, knn_values
from shapkit.coalitions import members_of_masks
from shapkit.estimators.truncated import TruncatedSampler

RNG = np.random.default_rng(0)
POINTS, CLASSES = RNG.normal(size=(7, 2)), np.array([0, 1, 2, 0, 1, 0, 1])
TESTS, WANTED = RNG.normal(size=(9, 2)), RNG.integers(0, 3, 9)
EVERYONE = members_of_masks(np.arange(2**7), 7)


def test_payoffs_by_definition():
    game = data_game(LogisticRegression(), POINTS, CLASSES, TESTS, WANTED, empty=0.25)
    for present, payoff in zip(EVERYONE, game(EVERYONE), strict=True):
        if not present.any():
            assert payoff == 0.25
        elif len(set(CLASSES[present])) == 1:
            assert payoff == np.mean(CLASSES[present][0] == WANTED)
        else:
            fitted = LogisticRegression().fit(POINTS[present], CLASSES[present])
            assert payoff == fitted.score(TESTS, WANTED)


def test_sources_are_players():
    sources = ["north", "south", "north", "south", "west", "west", "west"]
    frame = pd.DataFrame(POINTS, columns=["x", "y"])
    game = data_game(
        LogisticRegression(), frame, CLASSES, pd.DataFrame(TESTS, columns=["x", "y"]), WANTED, sources=sources
    )
    assert game.names == ("north", "south", "west")
    chosen = np.array([source != "south" for source in sources])
    expected = LogisticRegression().fit(POINTS[chosen], CLASSES[chosen]).score(TESTS, WANTED)
    assert game(np.array([[True, False, True]]))[0] == expected


def test_scores_of_ones_own():
    def errors(model, features, targets):
        off = model.predict(features) - targets
        return [np.mean(off**2), np.abs(off).max()]

    targets = RNG.normal(size=7)
    game = data_game(Ridge(), POINTS, targets, TESTS, RNG.normal(size=9), score=errors, empty=[9.0, 8.0])
    assert game(EVERYONE[:2]).tolist()[0] == [9.0, 8.0]
    assert game.output_shape == (2,)


@pytest.mark.parametrize("n_neighbours", [1, 2, 3, 7, 20])
def test_nearest_neighbours_by_definition(n_neighbours):
    def share_won(coalitions):
        payoffs = []
        for present in coalitions:
            members = np.flatnonzero(present)
            won = 0.0
            for test, wanted in zip(TESTS, WANTED, strict=True):
                nearest = members[np.argsort(((POINTS[members] - test) ** 2).sum(axis=1), kind="stable")][:n_neighbours]
                won += (CLASSES[nearest] == wanted).sum() / n_neighbours
            payoffs.append(won / len(TESTS))
        return np.array(payoffs)

    expected = exact(shapkit.Game(share_won, 7))
    found = knn_values(POINTS, CLASSES, TESTS, WANTED, n_neighbours)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-14)
    np.testing.assert_allclose(found.grand_value, expected.grand_value)
    assert found.standard_errors is None and abs(float(found.efficiency_gap)) < 1e-12


def test_nearest_neighbours_of_many_points_in_blocks(monkeypatch):
    whole = knn_values(POINTS, CLASSES, TESTS, WANTED, 3).values
    monkeypatch.setattr(sys.modules["shapkit.exact.nearest_neighbours"], "_BLOCK_FLOATS", 14)
    np.testing.assert_allclose(knn_values(POINTS, CLASSES, TESTS, WANTED, 3).values, whole, atol=1e-15)


def test_one_neighbour_is_the_classifier_that_scikit_learn_has():
    game = data_game(KNeighborsClassifier(1), POINTS, CLASSES, TESTS, WANTED)
    found = knn_values(POINTS, CLASSES, TESTS, WANTED, n_neighbours=1)
    np.testing.assert_allclose(found.values, exact(game).values, atol=1e-14)


def saturating(coalitions):
    return 1 - np.exp(-1.0 * coalitions @ np.linspace(0.2, 1, 12))


def test_truncation_costs_less_and_is_off_by_its_tolerance_at_most():
    game = shapkit.Game(saturating, 12)
    truth = exact(game).values
    whole = estimate(game, 1_000, "permutation")
    found = [estimate(game, 1_000, functools.partial(TruncatedSampler, tolerance=0.1), seed=seed) for seed in range(50)]
    for one in found:
        assert one.method == "truncated" and one.n_evaluations <= 1_000
        np.testing.assert_allclose(one.values.sum(), truth.sum(), rtol=1e-12)
    n_orders = [float(one.degrees_of_freedom[0]) + 1 for one in found]
    assert min(n_orders) > 1.5 * (float(whole.degrees_of_freedom[0]) + 1)
    bias = np.mean([one.values for one in found], axis=0) - truth
    spread = np.std([one.values for one in found], axis=0) / np.sqrt(50)
    # The game is monotone: what is left when an order ends is at most a tenth of the grand coalition's payoff
    assert (np.abs(bias) <= 0.1 * game(np.ones((1, 12), dtype=bool))[0] + 5 * spread).all()
    assert np.abs(bias).max() < 0.02


def test_without_tolerance_it_is_permutation_sampling():
    game = shapkit.Game(saturating, 12)
    orders = [
        estimate(game, 500, method) for method in (functools.partial(TruncatedSampler, tolerance=0), "permutation")
    ]
    assert orders[0].n_evaluations == orders[1].n_evaluations
    np.testing.assert_allclose(orders[0].standard_errors.mean(), orders[1].standard_errors.mean(), rtol=0.3)


def test_truncated_runs_go_on_as_if_they_had_not_stopped():
    game = shapkit.Game(saturating, 12)
    whole = estimate(game, 900, "truncated")
    parts = estimate(game, 300, "truncated").extend(250).extend(350)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.standard_errors, whole.standard_errors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data_game(object(), POINTS, CLASSES, TESTS, WANTED), r"model must have fit\(features, targets\)"),
        (
            lambda: data_game(Ridge(), POINTS, CLASSES[:3], TESTS, WANTED),
            r"targets has shape \(3,\), expected \(7, ...\)",
        ),
        (lambda: data_game(Ridge(), POINTS, CLASSES, TESTS, WANTED, sources=[1]), r"sources has shape \(1,\)"),
        (lambda: knn_values(POINTS, CLASSES, TESTS[:, :1], WANTED), "test_features has 1 features for each point"),
        (lambda: knn_values(POINTS, CLASSES[:2], TESTS, WANTED), r"targets has shape \(2,\), expected \(7,\)"),
        (lambda: knn_values(POINTS * np.nan, CLASSES, TESTS, WANTED), "features holds NaN or infinity"),
        (lambda: knn_values(POINTS, CLASSES, TESTS, WANTED, 0), "n_neighbours must be an integer of at least 1"),
        (lambda: knn_values(POINTS, CLASSES, TESTS, WANTED, metric="miles"), "metric is 'miles'"),
        (lambda: TruncatedSampler(shapkit.table_game([0, 1]), tolerance=2), r"tolerance must be a share"),
        (lambda: estimate(shapkit.table_game([0, 1]), 5, TruncatedSampler, index="banzhaf"), "method is a function"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
