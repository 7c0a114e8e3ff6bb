"""STUN over TCP (RFC 8489): asking somebody as whom one is seen, and showing that one has got through.

A Shoal node answers Binding requests on the port at which it listens: its first byte tells them from a libp2p
connection. So whoever wants to know how a router translates one of its ports connects from that port and asks; it takes
two round trips and no key. A Binding indication carries a transaction id that was agreed on elsewhere: who receives it
knows that the one it had asked for it has got through. No attribute but XOR-MAPPED-ADDRESS is read or written.

What a malicious peer may send: any bytes. What it achieves: an answer of at most 44 bytes to each 20 of its own, to the
address that it proved to be at. An answer may lie: `punching` and `reachability` ask several, and bound what a lie
costs others.
"""

import enum
import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from .addresses import Endpoint, ip_endpoint
from .wire import Malformed

HEAD_BYTES: Final = 20
ID_BYTES: Final = 12
BODY_BYTES_MAX: Final = 256  # of an answer
FIRST_BYTE: Final = 0  # of requests and indications; multistream-select begins with 0x13
_HEAD: Final = struct.Struct(">HHI12s")
_COOKIE: Final = 0x2112A442
_XOR_MAPPED_ADDRESS: Final = 0x0020
_ATTRIBUTE: Final = struct.Struct(">HH")
_FAMILIES: Final = {4: 1, 6: 2}


class Kind(enum.IntEnum):
    """Of the messages that are spoken here."""

    REQUEST = 0x0001
    INDICATION = 0x0011
    SUCCESS = 0x0101


@dataclass(frozen=True, slots=True)
class Head:
    """What a message begins with."""

    kind: Kind
    body_bytes: int
    id: bytes


def encode_message(kind: Kind, id: bytes, seen: Endpoint | None = None) -> bytes:
    """A message; `seen` stands in an answer."""
    body = b"" if seen is None else _mapped(id, seen)
    return _HEAD.pack(kind, len(body), _COOKIE, id) + body


def decode_head(data: bytes) -> Head | Malformed:
    """The first HEAD_BYTES of a message."""
    kind, size, cookie, id = _HEAD.unpack(data)
    if cookie != _COOKIE or kind not in list(Kind) or size > BODY_BYTES_MAX or size % 4:
        return Malformed(f"expected a STUN message of at most {BODY_BYTES_MAX} bytes, got {data.hex()}")
    return Head(Kind(kind), size, id)


def decode_seen(id: bytes, body: bytes) -> Endpoint | Malformed:
    """As whom an answer says that one is seen."""
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        kind, size = _ATTRIBUTE.unpack_from(body, at)
        value = body[at + _ATTRIBUTE.size : at + _ATTRIBUTE.size + size]
        if kind == _XOR_MAPPED_ADDRESS:
            return _seen(id, value)
        at += _ATTRIBUTE.size + size + -size % 4
    return Malformed("an answer that does not say as whom one is seen")


def _mapped(id: bytes, seen: Endpoint) -> bytes:
    ip = ipaddress.ip_address(seen.host)
    port = seen.port ^ (_COOKIE >> 16)
    value = struct.pack(">xBH", _FAMILIES[ip.version], port) + _xor(ip.packed, id)
    return _ATTRIBUTE.pack(_XOR_MAPPED_ADDRESS, len(value)) + value


def _seen(id: bytes, value: bytes) -> Endpoint | Malformed:
    if len(value) not in (8, 20) or value[1] != _FAMILIES[4 if len(value) == 8 else 6]:
        return Malformed(f"{value.hex()} is no address")
    port = int.from_bytes(value[2:4], "big") ^ (_COOKIE >> 16)
    return ip_endpoint(str(ipaddress.ip_address(_xor(value[4:], id))), port)


def _xor(packed: bytes, id: bytes) -> bytes:
    mask = (_COOKIE.to_bytes(4, "big") + id)[: len(packed)]
    return bytes(one ^ other for one, other in zip(packed, mask, strict=True))
