"""The plots: bars, cells, nodes, lines, labels and colours are what the numbers say."""

import itertools

import numpy as np
import pytest

from shapkit import Attribution
from shapkit.attribution import plots
from shapkit.attribution.attribution import interaction_terms

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib.container import BarContainer  # noqa: E402

LONG_NAMES = tuple(f"the region around number {player}, which has a long name" for player in range(30))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def attribution(values, errors=None, names=None, order=1, n_players=None):
    values = np.array(values, dtype=float)
    names = names or tuple(f"region {player}" for player in range(n_players or len(values)))
    total = values.sum(axis=0)
    index = "shapley" if order == 1 else "k-SII"
    return Attribution(values, errors, np.zeros_like(total), total, 8, names, index, "exact", order=order)


def pairs(n_players, names=None, zero=False):
    values = np.random.default_rng(n_players).normal(size=len(interaction_terms(n_players, 2)))
    return attribution(values * (not zero), names=names, order=2, n_players=n_players)


def bar_container(axes):
    (container,) = [found for found in axes.containers if isinstance(found, BarContainer)]
    return container


def colour(artist_colour):
    return matplotlib.colors.to_hex(artist_colour).upper()


def row_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


# ---- bars


def test_one_bar_per_player():
    axes = attribution([1.5, -2.0, 0.0, 4.0]).plot()
    assert [bar.get_width() for bar in axes.patches] == [1.5, -2.0, 0.0, 4.0]
    colours = [colour(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [plots.POSITIVE, plots.NEGATIVE, plots.POSITIVE, plots.POSITIVE]
    assert row_labels(axes) == [f"region {player}" for player in range(4)]
    assert axes.get_xlabel() == "Shapley value, in units of the payoff, exact"
    assert axes.yaxis_inverted() and bar_container(axes).errorbar is None
    axes.figure.canvas.draw()


def test_error_bars_reach_one_standard_error():
    axes = attribution([1.0, 2.0], errors=np.array([0.25, 0.5])).plot()
    _, _, (segments,) = bar_container(axes).errorbar
    assert [segment[:, 0].tolist() for segment in segments.get_segments()] == [[0.75, 1.25], [1.5, 2.5]]


def test_of_many_players_the_largest_and_the_sum_of_the_others():
    values = [0.5, -8.0, 1.0, 4.0, -2.0, 0.25]
    axes = attribution(values, errors=np.ones(6)).plot(max_players=3)
    assert [bar.get_width() for bar in axes.patches] == [-8.0, 4.0, -2.0, 1.75]
    assert row_labels(axes) == ["region 1", "region 3", "region 4", "3 others"]
    assert colour(axes.patches[-1].get_facecolor()) == plots.OTHERS
    _, _, (segments,) = bar_container(axes).errorbar
    assert len([s for s in segments.get_segments() if len(s) and np.isfinite(s).all()]) == 3
    assert row_labels(attribution(values).plot(max_players=5))[-1] == "1 other"
    assert len(attribution(values).plot(max_players=6).patches) == 6
    assert len(attribution(np.arange(30.0)).plot().patches) == 21


def test_bars_of_interactions():
    axes = attribution([1, 2, -3], names=("eyes", "nose"), order=2).plot(kind="bars")
    assert row_labels(axes) == ["eyes", "nose", "eyes × nose"]
    assert [bar.get_width() for bar in axes.patches] == [1, 2, -3]
    assert axes.get_xlabel().startswith("k-SII value")


def test_one_output_of_many_on_given_axes():
    from matplotlib.figure import Figure

    values = np.arange(12.0).reshape(2, 2, 3)
    ax = Figure().subplots()
    assert attribution(values).plot(output=(1, 2), ax=ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [5.0, 11.0]
    ax = attribution(values[:, 0]).plot(output=1)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 7.0]


# ---- heat map


def test_cells_of_the_heat_map():
    phi = attribution([1, 2, -3, 0.5, -4, 0], names=("eyes", "nose", "mouth"), order=2)
    axes = phi.plot()
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), phi.interaction_matrix())
    assert image.get_clim() == (-4, 4) and row_labels(axes) == ["eyes", "nose", "mouth"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["eyes", "nose", "mouth"]
    assert image.colorbar.ax.get_ylabel() == "k-SII value, in units of the payoff, exact"
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[(2, 0)] == written[(0, 2)] == "-4" and written[(1, 1)] == "2" and len(written) == 9


def test_positive_and_negative_have_the_colours_of_the_bars():
    map_ = attribution([1, -1, 0], order=2, n_players=2).plot().images[0].cmap
    positive, negative = (np.array(map_(end)[:3]) for end in (1.0, 0.0))
    assert positive[2] > positive[0] and negative[0] > negative[2], "blue against orange"


def test_a_heat_map_of_many_shows_those_with_the_largest_values():
    phi = attribution([0, 3, 0, 1, 0, 5, 0, 0, 0, 0], order=2, n_players=4)  # player 2 matters in a pair with 0
    axes = phi.plot(max_players=3)
    assert row_labels(axes) == ["region 0", "region 1", "region 2"]
    assert "the 3 of 4 players with the largest values" in axes.get_xlabel()
    np.testing.assert_array_equal(axes.images[0].get_array(), phi.interaction_matrix()[:3, :3])
    assert not pairs(12).plot().texts, "numbers in small cells cannot be read"


# ---- network


def test_nodes_and_lines_of_the_network():
    phi = attribution([4, -1, 0, 2, -1, 0], names=("eyes", "nose", "mouth"), order=2)
    axes = phi.plot(kind="network")
    (nodes,) = axes.collections
    areas = nodes.get_sizes()
    assert areas[0] > areas[1] > areas[2] > 0
    assert [colour(fill) for fill in nodes.get_facecolors()] == [plots.POSITIVE, "#FFFFFF", plots.POSITIVE]
    assert [colour(rim) for rim in nodes.get_edgecolors()] == [plots.POSITIVE, plots.NEGATIVE, plots.POSITIVE]
    places = nodes.get_offsets()
    np.testing.assert_allclose(np.hypot(*places.T), 1)
    narrow, wide = axes.lines  # the pair of value zero has none
    assert wide.get_linewidth() == pytest.approx(2 * narrow.get_linewidth())
    np.testing.assert_allclose(wide.get_xydata(), places[[0, 1]])
    np.testing.assert_allclose(narrow.get_xydata(), places[[0, 2]])
    assert (colour(wide.get_color()), colour(narrow.get_color())) == (plots.POSITIVE, plots.NEGATIVE)
    assert wide.get_linestyle() == "-" and narrow.get_linestyle() == "--"
    assert [text.get_text() for text in axes.texts] == ["eyes", "nose", "mouth"]
    assert axes.get_legend().get_title().get_text() == "k-SII value, in units of the payoff, exact"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["positive", "negative", "largest node 4", "widest line 2"]


def test_a_network_of_many_says_what_it_leaves_out():
    axes = pairs(30).plot(kind="network")
    assert len(axes.texts) == 20
    assert "the 20 of 30 players with the largest values" in axes.get_legend().get_title().get_text()


# ---- all of them


@pytest.mark.parametrize("kind", ["bars", "heatmap", "network"])
@pytest.mark.parametrize("n_players", [1, 2, 9, 30])
def test_labels_fit_in_the_figure_and_beside_each_other(kind, n_players):
    phi = pairs(n_players, names=LONG_NAMES[:n_players])
    axes = phi.plot(kind=kind, max_players=30)
    figure = axes.figure
    figure.canvas.draw()
    labels = axes.texts if kind == "network" else axes.get_yticklabels()
    written = [label.get_text() for label in labels]
    assert len(set(written)) == len(written) and max(map(len, written)) <= 31, "cut, and still different"
    assert "…" in written[0]
    boxes = [label.get_window_extent() for label in labels]
    legend = [] if kind != "network" else [axes.get_legend().get_window_extent()]
    for box in boxes + legend:
        assert box.x0 >= figure.bbox.x0 and box.x1 <= figure.bbox.x1
        assert box.y0 >= figure.bbox.y0 and box.y1 <= figure.bbox.y1
    upright = boxes + legend if n_players <= 10 or kind != "network" else []  # boxes of slanting words overlap
    assert not any(one.overlaps(other) for one, other in itertools.combinations(upright, 2))


@pytest.mark.parametrize("kind", ["bars", "heatmap", "network"])
def test_values_of_zero_and_not_a_number(kind):
    pairs(4, zero=True).plot(kind=kind).figure.canvas.draw()
    attribution([np.nan, 1.0, np.nan], order=2, n_players=2).plot(kind=kind).figure.canvas.draw()
    attribution([np.nan] * 3, order=2, n_players=2).plot(kind=kind).figure.canvas.draw()


@pytest.mark.parametrize("kind", ["bars", "heatmap", "network"])
def test_names_are_not_formulae(kind):
    phi = attribution([1, 2, 3, 4, 5, 6], names=("$x^{", "a$b$", "_two\nlines_"), order=2)
    axes = phi.plot(kind=kind)
    axes.figure.canvas.draw()  # mathtext would raise here
    shown = [text.get_text() for text in axes.texts] if kind == "network" else row_labels(axes)
    assert shown[:3] == [r"\$x^{", r"a\$b\$", "_two lines_"]


@pytest.mark.parametrize("kind", ["bars", "heatmap", "network"])
def test_kinds_by_name(kind):
    drawn = attribution(np.arange(1.0, 7.0)[:, None] * [1, 10], names=("a", "b", "c"), order=2)
    same = getattr(plots, kind)(drawn, output=1)
    asked = drawn.plot(kind=kind, output=1)
    assert type(same) is type(asked) and len(asked.patches) == len(same.patches)
    assert len(asked.lines) == len(same.lines) and len(asked.images) == len(same.images)


@pytest.mark.parametrize(
    "values, output, message",
    [
        (np.zeros((2, 3)), None, r"output is \(\), expected .* payoff of shape \(3,\): such as output=\(0,\)"),
        (np.zeros((2, 3)), 3, "output is 3, expected"),
        (np.zeros((2, 3)), -1, "output is -1, expected"),
        (np.zeros((2, 3, 4)), 1, r"output is 1, expected .* shape \(3, 4\): such as output=\(0, 0\)"),
        (np.zeros(2), 0, r"output is 0, expected .* shape \(\): the payoff is a scalar"),
    ],
)
def test_errors(values, output, message):
    with pytest.raises(ValueError, match=message):
        attribution(values).plot(output=output)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "pie"}, "kind must be one of 'bars', 'heatmap', 'network', got 'pie'"),
        ({"kind": "network"}, "pairs have no value in this attribution: it is of order 1"),
        ({"kind": "heatmap"}, "pairs have no value in this attribution: it is of order 1"),
        ({"max_players": 0}, "max_players must be an integer of at least 1, got 0"),
    ],
)
def test_pictures_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        attribution([1.0, 2.0]).plot(**arguments)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize("kind", ["bars", "heatmap", "network"])
def test_a_single_output_needs_no_name_whatever_its_shape(shape, kind):
    values = np.array([2.0, 3.0, 1.0]).reshape(3, *shape)
    ends = np.zeros(shape), np.full(shape, 6.0)
    phi = Attribution(values, None, *ends, 4, ("eyes", "nose"), "STII", "exact", order=2)
    axes = phi.plot(kind=kind)
    assert axes.get_figure() is not None
    if kind == "bars":
        assert [bar.get_width() for bar in axes.patches] == [2.0, 3.0, 1.0]
    two = Attribution(np.ones((2, 2)), None, np.zeros(2), np.full(2, 2.0), 4, ("eyes", "nose"), "shapley", "exact")
    with pytest.raises(ValueError, match=r"output is \(\), expected the index of one element"):
        two.plot()
