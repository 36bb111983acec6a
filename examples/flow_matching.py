"""Flow matching (rectified flow) with the dummy-player penalty: the two lines marked `# shapkit`.

The network learns the velocity x1 - x0 of the straight path from noise x0 to image x1. What the penalty compares are
velocities at one time t: with the point x_t of another path put in at one region, the velocity may change there alone.
A velocity that is local at every t makes the whole flow from noise to image local. Trained without and with.

    python examples/flow_matching.py      (a few minutes on one CPU core; a GPU is used if there is one)
"""

import torch
from faces16 import CONCEPTS, SmallUNet, Trained, load_faces, print_locality
from torch import Tensor

from shapkit.differentiable import DummyPlayerPenalty, Regions, star

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
penalty = DummyPlayerPenalty(graph=star())  # concepts may look at the rest, the rest at no concept


def main(steps: int = 800, weight: float = 20.0, device: str = DEVICE) -> Trained:
    """Loss and penalty of every step, and the locality of every concept in the end."""
    torch.manual_seed(0)
    images, labels = load_faces(device)
    velocity, history = SmallUNet().to(device), []
    optimizer = torch.optim.AdamW(velocity.parameters(), lr=2e-3)
    regions = Regions.from_labels(labels, CONCEPTS, dilation=1)  # shapkit
    for step in range(steps):
        x1 = images[torch.randint(len(images), (16,))]
        x0 = torch.randn_like(x1)
        t = torch.rand(16, 1, 1, 1, device=device)
        x_t = (1 - t) * x0 + t * x1
        v = velocity(x_t, t)
        loss = (v - (x1 - x0)).square().mean()
        loss += weight * (leak := penalty(lambda x, t=t: velocity(x, t), x_t, regions, output=v, step=step))  # shapkit
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((loss.item() - weight * leak.item(), leak.item()))
        if step % 100 == 99:
            print("step {}: loss {:.4f}, penalty {:.5f}".format(step + 1, *history[-1]), flush=True)

    def generate(x: Tensor) -> Tensor:
        for i in range(25):  # Euler's method
            x = x + velocity(x, torch.tensor(i / 25, device=device)) / 25
        return x

    return history, print_locality(generate, labels)


if __name__ == "__main__":
    for weight in (0.0, 20.0):
        print(f"--- weight of the penalty: {weight:g}", flush=True)
        main(weight=weight)
