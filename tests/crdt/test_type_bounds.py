"""What the types do where a bound is reached, where a clock lies, and what is left when all is gone."""

from dataclasses import replace

from shoal.crdt import clock, counter, orset, register
from shoal.crdt.compact import Snapshot
from shoal.crdt.dots import Cell, Dot, Entry, Writer
from shoal.crdt.operation import OPERATIONS_MAX, TAKEN_MAX, Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.transport.wire import encode

from .test_replica import KEYS, SWARM

ME = Writer(KEYS[0].public_key)
LIAR = Writer(KEYS[1].public_key)
NOW_MS = 1_790_000_000_000


def world(kind: Kind, path_parts: int = 1) -> Replica:
    return Replica(SWARM, Rules({"n": Rule(kind, is_own=False, path_parts=path_parts)}, creator=ME))


def write(target: Replica, *operations: Operation, by: int = 0) -> None:
    for start in range(0, len(operations), OPERATIONS_MAX):
        assert isinstance(target.write(KEYS[by], operations[start : start + OPERATIONS_MAX]), Stretch)


def crowd(count: int, value: bytes = b"x") -> Cell:
    """As many wrote the same at once."""
    return Cell({Dot(Writer(bytes([number] * 32)), 1): Entry(value, number, bytes(8)) for number in range(count)})


def test_twenty_thousand_elements_added_and_removed_leave_nothing_behind() -> None:
    target = world(Kind.SET)
    for start in range(0, 20_000, 1000):
        elements = [number.to_bytes(3) for number in range(start, start + 1000)]
        write(target, *(orset.add(Cell(), "n", ("a",), ME, element) for element in elements))
        assert orset.elements(target.cell("n", "a")) == elements
        write(target, *orset.remove_below(target, "n", ("a",), ME))
        assert not orset.elements(target.cell("n", "a"))
    assert target.keys("n") == []
    snapshot = target.snapshot(target.frontier())
    assert isinstance(snapshot, Snapshot)
    assert snapshot.cells == {}
    assert sum(map(len, snapshot.pieces())) < 200  # one number and one hash: no tombstones
    target.adopt(snapshot)
    assert target.batches(ME) == []


def test_an_entry_stamped_beyond_the_horizon_is_held_back_until_its_time_or_the_next_write() -> None:
    target = world(Kind.REGISTER)
    ticking, horizon = clock.Clock(), clock.horizon(NOW_MS)
    write(target, register.write(Cell(), "n", ("a",), ME, b"honest", ticking.tick(NOW_MS)))
    write(target, register.write(Cell(), "n", ("a",), LIAR, b"future", horizon + 1), by=1)
    cell, digest = target.cell("n", "a"), target.digest()
    assert register.read(cell, horizon) == b"honest"
    assert register.read(cell, horizon + 1) == register.read(cell) == b"future"
    assert target.digest() == digest
    write(target, register.write(cell, "n", ("a",), ME, b"newer", ticking.tick(NOW_MS)))
    assert register.read(target.cell("n", "a")) == b"newer"
    assert register.read(Cell(), horizon) is None


def test_entries_held_back_are_bounded_as_all_entries_of_a_writer_are() -> None:
    target = world(Kind.REGISTER)
    target.rules = replace(target.rules, entries_max=5)
    flood = [register.write(Cell(), "n", ("a",), LIAR, b"x", 2**62 + number) for number in range(6)]
    write(target, *flood[:5], by=1)
    assert not isinstance(target.write(KEYS[1], flood[5:]), Stretch)
    assert register.read(target.cell("n", "a"), clock.horizon(NOW_MS)) is None


def test_one_write_takes_away_the_newest_of_too_many_and_the_next_the_rest() -> None:
    cell = crowd(TAKEN_MAX + 6)
    first = register.write(cell, "n", ("a",), ME, b"mine", 1)
    assert len(first.taken) == TAKEN_MAX
    cell.write(Dot(ME, 1), first.entry(b"12345678"), first.seen(ME), {})
    assert sorted(entry.stamp for entry in cell.entries.values()) == [0, 1, 1, 2, 3, 4, 5]
    second = register.clear(cell, "n", ("a",), ME)
    assert second is not None
    cell.write(Dot(ME, 2), None, second.seen(ME), {})
    assert register.values(cell) == []
    assert register.clear(cell, "n", ("a",), ME) is None


def test_an_element_that_too_many_added_is_removed_by_several_operations() -> None:
    cell = crowd(TAKEN_MAX + 6)
    assert len(orset.add(cell, "n", ("a",), ME, b"x").taken) == TAKEN_MAX
    for number, operation in enumerate(orset.remove(cell, "n", ("a",), ME, b"x"), 1):
        assert len(operation.taken) <= TAKEN_MAX
        cell.write(Dot(ME, number), None, operation.seen(ME), {})
    assert orset.elements(cell) == []
    assert orset.remove(cell, "n", ("a",), ME, b"x") == []


def test_a_counter_replaces_no_more_totals_than_an_operation_may_take_away() -> None:
    total = encode(counter.Totals(3))
    cell = Cell({Dot(ME, number): Entry(total, 0, bytes(8)) for number in range(1, TAKEN_MAX + 7)})
    change = counter.change(cell, "n", ("a",), ME, 2)
    assert [each.number for each in change.taken] == list(range(1, TAKEN_MAX + 1))
    cell.write(Dot(ME, 100), change.entry(bytes(8)), change.seen(ME), {})
    assert counter.count(cell) == 5


def test_a_map_is_a_prefix_of_paths_and_what_is_added_while_it_is_removed_stays() -> None:
    one, other = world(Kind.SET, 3), world(Kind.SET, 3)
    paths = [("fruit", "apple", "red"), ("fruit", "pear", "green"), ("fruits", "x", "y")]
    write(one, *(orset.add(Cell(), "n", path, ME, b"1") for path in paths))
    for data in one.batches(ME):
        other.admit(data)
    assert orset.names(one, "n") == ["fruit", "fruits"]
    assert orset.names(one, "n", ("fruit",)) == ["apple", "pear"]
    write(other, orset.add(Cell(), "n", paths[1], LIAR, b"2"), by=1)
    write(one, *orset.remove_below(one, "n", ("fruit",), ME))
    assert orset.names(one, "n") == ["fruits"]
    for data in other.batches(LIAR):
        one.admit(data)
    assert orset.below(one, "n", ("fruit",)) == [paths[1]]
    assert orset.elements(one.cell("n", *paths[1])) == [b"2"]
