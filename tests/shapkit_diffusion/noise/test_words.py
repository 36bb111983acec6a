"""Which word drives which region: a network whose words move known regions, brute force, real layouts, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from shapkit.differentiable import Regions
from shapkit_diffusion import (
    Denoiser,
    draw_noise,
    generate,
    load_denoiser,
    small_denoiser,
    text_encoder,
    word_influence,
)
from shapkit_diffusion.cli import main
from shapkit_diffusion.pictures.influence import influence_json, influence_text, picture_of_influences

WORDS = ["left", "right", "nothing", "both"]
REGIONS = Regions.from_labels(torch.tensor([[[1] * 4 + [2] * 4] * 8] * 2), {"left half": [1]})
LEFT = REGIONS.names.index("left half")


def embed(text: str) -> Tensor:
    """A token for each word of the vocabulary: ones where it is in the text."""
    present = [float(word in text.split()) for word in WORDS]
    return torch.tensor(present)[None, :, None].expand(1, 4, 12).clone()


class Painted(UNet2DConditionModel):
    """Predicts noise that "left" and "both" move in the left half, "right" and "both" in the right."""

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **_: Any) -> Any:
        left, right, _nothing, both = encoder_hidden_states[:, :, 0].T[:, :, None, None, None]
        halves = torch.zeros_like(sample)
        halves[..., :4], halves[..., 4:] = (left + both / 2), (right + left * right + both / 2)
        return type("Output", (), {"sample": 0.5 * sample + 0.1 * halves})()


@pytest.fixture
def painted() -> Denoiser:
    settings = {"sample_size": 8, "in_channels": 3, "out_channels": 3, "cross_attention_dim": 12}
    network = Painted(
        **settings,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    return Denoiser(network, DDIMScheduler(clip_sample=False), prompt_embedding=embed(""))


def by_definition(denoiser: Denoiser, noise: Tensor) -> np.ndarray:
    """Means over all orders of the words."""

    def made(words: frozenset[str]) -> Tensor:
        text = " ".join(word for word in WORDS if word in words)
        return generate(denoiser.with_prompt(embed(text)), noise, 3).double()

    def payoff(words: frozenset[str]) -> np.ndarray:
        changed = (made(words) - made(frozenset(WORDS))).square().mean(dim=1)
        halves = {LEFT: -float(changed[..., :4].mean()), 1 - LEFT: -float(changed[..., 4:].mean())}
        return np.array([halves[0], halves[1]])

    table: dict[frozenset[str], np.ndarray] = {}
    values = np.zeros((4, 2))
    for order in permutations(range(4)):
        for at, word in enumerate(order):
            before, after = (frozenset(WORDS[w] for w in order[:n]) for n in (at, at + 1))
            for coalition in (before, after):
                if coalition not in table:
                    table[coalition] = payoff(coalition)
            values[word] += (table[after] - table[before]) / 24
    return values / (table[frozenset(WORDS)] - table[frozenset()])


def test_shares_by_definition(painted: Denoiser) -> None:
    noise = draw_noise(painted, 2, 0)
    found = word_influence(painted, noise, REGIONS, WORDS, embed, steps=3)
    np.testing.assert_allclose(found.values, by_definition(painted, noise), atol=1e-6)
    np.testing.assert_allclose(found.values.sum(axis=0), 1)
    assert found.names == tuple(WORDS) and found.output_names == REGIONS.names
    shares = dict(zip(found.names, found.values.tolist(), strict=True))
    assert abs(shares["nothing"][0]) < 1e-6 and abs(shares["nothing"][1]) < 1e-6
    assert shares["left"][LEFT] > 0.5 and abs(shares["right"][LEFT]) < 1e-6


def test_estimates_and_repeated_words(painted: Denoiser) -> None:
    noise = draw_noise(painted, 2, 0)
    found = word_influence(painted, noise, REGIONS, [*WORDS, "both"], embed, steps=2, budget=20, seed=1)
    assert found.names[-1] == "both (2)" and found.attribution.n_evaluations <= 20
    np.testing.assert_allclose(found.values.sum(axis=0), 1)


def test_it_is_shown(painted: Denoiser) -> None:
    found = word_influence(painted, draw_noise(painted, 2, 0), REGIONS, WORDS, embed, steps=2)
    text = influence_text(found).splitlines()
    assert len(text) == 1 + len(found.output_names) and all(word in text[0] for word in WORDS)
    content = influence_json(found)
    assert content["words"] == WORDS and np.shape(content["output_by_input"]) == (len(found.output_names), 4)
    figure = picture_of_influences({"": {"left right nothing both": found}}, "title")
    assert figure.axes[0].get_xlabel() == "word"


def test_a_prompt_of_another_width_is_refused(painted: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"expected \(1, tokens, 12\)"):
        painted.with_prompt(torch.zeros(1, 4, 13))
    with pytest.raises(ValueError, match="takes no prompt"):
        small_denoiser(size=8, channels=(8, 16)).with_prompt(torch.zeros(1, 4, 12))
    other = painted.with_prompt(torch.ones(1, 2, 12))
    assert other.unet is painted.unet and other.prompt_embedding is not None and painted.prompt_embedding is not None
    assert other.prompt_embedding.shape[1] == 2 and painted.prompt_embedding.shape[1] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": []}, "words must be a list of words"),
        ({"noise": torch.zeros(1, 3, 8, 8)}, "noise holds 1 images, expected at least 2"),
        ({"words": ["nothing"]}, "stays the same without any word"),
    ],
)
def test_errors(painted: Denoiser, changes: dict[str, Any], message: str) -> None:
    given = {"noise": draw_noise(painted, 2, 0), "regions": REGIONS, "words": WORDS, "embed": embed, "steps": 2}
    with pytest.raises(ValueError, match=message):
        word_influence(painted, **given | changes)


def test_a_prompt_for_a_model_without_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["influence", "--model", "plain", "--prompt", "a hat", "--out", str(tmp_path / "out")]) == 2
    assert "--prompt is for models of text and images, and plain takes no prompt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_on_a_folder_of_stable_diffusion(
    tmp_path: Path, write_text_encoder: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "model"
    UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=8,
        sample_size=32,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    write_text_encoder(folder)
    encode = text_encoder(folder)
    assert encode("a").shape == encode("").shape and not torch.equal(encode("a"), encode("b"))
    model = load_denoiser(folder)
    assert isinstance(model.unet, nn.Module)
    torch.testing.assert_close(encode(""), model.prompt_embedding)
    out = tmp_path / "out"
    arguments = ["--model", str(folder), "--data", "faces", "--size", "32", "--parser", "small"]
    code = main(["influence", *arguments, "--prompt", "a b a", "--images", "2", "--steps", "2", "--out", str(out)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    found = json.loads((out / "influence.json").read_text())["words"]
    assert found["words"] == ["a", "b", "a (2)"]
    np.testing.assert_allclose(np.sum(found["output_by_input"], axis=1), 1)
    assert (out / "influence.png").is_file()
