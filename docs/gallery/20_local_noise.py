"""
# Local noise

Two diffusion models that come with the package. The noise of the mouth is exchanged: what changes in the plain one,
and in the local one.
"""

import matplotlib.pyplot as plt
import torch

import shapkit_diffusion as sd
from shapkit_diffusion.noise.sampling import swap

torch.set_num_threads(1)
domain = sd.open_domain("faces", count=2)
figure, axes = plt.subplots(2, 3, figsize=(7, 4.8), layout="constrained")
for row, name in zip(axes, ("plain", "local"), strict=True):
    model = sd.shipped_model(name)
    noise, other = sd.draw_noise(model, 1, seed=3), sd.draw_noise(model, 1, seed=4)
    before = sd.generate(model, noise, steps=20)
    mouth = domain.regions(before).mask("mouth")
    after = sd.generate(model, swap(noise, other, mouth), steps=20)
    for axis, image, title in zip(row, (before, after), ("before", "another mouth"), strict=False):
        axis.imshow((image[0].permute(1, 2, 0).clamp(-1, 1) + 1) / 2)
        axis.set_title(f"{name}: {title}", fontsize=10)
    change = (after - before)[0].abs().mean(dim=0)
    row[2].imshow(change, cmap="inferno", vmin=0, vmax=0.5)
    row[2].set_title("what changed", fontsize=10)
    for axis in row:
        axis.axis("off")
plt.show()
