"""What a zeroth-order turn tries, and what it says of it: a byte for each direction, or three where there is a pool.

The payload is the slopes' codes in order; with a pool, before them, the numbers of their directions, 16 bits each,
little-endian. A turn that had no time for all directions sends fewer.

What a malicious peer may send: any bytes. `fault` refuses what is no code and no direction of the pool. With a pool it
may name other directions than it drew; who audits it draws them again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from . import importance
from .directions import direction_key, pool_key
from .importance import History
from .ports import BlobReader
from .scalar_codes import NEGATIVE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLES_DOMAIN: Final = b"shoal/samples/1\0"


@dataclass(frozen=True, slots=True)
class TurnName:
    """Whose directions they are."""

    swarm: bytes
    round: int
    base_round: int
    member: str

    def key(self, index: int) -> bytes:
        return direction_key(self.swarm, self.round, self.base_round, self.member, index)


@dataclass(frozen=True, slots=True)
class Place:
    """One direction of a turn."""

    key: bytes
    seed: int  # of the samples it is tried on: 64 bits
    pooled: int | None = None  # its number in the pool


@dataclass(frozen=True, slots=True)
class Claims:
    """An opened payload: slopes' codes, in order."""

    codes: bytes
    pooled: tuple[int, ...] | None  # the numbers of their directions in the pool

    def places(self, turn: TurnName) -> Iterator[Place]:
        """Where each was claimed."""
        for index in range(len(self.codes)):
            yield place(turn, index, None if self.pooled is None else self.pooled[index])


def place(turn: TurnName, index: int, pooled: int | None) -> Place:
    """The direction of this number in a turn."""
    key = turn.key(index)
    seed = int.from_bytes(blake3(_SAMPLES_DOMAIN + key).digest(8), "little")
    return Place(key if pooled is None else pool_key(turn.swarm, pooled), seed, pooled)


def drawn(turn: TurnName, history: History | None, count: int) -> Iterator[Place]:
    """The directions that an honest turn tries, in order; `history` is the pool's in the state it starts from."""
    numbers: Sequence[int | None] = [None] * count
    if history is not None:
        numbers = importance.draw(history, turn.key(0), count)
    for index, number in enumerate(numbers):
        yield place(turn, index, number)


def payload(tried: Sequence[Place], codes: bytes) -> bytes:
    """What a turn sends."""
    return b"".join(each.pooled.to_bytes(2, "little") for each in tried if each.pooled is not None) + codes


def payload_bytes(count: int, pool: int) -> int:
    return count * (3 if pool else 1)


def fault(reader: BlobReader, count_max: int, pool: int) -> str | None:
    """Why this is no turn's payload, if it is none."""
    one = payload_bytes(1, pool)
    if reader.size % one or not one <= reader.size <= count_max * one:
        return f"{reader.size} bytes; a turn has 1 to {count_max} slopes of {one}"
    claims = open_claims(reader, pool)
    if NEGATIVE in claims.codes:
        return f"{NEGATIVE} is no slope's code"
    if claims.pooled is not None and max(claims.pooled) >= pool:
        return f"names direction {max(claims.pooled)} of a pool of {pool}"
    return None


def open_claims(reader: BlobReader, pool: int) -> Claims:
    """What `fault` let through."""
    count = reader.size // payload_bytes(1, pool)
    if not pool:
        return Claims(reader.read(0, count), None)
    return Claims(reader.read(2 * count, count), tuple(_numbers(reader.read(0, 2 * count)).tolist()))


def _numbers(data: bytes) -> "NDArray[np.uint16]":
    import numpy as np

    return np.frombuffer(data, "<u2")
