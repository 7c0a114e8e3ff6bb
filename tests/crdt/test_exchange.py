"""Two replicas become equal by exchange alone, at a small cost; and who lies gains nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.difference import search
from shoal.crdt.dots import Writer
from shoal.crdt.exchange import (
    COMPARES_BURST,
    IDLE_PIECES_MAX,
    PIECES_BURST,
    ROUND_TRIPS_MAX,
    UNSETTLED_S,
    Answer,
    Asking,
    Busy,
    Exchanges,
    NeedsSnapshot,
    Outcome,
    Question,
)
from shoal.crdt.exchange_messages import HEADS_MAX, PIECE_BYTES, Calls, Compare, Compared, Settle, Settled, ShortHead
from shoal.crdt.heads import SALT_BYTES
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Authors, Kind, Rule, Rules
from shoal.transport.identity import Identity, peer_id_of
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, decode, encode
from tests.crdt.test_replica import KEYS, SWARM, Author, admit, histories

A, B = PeerId("a"), PeerId("b")
CALLS = Calls(SWARM)
OPEN = Rules(
    {"set": Rule(Kind.SET, is_own=False), "voted": Rule(Kind.LOG, Authors.MEMBERS)},
    creator=Writer(KEYS[0].public_key),
    writers_max=8192,
)


def _believe(key: bytes, message: bytes, signature: bytes) -> bool:
    return True


def exchanges(rules: Rules = OPEN, verify: bool = True) -> Exchanges:
    if verify:
        return Exchanges(Replica(SWARM, rules), Writer(KEYS[0].public_key))
    return Exchanges(Replica(SWARM, rules, verify=_believe), Writer(KEYS[0].public_key))


def fed(stretches: Sequence[Stretch], verify: bool = True) -> Exchanges:
    made = exchanges(verify=verify)
    admit(made.replica, stretches)
    made.update(made.replica.heads())
    return made


@dataclass
class Line:
    """What an exchange sent, batches apart."""

    sent: list[int] = field(default_factory=list[int])
    came: list[int] = field(default_factory=list[int])


def size(message: Question | Answer) -> int:
    return len(encode(message)) - (sum(map(len, message.batches)) if isinstance(message, Settle | Settled) else 0)


def answer(target: Exchanges, asker: PeerId, question: Question, now: float) -> Answer | Busy:
    """As a peer's shell does, over the wire."""
    if isinstance(question, Compare):
        read = decode(encode(question), Compare, CALLS.compare.request_bytes_max)
        assert isinstance(read, Compare)
        return target.compared(asker, read, now)
    settle = decode(encode(question), Settle, CALLS.settle.request_bytes_max)
    assert isinstance(settle, Settle), settle
    reply = target.settled(asker, settle, now)
    for data in settle.batches:
        assert target.take(data).refusal is None
    return reply


def run(asking: Asking, target: Exchanges, owner: Exchanges, now: float = 0.0, line: Line | None = None) -> Outcome:
    while (question := asking.question) is not None:
        reply = answer(target, peer_id_of(owner.own), question, now)
        if isinstance(reply, Busy):
            asking.leave()
            break
        if line is not None:
            line.sent.append(size(question))
            line.came.append(size(reply))
        encoded = encode(reply)
        method = CALLS.compare if isinstance(reply, Compared) else CALLS.settle
        assert len(encoded) <= method.reply_bytes_max
        for data in asking.answered(reply, now):
            admission = owner.take(data)
            asking.took(admission)
            if admission.refusal is not None:
                break
        asking.go_on(now)
    return asking.outcome


def exchange(one: Exchanges, other: Exchanges, now: float = 0.0, line: Line | None = None) -> Outcome:
    salt = random.Random(now).randbytes(SALT_BYTES)
    return run(one.ask(B, salt), other, one, now, line)


def are_equal(one: Exchanges, other: Exchanges) -> bool:
    same = one.heads.digest == other.heads.digest
    assert same == (one.replica.heads() == other.replica.heads())
    assert not same or one.replica.digest() == other.replica.digest()
    return same


def writer_keys(count: int) -> list[Identity]:
    return [Identity.from_seed(number.to_bytes(32, "big")) for number in range(1, count + 1)]


def test_replicas_that_are_equal_say_so_in_one_round_trip_and_less_than_a_kilobyte() -> None:
    written = [Author(key).write(Operation("set", ("a",), b"1")) for key in writer_keys(200)]
    one, other, line = fed(written), fed(written), Line()
    outcome = exchange(one, other, line=line)
    assert outcome.is_equal
    assert outcome.agrees
    assert (outcome.round_trips, outcome.failure) == (1, "")
    assert sum(line.sent) <= 1000
    assert sum(line.came) <= 1000


