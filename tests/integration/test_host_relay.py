"""Nodes that cannot reach one another, and a relay that both can, over real sockets."""

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from shoal.transport.addresses import Endpoint, is_relayed, parse_endpoint
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.host import Host, HostError, open_host
from shoal.transport.identity import Identity
from shoal.transport.port import (
    Address,
    Code,
    PeerConnected,
    PeerDisconnected,
    PeerEvent,
    PeerId,
    Refusal,
    Transport,
    Unary,
)
from shoal.transport.relay import PUNCHING, RelayLimits
from shoal.transport.wire import Message

PATIENCE_S = 20.0
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Word(Message, frozen=True):
    data: bytes


ECHO = Unary("/test/1/echo", Word, Word, 2**20, 2**20)


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


RELAY, HIDDEN, CALLER = identity(1), identity(2), identity(3)


@asynccontextmanager
async def relaying(limits: RelayLimits | None = None, port: int = 0) -> AsyncGenerator[Host]:
    listen = f"/ip4/127.0.0.1/tcp/{port}"
    async with open_host(RELAY, [listen], relay=limits or RelayLimits(), seed=1) as host:
        yield host


@asynccontextmanager
async def hidden(relay: Address, who: Identity = HIDDEN) -> AsyncGenerator[Transport]:
    """A node that listens nowhere and holds a reservation."""
    async with open_host(who, [], relays=[relay], seed=2) as host:
        host.serve(ECHO, lambda _, word: word)
        yield host


async def relay_until_cancelled(port: int, task_status: trio.TaskStatus[tuple[Host, trio.CancelScope]]) -> None:
    with trio.CancelScope() as scope:
        async with relaying(port=port) as relay:
            task_status.started((relay, scope))
            await trio.sleep_forever()


async def until_reserved(relay: Host, count: int = 1) -> None:
    books = relay._relay._relay  # pyright: ignore[reportPrivateUsage]
    assert books is not None
    with trio.fail_after(PATIENCE_S):
        while books.reservation_count < count:  # noqa: ASYNC110
            await trio.sleep(0.01)


def where(host: Transport) -> Address:
    (address,) = host.addresses()
    return address


async def expect(events: trio.abc.ReceiveChannel[PeerEvent], *wanted: PeerEvent) -> None:
    with trio.fail_after(PATIENCE_S):
        for event in wanted:
            while await events.receive() != event:
                pass


async def echoes(one: Transport, other: PeerId) -> bool:
    return await one.request(other, ECHO, Word(b"well?"), timeout_s=PATIENCE_S) == Word(b"well?")


def limit_of(host: Transport, peer: PeerId) -> int | None:
    """Of the circuit to a peer, as the relay has said."""
    assert isinstance(host, Host)
    entry = host._connections._books.best(peer)  # pyright: ignore[reportPrivateUsage]
    return None if entry is None else entry.socket.limit_bytes


async def test_nothing_large_is_asked_for_through_a_relay_that_lets_strangers_only_meet(tmp_path: Path) -> None:
    limits = RelayLimits(serves_strangers=False)
    async with relaying(limits) as relay, hidden(relay.addresses()[0]) as one, open_host(CALLER, [], seed=3) as two:
        await until_reserved(relay)
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        two.serve(ECHO, lambda _, word: word)
        async with trio.open_nursery() as nursery:
            blobs = [BlobService(host, BlobStore(tmp_path / host.peer_id, 2**28)) for host in (one, two)]
            for each in blobs:
                await nursery.start(each.run)
            small, large = [await blobs[0].put([bytes(size)], pin="x") for size in (10_000, 2**20)]
            assert isinstance(small, BlobRef)
            assert isinstance(large, BlobRef)
            assert await blobs[1].fetch(small, lambda: [one.peer_id], pin="x", timeout_s=PATIENCE_S) is None
            refusal = await blobs[1].fetch(large, lambda: [one.peer_id], pin="x", timeout_s=3)
            assert refusal is not None
            assert f"carries {PUNCHING.data_bytes} bytes" in refusal.message
            assert await echoes(two, one.peer_id)
            nursery.cancel_scope.cancel()


