"""Games: players and a batched value function, evaluated, counted and checked in one place.

Every estimator reaches the value function through `Game`, so that batching, caching, parallel evaluation and
checks cannot differ between them.
"""

from __future__ import annotations

import math
import operator
import os
import pickle
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit.cache import CoalitionCache, coalition_keys
from shapkit.coalitions import MAX_MASK_PLAYERS, Coalitions, masks_of_members

Payoffs: TypeAlias = NDArray[np.float64]
"""(n_coalitions, *output_shape): one game per output element."""

ValueFunction: TypeAlias = Callable[[Coalitions], Any]
"""bool (n_coalitions, n_players) -> real numbers (n_coalitions, *output_shape), or convertible to them."""

_Error = TypeVar("_Error", bound=Exception)

_BATCH_ROWS = 2**16
_BATCH_FLOATS = 2**22  # payoff elements
_BATCH_BYTES = 2**26  # of coalitions: it matters from 1,024 players on
_BATCH_ROWS_SPREAD = 2**10  # with an executor or a file: work spreads, and a killed run loses little
_BATCHES_PER_CALL = 32  # with an executor, at least; not taken from it, so that batches are the same for all
_ROWS_OF_UNKNOWN_SIZE = 64  # evaluated at once before the size of a payoff is known
_BATCHES_IN_FLIGHT = 256  # submitted and not yet collected
_SHOWN_PLAYERS = 10

_UNSENT = (pickle.PicklingError, AttributeError, TypeError)  # what pickling raises

_PROCESS = uuid.uuid4().hex, os.getpid()  # a forked worker inherits the first, a spawned one draws its own

# Each yields the first row and the payoffs of a batch, as batches are complete.
_Batches: TypeAlias = Generator[tuple[int, Payoffs], None, None]


