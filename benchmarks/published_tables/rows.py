"""The rows of the tables: which system on which model, in the published order.

Models are run folders with fixed names in one folder, such as ``benchmarks/published_tables/`` makes. The plain DDPM
and LDM are the controls: trained on for as many steps as the interpretable ones, without the penalty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from benchmarks.published_tables.gan.editing_in_style import EditingInStyle
from benchmarks.published_tables.gan.igan import Igan, load_igan
from benchmarks.published_tables.gan.inversion import GanImages
from benchmarks.published_tables.gan.style_gan import load_generator
from benchmarks.published_tables.gan.training import GENERATOR_FILE
from benchmarks.published_tables.systems.noise import NoiseEdit
from benchmarks.published_tables.systems.systems import System
from shapkit._files import user_path
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.evaluation.domains import Domain
from shapkit_diffusion.noise.edits import Outside

STEPS = 25
"""DDIM steps of every diffusion system; RePaint's edits take 50 with resampling."""

Build = Callable[[Path, Domain, Sequence[str]], System]
"""A system from the run folder of its model, a domain, and the concepts that are going to be edited."""


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Args:
        key: names the row in files and on the command line.
        name: as printed.
        model: name of the run folder; ``{concept}`` in it stands for the concept of a model of its own for each.
        build: loads the system; at module level, so that other processes can be told.
        control: key of the row that a verdict holds this one against.
        note: what is to be known of the row.
        finished: file in the run folder that is there once the model is.
        folder: where the run folders are.
    """

    key: str
    name: str
    model: str
    build: Build = field(repr=False)
    control: str | None = None
    note: str = ""
    finished: str = "model/model_index.json"
    folder: Path = Path()

    def model_of(self, concept: str) -> str:
        """The run folder of the model that edits a concept."""
        return self.model.format(concept=concept)

    def models(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """All run folders, each once."""
        return tuple(dict.fromkeys(map(self.model_of, concepts)))

    def missing(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """The run folders that hold no finished model."""
        return tuple(name for name in self.models(concepts) if not (self.folder / name / self.finished).is_file())

    def systems(self, domain: Domain, concepts: Sequence[str]) -> dict[str, System]:
        """The system that edits each concept; concepts of one model share one system."""
        built = {name: self.build(self.folder / name, domain, concepts) for name in self.models(concepts)}
        return {concept: built[self.model_of(concept)] for concept in concepts}

    def fingerprint(self, concepts: Sequence[str]) -> dict[str, str]:
        """A digest of each model's files, which says whether a row was measured on these weights."""
        return {name: _digest(self.folder / name, Path(self.finished)) for name in self.models(concepts)}


def _digest(run: Path, finished: Path) -> str:
    where = run / finished
    files = [where] if finished.suffix == ".safetensors" else sorted(where.parent.rglob("*.safetensors"))
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.relative_to(run).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _noise_edit(run: Path, _: Domain, __: Sequence[str], *, name: str, outside: Outside = "free") -> System:
    return NoiseEdit(load_denoiser(run / "model"), name, kind="swap", outside=outside, steps=STEPS)


# diffusers' pipelines take seconds to import, and those with text need transformers: only their rows wait for that.


def _repaint(run: Path, _: Domain, __: Sequence[str]) -> System:
    from benchmarks.published_tables.systems.repaint import RePaint

    return RePaint(load_denoiser(run / "model"), generate_steps=STEPS)


def _inpainting(run: Path, _: Domain, __: Sequence[str]) -> System:
    from benchmarks.published_tables.systems.text import TextInpainting
    from benchmarks.published_tables.systems.text_model import load_text_model

    return TextInpainting(load_text_model(run / "model"), steps=STEPS)


def _sega(run: Path, _: Domain, __: Sequence[str]) -> System:
    from benchmarks.published_tables.systems.text import SemanticGuidance
    from benchmarks.published_tables.systems.text_model import load_text_model

    # Twelve times the class's own scale, because a small model's predictions for two phrases differ little.
    return SemanticGuidance(load_text_model(run / "model"), steps=STEPS, edit_guidance=60.0)


def _editing_in_style(run: Path, domain: Domain, concepts: Sequence[str]) -> System:
    images = GanImages(load_generator(run / GENERATOR_FILE), domain.extractor)
    return EditingInStyle.build(images, domain.parse, _labels(domain, concepts))


