"""The games of `benchmarks/accuracy/`: players, payoffs, and exact Shapley values to measure estimates against.

Games of up to 16 players are tables of all their payoffs, made once and kept in a folder, so that interpreters
without scikit-learn or torch play exactly the same games. The two voting games are too large for tables; their
exact values are counted with generating functions. The other large games have closed forms. No estimator was tuned on
any of these games.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import shapkit

Floats = NDArray[np.float64]
Coalitions = NDArray[np.bool_]

# Electors of the 50 states in alphabetical order and of the District of Columbia, after the census of 2020
ELECTORS = (
    9, 3, 11, 6, 54, 10, 7, 3, 30, 16, 4, 4, 19, 11, 6, 6, 8, 8, 4, 10, 11, 15, 10, 6, 10,
    4, 5, 6, 4, 14, 5, 28, 16, 3, 17, 7, 8, 19, 4, 9, 3, 11, 40, 6, 3, 13, 12, 4, 10, 3, 3,
)  # fmt: skip
# Votes of the 27 member states in the Council of the European Union, 2007-2014 (treaty of Nice)
COUNCIL = (29,) * 4 + (27,) * 2 + (14, 13) + (12,) * 5 + (10,) * 3 + (7,) * 5 + (4,) * 5 + (3,)

VOTING_GAMES: dict[str, tuple[tuple[int, ...], int]] = {
    "electoral college": (ELECTORS, 270),
    "council of the EU": (COUNCIL, 255),
}


class BenchmarkGame(NamedTuple):
    """A game, as a value function of bool arrays (n_coalitions, n_players), and its exact Shapley values."""

    name: str
    n_players: int
    value: Callable[[Coalitions], Floats]
    exact: Floats


def open_game(name: str, folder: Path) -> BenchmarkGame:
    """The game of that name; its table is made, and kept in `folder`, where it is not there yet."""
    if name in VOTING_GAMES:
        return voting(name)
    table = kept_table(name, TABLES[name], folder)
    return table_as_game(name, table)


def voting(name: str) -> BenchmarkGame:
    """A voting game, with its power indices as exact values."""
    weights, quota = VOTING_GAMES[name]
    game = shapkit.weighted_voting(weights, quota)

    def value(coalitions: Coalitions) -> Floats:
        return np.asarray(game.value(coalitions), dtype=np.float64)

    return BenchmarkGame(name, len(weights), value, shapley_shubik(weights, quota))


def large_airport(name: str, n_players: int, seed: int) -> BenchmarkGame:
    """An airport game of too many players for a table."""
    costs = runway_costs(n_players, seed)
    return BenchmarkGame(name, n_players, shapkit.airport_game(costs).value, airport_values(costs))


def large_unanimity(name: str, n_players: int, seed: int) -> BenchmarkGame:
    """A sum of three unanimity games for each player, too many players for a table."""
    carriers, weights = dividends(n_players, seed, n_carriers=3 * n_players, sizes=(2, 7), signed=True)
    game = shapkit.unanimity_sum(n_players, carriers, weights)
    return BenchmarkGame(name, n_players, game.value, unanimity_values(n_players, carriers, weights))


def table_as_game(name: str, table: Floats) -> BenchmarkGame:
    """The game whose coalition with mask m is worth table[m]."""
    game = shapkit.table_game(table)
    return BenchmarkGame(name, game.n_players, game.value, shapkit.shapley_values(table))


def kept_table(name: str, make: Callable[[], Floats], folder: Path) -> Floats:
    """The table in `folder`, or a new one that is written there."""
    path = folder / f"{name.replace(' ', '-')}.npz"
    if path.exists():
        with np.load(path) as stored:
            return np.asarray(stored["payoffs"])
    table = np.asarray(make(), dtype=np.float64)
    folder.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    with partial_path.open("wb") as file:
        np.savez_compressed(file, payoffs=table)
    partial_path.replace(path)
    return table


def shapley_shubik(weights: ArrayLike, quota: int) -> Floats:
    """Exact Shapley values of a weighted voting game with integer weights, by generating functions.

    Mann and Shapley (1962): the number of coalitions of every size and weight is a coefficient of the product of
    (1 + x y^w). Dividing the factor of a player out leaves the coalitions of the others. Counts below 2**53 are
    exact in float64, which they are up to 54 players or so.
    """
    votes = [int(weight) for weight in np.asarray(weights)]
    n_players = len(votes)
    counts = np.zeros((n_players + 1, sum(votes) + 1))
    counts[0, 0] = 1
    for weight in votes:
        counts[1:, weight:] += counts[:-1, : counts.shape[1] - weight].copy()
    values = np.zeros(n_players)
    for player, weight in enumerate(votes):
        others = counts.copy()
        for size in range(1, n_players + 1):
            others[size, weight:] -= others[size - 1, : counts.shape[1] - weight]
        pivotal = others[:n_players, max(quota - weight, 0) : quota].sum(axis=1)
        orders = np.array([n_players * comb(n_players - 1, size) for size in range(n_players)], dtype=np.float64)
        values[player] = (pivotal / orders).sum()
    return values


def all_coalitions(n_players: int) -> Coalitions:
    """All coalitions, row m that with mask m: bool (2**n_players, n_players)."""
    return np.asarray((np.arange(2**n_players)[:, None] >> np.arange(n_players)) & 1, dtype=bool)


def all_payoffs(game: shapkit.Game) -> Floats:
    """The table of a game: float64 (2**n_players,)."""
    return game(all_coalitions(game.n_players))


def runway_costs(n_players: int, seed: int) -> Floats:
    return np.random.default_rng(seed).gamma(2.0, 1.0, n_players)


def airport(n_players: int, seed: int) -> Floats:
    return all_payoffs(shapkit.airport_game(runway_costs(n_players, seed)))


def airport_values(costs: Floats) -> Floats:
    """Exact Shapley values of an airport game: Littlechild and Owen (1973)."""
    cheapest_first = np.argsort(costs)
    steps = np.diff(costs[cheapest_first], prepend=0.0)
    values = np.empty(len(costs))
    values[cheapest_first] = np.cumsum(steps / np.arange(len(costs), 0, -1))
    return values


def dividends(
    n_players: int, seed: int, n_carriers: int, sizes: tuple[int, int], signed: bool
) -> tuple[list[list[int]], Floats]:
    """Random carriers, and the weight of each."""
    generator = np.random.default_rng(seed)
    low, high = sizes
    carriers = [
        generator.choice(n_players, generator.integers(low, high + 1), replace=False).tolist()
        for _ in range(n_carriers)
    ]
    return carriers, generator.normal(size=n_carriers) if signed else generator.uniform(size=n_carriers)


def unanimity(n_players: int, seed: int, n_carriers: int, sizes: tuple[int, int], signed: bool) -> Floats:
    """A sum of unanimity games with random carriers."""
    return all_payoffs(shapkit.unanimity_sum(n_players, *dividends(n_players, seed, n_carriers, sizes, signed)))


def unanimity_values(n_players: int, carriers: list[list[int]], weights: Floats) -> Floats:
    """Exact Shapley values of a sum of unanimity games: each weight is shared equally by its carrier."""
    values = np.zeros(n_players)
    for carrier, weight in zip(carriers, weights, strict=True):
        values[carrier] += weight / len(carrier)
    return values


def noisy_concave(n_players: int, seed: int, noise: float) -> Floats:
    """A concave function of the coalition's weight, and a fixed deviation for each coalition."""
    generator = np.random.default_rng(seed)
    weights = generator.gamma(1.0, 1.0, n_players)
    modular = all_coalitions(n_players) @ (weights / weights.sum())
    return np.asarray(np.log1p(6.0 * modular) + noise * generator.normal(size=2**n_players))


