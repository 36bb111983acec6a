"""
# A window of a time series

Rows may have any shape: here 24 steps of two channels, four hours to a player.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

rng = np.random.default_rng(0)
windows = rng.normal(size=(50, 24, 2)).cumsum(axis=1)
window = windows[0]
weights = np.exp(-np.arange(24)[::-1] / 6)[:, None] * [1.0, -0.5]  # a forecast that forgets

labels = np.array([[f"{4 * (step // 4):02d} h, {channel}" for channel in "ab"] for step in range(24)])
game = shapkit.model_game(lambda rows: np.tanh((rows * weights).sum(axis=(1, 2)) / 10), window, windows, groups=labels)
phi = shapkit.exact(game)

values = np.array([[phi[f"{4 * part:02d} h, {channel}"] for part in range(6)] for channel in "ab"])
limit = np.abs(values).max()
plt.figure(figsize=(7, 2.6), layout="constrained")
plt.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
plt.colorbar(label="Shapley value")
plt.yticks([0, 1], ["a", "b"])
plt.xticks(range(6), [f"{4 * part} h" for part in range(6)])
plt.title("The forecast goes by the last hours")
plt.show()
