"""Training and fine-tuning of a denoiser, with or without the dummy-player penalty, resumable to the same numbers.

Every random draw of a step is named by the seed and the step, so a run that was interrupted and resumed computes what
an uninterrupted one would have, and any number of processes sees the same global batch. One process or many, the
command is the same behind its launcher; a run folder must be one that all processes see:

    shapkit-diffusion finetune --out runs/eyes ...                                                  # one GPU, or a CPU
    accelerate launch --num_processes 8 -m shapkit_diffusion.cli finetune --out runs/eyes ...       # 8 GPUs
    accelerate launch --num_machines 4 --num_processes 32 --machine_rank $RANK --main_process_ip $HOST \\
        --main_process_port 29500 -m shapkit_diffusion.cli finetune --out runs/eyes ...             # on each of 4 nodes
    ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 -m shapkit_diffusion.cli finetune ...          # 2 CPU processes

A model that is too large to be whole in every process is shared out with ``--sharded`` (FSDP2, `sharding`).

SIGTERM and SIGUSR1 end a run after the step it is in, with its state saved; ``--resume`` goes on from there.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, parse_flag_from_env
from diffusers.training_utils import EMAModel
from torch import Tensor

from shapkit._files import user_path
from shapkit.differentiable import (
    Comparisons,
    DummyPlayerPenalty,
    LossReport,
    Regions,
    min_snr,
    noise_share,
    signal_share,
)
from shapkit.randomness import counter_bits
from shapkit_diffusion.data.labelled import Images
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.fingerprints import described_data, described_model
from shapkit_diffusion.noise.sampling import stride_output
from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.batches import Batch, draw_batch, encoding, players
from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig, graph_called
from shapkit_diffusion.training.log import averaged_samples, figures_of, shared_report
from shapkit_diffusion.training.loop import training
from shapkit_diffusion.training.low_rank import low_rank_changes
from shapkit_diffusion.training.paired_noise import pairing
from shapkit_diffusion.training.row_files import RowFiles
from shapkit_diffusion.training.sharding import gather_into, sharded_copy, whole
from shapkit_diffusion.training.state import TrainingState


class Losses(NamedTuple):
    """The denoising loss and the penalty of a batch, two scalars with gradients, and what the penalty is made of."""

    denoising: Tensor
    penalty: Tensor
    report: LossReport | None = None


def losses(
    denoiser: torch.nn.Module,
    model: Denoiser,
    batch: Batch,
    config: TrainConfig,
    regions: Regions | None,
    step: int,
    anchor: Denoiser | None = None,
    *,
    with_report: bool = False,
) -> Losses:
    """The losses of a batch, in float32 whatever the precision of the network's operations.

    Args:
        denoiser: what is called, possibly wrapped for several processes.
        model: the denoiser itself, for its schedule.
        batch: of what the denoiser works on: latents, if it is a latent model.
        config: the run.
        regions: the penalty's players, or, without one, each sample's own regions for a region transformer.
        step: number of the training step; names the penalty's random draws.
        anchor: a frozen model whose prediction is the target; the noise (or velocity, or image) itself if None, and in
            regions that are generated with others finished in sight.
        with_report: take the penalty apart by region, too.
    """
    own = {"regions": regions} if config.regions == "label_maps" else {}

    def predict(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output: Tensor = denoiser(x, batch.timesteps, batch.finished, **own)
        return output.float()

    given = model.given_others
    if own and regions is not None and isinstance(model, RegionDenoiser):
        given = model.given_others_in(regions.to(batch.images))
    images = batch.targets(given)
    noisy = model.add_noise(images, batch.noise, batch.timesteps)
    predicted = predict(noisy)
    target = model.target(images, batch.noise, batch.timesteps)
    if anchor is not None:
        whole = model.add_noise(batch.images, batch.noise, batch.timesteps)
        with torch.no_grad():
            anchored = _anchored(anchor, whole, batch.timesteps, config).float()
        target = torch.where(given, target, anchored)  # the anchor saw no region finished
    counts = torch.where(given, config.concept_weight, 1.0)
    denoising = (counts * (predicted - target).square()).mean()
    if config.penalty is None or regions is None:
        return Losses(denoising, torch.zeros_like(denoising))
    from_clean = config.penalty.output == "clean"

    def explained(x: Tensor, output: Tensor) -> Tensor:
        return clean_payoff(model, output, x, batch.timesteps) if from_clean else output

    penalty, regions = _penalty(config.penalty, config.seed), regions.to(noisy)
    drawn = penalty.draw(noisy, regions, step=step, first_index=batch.first, conditions="paired")
    drawn = _weighted_by_timestep(drawn, config.penalty, model, batch.timesteps)
    terms = penalty.terms(
        lambda x: explained(x, predict(x)),
        noisy,
        regions,
        drawn,
        output=explained(noisy, predicted),
        noise_level=model.signal_and_noise(batch.timesteps, noisy)[1].flatten(),
    )
    loss = drawn.sum_of(terms, regions).mean()
    return Losses(denoising, loss, LossReport.from_terms(terms, drawn, regions) if with_report else None)


def clean_payoff(model: Denoiser, output: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
    """What the penalty compares where its payoffs are of the clean image: that image, shape of ``x``.

    That of a network that predicts noise is a difference divided by the signal's factor, and at the noisiest timesteps
    by almost nothing: they alone would count, though what a sampler makes of them is as small as the division made it
    large. So where there is less signal than noise it counts as the noise does: times signal over sigma.
    """
    clean = model.clean_and_noise(output, x, timesteps)[0]
    if model.prediction != "epsilon":
        return clean
    signal, sigma = model.signal_and_noise(timesteps, x)
    return clean * (signal / sigma).clamp(max=1)


def _anchored(anchor: Denoiser, noisy: Tensor, timesteps: Tensor, config: TrainConfig) -> Tensor:
    """What the anchor makes the model learn: its own prediction, or that of several of its steps."""
    if config.anchor_substeps == 1:
        predicted: Tensor = anchor(noisy, timesteps)
        return predicted
    return stride_output(anchor, noisy, timesteps, config.anchor_stride, config.anchor_substeps)


def train(
    denoiser: Denoiser,
    data: Images,
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    cache: str | Path | None = None,
    teacher: Denoiser | None = None,
    sharded: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Denoiser:
    """Train ``denoiser`` and leave its averaged weights in ``folder/model``; returns that averaged model.

    The run folder holds ``config.json``, ``metrics.jsonl`` (one line per ``log_every`` steps; the same in
    ``tensorboard/`` where TensorBoard is installed), ``state/`` (the last saved state), ``samples/`` if asked for and,
    at the end, ``model/`` in diffusers' layout.

    Args:
        denoiser: the model to start from, of pixels or latents; changed in place.
        data: images with label maps.
        config: the run.
        folder: the run folder; must be new, unless ``resume``.
        resume: go on from the last saved state of the same configuration, model and data; of a finished run, only
            its model is returned.
        cache: a folder, which runs may share, for what is computed once of every image (latents, paired noise); by
            default the run folder.
        teacher: the anchor, if ``config.anchor``; by default a copy of ``denoiser`` as the run starts.
        sharded: each process keeps its share of the weights, moments and averages, of the anchor, and of the saved
            state, in place of all of them; so it is, too, under a launcher that asks for FSDP. The numbers are the
            same, up to rounding, and a run may go on with another number of processes, or in one.
        progress: called as ``progress(done, total)`` after every step, in the main process.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another run), another process trains in it, the
            images do not fit the model, the loss is no longer finite, a teacher has nothing to teach, or one process
            is to share the model out.
        TrainingStopped: after SIGTERM or SIGUSR1, when the step is done and the state saved.
    """
    image_shape = tuple(data.rows([0])[0].shape[1:])
    if image_shape != denoiser.image_shape:
        raise ValueError(f"the model works on images of shape {denoiser.image_shape}, the data has {image_shape}")
    if teacher is not None and not config.anchor:
        raise ValueError("a teacher is for runs with config.anchor")
    if config.penalty is not None:
        _penalty(config.penalty, config.seed)  # refused here, before anything is written
    regions_of = players(data, denoiser, config)
    accelerator = _accelerator(config)
    sharded = sharded or parse_flag_from_env("ACCELERATE_USE_FSDP")
    if sharded and accelerator.num_processes == 1:
        raise ValueError("sharded asks for several processes, and this run has one: see accelerate launch or torchrun")
    described = {"training": dataclasses.asdict(config)} | _described(denoiser, data, config, teacher)
    with ExitStack() as held:
        with accelerator.main_process_first():  # it makes the folder and holds it for all, and the others join
            if accelerator.is_main_process:
                run = held.enter_context(RunFolder.held(folder, described, resume=resume))
            else:
                run = RunFolder.open(folder, described, resume=True)
        return _train_in(run, denoiser, data, config, accelerator, cache, teacher, sharded, progress, regions_of)


def _described(denoiser: Denoiser, data: Images, config: TrainConfig, teacher: Denoiser | None) -> dict[str, Any]:
    """What a run depends on beside its configuration."""
    described = {"model": described_model(denoiser, weights=config.paired is not None), "data": described_data(data)}
    if config.anchor:
        described["anchor"] = described_model(teacher or denoiser, weights=True)
    return described


def _train_in(
    run: RunFolder,
    denoiser: Denoiser,
    data: Images,
    config: TrainConfig,
    accelerator: Accelerator,
    cache: str | Path | None,
    teacher: Denoiser | None,
    sharded: bool,
    progress: Callable[[int, int], None] | None,
    regions_of: Callable[[Batch], Regions | None],
) -> Denoiser:
    device, anchor = accelerator.device, None
    if config.anchor:
        anchor = copy.deepcopy(teacher or denoiser).eval().requires_grad_(False)
        anchor = sharded_copy(anchor, device) if sharded else anchor.to(device)
    with low_rank_changes(denoiser, config.low_rank, config.seed):
        trained = sharded_copy(denoiser, device) if sharded else denoiser.to(device)
        files = RowFiles(run.path, None if cache is None else user_path(cache))
        encode = encoding(data, trained, config, files, accelerator)
        with_noise = pairing(data, trained, config, files, accelerator)
        changed = [weight for weight in trained.parameters() if weight.requires_grad]
        optimizer: Any = torch.optim.AdamW(changed, lr=config.learning_rate)
        model: Any = trained
        if not sharded:
            model, optimizer = accelerator.prepare(model), accelerator.prepare(optimizer)
        average = EMAModel(trained.parameters(), decay=config.ema)
        average.to(device)
        state = TrainingState(trained, optimizer, average)
        taking = _Steps(data, encode, regions_of, with_noise, model, anchor, state)
        with _training_mode(trained, config), training(run, state, config, accelerator, progress) as steps:
            for step in steps:
                found = taking.take(step.number, config, accelerator, with_report=step.logged)
                step.figures = partial(found.record, step.done, config, accelerator)
                if config.sample_every and step.done % config.sample_every == 0:
                    if sharded:
                        gather_into(denoiser, average.shadow_params)
                    if step.log is not None:
                        step.log.samples(
                            averaged_samples(denoiser, None if sharded else average, config.seed), step.done
                        )
        if sharded:
            gather_into(denoiser, average.shadow_params)
            denoiser.eval()
        else:
            average.copy_to(denoiser.parameters())
    if accelerator.is_main_process:
        denoiser.save(run.path / "model")
    accelerator.wait_for_everyone()
    return denoiser


@dataclass(frozen=True)
class _Found:
    """What a step of one process found, on its device."""

    losses: Losses
    gradient_norm: Tensor

    def record(self, done: int, config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
        """The figures of all processes together, as logged; a ValueError if they are not finite."""
        own = torch.stack([self.losses.denoising, self.losses.penalty])
        denoising, penalty = accelerator.reduce(own, reduction="mean").tolist()
        if not math.isfinite(denoising + penalty):
            raise ValueError(
                f"the loss is not finite at step {done} (denoising {denoising}, penalty {penalty}): lower the learning "
                "rate or the penalty's weight"
            )
        report = self.losses.report
        return {
            "denoising": denoising,
            "penalty": penalty,
            "weight": config.penalty.at(done - 1, config.steps) if config.penalty else 0.0,
            "learning_rate": config.rate(done - 1),
            "gradient_norm": float(self.gradient_norm),
        } | (figures_of(shared_report(report, accelerator)) if report else {})


@dataclass(frozen=True)
class _Steps:
    """What a step needs."""

    data: Images
    encoded: Callable[[Batch], Batch]
    regions_of: Callable[[Batch], Regions | None]
    with_noise: Callable[[Batch, Regions | None], Batch]
    model: Any
    anchor: Denoiser | None
    state: TrainingState[Denoiser]

    def take(self, step: int, config: TrainConfig, accelerator: Accelerator, *, with_report: bool) -> _Found:
        """One optimiser step, in ``config.accumulation`` micro-batches."""
        denoiser, parts = self.state.model, []
        weight = config.penalty.at(step, config.steps) if config.penalty else 0.0
        batch = draw_batch(
            self.data,
            config,
            denoiser.n_timesteps,
            step,
            noise_shape=denoiser.latent_shape,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        for number in range(config.accumulation):
            last = number + 1 == config.accumulation
            micro = self.encoded(batch.share(number, config.accumulation).to(accelerator.device))
            regions = self.regions_of(micro)
            micro = self.with_noise(micro, regions)
            with (
                nullcontext() if last else accelerator.no_sync(self.model),
                _named_randomness(config.seed, step, micro.first, accelerator.device),
            ):
                part = losses(
                    self.model,
                    denoiser,
                    micro,
                    config,
                    regions,
                    step,
                    self.anchor,
                    with_report=with_report,
                )
                accelerator.backward((part.denoising + weight * part.penalty) / config.accumulation)
            parts.append(part)
        for group in self.state.optimizer.param_groups:
            group["lr"] = config.rate(step)
        norm = whole(accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip))
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self.state.average.step(denoiser.parameters())
        return _Found(_together(parts), norm)


def _together(parts: list[Losses]) -> Losses:
    """The losses of micro-batches as those of the whole, without gradients."""
    denoising, penalty = (
        torch.stack([loss.detach() for loss in of_parts]).mean()
        for of_parts in ([part.denoising for part in parts], [part.penalty for part in parts])
    )
    reports = [part.report for part in parts if part.report is not None]
    return Losses(denoising, penalty, reduce(add, reports) if reports else None)


def _accelerator(config: TrainConfig) -> Accelerator:
    """The processes there are; a ValueError if the run cannot be split over them.

    What a launcher's configuration file says of precision and accumulation is left aside: the run's own counts.
    """
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(f"train does not run under {kind.value}: it shares a model out by FSDP, see sharded")
    parts = accelerator.num_processes * config.accumulation
    together = math.lcm(2, config.noises_per_image)
    if config.batch_size % (together * parts):
        raise ValueError(
            f"batch_size must be a multiple of {together} x {accelerator.num_processes} processes x "
            f"{config.accumulation} micro-batches, got {config.batch_size}"
        )
    return accelerator


@contextmanager
def _training_mode(denoiser: Denoiser, config: TrainConfig) -> Iterator[None]:
    """Training mode, with gradient checkpointing if wanted; evaluation mode and no checkpointing afterwards."""
    unet: Any = denoiser.unet
    denoiser.train()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if config.gradient_checkpointing:
            unet.disable_gradient_checkpointing()
        denoiser.eval()


@contextmanager
def _named_randomness(seed: int, step: int, first: int, device: torch.device) -> Iterator[None]:
    """What layers draw from torch's own generators, dropout say, named by the step like everything else."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(counter_bits(seed, 2, step, first)) >> 1)
        yield


