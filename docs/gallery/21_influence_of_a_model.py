"""
# Influence in a diffusion model

Which region of the noise drives which region of the image, from noise to image, with the standard error over images.
"""

import matplotlib.pyplot as plt
import torch

import shapkit_diffusion as sd
from shapkit_diffusion.noise.influence import influence_end_to_end
from shapkit_diffusion.pictures.influence import picture_of_influences

torch.set_num_threads(1)
domain = sd.open_domain("faces", count=2)
maps = {}
for name in ("plain", "local"):
    model = sd.shipped_model(name)
    noise = sd.draw_noise(model, 4, seed=2)
    regions = domain.regions(sd.generate(model, noise, steps=10))
    maps[name] = {"noise to image": influence_end_to_end(model, noise, regions, steps=10)}
picture_of_influences(maps, "Share (%) of a region's change that each region of the noise drives")
plt.show()
