"""A small GAN with a noise map in the image's pixels, and the dummy-player penalty: the lines marked `# shapkit`.

The noise is one vector for each region, painted over the region's pixels; independent noise in every pixel is easily
averaged away by a GAN this small, which then draws nearly the same face each time. Put another vector in, and that
region should change, and no other.

The penalty divides by the change that exchanging all regions makes. A GAN has no target that keeps its noise in use, so
the plain mean square can be lowered by ignoring the noise; a ratio gains nothing when all changes shrink together.

Trained without and with. The losses are those of R3GAN (Huang et al. 2024): relativistic, with gradient penalties on
real and generated images, which keep the faces different. The generator has no normalisation; with BatchNorm, wrap the
penalty's call in `shapkit.differentiable.statistics_kept(generator)`.

    python examples/gan.py      (a few minutes on one CPU core; a GPU is used if there is one)
"""

import torch
from faces16 import CONCEPTS, Trained, load_faces, print_locality
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shapkit.differentiable import DummyPlayerPenalty, Regions, partner, star

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
penalty = DummyPlayerPenalty(graph=star())  # concepts may look at the rest, the rest at no concept


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """Convolution and leaky ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.2))


class Generator(nn.Module):
    """Noise (batch, 8, 16, 16) to images (batch, 3, 16, 16); at 4 x 4 pixels it sees the whole of its noise."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 4, 16, 16))  # tells the pixels where they are
        self.fine, self.middle = block(12, width), block(width, 2 * width, stride=2)
        self.coarse = block(2 * width, 2 * width, stride=2)
        self.rise, self.rest = block(4 * width, width), block(2 * width, width)
        self.colour = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        fine = self.fine(torch.cat([z, self.place.expand(len(z), -1, -1, -1)], dim=1))
        middle = self.middle(fine)
        coarse = F.interpolate(self.coarse(middle), scale_factor=2)
        risen = F.interpolate(self.rise(torch.cat([coarse, middle], dim=1)), scale_factor=2)
        return torch.tanh(self.colour(self.rest(torch.cat([risen, fine], dim=1))))


class Critic(nn.Sequential):
    """Images (batch, 3, 16, 16) to one number each, (batch, 1)."""

    def __init__(self, width: int = 24) -> None:
        blocks = [block(3, width), block(width, 2 * width, stride=2), block(2 * width, 4 * width, stride=2)]
        super().__init__(*blocks, nn.Flatten(), nn.Linear(4 * width * 4 * 4, 1))


def painted(noise: Tensor, regions: Regions) -> Tensor:
    """White noise, (batch, channels, height, width), summed up to one vector a region, of variance one again."""
    vectors = torch.einsum("nchw,khw->nck", noise, regions.masks[0]) / regions.areas[0].sqrt()
    return torch.einsum("nck,khw->nchw", vectors, regions.masks[0])


def steepness(outputs: Tensor, images: Tensor) -> Tensor:
    """Squared gradient of the critic's outputs at ``images``, mean over the batch."""
    (gradient,) = torch.autograd.grad(outputs.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def main(steps: int = 800, weight: float = 20.0, device: str = DEVICE) -> Trained:
    """Generator's loss and penalty of every step, and the locality of every concept in the end."""
    torch.manual_seed(0)
    images, labels = load_faces(device)
    generator, critic, history = Generator().to(device), Critic().to(device), []
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=5e-4, betas=(0.0, 0.99))
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.99))
    regions = Regions.from_labels(labels, CONCEPTS, dilation=1)  # shapkit
    for step in range(steps):
        z = painted(torch.randn(16, 8, 16, 16, device=device), regions)
        fake = generator(z)
        real = images[torch.randint(len(images), (16,))].requires_grad_()
        shown = fake.detach().requires_grad_()
        on_real, on_shown = critic(real), critic(shown)
        critic_loss = F.softplus(on_shown - on_real).mean()
        critic_loss += 0.5 * (steepness(on_real, real) + steepness(on_shown, shown))
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        loss = F.softplus(critic(real.detach()) - critic(fake)).mean()
        leaks = penalty.unreduced(generator, z, regions, output=fake, step=step)  # shapkit
        changes = regions.means((fake - partner(fake)).square())  # shapkit
        loss += weight * (leak := (leaks.mean(0) / changes.mean(0)).mean())  # shapkit
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        average.update_parameters(generator)
        history.append((loss.item() - weight * leak.item(), leak.item()))
        if step % 100 == 99:
            print("step {}: loss {:.4f}, penalty {:.5f}".format(step + 1, *history[-1]), flush=True)

    return history, print_locality(lambda noise: average(painted(noise, regions)), labels, channels=8)


if __name__ == "__main__":
    for weight in (0.0, 20.0):
        print(f"--- weight of the penalty: {weight:g}", flush=True)
        main(weight=weight)
