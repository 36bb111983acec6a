"""
# Who pays for the runway?

Littlechild and Owen's airport game: a runway must be as long as the longest plane needs. Each part of it is shared by
those that need it.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

costs = np.array([1.0, 1.5, 2.0, 4.0, 7.0])
game = shapkit.airport_game(costs, names=["propeller", "regional", "narrow", "wide", "cargo"])
phi = shapkit.exact(game)

plt.figure(figsize=(7, 3.2), layout="constrained")
plt.bar(game.names, costs, color="#dddddd", label="cost of a runway of one's own")
plt.bar(game.names, phi.values, color="#0072b2", label="share")
plt.ylabel("cost")
plt.legend(frameon=False)
plt.title(f"Shares sum to {phi.values.sum():.0f}, the cost of the longest runway")
plt.show()
