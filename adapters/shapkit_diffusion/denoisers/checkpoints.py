"""Reading diffusers folders and untrusted hub repositories.

Only JSON and safetensors are opened, never a pickle, and a network is built only after its weights' header, whose sizes
the file's length vouches for, has been found to agree with its configuration.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from shapkit._files import user_path
from shapkit_diffusion.denoisers.schedules import is_flow, sampling_of, schedule_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULE = "scheduler_config.json"

HUB_FILES = (
    "model_index.json",
    "config.json",
    SCHEDULE,
    WEIGHTS,
    "*/config.json",
    f"*/{SCHEDULE}",
    f"unet/{WEIGHTS}",
    f"transformer/{WEIGHTS}",
    f"vqvae/{WEIGHTS}",
    f"vae/{WEIGHTS}",
    "text_encoder/model.safetensors",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
)
"""What is fetched of a hub repository: no pickles, half-precision twins, single-file checkpoints or safety checkers."""

SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
)
"""Samplers whose configuration holds a DDPM's betas or a flow's shift: what the model was trained with, whatever it is
sampled with."""

# What a configuration written before the key existed means, where diffusers' own default is another (#6725).
ABSENT_KEYS: Mapping[str, Mapping[str, Any]] = {"VQModel": {"scaling_factor": 1.0}}

MAX_CONFIG_BYTES = 1 << 20
MAX_TIMESTEPS = 100_000
CONFIG = "config.json"
WEIGHT_FILES = ("diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model.safetensors.index.json")
"""What diffusers writes of a network, as patterns of names."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# Published checkpoints name attention weights as diffusers did before version 0.15; its own loading renames them too.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(name: str | Path) -> Path:
    """The folder called ``name``, or the local copy of the hub repository ``owner/name``, fetched if need be.

    Raises:
        ValueError: if there is no such folder and the hub does not give such a repository.
    """
    folder = user_path(name)
    if folder.exists() or not isinstance(name, str) or not _HUB_NAME.fullmatch(name):
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the client raises errors of its own, of the HTTP library's and of the system's
        raise ValueError(
            f"{name} is no folder here, and the Hugging Face hub does not give it: {first_line(error)}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a configuration file.

    Raises:
        ValueError: if the file is missing, too large for a configuration, or no JSON object.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is no configuration: it has {path.stat().st_size:,} bytes")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(config).__name__}")
    return config


def read_config(path: Path, classes: Collection[str]) -> dict[str, Any]:
    """The configuration of one of the named classes.

    Raises:
        ValueError: as ``read_json``, or if it describes another class.
    """
    config = read_json(path)
    if config.get("_class_name") not in classes:
        raise ValueError(f"{path} describes a {config.get('_class_name')}, not a {' or '.join(classes)}")
    return config


def load_module(folder: Path, classes: Sequence[type[nn.Module]]) -> Any:
    """The diffusers model that lies in ``folder``, in float32, of one of ``classes``.

    Raises:
        ValueError: if configuration or weights are missing, cannot be read, or do not fit one another.
    """
    path, weights = folder / "config.json", _weights_in(folder)
    by_name: dict[str, Any] = {cls.__name__: cls for cls in classes}
    config = read_config(path, by_name)
    cls = by_name[config["_class_name"]]
    config = {**ABSENT_KEYS.get(cls.__name__, {}), **config}
    found = weight_shapes(weights)
    check_layer_counts(path, config, len(found))
    try:
        with torch.device("meta"):  # shapes without memory
            expected = _shapes(cls.from_config(config).state_dict())
    except Exception as error:  # a stranger's settings can go wrong anywhere in a constructor
        raise ValueError(f"{path} describes no {cls.__name__} that can be built: {first_line(error)}") from error
    names = _present_names(found, expected)
    _check_shapes(expected, {names[name]: shape for name, shape in found.items()}, weights)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights from the global generator
        module = cls.from_config(config)
    module.load_state_dict({names[name]: value for name, value in load_file(weights).items()})
    return module


