"""What a key holds: entries, each named by the dot of the operation that wrote it.

All our types are one causal CRDT (Almeida, Shoker, Baquero 2018, "Delta state replicated data types", section 7): an
operation adds at most one entry, at its own dot, and takes away entries that its writer has seen. An entry lives while
no operation that counts has taken it away; so an entry that was written while another was taken away stays (add wins).
Whether a dot that is missing was taken away or has yet to come is told by a causal context, and since a writer's dots
are numbers without gaps, that context is one number per writer: nothing is remembered of what is gone (no tombstones).
What was taken away before it came (its operation is on its way) is the one exception: `Cell.gone`, until it has come.

Types differ in what they put into an entry and in how they read a cell: `register`, `counter`, `orset`, `log`.

What a malicious writer may do is take away entries that others would keep, where the rules of a namespace let it write
at all. What it cannot: take away an entry before it has seen it, since it must name a part of its operation's hash.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NewType

import msgspec

Writer = NewType("Writer", bytes)  # an Ed25519 public key, 32 bytes

TAG_BYTES: Final = 8

Tag = Annotated[bytes, msgspec.Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]
Vector = Mapping[Writer, int]  # a causal context: all operations of a writer up to this number


class Dot(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """One operation: the `number`-th of its writer, from 1."""

    writer: Writer
    number: int


class Entry(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """What an operation wrote under its dot."""

    value: bytes
    stamp: int  # of a `clock`; 0 where no clock is used
    tag: bytes  # the first TAG_BYTES of its operation's hash


class Seen(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """An entry that an operation takes away."""

    dot: Dot
    tag: bytes


class Cell(msgspec.Struct, gc=False):
    """What one key holds."""

    entries: dict[Dot, Entry] = {}
    gone: dict[Seen, Writer] = {}  # taken away before they came, and by whom

    def copy(self) -> "Cell":
        return Cell(dict(self.entries), dict(self.gone))

    @property
    def is_empty(self) -> bool:
        return not self.entries and not self.gone

    def write(self, dot: Dot, entry: Entry | None, taken: Iterable[Seen], context: Vector) -> None:
        """Apply the operation at `dot`, which is not in `context` yet; the operations in it have been applied."""
        if entry is not None:
            seen = Seen(dot, entry.tag)
            if self.gone.pop(seen, None) is None:
                self.entries[dot] = entry
        for seen in taken:
            held = self.entries.get(seen.dot)
            if held is not None:
                if held.tag == seen.tag:
                    del self.entries[seen.dot]
            elif seen.dot.writer != dot.writer and seen.dot.number > context.get(seen.dot.writer, 0):
                self.gone[seen] = min(dot.writer, self.gone.get(seen, dot.writer))

    def settle(self, context: Vector) -> None:
        """Forget of what was taken away all that `context` has: it came, elsewhere or in another form."""
        self.gone = {seen: by for seen, by in self.gone.items() if seen.dot.number > context.get(seen.dot.writer, 0)}


def join(a: Cell, a_context: Vector, b: Cell, b_context: Vector) -> Cell:
    """The cell after all operations that either side has seen: the least upper bound of two states.

    An entry that one side lacks has been taken away there if that side's context has its dot. Commutative, associative
    and idempotent, as long as a dot means the same operation on both sides.
    """
    joined = Cell()
    for mine, theirs, their_context in ((a, b, b_context), (b, a, a_context)):
        for dot, entry in mine.entries.items():
            is_new = dot.number > their_context.get(dot.writer, 0) and Seen(dot, entry.tag) not in theirs.gone
            if is_new or dot in theirs.entries:
                joined.entries[dot] = entry
    joined.gone = a.gone | {seen: min(by, a.gone.get(seen, by)) for seen, by in b.gone.items()}
    for context in (a_context, b_context):  # not both joined: that would cost every key as much as there are writers
        joined.settle(context)
    return joined
