"""An influence graph as an attention mask: a transformer in which each region's output sees what the graph allows.

A transformer's tokens meet in attention alone, so a mask is an influence graph: where it has a zero nothing flows, and
nothing has to be paid for it. Regions are generated in stages, as a chain p(x) = prod_k p(x_k | finished regions that k
may look at). In training, all stages are one pass over the sequence

    [noised tokens of all regions | clean tokens of the regions that others look at]

in which a noised token sees the noised tokens of its own region and the clean tokens of those that it may look at, and
a clean token the clean tokens of its own region and of those. In sampling, the keys and values of finished regions are
computed once and kept: a stage costs its own tokens and no more.

What a region has looked at is in its pixels, so looking is passed on: who may look at the brows sees what the brows
have seen. The graph is closed accordingly (`TokenGraph.ancestors`).

The mask is that of block diffusion (Arriola et al. 2025) and the kept keys and values those of ACDiT (Hu et al. 2024),
with the regions of a graph in place of the blocks of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from shapkit.differentiable.composition import stages_of
from shapkit.differentiable.regions import Graph, Regions, allowed_influence, star

STAR = star()

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``mask_mod(batch, head, query, key)``, as ``torch.nn.attention.flex_attention.create_block_mask`` takes it."""


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no truth value to compare by
class Block:
    """Part of an attention: which queries see which keys, all in one product.

    ``queries`` and ``keys`` are positions in the sequence, as slices where they follow one another and else int64 (n,)
    and (m,); ``mask`` is boolean (n, m), true where a query sees a key, or None where it sees all.
    """

    queries: slice | Tensor
    keys: slice | Tensor
    mask: Tensor | None
    pairs: int
    """Products of a query and a key that the block computes, per head."""


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """Attention block by block: softmax(q k / sqrt(d)) v over what each query sees, without what the mask would waste.

    Args:
        blocks: between them, every position is a query once.
        back: int64 (n,), where each query lies in the blocks one after the other; None if that is their order.

    >>> whole = TokenGraph(torch.tensor([1, 1, 0, 1]), ("mouth", "rest")).whole
    >>> sum(block.pairs for block in whole.attention.blocks)  # of the 28 that a mask would be laid over
    13
    """

    blocks: tuple[Block, ...]
    back: Tensor | None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The attention's output, (batch, heads, n, d).

        Args:
            query: (batch, heads, n, d).
            key, value: (batch, heads, m, d).
        """
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, block.queries], key[:, :, block.keys], value[:, :, block.keys], attn_mask=block.mask
            )
            for block in self.blocks
        ]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return joined if self.back is None else joined[:, :, self.back]

    @classmethod
    def of(cls, mask: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> BlockAttention:
        """The blocks of a mask (n, m), given the positions of each part's queries and of the keys that they may see."""
        found = tuple(_block(mask, queries, keys) for queries, keys in parts if len(queries))
        order = torch.cat([queries for queries, _ in parts])
        in_order = bool((order.diff() > 0).all())
        return cls(found, None if in_order else order.argsort())


