"""Snapshots: what follows from all operations up to an agreed frontier, so that the operations themselves can go.

The law: a snapshot is a function of the swarm, the frontier and the operations up to it. Who puts one in the place of
these operations has the same state as before, and goes on to have the same as anybody who did not.

A snapshot comes from peers and is believed for its digest, which a record agreed on; the bytes are read as a stranger's
all the same. It is cut into pieces by a rule, so that equal snapshots have equal pieces.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, NamedTuple

import msgspec
from blake3 import blake3

from shoal.transport.wire import Digest, Malformed, Message, decode, encode

from .cells import Applied, Key
from .dots import Cell, Dot, Entry, Seen, Tag, Writer
from .operation import Number, Operation, Part, Taken, WriterBytes, chained, tag_of
from .rules import Spent

SNAPSHOT_VERSION: Final = 1
WRITERS_MAX: Final = 65_536
ROWS_MAX: Final = 4096  # of one piece
PIECE_BYTES: Final = 256 * 1024  # a piece ends with the row that reaches it
PIECE_BYTES_MAX: Final = 8 * 1024 * 1024

_DIGEST: Final = b"shoal/snapshot/1"


class Mark(NamedTuple):
    """How far a writer's chain is in the snapshot."""

    number: int
    hash: bytes


Frontier = Mapping[Writer, Mark]


class WriterMark(Message, frozen=True):
    writer: WriterBytes
    number: Number
    hash: Digest


class Header(Message, frozen=True):
    """The first piece."""

    version: Annotated[int, msgspec.Meta(ge=SNAPSHOT_VERSION, le=SNAPSHOT_VERSION)]
    swarm: Digest
    marks: Annotated[tuple[WriterMark, ...], msgspec.Meta(max_length=WRITERS_MAX)]  # sorted by writer


class Row(Message, frozen=True):
    """An entry, or one that was taken away before it came: then `value` is None and `stamp` 0."""

    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    path: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1, max_length=4)]
    writer: WriterBytes
    number: Number
    tag: Tag
    value: bytes | None
    stamp: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    by: Annotated[bytes, msgspec.Meta(max_length=32)]  # who took it away


class Rows(Message, frozen=True):
    """Any further piece."""

    rows: Annotated[tuple[Row, ...], msgspec.Meta(min_length=1, max_length=ROWS_MAX)]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at a frontier."""

    swarm: bytes
    frontier: Frontier
    cells: Mapping[Key, Cell]  # not to be changed

    def pieces(self) -> Iterator[bytes]:
        """The bytes to store and to hand over, always the same."""
        marks = tuple(WriterMark(writer, *mark) for writer, mark in sorted(self.frontier.items()))
        yield encode(Header(SNAPSHOT_VERSION, self.swarm, marks))
        rows: list[Row] = []
        size = 0
        for row in self._rows():
            rows.append(row)
            size += 128 + len(row.value or b"")
            if size >= PIECE_BYTES or len(rows) == ROWS_MAX:
                yield encode(Rows(tuple(rows)))
                rows, size = [], 0
        if rows:
            yield encode(Rows(tuple(rows)))

    def spent(self) -> dict[Writer, Spent]:
        """What writers have in the snapshot, for their bounds."""
        cells = self.cells.values()
        live = Counter(dot.writer for cell in cells for dot in cell.entries)
        gone = Counter(by for cell in cells for by in cell.gone.values())
        return {writer: Spent(entries=live[writer], taken=gone[writer]) for writer in {*live, *gone}}

    def shows(self, dot: Dot, operation: Operation, hash: bytes) -> bool:
        """Whether an entry that the operation wrote lives in the snapshot."""
        cell = self.cells.get((operation.namespace, operation.path))
        entry = None if cell is None else cell.entries.get(dot)
        return entry is not None and entry.tag == tag_of(hash)

    def _rows(self) -> Iterator[Row]:
        for namespace, path in sorted(self.cells):
            cell = self.cells[namespace, path]
            for dot, entry in sorted(cell.entries.items()):
                yield Row(namespace, path, dot.writer, dot.number, entry.tag, entry.value, entry.stamp, b"")
            for seen, by in sorted(cell.gone.items()):
                yield Row(namespace, path, seen.dot.writer, seen.dot.number, seen.tag, None, 0, by)


def digest_of(pieces: Iterable[bytes]) -> bytes:
    """32 bytes that a record can agree on."""
    hasher = blake3(_DIGEST)
    for piece in pieces:
        hasher.update(blake3(piece).digest())
    return hasher.digest()


def read_snapshot(pieces: Iterable[bytes], swarm: bytes) -> Snapshot | Malformed:
    """The snapshot in `pieces`, once it is written as we write it. Whether it is the agreed one, `digest_of` tells."""
    reader = _Reader(swarm)
    wrong = next((wrong for wrong in map(reader.take, pieces) if wrong), None)
    return wrong or reader.end()


@dataclass(slots=True)
class _Reader:
    swarm: bytes
    frontier: dict[Writer, Mark] | None = None
    cells: dict[Key, Cell] = field(default_factory=dict[Key, Cell])
    hasher: blake3 = field(default_factory=lambda: blake3(_DIGEST))

    def take(self, piece: bytes) -> Malformed | None:
        self.hasher.update(blake3(piece).digest())
        if self.frontier is None:
            header = decode(piece, Header, PIECE_BYTES_MAX)
            if isinstance(header, Malformed):
                return header
            if header.swarm != self.swarm:
                return Malformed("a snapshot of another swarm")
            self.frontier = {Writer(mark.writer): Mark(mark.number, mark.hash) for mark in header.marks}
            return None
        read = decode(piece, Rows, PIECE_BYTES_MAX)
        if isinstance(read, Malformed):
            return read
        for row in read.rows:
            cell = self.cells.setdefault((row.namespace, row.path), Cell())
            dot = Dot(Writer(row.writer), row.number)
            if row.value is None:
                cell.gone[Seen(dot, row.tag)] = Writer(row.by)
            else:
                cell.entries[dot] = Entry(row.value, row.stamp, row.tag)
        return None

    def end(self) -> Snapshot | Malformed:
        if self.frontier is None:
            return Malformed("a snapshot without a header")
        snapshot = Snapshot(self.swarm, self.frontier, self.cells)
        # Written again: rows in another order, twice or cut in another way would be another snapshot of equal meaning.
        if digest_of(snapshot.pieces()) != self.hasher.digest():
            return Malformed("a snapshot that is not written as it should be")
        return snapshot


def rebased(lost: Sequence[Applied], first: int, previous: bytes) -> list[Operation]:
    """A writer's own operations that lie beside the frontier, to be written again from number `first` on.

    Args:
        lost: in order.
        first: the number that the first of them gets.
        previous: the hash of the operation before it.

    What they take away of one another is named anew; an operation of which nothing is left is left out.
    """
    names: dict[int, Taken] = {}
    again: list[Operation] = []
    tags = {dot.number: tag_of(hash) for dot, _, hash in lost}
    for dot, operation, _ in lost:
        taken: list[Taken] = []
        for each in operation.taken:
            if each.writer or tags.get(each.number) != each.tag:
                taken.append(each)
            elif each.number in names:
                taken.append(names[each.number])
        moved = msgspec.structs.replace(operation, taken=tuple(taken))
        if moved.value is None and not moved.taken:
            continue
        (previous,) = chained(previous, (encode(moved),))
        names[dot.number] = Taken(b"", first + len(again), tag_of(previous))
        again.append(moved)
    return again
