"""The tables: constructed systems get exactly their figures, runs go on where they were, texts come from JSON alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.published_tables.gan.style_gan import GanArchitecture, StyleGenerator, new_generator, save_network
from benchmarks.published_tables.gan.training import GENERATOR_FILE
from benchmarks.published_tables.layout import (
    PASTES,
    Table,
    locality_tables,
    markdown_of,
    realism_tables,
    text_of,
    verdicts,
)
from benchmarks.published_tables.measure import TablesConfig, assemble, measure_tables
from benchmarks.published_tables.on_data import main
from benchmarks.published_tables.pages import write_report
from benchmarks.published_tables.pictures import picture_of_edits, row_pictures
from benchmarks.published_tables.published import ANOTHER_DATA_SET, FID, LOCALITY
from benchmarks.published_tables.rows import ROWS, Row, systems_of, with_models
from benchmarks.published_tables.systems.systems import Region, System
from benchmarks.published_tables.systems.text_model import small_text_model
from shapkit_diffusion.data import LabelledImages, render_faces
from shapkit_diffusion.denoisers.autoencoders import Autoencoder, small_autoencoder
from shapkit_diffusion.denoisers.denoiser import small_denoiser
from shapkit_diffusion.evaluation.domains import Domain, open_domain
from shapkit_diffusion.evaluation.locality import LocalityConvention
from shapkit_diffusion.evaluation.realism import pixel_features

SIDE = 12
LABELS = np.zeros((SIDE, SIDE), np.uint8)
LABELS[2:5, 2:9] = 1
LABELS[8:10, 4:8] = 2
AREAS = {"eyes": 5 * 9, "mouth": 4 * 6}  # grown by one pixel
CONFIG = TablesConfig(("eyes", "mouth"), images=6, samples=12, given=4, shown=2)


@dataclass(frozen=True)
class Painter:
    """Adds ``inside`` within the region and ``outside`` elsewhere; the seed's parity gives the sign of the first."""

    name: str
    inside: float
    outside: float
    offset: float = 0.0

    @property
    def pastes(self) -> bool:
        return self.outside == 0

    def generate(self, count: int, seed: int) -> Tensor:
        images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        return images - 0.5

    def reconstruct(self, images: Tensor) -> Tensor:
        return images + self.offset

    def edit(self, images: Tensor, region: Region, seed: int) -> Tensor:
        sign = 1 if seed % 2 == 0 else -1
        change = sign * self.inside * region.mask + self.outside * (1 - region.mask)
        return self.reconstruct(images) + change


def _domain() -> Domain:
    images = np.random.default_rng(0).integers(40, 216, (30, 3, SIDE, SIDE)).astype(np.uint8)
    faces = LabelledImages(images, np.repeat(LABELS[None], 30, axis=0), ("background", "eyes", "mouth"))
    labels = torch.as_tensor(LABELS).long()
    parse = lambda batch: labels.expand(len(batch), -1, -1)  # noqa: E731
    return Domain("squares", faces, faces, parse, pixel_features, 1, "features of the pixels")


BUILT: list[str] = []


def _build(run: Path, _: Domain, __: Sequence[str], *, system: System) -> System:
    BUILT.append(run.name)
    return system


def _rows(folder: Path, *systems: Painter) -> dict[str, Row]:
    """A row for each system, the later ones held against the first."""
    keys = [system.name for system in systems]
    rows = []
    for key, system in zip(keys, systems, strict=True):
        model = folder / f"{key}-model" / "model"
        model.mkdir(parents=True, exist_ok=True)
        (model / "model_index.json").write_text("{}")
        (model / "weights.safetensors").write_bytes(key.encode())
        rows.append(Row(key, key.upper(), f"{key}-model", partial(_build, system=system), note="a note"))
    rows[1:] = [replace(row, control=keys[0]) for row in rows[1:]]
    return with_models(rows, folder, CONFIG.concepts)


PLAIN, LOCAL, PASTING = Painter("plain", 0.2, 0.02), Painter("local", 0.2, 0.01), Painter("pasting", 0.3, 0.0)


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    rows = _rows(tmp_path / "models", PLAIN, LOCAL, PASTING)
    return tmp_path / "run", measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)


def _without_seconds(results: dict[str, Any]) -> dict[str, Any]:
    for row in results["rows"].values():
        for timed in (row, *row["concepts"].values()):
            assert timed.pop("seconds") >= 0
    return results


