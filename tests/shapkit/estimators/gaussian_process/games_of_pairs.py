"""Pairs, kernels and dense covariances, for the tests of both parts of a game."""

from __future__ import annotations

from typing import Any

import numpy as np

from shapkit.coalitions import enumerate_coalitions
from shapkit.estimators.gaussian_process.kernel_fit import KernelFamily
from shapkit.estimators.gaussian_process.pair_design import random_pairs


def all_signs(n_players: int) -> Any:
    _, members = next(enumerate_coalitions(n_players, 2**n_players))
    return np.where(members, 1.0, -1.0)


def some_pairs(n_players: int, n_pairs: int, seed: int = 0) -> Any:
    everybody = np.ones((1, n_players))
    return np.concatenate([everybody, random_pairs(n_players, n_pairs - 1, seed, everybody)])


def some_kernel(n_players: int, n_terms: int = 2, individual: bool = True, seed: int = 0, even: bool = False) -> Any:
    family = KernelFamily(n_players, n_terms, individual, even=even, ends=True)
    start = family.table()[:, 0]
    parameters = start + np.random.default_rng(seed).normal(0, 0.4, len(start))
    return family, parameters, family.kernel(parameters)


def dense_covariance(kernel: Any) -> Any:
    """Of the payoffs of all coalitions: what one has for itself is 1 with itself, and 1 or -1 with the complement."""
    signs = all_signs(kernel.n_players)
    itself = np.eye(len(signs))
    mirrored = itself[::-1] if kernel.even else -itself[::-1]
    own = np.full((len(signs), 1), kernel.rough_variance)
    own[[0, -1]] += kernel.ends_variance
    return kernel.between(signs, signs) + own * (itself + mirrored)


def table_rows(signs: Any) -> Any:
    return ((signs > 0) @ (1 << np.arange(signs.shape[1]))).astype(int)
