"""Training and fine-tuning of a denoiser, with or without the dummy-player penalty, resumable to the same numbers.

Every random draw of a step is named by the seed and the step, so a run that was interrupted and resumed computes what
an uninterrupted one would have, and any number of processes sees the same global batch.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from shapkit.differentiable import DummyPlayerPenalty, Regions, star
from shapkit.differentiable.regions import Graph
from shapkit.randomness import counter_bits
from shapkit_diffusion.data.labelled import Images, concept_labels, label_template
from shapkit_diffusion.denoisers import Denoiser, check_same_architecture
from shapkit_diffusion.runs import RunFolder


@dataclass(frozen=True)
class PenaltyConfig:
    """How the penalty is weighed and what it asks for; the defaults are those of the shipped demonstration.

    Args:
        weight: lambda at the first step.
        final_weight: lambda at the last step; between the two it changes exponentially, as published.
        concepts: the concepts that become players, by label name; ``rest`` is every other pixel.
        graph: ``"star"`` (concepts may look at the rest, never the reverse) or ``"own"``.
        estimator, fill, payoff, samples: see ``DummyPlayerPenalty``.
        dilation: pixels by which concepts grow.
        regions: ``"template"`` takes one partition for all images, where each concept occurs at all (aligned images:
            a denoiser cannot know at high noise which pixels a concept is going to cover, and a border that moves from
            image to image punishes it for looking at its neighbours); ``"label_maps"`` takes each image's own.
        output: what the payoffs are taken from: ``"clean"``, the clean image that the prediction amounts to, or
            ``"prediction"``, the network's own output (published, where it is the noise). Through the clean image the
            penalty counts at each timestep as much as the leak counts in the image; the bare prediction puts most
            weight on the last timesteps, where the network denoises across a region's border and should.
    """

    weight: float = 24.0
    final_weight: float = 24.0
    concepts: tuple[str, ...] = ("eyes", "nose", "mouth")
    graph: str = "star"
    estimator: str = "present"
    fill: str = "exchange"
    payoff: str = "pixels"
    samples: int = 1
    dilation: int = 1
    regions: str = "template"
    output: str = "clean"

    def __post_init__(self) -> None:
        if self.regions not in ("template", "label_maps"):
            raise ValueError(f"regions must be 'template' or 'label_maps', got {self.regions!r}")
        if self.output not in ("clean", "prediction"):
            raise ValueError(f"output must be 'clean' or 'prediction', got {self.output!r}")
        if not 0 < self.final_weight <= float("inf") or not 0 < self.weight <= float("inf"):
            raise ValueError(f"weights must be positive, got {self.weight} and {self.final_weight}")

    def at(self, step: int, steps: int) -> float:
        """lambda at ``step`` of ``steps``.

        >>> PenaltyConfig(weight=100, final_weight=1).at(50, 101)
        10.0
        """
        if self.weight == self.final_weight:
            return self.weight
        share = step / max(1, steps - 1)
        weight: float = self.weight * (self.final_weight / self.weight) ** share
        return round(weight, 12)


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Equal configurations give equal numbers on one machine.

    Args:
        steps: optimiser steps.
        batch_size: images per step over all processes; even, because samples are paired for the exchange.
        learning_rate: reached after ``warmup`` steps; then constant, or falling to zero along a half cosine.
        warmup: steps of linear increase.
        decay: whether the learning rate falls to zero along a half cosine.
        ema: decay of the exponential moving average of the weights, which is what is kept.
        seed: names every random draw.
        precision: ``"no"`` or ``"bf16"``.
        flip: mirror half of the images.
        save_every: steps between saved states.
        log_every: steps between lines of ``metrics.jsonl``.
        anchor: learn from the predictions of the model that the run starts from, not from the noise itself. Both have
            the same minimum under the penalty (the mean of the one given ``x`` is the other), but the anchor's
            gradients carry no noise, which matters when few steps are to change a good model a little.
        penalty: the dummy-player penalty; ``None`` trains without.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 4e-4
    warmup: int = 50
    decay: bool = False
    ema: float = 0.995
    seed: int = 0
    precision: str = "no"
    flip: bool = False
    save_every: int = 250
    log_every: int = 25
    anchor: bool = False
    penalty: PenaltyConfig | None = field(default=None)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise ValueError(f"batch_size must be even, since samples are exchanged in pairs, got {self.batch_size}")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16', got {self.precision!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    def rate(self, step: int) -> float:
        """The learning rate at ``step``."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup))
        if self.decay:
            rate *= 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return rate


@dataclass(frozen=True)
class Batch:
    """The global batch of a step, or one process's share of it.

    ``images`` float (n, channels, height, width) in [-1, 1]; ``labels`` int64 (n, height, width); ``noise`` like
    images; ``timesteps`` int64 (n,), equal within each pair of neighbours; ``first`` is the number of the first row in
    the global batch.
    """

    images: Tensor
    labels: Tensor
    noise: Tensor
    timesteps: Tensor
    first: int = 0

    def share(self, rank: int, world: int) -> Batch:
        """The rows of process ``rank`` of ``world``; pairs of neighbours stay together."""
        size = len(self.images) // world
        rows = slice(rank * size, (rank + 1) * size)
        return Batch(
            self.images[rows], self.labels[rows], self.noise[rows], self.timesteps[rows], self.first + rows.start
        )

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.images.to(device),
            self.labels.to(device),
            self.noise.to(device),
            self.timesteps.to(device),
            self.first,
        )


