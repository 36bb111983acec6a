"""
# The penalty at work

A small network that blurs across regions, trained on with and without the penalty: what its regions see of each other.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from shapkit.differentiable import DummyPlayerPenalty, Regions
from shapkit_diffusion.noise.influence import influence

torch.set_num_threads(1)
labels = torch.zeros(1, 8, 8, dtype=torch.long)
labels[:, :, 4:] = 1
regions = Regions.from_labels(labels.expand(16, -1, -1), {"right": [1]})
target = nn.AvgPool2d(3, 1, 1)
penalty = DummyPlayerPenalty()


def trained(weight):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 3, padding=1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(150):
        x = torch.randn(16, 1, 8, 8)
        y = network(x)
        loss = (y - target(x)).square().mean() + weight * penalty(network, x, regions, output=y, step=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
for axis, weight in zip(axes, (0.0, 30.0), strict=True):
    found = influence(trained(weight), torch.randn(16, 1, 8, 8), regions)
    axis.imshow(100 * found.values.T, cmap="cividis", vmin=0, vmax=100)
    for (row, column), share in [((r, c), 100 * found.values.T[r, c]) for r in range(2) for c in range(2)]:
        axis.text(column, row, f"{share:.1f} %", ha="center", va="center", color="black" if share > 55 else "white")
    axis.set_xticks([0, 1], found.names)
    axis.set_yticks([0, 1], found.names)
    axis.set_title(f"weight {weight:g}")
figure.suptitle("Share of an output region's change (row) that an input region drives (column)", fontsize=10)
plt.show()
