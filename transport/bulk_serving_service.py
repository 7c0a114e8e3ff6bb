"""The serving side of a bulk connection: a worker thread that reads chunks and sends them.

What a peer can make it hold: a chunk's buffer and WANTS_MAX requests per connection, for as long as it takes bytes.
What it can make it do: read those chunks.
"""

import logging
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from .blobs import CHUNK_BYTES, cid_text
from .bulk_link_service import SEND_BYTES, Link, LinkBroken
from .bulk_messages import (
    BYE,
    CHUNK,
    FAREWELL,
    HEAD_BYTES,
    LATER,
    REFUSED,
    REQUEST_BYTES,
    WANT,
    Head,
    Request,
    parse_request,
    write_head,
)
from .upload_slots import Ticket
from .wire import Malformed

_log = logging.getLogger(__name__)

IDLE_S: Final = 90.0  # without a request a connection ends: its place is for others; fetchers end it sooner
LATER_S: Final = 1.0  # how often who waits for its turn is told so; longer than SILENT_S: it thinks the line is dead
WANTS_MAX: Final = 1_024  # chunks that wait to be sent
PART_BYTES: Final = SEND_BYTES - HEAD_BYTES
_FORGOTTEN: Final = -1


class Pace(Protocol):
    """Holds uploads back where the owner limits them, and until there is a slot for a chunk. Calls may block."""

    @property
    def piece_bytes(self) -> int:
        """To be sent at once."""
        ...

    def wait(self, digest: bytes, size: int) -> None:
        """Until so much more of this blob may be sent."""
        ...

    def ask(self, who: Hashable, digest: bytes, index: int) -> Ticket:
        """A place in the queue for a chunk; to be given back with `leave`."""
        ...

    def begin(self, ticket: Ticket, wait_s: float) -> bool:
        """Whether its turn has come, or comes within `wait_s`."""
        ...

    def sent(self, size: int) -> None: ...

    def leave(self, ticket: Ticket, *, is_whole: bool) -> None: ...


# Of a blob's chunk, into a buffer that holds it: its length, or None if it is not here. Raises OSError.
ReadInto = Callable[[bytes, int, memoryview], int | None]


@dataclass(slots=True)
class _Want:
    """A chunk that was asked for."""

    digest: bytes
    index: int
    skip: int  # bytes; or _FORGOTTEN


class Server:
    """Of one connection, to `who`."""

    def __init__(self, who: Hashable, link: Link, read: ReadInto, pace: Pace) -> None:
        self._who = who
        self._link = link
        self._read = read
        self._pace = pace
        self._buffer = memoryview(bytearray(HEAD_BYTES + CHUNK_BYTES))
        self._waiting = bytearray()  # of a request that is not whole yet
        self._requests = memoryview(bytearray(64 * REQUEST_BYTES))
        self._wants: deque[_Want] = deque()
        self._by_chunk: dict[
            tuple[bytes, int], _Want
        ] = {}  # those, to be forgotten: a peer may ask for that all the time
        self._is_over = False

    def run(self) -> str:
        """Serve until the connection ends: why. Blocks."""
        try:
            while True:
                self._hear()
                self._link.is_carrying = bool(self._wants)
                if self._wants:
                    want = self._wants[0]
                    self._send(want)
                    self._wants.popleft()
                    self._by_chunk.pop((want.digest, want.index), None)
                elif self._is_over:
                    self._tell(FAREWELL, 0, b"")
                    return "done"
        except LinkBroken as error:
            return str(error)

    def _hear(self) -> None:
        """Take up the requests that have come, and wait for one where there is nothing else to do."""
        while not self._is_over:
            count = self._link.receive_waiting(self._requests)
            if not count and not self._wants:
                self._link.is_carrying = False
                count = self._link.receive_some(self._requests, IDLE_S)
            if not count:
                return
            self._waiting += self._requests[:count]
            while len(self._waiting) >= REQUEST_BYTES:
                request = parse_request(self._waiting[:REQUEST_BYTES])
                del self._waiting[:REQUEST_BYTES]
                self._take_up(request)

    def _take_up(self, request: Request | Malformed) -> None:
        if isinstance(request, Malformed):
            raise LinkBroken(request.reason)
        if request.kind == BYE:
            self._is_over = True
            return
        indexes = range(request.first, request.first + request.count)
        if request.kind == WANT:
            if len(self._wants) + len(indexes) > WANTS_MAX:
                raise LinkBroken(f"asks for more than {WANTS_MAX} chunks at once")
            for index in indexes:
                want = _Want(request.digest, index, request.skip if index == request.first else 0)
                self._wants.append(want)
                self._by_chunk[request.digest, index] = want
        else:
            for index in indexes:
                forgotten = self._by_chunk.pop((request.digest, index), None)
                if forgotten is not None:
                    forgotten.skip = _FORGOTTEN  # answered all the same, so that answers keep the order of the requests

    def _send(self, want: _Want) -> None:
        if want.skip == _FORGOTTEN:
            self._tell(REFUSED, want.index, b"")
            return
        try:
            length = self._read(want.digest, want.index, self._buffer[HEAD_BYTES:])
        except OSError as error:
            _log.error("chunk %d of %s can't be read: %s", want.index, cid_text(want.digest), error)
            self._tell(REFUSED, want.index, b"the disk failed")
            return
        if length is None or length <= want.skip:
            self._tell(REFUSED, want.index, b"not here")
            return
        ticket, is_whole = self._pace.ask(self._who, want.digest, want.index), False
        try:
            is_whole = self._await_turn(want, ticket) and self._send_parts(want, length)
        finally:
            self._pace.leave(ticket, is_whole=is_whole)
        if not is_whole:
            self._tell(REFUSED, want.index, b"")

    def _await_turn(self, want: _Want, ticket: Ticket) -> bool:
        """False: it was forgotten meanwhile."""
        while not self._pace.begin(ticket, LATER_S):
            self._hear()
            if want.skip == _FORGOTTEN:
                return False
            self._tell(LATER, want.index, b"")
        return True

    def _send_parts(self, want: _Want, length: int) -> bool:
        """In parts, so that what is forgotten in the middle of it takes no more of a slow line: False."""
        for start in range(want.skip, length, PART_BYTES):
            size = min(PART_BYTES, length - start)
            write_head(self._buffer, start, Head(CHUNK, want.index, size))  # over bytes that are not wanted, or sent
            self._send_part(want.digest, self._buffer[start : start + HEAD_BYTES + size])
            self._hear()
            if want.skip == _FORGOTTEN and start + size < length:
                return False
        return True

    def _send_part(self, digest: bytes, rest: memoryview) -> None:
        while rest:
            piece, rest = rest[: self._pace.piece_bytes], rest[self._pace.piece_bytes :]
            self._pace.wait(digest, len(piece))
            self._link.send(piece)
            self._pace.sent(len(piece))

    def _tell(self, kind: int, index: int, text: bytes) -> None:
        head = bytearray(HEAD_BYTES)
        write_head(head, 0, Head(kind, index, len(text)))
        self._link.send(bytes(head) + text)
