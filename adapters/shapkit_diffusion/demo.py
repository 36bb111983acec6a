"""The whole idea in one run: influence of a pretrained model, fine-tuning with the penalty, and what it bought.

Two copies of one model train for the same number of steps on the same batches, one to be local (with the penalty, or
composed of a run for each region) and one not (the control). Each, the model they started from, and the local model
that comes with the package are then measured in the same way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from shapkit._files import user_path
from shapkit.differentiable import allowed_influence, star
from shapkit_diffusion.demo_records import Measured, read_measured, write_measured
from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser, shipped_model
from shapkit_diffusion.evaluation.domains import CONCEPTS, Domain, open_domain
from shapkit_diffusion.evaluation.evaluate import EvaluateConfig, evaluate, realism_floor
from shapkit_diffusion.evaluation.locality import locality_gain
from shapkit_diffusion.fingerprints import described_model
from shapkit_diffusion.noise.influence import END_TO_END, Influence, influence_maps, outside_mass
from shapkit_diffusion.noise.sampling import draw_noise
from shapkit_diffusion.pictures.comparison import picture_of_samples, picture_of_swaps, picture_of_training
from shapkit_diffusion.pictures.influence import influence_text, picture_of_influences
from shapkit_diffusion.pictures.pages import html_report, png
from shapkit_diffusion.progress import Bars
from shapkit_diffusion.runs import RunFolder, write_json
from shapkit_diffusion.training.batches import template_regions
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig, fast_precision
from shapkit_diffusion.training.denoiser import train
from shapkit_diffusion.training.stop_signals import RunStopped, TrainingStopped, stopped_by_signals
from shapkit_diffusion.workers import worker_pool

PLAIN, CONTROL, PENALISED, COMPOSED, LOCAL = "plain", "control", "with penalty", "composed", "shipped, local"
TIMESTEPS = (100, 500, 900)


@dataclass(frozen=True)
class DemoConfig:
    """One demonstration.

    Args:
        data: ``"faces"`` or ``"photographs"``.
        finetune: what makes the model local.
        evaluation: how the models are measured.
        base: trains the model first, where none is shipped.
        local: whether the shipped local model is measured too.
        composed: whether the model is made local by composing it, all regions together, and not by the penalty.
        influence_images: of each measurement of influence.
    """

    data: str
    finetune: TrainConfig
    evaluation: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(precision=fast_precision()))
    base: TrainConfig | None = None
    local: bool = False
    composed: bool = False
    influence_images: int = 16

    @property
    def arm(self) -> str:
        """What the model that was made local is called."""
        return COMPOSED if self.composed else PENALISED


def demo_config(data: str) -> DemoConfig:
    """The configuration of ``make demo FULL=1`` for ``faces`` (a shipped model) or ``photographs`` (trains one first).

    Raises:
        ValueError: for other data.
    """
    if data == "faces":
        # Less than elsewhere, since four models are measured.
        few = EvaluateConfig(pairs=48, images=400, precision=fast_precision())
        return DemoConfig(data, finetune=FINETUNE, evaluation=few, local=True, influence_images=8)
    if data == "photographs":
        base = TrainConfig(
            steps=2500,
            learning_rate=1e-3,
            warmup=200,
            decay=True,
            ema=0.999,
            flip=True,
            precision=fast_precision(),
            seed=0,
        )
        # The arm "photographs-composed": with few images it is best to learn everything from the model started from.
        return DemoConfig(data, finetune=replace(FINETUNE, penalty=None), base=base, composed=True)
    raise ValueError(f"the demonstration runs on faces or photographs, got {data!r}")


# The arm "distilled-24" of the reference study (docs/study.md): small batches, since the anchored loss has little noise
# to average out, and an anchor that takes four steps for one, which wins back the realism that the penalty costs.
FINETUNE = TrainConfig(
    steps=600,
    batch_size=16,
    learning_rate=1e-3,
    warmup=20,
    decay=True,
    ema=0.99,
    seed=1,
    precision=fast_precision(),
    flip=True,
    log_every=10,
    save_every=200,
    anchor=True,
    anchor_substeps=4,
    penalty=PenaltyConfig(),
)


def run_demo(config: DemoConfig, out: str | Path, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Run the demonstration into the folder ``out`` and return its summary, which is also in ``summary.json``.

    The folder receives ``report.html``, ``summary.json``, ``table.txt``, ``pictures/``, a run folder with model for
    ``control`` and ``penalty`` (or ``composed``), and in ``measured/`` what was found of each model.

    Args:
        config: the demonstration.
        out: the folder; must be new, unless ``resume`` or ``overwrite``.
        resume: go on with an interrupted demonstration of the same configuration, to the same figures but for its
            ``seconds``, which are this call's.
        overwrite: remove the demonstration that the folder holds.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another demonstration), or another process works in
            it.
        RunStopped: after SIGTERM or SIGUSR1, or if a worker process was killed; ``resume`` goes on.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    out = user_path(out)
    with RunFolder.held(out, asdict(config), resume=resume, overwrite=overwrite) as run, stopped_by_signals(out):
        try:
            return _run_in(run, config)
        except TrainingStopped as stopped:  # a worker got the signal
            raise RunStopped(out) from stopped
        except BrokenProcessPool as broken:
            raise RunStopped(out, "a worker process was killed, by the system if memory was short") from broken


def _run_in(run: RunFolder, config: DemoConfig) -> dict[str, Any]:
    started = time.perf_counter()
    with Bars() as bars, _pool() as pool:
        plain_folder = _start_model(config, run.path, pool, bars)
        measured = _train_and_measure(config, plain_folder, run.path, pool, bars)
    domain = open_domain(config.data, count=2)
    summary = _summary(config, measured, realism_floor(domain, CONCEPTS, config.evaluation.images))
    pictures = _pictures(run.path, measured)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    table = comparison_table(summary)
    _write_results(run.path, summary, table, pictures, domain)
    print(f"\nThe plain model, {END_TO_END}: share (%) of each output region's change (row) by input region (column)")
    print(influence_text(measured[PLAIN].influences[END_TO_END]))
    print(f"\n{table}\n\n{verdict(summary)}")
    print(f"\nreport: {run.path / 'report.html'}   figures: {run.path / 'summary.json'}")
    return summary


def _pool() -> AbstractContextManager[ProcessPoolExecutor]:
    """Two processes with half of the cores each: the two copies train side by side."""
    return worker_pool(2, torch.set_num_threads, (max(1, (os.cpu_count() or 2) // 2),))


def _start_model(config: DemoConfig, out: Path, pool: ProcessPoolExecutor, bars: Bars) -> Path:
    """Folder of the model to start from: the shipped one's copy, or one trained now."""
    if config.base is None:
        shipped_model().save(out / "plain" / "model")
    else:
        plain, channel = out / "plain", bars.channel("train a model")
        task = pool.submit(_train_task, config.base, config.data, None, plain, channel, composed=False)
        bars.wait([task])
    return out / "plain" / "model"


