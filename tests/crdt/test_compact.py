"""A snapshot stands for the operations up to its frontier, for all and for ever."""

import random
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.compact import Mark, Snapshot, digest_of, read_snapshot, rebased
from shoal.crdt.operation import Operation, Stretch, Taken
from shoal.crdt.replica import Adoption, Replica
from shoal.transport.wire import Malformed

from .test_replica import KEYS, RULES, SOAK, SWARM, Author, admit, histories, replica


def snapshot_of(target: Replica) -> Snapshot:
    snapshot = target.snapshot(target.frontier())
    assert isinstance(snapshot, Snapshot)
    return snapshot


def adopt(target: Replica, snapshot: Snapshot) -> Adoption:
    adoption = target.adopt(snapshot)
    assert isinstance(adoption, Adoption)
    return adoption


@settings(max_examples=2000 if SOAK else 40)
@given(histories(), st.integers(0, 14), st.randoms(use_true_random=False))
def test_who_compacts_early_late_or_begins_with_the_snapshot_ends_at_the_same_state(
    history: list[Stretch], half: int, order: random.Random
) -> None:
    early, late, newcomer = replica(), replica(), replica()
    admit(early, history[:half])
    digest, snapshot = early.digest(), snapshot_of(early)
    adopt(early, snapshot)
    assert early.digest() == digest
    assert early.heads().keys() == early.context().keys()
    shuffled = order.sample(history, len(history))
    admit(early, shuffled)
    admit(late, shuffled)
    adopt(late, snapshot)
    admit(late, shuffled)  # what was given up for the agreed chain has to be fetched again
    adopt(newcomer, snapshot)
    admit(newcomer, shuffled)
    assert early.digest() == late.digest() == newcomer.digest()
    assert early.heads() == late.heads() == newcomer.heads()
    pieces = {digest_of(snapshot_of(each).pieces()) for each in (early, late, newcomer)}
    assert len(pieces) == 1
    admit(adopted(snapshot_of(late)), shuffled)


def adopted(snapshot: Snapshot) -> Replica:
    target = replica()
    adopt(target, snapshot)
    return target


@settings(max_examples=500 if SOAK else 20)
@given(histories())
def test_a_snapshot_is_read_as_it_was_written(history: list[Stretch]) -> None:
    target = replica()
    admit(target, history)
    snapshot = snapshot_of(target)
    pieces = list(snapshot.pieces())
    read = read_snapshot(pieces, SWARM)
    assert read == snapshot
    assert adopted(snapshot).digest() == target.digest()
    assert isinstance(read_snapshot(pieces, b"t" * 32), Malformed)


def test_a_snapshot_written_in_another_way_is_refused() -> None:
    author = Author(KEYS[0])
    target = replica()
    admit(target, [author.write(author.add("a", b"1"), author.add("b", b"2"))])
    header, rows = snapshot_of(target).pieces()
    assert isinstance(read_snapshot([], SWARM), Malformed)
    assert isinstance(read_snapshot([rows, header], SWARM), Malformed)
    assert isinstance(read_snapshot([header, rows, rows], SWARM), Malformed)
    assert isinstance(read_snapshot([header, rows[:-1]], SWARM), Malformed)
    (both,) = msgspec.msgpack.decode(rows)
    turned = msgspec.msgpack.encode([both[::-1]])
    assert isinstance(read_snapshot([header, turned], SWARM), Malformed)


def test_what_lies_below_the_frontier_is_refused_and_a_fork_there_changes_nothing() -> None:
    author = Author(KEYS[0])
    first, second = author.write(author.add("a", b"1")), author.write(author.add("a", b"2"))
    target = replica()
    admit(target, [first, second])
    adopt(target, snapshot_of(target))
    digest = target.digest()
    twin = author.branch(1).write(author.add("a", b"twin"), author.add("a", b"more"))
    assert not target.admit(twin.data).is_news
    assert not target.admit(first.data).is_news
    assert target.digest() == digest
    assert target.batches(author.writer) == []
    admit(target, [author.write(author.add("a", b"3"))])
    assert len(target.cell("set", "a").entries) == 3


