"""The reference study: local noise without losing realism. Every arm is a file in study_arms/.

    python benchmarks/study.py --arms                  # what the arms are, and which are done
    python benchmarks/study.py --run                   # all of them, or some by name; one process an arm
    python benchmarks/study.py --run star --seeds 1 2 3
    python benchmarks/study.py --publish               # docs/results/study.json and the pictures, from what is done

An arm is trained from the plain model that comes with the package, for as many steps as every other arm of its length,
and measured; each leaves a run folder and a line of results.jsonl in --work. What is there is taken, and what was
interrupted goes on, so that several calls may share the work: an arm that another process has begun is left to it.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import nn

from shapkit.differentiable import Regions, allowed_influence, replace_group_norm, star
from shapkit_diffusion.composed import ComposedDenoiser
from shapkit_diffusion.data import LabelledImages, redraw_concept, render_faces
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.demo import demo_config, shipped_model
from shapkit_diffusion.denoisers import Denoiser, load_denoiser, small_denoiser
from shapkit_diffusion.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.edits import Edit, Original, edit_original
from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, compare_edits, measure_edits
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, measured_by_concept, realism_reference
from shapkit_diffusion.influence import END_TO_END, influence_maps, outside_error, outside_mass
from shapkit_diffusion.pixels import to_unit_range
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.report import picture_of_samples, png
from shapkit_diffusion.runs import RunFolder, write_json
from shapkit_diffusion.sampling import draw_noise
from shapkit_diffusion.training import PairedNoise, PenaltyConfig, TrainConfig, draw_batch, losses, train
from shapkit_diffusion.training_data import players, template_regions

ARMS = Path(__file__).parent / "study_arms"
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "study.json"
TARGET_GAINS = {"faces": 20, "photographs": 5}
"""What the study is after: this much more local, at no loss of realism."""

COMMON = TrainConfig(
    steps=600, batch_size=16, learning_rate=1e-3, warmup=20, decay=True, ema=0.99, seed=1, log_every=20, save_every=200
)
"""What all arms share where their files do not say otherwise. Mirrored images are not needed: faces are rendered."""

EVALUATION = EvaluateConfig(pairs=64, images=500)
INFLUENCE_IMAGES = 8


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        name: of its file.
        says: what it is, in a line.
        family: the question that it belongs to.
        data: ``"faces"``, from the plain model that comes with the package, or ``"photographs"``, from one that the
            study trains first.
        trains: false for models that are measured as they are.
        shipped: such a model's name, if it comes with the package; by default that which arms on the data start from.
        training: fields of ``TrainConfig`` and ``PenaltyConfig`` that differ from ``COMMON`` and the defaults. Of a
            model that is measured as it is, the number of steps that it has behind it, if a control has taken as many.
        region_norm: whether group normalisation is by region, in training and when the model is used.
        composed: ``"together"`` or ``"staged"`` where every region is predicted by a run of its own that sees no more
            than the star graph lets it; staged, after the regions that it looks at.
        concepts: whose noise it makes local.
        measures: the concepts whose edits and crops are measured.
        seeds: of its runs.
    """

    name: str
    says: str
    family: str
    data: str = "faces"
    trains: bool = True
    shipped: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    region_norm: bool = False
    composed: str | None = None
    concepts: tuple[str, ...] = CONCEPTS
    measures: tuple[str, ...] = CONCEPTS
    seeds: tuple[int, ...] = (1,)

    @classmethod
    def read(cls, path: Path) -> Arm:
        """The arm of a file; an unknown field is refused."""
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in ("concepts", "measures", "seeds"):
            if name in content:
                content[name] = tuple(content[name])
        return cls(path.stem, **content)

    @property
    def is_control(self) -> bool:
        """Whether it is what arms of as many steps on the same data are compared with."""
        return (
            self.trains and not self.region_norm and self.composed is None and set(self.training) <= {"steps", "flip"}
        )

    def config(self, seed: int) -> TrainConfig:
        """Its training run."""
        fields = dict(self.training)
        penalty, paired = fields.pop("penalty", None), fields.pop("paired", None)
        if penalty is not None:
            penalty = PenaltyConfig(**{"concepts": self.concepts, **penalty})
        if paired is not None:
            paired = PairedNoise(**paired)
        return replace(COMMON, **fields, seed=seed, penalty=penalty, paired=paired)


