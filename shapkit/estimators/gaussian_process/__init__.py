"""The Gaussian process on the odd part of the game."""

from shapkit.estimators.gaussian_process.sampler import GaussianProcessSampler

__all__ = ["GaussianProcessSampler"]
