"""The whole method at the command line: CelebAMask-HQ as it lies on disk, parsed, trained on, fine-tuned on, edited."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, LDMPipeline
from PIL import Image

from shapkit_diffusion.cli import main
from shapkit_diffusion.data import CELEBAMASK_LABELS, FACE_LABELS, open_celebamask, open_folder, render_faces
from shapkit_diffusion.data.folders import IMAGE_MODES, MAX_PIXELS, decode_picture, image_bytes
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.evaluation.domains import CONCEPTS
from shapkit_diffusion.segmentation.small import load_parser

NUMBERS = (0, 1, 2, 3, 7, 10, 1999, 2000)  # folder 1 of the parts begins with face 2000
SIZE = 32
FEW = ["--steps", "2", "--batch-size", "4", "--log-every", "1", "--save-every", "1", "--precision", "no"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered faces as CelebAMask-HQ keeps faces: a jpg each, an RGB png for every part that shows and for no other.

    As there, the skin lies under brows, eyes, nose and mouth, left and right are files of their own, and what a
    rendered face never has (ears, neck, clothes, hats, glasses) has no file.
    """
    root = tmp_path_factory.mktemp("CelebAMask-HQ")
    faces = render_faces(len(NUMBERS), SIZE, seed=4)
    (root / "CelebA-HQ-img").mkdir()
    for number, image, labels in zip(NUMBERS, faces.images, faces.labels, strict=True):
        picture = Image.fromarray(np.moveaxis(image, 0, -1))
        picture.save(root / "CelebA-HQ-img" / f"{number}.jpg", quality=95, subsampling=0)
        folder = root / "CelebAMask-HQ-mask-anno" / f"{number // 2000}"
        folder.mkdir(parents=True, exist_ok=True)
        for part, covered in _parts(labels):
            if covered.any():
                mask = Image.fromarray(covered.astype(np.uint8) * 255).convert("RGB")
                mask.save(folder / f"{number:05d}_{part}.png")
    return root


