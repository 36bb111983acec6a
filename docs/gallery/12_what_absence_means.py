"""
# What absence means

Two features that go together, and a model that reads one of them. Marginal absence says what the model reads;
conditional absence says
what is known once a feature is known.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

rng = np.random.default_rng(0)
first = rng.normal(size=2_000)
background = np.stack([first, 0.9 * first + 0.44 * rng.normal(size=2_000)], axis=1)
values = {
    name: shapkit.exact(shapkit.model_game(lambda rows: rows[:, 0], [1.5, 1.4], background, fill=fill)).values
    for name, fill in {
        "marginal": "marginal", "nearest rows": shapkit.NearestRows(100), "Gaussian copula": shapkit.GaussianCopula(200)
    }.items()
}  # fmt: skip
plt.figure(figsize=(7, 3.2), layout="constrained")
for at, (name, found) in enumerate(values.items()):
    plt.bar(np.arange(2) + 0.25 * at - 0.25, found, 0.25, label=name, color=["#999999", "#0072b2", "#e69f00"][at])
plt.xticks([0, 1], ["read by the model", "goes with it"])
plt.ylabel("Shapley value")
plt.legend(frameon=False)
plt.title("A feature that is not read is worth something once it tells")
plt.show()
