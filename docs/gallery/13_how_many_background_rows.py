"""
# How many background rows?

The choice of background rows is a sample, and has an error like any other sample.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

rng = np.random.default_rng(0)
rows = rng.normal(size=(2_000, 3))


def model(x):
    return x[:, 0] * x[:, 1] + np.exp(x[:, 2] / 2)


counts = [10, 30, 100, 300, 1000]
errors = []
for count in counts:
    game = shapkit.model_game(model, [1.0, 1.0, 1.0], rows[:count], average=False)
    errors.append(shapkit.exact(game).sample_mean().standard_errors)

plt.figure(figsize=(7, 3.2), layout="constrained")
for player, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
    plt.loglog(counts, [error[player] for error in errors], "o-", color=colour, label=f"feature {player}")
plt.xlabel("rows of the background")
plt.ylabel("standard error")
plt.legend(frameon=False)
plt.title("Four times the rows, half the error")
plt.show()
