"""A relay that is killed while a blob comes through it costs one more connection, and nothing comes twice."""

import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import CHUNK_BYTES, BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.port import PeerConnected, PeerId
from shoal.transport.relay import RelayLimits

PATIENCE_S = 60.0
BLOB_BYTES = 16 * 2**20
KILLED_AT_BYTES = 6 * 2**20
MBIT = 100.0  # so that it takes more than a second
OVERHEAD = 1.02  # of Noise, two layers of yamux and RPC: 1%, and signs of life
UNDER_WAY_BYTES = 2**20  # what the relay had passed on of the next chunk but not all of it, and what asks for more


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([50 + index]) * 32)


async def relay_until_cancelled(index: int, task_status: trio.TaskStatus[tuple[Host, trio.CancelScope]]) -> None:
    with trio.CancelScope() as scope:
        limits = RelayLimits(mbit_max=MBIT)
        async with open_host(identity(index), ["/ip4/127.0.0.1/tcp/0"], relay=limits, seed=index) as relay:
            task_status.started((relay, scope))
            await trio.sleep_forever()


async def test_a_blob_goes_on_through_the_other_relay_where_it_was(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        started = [await nursery.start(relay_until_cancelled, index) for index in (0, 1)]
        scopes = {relay.peer_id: scope for relay, scope in started}
        places = [relay.addresses()[0] for relay, _ in started]
        holder = await stack.enter_async_context(open_host(identity(2), [], relays=places, seed=2))
        fetcher = await stack.enter_async_context(open_host(identity(3), [], seed=3))
        with trio.fail_after(PATIENCE_S):
            while any(holder.relaying.limit_bytes(relay) is None for relay in scopes):  # noqa: ASYNC110
                await trio.sleep(0.01)
        blobs = [BlobService(host, BlobStore(tmp_path / host.peer_id, 2**28)) for host in (holder, fetcher)]
        for each in blobs:
            await nursery.start(each.run)
        ref = await blobs[0].put([random.Random(1).randbytes(BLOB_BYTES)], pin="x")
        assert isinstance(ref, BlobRef)
        events = await stack.enter_async_context(fetcher.events())
        fetcher.keep(holder.peer_id, holder.addresses())
        with trio.fail_after(PATIENCE_S):
            while await events.receive() != PeerConnected(holder.peer_id):
                pass
        first = relay_to(fetcher, holder.peer_id)

        async def kill_in_the_middle() -> None:
            while fetcher.traffic().bytes_received < KILLED_AT_BYTES:  # noqa: ASYNC110
                await trio.sleep(0.005)
            scopes[first].cancel()

        nursery.start_soon(kill_in_the_middle)
        before = fetcher.traffic().bytes_received
        assert await blobs[1].fetch(ref, lambda: [holder.peer_id], pin="x", timeout_s=PATIENCE_S) is None
        received = fetcher.traffic().bytes_received - before
        print(f"received {received} for {BLOB_BYTES} bytes: {received - BLOB_BYTES} more")
        assert relay_to(fetcher, holder.peer_id) == next(iter(scopes.keys() - {first}))
        assert received <= OVERHEAD * BLOB_BYTES + CHUNK_BYTES + UNDER_WAY_BYTES
        told: Counter[object] = Counter()
        with trio.move_on_after(0.1):
            async for event in events:
                told[event] += 1
        assert told[PeerConnected(holder.peer_id)] == 1
        nursery.cancel_scope.cancel()


def relay_to(host: Host, peer: PeerId) -> PeerId:
    """Through which relay a peer is connected."""
    (connection,) = [each for each in host.connections() if each.peer == peer]
    return PeerId(connection.address.split("/p2p/")[1].partition("/")[0])