def differing(writers: int, operations: int, missing: Sequence[int]) -> tuple[Exchanges, Exchanges]:
    """So many writers with so many operations; of some, one side lacks the last: every other one the other side."""
    one, other = exchanges(verify=False), exchanges(verify=False)
    for number, key in enumerate(writer_keys(writers)):
        author = Author(key)
        lacking = missing.count(number)
        first = [Operation("set", ("a",), b"", stamp=0)] * min(250, operations - lacking)
        written: list[Stretch] = []
        left = operations - lacking
        while left:
            written.append(author.write(*first[:left]))
            left -= min(left, len(first))
        late = [author.write(Operation("set", ("a",), b"late")) for _ in range(lacking)]
        for side, whole in ((one, number % 2), (other, 1 - number % 2)):
            for stretch in (*written, *(late if whole else [])):
                assert side.replica.admit(stretch.data).kept
    one.update(one.replica.heads())
    other.update(other.replica.heads())
    return one, other


def test_100_of_100000_operations_among_200_writers_take_two_round_trips_and_16_kilobytes_each_way() -> None:
    one, other = differing(200, 500, [number % 200 for number in range(0, 200, 2)])
    line = Line()
    outcome = exchange(one, other, line=line)
    assert outcome.round_trips <= 2
    assert sum(line.sent) <= 16_384
    assert sum(line.came) <= 16_384
    assert are_equal(one, other)


def test_3_of_5000_writers_take_two_round_trips_and_16_kilobytes_each_way() -> None:
    one, other = differing(5000, 1, [17, 1234, 4000])
    line = Line()
    outcome = exchange(one, other, line=line)
    assert outcome.round_trips <= 2
    assert sum(line.sent) <= 16_384
    assert sum(line.came) <= 16_384
    assert are_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(histories(), st.lists(st.integers(0, 2), min_size=20, max_size=20), st.randoms(use_true_random=False))
def test_any_histories_become_equal_by_exchange_alone(
    history: list[Stretch], places: list[int], order: random.Random
) -> None:
    sides = [exchanges() for _ in range(3)]
    for stretch, place in zip(history, places * 4, strict=False):
        sides[place].take(stretch.data)
    whole = fed(history)
    now = 0.0
    for _ in range(8):
        pairs = [(one, other) for one in range(3) for other in range(3) if one != other]
        order.shuffle(pairs)
        for one, other in pairs:
            now += 20.0
            asking = sides[one].ask(PeerId(f"p{other}"), bytes([order.randint(0, 255)]) * SALT_BYTES)
            assert run(asking, sides[other], sides[one], now).failure == ""
    assert all(are_equal(sides[0], each) for each in sides[1:])
    # What waits for batches that nobody has is not here, as long as nobody has forked.
    heads = whole.replica.heads()
    assert all(
        heads[writer].is_forked or heads[writer].number >= number
        for writer, number in sides[0].replica.context().items()
    )


def chain_of(count: int, value: bytes = b"") -> Author:
    author = Author(KEYS[1])
    for number in range(count):
        author.write(author.add("a", value + number.to_bytes(4, "big")))
    return author


def test_a_long_chain_comes_in_pieces_in_one_exchange_and_both_ways_at_once() -> None:
    one = fed(chain_of(300, b"x" * 3000).written)
    author = Author(KEYS[2])
    for number in range(300):
        author.write(author.add("b", b"y" * 3000 + number.to_bytes(4, "big")))
    other = fed(author.written)
    outcome = exchange(one, other)
    assert 4 <= outcome.round_trips - 1 <= 5
    assert (outcome.kept_count, outcome.given_count) == (300, 300)
    assert are_equal(one, other)


@pytest.mark.parametrize("parted", [0, 1, 40, 199])
def test_a_fork_is_found_wherever_the_chains_part(parted: int) -> None:
    author = chain_of(200)
    twin = author.branch(parted)
    common = author.written[:parted]
    for number in range(200 - parted):
        twin.write(twin.add("twin", bytes([number])))
    one, other = fed(author.written), fed([*common, *twin.written])
    first = exchange(one, other)
    assert first.is_unfinished
    exchange(one, other, now=1.0)
    assert are_equal(one, other)
    head = one.replica.heads()[author.writer]
    assert (head.number, head.is_forked) == (parted, True)


def test_marks_for_a_search_grow_with_the_distance_and_end_at_the_frontier() -> None:
    chain = fed(chain_of(100).written).chain(Writer(KEYS[1].public_key))
    assert [mark.number for mark in search(chain).marks] == [100, 99, 98, 96, 92, 84, 68, 36, 0]


def test_who_was_left_behind_by_a_compaction_is_told_that_it_needs_the_snapshot() -> None:
    author = chain_of(20)
    ahead, behind = fed(author.written), fed(author.written[:5])
    snapshot = ahead.replica.snapshot(fed(author.written[:10]).replica.frontier())
    assert not isinstance(snapshot, Malformed)
    ahead.replica.adopt(snapshot)
    ahead.update(ahead.replica.heads())
    outcome = exchange(behind, ahead)
    assert outcome.needs == [NeedsSnapshot(B, author.writer, 10)]
    assert outcome.failure == ""
    behind.replica.adopt(snapshot)
    behind.update(behind.replica.heads())
    exchange(behind, ahead, now=1.0)
    assert are_equal(behind, ahead)


