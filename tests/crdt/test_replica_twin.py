"""A replica agrees with a dumb twin that has all batches before it, and finds what counts by the definition.

The twin grows a tree of all operations of a writer whose batches hold nothing that the rules refuse, and goes from the
root to where it ends or parts. A cell holds what was written by what counts, but for what something that counts names.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.cells import Key, cells_digest
from shoal.crdt.chain import Head
from shoal.crdt.compact import Snapshot
from shoal.crdt.dots import Cell, Dot, Entry, Seen, Writer
from shoal.crdt.operation import Operation, Stretch, Taken, genesis, seal
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Authors, Kind, Rule, Rules, judge
from shoal.transport.wire import Malformed, encode

from .test_replica import KEYS, SWARM

EXAMPLES = 5_000 if os.environ.get("SHOAL_SOAK") else 30
EARLY, LATE, NEVER, STRANGER = (bytes([number]) * 32 for number in range(4))
RULES = Rules(
    {
        "set": Rule(Kind.SET, is_own=False),
        "own": Rule(Kind.REGISTER),
        "members": Rule(Kind.SET, Authors.MEMBERS, is_own=False),
    },
    creator=Writer(KEYS[0].public_key),
    operations_max=9,
    bytes_max=700,
    entries_max=4,
)


class GrowingRecords:
    """Under all but one of them everybody is a member, once they are known."""

    def __init__(self) -> None:
        self.known = {EARLY, STRANGER}

    def is_member(self, record: bytes, writer: Writer) -> bool | None:
        return record != STRANGER if record in self.known else None


class Pen:
    """Writes one history of a writer, and cuts it as it likes."""

    def __init__(self, index: int) -> None:
        self.key = KEYS[index]
        self.writer = Writer(self.key.public_key)
        self.hashes = [genesis(SWARM, self.writer)]
        self.operations: list[Operation] = []

    def branch(self, number: int) -> "Pen":
        twin = Pen(KEYS.index(self.key))
        twin.hashes, twin.operations = self.hashes[: number + 1], self.operations[:number]
        return twin

    def write(self, operations: Sequence[Operation]) -> Stretch:
        stretch = seal(self.key, SWARM, len(self.hashes), self.hashes[-1], operations)
        self.hashes += stretch.hashes
        self.operations += operations
        return stretch

    def cut(self, first: int, last: int) -> Stretch:
        """Operations that have been written, in another batch."""
        return seal(self.key, SWARM, first, self.hashes[first - 1], self.operations[first - 1 : last])


Applied = tuple[Dot, Operation, bytes]  # with its tag


@dataclass
class Truth:
    """What is so by the definition."""

    counted: list[Applied] = field(default_factory=list[Applied])
    heads: dict[Writer, Head] = field(default_factory=dict[Writer, Head])

    def cells(self) -> dict[Key, dict[Dot, Entry]]:
        gone = {(op.namespace, op.path, seen) for dot, op, _ in self.counted for seen in op.seen(dot.writer)}
        cells: dict[Key, dict[Dot, Entry]] = {}
        for dot, op, tag in self.counted:
            entry = op.entry(tag)
            if entry is not None and (op.namespace, op.path, Seen(dot, tag)) not in gone:
                cells.setdefault((op.namespace, op.path), {})[dot] = entry
        return cells

    def number(self, writer: Writer) -> int:
        return self.heads[writer].number if writer in self.heads else 0

    def digest(self) -> bytes:
        counted = sorted((writer, head.number) for writer, head in self.heads.items() if head.number)
        held = [(key, Cell(entries)) for key, entries in sorted(self.cells().items())]
        return blake3(b"shoal/state/1" + SWARM + encode(counted) + cells_digest(held)).digest()

    def live(self, writer: Writer) -> int:
        return sum(dot.writer == writer for entries in self.cells().values() for dot in entries)

    def pending(self, writer: Writer) -> int:
        """What has not come of what it took away of others, and nobody with a smaller key did."""
        by: dict[tuple[Key, Seen], Writer] = {}
        for dot, op, _ in self.counted:
            for seen in op.seen(dot.writer):
                if seen.dot.writer != dot.writer and seen.dot.number > self.number(seen.dot.writer):
                    name = (op.namespace, op.path), seen
                    by[name] = min(dot.writer, by.get(name, dot.writer))
        return sum(each == writer for each in by.values())


@dataclass(frozen=True)
class Node:
    number: int
    previous: bytes
    operation: Operation


def truth_of(batches: Sequence[Stretch], records: GrowingRecords, agreed: Truth | None = None) -> Truth:
    """What counts of the batches, on top of what was agreed."""
    agreed = agreed or Truth()
    truth = Truth(list(agreed.counted))
    signed = [each for each in batches if each.is_signed(SWARM)]
    for writer in sorted({each.writer for each in signed} | set(agreed.heads)):
        head = agreed.heads.get(writer, Head(0, genesis(SWARM, writer)))
        head = Head(head.number, head.hash)
        tree = grow(writer, [each for each in signed if each.writer == writer], records, head, agreed)
        while True:
            children = [hash for hash, node in tree.items() if node.previous == head.hash]
            if len(children) != 1:
                break
            node = tree[children[0]]
            head = Head(node.number, children[0])
            truth.counted.append((Dot(writer, node.number), node.operation, children[0][:8]))
        if head.number or children:
            truth.heads[writer] = Head(head.number, head.hash, bool(children))
    return truth


def grow(
    writer: Writer, batches: Sequence[Stretch], records: GrowingRecords, root: Head, agreed: Truth
) -> dict[bytes, Node]:
    """All operations that follow the root, each by those before it, and come in a batch that nothing is wrong with."""
    tree: dict[bytes, Node] = {}
    size = -1
    while size < len(tree):
        size = len(tree)
        for batch in batches:
            hashes = [batch.batch.previous, *batch.hashes]
            start = max(root.number, batch.first - 1)  # of what is news the first follows this number
            if batch.last <= start:
                continue
            before = hashes[start - batch.first + 1]
            if before != root.hash and (before not in tree or tree[before].number != start):
                continue
            if before == root.hash and start != root.number:
                continue
            operations = batch.batch.operations[start - batch.first + 1 :]
            path = way(tree, before, root)
            if all(
                judge(operation, writer, RULES, records) is None
                and is_affordable([*path, *operations[: at + 1]], writer, agreed)
                for at, operation in enumerate(operations)
            ):
                for at, operation in enumerate(operations):
                    place = start - batch.first + 1 + at
                    tree[hashes[place + 1]] = Node(start + at + 1, hashes[place], operation)
    return tree


def way(tree: dict[bytes, Node], hash: bytes, root: Head) -> list[Operation]:
    operations: list[Operation] = []
    while hash != root.hash:
        operations.insert(0, tree[hash].operation)
        hash = tree[hash].previous
    return operations


def is_affordable(path: Sequence[Operation], writer: Writer, agreed: Truth) -> bool:
    """Whether the last of the operations since the frontier is within its writer's bounds."""
    dropped = sum(not each.writer for operation in path for each in operation.taken)
    taken = sum(bool(each.writer) for operation in path for each in operation.taken)
    live = agreed.live(writer)
    entries = live + sum(operation.value is not None for operation in path) - dropped
    return (
        len(path) <= RULES.operations_max
        and sum(len(encode(operation)) for operation in path) <= RULES.bytes_max
        and dropped <= RULES.operations_max
        and agreed.pending(writer) + taken <= RULES.entries_max
        and (path[-1].value is None or max(entries, live) <= RULES.entries_max)
    )


