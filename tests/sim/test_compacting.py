"""Swarms whose members compact their stores: whoever was killed, away or late ends with the same store, on disk too."""

from dataclasses import dataclass
from pathlib import Path

import trio

from shoal.crdt.compact import Snapshot, read_snapshot
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Stretch, read_batch
from shoal.crdt.replica import Replica
from shoal.crdt.store import Store
from shoal.training.agreed import StoreMark
from shoal.training.calls import AskStore, Calls, TellStore
from shoal.training.compacting import framed, frontier_of
from shoal.training.events import Finished
from shoal.training.namespaces import STORE_NAME, rules_of
from shoal.training.spec import Spec, open_spec, swarm_id_of
from shoal.transport.blobs import BlobRef
from shoal.transport.conditions import Conditions
from shoal.transport.port import PeerId
from tests.sim.harness import Node, Swarm, make_nodes, make_spec, simulated

EVERY = 4


@dataclass(frozen=True)
class OnDisk:
    """What a node's disk has of the store."""

    replica: Replica
    snapshot: Snapshot
    digest: bytes  # of the snapshot
    batches: list[Stretch]


def on_disk(swarm: Swarm, node: Node) -> OnDisk:
    """Of a node that does not run."""
    spec, id = open_spec(swarm.signed_spec), swarm_id_of(swarm.signed_spec.spec)
    assert isinstance(spec, Spec)
    replica = Replica(id, rules_of(spec))
    with Store(node.directory / STORE_NAME, id) as store:
        loaded = store.load()
        assert loaded.snapshot is not None
        snapshot = read_snapshot(loaded.snapshot.pieces, id)
        assert isinstance(snapshot, Snapshot)
        replica.adopt(snapshot)
        batches = [read_batch(data) for data in loaded.batches]
    for batch in batches:
        assert isinstance(batch, Stretch)
        replica.admit(batch.data, is_trusted=True)
    stretches = [batch for batch in batches if isinstance(batch, Stretch)]
    return OnDisk(replica, snapshot, loaded.snapshot.digest, stretches)


def marks(node: Node) -> list[tuple[int, StoreMark]]:
    """Rounds whose records have one."""
    return [(record.round, record.mark) for record in node.running.log() if record.mark is not None]


async def end(swarm: Swarm, *numbers: int) -> tuple[list[tuple[int, StoreMark]], list[OnDisk]]:
    """When the last round is over and nothing is said any more: the marks in the log, and what is on the disks."""
    nodes = [swarm.nodes[number] for number in numbers]
    await swarm.until(lambda: all(node.observed(Finished) for node in nodes), timeout_s=600.0)
    await trio.sleep(60.0)
    agreed = [marks(node) for node in nodes]
    assert all(each == agreed[0] for each in agreed)
    swarm.kill(*numbers)
    await trio.sleep(1.0)
    return agreed[0], [on_disk(swarm, node) for node in nodes]


def check(agreed: list[tuple[int, StoreMark]], disks: list[OnDisk]) -> None:
    """All have compacted to the newest mark, and have the same store."""
    mark = agreed[-1][1]
    frontier = frontier_of(mark)
    assert {disk.digest for disk in disks} == {mark.digest}
    assert len({disk.replica.digest() for disk in disks}) == 1
    for disk in disks:
        assert disk.snapshot.frontier == frontier
        below = [each for each in disk.batches if each.writer in frontier and each.last <= frontier[each.writer].number]
        assert below == []
        assert all(disk.replica.has_room(writer) for writer in frontier)


def answer_with(node: Node, ref: BlobRef, asked: list[tuple[Node, bytes]]) -> None:
    """Have a node hand this over for any snapshot; it takes note of which it is asked for."""
    assert node.transport is not None
    method = Calls(node.running.swarm).store

    def lie(peer: PeerId, request: AskStore) -> TellStore:
        asked.append((node, request.digest))
        return TellStore(ref)

    node.transport.stop_serving(method.name)
    node.transport.serve(method, lie)


async def test_members_killed_and_late_end_with_equal_stores_and_nothing_below_the_frontier(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 6)
    spec = make_spec(nodes, members_start=3, rounds_max=60, store_rounds=EVERY)
    conditions = Conditions(latency_s=0.03, jitter_s=0.05, loss=0.02)
    async with simulated(nodes, spec, conditions=conditions, break_after_s=8.0) as swarm:
        await swarm.start(0, 1, 2, 3, 4, introducer=0)
        await swarm.until_round(20, 0)
        swarm.kill(3)
        swarm.kill(4, silently=True)
        await swarm.until_round(30, 0)
        await swarm.start(3, 4, introducer=0)
        await swarm.until_round(40, 0)
        await swarm.start(5, introducer=2)
        agreed, disks = await end(swarm, *range(6))
        assert all(round % EVERY == 0 for round, _ in agreed)
        assert len(agreed) >= 5
        check(agreed, disks)
        writers = {Writer(node.identity.public_key) for node in nodes}
        assert frontier_of(agreed[-1][1]).keys() == writers
        assert swarm.problems() == []


async def test_a_newcomer_gets_the_agreed_snapshot_from_who_kept_it_though_all_were_killed(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 5)
    async with simulated(nodes, make_spec(nodes, members_start=3, rounds_max=30, store_rounds=EVERY)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        agreed, disks = await end(swarm, 0, 1, 2, 3)
        check(agreed, disks)
        await swarm.start(1, 2)
        await trio.sleep(5.0)
        kept = [label for label in nodes[1].disk.pins if "/store/" in label]
        assert len(kept) == 1  # what is no longer agreed on was let go of
        await swarm.start(4, introducer=2)
        agreed, disks = await end(swarm, 1, 2, 4)
        check(agreed, disks)
        assert swarm.problems() == []


async def test_who_begins_with_a_recent_record_gets_the_snapshot_that_was_agreed_on_before_it(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=3, rounds_max=30, store_rounds=EVERY)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes[:3]))
        agreed = marks(nodes[0])
        await swarm.start(3, introducer=1, trusted=nodes[0].running.status().record)
        await swarm.until(lambda: bool(nodes[3].observed(Finished)))
        assert marks(nodes[3]) == []
        await trio.sleep(60.0)
        swarm.kill(0, 1, 2, 3)
        await trio.sleep(1.0)
        check(agreed, [on_disk(swarm, node) for node in nodes])


async def test_a_newcomer_that_is_handed_another_snapshot_asks_the_next_member(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 5)
    async with simulated(nodes, make_spec(nodes, members_start=3, rounds_max=30, store_rounds=EVERY)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes[:4]))
        await trio.sleep(30.0)
        asked: list[tuple[Node, bytes]] = []
        for liar, blob in zip(nodes, (b"junk", b"", b"".join(framed([b"another", b"snapshot"]))), strict=False):
            answer_with(liar, liar.disk.put(blob, "lie"), asked)
        await swarm.start(4, introducer=2)
        agreed, disks = await end(swarm, *range(5))
        check(agreed, disks)
        for_newest = [node for node, digest in asked if digest == agreed[-1][1].digest]
        assert for_newest[0] is nodes[2]  # whom it knew first
        assert sorted(node.peer_id for node in for_newest) == [node.peer_id for node in nodes[:3]]  # each once
        kept = {digest for label, digests in nodes[4].disk.pins.items() if "/store/" in label for digest in digests}
        assert len(kept) == 1
        assert kept == {digest for digests in nodes[3].disk.pins.values() for digest in digests} & kept
