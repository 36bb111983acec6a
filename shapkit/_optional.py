"""Imports of packages that only some features need.

An absent package is reported in one line that says which feature wanted it and how to install it.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str, purpose: str | None = None) -> ModuleType:
    """Return the imported `module`.

    Args:
        module: dotted name, as in an import statement.
        extra: the extra of the shapkit distribution that installs it.
        purpose: the feature that needs it, for the message.

    Raises:
        ImportError: the package is not installed. (An error inside an installed package is passed on as it
            is.)

    >>> require("json", "plots").__name__
    'json'
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
    wanted = f"{package} is needed for {purpose}" if purpose else f"{package} is needed"
    raise ImportError(f"{wanted}: pip install 'shapkit[{extra}]'", name=package)
