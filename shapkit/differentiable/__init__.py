"""Games on torch tensors: regions as players, Shapley values with gradients, the dummy-player penalty."""

from shapkit._optional import require

require("torch", extra="torch", purpose="shapkit.differentiable")

from shapkit.differentiable.absence import absent_input, partner  # noqa: E402
from shapkit.differentiable.loss_report import LossReport  # noqa: E402
from shapkit.differentiable.penalty import DummyPlayerPenalty  # noqa: E402
from shapkit.differentiable.regions import Regions, Star, allowed_influence, composite, star  # noqa: E402
from shapkit.differentiable.statistics import statistics_kept  # noqa: E402
from shapkit.differentiable.values import all_coalitions, shapley_values  # noqa: E402

__all__ = [
    "DummyPlayerPenalty",
    "LossReport",
    "Regions",
    "Star",
    "absent_input",
    "all_coalitions",
    "allowed_influence",
    "composite",
    "partner",
    "shapley_values",
    "star",
    "statistics_kept",
]
