"""
# Voting power

How much say has each member of a council whose votes count differently? Not as much as the votes say.
"""

import matplotlib.pyplot as plt
import numpy as np

import shapkit

votes = {"France": 4, "Germany": 4, "Italy": 4, "Belgium": 2, "Netherlands": 2, "Luxembourg": 1}
council = shapkit.weighted_voting(list(votes.values()), quota=12, names=list(votes))
phi = shapkit.exact(council)
phi

# %%
# Luxembourg's vote never turned a decision: it is a dummy player, whose Shapley value is zero exactly.

share = np.array(list(votes.values())) / sum(votes.values())
places = np.arange(len(votes))
plt.figure(figsize=(7, 3.2), layout="constrained")
plt.bar(places - 0.2, 100 * share, 0.4, label="share of votes", color="#999999")
plt.bar(places + 0.2, 100 * phi.values, 0.4, label="Shapley value", color="#0072b2")
plt.xticks(places, votes, rotation=20)
plt.ylabel("share (%)")
plt.legend(frameon=False)
plt.title("The council of 1958: Luxembourg had votes and no power")
plt.show()
