"""Influence in text, JSON and pictures: what is shown is what was measured, on one scale, and nothing overlaps."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from shapkit import Attribution
from shapkit_diffusion.cli import main
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.noise.influence import Influence
from shapkit_diffusion.pictures.influence import (
    influence_json,
    influence_text,
    interactions_text,
    picture_of_influences,
    picture_of_interactions,
)
from shapkit_diffusion.pictures.pages import png

matplotlib.use("Agg")

NAMES = ("eyes", "nose", "rest")


def made_up(n_regions: int = 3, seed: int = 0, errors_known: bool = True) -> Influence:
    generator = np.random.default_rng(seed)
    values = generator.dirichlet(np.ones(n_regions), size=n_regions).T
    errors = generator.uniform(0.01, 0.05, size=(n_regions, n_regions))
    names = NAMES if n_regions == 3 else tuple(f"r{k}" for k in range(n_regions))
    ends = (np.zeros(n_regions), np.ones(n_regions), 2**n_regions, names)
    pairs = generator.normal(size=(n_regions + n_regions * (n_regions - 1) // 2, n_regions))
    return Influence(
        Attribution(values, errors if errors_known else np.full_like(errors, np.nan), *ends, "shapley", "exact"),
        without_pair=np.repeat(values[None], 2, axis=0),
        n_images=4,
        interactions=Attribution(pairs, np.abs(pairs) / 10, *ends, "k-SII", "exact", order=2),
    )


def test_text_has_a_row_for_each_output_and_every_number_with_its_error() -> None:
    found = made_up()
    head, *rows = influence_text(found).splitlines()
    assert head.split() == list(NAMES) and [row.split()[0] for row in rows] == list(NAMES)
    for output, row in enumerate(rows):
        numbers = [float(word) for word in row.split()[1:] if word != "±"]
        expected = np.stack([found.values[:, output], found.standard_errors[:, output]], axis=1)
        assert numbers == pytest.approx(100 * expected.ravel(), abs=0.051)
    assert len({len(line) for line in (head, *rows)}) == 1


def test_interactions_as_text_and_json() -> None:
    found = made_up()
    assert found.interactions is not None
    matrix = found.interactions.interaction_matrix()
    head, *rows = interactions_text(found).splitlines()
    assert head.split() == ["k-SII", *NAMES]
    for (i, j), row in zip(combinations(range(3), 2), rows, strict=True):
        assert row.startswith(f"{NAMES[i]} × {NAMES[j]} ")
        numbers = [float(word) for word in row.split()[3:] if word != "±"]
        assert numbers[::2] == pytest.approx(100 * matrix[i, j], abs=0.051)
    content = json.loads(json.dumps(influence_json(found), allow_nan=False))
    assert content["output_by_input"] == found.values.T.tolist() and content["n_images"] == 4
    place = content["interactions"]["inputs"].index(["eyes", "rest"])
    assert content["interactions"]["output_by_inputs"][1][place] == matrix[0, 2, 1]
    unknown = influence_json(made_up(errors_known=False))
    assert unknown["standard_errors"] == [[None] * 3] * 3
    with pytest.raises(ValueError, match="there are no interactions: ask for them"):
        interactions_text(Influence(found.attribution, found.without_pair, 4))


@pytest.mark.parametrize("n_regions", [3, 8])
def test_picture_writes_every_share_and_nothing_overlaps(n_regions: int) -> None:
    rows = {
        model: {
            column: made_up(n_regions, seed + 9 * (model == "after")) for seed, column in enumerate(("t = 5", "t = 9"))
        }
        for model in ("before", "after")
    }
    figure = picture_of_influences(rows, "Less comes from outside")
    for column, row in enumerate(rows.values()):  # a model's are below one another
        for line, found in enumerate(row.values()):
            axis = figure.axes[2 * line + column]
            assert axis.images[0].get_clim() == (0, 100)
            np.testing.assert_allclose(axis.images[0].get_array(), 100 * found.values.T)
            texts = [text.get_text() for text in axis.texts]
            assert texts[1] == f"{100 * found.values[1, 0]:.1f}\n± {100 * found.standard_errors[1, 0]:.1f}"  # 0 from 1
            assert len(texts) == n_regions**2
    figure.canvas.draw()
    for axis in figure.axes[:4]:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        inside = axis.get_window_extent()
        assert all(box.x0 >= inside.x0 and box.x1 <= inside.x1 for box in boxes)
    page = figure.bbox
    for axis in figure.axes:
        tight = axis.get_tightbbox()
        assert tight is not None and tight.x0 >= page.x0 - 1 and tight.x1 <= page.x1 + 1
    assert png(figure).startswith(b"\x89PNG")


def test_many_regions_are_colours_alone_and_unlike_regions_are_refused() -> None:
    figure = picture_of_influences({"": {"x": made_up(9)}}, "Nine")
    assert not figure.axes[0].texts
    png(figure)
    with pytest.raises(ValueError, match="same regions, with the same columns"):
        picture_of_influences({"a": {"x": made_up(3)}, "b": {"x": made_up(4)}}, "")
    with pytest.raises(ValueError, match="same regions, with the same columns"):
        picture_of_influences({"a": {"x": made_up()}, "b": {"y": made_up()}}, "")


def test_picture_of_interactions_has_a_panel_for_each_output() -> None:
    found = made_up()
    assert found.interactions is not None
    figure = picture_of_interactions(found, "Pairs")
    matrix = 100 * found.interactions.interaction_matrix()
    for output, axis in enumerate(figure.axes[:3]):
        assert axis.get_title() == f"output: {NAMES[output]}"
        shown = np.ma.filled(axis.images[0].get_array(), np.nan)
        assert np.isnan(np.diag(shown)).all()
        assert shown[0, 2] == shown[2, 0] == pytest.approx(matrix[0, 2, output])
        assert len(axis.texts) == 6 and axis.images[0].get_clim()[0] == -axis.images[0].get_clim()[1]
    png(figure)
    with pytest.raises(ValueError, match="there are no interactions"):
        picture_of_interactions(Influence(found.attribution, found.without_pair, 4), "Pairs")


def test_the_command_writes_errors_interactions_and_estimates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_denoiser(size=32, channels=(8, 8, 16), seed=1).save(tmp_path / "model")
    few = ["influence", "--model", str(tmp_path / "model"), "--images", "4", "--steps", "2", "--timesteps", "300"]
    assert main([*few, "--interactions", "FSII", "--batch-size", "16", "--out", str(tmp_path / "exact")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("over 4 images; exact") == 2 and shown.count("eyes × mouth") == 2
    found = json.loads((tmp_path / "exact" / "influence.json").read_text())["x_T to x_0"]
    assert found["interactions"]["index"] == "FSII" and np.min(found["standard_errors"]) >= 0
    assert (tmp_path / "exact" / "interactions.png").read_bytes().startswith(b"\x89PNG")
    assert main([*few, "--budget", "8", "--out", str(tmp_path / "drawn")]) == 0
    found = json.loads((tmp_path / "drawn" / "influence.json").read_text())["t = 300"]
    assert found["method"] == "antithetic" and found["coalitions_per_pair"] == 8
    assert not (tmp_path / "drawn" / "interactions.png").exists()
    assert main([*few, "--budget", "8", "--interactions", "FSII", "--out", str(tmp_path / "refused")]) == 2
    assert "needs all 2**4 coalitions" in capsys.readouterr().err and not (tmp_path / "refused").exists()
