"""Bytes that no honest peer sends, drawn from a seed; and values that one might, of any type that travels."""

import importlib
import os
import pkgutil
import random
import re
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import msgspec
from msgspec import inspect

import shoal.crdt
import shoal.dht
import shoal.node
import shoal.training
import shoal.transport
from shoal.transport.wire import Message, encode

IS_SOAK = bool(os.environ.get("SHOAL_SOAK"))
TEXT = "abcXYZ019 ./:%_-~é\u202e\x00\x1b\n"
INTEGERS = (0, 1, 2, 31, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1)
LENGTHS = (0, 1, 2, 15, 16, 31, 32, 33, 64, 255, 256, 1000)
# MessagePack heads that announce more than follows: bin, ext, str, array and map of 8, 16 and 32 bits, and negative.
HEADS = tuple(
    bytes([head]) + b"\xff" * size
    for head, size in [
        (0xC4, 1), (0xC5, 2), (0xC6, 4), (0xC7, 1), (0xC8, 2), (0xC9, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4),
        (0xDC, 2), (0xDD, 4), (0xDE, 2), (0xDF, 4), (0xD3, 8), (0xCF, 8), (0xCB, 8), (0xC1, 0), (0xD6, 5),
    ]
)  # fmt: skip
PATTERNED = ("", "0" * 32, "0" * 64, f"{'a' * 64}@{'9' * 64}")  # one at least for every pattern that is used
STRANGERS: tuple[Any, ...] = (None, True, -1, 2**63, 1.0, float("nan"), "", "é" * 40, b"", b"x" * 32, [], {})
NESTS = (b"\x91", b"\x81\x00", b"\x9f", b"[", b'{"a":', b"\xdd\x00\x00\x00\x01")


def modules(*packages: ModuleType) -> Iterator[ModuleType]:
    """All modules of these packages, but for those that are programs."""
    for package in packages:
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            yield importlib.import_module(info.name)


def message_types() -> list[type[Message]]:
    """Every message of the project, sorted by name. A new one is among them without being named anywhere."""
    found: set[type[Message]] = set()
    for module in modules(shoal.transport, shoal.dht, shoal.crdt, shoal.training, shoal.node):
        found.update(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Message) and value is not Message
        )
    return sorted(found, key=lambda each: (each.__module__, each.__qualname__))


def value_of(chance: random.Random, type_: Any) -> Any:
    """A value of `type_` that keeps its bounds: what `decode` must accept."""
    built = _built(chance, inspect.type_info(type_))
    return msgspec.convert(built, type_)


def _built(chance: random.Random, info: inspect.Type) -> Any:
    """In builtin types; messages as lists in field order."""
    match info:
        case inspect.IntType():
            low = info.ge if info.ge is not None else -(2**63) if info.gt is None else info.gt + 1
            high = info.le if info.le is not None else 2**63 - 1 if info.lt is None else info.lt - 1
            near = [value for value in (*INTEGERS, low, high) if low <= value <= high]
            return chance.choice(near) if chance.random() < 0.7 else chance.randint(int(low), int(high))
        case inspect.FloatType():
            least = info.ge if info.ge is not None else -1e9 if info.gt is None else info.gt + 1e-9
            most = info.le if info.le is not None else 1e9 if info.lt is None else info.lt - 1e-9
            return chance.uniform(least, most)
        case inspect.StrType(min_length=low, max_length=high, pattern=str(pattern)):
            fitting = [text for text in PATTERNED if (low or 0) <= len(text) <= (len(text) if high is None else high)]
            return chance.choice([text for text in fitting if re.search(pattern, text)])
        case inspect.StrType():
            return "".join(chance.choices(TEXT, k=_length(chance, info.min_length, info.max_length)))
        case inspect.BytesType() | inspect.MemoryViewType():
            return chance.randbytes(_length(chance, info.min_length, info.max_length))
        case inspect.BoolType():
            return chance.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.EnumType():
            return chance.choice([member.value for member in info.cls])
        case inspect.LiteralType():
            return chance.choice(info.values)
        case inspect.UnionType():
            return _built(chance, chance.choice(info.types))
        case inspect.VarTupleType() | inspect.ListType():
            length = min(_length(chance, info.min_length, info.max_length), max(40, info.min_length or 0))
            return [_built(chance, info.item_type) for _ in range(length)]
        case inspect.DictType():
            length = min(_length(chance, info.min_length, info.max_length), 20)
            return {_built(chance, info.key_type): _built(chance, info.value_type) for _ in range(length)}
        case inspect.StructType():
            tag = [] if info.tag is None else [info.tag]
            return [*tag, *(_built(chance, field.type) for field in info.fields)]
        case _:
            raise TypeError(f"teach tests/fuzz/garbage.py to make a {type(info).__name__}")


def _length(chance: random.Random, low: int | None, high: int | None) -> int:
    fitting = [length for length in (*LENGTHS, low or 0) if (low or 0) <= length <= (10**9 if high is None else high)]
    return chance.choice(fitting) if chance.random() < 0.9 else max(low or 0, min(high or 300, 300))


def mutated(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """A sound message of `corpus`, spoiled; or bytes that never were one."""
    data = chance.choice(corpus)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(_MUTATIONS)(chance, data, corpus)
    return data


def _flip(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x00"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _truncate(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _extend(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return data + chance.randbytes(chance.choice((1, 2, 16, 300)))


def _splice(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    other = chance.choice(corpus)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _announce(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """A length that nothing follows."""
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(HEADS) + data[at + chance.randrange(8) :]


def _nest(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    at = chance.randrange(min(len(data), 8) + 1)
    return data[:at] + chance.choice(NESTS) * chance.choice((2, 100, 5_000)) + data[at:]


def _replace(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 2, 8, 64, 64, 64, 1000)))


def _other(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """A sound message of another kind."""
    return chance.choice(corpus)


def _swap(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """One element of a message replaced by something of another type."""
    try:
        tree = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        return _flip(chance, data, corpus)
    at: Any = tree
    while isinstance(at, list) and at:
        items: list[Any] = at  # pyright: ignore[reportUnknownVariableType]
        index = chance.randrange(len(items))
        if not isinstance(items[index], list) or chance.random() < 0.3:
            items[index] = chance.choice(STRANGERS)
            break
        at = items[index]
    return msgspec.msgpack.encode(tree)


_MUTATIONS: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _truncate, _extend, _splice, _announce, _announce, _nest, _replace, _other, _swap, _swap,
)  # fmt: skip


def corpus_of(chance: random.Random, types: Sequence[Any], per_type: int = 3) -> list[bytes]:
    """Sound messages of all these types."""
    return [encode(value_of(chance, type_)) for type_ in types for _ in range(per_type)]
