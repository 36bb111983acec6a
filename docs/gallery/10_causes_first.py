"""
# Causes before effects

Asymmetric Shapley values take only orders in which causes come first: what a cause does through its effects counts as
the cause's.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

rng = np.random.default_rng(0)
education = rng.normal(size=4_000)
income = education + 0.3 * rng.normal(size=4_000)
age = rng.normal(size=4_000)
background = np.stack([education, income, age], axis=1)
game = shapkit.model_game(
    lambda rows: rows[:, 1] + 0.5 * rows[:, 2], [1.0, 1.1, 1.0], background, fill=shapkit.NearestRows(100),
    names=["education", "income", "age"],
)  # fmt: skip
values = {
    "Shapley": shapkit.exact(game).values,
    "causes first": shapkit.exact(game, orders=shapkit.Precedence({"income": ["education"]})).values,
}
places = np.arange(3)
plt.figure(figsize=(7, 3.2), layout="constrained")
for at, (name, found) in enumerate(values.items()):
    plt.bar(places + 0.4 * at - 0.2, found, 0.4, label=name, color=["#999999", "#0072b2"][at])
plt.xticks(places, game.names)
plt.ylabel("value")
plt.legend(frameon=False)
plt.title("The model reads income; education is why income is high")
plt.show()
