"""Attribution: look-up, arithmetic, printing, files, and what shap makes of it."""

import io
import itertools
import json
import math
import struct
import zipfile
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from shapkit import exact, table_game
from shapkit.attribution.attribution import Attribution, interaction_terms, to_shap

NAMES = ("eyes", "nose", "mouth")
ARRAYS = ("values", "standard_errors", "empty_value", "grand_value", "degrees_of_freedom")
FACTS = ("n_evaluations", "names", "index", "method", "order", "seeds")


def attribution(output_shape=(), errors=True, order=1, **changes):
    rng = np.random.default_rng(0)
    names = changes.get("names", NAMES)
    values = rng.normal(size=(len(interaction_terms(len(names), order)), *output_shape))
    empty = rng.normal(size=output_shape)
    facts = dict(
        values=values,
        standard_errors=np.abs(rng.normal(size=values.shape)) if errors else None,
        empty_value=empty,
        grand_value=empty + values.sum(axis=0),
        n_evaluations=42,
        names=names,
        index="shapley" if order == 1 else "k-SII",
        method="permutation" if errors else "exact",
        order=order,
        seeds=(7,) if errors else (),
        degrees_of_freedom=rng.uniform(1, 30, size=values.shape) if errors else None,
    )
    return Attribution(**{**facts, **changes})


def same(one, other):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert [getattr(one, name) for name in FACTS] == [getattr(other, name) for name in FACTS]


@st.composite
def attributions(draw, n=1):
    """`n` attributions of the same players, order and output shape; sampled ones with seeds from 0 to 3."""
    n_players, order = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    output_shape = draw(array_shapes(min_dims=0, max_dims=2, max_side=3))
    shape = (len(interaction_terms(n_players, order)), *output_shape)
    numbers = st.floats(-1e6, 1e6)

    def one():
        sampled = draw(st.booleans())
        return Attribution(
            values=draw(arrays(np.float64, shape, elements=numbers)),
            standard_errors=draw(arrays(np.float64, shape, elements=st.floats(0, 1e6))) if sampled else None,
            empty_value=draw(arrays(np.float64, output_shape, elements=numbers)),
            grand_value=draw(arrays(np.float64, output_shape, elements=numbers)),
            n_evaluations=draw(st.integers(0, 2**40)),
            names=tuple(f"player {player}" for player in range(n_players)),
            index="STII",
            method=draw(st.sampled_from(["regression", "permutation"])) if sampled else "exact",
            order=order,
            seeds=tuple(sorted(draw(st.sets(st.integers(0, 3))))) if sampled else (),
            degrees_of_freedom=draw(arrays(np.float64, shape, elements=st.floats(1, 1e6)))
            if sampled and draw(st.booleans())
            else None,
        )

    return [one() for _ in range(n)]


# ---- terms and look-up


@given(st.integers(0, 7), st.integers(1, 9))
def test_terms_are_the_coalitions_by_size_and_then_in_lexicographic_order(n_players, order):
    terms = interaction_terms(n_players, order)
    every = [
        tuple(player for player in range(n_players) if mask >> player & 1)
        for mask in range(1, 2**n_players)
        if mask.bit_count() <= order
    ]
    assert list(terms) == sorted(every, key=lambda term: (len(term), term))


@pytest.mark.parametrize("n_players, order, message", [(-1, 1, "n_players"), (2, 0, "order"), (2, 1.5, "order")])
def test_terms_of_nothing(n_players, order, message):
    with pytest.raises(ValueError, match=f"{message} must be an integer of at least"):
        interaction_terms(n_players, order)


@given(st.integers(1, 6), st.integers(1, 4), st.data())
def test_every_term_is_found_by_its_players_in_any_order(n_players, order, data):
    names = tuple(f"<{player}>" for player in range(n_players))
    terms = interaction_terms(n_players, order)
    values = np.arange(2.0 * len(terms)).reshape(-1, 2)
    phi = Attribution(values, values / 8, [0, 0], [1, 1], 9, names, "SII", "regression", order=order)
    assert phi.terms == terms and len(phi) == len(terms)
    for row, term in enumerate(terms):
        players = data.draw(st.permutations(term))
        mixed = tuple(names[player] if data.draw(st.booleans()) else np.int64(player) for player in players)
        np.testing.assert_array_equal(phi[mixed], values[row], strict=True)
        np.testing.assert_array_equal(phi.standard_error(*mixed), values[row] / 8, strict=True)
        if len(term) == 1:
            np.testing.assert_array_equal(phi[mixed[0]], values[row], strict=True)