def read_arms() -> dict[str, Arm]:
    """Every arm, by name."""
    return {path.stem: Arm.read(path) for path in sorted(ARMS.glob("*.json"))}


@dataclass(frozen=True)
class Study:
    """What the arms share: the work folder, the data, and the features of real faces."""

    work: Path

    @property
    def results(self) -> Path:
        return self.work / "results.jsonl"

    def done(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The lines of the results, by arm and seed; of two lines for one, the last."""
        if not self.results.is_file():
            return {}
        lines = [json.loads(line) for line in self.results.read_text(encoding="utf-8").splitlines()]
        return {(line["arm"], line["seed"]): line for line in lines}

    def run(self, arm: Arm, seed: int, open_data: Callable[[str], Domain]) -> None:
        """Train and measure an arm and add its line, unless that was done or is being done."""
        folder = self.work / (f"{arm.name}-{seed}")
        with _only_one(self.work / f".{folder.name}.lock") as mine:
            if not mine or self._line_of(arm, seed) is not None:
                return
            domain = open_data(arm.data)
            model = self._trained(arm, seed, folder, domain)
            started = time.perf_counter()
            line = {"arm": arm.name, "seed": seed, "config": asdict(arm.config(seed)) if arm.trains else None}
            if arm.trains:
                line["training_seconds"] = RunFolder(folder / "run").seconds()
            line |= figures(model, domain, arm) | {"machine": machine(), "torch_threads": torch.get_num_threads()}
            line["measuring_seconds"] = round(time.perf_counter() - started, 1)
            with self.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _line_of(self, arm: Arm, seed: int) -> dict[str, Any] | None:
        """The arm's line, if it was written for the arm as it is now."""
        line = self.done().get((arm.name, seed))
        return line if line is not None and _is_of(line, arm) else None

    def _trained(self, arm: Arm, seed: int, folder: Path, domain: Domain) -> Denoiser:
        if not arm.trains:
            return shipped_model(arm.shipped) if arm.shipped else self.start(arm.data, domain)
        run, config = folder / "run", arm.config(seed)
        if (run / "config.json").is_file():
            RunFolder.open(run, {"training": asdict(config)}, resume=True)  # refuses what another arm has left there
        if not (run / "model" / "model_index.json").is_file():
            train(
                prepared(self.start(arm.data, domain), arm, domain.training),
                domain.training,
                config,
                run,
                resume=(run / "config.json").is_file(),
                cache=self.work / "cache",
                teacher=self.start(arm.data, domain) if config.anchor else None,
                progress=on_terminal(f"train {folder.name}"),
            )
        return prepared(load_denoiser(run / "model"), arm, domain.training)

    def start(self, data: str, domain: Domain | None = None) -> Denoiser:
        """The plain model that arms on these data start from; that of photographs is trained by the first of them."""
        base = demo_config(data).base
        if base is None:
            return shipped_model()
        run = self.work / f"base-{data}"
        with _only_one(self.work / f".{run.name}.lock", wait=True):
            if not (run / "model" / "model_index.json").is_file():
                images = (domain or open_domain(data)).training
                channels, size, _ = images.rows([0])[0].shape[1:]
                new, resume = small_denoiser(size, channels, seed=base.seed), (run / "config.json").is_file()
                train(new, images, base, run, resume=resume, progress=on_terminal(f"train {run.name}"))
        return load_denoiser(run / "model")


def _is_of(line: Mapping[str, Any], arm: Arm) -> bool:
    """Whether a line of the results was written for the arm as it is now."""
    wanted = asdict(arm.config(line["seed"])) if arm.trains else None
    return bool(line["config"] == json.loads(json.dumps(wanted)))


def prepared(model: Denoiser, arm: Arm, data: LabelledImages) -> Denoiser:
    """The model as the arm trains and uses it."""
    regions = template_regions(data, model, arm.concepts, mirrored=bool(arm.training.get("flip")))
    if arm.region_norm:
        replace_group_norm(model.unet, regions)
    if arm.composed is None or isinstance(model, ComposedDenoiser):  # as which it was saved
        return model
    return ComposedDenoiser(model, regions, staged=arm.composed == "staged")


def network_images(arm: Arm, seed: int, plain: Denoiser) -> dict[str, float]:
    """How many images the trained network and the anchor see for each image of a batch of a run from ``plain``."""
    config, data = arm.config(seed), render_faces(64) if arm.data == "faces" else open_domain(arm.data).training
    anchor = copy.deepcopy(plain) if config.anchor else None
    model = prepared(copy.deepcopy(plain), arm, data)
    batch = draw_batch(data, config, model.n_timesteps, 0)
    seen: dict[str, list[int]] = {"trained": [], "anchor": []}

    def count(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], object], None]:
        return lambda module, given, output: seen[name].append(len(given[0]))

    model.unet.register_forward_hook(count("trained"))
    if anchor is not None:
        anchor.unet.register_forward_hook(count("anchor"))
    losses(model, model, batch, config, players(data, model, config)(batch), 0, anchor)
    return {name: sum(counts) / len(batch.images) for name, counts in seen.items()}