def test_a_removal_that_came_before_its_target_outlives_compaction() -> None:
    one, other = Author(KEYS[0]), Author(KEYS[1])
    added = one.write(one.add("a", b"1"))
    removed = other.write(other.remove("a", added))
    target = replica()
    admit(target, [removed])
    fresh = adopted(snapshot_of(target))
    admit(fresh, [added])
    assert not fresh.cell("set", "a").entries
    twin = replica()
    admit(twin, [added, removed])
    assert twin.digest() == fresh.digest()


def test_bounds_count_from_the_frontier() -> None:
    author = Author(KEYS[0])
    target = replica()
    admit(target, [author.write(author.add(str(number), b"")) for number in range(RULES.operations_max)])
    beyond = author.write(author.add("more", b""))
    assert target.admit(beyond.data).refusal is not None
    adopt(target, snapshot_of(target))
    assert target.admit(beyond.data).kept


def test_a_frontier_that_is_not_here_or_older_than_the_one_here_is_refused() -> None:
    author = Author(KEYS[0])
    target = replica()
    admit(target, [author.write(author.add("a", b"1"))])
    old = snapshot_of(target)
    admit(target, [author.write(author.add("a", b"2"))])
    assert isinstance(target.snapshot({author.writer: Mark(3, b"h" * 32)}), Malformed)
    assert isinstance(target.snapshot({author.writer: Mark(2, b"h" * 32)}), Malformed)
    adopt(target, snapshot_of(target))
    digest = target.digest()
    assert isinstance(target.adopt(old), Malformed)
    assert isinstance(target.adopt(Snapshot(SWARM, {}, {})), Malformed)
    assert isinstance(target.snapshot({}), Malformed)
    assert target.digest() == digest


def test_operations_beside_the_frontier_are_given_up_and_may_be_written_anew() -> None:
    author = Author(KEYS[0])
    common = author.write(author.add("a", b"common"))
    twin = author.branch(1)
    agreed = twin.write(author.add("a", b"agreed"), author.add("b", b"too"))
    lost = author.write(author.add("a", b"lost"))
    removal = author.write(author.remove("a", lost), author.add("a", b"again"), author.remove("a", common))
    here, there = replica(), replica()
    admit(here, [common, lost, removal])
    admit(there, [common, agreed])
    adoption = adopt(here, snapshot_of(there))
    assert here.digest() == there.digest()
    own = adoption.lost[author.writer]
    assert [dot.number for dot, _, _ in own] == [2, 3, 4, 5]
    again = rebased(own, 4, twin.hashes[-1])
    written = here.write(KEYS[0], again)
    assert isinstance(written, Stretch)
    assert written.first == 4
    assert sorted(entry.value for entry in here.cell("set", "a").entries.values()) == [b"again", b"agreed"]
    admit(there, [written])
    assert here.digest() == there.digest()


def test_a_chain_too_short_to_tell_loses_nothing() -> None:
    author = Author(KEYS[0])
    first, second = author.write(author.add("a", b"1")), author.write(author.add("a", b"2"))
    behind, ahead = replica(), replica()
    admit(behind, [first])
    admit(ahead, [first, second])
    adoption = adopt(behind, snapshot_of(ahead))
    assert not adoption.lost
    assert ("set", ("a",)) in adoption.touched
    assert behind.digest() == ahead.digest()


def test_large_cells_are_cut_into_pieces() -> None:
    author = Author(KEYS[0])
    target = replica()
    for number in range(30):
        admit(target, [author.write(Operation("set", ("a",), bytes(8000) + bytes([number])))])
    for _ in range(2):
        adopt(target, snapshot_of(target))
        for number in range(30):
            admit(target, [author.write(Operation("set", ("a",), bytes(8000) + bytes([number])))])
    pieces = list(snapshot_of(target).pieces())
    assert len(pieces) == 4
    assert adopted(snapshot_of(target)).digest() == target.digest()


def test_a_writer_that_takes_away_much_that_never_comes_reaches_its_bound() -> None:
    target = Replica(SWARM, replace(RULES, entries_max=10))
    author = Author(KEYS[0])
    other = Author(KEYS[1]).writer
    for number in range(11):
        taken = (Taken(other, number + 1, b"\0" * 8),)
        admission = target.admit(author.write(Operation("set", ("a",), None, taken)).data)
        assert (admission.refusal is None) == (number < 10)
        adopt(target, snapshot_of(target))
