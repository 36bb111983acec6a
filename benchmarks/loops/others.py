"""The loops of others, as they are: network, loss and sampler are theirs wherever they have one.

Each function fetches its source, builds a small network and returns a ``Loop``. What is trained, and on what, is ours:
rendered faces of 16 x 16 pixels, and small signals and volumes where the loop is for these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.loops import data, sources
from benchmarks.loops.measure import Loop
from shapkit.differentiable import Regions


def edm() -> Loop:
    """NVlabs' EDMLoss with their preconditioned SongUNet and their second-order sampler.

    The network inside the preconditioning is watched: its input and output have unit scale at every noise level.
    """
    sources.EDM.fetch()
    from generate import edm_sampler
    from training.loss import EDMLoss
    from training.networks import EDMPrecond

    images, regions = data.faces()
    network = EDMPrecond(
        img_resolution=16,
        img_channels=3,
        model_type="SongUNet",
        model_channels=16,
        channel_mult=[1, 2, 2],
        num_blocks=1,
        attn_resolutions=[],
        dropout=0.1,
    )
    loss = EDMLoss()
    return Loop(
        str(sources.EDM),
        "EDMLoss()(net, images).mean()",
        images / 2,  # their sigma_data is 0.5
        regions,
        network,
        network.model,
        lambda batch: loss(network, batch).mean(),
        lambda noise: 2 * edm_sampler(network, noise, num_steps=12).float(),
        (3, 16, 16),
        weight=12.0,
    )


def improved_diffusion() -> Loop:
    """OpenAI's ``training_losses`` (DiT's is the same code) with learned variances, their UNet and DDIM sampler."""
    images, regions = data.faces()
    return _improved_diffusion(_openai_unet(3, 6), images, regions, learned=True, weight=10.0)


def _improved_diffusion(
    network: nn.Module, samples: Tensor, regions: Regions, weight: float, learned: bool = False
) -> Loop:
    sources.IMPROVED_DIFFUSION.fetch()
    from improved_diffusion import gaussian_diffusion as theirs
    from improved_diffusion.respace import SpacedDiffusion, space_timesteps

    def spaced(steps: str) -> Any:
        return SpacedDiffusion(
            use_timesteps=space_timesteps(1000, steps),
            betas=theirs.get_named_beta_schedule("cosine", 1000),
            model_mean_type=theirs.ModelMeanType.EPSILON,
            model_var_type=theirs.ModelVarType.LEARNED_RANGE if learned else theirs.ModelVarType.FIXED_LARGE,
            loss_type=theirs.LossType.RESCALED_MSE,
        )

    diffusion, sampler = spaced("1000"), spaced("ddim25")

    def loss(batch: Tensor) -> Tensor:
        t = torch.randint(0, diffusion.num_timesteps, (len(batch),))
        result: Tensor = diffusion.training_losses(network, batch, t)["loss"].mean()
        return result

    return Loop(
        str(sources.IMPROVED_DIFFUSION),
        'diffusion.training_losses(model, x, t)["loss"].mean()',
        samples,
        regions,
        network,
        network,
        loss,
        lambda noise: sampler.ddim_sample_loop(network, noise.shape, noise=noise),
        tuple(samples.shape[1:]),
        weight,
        watch={"output": lambda result: result[:, : samples.shape[1]]},  # the other half are the variances
    )


def _openai_unet(inputs: int, outputs: int) -> nn.Module:
    sources.IMPROVED_DIFFUSION.fetch()
    from improved_diffusion.unet import UNetModel

    network: nn.Module = UNetModel(
        in_channels=inputs,
        model_channels=32,
        out_channels=outputs,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1, 2),
        dropout=0.1,
        use_scale_shift_norm=True,
    )
    return network


def lucidrains() -> Loop:
    """lucidrains' GaussianDiffusion and Unet (velocity, sigmoid schedule); noise and timestep are drawn inside."""
    sources.stand_in_for_torchvision()
    sources.LUCIDRAINS.fetch()
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    images, regions = data.faces()
    network = Unet(dim=16, dim_mults=(1, 2), channels=3, attn_heads=2, attn_dim_head=16)
    diffusion = GaussianDiffusion(network, image_size=16, timesteps=1000)
    return Loop(
        str(sources.LUCIDRAINS),
        "diffusion(images)",
        (images + 1) / 2,  # it takes [0, 1]
        regions,
        diffusion,
        network,
        diffusion,
        lambda noise: _ddim(diffusion, noise),
        (3, 16, 16),
        weight=8.0,
    )