def noisy_wave(n_players: int, seed: int, noise: float) -> Floats:
    """A sine of a modular function, and a fixed deviation for each coalition."""
    generator = np.random.default_rng(seed)
    modular = all_coalitions(n_players) @ generator.normal(0.0, 0.5, n_players)
    return np.asarray(np.sin(2.0 * modular) + noise * generator.normal(size=2**n_players))


def tabular_model(dataset: str, model: str, seed: int, features: slice, n_background: int) -> Floats:
    """A scikit-learn model's prediction for one row of a bundled data set, some of whose features are players."""
    rows, targets, classifies = _data(dataset)
    rows = rows[:, features]
    predict = _fitted(model, rows, targets, classifies)
    generator = np.random.default_rng(seed)
    explained = rows[generator.integers(len(rows))]
    background = rows[generator.choice(len(rows), n_background, replace=False)]
    payoff = _probability_of_its_class(predict, explained) if classifies else predict
    # A background of one row would be a single other example; the mean row is the other usual choice.
    fill: Any = "marginal" if n_background > 1 else "baseline"
    game = shapkit.model_game(payoff, explained, background if n_background > 1 else rows, fill=fill)
    return all_payoffs(game)


def digit_superpixels(model: str, seed: int, n_superpixels: int, n_background: int) -> Floats:
    """A classifier of 8 x 8 digits: players are irregular superpixels, the pixels nearest to random centres."""
    rows, targets, _ = _data("digits")
    predict = _fitted(model, rows, targets, classifies=True)
    generator = np.random.default_rng(seed)
    pixels = np.stack(np.divmod(np.arange(64), 8), axis=1)
    centres = pixels[generator.choice(64, n_superpixels, replace=False)]
    nearest = ((pixels[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    groups = {f"superpixel {k}": np.flatnonzero(nearest == k).tolist() for k in range(n_superpixels)}
    explained = rows[generator.integers(len(rows))]
    background = rows[generator.choice(len(rows), n_background, replace=False)]
    payoff = _probability_of_its_class(predict, explained)
    return all_payoffs(shapkit.model_game(payoff, explained, background, groups=groups))


def denoiser_regions(n_rows: int, n_columns: int, explained: int, timestep: int, seed: int) -> Floats:
    """How much of one cell of the shipped denoiser's output each cell of a grid over its noisy input determines.

    The payoff is that of `shapkit_diffusion.influence` for the output cell `explained`: 1 less the squared
    change of that cell when absent input cells come from another noisy face, as a share of its change when all do.
    """
    try:
        import torch

        from shapkit.differentiable import Regions, composite
        from shapkit_diffusion.data import render_faces
        from shapkit_diffusion.data.pixels import to_unit_range
        from shapkit_diffusion.denoisers.loading import load_denoiser
    except ImportError as error:
        raise SystemExit(
            f"the regions game needs the diffusion extra ({error}): make the tables where it is installed, with "
            "python -m benchmarks.accuracy games"
        ) from error
    models = Path(__file__).parents[2] / "adapters" / "shapkit_diffusion" / "models"
    denoiser = load_denoiser(models / "faces32").eval()
    _, height, width = denoiser.image_shape
    generator = torch.Generator().manual_seed(seed)
    faces = to_unit_range(torch.as_tensor(render_faces(2, height, seed=seed).images))
    noise = torch.randn(faces.shape, generator=generator)
    noisy = denoiser.add_noise(faces, noise, torch.full((2,), timestep))
    cell_rows = torch.arange(height) * n_rows // height
    cell_columns = torch.arange(width) * n_columns // width
    labels = (cell_rows[:, None] * n_columns + cell_columns)[None]
    n_players = n_rows * n_columns
    regions = Regions.from_labels(labels, {f"cell {k}": [k] for k in range(n_players)}, rest=None)
    cell = regions.masks[:, explained, None]

    def output(x: torch.Tensor) -> torch.Tensor:
        return (denoiser(x, torch.full((len(x),), timestep)) * cell).double()

    def value(coalitions: Coalitions) -> Floats:
        members = torch.as_tensor(coalitions)
        x = noisy[:1].expand(len(members), -1, -1, -1)
        absent = noisy[1:].expand(len(members), -1, -1, -1)
        change = (output(composite(x, absent, regions, members)) - full).square().sum(dim=(1, 2, 3))
        return np.asarray((1 - change / scale).numpy())

    with torch.inference_mode():
        full, other = output(noisy).split(1)
        scale = (other - full).square().sum()
        return all_payoffs(shapkit.Game(value, n_players, batch_size=64))


def _data(dataset: str) -> tuple[Floats, NDArray[Any], bool]:
    """Standardised rows of a bundled data set, their targets, and whether those are classes."""
    from sklearn import datasets

    rows, targets = getattr(datasets, f"load_{dataset}")(return_X_y=True)
    rows = np.asarray(rows, dtype=np.float64)
    deviations = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0)
    classifies = dataset != "diabetes"
    return rows, targets if classifies else (targets - targets.mean()) / targets.std(), classifies


def _fitted(model: str, rows: Floats, targets: NDArray[Any], classifies: bool) -> Callable[[Floats], Floats]:
    """The predictions of a model fitted to all rows: probabilities of the classes, or the target."""
    from sklearn import ensemble, linear_model, neighbors, neural_network

    kind = "Classifier" if classifies else "Regressor"
    makers: dict[str, Callable[[], Any]] = {
        "linear": lambda: (
            linear_model.LogisticRegression(max_iter=2000) if classifies else linear_model.LinearRegression()
        ),
        "nearest": lambda: getattr(neighbors, f"KNeighbors{kind}")(7),
        "forest": lambda: getattr(ensemble, f"RandomForest{kind}")(40, random_state=1),
        "boosting": lambda: getattr(ensemble, f"GradientBoosting{kind}")(random_state=1),
        "mlp": lambda: getattr(neural_network, f"MLP{kind}")(
            hidden_layer_sizes=(48,), alpha=1e-2, max_iter=800, random_state=1
        ),
    }
    fitted = makers[model]().fit(rows, targets)
    return fitted.predict_proba if classifies else fitted.predict  # type: ignore[no-any-return]


def _probability_of_its_class(predict: Callable[[Floats], Floats], explained: Floats) -> Callable[[Floats], Floats]:
    """The probability of the class that the model gives `explained`."""
    its_class = int(np.argmax(predict(explained[None])[0]))
    return lambda rows: predict(rows)[:, its_class]


TABLES: dict[str, Callable[[], Floats]] = {
    "airport": partial(airport, 15, seed=101),
    "unanimity, positive": partial(unanimity, 14, seed=102, n_carriers=80, sizes=(2, 7), signed=False),
    "unanimity, signed": partial(unanimity, 15, seed=103, n_carriers=15, sizes=(2, 5), signed=True),
    "nearest neighbours": partial(tabular_model, "breast_cancer", "nearest", 104, slice(18, 30), n_background=6),
    "random forest": partial(tabular_model, "diabetes", "forest", 105, slice(None), n_background=1),
    "gradient boosting": partial(tabular_model, "breast_cancer", "boosting", 106, slice(14, 28), n_background=6),
    "MLP": partial(tabular_model, "wine", "mlp", 107, slice(None), n_background=3),
    "logistic regression": partial(tabular_model, "breast_cancer", "linear", 108, slice(15), n_background=1),
    "linear regression": partial(tabular_model, "diabetes", "linear", 109, slice(None), n_background=10),
    "image superpixels": partial(digit_superpixels, "mlp", 110, n_superpixels=15, n_background=4),
    "concave with noise": partial(noisy_concave, 14, seed=111, noise=0.03),
    "wave with noise": partial(noisy_wave, 16, seed=112, noise=0.2),
    "denoiser's regions": partial(denoiser_regions, 3, 4, explained=5, timestep=500, seed=113),
}
GAMES = (*VOTING_GAMES, *TABLES)

# Of more players than can be enumerated, with exact values in closed form
LARGE_GAMES: dict[str, Callable[[], BenchmarkGame]] = {
    **{name: partial(voting, name) for name in VOTING_GAMES},
    "airport 30": partial(large_airport, "airport 30", 30, seed=131),
    "unanimity 40": partial(large_unanimity, "unanimity 40", 40, seed=132),
}

# Of few players, so that thousands of repetitions are affordable. The last is the hardest: payoffs of 0 and 1, and
# players so weak that a sample may hold no coalition in which they matter.
COVERAGE_TABLES: dict[str, Callable[[], Floats]] = {
    "coverage unanimity": partial(unanimity, 9, seed=121, n_carriers=20, sizes=(1, 5), signed=True),
    "coverage forest": partial(tabular_model, "diabetes", "forest", 122, slice(None), n_background=8),
    "coverage MLP": partial(tabular_model, "diabetes", "mlp", 124, slice(None), n_background=4),
    "coverage voting": lambda: all_payoffs(
        shapkit.weighted_voting(np.random.default_rng(123).integers(1, 30, 10), quota=80)
    ),
}
