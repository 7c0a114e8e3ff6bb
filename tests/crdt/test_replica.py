"""What counts follows from what was admitted, in whatever order."""

import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.chain import Head
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Taken, genesis, read_batch, seal
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.transport.identity import Identity

SOAK = bool(os.environ.get("SHOAL_SOAK"))
SWARM = b"s" * 32
KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
RULES = Rules(
    {"set": Rule(Kind.SET, is_own=False), "own": Rule(Kind.REGISTER)},
    creator=Writer(KEYS[0].public_key),
    operations_max=40,
)


def replica() -> Replica:
    return Replica(SWARM, RULES)


class Author:
    """Somebody who writes chains, honest or not."""

    def __init__(self, key: Identity) -> None:
        self.key = key
        self.writer = Writer(key.public_key)
        self.hashes = [genesis(SWARM, self.writer)]
        self.written: list[Stretch] = []

    def branch(self, number: int) -> "Author":
        """Another self that goes on from after `number`."""
        twin = Author(self.key)
        twin.hashes = self.hashes[: number + 1]
        return twin

    def write(self, *operations: Operation) -> Stretch:
        stretch = seal(self.key, SWARM, len(self.hashes), self.hashes[-1], operations)
        self.hashes += stretch.hashes
        self.written.append(stretch)
        return stretch

    def add(self, path: str, value: bytes) -> Operation:
        return Operation("set", (path,), value)

    def remove(self, path: str, *stretches: Stretch) -> Operation:
        """What the last operation of each added."""
        taken = tuple(
            Taken(b"" if each.writer == self.writer else each.writer, each.last, each.hashes[-1][:8])
            for each in stretches
        )
        return Operation("set", (path,), None, taken)


def admit(target: Replica, stretches: Sequence[Stretch]) -> None:
    """All of them, those that have to wait again until nothing more is news."""
    waiting = list(stretches)
    while True:
        before = target.digest(), target.heads()
        for stretch in waiting:
            target.admit(stretch.data)
        if (target.digest(), target.heads()) == before:
            return


def test_an_operation_is_applied_once_however_often_it_comes() -> None:
    author = Author(KEYS[0])
    target = replica()
    stretch = author.write(author.add("a", b"1"))
    assert target.admit(stretch.data).kept == [stretch]
    digest = target.digest()
    assert not target.admit(stretch.data).is_news
    assert target.digest() == digest
    assert [entry.value for entry in target.cell("set", "a").entries.values()] == [b"1"]


def test_a_batch_that_came_too_early_waits_for_those_before_it() -> None:
    author = Author(KEYS[0])
    first, second = author.write(author.add("a", b"1")), author.write(author.add("a", b"2"))
    target = replica()
    early = target.admit(second.data)
    assert not early.kept
    assert early.missing is not None
    assert early.missing.after == 0
    assert target.admit(first.data).kept == [first, second]


def test_others_hear_once_of_a_batch_that_waits_and_not_of_one_that_branches_off_elsewhere() -> None:
    author = Author(KEYS[0])
    base, _, early = (author.write(author.add("a", bytes([number]))) for number in range(3))
    target = replica()
    assert [target.admit(early.data).is_news for _ in range(3)] == [True, False, False]
    target.admit(base.data)
    twin = author.branch(0)
    twin.write(twin.add("a", b"twin"))
    apart = target.admit(twin.write(twin.add("a", b"apart")).data)
    assert apart.missing is not None
    assert not apart.is_news


def test_an_entry_taken_away_before_it_came_never_shows() -> None:
    one, other = Author(KEYS[0]), Author(KEYS[1])
    added = one.write(one.add("a", b"1"))
    removed = other.write(other.remove("a", added))
    target = replica()
    admit(target, [removed])
    admit(target, [added])
    assert not target.cell("set", "a").entries
    twin = replica()
    admit(twin, [added, removed])
    assert twin.digest() == target.digest()


def test_an_entry_cannot_be_taken_away_by_who_has_not_seen_it() -> None:
    one, other = Author(KEYS[0]), Author(KEYS[1])
    guess = other.write(Operation("set", ("a",), None, (Taken(one.writer, 1, b"\0" * 8),)))
    target = replica()
    admit(target, [guess, one.write(one.add("a", b"1"))])
    assert len(target.cell("set", "a").entries) == 1


def test_after_a_fork_what_followed_counts_nowhere_and_what_it_took_away_is_back() -> None:
    honest, liar = Author(KEYS[0]), Author(KEYS[1])
    kept = honest.write(honest.add("a", b"kept"))
    first = liar.write(liar.add("a", b"first"))
    taken = liar.write(liar.remove("a", kept))
    target = replica()
    admit(target, [kept, first, taken])
    assert [entry.value for entry in target.cell("set", "a").entries.values()] == [b"first"]
    twin = liar.branch(1).write(liar.add("a", b"twin"))
    admission = target.admit(twin.data)
    assert admission.forked == {liar.writer}
    assert ("set", ("a",)) in admission.touched
    assert sorted(entry.value for entry in target.cell("set", "a").entries.values()) == [b"first", b"kept"]
    assert target.heads()[liar.writer].is_forked
    assert not target.admit(liar.write(liar.add("a", b"more")).data).is_news


