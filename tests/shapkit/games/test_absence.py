"""Absence that depends on what is present, weighted and summarized backgrounds, outputs, links, and the error of a
background."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

import shapkit
from shapkit import GaussianCopula, NearestRows, WeightedRows, exact, explain_rows, model_game, summarize
from shapkit.coalitions import members_of_masks

RNG = np.random.default_rng(0)
BACKGROUND = RNG.normal(size=(60, 3))
ROW = np.array([0.5, -1.0, 2.0])
WEIGHTS = np.array([1.0, 2.0, 3.0])
EVERYONE = members_of_masks(np.arange(8), 3)


def linear(rows):
    return rows @ WEIGHTS


def nearest_by_definition(present, n_neighbours):
    scale = BACKGROUND.std(axis=0)
    distances = [sum(((row[j] - ROW[j]) / scale[j]) ** 2 for j in np.flatnonzero(present)) for row in BACKGROUND]
    chosen = sorted(range(len(BACKGROUND)), key=lambda at: (distances[at], at))
    kept = chosen[:n_neighbours] if present.any() else chosen
    rows = [[ROW[j] if present[j] else BACKGROUND[at, j] for j in range(3)] for at in kept]
    return np.mean(linear(np.array(rows)))


@pytest.mark.parametrize(("fill", "n_neighbours"), [("conditional", 10), (NearestRows(3), 3), (NearestRows(500), 60)])
def test_nearest_rows_by_definition(fill, n_neighbours):
    payoffs = model_game(linear, ROW, BACKGROUND, fill)(EVERYONE)
    expected = [nearest_by_definition(present, n_neighbours) for present in EVERYONE]
    np.testing.assert_allclose(payoffs, expected, atol=1e-12)


def as_frame(rows):
    return pd.DataFrame(rows, columns=list("abc"))


def as_polars(rows):
    return pl.DataFrame(rows, schema=list("abc"), orient="row")


@pytest.mark.parametrize("kind", [as_frame, as_polars, sparse.csr_array])
@pytest.mark.parametrize("fill", ["marginal", "baseline", "conditional", GaussianCopula(16)])
def test_every_form_of_rows_gives_the_same(kind, fill):
    expected = model_game(linear, ROW, BACKGROUND, fill)(EVERYONE)

    def of_form(rows):
        if hasattr(rows, "to_numpy"):
            assert list(rows.columns) == list("abc")
        return linear(rows.to_numpy() if hasattr(rows, "to_numpy") else rows.toarray())

    game = model_game(of_form, kind(ROW[None]), kind(BACKGROUND), fill)
    np.testing.assert_allclose(game(EVERYONE), expected, atol=1e-12)


def test_categories_that_differ_are_one_apart():
    background = as_frame(np.zeros((4, 3))).astype(object)
    background["a"] = ["x", "y", "x", "y"]
    background["c"] = [1.0, 2.0, 3.0, 4.0]
    game = model_game(lambda rows: rows["c"].to_numpy(dtype=float), ["y", 0.0, 0.0], background, NearestRows(2))
    assert game(np.array([[True, False, False]]))[0] == 3.0  # the mean of 2 and 4


def test_a_copula_meets_the_normal_conditional_mean():
    """Of jointly normal features E[x2 | x1] is known; draws come in opposites, so that only the fit is off."""
    rng = np.random.default_rng(1)
    correlation, n_rows = 0.8, 4_000
    first = rng.normal(size=n_rows)
    background = np.stack([first, correlation * first + 0.6 * rng.normal(size=n_rows)], axis=1)
    game = model_game(lambda rows: rows[:, 1], [1.0, 0.0], background, GaussianCopula(2_000))
    conditional, marginal = game(np.array([[True, False], [False, False]]))
    # The slope's standard error is 0.6 / sqrt(4000) = 0.0095; draws of 1,000 opposite pairs add little
    assert abs(conditional - correlation) < 5 * 0.0095 + 0.01
    assert abs(marginal - background[:, 1].mean()) < 0.02


def test_a_copula_keeps_each_features_own_distribution():
    rng = np.random.default_rng(2)
    background = np.exp(rng.normal(size=(500, 2)))
    background[:, 1] = 7.0
    drawn = []
    model_game(lambda rows: drawn.append(rows) or rows[:, 0], [1.0, 7.0], background, GaussianCopula(500))(
        np.array([[False, False]])
    )
    assert (drawn[0][:, 1] == 7.0).all()
    assert drawn[0][:, 0].min() >= background[:, 0].min() and drawn[0][:, 0].max() <= background[:, 0].max()
    quartiles = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(
        np.quantile(drawn[0][:, 0], quartiles), np.quantile(background[:, 0], quartiles), rtol=0.3
    )


def test_a_copula_draws_the_same_for_all_coalitions_and_batches():
    fill = GaussianCopula(8, seed=3)
    whole = model_game(linear, ROW, BACKGROUND, fill)(EVERYONE)
    single = model_game(linear, ROW, BACKGROUND, fill, max_rows=3, batch_size=1)(EVERYONE)
    np.testing.assert_allclose(whole, single, rtol=1e-13)
    assert not np.allclose(whole[:-1], model_game(linear, ROW, BACKGROUND, GaussianCopula(8, seed=4))(EVERYONE)[:-1])


def test_a_function_says_what_absent_features_are():
    def zero(row, present):
        assert row is ROW and present.shape == (3,)
        return np.where(present, row, 0.0)[None]

    phi = exact(model_game(linear, ROW, None, zero))
    np.testing.assert_allclose(phi.values, WEIGHTS * ROW, atol=1e-12)


def test_a_function_of_rows_of_any_shape():
    window = RNG.normal(size=(4, 2))

    def before(row, present):  # the last value that was there
        filled = np.where(present, row, np.nan)
        for step in range(1, len(filled)):
            filled[step] = np.where(np.isnan(filled[step]), filled[step - 1], filled[step])
        return np.nan_to_num(filled)[None]

    game = model_game(
        lambda rows: rows.sum(axis=(1, 2)), window, None, before, groups=np.repeat(np.arange(4)[:, None], 2, axis=1)
    )
    assert game.n_players == 4
    expected = window[0].sum() * 2 + window[2].sum() * 2
    np.testing.assert_allclose(game(np.array([[True, False, True, False]])), [expected])


def test_conditional_games_can_be_sent_to_processes():
    game = model_game(linear, ROW, BACKGROUND, GaussianCopula(4))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(game))(EVERYONE), game(EVERYONE))


def test_weights_count_rows_more_or_less():
    weights = np.arange(60.0)
    expected = np.average(linear(BACKGROUND), weights=weights)
    for fill in ("marginal", "baseline"):
        game = model_game(linear, ROW, WeightedRows(BACKGROUND, weights), fill)
        np.testing.assert_allclose(game(EVERYONE[:1]), [expected])
    twice = model_game(np.exp, ROW[:1], WeightedRows(BACKGROUND[:2, :1], [2, 1]))(np.array([[False]]))
    thrice = model_game(np.exp, ROW[:1], BACKGROUND[[0, 0, 1], :1])(np.array([[False]]))
    np.testing.assert_allclose(twice, thrice)


def test_a_summary_has_the_means_and_sizes_of_clusters():
    centres = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    background = np.concatenate(
        [centre + RNG.normal(size=(n, 2)) for centre, n in zip(centres, (5, 10, 15), strict=True)]
    )
    found = summarize(background, 3)
    order = np.argsort(found.weights)
    np.testing.assert_allclose(found.weights[order], [5 / 30, 10 / 30, 15 / 30])
    for at, part in zip(order, (background[:5], background[5:15], background[15:]), strict=True):
        np.testing.assert_allclose(found.rows[at], part.mean(axis=0))
    np.testing.assert_allclose(found.weights @ found.rows, background.mean(axis=0))
    same = summarize(background, 30)
    np.testing.assert_array_equal(same.rows, background)


def test_the_weighted_mean_of_a_frame_is_a_frame():
    background = WeightedRows(as_frame(BACKGROUND), np.arange(60.0))
    game = model_game(lambda rows: linear(rows[list("abc")].to_numpy()), ROW, background, "baseline")
    expected = linear(np.average(BACKGROUND, axis=0, weights=np.arange(60.0)))
    np.testing.assert_allclose(game(EVERYONE[:1]), [expected])


def test_a_summary_of_a_frame_is_one():
    for frame in (as_frame(BACKGROUND), as_polars(BACKGROUND)):
        found = summarize(frame, 4)
        assert type(found.rows) is type(frame) and list(found.rows.columns) == list("abc")
        np.testing.assert_allclose(found.rows.to_numpy(), summarize(BACKGROUND, 4).rows)


def test_a_summary_of_a_linear_model_is_exact():
    expected = exact(model_game(linear, ROW, BACKGROUND)).values
    np.testing.assert_allclose(exact(model_game(linear, ROW, summarize(BACKGROUND, 5))).values, expected, atol=1e-12)


class Classifier:
    """As scikit-learn's: two classes."""

    classes_ = np.array(["no", "yes"])

    def predict_proba(self, rows):
        p = 1 / (1 + np.exp(-linear(rows)))
        return np.stack([1 - p, p], axis=1)