def _train_and_measure(
    config: DemoConfig, plain: Path, out: Path, pool: ProcessPoolExecutor, bars: Bars
) -> dict[str, Measured]:
    control = replace(config.finetune, penalty=None, anchor=False, anchor_substeps=1)
    tasks: dict[str, Future[Any]] = {}

    def train_and_measure(name: str, training: TrainConfig, folder: Path) -> None:
        trained, measured = bars.channel(f"fine-tune, {name}"), bars.channel(f"measure, {name}")
        tasks[name] = pool.submit(_arm_task, training, config, plain, folder, trained, measured)

    # The longest first, so that both processes end together.
    train_and_measure(config.arm, config.finetune, out / FOLDERS[config.arm])
    if config.local:
        kept = out / "measured" / "local"
        tasks[LOCAL] = pool.submit(_measure_task, config, "local", kept, bars.channel(f"measure, {LOCAL}"))
    train_and_measure(CONTROL, control, out / FOLDERS[CONTROL])
    kept = out / "measured" / "plain"
    tasks[PLAIN] = pool.submit(_measure_task, config, plain, kept, bars.channel(f"measure, {PLAIN}"))
    bars.wait(list(tasks.values()))
    return {name: tasks[name].result() for name in (PLAIN, CONTROL, config.arm, LOCAL) if name in tasks}


def _train_task(
    training: TrainConfig, data: str, start: Path | None, folder: Path, channel: Any, *, composed: bool
) -> None:
    images = open_domain(data).training
    channels, size, _ = images.rows([0])[0].shape[1:]
    model = load_denoiser(start) if start else small_denoiser(size, channels, seed=training.seed)
    teacher = model if training.anchor else None
    if composed:
        model = ComposedDenoiser(model, template_regions(images, model, CONCEPTS, mirrored=training.flip))
    train(model, images, training, folder, resume=True, teacher=teacher, progress=channel)


def _arm_task(
    training: TrainConfig, config: DemoConfig, start: Path, folder: Path, trained: Any, measured: Any
) -> Measured:
    composed = config.composed and folder.name == FOLDERS[COMPOSED]
    _train_task(training, config.data, start, folder, trained, composed=composed)
    return _measure_task(config, folder / "model", folder.parent / "measured" / folder.name, measured)


