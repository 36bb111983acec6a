"""The bar plot: bars, error bars, labels and colours are what the numbers say."""

import numpy as np
import pytest

from shapkit import Attribution, plots

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib.container import BarContainer  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def attribution(values, errors=None):
    values = np.array(values)
    names = tuple(f"region {player}" for player in range(len(values)))
    total = values.sum(axis=0)
    return Attribution(values, errors, np.zeros_like(total), total, 8, names, "shapley", "exact")


def bar_container(axes):
    (container,) = [found for found in axes.containers if isinstance(found, BarContainer)]
    return container


def test_one_bar_per_player():
    axes = attribution([1.5, -2.0, 0.0, 4.0]).plot()
    assert [bar.get_width() for bar in axes.patches] == [1.5, -2.0, 0.0, 4.0]
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert colours == [plots.POSITIVE, plots.NEGATIVE, plots.POSITIVE, plots.POSITIVE]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"region {player}" for player in range(4)]
    assert axes.get_xlabel() == "Shapley value (exact)"
    assert axes.yaxis_inverted() and bar_container(axes).errorbar is None
    axes.figure.canvas.draw()


def test_error_bars_reach_one_standard_error():
    axes = attribution([1.0, 2.0], errors=np.array([0.25, 0.5])).plot()
    _, _, (segments,) = bar_container(axes).errorbar
    assert [segment[:, 0].tolist() for segment in segments.get_segments()] == [[0.75, 1.25], [1.5, 2.5]]


def test_one_output_of_many_on_given_axes():
    from matplotlib.figure import Figure

    values = np.arange(12.0).reshape(2, 2, 3)
    ax = Figure().subplots()
    assert attribution(values).plot(output=(1, 2), ax=ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [5.0, 11.0]
    ax = attribution(values[:, 0]).plot(output=1)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 7.0]


@pytest.mark.parametrize(
    "values, output, message",
    [
        (
            np.zeros((2, 3)),
            None,
            r"output is None, expected .* payoff of shape \(3,\), such as output=\(0,\)",
        ),
        (np.zeros((2, 3)), 3, "output is 3, expected"),
        (np.zeros((2, 3)), -1, "output is -1, expected"),
        (np.zeros((2, 3, 4)), 1, r"output is 1, expected .* shape \(3, 4\), such as output=\(0, 0\)"),
        (np.zeros(2), 0, r"output is 0, expected .* shape \(\): leave it out"),
    ],
)
def test_errors(values, output, message):
    with pytest.raises(ValueError, match=message):
        attribution(values).plot(output=output)
