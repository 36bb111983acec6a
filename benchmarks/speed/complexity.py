"""How many network runs a step of the penalty costs, for K regions: the published forms as they count, and ours.

    python -m benchmarks.speed.complexity          # some minutes; writes docs/results/complexity.json and a picture
    python -m benchmarks.speed.complexity --quick  # seconds, up to six regions, prints only
    python -m benchmarks.speed.complexity --redraw # the picture and the text from the JSON

Every run is counted, none computed from a formula. The published forms are written out below as the paper counts them:
every region has its own game, and no run serves two regions. Liu et al. (2025) state K (K - 1) 2^K evaluations for the
Shapley values of eq. (7), K 2^K by Theorem 1 for eq. (8), and O(K C) for C samples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from shapkit.differentiable import DummyPlayerPenalty, Regions

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "complexity.json"
PICTURE = ROOT / "docs" / "pictures" / "complexity.png"
SAMPLES = 4

Value = Callable[[frozenset[int], int], Tensor]
"""v_k(S): the pixels of region k of the output for coalition S; every call is one run of the network."""


@dataclass
class Network:
    """A small convolutional network that counts its runs."""

    runs: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.runs += 1
        weight = torch.linspace(-0.5, 0.5, x.shape[1] ** 2 * 9, dtype=x.dtype).reshape(x.shape[1], x.shape[1], 3, 3)
        return torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1))


def stripes(n_regions: int) -> Regions:
    """``n_regions`` columns of one pixel each, four pixels high."""
    labels = torch.arange(n_regions).expand(1, 4, n_regions)
    return Regions.from_labels(labels, {str(k): [k] for k in range(n_regions)}, rest=None, dtype=torch.float64)


def images(n_regions: int) -> Tensor:
    return torch.randn(2, 1, 4, n_regions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def value_function(network: Network, x: Tensor) -> Value:
    """v_k(S) with absent regions, which are columns, at zero."""

    def value(coalition: frozenset[int], region: int) -> Tensor:
        members = torch.tensor([player in coalition for player in range(x.shape[3])])
        return network(x * members)[..., region]

    return value


def subsets(players: list[int]) -> list[frozenset[int]]:
    return [frozenset(chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)]


def published_direct(value: Value, n_players: int) -> Tensor:
    """Eq. (7): sum over k and j != k of |Shapley value of j in v_k|, each by the subset formula."""
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(n_players):
        for j in (player for player in range(n_players) if player != k):
            shapley = torch.zeros((), dtype=torch.float64)
            for s in subsets([player for player in range(n_players) if player != j]):  # 2^(K-1), two runs each
                weight = factorial(len(s)) * factorial(n_players - 1 - len(s)) / factorial(n_players)
                shapley = shapley + weight * (value(s | {j}, k) - value(s, k))
            loss = loss + shapley.abs().mean()
    return loss


def published_theorem_1(value: Value, n_players: int) -> Tensor:
    """Eq. (8): sum over k and S without k of ||v_k(S + k) - v_k(k)||^2 + ||v_k(S) - v_k(empty)||^2."""
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(n_players):
        alone = empty = None
        for s in subsets([player for player in range(n_players) if player != k]):  # 2^(K-1), two runs each
            with_k, without = value(s | {k}, k), value(s, k)
            if alone is None or empty is None:  # the first S is empty
                alone, empty = with_k, without
            loss = loss + (with_k - alone).square().mean() + (without - empty).square().mean()
    return loss


def published_sampled(value: Value, n_players: int, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """Eq. (8) by Castro's permutations: C predecessors of k in random orders, with k and without."""
    generator = np.random.default_rng(seed)
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(n_players):
        alone, empty = value(frozenset({k}), k), value(frozenset(), k)
        for _ in range(samples):
            order = [int(player) for player in generator.permutation(n_players)]
            s = frozenset(order[: order.index(k)])
            loss = loss + (value(s | {k}, k) - alone).square().mean() + (value(s, k) - empty).square().mean()
    return loss / samples


@dataclass(frozen=True)
class Form:
    """A way to compute the penalty: ``loss(network, x)``, and what it is said to cost."""

    name: str
    formula: str
    cost: Callable[[int], float]
    loss: Callable[[Network, Tensor], Tensor]


def published(loss: Callable[[Value, int], Tensor]) -> Callable[[Network, Tensor], Tensor]:
    return lambda network, x: loss(value_function(network, x), x.shape[3])


def ours(estimator: Any, fill: Any, samples: int = SAMPLES, given: bool = False) -> Callable[[Network, Tensor], Tensor]:
    """The package's own penalty; ``given`` hands it f(x), as a training step does."""
    penalty = DummyPlayerPenalty(estimator, fill, samples=samples)

    def loss(network: Network, x: Tensor) -> Tensor:
        output = network(x) if given else None
        network.runs -= given  # the training step's own
        return penalty(network, x, stripes(x.shape[3]), output=output, conditions="paired")

    return loss


