"""Dummy players: how far a player is from being one (Theorem 1), and who influences what as a graph."""

from shapkit.dummies.dummy import DummyResidual, dummy_residual, isolation_residual
from shapkit.dummies.influence import InfluenceGraph, influence_graph

__all__ = ["DummyResidual", "InfluenceGraph", "dummy_residual", "influence_graph", "isolation_residual"]
