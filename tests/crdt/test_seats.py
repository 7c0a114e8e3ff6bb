"""Where more write than there is room for, all keep the same ones, whoever came first."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from shoal.crdt.compact import Snapshot
from shoal.crdt.dots import Writer
from shoal.crdt.exchange import Exchanges
from shoal.crdt.exchange_messages import Compared
from shoal.crdt.guard import Standing
from shoal.crdt.heads import SALT_BYTES, Heads
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.seats import Seats
from shoal.transport.identity import Identity, peer_id_of
from shoal.transport.port import PeerId, Refusal
from shoal.transport.wire import Malformed

from . import nodes
from .nodes import World, adds, equal, write
from .test_exchange import answer, are_equal, exchange, run
from .test_replica import KEYS, RULES, SOAK, SWARM, Author, admit, histories

FEW = replace(RULES, writers_max=2)
MANY = [Identity.from_seed(bytes([9, number]) * 16) for number in range(12)]


def few() -> Replica:
    return Replica(SWARM, FEW)


def in_order(keys: Sequence[Identity], most: int) -> list[Identity]:
    """Those who keep their seats among all."""
    seats = Seats(SWARM, most)
    writers = [Writer(key.public_key) for key in keys]
    outdone = {seats.take(writer) for writer in writers if seats.has_room(writer)}
    return [key for key, writer in zip(keys, writers, strict=True) if seats.has_room(writer) and writer not in outdone]


@settings(max_examples=1000 if SOAK else 40)
@given(histories(), st.integers(0, 14), st.randoms(use_true_random=False))
def test_any_order_gives_one_digest_however_many_write(history: list[Stretch], half: int, order: random.Random) -> None:
    one, other = few(), few()
    admit(one, history)
    shuffled = order.sample(history, len(history))
    admit(other, shuffled[:half])
    admit(other, shuffled)
    assert one.heads() == other.heads()
    assert one.digest() == other.digest()
    assert len(one.heads()) <= FEW.writers_max
    newcomer = few()
    for writer in order.sample(sorted(one.heads()), len(one.heads())):
        for data in one.batches(writer):
            newcomer.admit(data)
    assert newcomer.digest() == one.digest()
    assert dict(one.context()) == {writer: head.number for writer, head in one.heads().items()}

    snapshot = one.snapshot(one.frontier())
    assert isinstance(snapshot, Snapshot)
    newcomer = few()
    for target in (one, other, newcomer):
        target.adopt(snapshot)
        admit(target, order.sample(history, len(history)))
    assert one.heads() == other.heads() == newcomer.heads()
    assert one.digest() == other.digest() == newcomer.digest()


def test_who_loses_its_seat_leaves_nothing_and_takes_nothing_with_it() -> None:
    first, second, last = sorted(map(Author, KEYS[:3]), key=lambda each: in_order(KEYS[:3], 2).count(each.key) == 0)
    target = few()
    kept = first.write(first.add("a", b"kept"))
    removed = last.write(last.remove("a", kept), last.add("b", b"gone"))
    admit(target, [kept, removed])
    assert not target.cell("set", "a").entries
    heads, exchanges = Heads(target), Exchanges(target, first.writer)
    admission = target.admit(second.write(second.add("c", b"")).data)
    assert admission.forked == {last.writer}
    assert admission.touched == {("set", ("a",)), ("set", ("b",)), ("set", ("c",))}
    heads.update(admission.writers)
    exchanges.update(admission.writers)
    assert heads.digest == Heads(target).digest == exchanges.heads.digest
    assert [entry.value for entry in target.cell("set", "a").entries.values()] == [b"kept"]
    assert not target.cell("set", "b").entries
    again = target.admit(removed.data)
    assert (again.is_news, again.refusal) == (False, None)
    assert target.batches(last.writer) == []
    refused = target.write(last.key, [Operation("set", ("a",), b"")])
    assert isinstance(refused, Malformed)
    assert "2 writers" in refused.reason


def test_who_is_in_the_agreed_frontier_keeps_its_seat_and_takes_none_of_the_others() -> None:
    authors = [Author(key) for key in MANY]
    target = few()
    admit(target, [author.write(author.add("a", b"1")) for author in authors])
    agreed = set(target.heads())
    snapshot = target.snapshot(target.frontier())
    assert isinstance(snapshot, Snapshot)
    target.adopt(snapshot)
    admit(target, [stretch for author in authors for stretch in author.written])
    assert len(target.heads()) == 2 * FEW.writers_max
    assert agreed < set(target.heads())


@pytest.mark.parametrize("seed", range(4))
def test_replicas_that_know_more_writers_than_there_is_room_for_become_equal_and_blame_nobody(seed: int) -> None:
    rules = replace(FEW, writers_max=3, bytes_max=2**24, entries_max=1000)
    authors = [Author(key) for key in MANY]
    for author in authors:
        for _ in range(6):
            author.write(*[Operation("set", ("a",), bytes(8000))] * 7)
    draw = random.Random(seed)
    sides = [Exchanges(Replica(SWARM, rules), authors[0].writer) for _ in range(2)]
    for author in authors:
        side = draw.choice(sides)
        for stretch in author.written:
            side.take(stretch.data)
    for now in range(4):
        for one, other in (sides, sides[::-1]):
            assert exchange(one, other, 10.0 * now).failure == ""
    assert are_equal(*sides)
    keys = sorted(Writer(key.public_key) for key in in_order(MANY, 3))
    assert sorted(sides[0].replica.heads()) == keys


def test_a_peer_is_not_blamed_for_what_lost_its_room_while_it_was_handed_over() -> None:
    rules = replace(FEW, bytes_max=2**24, entries_max=1000)
    first = in_order(MANY, 2)
    late, early = [Author(key) for key in MANY if key not in first][:2], [Author(key) for key in first]
    one, other = (Exchanges(Replica(SWARM, rules), early[0].writer) for _ in range(2))
    for author in late:
        for _ in range(12):
            other.take(author.write(*[Operation("set", ("a",), bytes(8000))] * 7).data)
    asking = one.ask(PeerId("b"), bytes(SALT_BYTES))
    question = asking.question
    assert question is not None
    compared = answer(other, peer_id_of(one.own), question, 0.0)
    assert isinstance(compared, Compared)
    assert asking.answered(compared, 0.0) == ()
    asking.go_on(0.0)
    for author in early:  # by gossip
        one.take(author.write(author.add("a", b"")).data)
    assert run(asking, other, one).failure == ""
    assert exchange(one, other, 10.0).failure == ""
    assert are_equal(one, other)


async def test_a_node_without_a_seat_writes_nothing_and_begins_no_second_history(
    world: World, autojump_clock: MockClock
) -> None:
    keys = [*in_order(MANY, 2), next(key for key in MANY if key not in in_order(MANY, 2))]
    world.rules = replace(nodes.RULES, writers_max=2)
    async with world.node(keys[2]) as last:
        async with world.node(keys[0]) as one:
            await write(last, "last")
            await write(one, "one")
            await equal(last, one)
        async with world.node(keys[1]) as two:
            await write(two, "two")
            await equal(last, two)
            assert two.replica.keys("set") == [("one",), ("two",)]
            refusal = await last.write(adds("more"))
            assert isinstance(refusal, Refusal)
            assert "2 write" in refusal.message
            assert last.status().problems == (refusal.message,)
    world.rules = nodes.RULES
    async with world.node(keys[2]) as last, world.node(keys[1]) as two:
        await equal(last, two)
        assert last.status().standing is not Standing.REFUSES
        assert (await write(last, "more")).first == 2
