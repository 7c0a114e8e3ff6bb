"""How a vector of float32 travels: float32, bfloat16, or blockwise int8, behind one Protocol.

Encoding is the sender's own affair and may differ between machines in the last bit. Decoding must not: it uses one
exactly rounded elementwise operation per value (conversion, or one multiplication; IEEE 754 leaves no freedom there),
so every member decodes a payload to the same bits.

Values nearer to zero than TINY become 0 when decoded. That is more than clearing denormals: sums of integer multiples
of what is left are never denormal either, and what a division or a multiplication leaves of them that is denormal is
too small to change any other value of theirs. So a machine whose libraries flush denormals to zero agrees with one that
keeps them.

What a malicious peer may send: any bytes of the right length. They decode to some float32 each; whether these are
finite and in range, `payload.check_values` decides.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from .ports import BlobReader, Payload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

TINY = 2.0**-80  # 8e-25: far below any gradient that matters, 46 powers of two above the smallest normal number
BLOCK = 256  # int8 values that share a scale; 4 bytes of scale each: 1.6%
PIECE = 256 * BLOCK  # values at once: 256 KiB, which a core's cache holds; an eighth less time than with 96 KiB

_MAGNITUDE = 2**31 - 1  # a float32's bits but for the sign
_TINY = 47 << 23  # TINY's bits


class Codec(Protocol):
    """Turns values into bytes, and any part of these back."""

    def body_bytes(self, count: int) -> int:
        """Exactly how many bytes `count` values take."""
        ...

    def encode(self, values: "Vector") -> Iterator[Payload]:
        """The body, in pieces. Finite values only."""
        ...

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, out: "Vector") -> "Vector":
        """Into `out`, which is contiguous, as many values from `start` on of the `count` whose body begins at `offset`.

        `start` is a multiple of BLOCK. NaN and infinities come out as they are.
        """
        ...

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        """What no value exceeds in magnitude, the same everywhere; NaN if a value may be NaN."""
        ...


class Float32:
    """4 bytes per value. Error: 0, or |x| where |x| < TINY."""

    def body_bytes(self, count: int) -> int:
        return 4 * count

    def encode(self, values: "Vector") -> Iterator[Payload]:
        yield values.astype("<f4", copy=False).data.cast("B")

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, out: "Vector") -> "Vector":
        return flush_tiny(_read_floats(reader, offset + 4 * start, out))

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        import numpy as np

        room = np.empty(min(count, PIECE), np.float32)
        pieces = (_read_floats(reader, offset + 4 * start, room[: stop - start]) for start, stop in spans(count))
        return peak_of(pieces)


class BFloat16:
    """2 bytes per value: float32 rounded to 8 significant bits, ties to even. Error: at most |x| / 256, or |x| where
    |x| < TINY.
    """

    def body_bytes(self, count: int) -> int:
        return 2 * count

    def encode(self, values: "Vector") -> Iterator[Payload]:
        import numpy as np

        for start in range(0, len(values), PIECE):
            bits = values[start : start + PIECE].view(np.uint32)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            yield rounded.astype("<u2").data.cast("B")

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, out: "Vector") -> "Vector":
        import numpy as np

        bits = out.view(np.uint32)
        bits[:] = np.frombuffer(reader.read(offset + 2 * start, 2 * len(out)), "<u2")
        bits <<= np.uint32(16)
        return flush_tiny(out)

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        import numpy as np

        room = np.empty(min(count, PIECE), np.float32)
        pieces = (self.decode(reader, offset, count, start, room[: stop - start]) for start, stop in spans(count))
        return peak_of(pieces)


class Int8:
    """1 byte per value and 4 per block of 256: all scales come first, then all values.

    scale = max |x| of the block / 127, code = x / scale rounded to an integer, decoded as code * scale.
    Error: at most max |x| of the block * (1/254 + 2^-21), or 2^-72 where that is more.
    The first is half a step plus the roundings of the scale, the quotient and the product (three times 2^-24 of 127
    steps); the second is a block whose scale is below TINY: all of it becomes 0.
    """

    def body_bytes(self, count: int) -> int:
        return 4 * _blocks(count) + count

    def encode(self, values: "Vector") -> Iterator[Payload]:
        import numpy as np

        scales = np.empty(_blocks(len(values)), np.float32)
        codes = np.empty(len(values), np.int8)
        room = np.empty((PIECE // BLOCK, BLOCK), np.float32)
        for start in range(0, len(values), PIECE):
            blocks = _in_blocks(values[start : start + PIECE])
            peak = np.abs(blocks, out=room[: len(blocks)]).max(axis=1)
            scale = flush_tiny(peak / np.float32(127))
            divisors = np.where(scale == 0, np.float32(np.inf), scale)[:, None]  # x / infinity is 0
            quotients = np.divide(blocks, divisors, out=room[: len(blocks)])
            np.rint(quotients, out=quotients)
            codes[start : start + PIECE] = quotients.reshape(-1)[: len(codes) - start]
            scales[start // BLOCK : start // BLOCK + len(scale)] = scale
        yield scales.astype("<f4", copy=False).data.cast("B")
        yield codes.data.cast("B")

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, out: "Vector") -> "Vector":
        import numpy as np

        first, last = start // BLOCK, _blocks(start + len(out))
        scales = np.empty(last - first, np.float32)
        flush_tiny(_read_floats(reader, offset + 4 * first, scales))
        out[:] = np.frombuffer(reader.read(offset + 4 * _blocks(count) + start, len(out)), np.int8)
        full = len(out) // BLOCK
        blocks, rest = out[: full * BLOCK].reshape(full, BLOCK), out[full * BLOCK :]
        with np.errstate(all="ignore"):  # a peer's scale may be anything; the result is checked
            blocks *= scales[:full, None]
            rest *= scales[full:].repeat(len(rest))
        return out

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        """127 of the largest scale: the codes, all but 1.6% of the bytes, need not be read.

        The code -128, which `encode` never writes, stands for 128 of it; who bounds a sum by this has that to spare.
        """
        import numpy as np

        with np.errstate(all="ignore"):
            return float(np.float32(127) * np.float32(Float32().peak(reader, offset, _blocks(count))))


CODECS: dict[str, Codec] = {"float32": Float32(), "bfloat16": BFloat16(), "int8": Int8()}


def flush_tiny(values: "Vector") -> "Vector":
    """`values` with all that is nearer to zero than TINY set to 0, in place. NaN stays."""
    import numpy as np

    if not len(values):
        return values
    # Magnitudes are ordered as their bits; the sign makes them 2^31 more or less. Two minima take a fifth less time
    # than to write magnitudes down and look for the least, and no memory.
    least = np.minimum.reduce  # the method `min` takes a microsecond more
    if least(values.view(np.uint32)) < _TINY or least(values.view(np.int32)) < _TINY - 2**31:
        np.copyto(values, np.float32(0), where=np.abs(values) < TINY)
    return values


def peak_of(pieces: "Iterable[Vector]") -> float:
    """The largest magnitude, 0 where it is nearer to that than TINY; NaN if a value is NaN."""
    import numpy as np

    largest = 0
    for piece in pieces:
        if len(piece):  # magnitudes are ordered as their bits, and NaN behind infinity
            found = int(piece.view(np.int32).max()), int(piece.view(np.uint32).max())
            largest = max(largest, *(bits & _MAGNITUDE for bits in found))
    peak = float(np.uint32(largest).view(np.float32))
    return 0.0 if peak < TINY else peak


def spans(count: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each piece of `count` values."""
    for start in range(0, count, PIECE):
        yield start, min(start + PIECE, count)


def _read_floats(reader: BlobReader, offset: int, out: "Vector") -> "Vector":
    reader.read_into(offset, out.data.cast("B"))
    if sys.byteorder == "big":
        out.byteswap(inplace=True)
    return out


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def _in_blocks(values: "Vector") -> "NDArray[np.float32]":
    """(blocks, BLOCK); the last block is filled up with zeros."""
    import numpy as np

    missing = -len(values) % BLOCK
    if missing:
        values = np.concatenate([values, np.zeros(missing, np.float32)])
    return values.reshape(-1, BLOCK)