class Game:
    """Players and what each coalition of them is worth.

    Args:
        value: takes a bool array (n_coalitions, n_players) and returns real numbers (n_coalitions,
            *output_shape), as an array or anything NumPy converts to one. It must be deterministic, and row r
            of the result must depend on row r of the coalitions only. It may overwrite its argument.
        n_players: any number; a game of none has one coalition.
        names: one distinct name per player; by default "0", "1", ...
        batch_size: the most coalitions `value` is given at once. By default up to 2**16 of them, and 2**22
            payoff elements; up to 2**10 with an executor or a cache on disk, and with an executor a call is
            split in about 32 batches or more. While the size of a payoff is unknown, a long call starts with one
            coalition.
        cache: True for a `CoalitionCache` in memory, or one of your own: no coalition that it holds is
            evaluated again, nor is one evaluated twice in a call. Without it nothing is looked up.
        executor: any `concurrent.futures.Executor`, of threads, processes, Dask's `client.get_executor()` or
            mpi4py's, evaluates the batches; the numbers are the same for any number of workers. Other
            processes must be able to unpickle `value`, which is sent with each batch: have it load what is
            large where it runs.
        check_finite: whether NaN and infinity are refused.

    Attributes:
        n_evaluations: how many coalitions `value` has returned payoffs for.
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
        self.value = value
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
        self.output_shape: tuple[int, ...] | None = None
        if self.cache is not None:
            self.cache.bind(self.n_players, self.names)
            self.output_shape = self.cache.output_shape

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        """Return the payoffs of `coalitions`.

        An exception of the value function is passed on, with `error.coalition`, a bool array (n_players,),
        and a note that names the coalition. Where it came from a batch, its halves are evaluated to find the
        coalition, which takes up to twice the batch in further evaluations (not counted); `error.coalition`
        is None where each part succeeds alone. Batches that were complete stay in the cache.

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
        self.n_cache_hits += len(rows) - len(missing)
        return payoffs

    def _evaluated(self, rows: Coalitions, keep: Callable[[int, Payoffs], None] | None = None) -> Payoffs:
        """The payoffs of `rows` from the value function; `keep` is given each batch with its first row."""
        payoffs: Payoffs | None = None
        for first, last in self._waves(len(rows)):
            step = self._batch_rows(last - first)
            starts = range(first, last, step)
            batches = (
                self._here(rows[:last], starts) if self.executor is None else self._in_workers(rows[:last], starts)
            )
            with closing(batches):
                for start, batch in batches:
                    self._check_payoffs(batch, rows[start : min(start + step, last)])
                    if payoffs is None:
                        payoffs = np.empty((len(rows), *batch.shape[1:]))
                    # Copied, so that a value function which returns one buffer again and again harms nobody.
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

    def _here(self, rows: Coalitions, starts: range) -> _Batches:
        for start in starts:
            try:
                batch = batch_payoffs(self.value, rows[start : start + starts.step])
            except Exception as error:
                self._add_note(error)
                raise
            yield start, batch

    def _in_workers(self, rows: Coalitions, starts: range) -> _Batches:
        finished: SimpleQueue[int] = SimpleQueue()
        pending: dict[int, Future[Payoffs]] = {}
        failures: dict[int, BaseException] = {}
        waiting = deque(starts)
        try:
            while waiting or pending:
                room = bool(waiting) and len(pending) < _BATCHES_IN_FLIGHT
                if room:
                    start = waiting.popleft()
                    pending[start] = self._submitted(rows[start : start + starts.step])
                    pending[start].add_done_callback(partial(_announce, finished, start))
                if room and finished.empty():
                    continue
                start = finished.get()
                if start not in pending:  # cancelled below
                    continue
                error = pending[start].exception()
                if error is None:
                    yield start, pending.pop(start).result()
                    continue
                del pending[start]
                failures[start] = error
                # Earlier rows that run already are waited for, so that the error is the first one in the order of
                # the rows for any number of workers that start tasks in order; later rows are let go unless done.
                waiting.clear()
                pending = {
                    number: future
                    for number, future in pending.items()
                    if not future.cancel() and (number < start or future.done())
                }
        finally:
            for future in pending.values():
                future.cancel()
        if failures:
            error = self._explained(failures[min(failures)])
            try:
                raise error
            finally:
                del error, failures  # as in batch_payoffs

    def _submitted(self, rows: Coalitions) -> Future[Payoffs]:
        assert self.executor is not None
        try:
            return self.executor.submit(batch_payoffs, self.value, rows, _PROCESS)
        except _UNSENT as error:  # Dask's executor pickles here, others later
            raise ValueError(_not_sent(error)) from error

    def _explained(self, error: BaseException) -> BaseException:
        """What an executor's task failed with, as the caller is to see it."""
        if isinstance(error, _UNSENT) and not _is_located(error):
            unsent = ValueError(_not_sent(error))
            unsent.__cause__ = error
            return unsent
        self._add_note(error)
        return error

    def _add_note(self, error: BaseException) -> None:
        if not _is_located(error):
            return
        coalition = vars(error)["coalition"]
        if coalition is not None:
            note = f"raised by the value function for the coalition {described(coalition, self.names)}"
        else:
            note = (
                "raised by the value function for a batch of coalitions, whose halves it evaluates one after the "
                "other without an error: give the game a lower batch_size"
            )
        vars(error).setdefault("__notes__", []).append(note)  # add_note, for exceptions that refuse attributes too

    def _check_payoffs(self, payoffs: Payoffs, rows: Coalitions) -> None:
        """Count the payoffs of `rows` and refuse those that are not as they must be."""
        self.n_evaluations += len(rows)
        if payoffs.ndim == 0 or len(payoffs) != len(rows):
            raise ValueError(
                f"value returned shape {payoffs.shape} for {len(rows)} coalitions, "
                f"expected ({len(rows)}, ...): one payoff per row of its argument, along the first axis"
            )
        if payoffs.size == 0:
            raise ValueError(f"value returned shape {payoffs.shape}: a payoff must have at least one element")
        if self.output_shape is None:
            self.output_shape = payoffs.shape[1:]
        if payoffs.shape[1:] != self.output_shape:
            raise ValueError(
                f"value returned payoffs of shape {payoffs.shape[1:]}, expected {self.output_shape} as in its first "
                "evaluation or in the cache: the payoff's shape must not depend on the coalition"
            )
        if self.check_finite and not np.isfinite(payoffs).all():
            raise self._not_finite("value returned", payoffs, rows)

    def _not_finite(self, subject: str, payoffs: Payoffs, rows: Coalitions) -> ValueError:
        finite = np.isfinite(payoffs).reshape(len(payoffs), -1).all(axis=1)
        coalition = rows[np.argmin(finite)].copy()
        error = ValueError(
            f"{subject} NaN or infinity for {np.sum(~finite)} of {len(rows)} coalitions, "
            f"expected finite numbers; the first is {described(coalition, self.names)}"
        )
        return _located(error, coalition)


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