def test_look_up_is_not_a_scan():
    n_players = 300
    names = tuple(map(str, range(n_players)))
    values = np.arange(float(math.comb(n_players, 1) + math.comb(n_players, 2) + math.comb(n_players, 3)))
    phi = Attribution(values, None, 0, 0, 0, names, "STII", "exact", order=3)
    assert phi["297", "299", "298"] == len(values) - 1
    assert phi[0, 1] == n_players and phi[0, 1, 2] == n_players + math.comb(n_players, 2)
    assert "terms" not in vars(phi), "four million tuples, which look-up does not need"


def test_look_up_by_name_and_index():
    phi = attribution((2,))
    np.testing.assert_array_equal(phi["nose"], phi.values[1])
    np.testing.assert_array_equal(phi[np.int64(2)], phi.values[2])
    assert len(phi) == phi.n_players == 3 and phi.output_shape == (2,)


def test_iteration_goes_over_rows_of_values():
    phi = attribution((2,), order=2)
    np.testing.assert_array_equal(list(phi), phi.values)


@pytest.mark.parametrize(
    "coalition, error, message",
    [
        ("hair", KeyError, "player 'hair' is not among the names eyes, nose, mouth"),
        (("eyes", "hair"), KeyError, "player 'hair' is not among"),
        (3, IndexError, "player 3 is out of range, expected 0 to 2"),
        (-1, IndexError, "player -1 is out of range"),
        ((0, 3), IndexError, "player 3 is out of range"),
        (("eyes", "eyes"), KeyError, "names a player twice"),
        (("eyes", 0), KeyError, "names a player twice"),
        ((0, 1, 2), KeyError, "has 3 players, values are of 1 to 2"),
        ((), KeyError, "has 0 players, values are of 1 to 2"),
        (1.0, TypeError, "a player must be a name or an index, got 1.0"),
        (slice(2), TypeError, "a player must be a name or an index"),
    ],
)
def test_look_up_of_nobody(coalition, error, message):
    phi = attribution(order=2)
    with pytest.raises(error, match=message):
        phi[coalition]
    with pytest.raises(error, match=message):
        phi.standard_error(*(coalition if isinstance(coalition, tuple) else (coalition,)))


def test_pairs_of_an_attribution_of_order_one():
    with pytest.raises(KeyError, match="has 2 players, values are of 1 to 1"):
        attribution()["eyes", "nose"]


def test_an_unknown_name_among_many_does_not_list_all():
    phi = Attribution(np.zeros(100), None, 0, 0, 0, tuple(map(str, range(100))), "shapley", "exact")
    with pytest.raises(KeyError) as raised:
        phi["hair"]
    assert "18, 19, ..." in str(raised.value) and "20" not in str(raised.value)


def test_fields_cannot_be_replaced():
    with pytest.raises(AttributeError):
        attribution().values = np.zeros(3)


# ---- what follows from the values


def test_efficiency_gap():
    np.testing.assert_allclose(attribution((2, 2)).efficiency_gap, np.zeros((2, 2)), atol=1e-12)
    np.testing.assert_allclose(attribution((2,), order=3).efficiency_gap, np.zeros(2), atol=1e-12)
    assert attribution(empty_value=0.0, grand_value=0.0, values=[1.0, 2.0, 4.5]).efficiency_gap == 7.5


def test_intervals():
    phi = attribution((2,), standard_errors=np.full((3, 2), 0.5), degrees_of_freedom=None)
    low, high = phi.interval()
    np.testing.assert_allclose(high - phi.values, 0.5 * 1.959963984540054)
    np.testing.assert_allclose(low, 2 * phi.values - high)
    np.testing.assert_allclose(phi.interval(0.6826894921370859)[1], phi.values + 0.5)
    low, high = attribution(errors=False).interval(0.5)
    np.testing.assert_array_equal([low, high], [attribution(errors=False).values] * 2)
    np.testing.assert_array_equal(attribution(errors=False).standard_error("nose"), 0.0)
    for level in (0, 1, -0.5, 95, math.nan):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            phi.interval(level)


