"""A member whose own operations lie beside what the others agreed on writes them again."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from shoal.crdt.compact import Snapshot, digest_of
from shoal.crdt.dots import Writer
from shoal.crdt.guard import Standing
from shoal.crdt.operation import Stretch
from shoal.crdt.replica import Adoption, Replica
from shoal.crdt.store import Store
from shoal.training.compaction_service import again
from shoal.transport.memory import Network
from tests.crdt.nodes import KEYS, RULES, SWARM, World, adds, equal

OWN = Writer(KEYS[0].public_key)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World, None]:
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield World(network, nursery, tmp_path)
        nursery.cancel_scope.cancel()


def history(*values: str) -> Replica:
    """In which the first node wrote these."""
    replica = Replica(SWARM, RULES)
    for value in values:
        assert isinstance(replica.write(KEYS[0], adds(value)(replica)), Stretch)
    return replica


async def test_what_was_written_beside_the_frontier_is_written_again(world: World, autojump_clock: MockClock) -> None:
    agreed, other = history("common", "agreed"), history("common", "lost", "lost too")
    snapshot = agreed.snapshot(agreed.frontier())
    assert isinstance(snapshot, Snapshot)
    pieces = list(snapshot.pieces())
    with Store(world.path(KEYS[1]), SWARM) as store:  # all that is left of it
        replica = Replica(SWARM, RULES)
        store.append([stretch for data in other.batches(OWN) for stretch in replica.admit(data).kept])
    world.path(KEYS[0]).write_bytes(b"damaged" * 1000)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        async with one.changes() as changes:
            await anext(changes)
        assert one.status().standing is Standing.ASKING
        adoption = await one.adopt(pieces, digest_of(pieces))
        assert isinstance(adoption, Adoption)
        assert isinstance(await two.adopt(pieces, digest_of(pieces)), Adoption)
        with trio.fail_after(60):
            written = await one.write(again(OWN, adoption.lost[OWN]))
        assert isinstance(written, Stretch)
        assert written.first == 3
        await equal(one, two)
        assert one.replica.keys("set") == [("agreed",), ("common",), ("lost",), ("lost too",)]