def test_outputs_by_place_by_name_and_by_function():
    model = Classifier()
    both = model_game(model.predict_proba, ROW, BACKGROUND)(EVERYONE)
    for output in (1, -1, (1,), "yes", lambda predictions: predictions[:, 1]):
        game = model_game(model.predict_proba, ROW, BACKGROUND, output=output)
        np.testing.assert_allclose(game(EVERYONE), both[:, 1], rtol=1e-13)
    rows = explain_rows(model.predict_proba, BACKGROUND[:2], BACKGROUND, output="no", link="logit")
    assert rows.values.shape == (2, 3)


def test_the_logit_of_mean_probabilities():
    game = model_game(Classifier().predict_proba, ROW, BACKGROUND, output="yes", link="logit")
    mean = model_game(Classifier().predict_proba, ROW, BACKGROUND, output="yes")(EVERYONE)
    np.testing.assert_allclose(game(EVERYONE), np.log(mean / (1 - mean)))
    # One row as background: the model is linear in log-odds
    alone = exact(model_game(Classifier().predict_proba, ROW, BACKGROUND[0], output=1, link="logit"))
    np.testing.assert_allclose(alone.values, WEIGHTS * (ROW - BACKGROUND[0]), atol=1e-9)


def test_the_error_of_a_background_is_that_of_a_mean():
    game = model_game(linear, ROW, BACKGROUND, average=False)
    assert game(EVERYONE).shape == (8, 60)
    mean = exact(game).sample_mean()
    np.testing.assert_allclose(mean.values, exact(model_game(linear, ROW, BACKGROUND)).values, atol=1e-12)
    expected = np.abs(WEIGHTS) * BACKGROUND.std(axis=0, ddof=1) / np.sqrt(60)
    np.testing.assert_allclose(mean.standard_errors, expected)


