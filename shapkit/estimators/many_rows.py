"""Many rows of a model explained, one game each, with the same numbers for any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from shapkit._checks import checked_integer
from shapkit.attribution.attribution import Attribution
from shapkit.attribution.attributions import Attributions
from shapkit.estimators import estimate, explain
from shapkit.estimators.runs.stopping import StoppingRule
from shapkit.exact.interactions import Index
from shapkit.games.game import Game
from shapkit.games.model_game import Fill, Groups, model_game
from shapkit.games.predictions import Link, Output, Predict
from shapkit.games.rows import is_frame, single_rows
from shapkit.orders import Orders
from shapkit.progress import evaluations_bar
from shapkit.randomness import counter_bits

_STREAM = 0x726F7773  # of the rows' seeds


def explain_rows(
    predict: Predict,
    rows: Any,
    background: Any,
    budget: int | None = None,
    stop: StoppingRule | None = None,
    seed: int = 0,
    index: Index = "shapley",
    order: int | None = None,
    fill: Fill = "marginal",
    names: Sequence[str] | None = None,
    groups: Groups | None = None,
    labels: Sequence[str] | None = None,
    max_rows: int = 2**14,
    executor: Executor | None = None,
    progress: bool = False,
    output: Output | None = None,
    link: Link = "identity",
    orders: Orders | None = None,
    method: str = "auto",
) -> Attributions:
    """Return the attributions of several rows: `explain` of each row's `model_game`.

    Args:
        predict, background, fill, names, groups, max_rows, output, link: as for `model_game`.
        rows: what `model_game` takes as `row`, one after the other: an array (n_rows, *shape), a DataFrame, a tensor
            or a sparse matrix.
        budget, stop, index, order, orders: as for `explain`, for each row.
        seed: an integer in [0, 2**64); each row has a seed of its own, made of it and the row's number.
        method: as for `estimate`. With a fast model "antithetic" or "leverage" take less time for the same error, at
            more evaluations; without a budget and a rule, "auto" finds out.
        labels: of the rows; by default a DataFrame's index, or their numbers.
        executor: explains rows at once, in threads or, where the model can be pickled, in processes.
        progress: show a bar over the rows.

    Raises:
        ValueError: there are no rows, or what `model_game` and `explain` raise, with the number of the row.
        ImportError: `progress`, and tqdm is not installed.

    >>> import numpy as np
    >>> found = explain_rows(lambda rows: rows @ [1.0, 2.0], rows=[[3, 4], [1, 0]], background=np.zeros((1, 2)))
    >>> found.values
    array([[3., 8.],
           [1., 0.]])
    """
    checked_integer("seed", seed, least=0)
    counter_bits(seed)  # refuses what is too large
    single = single_rows(rows)
    if not single:
        raise ValueError("rows is empty, expected at least one row to explain")
    if labels is None and is_frame(rows):
        labels = [str(label) for label in rows.index]
    games = [
        model_game(
            predict,
            row,
            background,
            fill=fill,
            names=names,
            groups=groups,
            max_rows=max_rows,
            output=output,
            link=link,
        )
        for row in single
    ]
    seeds = [int(counter_bits(seed, _STREAM, number)) for number in range(len(games))]
    asked = [
        (game, own, number, budget, stop, index, order, orders, method)
        for number, (game, own) in enumerate(zip(games, seeds, strict=True))
    ]
    found = []
    with evaluations_bar("rows", len(games), progress) as done:
        for attribution in (executor.map if executor is not None else map)(_explained, asked):
            found.append(attribution)
            done(1)
    return Attributions(found, labels)


def _explained(
    asked: tuple[Game, int, int, int | None, StoppingRule | None, Index, int | None, Orders | None, str],
) -> Attribution:
    """One row, in whatever worker; what goes wrong says where."""
    game, seed, number, budget, stop, index, order, orders, method = asked
    try:
        if method == "auto":
            return explain(game, budget, seed=seed, stop=stop, index=index, order=order, orders=orders)
        return estimate(game, budget, method, seed, stop, index=index, order=order, orders=orders)
    except Exception as error:
        error.add_note(f"raised while row {number} was explained")
        raise