def batch_payoffs(value: ValueFunction, rows: Coalitions, caller: tuple[str, int] = _PROCESS) -> Payoffs:
    """Return what `value` returns for a copy of `rows`, as a float64 array; an executor's workers run it.

    Args:
        value: as for `Game`.
        rows: bool array (n_coalitions, n_players).
        caller: the process that will see the result, as that process knows itself.

    Raises:
        ValueError: NumPy cannot convert what `value` returned, or it holds no real numbers.
        Exception: what `value` raised. Its attribute `coalition` is the row that raises it, found by
            bisection, or None where the batch fails and both its halves, or those of its failing half and so
            on, do not. One that pickling does not preserve reaches another process as a RuntimeError.

    >>> batch_payoffs(lambda coalitions: coalitions.sum(axis=1), np.array([[True, True]]))
    array([2.])
    """
    payoffs, error = _attempt(value, rows)
    if error is None:
        return real_array(payoffs)
    culprit = _located(*_bisected(value, rows, error))
    if caller != (_PROCESS[0], os.getpid()) and not _survives_pickling(culprit):
        culprit = _located(RuntimeError(f"{type(culprit).__qualname__}: {culprit}"), vars(culprit)["coalition"])
    try:
        raise culprit
    finally:
        del error, culprit  # else the traceback, and with it the value function's memory, would hold itself


def players_of_table(table: NDArray[Any]) -> int:
    """Return how many players a table of coalition values (2**n_players, *output_shape) has.

    Raises:
        ValueError: the first axis is not 1, 2, 4, 8, ... long.

    >>> players_of_table(np.zeros((8, 3)))
    3
    """
    n_players = len(table).bit_length() - 1 if table.ndim else -1
    if n_players < 0 or len(table) != 2**n_players or n_players > MAX_MASK_PLAYERS:
        raise ValueError(
            f"values has shape {table.shape}, expected (2**n_players, ...): "
            "one value for each coalition, the empty one included"
        )
    return n_players


def player_index(player: int | str, names: Sequence[str]) -> int:
    """Return the index of `player` among `names`, given by name or by index.

    Raises:
        ValueError: there is no such player.

    >>> player_index("nose", ["eyes", "nose"]), player_index(0, ["eyes", "nose"])
    (1, 0)
    """
    if isinstance(player, str):
        if player in names:
            return list(names).index(player)
        raise ValueError(f"player {player!r} is not among the names {', '.join(names)}")
    try:
        index = operator.index(player)
    except TypeError:
        raise ValueError(f"player must be a name or an index, got {player!r}") from None
    if not 0 <= index < len(names):
        raise ValueError(f"player {index} is out of range, expected 0 to {len(names) - 1}")
    return index


