"""Stopping rules: what they ask for, how they combine, and what they forecast."""

import math

import numpy as np
import pytest

import shapkit
from shapkit import Attribution, weighted_voting
from shapkit.estimators import SAMPLERS, Budget, RelativeError, Seconds, StandardError
from shapkit.estimators.runs.stopping import EVALUATIONS_PER_PLAYER

pytestmark = pytest.mark.usefixtures("too_many_to_enumerate")


def estimate(game, budget=None, method="permutation", **options):
    """By permutations unless said otherwise: quick, and endless."""
    return shapkit.estimate(game, budget, method, **options)


GAME = weighted_voting([4, 4, 4, 2, 2, 1], quota=12)


def known(errors, n_evaluations=1_000, values=(4.0, -10.0)):
    names = tuple(str(player) for player in range(len(values)))
    ends = np.zeros(np.shape(values)[1:])
    return Attribution(values, errors, ends, ends, n_evaluations, names, "shapley", "permutation")


def says(rule, attribution, seconds=0.0):
    return rule.stop(attribution, attribution.n_evaluations, seconds)


def forecast(rule, attribution, seconds=0.0, per_second=100.0):
    return rule.forecast(attribution, attribution.n_evaluations, seconds, per_second)


def test_budget_and_seconds():
    phi = known([0.1, 0.2])
    assert says(Budget(1_000), phi) and not says(Budget(1_001), phi)
    assert says(Seconds(2), phi, 2.0) and not says(Seconds(2), phi, 1.9)
    assert forecast(Budget(3_000), phi) == 3_000
    assert forecast(Seconds(5), phi, 2.0) == 1_300
    assert forecast(Seconds(5), phi, 6.0, math.inf) == 1_000


def test_errors_are_compared_where_they_are_worst():
    assert says(StandardError(0.2), known([0.1, 0.2])) and not says(StandardError(0.19), known([0.1, 0.2]))
    assert says(RelativeError(0.02), known([0.1, 0.2])) and not says(RelativeError(0.019), known([0.1, 0.2]))
    assert not says(StandardError(9), known([0.1, np.nan])) and not says(RelativeError(9), known([0.1, np.nan]))
    vectors = known([[0.1, 0.1], [0.2, 0.1]], values=[(4.0, 1.0), (-10.0, 1.0)])
    assert says(RelativeError(0.1), vectors) and not says(RelativeError(0.09), vectors)
    nothing = known([[0.0, 0.1], [0.0, 0.1]], values=[(0.0, 1.0), (0.0, 1.0)])  # one output is zero throughout
    assert says(RelativeError(0.1), nothing)


def test_errors_are_not_believed_too_early():
    least = EVALUATIONS_PER_PLAYER * 2
    for rule in (StandardError(1), RelativeError(1)):
        assert not says(rule, known([0.0, 0.0], least - 1)) and says(rule, known([0.0, 0.0], least))
        assert forecast(rule, known([0.0, 0.0], 4)) == least
        assert says(rule, known(None, 4))  # exact
    assert says(StandardError(1, least_evaluations=4), known([0.0, 0.0], 4))


def test_errors_are_forecast_to_fall_with_the_root():
    assert forecast(StandardError(0.1), known([0.1, 0.3])) == pytest.approx(9_000)
    assert forecast(RelativeError(0.01), known([0.1, 0.3])) == pytest.approx(9_000)
    assert forecast(StandardError(0.1), known([0.1, np.nan])) == math.inf
    # The forecast from a tenth of the run is right to within what the errors' own scatter allows.
    phi = estimate(GAME, 2_000)
    rule = StandardError(float(phi.standard_errors.max()) / np.sqrt(10))
    assert 15_000 < estimate(GAME, stop=rule).n_evaluations < 1.25 * 27_000
    assert forecast(rule, phi) == pytest.approx(10 * phi.n_evaluations)


