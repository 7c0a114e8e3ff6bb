"""A node in two swarms with the same members: what one lets go of, the other still has."""

from pathlib import Path

import trio

from shoal.training.keeping import Keeping
from shoal.training.service import Ports, SwarmService
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from shoal.transport.memory_node import address_of
from tests.sim.harness import Disk, DiskBlobs, VirtualWorkers, make_nodes, make_spec

ANN, BEN = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


async def test_a_peer_is_kept_until_the_last_who_wants_it_lets_go(autojump_clock: object) -> None:
    network = Network(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        transport = await network.open(ANN)
        keeping = Keeping(transport)
        for owner in ("one", "two"):
            keeping.keep(owner, BEN, (address_of(BEN),))
        keeping.release("one", BEN)
        keeping.release("one", BEN)  # once more is nothing
        await network.open(BEN)
        await trio.sleep(200.0)
        assert [each.peer for each in transport.connections()] == [BEN]
        keeping.release_all("two")
        network.close(BEN)
        await network.open(BEN)
        await trio.sleep(200.0)
        assert transport.connections() == ()
        nursery.cancel_scope.cancel()


async def test_leaving_one_of_two_swarms_keeps_the_members_of_the_other(autojump_clock: object, tmp_path: Path) -> None:
    ann, ben = make_nodes(tmp_path, 2)
    specs = [make_spec([ann, ben], seed=seed, members_start=2) for seed in (1, 2)]
    network = Network(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        services: list[SwarmService] = []
        for node in (ann, ben):
            transport = node.transport = await network.open(node.peer_id)
            keeping = Keeping(transport)
            for spec in specs:
                blobs, directory = DiskBlobs(transport, Disk()), node.directory / spec.signature.hex()
                ports = Ports(transport, blobs, node.identity, keeping, VirtualWorkers(5.0))
                service = SwarmService(spec, node.method, ports, directory, node.observe)
                await nursery.start(service.run)
                services.append(service)
        assert ann.transport is not None
        assert ben.transport is not None
        await ann.transport.connect(address_of(ben.peer_id), timeout_s=5.0)
        await trio.sleep(40.0)
        assert services[1].status().round > 2
        await services[0].leave()
        await services[2].leave()
        network.partition([ben.peer_id])
        await trio.sleep(100.0)
        assert ann.transport.connections() == ()
        network.heal()
        await trio.sleep(200.0)
        assert [each.peer for each in ann.transport.connections()] == [ben.peer_id]
        nursery.cancel_scope.cancel()
