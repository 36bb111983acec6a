"""Game-theoretic attribution: what each player of a cooperative game contributes, exactly or estimated.

Importing this package needs NumPy, SciPy and numba. Everything on torch tensors is in
`shapkit.differentiable`.
"""

from shapkit.attribution.attribution import Attribution, interaction_terms, to_shap
from shapkit.dummies.dummy import DummyResidual, dummy_residual, isolation_residual
from shapkit.dummies.influence import InfluenceGraph, influence_graph
from shapkit.estimators import Budget, RelativeError, Seconds, StandardError, estimate, explain
from shapkit.exact.indices import exact, shapley_values
from shapkit.games.cache import CoalitionCache
from shapkit.games.classic import airport_game, bankruptcy_game, glove_game, unanimity_sum, weighted_voting
from shapkit.games.executors import RestartingExecutor
from shapkit.games.game import Game, table_game
from shapkit.games.model_game import model_game
from shapkit.transforms import moebius_transform, zeta_transform

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "Budget",
    "CoalitionCache",
    "DummyResidual",
    "Game",
    "InfluenceGraph",
    "RelativeError",
    "RestartingExecutor",
    "Seconds",
    "StandardError",
    "airport_game",
    "bankruptcy_game",
    "dummy_residual",
    "estimate",
    "exact",
    "explain",
    "glove_game",
    "influence_graph",
    "interaction_terms",
    "isolation_residual",
    "model_game",
    "moebius_transform",
    "shapley_values",
    "table_game",
    "to_shap",
    "unanimity_sum",
    "weighted_voting",
    "zeta_transform",
]
