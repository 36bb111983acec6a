"""The rows of the tables measured, one file for each, so that what was interrupted goes on with the next.

Every system edits images that it generated itself, as published: the same number of images, the same seeds. The edits'
figures belong to a row, the realism of generated images to a model, which several rows may share.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published_tables.rows import ROWS, Row, network_of
from benchmarks.published_tables.systems.systems import Region, System
from shapkit._files import user_path
from shapkit.differentiable import Regions
from shapkit_diffusion.data.labelled import concept_labels
from shapkit_diffusion.data.pixels import to_bytes, to_unit_range
from shapkit_diffusion.evaluation.domains import Domain
from shapkit_diffusion.evaluation.edit_measures import EditMeasurement, compare_edits, measure_edits
from shapkit_diffusion.evaluation.evaluate import realism_reference
from shapkit_diffusion.evaluation.inception import load_inception
from shapkit_diffusion.evaluation.locality import LocalityConvention
from shapkit_diffusion.evaluation.realism_measures import RealismMeasurement, RealismReference, measure_realism
from shapkit_diffusion.evaluation.verdict import Measured, verdict
from shapkit_diffusion.noise.edits import InversionWarning
from shapkit_diffusion.noise.sampling import peak_signal_to_noise
from shapkit_diffusion.runs import RunFolder, read_json, write_json
from shapkit_diffusion.workers import worker_pool

OpenDomain = Callable[[], Domain]
"""Opens the domain, once in each process."""

IDENTITY_PSNR = 100.0
"""dB from which images count as put back as they were given: nothing had to be found in them."""

NEIGHBOURS = 6
"""Images that the realism takes at least: each has its five nearest neighbours."""


@dataclass(frozen=True)
class TablesConfig:
    """What is measured; equal configurations give equal figures on one machine.

    Args:
        concepts: that are edited, in the order of the columns.
        images: that each system generates and edits.
        samples: generated images for the realism of a model.
        given: reference images that each system reconstructs, and of which the first ``shown`` are edited for pictures.
        resamples: further edits of every image, for the diversity.
        dilation: pixels by which concepts grow before they are edited.
        convention: of the locality figures.
        shown: images in the pictures, at least two, as some systems swap between images.
        seed: names images and edits.
        inception: file of Inception's weights, for realism in its features and not the domain's; see
            ``load_inception``.

    Raises:
        ValueError: for a number out of its range.
    """

    concepts: tuple[str, ...] = ("mouth", "eyes", "nose")
    images: int = 100
    samples: int = 1000
    given: int = 16
    resamples: int = 1
    dilation: int = 1
    convention: LocalityConvention = field(default_factory=LocalityConvention)
    shown: int = 4
    seed: int = 1000
    inception: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("samples", NEIGHBOURS), ("resamples", 0), ("dilation", 0), ("shown", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("images", "given"):
            if getattr(self, name) < self.shown:
                raise ValueError(f"{name} must be at least shown = {self.shown}, got {getattr(self, name)}")
        if self.images * (1 + self.resamples) < NEIGHBOURS:
            raise ValueError(
                f"images times edits of each must be at least {NEIGHBOURS}, got {self.images} x {1 + self.resamples}"
            )


@dataclass(frozen=True, eq=False)
class Measuring:
    """What all rows are measured with: the domain, the concepts' labels, and the features of the real images."""

    domain: Domain
    config: TablesConfig
    labels: Mapping[str, Sequence[int]]
    reference: RealismReference

    @classmethod
    def of(cls, domain: Domain, config: TablesConfig) -> Measuring:
        """With the features of the domain's real images, which are computed here.

        Raises:
            ValueError: if a concept is no label of the domain.
        """
        labels = concept_labels(domain.label_names, config.concepts)
        return cls(domain, config, labels, _reference(domain, config))


def _reference(domain: Domain, config: TablesConfig) -> RealismReference:
    if config.inception is None:
        return realism_reference(domain, config.concepts)
    features = load_inception(config.inception).features
    return realism_reference(domain, config.concepts, features, f"Inception's features ({Path(config.inception).name})")


