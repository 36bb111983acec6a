"""Progress bars of long evaluations, drawn by tqdm with an estimate of the time left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shapkit._optional import require


@contextmanager
def evaluations_bar(title: str, n_evaluations: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function to be told how many more coalitions have been evaluated.

    Raises:
        ImportError: a bar is to be shown, and tqdm is not installed.

    >>> with evaluations_bar("exact", 8, shown=False) as done:
    ...     done(8)
    """
    if not shown:
        yield lambda n_more: None
        return
    with _bar(title, n_evaluations, 0) as bar:
        yield bar.update


@contextmanager
def forecast_bar(title: str, n_known: int, shown: bool) -> Iterator[Callable[[int, float], object]]:
    """Yield a function to be told how many coalitions have been evaluated, and how many will be in the end.

    The second may change as the work goes on, and is infinite while it is unknown.

    Args:
        title: what stands before the bar.
        n_known: how many coalitions had been evaluated before; they do not count for the speed.
        shown: whether there is a bar.

    Raises:
        ImportError: a bar is to be shown, and tqdm is not installed.

    >>> with forecast_bar("permutation", 0, shown=False) as report:
    ...     report(10, 1000.0)
    """
    if not shown:
        yield lambda n_evaluations, n_expected: None
        return
    with _bar(title, None, n_known) as bar:

        def report(n_evaluations: int, n_expected: float) -> None:
            bar.total = math.ceil(n_expected) if math.isfinite(n_expected) else None
            bar.update(n_evaluations - bar.n)

        yield report


def _bar(title: str, total: int | None, initial: int) -> Any:
    tqdm = require("tqdm.auto", "progress", "a progress bar")
    return tqdm.tqdm(total=total, initial=initial, desc=title, unit=" coalitions", unit_scale=True)
