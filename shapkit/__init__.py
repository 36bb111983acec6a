"""Game-theoretic attribution: what each player of a cooperative game contributes, exactly or estimated.

Importing this package needs NumPy, SciPy, numba and threadpoolctl. Everything on torch tensors is in
`shapkit.differentiable`.
"""

from shapkit._moved import MovedModules
from shapkit.attribution.attribution import Attribution, interaction_terms, to_shap
from shapkit.attribution.attributions import Attributions
from shapkit.attribution.overlays import draw_on_image, text_html
from shapkit.dummies.dummy import DummyResidual, dummy_residual, isolation_residual
from shapkit.dummies.influence import InfluenceGraph, influence_graph
from shapkit.estimators import Budget, RelativeError, Seconds, StandardError, estimate, explain
from shapkit.estimators.many_rows import explain_rows
from shapkit.exact.indices import exact, shapley_values
from shapkit.exact.nearest_neighbours import knn_values
from shapkit.games.absence import GaussianCopula, NearestRows, WeightedRows, summarize
from shapkit.games.cache import CoalitionCache
from shapkit.games.classic import airport_game, bankruptcy_game, glove_game, unanimity_sum, weighted_voting
from shapkit.games.concurrent_calls import ConcurrentCalls
from shapkit.games.data_game import data_game
from shapkit.games.executors import RestartingExecutor
from shapkit.games.game import Game, table_game
from shapkit.games.image_game import image_game, image_segments
from shapkit.games.loss_game import loss_game
from shapkit.games.model_game import model_game
from shapkit.games.per_worker import PerWorker
from shapkit.games.text_game import text_game
from shapkit.orders import Hierarchy, Precedence, Weights
from shapkit.transforms import moebius_transform, zeta_transform

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "Attributions",
    "Budget",
    "CoalitionCache",
    "ConcurrentCalls",
    "DummyResidual",
    "Game",
    "GaussianCopula",
    "Hierarchy",
    "InfluenceGraph",
    "NearestRows",
    "PerWorker",
    "Precedence",
    "RelativeError",
    "RestartingExecutor",
    "Seconds",
    "StandardError",
    "WeightedRows",
    "Weights",
    "airport_game",
    "bankruptcy_game",
    "data_game",
    "draw_on_image",
    "dummy_residual",
    "estimate",
    "exact",
    "explain",
    "explain_rows",
    "glove_game",
    "image_game",
    "image_segments",
    "influence_graph",
    "interaction_terms",
    "isolation_residual",
    "knn_values",
    "loss_game",
    "model_game",
    "moebius_transform",
    "shapley_values",
    "summarize",
    "table_game",
    "text_game",
    "text_html",
    "to_shap",
    "unanimity_sum",
    "weighted_voting",
    "zeta_transform",
]

_MOVED = {
    "batches": "games.batches",
    "cache": "games.cache",
    "classic_games": "games.classic",
    "differentiable.absence": "differentiable.penalty.absence",
    "differentiable.coalition_runs": "differentiable.penalty.coalition_runs",
    "differentiable.comparisons": "differentiable.penalty.comparisons",
    "differentiable.layer_leakage": "differentiable.layers.layer_leakage",
    "differentiable.loss_report": "differentiable.penalty.loss_report",
    "differentiable.region_norm": "differentiable.layers.region_norm",
    "differentiable.statistics": "differentiable.layers.statistics",
    "differentiable.timestep_weights": "differentiable.penalty.weights",
    "differentiable.values": "differentiable.penalty.values",
    "dummy": "dummies.dummy",
    "estimators.anytime": "estimators.runs.anytime",
    "estimators.boosted_trees": "estimators.surrogates.boosted_trees",
    "estimators.game_models": "estimators.surrogates.models",
    "estimators.kernel": "estimators.pairs.kernel",
    "estimators.known_payoffs": "estimators.runs.known_payoffs",
    "estimators.leverage": "estimators.pairs.leverage",
    "estimators.moments": "estimators.runs.moments",
    "estimators.odd_components": "estimators.gaussian_process.components",
    "estimators.odd_kernel": "estimators.gaussian_process.kernel",
    "estimators.odd_kernel_fit": "estimators.gaussian_process.kernel_fit",
    "estimators.own_unit": "estimators.runs.own_unit",
    "estimators.pair_design": "estimators.gaussian_process.pair_design",
    "estimators.paired_regression": "estimators.pairs.regression",
    "estimators.paired_samples": "estimators.pairs.samples",
    "estimators.regression_adjusted": "estimators.surrogates.regression_adjusted",
    "estimators.stopping": "estimators.runs.stopping",
    "executors": "games.executors",
    "influence": "dummies.influence",
    "interactions": "exact.interactions",
    "model_game": "games.model_game",
    "plots": "attribution.plots",
    "superset_sums": "exact.superset_sums",
}
MovedModules(__name__, _MOVED).install()
