"""A store of payoffs by coalition, so that none is paid for twice: in memory, or in a file that outlives the process.

`Game` looks coalitions up in it and adds to it; a user makes one and closes it.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapkit._checks import positive_integer
from shapkit._files import user_path

_FORMAT = "shapkit.CoalitionCache 1"
_APPLICATION_ID = 0x53484B31  # "SHK1": in the header of the file, at byte 68, so that others' files are not opened
_SCHEMA = (
    "CREATE TABLE facts(name TEXT PRIMARY KEY, fact TEXT NOT NULL)",
    "CREATE TABLE payoffs(key BLOB PRIMARY KEY, payoff BLOB NOT NULL)",
)
_LARGEST_FACT = 2**24  # characters: the names of any game that can be evaluated take less
_KEYS_PER_QUERY = 900  # older builds of SQLite take no more than 999 parameters
_WAIT_SECONDS = 60.0  # for another process to finish writing
_OWN_CACHE = "give each game a cache of its own"
_ENTRY_BYTES = 240  # the most Python takes for an entry in memory, besides the bytes of its key and its payoff


class CoalitionCache:
    """Payoffs by coalition, of one game, bounded in size.

    It belongs to the first game that uses it, and refuses others by their players, names and payoff shape. It
    cannot know whether the value function is still the same: say in `key` what the payoffs depend on, such as the
    checksum of a model, and a file made under another key is refused.

    A copy, and one that another process unpickles, has what this one holds in memory and goes on by itself; a file is
    opened again and shared.

    In memory, the least recently used coalitions go when the bound is reached. In a file, the oldest go; each
    batch that the game evaluates is committed as it is complete, so that a process which is killed resumes without
    paying for it again, and several processes on one machine may share the file. It is an SQLite database (keep
    the "-wal" file beside it, which holds the latest batches until the cache is closed), and nothing in it is ever
    executed or unpickled. It survives the process's being killed at any time; a power failure may take the last
    batches.

    Args:
        path: the file, created if missing; by default the store is in memory.
        max_bytes: the most it takes, keys and bookkeeping included. By default 256 MiB: all coalitions of a scalar
            game of 20 players in memory, of 21 in a file.
        key: what the payoffs depend on besides the coalition, in your own words.

    Attributes:
        output_shape: the shape of its payoffs; None while that is unknown.

    Raises:
        ValueError: an argument is not as described, the file is not one that a CoalitionCache wrote, or it belongs
            to another game or key. Such a file is left as it is.
        OSError: the file cannot be opened, read or written.

    >>> import shapkit
    >>> with CoalitionCache(max_bytes=2**20) as cache:
    ...     game = shapkit.Game(lambda coalitions: coalitions.sum(axis=1), n_players=4, cache=cache)
    ...     phi, psi = shapkit.exact(game), shapkit.exact(game, "banzhaf")
    ...     game.n_evaluations, game.n_cache_hits, len(cache)
    (16, 16, 16)
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, max_bytes: int = 2**28, key: str = "") -> None:
        if not isinstance(key, str) or len(key) > _LARGEST_FACT:
            raise ValueError(f"key must be a string that describes the game, got {reprlib.repr(key)}")
        self.path = None if path is None else user_path(path).absolute()
        self.max_bytes = positive_integer("max_bytes", max_bytes)
        self.key = key
        self.output_shape: tuple[int, ...] | None = None
        self._game: tuple[int, tuple[str, ...]] | None = None
        self._store: _Memory | _File | None = None
        self._closed = False
        self._lock = Lock()
        if self.path is not None:
            _check_file(self.path)

    def bind(self, n_players: int, names: Sequence[str]) -> None:
        """Make this the cache of the game with these players, as `Game` does; a file is opened or made here.

        Raises:
            ValueError: it belongs to another game, or the file is not what it should be.
            OSError: the file cannot be opened, read or written.
        """
        game = (n_players, tuple(names))
        with self._lock:
            self._check_open()
            if self._game is not None:
                _check_same_game("the cache", _facts(*self._game, self.key), _facts(*game, self.key))
            elif self.path is None:
                self._store = _Memory()
            else:
                self._store = _File(self.path, _facts(*game, self.key))
                self.output_shape = self._stored_shape(self._store)
            self._game = game

    def get(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which coalitions it holds, and their payoffs.

        Args:
            keys: as from `coalition_keys`.

        Returns:
            bool array (n_keys,), and a float64 array (n_held, *output_shape), in the order of the keys.

        Raises:
            ValueError: the file is damaged, or the cache is closed or bound to no game.
            OSError: the file cannot be read.
        """
        with self._lock:
            store = self._bound_store()
            if self.output_shape is None and isinstance(store, _File):  # another process may know it by now
                self.output_shape = self._stored_shape(store)
            if self.output_shape is None:
                return np.zeros(len(keys), dtype=np.bool_), np.empty(0)
            payoffs = store.get(keys, 8 * math.prod(self.output_shape))
            held = np.array([payoff is not None for payoff in payoffs], dtype=np.bool_)
            joined = b"".join(payoff for payoff in payoffs if payoff is not None)
        floats = np.frombuffer(joined, dtype="<f8").astype(np.float64)
        return held, floats.reshape(int(held.sum()), *self.output_shape)

    def put(self, keys: Sequence[bytes], payoffs: NDArray[np.float64]) -> None:
        """Add payoffs, all or, where the process is killed, none of them; what is held already stays as it is.

        Args:
            keys: as from `coalition_keys`.
            payoffs: float64 array (n_keys, *output_shape).

        Raises:
            ValueError: the payoffs have another shape than those held, `max_bytes` is too little for even one of
                them, or the cache is closed or bound to no game.
            OSError: the file cannot be written.
        """
        if not keys:
            return
        rows = np.ascontiguousarray(payoffs, dtype="<f8").reshape(len(keys), -1)
        with self._lock:
            store = self._bound_store()
            shape = payoffs.shape[1:]
            if self.output_shape not in (None, shape):
                raise ValueError(
                    f"payoffs have shape {shape}, but the cache holds payoffs of shape {self.output_shape}"
                )
            entry_bytes = store.entry_bytes(len(keys[0]), 8 * rows.shape[1])
            most = self.max_bytes // entry_bytes
            if most == 0:
                raise ValueError(f"max_bytes is {self.max_bytes}, but one payoff of shape {shape} takes {entry_bytes}")
            store.put(keys[-most:], rows.view(f"V{8 * rows.shape[1]}").ravel()[-most:].tolist(), most, shape)
            self.output_shape = shape

    def close(self) -> None:
        """Close the file, or forget what is in memory. A closed cache cannot be used again.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
                self._store = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: a copy of what is in memory, or where the file is, which is opened again."""
        with self._lock:
            state = {name: value for name, value in vars(self).items() if name not in ("_lock", "_store")}
            return {**state, "held": self._store.copied() if isinstance(self._store, _Memory) else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = state.pop("held")
        vars(self).update(state, _lock=Lock(), _store=held)
        if self.path is not None and self._game is not None and not self._closed:
            self._store = _File(self.path, _facts(*self._game, self.key))

    def __enter__(self) -> CoalitionCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many coalitions it holds; 0 once it is closed."""
        with self._lock:
            return 0 if self._store is None else self._store.count()

    def __bool__(self) -> bool:
        return True  # an empty cache is a cache

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else repr(str(self.path))
        return f"CoalitionCache({where}, max_bytes={self.max_bytes})"

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self!r} is closed: make a new one")

    def _bound_store(self) -> _Memory | _File:
        self._check_open()
        if self._store is None:
            raise ValueError("the cache belongs to no game yet: give it to one, shapkit.Game(..., cache=cache)")
        return self._store

    def _stored_shape(self, store: _File) -> tuple[int, ...] | None:
        shape = store.output_shape()
        if shape is not None and 8 * math.prod(shape) > self.max_bytes:
            raise ValueError(f"max_bytes is {self.max_bytes}, but {self.path} holds payoffs of shape {shape}")
        return shape


