"""An influence graph as an attention mask: brute force over small graphs, and exact zeros where nothing flows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from shapkit.differentiable import Regions, star
from shapkit.differentiable.attention import TokenGraph


@st.composite
def graphs(draw: st.DrawFn) -> TokenGraph:
    """Regions joined by any graph without circles, and tokens that belong to them in any order."""
    n_regions = draw(st.integers(1, 5))
    order = draw(st.permutations(range(n_regions)))
    allowed = torch.eye(n_regions, dtype=torch.bool)
    for late in range(n_regions):
        for early in range(late):
            allowed[order[late], order[early]] = draw(st.booleans())
    more = draw(st.lists(st.integers(0, n_regions - 1), max_size=6))
    owners = draw(st.permutations([*range(n_regions), *more]))
    return TokenGraph(torch.tensor(owners), [f"region {k}" for k in range(n_regions)], allowed)


def reached(graph: TokenGraph, region: int) -> set[int]:
    """What a region may look at, directly or through others: by walking the graph."""
    found: set[int] = set()
    waiting = [region]
    while waiting:
        for other in graph.allowed[waiting.pop()].nonzero().flatten().tolist():
            if other not in found and other != region:
                found.add(other)
                waiting.append(other)
    return found


@given(graphs())
def test_ancestors_are_what_a_walk_reaches(graph: TokenGraph) -> None:
    for region in range(len(graph.names)):
        assert set(graph.ancestors[region].nonzero().flatten().tolist()) == reached(graph, region)


@given(graphs())
def test_the_training_mask_is_the_rule(graph: TokenGraph) -> None:
    owners, context = graph.owners[0].tolist(), graph.context.tolist()
    sequence = [(owner, False) for owner in owners] + [(owners[token], True) for token in context]
    looked_at = set().union(*(reached(graph, region) for region in owners))
    assert [token for token, owner in enumerate(owners) if owner in looked_at] == context
    for row, (of_query, query_clean) in zip(graph.training_mask()[0].tolist(), sequence, strict=True):
        for sees, (of_key, key_clean) in zip(row, sequence, strict=True):
            own = of_query == of_key and query_clean == key_clean
            assert sees == (own or (key_clean and of_key in reached(graph, of_query)))


@given(graphs())
def test_mask_mod_is_the_training_mask(graph: TokenGraph) -> None:
    at, zero = torch.arange(graph.n_tokens + len(graph.context)), torch.tensor(0)
    assert torch.equal(graph.mask_mod()(zero, zero, at[:, None], at[None, :]), graph.training_mask()[0])


@given(graphs(), st.integers(0, 2**32 - 1))
def test_blocks_are_attention_under_the_mask(graph: TokenGraph, seed: int) -> None:
    n, generator = graph.n_tokens, torch.Generator().manual_seed(seed)
    shape = (3, 2, 1, n + len(graph.context), 4)
    query, key, value = torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=graph.training_mask()[0])
    whole = graph.whole
    torch.testing.assert_close(whole.attention(query[:, :, :n], key, value), expected[:, :, :n], rtol=1e-10, atol=1e-12)
    if len(graph.context):
        filled = whole.filling(query[:, :, n:], key[:, :, n:], value[:, :, n:])
        torch.testing.assert_close(filled, expected[:, :, n:], rtol=1e-10, atol=1e-12)


@given(graphs(), st.integers(0, 2**32 - 1))
def test_stages_are_the_whole_one_after_the_other(graph: TokenGraph, seed: int) -> None:
    n, generator = graph.n_tokens, torch.Generator().manual_seed(seed)
    shape = (3, 1, 1, n + len(graph.context), 4)
    query, key, value = torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = graph.whole.attention(query[:, :, :n], key, value)
    done: list[int] = []
    for stage in graph.stages():
        clean = n + torch.searchsorted(graph.context, stage.context)  # where the context's clean tokens lie
        at = torch.cat([stage.tokens, clean])
        found = stage.attention(query[:, :, stage.tokens], key[:, :, at], value[:, :, at])
        torch.testing.assert_close(found, expected[:, :, stage.tokens], rtol=1e-10, atol=1e-12)
        assert set(stage.context.tolist()) <= set(done)
        done += stage.tokens.tolist()
    assert sorted(done) == list(range(n))


@given(graphs(), st.data())
def test_a_change_regenerates_what_depends_on_it(graph: TokenGraph, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, graph.n_tokens - 1))
    changed = torch.zeros(graph.n_tokens, dtype=torch.bool)
    changed[token] = True
    touched = int(graph.owners[0, token])
    expected = {k for k in range(len(graph.names)) if k == touched or touched in reached(graph, k)}
    found = [region for stage in graph.stages(changed) for region in stage.regions]
    assert set(found) == expected and len(found) == len(expected)


def masked_network(graph: TokenGraph, seed: int) -> tuple[Tensor, Tensor]:
    """Two layers of attention with a pointwise one after each: noised outputs, and their Jacobian by the input."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)
    mask = graph.training_mask()[0]

    def run(inputs: Tensor) -> Tensor:
        hidden = torch.cat([inputs, inputs[graph.context] + 1])[None, None]
        for query, key, value, out in weights:
            seen = F.scaled_dot_product_attention(hidden @ query, hidden @ key, hidden @ value, attn_mask=mask)
            hidden = hidden + torch.tanh(seen @ out)
        return hidden[0, 0, : graph.n_tokens].sum(dim=1)

    inputs = torch.randn(graph.n_tokens, 3, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(run, inputs)
    assert isinstance(jacobian, Tensor)
    return run(inputs), jacobian.abs().sum(dim=2)


@given(graphs(), st.integers(0, 2**32 - 1))
def test_exactly_the_outputs_that_the_graph_allows_change(graph: TokenGraph, seed: int) -> None:
    jacobian = masked_network(graph, seed)[1]
    assert torch.equal(jacobian > 0, graph.influence[0])


def test_a_patch_of_several_regions_belongs_to_the_one_generated_last() -> None:
    labels = torch.tensor([[[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2], [0, 1, 2, 2]]])
    regions = Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})
    assert TokenGraph.of(regions, patch=2).owners.tolist() == [[0, 2, 0, 1]]
    assert TokenGraph.of(regions, patch=1).owners.reshape(4, 4).tolist() == regions.masks.argmax(dim=1)[0].tolist()


