"""What a demonstration measured of one model, in files: figures as JSON, pictures as safetensors, influence as npz.

Everything comes back as it was, to the last bit, so that a resumed demonstration reports what it would have reported.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shapkit.attribution.attribution import Attribution
from shapkit_diffusion.denoisers.checkpoints import read_tensors
from shapkit_diffusion.evaluation.evaluate import Evaluation
from shapkit_diffusion.evaluation.locality import Locality, SwapResults
from shapkit_diffusion.noise.influence import Influence
from shapkit_diffusion.runs import read_json, result_folder, write_json

FIGURES, PICTURES = "figures.json", "pictures.safetensors"


@dataclass(frozen=True)
class Measured:
    """One model's figures, and its influence matrices by name."""

    evaluation: Evaluation
    influences: dict[str, Influence]


def write_measured(measured: Measured, folder: Path, model: Mapping[str, Any]) -> None:
    """Keep what was measured in ``folder``, whole or not at all, in place of what was there.

    Args:
        measured: of a model, without interactions.
        folder: to be made.
        model: what says which model that is, plain values for JSON.
    """
    evaluation, swaps = measured.evaluation, measured.evaluation.swaps
    floor = evaluation.decoder_floor
    tensors = {"originals": swaps.originals, "samples": evaluation.samples}
    tensors |= {f"edited {concept}": images for concept, images in swaps.edited.items()}
    tensors |= {f"masks {concept}": masks for concept, masks in swaps.masks.items()}
    if swaps.numbers is not None:
        tensors["numbers"] = swaps.numbers
    if folder.exists():
        shutil.rmtree(folder)
    with result_folder(folder, model) as partial:
        for number, found in enumerate(measured.influences.values()):
            found.attribution.save(partial / f"influence-{number}.npz")
            tensors[f"without_pair {number}"] = torch.as_tensor(found.without_pair)
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, partial / PICTURES)
        content = {
            "locality": [asdict(entry) for entry in evaluation.locality],
            "frechet": evaluation.realism,
            "decoder_floor": None if floor is None else [asdict(entry) for entry in floor],
            "influence": [
                {"name": name, "images": found.n_images, "timestep": found.timestep}
                for name, found in measured.influences.items()
            ],
        }
        write_json(partial / FIGURES, content)


def read_measured(folder: Path, model: Mapping[str, Any]) -> Measured | None:
    """What `write_measured` kept of this model; None where there is nothing, or it is of another one.

    Raises:
        ValueError: if a file is damaged; the message names it.
    """
    if not folder.is_dir() or read_json(folder / "config.json") != model:
        return None
    tensors, content = read_tensors(folder / PICTURES), read_json(folder / FIGURES)
    try:
        return Measured(_evaluation(tensors, content), dict(_influences(folder, tensors, content)))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is damaged: {FIGURES} and {PICTURES} do not hold what was measured ({error}); remove the folder "
            "to have it measured again"
        ) from error


def _evaluation(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> Evaluation:
    def of_concepts(kind: str) -> dict[str, Tensor]:
        return {entry["concept"]: tensors[f"{kind} {entry['concept']}"] for entry in content["locality"]}

    floor = content["decoder_floor"]
    return Evaluation(
        [Locality(**entry) for entry in content["locality"]],
        {str(name): float(distance) for name, distance in content["frechet"].items()},
        SwapResults(tensors["originals"], of_concepts("edited"), of_concepts("masks"), tensors.get("numbers")),
        tensors["samples"],
        None if floor is None else [Locality(**entry) for entry in floor],
    )


def _influences(folder: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> list[tuple[str, Influence]]:
    return [
        (
            entry["name"],
            Influence(
                Attribution.load(folder / f"influence-{number}.npz"),
                tensors[f"without_pair {number}"].numpy(),
                entry["images"],
                entry["timestep"],
            ),
        )
        for number, entry in enumerate(content["influence"])
    ]