@st.composite
def operations(draw: st.DrawFn, pen: Pen, written: Sequence[Stretch]) -> Operation:
    """One that a writer might try, honest or not."""
    path = draw(st.sampled_from(["a", "b"]))
    match draw(st.integers(0, 11)):
        case 0:
            owner = draw(st.sampled_from(KEYS))
            return Operation("own", (owner.peer_id,), b"x", stamp=draw(st.integers(0, 3)))
        case 1 | 2:
            record = draw(st.sampled_from([EARLY, EARLY, LATE, LATE, NEVER, STRANGER]))
            return Operation("members", (path,), b"m", record=record)
        case 3:
            return Operation("set", (path,), bytes(draw(st.sampled_from([0, 150, 400]))))
        case 4 | 5 | 6 | 7 if written:
            chosen = draw(st.lists(st.sampled_from(written), min_size=1, max_size=3))
            value = draw(st.none() | st.just(b"instead"))
            return Operation("set", (path,), value, tuple(taken(draw, pen, each) for each in chosen))
        case 8:
            lies = tuple(Taken(b"", number, bytes(8)) for number in range(1, 4))
            return Operation("set", (path,), None, lies)
        case _:
            return Operation("set", (path,), draw(st.binary(max_size=1)))


def taken(draw: st.DrawFn, pen: Pen, target: Stretch) -> Taken:
    at = draw(st.integers(0, len(target.hashes) - 1))
    tag = target.hashes[at][:8] if draw(st.integers(0, 5)) else bytes(8)
    return Taken(b"" if target.writer == pen.writer else target.writer, target.first + at, tag)


@st.composite
def histories(draw: st.DrawFn) -> list[Stretch]:
    pens = [Pen(index) for index in range(3)]
    written: list[Stretch] = []
    for _ in range(draw(st.integers(1, 12))):
        index = draw(st.integers(0, 2))
        pen = pens[index]
        length = len(pen.operations)
        if length and draw(st.integers(0, 5)) == 0:
            pen = pen.branch(draw(st.integers(0, length - 1)))
            if draw(st.booleans()):
                pens[index] = pen
        written.append(pen.write([draw(operations(pen, written)) for _ in range(draw(st.integers(1, 3)))]))
        length = len(pen.operations)
        if draw(st.integers(0, 2)) == 0:
            first = draw(st.integers(1, length))
            written.append(pen.cut(first, draw(st.integers(first, length))))
    return written