@pytest.mark.parametrize("n_samples", [2, 4, 50])
def test_95_of_100_intervals_hold_the_exact_value(n_samples):
    rng, n_runs = np.random.default_rng(0), 20_000
    samples = rng.normal(3.0, 2.0, size=(n_runs, n_samples))
    nothing = np.zeros(n_runs)
    phi = Attribution(
        values=samples.mean(axis=1)[None],
        standard_errors=samples.std(axis=1, ddof=1)[None] / math.sqrt(n_samples),
        empty_value=nothing,
        grand_value=nothing,
        n_evaluations=n_samples,
        names=("x",),
        index="shapley",
        method="permutation",
        degrees_of_freedom=np.full((1, n_runs), n_samples - 1),
    )
    low, high = phi.interval()
    deviation = math.sqrt(0.95 * 0.05 / n_runs)
    assert abs(np.mean((low <= 3) & (high >= 3)) - 0.95) < 4 * deviation


def test_an_error_that_nothing_is_known_of_makes_no_interval():
    phi = attribution(standard_errors=[0.0, 1.0, np.nan], degrees_of_freedom=[0.0, 0.0, 0.0])
    low, high = phi.interval()
    assert low[0] == high[0] == phi.values[0] and np.isnan([low[1:], high[1:]]).all()


@given(attributions(n=2))
def test_degrees_of_freedom_of_a_sum(pair):
    one, two = pair
    total = one + two
    if one.standard_errors is None or two.standard_errors is None:
        sampled = two if one.standard_errors is None else one
        np.testing.assert_array_equal(total.degrees_of_freedom, sampled.degrees_of_freedom)
        return
    if one.degrees_of_freedom is None and two.degrees_of_freedom is None:
        assert total.degrees_of_freedom is None
        return
    first, second = (np.inf if phi.degrees_of_freedom is None else phi.degrees_of_freedom for phi in pair)
    fewest, most = np.minimum(first, second), first + second
    assert (total.degrees_of_freedom >= fewest).all()
    assert (total.degrees_of_freedom <= most * (1 + 1e-9)).all(), "Satterthwaite's are at most those of both"
    np.testing.assert_array_equal((two + one).degrees_of_freedom, total.degrees_of_freedom)
    shared, other = (set(phi.seeds) for phi in pair)
    if not (shared and other and shared.isdisjoint(other)):
        np.testing.assert_array_equal(total.degrees_of_freedom, fewest)


def test_degrees_of_freedom_of_two_means_are_satterthwaites():
    one, two = (attribution(seeds=(seed,), standard_errors=[s, s, 0.0]) for seed, s in ((1, 3.0), (2, 4.0)))
    f, g = one.degrees_of_freedom, two.degrees_of_freedom
    expected = [25.0**2 / (3**4 / f[player] + 4**4 / g[player]) for player in (0, 1)] + [min(f[2], g[2])]
    np.testing.assert_allclose((one + two).degrees_of_freedom, expected)


@pytest.mark.parametrize("errors", [True, False])
def test_one_output(errors):
    phi = attribution((2, 3), errors, order=2)
    one = phi.output((1, np.int64(2)))
    assert one.output_shape == () and one.empty_value == phi.empty_value[1, 2]
    np.testing.assert_array_equal(one.values, phi.values[:, 1, 2])
    np.testing.assert_array_equal(one.grand_value, phi.grand_value[1, 2])
    assert [getattr(one, name) for name in FACTS] == [getattr(phi, name) for name in FACTS]
    if errors:
        np.testing.assert_array_equal(one.standard_errors, phi.standard_errors[:, 1, 2])
    np.testing.assert_array_equal(attribution((4,)).output(3).values, attribution((4,)).values[:, 3])
    same(attribution().output(()), attribution())


@pytest.mark.parametrize("where", [(), 0, (0,), (0, 3), (-1, 0), (0, 0, 0), (True, 0), (slice(2), 0)])
def test_outputs_that_are_not_there(where):
    with pytest.raises(ValueError, match="output"):
        attribution((2, 3)).output(where)


@given(st.integers(0, 5), st.integers(2, 4), array_shapes(min_dims=0, max_dims=2, max_side=2))
def test_interaction_matrix_is_what_look_up_says(n_players, order, output_shape):
    phi = attribution(output_shape, order=order, names=tuple(map(str, range(n_players))))
    matrix = phi.interaction_matrix()
    assert matrix.shape == (n_players, n_players, *output_shape) and matrix.dtype == np.float64
    for i, j in itertools.product(range(n_players), repeat=2):
        np.testing.assert_array_equal(matrix[i, j], phi[i] if i == j else phi[i, j])


def test_no_interaction_matrix_of_players_alone():
    with pytest.raises(ValueError, match="pairs have no value"):
        attribution().interaction_matrix()


# ---- arithmetic


