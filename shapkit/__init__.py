"""Game-theoretic attribution: what each player of a cooperative game contributes, exactly or estimated.

Importing this package needs NumPy, SciPy and numba. Everything on torch tensors is in
`shapkit.differentiable`.
"""

from shapkit.attribution import Attribution
from shapkit.dummy import DummyResidual, dummy_residual, isolation_residual
from shapkit.estimators import estimate, explain
from shapkit.exact import exact, shapley_values
from shapkit.games import Game, table_game, weighted_voting

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "DummyResidual",
    "Game",
    "dummy_residual",
    "estimate",
    "exact",
    "explain",
    "isolation_residual",
    "shapley_values",
    "table_game",
    "weighted_voting",
]
