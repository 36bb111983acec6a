"""Denoisers: a diffusers UNet with its noise schedule, called in one way whatever it predicts; loading and saving.

A denoiser's folder is a diffusers ``DDPMPipeline`` folder, so either side opens what the other wrote.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Denoiser(nn.Module):
    """A network that, given a noisy image and its timestep, predicts noise, image or velocity.

    Args:
        unet: maps (batch, channels, height, width) and timesteps (batch,) to a tensor of that shape.
        scheduler: the noise schedule the network was trained with; ``clip_sample`` is switched off, because
            clipping makes generation impossible to invert.

    Raises:
        ValueError: if the schedule's prediction type is unknown.

    >>> denoiser = small_denoiser(size=16, channels=(8, 16))
    >>> x = torch.zeros(2, 3, 16, 16)
    >>> denoiser(x, torch.tensor([10, 10])).shape
    torch.Size([2, 3, 16, 16])
    """

    alphas_cumprod: Tensor

    def __init__(self, unet: nn.Module, scheduler: DDPMScheduler) -> None:
        super().__init__()
        if scheduler.config["prediction_type"] not in PREDICTIONS:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {scheduler.config['prediction_type']!r}"
            )
        self.unet = unet
        self.scheduler = DDPMScheduler.from_config(scheduler.config, clip_sample=False)
        self.prediction: str = scheduler.config["prediction_type"]
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.double(), persistent=False)

    @property
    def n_timesteps(self) -> int:
        """Number of timesteps of the noise schedule."""
        return len(self.alphas_cumprod)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the denoiser works on."""
        config: Any = self.unet.config
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return int(config["in_channels"]), int(height), int(width)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The network's own prediction, shape of ``x`` (batch, channels, height, width); timesteps (batch,)."""
        output: Tensor = self.unet(x, timesteps).sample
        return output

    def signal_and_noise(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors sqrt(alpha_bar) and sqrt(1 - alpha_bar), each (batch, 1, 1, 1) with the type of ``like``.

        Timestep -1 stands for the clean image, whose factors are 1 and 0.
        """
        alpha = torch.where(timesteps < 0, 1.0, self.alphas_cumprod[timesteps.clamp(min=0)]).reshape(-1, 1, 1, 1)
        return alpha.sqrt().to(like), (1 - alpha).sqrt().to(like)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise, shape of ``clean``."""
        signal, sigma = self.signal_and_noise(timesteps, clean)
        noisy: Tensor = signal * clean + sigma * noise
        return noisy

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict, shape of ``clean``."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        signal, sigma = self.signal_and_noise(timesteps, clean)
        velocity: Tensor = signal * noise - sigma * clean
        return velocity

    def velocity(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction as a velocity v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022).

        In this form a DDIM step is a rotation and stays finite where alpha_bar vanishes.
        """
        return self.as_velocity(self(x, timesteps), x, timesteps)

    def as_velocity(self, output: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity that the network's own ``output`` at ``x`` amounts to."""
        if self.prediction == "v_prediction":
            return output
        signal, sigma = self.signal_and_noise(timesteps, x)
        from_noise = self.prediction == "epsilon"
        velocity: Tensor = (output - sigma * x) / signal if from_noise else (signal * x - output) / sigma
        return velocity

    def as_clean(self, output: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        """The clean image x_0 that the network's own ``output`` at ``x`` amounts to."""
        if self.prediction == "sample":
            return output
        signal, sigma = self.signal_and_noise(timesteps, x)
        clean: Tensor = signal * x - sigma * self.as_velocity(output, x, timesteps)
        return clean

    def save(self, folder: str | Path, card: str | None = None) -> None:
        """Write a diffusers ``DDPMPipeline`` folder (safetensors), whole or not at all.

        Args:
            folder: where; an earlier denoiser there is replaced.
            card: text of the model card, ``README.md``.
        """
        folder = Path(folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        DDPMPipeline(unet=self.unet, scheduler=self.scheduler).save_pretrained(partial, safe_serialization=True)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def load_denoiser(folder: str | Path) -> Denoiser:
    """The denoiser of a diffusers folder: ``unet/`` and ``scheduler/``, or the UNet at the root; safetensors only.

    Raises:
        ValueError: if the folder holds no such model, or its weights fit another architecture.

    >>> load_denoiser("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel
    """
    folder = Path(folder)
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (unet_folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no denoiser: expected unet/config.json (or config.json) of a diffusers UNet2DModel"
        )
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    try:
        unet = _load_unet(unet_folder)
        scheduler = DDPMScheduler.from_pretrained(scheduler_folder, local_files_only=True)
    except (OSError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} does not load: {_first_line(error)}") from error
    denoiser = Denoiser(unet, scheduler)
    denoiser.eval()
    return denoiser


def _load_unet(folder: Path) -> UNet2DModel:
    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise OSError(f"{weights} is missing (only safetensors are read)")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("_class_name") != "UNet2DModel":
        raise OSError(f"{folder / 'config.json'} describes a {config.get('_class_name')}, not a UNet2DModel")
    unet: UNet2DModel = UNet2DModel.from_config(config)
    state = load_file(weights)
    check_same_architecture(unet, state, weights)
    unet.load_state_dict(state)
    return unet


def check_same_architecture(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Raise a ValueError that names the first difference unless ``state`` holds the weights of ``module``."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{source} holds another architecture: {name} is {found.get(name, 'absent')} there and "
                f"{expected.get(name, 'absent')} in the model"
            )


def small_denoiser(
    size: int = 32,
    image_channels: int = 3,
    channels: tuple[int, ...] = (16, 32, 64),
    prediction: str = "v_prediction",
    seed: int = 0,
) -> Denoiser:
    """A new pixel DDPM small enough for a CPU, with weights drawn from ``seed``.

    A UNet with group normalisation and one attention layer in the middle, a cosine schedule of 1,000 timesteps.

    Args:
        size: height and width in pixels, a multiple of 2^(len(channels) - 1).
        image_channels: 3 for RGB, 1 for grey.
        channels: width of each level, multiples of 8.
        prediction: ``"v_prediction"``, ``"epsilon"`` or ``"sample"``.
        seed: of the weights.

    Raises:
        ValueError: if the size does not divide or the prediction is unknown.
    """
    step = 2 ** (len(channels) - 1)
    if size % step:
        raise ValueError(f"size must be a multiple of {step} for {len(channels)} levels, got {size}")
    levels: dict[str, Any] = {
        "down_block_types": ("DownBlock2D",) * len(channels),
        "up_block_types": ("UpBlock2D",) * len(channels),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=size,
            in_channels=image_channels,
            out_channels=image_channels,
            block_out_channels=channels,
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=channels[-1],  # one head: several heads of width 8 are slow on a CPU
            **levels,
        )
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False)
    return Denoiser(unet, scheduler)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
