"""Games: players and a batched value function, evaluated, counted and checked in one place.

Every estimator reaches the value function through `Game`, so that batching, caching, parallel evaluation and
checks cannot differ between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from copy import deepcopy
from functools import partial
from inspect import iscoroutinefunction
from threading import Lock, local
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from shapkit._checks import (
    checked_integer,
    checked_names,
    described,
    player_index,
    players_of_table,
    positive_integer,
    real_array,
)
from shapkit.coalitions import Coalitions, masks_of_members
from shapkit.games.batches import Payoffs, ValueFunction, batch_payoffs, evaluated_here, evaluated_in_workers, located
from shapkit.games.cache import CoalitionCache, coalition_keys

_BATCH_ROWS = 2**16
_BATCH_FLOATS = 2**22  # payoff elements
_BATCH_BYTES = 2**26  # of coalitions: it matters from 1,024 players on
_BATCH_ROWS_SPREAD = 2**10  # with an executor or a file: work spreads, and a killed run loses little
_BATCHES_PER_CALL = 32  # with an executor, at least; not taken from it, so that batches are the same for all
_OWN = ("_lock", "_mine")  # what neither copies nor other processes have
_ROWS_OF_UNKNOWN_SIZE = 64  # evaluated at once before the size of a payoff is known


class Game:
    """Players and what each coalition of them is worth.

    Args:
        value: takes a bool array (n_coalitions, n_players) and returns real numbers (n_coalitions,
            *output_shape), as an array or anything NumPy converts to one. It must be deterministic, and row r
            of the result must depend on row r of the coalitions only. It may overwrite its argument.
        n_players: any number; a game of none has one coalition.
        names: one distinct name per player; by default "0", "1", ...
        batch_size: the most coalitions `value` is given at once. By default `value.batch_size`, where it has one;
            else up to 2**16 of them, and 2**22 payoff elements; up to 2**10 with an executor or a cache on disk, and
            with an executor a call is split in about 32 batches or more. While the size of a payoff is unknown, a long
            call starts with one coalition.
        cache: True for a `CoalitionCache` in memory, or one of your own: no coalition that it holds is
            evaluated again, nor is one evaluated twice in a call. Without it nothing is looked up.
        executor: any `concurrent.futures.Executor`, of threads, processes, Dask's `client.get_executor()` or
            mpi4py's, evaluates the batches; the numbers are the same for any number of workers. Other
            processes must be able to unpickle `value`, which is sent with each batch; what is large is better
            made by each worker, see `PerWorker`. Copies of the game share it, pickled ones have none.
        check_finite: whether NaN and infinity are refused.

    Attributes:
        n_evaluations: how many coalitions `value` has returned payoffs for, in all threads.
        n_cache_hits: how many were asked for and answered without `value`.
        output_shape: the payoff's shape, known after the first evaluation; () for a scalar game.

    Raises:
        ValueError: an argument is not as described, or, in an evaluation, coalitions or payoffs are not.

    >>> game = Game(lambda coalitions: coalitions.sum(axis=1) ** 2, n_players=3, cache=True)
    >>> game(np.array([[True, True, False], [False, False, False], [True, True, False]]))
    array([4., 0., 4.])
    >>> game.n_evaluations, game.n_cache_hits
    (2, 1)
    """

    def __init__(
        self,
        value: ValueFunction,
        n_players: int,
        names: Sequence[str] | None = None,
        batch_size: int | None = None,
        cache: CoalitionCache | bool | None = None,
        executor: Executor | None = None,
        check_finite: bool = True,
    ) -> None:
        if not callable(value):
            raise ValueError(f"value must be a function of a boolean matrix, got {type(value).__name__}")
        if iscoroutinefunction(value):
            raise ValueError("value is an async function: give shapkit.ConcurrentCalls(value), a value function")
        self.value = value
        own_size = getattr(value, "batch_size", None)
        if batch_size is None and isinstance(own_size, int):
            batch_size = own_size
        self.n_players = checked_integer("n_players", n_players, least=0)
        self.names = checked_names(names, self.n_players)
        self.batch_size = None if batch_size is None else positive_integer("batch_size", batch_size)
        self.cache = _checked_cache(cache)
        self.executor = _checked_executor(executor)
        if not isinstance(check_finite, bool):
            raise ValueError(f"check_finite must be True or False, got {check_finite!r}")
        self.check_finite = check_finite
        self.n_evaluations = 0
        self.n_cache_hits = 0
        self._lock, self._mine = Lock(), _Count()
        self.output_shape: tuple[int, ...] | None = None
        if self.cache is not None:
            self.cache.bind(self.n_players, self.names)
            self.output_shape = self.cache.output_shape

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        """Return the payoffs of `coalitions`.

        An exception of the value function is passed on, with `error.coalition`, a bool array (n_players,),
        and a note that names the coalition. Where it came from a batch, its halves are evaluated to find the
        coalition, which takes up to twice the batch in further evaluations (not counted); `error.coalition`
        is None where each part succeeds alone. Batches that were complete stay in the cache. Where the first batch
        of all has as many coalitions as a payoff has elements along some axis, one of them is evaluated again, to tell
        which axis is the coalitions' (not counted).

        Args:
            coalitions: bool array (n_coalitions, n_players), with at least one row.

        Returns:
            float64 array (n_coalitions, *output_shape), a new one.

        Raises:
            ValueError: `coalitions` is not such an array, or `value` returned something else than finite real
                numbers of shape (n_coalitions, *output_shape), with the same output_shape every time, or
                cannot be sent to the executor's workers.
        """
        rows = self._checked_coalitions(coalitions)
        if self.cache is None:
            return self._evaluated(rows)
        return self._remembered(rows, self.cache)

    def player_index(self, player: int | str) -> int:
        """Return the index of `player`, given by name or by index.

        Raises:
            ValueError: there is no such player.

        >>> Game(lambda coalitions: coalitions[:, 0], 2, names=["eyes", "nose"]).player_index("nose")
        1
        """
        return player_index(player, self.names)

    @contextmanager
    def counted(self) -> Iterator[Callable[[], int]]:
        """Yield a function that says how many coalitions this thread has had evaluated since: no other thread's count.

        >>> game = Game(lambda coalitions: coalitions[:, 0], 2)
        >>> with game.counted() as n_evaluations:
        ...     game(np.array([[True, False]])), n_evaluations()
        (array([1.]), 1)
        """
        before = self._mine.n
        yield lambda: self._mine.n - before

    def __getstate__(self) -> dict[str, Any]:
        """What pickling keeps: all but the executor, which belongs to this process."""
        return {**{name: value for name, value in vars(self).items() if name not in _OWN}, "executor": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock(), _mine=_Count())

    def __copy__(self) -> Game:
        """Return a game with the same value function, cache and executor, which counts for itself from here on."""
        copied = object.__new__(type(self))
        copied.__setstate__({**self.__getstate__(), "executor": self.executor})
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Game:
        """Return a game with copies of the value function and the cache, and the same executor."""
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__({**deepcopy(self.__getstate__(), memo), "executor": self.executor})
        return copied

    def __repr__(self) -> str:
        facts = [f"n_players={self.n_players}", f"output_shape={self.output_shape}", f"batch_size={self.batch_size}"]
        if self.cache is not None:
            facts.append(f"cache={self.cache!r}")
        if self.executor is not None:
            facts.append(f"executor={type(self.executor).__name__}")
        if not self.check_finite:
            facts.append("check_finite=False")
        return f"Game({', '.join(facts)})"

    def _checked_coalitions(self, coalitions: Coalitions) -> Coalitions:
        rows = np.asarray(coalitions)
        expected = f"expected a boolean matrix (n_coalitions, {self.n_players})"
        if rows.ndim == 1 and len(rows) == self.n_players:
            raise ValueError(f"coalitions has shape {rows.shape}, {expected}: give one coalition as coalition[None, :]")
        if rows.ndim != 2 or rows.shape[1] != self.n_players or len(rows) == 0:
            raise ValueError(f"coalitions has shape {rows.shape}, {expected} with at least one row")
        if rows.dtype != np.bool_:
            raise ValueError(
                f"coalitions has dtype {rows.dtype}, {expected}: convert 0 and 1 with .astype(bool), "
                "and bitmasks with shapkit.coalitions.members_of_masks"
            )
        return rows

    def _remembered(self, rows: Coalitions, cache: CoalitionCache) -> Payoffs:
        """The payoffs of `rows`, from the cache where it has them; each of the others evaluated once."""
        keys = coalition_keys(rows)
        numbers = np.arange(len(rows))
        first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))  # the first of equal rows stays
        source = np.fromiter(map(first.__getitem__, keys), dtype=np.intp, count=len(keys))
        distinct = np.flatnonzero(source == numbers)
        known, stored = cache.get([keys[row] for row in distinct])
        if self.check_finite and not np.isfinite(stored).all():
            raise self._not_finite("the cache holds", stored, rows[distinct[known]])
        missing = distinct[~known]
        if len(missing):
            missing_keys = [keys[row] for row in missing]
            evaluated = self._evaluated(
                rows[missing], lambda start, batch: cache.put(missing_keys[start : start + len(batch)], batch)
            )
            self.output_shape = evaluated.shape[1:]
        else:
            self.output_shape = stored.shape[1:]
        payoffs = np.empty((len(rows), *self.output_shape))
        if known.any():
            payoffs[distinct[known]] = stored
        if len(missing):
            payoffs[missing] = evaluated
        repeated = np.flatnonzero(source != numbers)
        payoffs[repeated] = payoffs[source[repeated]]
        with self._lock:
            self.n_cache_hits += len(rows) - len(missing)
        return payoffs

    def _evaluated(self, rows: Coalitions, keep: Callable[[int, Payoffs], None] | None = None) -> Payoffs:
        """The payoffs of `rows` from the value function; `keep` is given each batch with its first row."""
        payoffs: Payoffs | None = None
        for first, last in self._waves(len(rows)):
            step = self._batch_rows(last - first)
            starts = range(first, last, step)
            batches = (
                evaluated_here(self.value, rows[:last], starts, self.names)
                if self.executor is None
                else evaluated_in_workers(self.executor, self.value, rows[:last], starts, self.names)
            )
            with closing(batches):
                for start, batch in batches:
                    self._check_payoffs(batch, rows[start : min(start + step, last)])
                    if payoffs is None:
                        payoffs = np.empty((len(rows), *batch.shape[1:]))
                    # Copied, so that a value function which returns one buffer again and again is safe.
                    payoffs[start : start + len(batch)] = batch
                    if keep is not None:
                        keep(start, batch)
        assert payoffs is not None  # there is at least one row
        return payoffs

    def _waves(self, n_rows: int) -> list[tuple[int, int]]:
        """The rows to evaluate before the next batch size is chosen: all, if the size of a payoff is known."""
        known = self.batch_size is not None or self.output_shape is not None
        if known or n_rows <= _ROWS_OF_UNKNOWN_SIZE:
            return [(0, n_rows)]
        return [(0, 1), (1, n_rows)]

    def _batch_rows(self, n_rows: int) -> int:
        if self.batch_size is not None:
            return self.batch_size
        n_floats = math.prod(self.output_shape or ())
        most = min(_BATCH_ROWS, _BATCH_FLOATS // n_floats, _BATCH_BYTES // max(1, self.n_players))
        if self.executor is not None:
            most = min(most, _BATCH_ROWS_SPREAD, -(-n_rows // _BATCHES_PER_CALL))
        elif self.cache is not None and self.cache.path is not None:
            most = min(most, _BATCH_ROWS_SPREAD)
        return max(1, most)

    def _check_payoffs(self, payoffs: Payoffs, rows: Coalitions) -> None:
        """Count the payoffs of `rows` and refuse those that are not as they must be."""
        with self._lock:
            self.n_evaluations += len(rows)
        self._mine.n += len(rows)
        if payoffs.ndim == 0 or len(payoffs) != len(rows):
            raise ValueError(
                f"value returned shape {payoffs.shape} for {len(rows)} coalitions, "
                f"expected ({len(rows)}, ...): one payoff per row of its argument, along the first axis"
            )
        if payoffs.size == 0:
            raise ValueError(f"value returned shape {payoffs.shape}: a payoff must have at least one element")
        if self.output_shape is None:
            self.output_shape = self._first_shape(payoffs, rows)
        if payoffs.shape[1:] != self.output_shape:
            raise ValueError(
                f"value returned payoffs of shape {payoffs.shape[1:]}, expected {self.output_shape} as in its first "
                "evaluation or in the cache: the payoff's shape must not depend on the coalition"
            )
        if self.check_finite and not np.isfinite(payoffs).all():
            raise self._not_finite("value returned", payoffs, rows)

    def _first_shape(self, payoffs: Payoffs, rows: Coalitions) -> tuple[int, ...]:
        """The shape of a payoff, from the first batch.

        Where there are as many coalitions as outputs, (outputs, coalitions) passes for (coalitions, outputs): one
        coalition alone tells which it is.
        """
        if len(rows) == 1 or len(rows) not in payoffs.shape[1:]:
            return payoffs.shape[1:]
        one = rows[:1]
        alone = batch_payoffs(self.value, one) if self.executor is None else self._in_worker(one)
        if alone.ndim != payoffs.ndim or len(alone) != 1:
            raise ValueError(
                f"value returned shape {payoffs.shape} for {len(rows)} coalitions and {alone.shape} for one, expected "
                "(n_coalitions, ...): one payoff per row of its argument, along the first axis"
            )
        return alone.shape[1:]

    def _in_worker(self, rows: Coalitions) -> Payoffs:
        assert self.executor is not None
        ((_, payoffs),) = evaluated_in_workers(
            self.executor, self.value, rows, range(0, len(rows), len(rows)), self.names
        )
        return payoffs

    def _not_finite(self, subject: str, payoffs: Payoffs, rows: Coalitions) -> ValueError:
        finite = np.isfinite(payoffs).reshape(len(payoffs), -1).all(axis=1)
        coalition = rows[np.argmin(finite)].copy()
        error = ValueError(
            f"{subject} NaN or infinity for {np.sum(~finite)} of {len(rows)} coalitions, "
            f"expected finite numbers; the first is {described(coalition, self.names)}"
        )
        return located(error, coalition)


class _Count(local):
    """How many coalitions a thread has had evaluated: each thread sees its own."""

    n = 0


def table_game(values: ArrayLike, names: Sequence[str] | None = None, batch_size: int | None = None) -> Game:
    """Return the game whose coalition with mask m is worth values[m].

    Args:
        values: real numbers (2**n_players, *output_shape); bit i of the index is set when player i is in.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: the first axis is not 1, 2, 4, ... long, or the values are not finite real numbers.

    >>> game = table_game([0, 1, 2, 5])
    >>> game(np.array([[False, True], [True, True]]))
    array([2., 5.])
    """
    table = real_array(values, "values")
    n_players = players_of_table(table)
    return Game(partial(_look_up, table), n_players, names, batch_size)


def _checked_cache(cache: CoalitionCache | bool | None) -> CoalitionCache | None:
    if cache is None or isinstance(cache, bool):
        return CoalitionCache() if cache else None
    if not isinstance(cache, CoalitionCache):
        raise ValueError(f"cache must be True or a shapkit.CoalitionCache, got {cache!r}")
    return cache


def _checked_executor(executor: Executor | None) -> Executor | None:
    if executor is not None and not isinstance(executor, Executor):
        raise ValueError(
            f"executor must be a concurrent.futures.Executor, such as ProcessPoolExecutor(), got {executor!r} "
            "(of a Dask client, give client.get_executor())"
        )
    return executor


def _look_up(table: Payoffs, coalitions: Coalitions) -> Payoffs:
    return table[masks_of_members(coalitions)]
