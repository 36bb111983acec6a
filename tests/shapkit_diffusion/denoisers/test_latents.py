"""Latents: regions on the latent grid, and the locality that a decoder alone spoils."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, VQModel
from torch import Tensor, nn
from torch.nn import functional as F

from shapkit.differentiable import DummyPlayerPenalty, Regions, star
from shapkit_diffusion.denoisers.autoencoders import Autoencoder
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.latents import latent_regions
from shapkit_diffusion.evaluation.leakage import decoder_leakage


class Blocks(nn.Module):
    """An autoencoder whose latents are means of 4 x 4 pixels; its decoder reaches ``reach`` pixels to each side."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.dtype = torch.float32
        self.config = {
            "scaling_factor": 0.5,
            "block_out_channels": [8, 8, 8],
            "out_channels": 3,
            "latent_channels": 3,
        }

    def encode(self, images: Tensor) -> Any:
        return SimpleNamespace(latents=F.avg_pool2d(images, 4))

    def decode(self, latents: Tensor) -> Any:
        images = F.interpolate(latents, scale_factor=4)
        return SimpleNamespace(sample=F.avg_pool2d(images, 2 * self.reach + 1, 1, self.reach, count_include_pad=False))


def latent_denoiser(network: nn.Module) -> Denoiser:
    unet = small_denoiser(size=8, channels=(8, 16), seed=1).unet
    return Denoiser(unet, DDPMScheduler(), Autoencoder(network))


def random_latents(count: int) -> Tensor:
    return 0.25 * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def boxes(*ends: tuple[slice, slice]) -> Regions:
    """Regions of 32 x 32 images, one a sample: a box, and the rest."""
    labels = torch.zeros(len(ends), 32, 32, dtype=torch.long)
    for row, (rows, columns) in enumerate(ends):
        labels[row, rows, columns] = 1
    return Regions.from_labels(labels, {"box": [1]}, missing="allow")


def test_regions_follow_the_image_to_the_latent_grid() -> None:
    denoiser = latent_denoiser(Blocks(0))
    assert (denoiser.latent_shape, denoiser.image_shape) == ((3, 8, 8), (3, 32, 32))
    regions = boxes((slice(4, 12), slice(8, 19)))  # two cells high; two and three quarters wide
    hard = latent_regions(regions, denoiser).mask("box")[0, 0]
    expected = torch.zeros(8, 8)
    expected[1:3, 2:5] = 1
    assert torch.equal(hard, expected)
    expected[1:3, 4] = 0.75
    assert torch.equal(latent_regions(regions, denoiser, hard=False).mask("box")[0, 0], expected)


def test_a_region_too_small_for_the_grid_is_refused_or_allowed() -> None:
    denoiser = latent_denoiser(Blocks(0))
    regions = boxes((slice(4, 6), slice(4, 6)))
    assert not bool(latent_regions(regions, denoiser).present[0, 0])
    with pytest.raises(ValueError, match="'box' is empty in sample 0 at 8 x 8 pixels"):
        latent_regions(regions, denoiser, missing="refuse")
    with pytest.raises(ValueError, match=r"of images of \(32, 32\) pixels, got \(8, 8\)"):
        latent_regions(Regions.grid(2, 2, 8, 8), denoiser)


def test_the_penalty_runs_on_a_latent_denoiser() -> None:
    denoiser = latent_denoiser(Blocks(0))
    regions = latent_regions(boxes(*[(slice(4, 12), slice(8, 16))] * 2), denoiser)
    timesteps = torch.tensor([500, 500])
    penalty = DummyPlayerPenalty(fill="exchange", payoff="pixels", graph=star(), samples=1, seed=0)
    value = penalty(lambda x: denoiser(x, timesteps), torch.randn(2, 3, 8, 8), regions)
    value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) > 0
    assert all(p.grad is not None for p in denoiser.unet.parameters())


