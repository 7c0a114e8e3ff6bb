"""One writer's chain above the agreed frontier: which of its operations count, and the proof if it has forked.

An operation counts if all before it do, down to the frontier, and its number has no second one: at the lowest number
where two operations follow the same chain the writer has forked, and from there on nothing of it counts. All that
depends on which operations came, not on their order: a second operation at a higher number changes nothing, one at a
lower number moves the fork there, and what follows an operation that does not count is not needed to know any of this.
Of the operations at that number the first two that came are kept as proof: which, enters no head and no digest. (Were
they the two with the smallest hashes, a liar could grind proofs, and each would be news to everybody, without end.)
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec.structs import astuple

from shoal.transport.wire import Malformed, decode, encode

from .cells import Key
from .dots import Dot, Writer
from .operation import BATCH_BYTES_MAX, Batch, Operation, Stretch
from .rules import Rules, Spent, grown_to

HASH_BYTES = 32
_NOTHING = Spent()
_SPENT_COUNT = len(astuple(_NOTHING))  # numbers in it

Total = Callable[[Key], int]  # that the writer had counted up to on a key, at the frontier


class Proof(msgspec.Struct, frozen=True, gc=False):
    """One of two operations at the same number."""

    hash: bytes
    data: bytes  # a batch that covers it


class Head(msgspec.Struct, frozen=True, gc=False):
    """How far a chain goes, in few bytes: equal for equal chains."""

    number: int  # of its newest operation that counts
    hash: bytes  # of the same
    is_forked: bool = False  # right after it


class Known(msgspec.Struct, frozen=True, gc=False):
    """Nothing in the batch is news, or it lies below the frontier."""


class Gap(msgspec.Struct, frozen=True, gc=False):
    """The batch follows operations that are not here."""


class Apart(msgspec.Struct, frozen=True, gc=False):
    """The batch follows another operation than the one here: the writer forked, at a number below its first."""


class News(msgspec.Struct, frozen=True, gc=False):
    """The batch's operations from this number on are news; those before, if any, are the chain's own."""

    number: int
    is_fork: bool


Place = Known | Gap | Apart | News


class Added(msgspec.Struct, frozen=True, gc=False):
    """What operations add to their chain's accounts, within its bounds."""

    spent: "array[int]"  # after each of them
    grown: list[tuple[Key, int, int]]  # counters that only count up: key, number, total


class _Held(msgspec.Struct, frozen=True, gc=False):
    first: int
    last: int
    data: bytes


