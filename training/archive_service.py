"""The log on disk: every record with its certificate, and what this member has signed. The shell that writes.

What was given to a call is on disk when it returns, and stays there whatever ends the process or the machine: a member
that forgets what it has signed may sign something else, which is proof that it lies. So a file that turns out damaged
is put aside as a whole (the others have the log), and `Loaded.is_damaged` says that the member has to be careful.

All calls block: they belong into worker threads, any of them. The file is in use by one process that writes, which
whoever holds the data directory's lock is; others may read (`archive_reading_service`).
"""

import os
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.crdt.file_service import (
    Fault,
    StoreError,
    aside,
    checksum,
    create,
    faults,
    forget_aside,
    limit,
    put_aside,
    transaction,
)
from shoal.transport.wire import Malformed, encode

from .agreed import AgreedRecord, Position, read_record
from .agreeing import DECIDED_KEPT, Keep, Split
from .archive_reading_service import FORMAT, ArchiveReader
from .skipping import Anchor, Leap, Proof, anchor_of
from .votes import Decided, Journal, value_of

FILE_BYTES_MAX: Final = 64 * 2**30  # 640,000 rounds of a hundred members
CHANGES_PER_ANCHOR: Final = 64  # fewer: more room for seats; more: a position takes longer to find

_WAIT_S: Final = 5.0  # for another process that looks at the file, while it begins to