def test_a_decoder_without_reach_leaks_nothing_from_regions_of_whole_cells() -> None:
    denoiser = latent_denoiser(Blocks(0))
    regions = boxes(*[(slice(4, 12), slice(8, 16))] * 2)
    assert [entry.ratio for entry in decoder_leakage(denoiser, random_latents(2), regions)] == [0.0, 0.0]


@pytest.mark.parametrize("normalisation", ["own_area", "published"])
def test_leakage_is_what_a_loop_over_pixels_counts(normalisation: Any) -> None:
    network = Blocks(2)
    denoiser, latents = latent_denoiser(network), random_latents(4)
    regions = boxes(*[(slice(4, 13 + i), slice(8, 19)) for i in range(4)])
    box, rest = decoder_leakage(denoiser, latents, regions, normalisation=normalisation, batch_size=3)
    inside, outside = [], []
    for i in range(4):
        edited = latents[i].clone()
        for row in range(8):
            for column in range(8):
                owned = regions.masks[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                if owned.sum() >= 8:  # half of a cell goes to the region named first
                    edited[:, row, column] = latents[i ^ 1, :, row, column]
        decode = [network.decode(z[None] / 0.5).sample[0].clamp(-1, 1) for z in (latents[i], edited)]
        change = (decode[1] - decode[0]).square().mean(dim=0)
        mask = regions.masks[i, 0] > 0
        inside.append(float(change[mask].sum() / mask.sum()))
        outside.append(float(change[~mask].sum() / (~mask if normalisation == "own_area" else mask).sum()))
    assert (box.concept, box.n_pairs, box.normalisation) == ("box", 4, normalisation)
    assert box.mse_in == pytest.approx(sum(inside) / 4, rel=1e-5)
    assert box.mse_out == pytest.approx(sum(outside) / 4, rel=1e-5)
    assert box.mse_out > 0 and rest.concept == "rest"


def test_samples_without_a_region_are_left_out() -> None:
    denoiser, latents = latent_denoiser(Blocks(1)), random_latents(4)
    here, small, nowhere = (slice(4, 12), slice(8, 16)), (slice(4, 6), slice(4, 6)), (slice(0, 0), slice(0, 0))
    box, rest = decoder_leakage(denoiser, latents, boxes(here, here, small, nowhere))
    assert (box.n_pairs, rest.n_pairs) == (2, 4)
    alone, _ = decoder_leakage(denoiser, latents[:2], boxes(here, here))
    assert (box.mse_in, box.mse_out) == pytest.approx((alone.mse_in, alone.mse_out))
    with pytest.raises(ValueError, match="region 'box' has no latent pixel in any sample"):
        decoder_leakage(denoiser, latents[:2], boxes(small, nowhere))


def test_a_real_decoder_leaks() -> None:
    torch.manual_seed(0)
    network = VQModel(
        block_out_channels=(8, 8, 8),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        num_vq_embeddings=64,
        scaling_factor=1.0,
    )
    network.quantize.embedding.weight.data.normal_()
    regions = boxes((slice(8, 16), slice(8, 16)))
    box, _ = decoder_leakage(latent_denoiser(network), 4 * random_latents(4), regions)
    assert 0 < box.ratio < 1 and box.n_pairs == 4


def test_shapes_that_do_not_fit_are_refused() -> None:
    denoiser = latent_denoiser(Blocks(0))
    regions = Regions.grid(2, 2, 32, 32)
    with pytest.raises(ValueError, match=r"latents must be \(n, \*\(3, 8, 8\)\), got \(2, 3, 32, 32\)"):
        decoder_leakage(denoiser, torch.zeros(2, 3, 32, 32), regions)
    with pytest.raises(ValueError, match="regions must be those of 2 samples"):
        decoder_leakage(denoiser, random_latents(2), boxes(*[(slice(4, 12), slice(8, 16))] * 3))
    with pytest.raises(ValueError, match="takes two at least, got 1"):
        decoder_leakage(denoiser, random_latents(1), regions)
