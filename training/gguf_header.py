"""The head of a GGUF file (ggml's docs/gguf.md, version 3): its metadata, and where its tensors lie.

gguf's own GGUFReader makes an array of every token and every merge: 1.6 s and 159 MB for a vocabulary of 49,152. It is
for files whose hash was checked: a damaged one raises whatever comes of it.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final

MAGIC: Final = b"GGUF"
STRING: Final = 8
ARRAY: Final = 9
NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT: Final = 32  # of the tensors, where the metadata do not say


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor.

    Attributes:
        kind: ggml's number of how values are packed.
        offset: of its first byte in the file.
    """

    shape: tuple[int, ...]  # as in numpy: the last one varies fastest
    kind: int
    offset: int

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    metadata: dict[str, Any]
    tensors: dict[str, Stored]


def parse_header(data: memoryview) -> Header:
    """The head of the file whose bytes these are.

    Raises:
        ValueError: it is no GGUF file of version 3.
    """
    magic, version, tensor_count, pair_count = struct.unpack_from("<4sIQQ", data)
    if magic != MAGIC or version != 3:
        raise ValueError(f"expected a GGUF file of version 3, found {magic!r}, {version}")
    take = _taker(data, struct.calcsize("<4sIQQ"))
    metadata = {_string(take): _value(take, take("I")) for _ in range(pair_count)}
    listed: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(tensor_count):
        name = _string(take)
        shape = tuple(reversed([take("Q") for _ in range(take("I"))]))
        listed.append((name, shape, take("I"), take("Q")))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    first = -(-take("") // alignment) * alignment
    return Header(metadata, {name: Stored(shape, kind, first + offset) for name, shape, kind, offset in listed})


def _taker(data: memoryview, start: int) -> Callable[[str], Any]:
    """Takes the next value in struct's notation; an empty one tells the place."""
    at = start

    def take(kind: str) -> Any:
        nonlocal at
        if not kind:
            return at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize("<" + kind)
        return value

    return take


def _string(take: Callable[[str], Any]) -> str:
    text: bytes = take(f"{take('Q')}s")
    return text.decode()


def _value(take: Callable[[str], Any], kind: int) -> Any:
    if kind == STRING:
        return _string(take)
    if kind == ARRAY:
        inner, count = take("I"), take("Q")
        return [_value(take, inner) for _ in range(count)]
    return take(NUMBERS[kind])
