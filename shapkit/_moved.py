"""Modules that lie elsewhere than they did: an old name still imports, and says where the module went."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType


class MovedModules(MetaPathFinder, Loader):
    """Finds modules under the names that they had.

    Args:
        package: in which they were.
        moved: the new name of each within the package, by the old one; with a dot in front, the whole new name.
    """

    def __init__(self, package: str, moved: Mapping[str, str]) -> None:
        self._moved = {
            f"{package}.{old}": new[1:] if new.startswith(".") else f"{package}.{new}" for old, new in moved.items()
        }
        self._own_spec: dict[str, ModuleSpec | None] = {}

    def install(self) -> None:
        """Be asked for what no one else finds.

        A module whose old name is now a function's in the package is put in place at once, without a warning: were it
        found later, the import system would put it in the function's place.
        """
        for old, new in self._moved.items():
            package, _, name = old.rpartition(".")
            if hasattr(sys.modules.get(package), name):
                sys.modules[old] = import_module(new)
        sys.meta_path.append(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an old name; None for others."""
        return spec_from_loader(fullname, self) if fullname in self._moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, under its new name."""
        new = self._moved[spec.name]
        warnings.warn(f"{spec.name} is now {new}: import it from there", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._own_spec[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, in which the import system has put that of the old name."""
        assert module.__spec__ is not None
        module.__spec__ = self._own_spec.pop(module.__spec__.name)
