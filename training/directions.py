"""Random directions that are the same on every machine, and steps along them.

Losses along random directions in place of a gradient: Malladi et al. 2023 (MeZO, arXiv 2305.17333).

A direction z is a vector of +-1 (Rademacher) that 32 bytes name, its key. Parameter i of tensor t of a layout is bit i
of ChaCha20's keystream (RFC 8439) under that key with the nonce t (12 bytes, little-endian) from block 0 on, the lowest
bit of each byte first; 1 stands for +1, 0 for -1. Block b holds parameters 512 b to 512 b + 511, so any part can be had
without what is before it. torch.randn is no alternative: it gives other bits on other instruction sets.

`step` takes its terms (key, scale) in groups of 8, in the order given; the last group may have fewer. What a group adds
to a parameter is

    sum = (((0 + z_0 s_0) + z_1 s_1) + ...) + z_7 s_7,    new = old + sum

Which terms share a group and their order are part of the protocol: other groups give other roundings.

The bits are the same on every machine, because there is nothing to choose in any operation. Keystreams and the
transposition are integers. z s is s or -s, which is exact: there is no product that an FMA could leave unrounded. Each
+ above is one float32 addition, rounded to nearest even as IEEE 754 has it; the sums of a group are a table of 256 that
is made by elementwise additions in that order, so no reduction of numpy's decides. `add_sums` adds integers.

Nor does it matter whether a machine flushes denormals to zero: there are none. Values enter a state with all that is
nearer to zero than TINY = 2^-80 cleared (codecs.flush_tiny), and so do scales here; what is left has 24 bits and is a
multiple of 2^-103. Sums of such multiples are multiples, also when they are rounded: 0 or at least 2^-103, while the
smallest normal number is 2^-126. So nothing needs to be cleared after the addition.

What a malicious peer may send never comes here: keys are hashes, and scales come from a table (scalar_codes.py).
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from shoal.transport.wire import encode

from .codecs import flush_tiny
from .tensors import Layout, element_count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

    Number = TypeVar("Number", np.float32, np.int64)

GROUP: Final = 8  # terms whose sum is rounded as one: their 8 bits make the index of a table of 256
BLOCK: Final = 512  # parameters in a block of keystream, 64 bytes
SWEEP: Final = 32 * GROUP  # terms in one pass over the vector, with their keystreams at hand
PIECE: Final = 2**16  # parameters at once, whole blocks: 1 MB of memory, which caches hold; 2^14: half as slow again
_ZEROS: Final = memoryview(bytes(PIECE // 8 + 64))  # become keystream; a piece may begin amid a block


def direction_key(swarm: bytes, round: int, base_round: int, member: str, index: int) -> bytes:
    """32 bytes: the name of a member's direction number `index` of a round, taken at the state after `base_round`."""
    return blake3(b"shoal/direction/1\0" + encode((swarm, round, base_round, member, index))).digest()


def pool_key(swarm: bytes, index: int) -> bytes:
    """32 bytes: the name of direction number `index` of those that a swarm uses again and again (Qin et al. 2024)."""
    return blake3(b"shoal/pool/1\0" + encode((swarm, index))).digest()


