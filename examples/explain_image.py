"""Which parts of a picture a network of one's own looks at: a digit, by a small convolutional network.

python examples/explain_image.py OUT.png      (half a minute)
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import shapkit


def trained(steps: int = 300) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and digits that it was not trained on: images (n, 1, 8, 8) in [0, 1], and what they show."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16
    shown = torch.as_tensor(digits.target)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Dropout(0.2), nn.Flatten(), nn.Linear(32 * 64, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(1500, (64,))
        loss = nn.functional.cross_entropy(network(images[rows]), shown[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, images[1500:], shown[1500:]


def main(out: str | None = None, steps: int = 300) -> shapkit.Attribution:
    """The values of 16 regions of a digit for the network's score of what it shows."""
    network, images, shown = trained(steps)
    image, digit = images[3], int(shown[3])
    segments = shapkit.image_segments(image, (4, 4))
    game = shapkit.image_game(network, image, segments, absent=0.0)
    phi = shapkit.estimate(game, budget=400, seed=0).output(digit)
    print(f"score of {digit}: {phi.empty_value:.2f} without anything, {phi.grand_value:.2f} with all of it")
    if out is not None:
        axes = shapkit.draw_on_image(phi, image, segments)
        axes.set_title(f"Which parts say that this is a {digit}", loc="left")
        axes.figure.savefig(out, dpi=120)
    return phi


if __name__ == "__main__":
    main(*sys.argv[1:2])
