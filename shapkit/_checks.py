"""What arguments must be: every check here returns the checked value or says which argument is wrong, and how."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapkit.coalitions import MAX_MASK_PLAYERS

_SHOWN_PLAYERS = 10


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
    if isinstance(player, bool | np.bool_):
        raise ValueError(f"player must be a name or an index, got {player!r}: of a mask, give np.flatnonzero(mask)")
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
    if is_masked(numbers):
        raise ValueError(
            f"{subject} masked entries, expected numbers: fill them, with .filled(number), or leave them out"
        )
    try:
        array = np.asarray(numbers)
    except Exception as error:  # ragged lists; tensors on a GPU or with a gradient
        raise ValueError(
            f"{subject} something NumPy cannot convert to an array ({type(numbers).__name__}: {error})"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{subject} dtype {array.dtype}, expected real numbers")
    return array.astype(np.float64, copy=False)


def is_tensor(numbers: Any) -> bool:
    """Return whether this is a torch tensor, without importing torch."""
    return type(numbers).__module__.partition(".")[0] == "torch" and hasattr(numbers, "detach")


def from_torch(numbers: Any) -> Any:
    """Return a torch tensor, on any device and with a gradient or not, as what NumPy converts; all else as it is."""
    if not is_tensor(numbers):
        return numbers
    found = numbers.detach().cpu()
    return found.float() if str(found.dtype) == "torch.bfloat16" else found  # which NumPy does not have


def is_masked(numbers: Any) -> bool:
    """Return whether an array, or one in a list, is a NumPy masked array with entries that are masked.

    NumPy converts those to what lies under the mask, without a word.

    >>> is_masked(np.ma.masked_array([1.0, 2.0], mask=[False, True])), is_masked(np.ma.masked_array([1.0, 2.0]))
    (True, False)
    """
    if isinstance(numbers, list | tuple):
        return any(map(is_masked, numbers))
    return bool(np.ma.isMaskedArray(numbers) and np.ma.getmaskarray(numbers).any())


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
