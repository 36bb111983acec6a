"""Games: players and a batched value function, evaluated, counted and checked in one place.

Every estimator reaches the value function through `Game`, so that batching and checks cannot differ between
them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit.coalitions import MAX_MASK_PLAYERS, Coalitions, masks_of_members

Payoffs: TypeAlias = NDArray[np.float64]
"""(n_coalitions, *output_shape): one game per output element."""

ValueFunction: TypeAlias = Callable[[Coalitions], Any]
"""bool (n_coalitions, n_players) -> real numbers (n_coalitions, *output_shape), or convertible to them."""


class Game:
    """Players and what each coalition of them is worth.

    Args:
        value: takes a bool array (n_coalitions, n_players) and returns real numbers (n_coalitions,
            *output_shape), as an array or anything NumPy converts to one. It must be deterministic, and row r
            of the result must depend on row r of the coalitions only. It may overwrite its argument.
        n_players: at least 1.
        names: one distinct name per player; by default "0", "1", ...
        batch_size: the most coalitions `value` is given at once; by default as many as are asked for.

    Attributes:
        n_evaluations: how many coalitions have been evaluated so far.
        output_shape: the payoff's shape, known after the first evaluation; () for a scalar game.

    Raises:
        ValueError: an argument is not as described, or, in an evaluation, coalitions or payoffs are not.

    >>> game = Game(lambda coalitions: coalitions.sum(axis=1) ** 2, n_players=3)
    >>> game(np.array([[True, True, False], [False, False, False]]))
    array([4., 0.])
    >>> game.n_evaluations
    2
    """

    def __init__(
        self,
        value: ValueFunction,
        n_players: int,
        names: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not callable(value):
            raise ValueError(f"value must be a function of a boolean matrix, got {type(value).__name__}")
        self.value = value
        self.n_players = positive_integer("n_players", n_players)
        self.names = checked_names(names, self.n_players)
        self.batch_size = None if batch_size is None else positive_integer("batch_size", batch_size)
        self.n_evaluations = 0
        self.output_shape: tuple[int, ...] | None = None

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        """Return the payoffs of `coalitions`.

        Args:
            coalitions: bool array (n_coalitions, n_players), with at least one row.

        Returns:
            float64 array (n_coalitions, *output_shape).

        Raises:
            ValueError: `coalitions` is not such an array, or `value` returned something else than finite real
                numbers of shape (n_coalitions, *output_shape), with the same output_shape every time.
        """
        rows = self._checked_coalitions(coalitions)
        step = self.batch_size or len(rows)
        if step >= len(rows):
            return self._evaluated(rows)
        first = self._evaluated(rows[:step])
        payoffs = np.empty((len(rows), *first.shape[1:]))
        payoffs[:step] = first
        for start in range(step, len(rows), step):
            payoffs[start : start + step] = self._evaluated(rows[start : start + step])
        return payoffs

    def player_index(self, player: int | str) -> int:
        """Return the index of `player`, given by name or by index.

        Raises:
            ValueError: there is no such player.

        >>> Game(lambda coalitions: coalitions[:, 0], 2, names=["eyes", "nose"]).player_index("nose")
        1
        """
        return player_index(player, self.names)

    def __repr__(self) -> str:
        shape, batch = self.output_shape, self.batch_size
        return f"Game(n_players={self.n_players}, output_shape={shape}, batch_size={batch})"

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

    def _evaluated(self, rows: Coalitions) -> Payoffs:
        # A copy goes out, so that a value function which writes to its argument harms nobody.
        payoffs = _real_array(self.value(np.array(rows, order="C")))
        self.n_evaluations += len(rows)
        if payoffs.ndim == 0 or len(payoffs) != len(rows):
            raise ValueError(
                f"value returned shape {payoffs.shape} for {len(rows)} coalitions, "
                f"expected ({len(rows)}, ...): one payoff per row of its argument, along the first axis"
            )
        if self.output_shape is None:
            self.output_shape = payoffs.shape[1:]
        if payoffs.shape[1:] != self.output_shape:
            raise ValueError(
                f"value returned payoffs of shape {payoffs.shape[1:]}, expected {self.output_shape} as "
                "in its first evaluation: the payoff's shape must not depend on the coalition"
            )
        if payoffs.size == 0:
            raise ValueError(f"value returned shape {payoffs.shape}: a payoff must have at least one element")
        if not np.isfinite(payoffs).all():
            raise ValueError(_not_finite(payoffs, rows, self.names))
        return payoffs


def table_game(values: ArrayLike, names: Sequence[str] | None = None, batch_size: int | None = None) -> Game:
    """Return the game whose coalition with mask m is worth values[m].

    Args:
        values: real numbers (2**n_players, *output_shape); bit i of the index is set when player i is in.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: the first axis is not 2, 4, 8, ... long, or the values are not finite real numbers.

    >>> game = table_game([0, 1, 2, 5])
    >>> game(np.array([[False, True], [True, True]]))
    array([2., 5.])
    """
    table = _real_array(values, "values")
    n_players = players_of_table(table)
    return Game(lambda coalitions: table[masks_of_members(coalitions)], n_players, names, batch_size)


def weighted_voting(
    weights: ArrayLike, quota: float, names: Sequence[str] | None = None, batch_size: int | None = None
) -> Game:
    """Return the voting game in which a coalition is worth 1 when its weights sum to `quota` or more, else 0.

    Its Shapley value is the power index of Shapley and Shubik (1954).

    Args:
        weights: finite numbers (n_players,). Sums are taken in float64, in which integers are exact.
        quota: a finite number, in the unit of the weights.
        names, batch_size: as for `Game`.

    Raises:
        ValueError: `weights` is not a list of finite numbers, or `quota` is not finite.

    >>> game = weighted_voting([2, 1, 1], quota=3)
    >>> game(np.array([[True, False, True], [False, True, True]]))
    array([1., 0.])
    """
    weight = _real_array(weights, "weights")
    if weight.ndim != 1 or len(weight) == 0 or not np.isfinite(weight).all():
        raise ValueError(f"weights must be a list of finite numbers, one per player, got {weights!r}")
    if not np.isfinite(quota):
        raise ValueError(f"quota must be a finite number, got {quota!r}")
    return Game(lambda coalitions: coalitions @ weight >= quota, len(weight), names, batch_size)


def players_of_table(table: NDArray[Any]) -> int:
    """Return how many players a table of coalition values (2**n_players, *output_shape) has.

    Raises:
        ValueError: the first axis is not 2, 4, 8, ... long.

    >>> players_of_table(np.zeros((8, 3)))
    3
    """
    n_players = len(table).bit_length() - 1 if table.ndim else 0
    if n_players < 1 or len(table) != 2**n_players or n_players > MAX_MASK_PLAYERS:
        raise ValueError(
            f"values has shape {table.shape}, expected (2**n_players, ...) with n_players >= 1: "
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


def positive_integer(argument: str, number: int) -> int:
    """Return `number` as an int.

    Raises:
        ValueError: it is not an integer of at least 1; the message names `argument`.

    >>> positive_integer("budget", np.int64(3))
    3
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise ValueError(f"{argument} must be an integer of at least 1, got {number!r}")
    return int(number)


