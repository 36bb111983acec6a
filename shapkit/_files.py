"""Named arrays in one file: written whole or not at all, and read without trusting what the file claims.

The format is NumPy's npz, without pickle and without compression.
"""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write `arrays` to `path`.

    The file is written under another name in the same folder and renamed, so that `path` never holds half a file.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read_arrays(path: str | os.PathLike[str], names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays that `write_arrays` wrote to `path`.

    Args:
        path: the file.
        names: the names that an array may have.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is not one that `write_arrays` wrote, or it holds an array of another name.
    """
    with Path(path).open("rb") as file:
        try:
            _check_members(zipfile.ZipFile(file).infolist(), os.fstat(file.fileno()).st_size, names)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as error:  # NumPy and zipfile raise many kinds, MemoryError among them, on malformed files
            raise ValueError(str(error) or type(error).__name__) from error


def _check_members(members: list[zipfile.ZipInfo], file_size: int, names: Collection[str]) -> None:
    """Raise a ValueError where the archive would unpack to more than the bytes of the file itself.

    `write_arrays` does not compress, so that nothing it wrote can be larger than its file. A small file that claims
    to hold much more is made to exhaust the memory.
    """
    unknown = sorted({member.filename for member in members} - {f"{name}.npy" for name in names})
    if unknown:
        raise ValueError(f"it holds {unknown[0]!r}, which does not belong there")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it holds two arrays of one name")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its arrays are compressed")
    if sum(member.file_size for member in members) > file_size:
        raise ValueError(f"its arrays claim to be larger than the file's {file_size} bytes")