def test_the_proof_of_a_fork_is_the_first_two_that_came_and_convinces_who_has_neither() -> None:
    liar = Author(KEYS[1])
    base = liar.write(liar.add("a", b"base"))
    twins = [liar.branch(1).write(liar.add("a", bytes([number]))) for number in range(5)]
    heads: set[Head] = set()
    for seed in range(6):
        shuffled = random.Random(seed).sample(twins, len(twins))
        target = replica()
        admit(target, [base, *shuffled[:2]])
        for more in shuffled[2:]:  # or a liar could keep everybody busy with ever smaller ones
            assert not target.admit(more.data).is_news
        chain = target.chain(liar.writer)
        assert chain is not None
        assert [proof.data for proof in chain.proofs] == [twin.data for twin in shuffled[:2]]
        heads.add(target.heads()[liar.writer])
        newcomer = replica()
        for data in target.batches(liar.writer):
            newcomer.admit(data)
        assert newcomer.heads() == target.heads()
        assert newcomer.digest() == target.digest()
    assert len(heads) == 1


def test_what_the_rules_refuse_ends_the_chain_of_its_writer() -> None:
    liar = Author(KEYS[1])
    wrong = liar.write(Operation("own", (KEYS[0].peer_id,), b"not mine"))
    after = liar.write(liar.add("a", b"1"))
    target = replica()
    refusal = target.admit(wrong.data).refusal
    assert refusal is not None
    assert "not" in refusal.reason
    admit(target, [after])
    assert target.heads() == {}


def test_a_writer_beyond_its_bounds_is_refused_at_the_same_operation_everywhere() -> None:
    author = Author(KEYS[0])
    written = [author.write(author.add(str(number), b"")) for number in range(45)]
    for seed in range(3):
        target = replica()
        admit(target, random.Random(seed).sample(written, len(written)))
        assert target.heads()[author.writer].number == 40


@pytest.mark.parametrize("change", ["signature", "swarm"])
def test_a_batch_nobody_signed_for_this_swarm_is_refused(change: str) -> None:
    author = Author(KEYS[0])
    stretch = author.write(author.add("a", b"1"))
    target = Replica(b"t" * 32, RULES) if change == "swarm" else replica()
    data = bytearray(stretch.data)
    data[-1] ^= change == "signature"
    admission = target.admit(bytes(data))
    assert admission.refusal is not None or (change == "swarm" and not admission.kept)
    assert target.heads() == {}


@st.composite
def histories(draw: st.DrawFn) -> list[Stretch]:
    """Batches of a few writers, some of whom fork, take away, and cut their chains in several ways."""
    authors = [Author(key) for key in KEYS]
    written: list[Stretch] = []
    for _ in range(draw(st.integers(1, 14))):
        index = draw(st.integers(0, len(authors) - 1))
        author = authors[index]
        if len(author.hashes) > 1 and draw(st.integers(0, 5)) == 0:
            author = author.branch(draw(st.integers(0, len(author.hashes) - 2)))
            if draw(st.booleans()):
                authors[index] = author
        operations: list[Operation] = []
        for _ in range(draw(st.integers(1, 3))):
            path = draw(st.sampled_from(["a", "b"]))
            if draw(st.booleans()) and written:
                operations.append(author.remove(path, draw(st.sampled_from(written))))
            else:
                operations.append(author.add(path, draw(st.binary(max_size=1))))
        written.append(author.write(*operations))
        if draw(st.integers(0, 4)) == 0 and len(operations) > 1:  # the same operations, cut elsewhere
            last = written[-1]
            written.append(seal(author.key, SWARM, last.first, last.batch.previous, operations[:1]))
    return written


@settings(max_examples=2000 if SOAK else 50)
@given(histories(), st.randoms(use_true_random=False))
def test_any_order_gives_one_digest(history: list[Stretch], order: random.Random) -> None:
    one, other = replica(), replica()
    admit(one, history)
    shuffled = list(history)
    order.shuffle(shuffled)
    for stretch in shuffled[: len(shuffled) // 2]:  # some of it more than once
        other.admit(stretch.data)
    admit(other, shuffled)
    assert one.heads() == other.heads()
    assert one.digest() == other.digest()
    newcomer = replica()
    admit(newcomer, [read(data) for writer in one.heads() for data in one.batches(writer)])
    assert newcomer.heads() == one.heads()
    assert newcomer.digest() == one.digest()


def read(data: bytes) -> Stretch:
    stretch = read_batch(data)
    assert isinstance(stretch, Stretch)
    return stretch