@given(attributions(n=2), st.floats(-100, 100), st.floats(-100, 100))
def test_attributions_are_linear(pair, a, b):
    one, two = pair
    both = a * one + two * b
    for name in ("values", "empty_value", "grand_value"):
        np.testing.assert_array_equal(getattr(both, name), a * getattr(one, name) + b * getattr(two, name), strict=True)
    assert both.n_evaluations == one.n_evaluations + two.n_evaluations
    assert both.seeds == tuple(sorted({*one.seeds, *two.seeds}))
    assert [getattr(both, name) for name in ("names", "index", "order")] == [one.names, "STII", one.order]
    same(one - two, one + -two)
    same(-one, -1 * one)
    same(one + two - two * 0, one + two + 0 * -two)
    np.testing.assert_array_equal((one - two).values, one.values - two.values)


def test_an_error_that_vanishes_beside_a_posteriors_takes_no_degrees_of_freedom():
    known = replace(attribution(), standard_errors=np.full(3, 400.0), seeds=(0,), degrees_of_freedom=None)
    drawn = replace(known, standard_errors=np.full(3, 1e-75), seeds=(1,), degrees_of_freedom=np.ones(3))
    np.testing.assert_array_equal((known + drawn).degrees_of_freedom, np.inf)
    np.testing.assert_array_equal((known + drawn).standard_errors, known.standard_errors)


@given(attributions(), st.floats(-100, 100))
def test_a_number_scales_the_standard_error_by_its_absolute_value(single, a):
    (phi,) = single
    for scaled in (a * phi, phi * a, np.float64(a) * phi, phi * np.float64(a)):
        assert isinstance(scaled, Attribution) and scaled.seeds == phi.seeds and scaled.method == phi.method
        if phi.standard_errors is None:
            assert scaled.standard_errors is None
        else:
            np.testing.assert_array_equal(scaled.standard_errors, abs(a) * phi.standard_errors)
    if abs(a) > 1e-9:  # quotients that are finite
        np.testing.assert_array_equal((phi / a).values, phi.values / a)
        if phi.standard_errors is not None:
            np.testing.assert_array_equal((phi / a).standard_errors, phi.standard_errors / abs(a))
    same(phi * 2, phi + phi if phi.n_evaluations == 0 else phi * np.int8(2))
    same(Fraction(1, 2) * phi, phi / 2)


@given(attributions(n=2))
def test_which_rule_gives_the_error_of_a_sum(pair):
    one, two = (phi.standard_errors for phi in pair)
    total = (pair[0] + pair[1]).standard_errors
    np.testing.assert_array_equal((pair[1] + pair[0]).standard_errors, total)
    np.testing.assert_array_equal((pair[0] - pair[1]).standard_errors, total)
    if one is None or two is None:
        np.testing.assert_array_equal(total, two if one is None else one)
        return
    first, second = (set(phi.seeds) for phi in pair)
    if first and second and first.isdisjoint(second):
        np.testing.assert_allclose(total**2, one**2 + two**2, rtol=1e-12)
    else:
        np.testing.assert_array_equal(total, one + two)


