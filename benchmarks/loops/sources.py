"""Where the loops come from: packages and repositories of others, at fixed versions, put under ``runs/loops``."""

from __future__ import annotations

import importlib
import importlib.machinery
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs" / "loops"
PACKAGES = RUNS / "packages"


@dataclass(frozen=True)
class Package:
    """A package of the registry; installed beside the project, without what it depends on."""

    name: str
    version: str
    imported: str
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def fetch(self) -> None:
        """Install it, unless it is there."""
        if not (PACKAGES / self.imported).exists():
            wanted = [f"{self.name}=={self.version}", *self.needs]
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PACKAGES)]
            subprocess.run([*command, *wanted], check=True)
        _importable(PACKAGES)


@dataclass(frozen=True)
class Repository:
    """A public git repository at one commit; ``folder`` may hold a clone of one's own already."""

    url: str
    commit: str

    def __str__(self) -> str:
        return f"{self.url.removeprefix('https://github.com/')} at {self.commit[:7]}"

    @property
    def folder(self) -> Path:
        return RUNS / "repositories" / self.url.rsplit("/", 1)[1]

    def fetch(self) -> None:
        """Clone it, unless it is there."""
        if not self.folder.exists():
            subprocess.run(["git", "clone", "--quiet", "--no-checkout", self.url, str(self.folder)], check=True)
            subprocess.run(["git", "-C", str(self.folder), "checkout", "--quiet", self.commit], check=True)
        _importable(self.folder)


EDM = Repository("https://github.com/NVlabs/edm", "008a4e5316c8e3bfe61a62f874bddba254295afb")
IMPROVED_DIFFUSION = Repository(
    "https://github.com/openai/improved-diffusion", "1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5"
)
DIFFUSERS = Repository("https://github.com/huggingface/diffusers", "58eb52c0803ea9af3abec60841c2a093bdf1f951")
LUCIDRAINS = Package(
    "denoising-diffusion-pytorch", "2.3.4", "denoising_diffusion_pytorch", ("einops==0.8.2", "ema-pytorch==0.8.3")
)
FLOW_MATCHING = Package("flow-matching", "1.0.10", "flow_matching", ("torchdiffeq==0.2.5",))
PYTHAE = Package("pythae", "0.1.2", "pythae")
DATASETS = Package(
    "datasets",
    "5.2.0",
    "datasets",
    ("pyarrow==26.0.1", "dill==0.4.1", "multiprocess==0.70.19", "xxhash==4.1.0"),
)


def _importable(folder: Path) -> None:
    """Last on the path, so that what the project itself has installed comes first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def stand_in_for_torchvision() -> None:
    """Where torchvision does not import beside this torch: the transforms that the loops call, and empty names.

    The loops read small pictures with it; nothing of it is in a network, a loss or a measurement.
    """
    try:
        importlib.import_module("torchvision")
        return
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    package = types.ModuleType("torchvision")
    package.transforms, package.utils = _Transforms("torchvision.transforms"), types.ModuleType("torchvision.utils")  # type: ignore[attr-defined]
    package.__path__ = []
    models = types.ModuleType("torchvision.models")
    for module in (package, package.transforms, package.utils, models):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module


class _Transforms(types.ModuleType):
    """torchvision.transforms of pictures that have the right size already."""

    class InterpolationMode:
        BILINEAR = Image.Resampling.BILINEAR

    @staticmethod
    def Compose(parts: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for part in parts:
                value = part(value)
            return value

        return run

    @staticmethod
    def Lambda(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return function

    @staticmethod
    def Resize(size: int, interpolation: Any = None) -> Callable[[Any], Any]:
        return _of_size(size)

    @staticmethod
    def RandomCrop(size: int) -> Callable[[Any], Any]:
        return _of_size(size)

    @staticmethod
    def PILToTensor() -> Callable[[Image.Image], Tensor]:
        return _bytes

    @staticmethod
    def ToTensor() -> Callable[[Image.Image], Tensor]:
        return lambda picture: _bytes(picture).float() / 255

    @staticmethod
    def ConvertImageDtype(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda values: values.to(dtype) / 255

    @staticmethod
    def Normalize(mean: list[float], std: list[float]) -> Callable[[Tensor], Tensor]:
        return lambda values: (values - mean[0]) / std[0]


def _of_size(size: int) -> Callable[[Any], Any]:
    def check(picture: Any) -> Any:
        if tuple(picture.size) != (size, size):
            raise ValueError(f"the pictures must be {size} x {size} pixels already, got {picture.size}")
        return picture

    return check


def _bytes(picture: Image.Image) -> Tensor:
    channels = len(picture.getbands())
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.reshape(picture.height, picture.width, channels).movedim(-1, 0)
