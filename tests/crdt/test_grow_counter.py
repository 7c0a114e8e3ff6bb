"""A counter that only counts up never falls by what a writer writes on one chain, in whatever order it comes."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from shoal.crdt import counter
from shoal.crdt.compact import Snapshot
from shoal.crdt.counter import Totals
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Taken
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.transport.wire import encode

from .test_replica import KEYS, SWARM, Author, admit

RULES = Rules({"n": Rule(Kind.GROW_COUNTER, is_own=False)}, creator=Writer(KEYS[0].public_key))


def replica() -> Replica:
    return Replica(SWARM, RULES)


def total(author: Author, up: int, path: str = "a") -> Operation:
    """A total in the place of all that the author has written, whatever it was."""
    taken = tuple(Taken(b"", number, hash[:8]) for number, hash in enumerate(author.hashes) if number)
    return Operation("n", (path,), encode(Totals(up)), taken[-64:])


def snapshot_of(target: Replica) -> Snapshot:
    snapshot = target.snapshot(target.frontier())
    assert isinstance(snapshot, Snapshot)
    return snapshot


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), min_size=1, max_size=3), max_size=8),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_a_count_never_falls_and_a_frontier_changes_nothing_about_it(
    batches: Sequence[Sequence[tuple[str, int]]], half: int, order: random.Random
) -> None:
    author, target = Author(KEYS[1]), replica()
    written = [author.write(*(total(author, up, path) for path, up in batch)) for batch in batches]
    counts = {"a": 0, "b": 0}
    for place, (stretch, batch) in enumerate(zip(written, batches, strict=True)):
        if place == half:
            target.adopt(snapshot_of(target))
        grown, is_right = dict(counts), True
        for path, up in batch:
            is_right = is_right and up >= grown[path]
            grown[path] = up
        admission = target.admit(stretch.data)
        assert (admission.refusal is None) == is_right
        if not is_right:
            break
        counts = grown
        assert {path: counter.count(target.cell("n", path)) for path in counts} == counts
    other = replica()
    admit(other, order.sample(written, len(written)))
    assert other.digest() == target.digest()
    newcomer = replica()
    newcomer.adopt(snapshot_of(target))
    admit(newcomer, written)
    assert newcomer.digest() == target.digest()


def test_after_a_fork_a_total_is_judged_by_those_before_it_and_not_by_those_it_denies() -> None:
    author = Author(KEYS[1])
    first, second = author.write(total(author, 3)), author.write(total(author, 7))
    below, between = author.branch(1), author.branch(1)
    lower, twin = below.write(total(below, 2)), between.write(total(between, 5))
    target = replica()
    admit(target, [first, second, lower])
    assert not target.heads()[author.writer].is_forked  # what is refused proves nothing
    assert counter.count(target.cell("n", "a")) == 7
    admit(target, [twin])
    assert target.heads()[author.writer].is_forked
    assert counter.count(target.cell("n", "a")) == 3


def test_nobody_takes_a_total_away_without_a_larger_one() -> None:
    author, target = Author(KEYS[1]), replica()
    first = author.write(total(author, 3))
    admit(target, [first])
    bare = Operation("n", ("a",), None, (Taken(b"", 1, first.hashes[0][:8]),))
    assert target.admit(author.write(bare).data).refusal is not None


def test_one_batch_may_not_count_down_within_itself() -> None:
    author, target = Author(KEYS[1]), replica()
    stretch = author.write(total(author, 3), total(author, 2))
    assert isinstance(stretch, Stretch)
    assert target.admit(stretch.data).refusal is not None