def signs(key: bytes, tensor: int, start: int, stop: int) -> "NDArray[np.int8]":
    """(stop - start,) of +-1: parameters `start` to `stop` of tensor number `tensor`."""
    import numpy as np

    if start >= stop:
        return np.empty(0, np.int8)
    first = start % BLOCK
    stream = _seek(_keystream(key), tensor, start)
    keystream = np.frombuffer(stream.update(bytes(-(-(first + stop - start) // 8))), np.uint8)
    bits = np.unpackbits(keystream, bitorder="little")[first : first + stop - start].view(np.int8)
    return bits + bits - np.int8(1)


def perturbed(values: "Vector", key: bytes, tensor: int, scale: "np.float32", out: "Vector", start: int = 0) -> None:
    """out = values + scale * z, with one rounding; `out` may be `values`.

    Args:
        values: (n,) of tensor number `tensor`, the first of them its element `start`.
        scale: finite; from TINY on in magnitude, lest a processor that flushes denormals sees another number.
    """
    import numpy as np

    bits = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").reshape(256, 8)
    eights = np.where(bits, scale, -scale)  # (256, 8): what each byte of keystream adds
    stream = _keystream(key)
    keystream = np.empty(min(len(_ZEROS), len(values) // 8 + 65), np.uint8)
    steps = np.empty((len(keystream), 8), np.float32)
    for begin in range(0, len(values), PIECE):
        part = slice(begin, min(begin + PIECE, len(values)))
        first = (start + begin) % BLOCK
        stop = first + part.stop - part.start
        count = -(-stop // 8)
        _seek(stream, tensor, start + begin).update_into(_ZEROS[:count], keystream.data)
        eights.take(keystream[:count], axis=0, out=steps[:count], mode="clip")
        np.add(values[part], steps.reshape(-1)[first:stop], out=out[part])


def step(values: "Vector", layout: Layout, terms: "Sequence[tuple[bytes, np.float32]]", out: "Vector") -> None:
    """out = values + the sum of scale * z over `terms`, (key, scale) each, in the order and groups described above.

    `out` may be `values`. Both have `layout`; values are finite, each 0 or at least TINY in magnitude or what `step`
    made of such. Scales are finite; one below TINY counts as 0 and keeps its place in its group.
    """
    import numpy as np

    scales = flush_tiny(np.array([scale for _, scale in terms], np.float32))
    _add(values, layout, [key for key, _ in terms], scales, out)


def add_sums(sums: "NDArray[np.int64]", layout: Layout, terms: Sequence[tuple[bytes, int]]) -> None:
    """sums += the sum of factor * z over `terms`, (key, factor) each: exact, in any order the same.

    To add -factor undoes factor. `sums` has `layout`; the magnitudes of all factors in it stay below 2^63 in sum.
    """
    import numpy as np

    _add(sums, layout, [key for key, _ in terms], np.array([factor for _, factor in terms], np.int64), sums)


def _add(
    values: "NDArray[Number]", layout: Layout, keys: Sequence[bytes], scales: "NDArray[Number]", out: "NDArray[Number]"
) -> None:
    import numpy as np

    if not len(values) == len(out) == element_count(layout):
        raise ValueError(f"{len(values)} values become {len(out)}, of a layout of {element_count(layout)}")
    if not keys:
        np.copyto(out, values)
        return
    columns = _Columns()
    gathered = np.empty(PIECE, values.dtype)
    for first in range(0, len(keys), SWEEP):
        groups = [slice(at, at + GROUP) for at in range(first, min(first + SWEEP, len(keys)), GROUP)]
        tables = [_sums_of_signs(scales[group]) for group in groups]
        streams = [[_keystream(key) for key in keys[group]] for group in groups]
        for piece in _pieces(layout):
            before = values
            for table, group in zip(tables, streams, strict=True):
                codes = columns.codes(group, piece)
                sums = table.take(codes, out=gathered[: len(codes)], mode="clip")  # `raise`, the default, copies
                at = 0
                for span in piece:
                    part = slice(span.begin, span.begin + span.size)
                    np.add(before[part], sums[at : at + span.size], out=out[part])
                    at += 8 * span.byte_count
                before = out
        values = out


def _sums_of_signs(scales: "NDArray[Number]") -> "NDArray[Number]":
    """(2^len(scales),) In place c: 0 + z_0 s_0 + z_1 s_1 + ..., added up from the left, z_k = +1 where c has bit k."""
    import numpy as np

    sums = np.zeros(1, scales.dtype)
    for scale in scales:
        sums = np.concatenate([sums - scale, sums + scale])
    return sums


class _Span(NamedTuple):
    """A part of a tensor that begins with a block of keystream."""

    tensor: int
    start: int  # in the tensor
    begin: int  # in the flat vector
    size: int

    @property
    def byte_count(self) -> int:
        return -(-self.size // 8)


def _pieces(layout: Layout) -> Iterator[list[_Span]]:
    """All of the layout, as many spans together as a piece's keystreams hold: a tensor begins with a byte of its own.

    Together, since most of what a small tensor costs is calls, and norm gains are dozens of tensors of some hundreds.
    """
    piece: list[_Span] = []
    begin, room_bytes = 0, PIECE // 8
    for tensor, shape in enumerate(layout):
        count = math.prod(shape.shape)
        for start in range(0, count, PIECE):
            span = _Span(tensor, start, begin + start, min(PIECE, count - start))
            if span.byte_count > room_bytes:
                yield piece
                piece, room_bytes = [], PIECE // 8
            piece.append(span)
            room_bytes -= span.byte_count
        begin += count
    yield piece


class _Columns:
    """Room for up to eight keystreams one above the other, to be read by columns."""

    def __init__(self) -> None:
        import numpy as np

        self._rows = np.zeros((8, PIECE // 64), np.uint64)
        self._swapped = np.empty((4, PIECE // 64), np.uint64)
        self._codes = np.empty((PIECE // 8, 8), np.uint8)

    def codes(self, streams: Sequence[CipherContext], piece: Sequence[_Span]) -> "NDArray[np.uint8]":
        """(n,) One for each bit: its bit k is that of stream k. Spans follow one another, each filled up to 8 bits.

        They are in this object's memory, until the next call.
        """
        import numpy as np

        rows = self._rows.view(np.uint8)
        rows[len(streams) :] = 0
        at = 0
        for span in piece:
            zeros, stop = _ZEROS[: span.byte_count], at + span.byte_count
            for row, stream in zip(rows, streams, strict=False):
                _seek(stream, span.tensor, span.start).update_into(zeros, row[at:stop].data)
            at = stop
        words = -(-at // 8)
        self._transpose(words)
        codes = self._codes[:at]
        np.copyto(codes, rows[:, :at].T)
        return codes.reshape(-1)

    def _transpose(self, words: int) -> None:
        """Bit r of each byte of row k becomes bit k of that byte of row r.

        8 x 8 bits in three rounds of exchanges (Warren 2013, Hacker's Delight, 7-3): of bits 1, 2 and 4 apart between
        rows as far apart. No bit leaves its byte, so the order of bytes in a word does not matter.
        """
        import numpy as np

        for apart, low in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F)):
            pairs = self._rows[:, :words].reshape(4 // apart, 2, apart, words)
            upper, lower = pairs[:, 0], pairs[:, 1]
            swapped = self._swapped[:, :words].reshape(4 // apart, apart, words)
            shift, mask = np.uint64(apart), np.uint64(low)
            np.right_shift(upper, shift, out=swapped)
            np.bitwise_xor(swapped, lower, out=swapped)
            np.bitwise_and(swapped, mask, out=swapped)
            np.bitwise_xor(lower, swapped, out=lower)
            np.left_shift(swapped, shift, out=swapped)
            np.bitwise_xor(upper, swapped, out=upper)


def _keystream(key: bytes) -> CipherContext:
    return Cipher(ChaCha20(key, bytes(16)), None).encryptor()


def _seek(stream: CipherContext, tensor: int, start: int) -> CipherContext:
    """`stream`, about to give the block that holds parameter `start` of a tensor. To make a new one costs ten times."""
    stream.reset_nonce((start // BLOCK).to_bytes(4, "little") + tensor.to_bytes(12, "little"))
    return stream
