"""Which players each output of a game depends on: Theorem 1, generalised to a graph, read off a game.

Let A_k be the players who may influence output k. All others are dummies in v_k if and only if v_k(S) = v_k(S ∩ A_k)
for every coalition S; the theorem of Liu et al. (2025) is the case A_k = {k}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapkit.attribution.matrices import matrix_html
from shapkit.coalitions import enumerate_coalitions
from shapkit.dummies.dummy import Method, check_sampling, random_coalitions
from shapkit.estimators.runs.moments import RunningMoments
from shapkit.exact.superset_sums import power_of_two_below
from shapkit.games.batches import Payoffs
from shapkit.games.game import Game

MAX_TABLE_FLOATS = 2**28  # two gigabytes of payoffs
_BLOCK_FLOATS = 2**22
_RELATIVE_TOLERANCE = 1e-6  # single precision, in which most networks compute, rounds at 1e-7


@dataclass(frozen=True, eq=False, repr=False)
class InfluenceGraph:
    """By how much every player moves every output, and which outputs may be said to ignore it.

    Attributes:
        influences: bool (n_players, *output_shape), True where the player moved the output by more than the tolerance.
        mean_squares: float64 (n_players, *output_shape), of the change of the output when the player joins, over the
            coalitions of the others, in the payoff's unit squared: the player's `dummy_residual`.
        standard_errors: float64, of mean_squares; None where those are exact, NaN after one sample.
        largest: float64 (n_players, *output_shape), the largest absolute change seen, in the payoff's unit.
        tolerance: float64 (*output_shape), in the payoff's unit.
        names: one per player.
        method: "exact" or "sampled".
        samples: how many coalitions each change was looked at in.
        n_evaluations: how many coalitions were evaluated.
    """

    influences: NDArray[np.bool_]
    mean_squares: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None
    largest: NDArray[np.float64]
    tolerance: NDArray[np.float64]
    names: tuple[str, ...]
    method: Method
    samples: int
    n_evaluations: int

    def players_of(self, output: int | tuple[int, ...] = ()) -> tuple[str, ...]:
        """Return the names of the players who influence one output element, given by its index.

        Raises:
            IndexError: there is no such output element.
        """
        position = output if isinstance(output, tuple) else (output,)
        if len(position) != self.influences.ndim - 1:
            raise IndexError(
                f"output is {output!r}, expected an index of a payoff of shape {self.influences.shape[1:]}"
            )
        column = np.moveaxis(self.influences, 0, -1)[position]
        return tuple(name for name, moves in zip(self.names, column, strict=True) if moves)

    def missed_share(self, level: float = 0.95) -> float:
        """Return a bound on the share of coalitions in which an ignored player moves the output after all.

        It holds with the confidence `level` for one player and output: were the share larger, no change would have
        shown in `samples` independent coalitions with a probability below 1 - level only. It is 0 where the graph is
        exact.

        Raises:
            ValueError: `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level!r}")
        return 0.0 if self.method == "exact" else 1 - float((1 - level) ** (1 / self.samples))

    def __repr__(self) -> str:
        n_edges, n_possible = int(self.influences.sum()), self.influences.size
        how = "exact" if self.method == "exact" else f"sampled in {self.samples} coalitions"
        return (
            f"InfluenceGraph: {len(self.names)} players, outputs of shape {self.influences.shape[1:]}, "
            f"{n_edges} of {n_possible} possible influences, {how}, {self.n_evaluations} evaluations"
        )

    def _repr_html_(self) -> str:
        """A table with a row for each output, of at most one axis; its cells say how much a player moves it."""
        if self.influences.ndim > 2:
            return f"<p>{self!r}</p>"
        squares = self.mean_squares.reshape(len(self.names), -1).T
        moves = self.influences.reshape(len(self.names), -1).T
        texts = [
            [f"{s:.2g}" if m else "" for s, m in zip(*row, strict=True)] for row in zip(squares, moves, strict=True)
        ]
        outputs = [f"output {number}" for number in range(len(squares))] if self.influences.ndim == 2 else ["payoff"]
        largest = np.maximum(squares.max(axis=1, keepdims=True, initial=0), np.finfo(np.float64).tiny)
        return matrix_html(squares / largest * moves, texts, outputs, self.names, f"{self!r}; mean squared changes")


def influence_graph(
    game: Game, tolerance: float | None = None, method: Method = "exact", samples: int = 100, seed: int = 0
) -> InfluenceGraph:
    """Return which players each output of the game depends on.

    An output ignores a player whose joining never moves it by more than the tolerance, whoever is there already. The
    exact graph is a proof: let A_k be the players who influence output k, then |v_k(S) - v_k(S ∩ A_k)| is at most the
    tolerance times the number of the others, for every coalition S. In the sampled one an influence is proven, and
    that a player is ignored is likely: see `InfluenceGraph.missed_share`.

    Args:
        game: with payoffs of any shape; every element is an output.
        tolerance: in the payoff's unit; by default a millionth of the output's largest |v_k(S) - v_k(∅)| seen, more
            than single precision rounds by.
        method: "exact" takes 2**n_players evaluations and holds all payoffs, of which there may be 2**28 at most;
            "sampled" takes samples * (n_players + 1).
        samples: how many coalitions to draw, uniformly and independently.
        seed: an integer in [0, 2**64).

    Returns:
        an InfluenceGraph.

    Raises:
        ValueError: a bad tolerance, method or number, too many players for "exact", or what `Game` raises.

    >>> game = Game(lambda coalitions: coalitions @ np.array([[1, 0], [2, 0], [0, 3]]), 3, names=["a", "b", "c"])
    >>> graph = influence_graph(game)
    >>> graph.influences.astype(int)
    array([[1, 0],
           [1, 0],
           [0, 1]])
    >>> graph.players_of(0)
    ('a', 'b')
    """
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be a finite number of at least 0, got {tolerance!r}")
    check_sampling(game.n_players, method, samples)
    with game.counted() as n_evaluations:
        empty = game(np.zeros((1, game.n_players), dtype=np.bool_))[0]
        changes = _exact_changes(game, empty) if method == "exact" else _sampled_changes(game, empty, samples, seed)
        squares = [RunningMoments() for _ in range(game.n_players)]
        largest = np.zeros((game.n_players, *empty.shape))
        reach = np.zeros(empty.shape)
        for player, payoffs, differences in changes:
            squares[player].add(differences**2)
            largest[player] = np.maximum(largest[player], np.abs(differences).max(axis=0))
            reach = np.maximum(reach, np.abs(payoffs - empty).max(axis=0))
    limit = _RELATIVE_TOLERANCE * reach if tolerance is None else np.full(empty.shape, float(tolerance))
    errors = [moments.standard_error() for moments in squares]
    return InfluenceGraph(
        influences=largest > limit,
        mean_squares=np.array([moments.mean for moments in squares]).reshape(largest.shape),
        standard_errors=None if method == "exact" else np.array(errors).reshape(largest.shape),
        largest=largest,
        tolerance=limit,
        names=game.names,
        method=method,
        samples=2 ** max(0, game.n_players - 1) if method == "exact" else samples,
        n_evaluations=n_evaluations(),
    )


def _exact_changes(game: Game, empty: Payoffs) -> Iterator[tuple[int, Payoffs, Payoffs]]:
    """For every player, in blocks: payoffs with the player, and those less the payoffs without."""
    n_coalitions = 2**game.n_players
    if n_coalitions * empty.size > MAX_TABLE_FLOATS:
        raise ValueError(
            f"the exact graph holds all payoffs, 2**{game.n_players} of {empty.size} elements, more than "
            f'{MAX_TABLE_FLOATS} in all: use method="sampled"'
        )
    table = np.empty((n_coalitions, *empty.shape))
    table[0] = empty
    n_rows = min(n_coalitions, _block_rows(empty))
    for first, coalitions in enumerate_coalitions(game.n_players, n_rows, start=1):
        table[first : first + len(coalitions)] = game(coalitions)
    for player in range(game.n_players):
        halves = table.reshape(-1, 2, 2**player, *empty.shape)
        n_groups, n_pairs = max(1, n_rows >> player + 1), max(1, n_rows // 2)
        for group in range(0, len(halves), n_groups):
            for pair in range(0, 2**player, n_pairs):
                without, joined = np.moveaxis(halves[group : group + n_groups, :, pair : pair + n_pairs], 1, 0)
                yield player, joined.reshape(-1, *empty.shape), (joined - without).reshape(-1, *empty.shape)


def _sampled_changes(game: Game, empty: Payoffs, samples: int, seed: int) -> Iterator[tuple[int, Payoffs, Payoffs]]:
    """The same in random coalitions, each of which is evaluated once and with every single player changed."""
    n_players = game.n_players
    n_rows = max(1, _block_rows(empty) // (n_players + 1))
    toggled = np.vstack([np.zeros((1, n_players), dtype=np.bool_), np.eye(n_players, dtype=np.bool_)])
    for start in range(0, samples, n_rows):
        drawn = random_coalitions(seed, start, min(start + n_rows, samples), n_players)
        rows = (drawn[:, None] ^ toggled).reshape(len(drawn) * (n_players + 1), n_players)
        payoffs = game(rows).reshape(len(drawn), n_players + 1, *empty.shape)
        for player in range(n_players):
            present = drawn[:, player].reshape(-1, *[1] * empty.ndim)
            own, other = payoffs[:, 0], payoffs[:, 1 + player]
            joined, without = np.where(present, own, other), np.where(present, other, own)
            yield player, joined, joined - without


def _block_rows(empty: Payoffs) -> int:
    return power_of_two_below(_BLOCK_FLOATS // empty.size)
