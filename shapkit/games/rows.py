"""Rows of features in every form that models take: arrays, tables, tensors and sparse matrices.

What they have in common: the row to explain, the rows that give absent features, and how the two are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import from_torch, is_tensor

Fill = Literal["marginal", "baseline"]
Chosen: TypeAlias = slice | NDArray[np.intp]
"""Which rows of a background."""


class Rows(Protocol):
    """The row to explain and its background, in the form that the model takes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row's features."""

    @property
    def n_background(self) -> int:
        """How many rows give absent features."""

    @property
    def names(self) -> list[str] | None:
        """Of the features, flat; None where the rows bring none."""

    def mixed(self, present: NDArray[np.bool_], background: Chosen) -> Any:
        """Return rows (n_coalitions * n_rows, *shape), the background running fastest.

        Args:
            present: (n_coalitions, n_features), which features are the row's own.
            background: the part of it that gives the others, of n_rows.
        """

    def as_numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return all rows flat, (n_background + 1, n_features), the explained one last, and which are categories.

        Raises:
            ValueError: a feature is neither a number nor a category.
        """

    def of_numbers(self, table: NDArray[np.float64]) -> Any:
        """Return flat rows (n_rows, n_features) in the form that the model takes."""


def rows_of(row: Any, background: Any, fill: Fill) -> Rows:
    """Return the rows in the background's form.

    Raises:
        ValueError: the two do not fit together, or there is no mean of the background.
    """
    if is_frame(background):
        return _FrameRows.of(row, background, fill)
    if is_polars(background):
        return _PolarsRows.of(row, background, fill)
    if is_tensor(background) or is_tensor(row):
        return _TensorRows.of(row, background, fill)
    if is_sparse(background) or is_sparse(row):
        return _SparseRows.of(row, background, fill)
    return _ArrayRows.of(row, background, fill)


def is_frame(rows: Any) -> bool:
    """Return whether these are a pandas DataFrame, or what behaves as one."""
    return hasattr(rows, "iloc") and hasattr(rows, "columns")


def is_polars(rows: Any) -> bool:
    """Return whether this is a polars DataFrame, without importing polars."""
    return type(rows).__module__.partition(".")[0] == "polars" and hasattr(rows, "gather_every")


def is_sparse(rows: Any) -> bool:
    """Return whether these are a sparse matrix or array of scipy's.

    >>> from scipy.sparse import eye
    >>> is_sparse(eye(2)), is_sparse(np.eye(2))
    (True, False)
    """
    return hasattr(rows, "tocsr") and hasattr(rows, "nnz")


@dataclass(frozen=True, eq=False)
class _ArrayRows:
    row: NDArray[Any]
    filler: NDArray[Any]
    names: list[str] | None

    @classmethod
    def of(cls, row: Any, background: Any, fill: Fill) -> _ArrayRows:
        filler = np.array(background)
        filler = filler[None] if filler.ndim == 1 else filler
        explained = np.array(row, dtype=object if filler.dtype == object else None)
        _check_shapes(explained.shape, filler.shape)
        if fill == "baseline" and len(filler) > 1:
            filler = _mean_row(lambda: filler.mean(axis=0)[None])
        return cls(explained.reshape(filler.shape[1:]), filler, _labels(row))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.row.shape

    @property
    def n_background(self) -> int:
        return len(self.filler)

    def mixed(self, present: NDArray[np.bool_], background: Chosen) -> NDArray[Any]:
        own = present.reshape(-1, 1, *self.shape)
        return np.where(own, self.row, self.filler[background]).reshape(-1, *self.shape)

    def as_numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return _coded(np.concatenate([self.filler, self.row[None]]).reshape(len(self.filler) + 1, -1).T)

    def of_numbers(self, table: NDArray[np.float64]) -> NDArray[Any]:
        return table.reshape(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class _TensorRows:
    """On the device and in the type of the background, or of the row where the background is no tensor."""

    row: Any
    filler: Any
    names: None = None

    @classmethod
    def of(cls, row: Any, background: Any, fill: Fill) -> _TensorRows:
        torch: Any = import_module("torch")  # there, since one of the two is its tensor
        like = background if is_tensor(background) else row
        filler = torch.as_tensor(background).to(device=like.device).detach()
        filler = filler[None] if filler.ndim == 1 else filler
        explained = torch.as_tensor(row).to(device=like.device).detach()
        _check_shapes(tuple(explained.shape), tuple(filler.shape))
        if fill == "baseline" and len(filler) > 1:
            filler = _mean_row(lambda: filler.mean(dim=0)[None])
        common = torch.promote_types(explained.dtype, filler.dtype)
        return cls(explained.reshape(filler.shape[1:]).to(common), filler.to(common))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.row.shape)

    @property
    def n_background(self) -> int:
        return len(self.filler)

    def mixed(self, present: NDArray[np.bool_], background: Chosen) -> Any:
        torch: Any = import_module("torch")
        own = torch.as_tensor(present, device=self.row.device).reshape(-1, 1, *self.shape)
        chosen = background if isinstance(background, slice) else torch.as_tensor(background, device=self.row.device)
        return torch.where(own, self.row, self.filler[chosen]).reshape(-1, *self.shape)

    def as_numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        rows = [np.asarray(from_torch(part)).reshape(-1, prod(self.shape)) for part in (self.filler, self.row)]
        return _coded(np.concatenate(rows).T)

    def of_numbers(self, table: NDArray[np.float64]) -> Any:
        torch: Any = import_module("torch")
        return torch.as_tensor(table, dtype=self.row.dtype, device=self.row.device).reshape(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class _SparseRows:
    """As CSR; only what is stored is copied, so that many features, of text, take little memory."""

    row: Any
    filler: Any
    names: list[str] | None

    @classmethod
    def of(cls, row: Any, background: Any, fill: Fill) -> _SparseRows:
        sparse: Any = import_module("scipy.sparse")
        explained, filler = (sparse.csr_array(np.atleast_2d(r) if not is_sparse(r) else r) for r in (row, background))
        _check_shapes(explained.shape, filler.shape)
        if fill == "baseline" and filler.shape[0] > 1:
            filler = sparse.csr_array(np.asarray(filler.mean(axis=0)).reshape(1, -1))
        common = np.result_type(explained.dtype, filler.dtype)
        return cls(explained.astype(common), filler.astype(common), _labels(row))

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.filler.shape[1]),)

    @property
    def n_background(self) -> int:
        return int(self.filler.shape[0])

    def mixed(self, present: NDArray[np.bool_], background: Chosen) -> Any:
        sparse: Any = import_module("scipy.sparse")
        n_rows = len(np.arange(self.n_background)[background])
        coalition = np.repeat(np.arange(len(present)), n_rows)
        absent = sparse.vstack([self.filler[background]] * len(present), format="csr")
        stored = np.repeat(coalition, np.diff(absent.indptr))
        absent.data = np.where(present[stored, absent.indices], 0, absent.data)
        members, columns = present[:, self.row.indices].nonzero()
        entries = self.row.data[columns], (members, self.row.indices[columns])
        own = sparse.csr_array(entries, shape=(len(present), self.shape[0]), dtype=self.row.dtype)
        mixed = absent + own[coalition]
        mixed.eliminate_zeros()
        return sparse.csr_matrix(mixed)  # which older models take too

    def as_numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return _coded(np.concatenate([self.filler.toarray(), self.row.toarray()]).T)

    def of_numbers(self, table: NDArray[np.float64]) -> Any:
        sparse: Any = import_module("scipy.sparse")
        return sparse.csr_matrix(table)


@dataclass(frozen=True, eq=False)
class _FrameRows:
    stacked: Any
    """The rows that give absent features, and below them the row to explain."""

    @classmethod
    def of(cls, row: Any, background: Any, fill: Fill) -> _FrameRows:
        return cls(_stacked_frame(row, background, fill))

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.stacked.shape[1]),)

    @property
    def n_background(self) -> int:
        return len(self.stacked) - 1

    @property
    def names(self) -> list[str]:
        return [str(column) for column in self.stacked.columns]

    def mixed(self, present: NDArray[np.bool_], background: Chosen) -> Any:
        last = self.n_background
        rows = np.where(present[:, None], last, np.arange(last)[background][:, None]).reshape(-1, present.shape[1])
        columns = {at: self.stacked.iloc[:, at].array.take(rows[:, at]) for at in range(present.shape[1])}
        return type(self.stacked)(columns).set_axis(self.stacked.columns, axis=1)

    def as_numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return _coded([self.stacked.iloc[:, at].to_numpy() for at in range(self.stacked.shape[1])])

    def of_numbers(self, table: NDArray[np.float64]) -> Any:
        return type(self.stacked)(table, columns=self.stacked.columns)


@dataclass(frozen=True, eq=False)
class _PolarsRows:
    stacked: Any
    """The rows that give absent features, and below them the row to explain."""

    @classmethod
    def of(cls, row: Any, background: Any, fill: Fill) -> _PolarsRows:
        polars: Any = import_module("polars")  # there, since the background is one of its frames
        if is_polars(row):
            missing = [column for column in background.columns if column not in row.columns]
            if missing:
                raise ValueError(f"row lacks {', '.join(missing)}, which the background has")
            frame = row.select(background.columns)
        else:
            values = np.array(row, dtype=object).reshape(-1)
            _check_shapes(np.shape(row), background.shape)
            frame = polars.DataFrame({name: [value] for name, value in zip(background.columns, values, strict=True)})
        _check_shapes(frame.shape, background.shape)
        filler = background
        if fill == "baseline" and len(background) > 1:
            filler = _mean_row(
                lambda: polars.DataFrame({name: [background[name].to_numpy().mean()] for name in background.columns})
            )
        return cls(polars.concat([filler, frame], how="vertical_relaxed"))

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.stacked.width),)

    @property
    def n_background(self) -> int:
        return int(self.stacked.height) - 1

    @property
    def names(self) -> list[str]:
        return list(self.stacked.columns)

    def mixed(self, present: NDArray[np.bool_], background: Chosen) -> Any:
        last = self.n_background
        rows = np.where(present[:, None], last, np.arange(last)[background][:, None]).reshape(-1, present.shape[1])
        columns = {name: self.stacked[name].gather(rows[:, at]) for at, name in enumerate(self.stacked.columns)}
        return type(self.stacked)(columns)

    def as_numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return _coded([self.stacked[name].to_numpy() for name in self.stacked.columns])

    def of_numbers(self, table: NDArray[np.float64]) -> Any:
        return type(self.stacked)(table, schema=self.stacked.columns, orient="row")


def _coded(columns: Iterable[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Columns of numbers as they are and others by the number of their value: (n_rows, n_columns), which are others."""
    coded, category = [], []
    for column in map(np.asarray, columns):
        try:
            coded.append(column.astype(np.float64))
            category.append(column.dtype.kind == "b")
        except (TypeError, ValueError):
            coded.append(np.unique(column.astype(str), return_inverse=True)[1].astype(np.float64))
            category.append(True)
    return np.stack(coded, axis=1), np.array(category, dtype=np.bool_)