def test_the_error_of_a_background_covers():
    """Of 400 backgrounds of 20 rows, the mean over all of which is known, about 95 % of intervals hold it."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        background = rng.normal(size=(20, 1))
        mean = exact(model_game(lambda rows: rows[:, 0], [1.0], background, average=False)).sample_mean()
        low, high = mean.interval(0.95)
        inside += bool(low[0] <= 1.0 <= high[0])
    assert abs(inside - 380) <= 4 * np.sqrt(400 * 0.95 * 0.05)


def test_estimates_add_their_own_error():
    game = shapkit.Game(lambda c: (c @ np.arange(10.0))[:, None] ** 2 * [1.0, 2.0, 3.0], 10)
    estimated = shapkit.estimate(game, 60, "permutation")
    mean = estimated.sample_mean()
    between = estimated.values.std(axis=1, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(mean.standard_errors, np.hypot(between, estimated.standard_errors.mean(axis=1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"background": None}, "background is None, expected rows: only a fill that is a function"),
        ({"fill": lambda row, present: row}, r"fill returned shape \(3,\), expected \(n_rows, 3\)"),
        ({"fill": GaussianCopula(), "background": BACKGROUND[:2]}, "needs a background of at least 3 rows, got 2"),
        (
            {"fill": "conditional", "background": WeightedRows(BACKGROUND, np.ones(60))},
            "but the background has weights",
        ),
        ({"average": False, "fill": "conditional"}, "average=False needs fill 'marginal'"),
        ({"output": 5}, "output is 5, expected the place of an output"),
        ({"output": "yes"}, "output is 'yes', but predict brings no names"),
        ({"output": 1.5}, "output must be the place of an output"),
        ({"link": "probit"}, "link must be 'identity' or 'logit'"),
        ({"link": "logit"}, "link 'logit' takes probabilities between 0 and 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        model_game(**{"predict": linear, "row": ROW, "background": BACKGROUND, **arguments})(EVERYONE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedRows(BACKGROUND, [1.0]), r"weights has shape \(1,\), expected \(60,\)"),
        (lambda: WeightedRows(BACKGROUND, -np.ones(60)), "weights must be finite numbers of at least 0"),
        (lambda: summarize(BACKGROUND, 61), "n_rows is 61, expected at most 60"),
        (lambda: summarize([["a"]], 1), "background holds dtype"),
        (lambda: summarize([1.0], 1), "expected \\(n_background"),
        (lambda: NearestRows(0), "n_neighbours must be an integer of at least 1"),
        (lambda: GaussianCopula(0), "n_draws must be an integer of at least 1"),
        (
            lambda: model_game(len, ["a"], np.array([["a"]] * 4, dtype=object), GaussianCopula()),
            "needs features that are numbers",
        ),
        (lambda: model_game(Classifier().predict_proba, ROW, BACKGROUND, output="maybe"), "one of the classes no, yes"),
        (lambda: exact(shapkit.table_game([0.0, 1.0])).sample_mean(), "the payoff has shape"),
    ],
)
def test_errors_of_parts(make, message):
    with pytest.raises(ValueError, match=message):
        make()