async def test_two_nodes_that_know_only_a_relay_call_one_another_and_fetch_a_blob(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(8 * 2**20)
    async with relaying() as relay, hidden(relay.addresses()[0]) as one, open_host(CALLER, [], seed=3) as two:
        await until_reserved(relay)
        assert where(one) == f"{relay.addresses()[0]}/p2p-circuit/p2p/{one.peer_id}"
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        two.serve(ECHO, lambda _, word: word)
        assert await echoes(two, one.peer_id)
        assert await echoes(one, two.peer_id)
        for host, other in ((one, two), (two, one)):
            (connection,) = (c for c in host.connections() if c.peer == other.peer_id)
            assert connection.is_relayed
            assert is_relayed(connection.address)
            (to_relay,) = (c for c in host.connections() if c.peer == relay.peer_id)
            assert not to_relay.is_relayed
        assert {c.peer for c in relay.connections()} == {one.peer_id, two.peer_id}
        async with trio.open_nursery() as nursery:
            holder = BlobService(one, BlobStore(tmp_path / "one", 2**26))
            fetcher = BlobService(two, BlobStore(tmp_path / "two", 2**26))
            await nursery.start(holder.run)
            await nursery.start(fetcher.run)
            ref = await holder.put([data], pin="x")
            assert isinstance(ref, BlobRef)
            assert await fetcher.fetch(ref, lambda: [one.peer_id], pin="x", timeout_s=PATIENCE_S) is None
            nursery.cancel_scope.cancel()


async def test_who_has_no_reservation_cannot_be_reached() -> None:
    async with relaying() as relay, open_host(HIDDEN, []) as one, open_host(CALLER, []) as two:
        assert await one.connect(relay.addresses()[0], timeout_s=PATIENCE_S) == relay.peer_id
        address = Address(f"{relay.addresses()[0]}/p2p-circuit/p2p/{one.peer_id}")
        answer = await two.connect(address, timeout_s=PATIENCE_S)
        assert isinstance(answer, Refusal)
        assert (answer.code, answer.message.rpartition(": ")[2]) == (Code.UNREACHABLE, "no reservation")


async def test_who_left_the_relay_cannot_be_reached() -> None:
    async with relaying() as relay, open_host(CALLER, []) as two:
        async with hidden(relay.addresses()[0]) as one:
            await until_reserved(relay)
            address = where(one)
        async with relay.events() as events:
            if one.peer_id in {connection.peer for connection in relay.connections()}:
                await expect(events, PeerDisconnected(one.peer_id))
        answer = await two.connect(address, timeout_s=PATIENCE_S)
        assert isinstance(answer, Refusal)
        assert answer.message.endswith("no reservation")


async def test_a_full_relay_refuses_and_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    async with relaying(RelayLimits(reservations_max=1)) as relay, hidden(relay.addresses()[0]):
        await until_reserved(relay)
        async with hidden(relay.addresses()[0], CALLER) as late:
            with trio.fail_after(PATIENCE_S):
                while late.addresses():  # noqa: ASYNC110
                    await trio.sleep(0.01)
    assert "reservation refused" in caplog.text


async def test_a_node_that_does_not_relay_says_so_by_not_speaking_the_protocol(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_host(RELAY, [LOOPBACK]) as plain, hidden(plain.addresses()[0]) as one:
        with trio.fail_after(PATIENCE_S):
            while one.addresses():  # noqa: ASYNC110
                await trio.sleep(0.01)
    assert "opens no stream for /libp2p/circuit/relay/0.2.0/hop" in caplog.text


async def test_circuits_are_limited_per_peer() -> None:
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(RelayLimits(circuits_per_peer_max=1)))
        one = await stack.enter_async_context(hidden(relay.addresses()[0]))
        await until_reserved(relay)
        two = await stack.enter_async_context(open_host(CALLER, []))
        three = await stack.enter_async_context(open_host(identity(4), []))
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        answer = await three.connect(where(one), timeout_s=PATIENCE_S)
        assert isinstance(answer, Refusal)
        assert answer.message.endswith("resource limit exceeded")


async def test_a_circuit_ends_with_its_bytes_and_both_sides_hear_of_it() -> None:
    async with (
        relaying(RelayLimits(circuit_bytes_max=100_000)) as relay,
        hidden(relay.addresses()[0]) as one,
        open_host(CALLER, []) as two,
        one.events() as here,
        two.events() as there,
    ):
        await until_reserved(relay)
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        assert await echoes(two, one.peer_id)
        assert isinstance(await two.request(one.peer_id, ECHO, Word(bytes(10**6)), timeout_s=PATIENCE_S), Refusal)
        await expect(here, PeerDisconnected(two.peer_id))
        await expect(there, PeerDisconnected(one.peer_id))


async def test_strangers_get_a_circuit_for_punching_and_both_ends_know_it() -> None:
    async with (
        relaying(RelayLimits(serves_strangers=False)) as relay,
        hidden(relay.addresses()[0]) as one,
        open_host(CALLER, []) as two,
        two.events() as events,
    ):
        await until_reserved(relay)
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        assert await echoes(two, one.peer_id)
        assert [limit_of(two, one.peer_id), limit_of(one, two.peer_id)] == [PUNCHING.data_bytes] * 2
        assert isinstance(await two.request(one.peer_id, ECHO, Word(bytes(200_000)), timeout_s=PATIENCE_S), Refusal)
        await expect(events, PeerDisconnected(one.peer_id))


async def test_members_of_a_swarm_of_the_relays_get_a_full_circuit() -> None:
    async with (
        relaying(RelayLimits(serves_strangers=False)) as relay,
        hidden(relay.addresses()[0]) as one,
        open_host(CALLER, []) as two,
    ):
        relay.relaying.know(lambda peer: frozenset({b"swarm"} if peer in (one.peer_id, two.peer_id) else ()))
        await until_reserved(relay)
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        assert [limit_of(two, one.peer_id), limit_of(one, two.peer_id)] == [RelayLimits().circuit_bytes_max] * 2
        assert isinstance(await two.request(one.peer_id, ECHO, Word(bytes(200_000)), timeout_s=PATIENCE_S), Word)


async def test_a_circuit_ends_with_its_time() -> None:
    async with (
        relaying(RelayLimits(circuit_s_max=0.5)) as relay,
        hidden(relay.addresses()[0]) as one,
        open_host(CALLER, []) as two,
        two.events() as events,
    ):
        await until_reserved(relay)
        assert await two.connect(where(one), timeout_s=PATIENCE_S) == one.peer_id
        await expect(events, PeerDisconnected(one.peer_id))


async def test_a_relay_that_dies_in_mid_transfer_is_noticed_and_used_again_when_it_is_back() -> None:
    async with trio.open_nursery() as relays, AsyncExitStack() as stack:
        relay, first = await relays.start(relay_until_cancelled, 0)
        address = relay.addresses()[0]
        one = await stack.enter_async_context(hidden(address))
        two = await stack.enter_async_context(open_host(CALLER, [], seed=3))
        here = await stack.enter_async_context(one.events())
        there = await stack.enter_async_context(two.events())
        await until_reserved(relay)
        two.keep(one.peer_id, (where(one),))
        await expect(there, PeerConnected(one.peer_id))

        async def transfer(task_status: trio.TaskStatus[None]) -> None:
            while await two.request(one.peer_id, ECHO, Word(bytes(900_000)), timeout_s=PATIENCE_S) == Word(
                bytes(900_000)
            ):
                task_status.started()

        async with trio.open_nursery() as transfers:
            await transfers.start(transfer)
            first.cancel()
            await expect(here, PeerDisconnected(two.peer_id))
            await expect(there, PeerDisconnected(one.peer_id))
        _, second = await relays.start(relay_until_cancelled, int(address.split("/")[4]))
        await expect(here, PeerConnected(two.peer_id))
        await expect(there, PeerConnected(one.peer_id))
        assert await echoes(two, one.peer_id)
        second.cancel()


@pytest.mark.parametrize(
    "address", ["nonsense", "/ip4/127.0.0.1/tcp/1", f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY.peer_id}/p2p-circuit"]
)
async def test_a_relay_whose_address_names_no_peer_is_one_clear_error(address: str) -> None:
    with pytest.raises(HostError, match="relays: expected an address like"):
        async with open_host(CALLER, [], relays=[address]):
            pass


async def test_nobody_listens_on_a_circuit() -> None:
    with pytest.raises(HostError, match="name its address in relays"):
        async with open_host(CALLER, [f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY.peer_id}/p2p-circuit"]):
            pass


async def test_a_node_that_relays_for_nobody_and_was_given_no_relay_can_be_told_of_one_later() -> None:
    async with relaying() as relay, open_host(HIDDEN, []) as one:
        await trio.testing.wait_all_tasks_blocked(0.05)
        endpoint = parse_endpoint(relay.addresses()[0])
        assert isinstance(endpoint, Endpoint)
        one.relaying.use([endpoint])
        await one.connect(relay.addresses()[0], timeout_s=10)
        with trio.fail_after(10):
            while not one.reach().relays[0].is_held:  # noqa: ASYNC110
                await trio.sleep(0.01)
        (place,) = one.reach().relays
        assert (place.relay, place.reason) == (relay.peer_id, "it has granted a reservation")
