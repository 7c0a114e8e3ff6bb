"""How every Shoal message becomes bytes and back: MessagePack arrays, decoded straight into bounded, typed structures.

A message is a `Message` subclass whose fields carry their bounds as `msgspec.Meta`. It is written as an array in field
order, so its bytes are canonical: equal values have equal bytes. Unknown fields, missing fields, wrong types and values
out of bounds are one `Malformed` with the reason. A peer can send anything here; all it gets is that refusal: lengths
that the bytes do not hold are refused by msgspec before anything is allocated for them.
"""

from typing import Annotated, TypeVar

import msgspec

WIRE_VERSION = 1  # of the protocol as a whole; a higher one is answered with NEEDS_NEWER

PEER_ID_CHARS_MAX = 64  # Ed25519 ids have 52 characters
ADDRESS_CHARS_MAX = 256
ADDRESSES_MAX = 16  # advertised by one peer

PeerIdText = Annotated[str, msgspec.Meta(min_length=40, max_length=PEER_ID_CHARS_MAX)]
AddressText = Annotated[str, msgspec.Meta(min_length=1, max_length=ADDRESS_CHARS_MAX)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
U64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # 63 bits: SQLite and msgspec agree on these


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What all wire messages are: immutable arrays of typed fields. They form no cycles that gc would have to find."""


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """Why bytes from a peer are not the message expected. A value, not an exception: it is the peer's fault."""

    reason: str


M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[object, msgspec.msgpack.Decoder[object]] = {}


def encode(message: object) -> bytes:
    """The canonical bytes of a message."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview, type_: type[M], bytes_max: int) -> M | Malformed:
    """The message of type `type_` that `data` holds, or why it holds none.

    `bytes_max` is checked first: a message too large is refused unread.
    """
    if len(data) > bytes_max:
        return Malformed(f"{type_.__name__} of {len(data)} bytes exceeds its limit of {bytes_max}")
    decoder = _decoders.get(type_)
    if decoder is None:
        decoder = _decoders[type_] = msgspec.msgpack.Decoder(type_)
    try:
        return decoder.decode(data)  # type: ignore[return-value]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(f"not a {type_.__name__}: {error}")
