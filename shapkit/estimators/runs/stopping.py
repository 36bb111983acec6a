"""When an estimate is good enough: rules that can be combined with | (any of them) and & (all of them).

Rules hold no state, so that one rule serves any number of runs.

>>> Budget(10_000) | StandardError(0.01) & Seconds(5)
Budget(10000) | StandardError(0.01) & Seconds(5.0)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import checked_integer, positive_integer
from shapkit.attribution.attribution import Attribution

EVALUATIONS_PER_PLAYER = 22
"""What rules on standard errors wait for, because the standard error of few samples may be far too small.

The interval that a normal distribution would make a 95 % one covers with Student's distribution of 10 degrees of
freedom 92 % and with 9 less than 92 %. Eleven independent units, then, are what an error needs to be believed. The most
expensive unit there is, an antithetic pair of permutations, costs about two evaluations per player. A method of
regression has by then 11 pairs for each player that it fits.

No number of units sees what is rarer than they are: all of m permutations miss a marginal contribution that one in
3 m has with a probability of 72 %. Where such games are to be expected, raise `least_evaluations`.
"""


class StoppingRule(ABC):
    """Whether to stop, asked again and again during a run."""

    @abstractmethod
    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        """Return whether what is known is enough.

        Args:
            attribution: what is known.
            n_evaluations: how many coalitions have been evaluated.
            seconds: how long the run has taken.
        """

    @abstractmethod
    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        """Return how many evaluations there will be in the end; infinite where nothing can be said.

        Args:
            attribution, n_evaluations, seconds: as for `stop`.
            per_second: how many evaluations a second takes.
        """

    @property
    def most_evaluations(self) -> float:
        """How many evaluations are never exceeded; infinite where the rule sets no such limit."""
        return math.inf

    @property
    def most_seconds(self) -> float:
        """How long a run may take at most, infinite where the rule sets no time."""
        return math.inf

    @property
    def asks_for_estimates(self) -> bool:
        """Whether the rule needs what is known anew each time; False if numbers and the clock are enough for it."""
        return True

    def reason(self, attribution: Attribution, n_evaluations: int, seconds: float) -> str:
        """Return, where `stop` is true of the same arguments, the rule that makes it so, as it is written."""
        return repr(self)

    def __or__(self, other: StoppingRule) -> StoppingRule:
        """Return the rule that stops as soon as one of the two does."""
        return AnyOf(self, other) if isinstance(other, StoppingRule) else NotImplemented

    def __and__(self, other: StoppingRule) -> StoppingRule:
        """Return the rule that stops when both do."""
        return AllOf(self, other) if isinstance(other, StoppingRule) else NotImplemented


@dataclass(frozen=True)
class Budget(StoppingRule):
    """Stops at `n_evaluations` evaluations, counted from the very beginning, and never exceeds them.

    Raises:
        ValueError: `n_evaluations` is not a positive integer.
    """

    n_evaluations: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_evaluations", positive_integer("n_evaluations", self.n_evaluations))

    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        return n_evaluations >= self.n_evaluations

    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        return float(self.n_evaluations)

    @property
    def most_evaluations(self) -> float:
        return float(self.n_evaluations)

    @property
    def asks_for_estimates(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Budget({self.n_evaluations})"


@dataclass(frozen=True)
class StandardError(StoppingRule):
    """Stops when no standard error, of any player and output, is larger than `tolerance`, in the unit of the payoff.

    The standard errors are themselves estimates, and the run ends when they happen to be small: those of the result
    are a little too small on average, the less the more evaluations they rest on.

    Args:
        tolerance: positive.
        least_evaluations: the rule does not stop before; by default `EVALUATIONS_PER_PLAYER` per player.

    Raises:
        ValueError: an argument is not as described.
    """

    tolerance: float
    least_evaluations: int | None = None

    def __post_init__(self) -> None:
        _check_tolerance(self)

    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        excess = _largest(attribution.standard_errors) / self.tolerance
        return _few_enough(excess, attribution, n_evaluations, self.least_evaluations)

    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        excess = _largest(attribution.standard_errors) / self.tolerance
        return _expected(excess, attribution, self.least_evaluations)

    def __repr__(self) -> str:
        return _shown(self)


@dataclass(frozen=True)
class RelativeError(StoppingRule):
    """Stops when, in each output, no standard error is larger than `tolerance` times the largest absolute value.

    Relative to the largest value and not each to its own, so that players of little worth do not keep a run going.

    Standard errors below the rounding of the payoffs, 2.2e-16 of the largest, count as zero. Where all values are zero
    but no smaller than what was sampled, no error is small beside them: such a run goes on to its budget or its time,
    or, with few players, until all coalitions are known. `RelativeError(0.05) | Seconds(60)` ends in any case.

    Args:
        tolerance: positive; 0.05 makes intervals of 95 % a tenth of the largest value to either side.
        least_evaluations: as for `StandardError`, of which all caveats apply.

    Raises:
        ValueError: an argument is not as described.
    """

    tolerance: float
    least_evaluations: int | None = None

    def __post_init__(self) -> None:
        _check_tolerance(self)

    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        return _few_enough(self._excess(attribution), attribution, n_evaluations, self.least_evaluations)

    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        return _expected(self._excess(attribution), attribution, self.least_evaluations)

    def __repr__(self) -> str:
        return _shown(self)

    def _excess(self, attribution: Attribution) -> float:
        """How many times larger than tolerated the standard error is where that is most."""
        if attribution.standard_errors is None or attribution.n_players == 0:
            return 0.0
        errors = attribution.standard_errors.max(axis=0)
        tolerated = self.tolerance * np.abs(attribution.values).max(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(errors == 0, 0.0, errors / tolerated).max())


@dataclass(frozen=True)
class Seconds(StoppingRule):
    """Stops after about `seconds` seconds of a run; a step that is under way is finished first.

    The only rule that makes the result depend on the machine. Evaluations between two looks at the clock grow with the
    run, to what takes a few seconds.

    Raises:
        ValueError: `seconds` is not a positive number.
    """

    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", _positive("seconds", self.seconds))

    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        return seconds >= self.seconds

    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        seconds_left = max(0.0, self.seconds - seconds)
        return n_evaluations + (seconds_left * per_second if seconds_left else 0.0)

    @property
    def most_seconds(self) -> float:
        return self.seconds

    @property
    def asks_for_estimates(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Seconds({self.seconds})"


@dataclass(frozen=True)
class AnyOf(StoppingRule):
    """Stops as soon as one of two rules does: `one | other`."""

    one: StoppingRule
    other: StoppingRule

    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        known = (attribution, n_evaluations, seconds)
        return self.one.stop(*known) or self.other.stop(*known)

    def reason(self, attribution: Attribution, n_evaluations: int, seconds: float) -> str:
        known = (attribution, n_evaluations, seconds)
        return (self.one if self.one.stop(*known) else self.other).reason(*known)

    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        known = (attribution, n_evaluations, seconds, per_second)
        return min(self.one.forecast(*known), self.other.forecast(*known))

    @property
    def most_evaluations(self) -> float:
        return min(self.one.most_evaluations, self.other.most_evaluations)

    @property
    def most_seconds(self) -> float:
        return min(self.one.most_seconds, self.other.most_seconds)

    @property
    def asks_for_estimates(self) -> bool:
        return self.one.asks_for_estimates or self.other.asks_for_estimates

    def __repr__(self) -> str:
        return f"{self.one!r} | {self.other!r}"


@dataclass(frozen=True)
class AllOf(StoppingRule):
    """Stops when both of two rules do: `one & other`."""

    one: StoppingRule
    other: StoppingRule

    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool:
        known = (attribution, n_evaluations, seconds)
        return self.one.stop(*known) and self.other.stop(*known)

    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float:
        known = (attribution, n_evaluations, seconds, per_second)
        return max(self.one.forecast(*known), self.other.forecast(*known))

    @property
    def most_evaluations(self) -> float:
        return max(self.one.most_evaluations, self.other.most_evaluations)

    @property
    def most_seconds(self) -> float:
        return max(self.one.most_seconds, self.other.most_seconds)

    @property
    def asks_for_estimates(self) -> bool:
        return self.one.asks_for_estimates or self.other.asks_for_estimates

    def __repr__(self) -> str:
        return " & ".join(f"({rule!r})" if isinstance(rule, AnyOf) else repr(rule) for rule in (self.one, self.other))


def _few_enough(excess: float, attribution: Attribution, n_evaluations: int, least: int | None) -> bool:
    """Whether an error is as small as tolerated, and can be believed."""
    if not excess <= 1:  # NaN is not
        return False
    return _is_exact(attribution) or n_evaluations >= _least(attribution, least)


def _expected(excess: float, attribution: Attribution, least: int | None) -> float:
    """How many evaluations make an error as small as tolerated: it falls with the root of their number."""
    n_evaluations = attribution.n_evaluations
    if _is_exact(attribution):
        return float(n_evaluations)
    if math.isnan(excess):
        return math.inf
    return float(max(n_evaluations * excess**2, n_evaluations, _least(attribution, least)))


def _is_exact(attribution: Attribution) -> bool:
    return attribution.standard_errors is None


def _least(attribution: Attribution, least: int | None) -> int:
    return EVALUATIONS_PER_PLAYER * attribution.n_players if least is None else least


def _largest(errors: NDArray[np.float64] | None) -> float:
    """The largest standard error; NaN if one is, 0 where there are none."""
    return 0.0 if errors is None else float(errors.max(initial=0.0))


def _check_tolerance(rule: StandardError | RelativeError) -> None:
    object.__setattr__(rule, "tolerance", _positive("tolerance", rule.tolerance))
    if rule.least_evaluations is not None:
        least = checked_integer("least_evaluations", rule.least_evaluations, least=0)
        object.__setattr__(rule, "least_evaluations", least)


def _positive(argument: str, number: float) -> float:
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 < number < math.inf:
        raise ValueError(f"{argument} must be a positive number, got {number!r}")
    return float(number)


def _shown(rule: StandardError | RelativeError) -> str:
    least = "" if rule.least_evaluations is None else f", least_evaluations={rule.least_evaluations}"
    return f"{type(rule).__name__}({rule.tolerance}{least})"
