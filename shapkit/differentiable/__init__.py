"""Games on torch tensors: regions as players, Shapley values with gradients, the dummy-player penalty."""

from shapkit._optional import require

require("torch", extra="torch", purpose="shapkit.differentiable")

from shapkit.differentiable.attention import TokenGraph  # noqa: E402
from shapkit.differentiable.composition import Composition  # noqa: E402
from shapkit.differentiable.layers.layer_leakage import LayerLeakage, layer_leakage  # noqa: E402
from shapkit.differentiable.layers.region_norm import RegionNorm, RegionNorms, replace_group_norm  # noqa: E402
from shapkit.differentiable.layers.statistics import statistics_kept  # noqa: E402
from shapkit.differentiable.penalty.absence import absent_input, partner, standard_noise  # noqa: E402
from shapkit.differentiable.penalty.comparisons import Comparisons  # noqa: E402
from shapkit.differentiable.penalty.loss_report import LossReport  # noqa: E402
from shapkit.differentiable.penalty.penalty import DummyPlayerPenalty  # noqa: E402
from shapkit.differentiable.penalty.values import (  # noqa: E402
    SampledValues,
    all_coalitions,
    exact_values,
    sampled_values,
    shapley_values,
)
from shapkit.differentiable.penalty.weights import min_snr, noise_share, signal_share  # noqa: E402
from shapkit.differentiable.random_state import RandomState  # noqa: E402
from shapkit.differentiable.regions import Regions, Star, allowed_influence, composite, star  # noqa: E402
from shapkit.differentiable.watching import WatchedCall, watching  # noqa: E402

__all__ = [
    "Comparisons",
    "Composition",
    "DummyPlayerPenalty",
    "LayerLeakage",
    "LossReport",
    "RandomState",
    "RegionNorm",
    "RegionNorms",
    "Regions",
    "SampledValues",
    "Star",
    "TokenGraph",
    "WatchedCall",
    "absent_input",
    "all_coalitions",
    "allowed_influence",
    "composite",
    "exact_values",
    "layer_leakage",
    "min_snr",
    "noise_share",
    "partner",
    "replace_group_norm",
    "sampled_values",
    "shapley_values",
    "signal_share",
    "standard_noise",
    "star",
    "statistics_kept",
    "watching",
]
