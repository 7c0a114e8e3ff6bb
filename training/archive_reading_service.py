"""The log on disk, as it is read: by the member itself, by its answers to others, by its owner. The shell for reading.

Nothing here changes the file, and reading keeps nobody from writing: a node may run meanwhile. What was damaged is
named, never given out. That the log is signed is not checked here (`skipping`).

All calls block: they belong into worker threads, any of them.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from shoal.crdt.file_service import Fault, Format, StoreError, check, checksum, faults, open_reading
from shoal.transport.wire import Malformed, Message, decode, encode

from .agreed import AgreedRecord, Position, read_record
from .agreeing import Split
from .members import Electorate
from .skipping import PROOF_BYTES_MAX, Anchor, Leap, Proof, anchor_of, anchored, prove
from .votes import Decided, Journal, value_of

LOG_NAME: Final = "log.db"  # beside the rounds
FILE_VERSION: Final = 1
RANGE_BYTES_MAX: Final = PROOF_BYTES_MAX  # of records in one answer
ROUNDS_MAX: Final = 2**31
RECORDS_READ: Final = 64  # at once; memory: their records

_WAIT_S: Final = 5.0  # for another process that looks at the file, while it begins to
_SCHEMA: Final = (
    "CREATE TABLE log (round INTEGER PRIMARY KEY, hash BLOB NOT NULL, has_changes INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX hashed ON log (hash)",
    "CREATE INDEX changing ON log (round) WHERE has_changes",
    # Records before a gap's end, without certificates: what a leap names.
    "CREATE TABLE befores (round INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE anchors (round INTEGER PRIMARY KEY, hash BLOB NOT NULL, is_trusted INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE journal (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE split (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL)",
)
FORMAT: Final = Format(
    "log",
    b"SHOL",
    FILE_VERSION,
    _SCHEMA,
    {
        "log": "SELECT checksum, data, round, hash, has_changes FROM log",
        "befores": "SELECT checksum, data, round FROM befores",
        "anchors": "SELECT checksum, data, round, hash, is_trusted FROM anchors",
        "journal": "SELECT checksum, data FROM journal",
        "split": "SELECT checksum, data, number FROM split",
    },
)

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Row:
    """A record that is kept."""

    hash: bytes
    decided: Decided

    @property
    def round(self) -> int:
        return self.decided.round


class ArchiveReader:
    """See the module's text.

    Args:
        path: of the file, which is there.
        origin: round 0 of the swarm whose log it is (`skipping.beginning`).

    Raises:
        StoreError: as all calls do.
    """

    def __init__(self, path: Path, origin: Position) -> None:
        self.path = path
        self._origin = origin
        self._lock = threading.Lock()  # of the connection
        self._connection = open_reading(path, FORMAT, origin.record, _WAIT_S)

    def __enter__(self) -> "ArchiveReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """After what is being read."""
        with self._lock:
            self._connection.close()

    def check(self) -> None:
        """Look at every byte. Measured: 1.3 s for 100,000 records of 3 KB."""
        with self._lock, faults(self.path):
            check(self._connection, self.path, FORMAT)

    # The log.

    def newest(self) -> Row | None:
        return next(iter(self._rows("1 ORDER BY round DESC LIMIT 1")), None)

    def last(self, count: int) -> list[Row]:
        """The newest records, in order; there may be gaps between them."""
        return self._rows("1 ORDER BY round DESC LIMIT ?", count)[::-1]

    def at(self, round: int) -> Row | None:
        return next(iter(self._rows("round = ?", round)), None)

    def by_hash(self, hash: bytes) -> Row | None:
        return next(iter(self._rows("hash = ?", hash)), None)

    def hashes(self, first: bytes, last: bytes) -> list[bytes]:
        """Of the records whose hashes lie between these, both included, two at most."""
        queries = [f"SELECT hash FROM {table} WHERE hash BETWEEN ? AND ?" for table in ("log", "anchors")]
        rows = self._fetch(f"{' UNION '.join(queries)} LIMIT 2", first, last, first, last)
        return [hash for (hash,) in rows if isinstance(hash, bytes)]

    def range(self, first: int, last: int, bytes_max: int = RANGE_BYTES_MAX) -> tuple[Decided, ...]:
        """The records from round `first` to `last`, as far as they are here without a gap and fit."""
        found: list[Decided] = []
        for leap in self.walk(first - 1):
            if isinstance(leap, Anchor) or leap.before or not first + len(found) == leap.decided.round <= last:
                break
            bytes_max -= len(encode(leap.decided))
            if bytes_max < 0:
                break
            found.append(leap.decided)
        return tuple(found)

    def walk(self, after: int, last_round: int = ROUNDS_MAX, *, is_all: bool = True) -> Iterator[Leap | Anchor]:
        """All records after round `after` up to `last_round`, in order: where some are missing between two, as leaps
        over them; where the log begins anew, or not at round 1, at a record that was trusted, that one's anchor first.

        Args:
            is_all: else only those that change the electorate, and the one of `last_round`, or the newest.
        """
        anchors = iter(self._trusted(after))
        anchor, last = next(anchors, None), after
        for row in self._walk(after, last_round, is_all):
            while anchor is not None and anchor[0] < row.round:
                yield anchor[1]
                last, anchor = anchor[0], next(anchors, None)
            yield Leap(b"" if last == row.round - 1 else self._before(row.round), row.decided)
            last = row.round
        yield from (found for _, found in chain([] if anchor is None else [anchor], anchors))

    # For those who come new.

    def position(self, round: int) -> Position | None:
        """Where the log stood after the record of this round, if it is here."""
        row = self.at(round)
        if row is not None:
            return self._position(row)
        start = self._start(round)
        return start if start.round == round else None

    def anchor(self, hash: bytes) -> tuple[Position, Anchor] | None:
        """Where the log stood after the record that is named, and what proves it, if it is here."""
        if hash == self._origin.record:
            return self._origin, Anchor()
        row = self.by_hash(hash)
        if row is not None:
            position = self._position(row)
            return position, anchor_of(position, row.decided.value)
        found = self._fetch("SELECT checksum, data, round, hash, is_trusted FROM anchors WHERE hash = ?", hash)
        if not found:
            return None
        anchor = self._read(found[0], Anchor)
        return self._anchored(anchor), anchor

    def proof(self, hash: bytes, short_of: int = 0, bytes_max: int = PROOF_BYTES_MAX) -> Proof | None:
        """The log from the record that is named to the newest, or to so many rounds short of it, as far as it is here
        without a break and fits.
        """
        found = self.anchor(hash)
        if found is None:
            return None
        position, anchor = found
        newest = self.newest()
        last = position.round if newest is None else newest.round - short_of
        return prove(anchor, self._leaps(position.round, last), bytes_max)

    def _leaps(self, after: int, last: int) -> Iterator[Leap]:
        for leap in self.walk(after, last, is_all=False):
            if isinstance(leap, Anchor):
                return
            yield leap

    def start(self) -> Anchor | None:
        """The last record that the log begins at because it was trusted: nothing here leads to it."""
        found = self._trusted(-1)
        return found[-1][1] if found else None

    # What is this member's own.

    def journal(self) -> Journal | None:
        rows = self._fetch("SELECT checksum, data FROM journal")
        return self._read(rows[0], Journal) if rows else None

    def split(self) -> Split | None:
        rows = self._fetch("SELECT checksum, data, number FROM split ORDER BY number")
        if not rows:
            return None
        if len(rows) != 2:
            raise self._damaged("of two records for one round, one is missing")
        first, second = (self._read(row, Decided) for row in rows)
        return Split(first, second)

    # Rows.

    def _fetch(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock, faults(self.path):
            return self._connection.execute(query, values).fetchall()

    def _bytes(self, row: tuple[object, ...]) -> bytes:
        """Of a row that begins with checksum and data."""
        sum, data, *beside = row
        if not isinstance(data, bytes) or checksum(data, *beside) != sum:
            raise self._damaged("a row has changed by itself")
        return data

    def _read(self, row: tuple[object, ...], type_: type[M]) -> M:
        data = self._bytes(row)
        message = decode(data, type_, len(data))
        if isinstance(message, Malformed):
            raise self._damaged(message.reason)
        return message

    def _rows(self, condition: str, *values: object) -> list[Row]:
        rows = self._fetch(f"SELECT checksum, data, round, hash, has_changes FROM log WHERE {condition}", *values)
        return [self._row(row) for row in rows]

    def _row(self, row: tuple[object, ...]) -> Row:
        decided = self._read(row, Decided)
        hash = value_of(decided.value).hash
        if row[2:4] != (decided.round, hash):
            raise self._damaged(f"round {row[2]} has another record than its row says")
        return Row(hash, decided)

    def _walk(self, after: int, last_round: int, is_all: bool) -> Iterator[Row]:
        """Not by one statement, which would keep the file from being tidied, and see nothing of what is new."""
        which = "1" if is_all else "(has_changes OR round = min(?2, (SELECT max(round) FROM log)))"
        while True:
            query = f"round > ?1 AND round <= ?2 AND {which} ORDER BY round LIMIT ?3"
            rows = self._rows(query, after, last_round, RECORDS_READ)
            if not rows:
                return
            yield from rows
            after = rows[-1].round

    def _before(self, round: int) -> bytes:
        row = self.at(round - 1)
        if row is not None:
            return row.decided.value
        rows = self._fetch("SELECT checksum, data, round FROM befores WHERE round = ?", round - 1)
        if not rows:
            raise self._damaged(f"the record before round {round} is missing")
        return self._bytes(rows[0])

    def _trusted(self, after: int) -> list[tuple[int, Anchor]]:
        query = "SELECT checksum, data, round, hash, is_trusted FROM anchors WHERE is_trusted AND round > ?"
        anchors = [self._read(row, Anchor) for row in self._fetch(f"{query} ORDER BY round", after)]
        return [(self._record(anchor.record).round, anchor) for anchor in anchors]

    def _start(self, round: int) -> Position:
        """The nearest electorate at or before this round that needs no reckoning."""
        query = "SELECT checksum, data, round, hash, is_trusted FROM anchors WHERE round <= ?"
        rows = self._fetch(f"{query} ORDER BY round DESC LIMIT 1", round)
        return self._anchored(self._read(rows[0], Anchor)) if rows else self._origin

    def _position(self, row: Row) -> Position:
        start = self._start(row.round)
        electorate = start.electorate
        for changing in self._rows("has_changes AND round > ? AND round <= ? ORDER BY round", start.round, row.round):
            electorate = self._changed(electorate, self._record(changing.decided.value))
        if electorate.digest() != self._record(row.decided.value).electorate:
            raise self._damaged(f"the members after round {row.round} are not those that its record names")
        return self._origin.after(self._record(row.decided.value), row.hash, electorate)

    def _anchored(self, anchor: Anchor) -> Position:
        position = anchored(self._origin, value_of(anchor.record).hash, anchor)
        if isinstance(position, Malformed):
            raise self._damaged(position.reason)
        return position

    def _record(self, data: bytes) -> AgreedRecord:
        record = read_record(value_of(data))
        if isinstance(record, Malformed):
            raise self._damaged(record.reason)
        return record

    def _changed(self, electorate: Electorate, record: AgreedRecord) -> Electorate:
        changed = electorate.after(record.round, record.changes)
        if isinstance(changed, Malformed):
            raise self._damaged(f"round {record.round}: {changed.reason}")
        return changed

    def _damaged(self, what: str) -> StoreError:
        advice = "Start the node again: it then puts the file aside and asks the other members for what was in it."
        return StoreError(Fault.DAMAGED, f"{self.path} is damaged: {what}. {advice}")