@dataclass(frozen=True, eq=False)
class MaskedAttention:
    """Attention under masks that differ from sample to sample, boolean (batch, n, m), true where a query sees a key.

    With fewer samples than masks, each is that of as many neighbours, which have one mask.
    """

    mask: Tensor

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The attention's output, (batch, heads, n, d); arguments as of `BlockAttention`."""
        mask = self.mask[:: len(self.mask) // len(query), None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@dataclass(frozen=True, eq=False)
class Stage:
    """Regions that are generated together, and what they look at.

    Attributes:
        regions: by number.
        tokens: int64 (n,), the tokens of these regions.
        context: int64 (m,), the tokens of the finished regions that one of them may look at.
        attention: of the tokens to [tokens | context]: their own keys and values, then the kept ones.
        filling: of the context to itself, by which its keys and values are computed.
    """

    regions: tuple[int, ...]
    tokens: Tensor
    context: Tensor
    attention: BlockAttention | MaskedAttention
    filling: BlockAttention | MaskedAttention


class TokenGraph:
    """Which token may look at which: tokens owned by regions, regions joined by a graph without circles.

    Args:
        owners: int64 (tokens,) or, where regions differ from sample to sample, (batch, tokens): the region of each.
        names: of the K regions.
        graph: who may influence whom, see `allowed_influence`; the star by default: every concept may look at the rest.

    Attributes:
        owners: as given, always (batch or 1, tokens).
        ancestors: boolean (K, K), [k, j]: whether k may look at j, directly or through others. False on the diagonal.
        order: the regions by number, in stages.

    Raises:
        ValueError: if an owner is no region, or the graph does not fit or has a circle, which is named.

    >>> graph = TokenGraph(torch.tensor([1, 1, 0, 1]), ("mouth", "rest"))
    >>> graph.order, graph.context.tolist()
    ([(1,), (0,)], [0, 1, 3])
    >>> graph.training_mask()[0].int().tolist()[2]  # the mouth's token sees itself, and the rest's clean tokens
    [0, 0, 1, 0, 1, 1, 1]
    """

    def __init__(self, owners: Tensor, names: Sequence[str], graph: Graph = STAR) -> None:
        owners = owners.reshape(1, -1) if owners.ndim < 2 else owners
        if owners.ndim != 2 or owners.is_floating_point() or owners.dtype == torch.bool:
            found = f"{owners.dtype} {tuple(owners.shape)}"
            raise ValueError(f"owners must be whole numbers (tokens,) or (batch, tokens), got {found}")
        if not bool(((owners >= 0) & (owners < len(names))).all()):
            found = f"{int(owners.min())} to {int(owners.max())}"
            raise ValueError(f"owners must be numbers of the {len(names)} regions, got {found}")
        allowed = allowed_influence(graph, tuple(names))
        self.names = tuple(names)
        self.allowed = allowed
        self.order = stages_of(allowed, self.names)
        self.owners = owners.long()
        self.ancestors = _closed(allowed)

    @classmethod
    def of(cls, regions: Regions, graph: Graph = STAR, *, patch: int = 1) -> TokenGraph:
        """The tokens of a grid of square patches (or cubes, or stretches), row by row.

        A patch with pixels of several regions belongs to the one that is generated last, so that no change of that
        region's noise reaches a region that others look at; among several of one stage, to that with the largest share.

        Args:
            regions: in pixels, of every sample or one partition for all.
            graph: see the class.
            patch: pixels per side of a token.

        Raises:
            ValueError: if a side is no multiple of the patch, or a region that must be present gets no token.

        >>> labels = torch.tensor([[[0, 1, 1, 1, 0, 0]] * 2])
        >>> TokenGraph.of(Regions.from_labels(labels, {"mouth": [1]}), patch=2).owners.tolist()
        [[0, 0, 1]]
        """
        shares = regions.patched(patch, missing="allow").masks
        stage = torch.zeros(len(regions.names))
        for number, part in enumerate(stages_of(allowed_influence(graph, regions.names), regions.names)):
            stage[list(part)] = number
        rank = torch.where(shares > 0, shares + 2 * stage.to(shares)[:, None], 0)
        tokens = cls(rank.argmax(dim=1), regions.names, graph)
        if regions.missing == "refuse":
            shape = " x ".join([str(patch)] * len(regions.size))
            for number, name in enumerate(regions.names):
                lost = ~(tokens.owners == number).any(dim=1)
                if bool(lost.any()):
                    raise ValueError(
                        f"region {name!r} of sample {int(lost.nonzero()[0])} has no token of {shape} pixels "
                        "to itself: take smaller patches, or merge the region into another"
                    )
        return tokens

    @property
    def shared(self) -> bool:
        """Whether all samples have the same regions."""
        return len(self.owners) == 1

    @property
    def n_tokens(self) -> int:
        """Tokens of a sample, without clean ones."""
        return self.owners.shape[1]

    @cached_property
    def context(self) -> Tensor:
        """The tokens that appear clean in training, int64 (n,): of regions that another looks at, in any sample."""
        looked_at = self.ancestors.any(dim=0).to(self.owners.device)
        return looked_at[self.owners].any(dim=0).nonzero().flatten()

    @cached_property
    def influence(self) -> Tensor:
        """Whether a token's output may depend on another's input, boolean (batch or 1, tokens, tokens)."""
        sees = (self.ancestors | torch.eye(len(self.names), dtype=torch.bool)).to(self.owners.device)
        return sees[self.owners[:, :, None], self.owners[:, None, :]]

    def training_mask(self) -> Tensor:
        """Whom each token sees, boolean (batch or 1, n, n), for the sequence of all noised tokens and the context's.

        What ``torch.nn.functional.scaled_dot_product_attention`` takes as ``attn_mask``, in one pass over noised and
        clean tokens; ``whole`` is the same in two, without what the mask would waste.
        """
        same = self.owners[:, :, None] == self.owners[:, None, :]
        ancestors = self.ancestors.to(self.owners.device)
        above = ancestors[self.owners[:, :, None], self.owners[:, None, :]]
        context = self.context
        noised = torch.cat([same, above[:, :, context]], dim=2)
        clean_sees = (same | above)[:, context][:, :, context]
        nothing = torch.zeros(len(same), len(context), self.n_tokens, dtype=torch.bool, device=same.device)
        return torch.cat([noised, torch.cat([nothing, clean_sees], dim=2)], dim=1)

    def mask_mod(self) -> MaskMod:
        """The training mask as a function of positions, for FlexAttention, which never holds it whole.

        >>> graph = TokenGraph(torch.tensor([1, 1, 0, 1]), ("mouth", "rest"))
        >>> at, n = torch.arange(7), torch.tensor(0)
        >>> bool((graph.mask_mod()(n, n, at[:, None], at[None, :]) == graph.training_mask()[0]).all())
        True
        """
        context = self.context
        owner = torch.cat([self.owners, self.owners[:, context]], dim=1)
        clean = torch.cat(
            [torch.zeros(self.n_tokens, dtype=torch.bool), torch.ones(len(context), dtype=torch.bool)]
        ).to(owner.device)
        ancestors, shared = self.ancestors.to(owner.device), self.shared

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            sample = torch.zeros_like(batch) if shared else batch
            of_query, of_key = owner[sample, query], owner[sample, key]
            own = (of_query == of_key) & (clean[query] == clean[key])
            return own | (ancestors[of_query, of_key] & clean[key])

        return sees

    @cached_property
    def whole(self) -> Stage:
        """All regions at once, as they are trained: noised tokens that see their own region's and clean ones.

        Where regions differ from sample to sample each has a mask of its own, and nothing is left out that it wastes.
        """
        if not self.shared:
            return self._each_sample()
        mask, clean, parts = self.training_mask()[0], self._owner[self.context], []
        for part in self.order:
            own = self._tokens_of(part)
            above = self._looked_at(part)[clean].nonzero().flatten() + self.n_tokens
            parts.append((own, torch.cat([own, above])))
        every = torch.arange(self.n_tokens, device=self.owners.device)
        attention = BlockAttention.of(mask, parts)
        return Stage(sum(self.order, ()), every, self.context, attention, self._filling(self.context))

    def _each_sample(self) -> Stage:
        mask, n = self.training_mask(), self.n_tokens
        every = torch.arange(n, device=self.owners.device)
        attention, filling = MaskedAttention(mask[:, :n]), MaskedAttention(mask[:, n:, n:])
        return Stage(sum(self.order, ()), every, self.context, attention, filling)

    def stages(self, changed: Tensor | None = None) -> list[Stage]:
        """What is generated one after the other, and the tokens that each needs.

        Args:
            changed: boolean (tokens,), where the noise is not that of a sample that is known: no more than what depends
                on it is generated, all other regions being finished already.

        Raises:
            ValueError: if the regions differ from sample to sample.
        """
        if not self.shared:
            raise ValueError(f"stages needs one partition for all samples, got {len(self.owners)}: take one at a time")
        reached = torch.ones(len(self.names), dtype=torch.bool)
        if changed is not None:
            reached[:] = False
            reached[self._owner[changed.to(self._owner.device)].cpu()] = True
            reached |= (self.ancestors & reached).any(dim=1)
        parts = [tuple(k for k in part if reached[k]) for part in self.order]
        return [self._stage(part) for part in parts if len(self._tokens_of(part))]

    def _stage(self, part: tuple[int, ...]) -> Stage:
        tokens = self._tokens_of(part)
        context = self._looked_at(part)[self._owner].nonzero().flatten()
        owner = self._owner[tokens]
        seen = torch.cat([owner[:, None] == owner[None, :], self.influence[0][tokens][:, context]], dim=1)
        at = torch.arange(seen.shape[1], device=seen.device)
        return Stage(part, tokens, context, BlockAttention.of(seen, [(at[: len(tokens)], at)]), self._filling(context))

    def _filling(self, context: Tensor) -> BlockAttention:
        mask, owner = self.influence[0][context][:, context], self._owner[context]
        own = [_member(owner, part).nonzero().flatten() for part in self.order]
        return BlockAttention.of(mask, [(queries, mask[queries].any(dim=0).nonzero().flatten()) for queries in own])

    @property
    def _owner(self) -> Tensor:
        return self.owners[0]

    def _tokens_of(self, part: Sequence[int]) -> Tensor:
        return _member(self._owner, part).nonzero().flatten()

    def _looked_at(self, part: Sequence[int]) -> Tensor:
        return self.ancestors[list(part)].any(dim=0).to(self.owners.device)

    def to(self, device: torch.device | str) -> TokenGraph:
        """The same graph with its tokens' owners on a device."""
        if self.owners.device == torch.device(device):
            return self
        return TokenGraph(self.owners.to(device), self.names, self.allowed)


def _closed(allowed: Tensor) -> Tensor:
    """Who may look at whom, directly or through others; nobody at himself."""
    closed = allowed.clone().fill_diagonal_(False)
    for _ in range(len(closed)):
        closed = closed | ((closed.int() @ closed.int()) > 0)
    return closed


def _member(owners: Tensor, part: Sequence[int]) -> Tensor:
    return torch.isin(owners, torch.tensor(list(part), device=owners.device))


def _block(mask: Tensor, queries: Tensor, keys: Tensor) -> Block:
    seen = mask[queries][:, keys]
    return Block(_positions(queries), _positions(keys), None if bool(seen.all()) else seen, seen.numel())


def _positions(positions: Tensor) -> slice | Tensor:
    """A slice, where they follow one another: nothing has to be copied then."""
    if len(positions) and bool((positions.diff() == 1).all()):
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions
