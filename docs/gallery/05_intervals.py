"""
# Error bars that are meant

Estimates come with standard errors and intervals; exact values lie where they say.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

game = shapkit.weighted_voting(range(1, 15), quota=60)
truth = shapkit.exact(game).values
phi = shapkit.estimate(game, budget=700, method="antithetic", seed=1)
low, high = phi.interval(0.95)

places = np.arange(14)
plt.figure(figsize=(7, 3.4), layout="constrained")
plt.errorbar(
    places,
    phi.values,
    yerr=[phi.values - low, high - phi.values],
    fmt="o",
    capsize=3,
    color="#0072b2",
    label="estimate",
)
plt.plot(places, truth, "_", markersize=14, color="#d55e00", label="exact")
plt.xlabel("player")
plt.ylabel("Shapley value")
plt.legend(frameon=False)
inside = ((low <= truth) & (truth <= high)).sum()
plt.title(f"{inside} of 14 intervals of 95 % hold the exact value")
plt.show()
