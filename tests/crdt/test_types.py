"""The laws of every type: states form a lattice, operations make the same, and reading follows the definition."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt import counter, log, orset, register
from shoal.crdt.cells import cells_digest
from shoal.crdt.dots import Cell, Dot, Vector, Writer, join
from shoal.crdt.operation import Operation, tag_of
from shoal.crdt.rules import Kind, NoRecords, Rule, Rules, judge
from shoal.transport.wire import encode

from .test_replica import KEYS

NAME, PATH = "thing", ("key",)
WRITERS = [Writer(key.public_key) for key in KEYS[:3]]


@dataclass(frozen=True)
class Wish:
    """What somebody wants to do to a thing of any type."""

    value: bytes
    is_removal: bool
    stamp: int

    @property
    def by(self) -> int:
        return (-1 if self.is_removal else 1) * (self.value[0] + 1)


@dataclass(frozen=True)
class Written:
    """An operation, with what the twin remembers of it for ever."""

    dot: Dot
    operation: Operation
    tag: bytes
    wish: Wish
    seen: frozenset[Dot]  # by its writer, when it was written


@dataclass
class Site:
    """One member's state of one cell."""

    writer: Writer
    context: dict[Writer, int] = field(default_factory=dict[Writer, int])
    cell: Cell = field(default_factory=Cell)
    written: list[Written] = field(default_factory=list[Written])  # all that came

    def write(self, kind: Kind, wish: Wish) -> None:
        operation = OPERATION[kind](self.cell, self.writer, wish)
        if operation is None:
            return
        assert judge(operation, self.writer, RULES[kind], NoRecords()) is None
        dot = Dot(self.writer, self.context.get(self.writer, 0) + 1)
        tag = tag_of(blake3(dot.writer + encode((dot.number, operation))).digest())
        self.receive(Written(dot, operation, tag, wish, frozenset(each.dot for each in self.written)))

    def receive(self, written: Written) -> None:
        dot, operation = written.dot, written.operation
        if dot.number != self.context.get(dot.writer, 0) + 1:
            return
        self.cell.write(dot, operation.entry(written.tag), operation.seen(dot.writer), self.context)
        self.context[dot.writer] = dot.number
        self.written.append(written)

    def receive_all(self, other: "Site") -> None:
        for written in sorted(other.written, key=lambda each: each.dot):
            self.receive(written)

    def merge(self, other: "Site") -> None:
        """Take over a full state instead."""
        self.cell = join(self.cell, self.context, other.cell, other.context)
        self.context = joined_context(self.context, other.context)
        known = {each.dot for each in self.written}
        self.written += [each for each in other.written if each.dot not in known]

    @property
    def state(self) -> "State":
        cell = self.cell.copy()
        cell.settle(self.context)
        return State(dict(self.context), cell)


def joined_context(a: Vector, b: Vector) -> dict[Writer, int]:
    """What either side has seen."""
    return {writer: max(a.get(writer, 0), b.get(writer, 0)) for writer in {*a, *b}}


@dataclass(frozen=True)
class State:
    context: dict[Writer, int]
    cell: Cell

    def __or__(self, other: "State") -> "State":
        cell = join(self.cell, self.context, other.cell, other.context)
        return State(joined_context(self.context, other.context), cell)

    def __le__(self, other: "State") -> bool:
        """By the definition of the order, not by the join: nothing that was seen is unseen, nothing gone is back."""
        if any(number > other.context.get(writer, 0) for writer, number in self.context.items()):
            return False
        back = [dot for dot in other.cell.entries if dot not in self.cell.entries and self._has(dot)]
        kept = all(
            seen in other.cell.gone or (other._has(seen.dot) and other._tag(seen.dot) != seen.tag)
            for seen in self.cell.gone
        )
        return kept and not back

    def _has(self, dot: Dot) -> bool:
        return dot.number <= self.context.get(dot.writer, 0)

    def _tag(self, dot: Dot) -> bytes | None:
        entry = self.cell.entries.get(dot)
        return None if entry is None else entry.tag

    @property
    def digest(self) -> bytes:
        return cells_digest([((NAME, PATH), self.cell)])


RULES = {kind: Rules({NAME: Rule(kind, is_own=False)}, creator=WRITERS[0]) for kind in Kind}


def count_up(cell: Cell, writer: Writer, wish: Wish) -> Operation:
    return counter.change(cell, NAME, PATH, writer, abs(wish.by))


def count_any(cell: Cell, writer: Writer, wish: Wish) -> Operation:
    return counter.change(cell, NAME, PATH, writer, wish.by)


def put(cell: Cell, writer: Writer, wish: Wish) -> Operation | None:
    if wish.is_removal:
        return register.clear(cell, NAME, PATH, writer)
    return register.write(cell, NAME, PATH, writer, wish.value)


def put_stamped(cell: Cell, writer: Writer, wish: Wish) -> Operation:
    return register.write(cell, NAME, PATH, writer, wish.value, wish.stamp)