def figures(model: Denoiser, domain: Domain, arm: Arm) -> dict[str, Any]:
    """What is measured of a model."""
    config = replace(EVALUATION, concepts=arm.measures)
    result = evaluate(model, domain, config, on_terminal(f"measure {arm.name}"))
    measured = measured_by_concept(result, realism_reference(domain, arm.measures), config)
    noise = draw_noise(model, INFLUENCE_IMAGES, config.seed + 3)
    allowed = allowed_influence(star(), (*arm.measures, "rest"))

    def regions_of(images: torch.Tensor) -> Regions:
        return domain.regions(images, arm.measures, config.dilation)

    found = influence_maps(model, noise, regions_of, (), config.steps)[END_TO_END]
    return {
        "edits": {concept: figure.edits.to_json() for concept, figure in measured.items()},
        "realism": next(iter(measured.values())).realism.to_json(),
        "influence": found.values.T.tolist(),
        "influence_outside": [outside_mass(found, allowed), outside_error(found, allowed)],
    }


@contextmanager
def _only_one(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process is the only one that holds the lock; the system frees it when a process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def assemble(study: Study, arms: Mapping[str, Arm], published: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Everything that is done, each run beside the control's of as many steps and the same seed, or the first.

    Runs ``published`` before that the work folder lacks stay as they are: runs of the same arm and seed give the same
    numbers, so that a study may go on from its published results.
    """
    lines = {key: line for key, line in study.done().items() if key[0] in arms}
    images = cache(lambda name: network_images(arms[name], 1, study.start(arms[name].data)))
    runs = {(run["arm"], run["seed"]): run for run in published if run["arm"] in arms and _is_of(run, arms[run["arm"]])}
    for key, line in lines.items():
        control = _control_of(line, lines, arms)
        edits = {concept: _without_images(figure) for concept, figure in line["edits"].items()}
        runs[key] = {**line, "edits": edits, "against": against(line, control) if control else None}
        if line["config"] is not None:
            runs[key]["network_images"] = images(line["arm"])
    return {
        "command": "python benchmarks/study.py --run && python benchmarks/study.py --publish",
        "machine": machine(),
        "common": asdict(COMMON),
        "evaluation": asdict(EVALUATION),
        "arms": {name: asdict(arm) for name, arm in arms.items()},
        "data": redrawn_edits(),
        "runs": [runs[key] for key in sorted(runs)],
    }


def redrawn_edits(count: int = 1000, seed: int = 2) -> dict[str, Any]:
    """Edits as the data themselves would have them: faces whose concept the renderer draws anew, given all the rest."""
    domain = open_domain("faces", count=2)
    faces, found = realism_reference(domain), {}
    before = render_faces(count, seed=seed)
    original = to_unit_range(torch.as_tensor(before.images))
    for concept, values in concept_labels(before.label_names, CONCEPTS).items():
        mask = torch.isin(torch.as_tensor(before.labels).long(), torch.tensor(values))[:, None].float()
        anew = to_unit_range(torch.as_tensor(redraw_concept(concept, count, seed=seed).images))
        edits = measure_edits(concept, original, anew, mask, features=faces.features, box=faces.boxes[concept])
        found[concept] = edits.to_json(per_image=False)
    return found


def _without_images(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figure.items() if key != "per_image"}


def _control_of(
    line: Mapping[str, Any], lines: Mapping[tuple[str, int], dict[str, Any]], arms: Mapping[str, Arm]
) -> dict[str, Any] | None:
    """The run without penalty that took as many steps on the same data, measured in the same concepts."""
    arm = arms[line["arm"]]
    steps, seed = (line["config"] or arm.training).get("steps"), line["seed"]
    same = [
        (key[1] != seed, other)
        for key, other in lines.items()
        if (control := arms[key[0]]).is_control
        and (control.data, control.measures, other["config"]["steps"]) == (arm.data, arm.measures, steps)
    ]
    return min(same, key=lambda found: found[0])[1] if same else None


def against(line: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """A run's figures over the control's, by concept, and whether they are what the study is after."""
    realism, before = line["realism"]["crops"], control["realism"]["crops"]
    concepts = {}
    for concept in line["edits"]:
        edits, reference = (EditMeasurement.from_json(one["edits"][concept]) for one in (line, control))
        pairs = compare_edits(edits, reference)
        gain = 1 / pairs["ratio"].value
        concepts[concept] = {
            "gain": [gain, 1 / pairs["ratio"].high, 1 / pairs["ratio"].low],
            **{name: pairs[name].value for name in ("mse_in", "diversity", "seam")},
            **{name: realism[concept][name] / before[concept][name] for name in ("fid", "kid")},
        }
    return {
        "whole": realism["whole"]["fid"] / before["whole"]["fid"],
        "whole_kid": realism["whole"]["kid"] / before["whole"]["kid"],
        "outside": line["influence_outside"][0] / control["influence_outside"][0],
        "concepts": concepts,
    }


def report(results: Mapping[str, Any]) -> str:
    """A line per run, by question: locality gain, what changes inside, realism, influence, cost."""
    lines = [HEAD]
    families = dict.fromkeys(arm["family"] for arm in results["arms"].values())
    for family in sorted(families, key=lambda name: FAMILIES.index(name)):
        runs = [run for run in results["runs"] if results["arms"][run["arm"]]["family"] == family]
        lines += [family, *(_line(run, results["arms"][run["arm"]]) for run in runs)] if runs else []
        lines += [_line_of_data(results)] if family == "base" else []
    settings = results["evaluation"]
    notes = (
        "runs: images through the trained network + through its anchor for each image of a batch; min: of training",
        "gain: the control's locality over the arm's (MSE out over MSE in); in, div, FID: over the control's",
        f"{settings['pairs']} pairs and {settings['images']} images a run, {settings['steps']} DDIM steps",
        results["machine"],
    )
    return "\n".join([*lines, *notes])


FAMILIES = (
    "base",
    "published",
    "graph",
    "weight",
    "rate",
    "timesteps",
    "regions",
    "network",
    "noise",
    "distilled",
    "composed",
    "staged",
    "hair",
    "long",
    "photographs",
)
_GROUPS = (("gain", 7), ("in", 6), ("div", 6), ("FID of crop", 6))
HEAD = (
    f"{'':<28}{'':>5}"
    + "".join(f"{name:^{width * 3}}" for name, width in _GROUPS)
    + f"{'FID':>6}{'KID':>6}{'outside':>9}{'runs':>6}{'min':>6}\n"
    + f"{'arm':<28}{'seed':>5}"
    + "".join(f"{concept:>{width}}" for _, width in _GROUPS for concept in CONCEPTS)
)


def _line(run: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    images = run.get("network_images", {"trained": 0, "anchor": 0})
    seen = f"{images['trained']:.0f}+{images['anchor']:.0f}"
    cost = f"{seen:>6}{run.get('training_seconds', 0) / 60:>6.1f}"
    outside = f"{run['influence_outside'][0]:>9.2%}"
    start = f"  {run['arm']:<26}{run['seed']:>5}"
    if run["against"] is None:
        fid = run["realism"]["crops"]["whole"]["fid"]
        return f"{start}{'':>{sum(3 * width for _, width in _GROUPS)}}{fid:>6.3f}{'':>6}{outside}{cost}"
    of = run["against"]["concepts"]
    cells = ""
    for key, width in zip(("gain", "mse_in", "diversity", "fid"), (width for _, width in _GROUPS), strict=True):
        for concept in CONCEPTS:
            value = of[concept][key][0] if key == "gain" else of[concept][key]
            own = concept in arm["concepts"]
            cells += f"{value:>{width}.{1 if key == 'gain' else 2}f}" if own or key == "fid" else f"{'-':>{width}}"
    against = run["against"]
    return f"{start}{cells}{against['whole']:>6.2f}{against['whole_kid']:>6.2f}{outside}{cost}"


def _line_of_data(results: Mapping[str, Any]) -> str:
    """What a perfect local edit would have against the first control."""
    control = _control(results)
    cells = ""
    for key, width in (("ratio", 7), ("mse_in", 6), ("diversity", 6)):
        for concept in CONCEPTS:
            data, before = (of[concept][key]["value"] for of in (results["data"], control["edits"]))
            cells += f"{before / data:>{width}.1f}" if key == "ratio" else f"{data / before:>{width}.2f}"
    return f"  {'the data, a concept redrawn':<31}{cells}"


def _control(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first run of the control."""
    found: Mapping[str, Any] = next(run for run in results["runs"] if run["arm"] == "control")
    return found


def finalists(results: Mapping[str, Any]) -> str:
    """The arms of rendered faces with three seeds or more."""
    return _over_seeds(results, "faces", least=3)


def photographs(results: Mapping[str, Any]) -> str:
    """The arms of photographs."""
    return _over_seeds(results, "photographs", least=1)


def _over_seeds(results: Mapping[str, Any], data: str, least: int) -> str:
    """Each seed of an arm against its own control: mean, and the range over seeds."""
    lines = [f"{'':<26}{'':<8}" + "".join(f"{name:>24}" for name in MEASURES)]
    for name, arm in results["arms"].items():
        runs = [run for run in results["runs"] if run["arm"] == name and run["against"]]
        if len(runs) < least or arm["data"] != data or Arm(**arm).is_control:
            continue
        for concept in (*CONCEPTS, "whole"):
            cells = []
            for key in MEASURES.values():
                found = [_measured(run["against"], concept, key) for run in runs]
                span = f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})" if None not in found else ""
                cells.append(f"{span:>24}")
            lines.append(f"{name if concept == CONCEPTS[0] else '':<26}{concept:<8}{''.join(cells)}".rstrip())
        within = sum(meets_bars(run["against"], data) for run in runs)
        lines.append(f"{'':<26}within every bar: {within} of {len(runs)} seed{'s' if len(runs) > 1 else ''}")
    return "\n".join(
        [*lines, "everything over the control's of the same seed, but locality: how many times less", BARS[data]]
    )


