"""Attributions of many rows: one object to look at, summarise, save and hand on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit._files import read_arrays, reading_what, write_arrays
from shapkit._optional import require
from shapkit.attribution.attribution import ARRAYS, FACTS, Attribution, to_shap
from shapkit.attribution.text import term_label

Floats = NDArray[np.float64]

_FILE_FORMAT = "shapkit.Attributions 1"
_SHARED = ("names", "index", "order")
_OF_EACH = tuple(name for name in FACTS if name not in _SHARED)


@dataclass(frozen=True, eq=False, repr=False)
class Attributions:
    """The attributions of several rows by one model: of the same players, with one index.

    Attributes:
        rows: one Attribution for each row.
        labels: of the rows; "0", "1", ... by default.

    Raises:
        ValueError: there are no rows, they have different players, indices or payoffs, or the labels do not fit.

    >>> import shapkit
    >>> games = [shapkit.table_game([0, 1, 2, 3 + row], names=["a", "b"]) for row in range(3)]
    >>> found = Attributions([shapkit.exact(game) for game in games])
    >>> found
    Attributions: shapley values of 2 players, 3 rows
    >>> found.values[:, 0], float(found[1]["a"])
    (array([1. , 1.5, 2. ]), 1.5)
    """

    rows: Sequence[Attribution]
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        rows = tuple(self.rows)
        if not rows or not all(isinstance(row, Attribution) for row in rows):
            raise ValueError("rows must be a list of at least one Attribution")
        first = rows[0]
        for number, row in enumerate(rows):
            for what in _SHARED:
                own, common = getattr(row, what), getattr(first, what)
                if own != common:
                    raise ValueError(
                        f"row {number} has {what} {own!r:.80}, the first {common!r:.80}: all must be the same"
                    )
            if row.output_shape != first.output_shape:
                raise ValueError(f"row {number} has payoffs {row.output_shape}, the first {first.output_shape}")
        object.__setattr__(self, "rows", rows)
        labels = [str(number) for number in range(len(rows))] if self.labels is None else list(map(str, self.labels))
        if len(labels) != len(rows):
            raise ValueError(f"labels has {len(labels)} entries, expected one for each of the {len(rows)} rows")
        object.__setattr__(self, "labels", tuple(labels))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the players."""
        return self.rows[0].names

    @property
    def index(self) -> str:
        """What the values are."""
        return self.rows[0].index

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of a payoff; () for one number."""
        return self.rows[0].output_shape

    @property
    def values(self) -> Floats:
        """float64 (n_rows, n_terms, *output_shape), in the unit of the payoff."""
        return np.stack([row.values for row in self.rows])

    @property
    def standard_errors(self) -> Floats | None:
        """Like values, zero in rows that are exact; None where all are."""
        if all(row.standard_errors is None for row in self.rows):
            return None
        return np.stack(
            [np.zeros_like(row.values) if row.standard_errors is None else row.standard_errors for row in self.rows]
        )

    @property
    def n_evaluations(self) -> int:
        """Of coalitions, in all rows together."""
        return sum(row.n_evaluations for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.rows)

    @overload
    def __getitem__(self, which: int) -> Attribution: ...
    @overload
    def __getitem__(self, which: slice) -> Attributions: ...
    def __getitem__(self, which: int | slice) -> Attribution | Attributions:
        """Return the attribution of one row, or the attributions of a slice of them."""
        if isinstance(which, slice):
            assert self.labels is not None
            return Attributions(self.rows[which], self.labels[which])
        return self.rows[which]

    def __repr__(self) -> str:
        first = self.rows[0]
        order = f", order {first.order}" if first.order > 1 else ""
        players, rows = ("s" if n != 1 else "" for n in (len(first.names), len(self)))
        return f"Attributions: {self.index} values of {len(first.names)} player{players}{order}, {len(self)} row{rows}"

    def _repr_html_(self) -> str:
        return (
            f"<p>{self!r}</p>{self.to_frame().to_html(max_rows=20)}" if self.output_shape == () else f"<p>{self!r}</p>"
        )

    def output(self, where: int | tuple[int, ...]) -> Attributions:
        """Return the attributions of one element of the payoff: see `Attribution.output`."""
        return Attributions([row.output(where) for row in self.rows], self.labels)

    def mean_absolute(self) -> tuple[Floats, Floats]:
        """Return the mean of the absolute values over the rows, and its standard error, both (n_terms, *output_shape).

        Global importance, as of shap's bar plot. The error is that of the rows as a sample of rows like them, which
        holds what the estimates of single rows are wrong by, and how they differ; NaN for one row.

        >>> import shapkit
        >>> found = Attributions([shapkit.exact(shapkit.table_game([0, v])) for v in (1, -3)])
        >>> found.mean_absolute()
        (array([2.]), array([1.]))
        """
        sizes = np.abs(self.values)
        if len(self) < 2:
            return sizes.mean(axis=0), np.full(sizes.shape[1:], np.nan)
        return sizes.mean(axis=0), sizes.std(axis=0, ddof=1) / np.sqrt(len(self))

    def to_frame(self) -> Any:
        """Return a pandas DataFrame (n_rows, n_terms) of the values; columns of several players are joined with " × ".

        Raises:
            ImportError: pandas is not installed.
            ValueError: the payoff is not a scalar: choose one element with `output`.
        """
        pandas: Any = require("pandas", extra="plots", purpose="Attributions.to_frame()")
        if self.output_shape != ():
            raise ValueError(
                f"the payoffs have shape {self.output_shape}: choose one element with .output(...), a table has one "
                "number in each cell"
            )
        columns = [term_label(self.rows[0], row) for row in range(len(self.rows[0]))]
        return pandas.DataFrame(self.values, index=list(self.labels or ()), columns=columns)

    def to_shap(self, data: ArrayLike | None = None) -> Any:
        """Return a `shap.Explanation` (n_rows, n_players), for shap's beeswarm, bar, heatmap and scatter plots.

        Args:
            data: what each player was in each row, (n_rows, n_players).

        Raises:
            ImportError, ValueError: as the function `to_shap`.
        """
        return to_shap(list(self.rows), data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to `path`, in NumPy's npz format without pickle, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        assert self.labels is not None
        facts = {
            "format": _FILE_FORMAT,
            "labels": list(self.labels),
            **{name: getattr(self.rows[0], name) for name in _SHARED},
            "rows": [{name: getattr(row, name) for name in _OF_EACH} for row in self.rows],
        }
        arrays = {}
        for name in ARRAYS:
            parts = [getattr(row, name) for row in self.rows]
            known = [part is not None for part in parts]
            if any(known):
                like = np.full_like(next(part for part in parts if part is not None), np.nan)
                arrays[name] = np.stack([like if part is None else part for part in parts])
                arrays[f"{name}_known"] = np.array(known)
        write_arrays(path, {"facts": np.array(json.dumps(facts)), **arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attributions:
        """Return what `save` wrote to `path`.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: the file is not one that `save` wrote.
        """
        with reading_what("Attributions.save", path):
            arrays = read_arrays(path, ("facts", *ARRAYS, *(f"{name}_known" for name in ARRAYS)))
            facts = json.loads(str(arrays.pop("facts")))
            if facts["format"] != _FILE_FORMAT:
                raise ValueError(f"its format is {facts['format']!r}, expected {_FILE_FORMAT!r}")
            shared = {name: facts[name] for name in _SHARED} | {"names": tuple(facts["names"])}
            rows = []
            for number, own in enumerate(facts["rows"]):
                parts: dict[str, Any] = {
                    name: arrays[name][number] if name in arrays and arrays[f"{name}_known"][number] else None
                    for name in ARRAYS
                }
                rows.append(Attribution(**parts, **shared, **own))
            return cls(rows, facts["labels"])
