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

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from .ports import BlobReader, Payload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

TINY = 2.0**-80  # 8e-25: far below any gradient that matters, 46 powers of two above the smallest normal number
BLOCK = 256  # int8 values that share a scale; 4 bytes of scale each: 1.6%
PIECE = 256 * BLOCK  # values at once: 256 KiB, which a core's cache holds; an eighth less time than with 96 KiB


class Codec(Protocol):
    """Turns values into bytes, and any part of these back."""

    def body_bytes(self, count: int) -> int:
        """Exactly how many bytes `count` values take."""
        ...

    def encode(self, values: "Vector") -> Iterator[Payload]:
        """The body, in pieces. Finite values only."""
        ...

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, stop: int) -> "Vector":
        """Values `start` to `stop` of the `count` whose body begins at `offset`; the caller may write into the result.

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

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, stop: int) -> "Vector":
        import numpy as np

        return flush_tiny(np.frombuffer(reader.read(offset + 4 * start, 4 * (stop - start)), "<f4").astype(np.float32))

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        return _peak(self, reader, offset, count)


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

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, stop: int) -> "Vector":
        import numpy as np

        halves = np.frombuffer(reader.read(offset + 2 * start, 2 * (stop - start)), "<u2")
        return flush_tiny((halves.astype(np.uint32) << np.uint32(16)).view(np.float32))

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        return _peak(self, reader, offset, count)


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
        for start in range(0, len(values), PIECE):
            blocks = _in_blocks(values[start : start + PIECE])
            peak = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
            scale = flush_tiny(peak / np.float32(127))
            quotients = blocks / np.where(scale == 0, np.float32(np.inf), scale)[:, None]  # x / infinity is 0
            np.rint(quotients, out=quotients)
            codes[start : start + PIECE] = quotients.reshape(-1)[: len(codes) - start]
            scales[start // BLOCK : start // BLOCK + len(scale)] = scale
        yield scales.astype("<f4", copy=False).data.cast("B")
        yield codes.data.cast("B")

    def decode(self, reader: BlobReader, offset: int, count: int, start: int, stop: int) -> "Vector":
        import numpy as np

        first, last = start // BLOCK, _blocks(stop)
        scales = flush_tiny(
            np.frombuffer(reader.read(offset + 4 * first, 4 * (last - first)), "<f4").astype(np.float32)
        )
        codes = np.frombuffer(reader.read(offset + 4 * _blocks(count) + start, stop - start), np.int8)
        blocks = _in_blocks(codes.astype(np.float32))
        with np.errstate(all="ignore"):  # a peer's scale may be anything; the result is checked
            blocks *= scales[:, None]
        return blocks.reshape(-1)[: stop - start]

    def peak(self, reader: BlobReader, offset: int, count: int) -> float:
        """127 of the largest scale: the codes, all but 1.6% of the bytes, need not be read.

        The code -128, which `encode` never writes, stands for 128 of it; who bounds a sum by this has that to spare.
        """
        import numpy as np

        with np.errstate(all="ignore"):
            return float(np.float32(127) * np.float32(_peak(Float32(), reader, offset, _blocks(count))))


CODECS: dict[str, Codec] = {"float32": Float32(), "bfloat16": BFloat16(), "int8": Int8()}


def flush_tiny(values: "Vector") -> "Vector":
    """`values` with all that is nearer to zero than TINY set to 0, in place. NaN stays."""
    import numpy as np

    magnitudes = np.abs(values)
    if not magnitudes.min(initial=np.inf) >= TINY:
        np.copyto(values, np.float32(0), where=magnitudes < TINY)
    return values


def spans(count: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each piece of `count` values."""
    for start in range(0, count, PIECE):
        yield start, min(start + PIECE, count)


def _peak(codec: Codec, reader: BlobReader, offset: int, count: int) -> float:
    """Of all values, decoded."""
    import numpy as np

    pieces = (codec.decode(reader, offset, count, start, stop) for start, stop in spans(count))
    peaks = [np.abs(piece).max() for piece in pieces]
    return float(np.max(peaks, initial=0))  # NaN if one is


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def _in_blocks(values: "Vector") -> "NDArray[np.float32]":
    """(blocks, BLOCK); the last block is filled up with zeros."""
    import numpy as np

    missing = -len(values) % BLOCK
    if missing:
        values = np.concatenate([values, np.zeros(missing, np.float32)])
    return values.reshape(-1, BLOCK)