def change_set(cell: Cell, writer: Writer, wish: Wish) -> Operation | None:
    if wish.is_removal:
        return next(iter(orset.remove(cell, NAME, PATH, writer, wish.value)), None)
    return orset.add(cell, NAME, PATH, writer, wish.value)


OPERATION: dict[Kind, Callable[[Cell, Writer, Wish], Operation | None]] = {
    Kind.REGISTER: put_stamped,
    Kind.VALUES: put,
    Kind.SET: change_set,
    Kind.GROW_SET: lambda cell, writer, wish: orset.grow(NAME, PATH, wish.value),
    Kind.COUNTER: count_any,
    Kind.GROW_COUNTER: count_up,
    Kind.LOG: lambda cell, writer, wish: log.append(NAME, PATH, wish.value),
}

VIEW: dict[Kind, Callable[[Cell], Any]] = {
    Kind.REGISTER: register.read,
    Kind.VALUES: register.values,
    Kind.SET: orset.elements,
    Kind.GROW_SET: orset.elements,
    Kind.COUNTER: counter.count,
    Kind.GROW_COUNTER: counter.count,
    Kind.LOG: log.lines,
}


def standing(history: list[Written]) -> Iterator[Written]:
    """What nobody wrote over who had seen it."""
    for each in history:
        if not any(each.dot in other.seen for other in history):
            yield each


def twin(kind: Kind, history: list[Written]) -> Any:
    """What the type means, from all that was ever written."""
    match kind:
        case Kind.REGISTER:
            left = list(standing(history))
            last = max(left, key=lambda each: (each.wish.stamp, each.dot.number, each.dot.writer), default=None)
            return last and last.wish.value
        case Kind.VALUES:
            return sorted({each.wish.value for each in standing(history) if not each.wish.is_removal})
        case Kind.SET:
            of_value = [[each for each in history if each.wish.value == value] for value in VALUES]
            return sorted({each.wish.value for own in of_value for each in standing(own) if not each.wish.is_removal})
        case Kind.GROW_SET:
            return sorted({each.wish.value for each in history})
        case Kind.COUNTER:
            return sum(each.wish.by for each in history)
        case Kind.GROW_COUNTER:
            return sum(abs(each.wish.by) for each in history)
        case Kind.LOG:
            return sorted((each.dot, each.wish.value) for each in history)


VALUES = [b"a", b"b", b"c"]
WISHES = st.builds(Wish, st.sampled_from(VALUES), st.booleans(), st.integers(0, 2))
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "hear", "merge"]), st.integers(0, 2), st.integers(1, 2), WISHES),
    max_size=14,
)


def sites_after(kind: Kind, steps: list[tuple[str, int, int, Wish]], order: random.Random) -> list[Site]:
    """Three members who write at once, hear single operations of each other in any order, or take over states."""
    sites = [Site(writer) for writer in WRITERS]
    for step, index, distance, wish in steps:
        site, other = sites[index], sites[(index + distance) % 3]
        if step == "write":
            site.write(kind, wish)
        elif step == "merge":
            site.merge(other)
        else:
            for written in order.sample(other.written, len(other.written) // 2 + len(other.written) % 2):
                site.receive(written)
    return sites


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, order=st.randoms(use_true_random=False))
def test_states_of_every_type_form_a_lattice(
    kind: Kind, steps: list[tuple[str, int, int, Wish]], order: random.Random
) -> None:
    sites = sites_after(kind, steps, order)
    a, b, c = (site.state for site in sites)
    assert a | b == b | a
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert a | (a | b) == a | b
    assert a <= a | b
    assert b <= a | b
    assert (a | b).digest == (b | a).digest
    operations = deepcopy(sites[0])
    operations.receive_all(sites[1])
    assert operations.state == a | b  # deltas, and the full state
    assert operations.state.digest == (a | b).digest


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, order=st.randoms(use_true_random=False))
def test_what_is_read_of_every_type_is_what_its_definition_says(
    kind: Kind, steps: list[tuple[str, int, int, Wish]], order: random.Random
) -> None:
    sites = sites_after(kind, steps, order)
    for _ in range(2):
        for site in sites:
            for other in sites:
                site.receive_all(other)
    states = [site.state for site in sites]
    assert states[0] == states[1] == states[2]
    assert not states[0].cell.gone
    assert len({state.digest for state in states}) == 1
    assert VIEW[kind](sites[0].cell) == twin(kind, sites[0].written)


@pytest.mark.parametrize("kind", [Kind.COUNTER, Kind.GROW_COUNTER, Kind.GROW_SET, Kind.LOG])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, order=st.randoms(use_true_random=False))
def test_what_needs_no_causal_order_is_right_at_any_time(
    kind: Kind, steps: list[tuple[str, int, int, Wish]], order: random.Random
) -> None:
    for site in sites_after(kind, steps, order):
        assert VIEW[kind](site.cell) == twin(kind, site.written)