def measure_tables(
    rows: Mapping[str, Row],
    open_domain: OpenDomain,
    config: TablesConfig,
    folder: str | Path,
    *,
    data: str = "faces",
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure what is not yet in ``folder``, and return what all of its rows say, see ``assemble``.

    A row is written whole when it is done, and measured again only if its model's weights are others.

    Args:
        rows: from ``systems_of``.
        open_domain: the data, picklable where there are several workers.
        config: what is measured; a folder holds rows of one configuration. Equal configurations give equal results, but
            for what is called ``seconds``.
        folder: a run folder, new or begun with the same configuration.
        data: what the data are called, kept with the configuration.
        workers: processes; rows of one model stay together.
        say: is told of every row that is done.

    Raises:
        ValueError: if the folder holds another run, another process measures into it, a file in it is damaged, or as
            the systems.
    """
    with RunFolder.held(folder, {"data": data, "tables": asdict(config)}, resume=True) as run:
        return _measure_in(run, rows, open_domain, config, workers, say)


def _measure_in(
    run: RunFolder,
    rows: Mapping[str, Row],
    open_domain: OpenDomain,
    config: TablesConfig,
    workers: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    (run.path / "rows").mkdir(exist_ok=True)
    (run.path / "realism").mkdir(exist_ok=True)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows.values():
        if not _is_measured(row, run.path, config):
            groups.setdefault(row.models(config.concepts), []).append(row)
    if groups and workers > 1:
        _in_processes(list(groups.values()), open_domain, config, run.path, workers, say)
    elif groups:
        measuring = Measuring.of(open_domain(), config)
        for group in groups.values():
            for row in group:
                say(measure_row(row, measuring, run.path))
    if not (run.path / "realism" / "real.json").is_file():
        write_json(run.path / "realism" / "real.json", _floor(open_domain(), config))
    results = assemble(run.path)
    write_json(run.path / "tables.json", results)
    return results


def _floor(domain: Domain, config: TablesConfig) -> dict[str, Any]:
    """Realism of real images: as many of the reference as are generated, at most half, against the others."""
    count = min(config.samples, len(domain.reference) // 2)
    others = _reference(replace(domain, reference=domain.reference[count:]), config)
    return measure_realism(to_unit_range(torch.as_tensor(domain.reference.images[:count])), others).to_json()


_worker: Measuring | None = None


def _open_worker(open_domain: OpenDomain, config: TablesConfig) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Measuring.of(open_domain(), config)


def _measure_group(group: Sequence[Row], folder: Path) -> list[str]:
    assert _worker is not None
    return [measure_row(row, _worker, folder) for row in group]


def _in_processes(
    groups: Sequence[Sequence[Row]],
    open_domain: OpenDomain,
    config: TablesConfig,
    folder: Path,
    workers: int,
    say: Callable[[str], None],
) -> None:
    with worker_pool(workers, _open_worker, (open_domain, config)) as pool:
        for task in as_completed([pool.submit(_measure_group, group, folder) for group in groups]):
            for line in task.result():
                say(line)


def _is_measured(row: Row, folder: Path, config: TablesConfig) -> bool:
    path = folder / "rows" / f"{row.key}.json"
    return path.is_file() and read_json(path).get("weights") == row.fingerprint(config.concepts)


def measure_row(row: Row, measuring: Measuring, folder: Path) -> str:
    """Measure one row and its models into ``folder``; returns a line that says so."""
    started, config = time.perf_counter(), measuring.config
    weights = row.fingerprint(config.concepts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InversionWarning)  # the PSNR is in the table
        systems = row.systems(measuring.domain, config.concepts)
        edits = _Edits(measuring)
        concepts = {concept: edits.measure(concept, system) for concept, system in systems.items()}
        psnr = edits.psnr(systems)
    for concept, system in systems.items():
        model = row.model_of(concept)
        path = folder / "realism" / f"{model}.json"
        if not path.is_file() or read_json(path).get("weights") != weights[model]:
            samples = system.generate(config.samples, config.seed + 1)
            write_json(path, {"weights": weights[model], **measure_realism(samples, measuring.reference).to_json()})
    np.savez_compressed(folder / "rows" / f"{row.key}.npz", **edits.pictures)  # type: ignore[arg-type]
    seconds = round(time.perf_counter() - started, 1)
    content = {
        "name": row.name,
        "note": row.note,
        "control": row.control,
        "pastes": any(system.pastes for system in systems.values()),
        "psnr_db": psnr,
        "models": {concept: row.model_of(concept) for concept in config.concepts},
        "weights": weights,
        "seconds": seconds,
        "concepts": concepts,
    }
    write_json(folder / "rows" / f"{row.key}.json", content)
    return f"{row.key}: measured in {seconds:.0f} s"


class _Edits:
    """The edits of one row, concept after concept; systems that edit several concepts generate their images once."""

    def __init__(self, measuring: Measuring) -> None:
        self.measuring = measuring
        self.pictures: dict[str, np.ndarray] = {}
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._given: dict[int, Tensor] = {}

    def measure(self, concept: str, system: System) -> dict[str, Any]:
        """Figures of one concept for the row's file; pictures are kept."""
        measuring, config = self.measuring, self.measuring.config
        if id(system) not in self._own:
            generated = system.generate(config.images, config.seed)
            self._own[id(system)] = generated, system.reconstruct(generated)
        images, before = self._own[id(system)]
        region, mask, grown = self._masks(images, concept)
        with runs_of(network_of(system)) as runs:
            started = time.perf_counter()
            after = system.edit(images, region, config.seed)
            seconds = time.perf_counter() - started
        more = [system.edit(images, region, config.seed + 1 + number) for number in range(config.resamples)]
        convention = config.convention
        edits = measure_edits(
            concept,
            before,
            after,
            mask,
            masks_after=self._masks(after, concept)[1] if convention.extent == "union" else None,
            convention=convention,
            grown=grown,
            resamples=more,
            features=measuring.reference.features,
            box=measuring.reference.boxes[concept],
        )
        self._show(concept, system, before, after, region.mask)
        edited = measure_realism(torch.cat([after, *more]), measuring.reference).to_json()
        return {
            "edits": edits.to_json(),
            "edited": edited | {"crops": {crop: edited["crops"][crop] for crop in ("whole", concept)}},
            "network_runs": None if runs is None else runs.samples / len(images),
            "seconds": round(seconds / len(images), 4),
        }

    def _masks(self, images: Tensor, concept: str) -> tuple[Region, Tensor, int]:
        """What is edited; what is measured, empty where the concept is not found; and by how much that has grown.

        Where a concept is not found, the system edits its place in a reference image, so that the batch stays whole.
        """
        domain, config = self.measuring.domain, self.measuring.config
        values = self.measuring.labels[concept]
        region = domain.regions(images, config.concepts, config.dilation).mask(concept)
        labels = domain.parse(images)
        if config.convention.dilation < config.dilation:
            bare = Regions.from_labels(labels, {concept: values}, missing="allow").mask(concept)
            return Region(concept, region), bare, 0
        found = torch.isin(labels, labels.new_tensor(list(values))).flatten(1).any(dim=1)
        return Region(concept, region), region * found[:, None, None, None].to(region), config.dilation

    def _show(self, concept: str, system: System, before: Tensor, after: Tensor, mask: Tensor) -> None:
        shown, domain = self.measuring.config.shown, self.measuring.domain
        given = self._given_images()[:shown]
        self._reconstruct(system)
        place = domain.regions(given, self.measuring.config.concepts, self.measuring.config.dilation).mask(concept)
        kept = {
            "before": before[:shown],
            "after": after[:shown],
            "given": given,
            "reconstructed": self._given[id(system)][:shown],
            "edited": system.edit(given, Region(concept, place), self.measuring.config.seed),
        }
        self.pictures |= {f"{concept}-{name}": to_bytes(images) for name, images in kept.items()}
        masks = {"mask": mask[:shown].expand(shown, -1, -1, -1), "place": place}
        self.pictures |= {f"{concept}-{name}": (one > 0.5).cpu().numpy() for name, one in masks.items()}

    def psnr(self, systems: Mapping[str, System]) -> float | None:
        """Mean PSNR of given images reconstructed, dB; None where systems put them back as they are."""
        given = self._given_images()
        found = [float(peak_signal_to_noise(self._reconstruct(one), given).mean()) for one in systems.values()]
        mean = sum(found) / len(found)
        return None if mean > IDENTITY_PSNR else mean

    def _given_images(self) -> Tensor:
        reference = self.measuring.domain.reference
        return to_unit_range(torch.as_tensor(reference.images[: self.measuring.config.given]))

    def _reconstruct(self, system: System) -> Tensor:
        if id(system) not in self._given:
            self._given[id(system)] = system.reconstruct(self._given_images())
        return self._given[id(system)]


@dataclass
class Runs:
    """How many samples went through a network."""

    samples: int = 0


@contextmanager
def runs_of(network: nn.Module | None) -> Iterator[Runs | None]:
    """Counts a network's runs, one for each sample of a batch, within the ``with`` block.

    >>> network = nn.Conv2d(1, 1, 1)
    >>> with runs_of(network) as runs:
    ...     _ = network(torch.zeros(5, 1, 2, 2))
    >>> runs
    Runs(samples=5)
    """
    if network is None:
        yield None
        return
    runs = Runs()

    def count(_: nn.Module, __: Any, output: Any) -> None:
        runs.samples += len(output if isinstance(output, Tensor) else output[0])

    handle = network.register_forward_hook(count)
    try:
        yield runs
    finally:
        handle.remove()


def assemble(folder: str | Path) -> dict[str, Any]:
    """All rows that a folder holds, with verdicts against their controls, as plain values.

    Single images' figures are left out: the file is for tables.

    Returns:
        the configuration; ``rows`` by key in the published order, each as its file, and where the control is there with
        the figures over the control's, ``against``, and the ``verdict``; ``realism`` by model, and of real images under
        ``real``.

    Raises:
        ValueError: if the folder holds no measured row, or rows of other weights than the realism's.
    """
    folder = user_path(folder)
    found = {path.stem: read_json(path) for path in sorted((folder / "rows").glob("*.json"))}
    if not found:
        raise ValueError(f"{folder} holds no measured row: measure with --models FOLDER --out {folder}")
    order = [row.key for row in ROWS]
    keys = sorted(found, key=lambda key: (order.index(key) if key in order else len(order), key))
    realism = {path.stem: read_json(path) for path in sorted((folder / "realism").glob("*.json"))}
    rows: dict[str, Any] = {}
    for key in keys:
        row, control = found[key], found.get(found[key]["control"] or "")
        for model, weights in row["weights"].items():
            if realism[model]["weights"] != weights:
                raise ValueError(
                    f"the row {key} was measured on other weights of {model} than are there: measure it again"
                )
        concepts = {}
        for concept, figures in row["concepts"].items():
            shown = figures | {"edits": {name: v for name, v in figures["edits"].items() if name != "per_image"}}
            if control is not None:
                candidate, other = (_measured(one, concept, realism) for one in (row, control))
                against = compare_edits(candidate.edits, other.edits)
                shown["against"] = {name: interval.to_json() for name, interval in against.items()}
                shown["verdict"] = verdict(candidate, other).to_json()
            concepts[concept] = shown
        rows[key] = row | {"concepts": concepts}
    return {**read_json(folder / "config.json"), "rows": rows, "realism": realism}


def _measured(row: Mapping[str, Any], concept: str, realism: Mapping[str, Any]) -> Measured:
    edits = EditMeasurement.from_json(row["concepts"][concept]["edits"])
    return Measured(edits, RealismMeasurement.from_json(realism[row["models"][concept]]))
