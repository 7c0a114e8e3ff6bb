"""An agreed snapshot takes the place of what it stands for, in memory and on disk alike."""

import random
import tempfile
from functools import partial
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from shoal.crdt.compact import Snapshot, digest_of
from shoal.crdt.disk_service import Disk
from shoal.crdt.dots import Writer
from shoal.crdt.guard import Standing
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Adoption, Replica
from shoal.crdt.store import Store
from shoal.transport.blocking_service import run_inline
from shoal.transport.port import Refusal
from shoal.transport.wire import Malformed

from . import nodes, test_replica
from .nodes import KEYS, SWARM, World, equal, large, write


def agreed(target: Replica) -> tuple[list[bytes], bytes]:
    """What agreement would take from here: a snapshot's pieces and its digest."""
    snapshot = target.snapshot(target.frontier())
    assert isinstance(snapshot, Snapshot)
    pieces = list(snapshot.pieces())
    return pieces, digest_of(pieces)


async def keep(path: Path, history: list[Stretch], snapshot: Snapshot, more: list[Stretch]) -> Replica:
    """A member that took in a history, adopted a snapshot and took in more, all of it kept on disk."""
    target = test_replica.replica()
    disk = Disk(Store(path, SWARM), target, run_inline)
    await disk.load()
    for stretch in history:
        disk.put(target.admit(stretch.data))
    adoption = target.adopt(snapshot)
    assert isinstance(adoption, Adoption)
    assert await disk.compact(snapshot, adoption.admission) == ""
    for stretch in more:
        disk.put(target.admit(stretch.data))
    await disk.close()
    return target


async def restarted(path: Path) -> Replica:
    target = test_replica.replica()
    disk = Disk(Store(path, SWARM), target, run_inline)
    await disk.load()
    await disk.close()
    return target


@settings(max_examples=300 if test_replica.SOAK else 15)
@given(test_replica.histories(), st.integers(0, 14), st.randoms(use_true_random=False))
def test_after_a_restart_all_is_as_it_was_before(history: list[Stretch], half: int, order: random.Random) -> None:
    early = test_replica.replica()
    test_replica.admit(early, history[:half])
    snapshot = early.snapshot(early.frontier())
    assert isinstance(snapshot, Snapshot)
    shuffled = order.sample(history, len(history))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        before = trio.run(partial(keep, path, shuffled[: len(shuffled) // 2], snapshot, shuffled))
        after = trio.run(restarted, path)
        with Store(path, SWARM) as store:
            stored = list(store.load().batches)
    assert after.digest() == before.digest()
    assert after.heads() == before.heads()
    held = {data for writer in before.heads() for data in before.batches(writer)}
    assert {data for data in stored if data not in held} == set()


async def test_a_node_that_adopts_gives_up_what_parts_from_it_and_has_the_same_after_a_restart(
    world: World, autojump_clock: MockClock
) -> None:
    liar = test_replica.Author(KEYS[2])
    common = liar.write(liar.add("a", b"common"))
    twin = liar.branch(1)
    there = Replica(SWARM, nodes.RULES)
    for stretch in (common, twin.write(twin.add("a", b"agreed"), twin.add("b", b"agreed"))):
        there.admit(stretch.data)
    older, other = Replica(SWARM, nodes.RULES), Replica(SWARM, nodes.RULES)
    older.admit(common.data)
    for stretch in (common, liar.write(liar.add("a", b"lost")), liar.write(*(liar.add(str(n), b"") for n in range(4)))):
        other.admit(stretch.data)
    with Store(world.path(KEYS[0]), SWARM) as store:
        stretches = map(test_replica.read, other.batches(liar.writer))
        store.append(list(stretches))
    pieces, digest = agreed(there)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        assert isinstance(await one.adopt(pieces, bytes(32)), Malformed)
        async with one.changes() as changes:
            adoption = await one.adopt(pieces, digest)
            assert isinstance(adoption, Adoption)
            assert len(adoption.lost[liar.writer]) == 5
            assert ("set", ("a",)) in (await anext(changes)).keys
        assert isinstance(await two.adopt(pieces, digest), Adoption)
        await write(one, "own")  # nothing of its own was in question
        await equal(one, two)
        before = one.replica.digest(), one.replica.heads()
    with Store(world.path(KEYS[0]), SWARM) as store:
        assert list(store.load().batches) == one.replica.batches(Writer(KEYS[0].public_key))
    async with world.node(KEYS[0]) as one:
        assert (one.replica.digest(), one.replica.heads()) == before
        assert one.replica.batches(liar.writer) == []
        assert isinstance(await one.adopt(*agreed(older)), Malformed)


async def test_a_snapshot_with_more_of_a_nodes_own_history_than_its_disk_ends_its_writing(
    world: World, autojump_clock: MockClock
) -> None:
    elsewhere = Replica(SWARM, nodes.RULES)
    assert isinstance(elsewhere.write(KEYS[0], [Operation("set", ("a",), b"")]), Stretch)
    pieces, digest = agreed(elsewhere)
    async with world.node(KEYS[0]) as emptied:
        assert isinstance(await emptied.adopt(pieces, digest), Adoption)
        assert emptied.status().standing is Standing.REFUSES


async def test_while_a_snapshot_finds_no_room_on_disk_it_is_in_force_and_own_writes_wait(
    world: World, autojump_clock: MockClock
) -> None:
    big = Replica(SWARM, nodes.RULES)
    for number in range(60):
        big.write(KEYS[2], large(str(number))(big))
    pieces, digest = agreed(big)
    async with world.node(KEYS[0], bytes_max=64 * 4096) as full, world.node(KEYS[1]):
        await write(full, "own")
        refusal = await full.adopt(pieces, digest)
        assert isinstance(refusal, Refusal)
        assert "full" in refusal.message
        assert full.replica.frontier()[Writer(KEYS[2].public_key)].number == 60
        assert isinstance(await full.write(nodes.adds("more")), Refusal)
    async with world.node(KEYS[0]) as roomy:  # what was in memory alone is gone, as after a crash, and comes again
        assert roomy.replica.keys("set") == [("own",)]
        assert isinstance(await roomy.adopt(pieces, digest), Adoption)
        assert len(roomy.replica.keys("set")) == 61
    async with world.node(KEYS[0]) as roomy:
        assert len(roomy.replica.keys("set")) == 61
