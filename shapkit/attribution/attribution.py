"""Attribution, the one type of result: what each player, or each coalition of a few, is worth, and how it was computed.

It can be looked up by name, added, scaled, saved, plotted and handed to shap.
"""

from __future__ import annotations

import itertools
import json
import math
import numbers
import operator
import os
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from shapkit._checks import checked_integer, checked_names, positive_integer
from shapkit._files import read_arrays, reading_what, write_arrays
from shapkit._optional import require
from shapkit.attribution import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats: TypeAlias = NDArray[np.float64]
PlotKind: TypeAlias = Literal["bars", "heatmap", "network"]

_FILE_FORMAT = "shapkit.Attribution 4"
# 1 had neither order nor seeds, 2 no degrees of freedom, 3 no stopped_by
_READABLE_FORMATS = (*(f"shapkit.Attribution {number}" for number in (1, 2, 3)), _FILE_FORMAT)
_PAYOFFS = ("values", "standard_errors", "empty_value", "grand_value")
_BY_TERM = ("values", "standard_errors", "degrees_of_freedom")
ARRAYS = (*_PAYOFFS, "degrees_of_freedom")
"""The fields of an Attribution that are arrays; `FACTS` are the others, which JSON holds."""
FACTS = ("n_evaluations", "names", "index", "method", "order", "seeds", "interrupted", "stopped_by")
_EFFICIENT = ("shapley", "owen", "winter", "weighted_shapley", "asymmetric_shapley")  # values that sum to the payoff
_NAMES_IN_ERRORS = 20


class Rule(Protocol):
    """Says when an estimate is good enough: `shapkit.estimators.StoppingRule` says what each method returns."""

    @property
    def most_evaluations(self) -> float: ...
    def stop(self, attribution: Attribution, n_evaluations: int, seconds: float) -> bool: ...
    def forecast(self, attribution: Attribution, n_evaluations: int, seconds: float, per_second: float) -> float: ...
    def reason(self, attribution: Attribution, n_evaluations: int, seconds: float) -> str: ...