@given(st.lists(st.sampled_from([-1.0, 0.5, 2.0]), min_size=2, max_size=2), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_errors_of_sums_are_right_for_independent_draws_and_safe_for_the_same(weights, seed):
    rng = np.random.default_rng(seed)
    n_samples, n_runs = 40, 4000
    first, other = rng.normal(size=(2, n_runs, n_samples))  # of a payoff with standard deviation 1, in each run

    def estimate(draws, seed):  # each output element is a run of the same estimator
        errors, nothing = np.full((1, n_runs), 1 / math.sqrt(n_samples)), np.zeros(n_runs)
        values = draws.mean(axis=1)[None]
        return Attribution(values, errors, nothing, nothing, n_samples, ("x",), "shapley", "permutation", seeds=(seed,))

    a, b = weights
    independent = a * estimate(first, 1) + b * estimate(other, 2)
    assert np.std(independent.values) == pytest.approx(independent.standard_errors[0, 0], rel=0.06)
    shared = a * estimate(first, 1) + b * estimate(first, 1)
    assert np.std(shared.values) <= 1.06 * shared.standard_errors[0, 0]
    if a * b > 0:
        assert np.std(shared.values) == pytest.approx(shared.standard_errors[0, 0], rel=0.06), "the bound is attained"


def test_sum_and_mean_of_many():
    parts = [attribution(seeds=(seed,)) for seed in range(4)]
    mean = sum(parts) / 4
    np.testing.assert_allclose(mean.values, parts[0].values)
    np.testing.assert_allclose(mean.standard_errors, parts[0].standard_errors / 2)
    assert mean.n_evaluations == 4 * 42 and mean.seeds == (0, 1, 2, 3) and mean.method == "permutation"
    assert sum([parts[0]]) is parts[0]


def test_methods_of_a_sum():
    total = attribution(errors=False) + attribution() + attribution(errors=False) + attribution(method="stratified")
    assert total.method == "exact + permutation + stratified"


@pytest.mark.parametrize(
    "other, what",
    [
        (attribution(names=("eyes", "nose", "hair")), "names"),
        (attribution(index="banzhaf"), "index"),
        (attribution(order=2, index="shapley"), "order"),
        (attribution((3,)), "output_shape"),
    ],
)
def test_sums_of_what_does_not_fit(other, what):
    for compute in (lambda: attribution() + other, lambda: attribution() - other):
        with pytest.raises(ValueError, match=f"^{what} must agree to add attributions"):
            compute()


@pytest.mark.parametrize(
    "compute",
    [
        lambda phi: phi + 1,
        lambda phi: 1 + phi,
        lambda phi: phi - 0,
        lambda phi: phi * phi,
        lambda phi: phi * np.ones(3),
        lambda phi: np.ones(3) * phi,
        lambda phi: np.ones(3) + phi,
        lambda phi: phi * "2",
        lambda phi: phi * 1j,
        lambda phi: 1 / phi,
        lambda phi: phi / phi,
    ],
)
def test_what_has_no_sum_or_product(compute):
    with pytest.raises(TypeError):  # in Python's words or NumPy's
        compute(attribution())


def test_factors_that_leave_nothing():
    for factor in (math.inf, math.nan):
        with pytest.raises(ValueError, match="scaled by a finite number only"):
            factor * attribution()
        with pytest.raises(ValueError, match="scaled by a finite number only"):
            attribution() / factor
    with pytest.raises(ZeroDivisionError, match="cannot be divided by zero"):
        attribution() / 0


def test_the_sum_of_attributions_is_the_attribution_of_the_sum():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 8, 2))
    total = 3 * exact(table_game(one)) - exact(table_game(two)) / 2
    expected = exact(table_game(3 * one - two / 2))
    np.testing.assert_allclose(total.values, expected.values, atol=1e-12)
    np.testing.assert_allclose(total.empty_value, expected.empty_value)
    np.testing.assert_allclose(total.grand_value, expected.grand_value)


# ---- printing


def test_printing():
    phi = attribution(values=[1.5, -2.0, 0.25], standard_errors=[0.125, 0.5, np.nan], empty_value=1, grand_value=0.75)
    assert repr(phi).splitlines() == [
        "Attribution: shapley values of 3 players, permutation, 42 evaluations",
        "  v(∅) = 1, v(N) = 0.75",
        "  eyes   1.5 ± 0.12",
        "  nose   -2 ± 0.5",
        "  mouth  0.25 ± nan",
    ]
    vector = repr(attribution((6,), errors=False))
    assert "± " not in vector and vector.count(" ...]") == 5
    assert "of 1 player, exact, 2 evaluations" in repr(exact(table_game([0, 1])))


def test_printing_of_interactions():
    phi = attribution(values=[1, -2, 0, 0.5, -3, np.nan], errors=False, order=2, empty_value=0, grand_value=0)
    assert repr(phi).splitlines() == [
        "Attribution: k-SII values of 3 players, order 2, exact, 42 evaluations",
        "  v(∅) = 0, v(N) = 0",
        "  eyes   1",
        "  nose   -2",
        "  mouth  0",
        "  3 interactions",
        "  eyes × mouth  -3",
        "  eyes × nose   0.5",
        "  nose × mouth  nan",
    ]


def test_printing_of_many():
    names = tuple(map(str, range(200)))
    many = Attribution(np.zeros(200), None, 0, 0, 1, names, "shapley", "exact")
    assert len(repr(many).splitlines()) == 43 and repr(many).endswith("... and 160 more players")
    assert many._repr_html_().count("<tr>") == 41
    pairs = attribution(order=2, names=names[:30])
    assert len(repr(pairs).splitlines()) == 2 + 30 + 1 + 20
    assert "  the 20 largest of 435 interactions" in repr(pairs).splitlines()
    largest = np.argmax(np.abs(pairs.values[30:]))
    i, j = pairs.terms[30 + largest]
    assert repr(pairs).splitlines()[33].split()[:3] == [str(i), "×", str(j)]


