"""
# Which players need each other

Two glove owners: a left glove alone is worth nothing, a pair is. Interaction indices say who goes with whom, and who
replaces whom.
"""

import matplotlib.pyplot as plt

import shapkit

gloves = shapkit.glove_game(left=2, right=3, names=["left 1", "left 2", "right 1", "right 2", "right 3"])
pairs = shapkit.exact(gloves, "k-SII", order=2)
pairs.plot(kind="heatmap")
plt.title("A left and a right glove go together; gloves of one side replace each other", fontsize=9)
plt.show()

# %%
# The same as a network.

pairs.plot(kind="network")
plt.show()