def beside_data(results: Mapping[str, Any]) -> str:
    """What edits change inside and outside, and how they differ, beside those of the renderer; means over seeds."""
    heads = {"MSE in": ("mse_in", ".4f"), "MSE out / MSE in": ("ratio", ".5f"), "diversity": ("diversity", ".3f")}
    lines = [
        f"{'':<32}" + "".join(f"{head:^27}" for head in heads),
        f"{'':<32}" + "".join(f"{concept:>9}" for _ in heads for concept in CONCEPTS),
    ]
    sources = {"the data, a concept redrawn": [results["data"]]}
    for name in BESIDE_DATA:
        sources[name] = [run["edits"] for run in results["runs"] if run["arm"] == name]
    for name, found in sources.items():
        if found:
            cells = "".join(
                f"{np.mean([edits[concept][key]['value'] for edits in found]):>9{form}}"
                for key, form in heads.values()
                for concept in CONCEPTS
            )
            lines.append(f"{name:<32}{cells}")
    return "\n".join([*lines, "MSE of images in [-1, 1], by each region's own area"])


def with_hair(results: Mapping[str, Any]) -> str:
    """Runs of the family "hair": every concept against the control of as many steps."""
    columns = {"gain": 8, "mse_in": 8, "diversity": 11, "fid": 8, "kid": 8}
    lines = [f"{'':<16}{'':<8}{'gain, 95 % interval':>22}{'MSE in':>8}{'diversity':>11}{'FID':>8}{'KID':>8}"]
    for run in (run for run in results["runs"] if results["arms"][run["arm"]]["family"] == "hair"):
        for concept, of in run["against"]["concepts"].items():
            gain, low, high = of["gain"]
            cells = f"{f'{gain:.1f} ({low:.1f} to {high:.1f})':>22}" + "".join(
                f"{of[key]:>{width}.2f}" for key, width in columns.items() if key != "gain"
            )
            lines.append(f"{run['arm'] if concept == 'eyes' else '':<16}{concept:<8}{cells}")
        whole, outside = run["against"]["whole"], run["influence_outside"][0]
        lines.append(f"{'':<16}{'whole':<8}{'':>41}{whole:>8.2f}{run['against']['whole_kid']:>8.2f}")
        lines.append(f"{'':<16}influence from outside the star graph: {outside:.2%}")
    return "\n".join(lines)


