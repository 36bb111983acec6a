"""The region transformer: a plain DiT where nothing is masked, exactly local where something is, and its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor, nn

from shapkit.differentiable import DummyPlayerPenalty, Regions
from shapkit_diffusion.data.faces import render_faces
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser, small_transformer
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser, convert
from shapkit_diffusion.noise.sampling import draw_noise, generate, invert, regenerate, replay, swap, trajectory
from shapkit_diffusion.training.batches import draw_batch, players, template_regions
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig, graph_called
from shapkit_diffusion.training.denoiser import losses, train

NAMES = ("eyes", "mouth", "rest")
CHAIN = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])
"""Rest, then eyes, then a mouth that looks at both."""


def filled(model: Denoiser, seed: int = 0) -> Denoiser:
    """With weights of which none is zero, or nothing would flow through a new model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape, generator=generator))
    return model.eval()


@pytest.fixture
def plain() -> Denoiser:
    return filled(small_transformer(8, width=16, depth=3, heads=2))


@pytest.fixture
def regions() -> Regions:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 2:4, :6], labels[:, 5:8, 2:6] = 1, 2
    return Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})


def local_model(plain: Denoiser, regions: Regions, graph: Tensor | None = None) -> RegionDenoiser:
    local = convert(plain, regions) if graph is None else convert(plain, regions, graph)
    for embedding in (local.network.region_embedding, local.network.clean_embedding):
        nn.init.normal_(embedding)
    return local


