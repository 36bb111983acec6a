"""The region transformer: a DiT whose attention mask is an influence graph, so that every region owns its noise exactly.

A plain DiT (Peebles and Xie 2023) and two embeddings more: one that marks clean tokens, one that says whose token it is.
Training, generation and edits are those of `TokenGraph`: training is one pass over noised and clean tokens, a region is
generated after those that it looks at, and an edit computes its region's tokens alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shapkit.differentiable import Regions, star
from shapkit.differentiable.attention import BlockAttention, Stage, TokenGraph
from shapkit.differentiable.regions import Graph
from shapkit_diffusion.denoisers import denoiser as denoisers
from shapkit_diffusion.denoisers.composition_file import check_one_partition, no_plain_network, write_composition
from shapkit_diffusion.denoisers.denoiser import COMPOSITION, Denoiser

STAR = star()

CLEAN = 0
"""The timestep that clean tokens are given: the one with the least noise."""

KeysAndValues = tuple[Tensor, Tensor]


class _Section(NamedTuple):
    """Tokens that follow one another and have one timestep per sample."""

    length: int
    timesteps: Tensor


class RegionTransformer(nn.Module):
    """A ``DiTTransformer2DModel`` run over a `TokenGraph`; its tokens ordered by stage and region.

    Args:
        transformer: the plain network, used as it is.
        tokens: its tokens' regions, one partition for all samples.
        class_label: given to the transformer with every input.

    Attributes:
        region_embedding: (K, width), added to the tokens of each region; zero at first.
        clean_embedding: (width,), added to clean tokens; zero at first.
    """

    permutation: Tensor

    def __init__(self, transformer: DiTTransformer2DModel, tokens: TokenGraph, class_label: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.class_label = class_label
        place = {region: number for number, region in enumerate(sum(tokens.order, ()))}
        ranks = torch.tensor([place[owner] for owner in tokens.owners[0].tolist()])
        permutation = ranks.argsort(stable=True)
        self.register_buffer("permutation", permutation, persistent=False)
        self.register_buffer("back", permutation.argsort(), persistent=False)
        self.tokens = TokenGraph(tokens.owners[0][permutation], tokens.names, tokens.allowed)
        self.region_embedding = nn.Parameter(torch.zeros(len(tokens.names), transformer.inner_dim))
        self.clean_embedding = nn.Parameter(torch.zeros(transformer.inner_dim))
        self.gradient_checkpointing = False

    @property
    def config(self) -> Any:
        """The plain network's."""
        return self.transformer.config

    def enable_gradient_checkpointing(self) -> None:
        """Keep no activations of the blocks, and compute them again in the backward pass."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations."""
        self.gradient_checkpointing = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RegionTransformer:
        """Move the graph along with the weights."""
        super()._apply(fn, recurse)
        self.tokens = self.tokens.to(self.permutation.device)
        return self

    def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> SimpleNamespace:
        """The prediction of all regions in one pass, as ``sample``, shape of ``x`` (batch, channels, height, width).

        Args:
            x: the noised image.
            timesteps: (batch,).
            finished: the clean image, of which each region sees those that it may look at; by default they see ``x``.
        """
        tokens = self.tokens
        noised = self._embedded(x)
        clean = self._clean(x if finished is None else finished, tokens.context)
        hidden = torch.cat([noised, clean], dim=1)
        sections = [
            _Section(tokens.n_tokens, timesteps),
            _Section(len(tokens.context), torch.full_like(timesteps, CLEAN)),
        ]
        sections = [section for section in sections if section.length]
        *blocks, last = self.transformer.transformer_blocks
        for block in blocks:
            run = partial(self._block, block, sections=sections, attention=tokens.training_blocks)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(run, hidden, use_reentrant=False)
            else:
                hidden = run(hidden)
        hidden = self._block(last, hidden, sections, tokens.last_training_blocks, n_queries=tokens.n_tokens)
        output = self._predicted(hidden, timesteps)
        return SimpleNamespace(sample=self._image(output[:, self.back]))

    def kept(self, finished: Tensor, stage: Stage) -> list[KeysAndValues]:
        """Keys and values of the stage's context in every block, each (batch, heads, n, d): computed once, then kept.

        ``finished`` is an image (batch, channels, height, width), in which the context's regions are finished.
        """
        if not len(stage.context):
            return []
        hidden = self._clean(finished, stage.context)
        sections = [_Section(len(stage.context), torch.full((len(finished),), CLEAN, device=finished.device))]
        found: list[KeysAndValues] = []
        *blocks, last = self.transformer.transformer_blocks
        for block in blocks:
            hidden = self._block(block, hidden, sections, stage.filling, found=found)
        parts = self._modulation(last, sections, hidden.dtype)
        found.append(_keys_and_values(last, _normed(last.norm1.norm, hidden, sections, parts, 0)))
        return found

    def predicted(self, x: Tensor, timesteps: Tensor, stage: Stage, kept: Sequence[KeysAndValues]) -> Tensor:
        """The prediction of a stage's tokens from their own noised ones and what was kept; zero elsewhere.

        Args:
            x: (batch, channels, height, width); no more than the stage's tokens are looked at.
            timesteps: (batch,).
            stage: one of the graph's.
            kept: what ``kept`` returned.
        """
        hidden = self._embedded(x, stage.tokens)
        sections = [_Section(len(stage.tokens), timesteps)]
        for number, block in enumerate(self.transformer.transformer_blocks):
            hidden = self._block(block, hidden, sections, stage.attention, kept[number] if kept else None)
        output = self._predicted(hidden, timesteps)
        whole = output.new_zeros(len(x), self.tokens.n_tokens, output.shape[2])
        whole[:, stage.tokens] = output
        return self._image(whole[:, self.back])

    def where(self, stage: Stage) -> Tensor:
        """The pixels of a stage, boolean (1, 1, height, width)."""
        config = self.config
        mask = torch.zeros(self.tokens.n_tokens, dtype=torch.bool, device=self.permutation.device)
        mask[stage.tokens] = True
        side = config["sample_size"] // config["patch_size"]
        grid = mask[self.back].reshape(1, 1, side, side)
        return grid.repeat_interleave(config["patch_size"], 2).repeat_interleave(config["patch_size"], 3)

    def changed_tokens(self, changed: Tensor) -> Tensor:
        """Which tokens hold a changed pixel, boolean (tokens,); ``changed`` is boolean (1, 1, height, width)."""
        patch = self.config["patch_size"]
        grid = F.max_pool2d(changed.float(), patch) > 0
        return grid.flatten()[self.permutation]

    def _embedded(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The embedding of all tokens, or of some, in the order of the graph."""
        embed, patch, owners = self.transformer.pos_embed, self.config["patch_size"], self.tokens.owners[0]
        if tokens is None:
            whole: Tensor = embed(x)[:, self.permutation]
            return whole + self.region_embedding[owners]
        at = self.permutation[tokens]
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        patches = x.reshape(len(x), -1, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        projected = F.linear(patches[:, at], embed.proj.weight.flatten(1), embed.proj.bias)
        return projected + embed.pos_embed[:, at].to(projected) + self.region_embedding[owners[tokens]]

    def _clean(self, x: Tensor, context: Tensor) -> Tensor:
        return self._embedded(x, context) + self.clean_embedding

    def _block(
        self,
        block: Any,
        hidden: Tensor,
        sections: Sequence[_Section],
        attention: BlockAttention,
        kept: KeysAndValues | None = None,
        *,
        n_queries: int | None = None,
        found: list[KeysAndValues] | None = None,
    ) -> Tensor:
        """A block of the transformer: what becomes of the tokens, (batch, n, width).

        Args:
            block: of diffusers' transformer.
            hidden: (batch, n, width).
            sections: of the tokens.
            attention: of the tokens to themselves and what was kept.
            kept: keys and values of other tokens.
            n_queries: that many tokens, the first section's, are wanted; all by default.
            found: the tokens' own keys and values are appended to it.
        """
        parts = self._modulation(block, sections, hidden.dtype)
        seen = _normed(block.norm1.norm, hidden, sections, parts, 0)
        keys, values = _keys_and_values(block, seen)
        if found is not None:
            found.append((keys, values))
        if kept is not None:
            keys, values = torch.cat([keys, kept[0]], dim=2), torch.cat([values, kept[1]], dim=2)
        if n_queries is not None:
            seen, hidden, sections = seen[:, :n_queries], hidden[:, :n_queries], sections[:1]
        attended = attention(_heads(block, block.attn1.to_q(seen)), keys, values)
        hidden = _added(hidden, block.attn1.to_out[0](attended.transpose(1, 2).flatten(2)), sections, parts, 2)
        return _added(hidden, block.ff(_normed(block.norm3, hidden, sections, parts, 3)), sections, parts, 5)

    def _modulation(self, block: Any, sections: Sequence[_Section], dtype: torch.dtype) -> list[Tensor]:
        """Shift, scale and gate of attention and of the layers after it, for each section (batch, 6, 1, width)."""
        condition = self._condition(block, sections, dtype)
        found: Tensor = block.norm1.linear(block.norm1.silu(condition)).unflatten(1, (6, 1, -1))
        return list(found.chunk(len(sections)))

    def _condition(self, block: Any, sections: Sequence[_Section], dtype: torch.dtype) -> Tensor:
        """The embedding of timestep and class, (sections * batch, width)."""
        timesteps = torch.cat([section.timesteps for section in sections])
        embedding = block.norm1.emb
        # The label is looked up as it is: the layer would drop labels at random in training.
        label = embedding.class_embedder.embedding_table.weight[self.class_label]
        embedded: Tensor = embedding.timestep_embedder(embedding.time_proj(timesteps).to(dtype)) + label
        return embedded

    def _predicted(self, hidden: Tensor, timesteps: Tensor) -> Tensor:
        """What the last layers make of the noised tokens, (batch, n, patch * patch * channels)."""
        plain = self.transformer
        condition = self._condition(plain.transformer_blocks[0], [_Section(hidden.shape[1], timesteps)], hidden.dtype)
        shift, scale = plain.proj_out_1(F.silu(condition))[:, None].chunk(2, dim=2)
        output: Tensor = plain.proj_out_2(plain.norm_out(hidden) * (1 + scale) + shift)
        return output

    def _image(self, tokens: Tensor) -> Tensor:
        """The image of tokens in their own order, (batch, channels, height, width)."""
        config = self.config
        patch, side = config["patch_size"], config["sample_size"] // config["patch_size"]
        image = tokens.reshape(len(tokens), side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        return image.reshape(len(tokens), -1, side * patch, side * patch)


class RegionDenoiser(Denoiser):
    """A denoiser of a region transformer: local by construction, as cheap to generate with as a plain one.

    `convert` makes one of a plain DiT.

    Args:
        denoiser: of a ``DiTTransformer2DModel``, whose network, schedule and autoencoder are used; shared, not copied.
        regions: one partition for all images, on the denoiser's grid; a token belongs to the region with the largest
            share of it.
        graph: who may influence whom, without circles; see ``allowed_influence``.

    Raises:
        ValueError: if the denoiser is no DiT, is sampled with thresholding, or the regions differ from image to image,
            have another size, or lose a region on the grid of tokens.

    >>> from shapkit_diffusion.denoisers.denoiser import small_transformer
    >>> labels = torch.zeros(1, 8, 8, dtype=torch.long); labels[:, 4:] = 1
    >>> local = RegionDenoiser(small_transformer(8, width=16, depth=1), Regions.from_labels(labels, {"mouth": [1]}))
    >>> [stage.where[0, 0, :, 0].int().tolist() for stage in local.stages()]
    [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    """

    seeing: Tensor

    def __init__(self, denoiser: Denoiser, regions: Regions, graph: Graph = STAR) -> None:
        plain = denoiser.unet
        if not isinstance(plain, DiTTransformer2DModel):
            raise ValueError(
                f"denoiser must be of a DiTTransformer2DModel, got {type(plain).__name__}: of a UNet, see ComposedDenoiser"
            )
        check_one_partition(denoiser, regions)
        tokens = TokenGraph.of(regions, graph, patch=plain.config["patch_size"])
        if denoiser.class_label is None:
            raise ValueError("a DiT needs a class: Denoiser(..., class_label=...)")
        network = RegionTransformer(plain, tokens, denoiser.class_label)
        super().__init__(network, denoiser.scheduler, denoiser.autoencoder, class_label=denoiser.class_label)
        self.ddim, self.regions = denoiser.ddim, regions
        nowhere = torch.zeros(1, 1, *denoiser.latent_shape[1:], dtype=torch.bool)
        others = [network.where(stage) for stage in network.tokens.stages() if len(stage.context)]
        self.register_buffer("seeing", torch.stack([nowhere, *others]).any(dim=0), persistent=False)
        self.to(denoiser.alphas_cumprod.device)

    @property
    def network(self) -> RegionTransformer:
        """The region transformer."""
        assert isinstance(self.unet, RegionTransformer)
        return self.unet

    @property
    def allowed(self) -> Tensor:
        """The influence graph, boolean (K, K)."""
        return self.network.tokens.allowed

    def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> Tensor:
        """The prediction, shape of ``x`` (batch, channels, height, width).

        Regions see those that they look at as they are in ``finished``, where it is given, or else in ``x``.
        """
        output: Tensor = self.network(x, timesteps.expand(len(x)), finished).sample
        return output[:, : x.shape[1]]

    def stages(self, changed: Tensor | None = None) -> list[denoisers.Stage]:
        """The regions in their order; with ``changed``, those of them alone that depend on it."""
        network = self.network
        tokens = None if changed is None else network.changed_tokens(changed.to(network.permutation.device))
        return [self._stage(stage) for stage in network.tokens.stages(tokens)]

    @property
    def given_others(self) -> Tensor:
        """Where a prediction is made with other regions finished in sight, boolean (1, 1, height, width)."""
        return self.seeing

    def _stage(self, stage: Stage) -> denoisers.Stage:
        network = self.network

        def begin(x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            kept = network.kept(x, stage)
            return lambda x, timesteps: network.predicted(x, timesteps, stage, kept)[:, : x.shape[1]]

        return denoisers.Stage(lambda x, timesteps: begin(x)(x, timesteps), network.where(stage), begin)

    def _parts(self) -> tuple[str, dict[str, Any]]:
        vae = {} if self.autoencoder is None else {"vae": self.autoencoder.network}
        return "DiTPipeline", {"transformer": self.network.transformer, "scheduler": self.scheduler} | vae

    def _write_more(self, target: Path) -> dict[str, Any]:
        network = self.network
        more = {"region_embedding": network.region_embedding, "clean_embedding": network.clean_embedding}
        write_composition(target / COMPOSITION, self.regions, self.allowed, more)
        return no_plain_network("transformer")


def convert(denoiser: Denoiser, regions: Regions, graph: Graph = STAR) -> RegionDenoiser:
    """A plain DiT as a region transformer, to be trained on: a copy of its weights, with the new embeddings at zero.

    A quarter of the plain model's training is about what it needs, a tenth leaves it a little worse
    (docs/region_transformer.md).

    Args and errors as of `RegionDenoiser`; the plain denoiser stays as it is.

    >>> from shapkit_diffusion.denoisers.denoiser import small_transformer
    >>> halves = Regions.grid(1, 2, height=8, width=8)
    >>> convert(small_transformer(8, width=16, depth=1), halves, "own").regions.names
    ('r0c0', 'r0c1')
    """
    return RegionDenoiser(copy.deepcopy(denoiser), regions, graph)


def _heads(block: Any, tokens: Tensor) -> Tensor:
    """Tokens (batch, n, width) by the heads of a block's attention, (batch, heads, n, d)."""
    return tokens.unflatten(2, (block.attn1.heads, -1)).transpose(1, 2)


def _keys_and_values(block: Any, seen: Tensor) -> KeysAndValues:
    return _heads(block, block.attn1.to_k(seen)), _heads(block, block.attn1.to_v(seen))


def _normed(norm: nn.Module, hidden: Tensor, sections: Sequence[_Section], parts: list[Tensor], at: int) -> Tensor:
    """The tokens normalised, each section shifted by part ``at`` of its modulation and scaled by the next."""
    split = norm(hidden).split([section.length for section in sections], dim=1)
    shifted = [tokens * (1 + part[:, at + 1]) + part[:, at] for tokens, part in zip(split, parts, strict=False)]
    return shifted[0] if len(shifted) == 1 else torch.cat(shifted, dim=1)


def _added(hidden: Tensor, change: Tensor, sections: Sequence[_Section], parts: list[Tensor], at: int) -> Tensor:
    """The tokens with the change added, each section's through the gate ``at`` of its modulation."""
    split = change.split([section.length for section in sections], dim=1)
    gated = [tokens * part[:, at] for tokens, part in zip(split, parts, strict=False)]
    return hidden + (gated[0] if len(gated) == 1 else torch.cat(gated, dim=1))