BESIDE_DATA = ("plain", "control", "control-2400", "star", "distilled-24", "composed", "staged", "local")
MEASURES = {"locality gain": "gain", "MSE in": "mse_in", "diversity": "diversity", "FID": "fid", "outside": "outside"}
BARS = {
    data: f"bars: locality at least {gain}, MSE in 0.5 to 1.5, diversity at least 0.8, FID whole and of every crop at most 1"
    + (", influence outside at most 0.1" if data == "faces" else "")
    for data, gain in TARGET_GAINS.items()
}


def _measured(of: Mapping[str, Any], concept: str, key: str) -> float | None:
    if concept == "whole":
        return {"fid": of["whole"], "outside": of["outside"]}.get(key)
    value = of["concepts"][concept].get(key)
    return value[0] if key == "gain" else value


def meets_bars(of: Mapping[str, Any], data: str = "faces") -> bool:
    """Whether a run, against its control, is all that the study is after."""
    return (
        of["whole"] <= 1
        and (of["outside"] <= 0.1 or data != "faces")
        and all(
            found["gain"][0] >= TARGET_GAINS[data]
            and 0.5 <= found["mse_in"] <= 1.5
            and found["diversity"] >= 0.8
            and found["fid"] <= 1
            for found in of["concepts"].values()
        )
    )


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX*<>hp"


