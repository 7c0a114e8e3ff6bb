"""How DiLoCo's shared state, and a member's own optimizer state, become bytes and back.

A blob is: 8 bytes of magic, the header's length (u32, little-endian), the header (MessagePack), zeros up to a multiple
of 64, then flat vectors of little-endian float32, one after another. Equal values give equal bytes, so the hash of
these bytes is the state's digest.

What a malicious peer may send: any bytes as a state. `load_state` allocates nothing before the header was found to be
of the expected layout and the blob of exactly the size that follows from it, and refuses values that are not finite or
out of range; whether it is the *right* state, the certified digest decides.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from blake3 import blake3

from shoal.transport.wire import U64, Digest, Malformed, Message, decode, encode

from .ports import BlobReader, Payload
from .remembered import EMPTY, REMEMBERED_BYTES_MAX, Remembered, open_remembered, remembered_bytes
from .tensors import Layout, element_count, layout_digest

if TYPE_CHECKING:
    from .tensors import Vector

FORMAT_VERSION = 1
STATE_MAGIC = b"shoal/st"
LOCAL_MAGIC = b"shoal/lo"
ALIGNMENT_BYTES = 64  # a cache line: vectors can be used where they are mapped
HEADER_BYTES_MAX = 65_536
PIECE_ELEMENTS = 2**20  # 4 MiB: what reading holds beside its result

Header = TypeVar("Header", bound=Message)
Version = Annotated[int, msgspec.Meta(ge=1)]


class StateHeader(Message, frozen=True):
    """Followed by the parameters and the outer momentum, and by what is remembered, if anything is."""

    version: Version
    round: U64
    layout: Digest


class LocalHeader(Message, frozen=True):
    """Followed by AdamW's two moments where `step_count` > 0, by what is ahead where `is_ahead`, by the momentum where
    `has_momentum`.
    """

    version: Version
    layout: Digest
    step_count: U64
    step_s: Annotated[float, msgspec.Meta(ge=0)]
    is_ahead: bool
    has_momentum: bool


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What all members share, equal to the bit. The arrays are read-only."""

    round: int  # rounds applied so far
    parameters: "Vector"  # (n,)
    momentum: "Vector"  # (n,) of the outer optimizer
    remembered: Remembered = EMPTY


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """AdamW's memory."""

    step_count: int  # for the bias correction
    first: "Vector"  # (n,) running mean of gradients
    second: "Vector"  # (n,) running mean of squared gradients


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """What a member keeps to itself."""

    moments: Moments | None = None  # None before the first turn, and where a person's own optimizer keeps them
    step_s: float | None = None  # how long an inner step takes here
    ahead: "Vector | None" = None  # (n,) shared state - own parameters: all contributed from this state, in one
    momentum: "Vector | None" = None  # (n,) running mean of own pseudo-gradients, where settings ask for it


def frame(magic: bytes, header: Message) -> bytes:
    """Everything that stands before the vectors."""
    body = encode(header)
    head = magic + struct.pack("<I", len(body)) + body
    return head + bytes(-len(head) % ALIGNMENT_BYTES)


def open_frame(reader: BlobReader, magic: bytes, header_type: type[Header]) -> tuple[Header, int] | Malformed:
    """The header and the offset at which the vectors begin."""
    prefix_bytes = len(magic) + 4
    if reader.size < prefix_bytes:
        return Malformed(f"{reader.size} bytes are too few for a header")
    prefix = reader.read(0, prefix_bytes)
    if prefix[: len(magic)] != magic:
        return Malformed(f"does not begin with {magic!r}")
    (length,) = struct.unpack("<I", prefix[len(magic) :])
    offset = prefix_bytes + length + -(prefix_bytes + length) % ALIGNMENT_BYTES
    if length > HEADER_BYTES_MAX or offset > reader.size:
        return Malformed(f"claims a header of {length} bytes, has {reader.size}, may have {HEADER_BYTES_MAX}")
    body = reader.read(prefix_bytes, offset - prefix_bytes)
    if any(body[length:]):
        return Malformed("padding is not zero")
    header = decode(body[:length], header_type, HEADER_BYTES_MAX)
    if isinstance(header, Malformed):
        return header
    if encode(header) != body[:length]:
        return Malformed("the header is not in its canonical form")
    return header, offset


def save_state(state: State, layout: Layout) -> Iterable[Payload]:
    """The canonical bytes of a state, without copying its vectors."""
    yield frame(STATE_MAGIC, StateHeader(FORMAT_VERSION, state.round, layout_digest(layout)))
    yield bytes_of(state.parameters)
    yield bytes_of(state.momentum)
    remembered = remembered_bytes(state.remembered)
    if remembered:
        yield remembered


def state_digest(state: State, layout: Layout) -> bytes:
    """32 bytes over the canonical bytes: about 0.05 s per 25M parameters."""
    hasher = blake3()
    for piece in save_state(state, layout):
        hasher.update(piece)
    return hasher.digest()