def _igan(run: Path, domain: Domain, concepts: Sequence[str]) -> System:
    generator, groups = load_igan(run)
    images = GanImages(generator, domain.extractor)
    return Igan.build(images, groups, domain.parse, _labels(domain, concepts), len(domain.label_names))


def _labels(domain: Domain, concepts: Sequence[str]) -> dict[str, int]:
    return {name: values[0] for name, values in concept_labels(domain.label_names, concepts).items()}


def _noise_row(
    key: str, name: str, model: str, *, control: str | None = None, note: str = "", outside: Outside = "free"
) -> Row:
    return Row(key, name, model, partial(_noise_edit, name=name, outside=outside), control, note)


_CONTROL_NOTE = "the control: trained on for as many steps as the interpretable ones, without the penalty"
_PUBLISHED_NOTE = "as published: one model for each concept, on the ordinary loss plus the penalty"
_LOCAL_NOTE = "this project's: one model for all concepts, anchored to the model it started from"

ROWS: tuple[Row, ...] = (
    Row("sd", "Stable Diffusion", "sd", _inpainting, note="inpainting by diffusers' class, to another phrase"),
    Row("repaint", "RePaint", "ddpm-control", _repaint, note="on the plain DDPM"),
    Row("sega", "SEGA", "sd", _sega, note="guided towards another phrase, at 12 times the usual scale; uses no mask"),
    Row("style", "Editing in Style", "gan", _editing_in_style, note="uses no mask", finished=GENERATOR_FILE),
    Row("igan", "IGAN", "igan", _igan, note="uses no mask", finished=GENERATOR_FILE),
    _noise_row("ldm", "LDM", "ldm-control", note=_CONTROL_NOTE),
    _noise_row("ddpm", "DDPM", "ddpm-control", note=_CONTROL_NOTE),
    _noise_row(
        "ldm-published",
        "interpretable LDM (published)",
        "ldm-published-{concept}",
        control="ldm",
        note=_PUBLISHED_NOTE,
    ),
    _noise_row(
        "ddpm-published",
        "interpretable DDPM (published)",
        "ddpm-published-{concept}",
        control="ddpm",
        note=_PUBLISHED_NOTE,
    ),
    _noise_row("ldm-local", "interpretable LDM (here)", "ldm-local", control="ldm", note=_LOCAL_NOTE),
    _noise_row("ddpm-local", "interpretable DDPM (here)", "ddpm-local", control="ddpm", note=_LOCAL_NOTE),
    _noise_row(
        "replay",
        "DDPM, outside replayed",
        "ddpm-control",
        note="the plain DDPM, with everything outside the region put back at every step",
        outside="replay",
    ),
)


def systems_of(folder: str | Path, concepts: Sequence[str], keys: Collection[str] | None = None) -> dict[str, Row]:
    """The rows by key, in the published order, with the models of ``folder``; nothing is loaded yet.

    Args:
        folder: holds the run folders of the models.
        concepts: that are going to be edited.
        keys: of the rows wanted; all by default.

    Raises:
        ValueError: for an unknown key, or if the model of a wanted row is not there.

    >>> systems_of("no/such/folder", ["mouth"], ["ldm"])
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder has no finished ldm-control for the row ldm: make it by
    python -m benchmarks.published_tables --models no/such/folder --make ldm-control, or name other rows by --rows
    """
    return with_models(ROWS, folder, concepts, keys)


def with_models(
    rows: Sequence[Row], folder: str | Path, concepts: Sequence[str], keys: Collection[str] | None = None
) -> dict[str, Row]:
    """``systems_of``, of any rows."""
    known = {row.key: row for row in rows}
    unknown = sorted(set(keys or ()) - set(known))
    if unknown:
        raise ValueError(f"the tables have the rows {', '.join(known)}; got {', '.join(unknown)}")
    wanted = {key: replace(row, folder=user_path(folder)) for key, row in known.items() if keys is None or key in keys}
    for key, row in wanted.items():
        for model in row.missing(concepts):
            raise ValueError(
                f"{folder} has no finished {model} for the row {key}: make it by "
                f"python -m benchmarks.published_tables --models {folder} --make {model}, or name other rows by --rows"
            )
    return wanted


def network_of(system: System) -> nn.Module | None:
    """The network whose runs are what an edit costs; None for a GAN, of which one image is one run."""
    for holder in (system, getattr(system, "model", None)):
        denoiser = getattr(holder, "denoiser", None)
        if isinstance(denoiser, Denoiser):
            return denoiser.unet
    return None