def _parts(labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    where = {name: labels == value for value, name in enumerate(FACE_LABELS)}
    yield "skin", ~where["background"] & ~where["hair"]
    left = np.arange(SIZE) < SIZE // 2
    for name in ("brow", "eye"):
        yield f"l_{name}", where[f"{name}s"] & left
        yield f"r_{name}", where[f"{name}s"] & ~left
    for name in ("nose", "mouth", "hair"):
        yield name, where[name]


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def numbers_in(content: Any) -> Iterator[float]:
    """Every number of a JSON file."""
    if isinstance(content, dict | list):
        for entry in content.values() if isinstance(content, dict) else content:
            yield from numbers_in(entry)
    elif isinstance(content, int | float):
        yield float(content)


@pytest.mark.parametrize("latent", [False, True], ids=["ddpm", "ldm"])
def test_celebamask_goes_through_the_whole_method(
    tree: Path, tmp_path: Path, latent: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = tree / "CelebA-HQ-img", tmp_path / "labels"
    published = ["--data", f"celebamask:{tree}", "--size", SIZE]
    parsed = ["--data", f"folder:{images}:{labels}", "--size", SIZE]

    run("parse", "--images", images, "--out", labels)
    _check_label_maps(tree, labels)

    base, tuned = tmp_path / "base", tmp_path / "tuned"
    if latent:
        codec = tmp_path / "autoencoder"
        few = ["--steps", 2, "--batch-size", 4, "--log-every", 1]
        run("autoencoder", *parsed, "--channels", 8, 8, "--latent-channels", 3, "--out", codec, *few)
        kind = ["--autoencoder", codec / "model", "--cache-latents"]
    else:
        kind = []
    run("train", *parsed, *kind, "--channels", 8, 16, "--out", base, *FEW)
    run("finetune", *published, "--model", base / "model", "--concepts", *CONCEPTS, "--out", tuned, *FEW)
    for folder in (base, tuned):
        steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [step["step"] for step in steps] == [1, 2]
        assert all(math.isfinite(number) for number in numbers_in(steps))
        assert all((step["penalty"] > 0) == (folder == tuned) for step in steps)
        assert Image.open(folder / "samples.png").width > SIZE
    _check_models(base / "model", tuned / "model", latent)

    out = tmp_path / "evaluation"
    few = ["--pairs", 2, "--images", 8, "--steps", 2]
    run("evaluate", *published, "--model", tuned / "model", "--concepts", *CONCEPTS, *few, "--out", out)
    figures = json.loads((out / "evaluation.json").read_text())
    assert set(figures["locality"]) == set(CONCEPTS) and set(figures["frechet"]) == {"whole", *CONCEPTS}
    assert all(math.isfinite(number) for number in numbers_in(figures))
    assert ("decoder_floor" in figures) == latent
    if latent:  # a decoder mixes neighbouring pixels, so that an edit of the latents cannot be quite local
        assert all(figures["decoder_floor"][name]["mse_out"] > 0 for name in CONCEPTS)
    assert {path.stem for path in out.glob("swap_*.png")} == {f"swap_{name}" for name in CONCEPTS}

    capsys.readouterr()
    face = images / "1999.jpg"
    edit = ["edit", *published, "--model", tuned / "model", "--region", "mouth", "--image", face, "--variants", 1]
    run(*edit, "--parser", "small", "--steps", 4, "--out", tmp_path / "edit")
    _check_edit(tmp_path / "edit", face, capsys.readouterr().out, latent)


def _check_label_maps(tree: Path, folder: Path) -> None:
    """They are what the shipped parser makes of the decoded pictures, and close to the parts that lie on disk."""
    parser = load_parser()
    agreed, total = 0, 0
    given = open_celebamask(tree, size=SIZE)
    for row, number in enumerate(NUMBERS):
        found = np.asarray(Image.open(folder / f"{number}.png"))
        picture = np.asarray(Image.open(tree / "CelebA-HQ-img" / f"{number}.jpg"))
        pixels = torch.tensor(np.moveaxis(picture, -1, 0)).float() / 127.5 - 1
        assert np.array_equal(found, parser.parse(pixels[None])[0].numpy())
        merged = np.array([CELEBAMASK_LABELS.index(name) for name in FACE_LABELS])[found]
        agreed, total = agreed + int((merged == given.rows([row])[1][0]).sum()), total + found.size
    assert agreed > 0.95 * total
    opened = open_folder(tree / "CelebA-HQ-img", folder)
    assert (opened.label_names, len(opened)) == (FACE_LABELS, len(NUMBERS))


def _check_models(base: Path, tuned: Path, latent: bool) -> None:
    """diffusers' own pipeline opens both and generates; the fine-tuned one is another model of the same kind."""
    x = torch.randn(1, *load_denoiser(base).latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps, outputs = torch.tensor([500]), []
    for folder in (base, tuned):
        pipeline = (LDMPipeline if latent else DDPMPipeline).from_pretrained(folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        made = pipeline(num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images
        assert made.shape == (1, SIZE, SIZE, 3) and np.isfinite(made).all()
        with torch.no_grad():
            outputs.append(pipeline.unet(x, timesteps).sample)
            torch.testing.assert_close(load_denoiser(folder)(x, timesteps), outputs[-1])
    assert not torch.allclose(*outputs)


def _check_edit(folder: Path, face: Path, said: str, latent: bool) -> None:
    """The round trip is said before the edit and kept; the pictures lie there, and only the mouth's noise is new."""
    (psnr,) = json.loads((folder / "round_trip.json").read_text())["psnr_db"]
    assert math.isfinite(psnr)
    assert said.startswith(f"inversion round trip of {face}: {psnr:.1f} dB")
    assert ("the autoencoder alone" in said) == latent
    names = ("original", "reconstruction", "variant-1")
    shown = {name: np.asarray(Image.open(folder / f"{name}-image-1.png")) for name in names}
    given = image_bytes(decode_picture(face, IMAGE_MODES, MAX_PIXELS), 3, (SIZE, SIZE))
    assert np.array_equal(np.moveaxis(shown["original"], -1, 0), given)
    assert not np.array_equal(shown["variant-1"], shown["reconstruction"])
    assert Image.open(folder / "edits.png").width > SIZE
