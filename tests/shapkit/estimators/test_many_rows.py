"""Many rows: the same numbers as one by one, whatever the workers; tables, files, summaries and errors."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import shapkit
from shapkit import Attributions, explain_rows, model_game

RNG = np.random.default_rng(0)
ROWS, BACKGROUND, WEIGHTS = RNG.normal(size=(5, 4)), RNG.normal(size=(6, 4)), RNG.normal(size=4)


def curved(rows):
    return np.tanh(np.asarray(rows) @ WEIGHTS)


def two(rows):
    return np.stack([curved(rows), -3 * curved(rows)], axis=1)


def test_each_row_is_explained_as_by_itself():
    found = explain_rows(curved, ROWS, BACKGROUND)
    assert len(found) == 5 and found.labels == ("0", "1", "2", "3", "4") and found.standard_errors is None
    for row, attribution in zip(ROWS, found, strict=True):
        np.testing.assert_array_equal(attribution.values, shapkit.exact(model_game(curved, row, BACKGROUND)).values)
    np.testing.assert_array_equal(found.values, np.stack([row.values for row in found]))
    assert found.n_evaluations == 5 * 16
    grouped = explain_rows(curved, ROWS, BACKGROUND, groups={"a": [0, 1], "b": [2, 3]}, fill="baseline")
    assert grouped.names == ("a", "b") and grouped.values.shape == (5, 2)


def test_estimates_do_not_depend_on_the_workers_and_rows_have_seeds_of_their_own():
    rows, background = RNG.normal(size=(4, 9)), RNG.normal(size=(3, 9))
    model = Model(RNG.normal(size=9))
    alone = explain_rows(model, rows, background, budget=60, index="SII", order=2)
    assert alone.values.shape == (4, 45) and (alone.standard_errors >= 0).all()
    assert len({row.seeds for row in alone}) == 4
    for executor in (ThreadPoolExecutor(3), ProcessPoolExecutor(2, mp_context=get_context("spawn"))):
        with executor:
            again = explain_rows(model, rows, background, budget=60, index="SII", order=2, executor=executor)
        np.testing.assert_array_equal(again.values, alone.values)
    fewer = explain_rows(model, rows[:2], background, budget=60, index="SII", order=2)
    np.testing.assert_array_equal(fewer.values, alone.values[:2])
    other = explain_rows(model, rows, background, budget=60, index="SII", order=2, seed=1)
    assert (other.values != alone.values).any()


class Model:
    """A model that processes can be sent."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, rows):
        return np.tanh(rows @ self.weights)


def test_tables_tensors_and_sparse_rows():
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    expected = explain_rows(curved, ROWS, BACKGROUND).values
    columns = ["age", "bmi", "sex", "bp"]
    table = pandas.DataFrame(ROWS, columns=columns, index=[f"patient {n}" for n in range(5)])
    found = explain_rows(curved, table, pandas.DataFrame(BACKGROUND, columns=columns))
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.labels[2] == "patient 2" and found.names == tuple(columns)
    frame = found.to_frame()
    assert list(frame.columns) == columns and frame.index[2] == "patient 2"
    np.testing.assert_array_equal(frame.to_numpy(), found.values)
    dense = explain_rows(
        lambda rows: curved(rows.toarray()), sparse.csr_matrix(ROWS), sparse.csr_matrix(BACKGROUND), labels="abcde"
    )
    np.testing.assert_allclose(dense.values, expected, atol=1e-12)
    assert dense.labels == tuple("abcde")
    torch = pytest.importorskip("torch")
    tensors = explain_rows(lambda rows: curved(rows), torch.as_tensor(ROWS), torch.as_tensor(BACKGROUND))
    np.testing.assert_allclose(tensors.values, expected, atol=1e-12)


def test_interactions_in_a_table_and_summaries():
    pytest.importorskip("pandas")
    found = explain_rows(curved, ROWS, BACKGROUND, index="SII")
    assert list(found.to_frame().columns[3:6]) == ["3", "0 × 1", "0 × 2"]
    means, errors = found.mean_absolute()
    np.testing.assert_allclose(means, np.abs(found.values).mean(axis=0))
    np.testing.assert_allclose(errors, np.abs(found.values).std(axis=0, ddof=1) / np.sqrt(5))
    assert np.isnan(found[:1].mean_absolute()[1]).all()
    vectors = explain_rows(two, ROWS, BACKGROUND)
    np.testing.assert_allclose(vectors.output(1).values, -3 * vectors.output(0).values)
    with pytest.raises(ValueError, match=r"the payoffs have shape \(2,\): choose one element"):
        vectors.to_frame()
    assert "order 2, 5 rows" in repr(found) and "<table" in found._repr_html_() and "<p>" in vectors._repr_html_()
    assert found[1] is found.rows[1] and found[1:3].labels == ("1", "2")


def test_shap_takes_them():
    shap = pytest.importorskip("shap")
    explained = explain_rows(curved, ROWS, BACKGROUND).to_shap(ROWS)
    assert isinstance(explained, shap.Explanation) and explained.values.shape == (5, 4)
    np.testing.assert_array_equal(explained.data, ROWS)


def test_files_keep_everything(tmp_path):
    mixed = Attributions(
        [
            shapkit.estimate(model_game(two, ROWS[0], BACKGROUND), 12, method="antithetic"),
            shapkit.exact(model_game(two, ROWS[1], BACKGROUND)),
        ],
        ["sampled", "exact"],
    )
    mixed.save(tmp_path / "rows.npz")
    again = Attributions.load(tmp_path / "rows.npz")
    assert again.labels == mixed.labels and again.names == mixed.names
    for one, other in zip(again, mixed, strict=True):
        for what in ("values", "standard_errors", "degrees_of_freedom", "empty_value", "grand_value"):
            if getattr(other, what) is None:
                assert getattr(one, what) is None
            else:
                np.testing.assert_array_equal(getattr(one, what), getattr(other, what))
        assert (one.method, one.seeds, one.stopped_by, one.n_evaluations) == (
            other.method, other.seeds, other.stopped_by, other.n_evaluations,
        )  # fmt: skip
    mixed[0].save(tmp_path / "one.npz")
    for path in (tmp_path / "one.npz", tmp_path / "text"):
        (tmp_path / "text").write_text("no file of ours")
        with pytest.raises(ValueError, match=r"is not a file that Attributions\.save wrote"):
            Attributions.load(path)


def test_errors_name_the_row():
    with pytest.raises(ValueError, match="rows is empty"):
        explain_rows(curved, ROWS[:0], BACKGROUND)

    def fails(rows):
        if (rows == ROWS[3]).all(axis=1).any():
            raise RuntimeError("cannot")
        return curved(rows)

    with pytest.raises(RuntimeError) as caught:
        explain_rows(fails, ROWS, BACKGROUND)
    assert any("row 3" in note for note in caught.value.__notes__)
    one, other = (shapkit.exact(shapkit.table_game([0, 1, 2, 3], names=names)) for names in (["a", "b"], ["c", "d"]))
    with pytest.raises(ValueError, match=r"row 1 has names \('c', 'd'\), the first \('a', 'b'\)"):
        Attributions([one, other])
    with pytest.raises(ValueError, match="labels has 1 entries, expected one for each of the 2 rows"):
        Attributions([one, one], ["a"])
    with pytest.raises(ValueError, match="rows must be a list of at least one Attribution"):
        Attributions([])
    with pytest.raises(ValueError, match=r"row 1 has payoffs \(2,\), the first \(\)"):
        Attributions([one, shapkit.exact(shapkit.table_game(np.ones((4, 2)), names=["a", "b"]))])