def lucidrains_1d() -> Loop:
    """The same package's GaussianDiffusion1D and Unet1D, on heartbeats of 64 samples."""
    sources.stand_in_for_torchvision()
    sources.LUCIDRAINS.fetch()
    from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D

    signals, regions = data.heartbeats()
    network = Unet1D(dim=16, dim_mults=(1, 2, 4), channels=1, attn_heads=2, attn_dim_head=16)
    diffusion = GaussianDiffusion1D(network, seq_length=64, timesteps=1000, auto_normalize=False)
    return Loop(
        str(sources.LUCIDRAINS),
        "diffusion(signals)",
        signals,
        regions,
        diffusion,
        network,
        diffusion,
        lambda noise: _ddim(diffusion, noise),
        (1, 64),
        weight=12.0,
    )


def _ddim(diffusion: Any, x: Tensor, step: int = 37) -> Tensor:
    """DDIM from given noise, with their predictions; their own sampler draws its noise itself."""
    for t in range(999, 0, -step):
        found = diffusion.model_predictions(x, torch.full((len(x),), t), clip_x_start=True, rederive_pred_noise=True)
        signal = diffusion.alphas_cumprod[t - step] if t > step else torch.ones(())
        x = signal.sqrt() * found.pred_x_start + (1 - signal).sqrt() * found.pred_noise
    return x


def flow_matching() -> Loop:
    """Meta's flow_matching: straight paths, their conditional velocity, and their ODE solver."""
    images, regions = data.faces()
    return _flow_matching(_openai_unet(3, 3), images, regions, weight=15.0, times=1000.0)


def flow_matching_tokens() -> Loop:
    """The same on tokens: patches of 2 x 2 pixels, (batch, 64, 12), and a transformer that mixes all of them."""
    from benchmarks.loops.networks import TokenNet, tokens_of

    images, regions = data.faces()
    network = TokenNet()
    return _flow_matching(network, tokens_of(images), regions.patched(2, hard=True), weight=15.0, channels=-1)


def _flow_matching(
    network: nn.Module, samples: Tensor, regions: Regions, weight: float, channels: int = 1, times: float = 1.0
) -> Loop:
    sources.FLOW_MATCHING.fetch()
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    class Velocity(ModelWrapper):  # type: ignore[misc]
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            result: Tensor = self.model(x, (times * t).expand(len(x)))
            return result

    velocity = Velocity(network)
    path, solver = AffineProbPath(CondOTScheduler()), ODESolver(velocity)

    def loss(batch: Tensor) -> Tensor:
        drawn = path.sample(t=torch.rand(len(batch)), x_0=torch.randn_like(batch), x_1=batch)
        error: Tensor = velocity(drawn.x_t, drawn.t) - drawn.dx_t
        return error.square().mean()

    return Loop(
        str(sources.FLOW_MATCHING),
        "(model(path_sample.x_t, path_sample.t) - path_sample.dx_t).square().mean()",
        samples,
        regions,
        network,
        network,
        loss,
        lambda noise: solver.sample(x_init=noise, method="midpoint", step_size=1 / 16),
        tuple(samples.shape[1:]),
        weight,
        channels=channels,
    )


def improved_diffusion_3d() -> Loop:
    """OpenAI's ``training_losses`` with lucidrains' three-dimensional UNet, on volumes of 12 x 12 x 12."""
    sources.stand_in_for_torchvision()
    sources.LUCIDRAINS.fetch()
    from denoising_diffusion_pytorch.karras_unet_3d import KarrasUnet3D

    volumes, regions = data.volumes()
    network = KarrasUnet3D(
        image_size=12, frames=12, dim=8, channels=1, num_downsamples=1, num_blocks_per_stage=1, attn_res=(), dropout=0.0
    )
    return replace(_improved_diffusion(network, volumes, regions, weight=30.0), steps=800)  # a step takes long


def pythae() -> Loop:
    """pythae's VAE: its loss, its sampling of latents; the decoder is watched, from 8 x 8 latents to 16 x 16 pixels."""
    sources.PYTHAE.fetch()
    from pythae.models import VAE, VAEConfig

    from benchmarks.loops.networks import decoder, encoder

    images, regions = data.faces()
    part: Any = decoder()
    model = VAE(VAEConfig(input_dim=(3, 16, 16), latent_dim=128), encoder=encoder(), decoder=part)
    return Loop(
        str(sources.PYTHAE),
        'model({"data": images}).loss',
        images,
        regions.resized(8, 8, hard=True),
        model,
        part.network,
        lambda batch: model({"data": batch}).loss,
        part.network,
        (2, 8, 8),
        weight=3000.0,  # their loss is a sum over the pixels
    )


LOOPS: dict[str, Callable[[], Loop]] = {
    "EDM": edm,
    "improved-diffusion": improved_diffusion,
    "GaussianDiffusion": lucidrains,
    "flow_matching": flow_matching,
    "VAE decoder": pythae,
    "signals, 1-D": lucidrains_1d,
    "volumes, 3-D": improved_diffusion_3d,
    "tokens": flow_matching_tokens,
}
"""By the name that the tables use; diffusers' script is a program of its own, in ``script.py``."""