C = SAMPLES
FORMS = (
    Form("published, eq. (7)", "K (K-1) 2^K", lambda k: k * (k - 1) * 2**k, published(published_direct)),
    Form("published, Theorem 1", "K 2^K", lambda k: k * 2**k, published(published_theorem_1)),
    Form("published, sampled", "2 K (C + 1)", lambda k: 2 * k * (C + 1), published(published_sampled)),
    Form("ours, direct", "2^K", lambda k: 2**k, ours("direct", "zeros")),
    Form("ours, exact", "2^K", lambda k: 2**k, ours("exact", "zeros")),
    Form("ours, shared", "at most C + K + 1", lambda k: C + k + 1, ours("shared", "zeros")),
    Form("ours, exchange", "1", lambda k: 1, ours("grand", "exchange", samples=1, given=True)),
)


def measure(most_players: int) -> list[dict[str, Any]]:
    """Counted runs and seconds of one loss, for every form and K = 2 .. most_players."""
    rows = []
    for n_players in range(2, most_players + 1):
        x = images(n_players)
        for form in FORMS:
            network = Network()
            started = time.perf_counter()
            with torch.no_grad():
                loss = form.loss(network, x)
            seconds = time.perf_counter() - started
            row = {"form": form.name, "n_players": n_players, "runs": network.runs, "seconds": seconds}
            rows.append({**row, "formula": form.cost(n_players), "loss": float(loss)})
        print(f"K = {n_players}: " + ", ".join(f"{row['runs']:,}" for row in rows if row["n_players"] == n_players))
    return rows


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The slope of log2(runs / polynomial) in K of the published forms, by least squares: 1 where they are 2^K."""
    polynomials: dict[str, Callable[[int], int]] = {
        "published, eq. (7)": lambda k: k * (k - 1),
        "published, Theorem 1": lambda k: k,
        "ours, exact": lambda k: 1,
    }
    slopes = {}
    for name, polynomial in polynomials.items():
        points = [(row["n_players"], row["runs"]) for row in rows if row["form"] == name]
        players = [n for n, _ in points]
        slopes[name] = float(np.polyfit(players, [np.log2(runs / polynomial(n)) for n, runs in points], 1)[0])
    return slopes


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the README."""
    rows = results["rows"]
    shown = [n for n in (2, 4, 6, 8, 10, 12) if n <= max(row["n_players"] for row in rows)]
    lines = [f"network runs of one step, counted (C = {results['samples']} samples; seconds in brackets)"]
    lines.append(f"  {'':<22}{'formula':<20}" + "".join(f"{f'K = {n}':>18}" for n in shown))
    for form in FORMS:
        of_form = {row["n_players"]: row for row in rows if row["form"] == form.name}
        cells = [f"{of_form[n]['runs']:,} ({of_form[n]['seconds']:.3g})" if n in of_form else "-" for n in shown]
        lines.append(f"  {form.name:<22}{form.formula:<20}" + "".join(f"{cell:>18}" for cell in cells))
    lines.append("slope of log2(runs / polynomial) over K, 1 for 2^K:")
    lines += [f"  {name:<22}{slope:.4f}" for name, slope in results["exponents"].items()]
    lines += ["", results["machine"]]
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    colours = ("#D55E00", "#E69F00", "#CC79A7", "#000000", "#56B4E9", "#009E73", "#0072B2")
    for form, colour, marker in zip(FORMS, colours, "^v<x.sD", strict=True):
        rows = [row for row in results["rows"] if row["form"] == form.name]
        players = [row["n_players"] for row in rows]
        label = f"{form.name}: {form.formula}"
        axes.plot(players, [row["runs"] for row in rows], color=colour, marker=marker, linestyle="none", label=label)
        axes.plot(players, [row["formula"] for row in rows], color=colour, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xlabel("regions K")
    axes.set_ylabel("network runs per step")
    axes.set_title("Runs counted (marks) and as the formulas say (lines)")
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to six regions; nothing is written")
    parser.add_argument("--redraw", action="store_true", help="draw and print what was measured before")
    arguments = parser.parse_args()
    if arguments.redraw:
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
        draw(measured, PICTURE)
        print(report(measured))
        return
    torch.set_num_threads(1)  # the networks are too small to share
    rows = measure(6 if arguments.quick else 12)
    results = {
        "command": "python -m benchmarks.speed.complexity",
        "machine": machine("torch"),
        "samples": SAMPLES,
        "rows": rows,
        "exponents": exponents(rows),
    }
    print("\n" + report(results))
    if not arguments.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        unfinished = RESULTS.with_suffix(".partial")
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(RESULTS)
        draw(results, PICTURE)


if __name__ == "__main__":
    main()
