"""Two replicas become equal by exchange alone, at a small cost; and who lies gains nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.dots import Writer
from shoal.crdt.exchange import (
    Answer,
    Asking,
    Busy,
    Exchanges,
    Outcome,
    Question,
)
from shoal.crdt.exchange_messages import (
    Calls,
    Compare,
    Compared,
    Settle,
    Settled,
)
from shoal.crdt.heads import SALT_BYTES
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Authors, Kind, Rule, Rules
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import decode, encode
from tests.crdt.test_replica import KEYS, SWARM, Author, admit, histories

A, B = PeerId("a"), PeerId("b")
CALLS = Calls(SWARM)
OPEN = Rules(
    {"set": Rule(Kind.SET, is_own=False), "voted": Rule(Kind.LOG, Authors.MEMBERS)},
    creator=Writer(KEYS[0].public_key),
    writers_max=8192,
)


def exchanges(rules: Rules = OPEN, verify: bool = True) -> Exchanges:
    if verify:
        return Exchanges(Replica(SWARM, rules), Writer(KEYS[0].public_key))
    return Exchanges(Replica(SWARM, rules, verify=lambda *_: True), Writer(KEYS[0].public_key))


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


def answer(target: Exchanges, question: Question, now: float) -> Answer | Busy:
    """As a peer's shell does, over the wire."""
    if isinstance(question, Compare):
        read = decode(encode(question), Compare, CALLS.compare.request_bytes_max)
        assert isinstance(read, Compare)
        return target.compared(A, read, now)
    settle = decode(encode(question), Settle, CALLS.settle.request_bytes_max)
    assert isinstance(settle, Settle), settle
    reply = target.settled(A, settle, now)
    for data in settle.batches:
        assert target.take(data).refusal is None
    return reply


def run(asking: Asking, target: Exchanges, owner: Exchanges, now: float = 0.0, line: Line | None = None) -> Outcome:
    while (question := asking.question) is not None:
        reply = answer(target, question, now)
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
    print(line, outcome)
    assert outcome.round_trips <= 2
    assert sum(line.sent) <= 16_384
    assert sum(line.came) <= 16_384
    assert are_equal(one, other)


def test_3_of_5000_writers_take_two_round_trips_and_16_kilobytes_each_way() -> None:
    one, other = differing(5000, 1, [17, 1234, 4000])
    line = Line()
    outcome = exchange(one, other, line=line)
    print(line, outcome)
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