def coalition_keys(coalitions: NDArray[np.bool_]) -> list[bytes]:
    """Return one key per coalition: its bitmask in big-endian bytes, padded with zero bits at the end.

    Big-endian, so that coalitions in the order of their masks have keys in order, which a file takes in faster.

    Args:
        coalitions: bool array (n_coalitions, n_players).

    >>> coalition_keys(np.array([[False, False], [True, False], [True, True]]))
    [b'\\x00', b'@', b'\\xc0']
    """
    packed = np.packbits(coalitions[:, ::-1], axis=1)
    if packed.shape[1] == 0:
        return [b""] * len(packed)
    keys: list[bytes] = packed.view(f"V{packed.shape[1]}").ravel().tolist()
    return keys


class _Memory:
    """Payoffs by key, the least recently used first."""

    def __init__(self) -> None:
        self.payoffs: OrderedDict[bytes, bytes] = OrderedDict()

    def entry_bytes(self, key_bytes: int, payoff_bytes: int) -> int:
        return key_bytes + payoff_bytes + _ENTRY_BYTES

    def get(self, keys: Sequence[bytes], payoff_bytes: int) -> list[bytes | None]:
        payoffs = [self.payoffs.get(key) for key in keys]
        for key, payoff in zip(keys, payoffs, strict=True):
            if payoff is not None:
                self.payoffs.move_to_end(key)
        return payoffs

    def put(self, keys: Sequence[bytes], payoffs: Sequence[bytes], most: int, shape: tuple[int, ...]) -> None:
        while len(self.payoffs) > most - len(keys):
            self.payoffs.popitem(last=False)
        for key, payoff in zip(keys, payoffs, strict=True):
            self.payoffs.setdefault(key, payoff)

    def count(self) -> int:
        return len(self.payoffs)

    def close(self) -> None:
        self.payoffs.clear()

    def copied(self) -> _Memory:
        other = _Memory()
        other.payoffs.update(self.payoffs)
        return other


