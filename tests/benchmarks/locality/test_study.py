"""The study: every arm is a run that can be made, is compared with the right control, and runs once."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shapkit_diffusion.data import render_faces
from shapkit_diffusion.denoisers.loading import shipped_model
from shapkit_diffusion.evaluation.domains import Domain, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig


@pytest.fixture
def study() -> ModuleType:
    return importlib.import_module("benchmarks.locality.study.__main__")


def test_every_arm_is_a_run_of_a_known_family_with_a_control(study: ModuleType) -> None:
    arms = study.read_arms()
    steps = {(arm.data, arm.config(1).steps) for arm in arms.values() if arm.is_control}
    assert {name for name, arm in arms.items() if not arm.trains} == {"plain", "photographs-plain", "local"}
    for arm in arms.values():
        assert arm.family in study.FAMILIES and arm.says
        assert not arm.trains or (arm.data, arm.config(1).steps) in steps


def test_a_misspelt_field_is_refused(study: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    path.write_text(json.dumps({"says": "", "family": "graph", "seed": 1}))
    with pytest.raises(TypeError, match="seed"):
        study.Arm.read(path)
    path.write_text(json.dumps({"says": "", "family": "graph", "training": {"lambda": 3}}))
    with pytest.raises(TypeError, match="lambda"):
        study.Arm.read(path).config(1)


def test_images_through_the_network_are_counted(study: ModuleType) -> None:
    arms = study.read_arms()
    names = ("control", "anchored-24", "distilled-24", "composed", "staged")
    counted = {name: study.network_images(arms[name], 1, shipped_model()) for name in names}
    assert counted["control"] == {"trained": 1, "anchor": 0}
    assert counted["anchored-24"] == {"trained": 2, "anchor": 1}
    assert counted["distilled-24"] == {"trained": 2, "anchor": 4}
    assert counted["composed"] == counted["staged"] == {"trained": 4, "anchor": 4}


def _line(arm: str, steps: int, seed: int = 1) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "config": {"steps": steps}}


def test_an_arm_is_held_against_the_control_of_as_many_steps(study: ModuleType) -> None:
    arms = study.read_arms()
    lines = [_line("control", 600), _line("control", 600, 2), _line("control-2400", 2400), _line("anchored-24", 600, 2)]
    by_key = {(line["arm"], line["seed"]): line for line in lines}
    assert study._control_of(_line("anchored-24", 600, 2), by_key, arms) is by_key["control", 2]
    assert study._control_of(_line("anchored-24", 600, 3), by_key, arms) is by_key["control", 1]
    assert study._control_of(_line("anchored-2400-100", 2400), by_key, arms) is by_key["control-2400", 1]
    assert study._control_of(_line("anchored-24", 50), by_key, arms) is None
    assert study._control_of(_line("photographs-staged", 600), by_key, arms) is None
    shipped = {"arm": "local", "seed": 1, "config": None}
    assert study._control_of(shipped, by_key, arms) is by_key["control-2400", 1]
    assert study._control_of(shipped | {"arm": "plain"}, by_key, arms) is None


def test_the_shipped_local_model_is_what_its_arm_measures(study: ModuleType, tmp_path: Path) -> None:
    arms = study.read_arms()
    local = study.Study(tmp_path).trained(arms["local"], 1, open_domain("faces", count=2))
    assert local.regions.names == ("eyes", "nose", "mouth", "rest")
    assert arms["local"].training["steps"] == arms["staged-2400"].config(1).steps


def test_an_arm_is_run_once_and_compared(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = study.read_arms()
    monkeypatch.setattr(study, "COMMON", replace(study.COMMON, steps=1, batch_size=2))
    monkeypatch.setattr(study, "EVALUATION", EvaluateConfig(pairs=8, images=12, steps=2))
    monkeypatch.setattr(study, "INFLUENCE_IMAGES", 2)
    faces = open_domain("faces", count=2)
    small = replace(faces, training=render_faces(40), reference=faces.reference[:60])

    def domain(data: str) -> Domain:
        assert data == "faces"
        return small

    monkeypatch.setattr(study, "open_domain", lambda data, count: small)
    monkeypatch.setattr(study, "redrawn_edits", partial(study.redrawn_edits, count=40))
    work = study.Study(tmp_path)
    for name in ("plain", "control", "anchored-24", "staged"):
        for _ in range(2):
            work.run(arms[name], 1, domain)
    assert len(work.results.read_text().splitlines()) == 4
    results = study.assemble(work, arms)
    found = {run["arm"]: run for run in json.loads(json.dumps(results))["runs"]}
    assert found["plain"]["against"] is None
    assert found["control"]["against"]["concepts"]["eyes"]["gain"][0] == pytest.approx(1)
    assert "per_image" not in found["anchored-24"]["edits"]["eyes"]
    table, _, missing = study.report(results).partition("described, without a line here: ")
    assert all(name in table for name in found) and not any(f" {name}," in missing for name in found)
    assert "star" in missing
    assert results["data"]["nose"]["mse_out"]["value"] < found["plain"]["edits"]["nose"]["mse_out"]["value"]
    rows = study.beside_data(results).splitlines()
    assert [row.split()[0] for row in rows[2:-1]] == ["the", "plain", "control", "staged"]
    assert f"{found['plain']['edits']['eyes']['mse_in']['value']:.4f}" in rows[3]
    elsewhere = study.assemble(study.Study(tmp_path / "elsewhere"), arms, results["runs"])
    assert elsewhere["runs"] == results["runs"]  # published runs need no work folder
    alone = study.Study(tmp_path / "alone")
    alone.work.mkdir()
    alone.results.write_text(work.results.read_text().splitlines()[2] + "\n")  # an arm run again without its control
    assert [run["arm"] for run in alone.done().values()] == ["anchored-24"]
    assert study.assemble(alone, arms, results["runs"])["runs"] == results["runs"]
    changed = {**arms, "staged": replace(arms["staged"], training={**arms["staged"].training, "steps": 2})}
    kept = study.assemble(study.Study(tmp_path / "elsewhere"), changed, json.loads(json.dumps(results["runs"])))
    assert {run["arm"] for run in kept["runs"]} == {"plain", "control", "anchored-24"}
    assert found["staged"]["influence_outside"][0] < found["plain"]["influence_outside"][0]
    stale = replace(arms["anchored-24"], training={**arms["anchored-24"].training, "learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"holds another run: training\.learning_rate"):
        work.run(stale, 1, domain)


def _against(gain: float, fid: float = 0.9) -> dict[str, Any]:
    concept = {"gain": [gain, gain / 2, gain * 2], "mse_in": 0.8, "diversity": 0.9, "seam": 1.0, "fid": fid, "kid": fid}
    concepts = {name: concept for name in ("eyes", "nose", "mouth")}
    return {"whole": 0.9, "whole_kid": 0.9, "outside": 0.02, "concepts": concepts}


def test_finalists_have_three_seeds_and_are_held_to_the_bars(study: ModuleType) -> None:
    arms = {name: asdict(arm) | {"is_control": arm.is_control} for name, arm in study.read_arms().items()}
    runs = [{"arm": "staged", "seed": seed, "against": _against(gain)} for seed, gain in ((1, 30), (2, 50), (3, 19))]
    runs += [{"arm": "control", "seed": seed, "against": _against(1)} for seed in (1, 2, 3)]
    runs += [{"arm": "star", "seed": seed, "against": _against(25, fid=1.1)} for seed in (1, 2)]
    results = {"arms": arms, "runs": json.loads(json.dumps(runs))}
    table = study.finalists(results)
    assert "33.00 (19.00 to 50.00)" in table and "within every bar: 2 of 3 seeds" in table
    assert "star" not in table and "control " not in table
    one = [{"arm": "photographs-distilled-24", "seed": 1, "against": _against(6) | {"outside": 0.2}}]
    table = study.photographs({"arms": arms, "runs": json.loads(json.dumps([*runs, *one]))})
    assert "6.00 (6.00 to 6.00)" in table and "1 of 1 seed" in table and "staged " not in table
    for name, value in {"fid": 1.01, "diversity": 0.79, "mse_in": 0.49}.items():
        spoilt = _against(30)
        spoilt["concepts"]["nose"] = spoilt["concepts"]["nose"] | {name: value}
        assert not study.meets_bars(spoilt)
    assert not study.meets_bars(_against(30) | {"whole": 1.01}) and not study.meets_bars(
        _against(30) | {"outside": 0.2}
    )