def load_state(saved: BlobReader, layout: Layout, value_max: float) -> State:
    """The state that `save_state` wrote.

    Raises:
        ValueError: it is of another layout or version, of the wrong size, or holds values beyond `value_max`.
    """
    opened = open_frame(saved, STATE_MAGIC, StateHeader)
    if isinstance(opened, Malformed):
        raise ValueError(f"not a saved state: {opened.reason}")
    header, offset = opened
    expect(header.version, header.layout, layout)
    count = element_count(layout)
    end = offset + 8 * count
    if not end <= saved.size <= end + REMEMBERED_BYTES_MAX:
        raise ValueError(
            f"a saved state of {count} parameters has {end} bytes and up to {REMEMBERED_BYTES_MAX} more, "
            f"this one {saved.size}"
        )
    remembered = open_remembered(saved.read(end, saved.size - end), header.round)
    if isinstance(remembered, Malformed):
        raise ValueError(f"not a saved state: {remembered.reason}")
    return State(
        header.round,
        read_vector(saved, offset, count, value_max),
        read_vector(saved, offset + 4 * count, count, value_max),
        remembered,
    )


def save_local(local: Local, layout: Layout) -> Iterable[Payload]:
    """A member's own state as bytes."""
    moments, others = local.moments, (local.ahead, local.momentum)
    step_count = moments.step_count if moments else 0
    has = [each is not None for each in others]
    yield frame(LOCAL_MAGIC, LocalHeader(FORMAT_VERSION, layout_digest(layout), step_count, local.step_s or 0.0, *has))
    if moments:
        yield bytes_of(moments.first)
        yield bytes_of(moments.second)
    for each in others:
        if each is not None:
            yield bytes_of(each)


def load_local(saved: BlobReader, layout: Layout) -> Local:
    """What `save_local` wrote.

    Raises:
        ValueError: it cannot be used: of another layout or version, cut short, or not finite.
    """
    opened = open_frame(saved, LOCAL_MAGIC, LocalHeader)
    if isinstance(opened, Malformed):
        raise ValueError(f"not a saved optimizer state: {opened.reason}")
    header, offset = opened
    expect(header.version, header.layout, layout)
    step_s = header.step_s or None
    count = element_count(layout)
    moments_bytes = 8 * count if header.step_count else 0
    others = header.is_ahead, header.has_momentum
    size = offset + moments_bytes + 4 * count * sum(others)
    if saved.size != size:
        raise ValueError(f"a saved optimizer state of {count} parameters has {size} bytes, this one {saved.size}")
    moments = _read_moments(saved, offset, count, header.step_count) if header.step_count else None
    offset += moments_bytes
    ahead = read_vector(saved, offset, count, OWN_MAX) if header.is_ahead else None
    offset += 4 * count * header.is_ahead
    momentum = read_vector(saved, offset, count, OWN_MAX) if header.has_momentum else None
    return Local(moments, step_s, ahead, momentum)


OWN_MAX = 3e38  # finite is all that is asked of one's own vectors


def _read_moments(saved: BlobReader, offset: int, count: int, step_count: int) -> Moments:
    first = read_vector(saved, offset, count, OWN_MAX)
    second = read_vector(saved, offset + 4 * count, count, OWN_MAX)
    if second.min() < 0:
        raise ValueError("a mean of squared gradients is negative")
    return Moments(step_count, first, second)


def expect(version: int, digest: bytes, layout: Layout) -> None:
    """Raises ValueError if a header with these is of another format or model."""
    if version > FORMAT_VERSION:
        raise ValueError(f"saved in format {version}: needs a newer Shoal")
    if digest != layout_digest(layout):
        raise ValueError("saved from a model with other tensors")


def bytes_of(vector: "Vector") -> memoryview:
    """The vector's own memory, or a copy where the machine is not little-endian."""
    return vector.astype("<f4", copy=False).data.cast("B")


def read_pieces(reader: BlobReader, offset: int, length: int, piece_bytes: int) -> Iterator[bytes]:
    """`length` bytes from `offset`, in order."""
    for start in range(0, length, piece_bytes):
        yield reader.read(offset + start, min(piece_bytes, length - start))


def read_vector(
    reader: BlobReader, offset: int, count: int, value_max: float, room: "Vector | None" = None
) -> "Vector":
    """(count,) read-only, in `room` if there is one. Raises ValueError: a value is not finite or beyond `value_max`."""
    import numpy as np

    vector = np.empty(count, np.float32) if room is None else room
    start = 0
    for piece in read_pieces(reader, offset, 4 * count, 4 * PIECE_ELEMENTS):
        values = np.frombuffer(piece, "<f4")
        if not np.abs(values).max(initial=0) <= value_max:  # also false for NaN
            raise ValueError(f"holds values that are not finite or beyond {value_max:g}")
        vector[start : start + len(values)] = values
        start += len(values)
    vector.flags.writeable = False
    return vector