class Chain:
    """See the module's text."""

    __slots__ = (  # there are many
        "_base_spent", "_batches", "_grown", "_hash", "_hashes", "_spent",
        "base", "base_hash", "number", "proofs", "writer",
    )  # fmt: skip

    def __init__(self, writer: Writer, base: int, base_hash: bytes, base_spent: Spent | None = None) -> None:
        self.writer = writer
        self.base = base  # the frontier
        self.base_hash = base_hash
        self.number = base  # of its newest operation that counts
        self._hash = base_hash  # of the same
        self._base_spent = base_spent or _NOTHING
        self._spent = array("q", astuple(self._base_spent))  # at the frontier, then after each operation
        self.proofs: tuple[Proof, ...] = ()  # two, of the number after the newest that counts
        self._hashes = bytearray()
        self._batches: list[_Held] = []
        self._grown: dict[Key, list[tuple[int, int]]] = {}  # numbers, and totals of counters that only count up

    @property
    def is_forked(self) -> bool:
        return bool(self.proofs)

    @property
    def head(self) -> Head:
        return Head(self.number, self._hash, self.is_forked)

    def copy(self) -> "Chain":
        """As it is now, to be read whatever becomes of this one."""
        copied = Chain(self.writer, self.base, self.base_hash, self._base_spent)
        copied.number, copied._hash, copied.proofs = self.number, self._hash, self.proofs
        copied._hashes, copied._batches = self._hashes[:], self._batches[:]
        return copied

    def hash_at(self, number: int) -> bytes:
        """Of an operation that counts, from the frontier's on."""
        if number == self.number:
            return self._hash
        if number == self.base:
            return self.base_hash
        at = (number - self.base - 1) * HASH_BYTES
        return bytes(self._hashes[at : at + HASH_BYTES])

    def place(self, stretch: Stretch) -> Place:
        """How a batch lies to what is here. Its signature need not have been checked."""
        if stretch.last <= self.base:
            return Known()
        if stretch.first > self.number + 1:
            return Known() if self.proofs else Gap()
        before = stretch.first - 1
        if before >= self.base:
            if stretch.batch.previous != self.hash_at(before):
                return Apart()
        elif stretch.hashes[self.base - stretch.first] != self.base_hash:
            return Known()  # branches off below the frontier, which nothing touches
        for number in range(max(stretch.first, self.base + 1), min(stretch.last, self.number) + 1):
            if stretch.hashes[number - stretch.first] != self.hash_at(number):
                return News(number, is_fork=True)
        if self.proofs or stretch.last <= self.number:
            return Known()
        return News(self.number + 1, is_fork=False)

    def weigh(self, stretch: Stretch, start: int, rules: Rules, total: Total) -> Added | Malformed:
        """The operations from `start` on. Malformed: the writer may not add them, being beyond its bounds, or counting
        down.
        """
        spent, at_frontier = self.spent_at(start - 1), self._base_spent
        added = Added(array("q"), [])
        grown: dict[Key, int] = {}
        at = start - stretch.first
        operations = zip(stretch.batch.operations[at:], stretch.sizes[at:], strict=True)
        for number, (operation, size) in enumerate(operations, start):
            up = grown_to(operation, rules)
            if up is not None:
                key = operation.namespace, operation.path
                before = grown[key] if key in grown else self._grown_at(key, start - 1, total)
                if up < before:
                    return Malformed(f"a total of {up} in {operation.namespace}, which counts up only, after {before}")
                grown[key] = up
                added.grown.append((key, number, up))
            spent = spent.after(operation, size)
            refusal = spent.refusal(operation, number - self.base, at_frontier, rules)
            if refusal is not None:
                return refusal
            added.spent.extend(astuple(spent))
        return added

    def _grown_at(self, key: Key, number: int, total: Total) -> int:
        own = self._grown.get(key, [])
        at = bisect_right(own, number, key=lambda held: held[0])
        return own[at - 1][1] if at else total(key)

    def extend(self, stretch: Stretch, start: int, added: Added) -> None:
        """Add the operations from `start` on, which follow the head and have been weighed."""
        self._batches.append(_Held(stretch.first, stretch.last, stretch.data))
        self._hashes += b"".join(stretch.hashes[start - stretch.first :])
        self.number, self._hash = stretch.last, stretch.hashes[-1]
        self._spent += added.spent
        for key, number, up in added.grown:
            self._grown.setdefault(key, []).append((number, up))

    def fork(self, stretch: Stretch, number: int) -> None:
        """A second operation at `number` has come: nothing counts from there on."""
        self.proofs = (
            Proof(self.hash_at(number), self._held(number).data),
            Proof(stretch.hashes[number - stretch.first], stretch.data),
        )
        self._cut(number - 1)

    def give_up(self, number: int) -> list[bytes]:
        """End the chain at `number`. Returns the batches that had brought what followed."""
        batches = list(self.batches_after(number))
        self.proofs = ()
        self._cut(number)
        return batches

    def _cut(self, number: int) -> None:
        left = number - self.base
        self.number, self._hash = number, self.hash_at(number)
        self._keep_grown(lambda each: each <= number)
        del self._batches[self._at(number) + 1 if left else 0 :]
        del self._hashes[left * HASH_BYTES :]
        del self._spent[(left + 1) * _SPENT_COUNT :]

    def _keep_grown(self, is_kept: Callable[[int], bool]) -> None:
        kept = ((key, [each for each in totals if is_kept(each[0])]) for key, totals in self._grown.items())
        self._grown = {key: totals for key, totals in kept if totals}

    def spent_at(self, number: int) -> Spent:
        """What the writer had used after this operation."""
        at = (number - self.base) * _SPENT_COUNT
        return Spent(*self._spent[at : at + _SPENT_COUNT])

    def operations(self, numbers: Iterable[int]) -> Iterator[tuple[int, Operation]]:
        """Those that count, above the frontier; in ascending order each batch is read once."""
        held: _Held | None = None
        operations: tuple[Operation, ...] = ()
        for number in numbers:
            if held is None or not held.first <= number <= held.last:
                held = self._held(number)
                batch = decode(held.data, Batch, BATCH_BYTES_MAX)
                operations = () if isinstance(batch, Malformed) else batch.operations  # it was read when it came
            yield number, operations[number - held.first]

    def dots(self, after: int, until: int) -> Iterator[Dot]:
        return (Dot(self.writer, each) for each in range(after + 1, until + 1))

    def batches_after(self, number: int) -> Iterator[bytes]:
        """What a replica needs that has the chain up to `number`: batches in order, then the proof."""
        last = b""
        for held in self._batches[self._at(number + 1) :]:
            yield (last := held.data)
        for proof in self.proofs:
            if proof.data != last:  # which may go on to where the chain forked
                yield proof.data

    def goes_through(self, number: int, hash: bytes) -> bool:
        """Whether this operation counts here, or is the frontier's."""
        return self.base <= number <= self.number and self.hash_at(number) == hash

    def is_within(self, base: int, base_spent: Spent, rules: Rules) -> bool:
        """Whether what follows `base` keeps to the bounds also when they are counted from there."""
        spent = base_spent
        for number, operation in self.operations(range(base + 1, self.number + 1)):
            spent = spent.after(operation, len(encode(operation)))
            if spent.refusal(operation, number - base, base_spent, rules) is not None:
                return False
        return True

    def move(self, base: int, base_hash: bytes, base_spent: Spent) -> None:
        """Put the frontier where the chain goes through."""
        self._batches = [held for held in self._batches if min(held.last, self.number) > base]
        del self._hashes[: (base - self.base) * HASH_BYTES]
        self.base, self.base_hash = base, base_hash
        self._keep_grown(lambda each: each > base)
        spent = self._base_spent = base_spent
        self._spent = array("q", astuple(spent))
        for _, operation in self.operations(range(base + 1, self.number + 1)):
            spent = spent.after(operation, len(encode(operation)))
            self._spent.extend(astuple(spent))

    def _held(self, number: int) -> _Held:
        return self._batches[self._at(number)]

    def _at(self, number: int) -> int:
        """The place of the first batch that reaches `number`."""
        return bisect_left(self._batches, number, key=lambda held: held.last)
