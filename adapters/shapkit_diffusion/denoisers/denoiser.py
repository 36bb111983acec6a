"""Denoisers: a diffusers UNet or DiT with its noise schedule, called in one way whatever it predicts, and saved.

Pixel models, latent models (with the autoencoder that makes their latents) and Stable Diffusion without text. A
denoiser's folder is a diffusers pipeline's folder, so either side opens what the other wrote.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, cast

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SchedulerMixin,
    SD3Transformer2DModel,
    UNet2DModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from shapkit._files import whole_folder
from shapkit_diffusion.denoisers.autoencoders import Autoencoder
from shapkit_diffusion.denoisers.checkpoints import CONFIG, PICKLES, WEIGHT_FILES
from shapkit_diffusion.denoisers.networks import latent_shape_of, predicted
from shapkit_diffusion.denoisers.parameterisation import PREDICTIONS, Prediction, split, target
from shapkit_diffusion.denoisers.prompts import EMBEDDING, TEXT_FOLDERS
from shapkit_diffusion.denoisers.schedules import Sampling, is_flow, sampling_of, schedule_of

INDEX = "model_index.json"
CARD = "README.md"
COMPOSITION = "composition.safetensors"
"""The file that says how a saved denoiser's output is composed, see ``ComposedDenoiser``."""

CLASS_LABEL = "class_label.json"
"""The file that says which class a class-conditional denoiser is given."""

_OF_TRANSFORMERS: dict[type[nn.Module], str] = {
    DiTTransformer2DModel: "DiTPipeline",
    SD3Transformer2DModel: "StableDiffusion3Pipeline",
    FluxTransformer2DModel: "FluxPipeline",
}
_LEFT_OUT = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor"),
    "StableDiffusion3Pipeline": [f"{part}{n}" for part in TEXT_FOLDERS for n in ("", "_2", "_3")],
    "FluxPipeline": [f"{part}{n}" for part in TEXT_FOLDERS for n in ("", "_2")],
}
"""The parts of pipelines that a denoiser is without: who opens it in diffusers passes them, or embeddings."""

_OWN = (
    *(INDEX, CARD, EMBEDDING, COMPOSITION, CLASS_LABEL, "scheduler/scheduler_config.json"),
    *(f"{part}/{name}" for part in ("unet", "transformer", "vqvae", "vae") for name in (CONFIG, *WEIGHT_FILES)),
    *(f"{part}/*{suffix}" for part in TEXT_FOLDERS for suffix in (".json", ".txt", ".safetensors")),
)
"""The files that ``save`` writes, as patterns of their paths within the folder."""


class Stage(NamedTuple):
    """A part of the image that is generated after those before it.

    ``output`` is the network's own prediction of it from x_t, in which the stages before are finished; ``where`` it
    lies, boolean (1, 1, height, width), or everywhere.
    """

    output: Callable[[Tensor, Tensor], Tensor]
    where: Tensor | None = None
    begin: Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]] | None = None
    """Gives the output for a batch in which the stages before are finished: computes once what it needs of them."""

    def begun(self, x: Tensor) -> Stage:
        """The stage for the batch ``x``, in which the stages before are finished and stay as they are."""
        return self if self.begin is None else Stage(self.begin(x), self.where)

    def moved(self, x: Tensor, to: Tensor) -> Tensor:
        """``to`` where the stage lies, and ``x`` elsewhere."""
        return to if self.where is None else torch.where(self.where, to, x)