def deliver(target: Replica, batches: Sequence[Stretch], order: random.Random) -> None:
    """All of them, in another order each time, until nothing more is news."""
    target.records_came()
    quiet = 0
    while quiet < 2:
        before = target.digest(), target.heads()
        for stretch in order.sample(batches, len(batches)):
            target.admit(stretch.data)
            if order.random() < 0.2:
                target.admit(stretch.data[:-1] + bytes([stretch.data[-1] ^ 1]))  # nobody signed this
        quiet = quiet + 1 if (target.digest(), target.heads()) == before else 0


def assert_is(target: Replica, truth: Truth) -> None:
    held = {key: cell.entries for key, cell in target.cells()}
    assert held == truth.cells()
    assert target.heads() == truth.heads
    assert dict(target.context()) == {writer: head.number for writer, head in truth.heads.items()}
    assert target.digest() == truth.digest()


@settings(max_examples=EXAMPLES, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_any_delivery_gives_what_the_definition_says(history: list[Stretch], order: random.Random) -> None:
    records = GrowingRecords()
    target = Replica(SWARM, RULES, records)
    for stretch in order.choices(history, k=len(history)):
        target.admit(stretch.data)
    deliver(target, history, order)
    assert_is(target, truth_of(history, records))
    records.known.add(LATE)
    deliver(target, history, order)
    assert_is(target, truth_of(history, records))


@settings(max_examples=EXAMPLES, deadline=None)
@given(histories(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_any_delivery_on_top_of_what_was_agreed_gives_what_the_definition_says(
    history: list[Stretch], half: int, order: random.Random
) -> None:
    records = GrowingRecords()
    first, target = (Replica(SWARM, RULES, records) for _ in range(2))
    deliver(first, history[:half], order)
    agreed = truth_of(history[:half], records)
    assert_is(first, agreed)
    snapshot = first.snapshot(first.frontier())
    assert isinstance(snapshot, Snapshot)
    deliver(target, order.sample(history, order.randrange(len(history) + 1)), order)
    target.adopt(snapshot)
    records.known.add(LATE)
    deliver(target, history, order)
    assert_is(target, truth_of(history, records, agreed))


def test_who_was_within_its_bounds_by_a_lie_is_beyond_them_from_the_next_frontier_on_everywhere() -> None:
    liar = Pen(1)
    lies = tuple(Taken(b"", number, bytes(8)) for number in range(1, 5))
    below = liar.write([*(Operation("set", ("a",), b"") for _ in range(4)), Operation("set", ("a",), None, lies)])
    more = liar.write([Operation("set", ("a",), b"")])
    above, after = liar.write([Operation("set", ("b",), b"")]), liar.write([Operation("set", ("b",), None, lies[:1])])
    early, late = (Replica(SWARM, RULES, GrowingRecords()) for _ in range(2))
    order = random.Random(1)
    deliver(early, [below, more], order)
    snapshot = early.snapshot(early.frontier())
    assert isinstance(snapshot, Snapshot)
    deliver(late, [below, more, above, after], order)
    assert late.heads()[liar.writer].number == 8
    for target in (early, late):
        adoption = target.adopt(snapshot)
        assert not isinstance(adoption, Malformed)
        assert (("set", ("b",)) in adoption.touched) == (target is late)
        deliver(target, [below, more, above, after], order)
        assert_is(target, truth_of([above, after], GrowingRecords(), truth_of([below, more], GrowingRecords())))


def test_what_named_an_entry_wrongly_and_counts_no_more_brings_nothing_back() -> None:
    honest, remover, liar = (Pen(index) for index in range(3))
    added = honest.write([Operation("set", ("a",), b"")])
    right, wrong = (Taken(honest.writer, 1, tag) for tag in (added.hashes[0][:8], bytes(8)))
    removed = remover.write([Operation("set", ("a",), None, (right,))])
    forked = [liar.branch(0).write([Operation("set", ("a",), None, (wrong,) * count)]) for count in (1, 2)]
    target = Replica(SWARM, RULES, GrowingRecords())
    deliver(target, [added, removed, *forked], random.Random(1))
    assert target.heads()[liar.writer].is_forked
    assert not target.cell("set", "a").entries


def test_a_fork_is_judged_by_what_was_spent_before_it_and_not_on_the_other_branch() -> None:
    liar = Pen(1)
    written = [liar.write([Operation("set", ("a",), b"")]) for _ in range(RULES.entries_max)]
    twin = liar.branch(1).write([Operation("set", ("a",), b"twin")])
    target = Replica(SWARM, RULES, GrowingRecords())
    for stretch in [*written, twin]:
        target.admit(stretch.data)
    assert_is(target, truth_of([*written, twin], GrowingRecords()))
    assert target.heads()[liar.writer].is_forked