def test_among_regions_of_one_stage_the_largest_share_decides() -> None:
    labels = torch.tensor([[[1, 2, 0, 0, 1, 0], [2, 2, 0, 0, 0, 0]]])
    regions = Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})
    assert TokenGraph.of(regions, patch=2).owners.tolist() == [[1, 2, 0]]


def test_regions_of_single_samples() -> None:
    owners = torch.tensor([[0, 1, 1], [1, 1, 0]])
    graph = TokenGraph(owners, ("mouth", "rest"))
    assert graph.context.tolist() == [0, 1, 2]
    single = [TokenGraph(row, graph.names) for row in owners]
    for mask, alone in zip(graph.training_mask(), single, strict=True):
        own = [*range(3), *(3 + alone.context).tolist()]
        assert torch.equal(mask[own][:, own], alone.training_mask()[0])
    at = torch.arange(6)
    sees = graph.mask_mod()
    for number in range(2):
        found = sees(torch.tensor(number), torch.tensor(0), at[:, None], at[None, :])
        assert torch.equal(found, graph.training_mask()[number])
    with pytest.raises(ValueError, match="stages needs one partition for all samples, got 2: take one at a time"):
        graph.stages()
    query, key, value = torch.randn(3, 2, 1, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for number, alone in enumerate(single):  # each sample is seen as if it were alone, its clean tokens apart
        own = [*range(3), *(3 + alone.context).tolist()]
        q, k, v = (tensor[number : number + 1, :, own] for tensor in (query, key, value))
        expected = alone.whole.attention(q[:, :, :3], k, v)
        found = graph.whole.attention(query[:, :, :3], key, value)[number : number + 1]
        torch.testing.assert_close(found, expected)
        clean = graph.whole.filling(query[:, :, 3:], key[:, :, 3:], value[:, :, 3:])[number : number + 1]
        context = [token - 3 for token in own[3:]]
        torch.testing.assert_close(clean[:, :, context], alone.whole.filling(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:]))


@pytest.mark.parametrize(
    ("owners", "graph", "message"),
    [
        (torch.tensor([0, 3]), star(), "owners must be numbers of the 2 regions, got 0 to 3"),
        (torch.tensor([0.0, 1.0]), star(), r"owners must be whole numbers .*, got torch.float32 \(1, 2\)"),
        (torch.tensor([0, 1]), torch.ones(2, 2, dtype=torch.bool), "look at one another .*: mouth, rest"),
    ],
)
def test_wrong_calls(owners: Tensor, graph: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenGraph(owners, ("mouth", "rest"), graph)


def test_a_region_without_a_token_is_refused() -> None:
    labels = torch.tensor([[[1, 2], [2, 2]]])
    regions = Regions.from_labels(labels, {"eyes": [1], "mouth": [2]}, rest=None)
    with pytest.raises(ValueError, match="region 'eyes' of sample 0 has no token of 2 x 2 pixels to itself"):
        TokenGraph.of(regions, "own", patch=2)
    with pytest.raises(ValueError, match="multiples of the patch, 3, got 2 x 2"):
        TokenGraph.of(regions, "own", patch=3)
