"""Files and folders that are written whole or not at all, and named arrays read without trusting what a file claims.

A process may be killed at any moment: what it was replacing is then what it was before, or what it was to be. (A power
failure may do worse: nothing here waits for the disk.) The format of arrays is NumPy's npz, without pickle and without
compression.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import fcntl
except ImportError:  # not on Windows: there, two processes must not save in one folder at once
    fcntl = None  # type: ignore[assignment]

_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"  # in names that other machines may see
_STAGE = ".saving"  # in a folder that is being replaced: its new files
_JOURNAL = "complete.json"  # in the stage, once all of them are there


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return `path` with "~" and "~name" replaced by the home folder, as a shell does.

    Raises:
        ValueError: there is no such home folder.

    >>> user_path("~/model") == Path.home() / "model"
    True
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)} names a home folder that is not known: {error}") from error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, to be written; it takes that name when the block ends well.

    It goes where the block does not. What a killed process left goes with the next call for the same `path`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "seven.txt") as partial:
    ...         _ = partial.write_text("7")
    ...     [file.name for file in Path(folder).iterdir()]
    ['seven.txt']
    """
    target = user_path(path)
    _sweep(target)
    partial = target.with_name(f".{target.name}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _sweep(target: Path) -> None:
    """Remove what processes of this machine that live no more were about to rename to `target`."""
    unfinished = re.compile(rf"\.{re.escape(target.name)}\.{_HOST}-(\d+)-[0-9a-f]{{8}}\.partial")
    with suppress(OSError):  # the folder's absence is for the caller to meet
        for name in os.listdir(target.parent):
            match = unfinished.fullmatch(name)
            if match and not _lives(int(match[1])):
                target.with_name(name).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if os.name == "nt":  # there, asking is killing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def whole_folder(
    path: str | os.PathLike[str], index: str, is_own: Callable[[str], bool], kept: Collection[str] = ()
) -> Iterator[Path]:
    """Yield an empty folder to be filled; its files replace an earlier call's in `path` when the block ends well.

    They are moved one by one, the index last, and the old index goes first: a reader who needs it never sees a
    mixture. Where the process is killed between, `completed`, which readers call, and the next call finish the work.
    The folder itself stays, and may be the working directory, a link or a mount point. Processes that write to it at
    once do so one after the other.

    Args:
        path: the folder; created if missing.
        index: the file without which the folder is nothing.
        is_own: of a file's path within the folder, "/" between its parts, whether an earlier call may have written it.
        kept: those of them that stay where they are not written anew.

    Raises:
        ValueError: `path` is a file, or holds something else than an earlier call wrote. Nothing is changed then.
        OSError: a file cannot be written.
    """
    folder = user_path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose a folder to save in")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _settle(folder, index)
        _check_replaceable(folder, index, is_own)
        stage = folder / _STAGE
        stage.mkdir()
        try:
            yield stage
            old = {name for name in _files_of(folder) if not name.startswith(_STAGE) and is_own(name)}
            journal = {"stale": sorted(old - set(_files_of(stage)) - set(kept))}
            with whole_file(stage / _JOURNAL) as partial:
                partial.write_text(json.dumps(journal), encoding="utf-8")
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        _settle(folder, index)


def completed(folder: Path, index: str) -> None:
    """Finish what a killed process was about to replace in a folder; most folders hold nothing of the kind.

    Raises:
        ValueError: it cannot be finished, since the folder cannot be written to.
    """
    if not (folder / _STAGE / _JOURNAL).is_file():
        return
    try:
        with _locked(folder):
            _settle(folder, index)
    except OSError as error:
        raise ValueError(
            f"{folder} was being saved when the process was killed, and the rest cannot be moved in place ({error}): "
            "make the folder writable"
        ) from error


def _settle(folder: Path, index: str) -> None:
    """Move complete new files in place, and remove incomplete ones; it may be called again after any interruption."""
    stage = folder / _STAGE
    if (stage / _JOURNAL).is_file():
        stale = json.loads((stage / _JOURNAL).read_text(encoding="utf-8"))["stale"]
        # A call that was killed has moved some of them, and left their folders empty
        new = [name for name in _files_of(stage) if name != _JOURNAL and not (stage / name).is_dir()]
        if index in new:
            (folder / index).unlink(missing_ok=True)
        for name in sorted(new, key=lambda name: name == index):
            if name == index:
                _remove(folder, stale)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).replace(folder / name)
    if stage.exists():
        shutil.rmtree(stage)


def _remove(folder: Path, names: Collection[str]) -> None:
    """Remove files, and folders that are empty then."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
        for parent in (folder / name).parents:
            if parent == folder:
                break
            with suppress(OSError):  # it holds other files
                parent.rmdir()


def _check_replaceable(folder: Path, index: str, is_own: Callable[[str], bool]) -> None:
    names = _files_of(folder)
    other = next((name for name in names if not is_own(name)), None)
    if other is None and names and index not in names:
        other = names[0]
    if other is not None:
        raise ValueError(
            f"{folder} holds {other}, which an earlier save did not write: choose another folder, or move it away"
        )


def _files_of(folder: Path) -> list[str]:
    """All files in a folder and below, links included, by their paths within it; empty folders count as files."""
    found = []
    for entry in sorted(folder.iterdir()):
        inner = _files_of(entry) if entry.is_dir() and not entry.is_symlink() else []
        found += [f"{entry.name}/{name}" for name in inner] or [entry.name]
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system lets go of it when the process ends, however that comes."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write `arrays` to `path`.

    The file is written under another name in the same folder and renamed, so that `path` never holds half a file.

    Raises:
        OSError: the file cannot be written.
        ValueError: an array holds Python objects, which would have to be pickled.
    """
    objects = [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]
    if objects:
        raise ValueError(f"{objects[0]} holds Python objects, which are not written: they would have to be pickled")
    with whole_file(path) as partial, partial.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # newer stubs know its other arguments


@contextmanager
def reading_what(method: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """A context in which a file of `method` is read: whatever it holds, the caller has one kind of error to expect.

    Raises:
        OSError: as in the context.
        ValueError: for every other exception, with the path.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is not a file that {method} wrote ({error})") from error


def read_arrays(path: str | os.PathLike[str], names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays that `write_arrays` wrote to `path`.

    Args:
        path: the file.
        names: the names that an array may have.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is not one that `write_arrays` wrote, or it holds an array of another name.
    """
    with user_path(path).open("rb") as file:
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
