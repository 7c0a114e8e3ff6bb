"""What a member says to a connected peer that is none: nothing, until it speaks of the swarm itself."""

from pathlib import Path

import trio

from shoal.crdt.exchange_messages import Calls as StoreCalls
from shoal.crdt.exchange_messages import Compare
from shoal.training.calls import PROTOCOL_VERSION, AskHead, Calls, Hello
from shoal.training.keeping import Keeping
from shoal.training.records import Presence, Standing
from shoal.training.service import Ports, SwarmService, Terms
from shoal.training.spec import swarm_id_of
from shoal.transport.blocking_service import run_inline
from shoal.transport.memory import Network
from shoal.transport.port import Code, PeerId, Refusal
from tests.sim.harness import Disk, DiskBlobs, VirtualWorkers, make_nodes, make_spec


async def test_a_stranger_hears_of_a_swarm_when_it_speaks_of_it_first(autojump_clock: object, tmp_path: Path) -> None:
    """It knows by which names a member would call it, for the test's sake."""
    ann, ben = make_nodes(tmp_path, 2)
    spec = make_spec([ann], members_start=2)
    swarm = swarm_id_of(spec.spec)
    calls, network, heard = Calls(swarm), Network(0, is_full=True), list[str]()

    async def on_hello(_: PeerId, hello: Hello) -> Hello:
        heard.append("hello")
        return hello

    async def on_compare(_: PeerId, __: Compare) -> Refusal:
        heard.append("compare")
        return Refusal(Code.BUSY, "not now")

    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        transport, stranger = await network.open(ann.peer_id), await network.open(ben.peer_id)
        stranger.serve(calls.hello, on_hello)
        stranger.serve(StoreCalls(swarm).compare, on_compare)
        blobs, keeping = DiskBlobs(transport, Disk()), Keeping(transport)
        ports = Ports(transport, blobs, ann.identity, keeping, VirtualWorkers(1.0), run_inline)
        terms = Terms(expects=lambda peer: False)
        service = SwarmService(spec, ann.method, ports, ann.directory, ann.observe, terms)
        await nursery.start(service.run)
        await trio.sleep(120.0)
        assert [each.peer for each in transport.connections()] == [ben.peer_id]
        assert heard == []
        told = await stranger.request(ann.peer_id, calls.head, AskHead(), timeout_s=5.0)
        assert not isinstance(told, Refusal)
        hello = Hello(PROTOCOL_VERSION, Presence(1, Standing.TRAINER, ()), told.head, "here", ())
        assert isinstance(await stranger.request(ann.peer_id, calls.hello, hello, timeout_s=5.0), Hello)
        await trio.sleep(60.0)
        assert set(heard) == {"hello", "compare"}
        nursery.cancel_scope.cancel()