def picture(results: Mapping[str, Any]) -> Figure:
    """Locality bought against realism paid, an axis pair for each concept; the bars of the study as lines."""
    figure, axes = pyplot.subplots(1, len(CONCEPTS), figsize=(13, 4.8), sharey=True, layout="constrained")
    families = [name for name in FAMILIES if name not in ("base", "photographs")]
    for axis, concept in zip(axes, CONCEPTS, strict=True):
        for number, family in enumerate(families):
            points = np.array(
                [
                    (*of["gain"], of["fid"])
                    for run in results["runs"]
                    if (arm := results["arms"][run["arm"]])["family"] == family and concept in arm["concepts"]
                    if run["against"] and (of := run["against"]["concepts"][concept])
                ]
            )
            if len(points):
                gain, low, high, fid = points.T
                colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number]
                errors = (gain - low, high - gain)
                axis.errorbar(
                    gain, fid, xerr=errors, fmt=marker, color=colour, markersize=6, elinewidth=0.8, label=family
                )
        axis.axvline(TARGET_GAINS["faces"], color="grey", linewidth=1, linestyle="--")
        axis.axhline(1, color="grey", linewidth=1, linestyle="--")
        own = _control(results)["edits"][concept]["ratio"]["value"] / results["data"][concept]["ratio"]["value"]
        axis.axvline(own, color="black", linewidth=1, linestyle=":", label="the data, a concept redrawn")
        axis.set(xscale="log", yscale="log", xlabel="locality, times the control's", title=concept)
        axis.set_xticks([1, 2, 5, 10, 20, 50, 100, 200], labels=["1", "2", "5", "10", "20", "50", "100", "200"])
        axis.set_yticks([0.7, 1, 1.5, 2, 3, 4], labels=["0.7", "1", "1.5", "2", "3", "4"])
        axis.minorticks_off()
    axes[0].set(ylabel="Fréchet distance of the concept's crop, over the control's")
    axes[-1].legend(fontsize=8)
    figure.suptitle(
        "Penalties pay for locality in realism; the rest first, and each concept given the rest, does not "
        "(wanted: lower right; bars: 95 % intervals)"
    )
    return figure


