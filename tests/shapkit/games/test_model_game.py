"""The game of a model: closed forms, what the model is shown, groups, tables of mixed types, and refusals."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapkit import exact
from shapkit.coalitions import members_of_masks
from shapkit.games.model_game import model_game

RNG = np.random.default_rng(0)
WEIGHTS, ROW, BACKGROUND = RNG.normal(size=5), RNG.normal(size=5), RNG.normal(size=(30, 5))


def linear(rows):
    return (rows * WEIGHTS).sum(axis=1) + 2.0


def curved(rows):
    """Two outputs, with interactions."""
    return np.stack([rows[:, 0] * rows[:, 1] + np.sin(rows[:, 2]), np.exp(rows[:, 3] / 3) * rows[:, 4]], axis=1)


def everyone(n_players):
    return members_of_masks(np.arange(2**n_players), n_players)


@pytest.mark.parametrize("fill", ["marginal", "baseline"])
@pytest.mark.parametrize("max_rows", [1, 7, 2**14])
def test_a_linear_model_has_its_closed_form(fill, max_rows):
    phi = exact(model_game(linear, ROW, BACKGROUND, fill, max_rows=max_rows))
    np.testing.assert_allclose(phi.values, WEIGHTS * (ROW - BACKGROUND.mean(axis=0)), atol=1e-12)
    np.testing.assert_allclose(phi.empty_value, linear(BACKGROUND).mean())
    np.testing.assert_allclose(phi.grand_value, linear(ROW[None])[0])
    assert phi.names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("fill", ["marginal", "baseline"])
def test_payoffs_by_definition(fill):
    payoffs = model_game(curved, ROW, BACKGROUND, fill)(everyone(5))
    filler = BACKGROUND if fill == "marginal" else BACKGROUND.mean(axis=0)[None]
    for coalition, payoff in zip(everyone(5), payoffs, strict=True):
        rows = filler.copy()
        rows[:, coalition] = ROW[coalition]
        np.testing.assert_allclose(payoff, curved(rows).mean(axis=0), rtol=1e-13)


def test_one_background_row_is_a_baseline():
    games = [model_game(curved, ROW, BACKGROUND[3], fill) for fill in ("marginal", "baseline")]
    games.append(model_game(curved, ROW[None], BACKGROUND[3:4]))
    for game in games:
        np.testing.assert_array_equal(game(everyone(5)), games[0](everyone(5)))
        np.testing.assert_array_equal(game(everyone(5))[0], curved(BACKGROUND[3:4])[0])


@given(
    st.lists(st.integers(0, 31), min_size=1, max_size=70),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([1, 29, 30, 61, 2**14]),
    st.sampled_from([linear, curved]),
)
def test_payoffs_are_the_same_bits_in_every_batch(masks, batch_size, max_rows, predict):
    rows = members_of_masks(masks, 5)
    game = model_game(predict, ROW, BACKGROUND, max_rows=max_rows, batch_size=batch_size)
    alone = model_game(predict, ROW, BACKGROUND)
    assert game(rows).tobytes() == b"".join(alone(row[None]).tobytes() for row in rows)


@pytest.mark.parametrize("max_rows, n_background", [(64, 30), (30, 30), (20, 30), (1, 3), (10, 1), (7, 7)])
def test_the_model_is_never_given_more_rows_than_asked(max_rows, n_background):
    seen = []

    def predict(rows):
        seen.append(len(rows))
        rows[:] = np.nan  # it may write to them
        return np.ones(len(seen) and seen[-1])

    row, background = ROW.copy(), BACKGROUND[:n_background].copy()
    game = model_game(predict, row, background, max_rows=max_rows)
    game(everyone(5))
    assert max(seen) <= max_rows and sum(seen) == 32 * n_background
    np.testing.assert_array_equal(row, ROW)
    assert max(seen) > max_rows - n_background or max_rows > 32 * n_background


def test_groups_of_features_are_players():
    groups = {"ends": ["a", "e"], "middle": [1, "c", 3]}
    game = model_game(curved, ROW, BACKGROUND, names=list("abcde"), groups=groups, cache=True)
    assert game.names == ("ends", "middle")
    single = model_game(curved, ROW, BACKGROUND)
    rows = np.array([[1, 0, 0, 0, 1], [0, 1, 1, 1, 0]], dtype=bool)
    np.testing.assert_array_equal(game(np.eye(2, dtype=bool)), single(rows))


def test_it_is_cached_and_spread_as_any_game():
    with ThreadPoolExecutor(2) as pool:
        game = model_game(curved, ROW, BACKGROUND, cache=True, executor=pool, batch_size=3)
        np.testing.assert_array_equal(game(everyone(5)), model_game(curved, ROW, BACKGROUND)(everyone(5)))
    game(everyone(5))
    assert (game.n_evaluations, game.n_cache_hits) == (32, 32)
    again = pickle.loads(pickle.dumps(game.value))  # as other processes get it
    np.testing.assert_array_equal(again(everyone(5)), game(everyone(5)))


def test_types_of_arrays_are_kept():
    seen = []

    def predict(rows):
        seen.append(rows.dtype)
        return np.ones(len(rows))

    model_game(predict, ROW.astype("f4"), BACKGROUND.astype("f4"))(everyone(5))
    model_game(predict, [1, "x"], np.array([[2, "y"], [3, "z"]], dtype=object))(everyone(2))
    assert set(seen) == {np.dtype("f4"), np.dtype(object)}


def test_an_exception_of_the_model_says_for_which_features():
    def predict(rows):
        if (rows[:, 1] == 9).any():
            raise ArithmeticError("nine")
        return rows.sum(axis=1)

    with pytest.raises(ArithmeticError, match="nine") as caught:
        model_game(predict, [1, 9, 1], np.zeros((2, 3)), names=["a", "b", "c"])(everyone(3))
    assert caught.value.__notes__ == ["raised by the value function for the coalition {b}"]


def predict_table(rows):
    return 2.0 * rows["age"] + 5.0 * (rows["sex"] == "m") * rows["fare"] + rows["city"].str.len()


@pytest.fixture
def table():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(
        {
            "age": [20, 30, 40],
            "sex": pandas.Categorical(["f", "m", "f"]),
            "fare": [1.5, 2.5, 3.5],
            "city": ["Rome", "Oslo", "Tokyo"],
        },
        index=[7, 8, 9],
    )


def test_tables_keep_their_columns_and_types(table):
    seen = []

    def predict(rows):
        seen.append(rows)
        return predict_table(rows)

    expected = None
    rows = [table.iloc[1], table.iloc[[1]], table.iloc[1][::-1], list(table.iloc[1]), table.iloc[[1]].to_numpy()]
    for row in rows:
        for max_rows in (2, 2**14):
            game = model_game(predict, row, table, max_rows=max_rows)
            assert game.names == ("age", "sex", "fare", "city")
            payoffs = game(everyone(4))
            expected = payoffs if expected is None else expected
            np.testing.assert_array_equal(payoffs, expected)
    assert all((shown.dtypes == table.dtypes).all() and list(shown.columns) == list(table.columns) for shown in seen)
    for coalition, payoff in zip(everyone(4), expected, strict=True):
        mixed = table.copy()
        for column, present in zip(table.columns, coalition, strict=True):
            if present:
                mixed[column] = table[column].iloc[1]
        np.testing.assert_allclose(payoff, predict_table(mixed).mean(), rtol=1e-13)


def test_values_that_a_columns_type_cannot_hold_widen_it(table):
    seen = []

    def predict(rows):
        seen.append(rows.iloc[-1].tolist())
        return np.ones(len(rows))

    model_game(predict, [20.5, "x", 2, "Rome"], table)(np.ones((1, 4), dtype=bool))
    assert seen == [[20.5, "x", 2.0, "Rome"]]


def test_baselines_of_tables(table):
    numeric = table[["age", "fare"]]
    phi = exact(model_game(lambda rows: 2 * rows["age"] - rows["fare"], numeric.iloc[0], numeric, "baseline"))
    np.testing.assert_allclose(phi.values, [2 * (20 - 30), -(1.5 - 2.5)])
    one = model_game(predict_table, table.iloc[1], table.iloc[[0]], "baseline", groups={"x": ["age", 1], "y": [2, 3]})
    assert one.names == ("x", "y")
    assert one(everyone(2)).tolist() == [2 * 20 + 4, 2 * 30 + 5 * 1.5 + 4, 2 * 20 + 4, 2 * 30 + 5 * 2.5 + 4]
    with pytest.raises(
        ValueError, match="'baseline' takes the mean of the background, which is not numbers throughout"
    ):
        model_game(predict_table, table.iloc[1], table, "baseline")


def test_rows_of_other_tables_are_refused(table):
    with pytest.raises(ValueError, match="row lacks fare, city, which the background has"):
        model_game(predict_table, table[["age", "sex"]].iloc[0], table)
    with pytest.raises(ValueError, match=r"row has shape \(2, 4\), expected \(4,\)"):
        model_game(predict_table, table.iloc[:2], table)
    with pytest.raises(ValueError, match=r"row has shape \(3,\), expected \(4,\)"):
        model_game(predict_table, [1, 2, 3], table)
    with pytest.raises(ValueError, match=r"background has shape \(0, 4\)"):
        model_game(predict_table, table.iloc[0], table.iloc[:0])


def test_pipelines_of_scikit_learn(table):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    assert sklearn.__version__
    features, target = RNG.normal(size=(80, 4)), RNG.normal(size=80)
    model = LinearRegression().fit(features, target)
    phi = exact(model_game(model.predict, features[5], features[:20]))
    np.testing.assert_allclose(phi.values, model.coef_ * (features[5] - features[:20].mean(axis=0)), atol=1e-12)

    forest = RandomForestClassifier(5, random_state=0).fit(features, target > 0)
    phi = exact(model_game(forest.predict_proba, features[5], features[:20]))
    assert phi.values.shape == (4, 2)
    np.testing.assert_allclose(phi.values.sum(axis=0), phi.grand_value - phi.empty_value, atol=1e-12)
    np.testing.assert_allclose(phi.grand_value, forest.predict_proba(features[5:6])[0])

    encoder = make_column_transformer((OneHotEncoder(), ["sex", "city"]), remainder="passthrough")
    pipeline = make_pipeline(encoder, LinearRegression()).fit(table, [1.0, 2.0, 4.0])
    phi = exact(model_game(pipeline.predict, table.iloc[2], table))
    np.testing.assert_allclose(phi.grand_value, 4.0)
    np.testing.assert_allclose(phi.empty_value, 7 / 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"predict": 3}, "predict must be a function of rows, such as model.predict, got int"),
        (
            {"fill": "mean"},
            "fill must be one of 'marginal', 'baseline', 'conditional', a conditional fill or a function, got 'mean'",
        ),
        ({"row": ROW[:4]}, r"row has shape \(4,\), expected \(5,\): the features of one row"),
        ({"row": BACKGROUND}, r"row has shape \(30, 5\), expected \(5,\)"),
        ({"background": BACKGROUND[:0]}, r"background has shape \(0, 5\), expected \(n_background, n_features\)"),
        ({"background": 3.0}, r"background has shape \(\), expected \(n_background, n_features\)"),
        ({"background": np.array([["a"] * 5] * 2), "fill": "baseline"}, "mean of the background, which is not numbers"),
        ({"names": ["a"]}, "names has 1 entries, expected one for each of the 5 players"),
        ({"max_rows": 0}, "max_rows must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"groups": [[0, 1], [2, 3, 4]]}, "groups must be a mapping of names to lists of features, got list"),
        ({"groups": {"a": "01", "b": [2, 3, 4]}}, r"groups\['a'\] must be a list of features, got '01'"),
        ({"groups": {"a": 1}}, r"groups\['a'\] must be a list of features, got 1"),
        ({"groups": {"a": [0, 5]}}, r"groups\['a'\] has 5, expected features by name or by index, 0 to 4"),
        ({"groups": {"a": ["x"]}}, r"groups\['a'\] has 'x', expected features by name or by index, 0 to 4"),
        ({"groups": {"a": [0, 1], "b": [1, 2, 3, 4]}}, "groups has feature '1' more than once, expected each once"),
        ({"groups": {"a": [0, 1], "b": [4]}}, "groups leaves out 2, 3, expected every feature in one group"),
        ({"groups": {1: [0, 1, 2, 3, 4]}}, "names must be a list of strings"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        model_game(**{"predict": linear, "row": ROW, "background": BACKGROUND, **arguments})


@pytest.mark.parametrize(
    "predict, message",
    [
        (lambda rows: np.ones(3), r"predict returned shape \(3,\) for \d+ rows, expected \(\d+, ...\): one prediction"),
        (lambda rows: 1.0, r"predict returned shape \(\) for"),
        (lambda rows: ["a"] * len(rows), "predict's result holds dtype <U1, expected real numbers"),
        (lambda rows: rows[:, 0] * np.nan, "value returned NaN or infinity for 32 of 32 coalitions"),
    ],
)
def test_predictions_that_are_refused(predict, message):
    with pytest.raises(ValueError, match=message):
        model_game(predict, ROW, BACKGROUND)(everyone(5))


@pytest.mark.parametrize("n_background", [1, 4, 7])
@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize("max_rows", [4, 2**14])
def test_predictions_by_outputs_first_are_refused(n_background, batch_size, max_rows):
    """As many rows as outputs, or not."""
    weights = RNG.normal(size=(4, 5))
    background = RNG.normal(size=(n_background, 5))
    turned = model_game(lambda rows: weights @ rows.T, ROW, background, batch_size=batch_size, max_rows=max_rows)
    with pytest.raises(ValueError, match=r"predict returned shape .*one prediction per row") as caught:
        exact(turned)
    assert not any("lower batch_size" in note for note in getattr(caught.value, "__notes__", ()))
    right = model_game(lambda rows: rows @ weights.T, ROW, background, batch_size=batch_size, max_rows=max_rows)
    np.testing.assert_allclose(exact(right).values, ((ROW - background.mean(axis=0)) * weights).T, atol=1e-12)


def test_a_prediction_may_be_one_buffer_again_and_again():
    buffer = np.empty(10)

    def predict(rows):
        buffer[: len(rows)] = linear(rows)
        return buffer[: len(rows)]

    phi = exact(model_game(predict, ROW, BACKGROUND, max_rows=10))
    np.testing.assert_allclose(phi.values, WEIGHTS * (ROW - BACKGROUND.mean(axis=0)), atol=1e-12)


@pytest.mark.parametrize("argument", ["row", "background"])
@pytest.mark.parametrize("frame", [False, True])
def test_masked_features_are_refused(argument, frame):
    pandas = pytest.importorskip("pandas")
    given = {"row": ROW, "background": pandas.DataFrame(BACKGROUND) if frame else BACKGROUND}
    if argument == "background" and frame:
        return  # a frame has no masks
    masked = np.ma.masked_array(given[argument], mask=False)
    exact(model_game(lambda rows: np.asarray(rows) @ WEIGHTS, **{**given, argument: masked}))
    masked.mask = np.arange(masked.size).reshape(masked.shape) == 1
    with pytest.raises(ValueError, match=f"{argument} holds masked entries"):
        model_game(linear, **{**given, argument: masked})


def test_masked_predictions_are_refused():
    def predict(rows):
        return np.ma.masked_greater(rows[:, 0], -1e9)

    with pytest.raises(ValueError, match="predict's result holds masked entries"):
        exact(model_game(predict, ROW, BACKGROUND))


@pytest.mark.parametrize("mask", [[True, False, False, True, False], np.array([True] * 5), [True]])
def test_groups_of_booleans_are_refused(mask):
    with pytest.raises(ValueError, match=r"groups\['a'\] has .*np.flatnonzero"):
        model_game(linear, ROW, BACKGROUND, groups={"a": mask, "b": [1, 2, 4]})


def test_names_come_from_the_row_where_the_background_has_none():
    pandas = pytest.importorskip("pandas")
    labels = ["age", "bmi", "sex", "bp", "s1"]
    series, frame = pandas.Series(ROW, labels), pandas.DataFrame([ROW], columns=labels)
    for row in (series, frame):
        game = model_game(linear, row, BACKGROUND)
        assert game.names == tuple(labels)
        np.testing.assert_allclose(exact(game).values, WEIGHTS * (ROW - BACKGROUND.mean(axis=0)), atol=1e-12)
        assert model_game(linear, row, BACKGROUND, names=list("abcde")).names == tuple("abcde")
        assert model_game(linear, row, BACKGROUND, groups={"a": ["age", "bmi"], "b": [2, 3, 4]}).names == ("a", "b")
    by_background = model_game(
        lambda rows: linear(rows.to_numpy()), ROW, pandas.DataFrame(BACKGROUND, columns=labels[::-1])
    )
    assert by_background.names == tuple(labels[::-1])
    with pytest.raises(ValueError, match="row lacks s1"):
        model_game(linear, series.drop("s1"), pandas.DataFrame(BACKGROUND, columns=labels))


# Rows of several dimensions, tensors, modules and sparse rows.


@pytest.mark.parametrize("fill", ["marginal", "baseline"])
def test_a_window_of_a_series_has_its_elements_or_groups_of_them_as_players(fill):
    row, background = RNG.normal(size=(4, 2)), RNG.normal(size=(5, 4, 2))
    weights = RNG.normal(size=(4, 2))

    def predict(rows):
        assert rows.shape[1:] == (4, 2)
        return (rows * weights).sum(axis=(1, 2))

    expected = weights * (row - background.mean(axis=0))
    phi = exact(model_game(predict, row, background, fill))
    assert phi.names[:3] == ("0,0", "0,1", "1,0")
    np.testing.assert_allclose(phi.values, expected.reshape(-1), atol=1e-12)
    steps = {f"t{i}": [(i, 0), (i, 1)] for i in range(4)}
    np.testing.assert_allclose(
        exact(model_game(predict, row, background, fill, groups=steps)).values, expected.sum(axis=1)
    )
    flat = {"first": [0, 1, "1,0"], "rest": [3, (2, 0), (2, 1), (3, 0), 7]}
    assert model_game(predict, row, background, fill, groups=flat).names == ("first", "rest")
    labels = np.array([["a", "b"]] * 4)
    found = exact(model_game(predict, row, background, fill, groups=labels))
    assert found.names == ("a", "b")
    np.testing.assert_allclose(found.values, expected.sum(axis=0))
    one = exact(model_game(predict, row[None], background[:1], groups=labels))  # a batch of one is a row
    np.testing.assert_allclose(one.values, (weights * (row - background[0])).sum(axis=0))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"row": np.ones((4, 3))}, r"row has shape \(4, 3\), expected \(4, 2\)"),
        ({"background": np.ones((0, 4, 2))}, r"background has shape \(0, 4, 2\), expected \(n_background, \*shape"),
        (
            {"groups": {"a": [(4, 0)]}},
            r"groups\['a'\] has \(4, 0\), expected the place of a feature in a row of \(4, 2\)",
        ),
        ({"groups": {"a": [(0,)]}}, r"has \(0,\), expected the place"),
        ({"groups": np.zeros((2, 4))}, r"groups has shape \(2, 4\), expected \(4, 2\): one label for each feature"),
        ({"groups": {"a": ["0,0"]}}, "groups leaves out 0,1, 1,0"),
    ],
)
def test_errors_of_rows_of_two_dimensions(arguments, message):
    given = {"predict": lambda rows: rows.sum(axis=(1, 2)), "row": np.ones((4, 2)), "background": np.zeros((3, 4, 2))}
    with pytest.raises(ValueError, match=message):
        model_game(**given | arguments)


@pytest.mark.parametrize("fill", ["marginal", "baseline"])
@pytest.mark.parametrize("max_rows", [3, 2**14])
def test_sparse_rows_are_as_dense_ones(fill, max_rows):
    sparse = pytest.importorskip("scipy.sparse")
    background = RNG.normal(size=(6, 5)) * (RNG.random((6, 5)) < 0.4)
    row = np.array([0.0, 2.0, 0.0, -1.0, 3.0])
    seen = []

    def predict(rows):
        assert sparse.issparse(rows) and rows.format == "csr" and rows.shape[1] == 5
        seen.append(rows.shape[0])
        return np.tanh(np.asarray(rows @ WEIGHTS).reshape(-1))

    expected = exact(model_game(lambda rows: np.tanh(rows @ WEIGHTS), row, background, fill)).values
    for rows in (sparse.csr_matrix(row), sparse.coo_array(row[None]), row):
        game = model_game(predict, rows, sparse.csc_matrix(background), fill, max_rows=max_rows)
        np.testing.assert_allclose(exact(game).values, expected, atol=1e-12)
    assert max(seen) <= max(max_rows, 1)
    with pytest.raises(ValueError, match=r"row has shape \(1, 4\), expected \(5,\)"):
        model_game(predict, sparse.csr_matrix(row[:4]), sparse.csr_matrix(background))


def test_text_has_many_features_and_few_players():
    sparse = pytest.importorskip("scipy.sparse")
    n_words = 20_000
    row = sparse.csr_array((np.ones(3), ([0, 0, 0], [5, 700, 19_999])), shape=(1, n_words))
    labels = np.where(np.isin(np.arange(n_words), [5, 700, 19_999]), np.arange(n_words).astype(str), "other")
    phi = exact(
        model_game(
            lambda rows: np.asarray(rows.sum(axis=1)).reshape(-1), row, sparse.csr_array((2, n_words)), groups=labels
        )
    )
    assert phi.names == ("19999", "5", "700", "other")
    np.testing.assert_allclose(phi.values, [1, 1, 1, 0])


def test_tensors_stay_tensors_and_modules_are_run_as_they_are_used():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)
    )
    net[2].eval()
    row, background = torch.randn(5), torch.randn(4, 5)
    states = {name: value.clone() for name, value in net.state_dict().items()}
    phi = exact(model_game(net, row, background))
    assert net.training and not net[2].training and net[1].training  # as it was
    assert all(torch.equal(value, states[name]) for name, value in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        np.testing.assert_allclose(phi.grand_value, net(row[None])[0], atol=1e-6)
        np.testing.assert_allclose(phi.empty_value, net(background).mean(dim=0), atol=1e-6)
    for rows in ((row.numpy(), background.numpy()), (row, background.numpy()), (row.double(), background.tolist())):
        np.testing.assert_allclose(exact(model_game(net, *rows)).values, phi.values, atol=1e-5)

    def predict(rows):
        assert isinstance(rows, torch.Tensor) and rows.dtype == torch.float32
        return net(rows)  # with a gradient

    np.testing.assert_allclose(exact(model_game(predict, row, background)).values, phi.values, atol=1e-6)
    half = exact(model_game(net.bfloat16(), row, background))
    np.testing.assert_allclose(half.values, phi.values, atol=0.05)


def test_modules_of_pictures_and_of_tokens():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(32, 1))
    picture, background = torch.randn(1, 4, 4), torch.zeros(1, 1, 4, 4)
    quadrants = np.kron([[0, 1], [2, 3]], np.ones((2, 2), int))[None]
    phi = exact(model_game(net, picture, background, groups=quadrants))
    assert phi.values.shape == (4, 1)
    with torch.no_grad():
        change = float(net(picture[None]) - net(background))
    assert float(phi.values.sum()) == pytest.approx(change, abs=1e-5)
    words = torch.nn.Sequential(torch.nn.Embedding(10, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    found = exact(model_game(words, torch.tensor([1, 2, 3, 4]), torch.zeros(1, 4, dtype=torch.long)))
    assert found.values.shape == (4, 1)


def test_games_of_modules_run_in_threads_and_in_other_processes():
    torch = pytest.importorskip("torch")
    import pickle
    from concurrent.futures import ThreadPoolExecutor

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    row, background = torch.randn(5), torch.randn(4, 5)
    alone = exact(model_game(net, row, background)).values
    with ThreadPoolExecutor(4) as executor:
        game = model_game(net, row, background, batch_size=2, executor=executor)
        np.testing.assert_allclose(exact(game).values, alone, atol=1e-6)
    assert net.training
    copied = pickle.loads(pickle.dumps(model_game(net, row, background)))
    np.testing.assert_array_equal(exact(copied).values, alone)
