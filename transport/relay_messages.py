"""The messages of circuit relay v2 (libp2p specs, relay/circuit-v2.md): Protocol Buffers, each behind its length.

Two protocols, one grammar: on `hop` a peer asks a relay for a reservation or for a circuit, on `stop` the relay asks
the peer at the circuit's other end; their numbers differ. Read by hand, because libp2p's own module of messages brings
all of its relay with it (2 MB), and a peer's bytes here are a few fields.

What a malicious peer may send: any bytes up to MESSAGE_BYTES_MAX. What it achieves: a value or one Malformed. Unknown
fields are skipped, as the specification wants it: go-libp2p and py-libp2p send signed records that nobody here needs.
"""

import enum
from dataclasses import dataclass
from typing import Final

from .multiaddrs import peer_bytes, peer_of_bytes
from .port import PeerId
from .protobuf import bytes_field, number_field, read_fields, varint
from .wire import Malformed

MESSAGE_BYTES_MAX: Final = 4096  # as go-libp2p
LENGTH_BYTES_MAX: Final = 2  # that a length up to it may take


class Status(enum.IntEnum):
    """How a request ended. The numbers are on the wire."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


_STATUSES: Final = frozenset(int(status) for status in Status)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a circuit may take at most; 0: no bound."""

    duration_s: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Relay for me (hop only)."""


@dataclass(frozen=True, slots=True)
class Connect:
    """On hop: connect me to `peer`. On stop: `peer` wants to be connected to you; the relay cannot prove it."""

    peer: PeerId
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """To either."""

    status: Status
    expires_at: int | None = None  # of the reservation: Unix time by the relay's clock
    limit: Limit | None = None


RelayMessage = Reserve | Connect | Answer


@dataclass(frozen=True, slots=True)
class Grammar:
    """The numbers of one of the two protocols."""

    reserve: int | None
    connect: int
    answer: int
    limit_field: int
    status_field: int


HOP: Final = Grammar(reserve=0, connect=1, answer=2, limit_field=4, status_field=5)
STOP: Final = Grammar(reserve=None, connect=0, answer=1, limit_field=3, status_field=4)
_TYPE, _PEER, _RESERVATION = 1, 2, 3
_ID, _EXPIRE, _DURATION, _DATA = 1, 1, 1, 2

Fields = dict[int, int | bytes]


def encode_relay(grammar: Grammar, message: RelayMessage) -> bytes:
    """The message behind its length."""
    match message:
        case Reserve():
            assert grammar.reserve is not None
            body = number_field(_TYPE, grammar.reserve)
        case Connect(peer, limit):
            body = number_field(_TYPE, grammar.connect) + bytes_field(_PEER, bytes_field(_ID, peer_bytes(peer)))
            body += _limit(grammar.limit_field, limit)
        case Answer(status, expires_at, limit):
            body = number_field(_TYPE, grammar.answer)
            if expires_at is not None:
                body += bytes_field(_RESERVATION, number_field(_EXPIRE, expires_at))
            body += _limit(grammar.limit_field, limit) + number_field(grammar.status_field, status)
    return varint(len(body)) + body


def decode_relay(grammar: Grammar, data: bytes) -> RelayMessage | Malformed:
    """What `data`, a message without its length, says."""
    if len(data) > MESSAGE_BYTES_MAX:
        return Malformed(f"a relay message of {len(data)} bytes; {MESSAGE_BYTES_MAX} are allowed")
    fields = _fields(data)
    if fields is None:
        return Malformed("a relay message that is no Protocol Buffer")
    kind = fields.get(_TYPE)
    limit = _read_limit(fields, grammar.limit_field)
    if kind == grammar.reserve and kind is not None:
        return Reserve()
    if kind == grammar.connect:
        peer = _peer_of(_nested(fields, _PEER).get(_ID))
        return (
            Malformed("a request to connect without the id of an Ed25519 key") if peer is None else Connect(peer, limit)
        )
    if kind == grammar.answer:
        status = fields.get(grammar.status_field)
        if not isinstance(status, int) or status not in _STATUSES:
            return Malformed(f"a relay's answer with status {status!r}")
        expires_at = _nested(fields, _RESERVATION).get(_EXPIRE) if grammar.reserve is not None else None
        return Answer(Status(status), expires_at if isinstance(expires_at, int) else None, limit)
    return Malformed(f"a relay message of type {kind!r}")


def decode_length(data: bytes) -> int | Malformed | None:
    """The length that begins a message; None if more bytes are needed to know it."""
    value = 0
    for place, byte in enumerate(data[:LENGTH_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value if value <= MESSAGE_BYTES_MAX else Malformed(f"a relay message of {value} bytes")
    return None if len(data) < LENGTH_BYTES_MAX else Malformed("a relay message with a length of more than two bytes")


def _peer_of(data: int | bytes | None) -> PeerId | None:
    return peer_of_bytes(data) if isinstance(data, bytes) else None


def _limit(field: int, limit: Limit | None) -> bytes:
    if limit is None:
        return b""
    return bytes_field(field, number_field(_DURATION, limit.duration_s) + number_field(_DATA, limit.data_bytes))


def _read_limit(fields: Fields, field: int) -> Limit | None:
    if field not in fields:
        return None
    nested = _nested(fields, field)
    duration_s, data_bytes = nested.get(_DURATION, 0), nested.get(_DATA, 0)
    return Limit(duration_s, data_bytes) if isinstance(duration_s, int) and isinstance(data_bytes, int) else None


def _nested(fields: Fields, field: int) -> Fields:
    data = fields.get(field)
    return (_fields(data) or {}) if isinstance(data, bytes) else {}


def _fields(data: bytes) -> Fields | None:
    """Each field's last value; None if this is no Protocol Buffer."""
    fields = read_fields(data)
    return None if fields is None else dict(fields)
