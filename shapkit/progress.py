"""Progress bars of long evaluations, drawn by tqdm with an estimate of the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    tqdm = require("tqdm.auto", "progress", "a progress bar")
    with tqdm.tqdm(total=n_evaluations, desc=title, unit=" coalitions", unit_scale=True) as bar:
        yield bar.update
