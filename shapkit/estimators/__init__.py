"""Estimates of values and interactions from fewer evaluations than there are coalitions, one file per family.

`estimate` is the way in by name; `explain` decides between the exact values and an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import comb

from shapkit._checks import positive_integer
from shapkit.attribution.attribution import Attribution
from shapkit.estimators.choosing import MOST_ENUMERATED_PLAYERS, best_in_time, seconds_each
from shapkit.estimators.gaussian_process.sampler import GaussianProcessSampler
from shapkit.estimators.pairs.kernel import KernelSampler
from shapkit.estimators.pairs.leverage import LeverageSampler
from shapkit.estimators.pairs.shap_iq import ShapIqSampler
from shapkit.estimators.permutation import AntitheticSampler, PermutationSampler
from shapkit.estimators.runs.anytime import Run, Sampler
from shapkit.estimators.runs.known_payoffs import KnownPayoffs
from shapkit.estimators.runs.stopping import Budget, RelativeError, Seconds, StandardError, StoppingRule
from shapkit.estimators.stratified import StratifiedSampler
from shapkit.estimators.surrogates.regression_adjusted import RegressionAdjustedSampler
from shapkit.estimators.surrogates.sparse import SparseSampler
from shapkit.estimators.truncated import TruncatedSampler
from shapkit.exact.indices import MAX_EXACT_PLAYERS, check_orders, exact
from shapkit.exact.interactions import Index, checked_order
from shapkit.games.game import Game
from shapkit.orders import Orders
from shapkit.orders.base import MOST_PREFIXES
from shapkit.randomness import counter_bits

DEFAULT_SECONDS = 60.0
DEFAULT_STOP = RelativeError(0.02) | Seconds(DEFAULT_SECONDS)
"""What ends `explain` without a budget or a rule, where there are too many coalitions to evaluate them all."""

_MOST_MODELLED_PLAYERS = 2_000  # with more, "auto" samples permutations
_MOST_INDEXED_PLAYERS = 1_000  # of indices that only the Gaussian process estimates at any number of evaluations
_MOST_TERMS = 200_000  # of an index: their covariances are formed one by one

SAMPLERS: dict[str, Callable[[Game, int], Sampler]] = {
    "permutation": PermutationSampler,
    "antithetic": AntitheticSampler,
    "stratified": StratifiedSampler,
    "kernel": KernelSampler,
    "leverage": LeverageSampler,
    "regression_adjusted": RegressionAdjustedSampler,
    "gaussian_process": GaussianProcessSampler,
    "sparse": SparseSampler,
    "truncated": TruncatedSampler,
}
"""What `estimate` knows by name: takes the game and a seed, and says what it does in its docstring."""

INDEX_SAMPLERS: dict[str, Callable[[Game, int, Index, int], Sampler]] = {
    "gaussian_process": GaussianProcessSampler,
    "shap_iq": ShapIqSampler,
}
"""Those that estimate any index: they take the index and its order, too."""

ORDER_SAMPLERS: dict[str, Callable[[Game, int, Orders], Sampler]] = {
    "permutation": PermutationSampler,
    "antithetic": AntitheticSampler,
    "truncated": TruncatedSampler,
}
"""Those that estimate values over `orders` that are not all equally likely."""


def estimate(
    game: Game,
    budget: int | None = None,
    method: str | Callable[[Game, int], Sampler] = "auto",
    seed: int = 0,
    stop: StoppingRule | None = None,
    progress: bool = False,
    index: Index = "shapley",
    order: int | None = None,
    orders: Orders | None = None,
) -> Attribution:
    """Return estimated values, or interactions, with standard errors; exact ones once all coalitions are known.

    No run takes more than the 2**n_players evaluations that all coalitions cost: then the values are exact, their
    `standard_errors` are None, and `stopped_by` says so. That holds where the payoffs of all coalitions fit in 32 MiB,
    for up to 22 players; beyond, methods that draw with replacement evaluate all when they have spent as much.

    Ctrl-C ends the estimate: what is known by then is returned, with `interrupted` set, and can be extended. Where
    nothing is known by then, KeyboardInterrupt is raised as usual. An executor's workers finish what they have begun.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate, those included that the game's cache answers and, with few players,
            those that come again and are remembered. Give this, or `stop`, or both.
        method: "auto", whose choice the result's `method` names: "exact" where `budget` alone limits the run and pays
            for all coalitions; else "gaussian_process", the most accurate of these per evaluation in
            `benchmarks/accuracy/`, for up to 2,000 players, and "antithetic" for more, or "permutation" where the
            budget pays for no pair. The Gaussian process takes seconds beside the game. So where `stop` has a clock, a
            few evaluations are timed first, and "sparse" is chosen where the game is so fast that its many evaluations
            are worth more, as `benchmarks/speed/equal_seconds.py` shows; the numbers then depend on the machine's
            speed. Or a name in `SAMPLERS`, whose classes say what they do: "permutation", of Castro, Gómez and Tejada
            (2009); "antithetic", pairs of a permutation and its reverse; "stratified", Castro and others (2017);
            "kernel", KernelSHAP on pairs; "leverage", LeverageSHAP; "regression_adjusted", a model of the game and the
            unbiased correction of its residuals; "gaussian_process", a Gaussian process on the odd part of the game;
            "sparse", a polynomial of few terms, which often is the whole game, and antithetic permutations of what it
            leaves; "truncated", Ghorbani and Zou (2019), permutations that end where the payoff is next to the grand
            coalition's. Or a function of a game and a seed that returns a `Sampler`, such as
            `functools.partial(TruncatedSampler, tolerance=0.05)`.
        seed: an integer in [0, 2**64). The same seed gives the same numbers for every batch size, executor and number
            of workers, and with one seed no two methods draw the same numbers.
        stop: when to stop, such as `StandardError(0.01) | Seconds(60)`; see `StoppingRule`. Rules on
            standard errors are asked whenever the evaluations have grown by a quarter.
        progress: show a bar with an estimate of the time left.
        index: "shapley", or another of `exact`: "banzhaf", or interactions "SII", "k-SII", "STII", "FSII", "BII" and
            "FBII". "auto" estimates them by "gaussian_process", too, from the same evaluations: one run that was asked
            for pairs has the players' values as well. "shap_iq" is unbiased, and assumes nothing of the game.
        order: the largest size of coalition that gets a value; by default 1 for values, 2 for interactions.
        orders: what players join in, if not all orders are equally likely: `Hierarchy`, `Weights` or `Precedence`, as
            for `exact`. They are drawn, in antithetic pairs where an order backwards is as likely as forwards.

    Returns:
        an Attribution with values and standard_errors (n_terms, *output_shape) in the unit of the payoff: a row per
        player, then, of interactions, one per pair, and so on. Its `extend` goes on where the estimate stopped, with
        the same method.

    Raises:
        ValueError: an unknown method or index, a budget that is too small for it, a bad seed or rule, or what `Game`
            raises.
        ImportError: `progress`, and tqdm is not installed.

    >>> import shapkit
    >>> game = shapkit.weighted_voting([4, 4, 4, 3, 3, 2, 2, 1, 1, 1], quota=13)
    >>> phi = estimate(game, budget=200)
    >>> phi.method, phi.n_evaluations, round(float(phi.values.sum()), 9)
    ('gaussian_process', 200, 1.0)
    >>> many = shapkit.weighted_voting(range(20), quota=100)
    >>> estimate(many, method="antithetic", stop=StandardError(0.02) | Budget(100_000)).stopped_by
    'StandardError(0.02)'
    >>> estimate(game, budget=2_000, method="antithetic").stopped_by  # there are 1,024
    'all coalitions'
    >>> joint = shapkit.unanimity_sum(12, [(0, 1, 2), (3, 4)], [6.0, -1.0])
    >>> pairs = estimate(joint, budget=200, index="SII")
    >>> pairs.order, len(pairs.values), round(float(pairs[0, 1]), 1), round(float(pairs[3, 4]), 1)
    (2, 78, 3.0, -1.0)
    """
    order = checked_order(index, order)
    if orders is not None:
        check_orders(orders, index)
    if method == "auto":
        counter_bits(seed)  # refuses what is no seed, whatever is chosen
        if stop is None and budget is not None and affordable(game, positive_integer("budget", budget), orders):
            return exact(game, index, order, progress=progress, orders=orders)
        game = known = KnownPayoffs(game)  # which is not asked again for what is timed
        method = _chosen(known, index, orders, budget, stop)
        if method == "antithetic" and budget is not None and budget < 2 * game.n_players:  # pays for no pair
            method = "permutation"
    if not callable(method) and method not in SAMPLERS and method not in INDEX_SAMPLERS:
        names = dict.fromkeys([*SAMPLERS, *INDEX_SAMPLERS])
        raise ValueError(f"method must be 'auto' or one of {', '.join(map(repr, names))}, got {method!r}")
    run = _run(game, method, seed, index, order, orders)
    return run.go_on(run.limit(0, budget, stop), stop, progress)


def explain(
    game: Game,
    budget: int | None = None,
    seed: int = 0,
    stop: StoppingRule | None = None,
    progress: bool = False,
    index: Index = "shapley",
    order: int | None = None,
    orders: Orders | None = None,
) -> Attribution:
    """Return Shapley values, or another index, exact where that is affordable and estimated otherwise.

    Without `budget` and `stop`, the first evaluations are timed. Where there are at most 2**20 coalitions and they will
    take at most a minute, all are evaluated. Otherwise `DEFAULT_STOP` ends an estimate: standard errors of 2 % of the
    largest value, or a minute. Which of these it was is in `stopped_by`; on another machine it may be another.

    Args:
        game: any number of players.
        budget: the most coalitions to evaluate; values are exact where it pays for all.
        seed: as for `estimate`; exact values do not depend on it.
        stop: as for `estimate`, of which `method="auto"` does the work; with a rule, values are not exact unless the
            rule waits for that.
        progress: show a bar with an estimate of the time left.
        index, order, orders: as for `estimate`.

    Returns:
        an Attribution with values (n_terms, *output_shape) in the unit of the payoff. Its `method` says which way
        was taken, and its `stopped_by` what ended it; `standard_errors` is None when the values are exact.

    Raises:
        ValueError: the budget is too small even for an estimate, a bad seed or rule, or what `Game` raises.
        ImportError: `progress`, and tqdm is not installed.

    >>> import shapkit
    >>> explain(shapkit.table_game([0, 1, 2, 5])).method
    'exact'
    >>> explain(shapkit.weighted_voting(range(20), quota=100), budget=200).method
    'gaussian_process'
    """
    order = checked_order(index, order)
    if budget is not None or stop is not None:
        return estimate(game, budget, seed=seed, stop=stop, progress=progress, index=index, order=order, orders=orders)
    if orders is not None:
        check_orders(orders, index)
    known = KnownPayoffs(game)
    n_all = 2**game.n_players if orders is None else orders.of(game.names).n_prefixes()
    if n_all <= 2**MOST_ENUMERATED_PLAYERS and n_all * seconds_each(known, DEFAULT_SECONDS) <= DEFAULT_SECONDS:
        found = exact(known, index, order, progress=progress, orders=orders)
        return replace(found, n_evaluations=n_all)
    run = _run(known, _chosen(known, index, orders, None, DEFAULT_STOP), seed, index, order, orders)
    return run.go_on(run.limit(0, None, DEFAULT_STOP), DEFAULT_STOP, progress)


def _run(
    game: Game,
    method: str | Callable[[Game, int], Sampler],
    seed: int,
    index: Index,
    order: int,
    orders: Orders | None,
) -> Run:
    if callable(method):
        if orders is not None or index != "shapley":
            raise ValueError("method is a function: bind index and orders to it, with functools.partial, not both")
        name = getattr(getattr(method, "func", method), "__name__", "custom")  # of a partial, too
        return Run(game, lambda known: method(known, seed), name)
    if orders is not None:
        if method not in ORDER_SAMPLERS:
            raise ValueError(
                f"method {method!r} takes all orders for equally likely: leave the method out, or choose one of "
                f"{', '.join(map(repr, ORDER_SAMPLERS))}"
            )
        return Run(game, lambda known: ORDER_SAMPLERS[method](known, seed, orders), method, orders=orders)
    if index == "shapley" and method in SAMPLERS:
        return Run(game, lambda known: SAMPLERS[method](known, seed), method)
    if method not in INDEX_SAMPLERS:
        raise ValueError(
            f"method {method!r} estimates Shapley values only, got index {index!r}: leave the method out, or choose "
            f"one of {', '.join(map(repr, INDEX_SAMPLERS))}"
        )
    if game.n_players > _MOST_INDEXED_PLAYERS:
        raise ValueError(
            f"index {index!r} is estimated for at most {_MOST_INDEXED_PLAYERS:,} players, got {game.n_players:,}: "
            "join players to groups"
        )
    n_terms = sum(comb(game.n_players, size) for size in range(1, order + 1))
    if n_terms > _MOST_TERMS:
        raise ValueError(
            f"index {index!r} of order {order} has {n_terms:,} values for {game.n_players} players, expected at most "
            f"{_MOST_TERMS:,}: choose a smaller order, or join players to groups"
        )
    return Run(game, lambda known: INDEX_SAMPLERS[method](known, seed, index, order), method, index, order)


def _modelling(game: Game, index: Index = "shapley", orders: Orders | None = None) -> str:
    """The method for this number of players, where the budget is no matter."""
    if orders is not None:
        return "antithetic" if orders.reversible else "permutation"
    return "antithetic" if index == "shapley" and game.n_players > _MOST_MODELLED_PLAYERS else "gaussian_process"


def _chosen(
    game: KnownPayoffs, index: Index, orders: Orders | None, budget: int | None, stop: StoppingRule | None
) -> str | Callable[[Game, int], Sampler]:
    """The method that "auto" is; where a clock may end the run, the one that makes the most of its time."""
    method = _modelling(game, index, orders)
    clocked = isinstance(stop, StoppingRule) and math.isfinite(stop.most_seconds)
    if method != "gaussian_process" or index != "shapley" or not clocked or game.n_players < 2:
        return method
    assert stop is not None
    each = seconds_each(game, stop.most_seconds / 10)
    most = min(stop.most_evaluations, budget or math.inf)
    if best_in_time(each, game.n_players, stop.most_seconds, most) == "sparse":
        return partial(SparseSampler, seconds_each=max(each, 1e-9))
    return method


def affordable(game: Game, budget: int, orders: Orders | None = None) -> bool:
    """Return whether `budget` evaluations are enough for exact values."""
    if orders is not None:
        return orders.of(game.names).n_prefixes() <= min(budget, MOST_PREFIXES)
    return game.n_players <= MAX_EXACT_PLAYERS and 2**game.n_players <= budget


__all__ = [
    "DEFAULT_STOP",
    "INDEX_SAMPLERS",
    "ORDER_SAMPLERS",
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
