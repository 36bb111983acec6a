"""
# Parts of a picture

A small network of digits, sixteen parts of one picture, and which of them speak for what the network sees.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import shapkit

torch.set_num_threads(1)
torch.manual_seed(0)
digits = load_digits()
images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16
shown = torch.as_tensor(digits.target)
network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
for _ in range(200):
    rows = torch.randint(1500, (64,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images[rows]), shown[rows]).backward()
    optimizer.step()

image, digit = images[1503], int(shown[1503])
segments = shapkit.image_segments(image, (4, 4))
game = shapkit.image_game(network, image, segments, absent=0.0)
phi = shapkit.estimate(game, budget=600).output(digit)
shapkit.draw_on_image(phi, image, segments)
plt.title(f"What speaks for a {digit}", fontsize=10)
plt.show()
