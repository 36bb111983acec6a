"""The region transformer: a DiT whose attention mask is an influence graph, so that each region owns its noise exactly.

It is a plain DiT (Peebles and Xie 2023) with two embeddings more: one marks clean tokens, one says whose a token is.
Training, generation and edits are those of `TokenGraph`: training is one pass over noised and clean tokens, a region is
generated after those that it looks at, and an edit computes its region's tokens alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shapkit.differentiable import Regions, star
from shapkit.differentiable.attention import BlockAttention, MaskedAttention, Stage, TokenGraph
from shapkit.differentiable.regions import Graph
from shapkit_diffusion.denoisers import denoiser as denoisers
from shapkit_diffusion.denoisers.composition_file import check_one_partition, no_plain_network, write_composition
from shapkit_diffusion.denoisers.denoiser import COMPOSITION, Denoiser

STAR = star()

CLEAN = 0
"""The timestep that clean tokens are given: the one with the least noise."""

KeysAndValues = tuple[Tensor, Tensor]


class RegionTransformer(nn.Module):
    """A ``DiTTransformer2DModel`` run over a `TokenGraph`; its tokens ordered by stage and region.

    Args:
        transformer: the plain network, used as it is.
        tokens: its tokens' regions.
        class_label: given to the transformer with every input.

    Attributes:
        region_embedding: (K, width), added to the tokens of each region; zero at first.
        clean_embedding: (width,), added to clean tokens; zero at first.
    """

    permutation: Tensor
    back: Tensor

    def __init__(self, transformer: DiTTransformer2DModel, tokens: TokenGraph, class_label: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.class_label = class_label
        self._order(tokens)
        self.region_embedding = nn.Parameter(torch.zeros(len(tokens.names), transformer.inner_dim))
        self.clean_embedding = nn.Parameter(torch.zeros(transformer.inner_dim))
        self.gradient_checkpointing = False

    def _order(self, tokens: TokenGraph) -> None:
        """Take over whose tokens are whose: by stage and region, where they are the same in all samples."""
        owners = tokens.owners[0]
        permutation = torch.arange(len(owners), device=owners.device)
        if tokens.shared:
            place = {region: number for number, region in enumerate(sum(tokens.order, ()))}
            ranks = torch.tensor([place[owner] for owner in owners.tolist()], device=owners.device)
            permutation = ranks.argsort(stable=True)
        self.register_buffer("permutation", permutation, persistent=False)
        self.register_buffer("back", permutation.argsort(), persistent=False)
        self.tokens = TokenGraph(tokens.owners[:, permutation], tokens.names, tokens.allowed)

    def over(self, tokens: TokenGraph) -> RegionTransformer:
        """The same network, its weights shared, over tokens of other regions: of every sample its own, for instance."""
        found = copy.copy(self)
        found._buffers = dict(self._buffers)  # the weights stay common, what follows does not
        found._order(tokens.to(self.permutation.device))
        return found

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
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.tokens = self.tokens.to(self.permutation.device)
        return self

    def forward(self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None) -> SimpleNamespace:
        """The prediction of all regions in one pass, as ``sample``, shape of ``x``.

        Args:
            x: noised images (batch, channels, height, width).
            timesteps: (batch,).
            finished: the clean images, of which each region sees those that it may look at; by default they see ``x``.
                With fewer of them than noised ones, each is the clean image of as many that follow one another.
        """
        whole = self.tokens.whole
        return SimpleNamespace(
            sample=self.predicted(x, timesteps, whole, self.kept(x if finished is None else finished, whole))
        )

    def kept(self, finished: Tensor, stage: Stage) -> list[KeysAndValues]:
        """Keys and values of the stage's context in every block, each (batch, heads, n, d): computed once, then kept.

        ``finished`` is an image (batch, channels, height, width), in which the context's regions are finished.
        """
        if not len(stage.context):
            return []
        hidden = self._embedded(finished, stage.context) + self.clean_embedding
        clean = torch.full((1,), CLEAN, device=finished.device)
        found: list[KeysAndValues] = []
        *blocks, last = self.transformer.transformer_blocks
        for block in blocks:
            hidden, *keys_and_values = self._run(block, hidden, clean, stage.filling)
            found.append((keys_and_values[0], keys_and_values[1]))
        shift, scale, *_ = self._modulation(last, clean, hidden.dtype)  # of the last block nothing else is looked at
        return [*found, _keys_and_values(last, last.norm1.norm(hidden) * (1 + scale) + shift)]

    def predicted(self, x: Tensor, timesteps: Tensor, stage: Stage, kept: Sequence[KeysAndValues]) -> Tensor:
        """The prediction of a stage's tokens from their own noised ones and what was kept; zero elsewhere.

        Args:
            x: (batch, channels, height, width); no more than the stage's tokens are looked at.
            timesteps: (batch,).
            stage: one of the graph's.
            kept: what ``kept`` returned, of as many images or of one for several that follow one another.
        """
        if timesteps.stride(0) == 0:  # one timestep for all, as in sampling: embedded once
            timesteps = timesteps[:1]
        everything = len(stage.tokens) == self.tokens.n_tokens
        hidden = self._embedded(x, None if everything else stage.tokens)
        for number, block in enumerate(self.transformer.transformer_blocks):
            hidden, _, _ = self._run(block, hidden, timesteps, stage.attention, kept[number] if kept else None)
        output = self._predicted(hidden, timesteps)
        if not everything:
            whole = output.new_zeros(len(x), self.tokens.n_tokens, output.shape[2])
            whole[:, stage.tokens] = output
            output = whole
        return self._image(output[:, self.back])

    def where(self, stage: Stage) -> Tensor:
        """The pixels of a stage, boolean (1, 1, height, width)."""
        mask = torch.zeros(self.tokens.n_tokens, dtype=torch.bool, device=self.permutation.device)
        mask[stage.tokens] = True
        return self.pixels(mask[None, self.back])

    def pixels(self, tokens: Tensor) -> Tensor:
        """The pixels (batch, 1, height, width) of tokens in their own order, boolean (batch, tokens)."""
        patch, side = self.config["patch_size"], self.config["sample_size"] // self.config["patch_size"]
        grid = tokens.reshape(-1, 1, side, side)
        return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)

    def changed_tokens(self, changed: Tensor) -> Tensor:
        """Which tokens hold a changed pixel, boolean (tokens,); ``changed`` is boolean (1, 1, height, width)."""
        patch = self.config["patch_size"]
        grid = F.max_pool2d(changed.float(), patch) > 0
        return grid.flatten()[self.permutation]

    def _embedded(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The embedding of all tokens, or of some, in the order of the graph."""
        embed, patch, owners = self.transformer.pos_embed, self.config["patch_size"], self.tokens.owners
        owners = owners[:: max(1, len(owners) // len(x))]  # of several noised images that are one, the first's
        if tokens is None:
            whole: Tensor = embed(x)[:, self.permutation]
            return whole + self.region_embedding[owners]
        at = self.permutation[tokens]
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        patches = x.reshape(len(x), -1, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        some: Tensor = F.linear(patches[:, at], embed.proj.weight.flatten(1), embed.proj.bias)
        places: Tensor = embed.pos_embed[:, at].to(some)
        return some + places + self.region_embedding[owners[:, tokens]]

    def _run(self, block: Any, hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            found: tuple[Tensor, Tensor, Tensor] = checkpoint(
                self._block, block, hidden, *arguments, use_reentrant=False
            )
            return found
        return self._block(block, hidden, *arguments)

    def _block(
        self,
        block: Any,
        hidden: Tensor,
        timesteps: Tensor,
        attention: BlockAttention | MaskedAttention,
        kept: KeysAndValues | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a block of the transformer makes of the tokens (batch, n, width), and their own keys and values."""
        shift, scale, gate, shift_inner, scale_inner, gate_inner = self._modulation(block, timesteps, hidden.dtype)
        seen = block.norm1.norm(hidden) * (1 + scale) + shift
        own = keys, values = _keys_and_values(block, seen)
        if kept is not None:
            keys, values = (
                torch.cat([tokens, context.repeat_interleave(len(tokens) // len(context), dim=0)], dim=2)
                for tokens, context in zip(own, kept, strict=True)
            )
        attended = attention(_heads(block, block.attn1.to_q(seen)), keys, values)
        hidden = hidden + gate * block.attn1.to_out[0](attended.transpose(1, 2).flatten(2))
        inner = block.ff(block.norm3(hidden) * (1 + scale_inner) + shift_inner)
        return hidden + gate_inner * inner, *own

    def _modulation(self, block: Any, timesteps: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the attention and of the layers after it, each (batch, 1, width)."""
        found: Tensor = block.norm1.linear(block.norm1.silu(self._condition(block, timesteps, dtype)))
        return found[:, None].chunk(6, dim=2)

    def _condition(self, block: Any, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """The embedding of timestep and class, (batch, width)."""
        embedding = block.norm1.emb
        # The label is looked up as it is: the layer would drop labels at random in training.
        label = embedding.class_embedder.embedding_table.weight[self.class_label]
        embedded: Tensor = embedding.timestep_embedder(embedding.time_proj(timesteps).to(dtype)) + label
        return embedded

    def _predicted(self, hidden: Tensor, timesteps: Tensor) -> Tensor:
        """What the last layers make of the noised tokens, (batch, n, patch * patch * channels)."""
        plain = self.transformer
        condition = self._condition(plain.transformer_blocks[0], timesteps, hidden.dtype)
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
        regions: one partition for all images, on the denoiser's grid; a token with pixels of several regions belongs to
            the one that is generated last (`TokenGraph.of`).
        graph: who may influence whom, without circles; see ``allowed_influence``.

    Attributes:
        regions: the partition in whole tokens: new noise in one of these changes nothing outside, bit for bit.

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
                f"denoiser must be of a DiTTransformer2DModel, got {type(plain).__name__}: for a UNet, see "
                "ComposedDenoiser"
            )
        check_one_partition(denoiser, regions)
        tokens = TokenGraph.of(regions, graph, patch=plain.config["patch_size"])
        if denoiser.class_label is None:
            raise ValueError("a DiT needs a class: Denoiser(..., class_label=...)")
        network = RegionTransformer(plain, tokens, denoiser.class_label)
        super().__init__(network, denoiser.scheduler, denoiser.autoencoder, class_label=denoiser.class_label)
        masks = torch.cat([network.pixels(tokens.owners == number) for number in range(len(regions.names))], dim=1)
        self.ddim, self.regions = denoiser.ddim, Regions(masks.to(regions.masks), regions.names, regions.missing)
        nowhere = torch.zeros(1, 1, *denoiser.latent_shape[1:], dtype=torch.bool)
        others = [network.where(stage) for stage in network.tokens.stages() if len(stage.context)]
        self.register_buffer("seeing", torch.stack([nowhere, *others]).any(dim=0), persistent=False)
        self.to(denoiser.device)

    @property
    def network(self) -> RegionTransformer:
        """The region transformer."""
        assert isinstance(self.unet, RegionTransformer)
        return self.unet

    @property
    def allowed(self) -> Tensor:
        """The influence graph, boolean (K, K)."""
        return self.network.tokens.allowed

    def forward(
        self, x: Tensor, timesteps: Tensor, finished: Tensor | None = None, regions: Regions | None = None
    ) -> Tensor:
        """The prediction, shape of ``x`` (batch, channels, height, width).

        Regions see those that they look at as they are in ``finished``, where it is given, or else in ``x``. With
        ``regions`` each sample has its own, of the same names.
        """
        network = self.network
        if regions is not None:
            network = network.over(self._tokens_of(regions))
        output: Tensor = network(x, self.schedule.times(timesteps).expand(len(x)), finished).sample
        return denoisers.mean_of(output, x.shape[1])

    def with_regions(self, regions: Regions) -> RegionDenoiser:
        """The same model with another partition, such as an image's own; the weights are shared, not copied.

        Args:
            regions: of the same names, one partition.

        Raises:
            ValueError: as of the class, or if the names differ.
        """
        self._check_names(regions)
        plain = Denoiser(self.network.transformer, self.scheduler, self.autoencoder, class_label=self.class_label)
        plain.ddim = self.ddim
        found = RegionDenoiser(plain, regions, self.allowed)
        found.network.region_embedding = self.network.region_embedding
        found.network.clean_embedding = self.network.clean_embedding
        return found.train(self.training)

    def _check_names(self, regions: Regions) -> None:
        if regions.names != self.regions.names:
            raise ValueError(
                f"regions must be named as the model's, {', '.join(self.regions.names)}; got {', '.join(regions.names)}"
            )

    def _tokens_of(self, regions: Regions) -> TokenGraph:
        self._check_names(regions)
        return TokenGraph.of(regions, self.allowed, patch=self.network.config["patch_size"])

    def stages(self, changed: Tensor | None = None) -> list[denoisers.Stage]:
        """The regions in their order; with ``changed``, those of them alone that depend on it."""
        network = self.network
        tokens = None if changed is None else network.changed_tokens(changed.to(network.permutation.device))
        return [self._stage(stage) for stage in network.tokens.stages(tokens)]

    @property
    def given_others(self) -> Tensor:
        """Where a prediction is made with other regions finished in sight, boolean (1, 1, height, width)."""
        return self.seeing

    def owned(self, names: Sequence[str]) -> Tensor | None:
        """The pixels of these regions' tokens, boolean (1, 1, height, width); None if one is no region of the model.

        A token with pixels of several regions is one region's. New noise in all of a mask would draw the others anew.
        """
        if not set(names) <= set(self.regions.names):
            return None
        return self.regions.mask(*names) > 0

    def given_others_in(self, regions: Regions) -> Tensor:
        """The same of samples with regions of their own, boolean (batch, 1, height, width)."""
        tokens = self._tokens_of(regions)
        return self.network.pixels(tokens.ancestors.any(dim=1).to(tokens.owners.device)[tokens.owners])

    def _stage(self, stage: Stage) -> denoisers.Stage:
        network = self.network

        def begin(x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            kept = network.kept(x, stage)
            return lambda x, timesteps: denoisers.mean_of(
                network.predicted(x, self.schedule.times(timesteps), stage, kept), x.shape[1]
            )

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
    return tokens.reshape(*tokens.shape[:2], block.attn1.heads, -1).transpose(1, 2)


def _keys_and_values(block: Any, seen: Tensor) -> KeysAndValues:
    return _heads(block, block.attn1.to_k(seen)), _heads(block, block.attn1.to_v(seen))