@dataclass(frozen=True, slots=True)
class _Place:
    """A record's."""

    round: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was on disk: what `Agreement` begins with."""

    position: Position
    log: tuple[Decided, ...]  # that follows it
    journal: Journal | None
    split: Split | None  # the member goes no further
    # What this member has signed may be lost. It signs nothing before a quorum has told it of a round, and that one and
    # the next two are over: it cannot have signed anything in a later one. Then `Archive.recovered` is to be called.
    is_damaged: bool


class Archive:
    """See the module's text.

    Args:
        path: of the file, made if it is missing. More names, with `-wal`, `-shm` and `.damaged` at their end, belong
            to it.
        origin: round 0 of the swarm (`skipping.beginning`).
        bytes_max: of the file.

    Raises:
        StoreError: as all calls do.
    """

    def __init__(self, path: Path, origin: Position, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = path
        self._origin = origin
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection
        self._newest: _Place
        self.reader: ArchiveReader
        try:
            self._open()
        except StoreError as error:
            if error.fault is not Fault.DAMAGED:
                raise
            self._begin_anew()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """After what is being written: who stops may have left that to a thread, which would crash the process."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self.reader.close()
        self._connection.close()

    def load(self, rounds: int = DECIDED_KEPT) -> Loaded:
        """All that a member goes on with, once the file is known to be whole; of the log, so many rounds at most."""
        with self._lock:
            try:
                self.reader.check()
                return self._load(rounds)
            except StoreError as error:
                if error.fault is not Fault.DAMAGED:
                    raise
            self._close()
            self._begin_anew()
            return self._load(rounds)

    def append(self, keeps: Iterable[Keep]) -> None:
        """Put records on disk that follow the newest one, in order. All or, if it raises, none.

        Raises ValueError if one does not follow: the caller's bug.
        """
        with self._lock:
            newest = self._newest
            with transaction(self._connection, self._path):
                for keep in keeps:
                    if keep.record.previous != newest.hash:
                        raise ValueError(f"round {keep.record.round} does not follow round {newest.round}, the newest")
                    newest = self._insert(keep.decided, keep.record)
                    if keep.record.changes and self._is_far():
                        self._insert_anchor(anchor_of(keep.position, keep.decided.value), newest, is_trusted=False)
            self._newest = newest

    def leap(self, proof: Proof, position: Position) -> None:
        """Put a proof on disk that was verified, and ends at `position`: the log goes on from there.

        Raises ValueError if it contradicts what is there: the caller's bug, who goes no further after a split.
        """
        with self._lock:
            newest = self._newest
            with transaction(self._connection, self._path):
                if proof.anchor.record:
                    newest = self._trust(proof.anchor, newest)
                for leap in proof.leaps:
                    newest = self._insert_leap(leap, newest)
                if proof.leaps and newest.hash == position.record:
                    anchor = anchor_of(position, proof.leaps[-1].decided.value)
                    self._insert_anchor(anchor, newest, is_trusted=False)
            self._newest = newest

    def save_journal(self, journal: Journal) -> None:
        data = encode(journal)
        with self._lock, transaction(self._connection, self._path):
            self._connection.execute("INSERT OR REPLACE INTO journal VALUES (1, ?, ?)", (checksum(data), data))

    def keep_split(self, split: Split) -> None:
        rows = [(number, encode(each)) for number, each in enumerate((split.first, split.second), 1)]
        with self._lock, transaction(self._connection, self._path):
            self._connection.executemany(
                "INSERT OR REPLACE INTO split VALUES (?, ?, ?)",
                [(number, checksum(data, number), data) for number, data in rows],
            )

    def recovered(self) -> None:
        """What the damaged file lost can do no harm any more: it goes."""
        with faults(self._path):
            forget_aside(self._path)

    def _load(self, rounds: int) -> Loaded:
        rows = self.reader.last(rounds + 1)
        gaps = [place for place in range(1, len(rows)) if rows[place].round != rows[place - 1].round + 1]
        rows = rows[gaps[-1] if gaps else 0 :]
        start = self._newest.round
        if rows and rows[-1].round == start:
            start = rows[0].round
            if len(rows) <= rounds and self.reader.position(start - 1) is not None:
                start -= 1  # where the log begins
        position = self.reader.position(start)
        if position is None:
            raise StoreError(Fault.DAMAGED, f"{self._path} is damaged: it names no members for round {start}")
        log = tuple(row.decided for row in rows if row.round > start)
        return Loaded(position, log, self.reader.journal(), self.reader.split(), aside(self._path).exists())

    def _open(self) -> None:
        with faults(self._path):
            if not self._path.exists():
                create(self._path, FORMAT, self._origin.record)
            os.chmod(self._path, 0o600)  # SQLite gives the same to the WAL
        self.reader = ArchiveReader(self._path, self._origin)
        try:
            self._newest = self._find_newest()
            with faults(self._path):
                self._connection = sqlite3.connect(
                    self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
                )
                limit(self._connection, self._bytes_max)
        except BaseException:
            self.reader.close()
            raise

    def _begin_anew(self) -> None:
        with faults(self._path):
            put_aside(self._path)
        self._open()

    def _find_newest(self) -> _Place:
        row = self.reader.newest()
        newest = _Place(0, self._origin.record) if row is None else _Place(row.round, row.hash)
        for anchor in self.reader.walk(newest.round):
            if isinstance(anchor, Anchor):
                newest = _place(anchor.record)
        return newest

    def _insert(self, decided: Decided, record: AgreedRecord) -> _Place:
        data, hash, has_changes = encode(decided), value_of(decided.value).hash, int(bool(record.changes))
        sum = checksum(data, decided.round, hash, has_changes)
        self._connection.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)", (decided.round, hash, has_changes, sum, data)
        )
        return _Place(decided.round, hash)

    def _insert_leap(self, leap: Leap, newest: _Place) -> _Place:
        place = _place(leap.decided.value)
        self._agree(place)
        if place.round <= newest.round:
            return newest
        if leap.before and place.round - 1 > newest.round:
            values = (place.round - 1, checksum(leap.before, place.round - 1), leap.before)
            self._connection.execute("INSERT OR REPLACE INTO befores VALUES (?, ?, ?)", values)
        return self._insert(leap.decided, _read(leap.decided.value))

    def _trust(self, anchor: Anchor, newest: _Place) -> _Place:
        place = _place(anchor.record)
        self._agree(place)
        if place.round <= newest.round:
            return newest
        self._insert_anchor(anchor, place, is_trusted=True)
        return place

    def _agree(self, place: _Place) -> None:
        found = self._connection.execute("SELECT hash FROM log WHERE round = ?", (place.round,)).fetchone()
        if found is not None and found[0] != place.hash:
            raise ValueError(f"another record of round {place.round} is on disk")

    def _insert_anchor(self, anchor: Anchor, place: _Place, *, is_trusted: bool) -> None:
        data, beside = encode(anchor), (place.round, place.hash, int(is_trusted))
        values = (*beside, checksum(data, *beside), data)
        self._connection.execute("INSERT OR IGNORE INTO anchors VALUES (?, ?, ?, ?, ?)", values)

    def _is_far(self) -> bool:
        """Whether it would take long to find the electorate from the last anchor."""
        query = "SELECT count(*) FROM log WHERE has_changes AND round > (SELECT ifnull(max(round), 0) FROM anchors)"
        (count,) = self._connection.execute(query).fetchone()
        return int(count) >= CHANGES_PER_ANCHOR


def _place(data: bytes) -> _Place:
    return _Place(_read(data).round, value_of(data).hash)


def _read(data: bytes) -> AgreedRecord:
    record = read_record(value_of(data))
    if isinstance(record, Malformed):
        raise ValueError(record.reason)  # it was verified
    return record
