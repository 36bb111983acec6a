"""The dummy-player penalty (Theorem 1), the coalitions it compares, and Shapley values of the same games."""

from shapkit.differentiable.penalty.penalty import DummyPlayerPenalty

__all__ = ["DummyPlayerPenalty"]
