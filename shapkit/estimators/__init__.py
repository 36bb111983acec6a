"""Estimates of Shapley values from fewer evaluations than there are coalitions, one file per family.

`estimate` is the way in by name; `explain` decides between the exact values and an estimate.
"""

from __future__ import annotations

from collections.abc import Callable

from shapkit._checks import positive_integer
from shapkit.attribution import Attribution
from shapkit.estimators.anytime import Run, Sampler
from shapkit.estimators.gaussian_process import GaussianProcessSampler
from shapkit.estimators.kernel import KernelSampler
from shapkit.estimators.leverage import LeverageSampler
from shapkit.estimators.permutation import AntitheticSampler, PermutationSampler
from shapkit.estimators.regression_adjusted import RegressionAdjustedSampler
from shapkit.estimators.stopping import Budget, RelativeError, Seconds, StandardError, StoppingRule
from shapkit.estimators.stratified import StratifiedSampler
from shapkit.exact import MAX_EXACT_PLAYERS, exact
from shapkit.games import Game

DEFAULT_BUDGET = 2**16

SAMPLERS: dict[str, Callable[[Game, int], Sampler]] = {
    "permutation": PermutationSampler,
    "antithetic": AntitheticSampler,
    "stratified": StratifiedSampler,
    "kernel": KernelSampler,
    "leverage": LeverageSampler,
    "regression_adjusted": RegressionAdjustedSampler,
    "gaussian_process": GaussianProcessSampler,
}
"""What `estimate` knows by name: takes the game and a seed, and says what it does in its docstring."""


def estimate(
    game: Game,
    budget: int | None = None,
    method: str = "permutation",
    seed: int = 0,
    stop: StoppingRule | None = None,
    progress: bool = False,
) -> Attribution:
    """Return estimated Shapley values with standard errors.

    Ctrl-C ends the estimate: what is known by then is returned, with `interrupted` set, and can be extended. Where
    nothing is known by then, KeyboardInterrupt is raised as ever. An executor's workers finish what they have begun.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate, those that the game's cache answers included. Give this, or
            `stop`, or both.
        method: a name in `SAMPLERS`, whose classes say what they do: "permutation", Castro, Gómez and Tejada (2009);
            "antithetic", pairs of a permutation and its reverse; "stratified", Castro and others (2017); "kernel",
            KernelSHAP on pairs; "leverage", LeverageSHAP; "regression_adjusted", a model of the game and the unbiased
            correction of its residuals; "gaussian_process", a Gaussian process on the odd part of the game.
        seed: an integer in [0, 2**64). The same seed gives the same numbers for every batch size, executor and number
            of workers, and with one seed no two methods draw the same numbers.
        stop: when to stop, such as `StandardError(0.01) | Seconds(60)`; see `shapkit.estimators.stopping`. Rules on
            standard errors are asked whenever the evaluations have grown by a quarter.
        progress: show a bar with an estimate of the time left.

    Returns:
        an Attribution with values and standard_errors (n_players, *output_shape) in the unit of the payoff. Its
        `extend` goes on where the estimate stopped.

    Raises:
        ValueError: an unknown method, a budget that is too small for it, a bad seed or rule, or what `Game` raises.
        ImportError: `progress`, and tqdm is not installed.

    >>> import shapkit
    >>> phi = estimate(shapkit.table_game([0, 1, 2, 5]), budget=402)
    >>> phi.method, phi.n_evaluations, float(phi.values.sum())
    ('permutation', 402, 5.0)
    >>> estimate(shapkit.weighted_voting([3, 2, 1, 1], quota=4), stop=StandardError(0.01)).standard_errors.max() <= 0.01
    np.True_
    """
    if method not in SAMPLERS:
        raise ValueError(f"method must be one of {', '.join(map(repr, SAMPLERS))}, got {method!r}")
    run = Run(SAMPLERS[method](game, seed), method)
    return run.go_on(run.limit(0, budget, stop), stop, progress)


def explain(game: Game, budget: int | None = None, seed: int = 0) -> Attribution:
    """Return Shapley values, exact where `budget` pays for all coalitions and estimated otherwise.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate; by default 2**16, which is exact for up to 16 players.
        seed: as for `estimate`; exact values do not depend on it.

    Returns:
        an Attribution with values (n_players, *output_shape) in the unit of the payoff. Its `method` says
        which way was taken; `standard_errors` is None when the values are exact.

    Raises:
        ValueError: the budget is too small even for an estimate, a bad seed, or what `Game` raises.

    >>> import shapkit
    >>> explain(shapkit.table_game([0, 1, 2, 5])).method
    'exact'
    >>> explain(shapkit.weighted_voting(range(20), quota=100), budget=500).method
    'permutation'
    """
    budget = DEFAULT_BUDGET if budget is None else positive_integer("budget", budget)
    if game.n_players <= MAX_EXACT_PLAYERS and 2**game.n_players <= budget:
        return exact(game)
    return estimate(game, budget, seed=seed)


__all__ = [
    "DEFAULT_BUDGET",
    "SAMPLERS",
    "Budget",
    "RelativeError",
    "Sampler",
    "Seconds",
    "StandardError",
    "StoppingRule",
    "estimate",
    "explain",
]
