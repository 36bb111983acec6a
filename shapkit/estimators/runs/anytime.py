"""Runs of an estimator that can be stopped at any time, watched, interrupted and continued.

A method is a `Sampler`, which knows nothing of budgets, rules, clocks and bars; a `Run` drives it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from shapkit._checks import positive_integer
from shapkit.attribution.attribution import Attribution, Rule
from shapkit.estimators.runs.known_payoffs import KnownPayoffs
from shapkit.estimators.runs.stopping import StoppingRule
from shapkit.exact.indices import MAX_EXACT_PLAYERS, exact
from shapkit.exact.interactions import Index
from shapkit.games.game import Game
from shapkit.orders import Orders
from shapkit.progress import forecast_bar

_FIRST_STEP = 64  # evaluations between two looks at the clock; it doubles while steps are short
_LONG_STEP = 5.0  # seconds
_ENDLESS = 2**50  # evaluations; a sampler that declines even these has nothing left to do
_CHECK_GROWTH = 1.25  # a rule is asked whenever the evaluations have grown by a quarter
_LOOKING = 0.1  # of a run's time, at most, for estimates that its rule does not ask for
_LOOK_GROWTH = 2.0  # of the evaluations between two of these
_SHORT_LOOK = 0.01  # seconds; such a one is taken whenever the others are
_LEAST_LOOK = 0.1  # seconds that an estimate may take where the time given is over

Report = Callable[[int, float], object]


class Sampler(Protocol):
    """An estimator at work: it evaluates more coalitions when told to, and says what it knows so far.

    The numbers depend on the seed and on how many evaluations were spent in all, never on how calls of `advance` cut
    them. An exception that leaves `advance`, KeyboardInterrupt included, loses unfinished units and nothing
    else: the next call evaluates them again.
    """

    game: Game

    # Three more are used where they are there, so that a rule with a clock may keep to its time:
    #   prepare() -> None: do at once what else the first estimate would be slow for, such as compiling.
    #   effort(n_evaluations) -> float: how long an estimate takes after so many evaluations, in some unit.
    #   hurry(until) -> None: estimates should be ready at this time of `time.monotonic`, and may be worse for it.

    def advance(self, n_evaluations: int) -> int:
        """Evaluate up to about `n_evaluations` more coalitions (whole sampling units; never more).

        Returns how many were spent. 0: nothing more can be done with so few, or all coalitions are known.
        """

    def attribution(self) -> Attribution:
        """Return what is known so far, with standard errors NaN where one unit says nothing.

        Raises:
            ValueError: there is no estimate of every player yet.
        """


class Run:
    """A sampler and how far it is: what an estimate and its extensions have in common.

    A game has 2**n_players coalitions, and no run needs more. Methods that draw with replacement ask for some again and
    again; the run remembers their payoffs, where there is room, and the game is asked for each once. A run that has
    spent as much as all coalitions cost evaluates those that are missing, and its values are exact. Where there is no
    room, all are evaluated then, if that many more are allowed.

    Args:
        game: any number of players.
        sampler: makes a sampler of a game.
        method: what that is called.
        index: what is estimated; Shapley values by default.
        order: the largest size of coalition that has a value; that of `exact` if left out.
        orders: what players join in, where not all orders are equally likely.

    Attributes:
        game: the game, with what is remembered of it.
        sampler: at work on it.
        method: as given.
        n_evaluations: how many coalitions the sampler has asked for.
        complete: whether all coalitions are known, and the values exact.
        known: what the sampler said last; None before there was an estimate of every player.
        known_at: after how many evaluations that was.
    """

    def __init__(
        self,
        game: Game,
        sampler: Callable[[Game], Sampler],
        method: str,
        index: Index = "shapley",
        order: int | None = None,
        orders: Orders | None = None,
    ) -> None:
        self.game = game if isinstance(game, KnownPayoffs) else KnownPayoffs(game)
        self.index, self.order, self.orders = index, order, orders
        self.sampler = sampler(self.game)
        self.method = method
        self.n_evaluations = 0
        self.complete = False
        self.known: Attribution | None = None
        self.known_at = 0
        self._until = math.inf  # of `time.monotonic`: when the time given is over

    @property
    def _n_coalitions(self) -> float:
        """How many coalitions there are; infinite where they are too many to be enumerated."""
        return 1 << self.game.n_players if self.game.n_players <= MAX_EXACT_PLAYERS else math.inf

    @property
    def least_budget(self) -> int:
        """The fewest evaluations that give a value of every player, where the sampler says so."""
        return int(min(getattr(self.sampler, "least_budget", 1), self._n_coalitions))

    def limit(self, n_granted: int, budget: int | None, stop: Rule | None) -> float:
        """Return how many evaluations must not be exceeded, those before included; infinite where no number is set.

        Raises:
            ValueError: neither a budget nor a rule is given, or they do not pay for an estimate.
        """
        if budget is None and stop is None:
            raise ValueError(
                "neither budget nor stop is given: say how many evaluations to spend, or when to stop, such as "
                "stop=shapkit.estimators.StandardError(0.01)"
            )
        if stop is not None and not isinstance(stop, StoppingRule):
            raise ValueError(f"stop must be a rule such as shapkit.estimators.StandardError(0.01), got {stop!r}")
        limit = math.inf if stop is None else stop.most_evaluations
        if budget is not None:
            limit = min(limit, n_granted + positive_integer("budget", budget))
        if limit < self.least_budget:
            raise ValueError(
                f"budget is {int(limit)} evaluations, expected at least {self.least_budget}: method {self.method!r} "
                f"has no estimate of {self.game.n_players} players before"
            )
        return limit

    def go_on(self, limit: float, stop: Rule | None, progress: bool) -> Attribution:
        """Return what is known at `limit` evaluations, or as near as whole units get, or once `stop` says so.

        KeyboardInterrupt ends the run early; the result is then marked as interrupted.

        Raises:
            ImportError: `progress`, and tqdm is not installed.
            KeyboardInterrupt: there was one before there was an estimate of every player.
            Exception: what `Game` raises.
        """
        interrupt: KeyboardInterrupt | None = None
        ended_by: str | None = None
        self._until = time.monotonic() + stop.most_seconds if isinstance(stop, StoppingRule) else math.inf
        try:
            with forecast_bar(self.method, self.n_evaluations, progress) as report:
                ended_by = _Leg(self, limit, stop, report).ends()
        except KeyboardInterrupt as error:
            interrupt = error
            self.known_at = -1  # it may have come between a step and its being counted
        self.look()
        if self.known is None:
            raise interrupt or ValueError(f"{self.n_evaluations} evaluations give no estimate of every player")
        # What was granted and is less than a unit stays granted: two budgets in turn are as good as their sum.
        all_granted = math.isfinite(limit) and not ended_by and interrupt is None
        n_granted = int(limit) if all_granted else self.n_evaluations
        if interrupt is not None:
            ended_by = "interrupt"
        elif self.complete:
            ended_by = "all coalitions"
        result = replace(self.known, interrupted=interrupt is not None, stopped_by=ended_by or "budget")
        return result.with_continuation(Continuation(self, self.n_evaluations, n_granted))

    def advance(self, n_evaluations: int, most: int, limit: float) -> int:
        """Spend about `n_evaluations`, at least a unit and at most `most`, and return how many; 0 if that is none.

        Once as many have been spent as there are coalitions, those that are missing are the last unit, and may take
        more than `most`, but not more than up to `limit` in all.
        """
        if self.complete or self._sampler_is_complete:
            return 0
        left = self._n_coalitions - self.n_evaluations
        spent = self._sample(n_evaluations, int(min(most, left))) if left > 0 else 0
        if most < left or 0 < spent < left or self._sampler_is_complete:
            return spent
        cost = self._n_coalitions - (self.n_evaluations if self.game.remembers else 0)
        if self.n_evaluations + cost > limit:
            return spent + self._sample(n_evaluations, most - spent)
        found = exact(self.game, self.index, self.order, orders=self.orders)  # what it remembers is not evaluated again
        self.n_evaluations += int(cost)
        self.known = replace(found, n_evaluations=self.n_evaluations, method=self.method)
        self.known_at, self.complete = self.n_evaluations, True
        return spent + int(cost)

    def _sample(self, n_evaluations: int, most: int) -> int:
        """Have the sampler spend about `n_evaluations`, at least a unit and at most `most`, and return how many."""
        step = min(n_evaluations, most)
        while True:
            try:
                spent = self.sampler.advance(step)
            except BaseException:  # some of its units may be done
                self.known_at = -1
                self.look()
                raise
            self.n_evaluations += spent
            if spent or step >= most:
                return spent
            step = min(2 * step, most)

    @property
    def _sampler_is_complete(self) -> bool:
        return bool(getattr(self.sampler, "complete", False))

    def look(self) -> None:
        """Bring `known` up to date."""
        if self.complete or self.known_at == self.n_evaluations:
            return
        hurry: Callable[[float], None] | None = getattr(self.sampler, "hurry", None)
        if hurry is not None:
            hurry(max(self._until, time.monotonic() + _LEAST_LOOK))
        try:
            self.known = self.sampler.attribution()
        except ValueError:  # no estimate of every player yet
            return
        self.known_at = self.n_evaluations = self.known.n_evaluations
        if self._sampler_is_complete:
            self.known = replace(self.known, standard_errors=None, degrees_of_freedom=None, seeds=())
            self.complete = True


@dataclass(frozen=True)
class Continuation:
    """Where a result stopped, and the run that can go on from there.

    Attributes:
        run: the run, which may be further by now.
        n_evaluations: those of the result.
        n_granted: those it was allowed.
    """

    run: Run
    n_evaluations: int
    n_granted: int

    def extend(self, budget: int | None, stop: Rule | None, progress: bool) -> Attribution:
        """Return what is known after `budget` evaluations more, or once `stop` says so: see `Attribution.extend`."""
        run = self.run
        limit = run.limit(self.n_granted, budget, stop)
        if self.n_evaluations != run.n_evaluations > limit:
            raise ValueError(
                f"this attribution, of {self.n_evaluations} evaluations, has been extended before, to "
                f"{run.n_evaluations}, and there is no way back: extend the later one, or this one to more than that"
            )
        return run.go_on(limit, stop, progress)


class _Leg:
    """One call of `Run.go_on`.

    The sampler works in steps of some seconds, so that an interruption loses little. A rule is asked at numbers of
    evaluations that depend on the game and the method only. Between them it is asked again what it says of what was
    known then, for the sake of rules with a clock: all others give the same numbers on every machine.

    An estimate may take as long as all evaluations before. A rule that needs none has one made now and then, to know
    how long the last one will take: that much earlier the run ends.
    """

    def __init__(self, run: Run, limit: float, stop: Rule | None, report: Report) -> None:
        self._run, self._limit, self._stop, self._report = run, limit, stop, report
        self._step = max(_FIRST_STEP, run.game.batch_size or 0)
        self._began = time.monotonic()
        self._began_at = run.n_evaluations
        self._blind = isinstance(stop, StoppingRule) and not stop.asks_for_estimates
        self._given = stop.most_seconds if isinstance(stop, StoppingRule) else math.inf  # seconds
        self._prepared = self._looked = self._last_look = 0.0  # seconds; those of estimates, and of the last of them
        self._looked_at = 1  # after how many evaluations that was

    def ends(self) -> str | None:
        """Go to the limit, or as near as the sampler gets, and return which rule ended it before; None if none did."""
        ended_by = self._drives()
        self._report(self._run.n_evaluations, self._run.n_evaluations)
        return ended_by

    def _drives(self) -> str | None:
        if self._stop is None:
            return self._goes_to(self._limit)
        prepare: Callable[[], None] | None = getattr(self._run.sampler, "prepare", None)
        if prepare is not None and math.isfinite(self._given):
            prepare()
            self._prepared = time.monotonic() - self._began
        for check in self._checks():
            ended_by = self._goes_to(check)
            if ended_by is None:
                self._looks()
                ended_by = self._rule()
            if ended_by is not None or self._run.complete:
                return ended_by
        return None

    def _looks(self) -> None:
        """Bring what is known up to date, where the rule needs it or it takes little time."""
        if self._run.known_at == self._run.n_evaluations:  # a check that was passed within a unit
            return
        next_look = self._next_look(self._run.n_evaluations)
        elapsed = time.monotonic() - self._began
        whole = max(elapsed, self._given) if math.isfinite(self._given) else elapsed
        short = next_look < _SHORT_LOOK or self._looked + next_look < _LOOKING * whole
        soon = self._run.n_evaluations < _LOOK_GROWTH * self._looked_at
        if self._blind and (soon or not short) and self._run.known is not None:
            return
        self._look()

    def _look(self) -> None:
        """Bring what is known up to date, and remember how long that takes."""
        began = time.monotonic()
        self._run.look()
        self._last_look, self._looked_at = time.monotonic() - began, max(self._run.n_evaluations, 1)
        self._looked += self._last_look

    def _checks(self) -> Iterator[float]:
        """The numbers of evaluations at which what is known is brought up to date."""
        run = self._run
        if run.n_evaluations:
            yield run.n_evaluations
        check = max(run.least_budget, run.game.n_players + 1)
        while check < min(self._limit, _ENDLESS):
            if check > run.n_evaluations:
                yield check
            check = math.ceil(check * _CHECK_GROWTH)
        if math.isfinite(self._limit):
            yield self._limit

    def _goes_to(self, target: float) -> str | None:
        """Go on to `target` evaluations, or as near as whole units get; which rule ended it before, if one did."""
        run = self._run
        while run.n_evaluations < target:
            expected = self._expected()
            self._report(run.n_evaluations, expected)
            step = self._step
            if run.n_evaluations < expected < math.inf:  # a clock may leave time for less
                step = min(step, math.ceil(expected - run.n_evaluations))
            most = int(target - run.n_evaluations)
            in_time = self._in_time(most)
            began = time.monotonic()
            if in_time == 0 or run.advance(min(step, in_time), in_time, self._limit) == 0:
                if in_time == most:
                    return None
                if self._was_early():
                    continue
                assert self._stop is not None and run.known is not None
                return self._stop.reason(run.known, run.n_evaluations, self._given)
            if step == self._step <= in_time and time.monotonic() - began < _LONG_STEP:
                self._step *= 2
            self._report(run.n_evaluations, expected)
            ended_by = self._rule()
            if ended_by is not None:
                return ended_by
        return None

    def _rule(self) -> str | None:
        """The rule that says stop, if one does."""
        known = self._run.known
        if self._stop is None or known is None:
            return None
        n_evaluations = self._run.n_evaluations if self._blind else self._run.known_at
        if not self._stop.stop(known, n_evaluations, self._seconds()) or (self._blind and self._was_early()):
            return None
        return self._stop.reason(self._run.known or known, n_evaluations, self._seconds())

    def _was_early(self) -> bool:
        """Make the last estimate, and return whether it took so little that there is time for more, and for another."""
        n_evaluations = self._run.n_evaluations
        if self._stop is None or self._run.known_at == n_evaluations:
            return False
        self._look()
        more = math.ceil(_CHECK_GROWTH * n_evaluations)
        seconds = time.monotonic() - self._began + (more - n_evaluations) * self._each() + self._next_look(more)
        return self._run.known is not None and not self._stop.stop(self._run.known, n_evaluations, seconds)

    def _expected(self) -> float:
        """How many evaluations there will be at the end of this leg; infinite where unknown."""
        run = self._run
        if self._stop is None or run.known is None:
            return self._limit
        seconds = self._seconds()
        per_second = (run.n_evaluations - self._began_at) / seconds if seconds > 0 else math.inf
        return min(self._limit, self._stop.forecast(run.known, run.n_evaluations, seconds, per_second))

    def _in_time(self, most: int) -> int:
        """How many evaluations, up to `most`, leave time for an estimate after them, as far as is known."""
        if not self._blind or self._run.known is None:
            return most
        n_evaluations, each = self._run.n_evaluations, self._each()
        left = self._given - (time.monotonic() - self._began)
        fewest, fit = most, most  # the fewest that do not, or all
        while fit > 0 and fit * each + self._next_look(n_evaluations + fit) > left:
            fewest, fit = fit, fit // 2
        while fewest - fit > 1:
            middle = (fewest + fit) // 2
            if middle * each + self._next_look(n_evaluations + middle) > left:
                fewest = middle
            else:
                fit = middle
        return fit

    def _each(self) -> float:
        """How many seconds an evaluation has taken, with all but the estimates."""
        elapsed = time.monotonic() - self._began - self._prepared - self._looked
        return elapsed / max(self._run.n_evaluations - self._began_at, 1)

    def _seconds(self) -> float:
        """How long the run will have taken, should it end now."""
        return time.monotonic() - self._began + (self._next_look(self._run.n_evaluations) if self._blind else 0.0)

    def _next_look(self, n_evaluations: int) -> float:
        """About how many seconds an estimate after so many evaluations will take."""
        return self._last_look * self._effort(n_evaluations) / self._effort(self._looked_at)

    def _effort(self, n_evaluations: int) -> float:
        """How long an estimate takes, in some unit."""
        effort: Callable[[int], float] = getattr(self._run.sampler, "effort", float)
        return effort(n_evaluations)
