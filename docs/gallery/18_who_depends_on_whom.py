"""
# Who depends on whom

Every output element is a game of its own. Which players each depends on is a graph, and whoever is not in it is a
dummy player.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

mixing = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]).T
game = shapkit.Game(lambda c: np.tanh(c @ mixing), 4, names=["a", "b", "c", "d"])
graph = shapkit.influence_graph(game)

plt.figure(figsize=(4.6, 3.4), layout="constrained")
plt.imshow(graph.mean_squares.T, cmap="cividis")
plt.colorbar(label="mean squared change")
plt.xticks(range(4), game.names)
plt.yticks(range(4), [f"output {k}" for k in range(4)])
plt.xlabel("player")
plt.title("Outputs 0 and 2 have one player each")
plt.show()
