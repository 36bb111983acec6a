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
from shapkit.randomness import counter_bits

DEFAULT_BUDGET = 2**16

_MOST_MODELLED_PLAYERS = 1_000  # with more, "auto" samples permutations

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
    method: str = "auto",
    seed: int = 0,
    stop: StoppingRule | None = None,
    progress: bool = False,
) -> Attribution:
    """Return estimated Shapley values with standard errors; exact ones where the budget pays for all coalitions.

    Ctrl-C ends the estimate: what is known by then is returned, with `interrupted` set, and can be extended. Where
    nothing is known by then, KeyboardInterrupt is raised as ever. An executor's workers finish what they have begun.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate, those that the game's cache answers included. Give this, or
            `stop`, or both.
        method: "auto", whose choice the result's `method` names: "exact" where `budget` alone limits the run and pays
            for all coalitions; else "gaussian_process", the most accurate of these per evaluation in
            `benchmarks/accuracy.py`, for up to 1,000 players, and "antithetic" for more, or "permutation" where the
            budget pays for no pair. The Gaussian process takes seconds beside the game; where evaluations cost next to
            nothing, "leverage" with a larger budget is faster. Or a name in `SAMPLERS`, whose classes say what they do:
            "permutation", Castro, Gómez and Tejada (2009); "antithetic", pairs of a permutation and its reverse;
            "stratified", Castro and others (2017); "kernel", KernelSHAP on pairs; "leverage", LeverageSHAP;
            "regression_adjusted", a model of the game and the unbiased correction of its residuals;
            "gaussian_process", a Gaussian process on the odd part of the game.
        seed: an integer in [0, 2**64). The same seed gives the same numbers for every batch size, executor and number
            of workers, and with one seed no two methods draw the same numbers.
        stop: when to stop, such as `StandardError(0.01) | Seconds(60)`; see `shapkit.estimators.stopping`. Rules on
            standard errors are asked whenever the evaluations have grown by a quarter.
        progress: show a bar with an estimate of the time left.

    Returns:
        an Attribution with values and standard_errors (n_players, *output_shape) in the unit of the payoff. Its
        `extend` goes on where the estimate stopped, with the same method.

    Raises:
        ValueError: an unknown method, a budget that is too small for it, a bad seed or rule, or what `Game` raises.
        ImportError: `progress`, and tqdm is not installed.

    >>> import shapkit
    >>> game = shapkit.weighted_voting([4, 4, 4, 3, 3, 2, 2, 1, 1, 1], quota=13)
    >>> phi = estimate(game, budget=200)
    >>> phi.method, phi.n_evaluations, round(float(phi.values.sum()), 9)
    ('gaussian_process', 200, 1.0)
    >>> estimate(game, method="antithetic", stop=StandardError(0.02)).standard_errors.max() <= 0.02
    np.True_
    """
    if method == "auto":
        counter_bits(seed)  # refuses what is no seed, whatever is chosen
        if stop is None and budget is not None and affordable(game, positive_integer("budget", budget)):
            return exact(game, progress=progress)
        method = "gaussian_process" if game.n_players <= _MOST_MODELLED_PLAYERS else "antithetic"
        if method == "antithetic" and budget is not None and budget < 2 * game.n_players:  # pays for no pair
            method = "permutation"
    if method not in SAMPLERS:
        raise ValueError(f"method must be 'auto' or one of {', '.join(map(repr, SAMPLERS))}, got {method!r}")
    run = Run(SAMPLERS[method](game, seed), method)
    return run.go_on(run.limit(0, budget, stop), stop, progress)


def explain(
    game: Game,
    budget: int | None = None,
    seed: int = 0,
    stop: StoppingRule | None = None,
    progress: bool = False,
) -> Attribution:
    """Return Shapley values, exact where `budget` pays for all coalitions and estimated otherwise.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate; by default 2**16, which is exact for up to 16 players.
        seed: as for `estimate`; exact values do not depend on it.
        stop: as for `estimate`, of which `method="auto"` does the work; with a rule, values are not exact unless the
            rule waits for that.
        progress: show a bar with an estimate of the time left.

    Returns:
        an Attribution with values (n_players, *output_shape) in the unit of the payoff. Its `method` says
        which way was taken; `standard_errors` is None when the values are exact.

    Raises:
        ValueError: the budget is too small even for an estimate, a bad seed or rule, or what `Game` raises.
        ImportError: `progress`, and tqdm is not installed.

    >>> import shapkit
    >>> explain(shapkit.table_game([0, 1, 2, 5])).method
    'exact'
    >>> explain(shapkit.weighted_voting(range(20), quota=100), budget=200).method
    'gaussian_process'
    """
    return estimate(game, DEFAULT_BUDGET if budget is None else budget, seed=seed, stop=stop, progress=progress)


def affordable(game: Game, budget: int) -> bool:
    """Return whether `budget` evaluations are enough for exact values."""
    return game.n_players <= MAX_EXACT_PLAYERS and 2**game.n_players <= budget


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
