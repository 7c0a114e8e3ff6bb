"""DiLoCo's payload: a header, then a pseudo-gradient (anchor - local parameters) through a codec.

Framed as checkpoint.py says; docs/protocol-diloco.md has it byte by byte.

What a malicious peer may send: any bytes. `open_payload` reads the header alone, which names codec and layout, and
demands the one size that follows from them; `check_values` then looks at what bounds the values and refuses what is not
finite or beyond VALUE_MAX. Both are exact, so all members refuse the same payloads. What passes can still be a bad
update: what it does then depends on the rule (aggregating.py).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from shoal.transport.wire import Digest, Malformed, Message

from .checkpoint import frame, open_frame
from .codecs import CODECS, Codec
from .ports import BlobReader, Payload
from .tensors import Layout, element_count, layout_digest

if TYPE_CHECKING:
    from .tensors import Vector

PAYLOAD_VERSION = 1
PAYLOAD_MAGIC = b"shoal/dl"
VALUE_MAX = 2.0**20  # no honest step is so large; below it no sum of 1024 members' values times 2^24 samples overflows


class PayloadHeader(Message, frozen=True):
    """Followed by the codec's body."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    codec: Annotated[str, msgspec.Meta(max_length=32)]
    layout: Digest


@dataclass(frozen=True, slots=True)
class Delta:
    """An opened payload, to be read in pieces."""

    reader: BlobReader
    codec: Codec
    offset: int  # of the codec's body
    count: int  # values

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        """As a row's (rows.py)."""
        import numpy as np

        room = np.empty(stop - start, np.float32) if out is None else out
        return self.codec.decode(self.reader, self.offset, self.count, start, room)


def write_payload(codec_name: str, layout: Layout, delta: "Vector") -> tuple[Payload, ...]:
    """The payload for `delta` in pieces, which may share its memory.

    The values are finite and at most VALUE_MAX in magnitude.
    """
    header = PayloadHeader(PAYLOAD_VERSION, codec_name, layout_digest(layout))
    return (frame(PAYLOAD_MAGIC, header), *CODECS[codec_name].encode(delta))


def payload_bytes(codec_name: str, layout: Layout) -> int:
    """The size of a payload, before there is one."""
    header = PayloadHeader(PAYLOAD_VERSION, codec_name, layout_digest(layout))
    return len(frame(PAYLOAD_MAGIC, header)) + CODECS[codec_name].body_bytes(element_count(layout))


def open_payload(reader: BlobReader, codec_name: str, layout: Layout) -> Delta | Malformed:
    """The payload, if its header and size are what the spec's codec and layout demand."""
    opened = open_frame(reader, PAYLOAD_MAGIC, PayloadHeader)
    if isinstance(opened, Malformed):
        return opened
    header, offset = opened
    if header.version > PAYLOAD_VERSION:
        return Malformed(f"payload version {header.version}: needs a newer Shoal")
    if header.codec != codec_name:
        return Malformed(f"codec {header.codec!r}, expected {codec_name!r}")
    if header.layout != layout_digest(layout):
        return Malformed("made from a model with other tensors")
    count = element_count(layout)
    size = offset + CODECS[codec_name].body_bytes(count)
    if reader.size != size:
        return Malformed(f"{reader.size} bytes, expected {size}")
    return Delta(reader, CODECS[codec_name], offset, count)


def check_values(delta: Delta) -> Malformed | None:
    """None if every value is finite and at most VALUE_MAX in magnitude, but for what the codec's `peak` says."""
    peak = delta.codec.peak(delta.reader, delta.offset, delta.count)
    if not peak <= VALUE_MAX:  # also false for NaN
        return Malformed(f"its values reach {peak:g}; up to {VALUE_MAX:g} are allowed")
    return None
