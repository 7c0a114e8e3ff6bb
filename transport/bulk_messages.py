"""What is said about bulk connections over libp2p, and on them.

A pair of peers exchanges certificates by `MEET`; then the one that can dial the other does so, shows the token it was
given as TLS's server name, and sends one byte: whether it is going to fetch or to serve. A connection serves one
direction: requests go one way, chunks the other, in the order in which they were asked for.

    serving side:   1 byte, SERVES, when it is ready
    requests:       kind 1 byte, digest 32, first 4, count 4, skip 4
    replies:        kind 1 byte, index 4, length 4; then that many bytes; a chunk comes in one or several

Numbers are big-endian. What a peer may send: anything, after it has proved who it is. Requests and replies have one
size each, whatever they are; counts are bounded here, and lengths by who reads them.
"""

import re
import struct
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from .blobs import CHUNK_BYTES, CHUNKS_MAX, HASH_BYTES, RUN_CHUNKS_MAX
from .port import Unary
from .wire import Malformed, Message

CERTIFICATE_BYTES_MAX: Final = 512  # those made here have some 300; no key that is slow to check fits in
TOKEN_CHARS: Final = 32
TEXT_BYTES_MAX: Final = 200
HELLO_BYTES_MAX: Final = 4096  # the first message of TLS: 517, with keys against quantum computers 1,800

TLS_FIRST: Final = b"\x16"  # byte of a connection that speaks it; libp2p begins with the length of its greeting
FETCHES: Final = b"\x01"
SERVES: Final = b"\x02"

WANT: Final = 1
FORGET: Final = 2
BYE: Final = 3

CHUNK: Final = 1
REFUSED: Final = 2
FAREWELL: Final = 3
LATER: Final = 4

# TLS: a record's type, version and length. The extension that names the server: type, three lengths with a type amid.
_RECORD: Final = struct.Struct(">BHH")
RECORD_HEAD_BYTES: Final = _RECORD.size
_NAMED: Final = re.compile(
    re.escape(struct.pack(">HHHBH", 0, TOKEN_CHARS + 5, TOKEN_CHARS + 3, 0, TOKEN_CHARS))
    + b"([0-9a-f]{%d})" % TOKEN_CHARS
)
_REQUEST: Final = struct.Struct(f">B{HASH_BYTES}sIII")
_HEAD: Final = struct.Struct(">BII")
REQUEST_BYTES: Final = _REQUEST.size
HEAD_BYTES: Final = _HEAD.size

_Certificate = Annotated[bytes, msgspec.Meta(min_length=1, max_length=CERTIFICATE_BYTES_MAX)]
Token = Annotated[str, msgspec.Meta(min_length=TOKEN_CHARS, max_length=TOKEN_CHARS, pattern=r"^[0-9a-f]*\Z")]


def hello_bytes(head: bytes) -> int | Malformed:
    """What follows the RECORD_HEAD_BYTES with which TLS begins."""
    if len(head) < RECORD_HEAD_BYTES:
        return Malformed(f"{len(head)} bytes")
    length = int(_RECORD.unpack(head)[2])
    return length if length <= HELLO_BYTES_MAX else Malformed(f"a first message of {length} bytes")


def token_of(hello: bytes) -> str | None:
    """What may be the token in TLS's first message: only for one that was handed out does anybody read it closely."""
    found = _NAMED.search(hello)
    return None if found is None else found[1].decode()


class Meet(Message, frozen=True):
    """The certificate that this process shows."""

    certificate: _Certificate


class Met(Message, frozen=True):
    """The other's, and what to show when dialing it."""

    certificate: _Certificate
    token: Token


class Come(Message, frozen=True):
    """Dial me, who cannot dial you, show this, and serve."""

    token: Token


class Coming(Message, frozen=True):
    """The connection stands."""


MEET: Final = Unary("/shoal/bulk/1/meet", Meet, Met, 1024, 1024)
COME: Final = Unary("/shoal/bulk/1/come", Come, Coming, 256, 256)


@dataclass(frozen=True, slots=True)
class Request:
    """WANT: these chunks, the first without its first `skip` bytes. FORGET: what was not sent of them. BYE: nothing
    more; a FAREWELL is awaited.
    """

    kind: int
    digest: bytes = bytes(HASH_BYTES)
    first: int = 0
    count: int = 1
    skip: int = 0  # bytes

    def encode(self) -> bytes:
        return _REQUEST.pack(self.kind, self.digest, self.first, self.count, self.skip)


def parse_request(data: bytes | bytearray | memoryview) -> Request | Malformed:
    """One of REQUEST_BYTES."""
    request = Request(*_REQUEST.unpack(data))
    if not WANT <= request.kind <= BYE:
        return Malformed(f"a request of kind {request.kind}")
    if not 1 <= request.count <= RUN_CHUNKS_MAX or request.first + request.count > CHUNKS_MAX:
        return Malformed(f"asks for {request.count} chunks from {request.first} on")
    if request.skip >= CHUNK_BYTES:
        return Malformed(f"asks for a chunk without its first {request.skip} bytes")
    return request


@dataclass(frozen=True, slots=True)
class Head:
    """What comes before the bytes. CHUNK: a chunk's, or the next of them. REFUSED: text, why `index` is not had, or the
    rest of it. FAREWELL: none. LATER: none; others' chunks go before `index`, and it is not forgotten.
    """

    kind: int
    index: int
    length: int


def write_head(buffer: bytearray | memoryview, offset: int, head: Head) -> None:
    """Its HEAD_BYTES, into a buffer."""
    _HEAD.pack_into(buffer, offset, head.kind, head.index, head.length)


def parse_head(data: bytes | bytearray | memoryview) -> Head | Malformed:
    """One of HEAD_BYTES."""
    head = Head(*_HEAD.unpack(data))
    if not CHUNK <= head.kind <= LATER:
        return Malformed(f"a reply of kind {head.kind}")
    if head.length > (CHUNK_BYTES if head.kind == CHUNK else TEXT_BYTES_MAX):
        return Malformed(f"a reply of {head.length} bytes")
    return head