def checked_integer(argument: str, number: int, least: int) -> int:
    """Return `number` as an int.

    Raises:
        ValueError: it is not an integer of at least `least`; the message names `argument`.

    >>> checked_integer("n_players", np.int64(0), least=0)
    0
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise ValueError(f"{argument} must be an integer of at least {least}, got {number!r}")
    return int(number)


def positive_integer(argument: str, number: int) -> int:
    """Return `number` as an int.

    Raises:
        ValueError: it is not an integer of at least 1; the message names `argument`.

    >>> positive_integer("budget", np.int64(3))
    3
    """
    return checked_integer(argument, number, least=1)


def checked_names(names: Sequence[str] | None, n_players: int) -> tuple[str, ...]:
    """Return `names` as a tuple, or "0", "1", ... where there are none.

    Raises:
        ValueError: `names` is not a list of `n_players` distinct strings.

    >>> checked_names(None, 3)
    ('0', '1', '2')
    """
    if names is None:
        return tuple(str(player) for player in range(n_players))
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names must be a list of strings, got {names!r}")
    if len(names) != n_players:
        raise ValueError(f"names has {len(names)} entries, expected one for each of the {n_players} players")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"names must be distinct, got {', '.join(map(repr, repeated))} more than once")
    return tuple(names)


def described(coalition: NDArray[np.bool_], names: Sequence[str]) -> str:
    """Return the names of a coalition (n_players,) in braces, the first ten of them where they are many.

    >>> described(np.array([True, False, True]), ["eyes", "hair", "nose"])
    '{eyes, nose}'
    >>> described(np.ones(5_000, dtype=bool), [str(player) for player in range(5_000)])
    '{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... and 4,990 more}'
    """
    players = np.flatnonzero(coalition)
    shown = ", ".join(names[player] for player in players[:_SHOWN_PLAYERS])
    more = len(players) - _SHOWN_PLAYERS
    return f"{{{shown}, ... and {more:,} more}}" if more > 0 else f"{{{shown}}}"


def real_array(numbers: Any, argument: str | None = None) -> NDArray[np.float64]:
    """Return `numbers` as a float64 array, itself where it is one.

    Args:
        numbers: an array, or anything NumPy converts to one.
        argument: what the message of an error speaks of; by default what the value function returned.

    Raises:
        ValueError: NumPy cannot convert it, or it holds no real numbers.

    >>> real_array([True, False])
    array([1., 0.])
    """
    subject = f"{argument} holds" if argument else "value returned"
    try:
        array = np.asarray(numbers)
    except Exception as error:  # ragged lists; tensors on a GPU or with a gradient
        raise ValueError(
            f"{subject} something NumPy cannot convert to an array ({type(numbers).__name__}: {error})"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{subject} dtype {array.dtype}, expected real numbers")
    return array.astype(np.float64, copy=False)


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


def _announce(finished: SimpleQueue[int], start: int, _: Future[Payoffs]) -> None:
    finished.put(start)


def _attempt(value: ValueFunction, rows: Coalitions) -> tuple[Any, Exception | None]:
    """What `value` returns for a copy of `rows`, or else what it raises."""
    try:
        return value(np.array(rows, order="C")), None
    except Exception as error:
        return None, error


def _bisected(value: ValueFunction, rows: Coalitions, error: Exception) -> tuple[Exception, NDArray[np.bool_] | None]:
    """The coalition among `rows` that raises, and what it raises alone; or `error` and None if there is none."""
    part, raised = rows, error
    while len(part) > 1:
        # The frames of a failed evaluation may hold the memory that the next one needs.
        traceback.clear_frames(raised.__traceback__)
        middle = len(part) // 2
        for half in (part[:middle], part[middle:]):
            half_error = _attempt(value, half)[1]
            if half_error is not None:
                part, raised = half, half_error
                break
        else:
            return error, None
    return raised, part[0].copy()


def _located(error: _Error, coalition: NDArray[np.bool_] | None) -> _Error:
    vars(error)["coalition"] = coalition  # not by setattr, which an exception may refuse
    return error


def _is_located(error: BaseException) -> bool:
    return "coalition" in vars(error)


def _survives_pickling(error: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


def _not_sent(error: BaseException) -> str:
    return (
        f"value cannot be sent to the executor's workers ({error}): they need a function that pickle can name, one "
        "defined at the top of a module and not a lambda or a function within a function. functools.partial binds "
        "arguments to it; an executor of threads takes any function"
    )
