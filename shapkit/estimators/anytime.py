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
from shapkit.attribution import Attribution
from shapkit.estimators.stopping import StoppingRule
from shapkit.games import Game
from shapkit.progress import forecast_bar

_FIRST_STEP = 64  # evaluations between two looks at the clock; it doubles while steps are short
_LONG_STEP = 5.0  # seconds
_ENDLESS = 2**50  # evaluations; a sampler that declines even these has nothing left to do
_CHECK_GROWTH = 1.25  # a rule is asked whenever the evaluations have grown by a quarter

Report = Callable[[int, float], object]


class Sampler(Protocol):
    """An estimator at work: it evaluates more coalitions when told to, and says what it knows so far.

    The numbers depend on the seed and on how many evaluations were spent in all, never on how calls of `advance` cut
    them. An exception that leaves `advance`, KeyboardInterrupt included, loses unfinished units and harms nothing
    else: the next call evaluates them again.
    """

    game: Game

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

    Args:
        sampler: one that nobody else advances.
        method: what it is called.

    Attributes:
        sampler, method: as given.
        n_evaluations: how many coalitions the sampler has evaluated.
        known: what it said last; None before there was an estimate of every player.
        known_at: after how many evaluations that was.
    """

    def __init__(self, sampler: Sampler, method: str) -> None:
        self.sampler = sampler
        self.method = method
        self.n_evaluations = 0
        self.known: Attribution | None = None
        self.known_at = 0

    @property
    def least_budget(self) -> int:
        """The fewest evaluations that give an estimate of every player, where the sampler says so."""
        return int(getattr(self.sampler, "least_budget", 1))

    def limit(self, n_granted: int, budget: int | None, stop: StoppingRule | None) -> float:
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
                f"has no estimate of {self.sampler.game.n_players} players before"
            )
        return limit

    def go_on(self, limit: float, stop: StoppingRule | None, progress: bool) -> Attribution:
        """Return what is known at `limit` evaluations, or as near as whole units get, or once `stop` says so.

        KeyboardInterrupt ends the run early; the result is then marked as interrupted.

        Raises:
            ImportError: `progress`, and tqdm is not installed.
            KeyboardInterrupt: there was one before there was an estimate of every player.
            Exception: what `Game` raises.
        """
        interrupt: KeyboardInterrupt | None = None
        stopped = False
        try:
            with forecast_bar(self.method, self.n_evaluations, progress) as report:
                stopped = _Leg(self, limit, stop, report).stops()
        except KeyboardInterrupt as error:
            interrupt = error
            self.known_at = -1  # it may have come between a step and its being counted
        self.look()
        if self.known is None:
            raise interrupt or ValueError(f"{self.n_evaluations} evaluations give no estimate of every player")
        # What was granted and is less than a unit stays granted: two budgets in turn are as good as their sum.
        all_granted = math.isfinite(limit) and not stopped and interrupt is None
        n_granted = int(limit) if all_granted else self.n_evaluations
        result = replace(self.known, interrupted=interrupt is not None)
        return result.with_continuation(Continuation(self, self.n_evaluations, n_granted))

    def advance(self, n_evaluations: int, most: int) -> int:
        """Spend about `n_evaluations`, at least a unit and at most `most`, and return how many; 0 if that is none."""
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

    def look(self) -> None:
        """Bring `known` up to date."""
        if self.known_at == self.n_evaluations:
            return
        try:
            self.known = self.sampler.attribution()
        except ValueError:  # no estimate of every player yet
            return
        self.known_at = self.n_evaluations = self.known.n_evaluations


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

    def extend(self, budget: int | None, stop: StoppingRule | None, progress: bool) -> Attribution:
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
    """

    def __init__(self, run: Run, limit: float, stop: StoppingRule | None, report: Report) -> None:
        self._run, self._limit, self._stop, self._report = run, limit, stop, report
        self._step = max(_FIRST_STEP, run.sampler.game.batch_size or 0)
        self._began = time.monotonic()
        self._began_at = run.n_evaluations

    def stops(self) -> bool:
        """Go to the limit, or as near as the sampler gets; True where the rule ended it before."""
        stopped = self._drives()
        self._report(self._run.n_evaluations, self._run.n_evaluations)
        return stopped

    def _drives(self) -> bool:
        if self._stop is None:
            return self._goes_to(self._limit)
        for check in self._checks():
            if self._goes_to(check):
                return True
            self._run.look()
            if self._says_stop():
                return True
        return False

    def _checks(self) -> Iterator[float]:
        """The numbers of evaluations at which what is known is brought up to date."""
        run = self._run
        if run.n_evaluations:
            yield run.n_evaluations
        check = max(run.least_budget, run.sampler.game.n_players + 1)
        while check < min(self._limit, _ENDLESS):
            if check > run.n_evaluations:
                yield check
            check = math.ceil(check * _CHECK_GROWTH)
        if math.isfinite(self._limit):
            yield self._limit

    def _goes_to(self, target: float) -> bool:
        """Go on to `target` evaluations, or as near as whole units get; True where the rule ended it before."""
        run = self._run
        while run.n_evaluations < target:
            expected = self._expected()
            self._report(run.n_evaluations, expected)
            step = self._step
            if run.n_evaluations < expected < math.inf:  # a clock may leave time for less
                step = min(step, math.ceil(expected - run.n_evaluations))
            began = time.monotonic()
            if run.advance(step, int(target - run.n_evaluations)) == 0:
                return False
            if step == self._step and time.monotonic() - began < _LONG_STEP:
                self._step *= 2
            self._report(run.n_evaluations, expected)
            if self._says_stop():
                return True
        return False

    def _says_stop(self) -> bool:
        known = self._run.known
        if self._stop is None or known is None:
            return False
        return self._stop.stop(known, self._run.known_at, time.monotonic() - self._began)

    def _expected(self) -> float:
        """How many evaluations there will be at the end of this leg; infinite where nobody knows."""
        run = self._run
        if self._stop is None or run.known is None:
            return self._limit
        seconds = time.monotonic() - self._began
        per_second = (run.n_evaluations - self._began_at) / seconds if seconds > 0 else math.inf
        return min(self._limit, self._stop.forecast(run.known, run.n_evaluations, seconds, per_second))
