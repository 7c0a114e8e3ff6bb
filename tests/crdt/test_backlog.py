"""Batches that wait have bounds, and what they do when their time comes is their writer's business."""

import random
from dataclasses import replace

from shoal.crdt.backlog import BYTES_MAX, WRITER_BYTES_MAX, WRITER_MAX, Backlog
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.transport.identity import Identity

from .test_replica import SWARM
from .test_replica_twin import LATE, RULES, GrowingRecords, Pen, deliver


def test_batches_that_find_no_room_in_the_backlog_cost_time_and_nothing_else() -> None:
    pens = [Pen(index) for index in range(2)]
    rules = replace(RULES, operations_max=1000, entries_max=1000, bytes_max=2**24)
    small = [pens[0].write([Operation("set", ("a",), b"")]) for _ in range(WRITER_MAX + 9)]
    large = [pens[1].write([Operation("set", ("b",), bytes(8000))] * 7) for _ in range(WRITER_MAX)]
    target, twin = Replica(SWARM, rules), Replica(SWARM, rules)
    waits = [target.admit(stretch.data).waits for stretch in reversed(small)]
    assert waits[:-1].count(True) == WRITER_MAX
    assert target.heads()[pens[0].writer].number == 1
    deliver(target, [*small, *large], random.Random(1))
    for stretch in [*large, *small]:
        twin.admit(stretch.data)
    assert target.digest() == twin.digest()


def test_one_writer_takes_no_more_of_the_backlog_than_its_share() -> None:
    liar, honest = Pen(0), Pen(1)
    rules = replace(RULES, operations_max=1000, entries_max=1000, bytes_max=2**24)
    target = Replica(SWARM, rules)
    large = [liar.write([Operation("set", ("b",), bytes(8000))] * 7) for _ in range(WRITER_MAX)]
    waiting = [stretch for stretch in large[1:] if target.admit(stretch.data).waits]
    assert sum(len(stretch.data) for stretch in waiting) <= WRITER_BYTES_MAX
    assert sum(len(stretch.data) for stretch in waiting) > WRITER_BYTES_MAX - len(large[0].data)
    for number in range(1, 4):
        first, early = honest.write([Operation("set", ("a",), b"")]), honest.write([Operation("set", ("a",), b"")])
        assert target.admit(early.data).waits
        assert target.admit(first.data).kept == [first, early], number


def test_a_share_is_full_to_the_byte() -> None:
    backlog, pen = Backlog(), Pen(0)
    while WRITER_BYTES_MAX - backlog.bytes > 50_000:
        assert backlog.add(pen.write([Operation("set", ("b",), bytes(8000))] * 6))

    def filling(size: int) -> Stretch:
        def of(sizes: list[int]) -> Stretch:
            return pen.branch(len(pen.operations)).write([Operation("set", ("b",), bytes(each)) for each in sizes])

        sizes = [size // 7 - 100] * 7
        return of([*sizes[:-1], sizes[-1] + size - len(of(sizes).data)])  # the length is linear in the last value's

    left = WRITER_BYTES_MAX - backlog.bytes
    assert not backlog.add(filling(left + 1))
    assert backlog.add(filling(left))
    assert backlog.bytes == WRITER_BYTES_MAX


def test_all_that_waits_is_bounded() -> None:
    backlog = Backlog()
    kept = 0
    for number in range(2 * BYTES_MAX // WRITER_BYTES_MAX):
        pen = Pen(0)
        pen.key = Identity.from_seed(bytes([number]) * 32)
        kept += sum(backlog.add(pen.write([Operation("set", ("b",), bytes(8000))] * 7)) for _ in range(4))
    assert kept < 8 * BYTES_MAX // WRITER_BYTES_MAX
    assert BYTES_MAX - 60_000 < backlog.bytes <= BYTES_MAX
    for writer in backlog.writers():
        backlog.take(writer)
    assert backlog.bytes == 0


def test_that_a_batch_waits_on_or_is_refused_when_its_time_comes_is_no_news_of_who_brought_others() -> None:
    pen = Pen(1)
    records = GrowingRecords()
    first = pen.write([Operation("set", ("a",), b"")])
    later = pen.write([Operation("members", ("a",), b"", record=LATE)])
    target = Replica(SWARM, RULES, records)
    assert target.admit(later.data).waits
    assert not target.records_came().is_news
    admission = target.admit(first.data)
    assert admission.kept == [first]
    assert not admission.waits
    records.known.add(LATE)
    assert target.records_came().kept == [later]

    liar = Pen(2)
    first, beyond = liar.write([Operation("set", ("a",), b"")]), liar.write([Operation("set", ("a",), bytes(700))])
    target.admit(beyond.data)
    assert target.admit(first.data).refusal is None
    assert target.admit(beyond.data).refusal is not None