def test_rules_combine():
    few, many, loose = Budget(100), Budget(10_000), StandardError(0.5)
    phi = known([0.1, 0.2])
    assert says(few | many, phi) and not says(few & many, phi)
    assert says(many & few | loose, phi) and not says(many & (few | loose), phi)
    assert forecast(few | many, phi) == 100 and forecast(few & many, phi) == 10_000
    assert (few | many | loose).most_evaluations == 100 and (few & loose).most_evaluations == math.inf
    assert repr(few & (many | Seconds(1))) == "Budget(100) & (Budget(10000) | Seconds(1.0))"
    assert few | loose == Budget(100) | StandardError(0.5) and hash(few) == hash(Budget(100))
    with pytest.raises(TypeError):
        few | 3


def test_budgets_in_rules_are_kept():
    by_rule = estimate(GAME, stop=Budget(1_000) | StandardError(1e-6))
    np.testing.assert_array_equal(by_rule.values, estimate(GAME, 1_000).values)
    assert estimate(GAME, 500, stop=Budget(1_000)).n_evaluations <= 500
    assert estimate(GAME, 5_000, stop=Budget(1_000)).n_evaluations <= 1_000
    assert estimate(GAME, stop=Budget(1_000) & StandardError(10)).n_evaluations >= 1_000


@pytest.mark.parametrize("method", ["permutation", "antithetic", "stratified"])
def test_a_run_stops_soon_after_it_may(method):
    phi = estimate(GAME, method=method, stop=StandardError(0.01))
    assert phi.standard_errors.max() <= 0.01 and not phi.interrupted
    earlier = estimate(GAME, int(phi.n_evaluations / 1.6), method)
    assert earlier.standard_errors.max() > 0.01


def test_a_rare_pivot_is_not_taken_for_none():
    # In 39 of 40 permutations a player adds nothing: of two, most players seem to add nothing ever, without error.
    game = shapkit.Game(lambda coalitions: coalitions.all(axis=1), 40)
    hasty = estimate(game, stop=StandardError(0.6, least_evaluations=0))
    assert hasty.n_evaluations < 100 and np.median(hasty.standard_errors) == 0
    assert estimate(game, stop=StandardError(0.6)).n_evaluations >= EVALUATIONS_PER_PLAYER * 40


def test_numbers_do_not_depend_on_the_clock(monkeypatch):
    quick = estimate(GAME, stop=StandardError(0.01), seed=3)
    monkeypatch.setattr("shapkit.estimators.runs.anytime._LONG_STEP", -1.0)  # every step seems long
    slow = estimate(GAME, stop=StandardError(0.01), seed=3)
    np.testing.assert_array_equal(slow.values, quick.values)
    assert slow.n_evaluations == quick.n_evaluations


def test_seconds_end_a_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("shapkit.estimators.runs.anytime.time.monotonic", lambda: now[0])

    def value(coalitions):
        now[0] += 0.01 * len(coalitions)
        return coalitions[:, 0]

    phi = estimate(shapkit.Game(value, 8), stop=Seconds(10))
    assert 9.9 < now[0] <= 10 and phi.n_evaluations == pytest.approx(1_000, rel=0.2)
    began = now[0]
    longer = phi.extend(stop=Seconds(5))
    assert 4.9 < now[0] - began <= 5 and longer.n_evaluations > phi.n_evaluations


def on_a_clock(monkeypatch, each, of_estimate):
    """A game that takes `each` seconds a coalition, and a sampler whose estimates take as `of_estimate` says.

    Beside them the time on their clock, and how long every estimate took: both grow.
    """
    now, taken = [0.0], []
    monkeypatch.setattr("shapkit.estimators.runs.anytime.time.monotonic", lambda: now[0])

    def value(coalitions):
        now[0] += each * len(coalitions)
        return coalitions[:, :3].all(axis=1)

    class Slow(SAMPLERS["antithetic"]):
        n_evaluated = 0

        def advance(self, n_evaluations):
            spent = super().advance(n_evaluations)
            self.n_evaluated += spent
            return spent

        def attribution(self):
            taken.append(of_estimate(self.n_evaluated))
            now[0] += taken[-1]
            return super().attribution()

    return shapkit.Game(value, 30), Slow, now, taken