def draw_batch(data: Images, config: TrainConfig, n_timesteps: int, step: int) -> Batch:
    """The global batch of ``step``: images in an order that shuffles every epoch anew, noise and timesteps.

    Neighbouring samples share their timestep, because the exchange of noise between them needs it; the timesteps of the
    pairs are stratified, one per equal part of the schedule, which makes the loss less noisy and biases nothing.
    """
    indices = [_shuffled(data, config.seed, step * config.batch_size + row) for row in range(config.batch_size)]
    images, labels = data.rows(indices)
    generator = torch.Generator().manual_seed(int(counter_bits(config.seed, step)) >> 1)
    pairs = config.batch_size // 2
    strata = (torch.arange(pairs) + torch.rand(pairs, generator=generator)) / pairs
    order = torch.randperm(pairs, generator=generator)
    timesteps = (strata[order] * n_timesteps).long().clamp(max=n_timesteps - 1).repeat_interleave(2)
    clean = to_unit_range(torch.as_tensor(images))
    noise = torch.randn(clean.shape, generator=generator)
    targets = torch.as_tensor(labels).long()
    if config.flip:
        mirrored = torch.rand(len(clean), generator=generator) < 0.5
        clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        targets = torch.where(mirrored[:, None, None], targets.flip(2), targets)
    return Batch(clean, targets, noise, timesteps)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] as uint8, what lies outside cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def losses(
    denoiser: torch.nn.Module,
    model: Denoiser,
    batch: Batch,
    config: TrainConfig,
    regions: Regions | None,
    step: int,
    anchor: Denoiser | None = None,
) -> tuple[Tensor, Tensor]:
    """The denoising loss and the penalty of a batch, two scalars with gradients.

    Args:
        denoiser: what is called, possibly wrapped for several processes.
        model: the denoiser itself, for its schedule.
        regions: the players; None without a penalty.
        anchor: a frozen model whose prediction is the target; the noise (or velocity, or image) itself if None.
    """
    noisy = model.add_noise(batch.images, batch.noise, batch.timesteps)
    predicted = denoiser(noisy, batch.timesteps).float()
    if anchor is None:
        target = model.target(batch.images, batch.noise, batch.timesteps)
    else:
        with torch.no_grad():
            target = anchor(noisy, batch.timesteps).float()
    denoising = (predicted - target).square().mean()
    if config.penalty is None or regions is None:
        return denoising, torch.zeros_like(denoising)
    from_clean = config.penalty.output == "clean"

    def explained(x: Tensor, output: Tensor) -> Tensor:
        return model.as_clean(output, x, batch.timesteps) if from_clean else output

    return denoising, _penalty(config.penalty, config.seed)(
        lambda x: explained(x, denoiser(x, batch.timesteps).float()),
        noisy,
        regions,
        output=explained(noisy, predicted),
        step=step,
        first_index=batch.first,
        noise_level=model.signal_and_noise(batch.timesteps, noisy)[1].flatten(),
    )