def _labels(row: Any) -> list[str] | None:
    """The names that a Series or a DataFrame of one row brings."""
    labels = row.columns if is_frame(row) else row.index if hasattr(row, "to_frame") else None
    return None if labels is None else [str(label) for label in labels]


def _stacked_frame(row: Any, background: Any, fill: Fill) -> Any:
    """A DataFrame: the rows that give absent features, and below them the row to explain."""
    pandas: Any = import_module("pandas")  # there, since the background is one of its frames
    columns = background.columns
    if is_frame(row) or hasattr(row, "to_frame"):  # a Series has the latter
        frame = row if is_frame(row) else row.to_frame().T
        missing = [str(column) for column in columns if column not in frame.columns]
        if missing:
            raise ValueError(f"row lacks {', '.join(missing)}, which the background has")
        frame = frame[columns]
    else:
        _check_shapes(np.shape(row), background.shape)
        frame = pandas.DataFrame([list(np.array(row, dtype=object).reshape(-1))], columns=columns)
    _check_shapes(frame.shape, background.shape)
    filler = background
    if fill == "baseline" and len(background) > 1:
        means = _mean_row(lambda: background.mean().to_numpy(dtype=np.float64))
        filler = pandas.DataFrame([means], columns=columns)
    typed = {at: _with_type(frame.iloc[:, at], filler.iloc[:, at].dtype) for at in range(len(columns))}
    stacked = pandas.concat([filler.set_axis(range(len(columns)), axis=1), pandas.DataFrame(typed)], ignore_index=True)
    return stacked.set_axis(columns, axis=1)