class _File:
    """Payoffs by key in an SQLite file, the oldest first, and the facts about the game that they belong to."""

    def __init__(self, path: Path, facts: dict[str, str]) -> None:
        self.path = path
        with self._errors():
            self.connection = sqlite3.connect(
                path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare(facts)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, facts: dict[str, str]) -> None:
        self.connection.text_factory = lambda text: text.decode(errors="replace")
        self.connection.execute("PRAGMA trusted_schema = OFF")
        with self._transaction():
            schema = [sql for (sql,) in self.connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
            if not schema:
                self.connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                for table in _SCHEMA:
                    self.connection.execute(table)
                self.connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            elif sorted(schema) != sorted(_SCHEMA):
                raise ValueError(_not_ours(self.path))
            else:
                _check_same_game(str(self.path), self._stored_facts(), facts)
        # With a write-ahead log a commit does not wait for the disk: 0.1 ms and not 15. It is the same file without.
        with suppress(sqlite3.OperationalError):
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")

    def output_shape(self) -> tuple[int, ...] | None:
        with self._errors():
            fact = self._stored_facts().get("output_shape")
        if fact is None:
            return None
        try:
            shape = json.loads(fact)
        except (ValueError, RecursionError):
            shape = None
        if not isinstance(shape, list) or not all(type(length) is int and length > 0 for length in shape):
            raise ValueError(_damaged(self.path, "the shape of its payoffs is not a list of lengths"))
        return tuple(shape)

    def entry_bytes(self, key_bytes: int, payoff_bytes: int) -> int:
        # A row of the table and one of the index, which holds the key again.
        return _bytes_in_pages(key_bytes + payoff_bytes) + _bytes_in_pages(key_bytes)

    def get(self, keys: Sequence[bytes], payoff_bytes: int) -> list[bytes | None]:
        # A payoff of another size is not even read: it may be as large as memory.
        select = "SELECT key, CASE WHEN typeof(payoff) = 'blob' AND length(payoff) = ? THEN payoff END FROM payoffs"
        held: dict[bytes, bytes] = {}
        with self._errors():
            for first in range(0, len(keys), _KEYS_PER_QUERY):
                chunk = keys[first : first + _KEYS_PER_QUERY]
                marks = ", ".join("?" * len(chunk))
                held.update(self.connection.execute(f"{select} WHERE key IN ({marks})", (payoff_bytes, *chunk)))
        if None in held.values():
            raise ValueError(_damaged(self.path, f"a payoff does not have {payoff_bytes} bytes"))
        return [held.get(key) for key in keys]

    def put(self, keys: Sequence[bytes], payoffs: Sequence[bytes], most: int, shape: tuple[int, ...]) -> None:
        with self._errors(), self._transaction():
            fact = json.dumps(shape)
            self.connection.execute("INSERT OR IGNORE INTO facts VALUES ('output_shape', ?)", (fact,))
            if self.output_shape() != shape:  # another process was first
                raise ValueError(f"payoffs have shape {shape}, but {self.path} holds payoffs of another shape")
            # Row numbers have no gaps: new rows get the next ones, and the oldest go first.
            oldest = "rowid <= (SELECT max(rowid) FROM payoffs) - ?"
            self.connection.execute(f"DELETE FROM payoffs WHERE {oldest}", (most - len(keys),))
            rows = zip(keys, payoffs, strict=True)
            self.connection.executemany("INSERT OR IGNORE INTO payoffs VALUES (?, ?)", rows)

    def count(self) -> int:
        with self._errors():
            number: int = self.connection.execute("SELECT count(*) FROM payoffs").fetchone()[0]
        return number

    def close(self) -> None:
        with self._errors():
            self.connection.close()

    def _stored_facts(self) -> dict[str, str]:
        select = "SELECT name, fact FROM facts WHERE typeof(fact) = 'text' AND length(fact) <= ? LIMIT 16"
        return dict(self.connection.execute(select, (_LARGEST_FACT,)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # it may have rolled back by itself, as on a full disk
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Pass SQLite's errors on as the two kinds that callers are told of."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(f"the cache file {self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(_damaged(self.path, str(error))) from error


def _bytes_in_pages(record_bytes: int) -> int:
    """The most a record takes in the file: pages may be half empty, and large records fill pages of their own."""
    return 2 * record_bytes + 32 if record_bytes < 900 else record_bytes + 2 * 4096


def _facts(n_players: int, names: tuple[str, ...], key: str) -> dict[str, str]:
    return {"format": _FORMAT, "key": key, "n_players": str(n_players), "names": json.dumps(names)}


def _check_same_game(where: str, stored: dict[str, str], given: dict[str, str]) -> None:
    """Raise a ValueError that says in what the facts of a cache differ from those of the game at hand."""
    fact = next((name for name, expected in given.items() if stored.get(name) != expected), None)
    if fact is None:
        return
    there, here = stored.get(fact), given[fact]
    if there is None or fact == "format":
        raise ValueError(f"{where} has format {reprlib.repr(there)}, this version of shapkit reads {_FORMAT!r} only")
    if fact == "key":
        raise ValueError(f"{where} was made with key {reprlib.repr(there)}, got key {reprlib.repr(here)}: {_OWN_CACHE}")
    if fact == "n_players":
        raise ValueError(f"{where} is of a game of {reprlib.repr(there)} players, this one has {here}: {_OWN_CACHE}")
    raise ValueError(
        f"{where} is of a game whose players have other names than {reprlib.repr(json.loads(here))}: {_OWN_CACHE}"
    )


def _check_file(path: Path) -> None:
    """Raise an error where `path` is neither free nor a file that a CoalitionCache wrote; it is only read."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of the cache file {path} does not exist")
    if not path.exists():
        return
    with path.open("rb") as file:
        header = file.read(100)
    if not header:  # made for us, or by a process that was killed before it wrote
        return
    if header[:16] != b"SQLite format 3\0" or header[68:72] != _APPLICATION_ID.to_bytes(4, "big"):
        raise ValueError(_not_ours(path))


def _not_ours(path: Path) -> str:
    return f"{path} is not a file that a CoalitionCache wrote: give a path where there is no file yet"


def _damaged(path: Path, what: str) -> str:
    return f"the cache file {path} is damaged ({what}): delete it, or give another path"
