"""The state that follows from operations: cells by key, and the way back when operations turn out not to count.

The law: what the cells hold depends on which operations were applied, each once, and on nothing else; not on their
order, as long as each writer's own come in order, and not on what was applied and taken back in between.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from blake3 import blake3

from shoal.transport.wire import encode

from .dots import Cell, Dot, Vector, join
from .operation import Operation, Path, tag_of

Key = tuple[str, Path]  # namespace and path
Applied = tuple[Dot, Operation, bytes]  # an operation and its hash
Read = Callable[[Iterable[Dot]], Iterable[Applied]]  # these, each writer's own in order

_EMPTY = Cell()


@dataclass(slots=True)
class _Tracked:
    """A cell now, as it was at the frontier, and what was applied since."""

    now: Cell = field(default_factory=Cell)
    base: Cell = field(default_factory=Cell)
    tail: list[Dot] = field(default_factory=list[Dot])


class Cells:
    """See the module's text. `context` is always that of the caller's chains, without the operation being applied."""

    def __init__(self) -> None:
        self._cells: dict[Key, _Tracked] = {}

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

    def take_back(self, lost: Iterable[Applied], read: Read, frontier: Vector, context: Vector) -> set[Key]:
        """Undo operations; `read` knows all that were applied. Returns the keys they had changed."""
        dots: set[Dot] = set()
        keys: set[Key] = set()
        for dot, operation, _ in lost:
            dots.add(dot)
            keys.add((operation.namespace, operation.path))
        for key in keys:
            tracked = self._cells[key]
            tracked.tail = [dot for dot in tracked.tail if dot not in dots]
            tracked.now = tracked.base.copy()
        # By the frontier, not by what is known by now: an operation may come after one that takes its entry away, and
        # must find that said.
        for dot, operation, hash in read(dot for key in keys for dot in self._cells[key].tail):
            now = self._cells[operation.namespace, operation.path].now
            now.write(dot, operation.entry(tag_of(hash)), operation.seen(dot.writer), frontier)
        for key in keys:
            self._cells[key].now.settle(context)
        return keys

    def at(self, applied: Iterable[Applied], since: Vector, frontier: Vector) -> dict[Key, Cell]:
        """The cells as they are when of what came after the frontier `since` only this is applied, up to `frontier`."""
        cells = {key: tracked.base.copy() for key, tracked in self._cells.items()}
        for dot, operation, hash in applied:
            cell = cells[operation.namespace, operation.path]
            cell.write(dot, operation.entry(tag_of(hash)), operation.seen(dot.writer), since)
        for cell in cells.values():
            cell.settle(frontier)
        return {key: cell for key, cell in cells.items() if not cell.is_empty}

    def adopt(self, base: Mapping[Key, Cell], frontier: Vector, context: Vector) -> set[Key]:
        """Join the state at an agreed frontier to what is here, and keep of the tail only what is above it.

        Returns the keys whose cells have changed.
        """
        changed: set[Key] = set()
        for key in {*base, *self._cells}:
            tracked = self._cells.setdefault(key, _Tracked())
            agreed = base.get(key, _EMPTY)
            now = join(tracked.now, context, agreed, frontier)
            if now.entries != tracked.now.entries:
                changed.add(key)
            tail = [dot for dot in tracked.tail if dot.number > frontier.get(dot.writer, 0)]
            if now.is_empty and agreed.is_empty and not tail:
                del self._cells[key]
            else:
                self._cells[key] = _Tracked(now, agreed, tail)
        return changed


def cells_digest(items: Iterable[tuple[Key, Cell]]) -> bytes:
    """32 bytes: equal for equal entries. `items` are sorted."""
    hasher = blake3()
    for (namespace, path), cell in items:
        if cell.entries:
            hasher.update(encode((namespace, path, sorted(cell.entries.items()))))
    return hasher.digest()