class Continuation(Protocol):
    """A run of an estimator that can go on from where an attribution of it stopped."""

    def extend(self, budget: int | None, stop: Rule | None, progress: bool) -> Attribution: ...


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """The values of all players of a game, and of their coalitions of up to `order` players.

    Attributions of the same players can be added, subtracted, and multiplied or divided by a number: every index
    is linear in the game, so that the sum is the attribution of the sum of the games. `__add__` says what becomes
    of the standard errors.

    Attributes:
        values: float64 (n_terms, *output_shape), in the unit of the payoff; one row per coalition in `terms`. With
            order 1, row i is player i.
        standard_errors: float64, like values; None where the values are exact, NaN where one sample says
            nothing.
        degrees_of_freedom: float64, like values: how many independent samples stand behind each standard error, less
            those that its mean took. None where the errors are as good as known, as those of a posterior are taken
            to be.
        empty_value: float64 (*output_shape), the payoff of the empty coalition.
        grand_value: float64 (*output_shape), the payoff of all players together.
        n_evaluations: how many coalitions were evaluated; for an estimate, how many were asked for, those included that
            a cache answered or the run remembered.
        names: one per player.
        index: what the values are: "shapley", "banzhaf", "k-SII", "owen", ...
        method: how the values were computed: "exact" or the estimator's name.
        order: the largest size of a coalition that has a value.
        seeds: of the random draws behind the values; () where there were none or they are unknown.
        interrupted: whether Ctrl-C ended the estimate before its budget or rule did.
        stopped_by: what ended the evaluations: "all coalitions", after which values are exact; "budget"; a rule, as it
            is written, such as "RelativeError(0.02)"; or "interrupt". Empty where unknown.

    Raises:
        ValueError: the arrays' shapes do not fit together or to the names, a standard error is negative, or a field
            has the wrong type.

    >>> import shapkit
    >>> phi = shapkit.exact(shapkit.table_game([0, 1, 2, 5], names=["eyes", "nose"]))
    >>> phi
    Attribution: shapley values of 2 players, exact, 4 evaluations
      v(∅) = 0, v(N) = 5
      eyes  2
      nose  3
    >>> float(phi["nose"]), float(phi[0]), float((2 * phi + phi)["nose"])
    (3.0, 2.0, 9.0)
    >>> Attribution([2, 3, 1], None, 0, 6, 4, ("eyes", "nose"), "STII", "exact", order=2)
    Attribution: STII values of 2 players, order 2, exact, 4 evaluations
      v(∅) = 0, v(N) = 6
      eyes  2
      nose  3
      1 interaction
      eyes × nose  1
    """

    values: Floats
    standard_errors: Floats | None
    empty_value: Floats
    grand_value: Floats
    n_evaluations: int
    names: tuple[str, ...]
    index: str
    method: str
    order: int = 1
    seeds: tuple[int, ...] = ()
    interrupted: bool = False
    degrees_of_freedom: Floats | None = None
    stopped_by: str = ""

    # np.float64(2) * attribution must be ours to compute, not an array of products
    __array_ufunc__: ClassVar[None] = None

    _continuation: ClassVar[Continuation | None] = None  # an instance may have its own, which no copy shares

    def __post_init__(self) -> None:
        for name in ARRAYS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        for name in ("index", "method", "stopped_by"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r}")
        object.__setattr__(self, "n_evaluations", checked_integer("n_evaluations", self.n_evaluations, least=0))
        object.__setattr__(self, "order", positive_integer("order", self.order))
        if not isinstance(self.seeds, tuple | list):
            raise ValueError(f"seeds must be a tuple of integers, got {self.seeds!r}")
        object.__setattr__(self, "seeds", tuple(_integer("each of seeds", seed) for seed in self.seeds))
        if not isinstance(self.interrupted, bool):
            raise ValueError(f"interrupted must be True or False, got {self.interrupted!r}")
        self._check_names_and_shapes()

    def _check_names_and_shapes(self) -> None:
        if self.values.ndim == 0:
            raise ValueError("values must have shape (n_terms, *output_shape), got ()")
        n_players = len(self.values) if self.order == 1 else len(self.names)
        object.__setattr__(self, "names", checked_names(self.names, n_players))
        n_terms = _n_terms(n_players, self.order)
        if len(self.values) != n_terms:
            raise ValueError(
                f"values has shape {self.values.shape}, expected {n_terms} rows: one for each coalition of at least "
                f"one and at most {self.order} of {n_players} players"
            )
        expected = dict.fromkeys(_BY_TERM, self.values.shape) | dict.fromkeys(_PAYOFFS[2:], self.output_shape)
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape} to fit values {self.values.shape}")
        if self.standard_errors is not None and (self.standard_errors < 0).any():
            raise ValueError(f"standard_errors must not be negative, got {np.nanmin(self.standard_errors)}")
        if self.degrees_of_freedom is not None and (self.degrees_of_freedom < 0).any():
            raise ValueError(f"degrees_of_freedom must not be negative, got {np.nanmin(self.degrees_of_freedom)}")

    @property
    def n_players(self) -> int:
        """How many players the game has."""
        return len(self.names)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of a payoff; () for a scalar game."""
        return self.values.shape[1:]

    @cached_property
    def terms(self) -> tuple[tuple[int, ...], ...]:
        """The coalition that each row of values belongs to, as player indices: see `interaction_terms`."""
        return interaction_terms(self.n_players, self.order)

    @property
    def efficiency_gap(self) -> Floats:
        """Sum of values less (grand_value - empty_value), (*output_shape): zero, to rounding, for Shapley."""
        return np.asarray(self.values.sum(axis=0) - (self.grand_value - self.empty_value))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Floats]:
        return iter(self.values)

    def __getitem__(self, coalition: int | str | tuple[int | str, ...]) -> Floats:
        """Return the value (*output_shape) of a player, or of several in any order, given by name or by index.

        Raises:
            KeyError: no player has that name, a player comes twice, or a coalition of that size has no value.
            IndexError: no player has that index.
            TypeError: a player is neither a name nor an integer.

        >>> pairs = Attribution([2, 3, 1], None, 0, 6, 4, ("eyes", "nose"), "STII", "exact", order=2)
        >>> float(pairs["nose", "eyes"]), float(pairs[0, 1]), float(pairs["nose"])
        (1.0, 1.0, 3.0)
        """
        return np.asarray(self.values[self._row(coalition if isinstance(coalition, tuple) else (coalition,))])

    def standard_error(self, *players: int | str) -> Floats:
        """Return the standard error (*output_shape) of the value of these players; zeros where it is exact.

        Raises:
            KeyError, IndexError, TypeError: as for look-up of the value.
        """
        row = self._row(players)
        return np.zeros(self.output_shape) if self.standard_errors is None else np.asarray(self.standard_errors[row])

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the lower and upper ends of each value's confidence interval, both shaped like values.

        Student's (1908): the estimates are taken as normal, which means over many samples are, and the standard
        errors as no better known than their degrees of freedom say. Exact values have no width; NaN where the
        standard error is.

        Args:
            level: how often such an interval holds the exact value, between 0 and 1.

        Raises:
            ValueError: `level` is not between 0 and 1.

        >>> low, high = Attribution([2.0], [0.5], 0, 2, 40, ("eyes",), "shapley", "permutation").interval()
        >>> low.round(2), high.round(2)
        (array([1.02]), array([2.98]))
        >>> few = Attribution([2.0], [0.5], 0, 2, 40, ("eyes",), "shapley", "permutation", degrees_of_freedom=[4])
        >>> few.interval()[1].round(2)
        array([3.39])
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level!r}")
        if self.standard_errors is None:
            return self.values.copy(), self.values.copy()
        freedom = np.inf if self.degrees_of_freedom is None else self.degrees_of_freedom
        # With no degree of freedom nothing is known, unless there is no error
        with np.errstate(invalid="ignore"):
            half = np.where(self.standard_errors == 0, 0.0, stdtrit(freedom, (1 + level) / 2) * self.standard_errors)
        return self.values - half, self.values + half

    def output(self, where: int | tuple[int, ...]) -> Attribution:
        """Return the attribution of one element of the payoff, as of a scalar game.

        Args:
            where: the element's index along the payoff's axes, counted from 0.

        Raises:
            ValueError: `where` does not name one element.
        """
        position = tuple(_integer("output", i) for i in (where if isinstance(where, tuple) else (where,)))
        shape = self.output_shape
        if len(position) != len(shape) or not all(0 <= i < length for i, length in zip(position, shape, strict=True)):
            example = "the payoff is a scalar" if shape == () else f"such as output={(0,) * len(shape)}"
            raise ValueError(
                f"output is {where!r}, expected the index of one element of a payoff of shape {shape}: {example}"
            )
        columns: dict[str, Any] = {
            name: getattr(self, name)[:, *position] for name in _BY_TERM if getattr(self, name) is not None
        }
        ends = {name: getattr(self, name)[position] for name in _PAYOFFS[2:]}
        return replace(self, **columns, **ends)

    def sample_mean(self) -> Attribution:
        """Return the mean over the first axis of the payoff, taken as a random sample, with its standard error.

        Of a game by `shapkit.model_game(..., average=False)` that axis is the background: the standard error then says
        how far another sample of as many rows would be off. Where values are estimates, their own error is added as
        the mean of their standard errors, which is the most that it can be.

        Raises:
            ValueError: a payoff has no axis, or one entry along it.

        >>> import shapkit
        >>> rows = np.random.default_rng(0).normal(size=(100, 2))
        >>> game = shapkit.model_game(lambda rows: rows[:, 0], [1.0, 0.0], rows, average=False)
        >>> mean = shapkit.exact(game).sample_mean()
        >>> bool(np.isclose(mean.standard_errors[0], rows[:, 0].std(ddof=1) / 10)), float(mean.standard_errors[1])
        (True, 0.0)
        """
        if not self.output_shape or self.output_shape[0] < 2:
            raise ValueError(
                f"the payoff has shape {self.output_shape}, expected (n_samples, ...) with two at least, such as of "
                "model_game(..., average=False)"
            )
        n_samples = self.output_shape[0]
        errors = self.values.std(axis=1, ddof=1) / math.sqrt(n_samples)
        if self.standard_errors is not None:
            errors = np.hypot(errors, self.standard_errors.mean(axis=1))
        return replace(
            self,
            values=self.values.mean(axis=1),
            standard_errors=errors,
            degrees_of_freedom=np.full(errors.shape, n_samples - 1.0),
            empty_value=self.empty_value.mean(axis=0),
            grand_value=self.grand_value.mean(axis=0),
        )

    def extend(self, budget: int | None = None, stop: Rule | None = None, progress: bool = False) -> Attribution:
        """Return the estimate from more evaluations: `estimate` goes on where it stopped, and this one stays as it is.

        To extend by a budget gives the numbers of an estimate with both budgets at once. To extend one result twice
        does no work twice: the second goes on from what the first has evaluated, and is refused where that is more
        than it was to be.

        Args:
            budget: the most coalitions to evaluate beyond those that this estimate was allowed.
            stop: as for `shapkit.estimate`; evaluations count from the very beginning, seconds from now.
            progress: show a bar with an estimate of the time left.

        Raises:
            ValueError: this is no result of `estimate` or of this method, but loaded, unpickled, computed from others
                or exact; it has been extended before, by more; or an argument is not as described.
            Exception: what `estimate` raises.

        >>> import shapkit
        >>> game = shapkit.weighted_voting([4, 4, 4, 2, 2, 1], quota=12)
        >>> longer = shapkit.estimate(game, budget=1_000, method="permutation").extend(2_000)
        >>> bool((longer.values == shapkit.estimate(game, budget=3_000, method="permutation").values).all())
        True
        """
        continuation = self._continuation
        if continuation is None:
            exact = "Its values are exact. " if self.standard_errors is None else ""
            raise ValueError(
                f"this attribution cannot be extended. {exact}Only what estimate() or extend() returned can: what is "
                "loaded from a file, unpickled, or computed from other attributions holds numbers and no game"
            )
        return continuation.extend(budget, stop, progress)

    def with_continuation(self, continuation: Continuation) -> Attribution:
        """Return this attribution as one that `continuation` can extend; it is neither compared nor saved."""
        extendable = replace(self)
        object.__setattr__(extendable, "_continuation", continuation)
        return extendable

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_continuation"}

    def interaction_matrix(self) -> Floats:
        """Return the values of players, on the diagonal, and of pairs: float64 (n_players, n_players, *output_shape).

        It is symmetric. Coalitions of three and more have no place in it.

        Raises:
            ValueError: pairs have no value, because the order is 1.

        >>> Attribution([2, 3, 1], None, 0, 6, 4, ("eyes", "nose"), "STII", "exact", order=2).interaction_matrix()
        array([[2., 1.],
               [1., 3.]])
        """
        if self.order < 2:
            raise ValueError(f"pairs have no value in this attribution: it is of order 1, index {self.index!r}")
        n_players = self.n_players
        matrix = np.empty((n_players, n_players, *self.output_shape))
        matrix[np.diag_indices(n_players)] = self.values[:n_players]
        rows, columns = np.triu_indices(n_players, 1)  # the order that pairs have in terms
        matrix[rows, columns] = matrix[columns, rows] = self.values[n_players : n_players + len(rows)]
        return matrix

    def __mul__(self, factor: float) -> Attribution:
        """Return the attribution of the game whose payoffs are `factor`, a finite real number, times this one's.

        Raises:
            ValueError: `factor` is not finite.
        """
        if not isinstance(factor, numbers.Real):
            return NotImplemented
        _check_finite(factor)
        return self._scaled(lambda payoffs: payoffs * float(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Attribution:
        """Return the attribution of the game whose payoffs are this one's divided by a finite real number.

        Raises:
            ValueError: `divisor` is not finite.
            ZeroDivisionError: it is zero.
        """
        if not isinstance(divisor, numbers.Real):
            return NotImplemented
        _check_finite(divisor)
        if divisor == 0:
            raise ZeroDivisionError("an attribution cannot be divided by zero")
        return self._scaled(lambda payoffs: payoffs / float(divisor))

    def __neg__(self) -> Attribution:
        """Return the attribution of the game whose payoffs have the other sign."""
        return self._scaled(np.negative)

    def __add__(self, other: Attribution) -> Attribution:
        """Return the attribution of the sum of two games on the same players.

        Numbers of evaluations add. Standard errors: those of the other, where one is exact; the root of the sum of
        squares, where both were drawn with seeds that they do not share; else, where the draws may be the same, the
        sum, which is what they are at most, whatever the dependence (Minkowski's inequality). Degrees of freedom:
        Satterthwaite's (1946) of independent errors, and the fewer of the two otherwise.

        Raises:
            ValueError: names, index, order or output shape differ.
        """
        if not isinstance(other, Attribution):
            return NotImplemented
        for what in ("names", "index", "order", "output_shape"):
            one, two = getattr(self, what), getattr(other, what)
            if one != two:
                raise ValueError(f"{what} must agree to add attributions, got {reprlib.repr(one)}, {reprlib.repr(two)}")
        errors, freedom = _error_of_sum(self, other)
        return Attribution(
            values=self.values + other.values,
            standard_errors=errors,
            degrees_of_freedom=freedom,
            empty_value=self.empty_value + other.empty_value,
            grand_value=self.grand_value + other.grand_value,
            n_evaluations=self.n_evaluations + other.n_evaluations,
            names=self.names,
            index=self.index,
            method=" + ".join(dict.fromkeys((self.method + " + " + other.method).split(" + "))),
            order=self.order,
            seeds=tuple(sorted({*self.seeds, *other.seeds})),
            interrupted=self.interrupted or other.interrupted,
            stopped_by=self.stopped_by if self.stopped_by == other.stopped_by else "",
        )

    def __radd__(self, other: int) -> Attribution:
        """Return this attribution where `other` is the 0 that `sum` starts with."""
        if not (isinstance(other, numbers.Real) and other == 0):
            return NotImplemented
        return self

    def __sub__(self, other: Attribution) -> Attribution:
        """Return the attribution of the difference of two games on the same players; errors as for a sum.

        Raises:
            ValueError: names, index, order or output shape differ.
        """
        return self + -other if isinstance(other, Attribution) else NotImplemented

    def __repr__(self) -> str:
        return text.text(self)

    def _repr_html_(self) -> str:
        return text.html(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to `path`, in NumPy's npz format without pickle.

        The file is written under another name in the same folder and renamed, so that `path` never holds half
        a file.

        Raises:
            OSError: the file cannot be written.
        """
        facts = {"format": _FILE_FORMAT, **{name: getattr(self, name) for name in FACTS}}
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        write_arrays(path, {"facts": np.array(json.dumps(facts)), **arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Return what `save` wrote to `path`, in this version or an earlier one.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: the file is not one that `save` wrote.
        """
        with reading_what("Attribution.save", path):
            arrays = read_arrays(path, ("facts", *ARRAYS))
            facts = json.loads(str(arrays.pop("facts")))
            file_format = facts.pop("format")
            if file_format not in _READABLE_FORMATS:
                raise ValueError(f"its format is {file_format!r}, expected one of {', '.join(_READABLE_FORMATS)}")
            if any(array.dtype.kind != "f" for array in arrays.values()):
                raise ValueError("an array does not hold floating-point numbers")
            absent = dict.fromkeys(("standard_errors", "degrees_of_freedom"))
            return cls(**{**absent, **arrays, **facts, "names": tuple(facts["names"])})

    def to_shap(self, data: ArrayLike | None = None) -> Any:
        """Return the values as a `shap.Explanation` of one sample, for shap's plots.

        The function `to_shap` does the same, and for several samples.

        Args:
            data: what each player was in this sample (n_players,), for the plots' labels.

        Raises:
            ImportError: shap is not installed.
            ValueError: the values are not Shapley values of players, or `data` does not fit them.
        """
        return to_shap(self, data)

    def plot(
        self,
        output: int | tuple[int, ...] | None = None,
        ax: Axes | None = None,
        kind: PlotKind | None = None,
        max_players: int | None = None,
    ) -> Axes:
        """Draw the values and return the axes.

        Args:
            output: which output element, where the payoff is not a scalar.
            ax: axes to draw in; by default those of a new figure.
            kind: "bars", one for each value, with the standard error as error bar; "heatmap" or "network", of
                players and pairs. By default bars for order 1 and a heat map for others.
            max_players: how many to show, those with the largest values; by default as many as can be read. The
                picture says what it leaves out.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: `output` does not name one output element, `kind` is unknown or needs pairs that have no
                values, `max_players` is not a positive integer, or there are no players.
        """
        from shapkit.attribution import plots

        chosen = kind if kind is not None else "bars" if self.order == 1 else "heatmap"
        pictures: dict[str, Callable[..., Axes]] = {
            "bars": plots.bars,
            "heatmap": plots.heatmap,
            "network": plots.network,
        }
        if chosen not in pictures:
            raise ValueError(f"kind must be one of {', '.join(map(repr, pictures))}, got {kind!r}")
        limit = {} if max_players is None else {"max_players": max_players}
        return pictures[chosen](self, output=output, ax=ax, **limit)

    def _scaled(self, scale: Callable[[Floats], Floats]) -> Attribution:
        """This attribution under a linear map of the payoff, a multiplication or division by a number."""
        scaled: dict[str, Any] = {
            name: scale(getattr(self, name)) for name in _PAYOFFS if getattr(self, name) is not None
        }
        if "standard_errors" in scaled:
            scaled["standard_errors"] = np.abs(scaled["standard_errors"])
        return replace(self, **scaled)

    @cached_property
    def _player_of_name(self) -> dict[str, int]:
        return {name: player for player, name in enumerate(self.names)}

    def _player(self, player: int | str) -> int:
        if isinstance(player, str):
            if player in self._player_of_name:
                return self._player_of_name[player]
            known = ", ".join(self.names[:_NAMES_IN_ERRORS]) + (", ..." if self.n_players > _NAMES_IN_ERRORS else "")
            raise KeyError(f"player {player!r} is not among the names {known}")
        try:
            index = operator.index(player)
        except TypeError:
            raise TypeError(f"a player must be a name or an index, got {player!r}") from None
        if isinstance(player, bool | np.bool_):
            raise TypeError(f"a player must be a name or an index, got {player!r}")
        if not 0 <= index < self.n_players:
            raise IndexError(f"player {index} is out of range, expected 0 to {self.n_players - 1}")
        return index

    def _row(self, coalition: tuple[int | str, ...]) -> int:
        """The row of a coalition in values, computed from the players' indices."""
        players = sorted(self._player(player) for player in coalition)
        if len(set(players)) < len(players):
            raise KeyError(f"coalition {coalition!r} names a player twice")
        size, n_players = len(players), self.n_players
        if not 1 <= size <= self.order:
            raise KeyError(f"coalition {coalition!r} has {size} players, values are of 1 to {self.order}")
        # Those of the same size that come later: with the same players up to i, and a later one there
        later = sum(math.comb(n_players - 1 - player, size - i) for i, player in enumerate(players))
        return _n_terms(n_players, size) - 1 - later


def interaction_terms(n_players: int, order: int) -> tuple[tuple[int, ...], ...]:
    """Return the coalitions of at least one and at most `order` players, as increasing player indices.

    They come by size, and those of one size in lexicographic order. This is the order of the rows of
    `Attribution.values`.

    Args:
        n_players: at least 0.
        order: at least 1; more than n_players is as good as n_players.

    Raises:
        ValueError: an argument is not such an integer.

    >>> interaction_terms(3, 2)
    ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
    """
    players = range(checked_integer("n_players", n_players, least=0))
    sizes = range(1, min(positive_integer("order", order), n_players) + 1)
    return tuple(itertools.chain.from_iterable(itertools.combinations(players, size) for size in sizes))


def to_shap(attributions: Attribution | Sequence[Attribution], data: ArrayLike | None = None) -> Any:
    """Return a `shap.Explanation` of one attribution, or of one per sample, for shap's plots.

    One attribution, for shap's waterfall and bar plots, has values (n_players, *output_shape), outputs last, and
    base_values the empty coalition's payoff, a float or (*output_shape). A single output has no axis, as in a scalar
    game. A list of scalar ones, for beeswarm, heatmap
    and bar, has values (n_samples, n_players) and base_values (n_samples,). Where values were sampled, lower_bounds
    and upper_bounds are the ends of their 95 % intervals, which the waterfall shows.

    Args:
        attributions: Shapley values of players.
        data: what each player was: (n_players,) for one attribution, (n_samples, n_players) for several, numbers or
            strings. Plots show it in labels and colours; they do without where it is None.

    Raises:
        ImportError: shap is not installed.
        ValueError: the values are not Shapley values of players, which shap's plots need because those sum to the
            payoff; a list is empty, holds vector games or other names; or `data` has another shape.
    """
    rows = [_as_scalar(row) for row in ([attributions] if isinstance(attributions, Attribution) else attributions)]
    _check_explainable(rows, scalar=not isinstance(attributions, Attribution))
    shape: tuple[int, ...] = (len(rows), rows[0].n_players)
    arrays = {"values": np.stack([row.values for row in rows]), "base_values": np.stack([r.empty_value for r in rows])}
    if any(row.standard_errors is not None for row in rows):
        low, high = zip(*(row.interval() for row in rows), strict=True)
        arrays.update(lower_bounds=np.stack(low), upper_bounds=np.stack(high))
    if isinstance(attributions, Attribution):
        shape, arrays = shape[1:], {name: array[0] for name, array in arrays.items()}
    shown = None if data is None else np.array(data)
    if shown is not None and shown.shape != shape:
        raise ValueError(f"data has shape {shown.shape}, expected {shape}: one entry for each player's value")
    shap = require("shap", "plots", "Attribution.to_shap()")
    return shap.Explanation(**arrays, data=shown, feature_names=list(rows[0].names))


def _as_scalar(attribution: Attribution) -> Attribution:
    """A game with one output as a scalar game, whatever the shape of its payoffs; others as they are."""
    shape = attribution.output_shape
    return attribution.output((0,) * len(shape)) if shape and math.prod(shape) == 1 else attribution


def _check_explainable(rows: list[Attribution], scalar: bool) -> None:
    """Raise a ValueError where shap's plots would show something wrong."""
    if not rows:
        raise ValueError("attributions is empty, expected one Attribution for each sample")
    for number, row in enumerate(rows):
        which = f"attribution {number}" if scalar else "this"
        if row.index not in _EFFICIENT:
            raise ValueError(
                f"to_shap() needs values that sum to the payoff, as Shapley's do; {which} is of index {row.index!r}"
            )
        if row.order > 1:
            raise ValueError(f"to_shap() needs values of players alone, order 1; {which} is of order {row.order}")
        if scalar and row.output_shape != ():
            raise ValueError(
                f"to_shap() of a list needs scalar payoffs; {which} has payoffs of shape {row.output_shape}: choose "
                "one element with .output(...)"
            )
        if row.names != rows[0].names:
            raise ValueError(
                f"to_shap() of a list needs the same players in each; {which} has other names than the first"
            )


def _error_of_sum(one: Attribution, two: Attribution) -> tuple[Floats | None, Floats | None]:
    """The standard errors of one + two and their degrees of freedom: see `Attribution.__add__`."""
    if one.standard_errors is None or two.standard_errors is None:
        sampled = two if one.standard_errors is None else one
        return sampled.standard_errors, sampled.degrees_of_freedom
    independent = one.seeds and two.seeds and not set(one.seeds) & set(two.seeds)
    errors = np.hypot(one.standard_errors, two.standard_errors)
    if not independent:
        errors = one.standard_errors + two.standard_errors
    if one.degrees_of_freedom is None and two.degrees_of_freedom is None:
        return errors, None
    freedoms = [np.inf if a.degrees_of_freedom is None else a.degrees_of_freedom for a in (one, two)]
    fewest = np.minimum(freedoms[0], freedoms[1])
    if not independent:
        return errors, fewest
    # As shares of the sum, so that squares neither overflow nor vanish; the fewest where there is no error, and without
    # end where all of the error is from a posterior
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = [(a.standard_errors / errors) ** 2 for a in (one, two)]
        lost = sum(share**2 / freedom for share, freedom in zip(shares, freedoms, strict=True))
        return errors, np.where(errors > 0, np.maximum(1 / lost, fewest), fewest)


def _n_terms(n_players: int, order: int) -> int:
    """How many coalitions have at least one and at most `order` players."""
    return sum(math.comb(n_players, size) for size in range(1, min(order, n_players) + 1))


def _integer(argument: str, number: int) -> int:
    """`number`, of either sign, as an int, or a ValueError that names the argument."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise ValueError(f"{argument} must be an integer, got {number!r}")
    return int(number)


def _check_finite(factor: numbers.Real) -> None:
    if not math.isfinite(factor):
        raise ValueError(f"an attribution can be scaled by a finite number only, got {factor!r}")
