"""The state that follows from operations: cells by key, and the way back when operations turn out not to count.

The law: what the cells hold depends on which operations were applied, each once, and on nothing else; not on their
order, as long as each writer's own come in order, and not on what was applied and taken back in between.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from blake3 import blake3

from shoal.transport.wire import encode

from .counter import own_totals
from .dots import Cell, Dot, Entry, Seen, Vector, Writer, join
from .operation import Operation, Path, tag_of

Key = tuple[str, Path]  # namespace and path
Applied = tuple[Dot, Operation, bytes]  # an operation and its hash
Find = Callable[[Key, Seen], Entry | None]  # the entry that an operation which counts, above the frontier, wrote there

_EMPTY = Cell()


class _Tracked(msgspec.Struct, gc=False):
    """A key's entries now, its cell at the frontier, and what operations since then took away: all that they name, be
    it here, gone or yet to come; so an operation is undone at the cost of itself, however many there are.
    """

    now: dict[Dot, Entry] = {}
    base: Cell = msgspec.field(default_factory=lambda: _EMPTY)  # not to be changed
    taken: dict[Seen, Dot] = {}  # and by which operation
    taken_too: dict[Seen, set[Dot]] = {}  # by which others, where there are

    def apply(self, dot: Dot, operation: Operation, tag: bytes) -> None:
        entry = operation.entry(tag)
        if entry is not None and not ((self.taken or self.base.gone) and self.is_taken(Seen(dot, tag))):
            self.now[dot] = entry
        for seen in operation.seen(dot.writer):
            if self.taken.setdefault(seen, dot) != dot:
                self.taken_too.setdefault(seen, set()).add(dot)
            held = self.now.get(seen.dot)
            if held is not None and held.tag == seen.tag:
                del self.now[seen.dot]

    def take_back(self, dot: Dot, operation: Operation) -> list[Seen]:
        """Undo an operation. Returns what nothing takes away any more."""
        self.now.pop(dot, None)
        return [seen for seen in set(operation.seen(dot.writer)) if self._release(seen, dot)]

    def is_taken(self, seen: Seen) -> bool:
        return seen in self.taken or seen in self.base.gone

    def takers(self, seen: Seen) -> set[Dot]:
        return {self.taken[seen]} | self.taken_too.get(seen, set())

    def full(self, context: Vector) -> Cell:
        """The cell as `dots.join` wants it."""
        gone = {seen: min(self.takers(seen)).writer for seen in self.taken}
        gone.update((seen, min(by, gone.get(seen, by))) for seen, by in self.base.gone.items())
        cell = Cell(self.now, gone)
        cell.settle(context)
        return cell

    def above(self, now: dict[Dot, Entry], base: Cell, frontier: Vector) -> "_Tracked":
        """This, with what is up to the frontier in `base`."""
        tracked = _Tracked(now, base)
        for seen in self.taken:
            takers = {dot for dot in self.takers(seen) if dot.number > frontier.get(dot.writer, 0)}
            if takers:
                tracked.taken[seen] = takers.pop()
            if takers:
                tracked.taken_too[seen] = takers
        return tracked

    def _release(self, seen: Seen, dot: Dot) -> bool:
        others = self.taken_too.get(seen, set())
        if self.taken[seen] != dot:
            others.discard(dot)
        elif others:
            self.taken[seen] = others.pop()
        else:
            del self.taken[seen]
        if not others:
            self.taken_too.pop(seen, None)
        return seen not in self.taken

    @property
    def is_empty(self) -> bool:
        return not self.now and self.base.is_empty and not self.taken


class Cells:
    """See the module's text."""

    def __init__(self) -> None:
        self._cells: dict[Key, _Tracked] = {}

    def cell(self, key: Key) -> Cell:
        """What a key holds; not to be changed."""
        tracked = self._cells.get(key)
        return _EMPTY if tracked is None else Cell(tracked.now)

    def total(self, key: Key, writer: Writer) -> int:
        """What a writer had added to a counter at the frontier."""
        tracked = self._cells.get(key)
        return 0 if tracked is None else own_totals(tracked.base, writer).up

    def keys(self, namespace: str) -> list[Key]:
        """The keys of a namespace that hold something, sorted."""
        return sorted(key for key, tracked in self._cells.items() if key[0] == namespace and tracked.now)

    def items(self) -> Iterator[tuple[Key, Cell]]:
        """All that holds something, sorted by key."""
        for key in sorted(key for key, tracked in self._cells.items() if tracked.now):
            yield key, Cell(self._cells[key].now)

    def apply(self, dot: Dot, operation: Operation, hash: bytes) -> Key:
        """Returns the key it changes."""
        key = operation.namespace, operation.path
        tracked = self._cells.get(key)
        if tracked is None:
            tracked = self._cells[key] = _Tracked()
        tracked.apply(dot, operation, tag_of(hash))
        return key

    def take_back(self, lost: Iterable[Applied], find: Find) -> set[Key]:
        """Undo operations; `find` no longer finds what they wrote. Returns the keys they had changed."""
        keys: set[Key] = set()
        for dot, operation, _ in lost:
            key = operation.namespace, operation.path
            keys.add(key)
            tracked = self._cells[key]
            for seen in tracked.take_back(dot, operation):
                entry = tracked.base.entries.get(seen.dot) or find(key, seen)
                if entry is not None and entry.tag == seen.tag and not self._cells[key].is_taken(seen):
                    tracked.now[seen.dot] = entry
        for key in keys:
            if self._cells[key].is_empty:
                del self._cells[key]
        return keys

    def bases(self) -> dict[Key, Cell]:
        """The cells at the frontier; not to be changed, here or there."""
        return {key: tracked.base for key, tracked in self._cells.items() if not tracked.base.is_empty}

    def adopt(self, base: Mapping[Key, Cell], frontier: Vector, context: Vector) -> set[Key]:
        """Join the state at an agreed frontier to what is here, of which `context` has been applied.

        Returns the keys whose cells have changed.
        """
        changed: set[Key] = set()
        for key in {*base, *self._cells}:
            before = self._cells.get(key) or _Tracked()
            agreed = base.get(key, _EMPTY)
            now = join(before.full(context), context, agreed, frontier)
            if now.entries != before.now:
                changed.add(key)
            tracked = before.above(now.entries, agreed, frontier)
            if tracked.is_empty:
                self._cells.pop(key, None)
            else:
                self._cells[key] = tracked
        return changed


def cells_at(bases: Mapping[Key, Cell], applied: Iterable[Applied], since: Vector, frontier: Vector) -> dict[Key, Cell]:
    """The cells as they are when of what came after the frontier `since` only this is applied, up to `frontier`."""
    cells = {key: base.copy() for key, base in bases.items()}
    for dot, operation, hash in applied:
        cell = cells.setdefault((operation.namespace, operation.path), Cell())
        cell.write(dot, operation.entry(tag_of(hash)), operation.seen(dot.writer), since)
    for cell in cells.values():
        cell.settle(frontier)
    return {key: cell for key, cell in cells.items() if not cell.is_empty}


def cells_digest(items: Iterable[tuple[Key, Cell]]) -> bytes:
    """32 bytes: equal for equal entries. `items` are sorted."""
    hasher = blake3()
    for (namespace, path), cell in items:
        if cell.entries:
            hasher.update(encode((namespace, path, sorted(cell.entries.items()))))
    return hasher.digest()