def train(
    denoiser: Denoiser,
    data: Images,
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Denoiser:
    """Train ``denoiser`` and leave its averaged weights in ``folder/model``; returns that averaged model.

    The run folder holds ``config.json``, ``metrics.jsonl`` (one line per ``log_every`` steps), ``state/`` (the last
    saved state) and, at the end, ``model/`` in diffusers' layout.

    Args:
        denoiser: the model to start from; changed in place.
        data: images with label maps.
        config: the run.
        folder: the run folder; must be new, unless ``resume``.
        resume: go on from the last saved state of the same configuration.
        progress: called as ``progress(done, total)`` after every step.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another run), the images do not fit the model, or
            the loss is no longer finite.
    """
    image_shape = tuple(data.rows([0])[0].shape[1:])
    if image_shape != denoiser.image_shape:
        raise ValueError(f"the model works on images of shape {denoiser.image_shape}, the data has {image_shape}")
    if config.penalty is not None:
        _penalty(config.penalty, config.seed)  # refused here, before anything is written
    regions_of = _players(data, config)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=not torch.cuda.is_available())
    world, rank = accelerator.num_processes, accelerator.process_index
    if config.batch_size % (2 * world):
        raise ValueError(f"batch_size must be a multiple of 2 x {world} processes, got {config.batch_size}")
    with accelerator.main_process_first():  # it makes the folder, and the others join
        resumed = resume or not accelerator.is_main_process
        run = RunFolder.open(folder, {"training": dataclasses.asdict(config)}, resume=resumed)
    anchor = copy.deepcopy(denoiser).eval().requires_grad_(False).to(accelerator.device) if config.anchor else None
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=config.learning_rate)
    model: Any = accelerator.prepare(denoiser)
    optimizer = accelerator.prepare(optimizer)
    average = EMAModel(denoiser.parameters(), decay=config.ema)
    average.to(accelerator.device)
    first = _load_state(run.path / "state", denoiser, optimizer, average) if resume else 0
    if accelerator.is_main_process:
        run.drop_metrics_from(first)
    denoiser.train()
    started, before = time.perf_counter(), run.seconds()
    for step in range(first, config.steps):
        batch = draw_batch(data, config, denoiser.n_timesteps, step).share(rank, world).to(accelerator.device)
        denoising, penalty = losses(model, denoiser, batch, config, regions_of(batch), step, anchor)
        weight = config.penalty.at(step, config.steps) if config.penalty else 0.0
        loss = denoising + weight * penalty
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(denoiser.parameters())
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            shared = accelerator.reduce(torch.stack([denoising.detach(), penalty.detach()]), reduction="mean").tolist()
            record = {
                "step": step + 1,
                "denoising": shared[0],
                "penalty": shared[1],
                "weight": weight,
                "learning_rate": config.rate(step),
                "gradient_norm": float(norm),
                "seconds": round(before + time.perf_counter() - started, 3),
            }
            if not math.isfinite(record["denoising"] + record["penalty"]):
                raise ValueError(
                    f"the loss is not finite at step {step + 1} (denoising {record['denoising']}, penalty "
                    f"{record['penalty']}): lower the learning rate or the penalty's weight"
                )
            if accelerator.is_main_process:
                run.log(record)
        if accelerator.is_main_process and (step + 1) % config.save_every == 0:
            _save_state(run.path / "state", denoiser, optimizer, average, step + 1)
        if progress is not None:
            progress(step + 1, config.steps)
    average.copy_to(denoiser.parameters())
    denoiser.eval()
    if accelerator.is_main_process:
        denoiser.save(run.path / "model")
    accelerator.wait_for_everyone()
    return denoiser


def _penalty(wanted: PenaltyConfig, seed: int) -> DummyPlayerPenalty:
    """The penalty that a configuration asks for; a ValueError names what it cannot be."""
    return DummyPlayerPenalty(
        estimator=wanted.estimator,  # type: ignore[arg-type]  # checked by the penalty itself
        fill=wanted.fill,  # type: ignore[arg-type]
        payoff=wanted.payoff,  # type: ignore[arg-type]
        graph=_graph(wanted.graph),
        samples=wanted.samples,
        seed=seed,
    )


def _players(data: Images, config: TrainConfig) -> Callable[[Batch], Regions | None]:
    """A function that gives the regions of a batch, one partition for all or one per image."""
    penalty = config.penalty
    if penalty is None:
        return lambda batch: None
    concepts = concept_labels(data.label_names, penalty.concepts)
    if penalty.regions == "label_maps":
        return lambda batch: Regions.from_labels(batch.labels, concepts, dilation=penalty.dilation)
    template = torch.as_tensor(label_template(data, concepts, mirrored=config.flip)[None]).long()
    shared = Regions.from_labels(template, concepts, dilation=penalty.dilation)
    return lambda batch: shared


def _graph(name: str) -> Graph:
    if name == "star":
        return star()
    if name == "own":
        return "own"
    raise ValueError(f"graph must be 'star' or 'own', got {name!r}")


def _shuffled(data: Images, seed: int, number: int) -> int:
    """The image that comes ``number``-th: each epoch is a permutation of its own."""
    epoch, position = divmod(number, len(data))
    return int(_epoch_order(len(data), seed, epoch)[position])


_ORDERS: dict[tuple[int, int, int], np.ndarray] = {}


def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    key = (count, seed, epoch)
    if key not in _ORDERS:
        if len(_ORDERS) > 2:
            _ORDERS.clear()
        _ORDERS[key] = np.argsort(counter_bits(seed, 1, epoch, np.arange(count)))
    return _ORDERS[key]


def _save_state(folder: Path, denoiser: Denoiser, optimizer: Any, average: EMAModel, step: int) -> None:
    """Weights, optimiser moments and averages as safetensors; written aside, then renamed."""
    partial = folder.with_name("state.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in denoiser.state_dict().items()}, partial / "weights.safetensors")
    moments = {
        f"{number}.{name}": torch.as_tensor(value).contiguous()
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    save_file(moments, partial / "optimizer.safetensors")
    save_file({f"{i}": p.contiguous() for i, p in enumerate(average.shadow_params)}, partial / "average.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, "average_steps": average.optimization_step}))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _load_state(folder: Path, denoiser: Denoiser, optimizer: Any, average: EMAModel) -> int:
    """Fill model, optimiser and averages from the last saved state; returns the step to go on with, 0 without one."""
    if not (folder / "state.json").is_file():
        return 0
    state = json.loads((folder / "state.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    check_same_architecture(denoiser, weights, folder)
    denoiser.load_state_dict(weights)
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    shadows = load_file(folder / "average.safetensors")
    for position, shadow in enumerate(average.shadow_params):
        shadow.copy_(shadows[f"{position}"])
    average.optimization_step = int(state["average_steps"])
    return int(state["step"])