def test_constructed_systems_have_exactly_their_figures(measured: tuple[Path, dict[str, Any]]) -> None:
    rows = measured[1]["rows"]
    for system in (PLAIN, LOCAL, PASTING):
        for concept in CONFIG.concepts:
            edits = rows[system.name]["concepts"][concept]["edits"]
            assert edits["mse_in"]["value"] == pytest.approx(system.inside**2, rel=1e-5)
            assert edits["mse_out"]["value"] == pytest.approx(system.outside**2, rel=1e-4, abs=1e-14)
            for end in ("value", "low", "high"):  # every image changes by the same, so that nothing scatters
                assert edits["ratio"][end] == pytest.approx((system.outside / system.inside) ** 2, rel=1e-4, abs=1e-12)
            assert edits["n_images"] == CONFIG.images
    assert {key: row["pastes"] for key, row in rows.items()} == {"plain": False, "local": False, "pasting": True}


def test_the_published_normalisation_divides_by_the_region(tmp_path: Path) -> None:
    config = replace(CONFIG, convention=LocalityConvention(normalisation="published"))
    rows = _rows(tmp_path / "models", PLAIN)
    figures = measure_tables(rows, _domain, config, tmp_path / "run", say=lambda _: None)["rows"]["plain"]["concepts"]
    for concept, area in AREAS.items():
        wanted = 0.02**2 * (SIDE * SIDE - area) / (0.2**2 * area)
        assert figures[concept]["edits"]["ratio"]["value"] == pytest.approx(wanted, rel=1e-4)


def test_a_region_measured_smaller_than_edited_counts_the_edited_ring_as_outside(tmp_path: Path) -> None:
    config = replace(CONFIG, convention=LocalityConvention(dilation=0))
    rows = _rows(tmp_path / "models", PLAIN)
    figures = measure_tables(rows, _domain, config, tmp_path / "run", say=lambda _: None)["rows"]["plain"]["concepts"]
    for concept, bare in (("eyes", 3 * 7), ("mouth", 2 * 4)):
        ring, far = AREAS[concept] - bare, SIDE * SIDE - AREAS[concept]
        wanted = (ring * 0.2**2 + far * 0.02**2) / (ring + far)
        assert figures[concept]["edits"]["mse_out"]["value"] == pytest.approx(wanted, rel=1e-4)
        assert figures[concept]["edits"]["mse_in"]["value"] == pytest.approx(0.2**2, rel=1e-5)


def test_the_union_is_measured_where_concepts_move(tmp_path: Path) -> None:
    def domain() -> Domain:  # the mouth of a bright image is two rows lower
        lower = torch.as_tensor(np.where(LABELS == 2, 0, LABELS) + np.roll(np.where(LABELS == 2, 2, 0), 2, axis=0))
        still = torch.as_tensor(LABELS)

        def parse(images: Tensor) -> Tensor:
            bright = images[:, 0, 0, 0] > 0.9
            return torch.where(bright[:, None, None], lower.long(), still.long())

        return replace(_domain(), parse=parse)

    mouth = {}
    for extent in ("source", "union"):
        convention = LocalityConvention(extent=extent)  # type: ignore[arg-type]
        config = replace(CONFIG, convention=convention)
        rows = _rows(tmp_path / "models", replace(PLAIN, outside=1.5))  # so that every edited image is bright
        results = measure_tables(rows, domain, config, tmp_path / extent, say=lambda _: None)
        mouth[extent] = results["rows"]["plain"]["concepts"]["mouth"]["edits"]
    assert mouth["source"]["mse_in"]["value"] == pytest.approx(0.2**2, rel=1e-5)
    inside = 4 * 6 * 0.2**2 + 1 * 6 * 1.5**2  # two rows lower, the last of them beyond the picture
    assert mouth["union"]["mse_in"]["value"] == pytest.approx(inside / (5 * 6), rel=1e-5)


def test_the_reconstruction_is_what_an_edit_counts_from(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "models", replace(PLAIN, offset=0.1))
    row = measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)["rows"]["plain"]
    assert row["concepts"]["mouth"]["edits"]["mse_out"]["value"] == pytest.approx(0.02**2, rel=1e-3)
    assert row["psnr_db"] == pytest.approx(10 * np.log10(4 / 0.1**2), abs=1e-3)


def test_systems_that_put_images_back_have_no_psnr(measured: tuple[Path, dict[str, Any]]) -> None:
    assert measured[1]["rows"]["plain"]["psnr_db"] is None