class Denoiser(nn.Module):
    """A network that, given a noisy image and its timestep, predicts noise, image or velocity.

    A latent model does the same with latents: what is called ``x``, ``clean`` or ``noise`` here has ``latent_shape``,
    and ``encode`` and ``decode`` lead from images and back. A pixel model's latents are the images themselves.

    Args:
        unet: maps (batch, channels, height, width) and timesteps (batch,) to a tensor of that shape.
        scheduler: any of diffusers' samplers, for the noise schedule that the network was trained with and the settings
            that ``ddim`` takes from it; saved as it is.
        autoencoder: what made the latents that a latent model was trained on. No part of the module's parameters.
        prompt_embedding: (1, tokens, width), handed to a network that takes a prompt with every input.
        class_label: handed to a class-conditional network with every input.
        pooled_embedding: (1, width), handed to an SD3 or Flux transformer beside the prompt.

    Attributes:
        ddim: how it is sampled, unless a call says otherwise: the scheduler's own settings, which may be replaced.

    Raises:
        ValueError: if the schedule's prediction type is unknown, or its settings are not those of DDIM.

    >>> denoiser = small_denoiser(size=16, channels=(8, 16))
    >>> x = torch.zeros(2, 3, 16, 16)
    >>> denoiser(x, torch.tensor([10, 10])).shape
    torch.Size([2, 3, 16, 16])
    """

    prompt_embedding: Tensor | None
    pooled_embedding: Tensor | None

    def __init__(
        self,
        unet: nn.Module,
        scheduler: SchedulerMixin,
        autoencoder: Autoencoder | None = None,
        prompt_embedding: Tensor | None = None,
        class_label: int | None = None,
        pooled_embedding: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler
        self.prediction: Prediction = _prediction(scheduler.config)
        length = math.prod(self.latent_shape[1:]) // 4 if scheduler.config.get("use_dynamic_shifting") else 256
        self.ddim: Sampling = sampling_of(scheduler.config, latent=autoencoder is not None, length=length)
        self.autoencoder = autoencoder
        self.class_label = class_label
        self.text_source: Path | None = None
        """The folder whose text encoder and tokenizer belong to the model; ``save`` copies them."""
        self.schedule = schedule_of(scheduler.config)
        self.register_buffer("prompt_embedding", prompt_embedding, persistent=False)
        self.register_buffer("pooled_embedding", pooled_embedding, persistent=False)

    def with_prompt(self, prompt_embedding: Tensor) -> Denoiser:
        """Return the same model, of the same weights, conditioned on another prompt.

        Args:
            prompt_embedding: (1, tokens, width), such as `text_encoder` makes.

        Raises:
            ValueError: if the model takes no prompt, or one of another width.
        """
        if self.prompt_embedding is None:
            raise ValueError("the model takes no prompt: it is not conditioned on text")
        width, shape = self.prompt_embedding.shape[-1], tuple(prompt_embedding.shape)
        if len(shape) != 3 or (shape[0], shape[-1]) != (1, width):
            raise ValueError(f"prompt_embedding has shape {shape}, expected (1, tokens, {width})")
        other = copy(self)
        other._buffers = {**self._buffers, "prompt_embedding": prompt_embedding.to(self.prompt_embedding)}
        return other

    @property
    def n_timesteps(self) -> int:
        """Number of timesteps of the noise schedule."""
        return self.schedule.n_timesteps

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar at every timestep, float64; of a flow, that with the same ratio of signal to noise."""
        return self.schedule.alphas_cumprod

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.alphas_cumprod.device

    @property
    def is_latent(self) -> bool:
        """Whether the denoiser works on latents, not on pixels."""
        return self.autoencoder is not None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the denoiser works on: latents, or images if it is a pixel model."""
        return latent_shape_of(self.unet)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        if self.autoencoder is None:
            return self.latent_shape
        _, height, width = self.latent_shape
        factor = self.autoencoder.factor
        return self.autoencoder.image_channels, factor * height, factor * width

    def encode(self, images: Tensor, batch_size: int = 8) -> Tensor:
        """Latents (n, *latent_shape) of images (n, *image_shape) in [-1, 1], without gradient; see `Autoencoder`."""
        return images if self.autoencoder is None else self.autoencoder.encode(images, batch_size)

    def decode(self, latents: Tensor, batch_size: int = 8) -> Tensor:
        """Images (n, *image_shape), roughly in [-1, 1], of latents, without gradient; see `Autoencoder`."""
        return latents if self.autoencoder is None else self.autoencoder.decode(latents, batch_size)

    def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> Tensor:
        """The network's own prediction, shape of ``x`` (batch, channels, height, width); timesteps (batch,).

        ``finished`` is the clean image, for models that generate some regions after others (`ComposedDenoiser`). With
        fewer of them than noised ones, each is that of as many neighbours.
        """
        output = predicted(
            self.unet,
            x,
            self.schedule.times(timesteps),
            prompt=self.prompt_embedding,
            pooled=self.pooled_embedding,
            class_label=self.class_label,
        )
        return mean_of(output, x.shape[1])

    def signal_and_noise(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of x_t = signal x_0 + sigma noise, each (batch, 1, 1, 1) with the type of ``like``.

        In a DDPM sqrt(alpha_bar) and sqrt(1 - alpha_bar), in a flow 1 - s and s. Timestep -1 stands for the clean
        image, whose factors are 1 and 0.
        """
        return self.schedule.level(timesteps).factors(like)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = signal x_0 + sigma noise, shape of ``clean``."""
        signal, sigma = self.signal_and_noise(timesteps, clean)
        noisy: Tensor = signal * clean + sigma * noise
        return noisy

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict, shape of ``clean``."""
        return target(self.prediction, clean, noise, *self.signal_and_noise(timesteps, clean))

    def clean_and_noise(self, output: Tensor, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The clean image x_0 and the noise that the network's own ``output`` at ``x`` amounts to, shape of ``x``.

        They are not bounded: where hardly any signal is left, the clean image of a noise prediction is anything.
        """
        return split(self.prediction, output, x, *self.signal_and_noise(timesteps, x))

    def stages(self, changed: Tensor | None = None) -> list[Stage]:
        """What is generated one after the other; of most models, everything at once.

        Args:
            changed: boolean (1, 1, height, width), where the noise is not that of images that are known: what has to be
                generated anew.
        """
        return [Stage(self)]

    @property
    def given_others(self) -> Tensor:
        """Where a prediction is made with other regions finished in sight, boolean (1, 1, height, width) or (1,)."""
        return torch.zeros(1, dtype=torch.bool, device=self.device)

    def owned(self, names: Sequence[str]) -> Tensor | None:
        """The pixels that are generated as these regions, boolean (1, 1, height, width); None where none are apart."""
        return None

    def save(self, folder: str | Path, card: str | None = None) -> None:
        """Write a diffusers pipeline's folder (safetensors), whole or not at all.

        A pixel model becomes a ``DDPMPipeline``, a latent one an ``LDMPipeline``, a transformer a ``DiTPipeline`` (or
        the one of SD3 or Flux), one with a prompt a ``StableDiffusionPipeline``; the latter's text encoder and
        tokenizer are copied from ``text_source``, without which diffusers wants them passed.

        An earlier denoiser in the folder is replaced, file by file, its model card only by another. A process that is
        killed while it saves leaves the old one or the new one: what it had begun to move is finished by the next
        ``load_denoiser`` or ``save``.

        Args:
            folder: a new or an empty one, or one that a denoiser was saved in. ``"."`` will do, and so will a link.
            card: text of the model card, ``README.md``.

        Raises:
            ValueError: ``folder`` is a file, or holds something that no denoiser's ``save`` has written. It is left
                as it is.
        """
        with whole_folder(folder, INDEX, _is_own, kept=[CARD]) as target:
            self._write(target, card)

    def _write(self, target: Path, card: str | None) -> None:
        pipeline, parts = self._parts()
        for name, part in parts.items():
            part.save_pretrained(target / name)
        index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
        index |= {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
        if self.prompt_embedding is not None:
            embeddings = {"prompt_embedding": self.prompt_embedding, "pooled_embedding": self.pooled_embedding}
            tensors = {name: tensor.contiguous() for name, tensor in embeddings.items() if tensor is not None}
            save_file(tensors, target / EMBEDDING)
            index |= {name: [None, None] for name in _LEFT_OUT[pipeline]}
            if pipeline == "StableDiffusionPipeline":
                index |= self._copy_text_folders(target)
        index |= self._write_more(target)
        if self.class_label is not None:
            (target / CLASS_LABEL).write_text(json.dumps({"class_label": self.class_label}) + "\n", encoding="utf-8")
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (target / CARD).write_text(card, encoding="utf-8")

    def _write_more(self, target: Path) -> dict[str, Any]:
        """Write what subclasses have to be restored from; returns their entries in ``model_index.json``."""
        return {}

    def _parts(self) -> tuple[str, dict[str, Any]]:
        """The diffusers pipeline that the model makes, and its parts by their folders' names."""
        for kind, pipeline in _OF_TRANSFORMERS.items():
            if isinstance(self.unet, kind):
                vae = {} if self.autoencoder is None else {"vae": self.autoencoder.network}
                return pipeline, {"transformer": self.unet, "scheduler": self.scheduler} | vae
        parts = {"unet": self.unet, "scheduler": self.scheduler}
        if self.autoencoder is None:
            return "DDPMPipeline", parts
        if self.prompt_embedding is None:
            return "LDMPipeline", parts | {"vqvae": self.autoencoder.network}
        return "StableDiffusionPipeline", parts | {"vae": self.autoencoder.network}

    def _copy_text_folders(self, target: Path) -> dict[str, list[str | None]]:
        """Their entries in ``model_index.json``."""
        if self.text_source is None:
            return {name: [None, None] for name in TEXT_FOLDERS}
        for name in TEXT_FOLDERS:
            shutil.copytree(self.text_source / name, target / name, ignore=_pickles)
        return {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}


def _prediction(config: Mapping[str, Any]) -> Prediction:
    """What the network predicts, as a scheduler's configuration states; a ValueError unless it suits the schedule."""
    flow = is_flow(config)
    stated = config.get("prediction_type", "flow_prediction" if flow else None)
    of_flows = [name for name in PREDICTIONS if name != "v_prediction"]
    allowed = of_flows if flow else [name for name in PREDICTIONS if name != "flow_prediction"]
    if stated not in allowed:
        kind = "a flow's prediction_type" if flow else "prediction_type"
        raise ValueError(f"{kind} must be one of {', '.join(allowed)}, got {stated!r}")
    return cast(Prediction, stated)


def _is_own(name: str) -> bool:
    """Whether a file of that path in a denoiser's folder is one that ``save`` writes."""
    return any(fnmatchcase(name, pattern) for pattern in _OWN)


def _pickles(_: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(name).suffix in PICKLES]


def mean_of(output: Tensor, channels: int) -> Tensor:
    """The mean in a network's output (batch, c, height, width); where the variance is learned, too, it comes first."""
    return output if output.shape[1] == channels else output[:, :channels]  # no view without need: FSDP warns of them


def small_denoiser(
    size: int = 32,
    image_channels: int = 3,
    channels: tuple[int, ...] = (16, 32, 64),
    prediction: str = "v_prediction",
    seed: int = 0,
    autoencoder: Autoencoder | None = None,
) -> Denoiser:
    """A new DDPM small enough for a CPU, of pixels or of an autoencoder's latents, with weights drawn from ``seed``.

    A UNet with group normalisation and one attention layer in the middle, a cosine schedule of 1,000 timesteps, or a
    flow's straight line. A model that predicts noise is sampled from below the last timestep, of which it can say
    nothing, and one of pixels with the clean image clipped; all others begin at the last timestep, with nothing
    clipped, so that inversion is exact.

    Args:
        size: height and width of the images; of what the UNet sees, a multiple of 2^(len(channels) - 1).
        image_channels: 3 for RGB, 1 for grey; an autoencoder knows its own.
        channels: width of each level, multiples of 8.
        prediction: ``"v_prediction"``, ``"epsilon"``, ``"sample"`` or ``"flow_prediction"`` (of a flow).
        seed: of the weights.
        autoencoder: of a latent model; None for a pixel model.

    Raises:
        ValueError: if the size does not divide or the prediction is unknown.
    """
    factor = 1 if autoencoder is None else autoencoder.factor
    step = factor * 2 ** (len(channels) - 1)
    if size % step:
        raise ValueError(f"size must be a multiple of {step} for {len(channels)} levels, got {size}")
    in_channels = image_channels if autoencoder is None else autoencoder.latent_channels
    levels: dict[str, Any] = {
        "down_block_types": ("DownBlock2D",) * len(channels),
        "up_block_types": ("UpBlock2D",) * len(channels),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=size // factor,
            in_channels=in_channels,
            out_channels=in_channels,
            block_out_channels=channels,
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=channels[-1],  # one head: several heads of width 8 are slow on a CPU
            **levels,
        )
    return Denoiser(unet, _small_schedule(prediction, latent=autoencoder is not None), autoencoder)


def small_transformer(
    size: int = 32,
    image_channels: int = 3,
    width: int = 96,
    depth: int = 5,
    patch: int = 2,
    heads: int = 4,
    prediction: str = "v_prediction",
    seed: int = 0,
    autoencoder: Autoencoder | None = None,
) -> Denoiser:
    """A new DiT (Peebles and Xie 2023) small enough for a CPU, of pixels or latents, its weights drawn from ``seed``.

    It has no classes: it is always given the null class. Its schedule is that of ``small_denoiser``.

    Args:
        size: height and width of the images; of what the transformer sees, a multiple of ``patch``.
        image_channels: 3 for RGB, 1 for grey; an autoencoder knows its own.
        width: of a token, a multiple of 4 and of ``heads``.
        depth: number of blocks.
        patch: pixels per side of a token.
        heads: of the attention.
        prediction: ``"v_prediction"``, ``"epsilon"``, ``"sample"`` or ``"flow_prediction"`` (of a flow).
        seed: of the weights.
        autoencoder: of a latent model; None for a pixel model.

    Raises:
        ValueError: if the size or the width does not divide, or the prediction is unknown.

    >>> denoiser = small_transformer(size=8, width=16, depth=1)
    >>> denoiser(torch.zeros(2, 3, 8, 8), torch.tensor([10, 10])).shape
    torch.Size([2, 3, 8, 8])
    """
    factor = 1 if autoencoder is None else autoencoder.factor
    if size % (factor * patch):
        raise ValueError(f"size must be a multiple of {factor * patch} for patches of {patch}, got {size}")
    if width % heads or width % 4:
        raise ValueError(f"width must be a multiple of 4 and of the {heads} heads, got {width}")
    channels = image_channels if autoencoder is None else autoencoder.latent_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=channels,
            num_layers=depth,
            sample_size=size // factor,
            patch_size=patch,
            num_embeds_ada_norm=1,
        )
        for block in transformer.transformer_blocks:  # adaLN-Zero: every block begins as the identity
            nn.init.zeros_(block.norm1.linear.weight)
            nn.init.zeros_(block.norm1.linear.bias)
        for layer in (transformer.proj_out_1, transformer.proj_out_2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    scheduler = _small_schedule(prediction, latent=autoencoder is not None)
    return Denoiser(transformer, scheduler, autoencoder, class_label=1)


def _small_schedule(prediction: str, *, latent: bool) -> SchedulerMixin:
    if prediction == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler()
    # Latent pipelines sample in few steps, which a DDPM scheduler does badly.
    kind = DDIMScheduler if latent else DDPMScheduler
    return kind(
        1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample=prediction == "epsilon" and not latent,
        timestep_spacing="leading" if prediction == "epsilon" else "trailing",
    )