def _weights_in(folder: Path) -> Path:
    """The file of a network's weights: of diffusers' usual name, or the only one of safetensors there is."""
    others = sorted(folder.glob("*.safetensors"))
    return others[0] if len(others) == 1 else folder / WEIGHTS


def load_schedule(folder: Path) -> SchedulerMixin:
    """The sampler described in ``folder``, as it is: of its own class, with all of its settings.

    Raises:
        ValueError: if the file is missing, describes no sampler of `SCHEDULERS`, or its betas make no schedule.
    """
    path = folder / SCHEDULE
    config = read_config(path, SCHEDULERS)
    count = config.get("num_train_timesteps", 1)
    if not isinstance(count, int) or not 1 <= count <= MAX_TIMESTEPS:
        raise ValueError(f"{path}: num_train_timesteps must be 1..{MAX_TIMESTEPS}, got {count!r}")
    try:
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        remaining = schedule_of(scheduler.config).alphas_cumprod
        sampling_of(scheduler.config)
    except Exception as error:
        raise ValueError(f"{path} describes no noise schedule: {first_line(error)}") from error
    if remaining.ndim != 1 or not bool(((remaining >= 0) & (remaining <= 1)).all()):
        raise ValueError(f"{path} describes no noise schedule: its betas must lie between 0 and 1")
    if len(remaining) != scheduler.config["num_train_timesteps"]:
        raise ValueError(
            f"{path} has {len(remaining)} trained_betas, but num_train_timesteps is "
            f"{scheduler.config['num_train_timesteps']}"
        )
    if (
        float(remaining[-1]) == 0
        and not is_flow(scheduler.config)
        and scheduler.config.get("prediction_type") == "epsilon"
    ):
        raise ValueError(
            f"{path}: predicting noise from pure noise says nothing, and with rescale_betas_zero_snr the last timestep "
            "is pure noise: such a model must predict 'v_prediction' or 'sample'"
        )
    return scheduler


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a safetensors file, read from its header.

    Raises:
        ValueError: if there is no such file, or it is damaged.
    """
    if not path.is_file():
        pickles = [entry.name for entry in sorted(path.parent.iterdir()) if entry.suffix in PICKLES]
        instead = f": {pickles[0]} is a pickle, which can run code when it is opened" if pickles else ""
        raise ValueError(f"{path} is missing (only safetensors are read){instead}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} does not load: {first_line(error)}") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict by their names: ``.safetensors``, or else as torch saves it (``.pth``, ``.pt``).

    A pickle may hold tensors and nothing else: code in it is refused, not run. So is an archive that would grow.

    Raises:
        ValueError: if the file is missing or damaged, or holds anything else.
    """
    path = user_path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_uncompressed(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to load it nevertheless
        raise ValueError(f"{path} is no state dict: it is no pickle of tensors and of nothing but tensors") from error
    except Exception as error:  # on damaged files the readers raise RuntimeError, EOFError, KeyError and others
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is no readable state dict: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path} is no state dict: it holds a {type(state).__name__}, not tensors by name")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} is no state dict: {name!r} is no tensor but of type {type(value).__name__}")
    return dict(state)


