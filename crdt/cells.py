"""The state that follows from operations: cells by key, and the way back when operations turn out not to count.

The law: what the cells hold depends on which operations were applied, each once, and on nothing else; not on their
order, as long as each writer's own come in order, and not on what was applied and taken back in between.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from shoal.transport.wire import encode

from .dots import Cell, Dot, Vector
from .operation import Operation, Path, tag_of

Key = tuple[str, Path]  # namespace and path
Read = Callable[[Dot], tuple[Operation, bytes]]  # the operation at a dot, and its hash

_EMPTY = Cell()


@dataclass(slots=True)
class _Tracked:
    """A cell now, as it was at the frontier, and what was applied since."""

    now: Cell = field(default_factory=Cell)
    base: Cell = field(default_factory=Cell)
    tail: list[Dot] = field(default_factory=list[Dot])


class Cells:
    """See the module's text. `context` is always that of the caller's chains, without the operation being applied."""

    def __init__(self, base: Iterable[tuple[Key, Cell]] = ()) -> None:
        self._cells = {key: _Tracked(cell.copy(), cell) for key, cell in base}

    def cell(self, key: Key) -> Cell:
        """What a key holds; not to be changed."""
        tracked = self._cells.get(key)
        return _EMPTY if tracked is None else tracked.now

    def keys(self, namespace: str) -> list[Key]:
        """The keys of a namespace that hold something, sorted."""
        return sorted(key for key, tracked in self._cells.items() if key[0] == namespace and tracked.now.entries)

    def items(self) -> Iterator[tuple[Key, Cell]]:
        """All that holds something, sorted by key."""
        for key in sorted(key for key, tracked in self._cells.items() if tracked.now.entries):
            yield key, self._cells[key].now

    def apply(self, dot: Dot, operation: Operation, hash: bytes, context: Vector) -> None:
        key = operation.namespace, operation.path
        tracked = self._cells.get(key)
        if tracked is None:
            tracked = self._cells[key] = _Tracked()
        tracked.tail.append(dot)
        tracked.now.write(dot, operation.entry(tag_of(hash)), operation.seen(dot.writer), context)

    def take_back(self, dots: Iterable[Dot], read: Read, frontier: Vector, context: Vector) -> None:
        """Undo what was applied at `dots`; `read` still knows these operations, and all others applied."""
        lost = set(dots)
        keys = {(operation.namespace, operation.path) for operation, _ in map(read, lost)}
        for key in keys:
            tracked = self._cells[key]
            tracked.tail = [dot for dot in tracked.tail if dot not in lost]
            tracked.now = tracked.base.copy()
            for dot in tracked.tail:
                operation, hash = read(dot)
                # By the frontier, not by what is known by now: an operation may come after one that takes its entry
                # away, and must find that said.
                tracked.now.write(dot, operation.entry(tag_of(hash)), operation.seen(dot.writer), frontier)
            tracked.now.settle(context)
            if not tracked.tail and tracked.base.is_empty:
                del self._cells[key]


def cells_digest(items: Iterable[tuple[Key, Cell]]) -> bytes:
    """32 bytes: equal for equal entries. `items` are sorted."""
    hasher = blake3()
    for (namespace, path), cell in items:
        if cell.entries:
            hasher.update(encode((namespace, path, sorted(cell.entries.items()))))
    return hasher.digest()
