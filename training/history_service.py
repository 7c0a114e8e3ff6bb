"""What each state was made of, on disk (see `history`): for members that come, or come back. The shell for it.

It has a file of its own, beside the log's, because it is worth less: what is lost here the others have, while a log
that is damaged silences its member. So a damaged file is thrown away, a row that changed by itself counts as missing,
and a file that has grown to its bound lets go of its oldest rounds.

What was given to `append` is on disk when it returns. Rows that others told wait in a table of their own until the
state that they lead to is known to be right (`stage`, `adopt`): after a kill -9 in between, they are as if never told.

All calls block: they belong into worker threads, any of them.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from shoal.crdt.file_service import Fault, Format, StoreError, checksum, create, faults, limit, open_reading
from shoal.crdt.file_service import transaction as committed
from shoal.transport.wire import Malformed, decode, encode

from .calls import ROUNDS_TOLD_MAX
from .history import MADE_BYTES_MAX, Made

HISTORY_NAME: Final = "history.db"  # beside the rounds
HISTORY_BYTES_MAX: Final = 4 * 2**30  # three million rounds of four members
TOLD_MADE_BYTES: Final = 2**20  # of rows in one answer, if one alone is not larger; 0.4 s at 20 Mbit/s

_WAIT_S: Final = 5.0  # for another process that looks at the file
_PARTS: Final = 16  # one of which is let go when the file is full
_COLUMNS: Final = "(round INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)"
FORMAT: Final = Format(
    "history",
    b"SHOH",
    1,
    (f"CREATE TABLE made {_COLUMNS}", f"CREATE TABLE draft {_COLUMNS}"),
    {table: f"SELECT checksum, data, round FROM {table}" for table in ("made", "draft")},
)


class HistoryReader:
    """What is there; a node may write meanwhile.

    Raises:
        StoreError: as all calls do.
    """

    def __init__(self, path: Path, swarm: bytes) -> None:
        self.path = path
        self._lock = threading.Lock()  # of the connection
        self._connection = open_reading(path, FORMAT, swarm, _WAIT_S)

    def __enter__(self) -> "HistoryReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def range(self, first: int, last: int, bytes_max: int = TOLD_MADE_BYTES) -> tuple[Made, ...]:
        """What the rounds from `first` to `last` took, as far as it is here without a gap and fits; one fits always."""
        query = "SELECT checksum, data, round FROM made WHERE round BETWEEN ? AND ? ORDER BY round"
        found: list[Made] = []
        with self._lock, faults(self.path), closing(self._connection.execute(query, (first, last))) as rows:
            for row in rows:
                made = _read(row)
                if made is None or made.round != first + len(found) or len(found) == ROUNDS_TOLD_MAX:
                    break
                bytes_max -= len(row[1])
                if bytes_max < 0 and found:
                    break
                found.append(made)
        return tuple(found)

    def last(self, first: int) -> int:
        """The round up to which all rows from `first` on are here; `first` - 1 if that one is not."""
        query = "SELECT round FROM made WHERE round >= ? ORDER BY round"
        last = first - 1
        with self._lock, faults(self.path), closing(self._connection.execute(query, (first,))) as rows:
            for (round,) in rows:
                if round != last + 1:
                    break
                last = round
        return last

    def first(self) -> int | None:
        """The oldest round that is here."""
        with self._lock, faults(self.path):
            (found,) = self._connection.execute("SELECT min(round) FROM made").fetchone()
        return None if found is None else int(found)


class History:
    """See the module's text.

    Args:
        path: of the file, made if it is missing.
        swarm: whose history it is.
        bytes_max: of the file; beyond, the oldest rounds go.

    Raises:
        StoreError: as all calls do.
    """

    def __init__(self, path: Path, swarm: bytes, bytes_max: int = HISTORY_BYTES_MAX) -> None:
        self._path = path
        self._swarm = swarm
        self._bytes_max = bytes_max
        self._lock = threading.Lock()  # of the connection
        self._connection: sqlite3.Connection
        self.reader: HistoryReader
        try:
            self._open()
        except StoreError as error:
            if error.fault is not Fault.DAMAGED:
                raise
            self._begin_anew()

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """After what is being written: who stops may have left that to a thread."""
        with self._lock:
            self._close()

    def append(self, rows: Iterable[Made]) -> None:
        """Keep what rounds took that this member has applied; again, after a crash, with the same."""
        self._write("made", list(rows))

    def stage(self, rows: Iterable[Made]) -> None:
        """Keep what another tells, until it is known to be right."""
        self._write("draft", list(rows))

    def adopt(self) -> None:
        """What was staged is right. It does not replace what this member has itself applied meanwhile."""
        with self._lock, committed(self._connection, self._path):
            self._connection.execute("INSERT OR IGNORE INTO made SELECT * FROM draft")
            self._connection.execute("DELETE FROM draft")

    def drop_draft(self) -> None:
        """What was staged leads nowhere."""
        with self._lock, committed(self._connection, self._path):
            self._connection.execute("DELETE FROM draft")

    def forget(self) -> None:
        """This member's state was not the others': what it was made of may be wrong, too."""
        with self._lock, committed(self._connection, self._path):
            self._connection.execute("DELETE FROM made")

    def _write(self, table: str, rows: list[Made]) -> None:
        try:
            self._insert(table, rows)
        except StoreError as error:
            if error.fault is not Fault.DAMAGED:
                raise
            with self._lock:
                self._close()
                self._begin_anew()
            self._insert(table, rows)

    def _insert(self, table: str, rows: list[Made]) -> None:
        values = [(made.round, checksum(data, made.round), data) for made in rows for data in (encode(made),)]
        with self._lock, committed(self._connection, self._path):
            self._connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", values)
            while self._is_full() and self._let_go():
                pass

    def _is_full(self) -> bool:
        pages, free, size = (self._pragma(name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size > self._bytes_max // _PARTS * (_PARTS - 1)

    def _let_go(self) -> int:
        """How many rows went, the oldest."""
        query = "SELECT min(round), max(round) FROM (SELECT round FROM made UNION ALL SELECT round FROM draft)"
        first, last = self._connection.execute(query).fetchone()
        if first is None:
            return 0
        until = first + (last - first) // _PARTS
        gone = [self._connection.execute(f"DELETE FROM {table} WHERE round <= ?", (until,)) for table in FORMAT.checked]
        return sum(deleted.rowcount for deleted in gone)

    def _pragma(self, name: str) -> int:
        (value,) = self._connection.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    def _open(self) -> None:
        with faults(self._path):
            if not self._path.exists():
                create(self._path, FORMAT, self._swarm)
            os.chmod(self._path, 0o600)
        self.reader = HistoryReader(self._path, self._swarm)
        try:
            with faults(self._path):
                self._connection = sqlite3.connect(
                    self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
                )
                limit(self._connection, self._bytes_max)
                self._connection.execute("DELETE FROM draft")
        except BaseException:
            self.reader.close()
            raise

    def _begin_anew(self) -> None:
        with faults(self._path):
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        self._open()

    def _close(self) -> None:
        self.reader.close()
        self._connection.close()


def _read(row: tuple[object, ...]) -> Made | None:
    """None if it has changed by itself."""
    sum, data, round = row
    if not isinstance(data, bytes) or checksum(data, round) != sum:
        return None
    made = decode(data, Made, MADE_BYTES_MAX)
    return None if isinstance(made, Malformed) or made.round != round else made
