"""Ways to have a replica keep what it has not checked."""

from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Taken, seal
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Authors, Kind, Rule, Rules
from shoal.transport.wire import Malformed

from .test_replica import KEYS, SWARM, Author, replica

RECORD = b"r" * 32


class LateRecords:
    """Those of which `known` is told. All are members under them."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()

    def is_member(self, record: bytes, writer: Writer) -> bool | None:
        return True if record in self.known else None


def members_only(records: LateRecords) -> Replica:
    rules = Rules(
        {"set": Rule(Kind.SET, is_own=False), "members": Rule(Kind.SET, Authors.MEMBERS, is_own=False)},
        creator=Writer(KEYS[0].public_key),
    )
    return Replica(SWARM, rules, records)


def unsigned(stretch: Stretch) -> bytes:
    return stretch.data[:-1] + bytes([stretch.data[-1] ^ 1])


def test_a_forged_signature_is_not_believed_because_the_same_operations_wait_in_another_batch() -> None:
    author = Author(KEYS[0])
    first = author.add("a", b"1")
    author.write(first)
    waiting = author.write(author.add("a", b"2"))
    longer = seal(author.key, SWARM, 1, author.branch(0).hashes[0], [first, *waiting.batch.operations])
    target = replica()
    assert target.admit(waiting.data).waits
    assert target.admit(unsigned(longer)).refusal is not None
    assert target.admit(unsigned(waiting)).refusal is not None
    assert target.heads() == {}
    assert target.admit(longer.data).kept == [longer]


def test_a_forged_signature_is_not_believed_because_the_batch_waits_for_a_record() -> None:
    author, records = Author(KEYS[0]), LateRecords()
    target = members_only(records)
    stretch = author.write(Operation("members", ("a",), b"1", record=RECORD))
    assert target.admit(stretch.data).waits
    records.known.add(RECORD)
    assert target.admit(unsigned(stretch)).refusal is not None
    assert target.records_came().kept == [stretch]


def test_others_hear_once_of_a_batch_that_waits_however_it_is_signed_and_cut() -> None:
    author = Author(KEYS[0])
    operations = [author.add("a", bytes([number])) for number in range(3)]
    for operation in operations:
        author.write(operation)
    cut = seal(author.key, SWARM, 2, author.hashes[1], operations[1:])
    target = replica()
    assert target.admit(author.written[2].data).waits
    assert not target.admit(cut.data).is_news


def test_what_a_node_was_told_it_may_not_write_is_not_written_when_the_record_comes() -> None:
    records = LateRecords()
    target = members_only(records)
    assert isinstance(target.write(KEYS[0], [Operation("members", ("a",), b"1", record=RECORD)]), Malformed)
    assert isinstance(target.write(KEYS[0], [Operation("set", ("a",), b"2")]), Stretch)
    records.known.add(RECORD)
    assert not target.records_came().is_news  # or the node would have forked its own chain
    assert not target.heads()[Writer(KEYS[0].public_key)].is_forked


def test_nobody_takes_away_anothers_total() -> None:
    rules = Rules({"count": Rule(Kind.GROW_COUNTER, is_own=False)}, creator=Writer(KEYS[0].public_key))
    target = Replica(SWARM, rules)
    author, liar = Author(KEYS[0]), Author(KEYS[1])
    counted = author.write(Operation("count", ("a",), b"\x92\x05\x00"))
    assert target.admit(counted.data).kept
    taken = (Taken(author.writer, 1, counted.hashes[0][:8]),)
    assert target.admit(liar.write(Operation("count", ("a",), None, taken)).data).refusal is not None
