"""Attribution: look-up, printing, files, and what shap makes of it."""

import numpy as np
import pytest

import shapkit
from shapkit import Attribution, table_game

NAMES = ("eyes", "nose", "mouth")


def attribution(output_shape=(), errors=True, **changes):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, *output_shape))
    empty = rng.normal(size=output_shape)
    facts = dict(
        values=values,
        standard_errors=np.abs(rng.normal(size=values.shape)) if errors else None,
        empty_value=empty,
        grand_value=empty + values.sum(axis=0),
        n_evaluations=42,
        names=NAMES,
        index="shapley",
        method="permutation" if errors else "exact",
    )
    return Attribution(**{**facts, **changes})


def same(one, other):
    for name in ("values", "standard_errors", "empty_value", "grand_value"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    facts = ("n_evaluations", "names", "index", "method")
    assert [getattr(one, name) for name in facts] == [getattr(other, name) for name in facts]


def test_look_up_by_name_and_index():
    phi = attribution((2,))
    np.testing.assert_array_equal(phi["nose"], phi.values[1])
    np.testing.assert_array_equal(phi[np.int64(2)], phi.values[2])
    assert len(phi) == 3 and len(list(phi)) == 3 and phi.output_shape == (2,)


def test_look_up_of_nobody():
    with pytest.raises(KeyError, match="player 'hair' is not among the names eyes, nose, mouth"):
        attribution()["hair"]
    with pytest.raises(IndexError, match="player 3 is out of range, expected 0 to 2"):
        attribution()[3]


def test_efficiency_gap():
    np.testing.assert_allclose(attribution((2, 2)).efficiency_gap, np.zeros((2, 2)), atol=1e-12)
    assert attribution(empty_value=0.0, grand_value=0.0, values=[1.0, 2.0, 4.5]).efficiency_gap == 7.5


def test_fields_cannot_be_replaced():
    with pytest.raises(AttributeError):
        attribution().values = np.zeros(3)


def test_printing():
    phi = attribution(values=[1.5, -2.0, 0.25], standard_errors=[0.125, 0.5, np.nan], empty_value=1, grand_value=0.75)
    assert repr(phi).splitlines() == [
        "Attribution: shapley values of 3 players, permutation, 42 evaluations",
        "  nobody 1, everybody 0.75",
        "  eyes   1.5 ± 0.12",
        "  nose   -2 ± 0.5",
        "  mouth  0.25 ± nan",
    ]
    vector = repr(attribution((6,), errors=False))
    assert "± " not in vector and vector.count(" ...]") == 5
    many = shapkit.estimate(shapkit.weighted_voting([1] * 200, 100), 500)
    assert len(repr(many).splitlines()) == 43 and repr(many).endswith("... and 160 more players")
    assert "of 1 player, exact" in repr(shapkit.exact(table_game([0, 1])))


@pytest.mark.parametrize("output_shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("errors", [True, False])
def test_what_is_saved_is_loaded(tmp_path, output_shape, errors):
    phi = attribution(output_shape, errors, names=("Ünï", "nose|mouth", "'"))
    path = tmp_path / "phi.anything"
    path.write_text("what was there before")
    phi.save(path)
    same(Attribution.load(path), phi)
    phi.save(str(path))
    same(Attribution.load(str(path)), phi)
    assert [file.name for file in tmp_path.iterdir()] == ["phi.anything"]
    with np.load(path, allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind in "fU" for name in stored.files)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "phi.npz"
    attribution().save(path)
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        attribution().save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_files_of_others_are_refused(tmp_path):
    (tmp_path / "text").write_text("not npz")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", facts=np.array([{}], dtype=object))
    for name in ("text", "other.npz", "pickled.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a file that Attribution.save wrote"):
            Attribution.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Attribution.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"values": 1.0}, r"values must have shape \(n_players, \*output_shape\), n_players >= 1, got \(\)"),
        ({"values": []}, r"n_players >= 1, got \(0,\)"),
        (
            {"standard_errors": [1.0]},
            r"standard_errors has shape \(1,\), expected \(3,\) to fit values \(3,\)",
        ),
        ({"empty_value": [1.0]}, r"empty_value has shape \(1,\), expected \(\)"),
        ({"grand_value": [1.0]}, r"grand_value has shape \(1,\), expected \(\)"),
        ({"names": ("a", "b")}, "names has 2 entries, expected one for each of the 3 players"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        attribution(**changes)


def test_shap_explanation_of_a_scalar_game():
    shap = pytest.importorskip("shap")
    phi = attribution()
    explanation = phi.to_shap()
    assert isinstance(explanation, shap.Explanation) and explanation.feature_names == list(NAMES)
    np.testing.assert_array_equal(explanation.values, phi.values)
    assert explanation.base_values + explanation.values.sum() == pytest.approx(float(phi.grand_value))
    explanation.values[0] = 99
    assert phi.values[0] != 99


def test_shap_explanation_of_a_vector_game():
    pytest.importorskip("shap")
    phi = attribution((4,))
    explanation = phi.to_shap()
    assert explanation.values.shape == (3, 4)
    np.testing.assert_array_equal(explanation.base_values, phi.empty_value)
    np.testing.assert_array_equal(explanation[..., 2].values, phi.values[:, 2])


def test_shap_draws_it():
    shap = pytest.importorskip("shap")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = shap.plots.bar(attribution().to_shap(), show=False)
    labels = {label.get_text() for label in axes.get_yticklabels()}
    pyplot.close("all")
    assert set(NAMES) <= labels


def test_only_values_that_sum_go_to_shap():
    with pytest.raises(ValueError, match="needs values that sum to the payoff, index 'shapley'; this is 'banzhaf'"):
        attribution(index="banzhaf").to_shap()