def test_an_interpretable_row_is_held_against_its_control(measured: tuple[Path, dict[str, Any]]) -> None:
    rows = measured[1]["rows"]
    assert "verdict" not in rows["plain"]["concepts"]["mouth"]
    judged = rows["local"]["concepts"]["mouth"]["verdict"]
    assert judged["outcome"] == "better"
    assert judged["lines"][0]["figure"] == pytest.approx(0.25, rel=1e-3)
    assert "LOCAL against PLAIN" in verdicts(measured[1])
    bought = {row[0]: row[1:] for row in locality_tables(measured[1])[1].rows}
    assert list(bought) == ["LOCAL", "PASTING"]  # neither is in the published table, which would add a line
    assert bought["LOCAL"] == ("4.000 [4.000, 4.000]",) * 2 + ("1.00",) * 4


def test_equal_seeds_give_equal_figures(measured: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    rows = _rows(tmp_path / "models", PLAIN, LOCAL, PASTING)
    again = measure_tables(rows, _domain, CONFIG, tmp_path / "again", say=lambda _: None)
    assert _without_seconds(again) == _without_seconds(measured[1])


def test_realism_can_be_measured_in_inceptions_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(path: str) -> SimpleNamespace:
        read.append(path)
        return SimpleNamespace(features=lambda images, box: images.flatten(2).mean(dim=2))

    monkeypatch.setattr("benchmarks.published_tables.measure.load_inception", load)
    config = replace(CONFIG, inception="somewhere/weights.pth")
    results = measure_tables(_rows(tmp_path / "models", PLAIN), _domain, config, tmp_path / "run", say=lambda _: None)
    assert set(read) == {"somewhere/weights.pth"}
    assert results["realism"]["plain-model"]["extractor"] == "Inception's features (weights.pth)"
    assert "not Inception's" not in text_of(results, "realism")


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "models", PLAIN, LOCAL)
    BUILT.clear()
    measure_tables({"plain": rows["plain"]}, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    assert BUILT == ["plain-model"]
    first = measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    assert BUILT == ["plain-model", "local-model"]
    assert (
        measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
        == first
        == assemble(tmp_path / "run")
    )
    (tmp_path / "models" / "local-model" / "model" / "weights.safetensors").write_bytes(b"trained on")
    measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    assert BUILT == ["plain-model", "local-model", "local-model"]


def test_rows_of_a_model_that_has_changed_do_not_stand_beside_its_new_realism(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "models", PLAIN)
    rows["other"] = replace(rows["plain"], key="other")
    measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    (tmp_path / "models" / "plain-model" / "model" / "weights.safetensors").write_bytes(b"trained on")
    with pytest.raises(ValueError, match="row other was measured on other weights of plain-model"):
        measure_tables({"plain": rows["plain"]}, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    results = measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    assert results["rows"]["plain"]["weights"] == results["rows"]["other"]["weights"]


def test_a_row_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def fail(*_: Any) -> System:
        raise ValueError("no such thing")

    rows = _rows(tmp_path / "models", PLAIN, LOCAL)
    rows["local"] = replace(rows["local"], build=fail)
    with pytest.raises(ValueError, match="no such thing"):
        measure_tables(rows, _domain, CONFIG, tmp_path / "run", say=lambda _: None)
    assert list(assemble(tmp_path / "run")["rows"]) == ["plain"]


def test_a_folder_holds_rows_of_one_configuration(measured: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    rows = _rows(tmp_path / "models", PLAIN)
    with pytest.raises(ValueError, match=r"holds another run: tables\.images is 6 there and 7 here"):
        measure_tables(rows, _domain, replace(CONFIG, images=7), measured[0])


@pytest.mark.parametrize("name", ["images", "samples", "given", "shown", "resamples", "dilation"])
def test_numbers_out_of_their_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        TablesConfig(**{name: -1})


def test_text_comes_from_the_json_alone(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, results = measured
    stored = json.loads((folder / "tables.json").read_text())
    for table in ("locality", "realism"):
        assert text_of(stored, table) == text_of(results, table)
    assert markdown_of(stored) == markdown_of(results)
    main_table = locality_tables(results)[0]
    cells = {row[0]: row[1] for row in main_table.rows}
    wanted = {"PLAIN": "0.0100 [0.0100, 0.0100]", "LOCAL": "0.0025 [0.0025, 0.0025]"}
    assert cells == wanted | {f"PASTING{PASTES}": "0 [0, 0]"}
    assert any(note.startswith(PASTES) for note in main_table.notes)
    assert ANOTHER_DATA_SET in main_table.text()
    assert [row[0] for row in realism_tables(results)[0].rows][-1] == "real images"


def test_every_line_of_a_table_has_its_columns_one_below_the_other() -> None:
    table = Table("t", (("", ("a",)), ("a long heading", ("b", "c"))), (("row", "1", "22"), ("longer row", "333", "")))
    lines = table.text().splitlines()[2:]
    assert lines[1].index("b") + 1 == lines[2].index("1") + 1 == lines[3].index("333") + 3
    assert len(lines[1]) == len(lines[2]) == len("longer row") + 2 + len("a long heading")
    assert len({line.count("|") for line in table.markdown().splitlines()[2:]}) == 1


class _Page(HTMLParser):
    """Open tags, what is referred to, and whether everything was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_well_formed_page_and_a_markdown_with_its_pictures(
    measured: tuple[Path, dict[str, Any]],
) -> None:
    folder, results = measured
    results = results | {"tables": results["tables"] | {"concepts": ["mouth"]}}
    write_report(folder, results)
    page = _Page()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    pictures = sorted((folder / "pictures").iterdir())
    assert len(page.sources) == len(pictures) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert all(f"(pictures/{path.name})" in text for path in pictures)


def test_pictures_show_a_column_for_each_system_on_one_scale(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, results = measured
    kept = row_pictures(folder, results)
    for given, columns in ((False, 3), (True, 4)):
        figure = picture_of_edits(results, kept, "mouth", given=given)
        grid = figure.axes[:-1]  # the last is the colour bar's
        assert len(grid) == 3 * CONFIG.shown * columns
        heats = [axis.images[0] for axis in grid if axis.images and axis.images[0].get_cmap().name == "inferno"]
        assert len(heats) == CONFIG.shown * 3
        assert {heat.get_clim() for heat in heats} == {(0.5, 30.0)}


def test_published_figures_say_what_the_paper_says_of_them() -> None:
    def gains(plain: str, penalised: str) -> list[float]:
        return [round(LOCALITY[plain][c] / LOCALITY[penalised][c], 1) for c in ("mouth", "eyes", "nose")]

    assert gains("ddpm", "ddpm-published") == [2.4, 2.8, 3.0]
    assert gains("ldm", "ldm-published") == [1.4, 1.4, 1.1]
    costs = [FID["ddpm-published"][c] / FID["ddpm"][c] for c in ("mouth", "eyes", "nose")]
    assert (round(min(costs), 2), round(max(costs), 2)) == (1.43, 1.51)
    assert [sum(figures.values()) for figures in LOCALITY.values()] == pytest.approx(
        [0.5298, 0.9484, 2.5762, 5.2817, 0.2403, 0.4884, 0.3741, 0.4188, 0.1347]
    )


def test_published_rows_are_rows_in_the_published_order() -> None:
    keys = [row.key for row in ROWS]
    assert [key for key in keys if key in LOCALITY] == list(LOCALITY)
    assert set(FID) <= set(keys)
    assert all(row.control is None or row.control in keys for row in ROWS)


def test_a_missing_model_is_one_line_that_says_what_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"no finished ddpm-published-nose .* --make ddpm-published-nose, or"):
        systems_of(tmp_path, ["nose"], ["ddpm-published"])
    status = main(["--table", "locality", "--models", str(tmp_path), "--out", str(tmp_path / "run")])
    assert status == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has no finished sd for the row sd" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "run"], "needs --models"),
        (["--models", "models"], "needs --out"),
        (["--models", "m", "--out", "run", "--rows", "dpm"], "have the rows sd, repaint"),
        (["--models", "m", "--out", "run", "--workers", "0"], "--workers must be at least 1"),
        (["--from", "nothing-there"], "holds no measured row"),
    ],
)
def test_the_command_says_what_is_wrong(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--table", "realism", *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("table", ["locality", "realism"])
def test_the_command_prints_what_was_measured(
    table: str, measured: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--table", table, "--from", str(measured[0])]) == 0
    assert capsys.readouterr().out == text_of(measured[1], table) + "\n"


def test_processes_measure_what_one_measures(tmp_path: Path) -> None:
    domain = partial(open_domain, "photographs", 32, 2)
    side, channels = domain().reference.images.shape[-1], domain().reference.images.shape[1]
    for number, name in enumerate(("ddpm-control", "ddpm-local")):
        tiny = small_denoiser(side - side % 2, channels, channels=(8, 16), prediction="v_prediction", seed=number)
        tiny.save(tmp_path / "models" / name / "model")
    config = TablesConfig(("nose",), images=3, samples=6, given=2, shown=2)
    found = {}
    for workers, keys in ((1, ["ddpm-local"]), (2, ["ddpm", "ddpm-local"])):
        rows = systems_of(tmp_path / "models", ["nose"], keys)
        results = measure_tables(rows, domain, config, tmp_path / f"{workers}", workers=workers, say=lambda _: None)
        found[workers] = _without_seconds(results)["rows"]
    assert list(found[2]) == ["ddpm", "ddpm-local"]
    assert found[2]["ddpm"]["concepts"]["nose"]["network_runs"] == 25
    measured = {name: figures for name, figures in found[2]["ddpm-local"].items() if name != "concepts"}
    assert measured == {name: figures for name, figures in found[1]["ddpm-local"].items() if name != "concepts"}
    for name, figures in found[1]["ddpm-local"]["concepts"]["nose"].items():  # which has no control to be held against
        assert found[2]["ddpm-local"]["concepts"]["nose"][name] == figures


def _small_models(folder: Path) -> None:
    """Every model of the tables, untrained and small, as its own code saves it."""
    autoencoder = Autoencoder(small_autoencoder(channels=(8, 8), latent_channels=4))
    architecture = GanArchitecture(widths=(8, 8, 8, 8), discriminator_widths=(8, 8, 8, 8), latent=8, mapping_layers=2)
    small_text_model(autoencoder, channels=(8, 16), width=16).save(folder / "sd" / "model")
    for name in ("ddpm-control", "ddpm-local", "ddpm-published-mouth"):
        small_denoiser(channels=(8, 16)).save(folder / name / "model")
    for name in ("ldm-control", "ldm-local", "ldm-published-mouth"):
        small_denoiser(channels=(8, 16), autoencoder=autoencoder).save(folder / name / "model")
    for name, rectified in (("gan", None), ("igan", 4)):
        (folder / name).mkdir()
        generator = StyleGenerator(architecture, rectified)
        generator.load_state_dict(new_generator(architecture, seed=0).state_dict())
        save_network(generator, folder / name / GENERATOR_FILE)
    (folder / "igan" / "groups.json").write_text(json.dumps([number % 4 for number in range(8)]))


def _faces_domain() -> Domain:
    """Rendered faces; whatever is parsed has the labels of the first, since untrained models draw no faces."""
    faces = render_faces(16, 32, seed=5)
    labels = torch.as_tensor(faces.labels[:1]).long()
    return Domain(
        "faces",
        faces,
        faces,
        lambda images: labels.expand(len(images), -1, -1),
        pixel_features,
        1,
        "features of pixels",
    )


def test_every_row_of_the_tables_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.published_tables.rows.STEPS", 5)
    _small_models(tmp_path / "models")
    config = TablesConfig(("mouth",), images=3, samples=6, given=2, shown=2)
    rows = systems_of(tmp_path / "models", config.concepts)
    results = measure_tables(rows, _faces_domain, config, tmp_path / "run", say=lambda _: None)
    assert list(results["rows"]) == [row.key for row in ROWS]
    assert [key for key, row in results["rows"].items() if row["pastes"]] == ["sd", "repaint", "replay"]
    runs = {key: row["concepts"]["mouth"]["network_runs"] for key, row in results["rows"].items()}
    # Text twice a step for guidance, three times where a phrase is guided towards too; the GANs count none.
    wanted = {"sd": 10, "repaint": 95, "sega": 15, "style": None, "igan": None, "replay": 10}
    assert runs == {row.key: wanted.get(row.key, 5) for row in ROWS}
    for key, row in results["rows"].items():
        figures = row["concepts"]["mouth"]["edits"]
        if key in ("repaint", "replay"):
            assert figures["mse_out"]["value"] < 1e-10
        if key == "replay":  # the very same model, with the same noise in the region
            free = results["rows"]["ddpm"]["concepts"]["mouth"]["edits"]
            assert figures["mse_in"]["value"] > 0.1 * free["mse_in"]["value"]
    assert results["rows"]["ldm"]["models"] == {"mouth": "ldm-control"}
    assert set(results["realism"]) == {row.model_of("mouth") for row in ROWS} | {"real"}