def checked_names(names: Sequence[str] | None, n_players: int) -> tuple[str, ...]:
    """Return `names` as a tuple, or "0", "1", ... where there are none.

    Raises:
        ValueError: `names` is not a list of `n_players` distinct strings.

    >>> checked_names(None, 3)
    ('0', '1', '2')
    """
    if names is None:
        return tuple(str(player) for player in range(n_players))
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names must be a list of strings, got {names!r}")
    if len(names) != n_players:
        raise ValueError(f"names has {len(names)} entries, expected one for each of the {n_players} players")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"names must be distinct, got {', '.join(map(repr, repeated))} more than once")
    return tuple(names)


def _real_array(numbers: Any, argument: str | None = None) -> NDArray[np.float64]:
    """`numbers` as float64; the message speaks of `argument`, or else of what the value function returned."""
    subject = f"{argument} holds" if argument else "value returned"
    try:
        array = np.asarray(numbers)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # ragged lists; tensors on a GPU or with a gradient
        raise ValueError(
            f"{subject} something NumPy cannot convert to an array ({type(numbers).__name__}: {error})"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{subject} dtype {array.dtype}, expected real numbers")
    return array.astype(np.float64, copy=False)


def _not_finite(payoffs: Payoffs, rows: Coalitions, names: tuple[str, ...]) -> str:
    finite = np.isfinite(payoffs).reshape(len(payoffs), -1).all(axis=1)
    present = [name for name, member in zip(names, rows[np.argmin(finite)], strict=True) if member]
    return (
        f"value returned NaN or infinity for {np.sum(~finite)} of {len(rows)} coalitions, "
        f"expected finite numbers; the first is {{{', '.join(present)}}}"
    )
