"""To what the members compact their store, as one member sees it: when it is time, what it would propose, which marks
it has found right, and which one they have agreed on. No I/O.

A mark names a frontier and the digest of the store's snapshot there. It comes with a record, every so many rounds, in a
round's first attempt only: if the operations have not reached a quorum by then, that attempt is lost and the members
do without until it is time again. Nothing else waits for the store. Every later record repeats the digest, so whoever
trusts any of them knows which snapshot to fetch.

The law: of two marks in the log, the later one's frontier has all writers of the earlier one, none of them further
back. So whoever missed some, or all but the newest, ends at the same state as who adopted each.

A proposer may name any frontier and digest. What it cannot: have an honest member vote for a digest that is not that of
the operations here; for a frontier that goes back; for one with writers who are neither members nor in the one before,
who would keep their seats for good (crdt/seats.py). What a quorum has prevoted is not judged again: honest members
among it have the snapshot on disk. Were it, a writer whose fork comes to light in between could keep those who are
bound by the mark and those who can no longer work it out from ever agreeing on anything.
"""

from collections.abc import Iterable, Iterator, Set
from typing import Final

from shoal.crdt.compact import PIECE_BYTES_MAX, Frontier, Mark, WriterMark
from shoal.crdt.dots import Writer
from shoal.transport.identity import public_key_of
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreed import Position, StoreMark
from .ports import BlobReader

SNAPSHOT_BYTES_MAX: Final = 256 * 1024 * 1024  # a store whose snapshot is larger is not compacted any more
VERDICTS_KEPT: Final = 16  # of one round's marks: as many as proposals are kept

_LENGTH_BYTES: Final = 4


class Compacting:
    """See the module's text. Positions are where the log stands."""

    def __init__(self, every_rounds: int) -> None:
        """Args:
        every_rounds: 0: never.
        """
        self._every_rounds = every_rounds
        self._before: Frontier = {}  # that is agreed on
        self._snapshot: bytes | None = None  # the digest of the snapshot there
        self._asked_round = 0  # that this member was asked to work out a mark for
        self._own: tuple[int, StoreMark] | None = None  # and the round to propose it in
        self._verdicts: list[tuple[StoreMark, bool]] = []

    def asks(self, position: Position) -> bool:
        """Whether to work out a mark to propose in the next round, if it is this member's turn: said once."""
        round = position.round + 1
        is_news = self._is_due(round) and self._knows(position) and self._asked_round != round
        self._asked_round = round if is_news else self._asked_round
        return is_news

    def writers(self, position: Position) -> frozenset[Writer]:
        """Who may stand in the next frontier: members, and who stands in the one before."""
        keys = (public_key_of(PeerId(seat.member)) for seat in position.electorate.seats)
        return frozenset(Writer(key) for key in keys if key is not None) | self._before.keys()

    def worked_out(self, position: Position, mark: StoreMark) -> None:
        """What this member would propose next."""
        if self._is_sound(position, mark):
            self._own = position.round + 1, mark

    def proposal(self, round: int) -> StoreMark | None:
        """For the record of this round, if it is there by now."""
        return self._own[1] if self._own is not None and self._own[0] == round else None

    def verdict(self, position: Position, mark: StoreMark) -> bool | None:
        """Whether the next record may have this mark; None: it, or the one before, has to be worked out first."""
        if not self._is_due(position.round + 1):
            return False
        if not self._knows(position):
            return None
        if not self._is_sound(position, mark):
            return False
        return next((is_right for known, is_right in self._verdicts if known is mark or known == mark), None)

    def judged(self, mark: StoreMark, *, is_right: bool) -> None:
        """It was worked out whether the mark's digest is that of the snapshot here."""
        self._verdicts = [*self._verdicts[1 - VERDICTS_KEPT :], (mark, is_right)]

    def agreed(self, mark: StoreMark | None) -> None:
        """The next record is decided, with this mark or without."""
        self._verdicts = []
        if mark is not None:
            self.adopted(mark.digest, frontier_of(mark))

    def adopted(self, snapshot: bytes, frontier: Frontier) -> None:
        """The members have agreed on the snapshot with this digest, and its frontier is known."""
        self._snapshot, self._before = snapshot, frontier

    def _is_due(self, round: int) -> bool:
        return self._every_rounds > 0 and round % self._every_rounds == 0

    def _knows(self, position: Position) -> bool:
        """Whether the frontier that is agreed on is known: not yet by who leapt over its record."""
        return self._snapshot == position.snapshot

    def _is_sound(self, position: Position, mark: StoreMark) -> bool:
        frontier = frontier_of(mark)
        is_ahead = all(
            writer in frontier and frontier[writer].number >= before.number for writer, before in self._before.items()
        )
        return is_ahead and frontier.keys() <= self.writers(position)


def frontier_of(mark: StoreMark) -> dict[Writer, Mark]:
    return {Writer(each.writer): Mark(each.number, each.hash) for each in mark.frontier}


def mark_of(frontier: Frontier, digest: bytes) -> StoreMark:
    return StoreMark(tuple(WriterMark(writer, *mark) for writer, mark in sorted(frontier.items())), digest)


def chosen(spread: Frontier, writers: Set[Writer]) -> dict[Writer, Mark]:
    """Of a frontier, what may be proposed."""
    return {writer: mark for writer, mark in spread.items() if writer in writers}


# A snapshot as a blob: each piece behind its length, four bytes, most significant first.


def framed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield len(piece).to_bytes(_LENGTH_BYTES)
        yield piece


def unframed(blob: BlobReader) -> list[bytes] | Malformed:
    """The pieces in a blob that any peer may have made."""
    pieces: list[bytes] = []
    at = 0
    while at < blob.size:
        if at + _LENGTH_BYTES > blob.size:
            return Malformed("a snapshot that is cut off")
        length = int.from_bytes(blob.read(at, _LENGTH_BYTES))
        at += _LENGTH_BYTES
        if not 0 < length <= min(PIECE_BYTES_MAX, blob.size - at):
            return Malformed(f"a snapshot with a piece of {length} bytes")
        pieces.append(blob.read(at, length))
        at += length
    return pieces
