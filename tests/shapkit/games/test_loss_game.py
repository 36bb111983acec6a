"""Global importance: SAGE's value function by definition, its losses, and refusals."""

import numpy as np
import pandas as pd
import pytest

from shapkit import exact, loss_game
from shapkit.coalitions import members_of_masks

RNG = np.random.default_rng(0)
ROWS, BACKGROUND = RNG.normal(size=(12, 3)), RNG.normal(size=(7, 3))
TARGETS = ROWS @ [1.0, 2.0, 0.0] + RNG.normal(size=12)
CLASSES = (TARGETS > 0).astype(int)
EVERYONE = members_of_masks(np.arange(8), 3)


def linear(rows):
    return rows @ np.array([1.0, 2.0, 0.5])


def probabilities(rows):
    p = 1 / (1 + np.exp(-linear(rows)))
    return np.stack([1 - p, p], axis=1)


def by_definition(predict, targets, loss):
    payoffs = []
    for present in EVERYONE:
        losses = []
        for row, target in zip(ROWS, targets, strict=True):
            mixed = np.where(present, row, BACKGROUND)
            losses.append(loss(predict(mixed).mean(axis=0), target))
        payoffs.append(-np.mean(losses))
    return payoffs


CASES = {
    "squared": (linear, TARGETS, lambda p, y: (p - y) ** 2),
    "absolute": (linear, TARGETS, lambda p, y: abs(p - y)),
    "cross_entropy": (probabilities, CLASSES, lambda p, y: -np.log(p[y])),
}


@pytest.mark.parametrize("loss", CASES)
def test_payoffs_by_definition(loss):
    predict, targets, of_one = CASES[loss]
    game = loss_game(predict, ROWS, targets, BACKGROUND, loss)
    np.testing.assert_allclose(game(EVERYONE), by_definition(predict, targets, of_one), rtol=1e-12)


def test_own_losses_and_binary_probabilities():
    binary = loss_game(lambda rows: probabilities(rows)[:, 1], ROWS, CLASSES, BACKGROUND, "cross_entropy")
    np.testing.assert_allclose(binary(EVERYONE), by_definition(*CASES["cross_entropy"]), rtol=1e-12)
    own = loss_game(linear, ROWS, TARGETS, BACKGROUND, lambda p, y: np.maximum(abs(p - y) - 1, 0))
    np.testing.assert_allclose(
        own(EVERYONE), by_definition(linear, TARGETS, lambda p, y: max(abs(p - y) - 1, 0)), atol=1e-12
    )


class Classifier:
    classes_ = np.array(["no", "yes"])

    def predict_proba(self, rows):
        return probabilities(rows)


def test_classes_go_by_their_names():
    names = np.array(["no", "yes"])[CLASSES]
    game = loss_game(Classifier().predict_proba, ROWS, names, BACKGROUND, "cross_entropy")
    np.testing.assert_allclose(game(EVERYONE), by_definition(*CASES["cross_entropy"]), rtol=1e-12)
    with pytest.raises(ValueError, match="targets has 'maybe', expected classes of the model: no, yes"):
        loss_game(Classifier().predict_proba, ROWS, ["maybe"] * 12, BACKGROUND, "cross_entropy")


def test_values_sum_to_what_the_features_save():
    game = loss_game(
        linear, pd.DataFrame(ROWS, columns=list("abc")), TARGETS, pd.DataFrame(BACKGROUND, columns=list("abc"))
    )
    phi = exact(game)
    assert phi.names == ("a", "b", "c")
    np.testing.assert_allclose(phi.values.sum(), phi.grand_value - phi.empty_value)
    assert phi["b"] > phi["a"] > phi["c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": []}, "rows is empty"),
        ({"targets": TARGETS[:3]}, r"targets has shape \(3,\), expected \(12, ...\)"),
        ({"loss": "hinge"}, "loss must be one of 'squared', 'absolute', 'cross_entropy' or a function, got 'hinge'"),
        ({"loss": "cross_entropy"}, "takes probabilities"),
        ({"loss": lambda p, y: 1.0}, r"loss returned shape \(\), expected \(12,\)"),
        ({"targets": RNG.normal(size=(12, 2))}, r"targets has shape \(12, 2\), expected \(12,\) as the predictions"),
        ({"loss": "cross_entropy", "predict": probabilities, "targets": CLASSES + 1}, "targets must be classes 0 to 1"),
    ],
)
def test_errors(arguments, message):
    given = {"predict": linear, "rows": ROWS, "targets": TARGETS, "background": BACKGROUND, **arguments}
    with pytest.raises(ValueError, match=message):
        loss_game(**given)(EVERYONE)