class Tags(HTMLParser):
    """What a browser makes of a table: its tags, whether they nest, and the text outside them."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text = [], [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@given(st.lists(st.text("<>&\"'/=;abo", min_size=1), min_size=3, max_size=3, unique=True))
def test_names_are_escaped_in_html(names):
    phi = attribution(names=tuple(names), order=2, index="<script>x</script>", method="<img onerror=alert(1)>")
    page = Tags(phi._repr_html_())
    assert not page.open and set(page.tags) == {"table", "caption", "tbody", "b", "br", "tr", "td", "div", "i"}
    assert page.tags.count("tr") == 7
    for name in (*names, " × ".join(names[:2]), phi.index, phi.method):
        assert name in page.text


def test_html_shows_values_errors_and_bars():
    phi = attribution(values=[1.0, -2.0, np.nan], standard_errors=[0.125, 0.5, np.nan])
    source = phi._repr_html_()
    assert "1 ± 0.12" in source and "-2 ± 0.5" in source and "nan ± nan" in source
    widths = [part.split("%")[0] for part in source.split("; width: ")[1:]]
    starts = [part.split("%")[0] for part in source.split("margin-left: ")[1:]]
    assert widths == ["25.0", "50.0", "0.0"] and starts[:2] == ["50.0", "0.0"]
    assert "<div" not in attribution((2,))._repr_html_(), "no bars for vectors"
    assert "<td>" in attribution(values=[0, 0, 0])._repr_html_()


# ---- nobody at all


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("output_shape", [(), (2,)])
def test_a_game_without_players(tmp_path, order, output_shape):
    phi = Attribution(
        np.zeros((0, *output_shape)), None, np.ones(output_shape), np.ones(output_shape), 1, (), "STII", "exact", order
    )
    assert len(phi) == 0 and phi.terms == () and list(phi) == [] and phi.names == ()
    assert repr(phi).splitlines()[0].startswith("Attribution: STII values of 0 players") and "evaluation" in repr(phi)
    assert not Tags(phi._repr_html_()).open
    np.testing.assert_array_equal((phi + 2 * phi).grand_value, 3 * np.ones(output_shape))
    np.testing.assert_array_equal(phi.efficiency_gap, np.zeros(output_shape))
    phi.save(tmp_path / "phi.npz")
    same(Attribution.load(tmp_path / "phi.npz"), phi)
    with pytest.raises(IndexError, match="player 0 is out of range"):
        phi[0]
    with pytest.raises(ValueError, match="no players"):
        phi.plot(output=None if output_shape == () else 0)


# ---- files


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("attributions")


@given(attributions())
@settings(deadline=None)
def test_whatever_is_saved_is_loaded(folder, single):
    (phi,) = single
    phi.save(folder / "phi.npz")
    same(Attribution.load(folder / "phi.npz"), phi)


def test_numbers_of_numpy_are_saved(tmp_path):
    phi = attribution(n_evaluations=np.uint64(2**60), seeds=(np.int64(3), 2**127), order=np.int8(1))
    phi.save(tmp_path / "phi.npz")
    same(Attribution.load(tmp_path / "phi.npz"), phi)
    assert phi.seeds == (3, 2**127) and type(phi.seeds[0]) is int


@pytest.mark.parametrize("errors", [True, False])
@pytest.mark.parametrize("version, n_facts", [(1, 4), (2, 6)])
def test_files_of_earlier_versions_are_loaded(tmp_path, errors, version, n_facts):
    phi = attribution((2,), errors, seeds=(), degrees_of_freedom=None)
    facts = {"format": f"shapkit.Attribution {version}", **{name: getattr(phi, name) for name in FACTS[:n_facts]}}
    arrays = {name: getattr(phi, name) for name in ARRAYS if getattr(phi, name) is not None}
    np.savez(tmp_path / "old.npz", facts=np.array(json.dumps(facts)), **arrays)
    same(Attribution.load(tmp_path / "old.npz"), phi)


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


def refused(path, because=""):
    with pytest.raises(ValueError, match=f"{path.name} is not a file that Attribution.save wrote .*{because}"):
        Attribution.load(path)


def test_files_of_others_are_refused(tmp_path):
    (tmp_path / "text").write_text("not npz")
    (tmp_path / "empty").write_bytes(b"")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", facts=np.array([{}], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text", "empty", "other.npz", "pickled.npz", "array.npy"):
        refused(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Attribution.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes, because",
    [
        ({"format": "shapkit.Attribution 5"}, "its format is 'shapkit.Attribution 5', expected one of"),
        ({"n_evaluations": "many"}, "n_evaluations must be an integer"),
        ({"order": 2}, "expected 6 rows"),
        ({"order": 10**12}, "expected 7 rows"),
        ({"seeds": ["x"]}, "seeds must be an integer"),
        ({"names": ["a", "b"]}, "names has 2 entries"),
        ({"method": None}, "method must be a string"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_files_with_other_facts_are_refused(tmp_path, changes, because):
    path = tmp_path / "phi.npz"
    attribution().save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    facts = {**json.loads(str(arrays.pop("facts"))), **changes}
    np.savez(path, facts=np.array(json.dumps(facts)), **arrays)
    refused(path, because)


def test_files_that_were_made_to_harm_are_refused(tmp_path):
    attribution().save(tmp_path / "phi.npz")
    with np.load(tmp_path / "phi.npz") as stored:
        arrays = dict(stored)

    path = tmp_path / "compressed.npz"
    np.savez_compressed(path, **{**arrays, "values": np.zeros(10**6)})
    refused(path, "compressed")

    path = tmp_path / "stranger.npz"
    np.savez(path, **arrays, more=np.zeros(3))
    refused(path, "'more.npy', which does not belong there")

    path = tmp_path / "claims.npz"  # the directory says that a stored member is larger than the file
    raw = bytearray((tmp_path / "phi.npz").read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(raw)
    refused(path, "claim to be larger")

    path = tmp_path / "header.npz"  # an array's header says that it has 10**15 elements
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(tmp_path / "phi.npz") as good:
        for member in good.namelist():
            archive.writestr(member, header.getvalue() if member == "values.npy" else good.read(member))
    refused(path)

    path = tmp_path / "strings.npz"  # which NumPy would read as numbers
    np.savez(path, **{**arrays, "values": arrays["values"].astype(str)})
    refused(path, "does not hold floating-point numbers")

    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(tmp_path / "phi.npz") as good:
        for member in good.namelist():
            archive.writestr(member, good.read(member))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("values.npy", good.read("values.npy"))
    refused(path, "two arrays of one name")


@given(st.data())
@settings(deadline=None)
def test_damaged_files_are_refused_or_harmless(folder, data):
    path = folder / "damaged.npz"
    attribution().save(path)
    raw = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:position]
    else:
        byte = data.draw(st.integers(0, 255))
        assume(byte != raw[position])
        raw[position] = byte
    path.write_bytes(raw)
    try:
        same(Attribution.load(path), attribution())  # a byte that means nothing, such as a date
    except ValueError as error:
        assert "is not a file that Attribution.save wrote" in str(error)


# ---- what cannot be


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"values": 1.0}, r"values must have shape \(n_terms, \*output_shape\), got \(\)"),
        ({"values": []}, "names has 3 entries, expected one for each of the 0 players"),
        ({"standard_errors": [1.0]}, r"standard_errors has shape \(1,\), expected \(3,\) to fit values \(3,\)"),
        ({"standard_errors": [1.0, -0.5, np.nan]}, "standard_errors must not be negative, got -0.5"),
        ({"degrees_of_freedom": [1.0]}, r"degrees_of_freedom has shape \(1,\), expected \(3,\) to fit values"),
        ({"degrees_of_freedom": [1.0, -0.5, 2.0]}, "degrees_of_freedom must not be negative, got -0.5"),
        ({"empty_value": [1.0]}, r"empty_value has shape \(1,\), expected \(\)"),
        ({"grand_value": [1.0]}, r"grand_value has shape \(1,\), expected \(\)"),
        ({"names": ("a", "b"), "values": [1.0] * 3}, "names has 2 entries, expected one for each of the 3 players"),
        ({"order": 2, "values": [1.0] * 5}, r"values has shape \(5,\), expected 6 rows: .* at most 2 of 3 players"),
        ({"order": 0, "values": []}, "order must be an integer of at least 1, got 0"),
        ({"order": 1.0}, "order must be an integer"),
        ({"seeds": 3}, "seeds must be a tuple of integers, got 3"),
        ({"seeds": ("a",)}, "each of seeds must be an integer, got 'a'"),
        ({"n_evaluations": -1}, "n_evaluations must be an integer of at least 0, got -1"),
        ({"index": None}, "index must be a string, got None"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        attribution(errors=False, **{"standard_errors": None, "values": [1.0, 2.0, 3.0], "order": 1, **changes})


# ---- shap


@pytest.fixture
def shap():
    pytest.importorskip("matplotlib").use("Agg")
    yield pytest.importorskip("shap")
    from matplotlib import pyplot

    pyplot.close("all")


def rows_of_scalar_games(n_rows=5, errors=False):
    rng = np.random.default_rng(1)
    return [attribution(errors=errors, values=rng.normal(size=3), empty_value=row) for row in range(n_rows)]


def test_shap_explanation_of_a_scalar_game(shap):
    phi = attribution()
    explanation = phi.to_shap(data=["open", "long", "wide"])
    assert isinstance(explanation, shap.Explanation) and explanation.feature_names == list(NAMES)
    np.testing.assert_array_equal(explanation.values, phi.values)
    assert list(explanation.data) == ["open", "long", "wide"]
    assert explanation.base_values + explanation.values.sum() == pytest.approx(float(phi.grand_value))
    np.testing.assert_array_equal([explanation.lower_bounds, explanation.upper_bounds], phi.interval())
    explanation.values[0] = 99
    assert phi.values[0] != 99
    assert attribution(errors=False).to_shap().lower_bounds is None


def test_shap_explanation_of_a_vector_game(shap):
    phi = attribution((4,))
    explanation = phi.to_shap()
    assert explanation.values.shape == (3, 4)
    np.testing.assert_array_equal(explanation.base_values, phi.empty_value)
    np.testing.assert_array_equal(explanation[..., 2].values, phi.values[:, 2])


@pytest.mark.parametrize("n_rows", [1, 3, 5])  # as many rows as players, and not
def test_shap_explanation_of_several_samples(shap, n_rows):
    rows = rows_of_scalar_games(n_rows)
    data = np.arange(3.0 * n_rows).reshape(n_rows, 3)
    explanation = to_shap(rows, data)
    assert explanation.values.shape == (n_rows, 3)
    for row, phi in enumerate(rows):
        np.testing.assert_array_equal(explanation[row].values, phi.values)
        np.testing.assert_array_equal(explanation[row].data, data[row])
        assert explanation[row].base_values == float(phi.empty_value)
    assert list(explanation.feature_names) == list(NAMES) and to_shap(rows).data is None


@pytest.mark.parametrize("data", [None, "numbers", "strings"])
@pytest.mark.parametrize("errors", [True, False])
def test_shap_draws_them(shap, data, errors):
    from matplotlib import pyplot

    table = np.arange(15.0).reshape(5, 3)
    shown = {"numbers": table, "strings": table.astype(str)}.get(data)
    explanation = to_shap(rows_of_scalar_games(errors=errors), shown)
    for plot, what in [("bar", explanation), ("beeswarm", explanation), ("heatmap", explanation)] + [
        (plot, one)
        for plot in ("bar", "waterfall")
        for one in (explanation[2], attribution(errors=errors).to_shap(None if data is None else shown[0]))
    ]:
        axes = getattr(shap.plots, plot)(what, show=False)
        axes.figure.canvas.draw()
        labels = " ".join(label.get_text() for label in axes.get_yticklabels())
        assert all(name in labels for name in NAMES), (plot, labels)
        pyplot.close("all")


@pytest.mark.parametrize(
    "attributions, data, message",
    [
        (
            attribution(index="banzhaf"),
            None,
            "values that sum to the payoff, as Shapley's do; this is of index 'banzhaf'",
        ),
        (attribution(order=2, index="shapley"), None, "values of players alone, order 1; this is of order 2"),
        ([attribution(), attribution(order=2)], None, "attribution 1 is of index 'k-SII'"),
        ([attribution((2,))], None, r"scalar payoffs; attribution 0 has payoffs of shape \(2,\): .*\.output"),
        ([attribution(), attribution(names=("a", "b", "c"))], None, "attribution 1 has other names"),
        ([], None, "attributions is empty"),
        (attribution(), [1, 2], r"data has shape \(2,\), expected \(3,\)"),
        ([attribution()], [1, 2, 3], r"data has shape \(3,\), expected \(1, 3\)"),
    ],
)
def test_what_does_not_go_to_shap(attributions, data, message):
    with pytest.raises(ValueError, match=message):
        to_shap(attributions, data)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_single_output_is_handed_to_shap_as_a_scalar(shape):
    pytest.importorskip("shap")
    phi = Attribution(
        np.array([2.0, 3.0]).reshape(2, *shape),
        None,
        np.zeros(shape),
        np.full(shape, 5.0),
        4,
        ("a", "b"),
        "shapley",
        "exact",
    )
    alone, several = phi.to_shap(), to_shap([phi, phi])
    assert alone.values.shape == (2,) and float(alone.base_values) == 0
    assert several.values.tolist() == [[2.0, 3.0], [2.0, 3.0]] and several.base_values.tolist() == [0.0, 0.0]
