"""A swarm's chains on disk: one SQLite file with the newest snapshot and the batches above it. The shell for the disk.

What `append` was given is on disk when it returns, and stays there whatever ends the process or the machine (WAL,
synchronous=FULL). A file that turns out damaged is put aside as a whole: what was in it is at the peers, and of bytes
that changed by themselves none is to be believed; each row has a checksum, because SQLite looks at its own pages only.

All calls block: they belong into one worker thread, one at a time. The file is in use by one process: nobody else, not
even to read, until `close` or the process's end.
"""

import errno
import os
import sqlite3
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from shoal.transport.wire import Malformed

from .dots import Writer
from .operation import Stretch, read_batch

FILE_VERSION: Final = 1
FILE_BYTES_MAX: Final = 4 * 2**30
BATCHES_READ: Final = 64  # at once: at most 4 MB

_APPLICATION: Final = int.from_bytes(b"SHOA", "big")
_PAGE_BYTES: Final = 4096
_WAL_BYTES: Final = 4 * 2**20  # kept for the next writes

# An index of all batches by writer would make `append` four times as dear (measured: 57,000 rows/s for 265,000). Only
# the batches of forked writers have one: whoever forked can make others replace them again and again.
_SCHEMA: Final = (
    "CREATE TABLE about (swarm BLOB NOT NULL)",
    "CREATE TABLE snapshot (digest BLOB NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE TABLE pieces (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE batches (arrived INTEGER PRIMARY KEY, writer BLOB NOT NULL, last INTEGER NOT NULL, "
    "is_forked INTEGER NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE INDEX forked ON batches (writer) WHERE is_forked",
)
_CHECKED: Final = {
    "batches": "SELECT checksum, data, writer, last FROM batches",
    "pieces": "SELECT checksum, data FROM pieces",
    "snapshot": "SELECT checksum, digest FROM snapshot",
}


class Fault(Enum):
    """What keeps a store from being used."""

    FULL = "full"  # the disk or the file's own limit; what was to be written is not, and may be tried again
    DAMAGED = "damaged"  # while it was in use: the next `load` puts it aside
    IN_USE = "in use"
    NEWER = "newer"
    OTHER = "other"  # it is another swarm's
    DISK = "disk"  # cannot be read or written, no permission


class StoreError(Exception):
    """The message says what is wrong, and what to do."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    digest: bytes
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was on disk. The iterators read it bit by bit, and may raise StoreError."""

    snapshot: StoredSnapshot | None
    batches: Iterator[bytes]  # in the order of their arrival: none follows one that comes later
    # What this node had written may be lost. It must write nothing before its peers have told it the newest operation
    # of its own chain, and `Store.recovered` was called: it would write a second history.
    is_damaged: bool