def edits_picture(count: int = 12, seed: int = 11) -> Figure:
    """New noise in one concept after the other, with the plain and with the local model that come with the package."""
    rows = {}
    for name in ("plain", "local"):
        model = shipped_model(name)
        original = Original.from_noise(model, draw_noise(model, count, seed), EVALUATION.steps)
        rows[f"{name}: original"] = original.reconstruction
        regions = template_regions(render_faces(2000), model, CONCEPTS)
        for concept in CONCEPTS:
            result = edit_original(model, original, regions, [Edit(concept, seed=seed)])
            rows[f"{name}: new {concept}"] = result.edited
    title = "New noise in one concept: the plain model changes the whole face, the local one that concept"
    return picture_of_samples(rows, count, title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "study", help="where runs and results lie")
    parser.add_argument("--arms", action="store_true", help="list the arms")
    parser.add_argument("--run", nargs="*", metavar="ARM", help="run these arms, or all")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the arms' own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--publish", action="store_true", help="write docs/results and docs/pictures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arms, study = read_arms(), Study(options.work)
    if options.arms:
        for arm in arms.values():
            print(f"{arm.name:<26}{arm.family:<12}{arm.says}")
    if options.run is not None:
        run(study, [arms[name] for name in options.run or arms], options.seeds)
    published = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.is_file() else ()
    results = assemble(study, arms, published)
    print(report(results))
    if options.publish:
        write_json(RESULTS, results)
        pictures = {"study_frontier": picture(results), "study_edits": edits_picture()}
        for name, figure in pictures.items():
            (ROOT / "docs" / "pictures" / f"{name}.png").write_bytes(png(figure))


def run(study: Study, arms: Sequence[Arm], seeds: Sequence[int] | None) -> None:
    """Run arms one after the other; the data are opened once."""
    open_data = cache(open_domain)
    for arm in arms:
        for seed in seeds or arm.seeds:
            study.run(arm, seed, open_data)


if __name__ == "__main__":
    main()
