"""The Möbius transform of a game and its inverse: values of coalitions to dividends and back, in n passes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shapkit import kernels
from shapkit._checks import players_of_table


def moebius_transform(table: ArrayLike, overwrite: bool = False) -> NDArray[np.float64]:
    """Return the dividend of every coalition (Harsanyi 1963), given the value of every coalition.

    The dividend m(S) is what S is worth beyond all its parts: v(S) = Σ_{T ⊆ S} m(T). It is the weight of the
    unanimity game of S. It takes O(n 2**n) additions, and memory for one copy of the table.

    Args:
        table: real numbers (2**n_players, *output_shape); bit i of the index is set when player i is in the coalition.
        overwrite: work in the table itself, which must be a C-contiguous float64 array, and return it.

    Returns:
        float64 array (2**n_players, *output_shape), in the unit of the table.

    Raises:
        ValueError: the first axis is not 1, 2, 4, 8, ... long, or the table is not of real numbers, or cannot be
            overwritten.

    >>> moebius_transform([0, 1, 2, 5])
    array([0., 1., 2., 2.])
    """
    return _transformed(table, -1.0, overwrite)


def zeta_transform(dividends: ArrayLike, overwrite: bool = False) -> NDArray[np.float64]:
    """Return the value of every coalition, given the dividend of every coalition: undoes `moebius_transform`.

    Args:
        dividends: real numbers (2**n_players, *output_shape); bit i of the index is set when player i is in the
            coalition.
        overwrite: as for `moebius_transform`.

    Returns:
        float64 array (2**n_players, *output_shape), in the unit of the dividends.

    Raises:
        ValueError: as for `moebius_transform`.

    >>> zeta_transform([0, 1, 2, 2])
    array([0., 1., 2., 5.])
    """
    return _transformed(dividends, 1.0, overwrite)


def _transformed(table: ArrayLike, sign: float, overwrite: bool) -> NDArray[np.float64]:
    values = np.asarray(table)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"values has dtype {values.dtype}, expected real numbers")
    players_of_table(values)
    if overwrite:
        if (
            values is not table
            or values.dtype != np.float64
            or not values.flags.c_contiguous
            or not values.flags.writeable
        ):
            raise ValueError("overwrite=True needs a writeable C-contiguous float64 array, got something else")
    else:
        values = np.array(values, dtype=np.float64, order="C")
    if values.size:
        kernels.add_subsets(values.reshape(-1), sign, values.size // len(values))
    return values