def _with_type(column: Any, dtype: Any) -> Any:
    """A column of that type, or as it is where the type cannot hold its value: pandas then finds a common one."""
    if hasattr(dtype, "categories") and not (column.isin(dtype.categories) | column.isna()).all():
        return column
    try:
        typed = column.astype(dtype)
    except (TypeError, ValueError):
        return column
    same = (typed.isna() & column.isna()) | (typed.astype(object) == column.astype(object))
    return typed if same.all() else column


def _check_shapes(row: tuple[int, ...], background: tuple[int, ...]) -> None:
    if len(background) < 2 or 0 in background:
        expected = "(n_background, n_features)" if len(background) < 3 else "(n_background, *shape of the row)"
        raise ValueError(f"background has shape {background}, expected {expected}, with at least one row and column")
    if row not in (background[1:], (1, *background[1:])):
        raise ValueError(f"row has shape {row}, expected {background[1:]}: the features of one row of the background")


def _mean_row(mean: Callable[[], Any]) -> Any:
    try:
        return mean()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"fill 'baseline' takes the mean of the background, which is not numbers throughout ({error}): "
            "give a background of one row, whose values stand for absence"
        ) from error


def rows_like(rows: Any, table: NDArray[np.float64]) -> Any:
    """Return a table (n_rows, *shape) as a frame of the columns of `rows`, where they are one.

    >>> rows_like(np.zeros((3, 2)), np.ones((1, 2)))
    array([[1., 1.]])
    """
    if is_frame(rows):
        return type(rows)(table, columns=rows.columns)
    return type(rows)(table, schema=rows.columns, orient="row") if is_polars(rows) else table


def single_rows(rows: Any) -> list[Any]:
    """Return rows one by one, each as `model_game` takes it.

    >>> [row.tolist() for row in single_rows(np.eye(2))]
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if is_frame(rows):
        return [rows.iloc[at : at + 1] for at in range(len(rows))]
    if is_polars(rows):
        return [rows[at : at + 1] for at in range(rows.height)]
    if is_sparse(rows):
        compressed = rows.tocsr()
        return [compressed[[at]] for at in range(compressed.shape[0])]
    return list(rows)


def feature_names(shape: tuple[int, ...]) -> list[str]:
    """Return the names of features that have none: their places in the row.

    >>> feature_names((2,)), feature_names((1, 2))
    (['0', '1'], ['0,0', '0,1'])
    """
    places = np.stack(np.unravel_index(np.arange(prod(shape)), shape), axis=1)
    return [",".join(map(str, place)) for place in places]