def _penalty(wanted: PenaltyConfig, seed: int) -> DummyPlayerPenalty:
    """The penalty that a configuration asks for; a ValueError names what it cannot be."""
    return DummyPlayerPenalty(
        estimator=wanted.estimator,
        fill=wanted.fill,
        payoff=wanted.payoff,
        graph=graph_called(wanted.graph),
        samples=wanted.samples,
        seed=seed,
    )


def _weighted_by_timestep(drawn: Comparisons, wanted: PenaltyConfig, model: Denoiser, timesteps: Tensor) -> Comparisons:
    """The comparisons, each sample's counting as ``wanted.timestep_weighting`` says."""
    if wanted.timestep_weighting == "none":
        return drawn
    ratio = model.schedule.snr(timesteps)
    if wanted.timestep_weighting == "min_snr":
        if wanted.output == "clean" and model.prediction == "epsilon":
            ratio = ratio.clamp(min=1)  # below that the payoff is weighted already, see `clean_payoff`
        weights = min_snr(ratio, prediction="sample" if wanted.output == "clean" else model.prediction)
    else:
        weights = {"signal_share": signal_share, "noise_share": noise_share}[wanted.timestep_weighting](ratio)
    return dataclasses.replace(drawn, weights=drawn.weights * weights.to(drawn.weights)[:, None])
