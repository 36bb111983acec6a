"""Whether other libraries get the same numbers where both define the same.

    python -m benchmarks.peers.equality            # those that are installed; docs/results/equality.json
    python -m benchmarks.peers.equality --redraw   # print what was published

What a library is not installed for keeps the figures that it had: pyDVL 0.10, whose numpy is older than 2, was run in
an environment of its own (numpy, scipy, numba, threadpoolctl and scikit-learn are enough for the core here).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shapkit

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "equality.json"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One thing that two libraries compute.

    Attributes:
        peer: the other library.
        what: in a few words.
        ours: how it is called here.
        run: both results, the peer's first.
        sampled: whether the peer's is an estimate: then the difference is in its standard errors.
    """

    peer: str
    what: str
    ours: str
    run: Callable[[], tuple[Any, Any]]
    sampled: bool = False


def rows_and_model() -> tuple[Floats, Floats, Callable[[Floats], Floats]]:
    """Rows and a background of five features, and a model with interactions."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 5)), rng.normal(size=(20, 5)), curved


def curved(rows: Floats) -> Floats:
    """A model with interactions of two and three features."""
    return np.asarray(rows[:, 0] * rows[:, 1] + np.sin(rows[:, 2]) * np.exp(rows[:, 3] / 3) * rows[:, 4] + rows[:, 0])


def shap_exact() -> tuple[Any, Any]:
    import shap

    rows, background, model = rows_and_model()
    theirs = shap.explainers.Exact(model, shap.maskers.Independent(background, max_samples=100))(rows).values
    return theirs, shapkit.explain_rows(model, rows, background, budget=32).values


def shap_kernel() -> tuple[Any, Any]:
    import shap

    rows, background, model = rows_and_model()
    theirs = shap.KernelExplainer(model, background).shap_values(rows, nsamples=2**5, silent=True)
    return theirs, shapkit.explain_rows(model, rows, background, budget=32).values


def shap_partition() -> tuple[Any, Any]:
    import shap

    rows, background, model = rows_and_model()
    masker = shap.maskers.Partition(background, max_samples=100)
    explainer = shap.explainers.Partition(model, masker)
    theirs = explainer(rows, max_evals=10_000).values
    orders = shapkit.Hierarchy([_nested(masker.clustering, 2 * 5 - 2, 5)])
    return theirs, shapkit.explain_rows(model, rows, background, budget=32, orders=orders).values


def _nested(clustering: Any, node: int, n_leaves: int) -> Any:
    """scipy's linkage as lists in lists."""
    if node < n_leaves:
        return node
    return [_nested(clustering, int(child), n_leaves) for child in clustering[node - n_leaves, :2]]


def shap_tree() -> tuple[Any, Any]:
    import shap
    from sklearn.ensemble import GradientBoostingRegressor

    rows, background, model = rows_and_model()
    trees = GradientBoostingRegressor(random_state=0).fit(background, model(background))
    theirs = shap.TreeExplainer(trees, background, feature_perturbation="interventional").shap_values(rows)
    return theirs, shapkit.explain_rows(trees.predict, rows, background, budget=32).values


def _network() -> tuple[Any, Any, Any]:
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    labels = np.arange(36).reshape(6, 6) // 12 * 2 + (np.arange(6) // 3)
    return network.double(), torch.randn(1, 6, 6, dtype=torch.float64), labels


def captum_exact() -> tuple[Any, Any]:
    import torch
    from captum.attr import ShapleyValues

    network, image, labels = _network()
    mask = torch.as_tensor(labels)[None, None]
    theirs = ShapleyValues(network).attribute(image[None], baselines=0.0, target=1, feature_mask=mask).numpy()[0, 0]
    game = shapkit.model_game(network, image, torch.zeros_like(image)[None], groups=labels[None])
    ours = shapkit.exact(game).output(1)
    return np.array([theirs[labels == int(name)][0] for name in ours.names]), ours.values


def captum_sampling() -> tuple[Any, Any]:
    import torch
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(0)
    network, image, labels = _network()
    mask = torch.as_tensor(labels)[None, None]
    runs = [
        ShapleyValueSampling(network)
        .attribute(image[None], baselines=0.0, target=1, feature_mask=mask, n_samples=25)
        .numpy()[0, 0]
        for _ in range(20)
    ]
    found = np.array([[run[labels == part][0] for part in range(labels.max() + 1)] for run in runs])
    game = shapkit.model_game(network, image, torch.zeros_like(image)[None], groups=labels[None])
    truth = shapkit.exact(game).output(1)
    ours = np.array([truth[str(part)] for part in range(labels.max() + 1)])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    return found.mean(axis=0) / error, ours / error


def sage_payoffs() -> tuple[Any, Any]:
    """SAGE's value function itself: minus the loss of its imputer's mean prediction."""
    import sage

    rows, background, model = rows_and_model()
    targets = np.array([0.5, -1.0, 2.0])
    coalitions = shapkit.coalitions.members_of_masks(np.arange(32), 5)
    imputer = sage.MarginalImputer(lambda x: model(x)[:, None], background)
    loss = sage.utils.MSELoss(reduction="none")
    theirs = [-np.mean(loss(imputer(rows, np.tile(coalition, (3, 1))), targets[:, None])) for coalition in coalitions]
    return np.array(theirs), shapkit.loss_game(model, rows, targets, background)(coalitions)


