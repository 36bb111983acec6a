"""A plain DDPM training loop in PyTorch with the dummy-player penalty: the two lines marked `# shapkit`.

Trained twice on the same batches, without the penalty (weight 0) and with it. Then the noise of the eyes, the nose or
the mouth is exchanged between generated faces: with the penalty, far less changes outside of it.

    python examples/ddpm.py      (a few minutes on one CPU core; a GPU is used if there is one)
"""

import torch
from faces16 import CONCEPTS, SmallUNet, Trained, load_faces, print_locality
from torch import Tensor

from shapkit.differentiable import DummyPlayerPenalty, Regions, star

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
penalty = DummyPlayerPenalty(graph=star())  # concepts may look at the rest, the rest at no concept


def main(steps: int = 1000, weight: float = 60.0, device: str = DEVICE) -> Trained:
    """Loss and penalty of every step, and the locality of every concept in the end."""
    torch.manual_seed(0)
    images, labels = load_faces(device)
    network, history = SmallUNet(last_time=999).to(device), []
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    alpha_bar = torch.linspace(0.02, 1.54, 1000, device=device).cos().square()[:, None, None, None]
    regions = Regions.from_labels(labels, CONCEPTS, dilation=1)  # shapkit
    for step in range(steps):
        clean = images[torch.randint(len(images), (16,))]
        t = torch.randint(1000, (16,), device=device)
        noise = torch.randn_like(clean)
        x_t = alpha_bar[t].sqrt() * clean + (1 - alpha_bar[t]).sqrt() * noise
        eps = network(x_t, t)
        loss = (eps - noise).square().mean()
        loss += weight * (leak := penalty(lambda x, t=t: network(x, t), x_t, regions, output=eps, step=step))  # shapkit
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((loss.item() - weight * leak.item(), leak.item()))
        if step % 100 == 99:
            print("step {}: loss {:.4f}, penalty {:.5f}".format(step + 1, *history[-1]), flush=True)

    def generate(x: Tensor) -> Tensor:
        for t in range(999, 0, -37):  # DDIM, deterministic
            eps = network(x, torch.tensor(t, device=device))
            clean = ((x - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()).clamp(-1, 1)
            x = alpha_bar[t - 37].sqrt() * clean + (1 - alpha_bar[t - 37]).sqrt() * eps
        return x

    return history, print_locality(generate, labels)


if __name__ == "__main__":
    for weight in (0.0, 60.0):
        print(f"--- weight of the penalty: {weight:g}", flush=True)
        main(weight=weight)
