"""Training of a small Stable Diffusion on captioned faces, denoiser and text encoder together.

It is the training of ``training/denoiser.py`` with a caption beside every image: the same batches, named by seed
and step, and the same run folder, resumable to the same numbers. One process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from benchmarks.published_tables.systems.text_model import TextModel
from shapkit.randomness import counter_uniform
from shapkit_diffusion.data import render_faces
from shapkit_diffusion.data.captions import Phrases, caption, face_phrases
from shapkit_diffusion.data.labelled import LabelledImages
from shapkit_diffusion.fingerprints import described_model
from shapkit_diffusion.runs import RunFolder
from shapkit_diffusion.training.batches import Batch, draw_batch, encoding
from shapkit_diffusion.training.config import TrainConfig
from shapkit_diffusion.training.loop import descend, finite, training
from shapkit_diffusion.training.row_files import RowFiles
from shapkit_diffusion.training.state import TrainingState


@dataclass(frozen=True)
class TextTrainConfig:
    """A training run on the captioned faces number 0 to ``faces - 1`` of the series ``data_seed``.

    Args:
        training: steps, batch size, learning rate and the like, without a penalty.
        faces: how many faces.
        data_seed: of the faces.
        caption_dropout: the share of images whose caption is left out, from which the model learns to do without and
            classifier-free guidance lives (Ho & Salimans 2022).
        partial: the share of the others' captions that keep each phrase with probability one half only, from which the
            model learns to do with a single phrase, as edits name it.

    Raises:
        ValueError: if there is a penalty, more than one micro-batch or another precision than float32, or a number out
            of its range.
    """

    training: TrainConfig
    faces: int = 16384
    data_seed: int = 0
    caption_dropout: float = 0.1
    partial: float = 0.5

    def __post_init__(self) -> None:
        for name, wanted in (("penalty", None), ("accumulation", 1), ("precision", "no"), ("anchor", False)):
            found = getattr(self.training, name)
            if found != wanted:
                raise ValueError(f"training with captions knows {name}={wanted!r} only, got {found!r}")
        if self.faces < 1:
            raise ValueError(f"faces must be at least 1, got {self.faces}")
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"caption_dropout must be in [0, 1), got {self.caption_dropout}")
        if not 0 <= self.partial <= 1:
            raise ValueError(f"partial must be in [0, 1], got {self.partial}")


def train_text_model(
    model: TextModel,
    config: TextTrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TextModel:
    """The model with the averaged weights of the run, which are also in ``folder/model``, as diffusers opens it.

    Args:
        model: the model to start from; changed in place.
        config: the run.
        folder: the run folder, with ``config.json``, ``metrics.jsonl`` and ``state/`` as in ``training.train``; must be
            new, unless ``resume``.
        resume: go on from the last saved state of the same configuration.
        progress: called as ``progress(done, total)`` after every step.

    Raises:
        ValueError: if the folder exists (or, with ``resume``, holds another run), another process trains in it, the
            loss is no longer finite, or there are several processes.
        TrainingStopped: after SIGTERM or SIGUSR1, when the step is done and the state saved.
    """
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise ValueError(f"a model of captions is trained by one process, got {accelerator.num_processes}")
    denoiser = model.denoiser
    faces = render_faces(config.faces, denoiser.image_shape[1], config.data_seed)
    phrases = face_phrases(config.faces, config.data_seed)
    described = {"text": dataclasses.asdict(config), "model": described_model(denoiser)}
    with RunFolder.held(folder, described, resume=resume) as run:
        return _train_in(run, model, faces, phrases, config, accelerator, progress)


def _train_in(
    run: RunFolder,
    model: TextModel,
    faces: LabelledImages,
    phrases: Sequence[Phrases],
    config: TextTrainConfig,
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None,
) -> TextModel:
    wanted, denoiser = config.training, model.denoiser
    model.to(accelerator.device)
    encoded = encoding(faces, denoiser, wanted, RowFiles(run.path), accelerator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=wanted.learning_rate, fused=True)
    average = EMAModel(model.parameters(), decay=wanted.ema)
    state = TrainingState(model, optimizer, average)
    model.train()
    with training(run, state, wanted, accelerator, progress) as steps:
        for step in steps:
            batch = draw_batch(faces, wanted, denoiser.n_timesteps, step.number, noise_shape=denoiser.latent_shape)
            captions = told(phrases, batch, config, step.number)
            loss = denoising_loss(model, encoded(batch.to(accelerator.device)), captions)
            norm = descend(state, loss, wanted.rate(step.number), wanted.gradient_clip)
            step.figures = partial(_figures, step.done, loss.detach(), norm)
    average.copy_to(model.parameters())
    model.eval()
    model.save(run.path / "model")
    return model


def denoising_loss(model: TextModel, batch: Batch, captions: list[str]) -> Tensor:
    """The mean squared error of the prediction, told the captions, a scalar with gradient."""
    denoiser = model.denoiser
    noisy = denoiser.add_noise(batch.images, batch.noise, batch.timesteps)
    target = denoiser.target(batch.images, batch.noise, batch.timesteps)
    predicted: Tensor = model(noisy, batch.timesteps, captions)
    return (predicted - target).square().mean()


def told(phrases: Sequence[Phrases], batch: Batch, config: TextTrainConfig, step: int) -> list[str]:
    """What the model is told of each image of a batch: its caption, part of it, or nothing.

    Args:
        phrases: of every image of the data.
        batch: whose images are meant.
        config: how much is left out.
        step: number of the training step; names what is left out.
    """
    captions = []
    for row, index in enumerate(batch.indices.tolist()):
        whole = phrases[index]
        left_out, in_part, *kept = counter_uniform(config.training.seed, 3, step, row, range(2 + len(whole)))
        if left_out < config.caption_dropout:
            said: Phrases = {}
        elif in_part < config.partial:
            said = {concept: phrase for (concept, phrase), u in zip(whole.items(), kept, strict=True) if u < 0.5}
        else:
            said = whole
        captions.append(caption(said))
    return captions


def _figures(step: int, loss: Tensor, norm: Tensor) -> dict[str, float]:
    return finite(step, denoising=loss.item()) | {"gradient_norm": float(norm)}
