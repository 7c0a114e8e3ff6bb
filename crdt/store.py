"""A swarm's chains on disk: one SQLite file with the newest snapshot and the batches above it. The shell for the disk.

What `append` was given is on disk when it returns, and stays there whatever ends the process or the machine. A file
that turns out damaged is put aside as a whole: what was in it is at the peers, and of bytes that changed by themselves
none is to be believed.

All calls block: they belong into one worker thread, one at a time. The file is in use by one process: nobody else, not
even to read, until `close` or the process's end.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.transport.wire import Malformed

from .dots import Writer
from .file_service import Fault as Fault
from .file_service import (
    Format,
    aside,
    check,
    checksum,
    claim,
    create,
    faults,
    forget_aside,
    limit,
    put_aside,
    recognize,
    transaction,
)
from .file_service import StoreError as StoreError
from .operation import Stretch, read_batch

FILE_VERSION: Final = 1
FILE_BYTES_MAX: Final = 4 * 2**30
BATCHES_READ: Final = 64  # at once: at most 4 MB

# An index of all batches by writer would make `append` four times as dear (measured: 57,000 rows/s for 265,000). Only
# the batches of forked writers have one: whoever forked can make others replace them again and again.
_SCHEMA: Final = (
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
_FORMAT: Final = Format("store", b"SHOA", FILE_VERSION, _SCHEMA, _CHECKED)


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
            with faults(self._path):
                check(self._connection, self._path, _FORMAT)
        except StoreError as error:
            if error.fault is not Fault.DAMAGED:
                raise
            self._connection.close()
            self._connection = self._begin_anew()
        with faults(self._path):
            row = self._connection.execute("SELECT digest FROM snapshot").fetchone()
        snapshot = None if row is None else StoredSnapshot(row[0], self._datas("pieces", "number", 1))
        return Loaded(snapshot, self._datas("batches", "arrived", BATCHES_READ), aside(self._path).exists())

    def append(self, batches: Sequence[Stretch]) -> None:
        """Put batches on disk, in the order in which a replica took them. All or, if it raises, none."""
        with transaction(self._connection, self._path):
            self._insert(batches, self._forked)

    def replace(self, writer: Writer, batches: Sequence[bytes]) -> None:
        """Put these, in this order, in the place of all batches of a writer that has forked."""
        wanted = dict.fromkeys(batches)
        query = f"SELECT arrived, data FROM batches WHERE writer = ? {'AND is_forked' * (writer in self._forked)}"
        with transaction(self._connection, self._path):
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
        with transaction(self._connection, self._path):
            self._connection.execute("DELETE FROM pieces")
            self._connection.execute("DELETE FROM snapshot")
            self._connection.execute("INSERT INTO snapshot VALUES (?, ?)", (digest, checksum(digest)))
            rows = ((checksum(piece), piece) for piece in pieces)
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
        with faults(path):
            self._connection.execute("VACUUM INTO ?", (str(path),))

    def recovered(self) -> None:
        """What the damaged file lost has come back from the peers: the node may write again, and the file goes."""
        with faults(self._path):
            forget_aside(self._path)

    def _open(self) -> sqlite3.Connection:
        with faults(self._path):
            if not self._path.exists():
                create(self._path, _FORMAT, self._swarm)
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
        limit(connection, self._bytes_max)
        recognize(connection, self._path, _FORMAT)
        connection.execute("BEGIN IMMEDIATE")  # takes the lock, which stays
        connection.execute("COMMIT")
        claim(connection, self._path, _FORMAT, self._swarm)
        writers = connection.execute("SELECT DISTINCT writer FROM batches WHERE is_forked")
        self._forked = {Writer(writer) for (writer,) in writers}  # all of whose batches are marked

    def _begin_anew(self) -> sqlite3.Connection:
        with faults(self._path):
            put_aside(self._path)
        return self._open()

    def _datas(self, table: str, key: str, count: int) -> Iterator[bytes]:
        after = 0
        query = f"SELECT {key}, data FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {count}"
        while True:  # not one statement: the file may change between two rows
            with faults(self._path):
                rows = self._connection.execute(query, (after,)).fetchall()
            if not rows:
                return
            yield from (data for _, data in rows)
            after = rows[-1][0]

    def _insert(self, batches: Iterable[Stretch], forked: Set[Writer]) -> None:
        self._connection.executemany(
            "INSERT INTO batches (writer, last, is_forked, checksum, data) VALUES (?, ?, ?, ?, ?)",
            [
                (each.writer, each.last, each.writer in forked, checksum(each.data, each.writer, each.last), each.data)
                for each in batches
            ],
        )

    def _shrink(self) -> None:
        """Give the space back, as far as there is room to: the compaction itself is done."""
        try:
            with faults(self._path):
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except StoreError as error:
            if error.fault is not Fault.FULL:
                raise


def _read(data: bytes) -> Stretch:
    stretch = read_batch(data)
    if isinstance(stretch, Malformed):
        raise ValueError(stretch.reason)  # it came from a replica
    return stretch
