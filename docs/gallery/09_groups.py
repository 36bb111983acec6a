"""
# Players in groups

Owen's values keep groups together: their players share what the group gets among the groups. Here two copies of one
feature.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

# "a" and its copy "a'" do the same; "b" counts as much as both together
game = shapkit.Game(
    lambda c: 1.0 * (c[:, 0] | c[:, 1]) + c[:, 2] + 0.5 * c[:, 3] * (c[:, 0] | c[:, 1]), 4, names=["a", "a'", "b", "c"]
)
shapley = shapkit.exact(game)
owen = shapkit.exact(game, orders=shapkit.Hierarchy([["a", "a'"]]))

places = np.arange(4)
plt.figure(figsize=(7, 3.2), layout="constrained")
plt.bar(places - 0.2, shapley.values, 0.4, color="#999999", label="Shapley: four players")
plt.bar(places + 0.2, owen.values, 0.4, color="#0072b2", label="Owen: a and a' are a group")
plt.xticks(places, game.names)
plt.ylabel("value")
plt.legend(frameon=False)
plt.title("To the others, a group counts as one player")
plt.show()