def sage_values() -> tuple[Any, Any]:
    import sage

    rows, background, model = rows_and_model()
    targets = np.array([0.5, -1.0, 2.0])
    imputer = sage.MarginalImputer(lambda x: model(x)[:, None], background)
    estimator = sage.PermutationEstimator(imputer, "mse", random_state=0)
    theirs = estimator(rows, targets[:, None], n_permutations=20_000, detect_convergence=False, bar=False)
    ours = shapkit.exact(shapkit.loss_game(model, rows, targets, background)).values
    return theirs.values / theirs.std, ours / theirs.std


def _points() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    classes = np.array([0, 1, 0, 1, 1, 0, 1, 0])
    return rng.normal(size=(8, 2)) + classes[:, None], classes, rng.normal(size=(30, 2)) + 0.5, rng.integers(0, 2, 30)


def pydvl_exact() -> tuple[Any, Any]:
    from pydvl.valuation import Dataset, ModelUtility, SupervisedScorer
    from pydvl.valuation.methods import ShapleyValuation
    from pydvl.valuation.samplers import DeterministicUniformSampler
    from pydvl.valuation.stopping import NoStopping
    from sklearn.neighbors import KNeighborsClassifier

    points, classes, tests, wanted = _points()
    model = KNeighborsClassifier(1)
    scorer = SupervisedScorer("accuracy", Dataset(tests, wanted), default=0.0)
    valuation = ShapleyValuation(
        ModelUtility(model, scorer), DeterministicUniformSampler(batch_size=1), NoStopping(), progress=False
    )
    found = valuation.fit(Dataset(points, classes)).result
    return found.values[np.argsort(found.indices)], shapkit.exact(
        shapkit.data_game(model, points, classes, tests, wanted)
    ).values


def pydvl_neighbours() -> tuple[Any, Any]:
    from pydvl.valuation import Dataset
    from pydvl.valuation.methods import KNNShapleyValuation
    from sklearn.neighbors import KNeighborsClassifier

    points, classes, tests, wanted = _points()
    valuation = KNNShapleyValuation(KNeighborsClassifier(3), Dataset(tests, wanted), progress=False)
    found = valuation.fit(Dataset(points, classes)).result
    return found.values[np.argsort(found.indices)], shapkit.knn_values(
        points, classes, tests, wanted, n_neighbours=3
    ).values


COMPARISONS = (
    Comparison("shap", "Exact", "explain_rows(...)", shap_exact),
    Comparison("shap", "Kernel, all coalitions", "explain_rows(...)", shap_kernel),
    Comparison("shap", "Partition", "orders=Hierarchy(...)", shap_partition),
    Comparison("shap", "Tree, interventional", "explain_rows(...)", shap_tree),
    Comparison("captum", "ShapleyValues, feature masks", "model_game(network, groups=labels)", captum_exact),
    Comparison("captum", "ShapleyValueSampling", "the same", captum_sampling, sampled=True),
    Comparison("sage-importance", "MarginalImputer, squared loss", "loss_game(...)", sage_payoffs),
    Comparison("sage-importance", "PermutationEstimator", "exact(loss_game(...))", sage_values, sampled=True),
    Comparison("pyDVL", "Shapley values of data, exact", "exact(data_game(...))", pydvl_exact),
    Comparison("pyDVL", "KNN-Shapley", "knn_values(...)", pydvl_neighbours),
)


def version(package: str) -> str | None:
    """The installed version; None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def largest_difference(comparison: Comparison) -> float:
    """In the unit of the values, or for samples in standard errors."""
    theirs, ours = comparison.run()
    theirs, ours = np.asarray(theirs, dtype=np.float64), np.asarray(ours, dtype=np.float64)
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return float(np.abs(theirs - ours).max())


def report(measured: dict[str, Any]) -> str:
    """A line for each comparison."""
    lines = [f"{'library':22}{'what':34}{'here':38}{'largest difference':>22}"]
    for row in measured["comparisons"]:
        unit = " errors" if row["sampled"] else ""
        library = f"{row['peer']} {row['version']}"
        lines.append(f"{library:22}{row['what']:34}{row['ours']:38}{row['difference']:>{22 - len(unit)}.2g}{unit}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true", help="print what was published")
    published = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"comparisons": []}
    if not parser.parse_args().redraw:
        known = {(row["peer"], row["what"]): row for row in published["comparisons"]}
        rows = []
        for comparison in COMPARISONS:
            row = known.get((comparison.peer, comparison.what))
            if version(comparison.peer):
                row = {
                    "peer": comparison.peer,
                    "version": version(comparison.peer),
                    "what": comparison.what,
                    "ours": comparison.ours,
                    "sampled": comparison.sampled,
                    "difference": float(f"{largest_difference(comparison):.3g}"),
                }
            if row is not None:
                rows.append(row)
        published = {"comparisons": rows}
        RESULTS.write_text(json.dumps(published, indent=1) + "\n")
    print(report(published))


if __name__ == "__main__":
    main()
