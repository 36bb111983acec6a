"""The methods of `benchmarks/accuracy/`: shapkit's own, those of shapiq, shap and captum, and what counts for all.

Another package's methods are named by the package, a space, and the method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shapkit
from shapkit import estimators

Floats = NDArray[np.float64]
Value = Callable[[Any], Any]
Estimate = Callable[[Value, int, int, int], Floats]  # value function, n_players, budget, seed -> values

UNBIASED = ("permutation", "antithetic", "stratified", "regression_adjusted")  # those that claim it
BASELINE = "permutation"
SLOW = ("shapiq ShaplEIG",)  # too slow for all seeds: compared apart, on the seeds it has


class OverBudgetError(RuntimeError):
    """A method asked for more evaluations than its budget."""


class CountedValue:
    """A value function that counts, and refuses, evaluations beyond a budget.

    Each row counts, repeated ones too, except that the payoffs of the empty and the grand coalition are paid for once.
    """

    def __init__(self, value: Value, n_players: int, budget: int) -> None:
        self.value = value
        self.n_players = n_players
        self.budget = budget
        self.n_evaluations = 0
        self._paid: set[int] = set()

    def __call__(self, coalitions: Any) -> Floats:
        rows = np.atleast_2d(np.asarray(coalitions)).astype(bool)
        sizes = rows.sum(axis=1)
        free = (sizes == 0) | (sizes == self.n_players)
        new = set(sizes[free].tolist()) - self._paid
        self.n_evaluations += int((~free).sum()) + len(new)
        self._paid |= new
        if self.n_evaluations > self.budget:
            raise OverBudgetError(f"{self.n_evaluations} evaluations asked for, {self.budget} granted")
        return np.asarray(self.value(rows), dtype=np.float64)


def is_peer(method: str) -> bool:
    """Whether a method is another package's."""
    return " " in method


def shapkit_methods() -> dict[str, Estimate]:
    """Every method that `shapkit.estimate` knows."""
    return {name: shapkit_method(name) for name in registered()}


def registered() -> list[str]:
    """The names of shapkit's methods: its samplers, and the default, which may choose among them."""
    default = inspect.signature(shapkit.estimate).parameters["method"].default
    return list(dict.fromkeys([*estimators.SAMPLERS, default]))


def shapkit_method(name: str) -> Estimate:
    def estimated(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        return shapkit.estimate(shapkit.Game(value, n_players), budget=budget, method=name, seed=seed).values

    return estimated


def peer_methods() -> dict[str, Estimate]:
    """The estimators of other packages, of those that are installed here."""
    return {**_shapiq_methods(), **_shap_methods(), **_captum_methods()}


def _shapiq_methods() -> dict[str, Estimate]:
    try:
        import shapiq.approximator as approximators
    except ImportError:
        print("shapiq is not installed: left out")
        return {}
    makers: dict[str, tuple[str, dict[str, Any]]] = {
        "RegressionMSR": ("RegressionMSR", {"index": "SV"}),
        "RegressionMSR, linear": ("RegressionMSR", {"index": "SV", "proxy_model": "linear"}),
        "OddSHAP": ("OddSHAP", {}),
        "PolySHAP": ("PolySHAP", {"pairing_trick": True}),
        "KernelSHAP": ("KernelSHAP", {"pairing_trick": True}),
        "LeverageSHAP": ("LeverageSHAP", {}),
        "SVARM": ("SVARM", {}),
        "permutation": ("PermutationSamplingSV", {}),
    }
    methods = {}
    for name, (kind, options) in makers.items():
        if hasattr(approximators, kind):
            methods[f"shapiq {name}"] = shapiq_method(getattr(approximators, kind), options)
    return methods


def slow_methods() -> dict[str, Estimate]:
    """shapiq's Bayesian experimental design, where its extra (torch, gpytorch, botorch) is installed."""
    try:
        import torch
        from shapiq.approximator import ShaplEIG
    except ImportError:
        print("shapiq's ShaplEIG is not installed: left out")
        return {}
    torch.set_num_threads(1)
    return {"shapiq ShaplEIG": shapiq_method(ShaplEIG, {"show_progress": False, "refit": "decaying"})}


def shapiq_method(kind: Callable[..., Any], options: dict[str, Any], order: int = 1) -> Estimate:
    """An estimator of shapiq, and of what it finds the coalitions of `order` players."""

    def estimated(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        found = kind(n=n_players, random_state=seed, **options).approximate(budget, value)
        return np.array([float(found[players]) for players in combinations(range(n_players), order)])

    return estimated


def _shap_methods() -> dict[str, Estimate]:
    try:
        import shap
    except ImportError:
        print("shap is not installed: left out")
        return {}

    def permutation(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        masker = shap.maskers.Independent(np.zeros((1, n_players)))
        explainer = shap.explainers.Permutation(value, masker, seed=seed)
        # shap counts 2 n + 1 evaluations for a permutation and its reverse, ends included, which here are paid for once
        n_pairs = max(1, (budget - 2) // (2 * (n_players - 1)))
        explained = explainer(np.ones((1, n_players)), max_evals=n_pairs * (2 * n_players + 1), silent=True)
        return np.asarray(explained.values[0], dtype=np.float64)

    def kernel(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        state = np.random.get_state()
        np.random.seed(seed)  # shap draws from the global generator only
        try:
            explainer = shap.KernelExplainer(value, np.zeros((1, n_players)))
            found = explainer.shap_values(np.ones((1, n_players)), nsamples=budget - 2, l1_reg=False, silent=True)
        finally:
            np.random.set_state(state)
        return np.asarray(found, dtype=np.float64).reshape(n_players)

    return {"shap Permutation": permutation, "shap Kernel": kernel}


def _captum_methods() -> dict[str, Estimate]:
    try:
        import torch
        from captum.attr import ShapleyValueSampling
    except ImportError:
        print("captum is not installed: left out")
        return {}
    torch.set_num_threads(1)

    def sampling(value: Value, n_players: int, budget: int, seed: int) -> Floats:
        def forward(rows: Any) -> Any:
            return torch.as_tensor(value(rows.numpy() > 0.5))

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ones = torch.ones(1, n_players, dtype=torch.float64)
            n_permutations = max(1, (budget - 2) // (n_players - 1))
            found = ShapleyValueSampling(forward).attribute(ones, torch.zeros_like(ones), n_samples=n_permutations)
        return np.asarray(found.numpy()[0], dtype=np.float64)

    return {"captum ShapleyValueSampling": sampling}


METHODS: dict[str, Callable[[], dict[str, Estimate]]] = {
    "shapkit": shapkit_methods,
    "peers": peer_methods,
    "slow": slow_methods,
}