def _measure_task(config: DemoConfig, source: Path | str, kept: Path, channel: Any) -> Measured:
    """``source`` is the folder of a model, or the name of a shipped one; what is found stays in the folder ``kept``."""
    model = shipped_model(source) if isinstance(source, str) else load_denoiser(source)
    described = described_model(model, weights=True)
    found = read_measured(kept, described)
    if found is None:
        domain = open_domain(config.data, count=2)
        found = Measured(evaluate(model, domain, config.evaluation, channel), _influences(model, domain, config))
        write_measured(found, kept, described)
    return found


def _influences(model: Denoiser, domain: Domain, config: DemoConfig) -> dict[str, Influence]:
    """Influence within single runs at some timesteps and from x_T to x_0, on images that the model generated itself."""
    noise = draw_noise(model, config.influence_images, config.evaluation.seed + 3)
    return influence_maps(
        model,
        noise,
        lambda images: domain.regions(images, CONCEPTS, config.evaluation.dilation),
        TIMESTEPS,
        config.evaluation.steps,
    )


def _summary(config: DemoConfig, measured: Mapping[str, Measured], floor: Mapping[str, float]) -> dict[str, Any]:
    names = (*CONCEPTS, "rest")
    allowed = allowed_influence(star(), names)
    models = {
        name: model.evaluation.figures()
        | {
            "influence_outside_graph": {key: outside_mass(m, allowed) for key, m in model.influences.items()},
            "influence": {key: m.values.T.tolist() for key, m in model.influences.items()},
        }
        for name, model in measured.items()
    }
    return {
        "config": asdict(config),
        "threads": torch.get_num_threads(),
        "models": models,
        "frechet_of_real_images": dict(floor),
        "compared_with_control": {
            name: compare(models[CONTROL], figures) for name, figures in models.items() if name in (config.arm, LOCAL)
        },
    }