@pytest.mark.parametrize("seconds", [1.0, 5.0, 60.0])
@pytest.mark.parametrize("shape", [lambda n: (n / 1_000) ** 2, lambda n: min((n / 1_000) ** 2, 1.0) + n / 50_000])
def test_a_clock_leaves_time_for_an_estimate_that_takes_as_long_as_the_sampler_says(monkeypatch, seconds, shape):
    """Most of the time goes into the last estimate, which takes many times as long as the one before."""
    game, slow, now, taken = on_a_clock(monkeypatch, 1e-4, shape)
    slow.effort = lambda _, n_evaluations: shape(n_evaluations)
    estimate(game, method=slow, stop=Seconds(seconds))
    assert 0.9 * seconds < now[0] < 1.1 * seconds
    assert sum(taken[:-1]) <= 0.1 * seconds, "estimates that nobody asked for"


@pytest.mark.parametrize(("stop", "asks"), [(Seconds(100), False), (Seconds(100) | StandardError(1e-9), True)])
def test_a_clock_leaves_time_for_one_estimate_and_asks_for_few(monkeypatch, stop, asks):
    """An estimate takes a tenth of what the evaluations took: of twenty, twice as long in all."""
    game, slow, now, taken = on_a_clock(monkeypatch, 0.01, lambda n_evaluations: 1e-3 * n_evaluations)
    assert stop.asks_for_estimates == asks
    phi = estimate(game, method=slow, stop=stop)
    assert 85 < now[0] < 125
    if not asks:
        assert sum(taken[:-1]) <= 0.1 * now[0], "estimates that nobody asked for"
        assert now[0] < 105, "the last one is in the time"
        assert phi.n_evaluations > 7_000
    else:
        assert len(taken) > 15


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_time_is_used_where_an_estimate_takes_less_than_the_sampler_says(monkeypatch, seconds):
    """As where a game turns out to be simple: the last estimate is made early, and the run goes on after it."""
    game, slow, now, taken = on_a_clock(monkeypatch, 1e-4, lambda n: 0.1 * (n / 1_000) ** 2 if n > 500 else 1e-3 * n)
    slow.effort = lambda _, n_evaluations: (n_evaluations / 1_000) ** 2
    phi = estimate(game, method=slow, stop=Seconds(seconds))
    assert now[0] <= seconds
    rest = seconds - 1e-4 * phi.n_evaluations - sum(taken)
    assert len(taken) > 2
    assert rest < 0.25 * 1e-4 * phi.n_evaluations + 1.25**2 * taken[-1] + 1e-2, "no time for a quarter more and another"


def test_a_sampler_is_told_when_its_estimate_should_be_ready_and_prepares_first(monkeypatch):
    """Preparing is part of the time, and not taken for what evaluations take."""
    game, slow, now, _ = on_a_clock(monkeypatch, 1e-3, lambda n: 1e-4 * n)
    told = []

    def prepare(self):
        assert self.n_evaluated == 0
        now[0] += 4.0

    slow.hurry, slow.prepare = lambda _, until: told.append(until), prepare
    phi = estimate(game, method=slow, stop=Seconds(10))
    assert set(told) == {10.0} and 9 < now[0] <= 10.5 and phi.n_evaluations > 4_000
    told.clear()
    estimate(game, method=slow, budget=1_000)
    assert told == [math.inf]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Budget(0), "n_evaluations must be an integer of at least 1, got 0"),
        (lambda: StandardError(0), "tolerance must be a positive number, got 0"),
        (lambda: StandardError(math.nan), "tolerance must be a positive number, got nan"),
        (lambda: RelativeError(True), "tolerance must be a positive number, got True"),
        (lambda: RelativeError(0.1, -1), "least_evaluations must be an integer of at least 0, got -1"),
        (lambda: Seconds("5"), "seconds must be a positive number, got '5'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