class Store:
    """See the module's text.

    Args:
        path: of the file, made if it is missing. Two more names, with `-wal` and `.damaged` at their end, belong to it.
        swarm: its id.
        bytes_max: of the file. While it is compacted, the disk needs as much again.

    Raises:
        StoreError: as all calls do.
    """

    def __init__(self, path: Path, swarm: bytes, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = path
        self._swarm = swarm
        self._bytes_max = bytes_max
        self._aside = path.with_name(f"{path.name}.damaged")
        try:
            self._connection = self._open()
        except StoreError as error:
            if error.fault is not Fault.DAMAGED:
                raise
            self._connection = self._begin_anew()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def load(self) -> Loaded:
        """All that is stored, once it is known to be whole."""
        try:
            with _faults(self._path):
                self._check()
        except StoreError as error:
            if error.fault is not Fault.DAMAGED:
                raise
            self._connection.close()
            self._connection = self._begin_anew()
        with _faults(self._path):
            row = self._connection.execute("SELECT digest FROM snapshot").fetchone()
        snapshot = None if row is None else StoredSnapshot(row[0], self._datas("pieces", "number", 1))
        return Loaded(snapshot, self._datas("batches", "arrived", BATCHES_READ), self._aside.exists())

    def append(self, batches: Sequence[Stretch]) -> None:
        """Put batches on disk, in the order in which a replica took them. All or, if it raises, none."""
        with self._transaction():
            self._insert(batches, self._forked)

    def replace(self, writer: Writer, batches: Sequence[bytes]) -> None:
        """Put these, in this order, in the place of all batches of a writer that has forked."""
        wanted = dict.fromkeys(batches)
        query = f"SELECT arrived, data FROM batches WHERE writer = ? {'AND is_forked' * (writer in self._forked)}"
        with self._transaction():
            rows = self._connection.execute(query, (writer,)).fetchall()
            there = {data for _, data in rows}
            gone = [(arrived,) for arrived, data in rows if data not in wanted]
            self._connection.executemany("DELETE FROM batches WHERE arrived = ?", gone)
            if writer not in self._forked:
                self._connection.execute("UPDATE batches SET is_forked = 1 WHERE writer = ?", (writer,))
            self._insert([_read(data) for data in wanted if data not in there], {writer})
        self._forked.add(writer)

    def compact(self, pieces: Iterable[bytes], digest: bytes, frontier: Mapping[Writer, int]) -> None:
        """Put a snapshot in the place of the one before and of all batches that end at or below the frontier."""
        with self._transaction():
            self._connection.execute("DELETE FROM pieces")
            self._connection.execute("DELETE FROM snapshot")
            self._connection.execute("INSERT INTO snapshot VALUES (?, ?)", (digest, _checksum(digest)))
            rows = ((_checksum(piece), piece) for piece in pieces)
            self._connection.executemany("INSERT INTO pieces (checksum, data) VALUES (?, ?)", rows)
            self._connection.execute("CREATE TEMP TABLE frontier (writer BLOB PRIMARY KEY, number INTEGER)")
            self._connection.executemany("INSERT INTO frontier VALUES (?, ?)", frontier.items())
            self._connection.execute(
                "DELETE FROM batches WHERE last <= (SELECT number FROM frontier WHERE writer = batches.writer)"
            )
            self._connection.execute("DROP TABLE temp.frontier")
        self._shrink()

    def copy_to(self, path: Path) -> None:
        """Put all that is stored now into a file of its own, which is not there yet: for others to look at."""
        with _faults(path):
            self._connection.execute("VACUUM INTO ?", (str(path),))

    def recovered(self) -> None:
        """What the damaged file lost has come back from the peers: the node may write again, and the file goes."""
        with _faults(self._path):
            for path in (_wal(self._aside), self._aside):
                path.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        with _faults(self._path):
            if not self._path.exists():
                _create(self._path, self._swarm)
            os.chmod(self._path, 0o600)  # SQLite gives the same to the WAL
            # Whichever of the pool's threads the worker thread is: calls come one at a time.
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            connection.text_factory = bytes  # only a damaged file has text in it
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = OFF")  # Debian's SQLite would write zeros over all that is deleted
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute(f"PRAGMA max_page_count = {self._bytes_max // _PAGE_BYTES}")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION or version < 1:
            raise StoreError(Fault.DAMAGED, f"{self._path} is not a store")
        if version > FILE_VERSION:
            raise StoreError(
                Fault.NEWER, f"{self._path} has format {version} and needs a newer Shoal than this, which reads 1"
            )
        if _tables(connection) != _expected_tables():
            raise StoreError(Fault.DAMAGED, f"{self._path} has other tables than a store")
        connection.execute("BEGIN IMMEDIATE")  # takes the lock, which stays
        connection.execute("COMMIT")
        (swarm,) = connection.execute("SELECT swarm FROM about").fetchone() or (None,)
        if not isinstance(swarm, bytes):
            raise StoreError(Fault.DAMAGED, f"{self._path} does not say whose it is")
        if swarm != self._swarm:
            raise StoreError(
                Fault.OTHER,
                f"{self._path} is the store of swarm {swarm.hex()[:16]}, not of {self._swarm.hex()[:16]}. "
                "Move it back to where it belongs; the node then fetches this swarm's state from its peers.",
            )
        writers = connection.execute("SELECT DISTINCT writer FROM batches WHERE is_forked")
        self._forked = {Writer(writer) for (writer,) in writers}  # all of whose batches are marked

    def _begin_anew(self) -> sqlite3.Connection:
        # The file first: that it lies there is what says that something was lost, from this moment on.
        with _faults(self._path):
            os.replace(self._path, self._aside)
            with suppress(FileNotFoundError):
                os.replace(_wal(self._path), _wal(self._aside))
            _sync_folder(self._path.parent)
        return self._open()

    def _check(self) -> None:
        (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != b"ok":
            raise StoreError(Fault.DAMAGED, f"{self._path} is damaged: {verdict.decode(errors='replace')}")
        for name, query in _CHECKED.items():
            for checksum, data, *beside in self._connection.execute(query):
                if not isinstance(data, bytes) or _checksum(data, *beside) != checksum:
                    raise StoreError(Fault.DAMAGED, f"{self._path} is damaged: a row of {name} has changed by itself")

    def _datas(self, table: str, key: str, count: int) -> Iterator[bytes]:
        after = 0
        query = f"SELECT {key}, data FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {count}"
        while True:  # not one statement: the file may change between two rows
            with _faults(self._path):
                rows = self._connection.execute(query, (after,)).fetchall()
            if not rows:
                return
            yield from (data for _, data in rows)
            after = rows[-1][0]

    def _insert(self, batches: Iterable[Stretch], forked: Set[Writer]) -> None:
        self._connection.executemany(
            "INSERT INTO batches (writer, last, is_forked, checksum, data) VALUES (?, ?, ?, ?, ?)",
            [
                (each.writer, each.last, each.writer in forked, _checksum(each.data, each.writer, each.last), each.data)
                for each in batches
            ],
        )

    def _shrink(self) -> None:
        """Give the space back, as far as there is room to: the compaction itself is done."""
        try:
            with _faults(self._path):
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except StoreError as error:
            if error.fault is not Fault.FULL:
                raise

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with _faults(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):  # what led here is what matters
                        self._connection.execute("ROLLBACK")


def _checksum(data: bytes, *beside: object) -> int:
    """Of a row's data and what stands beside it: not against liars, who cannot write here."""
    return zlib.crc32(data, zlib.crc32(repr(beside).encode()) if beside else 0)


def _read(data: bytes) -> Stretch:
    stretch = read_batch(data)
    if isinstance(stretch, Malformed):
        raise ValueError(stretch.reason)  # it came from a replica
    return stretch


def _create(path: Path, swarm: bytes) -> None:
    """A store under its name is whole: it is made under another."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.new")
    for left in (draft, _wal(draft), _wal(path)):
        left.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO about VALUES (?)", (swarm,))
        connection.execute("COMMIT")
    finally:
        connection.close()
    os.replace(draft, path)
    _sync_folder(path.parent)


def _tables(connection: sqlite3.Connection) -> set[tuple[bytes, ...]]:
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _expected_tables() -> set[tuple[bytes, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.text_factory = bytes
        for statement in _SCHEMA:
            connection.execute(statement)
        return _tables(connection)


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_FULL: Final = "the disk, or the store's own limit, is full. Free some space, or raise the limit."
_DAMAGED: Final = (
    "it is damaged. Start the node again: it then puts the file aside and asks its peers for what was in it."
)
_FAULTS: Final = {
    sqlite3.SQLITE_FULL: (Fault.FULL, _FULL),
    sqlite3.SQLITE_CORRUPT: (Fault.DAMAGED, _DAMAGED),
    sqlite3.SQLITE_NOTADB: (Fault.DAMAGED, _DAMAGED),
    sqlite3.SQLITE_BUSY: (Fault.IN_USE, "another process uses it. Stop that node, or choose another --data-dir."),
}


@contextmanager
def _faults(path: Path) -> Generator[None]:
    """Turn what SQLite and the system raise into StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest says where it happened
        fault, advice = _FAULTS.get(code, (Fault.DISK, f"{error}. Look after the disk and the file's permissions."))
        raise StoreError(fault, f"the store {path} cannot be used: {advice}") from error
    except UnicodeDecodeError as error:  # SQLite's message has words of a damaged schema in it
        raise StoreError(Fault.DAMAGED, f"the store {path} cannot be used: {_DAMAGED}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(Fault.FULL, f"the store {path} cannot be used: {_FULL}") from error
        advice = f"{error.strerror}. Choose another place with --data-dir."
        raise StoreError(Fault.DISK, f"the store {path} cannot be used: {advice}") from error
