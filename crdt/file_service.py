"""A SQLite file of a swarm's: made whole or not at all, recognized, checked, put aside when damaged, its faults named.

What is committed is on disk, and stays there whatever ends the process or the machine (WAL, synchronous=FULL). Each row
has a checksum, because SQLite looks at its own pages only; it is not against liars, who cannot write here.
"""

import errno
import os
import sqlite3
import zlib
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = 4096
_WAL_BYTES: Final = 4 * 2**20  # kept for the next writes


class Fault(Enum):
    """What keeps a file from being used."""

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
class Format:
    """What a file of this kind has in it, beside the table that says whose it is."""

    noun: str  # as people are told of it
    application: bytes  # four letters, by which it is recognized
    version: int
    schema: tuple[str, ...]
    checked: Mapping[str, str]  # by table: a query for the checksum, the data, and what stands beside it

    @property
    def statements(self) -> tuple[str, ...]:
        return ("CREATE TABLE about (swarm BLOB NOT NULL)", *self.schema)


def checksum(data: bytes, *beside: object) -> int:
    """Of a row's data and what stands beside it."""
    return zlib.crc32(data, zlib.crc32(repr(beside).encode()) if beside else 0)


def create(path: Path, format: Format, swarm: bytes) -> None:
    """A file under its name is whole: it is made under another."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.new")
    for left in (draft, _wal(draft), _wal(path), _index(path)):
        left.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id = {int.from_bytes(format.application, 'big')}")
        connection.execute(f"PRAGMA user_version = {format.version}")
        for statement in format.statements:
            connection.execute(statement)
        connection.execute("INSERT INTO about VALUES (?)", (swarm,))
        connection.execute("COMMIT")
    finally:
        connection.close()
    os.replace(draft, path)
    _sync_folder(path.parent)


def limit(connection: sqlite3.Connection, bytes_max: int) -> None:
    """What a connection needs that writes."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = OFF")  # Debian's SQLite would write zeros over all that is deleted
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    connection.execute(f"PRAGMA max_page_count = {bytes_max // _PAGE_BYTES}")


def open_reading(path: Path, format: Format, swarm: bytes, wait_s: float) -> sqlite3.Connection:
    """To read what another process or thread may write meanwhile; of several threads one at a time. Raises StoreError.

    Args:
        wait_s: for who writes.
    """
    with faults(path):
        address = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(address, uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes
        try:
            recognize(connection, path, format)
            claim(connection, path, format, swarm)
        except BaseException:
            connection.close()
            raise
        return connection


def recognize(connection: sqlite3.Connection, path: Path, format: Format) -> None:
    """Raises StoreError if it is not of this format."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != int.from_bytes(format.application, "big") or version < 1:
        raise StoreError(Fault.DAMAGED, f"{path} is not a {format.noun}")
    if version > format.version:
        raise StoreError(
            Fault.NEWER,
            f"{path} has format {version} and needs a newer Shoal than this, which reads {format.version}",
        )
    if _tables(connection) != _expected_tables(format):
        raise StoreError(Fault.DAMAGED, f"{path} has other tables than a {format.noun}")


def claim(connection: sqlite3.Connection, path: Path, format: Format, swarm: bytes) -> None:
    """Raises StoreError if it is not this swarm's."""
    (found,) = connection.execute("SELECT swarm FROM about").fetchone() or (None,)
    if not isinstance(found, bytes):
        raise StoreError(Fault.DAMAGED, f"{path} does not say whose it is")
    if found != swarm:
        raise StoreError(
            Fault.OTHER,
            f"{path} is the {format.noun} of swarm {found.hex()[:16]}, not of {swarm.hex()[:16]}. "
            f"Move it back to where it belongs; the node then fetches this swarm's {format.noun} from its peers.",
        )


def check(connection: sqlite3.Connection, path: Path, format: Format) -> None:
    """Raises StoreError if anything in it has changed by itself."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != b"ok":
        raise StoreError(Fault.DAMAGED, f"{path} is damaged: {verdict.decode(errors='replace')}")
    for name, query in format.checked.items():
        for sum, data, *beside in connection.execute(query):
            if not isinstance(data, bytes) or checksum(data, *beside) != sum:
                raise StoreError(Fault.DAMAGED, f"{path} is damaged: a row of {name} has changed by itself")


def aside(path: Path) -> Path:
    """Where a damaged file goes."""
    return path.with_name(f"{path.name}.damaged")


def put_aside(path: Path) -> None:
    # The file first: that it lies there is what says that something was lost, from this moment on.
    os.replace(path, aside(path))
    with suppress(FileNotFoundError):
        os.replace(_wal(path), _wal(aside(path)))
    _index(path).unlink(missing_ok=True)
    _sync_folder(path.parent)


def forget_aside(path: Path) -> None:
    """What the damaged file lost has come back."""
    for left in (_wal(aside(path)), aside(path)):
        left.unlink(missing_ok=True)


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Generator[None]:
    """All or, if it raises, nothing."""
    with faults(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # what led here is what matters
                    connection.execute("ROLLBACK")


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _index(path: Path) -> Path:
    """Of the WAL; others who read leave it behind."""
    return path.with_name(f"{path.name}-shm")


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tables(connection: sqlite3.Connection) -> set[tuple[bytes, ...]]:
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _expected_tables(format: Format) -> set[tuple[bytes, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.text_factory = bytes
        for statement in format.statements:
            connection.execute(statement)
        return _tables(connection)


_FULL: Final = "the disk, or the file's own limit, is full. Free some space, or raise the limit."
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
def faults(path: Path) -> Generator[None]:
    """Turn what SQLite and the system raise into StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest says where it happened
        fault, advice = _FAULTS.get(code, (Fault.DISK, f"{error}. Look after the disk and the file's permissions."))
        raise StoreError(fault, f"{path} cannot be used: {advice}") from error
    except UnicodeDecodeError as error:  # SQLite's message has words of a damaged schema in it
        raise StoreError(Fault.DAMAGED, f"{path} cannot be used: {_DAMAGED}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(Fault.FULL, f"{path} cannot be used: {_FULL}") from error
        advice = f"{error.strerror}. Choose another place with --data-dir."
        raise StoreError(Fault.DISK, f"{path} cannot be used: {advice}") from error
