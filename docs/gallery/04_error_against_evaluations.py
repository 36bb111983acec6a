"""
# Estimates against exact values

The same game, more and more evaluations: Castro's permutation sampling, antithetic pairs, and the default.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

rng = np.random.default_rng(0)
weights, pairs = rng.normal(size=12), rng.normal(size=(12, 12))
game = shapkit.Game(lambda c: np.tanh(c @ weights + ((c @ pairs) * c).sum(axis=1) / 8), 12)
truth = shapkit.exact(game).values

budgets = [60, 120, 240, 480]
plt.figure(figsize=(7, 3.6), layout="constrained")
for method, colour in (("permutation", "#d55e00"), ("antithetic", "#e69f00"), ("gaussian_process", "#0072b2")):
    errors = [
        np.mean([np.square(shapkit.estimate(game, n, method, seed=s).values - truth).sum() for s in range(5)])
        for n in budgets
    ]
    plt.loglog(budgets, errors / np.square(truth).sum(), "o-", color=colour, label=method)
plt.xticks(budgets, budgets)
plt.xlabel("evaluations, of 4,096 coalitions")
plt.ylabel("relative squared error")
plt.legend(frameon=False)
plt.title("The default needs fewest evaluations")
plt.show()
