"""The zeroth-order method's shared state, and how it becomes bytes and back.

Without a pool a saved state holds the parameters. With one it holds what was summed up along each of the pool's
directions, 16 bytes each, and the parameters follow from the base model: parameters = base - factor * sum of a_k z_k, a
sum of integers, so that who adds each round's increments and who adds up all of them have the same bits.

Framed as checkpoint.py says. What a malicious peer may send: any bytes as a state; `load` bounds what it reads before
it allocates; whether it is the right state, the certified digest decides, which covers the parameters in either form.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.wire import U64, Digest, Malformed, Message

from .checkpoint import FORMAT_VERSION, Version, bytes_of, expect, frame, open_frame, read_vector
from .directions import add_sums, pool_key
from .importance import COUNT_MAX, History
from .ports import BlobReader, Payload
from .slopes import CODES, MASS, MEMORY, Recent
from .tensors import Layout, element_count, layout_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

    Sums = NDArray[np.int64]  # (n,)

MAGIC: Final = b"shoal/zo"
VALUE_MAX: Final = 2.0**70  # 2^20 rounds of the largest step that settings allow, 4096 slopes of 2^30, stay below it
SUM_MAX: Final = 2**62  # of all that was ever claimed along a pool's directions together


class Header(Message, frozen=True):
    """Followed by `Recent` as 64-bit integers; then by the parameters, or by the pool's three columns."""

    version: Version
    round: U64
    layout: Digest
    pool: Annotated[int, msgspec.Meta(ge=0, le=4096)]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What a swarm with a pool has found."""

    coefficients: tuple[int, ...]  # (K,) a_k
    history: History
    sums: "Sums"  # (n,) of a_k z_k


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What all members share, equal to the bit. The arrays are read-only."""

    round: int  # rounds applied so far
    parameters: "Vector"  # (n,)
    recent: Recent
    pool: Pool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """Where a pool's sums begin."""

    swarm: bytes
    layout: Layout
    parameters: "Vector"  # (n,)
    factor: float  # of what a coefficient of 1 moves a parameter by

    def sums(self, coefficients: Iterable[int]) -> "Sums":
        """(n,) of all directions: n / 8 table lookups for each 8 of them."""
        import numpy as np

        sums = np.zeros(len(self.parameters), np.int64)
        self.add(sums, enumerate(coefficients))
        return sums

    def add(self, sums: "Sums", increments: Iterable[tuple[int, int]]) -> None:
        """Add to `sums`, in place, these coefficients times the directions they belong to."""
        add_sums(sums, self.layout, [(pool_key(self.swarm, index), each) for index, each in increments if each])

    def moved(self, sums: "Sums") -> "Vector":
        """(n,) base - factor * sums: a conversion, a product, a conversion and a difference, each rounded once."""
        import numpy as np

        from .codecs import flush_tiny, spans

        parameters = np.empty(len(sums), np.float32)
        for start, stop in spans(len(sums)):
            step = flush_tiny((sums[start:stop].astype(np.float64) * self.factor).astype(np.float32))
            flush_tiny(np.subtract(self.parameters[start:stop], step, out=parameters[start:stop]))
        parameters.flags.writeable = False
        return parameters


def save(state: State, layout: Layout) -> Iterable[Payload]:
    """The canonical bytes, without copying the parameters."""
    import numpy as np

    pool = state.pool
    size = 0 if pool is None else len(pool.coefficients)
    yield frame(MAGIC, Header(FORMAT_VERSION, state.round, layout_digest(layout), size))
    yield np.array(state.recent, "<i8").tobytes()
    if pool is None:
        yield bytes_of(state.parameters)
        return
    yield np.array(pool.coefficients, "<i8").tobytes()
    yield np.array(pool.history.counts, "<u4").tobytes()
    yield np.array(pool.history.sums, "<u4").tobytes()


def digest(state: State, layout: Layout) -> bytes:
    """32 bytes over what is saved, and with a pool over the parameters too: a machine that adds up wrongly shows."""
    hasher = blake3()
    for piece in save(state, layout):
        hasher.update(piece)
    if state.pool is not None:
        hasher.update(bytes_of(state.parameters))
    return hasher.digest()


def load(saved: BlobReader, layout: Layout, pool: int, base: Base | None, room: "Callable[[], Vector]") -> State:
    """The state that `save` wrote.

    Args:
        pool: the spec's; `base` is there if it is not 0.
        room: makes (n,) for the parameters.

    Raises:
        ValueError: it is of another layout, pool or version, of the wrong size, or holds values out of range.
    """
    opened = open_frame(saved, MAGIC, Header)
    if isinstance(opened, Malformed):
        raise ValueError(f"not a saved state: {opened.reason}")
    header, offset = opened
    expect(header.version, header.layout, layout)
    if header.pool != pool:
        raise ValueError(f"saved by a swarm with a pool of {header.pool}, not {pool}")
    count = element_count(layout)
    size = offset + 8 * CODES + (16 * pool if pool else 4 * count)
    if saved.size != size:
        raise ValueError(f"a saved state of {count} parameters has {size} bytes, this one {saved.size}")
    recent = _integers(saved, offset, "<i8", CODES, MASS * MEMORY * 2)
    offset += 8 * CODES
    if base is None:
        return State(header.round, read_vector(saved, offset, count, VALUE_MAX, room()), recent)
    coefficients = _integers(saved, offset, "<i8", pool, SUM_MAX)
    if sum(map(abs, coefficients)) > SUM_MAX:
        raise ValueError("its coefficients are out of range")
    counts = _integers(saved, offset + 8 * pool, "<u4", pool, COUNT_MAX)
    codes = _integers(saved, offset + 12 * pool, "<u4", pool, COUNT_MAX * CODES)
    sums = base.sums(coefficients)
    return State(header.round, base.moved(sums), recent, Pool(coefficients, History(counts, codes), sums))


def _integers(saved: BlobReader, offset: int, kind: str, count: int, largest: int) -> tuple[int, ...]:
    import numpy as np

    values = np.frombuffer(saved.read(offset, np.dtype(kind).itemsize * count), kind)
    found: tuple[int, ...] = tuple(values.tolist())
    if any(abs(each) > largest for each in found):
        raise ValueError("holds integers out of range")
    return found
