"""The reference study: local noise without losing realism. Every arm is a file in arms/.

    python -m benchmarks.locality.study --arms                  # what the arms are, and which are done
    python -m benchmarks.locality.study --run                   # all of them, or some by name; one process an arm
    python -m benchmarks.locality.study --run star --seeds 1 2 3
    python -m benchmarks.locality.study --publish               # docs/results/study.json and the pictures

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

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.locality.study.report import (
    FAMILIES,
    against,
    beside_data,
    edits_picture,
    finalists,
    meets_bars,
    photographs,
    picture,
    report,
)
from benchmarks.machine import machine
from shapkit.differentiable import Regions, allowed_influence, replace_group_norm, star
from shapkit_diffusion.data import LabelledImages, redraw_concept, render_faces
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.pixels import to_unit_range
from shapkit_diffusion.demo import demo_config
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser, shipped_model
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.evaluation.edit_measures import measure_edits
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, measured_by_concept, realism_reference
from shapkit_diffusion.noise.influence import END_TO_END, influence_maps, outside_error, outside_mass
from shapkit_diffusion.noise.sampling import draw_noise
from shapkit_diffusion.pictures.pages import png
from shapkit_diffusion.progress import on_terminal
from shapkit_diffusion.runs import RunFolder, read_json_lines, write_json
from shapkit_diffusion.training.batches import draw_batch, players, template_regions
from shapkit_diffusion.training.config import PairedNoise, PenaltyConfig, TrainConfig
from shapkit_diffusion.training.denoiser import losses, train

__all__ = [
    "FAMILIES",
    "against",
    "beside_data",
    "finalists",
    "meets_bars",
    "photographs",
    "report",
]  # for docs/tables.py and the tests

ARMS = Path(__file__).parent / "arms"
ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results" / "study.json"
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
        lines = read_json_lines(self.results)
        return {(line["arm"], line["seed"]): line for line in lines}

    def run(self, arm: Arm, seed: int, open_data: Callable[[str], Domain]) -> None:
        """Train and measure an arm and add its line, unless that was done or is being done."""
        with _only_one(self.work / f".{arm.name}-{seed}.lock") as mine:
            if not mine or self._line_of(arm, seed) is not None:
                return
            domain = open_data(arm.data)
            model = self.trained(arm, seed, domain)
            started = time.perf_counter()
            line = {"arm": arm.name, "seed": seed, "config": asdict(arm.config(seed)) if arm.trains else None}
            if arm.trains:
                line["training_seconds"] = RunFolder(self._run_of(arm, seed)).seconds()
            line |= figures(model, domain, arm) | {"machine": machine(), "torch_threads": torch.get_num_threads()}
            line["measuring_seconds"] = round(time.perf_counter() - started, 1)
            with self.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _line_of(self, arm: Arm, seed: int) -> dict[str, Any] | None:
        """The arm's line, if it was written for the arm as it is now."""
        line = self.done().get((arm.name, seed))
        return line if line is not None and _is_of(line, arm) else None

    def _run_of(self, arm: Arm, seed: int) -> Path:
        return self.work / f"{arm.name}-{seed}" / "run"

    def trained(self, arm: Arm, seed: int, domain: Domain) -> Denoiser:
        """The model of an arm, trained unless it was."""
        if not arm.trains:
            return shipped_model(arm.shipped) if arm.shipped else self.start(arm.data, domain)
        run, config = self._run_of(arm, seed), arm.config(seed)
        if (run / "config.json").is_file():
            RunFolder(run).check({"training": asdict(config)})  # refuses what another arm has left there
        if not (run / "model" / "model_index.json").is_file():
            train(
                prepared(self.start(arm.data, domain), arm, domain.training),
                domain.training,
                config,
                run,
                resume=(run / "config.json").is_file(),
                cache=self.work / "cache",
                teacher=self.start(arm.data, domain) if config.anchor else None,
                progress=on_terminal(f"train {arm.name}-{seed}"),
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
        if control is None and runs.get(key, {}).get("against"):
            continue  # published beside its control, which the work folder lacks
        edits = {concept: _without_images(figure) for concept, figure in line["edits"].items()}
        runs[key] = {**line, "edits": edits, "against": against(line, control) if control else None}
        if line["config"] is not None:
            runs[key]["network_images"] = images(line["arm"])
    return {
        "command": "python -m benchmarks.locality.study --run && python -m benchmarks.locality.study --publish",
        "machine": machine(),
        "common": asdict(COMMON),
        "evaluation": asdict(EVALUATION),
        "arms": {name: asdict(arm) | {"is_control": arm.is_control} for name, arm in arms.items()},
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
        for name, figure in pictures(study, arms, results).items():
            (ROOT / "docs" / "pictures" / f"{name}.png").write_bytes(png(figure))


def pictures(study: Study, arms: Mapping[str, Arm], results: Mapping[str, Any]) -> dict[str, Figure]:
    """The study's pictures; that of photographs needs their runs in the work folder: no model of them is shipped."""
    title = "New noise in one concept: the plain model changes the whole face, the local one that concept"
    shipped = {"plain": shipped_model("plain"), "local": shipped_model("composed")}
    found = {
        "study_frontier": picture(results),
        "study_edits": edits_picture(shipped, render_faces(2000), EVALUATION.steps, title),
    }
    arm, domain = arms["photographs-composed"], open_domain("photographs")
    if (arm.name, 1) in study.done():
        local = study.trained(arm, 1, domain)
        trained = {"plain": study.start(arm.data, domain), "composed": local}
        title = "New noise in one concept of photographs: a run for each region, together, leaves the rest as it was"
        found["study_photographs"] = edits_picture(trained, domain.training, EVALUATION.steps, title)
    return found


def run(study: Study, arms: Sequence[Arm], seeds: Sequence[int] | None) -> None:
    """Run arms one after the other; the data are opened once."""
    open_data = cache(open_domain)
    for arm in arms:
        for seed in seeds or arm.seeds:
            study.run(arm, seed, open_data)


if __name__ == "__main__":
    main()