class TensorParts:
    """Tensors by name in safetensors, in one file or in parts: of each tensor that is in several, rows in their order.

    Args:
        folder: where they are.
        name: ``name.safetensors``, or ``name-00000-of-00002.safetensors`` and so on.

    Attributes:
        shapes: of the whole tensors.

    Raises:
        ValueError: if a part is missing or damaged, or parts do not fit each other.
    """

    def __init__(self, folder: Path, name: str) -> None:
        first = min(folder.glob(f"{name}-*-of-*.safetensors"), default=self.path(folder, name, 0, 1))
        said = first.stem.rsplit("-", 1)[1] if first.stem != name else "1"
        parts = int(said) if said.isdecimal() else 1
        self._files = [self._opened(self.path(folder, name, part, parts)) for part in range(parts)]
        self._pieces: dict[str, list[tuple[int, Any]]] = {}  # by name: the first row of each piece, and its file
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path, file in self._files:
            for key in list(file.keys()):
                shape, so_far = tuple(file.get_slice(key).get_shape()), self.shapes.get(key)
                if so_far is not None and (not shape or shape[1:] != so_far[1:]):
                    raise ValueError(f"{path} is damaged: its rows of {key} do not fit those of the parts before")
                self._pieces.setdefault(key, []).append((so_far[0] if so_far else 0, file))
                self.shapes[key] = shape if so_far is None else (so_far[0] + shape[0], *shape[1:])

    @staticmethod
    def path(folder: Path, name: str, part: int, parts: int) -> Path:
        """The file of a part."""
        return folder / (f"{name}.safetensors" if parts == 1 else f"{name}-{part:05d}-of-{parts:05d}.safetensors")

    def rows(self, key: str, wanted: slice | None = None) -> Tensor:
        """Some rows of a tensor, or all of it; nothing else is read."""
        if key not in self.shapes:
            raise ValueError(f"{self._files[0][0]} is damaged: {key} is missing")
        pieces = self._pieces[key]
        if wanted is None and len(pieces) == 1:
            whole: Tensor = pieces[0][1].get_tensor(key)
            return whole
        first, stop = (0, self.shapes[key][0]) if wanted is None else (wanted.start, wanted.stop)
        found = []
        for start, file in pieces:
            piece = file.get_slice(key)
            low, high = max(first - start, 0), min(stop - start, piece.get_shape()[0])
            if low < high:
                found.append(piece[low:high])
        return torch.cat(found) if found else torch.empty(0, *self.shapes[key][1:])

    def _opened(self, path: Path) -> tuple[Path, Any]:
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        try:
            return path, safe_open(path, framework="pt")
        except Exception as error:  # SafetensorError is no public name
            raise ValueError(f"{path} is no readable state dict: {first_line(error)}") from error


def _check_uncompressed(path: Path) -> None:
    """Refuse an archive that grows when it is unpacked: torch stores tensors as they are, and a bomb does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it unpacks to {unpacked:,} bytes, more than it has: torch does not compress")


def with_counts(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state dict with batch normalisation's counts of steps, which many files lack and inference does not use."""
    counts = (name for name in network.state_dict() if name.endswith(".num_batches_tracked"))
    return {name: torch.zeros((), dtype=torch.long) for name in counts} | state


def check_same_architecture(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Raise a ValueError that names the first difference unless ``state`` holds the weights of ``module``."""
    check_same_shapes(module.state_dict(), _shapes(state), source)


def check_same_shapes(state: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]], source: str | Path) -> None:
    """Raise a ValueError that names the first tensor of ``state`` that has another shape in what was found."""
    _check_shapes(_shapes(state), found, source)


def check_layer_counts(path: Path, config: Mapping[str, Any], n_tensors: int) -> None:
    """Raise a ValueError for numbers of layers that would take for ever to build: each has a tensor in the file."""
    for key, value in config.items():
        if "layers" in key and max(_numbers(value), default=0) > n_tensors:
            raise ValueError(f"{path} asks for {key} = {value!r}, but the weights are only {n_tensors} tensors")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its type's name if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str | Path
) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{source} holds another architecture: {name} is {found.get(name, 'absent')} there and "
                f"{expected.get(name, 'absent')} in the model"
            )


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, list):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, int | float):
        yield value


def _present_names(found: Iterable[str], expected: Collection[str]) -> dict[str, str]:
    """What diffusers calls each weight now."""
    names = {}
    for name in found:
        *path, layer, kind = ["", "", *name.split(".")]
        renamed = ".".join([*path[2:], OLD_ATTENTION.get(layer, layer), kind])
        names[name] = renamed if name not in expected and renamed in expected else name
    return names
