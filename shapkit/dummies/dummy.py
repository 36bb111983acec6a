"""How far players are from being dummies: Theorem 1 on any game, exact and sampled.

A dummy player adds nothing to any coalition. A Shapley value of zero is weaker: it can come from marginal
contributions that cancel, which the squares measured here cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import positive_integer
from shapkit.coalitions import Coalitions, enumerate_coalitions
from shapkit.estimators.runs.moments import RunningMoments
from shapkit.exact.blocks import block_rows
from shapkit.exact.indices import check_enumerable
from shapkit.games.game import Game
from shapkit.randomness import counter_bits

Method = Literal["exact", "sampled"]


@dataclass(frozen=True, eq=False)
class DummyResidual:
    """A mean of squared differences over coalitions.

    Attributes:
        value: the mean squared norm, in the payoff's unit squared: the sum of per_output.
        standard_error: of `value`; None where it is exact, NaN after one sample.
        per_output: float64 (*output_shape), the mean square of each output element.
        n_evaluations: how many coalitions were evaluated.
    """

    value: float
    standard_error: float | None
    per_output: NDArray[np.float64]
    n_evaluations: int


def dummy_residual(
    game: Game, player: int | str, method: Method = "exact", samples: int = 1_000, seed: int = 0
) -> DummyResidual:
    """Return how far `player` is from being a dummy: the mean over S ⊆ N\\player of ‖v(S ∪ player) − v(S)‖².

    It is zero if and only if the player is a dummy (to rounding, where the game rounds). A sampled residual
    that is not zero proves that the player is no dummy; one that is zero proves nothing about the coalitions
    not drawn.

    Args:
        game: at most 62 players for "exact".
        player: by index or by name.
        method: "exact" takes 2**n_players evaluations; "sampled" takes 2 * samples.
        samples: how many coalitions to draw, uniformly and independently: the estimate is unbiased.
        seed: an integer in [0, 2**64).

    Returns:
        a DummyResidual.

    Raises:
        ValueError: no such player or method, a bad number, too many players for "exact", or what `Game`
            raises.

    >>> import shapkit
    >>> voting = shapkit.weighted_voting([4, 4, 4, 2, 2, 1], quota=12)
    >>> dummy_residual(voting, player=5).value, dummy_residual(voting, player=0).value
    (0.0, 0.3125)
    """
    index = game.player_index(player)
    others = np.arange(game.n_players) != index

    def differences(coalitions: Coalitions) -> NDArray[np.float64]:
        pairs = np.zeros((2, len(coalitions), game.n_players), dtype=np.bool_)
        pairs[:, :, others] = coalitions
        pairs[1, :, index] = True
        without, joined = np.split(game(pairs.reshape(-1, game.n_players)), 2)
        return joined - without

    with game.counted() as n_evaluations:
        blocks = _coalition_blocks(game, game.n_players - 1, method, samples, seed)
        return _mean_squares(method, (differences(block) for block in blocks), n_evaluations)


def isolation_residual(
    game: Game, player: int | str, method: Method = "exact", samples: int = 1_000, seed: int = 0
) -> DummyResidual:
    """Return how far all others are from being dummies: the mean over S ⊆ N of ‖v(S) − v(S ∩ {player})‖².

    This is Theorem 1's own condition, in one line. It is zero if and only if every player other than `player`
    is a dummy (to rounding, where the game rounds). A sampled residual that is not zero proves that one of
    them is not.

    Args:
        game: at most 62 players for "exact".
        player: the one that may matter, by index or by name.
        method: "exact" takes 2**n_players evaluations; "sampled" at most samples + 2.
        samples: how many coalitions to draw, uniformly and independently: the estimate is unbiased.
        seed: an integer in [0, 2**64).

    Returns:
        a DummyResidual.

    Raises:
        ValueError: no such player or method, a bad number, too many players for "exact", or what `Game`
            raises.

    >>> import shapkit
    >>> game = shapkit.Game(lambda coalitions: 3.0 * coalitions[:, 1], n_players=4)
    >>> isolation_residual(game, player=1).value, isolation_residual(game, player=0).value
    (0.0, 4.5)
    """
    index = game.player_index(player)
    others = np.arange(game.n_players) != index
    check_sampling(game.n_players, method, samples)
    references = np.zeros((2, game.n_players), dtype=np.bool_)
    references[1, index] = True

    def differences(coalitions: Coalitions) -> NDArray[np.float64]:
        reference = payoffs_alone[coalitions[:, index].astype(np.intp)]
        accompanied = coalitions[:, others].any(axis=1)  # the rest are the references themselves
        if accompanied.any():
            reference[accompanied] -= game(coalitions[accompanied])
        reference[~accompanied] = 0
        return reference

    with game.counted() as n_evaluations:
        payoffs_alone = game(references)
        blocks = _coalition_blocks(game, game.n_players, method, samples, seed)
        return _mean_squares(method, (differences(block) for block in blocks), n_evaluations)


def _coalition_blocks(game: Game, n_players: int, method: Method, samples: int, seed: int) -> Iterator[Coalitions]:
    """Yield all coalitions of `n_players`, or `samples` random ones, in blocks that suit the size of a payoff."""
    check_sampling(game.n_players, method, samples)
    n_coalitions = 2**n_players if method == "exact" else samples
    start, stop = 0, 1  # the first alone: once it has been evaluated, the size of a payoff is known
    while start < n_coalitions:
        if method == "exact":
            yield next(enumerate_coalitions(n_players, stop - start, start))[1]
        else:
            yield random_coalitions(seed, start, stop, n_players)
        n_rows = block_rows(n_players, math.prod(game.output_shape or ()))
        start, stop = stop, min(stop + n_rows, n_coalitions)


def random_coalitions(seed: int, start: int, stop: int, n_players: int) -> Coalitions:
    """Return independent coalitions number `start` to `stop` - 1, each player in with probability 1/2.

    >>> bool((random_coalitions(0, 0, 9, 4)[5:] == random_coalitions(0, 5, 9, 4)).all())
    True
    """
    bits = counter_bits(seed, np.arange(start, stop)[:, None], np.arange(n_players))
    return np.asarray(bits >> np.uint64(63) == 1)


def check_sampling(n_players: int, method: Method, samples: int) -> None:
    """Raise a ValueError for an unknown method, a bad number of samples, or too many players for "exact".

    >>> check_sampling(3, "exact", samples=1)
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}")
    positive_integer("samples", samples)
    if method == "exact":
        check_enumerable(n_players)


def _mean_squares(
    method: Method, blocks: Iterator[NDArray[np.float64]], n_evaluations: Callable[[], int]
) -> DummyResidual:
    norms, per_output = RunningMoments(), RunningMoments()
    for differences in blocks:
        squares = differences**2
        per_output.add(squares)
        norms.add(squares.reshape(len(squares), -1).sum(axis=1))
    return DummyResidual(
        value=float(norms.mean),
        standard_error=None if method == "exact" else float(norms.standard_error()),
        per_output=per_output.mean,
        n_evaluations=n_evaluations(),
    )
