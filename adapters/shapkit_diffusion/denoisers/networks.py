"""How each kind of network is called: on an image, a timestep and what it is conditioned on, whatever its own words."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor, nn

NETWORKS = (UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, SD3Transformer2DModel, FluxTransformer2DModel)
"""The networks of published models that are opened. Any other with a UNet2DModel's call will do in a `Denoiser`."""

TRANSFORMERS = (DiTTransformer2DModel, SD3Transformer2DModel, FluxTransformer2DModel)

GUIDANCE = 3.5
"""What a guidance-distilled network is told, diffusers' own default."""


def predicted(
    network: nn.Module,
    x: Tensor,
    times: Tensor,
    *,
    prompt: Tensor | None = None,
    pooled: Tensor | None = None,
    class_label: int | None = None,
) -> Tensor:
    """A network's prediction at ``x`` (batch, channels, height, width), at least its channels.

    Args:
        network: a denoiser's.
        x: noisy images or latents.
        times: (batch,) or (1,), as a noise schedule's ``times`` has them.
        prompt: (1, tokens, width), the same for every sample.
        pooled: (1, width), a prompt's embedding in one vector.
        class_label: the same for every sample.
    """
    conditions: dict[str, Tensor] = {}
    if prompt is not None:
        conditions["encoder_hidden_states"] = prompt.to(x.dtype).expand(len(x), -1, -1)
    if pooled is not None:
        conditions["pooled_projections"] = pooled.to(x.dtype).expand(len(x), -1)
    if class_label is not None:
        conditions["class_labels"] = torch.full((len(x),), class_label, device=x.device)
    if isinstance(network, FluxTransformer2DModel):
        return _of_packed(network, x, times.expand(len(x)), conditions)
    if isinstance(network, SD3Transformer2DModel):
        conditions["timestep"] = times.expand(len(x))
        output: Tensor = network(x, **conditions).sample
        return output
    output = network(x, times, **conditions).sample
    return output


def _of_packed(network: Any, x: Tensor, times: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    """A Flux transformer's prediction: its tokens are squares of 2 x 2 latent pixels, with their places beside them."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    places = torch.zeros(rows, columns, 3, device=x.device, dtype=x.dtype)
    places[..., 1] += torch.arange(rows, device=x.device)[:, None]
    places[..., 2] += torch.arange(columns, device=x.device)
    tokens = nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)  # channels first within a token, as there
    if network.config["guidance_embeds"]:
        conditions["guidance"] = torch.full((len(x),), GUIDANCE, device=x.device, dtype=x.dtype)
    output: Tensor = network(
        tokens,
        timestep=times / 1000,  # which it multiplies again
        img_ids=places.flatten(0, 1),
        txt_ids=torch.zeros(conditions["encoder_hidden_states"].shape[1], 3, device=x.device, dtype=x.dtype),
        **conditions,
    ).sample
    return nn.functional.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def latent_shape_of(network: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of what a network works on."""
    config: Any = network.config
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    channels = int(config["in_channels"])
    return channels // 4 if isinstance(network, FluxTransformer2DModel) else channels, int(height), int(width)


def prompt_widths(network: nn.Module) -> tuple[int | None, int | None]:
    """The width of the prompt's tokens, and of the vector beside them; None where a network takes none.

    >>> prompt_widths(UNet2DModel(block_out_channels=(32,), down_block_types=["DownBlock2D"],
    ...                           up_block_types=["UpBlock2D"]))
    (None, None)
    """
    config: Any = network.config
    if isinstance(network, SD3Transformer2DModel | FluxTransformer2DModel):
        return int(config["joint_attention_dim"]), int(config["pooled_projection_dim"])
    width = config.get("cross_attention_dim") if isinstance(network, UNet2DConditionModel) else None
    return width, None


def class_count(network: nn.Module) -> tuple[int | None, bool]:
    """How many classes a network tells apart, None if it takes none; and whether the number after them is no class."""
    config: Any = network.config
    if isinstance(network, DiTTransformer2DModel):
        return config["num_embeds_ada_norm"], True
    return config.get("num_class_embeds"), False
