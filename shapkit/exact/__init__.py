"""Exact values and interactions, from the payoffs of all coalitions."""

from shapkit.exact.indices import exact, shapley_values

__all__ = ["exact", "shapley_values"]
