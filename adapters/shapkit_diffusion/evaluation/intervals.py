"""Bootstrap intervals over images, with randomness that is named and not drawn from a generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from shapkit.randomness import counter_uniform

Floats: TypeAlias = NDArray[np.float64]
Method = Literal["percentile", "bca"]
Statistic = Callable[[Floats], Floats]
"""From rows (..., n, columns) to a number for each leading index, (...)."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval.

    >>> print(Interval(0.5, 0.25, 1.0))
    0.5 [0.25, 1]
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def to_json(self) -> dict[str, float]:
        """The four numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: equal settings give equal intervals.

    Args:
        method: ``"percentile"``, or ``"bca"``, which corrects for bias and skewness (Efron 1987).
        level: share of intervals that should cover the truth.
        replicates: resamples of the images.
        seed: names the resamples. Statistics of the same images with the same seed share their resamples.

    Raises:
        ValueError: for an unknown method, a level outside (0, 1), or no replicates.
    """

    method: Method = "percentile"
    level: float = 0.95
    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {self.level}")
        if self.replicates < 1:
            raise ValueError(f"replicates must be at least 1, got {self.replicates}")


DEFAULT_BOOTSTRAP = Bootstrap()


def bootstrap(statistic: Statistic, rows: Floats, how: Bootstrap = DEFAULT_BOOTSTRAP) -> Interval:
    """Interval of a statistic of independent rows (Efron and Tibshirani 1993, chapters 13 and 14).

    Args:
        statistic: see ``Statistic``; it must not depend on the order of the rows.
        rows: float64 (n, columns), one row for each image.

    Returns:
        the statistic of all rows and its interval; NaN where the statistic of all rows, or of a resample, is NaN.

    Raises:
        ValueError: if rows is no matrix with at least one row.

    >>> bootstrap(lambda rows: rows[..., 0].mean(axis=-1), np.arange(9.0)[:, None], Bootstrap(replicates=500)).value
    4.0
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"rows must be (n, columns) with at least one row, got {rows.shape}")
    n_rows = len(rows)
    value = float(statistic(rows))
    # The floor of n u is at most n - 1 as u <= 1 - 2**-53 and n is far below 2**53.
    uniform = counter_uniform(how.seed, np.arange(how.replicates)[:, None], np.arange(n_rows))
    replicates = np.asarray(statistic(rows[(uniform * n_rows).astype(np.int64)]))
    if not (np.isfinite(value) and np.isfinite(replicates).all()):
        return Interval(value, float("nan"), float("nan"), how.level)
    tails = np.array([(1 - how.level) / 2, (1 + how.level) / 2])
    if how.method == "bca":
        tails = _corrected(tails, statistic, rows, value, replicates)
    low, high = np.quantile(replicates, tails)
    return Interval(value, float(low), float(high), how.level)


def _corrected(tails: Floats, statistic: Statistic, rows: Floats, value: float, replicates: Floats) -> Floats:
    """Efron (1987): the tails of the BCa interval, moved for the bias and the skewness of the statistic."""
    if len(rows) < 2 or replicates.min() == replicates.max():
        return tails
    # Half of the ties count as below, so that a symmetric discrete statistic has no bias.
    share = ((replicates < value).sum() + 0.5 * (replicates == value).sum()) / len(replicates)
    edge = 0.5 / len(replicates)
    bias = ndtri(np.clip(share, edge, 1 - edge))
    kept = ~np.eye(len(rows), dtype=bool)
    without = np.asarray([float(statistic(rows[keep])) for keep in kept])
    deviations = without.mean() - without
    spread = (deviations**2).sum() ** 1.5
    acceleration = (deviations**3).sum() / (6 * spread) if spread > 0 else 0.0
    moved = bias + ndtri(tails)
    return np.asarray(ndtr(bias + moved / (1 - acceleration * moved)))
