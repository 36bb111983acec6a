"""A value function that every worker makes for itself, so that a large model is not sent with each batch."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Any

from shapkit.games.batches import Payoffs, ValueFunction

_KEPT = 4  # value functions in a process; the one that was used longest ago goes

_made: OrderedDict[bytes, ValueFunction] = OrderedDict()
_lock = RLock()  # `make` may evaluate another of these


def _new_lock() -> None:
    global _lock
    _lock = RLock()  # of a forked process, whose parent's threads are not there to release theirs


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class PerWorker:
    """A value function that is made by `make` once in each process that evaluates it, and kept there.

    A game with an executor sends its value function along with every batch. Of this one nothing but `make` is sent,
    which loads the model where it is needed, from a file or a hub.

    Args:
        make: returns the value function: a function that pickle can name, such as `functools.partial(load, path)`.

    Raises:
        ValueError: `make` is no function, or pickle cannot send it.

    >>> from functools import partial
    >>> from operator import itemgetter
    >>> import shapkit
    >>> value = PerWorker(partial(itemgetter, (slice(None), 0)))  # the payoff is whether the first player takes part
    >>> shapkit.exact(shapkit.Game(value, n_players=2)).values
    array([1., 0.])
    """

    def __init__(self, make: Callable[[], ValueFunction]) -> None:
        if not callable(make):
            raise ValueError(f"make must be a function that returns a value function, got {type(make).__name__}")
        try:
            self._key = pickle.dumps(make)
        except Exception as error:  # PicklingError, AttributeError, TypeError, and what an object raises
            raise ValueError(
                f"make cannot be sent to workers ({error}): they need a function that pickle can name, one defined at "
                "the top of a module; functools.partial binds arguments to it"
            ) from error
        self.make = make

    def __call__(self, coalitions: Any) -> Payoffs:
        """The payoffs of coalitions, by this process's own value function."""
        with _lock:  # threads wait for the one that makes it
            value = _made.get(self._key)
            if value is None:
                value = _made[self._key] = self.make()
                while len(_made) > _KEPT:
                    _made.popitem(last=False)
            _made.move_to_end(self._key)
        payoffs: Payoffs = value(coalitions)
        return payoffs
