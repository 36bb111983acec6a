"""Attribution, the one type of result: what each player is worth, and how that was found out.

It can be looked up by name, saved, plotted and handed to shap.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shapkit._optional import require
from shapkit.games import checked_names, player_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILE_FORMAT = "shapkit.Attribution 1"
_ARRAYS = ("values", "standard_errors", "empty_value", "grand_value")
_SHOWN_PLAYERS = 40
_SHOWN_OUTPUTS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """The values of all players of a game.

    Attributes:
        values: float64 (n_players, *output_shape), in the unit of the payoff.
        standard_errors: float64, like values; None where the values are exact, NaN where one sample says
            nothing.
        empty_value: float64 (*output_shape), the payoff of the empty coalition.
        grand_value: float64 (*output_shape), the payoff of all players together.
        n_evaluations: how many coalitions were evaluated.
        names: one per player.
        index: "shapley" or "banzhaf".
        method: how the values were had, "exact" or the estimator's name.

    Raises:
        ValueError: the arrays' shapes do not fit together, or the names do not fit them.

    >>> import shapkit
    >>> phi = shapkit.exact(shapkit.table_game([0, 1, 2, 5], names=["eyes", "nose"]))
    >>> phi
    Attribution: shapley values of 2 players, exact, 4 evaluations
      nobody 0, everybody 5
      eyes  2
      nose  3
    >>> float(phi["nose"]), float(phi[0])
    (3.0, 2.0)
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None
    empty_value: NDArray[np.float64]
    grand_value: NDArray[np.float64]
    n_evaluations: int
    names: tuple[str, ...]
    index: str
    method: str

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.values.ndim == 0 or len(self.values) == 0:
            raise ValueError(
                f"values must have shape (n_players, *output_shape), n_players >= 1, got {self.values.shape}"
            )
        object.__setattr__(self, "names", checked_names(self.names, len(self.values)))
        expected = {"standard_errors": self.values.shape, "empty_value": self.output_shape}
        expected["grand_value"] = self.output_shape
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape} to fit values {self.values.shape}")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of a payoff; () for a scalar game."""
        return self.values.shape[1:]

    @property
    def efficiency_gap(self) -> NDArray[np.float64]:
        """Sum of values less (grand_value - empty_value), (*output_shape): zero, to rounding, for Shapley."""
        return np.asarray(self.values.sum(axis=0) - (self.grand_value - self.empty_value))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, player: int | str) -> NDArray[np.float64]:
        """Return the value (*output_shape) of a player, given by name or by index.

        Raises:
            KeyError: no player has that name.
            IndexError: no player has that index.
        """
        try:
            return np.asarray(self.values[player_index(player, self.names)])
        except ValueError as error:
            raise (KeyError if isinstance(player, str) else IndexError)(str(error)) from None

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        lines = [
            f"Attribution: {self.index} values of {len(self)} player{plural}, {self.method}, "
            f"{self.n_evaluations} evaluations",
            f"  nobody {_shown(self.empty_value)}, everybody {_shown(self.grand_value)}",
        ]
        width = max(len(name) for name in self.names[:_SHOWN_PLAYERS])
        for player, name in enumerate(self.names[:_SHOWN_PLAYERS]):
            error = "" if self.standard_errors is None else f" ± {_shown(self.standard_errors[player], digits=2)}"
            lines.append(f"  {name:<{width}}  {_shown(self.values[player])}{error}")
        if len(self) > _SHOWN_PLAYERS:
            lines.append(f"  ... and {len(self) - _SHOWN_PLAYERS} more players")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to `path`, in NumPy's npz format without pickle.

        The file is written under another name in the same folder and renamed, so that `path` never holds half
        a file.

        Raises:
            OSError: the file cannot be written.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        facts = {name: getattr(self, name) for name in ("n_evaluations", "names", "index", "method")}
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        try:
            with partial.open("xb") as file:
                np.savez(file, facts=np.array(json.dumps({"format": _FILE_FORMAT, **facts})), **arrays)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Return what `save` wrote to `path`.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: the file is not one that `save` wrote.
        """
        with Path(path).open("rb") as file:
            try:
                with np.load(file, allow_pickle=False) as stored:
                    arrays = {name: stored[name] for name in stored.files}
                facts = json.loads(str(arrays.pop("facts")))
                if facts.pop("format") != _FILE_FORMAT:
                    raise ValueError("unknown format")
                return cls(**{"standard_errors": None, **arrays, **facts, "names": tuple(facts["names"])})
            except Exception as error:
                raise ValueError(f"{os.fspath(path)} is not a file that Attribution.save wrote ({error})") from error

    def to_shap(self) -> Any:
        """Return the values as a `shap.Explanation` of one sample, for shap's plots.

        Its values are (n_players, *output_shape), outputs last; its base_values are the empty coalition's
        payoff, a float or (*output_shape). Standard errors have no place in it.

        Raises:
            ImportError: shap is not installed.
            ValueError: the index is not "shapley": shap's plots need values that sum to the payoff.
        """
        if self.index != "shapley":
            raise ValueError(f"to_shap() needs values that sum to the payoff, index 'shapley'; this is {self.index!r}")
        shap = require("shap", "plots", "Attribution.to_shap()")
        base = float(self.empty_value) if self.output_shape == () else self.empty_value.copy()
        return shap.Explanation(values=self.values.copy(), base_values=base, feature_names=list(self.names))

    def plot(self, output: int | tuple[int, ...] | None = None, ax: Axes | None = None) -> Axes:
        """Draw one bar per player, with the standard error as error bar, and return the axes.

        Args:
            output: which output element, where the payoff is not a scalar.
            ax: axes to draw in; by default those of a new figure.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: `output` does not name one output element.
        """
        from shapkit import plots

        return plots.bars(self, output=output, ax=ax)


def _shown(numbers: NDArray[np.float64], digits: int = 4) -> str:
    """A payoff in a line: the number itself, or the first few in brackets."""
    flat = np.ravel(numbers)
    text = " ".join(f"{number:.{digits}g}" for number in flat[:_SHOWN_OUTPUTS])
    if np.ndim(numbers) == 0:
        return text
    return f"[{text}{' ...' if flat.size > _SHOWN_OUTPUTS else ''}]"