def inputs(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    x, clean = torch.randn(2, count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, clean, torch.tensor([400, 900])[:count]


def test_of_one_region_it_is_the_plain_transformer(plain: Denoiser) -> None:
    one = convert(plain, Regions.grid(1, 1, height=8, width=8), "own")
    x, _, timesteps = inputs()
    assert torch.equal(one(x, timesteps), plain(x, timesteps))


def test_graphs_as_a_command_line_has_them(plain: Denoiser, regions: Regions) -> None:
    local = convert(plain, regions, graph_called(" rest > eyes > mouth "))
    assert torch.equal(local.allowed, CHAIN) and len(local.stages()) == 3
    assert torch.equal(convert(plain, regions, graph_called("star")).allowed, convert(plain, regions).allowed)
    for text in ("", "stars", "rest>", "rest>eyes,mouth", ">eyes"):
        with pytest.raises(ValueError, match="graph must be 'star', 'own' or chains of regions"):
            graph_called(text)
    with pytest.raises(ValueError, match="'brows': the regions are eyes, mouth, rest"):
        convert(plain, regions, graph_called("rest>brows"))
    with pytest.raises(ValueError, match="eyes, mouth"):  # in a circle
        convert(plain, regions, graph_called("eyes>mouth,mouth>eyes"))


@pytest.mark.parametrize("graph", [None, CHAIN])
def test_a_pass_is_attention_under_the_dense_mask(plain: Denoiser, regions: Regions, graph: Tensor | None) -> None:
    """The twin: all tokens, noised and clean, in one sequence through diffusers' own blocks, but for the mask."""
    local = local_model(plain, regions, graph)
    x, clean, timesteps = inputs()
    network, tokens = local.network, local.network.tokens
    transformer = network.transformer
    mask = tokens.training_mask()[0]
    embedded = [transformer.pos_embed(image)[:, network.permutation] for image in (x, clean)]
    marked = embedded[1][:, tokens.context] + network.clean_embedding
    owners = torch.cat([tokens.owners[0], tokens.owners[0][tokens.context]])
    hidden = torch.cat([embedded[0], marked], dim=1) + network.region_embedding[owners]
    is_clean = torch.arange(len(owners)) >= tokens.n_tokens
    label = torch.full_like(timesteps, 1)

    def by_token(noised: Tensor, of_clean: Tensor) -> Tensor:
        return torch.where(is_clean[None, :, None], of_clean[:, None], noised[:, None])

    for block in transformer.transformer_blocks:
        conditions = [
            block.norm1.linear(block.norm1.silu(block.norm1.emb(at, label, hidden_dtype=torch.float32)))
            for at in (timesteps, torch.zeros_like(timesteps))
        ]
        shift, scale, gate, shift_inner, scale_inner, gate_inner = by_token(*conditions).chunk(6, dim=2)
        seen = block.norm1.norm(hidden) * (1 + scale) + shift
        hidden = hidden + gate * block.attn1(seen, attention_mask=torch.where(mask, 0.0, -torch.inf).expand(2, -1, -1))
        hidden = hidden + gate_inner * block.ff(block.norm3(hidden) * (1 + scale_inner) + shift_inner)
    condition = transformer.transformer_blocks[0].norm1.emb(timesteps, label, hidden_dtype=torch.float32)
    shift, scale = transformer.proj_out_1(torch.nn.functional.silu(condition))[:, None].chunk(2, dim=2)
    output = transformer.proj_out_2(transformer.norm_out(hidden[:, :16]) * (1 + scale) + shift)
    grid = output[:, network.permutation.argsort()].reshape(2, 4, 4, 2, 2, 3)
    expected = torch.einsum("nhwpqc->nchpwq", grid).reshape(2, 3, 8, 8)
    torch.testing.assert_close(local(x, timesteps, clean), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [None, CHAIN])
def test_exactly_what_the_graph_allows_changes(plain: Denoiser, regions: Regions, graph: Tensor | None) -> None:
    local = local_model(plain, regions, graph)
    tokens = local.network.tokens
    x, _, timesteps = inputs(1)
    sees = tokens.ancestors | torch.eye(3, dtype=torch.bool)
    for changed in range(3):
        where = local.network.where(replace_regions(local, changed))
        moved = torch.where(where, x + 1, x)
        difference = (local(moved, timesteps) - local(x, timesteps)).abs().amax(dim=1, keepdim=True)
        for looking in range(3):
            here = difference[local.network.where(replace_regions(local, looking))]
            assert bool((here > 0).all()) if sees[looking, changed] else bool((here == 0).all())


def replace_regions(local: RegionDenoiser, region: int) -> object:
    """A stage of one region's tokens, to ask where they lie."""
    tokens = local.network.tokens
    return replace(tokens.whole, tokens=(tokens.owners[0] == region).nonzero().flatten())


@pytest.mark.parametrize("graph", [None, CHAIN])
def test_stages_with_kept_keys_are_the_whole_pass(plain: Denoiser, regions: Regions, graph: Tensor | None) -> None:
    local = local_model(plain, regions, graph)
    x, clean, timesteps = inputs()
    whole = local(x, timesteps, clean)
    for stage in local.stages():
        assert stage.where is not None
        y = torch.where(stage.where, x, clean)
        once = stage.begun(y).output(y, timesteps)
        assert torch.equal(once, stage.output(y, timesteps))  # kept or computed anew: bit for bit
        torch.testing.assert_close(once * stage.where, whole * stage.where, rtol=1e-4, atol=1e-5)
    assert torch.equal(local.given_others, local.stages()[0].where.logical_not())  # type: ignore[union-attr]


def test_one_clean_image_serves_several_noised_ones(plain: Denoiser, regions: Regions) -> None:
    local = local_model(plain, regions)
    x, clean, timesteps = inputs()
    both = torch.cat([clean[:1], clean[:1]])
    torch.testing.assert_close(local(x, timesteps, clean[:1]), local(x, timesteps, both), rtol=1e-5, atol=1e-6)


def other_regions(regions: Regions) -> Regions:
    """The same names elsewhere."""
    return Regions(regions.masks.flip(3), regions.names)


@pytest.mark.parametrize("graph", [None, CHAIN])
def test_each_sample_has_regions_of_its_own(plain: Denoiser, regions: Regions, graph: Tensor | None) -> None:
    """A batch of two partitions is two models of one partition each, of the same weights."""
    local, other = local_model(plain, regions, graph), other_regions(regions)
    x, clean, timesteps = inputs()
    together = local(x, timesteps, clean, Regions(torch.cat([regions.masks, other.masks]), NAMES))
    mirrored = local.with_regions(other)
    assert set(map(id, mirrored.parameters())) == set(map(id, local.parameters()))
    for number, model in enumerate((local, mirrored)):
        one = slice(number, number + 1)
        torch.testing.assert_close(together[one], model(x[one], timesteps[one], clean[one]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(local(x, timesteps, clean), mirrored(x, timesteps, clean))
    again = local(x, timesteps, clean)  # and nothing of the first model has changed
    torch.testing.assert_close(again[:1], together[:1], rtol=1e-4, atol=1e-5)
    twice = Regions(torch.cat([other.masks, other.masks]), NAMES)
    torch.testing.assert_close(
        local(x, timesteps, clean[:1], twice), mirrored(x, timesteps, clean[:1]), rtol=1e-4, atol=1e-5
    )


def test_an_image_is_edited_by_its_own_regions(plain: Denoiser, regions: Regions) -> None:
    own = local_model(plain, regions).with_regions(other_regions(regions))
    noise, other = draw_noise(own, 1, 0), draw_noise(own, 1, 1)
    known, inside = generate(own, noise, 4), own.regions.mask("mouth")
    edited = regenerate(own, swap(noise, other, inside), noise, known, 4)
    reach = own.stages(inside > 0)[-1].where
    assert reach is not None and torch.equal(edited[~reach.expand_as(edited)], known[~reach.expand_as(known)])
    assert not torch.equal(edited, known)


def test_training_on_each_images_own_regions(tmp_path: Path) -> None:
    faces = render_faces(16, 16, seed=2)
    template = template_regions(faces, small_denoiser(16, channels=(8, 8)), ("eyes", "mouth"))
    model = RegionDenoiser(filled(small_transformer(16, width=16, depth=2, heads=2)), template)
    config = TrainConfig(steps=4, batch_size=8, log_every=1, noises_per_image=2, regions="label_maps", concept_weight=3)
    batch = draw_batch(faces, config, model.n_timesteps, 0)
    regions = players(faces, model, config)(batch)
    assert regions is not None and len(regions.masks) == 8 and regions.names == ("eyes", "mouth", "rest")
    x = model.add_noise(batch.images, batch.noise, batch.timesteps)
    target = model.target(batch.images, batch.noise, batch.timesteps)
    squares = []
    for row in range(8):
        own = model.with_regions(Regions(regions.masks[row : row + 1], regions.names, missing="allow"))
        one = slice(row, row + 1)
        counts = torch.where(own.given_others, 3.0, 1.0)
        squares.append(counts * (own(x[one], batch.timesteps[one], batch.images[one]) - target[one]) ** 2)
    found = losses(model, model, batch, config, regions, 0).denoising
    torch.testing.assert_close(found, torch.cat(squares).mean(), rtol=1e-4, atol=1e-5)
    train(model, faces, config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["denoising"] == pytest.approx(float(found.detach()), rel=1e-4) and len(lines) == 4
    with pytest.raises(ValueError, match="regions='label_maps' without a penalty is for region transformers"):
        train(small_denoiser(16, channels=(8, 8)), faces, config, tmp_path / "unet")
    with pytest.raises(ValueError, match=r"regions is for runs without a penalty, which has its own"):
        replace(config, noises_per_image=1, penalty=PenaltyConfig())


@pytest.mark.parametrize("graph", [None, CHAIN])
def test_an_edit_leaves_the_outside_bit_for_bit(plain: Denoiser, regions: Regions, graph: Tensor | None) -> None:
    local = local_model(plain, regions, graph)
    noise, other = draw_noise(local, 2, 0), draw_noise(local, 2, 1)
    known = generate(local, noise, 4)
    edited = swap(noise, other, regions.mask("mouth"))
    again = regenerate(local, edited, noise, known, 4)
    inside = regions.mask("mouth")
    reach = local.stages(inside > 0)[-1].where
    assert reach is not None and not bool((inside.bool() & ~reach).any())
    assert torch.equal(again[~reach.expand_as(again)], known[~reach.expand_as(again)])
    torch.testing.assert_close(again, generate(local, edited, 4), rtol=1e-4, atol=1e-5)
    path = trajectory(local, noise, 4)
    assert torch.equal(path[-1], known)
    torch.testing.assert_close(replay(local, noise, path, inside), known, rtol=1e-4, atol=1e-5)


def test_inversion_finds_the_noise(plain: Denoiser, regions: Regions) -> None:
    with torch.no_grad():
        for weights in plain.parameters():
            weights.mul_(0.3)  # near the identity, as a trained model is
    local = local_model(plain, regions)
    noise = draw_noise(local, 2, 0)
    image = generate(local, noise, 6)
    found = invert(local, image, 6, refinements=8)
    torch.testing.assert_close(generate(local, found, 6), image, rtol=0, atol=1e-4)


def test_the_penalty_of_a_model_that_owns_its_noise_is_zero(plain: Denoiser, regions: Regions) -> None:
    local = convert(plain, regions, "own")
    whole = [local.network.where(replace_regions(local, region)) for region in range(3)]
    tokens = Regions(torch.cat(whole, dim=1).float(), NAMES)
    x, _, timesteps = inputs()
    even = timesteps[:1].expand(2)
    with torch.no_grad():
        assert float(DummyPlayerPenalty()(lambda x: local(x, even), x, tokens)) == 0
        assert float(DummyPlayerPenalty()(lambda x: plain(x, even), x, tokens)) > 0


def test_files(plain: Denoiser, regions: Regions, tmp_path: Path) -> None:
    local = local_model(plain, regions, CHAIN)
    local.save(tmp_path / "local")
    again = load_denoiser(tmp_path / "local")
    x, clean, timesteps = inputs()
    assert isinstance(again, RegionDenoiser) and torch.equal(again.allowed, CHAIN)
    assert torch.equal(again(x, timesteps, clean), local(x, timesteps, clean))
    with pytest.raises(ValueError, match=r"open it with shapkit_diffusion\.load_denoiser"):
        diffusers.DiTPipeline.from_pretrained(tmp_path / "local")


def test_damaged_files(plain: Denoiser, regions: Regions, tmp_path: Path) -> None:
    wide = filled(small_transformer(8, width=32, depth=3, heads=2))
    convert(wide, regions).save(tmp_path / "wide")
    local_model(plain, regions).save(tmp_path / "local")
    (tmp_path / "wide" / "composition.safetensors").replace(tmp_path / "local" / "composition.safetensors")
    with pytest.raises(ValueError, match=r"region_embedding must be \(3, 16\), got \(3, 32\)"):
        load_denoiser(tmp_path / "local")


def test_plain_transformers_are_opened_and_diffusers_own(plain: Denoiser, tmp_path: Path) -> None:
    plain.save(tmp_path / "plain")
    again = load_denoiser(tmp_path / "plain")
    x, _, timesteps = inputs()
    assert again.class_label == 1
    assert torch.equal(again(x, timesteps), plain(x, timesteps))
    network = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "plain" / "transformer").eval()
    assert torch.equal(network(x, timesteps, torch.tensor([1, 1])).sample, plain(x, timesteps))


def test_classes_and_learned_variances(tmp_path: Path) -> None:
    """A folder as facebook/DiT-XL-2-256 has it, small: latents, classes, and a variance beside the mean."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=5,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    scheduler = diffusers.DDIMScheduler(1000)
    diffusers.DiTPipeline(transformer, vae, scheduler).save_pretrained(tmp_path / "dit")
    x, timesteps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 500])
    for label, expected in ((None, 5), (2, 2)):
        model = load_denoiser(tmp_path / "dit", class_label=label)
        assert model.class_label == expected and model.image_shape == (3, 16, 16)
        want = transformer.eval()(x, timesteps, torch.tensor([expected] * 2)).sample[:, :4]
        torch.testing.assert_close(model(x, timesteps), want)
        model.save(tmp_path / f"again-{expected}")
        assert load_denoiser(tmp_path / f"again-{expected}").class_label == expected
    with pytest.raises(ValueError, match=r"class_label must be 0..4, or 5 for no class, got 6"):
        load_denoiser(tmp_path / "dit", class_label=6)


def test_unets_with_classes(tmp_path: Path) -> None:
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        num_class_embeds=3,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    small = small_denoiser(8, channels=(8, 8))
    Denoiser(unet, small.scheduler, class_label=1).save(tmp_path / "classes")
    x, _, timesteps = inputs()
    torch.testing.assert_close(
        load_denoiser(tmp_path / "classes")(x, timesteps), unet.eval()(x, timesteps, torch.tensor([1, 1])).sample
    )
    (tmp_path / "classes" / "class_label.json").unlink()
    with pytest.warns(UserWarning, match=r"has 3 classes and is given class 0: pass class_label=0..2"):
        assert load_denoiser(tmp_path / "classes").class_label == 0
    small.save(tmp_path / "small")
    with pytest.raises(ValueError, match="takes no class_label"):
        load_denoiser(tmp_path / "small", class_label=0)


def test_wrong_calls(plain: Denoiser, regions: Regions) -> None:
    with pytest.raises(ValueError, match="denoiser must be of a DiTTransformer2DModel, got UNet2DModel"):
        RegionDenoiser(small_denoiser(8, channels=(8, 8)), regions)
    with pytest.raises(ValueError, match=r"of the denoiser's grid \(8, 8\), got \(4, 4\)"):
        RegionDenoiser(plain, Regions.grid(2, 2, height=4, width=4), "own")
    with pytest.raises(ValueError, match="must be named as the model's, eyes, mouth, rest; got r0c0, r0c1"):
        convert(plain, regions).with_regions(Regions.grid(1, 2, 8, 8))
    with pytest.raises(ValueError, match="one partition for all images, got 2"):
        RegionDenoiser(plain, Regions(regions.masks.expand(2, -1, -1, -1), NAMES))
    with pytest.raises(ValueError, match="size must be a multiple of 2 for patches of 2, got 9"):
        small_transformer(9)
    with pytest.raises(ValueError, match="width must be a multiple of 4 and of the 4 heads, got 18"):
        small_transformer(8, width=18)


@pytest.mark.parametrize("kind", ["staged", "star", "chain"])
def test_what_looks_at_nothing_learns_from_every_image_and_the_rest_from_the_finished_ones(
    plain: Denoiser, regions: Regions, kind: str
) -> None:
    """Two passes do the same: one over each row's own image, and one over its finished one, where that is in sight."""
    local: Denoiser
    if kind == "staged":
        local = ComposedDenoiser(small_denoiser(8, channels=(8, 8)), regions, staged=True)
    else:
        local = local_model(plain, regions, CHAIN if kind == "chain" else None)
    config = TrainConfig(steps=1, batch_size=8, noises_per_image=4, concept_weight=3)
    batch = draw_batch(render_faces(8, 8), config, local.n_timesteps, 0)
    assert len(batch.finished) == 2 and len(batch.indices.unique()) == 8

    def squares(images: Tensor) -> Tensor:
        x = local.add_noise(images, batch.noise, batch.timesteps)
        target = local.target(images, batch.noise, batch.timesteps)
        found: Tensor = (local(x, batch.timesteps, images) - target).square()
        return found

    given = local.given_others
    finished = squares(batch.finished.repeat_interleave(4, dim=0))
    expected = torch.where(given, 3 * finished, squares(batch.images)).mean()
    found = losses(local, local, batch, config, None, 0).denoising
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_an_anchor_sees_whole_images(plain: Denoiser, regions: Regions) -> None:
    """Where noises share a finished image, the targets of one pass are patched together, and no face."""
    local, anchor = local_model(plain, regions), filled(small_transformer(8, width=16, depth=3, heads=2), seed=1)
    config = TrainConfig(steps=1, batch_size=8, noises_per_image=4, anchor=True)
    batch = draw_batch(render_faces(8, 8), config, local.n_timesteps, 0)
    own = local.add_noise(batch.images, batch.noise, batch.timesteps)
    finished = batch.finished.repeat_interleave(4, dim=0)
    anew = local.add_noise(finished, batch.noise, batch.timesteps)
    expected = torch.where(
        local.given_others,
        local(anew, batch.timesteps, finished) - local.target(finished, batch.noise, batch.timesteps),
        local(own, batch.timesteps, batch.images) - anchor(own, batch.timesteps),
    )
    found = losses(local, local, batch, config, None, 0, anchor).denoising
    torch.testing.assert_close(found, expected.square().mean(), rtol=1e-5, atol=1e-6)


def test_training_with_recomputed_activations(tmp_path: Path) -> None:
    """The same numbers as with activations kept, and a model that opens as what it is."""
    faces, size = render_faces(16, 16), 16
    halves = Regions.from_labels((torch.arange(size) >= 8).long()[None, :, None].expand(1, -1, size), {"mouth": [1]})
    config = TrainConfig(steps=4, batch_size=4, save_every=2, log_every=1)
    found = []
    for name, checkpointing in (("kept", False), ("recomputed", True)):
        model = RegionDenoiser(filled(small_transformer(size, width=16, depth=2, heads=2)), halves)
        train(model, faces, replace(config, gradient_checkpointing=checkpointing), tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["denoising"] for line in lines])
        assert isinstance(load_denoiser(tmp_path / name / "model"), RegionDenoiser)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][-1] < found[0][0] * 1.5
