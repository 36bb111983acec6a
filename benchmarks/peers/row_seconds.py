"""How long the values of a row take at equal error: 1,000 rows of 20 features of a gradient-boosted model.

    python -m benchmarks.peers.row_seconds            # docs/results/row_seconds.json; ten minutes; shap and lightshap
    python -m benchmarks.peers.row_seconds --quick    # 20 rows, prints only
    python -m benchmarks.peers.row_seconds --redraw   # print what was published

The model is scikit-learn's GradientBoostingRegressor, the background 50 rows, and the truth what shap's TreeExplainer
computes of the trees themselves. Every method is run on 100 rows with growing numbers of evaluations; from the first
that reaches the wanted error on, it takes all 1,000 rows, a hundred at a time; a row's time is that of the median
hundred, so that bursts of other work on the machine do not count. The error is the squared one, relative to the sum of
a row's squared values, in the mean over rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shapkit
from benchmarks.machine import machine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "row_seconds.json"
BUDGETS = (42, 64, 100, 150, 225, 340, 510, 770, 1150, 1700, 2600, 3900)
WANTED = (1e-2, 1e-3, 1e-4)
N_FEATURES = 20

Floats = NDArray[np.float64]
Method = Callable[[Any, Floats, Floats, int], Floats]  # predict, rows, background, budget -> values


def problem(n_rows: int) -> tuple[Any, Floats, Floats, Floats]:
    """The model's predict, rows, a background, and the rows' values."""
    import shap
    from sklearn.ensemble import GradientBoostingRegressor

    rng = np.random.default_rng(0)
    table = rng.normal(size=(3_000 + n_rows, N_FEATURES))
    targets = table[:, 0] * table[:, 1] + 2 * table[:, 2] + np.sin(3 * table[:, 3]) * table[:, 4]
    targets += 0.5 * table[:, 5:15].sum(axis=1) + 0.1 * rng.normal(size=len(table))
    model = GradientBoostingRegressor(max_depth=4, random_state=0).fit(table[:3_000], targets[:3_000])
    background, rows = table[:50], table[3_000:]
    trees = shap.TreeExplainer(model, background, feature_perturbation="interventional")
    return model.predict, rows, background, np.asarray(trees.shap_values(rows))


def own(method: str) -> Method:
    """shapkit's, row by row."""

    def explained(predict: Any, rows: Floats, background: Floats, budget: int) -> Floats:
        return shapkit.explain_rows(predict, rows, background, budget=budget, method=method).values

    return explained


def shap_kernel(predict: Any, rows: Floats, background: Floats, budget: int) -> Floats:
    import shap

    explainer = shap.KernelExplainer(predict, background)
    return np.asarray(explainer.shap_values(rows, nsamples=budget, silent=True, l1_reg=0))


def shap_permutation(predict: Any, rows: Floats, background: Floats, budget: int) -> Floats:
    import shap

    explainer = shap.explainers.Permutation(predict, shap.maskers.Independent(background, max_samples=len(background)))
    return np.asarray(explainer(rows, max_evals=budget, silent=True).values)


def lightshap(predict: Any, rows: Floats, background: Floats, budget: int) -> Floats:
    from lightshap import explain_any

    # Its default goes on until its own errors are small; the number of its steps is what it has for a budget
    steps = {"max_iter": max(1, budget // (2 * N_FEATURES)), "tol": 1e-9, "verbose": False}
    return np.asarray(explain_any(predict, rows, background, method="permutation", how="sampling", **steps).shap_values)


METHODS: dict[str, Method] = {
    "shapkit antithetic": own("antithetic"),
    "shapkit leverage": own("leverage"),
    "shapkit gaussian_process": own("gaussian_process"),
    "shap Kernel": shap_kernel,
    "shap Permutation": shap_permutation,
    "LightSHAP": lightshap,
}


def error(found: Floats, truth: Floats) -> float:
    """The squared error relative to the squared values, in the mean over rows."""
    return float(np.mean(((found - truth) ** 2).sum(axis=1) / (truth**2).sum(axis=1)))


def measure(n_rows: int) -> dict[str, Any]:
    """The least budget of every method for every error, and its seconds on all rows."""
    predict, rows, background, truth = problem(n_rows)
    few = min(100, n_rows)
    began = time.perf_counter()
    predict(np.repeat(rows[:few], len(background), axis=0))
    each = (time.perf_counter() - began) / few  # of a coalition
    found = []
    for name, method in METHODS.items():
        method(predict, rows[:2], background, BUDGETS[0])  # what is compiled or imported is
        left = list(WANTED)
        for budget in BUDGETS:
            began = time.perf_counter()
            reached = error(method(predict, rows[:few], background, budget), truth[:few])
            seconds = (time.perf_counter() - began) / few
            while left and reached <= left[0]:
                wanted, rows_taken = left.pop(0), few
                reached_by_all = reached
                if seconds < 0.05 and n_rows > few:
                    values, spent = [], []
                    for first in range(0, n_rows, few):
                        began = time.perf_counter()
                        values.append(method(predict, rows[first : first + few], background, budget))
                        spent.append((time.perf_counter() - began) / few)
                    reached_by_all, rows_taken = error(np.concatenate(values), truth), n_rows
                    seconds = float(np.median(spent))
                found.append(
                    {
                        "method": name,
                        "wanted": wanted,
                        "error": float(f"{reached_by_all:.2g}"),
                        "budget": budget,
                        "milliseconds": float(f"{1e3 * seconds:.3g}"),
                        "rows": rows_taken,
                    }
                )
                print(found[-1], flush=True)
            if not left or seconds > 2:
                break
    return {
        "machine": machine("numpy", "scikit-learn", "shap", "lightshap"),
        "n_rows": n_rows,
        "microseconds_a_coalition": round(1e6 * each),
        "found": found,
    }


def report(measured: dict[str, Any]) -> str:
    """Milliseconds a row, by method and error."""
    lines = [f"{'milliseconds a row at an error of':34}" + "".join(f"{wanted:>16.0e}" for wanted in WANTED)]
    for name in METHODS:
        cells = ""
        for wanted in WANTED:
            row = next((row for row in measured["found"] if (row["method"], row["wanted"]) == (name, wanted)), None)
            cell = "-" if row is None else f"{row['milliseconds']:.1f} ({row['budget']})"
            cells += f"{cell:>16}"
        lines.append(f"{name:34}{cells}")
    lines.append(
        f"in brackets: coalitions a row. {measured['n_rows']:,} rows of {N_FEATURES} features, 50 background rows; "
        f"a coalition takes the model {measured['microseconds_a_coalition']} microseconds."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true", help="print what was published")
    parser.add_argument("--quick", action="store_true", help="20 rows; prints only")
    arguments = parser.parse_args()
    measured = json.loads(RESULTS.read_text()) if arguments.redraw else measure(20 if arguments.quick else 1_000)
    if not (arguments.redraw or arguments.quick):
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    print(report(measured))


if __name__ == "__main__":
    main()
