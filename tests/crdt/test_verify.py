"""A store is believed for its signatures, and what is wrong with it is said."""

from shoal.crdt.compact import Snapshot, digest_of
from shoal.crdt.dots import Cell
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.verify import verify

from .test_replica import KEYS, RULES, SWARM, Author, admit, replica


def history() -> tuple[Replica, list[Stretch]]:
    one, other = Author(KEYS[0]), Author(KEYS[1])
    own = Operation("own", (KEYS[0].peer_id,), b"mine")
    first = one.write(one.add("a", b"1"), own)
    written = [first, other.write(other.remove("a", first)), one.write(one.add("b", b"2"))]
    target = replica()
    admit(target, written)
    return target, written


def kept(snapshot: Snapshot) -> tuple[list[bytes], bytes]:
    pieces = list(snapshot.pieces())
    return pieces, digest_of(pieces)


def test_a_sound_store_has_no_problems_and_the_digest_of_who_kept_it() -> None:
    target, written = history()
    found = verify(SWARM, RULES, None, [stretch.data for stretch in written])
    assert found.problems == ()
    assert (found.batches, found.unjudged, found.forked) == (3, 0, ())
    assert found.replica.digest() == target.digest()


def test_a_batch_that_comes_before_those_it_follows_is_judged_when_they_have_come() -> None:
    _, written = history()
    found = verify(SWARM, RULES, None, [written[2].data, written[0].data])
    assert (found.unjudged, found.problems) == (0, ())
    assert verify(SWARM, RULES, None, [written[2].data]).unjudged == 1


def test_a_changed_byte_a_stranger_and_another_swarm_are_found() -> None:
    _, written = history()
    data = bytearray(written[0].data)
    data[-1] ^= 1
    assert len(verify(SWARM, RULES, None, [bytes(data)]).problems) == 1
    assert len(verify(b"t" * 32, RULES, None, [written[0].data]).problems) == 1
    assert len(verify(SWARM, RULES, None, [b"garbage", written[0].data]).problems) == 1


def test_a_fork_is_told_with_its_writer() -> None:
    author = Author(KEYS[0])
    first = author.write(author.add("a", b"1"))
    twins = [author.branch(1).write(author.add("a", bytes([number]))) for number in range(2)]
    found = verify(SWARM, RULES, None, [each.data for each in (first, *twins)])
    assert found.forked == (author.writer,)
    assert found.problems == ()


def test_a_snapshot_is_checked_against_its_digest_and_the_rules() -> None:
    target, _ = history()
    snapshot = target.snapshot(target.frontier())
    assert isinstance(snapshot, Snapshot)
    pieces, digest = kept(snapshot)
    found = verify(SWARM, RULES, (pieces, digest), [])
    assert (found.problems, found.snapshot) == ((), digest)
    assert found.replica.digest() == target.digest()
    assert verify(SWARM, RULES, (pieces, bytes(32)), []).problems
    assert verify(SWARM, RULES, (pieces[:1], digest), []).problems
    assert verify(b"t" * 32, RULES, (pieces, digest), []).problems
    cell = snapshot.cells["own", (KEYS[0].peer_id,)]
    for key in (("own", (KEYS[1].peer_id,)), ("none", ("a",)), ("set", ("a", "b"))):
        wrong = Snapshot(SWARM, snapshot.frontier, {**snapshot.cells, key: Cell(cell.entries)})
        assert verify(SWARM, RULES, kept(wrong), []).problems