def compare(control: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How a model's figures relate to the control's: locality gain, MSE-in ratio, distance ratios.

    A gain above 1 means more local, and is infinite where nothing outside changed at all; the other ratios are the
    model's figure over the control's.
    """
    gain, inside = {}, {}
    for concept, figures in control["locality"].items():
        gain[concept] = locality_gain(figures["ratio"], model["locality"][concept]["ratio"])
        inside[concept] = model["locality"][concept]["mse_in"] / figures["mse_in"]
    distance = {crop: model["frechet"][crop] / value for crop, value in control["frechet"].items()}
    return {"locality_gain": gain, "mse_in_ratio": inside, "frechet_ratio": distance}


def comparison_table(summary: Mapping[str, Any]) -> str:
    """The figures of all models in one table, as printed and as shown in the report."""
    models = summary["models"]
    crops = ("whole", *CONCEPTS)
    head = " " * 16 + "".join(f"{f'edit of the {c}':^27}" for c in CONCEPTS) + f"{'Fréchet distance':^32}" + "influence"
    columns = "".join(f"{'MSE in':>9}{'MSE out':>9}{'ratio':>8} " for _ in CONCEPTS)
    lines = [head, f"{'model':<16}{columns}" + "".join(f"{c:>8}" for c in crops) + f"{'outside':>11}"]
    for name, figures in models.items():
        cells = "".join(
            f"{entry['mse_in']:>9.4f}{entry['mse_out']:>9.5f}{entry['ratio']:>8.4f} "
            for entry in (figures["locality"][c] for c in CONCEPTS)
        )
        distances = "".join(f"{figures['frechet'][c]:>8.3f}" for c in crops)
        lines.append(f"{name:<16}{cells}{distances}{figures['influence_outside_graph'][END_TO_END]:>10.1%}")
    floor = "".join(f"{summary['frechet_of_real_images'][c]:>8.3f}" for c in crops)
    lines.append(f"{'real images':<16}{' ' * 81}{floor}")
    lines.append("over the control's (locality: under)")
    for name, against in summary["compared_with_control"].items():
        cells = "".join(
            f"{'x ' + format(against['mse_in_ratio'][c], '.2f'):>9}"
            f"{'':>9}{'÷ ' + format(against['locality_gain'][c], '.1f'):>8} "
            for c in CONCEPTS
        )
        distances = "".join(f"{'x ' + format(against['frechet_ratio'][c], '.2f'):>8}" for c in crops)
        lines.append(f"{name:<16}{cells}{distances}")
    return "\n".join(line.rstrip() for line in lines)


def _pictures(out: Path, measured: Mapping[str, Measured]) -> dict[str, bytes]:
    """Every picture of the report as PNG, by caption."""
    before = measured[PLAIN].influences
    ends = {name: model.influences[END_TO_END] for name, model in measured.items()}
    pictures = {
        "Which region of the noise drives which region of the image: the plain model, within one run of the network at "
        "three timesteps and from noise to image": picture_of_influences({"": before}, "Influence in the plain model"),
        "The same from noise to image, for every model": picture_of_influences(
            {"": ends}, "Influence from noise to image"
        ),
    }
    for concept in CONCEPTS:
        swaps = {name: model.evaluation.swaps for name, model in measured.items() if name != PLAIN}
        pictures[f"Exchanging the noise of the {concept}. Blue outline: the region whose noise was exchanged"] = (
            picture_of_swaps(swaps, concept)
        )
    samples = {name: model.evaluation.samples for name, model in measured.items()}
    pictures["Generated images"] = picture_of_samples(samples)
    curves = {name: RunFolder(out / folder).metrics() for name, folder in FOLDERS.items() if name in measured}
    pictures["Training"] = picture_of_training(curves)
    return {caption: png(figure) for caption, figure in pictures.items()}


FOLDERS = {CONTROL: "control", PENALISED: "penalty", COMPOSED: "composed"}
"""Where the run of each model that a demonstration trains lies."""

PICTURE_FILES = ("influence_plain", "influence", *(f"swap_{c}" for c in CONCEPTS), "samples", "training")


def _write_results(
    out: Path, summary: dict[str, Any], table: str, pictures: Mapping[str, bytes], domain: Domain
) -> None:
    (out / "pictures").mkdir(exist_ok=True)
    for name, data in zip(PICTURE_FILES, pictures.values(), strict=True):
        (out / "pictures" / f"{name}.png").write_bytes(data)
    write_json(out / "summary.json", summary)
    (out / "table.txt").write_text(table + "\n", encoding="utf-8")
    page = html_page(summary, table, pictures, domain)
    (out / "report.html").write_text(page, encoding="utf-8")


def html_page(summary: Mapping[str, Any], table: str, pictures: Mapping[str, bytes], domain: Domain) -> str:
    """The report of a demonstration."""
    steps = summary["config"]["finetune"]["steps"]
    shipped = ""
    if LOCAL in summary["models"]:
        shipped = (
            "The shipped local model is a region transformer, trained from scratch: it generates the rest of the face "
            "first, and then each concept, whose attention sees the finished rest. "
        )
    composed = summary["config"]["composed"]
    made_local = (
        "one composed of a run for each region, which sees no more than the allowed graph lets it, and anchored to "
        f"{summary['config']['finetune']['anchor_substeps']} smaller steps of the model it started from"
        if composed
        else "one with the penalty, its denoising loss anchored to the model it started from"
    )
    owner = "Composing the model makes" if composed else "The dummy-player penalty makes"
    introduction = (
        "A diffusion model turns noise into an image. Here every region of the noise is a player, and every region of "
        "the image a game: by how much does each player drive it? A model whose mouth's noise repaints the hair cannot "
        f"be edited locally. {owner} the noise of a concept a dummy player for all other regions."
        f"\n\nTwo copies of one model were trained for {steps} steps on the same batches: {made_local}, and one "
        f"without, on the ordinary denoising loss (the control). {shipped}MSE in and MSE out are the mean square "
        "changes of the image (in [-1, 1]) inside and outside a concept's region when its noise is exchanged, each by "
        "its own area; their ratio is the locality, "
        f"lower is better. The Fréchet distance compares {domain.extractor_name} with those of real images, for the "
        "whole image and for each concept's crop. 'Influence outside' is the share of a region's change that regions "
        "outside the allowed graph drive, from noise to image."
    )
    return html_report(f"Local noise: {summary['config']['data']}", introduction, table, pictures, verdict(summary))


def verdict(summary: Mapping[str, Any]) -> str:
    """What the figures say against the control, a few sentences."""
    said = [_said(name, against) for name, against in summary["compared_with_control"].items()]
    pairs = next(iter(summary["models"][CONTROL]["locality"].values()))["n_pairs"]
    images = summary["config"]["evaluation"]["images"]
    said.append(f"Measured on {pairs} pairs and {images} generated images, in {summary['seconds']:.0f} seconds.")
    return "\n\n".join(said)


def _said(name: str, against: Mapping[str, Mapping[str, float]]) -> str:
    gains = ", ".join(f"{c} {against['locality_gain'][c]:.1f}×" for c in CONCEPTS)
    inside = ", ".join(f"{c} {against['mse_in_ratio'][c]:.2f}×" for c in CONCEPTS)
    crop, worst = max(against["frechet_ratio"].items(), key=lambda item: item[1])
    return (
        f"{name[0].upper()}{name[1:]}: locality against the control {gains}; MSE inside the edited concept {inside} "
        f"the control's; largest Fréchet ratio {worst:.2f}× ({crop})."
    )
