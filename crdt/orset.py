"""Sets and maps: a removal takes away what its writer has seen, so what is added at the same time stays (add wins).

A set is one cell, its elements the values of its entries (`Kind.SET`; `Kind.GROW_SET`, from which nothing is taken). A
map is the cells below a prefix of paths, its keys their next parts, and what it maps to is whatever the cells hold:
sets, registers, further maps. A key is there while something below it is. Nothing is remembered of what was removed.

Several operations of one change go into one batch, or several in order if they are more than OPERATIONS_MAX.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from .dots import Cell, Dot, Entry, Writer
from .operation import TAKEN_MAX, Operation, Path, taken_by


class Reader(Protocol):
    """What is held: `replica.Replica`."""

    def cell(self, namespace: str, *path: str) -> Cell: ...

    def keys(self, namespace: str) -> Sequence[Path]: ...


def grow(namespace: str, path: Path, value: bytes) -> Operation:
    """Add an element to a set that only grows; one that is there need not be added."""
    return Operation(namespace, path, value)


def add(cell: Cell, namespace: str, path: Path, writer: Writer, value: bytes) -> Operation:
    """Add an element; one that is there too, or whoever removes it meanwhile would have it go."""
    return Operation(namespace, path, value, taken_by(writer, _of(cell, value)[:TAKEN_MAX]))


def remove(cell: Cell, namespace: str, path: Path, writer: Writer, value: bytes) -> list[Operation]:
    """Remove an element; nothing, if it is not there."""
    return list(_taking(namespace, path, writer, _of(cell, value)))


def elements(cell: Cell) -> list[bytes]:
    """Sorted, each once."""
    return sorted({entry.value for entry in cell.entries.values()})


def below(reader: Reader, namespace: str, prefix: Path = ()) -> list[Path]:
    """The paths of a map that hold something, sorted."""
    return [path for path in reader.keys(namespace) if path[: len(prefix)] == prefix]


def names(reader: Reader, namespace: str, prefix: Path = ()) -> list[str]:
    """The keys of a map, sorted."""
    return sorted({path[len(prefix)] for path in below(reader, namespace, prefix) if len(path) > len(prefix)})


def remove_below(reader: Reader, namespace: str, prefix: Path, writer: Writer) -> list[Operation]:
    """Remove a key, or a whole map: all that is held under paths with this prefix."""
    return [
        operation
        for path in below(reader, namespace, prefix)
        for operation in _taking(namespace, path, writer, sorted(reader.cell(namespace, *path).entries.items()))
    ]


def _of(cell: Cell, value: bytes) -> list[tuple[Dot, Entry]]:
    return sorted(each for each in cell.entries.items() if each[1].value == value)


def _taking(namespace: str, path: Path, writer: Writer, held: Sequence[tuple[Dot, Entry]]) -> Iterator[Operation]:
    for start in range(0, len(held), TAKEN_MAX):
        yield Operation(namespace, path, None, taken_by(writer, held[start : start + TAKEN_MAX]))