def test_more_heads_than_fit_into_an_answer_are_compared_in_several_exchanges() -> None:
    one, other = exchanges(verify=False), exchanges(verify=False)
    for key in writer_keys(2 * HEADS_MAX):
        author = Author(key)
        other.take(author.write(author.add("a", b"")).data)
    count = 0
    while not are_equal(one, other):
        outcome = exchange(one, other, now=float(count))
        assert outcome.kept_count
        count += 1
    assert 2 <= count <= 4


def test_what_cannot_be_settled_is_tried_after_longer_and_longer() -> None:
    author = Author(KEYS[1])
    unknown = author.write(Operation("voted", (KEYS[1].peer_id,), b"1", record=b"r" * 32))
    one, other = exchanges(), Exchanges(Replica(SWARM, OPEN, _Known()), Writer(KEYS[2].public_key))
    assert other.take(unknown.data).kept
    tried: list[float] = []
    for second in range(0, 200, 2):
        outcome = exchange(one, other, now=float(second))
        assert outcome.failure == ""
        if outcome.round_trips > 1:
            tried.append(second)
    assert tried == [0, UNSETTLED_S, 3 * UNSETTLED_S, 7 * UNSETTLED_S, 15 * UNSETTLED_S]


class _Known:
    def is_member(self, record: bytes, writer: Writer) -> bool | None:
        return True


# Liars.


def begun() -> tuple[Exchanges, Asking]:
    one = fed(chain_of(3).written)
    return one, one.ask(B, b"0" * SALT_BYTES)


def claim(writer: bytes, number: int) -> Compared:
    return Compared((), (ShortHead(writer, number, b"h" * 16, is_forked=False),), None, is_whole=True)


def test_a_peer_that_claims_heads_and_shows_nothing_fails() -> None:
    _, asking = begun()
    asking.answered(claim(KEYS[3].public_key, 5), 0.0)
    asking.go_on(0.0)
    assert isinstance(asking.question, Settle)
    asking.answered(Settled((), asking.question.wants, ()), 0.0)
    asking.go_on(0.0)
    assert asking.question is None
    assert asking.outcome.failure


def test_a_peer_that_repeats_what_is_known_is_cut_soon() -> None:
    one, asking = begun()
    known = tuple(one.replica.batches(Writer(KEYS[1].public_key)))
    asking.answered(claim(KEYS[3].public_key, 5), 0.0)
    asking.go_on(0.0)
    for _ in range(IDLE_PIECES_MAX):
        assert isinstance(asking.question, Settle)
        for data in asking.answered(Settled(known, asking.question.wants, ()), 0.0):
            asking.took(one.take(data))
        asking.go_on(0.0)
    assert asking.outcome.failure


def test_a_peer_that_always_has_more_is_cut_after_so_many_round_trips() -> None:
    liar = Author(KEYS[3])
    one, asking = begun()
    asking.answered(claim(KEYS[3].public_key, 500), 0.0)
    asking.go_on(0.0)
    while isinstance(asking.question, Settle):
        data = liar.write(liar.add("a", b"")).data
        for each in asking.answered(Settled((data,), asking.question.wants, ()), 0.0):
            asking.took(one.take(each))
        asking.go_on(0.0)
    assert asking.outcome.round_trips == ROUND_TRIPS_MAX
    assert asking.outcome.is_unfinished


def test_a_batch_that_is_refused_ends_the_exchange() -> None:
    one, asking = begun()
    asking.answered(claim(KEYS[3].public_key, 5), 0.0)
    asking.go_on(0.0)
    assert isinstance(asking.question, Settle)
    for data in asking.answered(Settled((b"garbage",), asking.question.wants, ()), 0.0):
        asking.took(one.take(data))
    asking.go_on(0.0)
    assert asking.question is None
    assert "not a Batch" in asking.outcome.failure


def test_a_peer_is_answered_so_often_and_no_answer_is_larger_than_a_piece() -> None:
    target = fed(chain_of(300, b"x" * 3000).written)
    want = search(exchanges().chain(Writer(KEYS[1].public_key)))
    question = Settle((want,) * 500, ())
    for _ in range(PIECES_BURST):
        reply = target.settled(A, question, 0.0)
        assert isinstance(reply, Settled)
        assert sum(map(len, reply.batches)) <= PIECE_BYTES
        assert len(encode(reply)) <= CALLS.settle.reply_bytes_max
    assert isinstance(target.settled(A, question, 0.0), Busy)
    assert not isinstance(target.settled(B, question, 0.0), Busy)
    _, asking = begun()
    assert isinstance(asking.question, Compare)
    answers = [target.compared(A, asking.question, 0.0) for _ in range(COMPARES_BURST + 1)]
    assert isinstance(answers[-1], Busy)
    assert not isinstance(answers[-2], Busy)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([Compare, Compared, Settle, Settled]))
def test_any_bytes_are_one_message_or_malformed(data: bytes, kind: type[Compare]) -> None:
    read = decode(data, kind, 10_000)
    assert isinstance(read, Malformed) or encode(read)
